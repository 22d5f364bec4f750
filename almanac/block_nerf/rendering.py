"""From densities along rays to colours (Max 1995; NeRF, equation 3). Each ray has as many samples as it needs, all in one row, so a sample
that would be in empty space costs nothing. On a processor the sums are compiled loops; elsewhere sums over all samples."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from almanac.nn.compiled import compiled


class Samples(NamedTuple):
    """Pieces of rays, those of each ray together, from its origin on."""

    starts: Float[Tensor, " samples"]
    """Distance along the ray, in the direction's lengths."""
    ends: Float[Tensor, " samples"]
    ray: Int[Tensor, " samples"]
    """Which ray each is of."""
    offsets: Int[Tensor, " rays_and_one"]
    """The first sample of each ray, and at the end the number of all."""

    @property
    def middles(self) -> Float[Tensor, " samples"]:
        """Their middles."""
        return (self.starts + self.ends) / 2

    def of(self, kept: Bool[Tensor, " samples"]) -> "Samples":
        """Some of them."""
        counts = torch.zeros_like(self.offsets[1:]).index_add_(0, self.ray, kept.long())
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Samples(self.starts[kept], self.ends[kept], self.ray[kept], offsets)


def evenly(edges: Float[Tensor, "rays edges"]) -> Samples:
    """Samples where each ray has the same number of pieces that touch.

    Args:
        edges: their borders.
    """
    rays, pieces = edges.shape[0], edges.shape[1] - 1
    ray = torch.arange(rays, device=edges.device).repeat_interleave(pieces)
    offsets = torch.arange(rays + 1, device=edges.device) * pieces
    return Samples(edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1), ray, offsets)


