"""Convolutions of 3 × 3 by Winograd's F(2 × 2, 3 × 3) (Lavin and Gray 2016, §4.1): on a CPU in float32, a square of 2 × 2 outputs takes 16
multiplications for each pair of channels instead of 36, and all of them are products of matrices. In other precisions, and elsewhere,
this is PyTorch's convolution."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

_FEWEST = 192
"""Channels on both sides from which it pays (docs/log.md)."""
_TOGETHER = 1024
"""Squares that are multiplied at once, about: as many as a cache holds."""
_PARALLEL = 2**18
"""Numbers from which several threads transform them."""
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
"""What makes four numbers of a filter's three (paper, eq. 7)."""


class Conv3x3(nn.Conv2d):
    """A convolution of 3 × 3 that keeps height and width, with the parameters of PyTorch's.

    Args:
        width: channels in.
        outside: channels out.
    """

    def __init__(self, width: int, outside: int):
        super().__init__(width, outside, 3, padding=1)
        self._known: tuple[Any, Tensor] | None = None

    def forward(self, input: Float[Tensor, "batch width height row"]) -> Float[Tensor, "batch outside height row"]:
        """Convolve; pixels that lie channels last are not copied."""
        if not self._pays(input):
            return super().forward(input)
        bias: Any = self.bias
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            found: Any = _Convolve.apply(_pixels(input), self.weight, bias)
        else:
            found = _convolve(_pixels(input), self._filters(), bias)
        return found.permute(0, 3, 1, 2)

    def _pays(self, x: Tensor) -> bool:
        fits = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
        wide = min(self.in_channels, self.out_channels) >= _FEWEST
        return fits and wide and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()

    def _filters(self) -> Tensor:
        """The weights as they are multiplied, kept until they change where these do not learn."""
        weight = self.weight.detach()
        if self.weight.requires_grad or weight.is_inference():  # fused optimisers, for one, leave the version as it is
            return _transformed(weight)
        state = (weight.data_ptr(), weight._version)
        if self._known is None or self._known[0] != state:
            self._known = (state, _transformed(weight))
        return self._known[1]

    def __getstate__(self) -> dict[str, Any]:
        """A copy transforms its weights itself."""
        return self.__dict__ | {"_known": None}


class _Convolve(torch.autograd.Function):
    """The convolution with its gradients, which are products of the same kind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, _transformed(weight), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """dx is dy convolved by the mirrored filters; dw is made of the products of what squares of x and of dy become."""
        x, weight = ctx.saved_tensors
        given = gradients[0].contiguous()
        to_x, to_weight, to_bias = ctx.needs_input_grad
        mirrored = _transformed(weight.flip(2, 3).transpose(0, 1)) if to_x else None
        return (
            None if mirrored is None else _convolve(given, mirrored, given.new_zeros(x.shape[3])),
            _weight_gradient(x, given) if to_weight else None,
            given.sum((0, 1, 2)) if to_bias else None,
        )


def _transformed(weight: Float[Tensor, "outside width 3 3"]) -> Float[Tensor, "16 width outside"]:
    """G w Gᵀ of each filter."""
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_both_sides() @ flat).view(16, weight.shape[1], weight.shape[0])


@cache
def _both_sides() -> Float[Tensor, "16 9"]:
    """G on both sides of a filter's nine numbers in a row."""
    with torch.inference_mode(False):
        g = torch.tensor(_G)
        return torch.kron(g, g)


def _convolve(
    pixels: Float[Tensor, "batch height row width"], filters: Float[Tensor, "16 width outside"], bias: Tensor
) -> Float[Tensor, "batch height row outside"]:
    """Transform squares, multiply, and transform back."""
    from almanac.nn.winograd_squares import put, take  # numba takes a second to begin: where it is of use alone

    found = torch.empty(*pixels.shape[:3], filters.shape[2])
    source, target, offsets = pixels.detach().numpy(), found.numpy(), bias.detach().numpy()
    for first, last, count in _strips(pixels):
        squares, products = _room("squares", count, filters.shape[1]), _room("products", count, filters.shape[2])
        _in_parts(take, source, squares.numpy(), first, last)
        torch.bmm(squares, filters, out=products)
        _in_parts(put, target, products.numpy(), first, last, offsets)
    return found


def _weight_gradient(pixels: Tensor, given: Tensor) -> Float[Tensor, "outside width 3 3"]:
    from almanac.nn.winograd_squares import spread, take

    width, outside = pixels.shape[3], given.shape[3]
    total = torch.zeros(16, width, outside)
    source, changes = pixels.numpy(), given.numpy()
    for first, last, count in _strips(pixels):
        squares, products = _room("squares", count, width), _room("products", count, outside)
        _in_parts(take, source, squares.numpy(), first, last)
        _in_parts(spread, changes, products.numpy(), first, last)
        total.baddbmm_(squares.transpose(1, 2), products)
    return (_both_sides().T @ total.view(16, -1)).view(3, 3, width, outside).permute(3, 2, 0, 1)


def _pixels(x: Tensor) -> Float[Tensor, "batch height row channels"]:
    return x.permute(0, 2, 3, 1).contiguous()


def _strips(pixels: Tensor) -> Iterator[tuple[int, int, int]]:
    """First and last line of squares of those that are multiplied at once, lines of all pictures counted through; and how many squares."""
    batch, height, row, _ = pixels.shape
    lines, across = batch * ((height + 1) // 2), (row + 1) // 2
    step = max(_TOGETHER // across, 1)
    for first in range(0, lines, step):
        last = min(first + step, lines)
        yield first, last, (last - first) * across


_rooms = threading.local()


def _room(name: str, count: int, channels: int) -> Float[Tensor, "16 count channels"]:
    """Memory of this thread, used again: fresh pages would take a tenth of the time."""
    size = 16 * count * channels
    held = getattr(_rooms, name, None)
    if held is None or len(held) < size:
        with torch.inference_mode(False):
            held = torch.empty(size)
        setattr(_rooms, name, held)
    return held[:size].view(16, count, channels)


def _in_parts(
    transform: Callable[..., None], pixels: np.ndarray, squares: np.ndarray, first: int, last: int, *more: Any
) -> None:
    """Transform lines of squares, in several threads where there are many."""
    threads = torch.get_num_threads() if squares.size >= _PARALLEL else 1
    bounds = [first + (last - first) * part // threads for part in range(threads + 1)]
    pairs = list(pairwise(bounds))
    waiting = [_pool().submit(transform, pixels, squares, first, *pair, *more) for pair in pairs[1:]]
    transform(pixels, squares, first, *pairs[0], *more)
    for each in waiting:
        each.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="winograd")
