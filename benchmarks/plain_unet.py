"""The Cold Diffusion U-Net written as its equations read: fp32, channels first, LayerNorm and attention from elementary operations, and
blur as one convolution after another. It is the peer that `benchmarks/cold_diffusion.py` measures against, and an independent
reference for tests: same weights, same numbers, none of the tricks."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from almanac.cold_diffusion.degradations import Blur
from almanac.cold_diffusion.model import Unet
from almanac.nn.attention import LinearAttention
from almanac.nn.unet import ChannelLayerNorm


def plain(model: Unet) -> Unet:
    """A copy of the network without our tricks."""
    found = copy.deepcopy(model)
    found.memory_format = torch.contiguous_format
    for module in found.modules():
        if isinstance(module, ChannelLayerNorm):
            module.__class__ = _PlainLayerNorm
        elif isinstance(module, LinearAttention):
            module.__class__ = _PlainLinearAttention
    return found.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]


class SequentialBlur(nn.Module):
    """D_t of a blur as t convolutions.

    Args:
        blur: the degradation.
        channels: channels of the images.
    """

    def __init__(self, blur: Blur, channels: int):
        super().__init__()
        self.blur, self.channels = blur, channels
        kernels = blur.kernels()
        self.kernels = (
            (kernels[:, :, None] * kernels[:, None, :]).float()[:, None, None].expand(-1, channels, -1, -1, -1)
        )

    def forward(self, images: Tensor, t: Tensor) -> Tensor:
        """Blur each image t times; all go through max(t) convolutions, as in the official code."""
        radius, blurred = self.blur.kernel_size // 2, images
        for step in range(int(t.max())):
            padded = F.pad(blurred, (radius,) * 4, mode=self.blur.padding)
            next_blurred = F.conv2d(padded, self.kernels[step], groups=self.channels)
            blurred = torch.where((t > step)[:, None, None, None], next_blurred, blurred)
        if self.blur.to_mean:
            means = images.mean((2, 3), keepdim=True).expand_as(images)
            blurred = torch.where((t == self.blur.steps)[:, None, None, None], means, blurred)
        return blurred


class _PlainLayerNorm(ChannelLayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        variance = torch.var(x, dim=1, unbiased=False, keepdim=True)
        mean = torch.mean(x, dim=1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.g + self.b


class _PlainLinearAttention(LinearAttention):
    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        query, key, value = self.to_qkv(x).reshape(batch, 3, self.heads, self.dim_head, height * width).unbind(1)
        context = torch.einsum("bhdn,bhen->bhde", key.softmax(dim=-1), value)
        mixed = torch.einsum("bhde,bhdn->bhen", context, query * self.dim_head**-0.5)
        return self.to_out(mixed.reshape(batch, -1, height, width))
