"""Sampling: from degraded images back to clean ones. `sample` holds the paper's algorithms on batches; `restore_picture` runs them on one
picture of any size, where the degradation acts on the whole picture and the network, trained on small images, on tiles of it."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from almanac.cold_diffusion import published
from almanac.cold_diffusion.degradations import Degradation, Images, State, from_json
from almanac.cold_diffusion.model import Unet, UnetConfig
from almanac.cold_diffusion.recipes import RESTORATION, recipe
from almanac.runtime import checkpoint, device, hub
from almanac.runtime.errors import UserError

Sampler = Literal["improved", "naive", "estimated", "direct"]
"""improved: Algorithm 2; naive: Algorithm 1; estimated: as naive, with the noise (or the other image) estimated anew at each step;
direct: one call of the network."""

RESTORATION_STRIDES = 2
"""Strides of a restoration: a first look, and a second one when half is undone. On MNIST blur, more are worse in every measure;
on MNIST mask it hardly matters (docs/log.md)."""

Severities = Int[Tensor, " batch"]

Restore = Callable[[Images, int], Images]
"""R(x_t, t): an estimate of the clean images, all at the same severity t ≥ 1."""

OnStep = Callable[[int, Images, Images], None]
"""Called at each step with t, x_t and the estimate R(x_t, t)."""


@dataclass(frozen=True)
class Restorer:
    """A trained network with the degradation that it inverts."""

    model: Unet
    degradation: Degradation
    data: str
    """The set of images that it was trained on."""
    size: int
    """Side of the images that it was trained on, pixels."""
    prior: State
    """What generation starts from, as `Degradation.fit_prior` fitted it."""
    device: torch.device
    strides: int | None = None
    """In how many strides it samples from the full severity; None: through every severity."""
    clip: bool = False
    """Whether its estimates are kept within [−1, 1]."""

    @property
    def channels(self) -> int:
        """1 grey, 3 colour."""
        return self.model.config.channels

    def path(self, t: int) -> list[int]:
        """The severities at which it is called when sampling from t (see `severities`)."""
        return severities(self.degradation.steps, t, self.strides)

    @torch.inference_mode()
    def __call__(self, degraded: Images, t: int) -> Images:
        """R(x_t, t), in bfloat16 where that is faster; the result is float32, as the sampler's differences need it."""
        time = torch.full((len(degraded),), t - 1, device=degraded.device)
        with device.autocast(self.device):
            estimate = self.model(degraded, time).float()
        return estimate.clamp(-1, 1) if self.clip else estimate


