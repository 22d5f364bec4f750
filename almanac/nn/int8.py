"""Linear layers whose weights are kept in eight bits, with a scale for each output, on a CPU; for inference. A decoder's step has few rows,
so its time goes into reading weights, and here they are a quarter of the bytes. Products of few rows and weights are loops compiled by
numba, in float32. Larger ones are oneDNN's, of integers, where the processor has the instructions (VNNI, AMX), with each input as two
numbers of eight bits, a coarse and a fine one, since what takes the time is reading weights (docs/log.md)."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numba import float32
from torch import Tensor, nn

from almanac.nn.compiled import compiled

_FEW = 32
"""Rows up to which the loop is about as fast as making the weights float32 and multiplying those."""
_LARGE = 2**23
"""Rows × weights from which integer products of several rows pay."""
_SMALLEST = 1e-12
"""Rows of zeros are divided by this."""
_ZERO = 128
"""What stands for 0 in inputs: they are unsigned, since without AMX oneDNN multiplies signed ones by a loop that is 2,000 times slower."""


class Int8Linear(nn.Module):
    """x Wᵀ + b with W in eight bits, for inference.

    Args:
        layers: one, or several that read the same input: their outputs lie side by side.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, *layers: nn.Linear):
        super().__init__()
        weight = torch.cat([layer.weight.detach() for layer in layers])
        scale = (weight.abs().amax(1) / 127).clamp(min=_SMALLEST)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", joined_bias(*layers))
        self._arrays = tuple(part.numpy() for part in (self.weight, self.scale, self.bias))
        self._product = _IntegerProduct(self.weight) if has_integer_products() else None

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Multiply; float32."""
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        return torch.from_numpy(self.multiply(rows.numpy())).view(*x.shape[:-1], -1)

    def multiply(self, x: Float[np.ndarray, "rows inputs"]) -> Float[np.ndarray, "rows outputs"]:
        """Multiply contiguous float32."""
        weight, scale, bias = self._arrays
        product = np.empty((len(x), len(weight)), np.float32)
        if self._product and len(x) > 1 and len(x) * weight.size >= _LARGE:
            parts, step = np.empty((2, *x.shape), np.uint8), np.empty(len(x), np.float32)
            halve(x, parts, step)
            join(self._product(parts.reshape(-1, x.shape[1])), step, scale, bias, product)
        elif len(x) <= _FEW:
            multiply(x, weight, scale, bias, product)
        else:
            weights = self.weight.float() * self.scale[:, None]
            torch.addmm(self.bias, torch.from_numpy(x), weights.T, out=torch.from_numpy(product))
        return product


@cache
def has_integer_products() -> bool:
    """Whether oneDNN multiplies numbers of eight bits here, faster than float32 and exactly."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


