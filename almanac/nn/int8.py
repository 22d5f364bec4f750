"""Linear layers whose weights are kept in eight bits, with a scale for each output, on a CPU; inputs and sums stay float32. For the
few rows of a decoder's step, time goes into reading weights, and `multiply`, a loop compiled by numba, reads a quarter of the bytes.
Why inputs are not rounded as well, which PyTorch's own layers in eight bits do, is in docs/log.md."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numba import float32, njit
from torch import Tensor, nn

_FEW = 32
"""Rows up to which the loop is about as fast as making the weights float32 and multiplying those."""
_SMALLEST = 1e-12
"""Rows of zeros are divided by this."""


def compiled(function: Callable[..., Any]) -> Any:
    """The function in machine code, made when it is first called and kept on disk; what tests wrap around functions to check types
    can't be compiled."""
    return njit(cache=True, fastmath=True, nogil=True, error_model="numpy")(inspect.unwrap(function))


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

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight, scale and bias, as `multiply` takes them; the same memory."""
        return self.weight.numpy(), self.scale.numpy(), self.bias.numpy()

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Multiply; float32."""
        rows = x.reshape(-1, x.shape[-1]).float()
        if len(rows) > _FEW:
            product = F.linear(rows, self.weight.float() * self.scale[:, None], self.bias)
        else:
            product = rows.new_empty(len(rows), len(self.weight))
            multiply(rows.contiguous().numpy(), *self.arrays(), product.numpy())
        return product.view(*x.shape[:-1], -1)


def joined_bias(*layers: nn.Linear) -> Float[Tensor, " outputs"]:
    """The biases of layers side by side, zeros where one has none."""
    none = [layer.weight.new_zeros(layer.out_features) for layer in layers]
    return torch.cat(
        [zero if layer.bias is None else layer.bias for layer, zero in zip(layers, none, strict=True)]
    ).detach()


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
    rows, inputs = x.shape
    for output in range(len(weight)):
        own = weight[output]
        row = 0
        while row + 5 <= rows:  # a weight once made a float serves five rows, as many as a search usually has
            a, b, c, d, e = float32(0), float32(0), float32(0), float32(0), float32(0)
            for i in range(inputs):
                w = float32(own[i])
                a += w * x[row, i]
                b += w * x[row + 1, i]
                c += w * x[row + 2, i]
                d += w * x[row + 3, i]
                e += w * x[row + 4, i]
            for place, total in enumerate((a, b, c, d, e)):
                product[row + place, output] = total * scale[output] + bias[output]
            row += 5
        while row < rows:
            a = float32(0)
            for i in range(inputs):
                a += float32(own[i]) * x[row, i]
            product[row, output] = a * scale[output] + bias[output]
            row += 1
