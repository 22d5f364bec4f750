"""The recipe of one block (Block-NeRF, sections 4.2 and 5.1): pixels of its own photos, drawn at random, are to look as they did; poses
stay where they are until there is something to align them by; how well points are seen is learnt beside it, and moves nothing else."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.block_nerf import rendering
from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.captures.photos import Batch, Photos
from almanac.block_nerf.fields.hash_grid import HashField
from almanac.block_nerf.fields.ipe import IpeField, two_passes
from almanac.block_nerf.fields.occupancy import FAR, NEAR
from almanac.block_nerf.model import Block, Dimensions
from almanac.block_nerf.rendering import Samples
from almanac.runtime import device
from almanac.runtime.fit import FitConfig, fit

_EXPLORED = (1.0, 0.2, 300)
"""Share of samples that look anywhere: at first, at last, and the step from which on it is so few."""
_JOINING = (4, 0.5)
"""Levels of the tables at first, and the part of the steps after which all have joined in: poses are found by what is coarse (Lin et al.
2021, "BARF")."""
_SEEN_FROM = 1_024  # rays of a batch that visibility is learnt of
_COARSE = 0.1  # weight of mip-NeRF's first pass


@dataclass(frozen=True)
class Preset:
    """A size of machine."""

    block: Dimensions
    rays: int
    """That a batch draws."""
    fit: FitConfig
    """How to optimise."""
    masked: bool = True
    """Whether what masks cover is left out."""
    distortion: tuple[float, float] = (0.005, 0.2)
    """Weight, at first and at last, of how far what a ray sees is spread along it, by the logarithm of the distance (mip-NeRF 360, section
    4): there are surfaces to be found before they can be made thin."""
    decay: float = 0.1
    """Weight of the mean square of what each level's table keeps: where photos say nothing, as of a bare road, coarse levels speak, which
    make it even (Barron et al. 2023, "Zip-NeRF", normalized weight decay)."""
    pose_penalty: tuple[float, float, float] = (1e5, 1e-2, 0.1)
    """Weight of the poses' offsets at first, at last, and after which part of the steps it is there (section 4.2.2: 1e5, 1e-1, and 5,000
    steps of 300,000)."""


PRESETS = {
    "cpu": Preset(
        Dimensions(),
        3_072,
        FitConfig(
            7_000,
            learning_rate=1e-2,
            shares={"field.encoding": 10.0, "poses": 10.0},
            final_ratio=0.03,
            warmup_steps=50,
            eps=1e-15,
            clip_norm=1e3,
            ema_decay=0.98,
            ema_every=5,
            precision="fp32",
            save_every=1_000,
        ),
    ),
    "gpu": Preset(
        Dimensions(levels=12, log2_rows=21, finest=16_384, samples=32),
        65_536,
        FitConfig(
            10_000,
            learning_rate=5e-3,
            shares={"field.encoding": 4.0, "poses": 4.0},
            final_ratio=0.01,
            warmup_steps=200,
            eps=1e-15,
            clip_norm=1e3,
            ema_decay=0.99,
            precision="fp32",
            save_every=1_000,
        ),
    ),
    # The supplement: Adam from 2e-3 to 2e-5, a warm-up of 1,024 steps; sections 3.1 and 4: mip-NeRF's recipe with the paper's networks.
    "paper": Preset(
        Dimensions("ipe-mlp", width=512, colour_layers=3, colour_width=128, octaves=4, samples=256),
        16_384,
        FitConfig(
            300_000,
            learning_rate=2e-3,
            final_ratio=0.01,
            warmup_steps=1_024,
            precision="fp32",
            save_every=5_000,
            log_every=100,
        ),
        distortion=(0.0, 0.0),
        pose_penalty=(1e5, 1e-1, 5_000 / 300_000),
    ),
}
"""From the beginning."""


class Batches:
    """Batches by number.

    Args:
        photos: of one block.
        count: rays of a batch.
        seed: of the order.
        masked: whether what masks cover is left out.
    """

    def __init__(self, photos: Photos, count: int, seed: int, masked: bool):
        self.photos, self.count, self.seed, self.masked = photos, count, seed, masked

    def __call__(self, number: int) -> Batch:
        return self.photos.batch(self.count, np.random.default_rng([self.seed, number]), self.masked)


@dataclass(frozen=True)
class Told:
    """What a block's networks are told of its photos."""

    origin: tuple[float, float, float]
    """The block's middle, in the world's metres."""
    codes: Int[np.ndarray, " photos"]
    """Number of each photo's code."""
    segments: Int[np.ndarray, " photos"]
    exposures: Float[np.ndarray, " photos"]
    """Over the middle one; 1 where it isn't known."""


def train_block(
    photos: Photos,
    told: Told,
    out: Path,
    preset: Preset,
    *,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
) -> tuple[Block, dict[str, Any]]:
    """Train one block.

    Args:
        photos: that it learns from.
        told: what is known of them.
        out: the run's folder.
        preset: its size, and how it is trained.
        seed: of weights and order.
        device_name: auto, cpu or cuda.
        resume: go on with the run in `out`.

    Returns:
        the block with averaged weights, and how it came to be.

    Raises:
        UserError: as `fit`.
    """
    torch.manual_seed(seed)
    block = Block(preset.block)
    began = time.time()
    fitted = fit(
        block,
        block_loss(preset, told),
        Batches(photos, preset.rays, seed, preset.masked),
        preset.fit,
        out,
        seed=seed,
        device_name=device_name,
        resume=resume,
    )
    block.load_state_dict(fitted.weights)
    facts = {
        "preset": asdict(preset),
        "loss": round(fitted.loss, 6),
        "steps": fitted.step,
        "seconds": round(fitted.seconds, 1),
        "machine": device.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "seed": seed,
    }
    return block.eval(), facts


