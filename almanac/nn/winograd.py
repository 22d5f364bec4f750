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

from almanac.nn.compiled import compiled

_FEWEST = 64
"""Channels on both sides from which it pays."""
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
    found = torch.empty(*pixels.shape[:3], filters.shape[2])
    source, target, offsets = pixels.detach().numpy(), found.numpy(), bias.detach().numpy()
    for first, last, count in _strips(pixels):
        squares, products = _room("squares", count, filters.shape[1]), _room("products", count, filters.shape[2])
        _in_parts(take, source, squares.numpy(), first, last)
        torch.bmm(squares, filters, out=products)
        _in_parts(put, target, products.numpy(), first, last, offsets)
    return found


def _weight_gradient(pixels: Tensor, given: Tensor) -> Float[Tensor, "outside width 3 3"]:
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


@compiled
def take(pixels: np.ndarray, squares: np.ndarray, start: int, first: int, last: int) -> None:
    """Bᵀ d B of the 4 × 4 pixels d around each square of 2 × 2 (paper, eq. 7), zeros beyond the edges.

    Args:
        pixels: float32, batch × height × row × channels.
        squares: float32, 16 × squares × channels, those of line `start` first; written to.
        start: see above.
        first: line of squares, lines of all pictures counted through.
        last: the one after the last.
    """
    _, height, row, channels = pixels.shape
    down, across = (height + 1) // 2, (row + 1) // 2
    nothing, half = np.zeros(channels, np.float32), np.empty((4, 4, channels), np.float32)
    for line in range(first, last):
        picture, top = pixels[line // down], 2 * (line % down) - 1
        for x in range(across):
            for column in range(4):
                at = 2 * x - 1 + column
                inside = 0 <= at < row
                d0 = picture[top, at] if inside and top >= 0 else nothing
                d1 = picture[top + 1, at] if inside else nothing
                d2 = picture[top + 2, at] if inside and top + 2 < height else nothing
                d3 = picture[top + 3, at] if inside and top + 3 < height else nothing
                for i in range(channels):
                    a, b, c, d = d0[i], d1[i], d2[i], d3[i]
                    half[0, column, i] = a - c
                    half[1, column, i] = b + c
                    half[2, column, i] = c - b
                    half[3, column, i] = b - d
            place = (line - start) * across + x
            for k in range(4):
                h0, h1, h2, h3 = half[k, 0], half[k, 1], half[k, 2], half[k, 3]
                s0, s1, s2, s3 = (squares[4 * k, place], squares[4 * k + 1, place], squares[4 * k + 2, place],
                                  squares[4 * k + 3, place])  # fmt: skip
                for i in range(channels):
                    a, b, c, d = h0[i], h1[i], h2[i], h3[i]
                    s0[i] = a - c
                    s1[i] = b + c
                    s2[i] = c - b
                    s3[i] = b - d


@compiled
def put(pixels: np.ndarray, products: np.ndarray, start: int, first: int, last: int, bias: np.ndarray) -> None:
    """Aᵀ m A + bias: the 2 × 2 outputs of each square of products m (paper, eq. 7).

    Args:
        pixels: float32, batch × height × row × channels; written to.
        products: float32, 16 × squares × channels, those of line `start` first.
        start: see above.
        first: line of squares, lines of all pictures counted through.
        last: the one after the last.
        bias: float32, of each channel.
    """
    _, height, row, channels = pixels.shape
    down, across = (height + 1) // 2, (row + 1) // 2
    half = np.empty((2, 4, channels), np.float32)
    for line in range(first, last):
        picture, top = pixels[line // down], 2 * (line % down)
        for x in range(across):
            place = (line - start) * across + x
            for k in range(4):
                m0, m1, m2, m3 = (
                    products[k, place],
                    products[4 + k, place],
                    products[8 + k, place],
                    products[12 + k, place],
                )
                for i in range(channels):
                    a, b, c, d = m0[i], m1[i], m2[i], m3[i]
                    half[0, k, i] = a + b + c
                    half[1, k, i] = b - c - d
            for k in range(min(2, height - top)):
                h0, h1, h2, h3 = half[k, 0], half[k, 1], half[k, 2], half[k, 3]
                left = picture[top + k, 2 * x]
                for i in range(channels):
                    left[i] = h0[i] + h1[i] + h2[i] + bias[i]
                if 2 * x + 1 < row:
                    right = picture[top + k, 2 * x + 1]
                    for i in range(channels):
                        right[i] = h1[i] - h2[i] - h3[i] + bias[i]


@compiled
def spread(pixels: np.ndarray, products: np.ndarray, start: int, first: int, last: int) -> None:
    """A y Aᵀ of each square of 2 × 2 pixels y, zeros beyond the edges: the transpose of `put`, for gradients.

    Args:
        pixels: float32, batch × height × row × channels.
        products: float32, 16 × squares × channels, those of line `start` first; written to.
        start: see above.
        first: line of squares, lines of all pictures counted through.
        last: the one after the last.
    """
    _, height, row, channels = pixels.shape
    down, across = (height + 1) // 2, (row + 1) // 2
    nothing, half = np.zeros(channels, np.float32), np.empty((4, 2, channels), np.float32)
    for line in range(first, last):
        picture, top = pixels[line // down], 2 * (line % down)
        for x in range(across):
            for column in range(2):
                inside = 2 * x + column < row
                y0 = picture[top, 2 * x + column] if inside else nothing
                y1 = picture[top + 1, 2 * x + column] if inside and top + 1 < height else nothing
                for i in range(channels):
                    a, b = y0[i], y1[i]
                    half[0, column, i] = a
                    half[1, column, i] = a + b
                    half[2, column, i] = a - b
                    half[3, column, i] = -b
            place = (line - start) * across + x
            for k in range(4):
                h0, h1 = half[k, 0], half[k, 1]
                s0, s1, s2, s3 = (products[4 * k, place], products[4 * k + 1, place], products[4 * k + 2, place],
                                  products[4 * k + 3, place])  # fmt: skip
                for i in range(channels):
                    a, b = h0[i], h1[i]
                    s0[i] = a
                    s1[i] = a + b
                    s2[i] = a - b
                    s3[i] = -b
