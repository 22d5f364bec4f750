"""The page of Stable Diffusion in Studio: pictures from words, from a picture, and into what is brushed over in one; watched as they are
painted, and a gallery from which any of them leads to the next. It lays out controls and results; pictures are `generate`'s."""

import base64
import io
import json
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from almanac.runtime import checkpoint, hub, pictures
from almanac.runtime.errors import UserError
from almanac.runtime.services import Services, tells_errors
from almanac.runtime.serving import Job as Turn
from almanac.runtime.serving import Turns
from almanac.stable_diffusion import gallery, metadata, models
from almanac.stable_diffusion.gallery import Batch, Painted
from almanac.stable_diffusion.generate import MOST_PIXELS, Given, Job, Painter, Settings
from almanac.stable_diffusion.metadata import NAMES
from almanac.stable_diffusion.models import PaintingModel
from almanac.stable_diffusion.samplers import SAMPLERS

MODEL = "ALMANAC_STABLE_DIFFUSION_MODEL"
"""Names a model beside those that ship, as `models.path_of` takes it."""
MOST_AT_ONCE = 8
"""Pictures that a visitor may ask for at once."""
STEPS, SCALE = 150, 30.0
"""The most that DreamStudio took."""
FORGOTTEN = 86_400
"""s after which a gallery is forgotten that nobody paints for; Gradio deletes its files then."""

_FRAME = 0.3
"""s between previews, at least."""
_EDITED = 512
"""Side of the picture that is brushed over, pixels, about."""
_EXAMPLES = {
    "scenes": {
        "Red 3, blue 7": "a large red 3 at the top left and a small blue 7 in the centre on a white background",
        "One green 5": "a large green 5 in the centre on a black background",
        "Three in a row": "a red 1 on the left, a yellow 2 in the centre and a blue 3 on the right on a black background",
        "Purple 8, top right": "a medium purple 8 at the top right on a white background",
        "Two corners": "an orange 4 at the bottom left, a green 9 at the top right on a black background",
        "In words": "a picture of a big violet six in the middle and a tiny red zero at the bottom, grey background",
    },
    "emoji": {
        "Firefighter": "noto emoji of woman firefighter: medium-dark skin tone",
        "Ghost": "noto emoji of ghost",
        "Polar bear": "3d emoji of polar bear",
        "Cook": "noto emoji of man cook: medium skin tone",
        "Ferris wheel": "3d emoji of ferris wheel",
        "Raising a hand": "noto emoji of person raising hand: dark skin tone",
    },
}
"""What a model can paint that was trained on a set of ours."""
_WORDS, _PICTURE, _PART = "words", "picture", "part"
_BEGINNINGS = {"Words": _WORDS, "A picture": _PICTURE, "A part of one": _PART}
_HOW = {_WORDS: "", _PICTURE: "from a picture", _PART: "into a part of a picture"}
_SCHEDULES = {"Automatic": "auto", "Karras": "karras", "Linear": "linear"}
_QUIET: Any = {"api_visibility": "private", "show_progress": "hidden"}
_COMPUTES: Any = {**_QUIET, "concurrency_limit": None}
"""Events that paint take turns at the models (`Turns`)."""
_BEGIN = '<div class="empty"><p>Say what to paint, or choose an example, then press <b>Paint</b>.</p></div>'
_STOP = 'element.addEventListener("click", (event) => { if (event.target.closest("[data-stop]")) trigger("stop"); });'


