"""The operations that a car's equations are written in, for whatever numbers they are given: single floats, NumPy's arrays, PyTorch's
tensors (and their gradients), CasADi's symbols (and their derivatives). In loops compiled by numba they are polynomials and selections,
of which LLVM makes vectors."""

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32
from numba.extending import overload, register_jitable

from almanac.nn.scalars import larger


def shared(function: Callable[..., Any]) -> Any:
    """A function of these operations, which compiled loops can call too."""
    plain = inspect.unwrap(function)  # what tests wrap around functions to check types can't be compiled
    return register_jitable(forceinline=True)(plain)  # loops with calls in them don't become vectors


def real(number: float) -> Any:
    """A constant in an equation, which in a compiled loop is as wide as the numbers there."""
    return number


def _library(x: Any) -> Any:
    """The library whose numbers these are."""
    name = type(x).__module__.partition(".")[0]
    return sys.modules[name] if name in ("torch", "casadi") else np


def sin(x: Any) -> Any:
    """Sine."""
    return _library(x).sin(x)


def cos(x: Any) -> Any:
    """Cosine."""
    return _library(x).cos(x)


def atan(x: Any) -> Any:
    """Arc tangent."""
    library = _library(x)
    return (library.arctan if library is np else library.atan)(x)


def sqrt(x: Any) -> Any:
    """Square root."""
    return _library(x).sqrt(x)


def absolute(x: Any) -> Any:
    """|x|."""
    library = _library(x)
    return (library.fabs if library is not np and library.__name__ == "casadi" else library.abs)(x)


def maximum(x: Any, least: Any) -> Any:
    """The larger of two numbers, of which the second may be a constant."""
    library = _library(x)
    if library is np:
        return np.maximum(x, least)
    return library.fmax(x, least) if library.__name__ == "casadi" else x.clamp(min=least)


# How compiled loops compute them, of float32. The series are those of Hastings 1955 (Abramowitz and Stegun, 4.3.97 and 4.4.49), to 2e-8.


def _sin(x):
    turns = np.floor(x * float32(0.5 / math.pi) + float32(0.5))
    x = (x - turns * float32(6.28125)) - turns * float32(2 * math.pi - 6.28125)
    size = abs(x)
    folded = -larger(-size, size - float32(math.pi))
    square = folded * folded
    series = float32(-2.39e-8)
    for factor in (2.7526e-6, -1.98409e-4, 8.3333315e-3, -0.1666666664, 1.0):
        series = series * square + float32(factor)
    found = series * folded
    return -found if x < float32(0) else found


def _atan(x):
    size = abs(x)
    beyond = size > float32(1)
    z = (float32(1) if beyond else size) / (size if beyond else float32(1))
    square = z * z
    series = float32(0.0028662257)
    for factor in _ATAN:
        series = series * square + float32(factor)
    found = series * z
    found = float32(math.pi / 2) - found if beyond else found
    return -found if x < float32(0) else found


_ATAN = (-0.0161657367, 0.0429096138, -0.07528964, 0.1065626393, -0.1420889944, 0.1999355085, -0.3333314528, 1.0)

overload(real)(lambda number: lambda number: float32(number))
overload(sin)(lambda x: inspect.unwrap(_sin))
overload(cos)(lambda x: lambda x: sin(abs(x) + float32(math.pi / 2)))  # the same left and right
overload(atan)(lambda x: inspect.unwrap(_atan))
overload(sqrt)(lambda x: lambda x: np.sqrt(x))
overload(absolute)(lambda x: lambda x: abs(x))
overload(maximum)(lambda x, least: lambda x, least: larger(x, float32(least)))
