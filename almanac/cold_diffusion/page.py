"""The page of Cold Diffusion in Studio: degrade a picture and restore it in every way that the paper compares, or generate pictures
from nothing. It lays out controls and results; what happens to pictures is in `degrade`, `restore` and `generate`."""

import base64
import html
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from almanac.cold_diffusion import data, degrade, generate, restore
from almanac.cold_diffusion.degradations import Images
from almanac.cold_diffusion.restore import Restorer
from almanac.runtime import pictures
from almanac.runtime.errors import UserError
from almanac.runtime.services import ONE_AT_A_TIME, Services, tells_errors

FRAMES = 9
"""Pictures in a strip of steps."""
SHOWN_SIDE = 320
"""Side to which small pictures are enlarged, pixels, about."""
KEPT_SIDE = 512
"""Side of the picture that a visitor's session keeps, pixels; no model's pictures times `_ENLARGEMENTS` are larger."""
MOST_GENERATED = 36
"""How many pictures a visitor may generate at once."""

_ENLARGEMENTS = {"As trained": 1, "2× larger": 2, "4× larger": 4}
_SETS = {
    "mnist": "Digits",
    "emoji": "Emoji",
    "cifar10": "CIFAR-10",
    "cifar10-generation": "CIFAR-10, to generate",
    "photos": "Photographs",
}
_SAMPLERS = {
    "Improved (Algorithm 2)": "improved",
    "Naive (Algorithm 1)": "naive",
    "Direct (one call)": "direct",
    "Estimated noise (DDIM)": "estimated",
}
_PROGRESS = gr.Progress()
"""Gradio finds it as an argument's default."""
_QUIET: Any = {"api_visibility": "private", "show_progress": "hidden"}
_COMPUTES: Any = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": ONE_AT_A_TIME}
_SAMPLINGS = (
    "<p><b>Improved</b> sampling (Algorithm 2) takes from the picture only the difference between two degradations of the estimate, "
    "so that errors of the estimate cancel.</p><p><b>Naive</b> sampling (Algorithm 1) degrades the estimate anew at each step, and "
    "errors add up. <b>Direct</b> is the first estimate alone: often closest in numbers, but smoother.</p>"
)


@dataclass(frozen=True)
class _Example:
    """A picture to begin with."""

    picture: Image.Image
    title: str
    sets: tuple[str, ...]
    """The sets of images that it is like, best first."""


def build(services: Services) -> gr.Blocks:
    """The page.

    Args:
        services: where to compute.

    Raises:
        UserError: there is no trained model to show.
    """
    models = _models()
    if not models:
        raise UserError(
            "no trained model of Cold Diffusion is on this machine",
            "train one with `almanac cold-diffusion train`, or set ALMANAC_WEIGHTS to a folder that holds some",
        )
    with gr.Blocks(title="Cold Diffusion · Almanac") as page, gr.Tabs():
        with gr.Tab("Restore"):
            _restore_tab(services, models)
        with gr.Tab("Generate"):
            _generate_tab(services)
    return page


def _restore_tab(services: Services, models: dict[str, dict[str, str]]) -> None:
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="controls", scale=0, min_width=320):
            start = _start(models)
            chosen, shown, upload, gallery = _picture_controls(start)
            degradation, trained_on = _model_controls(models, start)
            severity = gr.Slider(0, 100, 30, step=1, label="Severity, %", buttons=[])
            with gr.Accordion("More settings", open=False):
                tiles = "Larger pictures are restored in overlapping tiles, and take longer"
                enlargement = gr.Radio(list(_ENLARGEMENTS.items()), value=1, label="Size", info=tiles)
                seed = _seed("Decides the mask's place, the snowfall, the noise")
            button = gr.Button("Degrade & restore", variant="primary", size="lg")
        with gr.Column(elem_classes="results", min_width=320):
            results = _results("Choose a picture and a degradation, then press <b>Degrade &amp; restore</b>.")

    @tells_errors
    def run(example: _Example, kind: str, images: str, severity: float, times: int, seed: Any, progress=_PROGRESS):
        restorer = _load(_model(kind, images), services.device)
        return _restored(restorer, example.picture, severity / 100, times, int(seed or 0), progress)

    uploaded = upload.upload(_read, [upload, degradation, trained_on], [chosen, shown, upload, trained_on], **_QUIET)
    uploaded.failure(lambda: None, None, upload, **_QUIET)
    gallery.select(_pick, [degradation, trained_on], [chosen, shown, trained_on], **_QUIET)
    degradation.change(_models_for, [chosen, degradation, trained_on], trained_on, **_QUIET)
    button.click(run, [chosen, degradation, trained_on, severity, enlargement, seed], results, **_COMPUTES)


