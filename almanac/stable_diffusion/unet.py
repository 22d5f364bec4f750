"""The U-Net of latent diffusion (Rombach et al. 2022, §3.3; CompVis' `openaimodel.py` says the layout): residual blocks that know the
time, and transformers over pixels that read the words. Names of parameters are the official ones, so that published weights load
without a map. Pixels lie channels last, where a feature map is a row of tokens without a copy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from almanac.nn.group_norm import GroupNorm
from almanac.nn.winograd import Conv3x3


@dataclass(frozen=True)
class UnetConfig:
    """The shape of a U-Net; the default is Stable Diffusion 1's."""

    in_channels: int = 4
    """Of latents; 9 where a mask and a masked picture's latents are read beside them."""
    out_channels: int = 4
    channels: int = 320
    """At full resolution."""
    mults: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level, as multiples; each is half as large as the one before."""
    blocks: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    attention: tuple[int, ...] = (0, 1, 2)
    """Levels whose blocks read the words."""
    heads: int = 8
    context: int = 768
    """Channels of the words."""
    groups: int = 32
    """Of channels, that are normalised together."""


class Unet(nn.Module):
    """Predicts the noise in latents.

    Args:
        config: its shape.
    """

    def __init__(self, config: UnetConfig = UnetConfig()):
        super().__init__()
        self.config = config
        time = 4 * config.channels
        self.time_embed = nn.Sequential(nn.Linear(config.channels, time), nn.SiLU(), nn.Linear(time, time))
        widths = [config.channels * mult for mult in config.mults]
        last = len(widths) - 1

        def block(inside: int, outside: int, level: int) -> list[nn.Module]:
            parts: list[nn.Module] = [ResBlock(inside, outside, time, config.groups)]
            if level in config.attention:
                parts.append(SpatialTransformer(outside, config.heads, config.context, config.groups))
            return parts

        width = config.channels
        down: list[list[nn.Module]] = [[nn.Conv2d(config.in_channels, width, 3, padding=1)]]
        skips = [width]
        for level, wide in enumerate(widths):
            for _ in range(config.blocks):
                down.append(block(width, wide, level))
                width = wide
                skips.append(width)
            if level < last:
                down.append([Downsample(width)])
                skips.append(width)
        middle = [
            ResBlock(width, width, time, config.groups),
            SpatialTransformer(width, config.heads, config.context, config.groups),
            ResBlock(width, width, time, config.groups),
        ]
        up = []
        for level, wide in reversed(list(enumerate(widths))):
            for number in range(config.blocks + 1):
                parts = block(width + skips.pop(), wide, level)
                width = wide
                if level and number == config.blocks:
                    parts.append(Upsample(width))
                up.append(parts)
        self.input_blocks = nn.ModuleList(Steps(*parts) for parts in down)
        self.middle_block = Steps(*middle)
        self.output_blocks = nn.ModuleList(Steps(*parts) for parts in up)
        self.out = nn.Sequential(
            GroupNorm(config.groups, width), nn.SiLU(), nn.Conv2d(width, config.out_channels, 3, padding=1)
        )

    def forward(
        self,
        latents: Float[Tensor, "batch in_channels height width"],
        time: Float[Tensor, " batch"],
        context: Float[Tensor, "batch words channels"],
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Predict.

        Args:
            latents: noisy ones.
            time: how noisy, 0 to 999, fractions too.
            context: what the text encoder made of the words.
        """
        kind = next(self.parameters()).dtype
        embedded = self.time_embed(timestep_embedding(time, self.config.channels).to(kind))
        x = latents.to(kind).contiguous(memory_format=torch.channels_last)
        skips = []
        for steps in self.input_blocks:
            x = steps(x, embedded, context)
            skips.append(x)
        x = self.middle_block(x, embedded, context)
        for steps in self.output_blocks:
            x = torch.cat((x, skips.pop()), dim=1)
            x = steps(x, embedded, context, skips[-1].shape[2:] if skips else x.shape[2:])
        return self.out(x).to(latents.dtype)


class Steps(nn.Sequential):
    """Layers one after the other, each given what it reads."""

    def forward(self, x: Tensor, time: Tensor, context: Tensor, size: Sequence[int] = ()) -> Tensor:  # pyright: ignore
        """Transform a feature map.

        Args:
            x: the map.
            time: embedded.
            context: the words.
            size: height and width that an enlarging layer makes, which may be one less than twice as much.
        """
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, time)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            elif isinstance(layer, Upsample):
                x = layer(x, size)
            else:
                x = layer(x)
        return x


class ResBlock(nn.Module):
    """Two convolutions, the time added between them.

    Args:
        width: channels in.
        outside: channels out.
        time: channels of the embedded time.
        groups: of channels.
    """

    def __init__(self, width: int, outside: int, time: int, groups: int):
        super().__init__()
        self.in_layers = nn.Sequential(GroupNorm(groups, width), nn.SiLU(), Conv3x3(width, outside))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, outside))
        self.out_layers = nn.Sequential(
            GroupNorm(groups, outside), nn.SiLU(), nn.Identity(), Conv3x3(outside, outside)
        )  # official files have dropout where the identity is
        self.skip_connection = nn.Conv2d(width, outside, 1) if width != outside else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Transform a feature map."""
        hidden = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.out_layers(hidden) + self.skip_connection(x)


class SpatialTransformer(nn.Module):
    """A transformer block over pixels, that reads the words.

    Args:
        width: channels.
        heads: of attention.
        context: channels of the words.
        groups: of channels.
    """

    def __init__(self, width: int, heads: int, context: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, context)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Transform a feature map."""
        batch, _, height, width = x.shape
        tokens = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(batch, height * width, -1)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(tokens.reshape(batch, height, width, -1).permute(0, 3, 1, 2)) + x


class TransformerBlock(nn.Module):
    """Attention among pixels, attention to words, and a gated feed-forward network.

    Args:
        width: channels.
        heads: of attention.
        context: channels of the words.
    """

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Transform tokens."""
        normed = self.norm1(x)
        x = self.attn1(normed, normed) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class CrossAttention(nn.Module):
    """Attention of tokens to those of a context.

    Args:
        width: channels of the tokens.
        context: channels of the context.
        heads: how many.
    """

    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Let tokens read."""
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU-gated, linear (Shazeer 2020).

    Args:
        width: channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(Gate(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels."""
        return self.net(x)


class Gate(nn.Module):
    """a · gelu(b), both linear.

    Args:
        width: channels in.
        outside: channels out.
    """

    def __init__(self, width: int, outside: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * outside)

    def forward(self, x: Tensor) -> Tensor:
        """Widen."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class Downsample(nn.Module):
    """Halve height and width.

    Args:
        width: channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve."""
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width.

    Args:
        width: channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv3x3(width, width)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Double, or as near as the size is."""
        return self.conv(F.interpolate(x, tuple(size), mode="nearest"))


def timestep_embedding(time: Float[Tensor, " batch"], channels: int) -> Float[Tensor, "batch channels"]:
    """Cosines, then sines, of times at frequencies from 1 down to nearly 1/10,000.

    Args:
        time: 0 to 999.
        channels: even.
    """
    half = channels // 2
    frequencies = torch.exp(torch.arange(half, device=time.device) * (-math.log(10_000) / half))
    angles = time[:, None].float() * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
