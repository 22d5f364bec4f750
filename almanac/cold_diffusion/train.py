"""The recipe: L1 between the restored and the clean image at a random severity (paper, eq. 1), for three sizes of machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from almanac.cold_diffusion import data
from almanac.cold_diffusion.degradations import SYMMETRY_NOISE, Degradation, to_json
from almanac.cold_diffusion.model import Unet, UnetConfig
from almanac.cold_diffusion.recipes import Purpose, recipe, usual_purpose
from almanac.cold_diffusion.restore import update
from almanac.runtime import checkpoint, console, device
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, fit

Network = Callable[[Tensor, Tensor], Tensor]
"""R(x_t, t − 1) on batches."""


@dataclass(frozen=True)
class Preset:
    """A size of machine."""

    dim: int
    """Channels of the network at full resolution."""
    dim_mults: tuple[int, ...]
    """Channels of each level as multiples of dim."""
    size: int
    """Side of the images, pixels."""
    batch_size: int
    """Degraded images a batch."""
    fit: FitConfig
    """How to optimise."""
    strides: int = 1
    """For restorations: severities of each image in a batch, falling, where the network's own estimate leads from one to the
    next as in sampling, and the loss asks for what sampling would return, so that the network learns to undo its earlier mistakes
    too. 1: one at random, as in the paper."""
    symmetry_noise: float = 0.0
    """Standard deviation of noise on the degraded images where a generation starts with such noise (`SYMMETRY_NOISE`); the paper
    trains without."""


PRESETS = {
    # Under 25 minutes on one core: small batches, because steps count for more than images in a run this short.
    "cpu": Preset(32, (1, 2, 2), 32, 16, FitConfig(3_000, learning_rate=1e-3, save_every=250), 4, SYMMETRY_NOISE),
    "gpu": Preset(
        64,
        (1, 2, 4),
        32,
        256,
        FitConfig(20_000, learning_rate=5e-4, ema_decay=0.999, compile=True),
        4,
        SYMMETRY_NOISE,
    ),
    # The official README and code: Adam at a constant 2e-5, 700,000 steps of 2 × 32 images, no clipping.
    "paper": Preset(
        64,
        (1, 2, 4, 8),
        128,
        32,
        FitConfig(
            700_000,
            learning_rate=2e-5,
            final_ratio=1.0,
            warmup_steps=0,
            betas=(0.9, 0.999),
            clip_norm=float("inf"),
            accumulate=2,
            ema_every=10,
            precision="fp32",
            save_every=10_000,
        ),
    ),
}


def train(
    degradation: str,
    data_name: str,
    out: Path,
    preset: Preset,
    *,
    purpose: Purpose | None = None,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train a restorer and write `out/model.safetensors`.

    Args:
        degradation: name of a degradation, or `module:Class`.
        data_name: name of a set of images, or a folder.
        out: the run's folder.
        preset: network, image size, batch and optimisation.
        purpose: see `recipes.Purpose`; None: restoration where the paper has it.
        seed: of weights, order, severities and states.
        device_name: `auto`, `cpu` or `cuda`.
        resume: go on with the run in `out`.

    Returns:
        The facts that the weights carry: what they restore (`data`, `purpose`, `degradation`, `size`), the `network`, and how they came to
        be (`strides`, `symmetry_noise`, `steps`, `seconds`, `loss`, `images_per_second`, `machine`, `date`, `seed`).
    """
    images = data.load(data_name, "train", preset.size)
    held_out = data.load(data_name, "test", preset.size)
    purpose = purpose or usual_purpose(degradation, data_name)
    degrade = recipe(degradation, data_name, preset.size, purpose)
    # A start of a generation says nothing of the image; a network that met its own wanderings from there would learn to be vague.
    strides = min(preset.strides, degrade.steps) if purpose == "restoration" else 1
    noise = preset.symmetry_noise if degrade.thumbnail is not None else 0.0
    distinct = max(1, preset.batch_size // strides)
    network = UnetConfig(preset.dim, preset.dim_mults, images.pixels.shape[1])
    torch.manual_seed(seed)
    model = Unet(network).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if preset.size % model.multiple:
        raise UserError(
            f"images of {preset.size} pixels do not fit {len(preset.dim_mults)} levels",
            f"use a multiple of {model.multiple}",
        )
    started = time.time()
    fitted = fit(
        model,
        restoration_loss(degrade, strides, noise),
        data.Batches(images, distinct, seed),
        preset.fit,
        out,
        seed=seed,
        device_name=device_name,
        resume=resume,
        validate=_validation(degrade, held_out, device_name, seed),
    )
    seen = fitted.batches * distinct * strides
    facts = {
        "system": "cold_diffusion",
        "data": images.name,
        "purpose": purpose,
        "degradation": to_json(degrade),
        "network": {"dim": network.dim, "dim_mults": list(network.dim_mults), "channels": network.channels},
        "size": preset.size,
        "strides": strides,
        "symmetry_noise": noise,
        "steps": fitted.step,
        "loss": round(fitted.loss, 5),
        "seconds": round(fitted.seconds, 1),
        "images_per_second": round(seen / fitted.seconds, 1),
        "machine": device.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "seed": seed,
    }
    prior = degrade.fit_prior(images.batch(slice(None, 20_000)))
    # Restored images do not show what bfloat16 leaves out (docs/log.md: nor what eight bits do).
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.in_sixteen_bits(fitted.weights).items()}
    tensors |= {f"prior.{name}": tensor for name, tensor in prior.items()}
    if console.is_main_process():
        checkpoint.save_weights(Path(out) / "model.safetensors", tensors, facts)
    return facts