class _IntegerProduct:
    """x Wᵀ of numbers of eight bits by oneDNN: whole sums, as float32.

    Args:
        weight: int8, outputs × inputs.
    """

    def __init__(self, weight: Tensor):
        outputs = len(weight)
        self.weight = torch.ops.onednn.qlinear_prepack(weight, None)
        self.ones, self.zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.long)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """uint8, 128 for 0, rows × inputs → float32, rows × outputs."""
        sums = torch.ops.onednn.qlinear_pointwise(
            torch.from_numpy(x),
            1.0,
            _ZERO,
            self.weight,
            self.ones,
            self.zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return sums.numpy()


def joined_bias(*layers: nn.Linear) -> Float[Tensor, " outputs"]:
    """The biases of layers side by side, zeros where one has none."""
    none = [layer.weight.new_zeros(layer.out_features) for layer in layers]
    return torch.cat(
        [zero if layer.bias is None else layer.bias for layer, zero in zip(layers, none, strict=True)]
    ).detach()


@compiled
def halve(x: np.ndarray, parts: np.ndarray, step: np.ndarray) -> None:
    """Each row as a coarse part, in steps of its largest number over 127, and what is missing then, in steps of a 254th of those.

    Args:
        x: float32, rows × inputs.
        parts: uint8, 128 for 0, 2 × rows × inputs; written to.
        step: float32, of each row; written to.
    """
    rows, inputs = x.shape
    for row in range(rows):
        most = float32(1e-12)
        for i in range(inputs):
            most = max(most, abs(x[row, i]))
        step[row] = most / float32(127)
        factor = float32(127) / most
        for i in range(inputs):
            steps = x[row, i] * factor
            coarse = np.rint(steps)
            parts[0, row, i] = np.uint8(np.int32(coarse) + _ZERO)
            parts[1, row, i] = np.uint8(np.int32(np.rint((steps - coarse) * float32(254))) + _ZERO)


@compiled
def join(sums: np.ndarray, step: np.ndarray, scale: np.ndarray, bias: np.ndarray, product: np.ndarray) -> None:
    """What `halve` split, after the product.

    Args:
        sums: float32, coarse rows and then fine ones × outputs.
        step: of each row.
        scale: of each output.
        bias: of each output.
        product: float32, rows × outputs; written to.
    """
    rows, outputs = product.shape
    for row in range(rows):
        for output in range(outputs):
            sum_of_both = sums[row, output] + sums[rows + row, output] * float32(1 / 254)
            product[row, output] = sum_of_both * (step[row] * scale[output]) + bias[output]


@compiled
def multiply(x: np.ndarray, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray, product: np.ndarray) -> None:
    """x Wᵀ + b.

    Args:
        x: float32, rows × inputs.
        weight: int8, outputs × inputs.
        scale: float32, of each output.
        bias: float32, of each output.
        product: float32, rows × outputs; written to.
    """
    rows = len(x)
    fives = rows // 5 * 5
    for row in range(0, fives, 5):  # as many as a search usually has
        multiply_five(x[row : row + 5], weight, scale, bias, product[row : row + 5])
    for row in range(fives, rows):
        multiply_row(x[row], weight, scale, bias, product[row])


@compiled
def multiply_five(x: np.ndarray, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray, product: np.ndarray) -> None:
    """The same for five rows, which a weight serves once it is a float; by four outputs at a time, see `multiply_row`."""
    zero, inputs, fourth = float32(0), x.shape[1], len(weight) // 4
    x0, x1, x2, x3, x4 = x[0], x[1], x[2], x[3], x[4]
    for o in range(fourth):
        w0, w1, w2, w3 = weight[o], weight[o + fourth], weight[o + 2 * fourth], weight[o + 3 * fourth]
        a0, a1, a2, a3, a4 = zero, zero, zero, zero, zero
        b0, b1, b2, b3, b4 = zero, zero, zero, zero, zero
        c0, c1, c2, c3, c4 = zero, zero, zero, zero, zero
        d0, d1, d2, d3, d4 = zero, zero, zero, zero, zero
        for i in range(inputs):
            v0, v1, v2, v3, v4 = x0[i], x1[i], x2[i], x3[i], x4[i]
            a, b, c, d = float32(w0[i]), float32(w1[i]), float32(w2[i]), float32(w3[i])
            a0 += a * v0
            a1 += a * v1
            a2 += a * v2
            a3 += a * v3
            a4 += a * v4
            b0 += b * v0
            b1 += b * v1
            b2 += b * v2
            b3 += b * v3
            b4 += b * v4
            c0 += c * v0
            c1 += c * v1
            c2 += c * v2
            c3 += c * v3
            c4 += c * v4
            d0 += d * v0
            d1 += d * v1
            d2 += d * v2
            d3 += d * v3
            d4 += d * v4
        totals = ((a0, a1, a2, a3, a4), (b0, b1, b2, b3, b4), (c0, c1, c2, c3, c4), (d0, d1, d2, d3, d4))
        for part, of_rows in enumerate(totals):
            place = o + part * fourth
            for row, total in enumerate(of_rows):
                product[row, place] = total * scale[place] + bias[place]
    for o in range(4 * fourth, len(weight)):
        for row in range(5):
            total = zero
            for i in range(inputs):
                total += float32(weight[o, i]) * x[row, i]
            product[row, o] = total * scale[o] + bias[o]


@compiled
def multiply_row(x: np.ndarray, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray, product: np.ndarray) -> None:
    """The same for a single row. Eight outputs that lie far apart are computed side by side: a processor fetches eight streams of memory
    more than twice as fast as one."""
    inputs, eighth = len(x), len(weight) // 8
    for o in range(eighth):
        a, b, c, d, e, f, g, h = (
            float32(0),
            float32(0),
            float32(0),
            float32(0),
            float32(0),
            float32(0),
            float32(0),
            float32(0),
        )
        for i in range(inputs):
            value = x[i]
            a += float32(weight[o, i]) * value
            b += float32(weight[o + eighth, i]) * value
            c += float32(weight[o + 2 * eighth, i]) * value
            d += float32(weight[o + 3 * eighth, i]) * value
            e += float32(weight[o + 4 * eighth, i]) * value
            f += float32(weight[o + 5 * eighth, i]) * value
            g += float32(weight[o + 6 * eighth, i]) * value
            h += float32(weight[o + 7 * eighth, i]) * value
        for part, total in enumerate((a, b, c, d, e, f, g, h)):
            place = o + part * eighth
            product[place] = total * scale[place] + bias[place]
    for o in range(8 * eighth, len(weight)):
        a = float32(0)
        for i in range(inputs):
            a += float32(weight[o, i]) * x[i]
        product[o] = a * scale[o] + bias[o]