@dataclass(frozen=True)
class _Wish:
    """What a visitor asks for, in the order of the controls."""

    prompt: str
    negative: str
    strength: float
    count: float | None
    seed: str
    model: str
    width: float | None
    height: float | None
    steps: float
    scale: float
    sampler: str
    schedule: Any

    def settings(self, size: int) -> Settings:
        """As the painter takes them; `size` where none is given."""
        width, height = (size if side is None else int(side) for side in (self.width, self.height))
        how = (int(self.steps), self.scale, self.sampler, self.schedule, None, self.strength)
        return Settings(self.prompt.strip(), self.negative.strip(), width, height, *how)

    def seeds(self) -> list[int]:
        """Of each picture.

        Raises:
            UserError: the seed is no seed, or there are too many or none.
        """
        given = self.seed.strip()
        if given and not (given.isascii() and given.isdigit() and int(given) < 2**63):
            raise UserError(f"the seed is '{given}'", "give a whole number from 0 to 2⁶³ − 1, or none")
        if self.count is None or not 1 <= self.count <= MOST_AT_ONCE:
            raise UserError(f"{self.count or 'no'} pictures are asked for", f"give a number from 1 to {MOST_AT_ONCE}")
        first = int(given) if given else secrets.randbelow(2**32)
        return [first + number for number in range(int(self.count))]


@dataclass(frozen=True)
class _Start:
    """A picture to begin with."""

    picture: Image.Image
    title: str


@dataclass(frozen=True)
class _Order:
    """What is to be painted."""

    wish: _Wish
    """How many, of which seeds, by which model."""
    how: str
    """What they begin with, in words; empty: with noise."""
    given: Callable[[Settings], Given | None]
    """What they begin with, for settings that can be painted."""
    asked: Settings | None = None
    """None: as the wish says."""


def build(services: Services) -> gr.Blocks:
    """The page.

    Args:
        services: where to compute.

    Raises:
        UserError: there is no trained model to paint with.
    """
    names = _names()
    if not names:
        raise UserError(
            "no trained model of Stable Diffusion is on this machine",
            f"train one with `almanac stable-diffusion train`, or set {MODEL} to the path of one, or to hf://owner/repo",
        )
    with gr.Blocks(title="Stable Diffusion · Almanac") as page:
        _lay_out(services, names)
    return page


