"""The tour of Stable Diffusion: eight captions of digits, colours and places that no training saw together become pictures, which a
recogniser reads; one is watched on its way from noise, varied by image to image, and painted anew in one place."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from almanac.runtime import pictures, plots
from almanac.runtime.report import Section
from almanac.stable_diffusion import models, recogniser, scenes
from almanac.stable_diffusion.generate import Given, Painter, Settings
from almanac.stable_diffusion.recogniser import NOBODY, Read, Recogniser
from almanac.stable_diffusion.scenes import BACKGROUNDS, CENTRES, COLOURS, PLACE_NAMES, SIZES, Scene

MODEL = f"{models.SYSTEM}/{models.DEFAULT}"
_COUNT = 8
_SEED = 7
_FRAMES = 9
"""Pictures on the way from noise."""
_STRENGTHS = (0.4, 0.6, 0.8)
_HALF = 14
"""Half the side of a place that is painted anew, pixels: what the recogniser looks at."""


def run(out: Path, model: str = MODEL, judge: Path | None = None) -> Section:
    """Run once on real input.

    Args:
        out: folder for the pictures.
        model: paints, as `models.path_of` takes it.
        judge: weights of a recogniser; None: the shipped one.
    """
    loaded, reader = models.load(model), recogniser.load(judge)
    painter = models.painter(loaded)
    settings = Settings(width=loaded.size, height=loaded.size, scale=loaded.guidance)
    chosen = [scenes.draw(number, "test", _SEED) for number in range(_COUNT)]
    captions = [scenes.caption(scene, random.Random(number)) for number, scene in enumerate(chosen)]
    painted, way = _paint(painter, settings, captions)
    readings = _readings(reader, painted)
    rows = [_row(*each) for each in zip(captions, readings, strict=True)]
    varied = _varied(painter, replace(settings, prompt=captions[0]), painted[0])
    mask, wish = _place(chosen[0], _ground(*readings[0]))
    asked = replace(settings, prompt=wish, strength=1.0)
    anew = painter.paint(asked, [_SEED], Given(painted[0], mask))[0]
    repainted = _row(wish, _readings(reader, anew[None])[0])
    marked = torch.where(mask > 0.5, torch.tensor([0.9, -0.4, -0.6])[:, None, None], painted[0])
    figures = [
        (
            plots.captioned(_shown(painted), captions, out / "painted.png"),
            "Eight captions of combinations that no training saw",
        ),
        (
            plots.save_png(pictures.strip(pictures.spread(way, _FRAMES), 2), out / "way.png"),
            f"From noise to “{captions[0]}”: what the network takes the picture for, from the first step to the last",
        ),
        (
            plots.captioned(
                _shown([painted[0], *varied]), ["", *(f"strength {each:g}" for each in _STRENGTHS)], out / "varied.png"
            ),
            "Image to image: the first picture, and variations of it",
        ),
        (
            plots.captioned(
                _shown([painted[0], marked, anew]), ["before", "what is painted anew", wish], out / "repainted.png"
            ),
            "A hole painted anew; the pixels around it stay as they are, bit for bit",
        ),
    ]
    right, digits = sum(row["right"] for row in rows), sum(row["digits"] for row in rows)
    whole = sum(row["all"] == "yes" for row in rows)
    kept = "changed no" if torch.equal(anew[:, mask < 0.5], painted[0][:, mask < 0.5]) else "changed a"
    sentence = (
        f"Of {_COUNT} captions whose digits, colours and places no training saw together, {whole} came out wholly as asked, and "
        f"{right} of their {digits} digits with the right colour at the right place; a part painted anew {kept} pixel around it."
    )
    return Section(sentence, figures, [*rows, repainted])


def _paint(
    painter: Painter, settings: Settings, captions: Sequence[str]
) -> tuple[Float[Tensor, "count 3 height width"], list[Any]]:
    """A picture of each caption, and the first one's previews."""
    painted, way = [], []
    for number, caption in enumerate(captions):
        job = painter.job(replace(settings, prompt=caption), [_SEED + number])
        while not job.done:
            job.advance()
            if number == 0:
                way.append(pictures.to_picture(job.preview()[0]))
        painted.append(job.pictures()[0])
    return torch.stack(painted), way


def _varied(painter: Painter, settings: Settings, picture: Float[Tensor, "3 height width"]) -> list[Tensor]:
    """Variations of a picture, ever stronger ones."""
    asked = [replace(settings, strength=strength) for strength in _STRENGTHS]
    return [painter.paint(each, [_SEED + 1], Given(picture))[0] for each in asked]


def _place(scene: Scene, background: str) -> tuple[Float[Tensor, "height width"], str]:
    """Where a scene's first digit is, and a caption of the scene with another digit of another colour there, on the background that it was
    painted on."""
    first, *others = scene.digits
    row, column = divmod(PLACE_NAMES.index(first.place), 3)
    mask = torch.zeros(scenes.SIDE, scenes.SIDE)
    top, left = (max(CENTRES[at] - _HALF, 0) for at in (row, column))
    mask[top : CENTRES[row] + _HALF, left : CENTRES[column] + _HALF] = 1
    colours = list(COLOURS)
    colour = colours[(colours.index(first.colour) + 2) % len(colours)]
    other = replace(first, digit=(first.digit + 3) % 10, colour=colour)
    said = [f"a {each.size} {each.colour} {each.digit} at the {each.place}" for each in (other, *others)]
    return mask, f"{', '.join(said)} on a {background} background"


def _readings(reader: Recogniser, painted: Float[Tensor, "count 3 height width"]) -> list[tuple[Read, int]]:
    found = recogniser.read(reader, painted)
    return [(found, number) for number in range(len(painted))]


def _row(caption: str, reading: tuple[Read, int]) -> dict[str, Any]:
    """What was asked, what was read, and how much of it is right."""
    asked, background = scenes.understand(caption)
    score = recogniser.score(*reading, asked, background)
    right = sum(digit and colour for digit, colour in zip(score["digit"], score["colour"], strict=True))
    said = {"asked": caption, "read": _told(*reading), "digits": len(asked), "right": right}
    return {**said, "all": "yes" if score["all"][0] else "no"}


def _told(found: Read, number: int) -> str:
    """What the recogniser sees in a picture, in words."""
    parts = []
    for place, name in enumerate(PLACE_NAMES):
        digit = int(found.digits[number, place].argmax())
        if digit != NOBODY:
            colour = list(COLOURS)[int(found.colours[number, place].argmax())]
            size = list(SIZES)[int(found.sizes[number, place].argmax())]
            parts.append(f"{size} {colour} {digit} at the {name}")
    return f"{', '.join(parts) or 'nothing'} on {_ground(found, number)}"


def _ground(found: Read, number: int) -> str:
    """The background of a picture."""
    return list(BACKGROUNDS)[int(found.backgrounds[number].argmax())]


def _shown(painted: Sequence[Tensor] | Tensor) -> list[Image.Image]:
    return [pictures.to_picture(picture) for picture in painted]
