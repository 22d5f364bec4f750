"""Which settings each degradation has for each set of images. The paper restores MNIST and CIFAR-10 and generates faces at 128
pixels; sources are the commands of the official README. At 32 or 64 pixels, generation has schedules of our own, of the same
shape, that end in the same place after 50 steps."""

from typing import Literal

from almanac.cold_diffusion.degradations import (
    Animorph,
    Blur,
    Colour,
    Degradation,
    Mask,
    Noise,
    Pixelate,
    Snow,
    named,
    to_json,
)
from almanac.runtime.errors import UserError

Purpose = Literal["restoration", "generation"]
"""Restoration keeps enough of an image to find it again; generation degrades it until only a start is left that can be drawn."""

_SNOW_LEVEL_4 = (1.15, 0.55)

RESTORATION: dict[str, dict[str, Degradation]] = {
    "mnist": {
        "blur": Blur(20, kernel_size=11, sigma=7.0, growth=0.0, schedule="linear"),
        "mask": Mask(50),
        "pixelate": Pixelate(3),
    },
    "cifar10": {
        "blur": Blur(50, kernel_size=11, sigma=0.35, growth=0.01, schedule="linear", padding="reflect"),
        "mask": Mask(50),
        "pixelate": Pixelate(3),
        "snow": Snow(200),
        "colour": Colour(20),
    },
}
"""The paper's restoration tables, by set and degradation."""

GENERATION_128: dict[str, Degradation] = {
    "blur": Blur(300, to_mean=True, eight_bit=True),
    "mask": Mask(750, kernel_std=0.05, initial_mask=1, place="centre", fill="colour"),
    "pixelate": Pixelate(6),
    "snow": Snow(200, threshold=_SNOW_LEVEL_4, streak_sigma=(0.05, 20.0)),
    "colour": Colour(20),
    "animorph": Animorph(200),
    "noise": Noise(200),
}
"""The paper's generation at 128 pixels."""

GENERATION_SMALL: dict[str, Degradation] = {
    # From 0.3 pixels to 20 in all, where the longest wave of 32 pixels is 0.0004 of itself; at most to a third of it in a step. Rounding
    # to 8 bits would hide the last ten steps, and the noise that breaks the symmetry, from the network.
    "blur": Blur(50, kernel_size=27, sigma=0.3, growth=0.065, to_mean=True),
    "mask": Mask(50, kernel_std=0.3, initial_mask=1, place="centre", fill="colour"),
    "pixelate": Pixelate(4),
    "snow": Snow(50, threshold=_SNOW_LEVEL_4, streak_sigma=(0.05, 20.0)),
    "colour": Colour(20),
    "animorph": Animorph(50),
    "noise": Noise(50),
}
"""Generation at 32 and 64 pixels."""


def recipe(name: str, data: str, size: int, purpose: Purpose | None = None) -> Degradation:
    """The settings of a degradation for a set of images.

    Args:
        name: a known degradation, or `module:Class` for one of the user's own (which is taken as it is).
        data: name of the set, or a path.
        size: side of the images, pixels.
        purpose: what the network is for; None: `usual_purpose`.

    Raises:
        UserError: the degradation is not known, or the paper has no restoration of it for that set.
    """
    key = _key(name)
    purpose = purpose or usual_purpose(name, data)
    if purpose == "restoration" and key not in RESTORATION.get(data, {}):
        known = ", ".join(f"{key} of {images}" for images, recipes in RESTORATION.items() for key in recipes)
        raise UserError(f"there is no restoration recipe for {name} of {data}", f"leave --purpose out; known: {known}")
    if purpose == "restoration":
        return RESTORATION[data][key]
    generation = GENERATION_128 if size >= 128 else GENERATION_SMALL
    return generation.get(key) or named(name)()


def usual_purpose(name: str, data: str) -> Purpose:
    """Restoration where the paper's tables have one of this degradation for this set, else generation."""
    return "restoration" if _key(name) in RESTORATION.get(data, {}) else "generation"


def _key(name: str) -> str:
    return to_json(named(name)())["name"]
