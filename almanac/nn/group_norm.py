"""Group normalisation (Wu and He 2018) whose gradient is quick on a CPU where pixels lie channels last. PyTorch's own is most of a small
network's training step; forwards alone, this is PyTorch's."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """As `nn.GroupNorm`, with the same parameters."""

    def forward(self, input: Float[Tensor, "batch channels *pixels"]) -> Float[Tensor, "batch channels *pixels"]:
        """Normalise each group of channels of each picture, then scale and shift each channel."""
        trains = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if not trains or input.device.type != "cpu" or input.dim() != 4:
            return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        with torch.autocast("cpu", enabled=False):
            return _Normalise.apply(input, self.weight, self.bias, self.num_groups, self.eps)  # pyright: ignore[reportReturnType]


class _Normalise(torch.autograd.Function):
    """y = a x + b, where a = w / σ and b = bias − a μ, of each picture's groups."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Sums over pixels first, channel by channel; all else is small."""
        rows = _rows(x)
        count = rows.shape[1] * (rows.shape[2] // groups)
        wide = rows.float()
        mean = wide.sum(1).unflatten(1, (groups, -1)).sum(2) / count
        square = torch.linalg.vector_norm(wide, dim=1).square().unflatten(1, (groups, -1)).sum(2) / count
        scale = (square - mean**2).clamp(min=0).add(eps).rsqrt()
        mean, scale = (_channels(each, rows.shape[2]) for each in (mean, scale))
        factor = scale * weight.float()
        out = torch.addcmul((bias.float() - mean * factor)[:, None], wide, factor[:, None]).to(x.dtype)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.groups = groups
        return _map(out, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """dx = a dy + c x + d, with c and d of each group such that mean and variance of x̂ do not change."""
        x, weight, mean, scale = ctx.saved_tensors
        rows, given = _rows(x).float(), _rows(gradients[0]).float()
        size, groups = rows.shape[2], ctx.groups
        count = rows.shape[1] * (size // groups)
        plain, with_x = given.sum(1), (given * rows).sum(1)
        normed = (with_x - plain * mean) * scale  # Σ dy x̂

        def over_groups(each: Tensor) -> Tensor:
            return _channels((each * weight.float()).unflatten(1, (groups, -1)).sum(2) / count, size)

        slope, offset = over_groups(normed) * scale**2, over_groups(plain) * scale
        factor = scale * weight.float()
        found = torch.addcmul((slope * mean - offset)[:, None], given, factor[:, None])
        found = found.addcmul_(rows, -slope[:, None]).to(x.dtype)
        return _map(found, x), normed.sum(0).to(weight.dtype), plain.sum(0).to(weight.dtype), None, None


def _rows(x: Tensor) -> Tensor:
    """A row of channels for each pixel."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _map(rows: Tensor, like: Tensor) -> Tensor:
    return rows.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _channels(groups: Tensor, size: int) -> Tensor:
    """What each group has, for each of its channels."""
    return groups.repeat_interleave(size // groups.shape[1], 1)
