// A game that is watched here: what the server shows is drawn as it comes, and each picture that was drawn is told, so that no more are sent
// than this page draws. Keys that are held go up as bits; who presses one plays at once.
const $ = (id) => document.getElementById(id);
const beside = (path) => new URL(path, import.meta.url);
const asked = new URLSearchParams(location.search);
const NAMES = ["NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT", "UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE", "DOWNLEFTFIRE"];
const UP = 1, RIGHT = 2, LEFT = 4, DOWN = 8, FIRE = 16, LOWEST = -20, FRAME = 84;
const spaced = (name) => name.replace(/([a-z])([A-Z])/g, "$1 $2");
const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
const signed = (number) => String(number).replace("-", "−");
const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };

// The connection -------------------------------------------------------------------------------------------------------------------
const wire = { socket: null, token: "", tries: 0, over: false };
const seen = { head: null, game: null, steps: [], pictures: 0, since: performance.now(), rate: 0, known: [] };
function connect() {
  const address = beside("ws");
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = (wire.socket = new WebSocket(address));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { socket.send(JSON.stringify({ type: "hello", token: wire.token, game: $("game").value, model: $("model").value })); if (document.hidden) say("hidden", true); };
  socket.onmessage = ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : see(data));
  socket.onclose = () => { if (socket === wire.socket) lost(); };
}
const say = (type, value) => { if (wire.socket?.readyState === WebSocket.OPEN) wire.socket.send(JSON.stringify({ type, value })); };
function lost() {
  if (wire.over) return;
  if (wire.tries++ > 5) return ended("The connection broke", "See whether the server runs.");
  veil("The connection broke", "Trying again …");
  setTimeout(connect, 400 * wire.tries);
}
/** Nothing goes on until somebody begins anew. */
function ended(what, hint) {
  wire.over = true;
  wire.socket?.close();
  veil(sentence(what), sentence(hint), "Begin anew", () => { Object.assign(wire, { over: false, tries: 0, token: "" }); veil("A moment …"); connect(); $("tube").focus(); });
}
function veil(what, hint = "", act = "", done = null) {
  const [title, text, button] = $("veil").children;
  $("veil").hidden = !what;
  write(title, what);
  write(text, hint);
  button.hidden = !act;
  write(button, act);
  button.onclick = done;
}
function hear(message) {
  switch (message.type) {
    case "welcome": wire.token = message.token; wire.tries = 0; $("download").href = beside(`recording?token=${encodeURIComponent(message.token)}`); break;
    case "phase": veil("A moment …", `${sentence(message.doing)}`); break;
    case "game": begun(message); break;
    case "refused": write($("pace"), sentence(message.what)); break;
    case "ended": ended("The game has ended", `${sentence(message.why)}.`); break;
    case "error": ended(message.what, message.hint); break;
  }
}

