// The search page: asks, shows what comes as it comes, and keeps the conversation. All that pages and models say is put in as text; the only
// addresses are those of pages that the index holds.
"use strict";

const $ = (id) => document.getElementById(id);
const MODES = { extractive: "Quotes", semi: "Quotes, joined", abstractive: "Written, checked" };
const ICONS = {
  none: ["M14 4H7a2 2 0 0 0-2 2v14a2 2 0 0 0 2 2h10a2 2 0 0 0 2-2V9z", "M14 4v5h5", "m9.5 12.5 5 5", "m14.5 12.5-5 5"],
  lacks: ["M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z", "M12 3v18", "M12 8h4.5", "M12 12h5.5", "M12 16h4.5"],
  removed: ["M6 7h12", "M9 7V5h6v2", "M8 7l1 13h6l1-13"],
  note: ["M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z", "M12 11v5", "M12 8v.01"],
};
const state = { turns: [], modes: [], mode: "", asking: null, longest: 2000, arrived: false };

/** An element with what it holds: text, or others. */
function make(name, className, ...held) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...held.filter((each) => each !== null && each !== undefined && each !== ""));
  return element;
}
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const d of ICONS[name]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}
const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
const day = (iso) => new Date(iso).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
function remark(kind, ...held) { return make("p", `remark ${kind}`, icon(kind), make("span", "", ...held)); }
/** An address of the web, or none. */
function web(url) {
  try { return ["http:", "https:"].includes(new URL(url).protocol) ? url : null; } catch { return null; }
}
/** Where a page is, as a reader sees it: host › folder › name. */
function place(url) {
  try {
    const { protocol, host, pathname } = new URL(url), parts = pathname.split("/").filter(Boolean).map(decoded);
    return protocol === "file:" ? parts.slice(-2).join(" › ") : [host, ...parts].join(" › ");
  } catch { return url; }
}
function decoded(part) { try { return decodeURIComponent(part); } catch { return part; } }
/** What leads to a page's stored text with some stretches marked. */
function reading(source, spans) {
  const query = new URLSearchParams({ url: source.url, n: source.n ?? 0, sha: source.sha256.slice(0, 16) });
  for (const [start, end] of spans) query.append("at", `${start}-${end}`);
  return `source?${query}#cited`;
}

// The server ------------------------------------------------------------------------------------------------------------------------
async function about() {
  const said = $("about");
  try {
    const told = await (await fetch("api/about")).json();
    state.modes = told.modes;
    state.mode = told.mode;
    state.longest = told.longest;
    $("q").maxLength = $("next").maxLength = told.longest;
    $("mode").replaceChildren(...told.modes.map((mode) => Object.assign(make("option", "", MODES[mode]), { value: mode })));
    const wished = new URLSearchParams(location.search).get("mode");
    $("mode").value = told.modes.includes(wished) ? wished : told.mode;
    said.classList.toggle("empty", !told.pages);
    if (told.pages) said.textContent = `${plural(told.pages, "page")} · ${plural(told.passages, "passage")} · every sentence with its source`;
    else said.replaceChildren("The index is empty. Fill it and ask again: ", make("code", "", "almanac youchat crawl URL --index DIR"));
  } catch {
    said.textContent = "The server doesn't answer.";
  }
}
/** The events of an answer. */
async function* events(question, history, mode, signal) {
  const body = JSON.stringify({ question, history, mode: mode || null, stream: true });
  const response = await fetch("api/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    throw new Error(told?.error?.message ?? `The server answered ${response.status}`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (left + value).split("\n\n");
    left = parts.pop();
    for (const part of parts) {
      const name = /^event: (.*)$/m.exec(part), data = /^data: (.*)$/m.exec(part);
      if (name && data) yield [name[1], JSON.parse(data[1])];
    }
  }
}