def _lay_out(services: Services, names: list[str]) -> None:
    start, kept = gr.State(time_to_live=FORGOTTEN), gr.State([], time_to_live=FORGOTTEN)
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="controls", scale=0, min_width=320):
            prompt = gr.Textbox(label="Prompt", lines=3, max_lines=8, placeholder="What to paint")
            examples, chips = [], []
            for learnt, texts in _EXAMPLES.items():
                with gr.Row(elem_classes="examples-of-sound", visible=_learnt(names[0]) == learnt) as row:
                    chips += [(gr.Button(title, size="sm", elem_classes="example"), texts[title]) for title in texts]
                examples.append(row)
            negative = gr.Textbox(label="Negative prompt", lines=1, max_lines=4, placeholder="What not to paint")
            beginning = gr.Radio(list(_BEGINNINGS.items()), value=_WORDS, label="Begin with", elem_classes="begin")
            with gr.Row(elem_classes="source", visible=False) as source:
                chosen = gr.HTML(_chosen(None), apply_default_css=False)
                upload = gr.File(
                    label="A picture to begin with", show_label=False, type="filepath", elem_classes="drop"
                )
            with gr.Column(elem_classes="brush", visible=False) as brush:
                gr.HTML('<p class="heading">Brush over what is to be painted anew</p>', apply_default_css=False)
                editor = _editor()
            strength = _slider("Strength of changes", 0, 1, 0.75, 0.05)
            with gr.Row():
                count = gr.Number(4, label="How many", precision=0, min_width=100)
                seed = gr.Textbox(label="Seed", max_lines=1, placeholder="by chance", min_width=100)
            button = gr.Button("Paint", variant="primary", size="lg")
            model = gr.Radio(
                [(_short(name), name) for name in names], value=names[0], label="Model", visible=len(names) > 1
            )
            with gr.Accordion("More settings", open=False):
                with gr.Row():
                    width, height = (
                        gr.Number(_side(names[0]), label=label, precision=0, min_width=100)
                        for label in ("Width", "Height")
                    )
                steps = _slider("Steps", 1, STEPS, 20, 1)
                scale = _slider("Scale", 1, SCALE, _guidance(names[0]), 0.5, "How closely the prompt is followed")
                sampler = gr.Dropdown([(NAMES[name], name) for name in SAMPLERS], value="dpmpp_2m", label="Sampler")
                schedule = gr.Radio(list(_SCHEDULES.items()), value="auto", label="Schedule of noise")
            with gr.Accordion("Settings of a picture", open=False):
                former = gr.File(label="Its file", show_label=False, type="filepath", elem_classes=["drop", "settings"])
        with gr.Column(elem_classes="results", min_width=320):
            shown = gr.HTML(_BEGIN, js_on_load=_STOP, apply_default_css=False)
            plates = gr.HTML(
                "", html_template=gallery.STYLE + "${value}", js_on_load=gallery.CHOOSE, apply_default_css=False
            )

    turns = Turns()
    settings = [prompt, negative, strength, count, seed, model, width, height, steps, scale, sampler, schedule]
    started = [start, beginning, editor, source, chosen, brush]

    async def paint(kept: list[Batch], order: _Order) -> AsyncGenerator[tuple, None]:
        yield _progress(0, 0, None), gr.skip(), gr.skip()
        work = partial(_paint, services.device, order, Path(plates.GRADIO_CACHE))
        async with aclosing(turns.follow(work)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    yield part, gr.skip(), gr.skip()
                    continue
                plates.temp_files.update(each.path for each in part.painted)  # Gradio deletes them in a day
                kept[:] = gallery.added(kept, part)  # in place: another one may be painting for the same visitor
                yield "", kept, gallery.shown(kept)

    @tells_errors
    async def run(
        kept: list[Batch], begins: str, start: _Start | None, marked: Any, *wishes: Any
    ) -> AsyncGenerator[tuple, None]:
        order = _Order(_Wish(*wishes), _HOW[begins], partial(_given, begins, start, marked))
        async with aclosing(paint(kept, order)) as parts:
            async for part in parts:
                yield part

    @tells_errors
    async def vary(kept: list[Batch], event: gr.EventData, *wishes: Any) -> AsyncGenerator[tuple, None]:
        batch, painted = gallery.find(kept, event.which)
        wish = replace(_Wish(*wishes), seed="", model=batch.model)
        given = partial(_given, _PICTURE, _Start(painted.read(), ""), None)
        asked = replace(batch.settings, strength=wish.strength)
        order = _Order(wish, f"as a variation of seed {painted.seed}", given, asked)
        async with aclosing(paint(kept, order)) as parts:
            async for part in parts:
                yield part

    @tells_errors
    def again(kept: list[Batch], event: gr.EventData) -> list[Any]:
        batch, painted = gallery.find(kept, event.which)
        return _controls(batch.settings, painted.seed, batch.model, batch.how)

    @tells_errors
    def read_settings(path: str) -> list[Any]:
        return _read_settings(Path(path), names)

    @tells_errors
    def begin_with(kept: list[Batch], event: gr.EventData) -> tuple:
        return _begun(_start(kept, event.which), _PICTURE)

    @tells_errors
    def repaint(kept: list[Batch], event: gr.EventData) -> tuple:
        return _begun(_start(kept, event.which), _PART)

    @tells_errors
    def take(path: str, begins: str) -> tuple:
        with Path(path).open("rb") as file:
            picture = pictures.read_picture(file).convert("RGB")
        return *_begun(_Start(_bounded(picture), "your picture"), begins), None

    painting, asking = [shown, kept, plates], [kept, beginning, start, editor, *settings]
    running = [
        button.click(run, asking, painting, **_COMPUTES),
        prompt.submit(run, asking, painting, **_COMPUTES),
        plates.vary(vary, [kept, *settings], painting, **_COMPUTES),
    ]
    for event in running:
        event.failure(lambda kept: "" if kept else _BEGIN, kept, shown, **_QUIET)
    shown.stop(lambda kept: "" if kept else _BEGIN, kept, shown, cancels=running, **_QUIET)
    button.click(None, js=f"() => ({gallery.SHOW})('.results')", **_QUIET)
    plates.again(again, kept, [*settings, beginning], **_QUIET)
    plates.start(begin_with, kept, started, **_QUIET)
    plates.repaint(repaint, kept, started, **_QUIET)
    for chip, text in chips:
        chip.click(None, None, prompt, js=f"() => {json.dumps(text)}", **_QUIET)
    beginning.change(_visible, [beginning, start], [source, chosen, brush], **_QUIET)
    uploaded = upload.upload(take, [upload, beginning], [*started, upload], **_QUIET)
    uploaded.failure(lambda: None, None, upload, **_QUIET)
    dropped = former.upload(read_settings, former, [*settings, beginning], **_QUIET)
    for ended in (dropped.success, dropped.failure):
        ended(lambda: None, None, former, **_QUIET)
    model.change(tells_errors(_fitting), model, [width, height, scale, *examples], **_QUIET)


def _slider(
    label: str, least: int | float, most: int | float, value: int | float, step: int | float, info: str | None = None
) -> gr.Slider:
    return gr.Slider(least, most, value, step=step, label=label, info=info, buttons=[])


def _editor() -> gr.ImageEditor:
    """Where people brush over what is to be painted anew."""
    return gr.ImageEditor(
        type="pil",
        format="png",
        show_label=False,
        sources=(),
        buttons=[],
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=56, colors=["#e8432a"], color_mode="fixed"),
        eraser=gr.Eraser(default_size=56),
        canvas_size=(_EDITED, _EDITED),
        interactive=True,
        elem_classes="brushed",
    )


