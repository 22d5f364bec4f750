"""Captioned scenes: one to three real digits of MNIST, each with a colour, a size and one of nine places, on a background, and what one
would say of them. There is no end of them, combinations can be kept from training, and whether a picture shows what was asked can be
read off it. A scene is a function of its number."""

import random
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from almanac.runtime import mnist
from almanac.runtime.errors import UserError

SIDE = 64
"""Pixels of a scene."""
COLOURS = {
    "red": (220, 30, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 40),
    "green": (20, 160, 60),
    "blue": (40, 90, 230),
    "purple": (150, 50, 180),
}
BACKGROUNDS = {"black": (0, 0, 0), "grey": (112, 112, 112), "white": (255, 255, 255)}
SIZES = {"small": 16, "medium": 20, "large": 24}
"""Pixels of the side of a digit's box."""
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
PLACE_NAMES = [place for line in PLACES for place in line]
CENTRES = (12, 32, 52)
"""Of rows and of columns of places, pixels."""
_BOX = 24
"""Pixels of MNIST's 28 that are a digit's box: 20 of them hold the digit, with a margin around."""
HELD_OUT = 10
"""One combination of digit, colour and place in so many is in no scene of the training."""


@dataclass(frozen=True)
class Digit:
    """A digit in a scene."""

    digit: int
    colour: str
    size: str
    place: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    digits: tuple[Digit, ...]
    background: str


def is_held_out(digit: Digit) -> bool:
    """Whether no scene of the training has such a digit of this colour at this place."""
    row, column = _at(digit.place)
    number = (digit.digit * len(COLOURS) + list(COLOURS).index(digit.colour)) * 9 + 3 * row + column
    return bool(_shuffled()[number] % HELD_OUT == 0)


@lru_cache
def _shuffled() -> np.ndarray:
    return np.random.default_rng(2022).permutation(10 * len(COLOURS) * 9)


@lru_cache(64)
def draw(number: int, split: str = "train", seed: int = 0) -> Scene:
    """A scene.

    Args:
        number: which; any whole number from 0.
        split: `train`: none of its digits is a combination that is held out; `test`: all are.
        seed: of another set of scenes.
    """
    rng = np.random.default_rng([seed, number, split == "test"])
    digits = []
    for place in rng.choice(9, size=rng.integers(1, 4), replace=False).tolist():
        row, column = divmod(place, 3)
        while True:
            digit, colour, size = rng.integers(10), rng.choice(list(COLOURS)), rng.choice(list(SIZES))
            drawn = Digit(int(digit), str(colour), str(size), PLACES[row][column])
            if is_held_out(drawn) == (split == "test"):
                break
        digits.append(drawn)
    return Scene(tuple(digits), str(rng.choice(list(BACKGROUNDS))))


