"""The restoration network R(x_t, t) → x_0: the paper's ConvNeXt U-Net. The module tree mirrors the official checkpoints'
names. It knows nothing of degradations; time is the step index t − 1, as in the official code (0 is the least degraded)."""

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.nn.attention import LinearAttention
from almanac.nn.embeddings import SinusoidalEmbedding
from almanac.nn.unet import ConvNextBlock, PreNorm, Residual, downsample, upsample


@dataclass(frozen=True)
class UnetConfig:
    """Shape of the network."""

    dim: int = 64
    """Channels at full resolution (official: 64)."""
    dim_mults: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of each level as multiples of dim; each level halves height and width (official: 1 2 4 8)."""
    channels: int = 3
    """Channels of the images: 1 grey, 3 colour."""


class Unet(nn.Module):
    """Predicts the clean image from a degraded one.

    Args:
        config: the shape; the default is the official network of 56.6 M parameters.
    """

    memory_format = torch.channels_last
    """Layout of feature maps: channels-last is fastest in bfloat16, and makes LayerNorm over channels one kernel."""

    def __init__(self, config: UnetConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        dims = [config.channels, *(dim * mult for mult in config.dim_mults)]
        levels = list(pairwise(dims))
        last = len(levels) - 1
        self.time_mlp = nn.Sequential(
            SinusoidalEmbedding(dim), nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim)
        )
        self.downs = nn.ModuleList(
            nn.ModuleList(
                [
                    ConvNextBlock(dim_in, dim_out, dim, norm=level != 0),
                    ConvNextBlock(dim_out, dim_out, dim),
                    _attention(dim_out),
                    nn.Identity() if level == last else downsample(dim_out),
                ]
            )
            for level, (dim_in, dim_out) in enumerate(levels)
        )
        self.mid_block1 = ConvNextBlock(dims[-1], dims[-1], dim)
        self.mid_attn = _attention(dims[-1])
        self.mid_block2 = ConvNextBlock(dims[-1], dims[-1], dim)
        self.ups = nn.ModuleList(
            nn.ModuleList(
                [
                    ConvNextBlock(dim_out * 2, dim_in, dim),
                    ConvNextBlock(dim_in, dim_in, dim),
                    _attention(dim_in),
                    upsample(dim_in),
                ]
            )
            for dim_in, dim_out in reversed(levels[1:])
        )
        self.final_conv = nn.Sequential(ConvNextBlock(dim, dim), nn.Conv2d(dim, config.channels, 1))

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** (len(self.config.dim_mults) - 1)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], time: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Restore.

        Args:
            x: degraded images, clean ones scaled to [−1, 1].
            time: the step index t − 1 of each image.
        """
        with _precise(x):
            embedded = self.time_mlp(time.float())
        x = x.contiguous(memory_format=self.memory_format)
        skips = []
        for block1, block2, attention, down in self.downs:  # pyright: ignore[reportGeneralTypeIssues]
            # A fully blurred digit differs from its mean by 0.007, less than bfloat16's rounding: what reads x stays float32, and
            # so does the rest of its level where no gradient makes that dear (docs/log.md).
            with _precise(x) if not skips else nullcontext():
                x = block1(x, embedded)
            with _precise(x) if not skips and not self.training else nullcontext():
                x = attention(block2(x, embedded))
            skips.append(x)
            x = down(x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, embedded)), embedded)
        for block1, block2, attention, up in self.ups:  # pyright: ignore[reportGeneralTypeIssues]
            x = torch.cat((x, skips.pop()), dim=1)
            x = up(attention(block2(block1(x, embedded), embedded)))
        return self.final_conv(x)


def _precise(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def _attention(dim: int) -> nn.Module:
    return Residual(PreNorm(dim, LinearAttention(dim)))