// What is shown --------------------------------------------------------------------------------------------------------------------
const screen = $("screen").getContext("2d"), text = new TextDecoder();
async function see(data) {
  const length = new DataView(data).getUint32(0, true), head = JSON.parse(text.decode(new Uint8Array(data, 4, length)));
  const first = 4 + length, picture = (from, to) => createImageBitmap(new Blob([data.slice(from, to)], { type: "image/webp" }));
  const [colours, frames] = await Promise.all([picture(first, first + head.screen), picture(first + head.screen)]);
  if (seen.head && head.picture < seen.head.picture && head.game === seen.head.game) return say("drawn");
  const draw = () => { show(head, colours, frames); say("drawn"); };
  document.hidden ? draw() : requestAnimationFrame(draw);
}
function show(head, colours, frames) {
  const before = seen.head;
  seen.head = head;
  seen.pictures++;
  screen.imageSmoothingEnabled = false;
  screen.drawImage(colours, 0, 0, 640, 840);
  drawSeen(frames);
  colours.close();
  frames.close();
  document.body.classList.toggle("person", head.who === "person");
  write($("who"), head.who === "person" ? "You play" : "The agent plays");
  if (head.who === "person" && before?.who !== "person" && document.body.classList.contains("touch")) $("tube").scrollIntoView({ block: "start", behavior: "smooth" });
  $("take").setAttribute("aria-pressed", String(head.who === "person"));
  write($("take"), head.who === "person" ? "Hand back" : "Take over");
  write($("pause"), head.state === "paused" ? "Go on" : "Pause");
  for (const button of $("speeds").children) button.setAttribute("aria-pressed", String(Number(button.dataset.speed) === head.speed));
  if (head.state === "over") veil(head.capped ? "The time is over" : "Game over", `${head.score.toLocaleString("en")} points in ${plural(head.steps, "step")}`);
  else if (head.state === "paused") veil("Paused", "", "Go on", () => { say("resume"); $("tube").focus(); });
  else veil("");
  drawTally(head, before);
  drawBars(head);
  drawActions(head);
  if (document.activeElement !== $("kappa")) setKappa(head.kappa);
  write($("recorded"), head.recorded ? `${plural(head.recorded, "game")}, as a log of actions that replays to the same score` : "");
  const now = performance.now();
  if (now - seen.since > 1000) { seen.rate = 1000 * seen.pictures / (now - seen.since); seen.pictures = 0; seen.since = now; tellPace(head); }
}
function tellPace(head) {
  const wanted = 15 * head.speed, slow = head.state === "playing" && head.pace < 0.8 * wanted;
  write($("pace"), slow ? `${head.pace < 10 ? head.pace.toFixed(1) : Math.round(head.pace)} steps a second: this machine thinks no faster` : `${wanted} steps a second`);
}
function drawTally(head, before) {
  write($("score"), head.score.toLocaleString("en"));
  if (head.points && before && head.steps !== before.steps) {
    $("won").textContent = `${head.points > 0 ? "+" : "−"}${Math.abs(head.points).toLocaleString("en")}`;
    $("won").classList.remove("up");
    void $("won").offsetWidth;
    $("won").classList.add("up");
  }
  write($("facts"), [`step ${head.steps.toLocaleString("en")}`, head.lives ? plural(head.lives, "life").replace("lifes", "lives") : "", `game ${head.game}`].filter(Boolean).join(" · "));
  const part = head.part, wide = Math.max(1, Math.ceil((part ?? 0) * 2) / 2), at = 100 / wide;
  $("scale").hidden = $("ends").children[0].hidden = part === null;
  $("person-end").hidden = part === null || (wide > 1 && (at > 55 || at < 28));
  $("human").classList.toggle("beyond", wide > 1);
  $("human").style.setProperty("--at", `${at.toFixed(2)}%`);
  $("scale").children[0].style.width = `${(at * Math.max(part ?? 0, 0)).toFixed(2)}%`;
  $("scale").children[1].style.left = `${at.toFixed(2)}%`;
  write($("part"), part === null ? "No person's score of this game was published" : `human-normalised ${signed(Math.round(100 * part) || 0)} %`);
}

// What the agent expects -------------------------------------------------------------------------------------------------------------
let colours = {};
const readColours = () => { const style = getComputedStyle(document.documentElement); colours = Object.fromEntries(["accent", "past", "ink", "ink-2", "rule", "paper"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()])); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); if (seen.head) drawBars(seen.head); });
let top_ = 0.1, told = 0;
function drawBars(head) {
  $("expects").hidden = !head.predicted;
  if (!head.predicted) return;
  const canvas = $("bars"), scale = Math.min(devicePixelRatio || 1, 3), width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) { canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale); }
  const pen = canvas.getContext("2d"), base = height - 20, count = head.predicted.length, pitch = width / count;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const most = Math.max(...head.predicted, ...head.tilted, 0.02);
  top_ += (most > top_ ? 1 : 0.04) * (most - top_);
  const bars = (list, colour, inset) => { pen.fillStyle = colour; list.forEach((p, i) => { const tall = Math.min(p / top_, 1) * (base - 16); if (tall > 0.2) pen.fillRect(i * pitch + inset, base - tall, Math.max(pitch - 2 * inset, 1), tall); }); };
  bars(head.predicted, colours.past, 0.15);
  pen.globalAlpha = 0.82;
  bars(head.tilted, colours.accent, Math.min(pitch * 0.22, 1));
  pen.globalAlpha = 1;
  pen.fillStyle = colours.rule;
  pen.fillRect(0, base, width, 1);
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.fillStyle = colours["ink-2"];
  for (const value of [-20, 0, 20, 40, 60, 80, 99]) {
    const x = (value - LOWEST + 0.5) * pitch;
    pen.fillRect(x - 0.5, base, 1, 4);
    pen.fillText(value === 99 ? "99+" : signed(value), Math.min(Math.max(x, 10), width - 11), height - 3);
  }
  if (head.target !== null) {
    const at = head.target - LOWEST, x = (at + 0.5) * pitch, label = `drawn: ${signed(head.target)}${at === count - 1 ? "+" : ""}`;
    pen.fillStyle = colours.ink;
    pen.fillRect(x - 0.75, 12, 1.5, base - 12);
    pen.beginPath();
    pen.moveTo(x - 5, 6); pen.lineTo(x + 5, 6); pen.lineTo(x, 13);
    pen.fill();
    const wide = pen.measureText(label).width, right = x + 10 + wide < width;
    pen.textAlign = right ? "left" : "right";
    pen.lineWidth = 4;
    pen.strokeStyle = colours.paper;
    pen.strokeText(label, x + (right ? 9 : -9), 13);
    pen.fillText(label, x + (right ? 9 : -9), 13);
  }
  const now = performance.now();
  if (now - told > 3000) {
    told = now;
    const likeliest = (list) => list.indexOf(Math.max(...list)) + LOWEST;
    canvas.setAttribute("aria-label", `Probabilities of returns: the likeliest is ${likeliest(head.predicted)}, tilted ${likeliest(head.tilted)}, drawn was ${head.target}`);
  }
}
function setKappa(value) {
  $("kappa").value = value;
  $("kappa").style.setProperty("--part", `${100 * value / Number($("kappa").max)}%`);
  write($("kappa-value"), String(value));
}
let tilting = 0;
$("kappa").oninput = () => {
  setKappa(Number($("kappa").value));
  tilting ||= setTimeout(() => { tilting = 0; say("kappa", Number($("kappa").value)); }, 60);
};