def render(scene: Scene, rng: np.random.Generator, split: str = "train") -> UInt8[Tensor, "3 64 64"]:
    """A picture of a scene, by digits that people wrote.

    Args:
        scene: what it shows.
        rng: says by which of them, and where in its place a digit is, to a pixel.
        split: of MNIST.
    """
    pixels, which = _written(split)
    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for each in scene.digits:
        written = pixels[rng.choice(which[each.digit])]
        size = SIZES[each.size]
        ink = _scaled(written, size)
        row, column = _at(each.place)
        top, left = (
            int(np.clip(CENTRES[at] - size // 2 + rng.integers(-1, 2), 0, SIDE - size)) for at in (row, column)
        )
        part = canvas[top : top + size, left : left + size]
        part += ink[..., None] * (np.array(COLOURS[each.colour], np.float32) - part)
    return torch.from_numpy(canvas.round().astype(np.uint8)).permute(2, 0, 1).contiguous()


@lru_cache
def _written(split: str) -> tuple[UInt8[np.ndarray, "count 28 28"], list[np.ndarray]]:
    """MNIST's pictures, and which of them show each digit."""
    pixels, labels = mnist.read(split)
    return pixels, [np.flatnonzero(labels == digit) for digit in range(10)]


def _scaled(written: UInt8[np.ndarray, "28 28"], size: int) -> Float[np.ndarray, "size size"]:
    """A digit's ink in a box of another size."""
    margin = (28 - _BOX) // 2
    box = torch.from_numpy(written[margin:-margin, margin:-margin].astype(np.float32) / 255)
    return F.interpolate(box[None, None], (size, size), mode="bilinear", antialias=True)[0, 0].numpy()


def _at(place: str) -> tuple[int, int]:
    """Row and column of a place."""
    return next((row, line.index(place)) for row, line in enumerate(PLACES) if place in line)


_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SAID = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized", "mid-sized"),
    "large": ("large", "big", "huge"),
    "purple": ("purple", "violet"),
    "grey": ("grey", "gray"),
    "top left": ("top left", "upper left", "top left corner", "upper left corner"),
    "top": ("top", "top centre", "top center", "upper middle"),
    "top right": ("top right", "upper right", "top right corner", "upper right corner"),
    "left": ("left", "middle left", "left side", "centre left"),
    "centre": ("centre", "center", "middle"),
    "right": ("right", "middle right", "right side", "centre right"),
    "bottom left": ("bottom left", "lower left", "bottom left corner", "lower left corner"),
    "bottom": ("bottom", "bottom centre", "bottom center", "lower middle"),
    "bottom right": ("bottom right", "lower right", "bottom right corner", "lower right corner"),
}
"""How else things are said; the first of each the most often."""


def caption(scene: Scene, rng: random.Random) -> str:
    """What one may say of a scene: sizes and the background are left out now and then, and words vary."""
    sized, grounded = rng.random() < 0.6, rng.random() < 0.5
    form = rng.randrange(3)
    parts = [_phrase(each, sized, form, rng) for each in scene.digits]
    if form == 2:
        text = "; ".join(parts)
    elif rng.random() < 0.3 or len(parts) == 1:
        text = ", ".join(parts)
    else:
        text = ", ".join(parts[:-1]) + " and " + parts[-1]
    ground = _said(scene.background, rng)
    if grounded:
        text += rng.choice([f" on a {ground} background", f" on {ground}", f", {ground} background"])
    start = rng.choice(["", "", "", "a picture of ", "a drawing of ", "an image with "]) if form != 2 else ""
    return start + text


def _phrase(each: Digit, sized: bool, form: int, rng: random.Random) -> str:
    number = _DIGITS[each.digit] if rng.random() < 0.3 else str(each.digit)
    words = [*([_said(each.size, rng)] if sized else []), _said(each.colour, rng), number]
    article = "an" if words[0][0] in "aeiou" else "a"
    place = _said(each.place, rng)
    if form == 2:
        return f"{place}: {article} {' '.join(words)}"
    return f"{article} {' '.join(words)} {rng.choice(['at the', 'in the', 'on the'])} {place}"


def _said(word: str, rng: random.Random) -> str:
    ways = _SAID.get(word, (word,))
    return ways[0] if rng.random() < 0.6 else rng.choice(ways)


_MEANT = {way: word for word, ways in _SAID.items() for way in ways}
_PLACE = "|".join(sorted((way for line in PLACES for place in line for way in _SAID[place]), key=len, reverse=True))
_SIZE = "|".join(sorted((way for size in SIZES for way in _SAID[size]), key=len, reverse=True))
_COLOUR = "|".join([*COLOURS, "violet"])
_NUMBER = "|".join([*_DIGITS, r"\d"])
_FIGURE = re.compile(
    rf"(?:\ban?\s+)?(?:({_SIZE})\s+)?({_COLOUR})\s+({_NUMBER})\b(?:\s+(?:at|in|on)\s+the\s+({_PLACE}))?"
)
_BEFORE = re.compile(rf"({_PLACE}):\s*$")
_GROUND = re.compile(r"\bon\s+(?:an?\s+)?(black|gr[ea]y|white)\b|\b(black|gr[ea]y|white)\s+background")


@dataclass(frozen=True)
class Asked:
    """What a caption says of a digit; None: nothing."""

    digit: int
    colour: str
    size: str | None
    place: str


def understand(text: str) -> tuple[list[Asked], str | None]:
    """What a caption asks for: digits, and the background if it says so.

    Raises:
        UserError: it says nothing that could be checked.
    """
    text = text.lower()
    found = []
    for match in _FIGURE.finditer(text):
        size, colour, number, place = match.groups()
        before = _BEFORE.search(text, 0, match.start())
        place = place or (before and before[1])
        if place:
            digit = _DIGITS.index(number) if number in _DIGITS else int(number)
            found.append(Asked(digit, _MEANT.get(colour, colour), size and _MEANT[size], _MEANT[place]))
    if not found:
        raise UserError(f"'{text[:80]}' is no caption of a scene", "say it like: a large red 3 at the top left")
    ground = _GROUND.search(text)
    return found, ground and _MEANT.get(ground[1] or ground[2], ground[1] or ground[2])
