"""A transformer that acts on a processor, with its layers' weights in eight bits, and each token that they multiply too, by a scale of its
own, so that what an agent does never hangs on which others decide beside it. oneDNN multiplies the whole numbers; what is between the
products is compiled. Norms, attention and sums stay float32. `almanac bench multigame-dt` says what it saves."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numba import float32, int32
from torch import Tensor, nn

from almanac.multigame_dt.model import Block, DecisionTransformer, KeyValue
from almanac.nn.compiled import compiled
from almanac.nn.int8 import has_integer_products, joined_bias
from almanac.runtime.errors import UserError

_ZERO = 128  # that stands for 0 in what is multiplied: oneDNN is a thousand times as fast with unsigned numbers on some processors
_SMALLEST = 1e-12  # outputs whose weights are all zero are divided by this


def in_eight_bits(model: DecisionTransformer) -> DecisionTransformer:
    """A copy of a model for `prefix` and `rest`, with its layers in eight bits.

    Args:
        model: on the processor.

    Raises:
        UserError: this processor doesn't multiply numbers of eight bits faster than others.
    """
    if not has_integer_products():
        raise UserError("this processor has no fast products of eight bits (VNNI, AMX)", "use --precision bf16 or fp32")
    fast = copy.copy(model)
    fast._modules = dict(model._modules)
    fast.blocks = nn.ModuleList(FastBlock(block) for block in model.blocks if isinstance(block, Block))
    return fast


class FastBlock(nn.Module):
    """A layer in eight bits; see `Block`.

    Args:
        block: whose weights to take.
    """

    def __init__(self, block: Block):
        super().__init__()
        attention, mlp = block.attention, block.mlp
        self.dim = attention.query.out_features // attention.heads
        self.attention_norm, self.mlp_norm = _Norm(block.attention_norm), _Norm(block.mlp_norm)
        self.query, self.key_value = _Product(attention.query), _Product(attention.key, attention.value)
        self.out, self.up, self.down = _Product(attention.out), _Product(mlp.up), _Product(mlp.down)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        seen: Bool[Tensor, "tokens keys"] | None,
        earlier: KeyValue | None = None,
        only_last: bool = False,
    ) -> tuple[Float[Tensor, "batch asked width"], KeyValue]:
        """Mix tokens, then channels."""
        normed = self.attention_norm(x)
        key, value = self._heads(self.key_value(normed), x).chunk(2, 1)
        own = key, value
        if earlier is not None:
            key, value = (torch.cat(both, 2) for both in zip(earlier, own, strict=True))
        if only_last:
            normed, x, seen = normed.last(x.shape[1]), x[:, -1:], None if seen is None else seen[-1:]
        mixed = F.scaled_dot_product_attention(self._heads(self.query(normed), x), key, value, seen)
        x = x + self.out(Rounded.of(mixed.transpose(1, 2).flatten(2))).view_as(x)
        return x + self.down(self.up.activated(self.mlp_norm(x))).view_as(x), own

    def _heads(self, rows: Float[Tensor, "rows outputs"], like: Tensor) -> Float[Tensor, "batch heads tokens dim"]:
        return rows.view(*like.shape[:2], -1, self.dim).transpose(1, 2)


@dataclass(frozen=True)
class Rounded:
    """Tokens as whole numbers, each token's channels in steps of its own."""

    whole: UInt8[np.ndarray, "rows channels"]
    """Steps, and 128."""
    step: Float[np.ndarray, " rows"]

    @classmethod
    def of(cls, x: Float[Tensor, "*rows channels"]) -> "Rounded":
        """Round tokens, each by its largest number over 127."""
        rows = x.reshape(-1, x.shape[-1]).numpy()
        found = cls.empty(rows.shape)
        fit(rows, found.whole, found.step)
        return found

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Rounded":
        """Room for tokens."""
        return cls(np.empty(shape, np.uint8), np.empty(shape[0], np.float32))

    def last(self, tokens: int) -> "Rounded":
        """The last token of each so many."""
        return Rounded(self.whole[tokens - 1 :: tokens].copy(), self.step[tokens - 1 :: tokens].copy())


class _Norm:
    """A layer's norm, whose outcome is rounded."""

    def __init__(self, norm: nn.LayerNorm):
        self.weight, self.bias, self.eps = norm.weight.detach().numpy(), norm.bias.detach().numpy(), float32(norm.eps)

    def __call__(self, x: Float[Tensor, "*rows channels"]) -> Rounded:
        rows = x.reshape(-1, x.shape[-1]).numpy()
        found = Rounded.empty(rows.shape)
        normalise(rows, self.weight, self.bias, self.eps, found.whole, found.step)
        return found


