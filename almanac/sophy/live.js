// A race that is driven here: the form that begins it, the WebSocket that carries it, and all around the picture. Cars are where the server
// says; between two of its snapshots, one behind the newest, they are drawn on the way. `scene.js` draws, and is put in below.
const $ = (id) => document.getElementById(id);
const beside = (path) => new URL(path, import.meta.url);
const numbers = (packed) => new Float32Array(Uint8Array.from(atob(packed), (c) => c.charCodeAt(0)).buffer);
const lapText = (t) => `${Math.floor(t / 60)}:${(t % 60).toFixed(3).padStart(6, "0")}`;
const PHASES = ["preparing", "waiting", "countdown", "racing", "over"];
const OFF = 1, WALL = 2, FINISHED = 4, SPOILT = 64, VERSION = 1, HEAD = 16, CAR = 32, RATE = 60;

// Beginning or joining -------------------------------------------------------------------------------------------------------------
const asked = new URLSearchParams(location.search);
const wire = { socket: null, room: "", token: "", name: "", plan: null, tries: 0, left: false, hear: () => {}, see: () => {}, lost: () => {} };
/** Opens the connection; what comes goes to `wire.hear` (messages) and `wire.see` (snapshots). */
function connect(hello) {
  const address = beside("ws");
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = (wire.socket = new WebSocket(address));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send(JSON.stringify({ type: "hello", ...hello }));
  socket.onmessage = ({ data }) => (typeof data === "string" ? wire.hear(JSON.parse(data)) : wire.see(data));
  socket.onclose = () => { if (socket === wire.socket) wire.lost(); };
}
const say = (message) => { if (wire.socket?.readyState === WebSocket.OPEN) wire.socket.send(JSON.stringify(message)); };

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => { const option = document.createElement("option"); option.value = option.textContent = name; return option; }));
  if (names.includes(chosen)) select.value = chosen;
}
function troubled(what, hint) {
  $("error").hidden = !what;
  $("error").children[0].textContent = what ? what[0].toUpperCase() + what.slice(1) : "";
  $("error").children[1].textContent = hint ? hint[0].toUpperCase() + hint.slice(1) : "";
}
/** What the form asks for. */
function planned() {
  const number = (id) => Math.max(Math.floor(Number($(id).value)) || 0, 0), skill = Number($("skill").value), built = number("built");
  const rivals = Array.from({ length: built }, (_, i) => ({ kind: "built-in", skill: Math.max(skill - 0.1 * i / Math.max(built - 1, 1), 0.5) }));
  for (let i = 0; i < (wire.policies ? number("sophys") : 0); i++) rivals.push({ kind: "sophy", policy: $("policy").value });
  return { track: $("track").value, car: $("car").value, mode: $("mode").value, laps: number("laps"), rolling: $("start").value === "rolling", rivals };
}
/** The form, until somebody is to drive; then what is to be drawn. */
async function lobby() {
  const choices = await (await fetch(beside("choices"))).json();
  fill($("track"), choices.tracks, asked.get("track") ?? "solstice");
  fill($("car"), choices.cars, asked.get("car") ?? "gt3");
  const knows = (policy) => policy.track === $("track").value && policy.car === $("car").value;
  /** Those who know the track and the car come first, and of them who practised what is driven: races, or laps alone. */
  const suitPolicies = () => {
    const racing = $("mode").value === "race", worth = (policy) => 2 * knows(policy) + (policy.races === racing);
    const ranked = choices.policies.toSorted((a, b) => worth(b) - worth(a));
    fill($("policy"), ranked.map(({ name }) => name));
    ranked.forEach((policy, i) => {
      const other = knows(policy) ? "" : ` (knows ${policy.track} in ${policy.car ?? "another car"})`;
      $("policy").options[i].textContent = policy.name.replace(/^sophy\//, "") + other;
    });
  };
  $("track").onchange = $("car").onchange = suitPolicies;
  wire.policies = choices.policies.length;
  document.querySelectorAll(".sophy").forEach((each) => (each.hidden = !wire.policies));
  $("laps").max = choices.laps;
  $("built").max = $("sophys").max = choices.most - 1;
  $("name").maxLength = choices.longest_name;
  $("name").value = localStorage.getItem("almanac-driver") ?? "";
  $("room").value = asked.get("room") ?? "";
  const suit = () => { const trial = $("mode").value === "trial"; $("laps-label").hidden = trial; if (trial) $("built").value = 0; suitPolicies(); };
  $("mode").onchange = suit;
  suit();
  return new Promise((begin) => {
    let scenery = null, ready = false;
    const busy = (on) => ($("begin").disabled = $("join").disabled = on);
    const go = () => { if (scenery && ready) begin(scenery); };
    const fail = (what, hint) => { troubled(what, hint); $("doing").textContent = ""; busy(false); const { socket } = wire; wire.socket = null; socket?.close(); };
    const enter = (hello) => {
      troubled("");
      busy(true);
      scenery = null; ready = false;
      $("doing").textContent = "Connecting …";
      localStorage.setItem("almanac-driver", $("name").value);
      connect({ name: $("name").value, ...hello });
    };
    wire.hear = async (message) => {
      if (message.type === "error") fail(message.what, message.hint);
      if (message.type === "welcome") {
        Object.assign(wire, { room: message.room, token: message.token, name: message.name, plan: message.plan });
        sessionStorage.setItem(`almanac-race-${wire.room}`, wire.token);
        const answer = await fetch(beside(`scenery?${new URLSearchParams({ track: message.plan.track, car: message.plan.car })}`)), found = await answer.json();
        if (!answer.ok) return fail(found.what, found.hint);
        scenery = found;
        go();
      }
      if (message.type === "phase") {
        $("doing").textContent = message.phase === "ready" ? "Drawing the track …" : `Preparing: ${message.doing || "a moment"} …`;
        ready = message.phase === "ready";
        go();
      }
      if (["board", "ghost", "note"].includes(message.type)) early.push(message);
    };
    wire.lost = () => { if ($("error").hidden) fail("the connection broke", "see whether the server runs, then try again"); };
    $("enter").onsubmit = (event) => { event.preventDefault(); enter({ plan: planned() }); };
    const join = () => { const room = $("room").value.trim().toUpperCase(); if (room) enter({ room, token: sessionStorage.getItem(`almanac-race-${room}`) ?? "" }); else $("room").focus(); };
    $("join").onclick = join;
    $("room").onkeydown = (event) => { if (event.key === "Enter") { event.preventDefault(); join(); } };
    ($("room").value ? $("join") : $("begin")).focus({ preventScroll: true });
  });
}
const early = [];  // messages for the race that came before it was drawn
const race = await lobby();
$("lobby").hidden = true;
$("stage").hidden = false;
const THREE = await import("./three.module.min.js");
const track = Object.fromEntries(Object.entries(race.track).map(([name, value]) => [name, typeof value === "string" && name !== "name" ? numbers(value) : value]));
const count = race.cars.length, points = track.x.length, GHOST = count - 1;
const states = race.cars.map(() => ({ hidden: true, x: 0, y: 0, z: 0, heading: 0, slope: 0, bank: 0, steering: 0, speed: 0, pedal: 0, travelled: 0, offset: 0 }));

__SCENE__

const ghostly = material(painted.vertexShader, `precision mediump float; flat in vec3 tone; out vec4 pixel;
  void main() { if (mod(floor(gl_FragCoord.x) + floor(gl_FragCoord.y), 2.0) < 1.0) discard; pixel = vec4(mix(tone, vec3(1.0), 0.25), 1.0); }`);
states[GHOST].fleet = carFleet(true);
states[GHOST].fleet.mesh.material = ghostly;
fleets.push(states[GHOST].fleet);

// What the server says -------------------------------------------------------------------------------------------------------------
const shots = [], drivers = new Map(), ghosts = {}, passed = new Map();
const told = { phase: "waiting", clock: 0, last: 0, best: 0, news: [], places: null, board: [], laps: [], offset: null };
let me = -1;
/** A snapshot's cars by their drivers' numbers. */
function read(data) {
  const view = new DataView(data), amount = view.getUint8(2), cars = new Map();
  if (view.getUint8(0) !== VERSION || data.byteLength !== HEAD + CAR * amount) return null;
  for (let n = 0, at = HEAD; n < amount; n++, at += CAR) {
    cars.set(view.getUint8(at), {
      flags: view.getUint8(at + 1), heard: view.getUint16(at + 2, true), x: view.getFloat32(at + 4, true), y: view.getFloat32(at + 8, true),
      heading: view.getInt16(at + 12, true) / 1e4, steering: view.getInt16(at + 14, true) / 1e4, speed: view.getInt16(at + 16, true) / 100,
      pedal: view.getInt8(at + 18) / 127, gear: view.getUint8(at + 19), travelled: view.getFloat32(at + 20, true), lapClock: view.getFloat32(at + 24, true),
      offset: view.getInt16(at + 28, true) / 100, penalty: view.getUint16(at + 30, true) / 100,
    });
  }
  return { phase: PHASES[view.getUint8(1)], frame: view.getUint32(4, true), clock: view.getFloat32(8, true), cars };
}
wire.see = (data) => {
  const shot = read(data), newest = shots[shots.length - 1], now = performance.now() / 1000;
  if (!shot) return;
  if (newest && shot.frame < newest.frame) { shots.length = 0; passed.clear(); told.offset = null; }
  // When frames come, at the earliest lately: what is later was held up on its way.
  const late = now - shot.frame / RATE;
  told.offset = told.offset === null || late < told.offset || late > told.offset + 0.2 ? late : told.offset + 0.002 * (late - told.offset);
  Object.assign(told, { phase: shot.phase, clock: shot.clock });
  shots.push(shot);
  if (shots.length > 12) shots.shift();
  for (const [who, car] of shot.cars) mark(who, car.travelled, shot.clock);
};
const MARK = 10;  // m between two places where the time is noted
function mark(who, travelled, clock) {
  const cell = Math.floor(travelled / MARK), known = passed.get(who) ?? { first: cell, last: cell, when: new Map() };
  for (; known.last < cell; known.last++) known.when.set(known.last + 1, clock);
  if (known.last - 4000 > known.first) { known.when.delete(known.first); known.first++; }
  passed.set(who, known);
}
/** How far a car is behind another, s. */
function gap(behind, ahead) {
  const when = passed.get(ahead)?.when.get(Math.floor(newestCar(behind).travelled / MARK));
  return when === undefined ? NaN : told.clock - when;
}
const newestCar = (who) => shots[shots.length - 1]?.cars.get(who);
const name = (who) => drivers.get(who)?.name ?? "–";
function news(text) { if (text) told.news.push({ text, until: performance.now() + 4500 }); }

wire.hear = (message) => {
  switch (message.type) {
    case "you": me = message.who; followed = me; fresh = true; wire.token = message.token; wire.tries = 0; break;
    case "who": drivers.clear(); message.drivers.forEach((each) => drivers.set(each.who, each)); news(message.news); break;
    case "event": news(`${name(message.who)} ${message.what}`); break;
    case "note": news(message.what); break;
    case "lap":
      if (message.who === me) {
        told.last = message.time;
        if (!message.spoilt && (!told.best || message.time < told.best)) told.best = message.time;
        news(message.spoilt ? `${lapText(message.time)}, which does not count: ${message.spoilt}` : lapText(message.time));
      }
      told.laps.push(message);
      break;
    case "board":
      told.board = message.laps;
      drawBoard();
      if (message.place) news(`${name(message.who)}: place ${message.place} on the board`);
      break;
    case "ghost": if (message.trace) keepGhost(message); offerGhosts(); break;
    case "places": told.places = message.over ? message.places : null; drawPlaces(); break;
    case "restart": told.places = null; told.last = 0; fresh = true; drawPlaces(); news("the race starts anew"); break;
    case "phase": if (message.phase === "ready") say({ type: "ready" }); break;
    case "welcome": wire.token = message.token; break;
    case "ended": ended("The race has ended", "Nobody was there for a while."); break;
    case "error": ended(message.what, message.hint); break;
  }
};
wire.lost = () => {
  if (wire.left) return;
  if (wire.tries++ > 6) return ended("The connection broke", "See whether the server runs, then begin anew.");
  news("the connection broke; trying again");
  setTimeout(() => { if (!wire.left) connect({ room: wire.room, token: wire.token, name: wire.name }); }, 300 * wire.tries);
};
function ended(what, hint) {
  if (wire.left) return;
  wire.left = true;
  wire.socket?.close();
  $("trouble").children[0].textContent = what[0].toUpperCase() + what.slice(1);
  $("trouble").children[1].textContent = hint ? hint[0].toUpperCase() + hint.slice(1) : "";
  $("trouble").hidden = false;
  $("trouble").querySelector("button").focus();
}
const away = () => { wire.left = true; say({ type: "leave" }); wire.socket?.close(); location.assign(location.pathname); };
$("trouble").querySelector("button").onclick = away;

// Ghosts ---------------------------------------------------------------------------------------------------------------------------
function keepGhost({ of, name, time, trace }) {
  const all = numbers(trace), ghost = { name, time, length: all.length / 5 };
  ["t", "x", "y", "heading", "s"].forEach((key, column) => (ghost[key] = Float32Array.from({ length: ghost.length }, (_, n) => all[5 * n + column])));
  ghosts[of] = ghost;
}
function offerGhosts() {
  for (const option of $("ghost").options) {
    const ghost = ghosts[option.value], what = { optimum: "optimal lap", board: "best lap" }[option.value];
    option.disabled = Boolean(what) && !ghost;
    if (what) option.textContent = ghost ? `Ghost: ${what}, ${lapText(ghost.time)}` : `Ghost: ${what} (${option.value === "optimum" ? "being sought" : "none yet"})`;
  }
  if ($("ghost").selectedOptions[0]?.disabled && ghosts.board && !told.choseGhost) $("ghost").value = "board";
  if (ghosts.optimum && !told.choseGhost) $("ghost").value = "optimum";
}
const shownGhost = () => ghosts[$("ghost").value];
/** Between which two points of a rising list a value is, and how far. */
function between(list, value) {
  let low = 0, high = list.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (list[middle] <= value) low = middle; else high = middle; }
  const step = list[high] - list[low];
  return [low, step > 1e-9 ? Math.min(Math.max((value - list[low]) / step, 0), 1) : 0];
}
const turn = (a) => Math.atan2(Math.sin(a), Math.cos(a));
/** Puts a car's height and how it lies on the road. */
function lay(s) {
  const at = (((s.travelled / track.step) % points) + points) % points, i = Math.floor(at) % points, j = (i + 1) % points, part = at - Math.floor(at);
  const mean = (list) => list[i] + part * (list[j] - list[i]);
  s.slope = mean(track.slope);
  s.bank = mean(track.bank);
  s.z = mean(track.z) + s.offset * Math.tan(s.bank);
}
function moveGhost(clock) {
  const ghost = shownGhost(), s = states[GHOST];
  s.hidden = !ghost || clock < 0 || clock > ghost.t[ghost.length - 1];
  if (s.hidden) return;
  const [i, part] = between(ghost.t, clock), j = Math.min(i + 1, ghost.length - 1), mean = (list) => list[i] + part * (list[j] - list[i]);
  s.x = mean(ghost.x); s.y = mean(ghost.y); s.travelled = mean(ghost.s);
  s.heading = ghost.heading[i] + part * turn(ghost.heading[j] - ghost.heading[i]);
  const at = Math.floor(s.travelled / track.step) % points;
  s.offset = (s.y - track.y[at]) * Math.cos(track.heading[at]) - (s.x - track.x[at]) * Math.sin(track.heading[at]);
  lay(s);
}
/** How far behind the ghost, s. */
function delta() {
  const ghost = shownGhost(), car = newestCar(me);
  if (!ghost || !car || car.lapClock < 0) return NaN;
  const along = ((car.travelled % race.track.length) + race.track.length) % race.track.length, [i, part] = between(ghost.s, along);
  return car.lapClock - (ghost.t[i] + part * (ghost.t[Math.min(i + 1, ghost.length - 1)] - ghost.t[i]));
}

