"""Embeddings of positions and times."""

import math

import torch
from jaxtyping import Float
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