// The conversation --------------------------------------------------------------------------------------------------------------------
/** Begin anew with a question, and with those that followed it when it was here before. */
async function search(question, mode, push = true, more = []) {
  state.asking?.abort();
  state.turns = [];
  $("talk").replaceChildren();
  if (push) {
    const query = new URLSearchParams({ q: question, ...(mode && mode !== state.mode ? { mode } : {}) });
    history.pushState(null, "", `?${query}`);
  }
  $("q").value = question;
  let asked = ask(question, mode);
  const first = state.turns[0];
  for (const each of more) {
    await asked;
    if (state.turns[0] !== first) return;  // another question began
    asked = ask(each, mode);
  }
}
async function ask(question, mode) {
  document.body.dataset.view = "talk";
  document.title = `${question} · YouChat`;
  state.asking?.abort();
  const asking = (state.asking = new AbortController());
  const before = state.turns.filter((turn) => turn.answer).slice(-10).map((turn) => ({
    question: turn.question,
    answer: turn.answer.sentences.map((each) => each.text).join(" ").slice(0, 20000),
    titles: turn.answer.references.map((each) => each.title.slice(0, 1000)).slice(0, 20),
  }));
  const turn = begin(question);
  turn.stop.onclick = () => asking.abort();
  state.turns.push(turn);
  $("follow").hidden = false;
  if (state.turns.length > 1) turn.element.scrollIntoView({ block: "start", behavior: "smooth" });
  else scrollTo(0, 0);
  try {
    for await (const [name, told] of events(question, before, mode, asking.signal)) {
      if (name === "error") throw new Error(told.message);
      HEARD[name]?.(turn, told);
    }
    if (!turn.answer) throw new Error("The server broke off");
  } catch (error) {
    if (asking.signal.aborted) stopped(turn);
    else failed(turn, error, mode);
  }
  turn.element.setAttribute("aria-busy", "false");
}
/** A turn that has yet to be answered. */
function begin(question) {
  const turn = { question, answer: null, results: [], references: [], spans: new Map() };
  const heading = make("h2", "question", question);
  turn.meant = make("p", "meant");
  turn.stop = make("button", "plain-button", "Stop");
  turn.stop.type = "button";
  turn.doing = make("span", "", "Searching…");
  turn.state = make("div", "state", make("i"), turn.doing, turn.stop);
  turn.prose = make("div", "prose", make("div", "bones", make("span"), make("span"), make("span")));
  turn.after = make("div", "after");
  turn.side = make("aside", "sources");
  turn.side.setAttribute("aria-label", "Sources");
  const answer = make("section", "answer", turn.state, turn.prose, turn.after);
  answer.setAttribute("aria-label", "Answer");
  turn.element = make("article", "turn", heading, turn.meant, make("div", "columns", answer, turn.side));
  turn.element.setAttribute("aria-busy", "true");
  turn.element.dataset.outcome = "loading";
  $("talk").append(turn.element);
  return turn;
}
const HEARD = {
  found(turn, told) {
    turn.results = told.results;
    const pages = new Set(told.results.map((each) => each.url)).size;
    turn.doing.textContent = told.results.length ? `Reading ${plural(told.results.length, "passage")} of ${plural(pages, "page")}…` : "Nothing found…";
    showSources(turn);
  },
  said(turn, told) {
    say(turn, told.sentence, told.references);
    turn.references = told.references;
    showSources(turn);
  },
  withdrawn(turn, told) {
    turn.doing.textContent = told.reason;
    clear(turn);
  },
  done(turn, told) {
    turn.answer = told;
    turn.references = told.references;
    clear(turn);
    told.sentences.forEach((sentence) => say(turn, sentence, told.references));
    finish(turn, told);
  },
};
function clear(turn) {
  turn.prose.replaceChildren();
  turn.last = null;
  turn.spans.clear();
}
/** Put a sentence down. A new page begins a new paragraph. */
function say(turn, sentence, references) {
  turn.prose.querySelector(".bones")?.remove();
  for (const [source, start, end] of sentence.spans) turn.spans.set(source, [...(turn.spans.get(source) ?? []), [start, end]]);
  const marks = sentence.citations.map((n) => cite(references[n - 1], sentence.spans.filter(([source]) => source === n).map(([, start, end]) => [start, end])));
  const code = /^\s*(```|~~~)[^\n]*\n([\s\S]*?)\n?\s*(```|~~~)?\s*$/.exec(sentence.text);
  const text = make("span", "said", code ? "" : sentence.text, ...(code ? [] : marks));
  text.dataset.cites = sentence.citations.join(" ");
  if (code) turn.prose.append(make("pre", "", code[2]), make("p", "", ...marks));
  else if (turn.last?.n === sentence.citations[0] && !turn.last.code) turn.last.paragraph.append(" ", text);
  else turn.prose.append(make("p", "", text));
  turn.last = { n: sentence.citations[0], code: Boolean(code), paragraph: turn.prose.lastElementChild };
}
function cite(source, spans) {
  const mark = make("a", "cite", String(source.n));
  mark.href = reading(source, spans);
  mark.dataset.n = source.n;
  mark.title = source.title;
  mark.setAttribute("aria-label", `Source ${source.n}: ${source.title}`);
  return mark;
}
function finish(turn, told) {
  turn.state.remove();
  turn.element.dataset.outcome = told.outcome;
  turn.meant.textContent = told.searched ? `Searched for: ${told.searched}` : "";
  const names = told.missing.flatMap((word, at) => [at ? ", " : "", make("b", "", word)]);
  const after = [];
  if (told.outcome === "refused") {
    const lacks = told.missing.length ? make("p", "", "Nothing that was found speaks of ", ...names, ".") : null;
    const why = told.closest.length ? "The pages that come closest are below; they don’t hold an answer that could be quoted." : "No page comes near the question.";
    turn.prose.replaceChildren(make("div", "none", icon("none"), make("h3", "", "The index holds no answer to this"), lacks ?? "", make("p", "", why)));
  } else if (told.missing.length) after.push(remark("lacks", told.outcome === "partial" ? "Answered in part. Nothing that was found speaks of " : "Nothing that was found speaks of ", ...names, "."));
  if (told.removed) after.push(remark("removed", make("b", "", `${plural(told.removed, "statement")} removed`), " that no page supports."));
  if (told.note) after.push(remark("note", told.note));
  if (told.sentences.length) {
    const copy = make("button", "plain-button", "Copy with sources");
    copy.type = "button";
    copy.onclick = async () => {
      const lines = told.sentences.map((each) => `${each.text} ${each.citations.map((n) => `[${n}]`).join("")}`);
      const list = told.references.map((each) => `[${each.n}] ${each.title}, ${each.url}`);
      try { await navigator.clipboard.writeText(`${lines.join(" ")}\n\n${list.join("\n")}`); copy.textContent = "Copied"; } catch { copy.textContent = "Copying is not allowed here"; }
    };
    after.push(make("div", "foot", copy));
  }
  turn.after.replaceChildren(...after);
  showSources(turn);
  $("spoken").textContent = told.outcome === "refused" ? "No answer in the index." : `${told.outcome === "partial" ? "Answered in part" : "Answered"}: ${plural(told.sentences.length, "sentence")} from ${plural(told.references.length, "source")}.`;
}
function failed(turn, error, mode) {
  turn.state.remove();
  turn.element.dataset.outcome = "failed";
  const again = make("button", "plain-button", "Ask again");
  again.type = "button";
  again.onclick = () => { state.turns = state.turns.filter((each) => each !== turn); turn.element.remove(); ask(turn.question, mode); };
  const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const [what, ...hint] = (error instanceof TypeError ? "The server can’t be reached; see whether it runs" : error.message).split("; ");
  const box = make("div", "failed", make("b", "", sentence(what)), make("p", "", sentence(hint.join("; "))), again);
  box.setAttribute("role", "alert");
  turn.prose.replaceChildren(box);
  turn.after.replaceChildren();
}
function stopped(turn) {
  turn.state.remove();
  turn.prose.querySelector(".bones")?.remove();
  if (turn.element.dataset.outcome === "loading") turn.after.replaceChildren(remark("note", "Stopped."));
  turn.element.dataset.outcome = "stopped";
}