def restoration_loss(
    degrade: Degradation, strides: int = 1, noise: float = 0.0
) -> Callable[[Network, Tensor, torch.Generator], Tensor]:
    """The loss of a degradation, for `fit`.

    Args:
        degrade: what the network learns to undo.
        strides: see `Preset.strides`.
        noise: standard deviation of noise on the degraded images.
    """

    def loss(model: Network, images: Tensor, generator: torch.Generator) -> Tensor:
        state = degrade.draw(images, generator)
        severities = _severities(degrade.steps, strides, len(images), generator).to(images.device)
        x = degrade(images, severities[0], state)
        if degrade.eight_bit:
            x = ((x + 1) * 127.5).floor() / 127.5 - 1
        if noise:
            x = x + noise * torch.randn(x.shape, generator=generator).to(x.device)
        estimate = model(x, severities[0] - 1).float()
        total = F.l1_loss(estimate, images)
        for before, t in pairwise(severities):
            x = update(degrade, x, estimate.detach(), before, t, state)
            estimate = model(x, t - 1).float()
            # What sampling would return if it ended here: what x and the estimate disagree about stays in the image.
            total = total + F.l1_loss(update(degrade, x, estimate, t, torch.zeros_like(t), state), images)
        return total / strides

    return loss


def _severities(steps: int, strides: int, count: int, generator: torch.Generator) -> Int[Tensor, "strides count"]:
    """Falling severities for each image. A single one is even over all; of several, half are in the lowest quarter, where sampling
    goes astray (docs/log.md), and three quarters of the images start at the full severity, as a restoration usually does."""
    if strides == 1:
        return torch.randint(1, steps + 1, (1, count), generator=generator)
    drawn = (1 + steps * torch.rand(strides, count, generator=generator) ** 2).long().clamp(max=steps)
    drawn = drawn.sort(0, descending=True).values
    drawn[0, : round(0.75 * count)] = steps
    return drawn


def with_overrides(
    preset: Preset,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    strides: int | None = None,
    compile: bool = False,
) -> Preset:
    """A preset with what the person changed of it.

    Raises:
        UserError: a number is below 1.
    """
    changed = {"batch_size": batch_size, "size": size, "strides": strides}
    for name, value in {"steps": steps, **changed}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}", "give a whole number from 1 on")
    fit = replace(preset.fit, steps=steps or preset.fit.steps, compile=compile or preset.fit.compile)
    return replace(preset, fit=fit, **{name: value for name, value in changed.items() if value})


def _validation(
    degrade: Degradation, held_out: data.ImageSet, device_name: str, seed: int
) -> Callable[[nn.Module], float]:
    """L1 on up to 256 held-out images, at severities and states that are the same every time."""
    images = held_out.batch(slice(None, 256)).to(device.resolve(device_name))
    loss = restoration_loss(degrade)
    return lambda model: loss(model, images, torch.Generator().manual_seed(seed)).item()
