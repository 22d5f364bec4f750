"""Reads scenes: which digit of which colour and size is at each of nine places, on what background. It learns from real scenes only, and
judges painted ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.nn.group_norm import GroupNorm
from almanac.nn.winograd import Conv3x3
from almanac.runtime import checkpoint, console, hub
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, fit
from almanac.stable_diffusion import scenes
from almanac.stable_diffusion.scenes import BACKGROUNDS, CENTRES, COLOURS, PLACE_NAMES, SIZES, Asked, Scene

FIT = FitConfig(3_000, learning_rate=2e-3, weight_decay=0.02, save_every=500)
"""How it is trained: a quarter of an hour on one core."""
_BATCH = 24
_SEEN = 4
"""Places of a scene that are learnt from in a step; up to three have a digit."""
_WINDOW = 28
"""Pixels of a place's side that are looked at."""
NOBODY = 10
"""Where there is no digit."""


@dataclass(frozen=True)
class Read:
    """How likely what is at each place, logarithms."""

    digits: Float[Tensor, "scenes places 11"]
    """The last one: that there is none."""
    colours: Float[Tensor, "scenes places 6"]
    sizes: Float[Tensor, "scenes places 3"]
    backgrounds: Float[Tensor, "scenes 3"]
    features: Float[Tensor, "scenes 128"]
    """Before they are told apart."""


