"""The inner loop of all that a CPU computes for a language model: a few rows of numbers times a panel of packed weights. It is written
in LLVM's own terms, because what makes it fast are instructions that no Python loop becomes: sums of four products of eight bits
(VNNI), or weights in bfloat16 that become float32 on the way. Where a processor lacks them, LLVM makes others of it with the same
result; where it has a matrix unit, `grid` has that do it.

Each row's sums are made in the same order however many rows there are, so that what becomes of a row never depends on the others: a
served answer does not depend on who else is being served.

A panel holds `vectors` × 16 outputs, and for each step of its inner loop 64 bytes for each 16 of them: four numbers of eight bits an
output, two of bfloat16, or one of float32."""

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Numbers in a vector: 512 bits of float32."""
PER_STEP = {"int8": 4, "bf16": 2, "fp32": 1}
"""Inputs that a step of the inner loop multiplies."""

_intrinsic: Any = intrinsic  # which it makes of a function, no signature tells
_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _FLOATS, _BYTES = ir.VectorType(_I32, LANES), ir.VectorType(_F32, LANES), ir.VectorType(_I8, 4 * LANES)


def _int8(builder: ir.IRBuilder, total: Any, x: Any, weights: list) -> Any:
    """Four products of eight bits: inputs signed, weights unsigned."""
    (packed,) = weights
    if _has_vnni():
        kind = ir.FunctionType(_INTS, [_INTS, _BYTES, _BYTES])
        dot = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(dot, [total, builder.bitcast(packed, _BYTES), builder.bitcast(x[0], _BYTES)])
    for place in range(4):
        shift = _splat_constant(_INTS, 8 * place)
        weight = builder.and_(builder.lshr(packed, shift), _splat_constant(_INTS, 255))
        value = builder.ashr(builder.shl(x[0], _splat_constant(_INTS, 24 - 8 * place)), _splat_constant(_INTS, 24))
        total = builder.add(total, builder.mul(weight, value))
    return total


def _floats(builder: ir.IRBuilder, total: Any, x: Any, weights: list) -> Any:
    """One product of float32 for each weight."""
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), "llvm.fma.v16f32")
    for value, weight in zip(x, weights, strict=True):
        total = builder.call(fma, [builder.bitcast(value, _FLOATS), weight, total])
    return total


def _unpacked(builder: ir.IRBuilder, kind: str, packed: Any) -> list:
    """A vector of packed weights as vectors to multiply."""
    if kind == "int8":
        return [packed]
    if kind == "fp32":
        return [builder.bitcast(packed, _FLOATS)]
    low = builder.shl(packed, _splat_constant(_INTS, 16))
    high = builder.and_(packed, _splat_constant(_INTS, 0xFFFF0000))
    return [builder.bitcast(low, _FLOATS), builder.bitcast(high, _FLOATS)]


def tile(kind: str, rows: int, vectors: int) -> Any:
    """The product of so many rows and a panel, for compiled functions to call: `(x, x_step, weights, steps, sums, sums_step)`.

    They are the addresses of the first row, of the panel (aligned to 64 bytes) and of the first row's sums, with the distance of rows
    in bytes; `steps` is how often the inner loop turns, at least once. Sums are added to what is there, int32 for `int8`, else float32.
    Inputs are int8 for `int8`, else float32.

    Args:
        kind: of the weights: `int8`, `bf16`, `fp32`.
        rows: of inputs.
        vectors: of outputs.
    """
    sums_kind, dot = (_INTS, _int8) if kind == "int8" else (_FLOATS, _floats)
    loads = 2 if kind == "bf16" else 1

    @_intrinsic
    def product(_, x, x_step, weights, steps, sums, sums_step):
        signature = types.void(*[types.intp] * 6)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
            x, x_step, weights, steps, sums, sums_step = arguments
            starts = [builder.add(x, builder.mul(x_step, _int(row))) for row in range(rows)]
            places = [
                [_pointer(builder, sums, builder.mul(sums_step, _int(row)), 64 * v, sums_kind) for v in range(vectors)]
                for row in range(rows)
            ]
            before = [[builder.load(place, align=4) for place in of_row] for of_row in places]
            entry, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            step = builder.phi(_I64)
            totals = [[builder.phi(sums_kind) for _ in range(vectors)] for _ in range(rows)]
            at = builder.mul(step, _int(64 * vectors))
            panel = [
                _unpacked(builder, kind, builder.load(_pointer(builder, weights, at, 64 * v, _INTS), align=64))
                for v in range(vectors)
            ]
            made = []
            for start, of_row in zip(starts, totals, strict=True):
                at = builder.mul(step, _int(4 * loads))
                inputs = [
                    _splat(builder, builder.load(_pointer(builder, start, at, 4 * i, _I32), align=4))
                    for i in range(loads)
                ]
                made.append([dot(builder, total, inputs, weight) for total, weight in zip(of_row, panel, strict=True)])
            following = builder.add(step, _int(1))
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
            for phi, first, then in [(step, _int(0), following)] + [
                (totals[r][v], before[r][v], made[r][v]) for r in range(rows) for v in range(vectors)
            ]:
                phi.add_incoming(first, entry)
                phi.add_incoming(then, loop)
            builder.position_at_end(after)
            for of_row, values in zip(places, made, strict=True):
                for place, value in zip(of_row, values, strict=True):
                    builder.store(value, place, align=4)
            return context.get_dummy_value()

        return signature, generate

    return product


GRID = 16
"""Rows, and steps of the inner loop, that a processor's matrix unit (AMX) takes at once."""
_PERMIT, _TILE_DATA, _SYSCALL = 0x1023, 18, 158
"""Linux gives a process the unit's registers when it asks: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), on x86-64."""