class _Product:
    """x Wᵀ + b with W in eight bits.

    Args:
        layers: one, or several that read the same input: their outputs lie side by side.
    """

    def __init__(self, *layers: nn.Linear):
        weight = torch.cat([layer.weight.detach() for layer in layers])
        scale = (weight.abs().amax(1) / 127).clamp(min=_SMALLEST)
        whole = (weight / scale[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self.ones, self.zeros = torch.ones(len(whole)), torch.zeros(len(whole), dtype=torch.long)
        self.scale, self.bias = scale.numpy(), joined_bias(*layers).numpy()

    def __call__(self, x: Rounded) -> Float[Tensor, "rows outputs"]:
        sums = self._sums(x)
        scaled(sums, x.step, self.scale, self.bias)
        return torch.from_numpy(sums)

    def activated(self, x: Rounded) -> Rounded:
        """The same after a GELU, rounded again."""
        sums = self._sums(x)
        found = Rounded.empty(sums.shape)
        activate(sums, x.step, self.scale, self.bias)
        fit(sums, found.whole, found.step)
        return found

    def _sums(self, x: Rounded) -> Float[np.ndarray, "rows outputs"]:
        """Of the whole numbers' products."""
        sums = torch.ops.onednn.qlinear_pointwise(
            torch.from_numpy(x.whole), 1.0, _ZERO, self.weight, self.ones, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )  # fmt: skip
        return sums.numpy()


@compiled
def fit(x: np.ndarray, whole: np.ndarray, step: np.ndarray) -> None:
    """Round rows.

    Args:
        x: float32, rows × channels.
        whole: uint8, like x; written to.
        step: float32, of each row; written to.
    """
    bits = x.view(np.int32)
    for row in range(len(x)):
        fit_row(x[row], bits[row], whole[row], step[row : row + 1])


@compiled
def fit_row(x: np.ndarray, bits: np.ndarray, whole: np.ndarray, step: np.ndarray) -> None:
    """The same for one, `bits` being its floats read as whole numbers, which without their signs are in the same order: the compiler makes
    vectors of these comparisons, not of floats'."""
    most = int32(0x2B8CBCCC)  # 1e-12
    for i in range(len(bits)):
        most = max(most, bits[i] & int32(0x7FFFFFFF))
    step.view(np.int32)[0] = most
    factor = float32(127) / step[0]
    step[0] /= float32(127)
    for i in range(len(x)):
        whole[i] = np.uint8(np.int32(np.rint(x[i] * factor)) + int32(_ZERO))


@compiled
def normalise(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float, whole: np.ndarray, step: np.ndarray
) -> None:
    """Layer norm, and `fit`.

    Args:
        x: float32, rows × channels.
        weight: of each channel.
        bias: of each channel.
        eps: added to the variance.
        whole: uint8, like x; written to.
        step: float32, of each row; written to.
    """
    channels = x.shape[1]
    normed = np.empty(channels, np.float32)
    bits = normed.view(np.int32)
    for row in range(len(x)):
        total, square = float32(0), float32(0)
        for i in range(channels):
            total += x[row, i]
        mean = total / float32(channels)
        for i in range(channels):
            square += (x[row, i] - mean) * (x[row, i] - mean)
        factor = float32(1) / np.sqrt(square / float32(channels) + eps)
        for i in range(channels):
            normed[i] = (x[row, i] - mean) * factor * weight[i] + bias[i]
        fit_row(normed, bits, whole[row], step[row : row + 1])


@compiled
def scaled(sums: np.ndarray, step: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> None:
    """What sums of whole numbers stand for.

    Args:
        sums: float32, rows × outputs; changed in place.
        step: of each row.
        scale: of each output.
        bias: of each output.
    """
    for row in range(len(sums)):
        for i in range(sums.shape[1]):
            sums[row, i] = sums[row, i] * (step[row] * scale[i]) + bias[i]


@compiled
def activate(sums: np.ndarray, step: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> None:
    """The same, and then GELU by tanh, of which a quotient of polynomials is within 1e-4 up to ±4.97."""
    end = float32(4.97)
    for row in range(len(sums)):
        for i in range(sums.shape[1]):
            x = sums[row, i] * (step[row] * scale[i]) + bias[i]
            z = float32(0.7978845608) * (x + float32(0.044715) * x * x * x)
            z = end if z > end else z
            z = -end if z < -end else z
            q = z * z
            above = z * (float32(135135) + q * (float32(17325) + q * (float32(378) + q)))
            below = float32(135135) + q * (float32(62370) + q * (float32(3150) + q * float32(28)))
            sums[row, i] = float32(0.5) * x * (float32(1) + above / below)