def _generate_tab(services: Services) -> None:
    names = _generators(services.device)
    if not names:
        _results("None of the models here can generate: their degradations keep too much of an image.")
        return
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="controls", scale=0, min_width=320):
            model = gr.Radio([(_model_title(name), name) for name in names], value=names[0], label="Model")
            count = gr.Slider(1, MOST_GENERATED, 12, step=1, label="How many", buttons=[])
            seed = _seed("The same seed gives the same pictures")
            with gr.Accordion("More settings", open=False):
                sampler = gr.Radio(list(_SAMPLERS.items()), value="improved", label="Sampler")
                symmetry = "Breaks the symmetry of a start in one colour; at 0 the start alone decides the picture"
                usual = generate.SYMMETRY_NOISE
                noise = gr.Slider(0, 0.02, usual, step=0.001, label="Symmetry noise", info=symmetry, buttons=[])
            button = gr.Button("Generate", variant="primary", size="lg")
        with gr.Column(elem_classes="results", min_width=320):
            results = _results("Choose a model, then press <b>Generate</b>.")

    @tells_errors
    def run(name: str, count: int, seed: Any, sampler: Any, noise: float, progress=_PROGRESS):
        return _generated(_load(name, services.device), int(count), int(seed or 0), sampler, noise, progress)

    button.click(run, [model, count, seed, sampler, noise], results, **_COMPUTES)


def _picture_controls(start: _Example) -> tuple[gr.State, gr.HTML, gr.File, gr.Gallery]:
    """The chosen picture and how it is shown; a place for one's own, read by us and not by Gradio; the examples."""
    chosen = gr.State(start)
    with gr.Column(elem_classes="field"):
        gr.HTML('<p class="heading">Picture</p>', apply_default_css=False)
        with gr.Row(elem_classes="source"):
            shown = gr.HTML(_preview(start), apply_default_css=False)
            upload = gr.File(label="Your own picture", show_label=False, type="filepath", elem_classes="drop")
    gallery = gr.Gallery(
        [(_thumbnail(example.picture), example.title) for example in _examples()],
        label="Examples",
        show_label=False,
        format="png",
        columns=6,
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_classes="examples",
    )
    return chosen, shown, upload, gallery


def _model_controls(models: dict[str, dict[str, str]], start: _Example) -> tuple[gr.Radio, gr.Radio]:
    first = next(iter(models))
    degradation = gr.Radio([(name.capitalize(), name) for name in models], value=first, label="Degradation")
    like = _closest(start.sets, models[first]) or next(iter(models[first]))
    return degradation, gr.Radio(_titled(models[first]), value=like, label="Model trained on")


def _seed(info: str) -> gr.Number:
    return gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, info=info)


def _results(hint: str) -> gr.HTML:
    return gr.HTML(f'<div class="empty"><p>{hint}</p></div>', apply_default_css=False)


@tells_errors
def _read(path: str, kind: str, images: str) -> tuple[_Example, str, None, Any]:
    """Take a visitor's picture; the upload is emptied for the next one."""
    with Path(path).open("rb") as file:
        picture = pictures.read_picture(file)
    sets = [name for sets in _models().values() for name in sets if name != "mnist" or _is_grey(picture)]
    example = _Example(_square(picture), "your picture", tuple(sets))
    return example, _preview(example), None, _models_for(example, kind, images)


def _pick(kind: str, images: str, event: gr.SelectData) -> tuple[_Example, str, Any]:
    """Take an example."""
    example = _examples()[event.index]
    return example, _preview(example), _models_for(example, kind, images)