def _paint(device: str, order: _Order, folder: Path, turn: Turn, tell: Callable[[str | Batch], None]) -> None:
    """Paint, and tell the page what it should show on the way, and at last the pictures, which are put into a folder."""
    wish, seeds = order.wish, order.wish.seeds()
    with turn:
        model, painter = _load(wish.model, device)
        settings = order.asked or wish.settings(model.size)
        painter.job(settings, seeds)  # refuses what can't be painted, before a picture is made as large as that
        began, job = time.monotonic(), painter.job(settings, seeds, order.given(settings))
        previews = _Previews(job)
        while not job.done:
            job.advance()
            left = (time.monotonic() - began) / job.number * (job.steps - job.number)
            tell(_progress(job.number, job.steps, left) + previews.html())
            turn.give_way()
        painted, seconds = job.pictures(), time.monotonic() - began
    found, more = [], {"begun": order.how} if order.how else {}
    for picture, seed in zip(painted, seeds, strict=True):
        path = folder / f"{secrets.token_hex(16)}.png"
        metadata.save(pictures.to_picture(picture), path, settings, seed, model.name, **more)
        found.append(Painted(str(path), seed))
    tell(Batch(wish.model, settings, order.how, seconds, tuple(found)))


class _Previews:
    """What pictures may become: looked at anew when the steps since the last look took longer than the look did.

    Args:
        job: paints them.
    """

    def __init__(self, job: Job):
        self.job, self._cost, self._html = job, 0.0, ""
        self._looked = -float("inf")

    def html(self) -> str:
        """The last look, or a new one."""
        now = time.monotonic()
        if now - self._looked >= max(self._cost, _FRAME) and not self.job.done:
            self._html = "".join(map(_preview, self.job.preview()))
            self._looked = time.monotonic()
            self._cost = self._looked - now
        return f'<div class="painted">{self._html}</div>'


