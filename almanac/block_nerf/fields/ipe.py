"""mip-NeRF's field (Barron et al. 2021), which Block-NeRF's blocks are: a ray is a cone, a piece of it a Gaussian, and a multi-layer
perceptron reads the Gaussian's expected sines. The formulas are those of the official `internal/mip.py`, in the form that is stable in
float32."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from almanac.block_nerf import rendering
from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.fields.occupancy import NEAR
from almanac.block_nerf.rendering import Samples

FREQUENCIES = 16
"""Octaves of the encoding (Block-NeRF, supplement)."""


class Gaussians(NamedTuple):
    """Pieces of cones."""

    mean: Float[Tensor, "samples 3"]
    variance: Float[Tensor, "samples 3"]
    """Along each axis; what is between axes is left out, as in mip-NeRF."""


def gaussians(
    origins: Float[Tensor, "samples 3"],
    directions: Float[Tensor, "samples 3"],
    radii: Float[Tensor, " samples"],
    starts: Float[Tensor, " samples"],
    ends: Float[Tensor, " samples"],
) -> Gaussians:
    """The mean and variance of pieces of cones (mip-NeRF, equations 7 and 8).

    Args:
        origins: where the cones begin.
        directions: along them, of any length.
        radii: at distance 1.
        starts: of the pieces, in lengths of the direction.
        ends: likewise.
    """
    middle, half = (starts + ends) / 2, (ends - starts) / 2
    squares = 3 * middle**2 + half**2
    along = middle + 2 * middle * half**2 / squares
    along_variance = half**2 / 3 - (4 / 15) * half**4 * (12 * middle**2 - half**2) / squares**2
    across_variance = radii**2 * (middle**2 / 4 + (5 / 12) * half**2 - (4 / 15) * half**4 / squares)
    outer = directions**2
    across = 1 - outer / outer.sum(-1, keepdim=True)
    return Gaussians(
        origins + along[:, None] * directions, along_variance[:, None] * outer + across_variance[:, None] * across
    )


def integrated_encoding(cones: Gaussians, octaves: int = FREQUENCIES) -> Float[Tensor, "samples features"]:
    """Expected sines and cosines of Gaussians (mip-NeRF, equation 14): all sines first, octave by octave.

    Args:
        cones: the Gaussians, at a scale where the scene is within ±π.
        octaves: how many; each is twice as fine as the one before.
    """
    scales = 2.0 ** torch.arange(octaves, device=cones.mean.device, dtype=cones.mean.dtype)
    angles = (cones.mean[:, None] * scales[:, None]).flatten(1)
    spread = torch.exp(-0.5 * (cones.variance[:, None] * scales[:, None] ** 2).flatten(1))
    return torch.cat([torch.sin(angles) * spread, torch.cos(angles) * spread], -1)


class IpeField(nn.Module):
    """A perceptron over integrated encodings, with the encoding once more in its middle.

    Args:
        radius: metres from the block's middle that are within ±π.
        width: channels of its layers; the paper's are 512 and 1024.
        layers: their number.
        features: that colours are made of.
    """

    def __init__(self, radius: float, width: int = 64, layers: int = 8, features: int = 16):
        super().__init__()
        self.scale = math.pi / radius
        self.features = features
        inputs = 6 * FREQUENCIES
        self.again = layers // 2 + 1
        sizes = [inputs if at == 0 else width + (inputs if at == self.again else 0) for at in range(layers)]
        self.layers = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.out = nn.Linear(width, 1 + features)
        for layer in [*self.layers, self.out]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, rays: Rays, samples: Samples
    ) -> tuple[Float[Tensor, " samples"], Float[Tensor, "samples features"]]:
        """Densities for a metre, and features.

        Args:
            rays: in the block's own metres: its middle is the origin.
            samples: pieces of them.
        """
        each = rays.of(samples.ray)
        cones = gaussians(
            each.origins * self.scale,
            each.directions * self.scale,
            each.radii * self.scale,
            samples.starts,
            samples.ends,
        )
        encoded = integrated_encoding(cones)
        x = encoded
        for number, layer in enumerate(self.layers):
            x = torch.relu(layer(torch.cat([x, encoded], -1) if number == self.again else x))
        density, features = self.out(x).split([1, self.features], -1)
        return nn.functional.softplus(density[:, 0] - 1), features


def two_passes(field: IpeField, rays: Rays, count: int, random: Tensor, radius: float) -> tuple[Samples, Samples]:
    """Where mip-NeRF looks: evenly over the ray by disparity and distance first, and then where something was seen (its section 3.1 and
    `resample_along_rays`). One network is asked both times.

    Args:
        field: that is asked.
        rays: lines of sight.
        count: pieces of each pass.
        random: from 0 to 1, [rays, 2 * count + 2]; halves where nothing is by chance.
        radius: metres that are looked at evenly; a third as much again by disparity.
    """
    lengths = rays.directions.norm(dim=-1, keepdim=True)
    u = torch.linspace(0, 1, count + 1, device=random.device)
    near, far = NEAR, 3 * radius
    edges = near * (far / near) ** u
    middle = (edges[1:] + edges[:-1]) / 2
    low, high = torch.cat([edges[:1], middle]), torch.cat([middle, edges[-1:]])
    first = (low + (high - low) * random[:, : count + 1]) / lengths
    coarse = rendering.evenly(first)
    with torch.no_grad():
        density, _ = field(rays, coarse)
        weight, _ = rendering.weights(density, coarse, lengths[:, 0])
    second = resampled(first.detach(), weight.view(len(first), count), random[:, count + 1 :])
    return coarse, rendering.evenly(second)


def resampled(
    edges: Float[Tensor, "rays edges"], weight: Float[Tensor, "rays pieces"], random: Float[Tensor, "rays drawn"]
) -> Float[Tensor, "rays drawn"]:
    """Borders of new pieces where weights are, after a blur of them (mip-NeRF, equation 18).

    Args:
        edges: of the pieces that were weighed.
        weight: of each.
        random: from 0 to 1.
    """
    padded = torch.cat([weight[:, :1], weight, weight[:, -1:]], -1)
    largest = torch.maximum(padded[:, :-1], padded[:, 1:])
    blurred = (largest[:, :-1] + largest[:, 1:]) / 2 + 0.01
    upto = torch.cat([torch.zeros_like(blurred[:, :1]), (blurred / blurred.sum(-1, keepdim=True)).cumsum(-1)], -1)
    upto[:, -1] = 1.0
    count = random.shape[1]
    u = (torch.arange(count, device=random.device) + random.clamp(0, 1 - 1e-5)) / count
    above = torch.searchsorted(upto.contiguous(), u.contiguous(), right=True).clamp(1, edges.shape[1] - 1)
    low, high = upto.gather(1, above - 1), upto.gather(1, above)
    part = ((u - low) / (high - low).clamp_min(1e-8)).clamp(0, 1)
    return edges.gather(1, above - 1) * (1 - part) + edges.gather(1, above) * part
