// A city that is flown through here: the camera moves at once on this page, and where it is goes up twenty times a second; the server draws
// the newest, small while things move and larger when they stand. Each picture that was drawn is told, so that no more are sent than this
// page draws.
const $ = (id) => document.getElementById(id);
const beside = (path) => new URL(path, import.meta.url);
const asked = new URLSearchParams(location.search);
const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
const spaced = (name) => sentence(name.replaceAll("_", " "));
const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const METHODS = { nearest: "the nearest alone", idw: "distance to the camera", "idw-3d": "distance to what is seen", imagewise: "visibility of the view", pixelwise: "visibility of each pixel" };
const OVERLAYS = { colours: "Colours", weights: "Blocks", visibility: "Visibility", depth: "Depth" };
const EVERY = 50, WALK = 5, RUN = 3, TURN = 1.4, LIFT = 2.5, STEEP = 1.45;  // ms, m/s, times as fast, rad/s, m/s, rad

// The connection -------------------------------------------------------------------------------------------------------------------
const wire = { socket: null, token: "", tries: 0, over: false };
const seen = { head: null, city: null, pictures: 0, moving: [] };
function connect() {
  const address = beside("ws");
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = (wire.socket = new WebSocket(address));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { socket.send(JSON.stringify({ type: "hello", token: wire.token, city: $("city").value })); if (document.hidden) send({ type: "hidden", value: true }); };
  socket.onmessage = ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : see(data));
  socket.onclose = () => { if (socket === wire.socket) lost(); };
}
const send = (message) => { if (wire.socket?.readyState === WebSocket.OPEN) wire.socket.send(JSON.stringify(message)); };
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
    case "welcome": wire.token = message.token; wire.tries = 0; break;
    case "phase": veil("A moment …", `${sentence(message.doing)} …`); break;
    case "city": entered(message); break;
    case "refused": tell(message.what); break;
    case "ended": ended("The flight has ended", `${sentence(message.why)}.`); break;
    case "error": ended(message.what, message.hint); break;
  }
}
let forgetting = 0;
function tell(what) {
  write($("told"), sentence(what));
  clearTimeout(forgetting);
  forgetting = setTimeout(() => write($("told"), ""), 4000);
}

// What is shown --------------------------------------------------------------------------------------------------------------------
const screen = $("screen").getContext("2d"), text = new TextDecoder();
screen.imageSmoothingQuality = "high";
async function see(data) {
  const length = new DataView(data).getUint32(0, true), head = JSON.parse(text.decode(new Uint8Array(data, 4, length)));
  const picture = await createImageBitmap(new Blob([data.slice(4 + length)], { type: "image/jpeg" }));
  const drawn = () => send({ type: "drawn" });
  if (head.city !== seen.city?.city || (seen.head && head.picture < seen.head.picture)) return drawn();
  const draw = () => { show(head, picture); drawn(); };
  document.hidden ? draw() : requestAnimationFrame(draw);
}
function show(head, picture) {
  seen.head = head;
  seen.pictures++;
  screen.drawImage(picture, 0, 0, 640, 480);
  picture.close();
  if (!wire.over) veil("");
  const now = performance.now();
  if (!head.still) seen.moving.push(now);
  seen.moving = seen.moving.filter((at) => now - at < 1500);
  if (Number.isFinite(head.ground)) { camera.ground = head.ground; if (camera.settles) settle(); wake(); }
  const used = head.parts.filter((part) => part.weight > 0);
  const pace = !head.still && seen.moving.length > 2 ? (1000 * (seen.moving.length - 1)) / (now - seen.moving[0]) : 0;
  seen.rate = pace || seen.rate;
  const size = document.createElement("b");
  size.textContent = `${head.size[0]} × ${head.size[1]}`;
  $("said").replaceChildren(size, ` · ${plural(used.length, "block")}${head.still ? (head.last ? " · sharp" : " · sharpening") : pace ? ` · ${pace.toFixed(pace < 10 ? 1 : 0)} frames a second` : ""}`);
  $("finer").style.transform = `scaleX(${head.size[0] / 640})`;
  $("finer").style.opacity = head.last || !head.still ? 0 : 1;
  listBlocks(head);
  drawPlan();
}
function entered(message) {
  const again = seen.city?.city === message.city;
  seen.city = message;
  seen.head = null;
  $("city").value = message.city;
  document.title = `${spaced(message.city)} · Almanac`;
  $("credit").hidden = !message.attribution;
  write($("credit"), message.attribution);
  $("light-row").hidden = message.lights.length < 2;
  $("light").max = message.lights.length - 1;
  view = planned(message);
  if (!again) { setLight(0); setStops(0); chosen.alone = null; goHome(); }
  sent.said = "";
  veil("A moment …", "Drawing the first picture …");
  wake();
}

