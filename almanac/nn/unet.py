"""Building blocks of U-Nets. Parameter names are those of the published ConvNeXt U-Nets (`ds_conv`, `net.1`, `fn.fn.to_qkv`
…), so that their checkpoints load without a map. Feature maps are kept channels-last, where LayerNorm over channels is a
fused kernel and convolutions in bfloat16 are fastest."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn, ones, zeros


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel.

    Args:
        dim: number of channels.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.g = nn.Parameter(ones(1, dim, 1, 1))
        self.b = nn.Parameter(zeros(1, dim, 1, 1))

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        """Normalise."""
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.g.flatten(), self.b.flatten()).permute(
            0, 3, 1, 2
        )


class ConvNextBlock(nn.Module):
    """A ConvNeXt block with 3×3 convolutions for the channel mixing (Liu et al. 2022, as changed in the Cold Diffusion code).

    Args:
        dim: channels in.
        dim_out: channels out.
        time_dim: size of the time embedding that is added to every pixel; None for a block that ignores time.
        mult: widening of the hidden layer.
        norm: whether to normalise (the very first block of a net does not).
    """

    def __init__(self, dim: int, dim_out: int, time_dim: int | None = None, mult: int = 2, norm: bool = True):
        super().__init__()
        self.mlp = None if time_dim is None else nn.Sequential(nn.GELU(), nn.Linear(time_dim, dim))
        self.ds_conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.net = nn.Sequential(
            ChannelLayerNorm(dim) if norm else nn.Identity(),
            nn.Conv2d(dim, dim_out * mult, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(dim_out * mult, dim_out, 3, padding=1),
        )
        self.res_conv = nn.Conv2d(dim, dim_out, 1) if dim != dim_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch dim height width"], time: Float[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch dim_out height width"]:
        """Transform a feature map, given the embedded time."""
        hidden = self.ds_conv(x)
        if self.mlp is not None:
            hidden = hidden + self.mlp(time)[:, :, None, None]
        return self.net(hidden) + self.res_conv(x)


class Residual(nn.Module):
    """x + fn(x)."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        return self.fn(x) + x


class PreNorm(nn.Module):
    """fn(norm(x)).

    Args:
        dim: channels of x.
        fn: what is applied to the normalised feature map.
    """

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.fn = fn
        self.norm = ChannelLayerNorm(dim)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Tensor:
        """Apply."""
        return self.fn(self.norm(x))


def downsample(dim: int) -> nn.Module:
    """Halve height and width."""
    return nn.Conv2d(dim, dim, 4, stride=2, padding=1)


def upsample(dim: int) -> nn.Module:
    """Double height and width."""
    return nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1)
