"""The paper's headline: how well each trained degradation is undone (degraded, direct and sampled images against clean ones; tables 1
to 4), how well images are generated (table 5), and its first figure, redrawn from our models."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from almanac.cold_diffusion import data, features
from almanac.cold_diffusion.degradations import SYMMETRY_NOISE, to_json
from almanac.cold_diffusion.degrade import cut, degrade_set, measure
from almanac.cold_diffusion.generate import generate, start
from almanac.cold_diffusion.recipes import RESTORATION
from almanac.cold_diffusion.restore import Restorer, Sampler, load, sample, severities
from almanac.runtime import metrics, plots
from almanac.runtime.errors import UserError
from almanac.runtime.pictures import to_picture

Advance = Callable[..., None]

FIGURE_ROWS = ("noise", "blur", "animorph", "mask", "pixelate", "snow")
"""Rows of the paper's first figure."""
_FIGURED = 8
"""The test image that the figure degrades: a sunflower among emoji."""
_BATCH = 250


def degraded_rows(seed: int) -> list[dict[str, Any]]:
    """The paper's "degraded" columns, which need no training: every restoration recipe on the whole test set, where that is at hand.

    Returns:
        Rows of `degradation, data, n, rmse, ssim`.
    """
    rows = []
    for images, recipes in RESTORATION.items():
        for name, degradation in recipes.items() if data.at_hand(images) else ():
            clean, degraded, _ = degrade_set(degradation, data.load(images, "test", 32), seed)
            rows.append({"degradation": name, "data": images, "n": len(clean), **measure(degraded, clean)})
    return rows


