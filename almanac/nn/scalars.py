"""Single numbers in compiled loops, in forms of which LLVM makes vectors."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, types, uint32
from numba.core import cgutils
from numba.extending import intrinsic

from almanac.nn.compiled import compiled, compiled_exactly

_intrinsic: Any = intrinsic  # which it makes of a function, no signature tells


@_intrinsic
def bits(_, value):
    """A float32's bits."""
    return types.uint32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@_intrinsic
def as_float(_, found):
    """The float32 of bits."""
    return types.float32(types.uint32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


@_intrinsic
def larger(_, one, other):
    """The larger float32, in a form that becomes vectors."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 2)
        larger = cgutils.get_or_insert_function(builder.module, kind, "llvm.maxnum.f32")
        return builder.call(larger, args, fastmath=("fast",))

    return types.float32(types.float32, types.float32), generate


@compiled
def exp(x):
    """e to the x, to float32's precision, in a form that becomes vectors."""
    x = min(max(x, float32(-87)), float32(88))
    turns = np.floor(x * float32(1.44269504) + float32(0.5))
    rest = x - turns * float32(0.693359375) + turns * float32(2.12194440e-4)
    series = float32(1.9875691500e-4)
    for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        series = series * rest + float32(factor)
    return (series * rest * rest + rest + float32(1)) * as_float(uint32((int32(turns) + int32(127)) << int32(23)))


@compiled_exactly
def rounded(value):
    """A float32 as bfloat16's bits, to the nearest, of two to the even one."""
    found = bits(value)
    return (found + uint32(0x7FFF) + ((found >> uint32(16)) & uint32(1))) >> uint32(16)
