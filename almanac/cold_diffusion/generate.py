"""Generation: images from fully degraded starts that no image was degraded to (paper, §5): a constant colour for blur and mask, a
picture of the other set for animorph, noise for noise."""

import torch

from almanac.cold_diffusion.degradations import SYMMETRY_NOISE, Images, State
from almanac.cold_diffusion.restore import OnStep, Restorer, Sampler, sample


def start(
    restorer: Restorer, count: int, generator: torch.Generator, symmetry_noise: float = SYMMETRY_NOISE
) -> tuple[Images, State]:
    """Draw `count` fully degraded images and their states.

    Args:
        restorer: the model; its `prior` says where generation starts.
        count: how many.
        generator: of everything random.
        symmetry_noise: see `SYMMETRY_NOISE`; 0 keeps the perfect symmetry, where a start fixes the image.

    Raises:
        UserError: the model's degradation keeps too much of an image to generate from nothing.
    """
    shape = torch.zeros(count, restorer.channels, restorer.size, restorer.size)
    degraded, state = restorer.degradation.start(restorer.prior, shape, generator)
    if restorer.degradation.thumbnail is not None:
        degraded = degraded + torch.randn(degraded.shape, generator=generator) * symmetry_noise
    return degraded.to(restorer.device), {key: value.to(restorer.device) for key, value in state.items()}


def generate(
    restorer: Restorer,
    count: int,
    generator: torch.Generator,
    sampler: Sampler = "improved",
    symmetry_noise: float = SYMMETRY_NOISE,
    on_step: OnStep | None = None,
) -> Images:
    """Generate images.

    Args:
        restorer: the model.
        count: how many.
        generator: of everything random.
        sampler: `improved`, or for noise also `estimated` (DDIM); `naive` and `direct` show what those lack.
        symmetry_noise: see `SYMMETRY_NOISE`.
        on_step: told of every step.
    """
    degraded, state = start(restorer, count, generator, symmetry_noise)
    steps = restorer.degradation.steps
    return sample(restorer, restorer.degradation, degraded, state, steps, sampler, on_step, restorer.strides)
