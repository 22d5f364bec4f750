"""Loops in machine code, by numba, for what no library of arrays does well."""

import inspect
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from numba import njit
from numba.core import config

_numba: Any = config
if _numba.CPU_FEATURES is None and (_features := llvmlite.binding.get_host_cpu_features()).get("avx512bf16"):
    # LLVM prefers half as wide vectors, which older processors need; these multiply a fifth faster with whole ones.
    _numba.CPU_FEATURES = _features.flatten() + ",-prefer-256-bit"


def compiled(function: Callable[..., Any]) -> Any:
    """The function in machine code, made when it is first called and kept on disk. Sums may be made in vectors."""
    return _compiled(function, fastmath=True)


def compiled_exactly(function: Callable[..., Any]) -> Any:
    """The same, with every operation on floats as it is written."""
    return _compiled(function, fastmath=False)


def _compiled(function: Callable[..., Any], fastmath: bool) -> Any:
    plain = inspect.unwrap(function)  # what tests wrap around functions to check types can't be compiled
    return njit(cache=True, fastmath=fastmath, nogil=True, error_model="numpy")(plain)
