"""Random numbers of a sampling. Each picture has its own, drawn on the CPU, so that it is the same alone and among others, here and on a
GPU."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class GaussianNoise:
    """Fresh noise at each step.

    Args:
        seeds: of each picture.
        shape: channels, height and width of its latents.
        device: where noise is wanted.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device):
        self.shape, self.device = shape, device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self) -> Float[Tensor, "batch channels h w"]:
        """More of it."""
        drawn = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        return torch.stack(drawn).to(self.device)

    def __call__(self, sigma: float, following: float) -> Float[Tensor, "batch channels h w"]:
        """For the step from a σ to the next."""
        return self.draw()


class BrownianNoise:
    """Steps of a Brownian path over σ, which each picture's seed says whole: more steps, and parts of steps, follow the same path.

    Args:
        seeds: of each picture.
        shape: channels, height and width of its latents.
        device: where noise is wanted.
        least: the smallest σ but 0.
        most: the largest.
    """

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device, least: float, most: float
    ):
        import torchsde

        self.device = device
        self._least, self._most = round(least, 6), round(most, 6)  # the ends that torchsde keeps, and warns of σ beyond
        begin = torch.zeros(shape)
        self._paths = [torchsde.BrownianTree(t0=least, w0=begin, t1=most, entropy=seed) for seed in seeds]

    def __call__(self, sigma: float, following: float) -> Float[Tensor, "batch channels h w"]:
        """For the step from a σ down to the next."""
        begin, end = max(following, self._least), min(sigma, self._most)
        moved: Tensor = torch.stack([path(begin, end) for path in self._paths])  # pyright: ignore[reportArgumentType]
        return (-moved / (sigma - following) ** 0.5).to(self.device)