// What it does -----------------------------------------------------------------------------------------------------------------------
const cells = [];
for (const [id, fire] of [["plain", ""], ["firing", "FIRE"]]) {
  for (const along of ["UP", "", "DOWN"]) for (const across of ["LEFT", "", "RIGHT"]) {
    const cell = document.createElement("span"), name = along + across + fire || "NOOP";
    const word = along + across || (fire ? "FIRE" : "NOOP"), arrow = { UPLEFT: "↖", UP: "↑", UPRIGHT: "↗", LEFT: "←", RIGHT: "→", DOWNLEFT: "↙", DOWN: "↓", DOWNRIGHT: "↘" }[word] ?? word;
    cell.innerHTML = `<b>${word}</b><i aria-hidden="true">${arrow}</i>`;  // arrows where the words are too long
    cell.classList.toggle("word", !along && !across);
    cell.title = name;
    cells[NAMES.indexOf(name)] = cell;
    $(id).append(cell);
  }
}
function drawActions(head) {
  const known = new Set(seen.known);
  cells.forEach((cell, action) => {
    const p = head.actions ? head.actions[action] : 0;
    cell.style.setProperty("--p", p.toFixed(3));
    cell.classList.toggle("idle", !known.has(action) && p < 0.02);
    cell.classList.toggle("strong", p > 0.5);
    cell.classList.toggle("took", action === head.took && head.state !== "over");
    cell.classList.toggle("wants", head.who === "person" && action === head.wants);
  });
  const did = head.took < 0 ? "" : NAMES[head.took], would = NAMES[head.wants];
  write($("did"), head.who === "person" ? `you: ${did || "–"} · it would: ${would}` : did);
}
const frameCells = Array.from({ length: 4 }, (_, i) => {
  const item = document.createElement("li"), canvas = document.createElement("canvas"), lines = [document.createElement("p"), document.createElement("p")];
  canvas.width = canvas.height = 3 * FRAME;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", i < 3 ? `The frame ${plural(3 - i, "step")} ago` : "The newest frame");
  item.append(canvas, ...lines);
  $("seen").append(item);
  return { pen: canvas.getContext("2d"), lines, key: "" };
});
const chip = (said, kind = "") => { const span = document.createElement("span"); span.className = kind; span.textContent = said; return span; };
function drawSeen(frames) {
  const head = seen.head;
  frameCells.forEach((cell, i) => {
    cell.pen.imageSmoothingEnabled = false;
    cell.pen.drawImage(frames, i * FRAME, 0, FRAME, FRAME, 0, 0, 3 * FRAME, 3 * FRAME);
    cell.pen.fillStyle = "rgb(255 255 255 / .16)";
    for (let at = 42; at < 3 * FRAME; at += 42) { cell.pen.fillRect(at, 0, 1, 3 * FRAME); cell.pen.fillRect(0, at, 3 * FRAME, 1); }
    const step = head.context[i], aim = i === 0 && head.target !== null ? `return ${signed(head.target)}` : "", key = `${step}|${aim}`;
    if (cell.key === key) return;
    cell.key = key;
    cell.lines[0].replaceChildren(...(step ? [chip(NAMES[step[0]]), chip(step[1] > 0 ? "+1" : step[1] < 0 ? "−1" : "0", step[1] ? "won" : "")] : i === 3 ? [chip("?")] : []));
    cell.lines[1].replaceChildren(...(aim ? [chip(aim, "return")] : []));
  });
}
function begun(message) {
  seen.game = message;
  seen.known = message.actions;
  $("game").value = message.game;
  $("model").value = message.model;
  document.title = `${spaced(message.game)} · Almanac`;
  const rows = message.past.toReversed().map(({ game, score, steps, who }) => {
    const row = document.createElement("li"), won = document.createElement("span"), by = document.createElement("b");
    by.textContent = score.toLocaleString("en");
    won.textContent = `${spaced(game)} · ${who.split("+").map((each) => (each === "person" ? "you" : each.split("/").pop())).join(" and ")} · ${plural(steps, "step")}`;
    row.append(won, by);
    return row;
  });
  $("past").replaceChildren(...rows);
  $("past").hidden = !rows.length;
  tellTraining();
}

