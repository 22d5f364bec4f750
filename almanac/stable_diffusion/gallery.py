"""The gallery of Stable Diffusion's page: what a visitor had painted, the newest first, as HTML in which each picture leads to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from almanac.runtime import pictures
from almanac.runtime.errors import UserError
from almanac.stable_diffusion.generate import Settings
from almanac.stable_diffusion.metadata import NAMES

MOST = 64
"""Pictures in a visitor's gallery."""
SMALL = 128
"""Pixels up to which a picture is shown with hard edges."""
SHOW = """(name) => {
  const place = document.querySelector(name), { top } = place.getBoundingClientRect();
  if (top < 60 || top > 0.7 * innerHeight) place.scrollIntoView({ behavior: "smooth" });
}"""
"""On a phone, controls and results are far from each other."""
CHOOSE = (
    f"const show = {SHOW};"
    + """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  const which = { which: button.dataset.which };
  show(button.dataset.do === "vary" ? ".results" : ".begin");
  if (button.dataset.do === "again") trigger("again", which);
  if (button.dataset.do === "vary") trigger("vary", which);
  if (button.dataset.do === "start") trigger("start", which);
  if (button.dataset.do === "repaint") trigger("repaint", which);
});
"""
)
STYLE = """<style>
.gradio-container {
  .painted { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 20px 14px; }
  .painted .plate img { height: auto; aspect-ratio: auto; image-rendering: auto; }
  .painted .plate img.crisp { image-rendering: pixelated; }
  .painted .plate figcaption, .painted figcaption span { display: flex; flex-wrap: wrap; gap: 5px; }
  .painted button, .painted .save {
    padding: 2px 6px; border: 1px solid var(--edge-line); border-radius: 6px; background: var(--sheet); color: var(--ink);
    font: 13px/1.5 var(--sans); font-variant-numeric: tabular-nums; text-decoration: none; cursor: pointer;
  }
  @media (hover: none) { .painted button, .painted .save { padding: 5px 7px; } }
  .painted button:hover, .painted .save:hover { border-color: var(--accent); color: var(--accent); }
  .batch { margin: 0 0 28px; padding: 0; }
  .batch + .batch { padding-top: 18px; border-top: 1px solid var(--rule); }
  .batch h3 { margin: 0; font: 600 15px/1.45 var(--sans); color: var(--ink); overflow-wrap: anywhere; }
  .batch .facts { margin: 2px 0 12px; }
  .results { gap: 0; }
  .results, .begin { scroll-margin-top: 76px; }
  .drop.settings .upload-container .wrap::after { content: "Drop a PNG that was painted here, or click to choose one"; }
  .brush { gap: 0; }
}
</style>"""


@dataclass(frozen=True)
class Painted:
    """A picture in the gallery, as a PNG in Gradio's cache."""

    path: str
    seed: int

    @property
    def name(self) -> str:
        """What the page calls it by."""
        return Path(self.path).stem

    def read(self) -> Image.Image:
        """The picture.

        Raises:
            UserError: it was deleted since.
        """
        if not Path(self.path).is_file():
            raise UserError(f"the picture of seed {self.seed} is no longer here", "paint it again")
        return pictures.read_picture(self.path)


@dataclass(frozen=True)
class Batch:
    """Pictures that were painted together."""

    model: str
    settings: Settings
    how: str
    seconds: float
    painted: tuple[Painted, ...]


def added(kept: list[Batch], batch: Batch) -> list[Batch]:
    """The gallery with new pictures in front."""
    found, count = [], 0
    for each in (batch, *kept):
        count += len(each.painted)
        if count <= MOST:
            found.append(each)
    return found


def find(kept: list[Batch], which: str) -> tuple[Batch, Painted]:
    """A picture in the gallery.

    Raises:
        UserError: it is not there.
    """
    for batch in kept or []:
        for painted in batch.painted:
            if painted.name == which:
                return batch, painted
    raise UserError("this picture is no longer in the gallery", "paint it again")


def shown(kept: Sequence[Batch]) -> str:
    """As the page shows it."""
    return "".join(map(_section, kept))


def _section(batch: Batch) -> str:
    """Pictures that were painted together."""
    settings = batch.settings
    size = f"{settings.width}×{settings.height}"
    facts = [f"{settings.steps} steps of {NAMES[settings.sampler]}", f"scale {settings.scale:g}", size]
    if batch.how:
        facts = [f"{batch.how}, strength {settings.strength:g}", *facts]
    if settings.negative:
        facts = [f"not {settings.negative}", *facts]
    crisp = max(settings.width, settings.height) <= SMALL
    plates = "".join(_plate(each, settings.prompt, crisp) for each in batch.painted)
    return (
        f'<section class="batch"><h3>{escape(settings.prompt) or "Without words"}</h3>'
        f'<p class="facts">{escape(" · ".join(facts))} · {batch.seconds:.1f} s</p><div class="painted">{plates}</div></section>'
    )


def _plate(painted: Painted, prompt: str, crisp: bool) -> str:
    """A picture with what can be done with it."""
    url, which = escape(f"gradio_api/file={painted.path}"), painted.name
    again, *deeds = (
        f'<button type="button" data-do="{deed}" data-which="{which}" title="{title}">{text}</button>'
        for deed, text, title in (
            ("again", f"↺ {painted.seed}", "Take its settings and its seed again"),
            ("vary", "Vary", "Paint others like it"),
            ("start", "Start", "Begin with this picture"),
            ("repaint", "Repaint", "Brush over a part of it, and paint that anew"),
        )
    )
    save = (
        f'<a class="save" href="{url}" download="{painted.seed}.png" title="Save it, with its settings in it">PNG</a>'
    )
    return (
        f'<figure class="plate" data-seed="{painted.seed}"><img{" class=crisp" if crisp else ""} src="{url}" '
        f'alt="{escape(prompt)}"><figcaption><span>{again}{save}</span><span>{"".join(deeds)}</span></figcaption></figure>'
    )