@cache
def has_grids() -> bool:
    """Whether there is such a unit here, and the kernel lets us use it."""
    if not _knows_grids() or not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).syscall(_SYSCALL, _PERMIT, _TILE_DATA) == 0


def grid(kind: str, blocks: int, add: bool = False) -> Any:
    """The product of 16 or 32 rows and a panel by the matrix unit, as `tile`'s, but that `steps` counts sixteen at a time, and that inputs
    are bfloat16 for `bf16`. It may only be called between `begin_grids` and `end_grids`.

    Args:
        kind: `int8` or `bf16`.
        blocks: 1 or 2, of sixteen rows.
        add: whether sums are added to what is there; else they are written.
    """
    dot = {"int8": "llvm.x86.tdpbsud", "bf16": "llvm.x86.tdpbf16ps"}[kind]

    @_intrinsic
    def product(_, x, x_step, weights, steps, sums, sums_step):
        signature = types.void(*[types.intp] * 6)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
            if not _knows_grids():
                return context.get_dummy_value()
            x, x_step, weights, steps, sums, sums_step = arguments
            pointer = _I8.as_pointer()
            load, store = (_unit(builder, name, [_I8, pointer, _I64]) for name in ("tileloadd64", "tilestored64"))
            zero, multiply = _unit(builder, "tilezero", [_I8]), _unit(builder, dot.removeprefix("llvm.x86."), [_I8] * 3)
            places = [  # registers: totals are 0 to 3, inputs 4 and 5, weights 6 and 7
                _pointer(builder, sums, builder.mul(sums_step, _int(GRID * block)), 64 * v, _I8)
                for block in range(blocks)
                for v in range(2)
            ]
            for total, place in enumerate(places):
                builder.call(load, [_byte(total), place, sums_step]) if add else builder.call(zero, [_byte(total)])
            entry, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            step = builder.phi(_I64)
            for v in range(2):
                at = _pointer(builder, weights, builder.mul(step, _int(GRID * 128)), 64 * v, _I8)
                builder.call(load, [_byte(6 + v), at, _int(128)])
            for block in range(blocks):
                start = builder.add(x, builder.mul(x_step, _int(GRID * block)))
                builder.call(
                    load, [_byte(4 + block), _pointer(builder, start, builder.mul(step, _int(64)), 0, _I8), x_step]
                )
                for v in range(2):
                    builder.call(multiply, [_byte(2 * block + v), _byte(4 + block), _byte(6 + v)])
            following = builder.add(step, _int(1))
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
            step.add_incoming(_int(0), entry)
            step.add_incoming(following, loop)
            builder.position_at_end(after)
            for total, place in enumerate(places):
                builder.call(store, [_byte(total), place, sums_step])
            return context.get_dummy_value()

        return signature, generate

    return product


def _layout() -> np.ndarray:
    """What the unit is told: eight registers of 16 rows of 64 bytes."""
    told = np.zeros(64, np.uint8)
    told[0] = 1
    told[16:32].view(np.uint16)[:] = 64
    told[48:56] = GRID
    return told


LAYOUT = _layout()


@_intrinsic
def begin_grids(_, layout):
    """Tell the unit its layout (the address of `LAYOUT`)."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        if _knows_grids():
            layout = builder.inttoptr(arguments[0], _I8.as_pointer())
            builder.call(_unit(builder, "ldtilecfg", [_I8.as_pointer()]), [layout])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@_intrinsic
def end_grids(_):
    """Give the unit back."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, _arguments: Any) -> Any:
        if _knows_grids():
            builder.call(_unit(builder, "tilerelease", []), [])
        return context.get_dummy_value()

    return types.void(), generate


@cache
def _knows_grids() -> bool:
    """Whether the processor has the unit; code for others is made without it, and never called."""
    features = binding.get_host_cpu_features()
    return bool(features.get("amx-int8") and features.get("amx-bf16"))


def _unit(builder: ir.IRBuilder, name: str, arguments: list) -> Any:
    kind = ir.FunctionType(ir.VoidType(), arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")


def _byte(value: int) -> ir.Constant:
    return ir.Constant(_I8, value)


def _int(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _pointer(builder: ir.IRBuilder, address: Any, offset: Any, further: int, kind: ir.Type) -> Any:
    place = builder.add(builder.add(address, offset), _int(further))
    return builder.inttoptr(place, kind.as_pointer())


def _splat(builder: ir.IRBuilder, value: Any) -> Any:
    undefined = ir.Constant(_INTS, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_INTS, [0] * LANES))


def _splat_constant(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * LANES)


def _has_vnni() -> bool:
    return bool(binding.get_host_cpu_features().get("avx512vnni"))