def load(name: str, device_name: str = "auto", degradation: str | None = None, strides: int | None = None) -> Restorer:
    """Load a restorer.

    Args:
        name: a shipped model (`cold_diffusion/mnist-blur`, or just `mnist-blur`), a path, `hf://owner/repo/file`; or a
            `.pt` file of the official code, which does not say its degradation.
        device_name: `auto`, `cpu` or `cuda`.
        degradation: for an official file: `blur`, or `blur@cifar10` where the settings depend on the set of images; for a
            model of the person's own degradation: `module:Class`.
        strides: in how many strides it samples; None: `RESTORATION_STRIDES` if it was trained to restore, every severity if to generate.

    Raises:
        UserError: there is no such model, it is damaged, or of another system.
    """
    where = device.resolve(device_name)
    path = hub.weights(f"cold_diffusion/{name}" if f"cold_diffusion/{name}" in shipped() else name)
    if path.suffix in (".pt", ".pth"):
        model = published.load(path)
        kind, _, images = (degradation or "").partition("@")
        if not kind:
            raise UserError(f"{path} does not say which degradation it inverts", "add --degradation, e.g. blur@cifar10")
        size = 32 if images in ("mnist", "cifar10") else 128
        found, prior, facts = recipe(kind, images, size), {}, {"data": images or "unknown", "size": size}
    else:
        tensors, facts = checkpoint.load_weights(path, "cold_diffusion")
        model, found, prior = _ours(path, tensors, facts, degradation)
    model = model.to(where, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
    of_the_paper = found in RESTORATION.get(facts["data"], {}).values()
    restores = facts["purpose"] == "restoration" if "purpose" in facts else of_the_paper
    strides = strides if strides is not None or not restores else RESTORATION_STRIDES
    return Restorer(model, found, facts["data"], facts["size"], prior, where, strides, restores)


def shipped() -> list[str]:
    """The restorers that ship with the project."""
    return [name for name in hub.shipped_weights("cold_diffusion") if "features" not in name]


def default_model(degradation: str, sets: tuple[str, ...]) -> str:
    """The shipped restorer for a degradation.

    Args:
        degradation: its name.
        sets: the sets of images that it may have been trained on, the best one first; then any other.

    Raises:
        UserError: none ships for it.
    """
    names = shipped()
    trained_on = {name.split("/")[1].rpartition("-")[0]: name for name in names if name.endswith(f"-{degradation}")}
    for images in (*sets, *trained_on):
        if images in trained_on:
            return trained_on[images]
    raise UserError(
        f"no trained model for '{degradation}' ships with the project",
        f"train one with `almanac cold-diffusion train --degradation {degradation}` and give --model; "
        f"shipped: {', '.join(name.split('/')[1] for name in names) or 'none'}",
    )


@torch.inference_mode()
def sample(
    restore: Restore,
    degradation: Degradation,
    degraded: Images,
    state: State,
    t: int,
    sampler: Sampler = "improved",
    on_step: OnStep | None = None,
    strides: int | None = None,
) -> Images:
    """Restore images that were degraded to severity t.

    Args:
        restore: the network.
        degradation: what degraded them.
        degraded: x_t = D(x_0, t).
        state: the state that degraded them.
        t: their severity; 0 returns them.
        sampler: see `Sampler`.
        on_step: told of every step.
        strides: see `severities`.

    Returns:
        The images at t = 0, not clipped.

    Raises:
        UserError: the sampler is unknown, or `estimated` with a degradation whose state can't be estimated.
    """
    if sampler not in get_args(Sampler):
        raise UserError(f"unknown sampler '{sampler}'", f"use {', '.join(get_args(Sampler))}")
    if sampler == "estimated" and not hasattr(degradation, "estimate_state"):
        raise UserError(f"{type(degradation).__name__} has no noise to estimate", "use --sampler improved")
    x = degraded
    for step, after in pairwise([*severities(degradation.steps, t, strides), 0]):
        estimate = restore(x, step)
        if on_step:
            on_step(step, x, estimate)
        if sampler == "direct":
            return estimate
        x = _step(degradation, x, estimate, state, step, after, sampler)
    return x


def severities(steps: int, t: int, strides: int | None = None) -> list[int]:
    """The severities at which sampling calls the network, falling.

    Args:
        steps: the full severity.
        t: where it begins.
        strides: into how many even strides the way from the full severity is cut; from a lower t, it takes those that are left. None:
            every severity, as in the paper.

    Raises:
        UserError: strides is below 1.
    """
    if strides is not None and strides < 1:
        raise UserError(f"strides is {strides}", "give a whole number from 1 on")
    count = min(strides or steps, steps)
    below = (round(steps * part / count) for part in range(count, 0, -1))
    return [t, *(step for step in below if step < t)] if t else []


def _step(
    degradation: Any, x: Images, estimate: Images, state: State, step: int, after: int, sampler: Sampler
) -> Images:
    """x at severity `after` from x at severity `step` and the estimate of x_0."""
    here, there = (torch.full((len(x),), severity, device=x.device) for severity in (step, after))
    if sampler == "estimated":
        state = degradation.estimate_state(x, estimate, here)
    if sampler == "improved":
        return update(degradation, x, estimate, here, there, state)
    return degradation(estimate, there, state)


def update(
    degradation: Degradation, x: Images, estimate: Images, here: Severities, there: Severities, state: State
) -> Images:
    """The improved update (paper, Algorithm 2): x_t at severity `there` from x_t at `here` and an estimate of x_0. What the
    estimate and D get wrong alike at both severities cancels."""
    return x - degradation(estimate, here, state) + degradation(estimate, there, state)


def restore_picture(
    restorer: Restorer,
    degraded: Float[Tensor, "channels height width"],
    state: State,
    t: int,
    sampler: Sampler = "improved",
    on_step: OnStep | None = None,
) -> Float[Tensor, "channels height width"]:
    """Restore a picture of any size.

    Args:
        restorer: the network; a picture larger than its training size is given to it in overlapping tiles.
        degraded: the picture, in [−1, 1].
        state: the state of the degradation, for a batch of this one picture.
        t: severity.
        sampler: see `Sampler`.
        on_step: told of every step.
    """
    batch = degraded[None].to(restorer.device)

    def tiled(x: Images, step: int) -> Images:
        return _by_tiles(restorer, x, step)

    return sample(tiled, restorer.degradation, batch, state, t, sampler, on_step, restorer.strides)[0].cpu()


def tile_count(size: int, height: int, width: int) -> int:
    """How many tiles of a network trained at `size` a picture takes."""
    return len(_starts(height, size)) * len(_starts(width, size))


_TILES_AT_ONCE = 64
"""Tiles a call of the network; 64 of 32 × 32 fill two cores without filling memory."""


def _by_tiles(restorer: Restorer, x: Float[Tensor, "1 channels height width"], t: int) -> Images:
    """R on a whole picture: overlapping tiles of the training size, blended with weights that fall towards their edges."""
    height, width = x.shape[2:]
    size = restorer.size
    padded = F.pad(x, (0, max(0, size - width), 0, max(0, size - height)), mode="replicate")
    rows, columns = _starts(padded.shape[2], size), _starts(padded.shape[3], size)
    corners = [(row, column) for row in rows for column in columns]
    ramp = torch.arange(1, size + 1, device=x.device, dtype=x.dtype)
    ramp = torch.minimum(ramp, ramp.flip(0)).clamp(max=size // 4)
    weight = ramp[:, None] * ramp
    total, weights = torch.zeros_like(padded), torch.zeros_like(padded)
    for first in range(0, len(corners), _TILES_AT_ONCE):
        group = corners[first : first + _TILES_AT_ONCE]
        tiles = torch.cat([padded[:, :, row : row + size, column : column + size] for row, column in group])
        for (row, column), restored in zip(group, restorer(tiles, t), strict=True):
            total[0, :, row : row + size, column : column + size] += restored * weight
            weights[0, :, row : row + size, column : column + size] += weight
    return (total / weights)[:, :, :height, :width]


def _starts(length: int, size: int) -> list[int]:
    """Where tiles of `size` begin, overlapping by at least a quarter, the last one flush with the end."""
    if length <= size:
        return [0]
    stride = size * 3 // 4
    return [*range(0, length - size, stride), length - size]


def _ours(
    path: Any, tensors: dict[str, Tensor], facts: dict[str, Any], trusted: str | None
) -> tuple[Unet, Degradation, State]:
    try:
        network = facts["network"]
        model = Unet(UnetConfig(network["dim"], tuple(network["dim_mults"]), network["channels"]))
        degradation = from_json(facts["degradation"], trusted)
        weights = {name[6:]: tensor.float() for name, tensor in tensors.items() if name.startswith("model.")}
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a cold-diffusion restorer ({reason})", "train one, or give a shipped name"
        ) from None
    return model, degradation, {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("prior.")}
