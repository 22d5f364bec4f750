"""How well pictures show what was asked for. Scenes are read by a recogniser that saw real ones only, beside what it makes of real pictures
(the ceiling), of those that the autoencoder gives back (what a U-Net could reach), and of pictures whose captions were shuffled (chance).
Emoji that were held out are compared with the true ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from almanac.runtime import metrics
from almanac.runtime.errors import UserError
from almanac.stable_diffusion import data, recogniser, scenes
from almanac.stable_diffusion.data import Emoji
from almanac.stable_diffusion.generate import Painter, Settings
from almanac.stable_diffusion.recogniser import Read, Recogniser
from almanac.stable_diffusion.scenes import Asked

Advance = Callable[..., None]

MEASURED = ("digit", "colour", "position", "size", "background", "all")
"""What is read of a scene: a share of digits, of captions that name a background, and of captions."""
_CHOICES = 10
"""Captions of which a picture's own is to be found (R-precision)."""
_SEED = 2022
"""Of the scenes that are measured, none of which a training saw."""


@dataclass(frozen=True)
class Test:
    """What is to be painted."""

    captions: list[str]
    asked: list[tuple[list[Asked], str | None]]
    real: Float[Tensor, "count 3 size size"] | None
    """Pictures of the same, where there are such."""


def scene_test(count: int) -> Test:
    """Captions of held-out combinations, with real pictures: all digits of all of them are such."""
    held_out = data.load("scenes", "test", scenes.SIDE, _SEED)
    captions = held_out.captions(range(count))
    return Test(captions, [scenes.understand(caption) for caption in captions], held_out.pictures(range(count)))


def own_test(path: Path) -> Test:
    """Captions of a file, a line each.

    Raises:
        UserError: it can't be read, or a line is no caption of a scene.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error})", "give a text file with a caption a line") from None
    if not lines:
        raise UserError(f"{path} has no captions", "write one a line")
    return Test(lines, [scenes.understand(line) for line in lines], None)


def paint(
    painter: Painter, captions: Sequence[str], settings: Settings, seed: int, advance: Advance
) -> Float[Tensor, "count 3 height width"]:
    """A picture of each caption, from a seed of its own.

    Args:
        painter: paints.
        captions: what.
        settings: how; their prompt is not used.
        seed: of the first; the next have the next ones.
        advance: told after each.
    """
    made = []
    for number, caption in enumerate(captions):
        made.append(painter.paint(replace(settings, prompt=caption), [seed + number]))
        advance()
    return torch.cat(made)


def scene_rows(
    painter: Painter,
    judge: Recogniser,
    test: Test,
    settings: Settings,
    scales: Sequence[float],
    seed: int,
    advance: Advance,
) -> tuple[list[dict[str, Any]], Float[Tensor, "count 3 height width"]]:
    """Rows of `kind` (real, autoencoded, painted, shuffled), `scale`, `n`, shares of `MEASURED`, `r_precision`, and `fd` and `kid` from
    other real scenes, with the floor between two real sets in the row `real`.

    Args:
        painter: paints.
        judge: reads scenes.
        test: what is asked for.
        settings: how pictures are made.
        scales: of guidance, to be compared.
        seed: of the first picture.
        advance: told after each picture.

    Returns:
        The rows, and the pictures of the first scale.
    """
    count = len(test.captions)
    other = data.load("scenes", "test", scenes.SIDE, _SEED + 1).pictures(range(max(count, 64)))
    reference = recogniser.read(judge, other).features
    rows, first = [], None

    def row(kind: str, pictures: Tensor, asked: Sequence[tuple[list[Asked], str | None]], **how: Any) -> None:
        found = recogniser.read(judge, pictures)
        rows.append({"kind": kind, **how, "n": count, **_shares(found, asked), **_distances(found, reference)})

    if test.real is not None:
        row("real", test.real, test.asked)
        row("autoencoded", _there_and_back(painter, test.real), test.asked)
    for scale in scales:
        pictures = paint(painter, test.captions, replace(settings, scale=scale), seed, advance)
        row("painted", pictures, test.asked, scale=scale)
        first = pictures if first is None else first
    if first is None:
        raise UserError("no scale of guidance is given", "give --scale 3")
    row("shuffled", first, [*test.asked[1:], test.asked[0]], scale=scales[0])
    return rows, first


def _shares(found: Read, asked: Sequence[tuple[list[Asked], str | None]]) -> dict[str, float]:
    scores = [recogniser.score(found, number, *each) for number, each in enumerate(asked)]
    counted = {name: [right for score in scores for right in score[name]] for name in MEASURED}
    shares = {name: round(sum(right) / len(right), 4) for name, right in counted.items() if right}
    ranked = [_is_first(found, number, asked) for number in range(len(asked))]
    return shares | {"r_precision": round(sum(ranked) / len(ranked), 4)}


def _is_first(found: Read, number: int, asked: Sequence[tuple[list[Asked], str | None]]) -> bool:
    """Whether a picture's own caption is the likeliest of ten: those that follow it."""
    own, *others = [
        recogniser.likelihood(found, number, *asked[(number + step) % len(asked)])
        for step in range(min(_CHOICES, len(asked)))
    ]
    return all(own > other for other in others)