def weights(
    density: Float[Tensor, " samples"], samples: Samples, lengths: Float[Tensor, " rays"]
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """How much each sample is seen of, and how much light comes as far as to it.

    Args:
        density: of each, for a metre.
        samples: where they are.
        lengths: of the rays' directions.

    Returns:
        weights wᵢ = Tᵢ (1 − exp(−σᵢ δᵢ)), and transmittances Tᵢ = exp(−Σ σⱼ δⱼ) over those before.
    """
    depth = density * (samples.ends - samples.starts) * lengths[samples.ray]
    return _Weights.apply(depth, samples.ray, samples.offsets)  # type: ignore[return-value]


def summed(
    values: Float[Tensor, "samples channels"], weight: Float[Tensor, " samples"], samples: Samples
) -> Float[Tensor, "rays channels"]:
    """Of each ray the sum of its samples' values, by weight."""
    return _Sums.apply(values, weight, samples.ray, samples.offsets)  # type: ignore[return-value]


def median(weight: Float[Tensor, " samples"], samples: Samples) -> Float[Tensor, " rays"]:
    """How far along each ray half of what it sees is nearer, in the direction's lengths; 0 where it has no samples. Density is the same
    all along a piece, so light falls off in it exponentially.

    Args:
        weight: of each sample.
        samples: where they are.
    """
    if not len(weight):
        return weight.new_zeros(len(samples.offsets) - 1)
    upto = torch.cat([weight.new_zeros(1, dtype=torch.float64), weight.double().cumsum(0)])
    first, last = samples.offsets[:-1], samples.offsets[1:]
    half = (upto[first] + upto[last]) / 2
    at = torch.searchsorted(upto, half).sub(1).maximum(first).minimum((last - 1).clamp_min(0))
    light = (1 - (upto[at] - upto[first])).clamp_min(1e-12)  # that comes to the piece
    left = [1 - ((each - upto[at]) / light).clamp(1e-9, 1 - 1e-9) for each in (half, upto[at + 1])]
    part = (left[0].log() / left[1].log()).clamp(0, 1).to(weight.dtype)
    return torch.where(last > first, samples.starts[at] + part * (samples.ends[at] - samples.starts[at]), 0.0)


def distortion(
    weight: Float[Tensor, " samples"],
    starts: Float[Tensor, " samples"],
    ends: Float[Tensor, " samples"],
    samples: Samples,
) -> Float[Tensor, ""]:
    """How far what a ray sees is spread along it: Σᵢⱼ wᵢ wⱼ |mᵢ − mⱼ| + ⅓ Σᵢ wᵢ² δᵢ, on average over rays (mip-NeRF 360, equation 15).

    Args:
        weight: of each sample.
        starts: where each begins, on whatever scale distances are compared on; it rises along a ray.
        ends: where each ends.
        samples: which ray each is of.
    """
    w, middle = weight.double(), (starts + ends).double() / 2
    passed = torch.stack([w, w * middle], -1)
    before = torch.cumsum(passed, 0) - passed
    before = before - before[samples.offsets[:-1].clamp_max(len(w) - 1)][samples.ray]
    spread = 2 * w * (middle * before[:, 0] - before[:, 1]) + w * w * (ends - starts) / 3
    return (spread.sum() / (len(samples.offsets) - 1)).to(weight.dtype)


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, depth: Tensor, ray: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        if depth.device.type == "cpu":
            weight, through = torch.empty_like(depth), torch.empty_like(depth)
            _weights_forward(*(each.detach().numpy() for each in (depth, offsets, weight, through)))
        else:
            before = torch.cumsum(depth.double(), 0) - depth.double()
            before = (
                (before - before[offsets[:-1].clamp_max(len(depth) - 1)][ray]).to(depth.dtype) if len(depth) else depth
            )
            through = torch.exp(-before)
            weight = through * -torch.expm1(-depth)
        ctx.save_for_backward(depth, ray, offsets, weight, through)
        return weight, through

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        depth, ray, offsets, weight, through = ctx.saved_tensors
        from_weight, from_through = gradients
        if depth.device.type == "cpu":
            found = torch.empty_like(depth)
            arrays = (depth, offsets, weight, through, from_weight.contiguous(), from_through.contiguous(), found)
            _weights_backward(*(each.detach().numpy() for each in arrays))
        else:
            later = (weight * from_weight + through * from_through).double()
            total = torch.cumsum(later, 0)
            ends = torch.cat([total.new_zeros(1), total])[offsets]
            after = (ends[1:][ray] - total).to(depth.dtype)
            found = from_weight * through * torch.exp(-depth) - after
        return found, None, None


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, ray: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(values, weight, ray)
        if values.device.type == "cpu":
            found = values.new_zeros(len(offsets) - 1, values.shape[1])
            _sums_forward(
                *(each.detach().numpy() for each in (values.contiguous(), weight.contiguous(), offsets, found))
            )
            return found
        return values.new_zeros(len(offsets) - 1, values.shape[1]).index_add_(0, ray, values * weight[:, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        values, weight, ray = ctx.saved_tensors
        each = gradients[0][ray]
        return each * weight[:, None], (each * values).sum(1), None, None


@compiled
def _weights_forward(depth, offsets, weight, through):
    for ray in range(len(offsets) - 1):
        before = 0.0
        for i in range(offsets[ray], offsets[ray + 1]):
            light = np.exp(-before)
            through[i] = light
            weight[i] = light * (1.0 - np.exp(-depth[i]))
            before += depth[i]


@compiled
def _weights_backward(depth, offsets, weight, through, from_weight, from_through, found):
    for ray in range(len(offsets) - 1):
        after = 0.0
        for i in range(offsets[ray + 1] - 1, offsets[ray] - 1, -1):
            found[i] = from_weight[i] * (through[i] - weight[i]) - after
            after += weight[i] * from_weight[i] + through[i] * from_through[i]


@compiled
def _sums_forward(values, weight, offsets, found):
    for ray in range(len(offsets) - 1):
        for i in range(offsets[ray], offsets[ray + 1]):
            for channel in range(values.shape[1]):
                found[ray, channel] += weight[i] * values[i, channel]