// The camera -----------------------------------------------------------------------------------------------------------------------
const camera = { x: 0, y: 0, z: 0, yaw: 0, pitch: 0, eye: 1.5, ground: 0, speed: [0, 0], turning: 0, settles: false };
const chosen = { light: 0, stops: 0, method: "idw", overlay: "colours", alone: null };
const sent = { at: 0, said: "", number: 0 };
const held = new Set();
const stick = { id: null, x: 0, y: 0 };
let ticking = false, before = 0;
const near = (value, to, dt, slow) => to + (value - to) * Math.exp(-dt / slow);
function wake() { if (!ticking) { ticking = true; before = performance.now(); requestAnimationFrame(tick); } }
function tick(now) {
  const dt = Math.min((now - before) / 1000, 0.1);
  before = now;
  const moves = step(dt), waits = post(now);
  drawPlan();
  if (moves || waits) requestAnimationFrame(tick);
  else ticking = false;
}
const axis = (more, less) => more.some((key) => held.has(key)) - less.some((key) => held.has(key));
/** One step of time; whether anything moves on. */
function step(dt) {
  const fast = held.has("ShiftLeft") || held.has("ShiftRight") ? RUN : 1;
  const wanted = [axis(["KeyW", "ArrowUp"], ["KeyS", "ArrowDown"]) - stick.y, axis(["KeyD"], ["KeyA"]) + stick.x].map((part) => part * WALK * fast);
  camera.speed = camera.speed.map((speed, i) => near(speed, wanted[i], dt, 0.1)).map((speed, i) => (Math.abs(speed) < 0.02 && !wanted[i] ? 0 : speed));
  camera.turning = near(camera.turning, TURN * axis(["ArrowLeft"], ["ArrowRight"]), dt, 0.06);
  if (Math.abs(camera.turning) < 0.01) camera.turning = 0;
  camera.yaw += camera.turning * dt;
  const lift = axis(["KeyE"], ["KeyQ"]);
  if (lift) setEye(camera.eye + lift * LIFT * fast * dt);
  const [ahead, aside] = camera.speed, cos = Math.cos(camera.yaw), sin = Math.sin(camera.yaw);
  goTo(camera.x + (cos * ahead + sin * aside) * dt, camera.y + (sin * ahead - cos * aside) * dt);
  const z = camera.ground + camera.eye, is_off = Math.abs(z - camera.z) > 0.01;
  if (is_off) camera.z = near(camera.z, z, dt, 0.15);
  return Boolean(is_off || ahead || aside || camera.turning || lift);
}
/** As far as the plan reaches. */
function goTo(x, y) {
  if (!view) return;
  camera.x = Math.min(Math.max(x, view.x[0]), view.x[1]);
  camera.y = Math.min(Math.max(y, view.y[0]), view.y[1]);
}
const settle = () => { camera.settles = false; camera.z = camera.ground + camera.eye; };
/** Send where it is, if that is new; whether there is more to send. */
function post(now) {
  if (!seen.city || wire.over) return false;
  const round = (value) => Math.round(value * 1e4) / 1e4;
  const look = { city: seen.city.city, at: [camera.x, camera.y, camera.z].map(round), yaw: round(camera.yaw), pitch: round(camera.pitch), ...chosen };
  const said = JSON.stringify(look);
  if (said === sent.said) return false;
  if (now - sent.at < EVERY || wire.socket?.readyState !== WebSocket.OPEN) return true;
  Object.assign(sent, { at: now, said, number: sent.number + 1 });
  send({ type: "look", number: sent.number, ...look });
  return false;
}
function goHome() {
  const { at, yaw, eye } = seen.city.start;
  Object.assign(camera, { x: at[0], y: at[1], z: at[2], ground: at[2] - eye, yaw, pitch: 0, speed: [0, 0], turning: 0, settles: true });
  setEye(eye);
  wake();
}
/** Camera to world, as rows. */
function pose() {
  const [cy, sy, cp, sp] = [Math.cos(camera.yaw), Math.sin(camera.yaw), Math.cos(camera.pitch), Math.sin(camera.pitch)];
  return [[sy, -cy * sp, -cy * cp, camera.x], [-cy, -sy * sp, -sy * cp, camera.y], [0, cp, -sp, camera.z], [0, 0, 0, 1]];
}