def restoration_rows(
    name: str, limit: int, seed: int, device_name: str, advance: Advance, strides: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    """The rows `degraded`, `direct` and `sampled` of one model, on test images of the set that it was trained on.

    Args:
        name: the model.
        limit: at most so many test images.
        seed: of the samples' states.
        device_name: where to run.
        advance: told of each network call on a batch.
        strides: in how many strides to sample, a row each; none: in the model's own number.

    Returns:
        Rows of `model, degradation, data, kind, n, rmse, ssim, fd, kid`, where fd and kid compare with training images; `fd_real` is
        the same for the clean test images, the floor; `kept`, where there are labels: how often the class is still recognised;
        `strides`, where sampled.
    """
    restorer = load(name, device_name)
    counts = _strides(restorer, strides)
    test = data.load(restorer.data, "test", restorer.size)
    clean, degraded, state = degrade_set(restorer.degradation, test, seed, limit)
    judge = Judge(restorer)
    real = judge.compare(clean)["fd"]
    direct = _restored(restorer, degraded, state, "direct", 1, advance)
    sampled = [_restored(restorer, degraded, state, "improved", count, advance) for count in counts]
    labels = None if test.labels is None or restorer.channels == 3 else test.labels[: len(clean)]
    rows = []
    measured = [("degraded", {}, degraded), ("direct", {}, direct)]
    measured += [("sampled", {"strides": count}, images) for count, images in zip(counts, sampled, strict=True)]
    for kind, how, images in measured:
        row = {**_about(name, restorer), "kind": kind, **how, "n": len(clean)}
        row |= measure(images, clean) | judge.compare(images) | {"fd_real": real}
        if labels is not None:
            row["kept"] = round((judge.classes(images) == labels).float().mean().item(), 4)
        rows.append(row)
    return rows


def generation_rows(name: str, count: int, seed: int, device_name: str, advance: Advance) -> list[dict[str, Any]]:
    """Distances of generated images from training images, for each way of starting and sampling that the paper compares.

    Args:
        name: the model.
        count: how many images to generate in each way.
        seed: of the starts.
        device_name: where to run.
        advance: told of each network call on a batch.

    Returns:
        Rows of `model, degradation, data, kind, n, fd, kid`; none for a degradation that can't generate.
    """
    restorer = load(name, device_name)
    judge = Judge(restorer)
    rows = []
    for kind, sampler, noise in generation_kinds(restorer):
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for first in range(0, count, _BATCH):
            size = min(_BATCH, count - first)
            parts.append(generate(restorer, size, generator, sampler, noise, lambda *_: advance()).cpu())
        row = {**_about(name, restorer), "kind": kind, "n": count}
        rows.append(row | judge.compare(torch.cat(parts)))
    return rows


def generation_kinds(restorer: Restorer) -> list[tuple[str, Sampler, float]]:
    """Name, sampler and symmetry noise of the ways of generating that are compared for a model's degradation."""
    try:
        start(restorer, 1, torch.Generator().manual_seed(0))
    except UserError:
        return []
    if hasattr(restorer.degradation, "estimate_state"):
        return [("fixed state", "improved", 0.0), ("estimated state", "estimated", 0.0)]
    if restorer.degradation.thumbnail == 1:
        return [("perfect symmetry", "improved", 0.0), ("broken symmetry", "improved", SYMMETRY_NOISE)]
    return [("improved", "improved", SYMMETRY_NOISE)]


def draw_figure(names: list[str], seed: int, device_name: str, folder: Path) -> Path | None:
    """The paper's first figure: a row a degradation; an image, its degradation growing to the right up to the middle, then the
    sampling back to a generated image.

    Args:
        names: models; the first one for each of `FIGURE_ROWS` makes its row, emoji before other colour models before grey ones.
        seed: of states and symmetry noise.
        device_name: where to run.
        folder: where `figure.png` goes.

    Returns:
        The file, or None where no model has a row.
    """
    ranked = sorted(names, key=lambda name: (not name.startswith("emoji"), name.startswith("mnist")))
    found = {row: next((name for name in ranked if name.endswith(f"-{row}")), None) for row in FIGURE_ROWS}
    rows = []
    for row, name in found.items():
        if name is None:
            continue
        restorer = load(name, device_name)
        rows.append((row, list(forth_and_back(restorer, example(restorer, _FIGURED), seed))))
    if not rows:
        return None
    headers = [("original", 1), ("forward: degraded", 4), ("reverse: sampled", 4), ("generated", 1)]
    return plots.save_png(plots.picture_table(rows, headers), folder / "figure.png")


def example(restorer: Restorer, number: int) -> Tensor:
    """A real image of the kind that a model was trained on, a batch of one in [−1, 1]: of the same set's test part where that is at
    hand, else of the sets that are always there."""
    usual = "digits" if restorer.channels == 1 else "photos"
    known = data.load(restorer.data if data.at_hand(restorer.data) else usual, "test", restorer.size, restorer.channels)
    return known.batch(slice(number % len(known), number % len(known) + 1))


def forth_and_back(restorer: Restorer, original: Tensor, seed: int) -> Iterator[Image.Image]:
    """The ten pictures of a row of the figure."""
    degrade, steps = restorer.degradation, restorer.degradation.steps
    generator = torch.Generator().manual_seed(seed)
    original = original.to(restorer.device)
    state = degrade.draw(original, generator)
    for part in (0, 0.15, 0.35, 0.6, 1):
        t = min(steps, max(1, round(part * steps))) if part else 0
        yield to_picture(degrade(original, torch.tensor([t], device=original.device), state)[0])
    degraded = degrade(original, degrade.full(original), state)
    degraded = degraded + SYMMETRY_NOISE * torch.randn(degraded.shape, generator=generator).to(degraded.device)
    seen = {}

    def on_step(t: int, x: Tensor, estimate: Tensor) -> None:
        seen[t] = x

    generated = sample(restorer, degrade, degraded, state, steps, "improved", on_step, restorer.strides)
    for part in (1, 0.6, 0.35, 0.15):
        yield to_picture(seen[min(seen, key=lambda t: abs(t - part * steps))][0])
    yield to_picture(generated[0])


class Judge:
    """Compares images with the training images of a model's set, by our features."""

    def __init__(self, restorer: Restorer, limit: int = 10_000):
        self.extractor = features.load(restorer.channels)
        train = data.load(restorer.data, "train", restorer.size)
        self.reference, _ = features.extract(self.extractor, train.batch(slice(None, limit)))

    def compare(self, images: Tensor) -> dict[str, float]:
        """FD and KID of images in [−1, 1]."""
        found, _ = features.extract(self.extractor, images.cpu())
        fd = metrics.frechet_distance(found, self.reference)
        return {"fd": round(fd, 4), "kid": round(metrics.kernel_distance(found, self.reference), 5)}

    def classes(self, images: Tensor) -> Tensor:
        """What each image is taken for."""
        return features.extract(self.extractor, images.cpu())[1]


def _about(name: str, restorer: Restorer) -> dict[str, str]:
    """Which model a row is of."""
    return {"model": name, "degradation": to_json(restorer.degradation)["name"], "data": restorer.data}


def _strides(restorer: Restorer, asked: tuple[int, ...]) -> list[int]:
    """The numbers of network calls of samplings in the strides that were asked for, else in the model's own."""
    steps = restorer.degradation.steps
    return [len(severities(steps, steps, count)) for count in asked or (restorer.strides,)]


def _restored(
    restorer: Restorer, degraded: Tensor, state: dict[str, Tensor], sampler: Sampler, strides: int, advance: Advance
) -> Tensor:
    """Restorations of fully degraded images."""
    restored = []
    for first in range(0, len(degraded), _BATCH):
        here = {key: value.to(restorer.device) for key, value in cut(state, first, _BATCH).items()}
        batch = degraded[first : first + _BATCH].to(restorer.device)
        degrade = restorer.degradation
        made = sample(restorer, degrade, batch, here, degrade.steps, sampler, lambda *_: advance(), strides)
        restored.append(made.cpu())
    return torch.cat(restored)


def calls(name: str, limit: int, generated: int, strides: tuple[int, ...] = ()) -> int:
    """How many network calls on a batch the rows of a model take, for the progress bar."""
    restorer = load(name, "cpu")
    count = min(limit, len(data.load(restorer.data, "test", restorer.size)))
    batches, generating = -(-count // _BATCH), -(-generated // _BATCH)
    generation = len(restorer.path(restorer.degradation.steps)) * len(generation_kinds(restorer))
    return (1 + sum(_strides(restorer, strides))) * batches + generation * generating