// What is pressed --------------------------------------------------------------------------------------------------------------------
const KEYS = { ArrowUp: UP, KeyW: UP, ArrowRight: RIGHT, KeyD: RIGHT, ArrowLeft: LEFT, KeyA: LEFT, ArrowDown: DOWN, KeyS: DOWN, Space: FIRE };
const ACTS = { KeyT: () => $("take").click(), KeyP: () => $("pause").click(), KeyN: () => $("restart").click() };
let held = 0;
const hold = (bits, down) => {
  const after = down ? held | bits : held & ~bits;
  if (after === held) return;
  if (down && seen.head?.who !== "person") say("take");
  held = after;
  say("keys", [held, down ? bits : 0]);
};
const release = () => { if (held) { held = 0; say("keys", [0, 0]); } };
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("select, input")) return;
  const onButton = event.target.matches?.("button, a");
  if (KEYS[event.code] && !(onButton && event.code === "Space")) { event.preventDefault(); if (!event.repeat) hold(KEYS[event.code], true); }
  else if (ACTS[event.code] && !event.repeat) ACTS[event.code]();
});
addEventListener("keyup", (event) => { if (KEYS[event.code]) hold(KEYS[event.code], false); });
addEventListener("blur", release);
const touches = () => document.body.classList.add("touch");
if (matchMedia("(pointer: coarse)").matches) touches();
addEventListener("pointerdown", (event) => { if (event.pointerType === "touch") touches(); }, true);
const stick = { id: null };
function tilt(event) {
  const box = $("stick").getBoundingClientRect(), x = event.clientX - box.x - box.width / 2, y = event.clientY - box.y - box.height / 2;
  const far = Math.hypot(x, y), reach = box.width / 2 - 30, part = Math.min(1, reach / Math.max(far, 1));
  $("stick").querySelector("i").style.transform = `translate(${(x * part).toFixed(1)}px, ${(y * part).toFixed(1)}px)`;
  const turned = Math.round(Math.atan2(y, x) / (Math.PI / 4)) & 7;
  const bits = far < 18 ? 0 : [RIGHT, RIGHT | DOWN, DOWN, DOWN | LEFT, LEFT, LEFT | UP, UP, UP | RIGHT][turned];
  const after = (held & FIRE) | bits;
  if (after !== held) { held = after; say("keys", [held, bits]); }
}
$("stick").onpointerdown = (event) => { event.preventDefault(); stick.id = event.pointerId; $("stick").setPointerCapture(event.pointerId); tilt(event); };
$("stick").onpointermove = (event) => { if (event.pointerId === stick.id) tilt(event); };
$("stick").onpointerup = $("stick").onpointercancel = (event) => { if (event.pointerId !== stick.id) return; stick.id = null; $("stick").querySelector("i").style.transform = ""; held &= FIRE; say("keys", [held, 0]); };
$("fire").onpointerdown = (event) => { event.preventDefault(); $("fire").classList.add("down"); hold(FIRE, true); };
$("fire").onpointerup = $("fire").onpointercancel = $("fire").onpointerleave = () => { $("fire").classList.remove("down"); hold(FIRE, false); };
for (const each of [$("stick"), $("fire")]) each.oncontextmenu = (event) => event.preventDefault();
$("take").onclick = () => { held = 0; say(seen.head?.who === "person" ? "hand" : "take"); };
$("pause").onclick = () => say(seen.head?.state === "paused" ? "resume" : "pause");
$("restart").onclick = () => say("restart");
for (const button of document.querySelectorAll("#deck button")) button.addEventListener("click", (event) => { if (event.detail) $("tube").focus({ preventScroll: true }); });
document.addEventListener("visibilitychange", () => { release(); say("hidden", document.hidden); });