// What is pressed, dragged and slid ------------------------------------------------------------------------------------------------
const KEYS = ["KeyW", "KeyA", "KeyS", "KeyD", "KeyQ", "KeyE", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "ShiftLeft", "ShiftRight"];
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("select, input") || !KEYS.includes(event.code)) return;
  if (event.code.startsWith("Arrow")) event.preventDefault();
  held.add(event.code);
  wake();
});
addEventListener("keyup", (event) => { held.delete(event.code); });
const release = () => { held.clear(); Object.assign(stick, { id: null, x: 0, y: 0 }); $("stick").querySelector("i").style.transform = ""; };
addEventListener("blur", release);
document.addEventListener("visibilitychange", () => { release(); send({ type: "hidden", value: document.hidden }); });
const touches = () => document.body.classList.add("touch");
if (matchMedia("(pointer: coarse)").matches) touches();
addEventListener("pointerdown", (event) => { if (event.pointerType === "touch") touches(); }, true);
const drag = { id: null, x: 0, y: 0 };
$("tube").onpointerdown = (event) => {
  if (event.target.closest("#veil") || drag.id !== null) return;
  Object.assign(drag, { id: event.pointerId, x: event.clientX, y: event.clientY });
  $("tube").setPointerCapture(event.pointerId);
  $("tube").classList.add("held");
};
$("tube").onpointermove = (event) => {
  if (event.pointerId !== drag.id || !seen.city) return;
  const { w, focal } = seen.city.camera, turn = w / focal / $("tube").clientWidth;  // what one grasps stays below the pointer
  camera.yaw += (event.clientX - drag.x) * turn;
  camera.pitch = Math.min(Math.max(camera.pitch + (event.clientY - drag.y) * turn, -STEEP), STEEP);
  Object.assign(drag, { x: event.clientX, y: event.clientY });
  wake();
};
$("tube").onpointerup = $("tube").onpointercancel = (event) => { if (event.pointerId === drag.id) { drag.id = null; $("tube").classList.remove("held"); } };
function lean(event) {
  const box = $("stick").getBoundingClientRect(), x = event.clientX - box.x - box.width / 2, y = event.clientY - box.y - box.height / 2;
  const reach = box.width / 2 - 26, part = Math.min(1, reach / Math.max(Math.hypot(x, y), 1));
  Object.assign(stick, { x: (x * part) / reach, y: (y * part) / reach });
  $("stick").querySelector("i").style.transform = `translate(${(x * part).toFixed(1)}px, ${(y * part).toFixed(1)}px)`;
  wake();
}
$("stick").onpointerdown = (event) => { event.preventDefault(); stick.id = event.pointerId; $("stick").setPointerCapture(event.pointerId); lean(event); };
$("stick").onpointermove = (event) => { if (event.pointerId === stick.id) lean(event); };
$("stick").onpointerup = $("stick").onpointercancel = (event) => { if (event.pointerId === stick.id) release(); };
for (const button of document.querySelectorAll("#lift button")) {
  button.onpointerdown = (event) => { event.preventDefault(); held.add(button.dataset.key); wake(); };
  button.onpointerup = button.onpointercancel = button.onpointerleave = () => held.delete(button.dataset.key);
}
for (const each of [$("stick"), $("lift")]) each.oncontextmenu = (event) => event.preventDefault();
const fill = (slider) => slider.style.setProperty("--part", `${(100 * (slider.value - slider.min)) / (slider.max - slider.min || 1)}%`);
function setLight(value) {
  chosen.light = $("light").value = value;
  fill($("light"));
  const lights = seen.city?.lights ?? [], low = Math.floor(value), part = value - low;
  write($("light-value"), part < 0.005 ? sentence(lights[low] ?? "") : `${Math.round(100 * (1 - part))} % ${lights[low]}, ${Math.round(100 * part)} % ${lights[low + 1].replace("light ", "")}`);
}
function setStops(value) {
  chosen.stops = $("stops").value = value;
  fill($("stops"));
  write($("stops-value"), `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)} EV`);
}
function setEye(value) {
  camera.eye = Math.min(Math.max(value, Number($("eye").min)), Number($("eye").max));
  $("eye").value = camera.eye;
  fill($("eye"));
  write($("eye-value"), `${camera.eye.toFixed(1)} m`);
}
for (const [id, set] of [["light", setLight], ["stops", setStops], ["eye", setEye]]) $(id).oninput = () => { set(Number($(id).value)); wake(); };
$("method").onchange = () => { chosen.method = $("method").value; wake(); };
$("city").onchange = () => {
  if (wire.over) return $("veil").querySelector("button").click();
  veil("A moment …");
  send({ type: "choose", city: $("city").value });
};
$("choices").onsubmit = (event) => event.preventDefault();
$("home").onclick = goHome;
$("save").onclick = async () => {
  $("save").disabled = true;
  tell("drawing 640 × 480 …");
  try {
    const answer = await fetch(beside(`picture?token=${encodeURIComponent(wire.token)}`));
    if (!answer.ok) throw new Error((await answer.json()).what);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = answer.headers.get("content-disposition")?.match(/filename="(.+)"/)?.[1] ?? "block-nerf.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    tell(`saved ${link.download}`);
  } catch (error) { tell(error.message); }
  $("save").disabled = false;
};
/** What `almanac block-nerf render --poses` reads. */
function transforms() {
  const { camera: lens, exposure } = seen.city, whole = Math.round(chosen.light);
  const frame = { file_path: "view.png", transform_matrix: pose(), session: whole, exposure: exposure * 2 ** chosen.stops, split: "test" };
  return JSON.stringify({ camera_model: "PINHOLE", w: lens.w, h: lens.h, fl_x: lens.focal, fl_y: lens.focal, cx: lens.w / 2, cy: lens.h / 2, frames: [frame] }, null, 1);
}
$("copy").onclick = async () => {
  if (!seen.city) return;
  try { await navigator.clipboard.writeText(transforms()); tell("copied: save it as transforms.json for render --poses"); }
  catch { tell("this browser lets nothing be copied here"); }
};

