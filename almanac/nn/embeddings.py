"""Embeddings of positions and times."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a scalar at geometrically spaced frequencies, 1 … 1/10,000 (Vaswani et al. 2017, §3.5).

    Args:
        dim: size of the embedding, even; the first half holds sines, the second cosines.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, position: Float[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Embed each position."""
        half = self.dim // 2
        frequencies = torch.exp(torch.arange(half, device=position.device) * (-math.log(10_000) / (half - 1)))
        angles = position[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


@dataclass(frozen=True)
class Rope:
    """Rotary position embeddings (Su et al. 2021), and how a model that was trained on short texts reaches longer ones."""

    base: float = 10_000.0
    """Of the geometric row of wavelengths."""
    scaling: Literal["default", "linear", "llama3", "yarn", "divided"] = "default"
    """linear: positions are divided by `factor` (Chen et al. 2023); llama3: those of long wavelengths are; yarn: likewise, by turns
    within the original context, and attention is sharpened (Peng et al. 2023); divided: each frequency by one of `divisors`."""
    factor: float = 1.0
    """How much longer than the original context."""
    original_context: int = 8192
    """Positions that it was trained on."""
    slow: float = 1.0
    """Turns within the original context up to which a wavelength is stretched whole (llama3: low_freq_factor; yarn: beta_slow)."""
    fast: float = 4.0
    """Turns from which it stays (llama3: high_freq_factor; yarn: beta_fast)."""
    truncate: bool = True
    """yarn: whether the channels between which it goes over are whole numbers."""
    attention_factor: float | None = None
    """yarn: of cosines and sines; None: 0.1 ln(factor) + 1."""
    divisors: tuple[float, ...] = ()
    """divided: of each pair of channels."""

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.scaling != "yarn":
            return 1.0
        return self.attention_factor or (0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0)

    def frequencies(self, dim: int) -> Float[Tensor, " half"]:
        """Radians a position turns each pair of channels.

        Args:
            dim: channels of a head, even.
        """
        plain = self.base ** (-torch.arange(0, dim, 2).float() / dim)
        match self.scaling:
            case "linear":
                return plain / self.factor
            case "llama3":
                turns = self.original_context * plain / (2 * math.pi)
                kept = ((turns - self.slow) / (self.fast - self.slow)).clamp(0, 1)
            case "yarn":
                kept = self._kept_by_yarn(dim)
            case "divided":
                return plain / torch.tensor(self.divisors)
            case _:
                return plain
        return plain * (kept + (1 - kept) / self.factor)

    def _kept_by_yarn(self, dim: int) -> Float[Tensor, " half"]:
        def channel(turns: float) -> float:
            return dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.base))

        low, high = channel(self.fast), channel(self.slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = (torch.arange(dim // 2).float() - low) / max(high - low, 0.001)
        return 1 - ramp.clamp(0, 1)

    def table(
        self, positions: Int[Tensor, "*batch"], dim: int
    ) -> tuple[Float[Tensor, "*batch half"], Float[Tensor, "*batch half"]]:
        """Cosines and sines of positions."""
        angles = positions[..., None].float() * self.frequencies(dim).to(positions.device)
        return angles.cos() * self.magnitude, angles.sin() * self.magnitude


def rotate(
    x: Float[Tensor, "*batch heads dim"], cosines: Float[Tensor, "*batch half"], sines: Float[Tensor, "*batch half"]
) -> Float[Tensor, "*batch heads dim"]:
    """Turn each head's channel i and channel i + dim/2 as a point of a plane."""
    first, second = x.chunk(2, dim=-1)
    cosines, sines = cosines[..., None, :].to(x.dtype), sines[..., None, :].to(x.dtype)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