// Sources -----------------------------------------------------------------------------------------------------------------------------
/** The cited pages, numbered, and beneath them what else was found. */
function showSources(turn) {
  const cited = new Set(turn.references.map((each) => each.url)), refused = turn.answer?.outcome === "refused";
  const others = [], seen = new Set(cited);
  for (const each of refused ? turn.answer.closest : turn.results) if (!seen.has(each.url)) { seen.add(each.url); others.push(each); }
  const parts = [];
  if (turn.references.length) parts.push(make("h3", "", "Sources"), make("ol", "", ...turn.references.map((each) => card(each, turn.spans.get(each.n) ?? []))));
  if (others.length) {
    parts.push(make("h3", "", refused ? "Closest pages" : turn.references.length ? "More pages" : "Pages found"));
    parts.push(make("ul", "more", ...others.slice(0, refused ? 6 : 4).map((each) => card(each, stretch(each)))));
  }
  turn.side.replaceChildren(...parts);
}
const stretch = (result) => [[result.start, result.end]];
function card(source, spans) {
  const outside = web(source.link ?? source.url), inside = reading(source, spans);
  const title = make("a", "title", source.title);
  title.href = outside ?? inside;
  if (outside) { title.target = "_blank"; title.rel = "noopener noreferrer nofollow"; } else title.classList.add("read");
  const lines = make("p", "lines", ...source.snippet.map(({ text, cited }) => (cited ? make("mark", "", text) : text)));
  const read = make("a", "read", "Read here");
  read.href = inside;
  read.setAttribute("aria-label", `Read here: ${source.title}`);
  const dates = [source.fetched_at && `fetched ${day(source.fetched_at)}`, source.published_at && `published ${day(source.published_at)}`].filter(Boolean).join(" · ");
  const where = make("p", "place", source.n ? make("span", "n", String(source.n)) : "", make("span", "", place(source.url)));
  const element = make("li", "card", where, title, lines, make("p", "dates", make("span", "", dates), read));
  if (source.n) element.dataset.n = source.n;
  return element;
}
/** Light up what belongs together: a mark, its card, the sentences that cite it. */
function light(event) {
  const from = event.target.closest?.(".cite, .card[data-n]"), turn = event.target.closest?.(".turn");
  document.querySelectorAll(".lit").forEach((each) => each.classList.remove("lit"));
  if (!from || !turn || event.type === "focusout" || event.type === "pointerout") return;
  const n = from.dataset.n;
  turn.querySelector(`.card[data-n="${n}"]`)?.classList.add("lit");
  if (from.classList.contains("card")) for (const each of turn.querySelectorAll(".said")) each.classList.toggle("lit", each.dataset.cites.split(" ").includes(n));
  else from.closest(".said")?.classList.add("lit");
}
for (const type of ["pointerover", "pointerout", "focusin", "focusout"]) $("talk").addEventListener(type, light);