// The plan -------------------------------------------------------------------------------------------------------------------------
let view = null, colours = {};
const readColours = () => { const style = getComputedStyle(document.documentElement); colours = Object.fromEntries(["accent", "ink", "ink-2", "street", "sunk", "paper"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()])); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); drawPlan(); });
/** The part of the world that the plan shows. */
function planned({ places }) {
  const edges = (name) => [Math.min(...places.map((place) => place[name] - place.radius)), Math.max(...places.map((place) => place[name] + place.radius))];
  return { x: edges("x"), y: edges("y") };
}
function scaled(width, height) {
  const [w, h] = [view.x[1] - view.x[0], view.y[1] - view.y[0]], scale = Math.min((width - 20) / w, (height - 20) / h);
  return { scale, x: (x) => width / 2 + scale * (x - (view.x[0] + view.x[1]) / 2), y: (y) => height / 2 - scale * (y - (view.y[0] + view.y[1]) / 2) };
}
const metres = (value, digits) => (Number(value.toFixed(digits)) || 0).toFixed(digits).replace("-", "−");
const rgb = ([r, g, b], alpha = 1) => `rgb(${r} ${g} ${b} / ${alpha})`;
function drawPlan() {
  const canvas = $("plan"), ratio = Math.min(devicePixelRatio || 1, 3), width = canvas.clientWidth, height = canvas.clientHeight;
  if (!view || !width) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
  const pen = canvas.getContext("2d"), to = scaled(width, height);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.lineJoin = pen.lineCap = "round";
  pen.strokeStyle = colours.street;
  pen.lineWidth = Math.max(10 * to.scale, 3);
  for (const street of seen.city.streets) { pen.beginPath(); street.forEach(([x, y]) => pen.lineTo(to.x(x), to.y(y))); pen.stroke(); }
  const parts = new Map((seen.head?.parts ?? []).map((part) => [part.name, part]));
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.font = "600 11px system-ui, sans-serif";
  for (const place of seen.city.places) {
    const part = parts.get(place.name), x = to.x(place.x), y = to.y(place.y), radius = place.radius * to.scale, used = part?.weight > 0;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.fillStyle = rgb(place.colour, used ? 0.14 + 0.46 * part.weight : part ? 0.04 : 0);
    pen.fill();
    pen.setLineDash(part && !used ? [5, 5] : []);
    pen.lineWidth = used ? 2.5 : 1.5;
    pen.strokeStyle = rgb(place.colour, part ? 1 : 0.55);
    pen.stroke();
    pen.setLineDash([]);
    if (part && !used) { pen.beginPath(); pen.moveTo(x - radius * 0.7, y + radius * 0.7); pen.lineTo(x + radius * 0.7, y - radius * 0.7); pen.stroke(); }
  }
  for (const place of seen.city.places) {
    const x = to.x(place.x), y = to.y(place.y);
    pen.beginPath();
    pen.arc(x, y, 9, 0, 7);
    pen.fillStyle = rgb(place.colour);
    pen.fill();
    pen.fillStyle = "#fff";
    pen.fillText(String(Number(place.name.match(/\d+$/)?.[0] ?? 0)), x, y + 0.5);
  }
  const { w, focal } = seen.city.camera, half = Math.atan(w / 2 / focal), x = to.x(camera.x), y = to.y(camera.y), far = Math.min(46, width / 6);
  pen.beginPath();
  pen.moveTo(x, y);
  pen.arc(x, y, far, -camera.yaw - half, -camera.yaw + half);
  pen.closePath();
  pen.globalAlpha = 0.3;
  pen.fillStyle = colours.accent;
  pen.fill();
  pen.globalAlpha = 1;
  pen.beginPath();
  pen.arc(x, y, 5.5, 0, 7);
  pen.fill();
  pen.lineWidth = 2;
  pen.strokeStyle = colours.paper;
  pen.stroke();
  write($("where"), `at ${metres(camera.x, 0)}, ${metres(camera.y, 0)} m, ${metres(camera.z, 1)} m high`);
}
$("plan").onclick = (event) => {
  if (!view) return;
  const box = $("plan").getBoundingClientRect(), to = scaled(box.width, box.height);
  goTo(camera.x + (event.clientX - box.x - to.x(camera.x)) / to.scale, camera.y - (event.clientY - box.y - to.y(camera.y)) / to.scale);
  camera.speed = [0, 0];
  camera.settles = true;
  wake();
};
const rows = new Map();
function row(place) {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.innerHTML = '<span class="dot"></span><span class="name"></span><span class="seen"><i></i><span></span></span><span class="share"></span>';
  button.style.setProperty("--hue", rgb(place.colour));
  button.querySelector(".name").textContent = spaced(place.name);
  button.title = "See this block alone, or all again";
  button.onclick = () => { chosen.alone = chosen.alone === place.name ? null : place.name; if (seen.head) listBlocks(seen.head); wake(); };
  item.append(button);
  return item;
}
function listBlocks(head) {
  const places = new Map(seen.city.places.map((place) => [place.name, place]));
  const items = head.parts.map((part) => {
    const key = `${seen.city.city}/${part.name}`;
    if (!rows.has(key)) rows.set(key, row(places.get(part.name)));
    const item = rows.get(key), button = item.firstChild, used = part.weight > 0, percent = `${Math.round(100 * part.visibility)} %`;
    button.classList.toggle("out", !used);
    button.setAttribute("aria-pressed", String(chosen.alone === part.name));
    button.querySelector(".seen i").style.width = `${100 * part.visibility}%`;
    write(button.querySelector(".seen span"), percent);
    write(button.querySelector(".share"), used ? `${Math.round(100 * part.weight)} %` : "out");
    return item;
  });
  const shown = [...$("blocks").children];
  if (shown.length !== items.length || shown.some((item, i) => item !== items[i])) $("blocks").replaceChildren(...items);
  const rest = places.size - items.length;
  write($("others"), chosen.alone ? `Only ${spaced(chosen.alone).toLowerCase()} is shown` : rest ? `${plural(rest, "other")} too far away` : "");
}