def _given(begins: str, start: _Start | None, marked: Any, settings: Settings) -> Given | None:
    """What pictures begin with, at the size that is painted.

    Args:
        begins: `words`, `picture` or `part`.
        start: the picture.
        marked: the editor's value.
        settings: how they are painted.

    Raises:
        UserError: there is no picture, or nothing is marked in it.
    """
    if begins == _WORDS:
        return None
    if start is None:
        raise UserError("no picture is chosen to begin with", "drop one, or press “Start” below one that was painted")
    size = (settings.width, settings.height)
    mask = _mask(marked, start.picture.size) if begins == _PART else None
    picture = start.picture.convert("RGB")
    if picture.size != size:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        mask = mask and ImageOps.fit(mask, size, Image.Resampling.NEAREST)
    hole = None if mask is None else torch.from_numpy(np.array(mask)).float() / 255
    return Given(pictures.to_tensor(picture, 3), hole)


def _mask(marked: Any, size: tuple[int, int]) -> Image.Image:
    """What is brushed over, white on black, in pixels of the picture: those of which a quarter is covered."""
    layers = marked["layers"] if marked else []
    covered = np.zeros(size[::-1], bool)
    for layer in layers:
        covered |= np.array(layer.getchannel("A").resize(size, Image.Resampling.BOX)) > 63
    if not covered.any():
        raise UserError("nothing is marked in the picture", "brush over what is to be painted anew")
    return Image.fromarray(covered.astype(np.uint8) * 255)


def _begun(start: _Start, begins: str) -> tuple:
    """A picture to begin with, and where it is shown."""
    begins = _PICTURE if begins == _WORDS else begins
    return start, begins, _brushed(start.picture.convert("RGB")), *_visible(begins, start)


def _visible(begins: str, start: _Start | None) -> tuple[Any, Any, Any]:
    """The place for a picture, the picture in it, and what it is brushed over with: which are there."""
    chosen = gr.update(value=_chosen(start), visible=begins == _PICTURE and start is not None)
    brush = gr.update(visible=begins == _PART and start is not None)
    return gr.update(visible=begins != _WORDS), chosen, brush


def _brushed(picture: Image.Image) -> dict[str, Any]:
    """The picture as it is brushed over: small ones large."""
    times, kind = _EDITED / max(picture.size), Image.Resampling.LANCZOS
    if max(picture.size) <= gallery.SMALL:
        times, kind = max(1, round(times)), Image.Resampling.NEAREST
    size = max(1, round(picture.width * times)), max(1, round(picture.height * times))
    return {"background": picture.resize(size, kind), "layers": [], "composite": None}


def _bounded(picture: Image.Image) -> Image.Image:
    """A picture of no more pixels than can be painted."""
    share = (MOST_PIXELS / (picture.width * picture.height)) ** 0.5
    if share >= 1:
        return picture
    size = max(1, int(picture.width * share)), max(1, int(picture.height * share))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _read_settings(path: Path, names: Sequence[str]) -> list[Any]:
    """Values of the controls, of a picture that says how it was made.

    Raises:
        UserError: it does not say, or this page can't do it.
    """
    try:
        settings, said = metadata.read(path)
    except UserError as error:
        raise UserError(error.what.replace(str(path), path.name), "give a PNG that was painted here") from None
    if settings.steps > STEPS or not 1 <= settings.scale <= SCALE or settings.eta is not None:
        fresh = "" if settings.eta is None else f", fresh noise of {settings.eta:g}"
        what = f"the picture was painted in {settings.steps} steps at scale {settings.scale:g}{fresh}"
        raise UserError(what, "this page can't; use `almanac stable-diffusion generate --like`")
    model = next((name for name in names if _short(name) == said.get("model")), None)
    if model is None:
        gr.Warning(f"It was painted by the model {escape(str(said.get('model')))}, which is not here.")
    if said.get("loras"):
        gr.Warning("It was painted with LoRA files, which this page does not take.")
    return _controls(settings, said.get("seed", ""), model, str(said.get("begun", "")))


def _controls(settings: Settings, seed: Any, model: str | None, how: str) -> list[Any]:
    """Values of the controls that lead to a picture again, in their order, and what it begins with."""
    if how:
        gr.Info(f"It was painted {escape(how)}: choose that picture too.")
    first = (settings.prompt, settings.negative, settings.strength, 1, str(seed), model or gr.skip())
    size, noise = (settings.width, settings.height), (settings.sampler, settings.schedule)
    return [*first, *size, settings.steps, settings.scale, *noise, gr.skip() if how else _WORDS]


