// A microphone's button. With data-live it sends what it hears as an event `hear`, piece by piece: the next one when the answer to the
// one before has come (event `answered` of the element), so that nothing is lost where the model is slow. Without, it puts the whole
// recording as a WAV file into the file field beside it.

const button = element.querySelector("button");
const label = button.querySelector("span");
const live = "live" in button.dataset;
const most = Number(button.dataset.most); // s
const SHORTEST = 0.4; // s of sound that are worth sending
let open = null; // while it listens

const EAR = `registerProcessor("ear", class extends AudioWorkletProcessor {
  process(inputs) {
    if (inputs[0].length) this.port.postMessage(inputs[0][0].slice());
    return true;
  }
});`;

async function start() {
  complain("");
  if (!navigator.mediaDevices) return complain("The browser lends pages a microphone only over https, or on this machine itself.");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    const missing = error.name === "NotFoundError";
    return complain(missing ? "No microphone is connected." : "The microphone is not allowed here: allow it beside the address.");
  }
  const context = new AudioContext();
  const code = URL.createObjectURL(new Blob([EAR], { type: "text/javascript" }));
  await context.audioWorklet.addModule(code);
  URL.revokeObjectURL(code);
  const ear = new AudioWorkletNode(context, "ear");
  open = { stream, context, pieces: [], heard: 0, first: true };
  ear.port.onmessage = ({ data }) => hear(data);
  context.createMediaStreamSource(stream).connect(ear).connect(context.destination); // silent: it only listens
  button.classList.add("on");
  tell();
}

function hear(samples) {
  if (!open) return;
  let loudest = 0;
  const piece = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    const value = Math.max(-1, Math.min(1, samples[i]));
    loudest = Math.max(loudest, Math.abs(value));
    piece[i] = Math.round(value * 32767);
  }
  open.pieces.push(piece);
  open.heard += piece.length / open.context.sampleRate;
  open.level = Math.max(loudest, 0.9 * (open.level ?? 0));
  button.style.setProperty("--level", Math.sqrt(open.level).toFixed(2));
  tell();
  if (live) send();
  if (open.heard >= most) end();
}

function stop() {
  const from = open;
  open = null;
  from.stream.getTracks().forEach((track) => track.stop());
  from.context.close();
  button.classList.remove("on");
  button.style.removeProperty("--level");
  tell();
  return from;
}

function end() {
  const from = stop();
  if (!live) return save(from);
  ended = from;
  send();
}

function tell() {
  const seconds = Math.floor(open?.heard ?? 0);
  const clock = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  const text = open ? `Stop · ${clock}` : button.dataset.title;
  if (label.textContent !== text) label.textContent = text;
}

function complain(text) {
  element.querySelector("[role=alert]").textContent = text;
}

function taken(from) {
  const length = from.pieces.reduce((sum, piece) => sum + piece.length, 0);
  const all = new Int16Array(length);
  let at = 0;
  for (const piece of from.pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  from.pieces = [];
  return all;
}

// Live: one piece is under way at a time.
let asked = null; // whose it is
let ended = null; // who stopped, and has a last piece to send

function send() {
  const from = ended ?? open;
  if (asked || !from) return;
  const last = from === ended;
  const rate = from.context.sampleRate;
  const waiting = from.pieces.reduce((sum, piece) => sum + piece.length, 0) / rate;
  if (!last && waiting < SHORTEST) return;
  asked = from;
  ended = null;
  trigger("hear", { sound: base64(taken(from)), rate, first: from.first, last });
  from.first = false;
}

function answered({ detail: well }) {
  const from = asked;
  asked = null;
  if (!well && from === open) stop();
  if (!well && from === ended) ended = null;
  send();
}

function base64(samples) {
  const bytes = new Uint8Array(samples.buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}

// Not live: a file.
function save(from) {
  const samples = taken(from);
  if (!samples.length) return;
  const header = new DataView(new ArrayBuffer(44));
  const rate = from.context.sampleRate;
  const write = (at, text) => [...text].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF");
  header.setUint32(4, 36 + 2 * samples.length, true);
  write(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // mono
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  write(36, "data");
  header.setUint32(40, 2 * samples.length, true);
  const files = new DataTransfer();
  files.items.add(new File([header, samples], "Recording.wav", { type: "audio/wav" }));
  const field = element.closest(".field").querySelector("input[type=file]");
  field.files = files.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
}

if (live) document.addEventListener("answered", answered);
button.addEventListener("click", () => (open ? end() : start()));
