"""The autoencoder between pictures and latents (Esser et al. 2021; Rombach et al. 2022, §3.1): a convolutional encoder to a Gaussian and
its mirror image. Names of parameters are the official ones."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from almanac.nn.group_norm import GroupNorm
from almanac.nn.winograd import Conv3x3


@dataclass(frozen=True)
class AutoencoderConfig:
    """The shape of an autoencoder; the default is Stable Diffusion's kl-f8."""

    channels: int = 128
    """At full resolution."""
    mults: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level, as multiples; each is half as large as the one before."""
    blocks: int = 2
    """Residual blocks of a level in the encoder; one more in the decoder."""
    latents: int = 4
    """Channels of a latent."""
    pixels: int = 3
    """Channels of a picture."""
    groups: int = 32
    """Of channels, that are normalised together. Groups of one or two channels would lose what a map's mean says, such as a background."""
    scale: float = 0.18215
    """What latents are multiplied by, so that their deviation is about 1."""

    @property
    def factor(self) -> int:
        """Pixels to a latent, along a side."""
        return 2 ** (len(self.mults) - 1)


class Autoencoder(nn.Module):
    """Pictures to latents and back.

    Args:
        config: its shape.
    """

    def __init__(self, config: AutoencoderConfig = AutoencoderConfig()):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latents, 2 * config.latents, 1)
        self.post_quant_conv = nn.Conv2d(config.latents, config.latents, 1)

    def encode(
        self, pictures: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch latents h w"], Float[Tensor, "batch latents h w"]]:
        """Mean and standard deviation of the latents of pictures in [−1, 1], before they are scaled."""
        kind = self.quant_conv.weight.dtype
        mean, log_variance = self.quant_conv(self.encoder(_last(pictures.to(kind)))).float().chunk(2, dim=1)
        return mean, (0.5 * log_variance.clamp(-30, 20)).exp()

    def decode(self, latents: Float[Tensor, "batch latents h w"]) -> Float[Tensor, "batch channels height width"]:
        """Pictures, about in [−1, 1], of latents that are not scaled."""
        kind = self.post_quant_conv.weight.dtype
        return self.decoder(self.post_quant_conv(_last(latents.to(kind)))).float()


class Encoder(nn.Module):
    """Pictures to means and log variances.

    Args:
        config: its shape.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = [config.channels * mult for mult in config.mults]
        self.conv_in = nn.Conv2d(config.pixels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        width = config.channels
        for level, wide in enumerate(widths):
            self.down.append(
                Level(width, wide, config.blocks, config.groups, Shrink(wide) if level < len(widths) - 1 else None)
            )
            width = wide
        self.mid = Middle(width, config.groups)
        self.norm_out = GroupNorm(config.groups, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, 2 * config.latents, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents to pictures.

    Args:
        config: its shape.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = [config.channels * mult for mult in config.mults]
        width = widths[-1]
        self.conv_in = nn.Conv2d(config.latents, width, 3, padding=1)
        self.mid = Middle(width, config.groups)
        levels = []
        for level, wide in reversed(list(enumerate(widths))):
            levels.append(Level(width, wide, config.blocks + 1, config.groups, Grow(wide) if level else None))
            width = wide
        self.up = nn.ModuleList(reversed(levels))  # counted from the top, and run from the last
        self.norm_out = GroupNorm(config.groups, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, config.pixels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Decode."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Level(nn.Module):
    """Residual blocks at a resolution, and the way to the next.

    Args:
        width: channels in.
        outside: channels out.
        blocks: how many.
        groups: of channels.
        change: halves or doubles height and width; None: neither.
    """

    def __init__(self, width: int, outside: int, blocks: int, groups: int, change: "Shrink | Grow | None"):
        super().__init__()
        self.block = nn.ModuleList(
            Block(width if number == 0 else outside, outside, groups) for number in range(blocks)
        )
        if isinstance(change, Shrink):
            self.downsample = change
        elif change is not None:
            self.upsample = change
        self._changes = change is not None

    def forward(self, x: Tensor) -> Tensor:
        """Transform a feature map."""
        for block in self.block:
            x = block(x)
        if self._changes:
            x = (self.downsample if hasattr(self, "downsample") else self.upsample)(x)
        return x


class Middle(nn.Module):
    """Two residual blocks around attention.

    Args:
        width: channels.
        groups: of them.
    """

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.block_1 = Block(width, width, groups)
        self.attn_1 = PixelAttention(width, groups)
        self.block_2 = Block(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a feature map."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Block(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        width: channels in.
        outside: channels out.
        groups: of them.
    """

    def __init__(self, width: int, outside: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, width, eps=1e-6)
        self.conv1 = Conv3x3(width, outside)
        self.norm2 = GroupNorm(groups, outside, eps=1e-6)
        self.conv2 = Conv3x3(outside, outside)
        if width != outside:
            self.nin_shortcut = nn.Conv2d(width, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a feature map."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PixelAttention(nn.Module):
    """Attention among pixels, with one head.

    Args:
        width: channels.
        groups: of them.
    """

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Mix pixels."""
        normed = self.norm(x)
        query, key, value = (part(normed).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0].transpose(1, 2)
        return self.proj_out(mixed.unflatten(2, x.shape[2:])) + x


class Shrink(nn.Module):
    """Halve height and width.

    Args:
        width: channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Halve; a row and a column of zeros are added below and on the right alone."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Grow(nn.Module):
    """Double height and width.

    Args:
        width: channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Double."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