def block_loss(preset: Preset, told: Told) -> Callable[[nn.Module, Batch, torch.Generator], Tensor]:
    """The loss of a batch, for `fit`.

    Args:
        preset: how it is trained.
        told: what is known of the photos.
    """
    origin = torch.tensor(told.origin, dtype=torch.float32)
    codes, segments = torch.from_numpy(told.codes), torch.from_numpy(told.segments)
    exposures = torch.from_numpy(told.exposures.astype(np.float32))

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        assert isinstance(model, Block)
        where = batch.rays.origins.device
        rays = Rays(batch.rays.origins - origin.to(where), *batch.rays[1:])
        if model.poses is not None:
            rays = model.poses.corrected(rays, segments.to(where)[batch.photo])
        step = int(model.steps)
        model.steps += 1
        if isinstance(model.field, HashField):
            model.field.encoding.joined = _joined(preset, step)
        first, samples = _sampled(model, rays, preset, step, generator)
        light = model.light(codes.to(where)[batch.photo], exposures.to(where)[batch.photo])
        view, density, weight = model.seen(rays, light, samples)
        total = F.mse_loss(view.colours, batch.colours)
        if first is not None:
            total = total + _COARSE * F.mse_loss(model.seen(rays, light, first)[0].colours, batch.colours)
        total = total + _spread(preset, step) * _distortion(rays, samples, weight)
        if isinstance(model.field, HashField):
            total = total + preset.decay * model.field.encoding.mean_squares()
        if model.occupancy is not None:
            model.occupancy.remember(rays, samples, density.detach())
        total = total + _visibility_loss(model, rays, samples, weight.detach(), generator)
        if model.poses is not None:
            total = total + _penalty(preset, step) * model.poses.size(preset.block.radius)
        return total

    return loss


def _sampled(
    model: Block, rays: Rays, preset: Preset, step: int, generator: torch.Generator
) -> tuple[Samples | None, Samples]:
    """Where rays are sampled; mip-NeRF's first pass, too, where the field has one."""
    count = preset.block.samples
    if isinstance(model.field, IpeField):
        random = _drawn((len(rays.origins), 2 * count + 2), generator, rays)
        return two_passes(model.field, rays, count, random, preset.block.radius)
    assert model.occupancy is not None
    begin, end, until = _EXPLORED
    share = begin + (end - begin) * min(step / until, 1.0)
    return None, model.occupancy.samples(rays, _drawn((len(rays.origins),), generator, rays), count, share)


def _distortion(rays: Rays, samples: Samples, weight: Float[Tensor, " samples"]) -> Tensor:
    """By the logarithm of the distance, from 0 at the nearest sample to 1 at the farthest that there may be."""
    lengths = rays.directions.detach().norm(dim=-1)[samples.ray]
    starts, ends = (
        (each * lengths / NEAR).clamp_min(1.0).log() / math.log(FAR / NEAR) for each in (samples.starts, samples.ends)
    )
    return rendering.distortion(weight, starts, ends, samples)


def _visibility_loss(
    model: Block,
    rays: Rays,
    samples: Samples,
    weight: Float[Tensor, " samples"],
    generator: torch.Generator,
) -> Tensor:
    """What light comes from a place on each ray, drawn at random, that before and behind what is seen are learnt alike. Nothing of it
    reaches the field, so its weight is its own affair."""
    count = min(_SEEN_FROM, len(rays.origins))
    lengths = rays.directions[:count].detach().norm(dim=-1)
    drawn = _drawn((count,), generator, rays)
    at = NEAR * (FAR / 4 / NEAR) ** drawn / lengths
    last = int(samples.offsets[count])
    before = samples.ends[:last] <= at[samples.ray[:last]]
    stopped = weight.new_zeros(count).index_add_(0, samples.ray[:last], weight[:last] * before)
    directions = rays.directions[:count].detach()
    points = rays.origins[:count].detach() + directions * at[:, None]
    return F.binary_cross_entropy_with_logits(model.visibility(points, directions), (1 - stopped).clamp(0, 1))


def _drawn(shape: tuple[int, ...], generator: torch.Generator, rays: Rays) -> Tensor:
    """From 0 to 1, where the rays are."""
    return torch.rand(shape, generator=generator, device=generator.device).to(rays.origins.device)


def _joined(preset: Preset, step: int) -> int:
    """Levels of the tables that learn."""
    first, part = _JOINING
    share = min((step + 1) / (part * preset.fit.steps), 1.0)
    return min(preset.block.levels, first + int(share * max(preset.block.levels - first, 0)))


def _spread(preset: Preset, step: int) -> float:
    """The weight of distortion, rising by a constant factor."""
    first, last = preset.distortion
    return first * (last / first) ** min(step / preset.fit.steps, 1.0) if first else 0.0


def _penalty(preset: Preset, step: int) -> float:
    """Of the poses' offsets, falling in a straight line."""
    first, last, part = preset.pose_penalty
    return first + (last - first) * min(step / (part * preset.fit.steps), 1.0)


def scaled(preset: Preset, steps: int) -> Preset:
    """A preset with another number of steps."""
    return replace(preset, fit=replace(preset.fit, steps=steps))