def _fitting(name: str) -> tuple[Any, ...]:
    """What another model brings with it: the size and the scale at which it paints best, and examples."""
    shown = [gr.update(visible=_learnt(name) == learnt) for learnt in _EXAMPLES]
    return _side(name), _side(name), _guidance(name), *shown


def _start(kept: list[Batch], which: str) -> _Start:
    _, painted = gallery.find(kept, which)
    return _Start(painted.read(), f"the picture of seed {painted.seed}")


def _progress(done: int, total: int, left: float | None) -> str:
    """How far pictures are, with a button that ends it."""
    said = "Waiting for the model …" if left is None else f"Step {done} of {total}, about {_wait(left)} left"
    bar = f'max="{total}" value="{done}"' if total else 'max="1" value="0"'
    return (
        f'<div class="work"><progress {bar} aria-label="Painted"></progress><p role="status">{said}</p>'
        '<button type="button" data-stop>Stop</button></div>'
    )


def _preview(picture: Tensor) -> str:
    shown = pictures.to_picture(picture)
    crisp = ' class="crisp"' if max(shown.size) <= gallery.SMALL else ""
    shown.thumbnail((256, 256))
    return f'<figure class="plate" data-preview><img{crisp} src="{_url(shown)}" alt="What it may become"></figure>'


def _chosen(start: _Start | None) -> str:
    """The picture to begin with."""
    if start is None:
        return ""
    shown = start.picture.convert("RGB")
    crisp = ' class="crisp"' if max(shown.size) <= gallery.SMALL else ""
    side = min(*shown.size, 208)
    shown = shown if crisp else ImageOps.fit(shown, (side, side), Image.Resampling.LANCZOS)
    return f'<figure class="chosen"><img{crisp} src="{_url(shown)}" alt="Chosen: {escape(start.title)}"></figure>'


def _url(picture: Image.Image) -> str:
    """A small picture as a data URL."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _wait(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def _names() -> list[str]:
    """The models that there are: the one that is named by the environment, and those that ship.

    Raises:
        UserError: the one that is named is not there.
    """
    given = os.environ.get(MODEL, "").rstrip("/")
    if given and not given.startswith("hf://"):
        models.path_of(given)
    shipped = [
        name.removeprefix(f"{models.SYSTEM}/")
        for name in hub.shipped_weights(models.SYSTEM)
        if checkpoint.load_weights(hub.weights(name), models.SYSTEM)[1].get("kind") == "model"
    ]
    shipped.sort(key=lambda name: name != models.DEFAULT)
    return list(dict.fromkeys([*([given] if given else []), *shipped]))


def _short(name: str) -> str:
    """A model's name as pictures say it."""
    last = name.rsplit("/", 1)[-1]
    return last.removesuffix(Path(last).suffix) if last.endswith((".safetensors", ".ckpt")) else last


def _side(name: str) -> int:
    """Pixels of a side that a model paints best."""
    return _about(name).get("size", 512)


def _guidance(name: str) -> float:
    """The scale that suits a model."""
    return _about(name).get("guidance", PaintingModel.guidance)


def _learnt(name: str) -> str | None:
    """The set that a model was trained on, if it was ours."""
    return _about(name).get("data")


@lru_cache(maxsize=16)
def _about(name: str) -> dict[str, Any]:
    """What a model of our training says of itself; nothing of a published one, which is not read before it is asked to paint."""
    if name.startswith("hf://") or not models.is_own(models.path_of(name)):
        return {}
    return checkpoint.load_weights(models.path_of(name), models.SYSTEM)[1]


@lru_cache(maxsize=2)
def _load(name: str, device: str) -> tuple[PaintingModel, Painter]:
    model = models.load(name, device=device)
    return model, models.painter(model)