// Driving --------------------------------------------------------------------------------------------------------------------------
const held = { left: false, right: false, up: false, down: false }, drive = { turn: 0, steering: 0, pedal: 0, sequence: 0, before: performance.now(), button: false };
const KEYS = { ArrowLeft: "left", KeyA: "left", ArrowRight: "right", KeyD: "right", ArrowUp: "up", KeyW: "up", ArrowDown: "down", KeyS: "down" };
const ACTS = { KeyR: () => $("reset").click(), KeyN: () => $("restart").click(), KeyB: () => $("show-board").click(), KeyC: () => choose({ chase: "tv", tv: "top", top: "chase" }[seen]), Digit1: () => choose("chase"), Digit2: () => choose("tv"), Digit3: () => choose("top") };
const typing = (event) => event.target.matches?.("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey;
addEventListener("keydown", (event) => {
  if (typing(event)) return;
  if (KEYS[event.code]) { held[KEYS[event.code]] = true; event.preventDefault(); } else if (ACTS[event.code] && !event.repeat) { event.preventDefault(); ACTS[event.code](); }
});
addEventListener("keyup", (event) => { if (KEYS[event.code]) held[KEYS[event.code]] = false; });
const release = () => Object.keys(held).forEach((key) => (held[key] = false));
addEventListener("blur", release);
document.addEventListener("visibilitychange", release);
document.querySelectorAll("#pads button").forEach((button) => {
  const set = (on) => (event) => { event.preventDefault(); held[button.dataset.key] = on; };
  button.onpointerdown = set(true);
  button.onpointerup = button.onpointercancel = button.onpointerleave = set(false);
  button.oncontextmenu = (event) => event.preventDefault();
});
const toward = (value, goal, step) => value + Math.min(Math.max(goal - value, -step), step);
/** As far as the wheel is worth turning at a speed, as a part of all: to the tyres' peak in the tightest bend that they hold. */
function reach(speed) { const v = Math.max(speed, 4); return Math.min((race.car.base * race.car.grip / (v * v) + 0.5 * race.car.slip) / race.car.steering, 1); }
function gamepad() { return [...(navigator.getGamepads?.() ?? [])].find((pad) => pad?.connected && pad.axes.length >= 2); }
/** What is pressed, sixty times a second: keys turn the wheel in time, a gamepad's stick says where it is. */
function control() {
  const now = performance.now(), seconds = Math.min((now - drive.before) / 1000, 0.1), pad = gamepad(), car = newestCar(me), most = reach(car?.speed ?? 0);
  drive.before = now;
  const keys = (held.left ? 1 : 0) - (held.right ? 1 : 0), back = Math.abs(keys) < Math.abs(drive.turn) || keys * drive.turn < 0;
  drive.turn = toward(drive.turn, keys, seconds * (back ? 4 : 2.8));
  drive.steering = most * drive.turn * (0.3 + 0.7 * drive.turn ** 2);  // a tap corrects, a key that is held turns in
  drive.pedal = held.down ? -1 : held.up ? 1 : 0;
  if (pad && !keys && !held.up && !held.down) {
    const axis = Math.abs(pad.axes[0]) < 0.06 ? 0 : pad.axes[0], gas = pad.buttons[7]?.value ?? 0, brake = pad.buttons[6]?.value ?? 0;
    if (axis || !drive.turn) drive.steering = -Math.sign(axis) * Math.abs(axis) ** 1.4 * Math.min(1.2 * most, 1);
    drive.pedal = brake > 0.03 ? -brake : gas;
    const pressed = Boolean(pad.buttons[3]?.pressed);
    if (pressed && !drive.button) $("reset").click();
    drive.button = pressed;
  }
  if (wire.socket?.readyState !== WebSocket.OPEN || me < 0 || wire.socket.bufferedAmount > 4000) return;
  const packet = new DataView(new ArrayBuffer(8)), on = (id) => $(id).getAttribute("aria-pressed") === "true";
  packet.setUint8(0, VERSION);
  packet.setUint8(1, (on("abs") ? 1 : 0) | (on("traction") ? 2 : 0));
  packet.setUint16(2, (drive.sequence = (drive.sequence + 1) & 0xffff), true);
  packet.setInt16(4, Math.round(32767 * Math.min(Math.max(drive.steering, -1), 1)), true);
  packet.setInt16(6, Math.round(32767 * drive.pedal), true);
  wire.socket.send(packet.buffer);
}
function choose(camera) { seen = camera; fresh = true; document.querySelectorAll("[data-camera]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.camera === camera))); }
document.querySelectorAll("[data-camera]").forEach((button) => (button.onclick = () => choose(button.dataset.camera)));
for (const id of ["abs", "traction"]) $(id).onclick = () => $(id).setAttribute("aria-pressed", String($(id).getAttribute("aria-pressed") !== "true"));
$("restart").onclick = () => say({ type: "restart" });
$("reset").onclick = () => say({ type: "reset" });
$("leave").onclick = away;
$("ghost").onchange = () => { told.choseGhost = true; $("view").focus(); };
$("show-board").onclick = () => { $("board").hidden = !$("board").hidden; $("show-board").setAttribute("aria-pressed", String(!$("board").hidden)); };
$("code").onclick = async () => {
  const address = `${location.origin}${location.pathname}?room=${wire.room}`;
  try { await navigator.clipboard.writeText(address); news("the address is copied: others join by it"); } catch { news(address); }
};
for (const button of document.querySelectorAll("#controls button")) button.addEventListener("click", (event) => { if (event.detail) $("view").focus(); });

// Around the picture ---------------------------------------------------------------------------------------------------------------
$("title").textContent = race.track.name;
document.title = `${race.track.name} · Almanac`;
$("code").textContent = wire.room;
$("board-what").textContent = `${race.track.name}, ${race.car.name}: clean laps`;
if (wire.plan.mode === "trial") $("restart").textContent = "Start anew";
const rows = new Map();
/** The order: who finished first, then who is further. */
function ranked() {
  const cars = [...(shots[shots.length - 1]?.cars ?? [])];
  const finish = ([who, car]) => (car.flags & FINISHED ? told.places?.find((each) => each.who === who)?.place ?? 0 : 100);
  return cars.sort((a, b) => finish(a) - finish(b) || b[1].travelled - a[1].travelled);
}
function drawOrder() {
  const order = ranked(), first = order[0]?.[0];
  for (const [who, row] of rows) if (!order.some(([other]) => other === who)) { row.remove(); rows.delete(who); }
  order.forEach(([who, car], rank) => {
    if (!rows.has(who)) {
      const row = document.createElement("li");
      row.innerHTML = "<span></span><i></i><span></span><span></span>";
      row.children[1].style.background = race.cars[who].colour;
      rows.set(who, row);
    }
    const row = rows.get(who), behind = gap(who, first), penalty = car.penalty ? ` (+${car.penalty.toFixed(1)})` : "";
    row.classList.toggle("own", who === me);
    write(row.children[0], String(rank + 1));
    write(row.children[2], name(who));
    write(row.children[3], (car.flags & FINISHED ? "finished" : !rank || wire.plan.mode === "trial" ? "" : behind < 100 ? `+${Math.max(behind, 0).toFixed(1)}` : "") + penalty);
    if ($("cars").children[rank] !== row) $("cars").insertBefore(row, $("cars").children[rank] ?? null);
  });
  const car = newestCar(me), lap = Math.max(Math.floor((car?.travelled ?? -1) / race.track.length) + 1, 0);
  write($("where"), !car ? "" : wire.plan.mode === "trial" ? `time trial${lap ? `, lap ${lap}` : ""}` : car.flags & FINISHED ? "finished" : `lap ${Math.min(Math.max(lap, 1), wire.plan.laps)} of ${wire.plan.laps}`);
  const at = order.findIndex(([who]) => who === me), [before, after] = [order[at - 1]?.[0], order[at + 1]?.[0]], tell = (who, seconds) => (seconds >= 0 && seconds < 100 ? `${name(who)} ${seconds.toFixed(1)}` : "");
  const gaps = wire.plan.mode === "trial" || at < 0 ? [] : [before !== undefined && tell(before, gap(me, before)) && `ahead ${tell(before, gap(me, before))}`, after !== undefined && tell(after, gap(after, me)) && `behind ${tell(after, gap(after, me))}`];
  write($("gaps"), gaps.filter(Boolean).join(" · "));
}
function drawLap() {
  const car = newestCar(me), behind = delta();
  write($("clock"), car && car.lapClock >= 0 ? lapText(car.lapClock).slice(0, -1) : "–");
  const spoilt = Boolean(car && car.flags & SPOILT);
  write($("delta"), spoilt ? "does not count" : behind === behind ? `${behind < 0 ? "−" : "+"}${Math.abs(behind).toFixed(2)}` : "");
  $("delta").className = spoilt || behind > 0 ? "bad" : "good";
  write($("last"), [told.last && `last ${lapText(told.last)}`, told.best && `best ${lapText(told.best)}`].filter(Boolean).join(" · "));
}
function drawCar() {
  const car = newestCar(me);
  if (!car) return;
  write($("kmh"), String(Math.round(Math.abs(car.speed) * 3.6)));
  write($("gear"), car.gear ? String(car.gear) : "");
  $("throttle").style.transform = `scaleX(${Math.max(car.pedal, 0).toFixed(3)})`;
  $("brake").style.transform = `scaleX(${Math.max(-car.pedal, 0).toFixed(3)})`;
  $("wheel").style.left = `${(50 - 45 * Math.min(Math.max(car.steering / race.car.steering / reach(car.speed), -1), 1)).toFixed(1)}%`;
  write($("count"), told.phase === "countdown" ? String(Math.ceil(-told.clock)) : told.phase === "racing" && told.clock < 1 ? "Go" : told.phase === "waiting" ? "…" : "");
}
function drawNews() {
  told.news = told.news.filter((each) => each.until > performance.now()).slice(-3);
  write($("news"), [...new Set(told.news.map((each) => each.text))].join(" · "));
}
function drawRows(body, list) {
  body.replaceChildren(...list.map(([own, ...cells]) => {
    const row = document.createElement("tr");
    row.className = own ? "own" : "";
    row.append(...cells.map(([text, kind]) => { const cell = document.createElement("td"); cell.textContent = text; cell.className = kind ?? ""; return cell; }));
    return row;
  }));
}
function drawBoard() {
  $("board-empty").hidden = told.board.length > 0;
  $("board").querySelector("table").hidden = !told.board.length;
  drawRows($("board").querySelector("tbody"), told.board.map((each) => [each.name === wire.name, [each.place, "number"], [each.name, "name"], [lapText(each.seconds), "number"], [each.aided ? "yes" : "none"]]));
}
function drawPlaces() {
  $("places").hidden = !told.places;
  const time = (t) => (t === null ? "–" : lapText(t));
  if (told.places) drawRows($("places").querySelector("tbody"), told.places.map((each) => [each.who === me, [each.place, "number"], [each.name, "name"], [time(each.time), "number"], [time(each.best), "number"], [each.penalty ? each.penalty.toFixed(1) : "", "number"]]));
}

// Time -----------------------------------------------------------------------------------------------------------------------------
/** All cars a snapshot behind the newest, between the two around that moment. Who is in one of both only does not move. */
function interpolate(now) {
  for (const s of states) if (s !== states[GHOST]) s.hidden = true;
  if (!shots.length) return -1;
  const wanted = (now / 1000 - told.offset) * RATE - 1;
  let at = shots.length - 1;
  while (at > 0 && shots[at].frame > wanted) at--;
  const a = shots[at], b = shots[Math.min(at + 1, shots.length - 1)], part = b.frame > a.frame ? Math.min(Math.max((wanted - a.frame) / (b.frame - a.frame), 0), 1) : 0;
  for (const [who, one] of a.cars) {
    const other = b.cars.get(who) ?? one, s = states[who], jumped = Math.hypot(other.x - one.x, other.y - one.y) > 8, share = jumped ? 1 : part;
    for (const key of ["x", "y", "steering", "speed", "pedal", "travelled", "offset"]) s[key] = one[key] + share * (other[key] - one[key]);
    s.heading = one.heading + share * turn(other.heading - one.heading);
    s.hidden = false;
    if (wire.plan.mode === "trial") s.fleet = who === me ? undefined : states[GHOST].fleet;  // nobody is met there
    lay(s);
  }
  const mine = a.cars.get(me), next = b.cars.get(me);
  return !mine || mine.lapClock < 0 ? -1 : next && next.lapClock >= mine.lapClock ? mine.lapClock + part * (next.lapClock - mine.lapClock) : mine.lapClock;
}
let before = performance.now(), drawn = 0;
const pace = { frames: 0, since: before, shown: 0 };
function frame(now) {
  requestAnimationFrame(frame);
  const seconds = Math.min((now - before) / 1000, 0.25);
  before = now;
  pace.frames++;
  if (now - pace.since > 1000) { pace.shown = pace.frames * 1000 / (now - pace.since); pace.frames = 0; pace.since = now; }
  adapt(seconds, now);
  moveGhost(interpolate(now));
  if (me >= 0 && !states[me].hidden) { look(states[me], seconds); arrange(states); renderer.render(scene, camera); }
  if (now - drawn > 90) { drawn = now; drawOrder(); drawLap(); drawCar(); drawMap(); drawNews(); }
}
/** For who watches: what the newest snapshot says of one's own car, and the track as drivers know it. */
window.almanac = {
  get state() {
    const car = newestCar(me), at = car && (((Math.round(car.travelled / track.step)) % points) + points) % points;
    return { phase: told.phase, clock: told.clock, who: me, room: wire.room, framesPerSecond: pace.shown, cars: shots[shots.length - 1]?.cars.size ?? 0, drivers: [...drivers.values()], laps: told.laps, board: told.board, turn: drive.turn, delta: delta(), ghosts: Object.keys(ghosts), ...(car && { ...car, angle: turn(car.heading - track.heading[at]), lap: Math.floor(car.travelled / race.track.length) + 1, off: Boolean(car.flags & OFF), wall: Boolean(car.flags & WALL), spoilt: Boolean(car.flags & SPOILT) }) };
  },
  get positions() { return Object.fromEntries([...(shots[shots.length - 1]?.cars ?? [])].map(([who, car]) => [who, [car.x, car.y]])); },
  track: { step: track.step, length: track.length, limit: Array.from(track.limit), curvature: Array.from(track.curvature), line: Array.from(track.line), heading: Array.from(track.heading) },
  car: race.car,
};
addEventListener("resize", fit);
fit();
drawLand();
drawTrack();
offerGhosts();
early.forEach(wire.hear);
setInterval(control, 1000 / RATE);
addEventListener("pagehide", () => { wire.left = true; wire.socket?.close(); });
$("view").focus();
say({ type: "ready" });
requestAnimationFrame(frame);
