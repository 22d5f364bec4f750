// A recording's words light up while it plays; a click on one plays from there, and so do the arrow keys.
// Gradio calls this once with `element`, which holds what player.py makes, and keeps its nodes when that changes.

let timed = null; // what is said when, read anew after every change
const sound = () => element.querySelector("audio");

function parts() {
  timed ??= [...element.querySelectorAll("[data-start]")].map((node) => ({
    node,
    start: Number(node.dataset.start),
    end: Number(node.dataset.end),
  }));
  return timed;
}

function show() {
  const now = sound().currentTime;
  for (const { node, start, end } of parts()) node.classList.toggle("now", start <= now && now < end);
  const sheet = element.querySelector(".sheet");
  if (sheet) {
    const x = Math.min(1, now / Number(sheet.dataset.seconds)) * sheet.clientWidth;
    sheet.querySelector(".cursor").style.transform = `translateX(${x}px)`;
    const strip = sheet.parentElement;
    if (x < strip.scrollLeft || x > strip.scrollLeft + 0.85 * strip.clientWidth) strip.scrollLeft = x - 0.15 * strip.clientWidth;
  }
  const row = element.querySelector(".said li.now");
  const list = row?.parentElement;
  if (list && (row.offsetTop < list.scrollTop || row.offsetTop + row.offsetHeight > list.scrollTop + list.clientHeight)) {
    list.scrollTop = row.offsetTop;
  }
}

function follow() {
  show();
  if (!sound().paused) requestAnimationFrame(follow);
}

function play() {
  sound().play().catch(() => {}); // paused again before it began
}

function playFrom(seconds) {
  sound().currentTime = seconds;
  play();
}

function step(direction) {
  const words = parts().filter(({ node }) => node.closest(".said") && (node.matches(".word") || !node.querySelector(".word")));
  const now = sound().currentTime;
  const here = words.findLastIndex(({ start }) => start <= now + 0.001);
  const next = words[Math.max(0, here + direction)];
  if (next) sound().currentTime = next.start;
}

element.addEventListener("play", follow, true); // media events do not bubble, but can be caught on their way down
element.addEventListener("timeupdate", show, true);
element.addEventListener("seeked", show, true);
watch("value", () => (timed = null));

element.addEventListener("click", (event) => {
  if (event.target.closest("[data-stop]")) return trigger("stop");
  const said = event.target.closest("[data-start]");
  const sheet = event.target.closest(".sheet");
  if (said) playFrom(Number(said.dataset.start));
  else if (sheet) {
    const box = sheet.getBoundingClientRect();
    playFrom(((event.clientX - box.left) / box.width) * Number(sheet.dataset.seconds));
  }
});

element.addEventListener("keydown", (event) => {
  if (!event.target.matches(".said")) return;
  if (event.key === "ArrowRight" || event.key === "ArrowLeft") step(event.key === "ArrowRight" ? 1 : -1);
  else if (event.key === " " || event.key === "Enter") sound().paused ? play() : sound().pause();
  else return;
  event.preventDefault();
});