// What can be watched ----------------------------------------------------------------------------------------------------------------
let choices = null;
function option(value, label) { const each = document.createElement("option"); each.value = value; each.textContent = label; return each; }
function group(label, options) { const each = document.createElement("optgroup"); each.label = label; each.append(...options); return each; }
const model = () => choices.models.find(({ name }) => name === $("model").value);
/** Games that the model was trained on come first. */
function listGames() {
  const chosen = $("game").value || asked.get("game"), trained = new Set(model()?.games ?? []), known = choices.games.map(({ name }) => name);
  const options = (names) => names.map((name) => option(name, spaced(name)));
  const inside = known.filter((name) => trained.has(name)), outside = known.filter((name) => !trained.has(name));
  $("game").replaceChildren(...(inside.length ? [group("Trained on", options(inside)), group("Never seen", options(outside))] : options(outside)));
  $("game").value = known.includes(chosen) ? chosen : inside[0] ?? "Breakout";
}
function tellTraining() {
  const chosen = model(), name = spaced($("game").value);
  const novel = chosen?.games.length && !chosen.games.includes($("game").value);
  $("note").hidden = Boolean(chosen) && !novel;
  if (!choices.models.length) $("note").innerHTML = "<b>No trained model is here yet,</b> so that you watch random play. <code>almanac multigame-dt train</code> makes one; a run's folder in <code>ALMANAC_MULTIGAME_DT_RUN</code> is offered here.";
  else if (!chosen) $("note").textContent = "Random play: any action, each as often as the others.";
  else if (novel) $("note").textContent = `${chosen.name.split("/").pop()} was never trained on ${name}: it plays it by what it knows of other games.`;
}
$("model").onchange = () => { listGames(); choose(); };
$("game").onchange = () => choose();
function choose() {
  tellTraining();
  release();
  if (wire.over) return $("veil").querySelector("button").click();
  if (wire.socket?.readyState === WebSocket.OPEN) { veil("A moment …"); wire.socket.send(JSON.stringify({ type: "choose", game: $("game").value, model: $("model").value })); }
}
$("choices").onsubmit = (event) => event.preventDefault();
const fit = () => { if (window.frameElement) window.frameElement.style.height = `${Math.ceil(document.body.getBoundingClientRect().height) + 2}px`; };
async function begin() {
  document.documentElement.classList.toggle("alone", !window.frameElement);
  readColours();
  veil("A moment …");
  new ResizeObserver(() => { fit(); if (seen.head) drawBars(seen.head); }).observe(document.body);
  try { choices = await (await fetch(beside("choices"))).json(); } catch { return veil("The server does not answer", "See whether it runs, then reload the page.", "Reload", () => location.reload()); }
  $("model").replaceChildren(...choices.models.map(({ name }) => option(name, name.split("/").pop())), option(choices.random, "Random play"));
  if ([choices.random, ...choices.models.map(({ name }) => name)].includes(asked.get("model"))) $("model").value = asked.get("model");
  listGames();
  $("kappa").max = choices.kappa.most;
  setKappa(choices.kappa.value);
  $("speeds").replaceChildren(...choices.speeds.map((speed) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.speed = speed;
    button.textContent = { 0.25: "¼", 0.5: "½" }[speed] ?? `${speed}×`;
    button.setAttribute("aria-label", speed === 1 ? "As fast as the console" : `${speed} times as fast as the console`);
    button.setAttribute("aria-pressed", String(speed === 1));
    button.onclick = () => { say("speed", speed); };
    return button;
  }));
  tellTraining();
  if (choices.error) { wire.over = true; document.querySelectorAll("#deck button, select, input").forEach((each) => (each.disabled = true)); return veil(sentence(choices.error.what), sentence(choices.error.hint)); }
  connect();
}
/** For who watches the page: the newest picture's facts. */
window.almanac = { get state() { return { ...seen.head, rate: seen.rate, token: wire.token, ended: wire.over }; }, cut: () => wire.socket.close() };
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
addEventListener("pagehide", () => { wire.over = true; say("leave"); wire.socket?.close(); });
begin();
