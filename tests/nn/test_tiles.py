"""Products of tiles are numpy's, and a row's does not depend on how many there are."""

import itertools

import numpy as np
import pytest
from numba import njit

from almanac.nn import tiles

STEPS = 64
DRAW = np.random.default_rng(0)


def aligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def halves(array: np.ndarray) -> np.ndarray:
    """float32 as bfloat16's bits, cut off."""
    return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def whole(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def weights(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """32 outputs × inputs, and the panel that they make."""
    per = tiles.PER_STEP[kind]
    plain = DRAW.normal(size=(32, STEPS * per)).astype(np.float32)
    stored = {"int8": lambda: DRAW.integers(0, 256, plain.shape).astype(np.uint8), "bf16": lambda: halves(plain)}
    packed = stored.get(kind, lambda: plain)()
    panel = aligned(np.ascontiguousarray(packed.reshape(32, STEPS, per).transpose(1, 0, 2)))
    return (whole(packed) if kind == "bf16" else packed).astype(np.float64), panel


def inputs(kind: str, rows: int, rounded: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows × inputs, and how they lie in memory."""
    size = STEPS * tiles.PER_STEP[kind]
    if kind == "int8":
        plain = DRAW.integers(-127, 128, (rows, size)).astype(np.int8)
        return plain.astype(np.float64), plain
    plain = DRAW.normal(size=(rows, size)).astype(np.float32)
    return (whole(halves(plain)).astype(np.float64), halves(plain)) if rounded else (plain.astype(np.float64), plain)


@pytest.mark.parametrize("kind", tiles.PER_STEP)
def test_a_tile_is_the_product(kind):
    plain, panel = weights(kind)
    x, rows = inputs(kind, 8)
    alone = None
    for count in (1, 2, 3, 4, 8):
        product = tiles.tile(kind, count, 2)

        @njit
        def run(rows, panel, sums, product=product):
            product(rows.ctypes.data, rows.strides[0], panel.ctypes.data, STEPS, sums.ctypes.data, sums.strides[0])

        sums = np.ones((count, 32), np.int32 if kind == "int8" else np.float32)
        run(rows, panel, sums)
        assert np.allclose(sums - 1, x[:count] @ plain.T, atol=1e-3)
        alone = sums[0] if alone is None else alone
        assert np.array_equal(sums[0], alone)


@pytest.mark.skipif(not tiles.has_grids(), reason="this processor has no matrix unit")
@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_a_grid_is_the_product(kind):
    plain, panel = weights(kind)
    x, rows = inputs(kind, 32, rounded=True)
    alone = None
    for blocks, add in itertools.product((1, 2), (False, True)):
        product = tiles.grid(kind, blocks, add)

        @njit
        def run(rows, panel, sums, layout, product=product):
            tiles.begin_grids(layout.ctypes.data)
            product(
                rows.ctypes.data, rows.strides[0], panel.ctypes.data, STEPS // 16, sums.ctypes.data, sums.strides[0]
            )
            tiles.end_grids()

        sums = np.full((16 * blocks, 32), 0 if add else 7, np.int32 if kind == "int8" else np.float32)
        run(rows, panel, sums, tiles.LAYOUT)
        assert np.allclose(sums, x[: 16 * blocks] @ plain.T, atol=1e-3)
        alone = sums[:16] if alone is None else alone
        assert np.array_equal(sums[:16], alone)
        if add:
            run(rows, panel, sums, tiles.LAYOUT)
            assert np.allclose(sums, 2 * x[: 16 * blocks] @ plain.T, atol=2e-3)