def _distances(found: Read, reference: Float[Tensor, "m features"]) -> dict[str, float]:
    if len(found.features) <= 2:
        return {}
    fd = metrics.frechet_distance(found.features, reference)
    return {"fd": round(fd, 3), "kid": round(metrics.kernel_distance(found.features, reference), 4)}


def _there_and_back(painter: Painter, pictures: Float[Tensor, "count 3 height width"]) -> Tensor:
    return torch.cat([painter.decode(painter.encode(part)).cpu() for part in pictures.split(16)])


def emoji_rows(
    painter: Painter, settings: Settings, limit: int | None, seed: int, advance: Advance
) -> list[dict[str, Any]]:
    """A row of held-out emoji that have one skin tone: `tone`: of the true pictures of the same emoji in all tones, the nearest has the
    right one; `base`: of all true pictures of the style, the nearest is of the same emoji; `rmse` from the true picture, on [0, 1]; beside
    `rmse_other`: that of another tone of the same emoji (0.119 over all: what a model has to beat).

    Args:
        painter: paints.
        settings: how.
        limit: at most so many emoji.
        seed: of the first picture.
        advance: told after each.
    """
    known = dict(_true_emoji(settings.width))
    asked = [each for each in known if each.is_held_out and len(each.tones) == 1][:limit]
    if not asked:
        raise UserError("there are no held-out emoji", "get the set `emoji` with its captions")
    painted = paint(painter, [data.caption_of(each) for each in asked], settings, seed, advance)
    names = list(known)
    truth = torch.stack(list(known.values()))
    tones, bases, errors, others = [], [], [], []
    for each, picture in zip(asked, painted, strict=True):
        away = (truth - picture).square().mean((1, 2, 3)).sqrt() / 2
        alike = [at for at, name in enumerate(names) if name.style == each.style]
        same = [at for at in alike if _base(names[at]) == _base(each) and names[at].tones]
        own = names.index(each)
        bases.append(_base(names[min(alike, key=lambda at: float(away[at]))]) == _base(each))
        tones.append(min(same, key=lambda at: float(away[at])) == own)
        errors.append(float(away[own]))
        apart = (truth[same] - truth[own]).square().mean((1, 2, 3)).sqrt() / 2
        others += [float(value) for at, value in zip(same, apart, strict=True) if at != own]
    mean = {name: sum(values) / max(len(values), 1) for name, values in
            {"tone": tones, "base": bases, "rmse": errors, "rmse_other": others}.items()}  # fmt: skip
    return [{"kind": "painted", "scale": settings.scale, "n": len(asked), **{k: round(v, 4) for k, v in mean.items()}}]


def _true_emoji(size: int) -> list[tuple[Emoji, Float[Tensor, "3 size size"]]]:
    """All emoji, with their pictures in [−1, 1]."""
    found = []
    for split in ("train", "test"):
        held = data.load("emoji", split, size)
        chosen = [each for each in data.emoji() if each.is_held_out == (split == "test")]
        found += list(zip(chosen, held.pictures(range(len(held))), strict=True))
    return found


def _base(each: Emoji) -> str:
    """An emoji's sequence without its tones."""
    return "-".join(part for part in each.sequence.split("-") if part not in each.tones and part != "fe0f")