// The cited page ------------------------------------------------------------------------------------------------------------------------
const frame = $("reader").querySelector("iframe");
function read(address) {
  frame.src = address;
  $("reader").showModal();
}
frame.addEventListener("load", () => {
  const inner = frame.contentWindow;
  if (!$("reader").open || inner.location.href === "about:blank") return;
  inner.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    frame.blur();  // the next key is the page's
    $("reader").close();
  });
  inner.document.getElementById("cited")?.scrollIntoView({ block: "center" });
  inner.focus();
});
$("reader").addEventListener("close", () => {
  if ($("reader").open) return;  // told late: the next source is open already
  frame.removeAttribute("src");
  if (document.activeElement === frame) frame.blur();  // keys are the page's again
});
$("reader").addEventListener("click", (event) => { if (event.target === $("reader")) $("reader").close(); });
$("reader").querySelector(".close").onclick = () => $("reader").close();
$("talk").addEventListener("click", (event) => {
  const link = event.target.closest(".cite, a.read");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  read(link.href);
});

// Keys and forms ------------------------------------------------------------------------------------------------------------------------
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("reader").open) return;
  const typing = event.target.matches?.("input, select, textarea");
  if (event.key === "/" && !typing) { event.preventDefault(); $("q").focus(); $("q").select(); }
  if (event.key === "Escape" && typing) event.target.blur();
  if (/^[1-9]$/.test(event.key) && !typing) state.turns.at(-1)?.element.querySelector(`.cite[data-n="${event.key}"]`)?.click();
});
$("search").onsubmit = (event) => {
  event.preventDefault();
  const question = $("q").value.trim();
  if (question) search(question, $("mode").value);
};
$("follow").onsubmit = (event) => {
  event.preventDefault();
  const question = $("next").value.trim();
  if (!question) return;
  $("next").value = "";
  history.replaceState({ more: [...(history.state?.more ?? []), question] }, "");
  ask(question, $("mode").value);
};
/** What the address asks for; in Studio's frame, at first, its page's. */
function wanted() {
  const own = new URLSearchParams(location.search);
  if (own.get("q") || parent === window || state.arrived) return own;
  try { return new URLSearchParams(parent.location.search); } catch { return own; }
}
/** A mode, if the server has it. */
const served = (mode) => (state.modes.includes(mode) ? mode : null);
function arrive() {
  const asked = wanted(), question = asked.get("q")?.trim().slice(0, state.longest);
  state.arrived = true;
  const mode = asked.get("mode");
  if (question && mode && !state.modes.length) return void known.then(() => search(question, served(mode), false, history.state?.more));
  if (question) return search(question, served(mode), false, history.state?.more);
  state.asking?.abort();
  state.turns = [];
  $("talk").replaceChildren();
  $("follow").hidden = true;
  $("q").value = "";
  document.body.dataset.view = "home";
  document.title = "YouChat · Almanac";
  if (parent === window) $("q").focus();
}
addEventListener("popstate", arrive);
const known = about();
arrive();