class Recogniser(nn.Module):
    """A classifier of places, the same for all nine."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Sequential(
            *_level(3, 32), *_level(32, 32), nn.MaxPool2d(2), *_level(32, 64), *_level(64, 64), nn.MaxPool2d(2),
            *_level(64, 128), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128 * 9, 128), nn.GELU(),
        )  # fmt: skip
        self.digit, self.colour = nn.Linear(128, 11), nn.Linear(128, len(COLOURS))
        self.size, self.background = nn.Linear(128, len(SIZES)), nn.Linear(128, len(BACKGROUNDS))

    def forward(
        self, pictures: Float[Tensor, "scenes 3 64 64"], places: Int[Tensor, "scenes some"] | None = None
    ) -> Read:
        """What pictures in [−1, 1] show.

        Args:
            pictures: of scenes.
            places: those of each picture that are looked at; None: all nine.
        """
        windows = _windows(pictures)
        if places is not None:
            windows = windows[torch.arange(len(windows))[:, None], places]
        features = self.levels(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
        logits = [head(features).float() for head in (self.digit, self.colour, self.size)]
        digits, colours, sizes = (each.log_softmax(-1) for each in logits)
        ground = self.background(features.mean(1)).float().log_softmax(-1)
        return Read(digits, colours, sizes, ground, features.mean(1).float())


def _windows(pictures: Float[Tensor, "scenes 3 64 64"]) -> Float[Tensor, "scenes 9 3 28 28"]:
    """The surroundings of each place."""
    half = _WINDOW // 2
    wide = F.pad(pictures, (half, half, half, half), mode="replicate")
    parts = [wide[:, :, row : row + _WINDOW, column : column + _WINDOW] for row in CENTRES for column in CENTRES]
    return torch.stack(parts, 1)


def _level(channels: int, width: int) -> list[nn.Module]:
    return [Conv3x3(channels, width), GroupNorm(8, width), nn.GELU()]


def read(recogniser: Recogniser, pictures: Float[Tensor, "scenes 3 64 64"]) -> Read:
    """What pictures in [−1, 1] show, some at a time."""
    with torch.inference_mode():
        parts = [recogniser(part.clamp(-1, 1)) for part in pictures.split(64)]
    return Read(*(torch.cat([getattr(part, name) for part in parts]) for name in Read.__dataclass_fields__))


def score(found: Read, number: int, asked: Sequence[Asked], background: str | None) -> dict[str, Any]:
    """How far a picture shows what was asked for.

    Args:
        found: what was read of pictures.
        number: of the picture.
        asked: digits, and where.
        background: of which colour, if that was asked for.

    Returns:
        `digit`, `colour`, `size` (where asked), `position`: whether each digit has it, the former three at its place; `background`:
        whether it has it, if asked; `all`: whether all is so, and there are no other digits.
    """
    shown = found.digits[number].argmax(-1)
    places = [PLACE_NAMES.index(each.place) for each in asked]
    digits = [int(shown[place]) == each.digit for place, each in zip(places, asked, strict=True)]
    positions = [int(shown[place]) != NOBODY for place in places]
    colours = _same(found.colours[number], places, [list(COLOURS).index(each.colour) for each in asked])
    sized = [(place, list(SIZES).index(each.size)) for place, each in zip(places, asked, strict=True) if each.size]
    sizes = _same(found.sizes[number], [place for place, _ in sized], [size for _, size in sized])
    grounds = [] if background is None else [list(BACKGROUNDS)[int(found.backgrounds[number].argmax())] == background]
    others = [int(shown[place]) == NOBODY for place in range(9) if place not in places]
    whole = all([*digits, *colours, *sizes, *grounds, *others])
    return {
        "digit": digits, "colour": colours, "size": sizes, "position": positions, "background": grounds, "all": [whole],
    }  # fmt: skip


def likelihood(found: Read, number: int, asked: Sequence[Asked], background: str | None) -> float:
    """Logarithm of how likely a picture shows just what was asked for."""
    total = float(found.backgrounds[number, list(BACKGROUNDS).index(background)]) if background else 0.0
    places = {PLACE_NAMES.index(each.place): each for each in asked}
    for place in range(9):
        each = places.get(place)
        total += float(found.digits[number, place, NOBODY if each is None else each.digit])
        if each is not None:
            total += float(found.colours[number, place, list(COLOURS).index(each.colour)])
            total += float(found.sizes[number, place, list(SIZES).index(each.size)]) if each.size else 0.0
    return total


def _same(found: Float[Tensor, "9 kinds"], places: Sequence[int], wanted: Sequence[int]) -> list[bool]:
    return [int(found[place].argmax()) == kind for place, kind in zip(places, wanted, strict=True)]


def train(out: Path, seed: int = 0, resume: bool = False) -> dict[str, Any]:
    """Train the recogniser on real scenes, somewhat blurred and noisy, and write `out/model.safetensors`.

    Args:
        out: the run's folder.
        seed: of weights and scenes.
        resume: go on with the run in `out`.

    Returns:
        The facts that the weights carry, its share of right answers on test scenes among them.
    """
    torch.manual_seed(seed)
    recogniser = Recogniser().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def batches(number: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([seed, number])
        found = [scenes.draw(number * _BATCH + each, "train", seed + 1) for each in range(_BATCH)]
        pictures = torch.stack([scenes.render(scene, rng) for scene in found]).float() / 127.5 - 1
        return pictures, *_labels(found)

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        pictures, digits, colours, sizes, grounds = batch
        # All places with a digit, and empty ones by chance: where most are empty, there is less to learn.
        chance = torch.rand(digits.shape, generator=generator) + (digits != NOBODY)
        places = chance.topk(_SEEN).indices
        digits, colours, sizes = (each.gather(1, places) for each in (digits, colours, sizes))
        blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
        soft, loud = (torch.rand((len(pictures), 1, 1, 1), generator=generator) for _ in range(2))
        pictures = pictures + 0.7 * soft * (blurred - pictures)
        found = model(pictures + 0.15 * loud * torch.randn(pictures.shape, generator=generator), places)
        there = digits != NOBODY
        return (
            F.nll_loss(found.digits.flatten(0, 1), digits.flatten())
            + 0.5 * F.nll_loss(found.colours[there], colours[there])
            + 0.5 * F.nll_loss(found.sizes[there], sizes[there])
            + 0.2 * F.nll_loss(found.backgrounds, grounds)
        )

    fitted = fit(recogniser, loss, batches, FIT, out, seed=seed, device_name="cpu", resume=resume)
    recogniser.load_state_dict(fitted.weights)
    facts = {
        "system": "stable_diffusion",
        "kind": "recogniser",
        "steps": fitted.step,
        "seconds": round(fitted.seconds),
    }
    if console.is_main_process():
        checkpoint.save_weights(Path(out) / "model.safetensors", fitted.weights, facts)
    return facts


def _labels(found: Sequence[Scene]) -> tuple[Tensor, ...]:
    """Digits, colours and sizes of all places, and backgrounds."""
    digits = torch.full((len(found), 9), NOBODY)
    colours, sizes = torch.zeros_like(digits), torch.zeros_like(digits)
    for line, scene in enumerate(found):
        for each in scene.digits:
            place = PLACE_NAMES.index(each.place)
            digits[line, place] = each.digit
            colours[line, place] = list(COLOURS).index(each.colour)
            sizes[line, place] = list(SIZES).index(each.size)
    return digits, colours, sizes, torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in found])


def load(path: Path | None = None) -> Recogniser:
    """The shipped recogniser, or one's own.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = hub.weights("stable_diffusion/recogniser") if path is None else path
    tensors, _ = checkpoint.load_weights(path, "stable_diffusion")
    recogniser = Recogniser().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    try:
        recogniser.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError:
        raise UserError(f"{path} is no recogniser", "train one with `almanac stable-diffusion recogniser`") from None
    return recogniser.eval()
