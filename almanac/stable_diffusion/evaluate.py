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


@dataclass(frozen=True)
class EmojiTest:
    """Emoji that no training saw, and all that there are."""

    asked: list[Emoji]
    known: dict[Emoji, Float[Tensor, "3 size size"]]
    """With their pictures in [−1, 1]."""


def emoji_test(size: int, limit: int | None = None) -> EmojiTest:
    """Those with one skin tone first, whose tones are scored; then those of a style whose twin of the other style was seen.

    Args:
        size: pixels of a side.
        limit: at most so many of either.

    Raises:
        UserError: there are no held-out emoji.
    """
    known: dict[Emoji, Tensor] = {}
    for split in ("train", "test"):
        held = data.load("emoji", split, size)
        chosen = [each for each in data.emoji() if each.is_held_out == (split == "test")]
        known |= zip(chosen, held.pictures(range(len(held))), strict=True)
    twins = {(each.sequence, each.style) for each in known}
    toned = [each for each in known if each.is_held_out and len(each.tones) == 1]
    styled = [
        each for each in known if each.is_held_out and not each.tones and (each.sequence, _other_style(each)) in twins
    ]
    asked = [*toned[:limit], *styled[:limit]]
    if not asked:
        raise UserError("there are no held-out emoji", "get the set `emoji` with its captions")
    return EmojiTest(asked, known)


def emoji_rows(
    painter: Painter, test: EmojiTest, settings: Settings, scales: Sequence[float], seed: int, advance: Advance
) -> tuple[list[dict[str, Any]], Float[Tensor, "count 3 height width"]]:
    """Rows of `kind` (autoencoded, painted), `held_out` (tone, style), `scale`, `n` and what `emoji_scores` finds.

    Args:
        painter: paints.
        test: what is asked for.
        settings: how pictures are made.
        scales: of guidance, to be compared.
        seed: of the first picture.
        advance: told after each picture.

    Returns:
        The rows, and the pictures of the first scale.
    """
    truth = torch.stack([test.known[each] for each in test.asked])
    captions = [data.caption_of(each) for each in test.asked]
    painted = [paint(painter, captions, replace(settings, scale=scale), seed, advance) for scale in scales]
    made: list[tuple[dict[str, Any], Tensor]] = [({"kind": "autoencoded"}, _there_and_back(painter, truth))]
    made += [({"kind": "painted", "scale": scale}, each) for scale, each in zip(scales, painted, strict=True)]
    rows = []
    for held_out, toned in (("tone", True), ("style", False)):
        numbers = [number for number, each in enumerate(test.asked) if bool(each.tones) == toned]
        asked = [test.asked[number] for number in numbers]
        for how, pictures in made if asked else ():
            scores = emoji_scores(asked, pictures[numbers], test.known)
            rows.append({"held_out": held_out, **how, "n": len(asked), **scores})
    return rows, painted[0]


def emoji_scores(
    asked: Sequence[Emoji],
    pictures: Float[Tensor, "count 3 size size"],
    known: dict[Emoji, Float[Tensor, "3 size size"]],
) -> dict[str, float]:
    """What share of pictures is nearest to the right one of some true ones, by the error of their pixels.

    Args:
        asked: what each picture shows; all with a skin tone, or none.
        pictures: in [−1, 1].
        known: true ones.

    Returns:
        `tone`: among the tones of the same emoji, or `style`: among both styles of it. `base`: among all emoji of the style, one of the
        same base is nearest. `rmse`: from the true picture, on [0, 1]; `rmse_other`: of the other tones, or of the other style, from it.
    """
    names, truth = list(known), torch.stack(list(known.values())).flatten(1)
    wide = truth.shape[1] ** 0.5 * 2
    away = torch.cdist(pictures.flatten(1), truth) / wide
    rights, bases, errors, others = [], [], [], []
    for each, line in zip(asked, away, strict=True):
        alike = [at for at, name in enumerate(names) if name.style == each.style]
        same = [at for at in alike if names[at].tones and _base(names[at]) == _base(each)]
        if not each.tones:
            same = [at for at, name in enumerate(names) if name.sequence == each.sequence]
        own = names.index(each)
        rights.append(min(same, key=lambda at: float(line[at])) == own)
        bases.append(_base(names[min(alike, key=lambda at: float(line[at]))]) == _base(each))
        errors.append(float(line[own]))
        others += [float((truth[at] - truth[own]).norm() / wide) for at in same if at != own]
    of_what = "tone" if asked[0].tones else "style"
    found = {of_what: rights, "base": bases, "rmse": errors, "rmse_other": others}
    return {name: round(sum(values) / max(len(values), 1), 4) for name, values in found.items()}


def _other_style(each: Emoji) -> str:
    return "fluent3d" if each.style == "noto" else "noto"


def _base(each: Emoji) -> str:
    """An emoji's sequence without its tones."""
    return "-".join(part for part in each.sequence.split("-") if part not in each.tones and part != "fe0f")