def _restored(
    restorer: Restorer, picture: Image.Image, severity: float, times: int, seed: int, progress: Callable
) -> str:
    """Degrade a picture, restore it in three ways, step by step as in the paper, and show all with their distances from the original."""
    restorer = replace(restorer, strides=None)
    side = restorer.size * times
    original = pictures.to_tensor(ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS), restorer.channels)
    t = degrade.step_of(restorer.degradation, severity)
    degraded, state = degrade.degrade_picture(restorer.degradation, original, t, torch.Generator().manual_seed(seed))
    state = {key: value.to(restorer.device) for key, value in state.items()}
    steps = _Steps(2 * len(restorer.path(t)), progress)
    improved = restore.restore_picture(restorer, degraded, state, t, "improved", steps.keep)
    naive = restore.restore_picture(restorer, degraded, state, t, "naive", steps.count)
    direct = degraded if steps.first_estimate is None else steps.first_estimate[0].cpu()
    plates = [
        _plate("Original", original),
        _plate("Degraded", degraded, original),
        _plate("Improved sampling", improved, original),
        _plate("Naive sampling", naive, original),
        _plate("Direct estimate", direct, original),
    ]
    return f'<div class="plates">{"".join(plates)}<div class="remark">{_SAMPLINGS}</div></div>' + _filmstrip(
        [*steps.frames, (0, improved)],
        f"along improved sampling, from t = {t} of {restorer.degradation.steps} down to 0",
    )


def _generated(restorer: Restorer, count: int, seed: int, sampler: Any, noise: float, progress: Callable) -> str:
    """Generate pictures and show them, with the steps that led to the first."""
    steps = _Steps(len(restorer.path(restorer.degradation.steps)), progress)
    images = generate.generate(restorer, count, torch.Generator().manual_seed(seed), sampler, noise, steps.keep).cpu()
    plates = "".join(_plate(f"Picture {number}", image, bare=True) for number, image in enumerate(images, 1))
    return f'<div class="plates many">{plates}</div>' + _filmstrip(
        [*steps.frames, (0, images[0])], "to the first picture"
    )


class _Steps:
    """What a sampler's `on_step` keeps: x_t of the first image, the first estimate, and how far it is.

    Args:
        total: steps in all.
        progress: Gradio's.
    """

    def __init__(self, total: int, progress: Callable):
        self.total, self.done, self.progress = total, 0, progress
        self.frames: list[tuple[int, Tensor]] = []
        self.first_estimate: Images | None = None

    def keep(self, t: int, x: Images, estimate: Images) -> None:
        """Keep the first image, and count."""
        if self.first_estimate is None:
            self.first_estimate = estimate
        self.frames.append((t, x[0].cpu()))
        self.count(t, x, estimate)

    def count(self, t: int, x: Images, estimate: Images) -> None:
        """Count a step."""
        self.done += 1
        self.progress((self.done, self.total), desc="Sampling", unit="steps")


def _plate(
    title: str,
    image: Float[Tensor, "channels height width"],
    truth: Float[Tensor, "channels height width"] | None = None,
    bare: bool = False,
) -> str:
    """A picture with its title and its distance from the truth; a click saves it."""
    url = _url(pictures.enlarged(pictures.to_picture(image), max(1, round(SHOWN_SIDE / image.shape[-1]))))
    name, file = html.escape(title), title.lower().replace(" ", "-")
    numbers = "&nbsp;"
    if truth is not None:
        found = degrade.measure(image[None], truth[None])
        numbers = (
            f'<abbr title="root mean squared error from the original">RMSE</abbr> {found["rmse"]:.3f} · '
            f'<abbr title="structural similarity to the original">SSIM</abbr> {found["ssim"]:.2f}'
        )
    caption = "" if bare else f"<figcaption><b>{name}</b><span>{numbers}</span></figcaption>"
    return (
        f'<figure class="plate" data-plate="{file}"><a href="{url}" download="{file}.png" title="Save">'
        f'<img src="{url}" alt="{name}"></a>{caption}</figure>'
    )


def _filmstrip(frames: list[tuple[int, Tensor]], caption: str) -> str:
    """The steps of one sampling as one picture, with the step under each frame; nothing where there was no step."""
    if len(frames) < 2:
        return ""
    frames = pictures.spread(frames, FRAMES)
    enlarge = max(1, round(96 / frames[0][1].shape[-1]))
    url = _url(pictures.strip([pictures.to_picture(frame) for _, frame in frames], enlarge))
    steps = "".join(f"<span>{t}</span>" for t, _ in frames).replace("<span>", "<span>t = ", 1)
    return (
        f'<figure class="filmstrip"><figcaption><b>Steps</b><span>{html.escape(caption)}</span></figcaption>'
        f'<div class="reel"><img src="{url}" alt="Pictures along the sampling, from the degraded one to the restored one"></div>'
        f'<div class="ticks" style="--frames:{len(frames)}">{steps}</div></figure>'
    )