// What can be seen -----------------------------------------------------------------------------------------------------------------
const LEGENDS = {
  weights: ["", "Each pixel in the hues of its blocks, as they are mixed"],
  visibility: ["linear-gradient(to right, #000, #fff)", "Black: no photo of the blocks saw it; white: many did"],
  depth: ["linear-gradient(to right, #7a0403, #e8530f, #f9ba38, #a4fc3c, #1ae4b6, #4686fb, #30123b)", "From 1 m to 120 m"],
};
function option(value, label) { const each = document.createElement("option"); each.value = value; each.textContent = label; return each; }
function overlay(name) {
  chosen.overlay = name;
  for (const button of $("overlay").children) button.setAttribute("aria-pressed", String(button.dataset.name === name));
  const [bar, said] = LEGENDS[name] ?? ["", ""];
  $("legend").hidden = !said;
  $("legend").firstChild.hidden = !bar;
  $("legend").firstChild.style.background = bar;
  write($("legend").lastChild, said);
  wake();
}
const fit = () => { if (window.frameElement) window.frameElement.style.height = `${Math.ceil(document.body.getBoundingClientRect().height) + 2}px`; };
async function begin() {
  document.documentElement.classList.toggle("alone", !window.frameElement);
  readColours();
  veil("A moment …");
  new ResizeObserver(() => { fit(); drawPlan(); }).observe(document.body);
  let choices;
  try { choices = await (await fetch(beside("choices"))).json(); } catch { return veil("The server does not answer", "See whether it runs, then reload the page.", "Reload", () => location.reload()); }
  $("city").replaceChildren(...choices.cities.map((name) => option(name, spaced(name))));
  $("city-field").hidden = choices.cities.length < 2;
  if (choices.cities.includes(asked.get("city"))) $("city").value = asked.get("city");
  $("method").replaceChildren(...choices.methods.map((name) => option(name, METHODS[name])));
  $("method").value = chosen.method;
  $("overlay").replaceChildren(...choices.overlays.map((name) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: OVERLAYS[name], onclick: () => overlay(name) });
    button.dataset.name = name;
    return button;
  }));
  $("stops").min = -choices.stops;
  $("stops").max = choices.stops;
  setStops(0);
  setEye(camera.eye);
  overlay("colours");
  if (!choices.cities.length) {
    wire.over = true;
    $("side").hidden = true;
    document.querySelectorAll("#deck button, select, #overlay button").forEach((each) => (each.disabled = true));
    veil("No city is here yet");
    $("veil").children[1].innerHTML = "Make one of photos: <code>almanac block-nerf train PHOTOS --out CITY</code>, then begin again with <code>ALMANAC_BLOCK_NERF_CITY=CITY</code>.";
    return;
  }
  connect();
}
/** For who watches the page: the newest picture's facts, and where the camera is. */
window.almanac = { get state() { return { ...seen.head, pictures: seen.pictures, rate: seen.rate, token: wire.token, ended: wire.over, at: [camera.x, camera.y, camera.z], yaw: camera.yaw, sent: sent.number }; }, cut: () => wire.socket.close(), transforms };
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
addEventListener("pagehide", () => { wire.over = true; send({ type: "leave" }); wire.socket?.close(); });
begin();
