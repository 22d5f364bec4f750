"""Attention layers."""

from jaxtyping import Float
from torch import Tensor, nn


class LinearAttention(nn.Module):
    """Attention over the pixels of a feature map, linear in their number (Shen et al. 2021, Efficient Attention): softmax
    over keys, then one dim_head × dim_head summary that every query reads.

    Args:
        dim: channels of the feature map.
        heads: number of heads.
        dim_head: channels of a head.
    """

    def __init__(self, dim: int, heads: int = 4, dim_head: int = 32):
        super().__init__()
        self.heads = heads
        self.dim_head = dim_head
        self.to_qkv = nn.Conv2d(dim, 3 * heads * dim_head, 1, bias=False)
        self.to_out = nn.Conv2d(heads * dim_head, dim, 1)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        """Mix the pixels of each image."""
        batch, _, height, width = x.shape
        pixels = self.to_qkv(x).permute(0, 2, 3, 1)  # a view where memory is channels-last
        qkv = pixels.reshape(batch, height * width, 3, self.heads, self.dim_head).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        summary = key.softmax(dim=2).transpose(2, 3) @ value
        # Scaling the small summary is the same as scaling the queries, on 32 × 32 instead of pixels × 32 numbers.
        mixed = query @ (summary * self.dim_head**-0.5)
        mixed = mixed.transpose(1, 2).reshape(batch, height, width, self.heads * self.dim_head)
        return self.to_out(mixed.permute(0, 3, 1, 2))