def _preview(example: _Example) -> str:
    """The picture that is chosen."""
    crisp = ' class="crisp"' if example.picture.width <= 64 else ""
    return f'<figure class="chosen"><img{crisp} src="{_url(example.picture)}" alt="Chosen: {html.escape(example.title)}"></figure>'


def _thumbnail(picture: Image.Image) -> Image.Image:
    small = picture.width <= 64
    return picture.resize((128, 128), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _url(picture: Image.Image) -> str:
    """A picture as a data URL: small, and nothing to keep on the server."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _square(picture: Image.Image) -> Image.Image:
    """The middle of a picture as a square of at most `KEPT_SIDE`."""
    side = min(*picture.size, KEPT_SIDE)
    return ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)


def _is_grey(picture: Image.Image) -> bool:
    """Whether there is no colour in a picture, however its file keeps it."""
    return pictures.to_tensor(picture.resize((32, 32)), 3).std(0).max().item() < 0.05


@lru_cache(maxsize=1)
def _examples() -> list[_Example]:
    """Pictures that are here without a network; emoji where the set is at hand."""
    from sklearn.datasets import load_sample_images

    digits = data.load("mnist" if data.at_hand("mnist") else "digits", "test")
    emoji = data.load("emoji", "test") if data.at_hand("emoji") else None
    found = [
        _Example(pictures.to_picture(digits.batch(slice(i, i + 1))[0]), "Handwritten digit", ("mnist",)) for i in (3, 8)
    ]
    if emoji is not None:
        found += [_Example(pictures.to_picture(emoji.batch(slice(i, i + 1))[0]), "Emoji", ("emoji",)) for i in (20, 60)]
    boxes = {"A temple in China": (0, (80, 30, 430, 380)), "A flower": (1, (120, 20, 500, 400))}
    photos, like = load_sample_images().images, ("cifar10", "cifar10-generation", "photos", "emoji")
    for title, (index, box) in boxes.items():
        found.append(_Example(_square(Image.fromarray(photos[index]).crop(box)), title, like))
    return found


def _models() -> dict[str, dict[str, str]]:
    """The shipped models: degradation → set of images → name."""
    found: dict[str, dict[str, str]] = {}
    for name in restore.shipped():
        images, _, degradation = name.split("/")[-1].rpartition("-")
        found.setdefault(degradation, {})[images] = name
    return found


def _model(kind: str, images: str) -> str:
    try:
        return _models()[kind][images]
    except KeyError:
        hint = "reload the page to see the models that are here"
        raise UserError(f"no model for {kind} was trained on {images}", hint) from None


def _start(models: dict[str, dict[str, str]]) -> _Example:
    """The first example that the first model is made for."""
    sets = next(iter(models.values()))
    return next((example for example in _examples() if _closest(example.sets, sets)), _examples()[0])


def _models_for(example: _Example, kind: str, images: str) -> Any:
    """The choice of models for a degradation: as it was where the picture is like it, else the one that fits the picture."""
    sets = _models().get(kind, {})
    fitting = images if images in sets and images in example.sets else _closest(example.sets, sets)
    return gr.update(choices=_titled(sets), value=fitting or (images if images in sets else next(iter(sets), None)))


def _closest(wanted: Iterable[str], sets: Iterable[str]) -> str | None:
    return next((name for name in wanted if name in sets), None)


def _titled(sets: Iterable[str]) -> list[tuple[str, str]]:
    return [(_SETS.get(name, name.capitalize()), name) for name in sets]


def _model_title(name: str) -> str:
    images, _, degradation = name.split("/")[-1].rpartition("-")
    images = images.removesuffix("-generation")
    return f"{_SETS.get(images, images.capitalize())} from {degradation}"


def _generators(device: str) -> list[str]:
    """The models that can generate: those whose degradation can be started from nothing."""
    found = []
    for name in restore.shipped():
        try:
            generate.start(_load(name, device), 1, torch.Generator().manual_seed(0))
        except UserError:
            continue
        found.append(name)
    return found


@lru_cache(maxsize=16)
def _load(name: str, device: str) -> Restorer:
    return restore.load(name, device)
