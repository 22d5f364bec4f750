"""The hash field with its colours in one compiled loop, for processors: a few hundred samples at a time go through tables and layers while
they are in the nearest memory, and on the way back they go through once more rather than being kept. The same as `HashField` and
`Colour`, layer by layer, three times as fast."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.fields.hash_grid import (
    HIGHEST,
    HashField,
    footprint,
    read_level,
    slopes,
    told_apart,
    unit,
    write_levels,
)
from almanac.block_nerf.fields.threads import shared, slices
from almanac.block_nerf.rendering import Samples
from almanac.nn.compiled import compiled

_TILE = 256  # samples at a time
_NEXT = 4  # of one ray, in a tile of what is only looked at
_DARK = 8.0  # optical depth, from behind which next to no light comes
_FAINT = 1e-3  # of the mean slope, below which a sample's is taken for none: in the air and behind walls


def shaded(
    field: HashField,
    here: nn.Linear,
    out: nn.Linear,
    rays: Rays,
    samples: Samples,
    told: Float[Tensor, "rays width"],
) -> tuple[Float[Tensor, " samples"], Float[Tensor, "samples 3"]]:
    """Densities and colours of samples.

    Args:
        field: tables and two layers.
        here: the layer that reads features for colours.
        out: the layer that makes colours of it.
        rays: in the block's own metres.
        samples: pieces of them.
        told: what is added to `here` for each ray.
    """
    layers = [each for layer in (field.hidden, field.out, here, out) for each in (layer.weight, layer.bias)]
    tensors = [rays.origins, rays.directions, told, field.encoding.table, rays.radii, *layers]
    rest = samples, field.encoding.layout, field.scale(told)
    if torch.is_grad_enabled():
        return _Shaded.apply(*tensors, *rest)  # type: ignore[return-value]
    return _looked(*tensors, *rest)


def _looked(*given: Any) -> tuple[Tensor, Tensor]:
    """The same where no gradients are wanted: 0 of samples that no light comes from."""
    *tensors, samples, layout, scale = given
    arrays = [each.detach().contiguous().numpy() for each in tensors]
    where = [each.detach().contiguous().numpy() for each in (samples.starts, samples.ends, samples.offsets)]
    weights, metres = _turned(arrays[5:]), scale.numpy()
    density, colours = torch.zeros_like(samples.starts), torch.zeros(len(samples.starts), 3)
    outs = density.numpy(), colours.numpy()
    shared(
        lambda some: _look(*arrays[:5], *weights, *where, layout, metres, some.start, some.stop, *outs),
        slices(len(arrays[0]), _TILE),
    )
    return density, colours


class _Shaded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        *tensors, samples, layout, scale = given
        arrays = [each.detach().contiguous().numpy() for each in tensors]
        where = [each.detach().contiguous().numpy() for each in (samples.starts, samples.ends, samples.ray)]
        weights = _turned(arrays[5:])
        count = len(where[0])
        density, colours = torch.empty(count), torch.empty(count, 3)
        bounds = _bounds(samples.offsets)
        outs = density.numpy(), colours.numpy()
        metres = scale.numpy()
        shared(lambda part: _forward(*arrays[:5], *weights, *where, layout, metres, part[0], part[1], *outs), bounds)
        ctx.save_for_backward(*tensors, density, colours)
        ctx.rest = samples, layout, metres, bounds
        return density, colours

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        *tensors, density, colours = ctx.saved_tensors
        samples, layout, metres, bounds = ctx.rest
        arrays = [each.detach().contiguous().numpy() for each in tensors]
        weights = _turned(arrays[5:])
        moves = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        slope = gradients[0].abs() * density + gradients[1].abs().sum(1)
        felt = torch.nonzero(slope > _FAINT * slope.mean())[:, 0]
        where = [each.detach()[felt].numpy() for each in (samples.starts, samples.ends, samples.ray)]
        given = [each[felt].numpy() for each in (*gradients, density, colours)]
        bounds = [tuple(np.searchsorted(felt.numpy(), part)) for part in bounds]
        rays = [np.zeros_like(arrays[at]) for at in range(3)]
        table = np.zeros_like(arrays[3])
        count = len(where[0])
        inner, places = np.empty((count, arrays[5].shape[1]), np.float32), np.empty((count, 3), np.float32)
        sums = [[np.zeros_like(each) for each in weights] for _ in bounds]

        def back(number: int) -> None:
            part = bounds[number]
            _backward(
                *arrays[:5], *weights, *where, layout, metres, part[0], part[1],
                *given, moves, *rays, inner, places, *sums[number],
            )  # fmt: skip

        shared(back, list(range(len(bounds))))
        levels = [each for each in np.array_split(np.argsort(layout[2]), max(len(bounds), 1)) if len(each)]
        shared(lambda some: write_levels(places, layout, inner, table, some), levels)
        total = [np.sum(each, axis=0) for each in zip(*sums, strict=True)]
        layers = [torch.from_numpy(np.ascontiguousarray(each.T if each.ndim == 2 else each)) for each in total]
        found = [torch.from_numpy(each) for each in (*rays, table)]
        return (*found, None, *layers, None, None, None)


def _turned(layers: list[np.ndarray]) -> list[np.ndarray]:
    """Weights as the loops multiply by them: rows are inputs."""
    return [np.ascontiguousarray(each.T) if each.ndim == 2 else each for each in layers]


def _bounds(offsets: Tensor) -> list[tuple[int, int]]:
    """The samples in parts, one for each thread, none of which ends within a ray."""
    threads, total = torch.get_num_threads(), int(offsets[-1])
    if total == 0:
        return []
    wanted = torch.arange(1, threads) * (total / threads)
    inner = offsets[torch.searchsorted(offsets, wanted.long())].tolist()
    edges = sorted({0, *inner, total})
    return list(pairwise(edges))


@compiled
def _through(
    origins, directions, told, table, radii, w1, b1, w2, b2, w3, b3, w4, b4, starts, ends, ray, layout, scale, count,
    points, x, share, h1, f, g, h2, c,
):  # fmt: skip
    """A tile: positions, tables, and four layers."""
    for i in range(count):
        at, r = (starts[i] + ends[i]) * np.float32(0.5), ray[i]
        points[i, 0], points[i, 1], points[i, 2] = unit(
            origins[r, 0] + directions[r, 0] * at,
            origins[r, 1] + directions[r, 1] * at,
            origins[r, 2] + directions[r, 2] * at,
            scale,
        )
        size = footprint(points[i, 0], points[i, 1], points[i, 2], radii[r] * at, scale)
        for level in range(layout.shape[1]):
            share[i, level] = told_apart(size, layout[0, level])
    for level in range(layout.shape[1]):
        read_level(points, table, layout, level, count, x)
        for i in range(count):
            x[i, 2 * level] *= share[i, level]
            x[i, 2 * level + 1] *= share[i, level]
    np.dot(x, w1, h1)
    for i in range(count):
        for j in range(h1.shape[1]):
            h1[i, j] = max(h1[i, j] + b1[j], np.float32(0))
    np.dot(h1, w2, f)
    for i in range(count):
        f[i, 0] = min(f[i, 0] + b2[0], np.float32(HIGHEST))
        for j in range(g.shape[1]):
            g[i, j] = f[i, j + 1] + b2[j + 1]
    np.dot(g, w3, h2)
    for i in range(count):
        r = ray[i]
        for j in range(h2.shape[1]):
            h2[i, j] = max(h2[i, j] + b3[j] + told[r, j], np.float32(0))
    np.dot(h2, w4, c)


@compiled
def _forward(
    origins, directions, told, table, radii, w1, b1, w2, b2, w3, b3, w4, b4, starts, ends, ray, layout, scale, low, high,
    density, colours,
):  # fmt: skip
    points, x = np.zeros((_TILE, 3), np.float32), np.zeros((_TILE, w1.shape[0]), np.float32)
    share = np.zeros((_TILE, layout.shape[1]), np.float32)
    h1, f = np.zeros((_TILE, w1.shape[1]), np.float32), np.zeros((_TILE, w2.shape[1]), np.float32)
    g, h2 = np.zeros((_TILE, w3.shape[0]), np.float32), np.zeros((_TILE, w3.shape[1]), np.float32)
    c = np.zeros((_TILE, 3), np.float32)
    for first in range(low, high, _TILE):
        count = min(_TILE, high - first)
        _through(
            origins, directions, told, table, radii, w1, b1, w2, b2, w3, b3, w4, b4, starts[first:], ends[first:],
            ray[first:], layout, scale, count, points, x, share, h1, f, g, h2, c,
        )  # fmt: skip
        for i in range(count):
            density[first + i] = np.exp(f[i, 0])
            for j in range(3):
                colours[first + i, j] = np.float32(1) / (np.float32(1) + np.exp(-(c[i, j] + b4[j])))


@compiled
def _look(
    origins, directions, told, table, radii, w1, b1, w2, b2, w3, b3, w4, b4, starts, ends, offsets, layout, scale, low, high,
    density, colours,
):  # fmt: skip
    """The same without what no light comes from. A tile has the next few samples of some rays; one that has ended, or has met enough,
    makes room for the next ray."""
    points, x = np.zeros((_TILE, 3), np.float32), np.zeros((_TILE, w1.shape[0]), np.float32)
    share = np.zeros((_TILE, layout.shape[1]), np.float32)
    h1, f = np.zeros((_TILE, w1.shape[1]), np.float32), np.zeros((_TILE, w2.shape[1]), np.float32)
    g, h2 = np.zeros((_TILE, w3.shape[0]), np.float32), np.zeros((_TILE, w3.shape[1]), np.float32)
    c = np.zeros((_TILE, 3), np.float32)
    slots = _TILE // _NEXT
    of, at, depth = np.full(slots, high), np.zeros(slots, np.int64), np.zeros(slots, np.float32)
    which, slot = np.zeros(_TILE, np.int64), np.zeros(_TILE, np.int64)
    near, far, ray = np.zeros(_TILE, np.float32), np.zeros(_TILE, np.float32), np.zeros(_TILE, np.int64)
    coming = low
    while True:
        count = 0
        for j in range(slots):
            while of[j] == high or at[j] == offsets[of[j] + 1] or depth[j] > _DARK:
                if coming == high:
                    of[j] = high
                    break
                of[j], at[j], depth[j] = coming, offsets[coming], np.float32(0)
                coming += 1
            if of[j] < high:
                end = min(at[j] + _NEXT, offsets[of[j] + 1])
                for i in range(at[j], end):
                    which[count], slot[count], ray[count], near[count], far[count] = i, j, of[j], starts[i], ends[i]
                    count += 1
                at[j] = end
        if count == 0:
            break
        _through(
            origins, directions, told, table, radii, w1, b1, w2, b2, w3, b3, w4, b4, near, far, ray, layout, scale, count,
            points, x, share, h1, f, g, h2, c,
        )  # fmt: skip
        for i in range(count):
            r, found = ray[i], np.exp(f[i, 0])
            density[which[i]] = found
            length = np.sqrt(directions[r, 0] ** 2 + directions[r, 1] ** 2 + directions[r, 2] ** 2)
            depth[slot[i]] += found * (far[i] - near[i]) * length
            for j in range(3):
                colours[which[i], j] = np.float32(1) / (np.float32(1) + np.exp(-(c[i, j] + b4[j])))


@compiled
def _backward(
    origins, directions, told, table, radii, w1, b1, w2, b2, w3, b3, w4, b4, starts, ends, ray, layout, scale, low, high,
    from_density, from_colours, density, colours, moves, to_origins, to_directions, to_told, inner, places,
    s1, t1, s2, t2, s3, t3, s4, t4,
):  # fmt: skip
    points, x = np.zeros((_TILE, 3), np.float32), np.zeros((_TILE, w1.shape[0]), np.float32)
    share = np.zeros((_TILE, layout.shape[1]), np.float32)
    h1, f = np.zeros((_TILE, w1.shape[1]), np.float32), np.zeros((_TILE, w2.shape[1]), np.float32)
    g, h2 = np.zeros((_TILE, w3.shape[0]), np.float32), np.zeros((_TILE, w3.shape[1]), np.float32)
    c, steepness = np.zeros((_TILE, 3), np.float32), np.zeros((_TILE, 3), np.float32)
    d1, d2, dg = np.zeros_like(h1), np.zeros_like(h2), np.zeros_like(g)
    df, dx = np.zeros_like(f), np.zeros_like(x)
    v1, v2 = np.ascontiguousarray(w1.T), np.ascontiguousarray(w2.T)
    v3, v4 = np.ascontiguousarray(w3.T), np.ascontiguousarray(w4.T)
    p1, p2, p3, p4 = np.zeros_like(w1), np.zeros_like(w2), np.zeros_like(w3), np.zeros_like(w4)
    for first in range(low, high, _TILE):
        count = min(_TILE, high - first)
        _through(
            origins, directions, told, table, radii, w1, b1, w2, b2, w3, b3, w4, b4, starts[first:], ends[first:],
            ray[first:], layout, scale, count, points, x, share, h1, f, g, h2, c,
        )  # fmt: skip
        for i in range(count):
            for j in range(3):
                shade = colours[first + i, j]
                c[i, j] = from_colours[first + i, j] * shade * (1 - shade)
                t4[j] += c[i, j]
        for i in range(count, _TILE):
            c[i, :] = 0
        np.dot(c, v4, d2)
        for i in range(count):
            r = ray[first + i]
            for j in range(d2.shape[1]):
                value = d2[i, j] if h2[i, j] > 0 else np.float32(0)
                d2[i, j] = value
                t3[j] += value
                to_told[r, j] += value
        np.dot(d2, v3, dg)
        for i in range(count):
            steep = density[first + i] if f[i, 0] < HIGHEST else np.float32(0)
            df[i, 0] = from_density[first + i] * steep
            for j in range(dg.shape[1]):
                df[i, j + 1] = dg[i, j]
            for j in range(df.shape[1]):
                t2[j] += df[i, j]
        for i in range(count, _TILE):
            df[i, :] = 0
        np.dot(df, v2, d1)
        for i in range(count):
            for j in range(d1.shape[1]):
                value = d1[i, j] if h1[i, j] > 0 else np.float32(0)
                d1[i, j] = value
                t1[j] += value
        np.dot(d1, v1, dx)
        for i in range(count):
            for level in range(layout.shape[1]):
                dx[i, 2 * level] *= share[i, level]
                dx[i, 2 * level + 1] *= share[i, level]
        np.dot(h2.T, c, p4)
        np.dot(g.T, d2, p3)
        np.dot(h1.T, df, p2)
        np.dot(x.T, d1, p1)
        s1 += p1
        s2 += p2
        s3 += p3
        s4 += p4
        for i in range(count):
            for j in range(dx.shape[1]):
                inner[first + i, j] = dx[i, j]
            for j in range(3):
                places[first + i, j] = points[i, j]
        if moves:
            slopes(points, table, layout, dx, count, steepness)
            for i in range(count):
                _move(origins, directions, starts, ends, ray, scale, first + i, steepness[i], to_origins, to_directions)


@compiled
def _move(origins, directions, starts, ends, ray, scale, i, slope, to_origins, to_directions):
    """A gradient in the unit cube as one of the ray: back through the drawing in."""
    at, r = (starts[i] + ends[i]) * np.float32(0.5), ray[i]
    x = (origins[r, 0] + directions[r, 0] * at) / scale[0]
    y = (origins[r, 1] + directions[r, 1] * at) / scale[1]
    z = (origins[r, 2] + directions[r, 2] * at) / scale[2]
    norm = np.sqrt(x * x + y * y + z * z)
    a, b = np.float32(1), np.float32(0)
    if norm > 1.0:  # (2 − 1/n) p/n has the derivative a + b p pᵀ
        a = (np.float32(2) - np.float32(1) / norm) / norm
        b = np.float32(2) * (np.float32(1) / norm - np.float32(1)) / (norm * norm * norm)
    along = b * (slope[0] * x + slope[1] * y + slope[2] * z)
    quarter = np.float32(0.25)
    for j in range(3):
        p = x if j == 0 else (y if j == 1 else z)
        value = quarter * (a * slope[j] + along * p) / scale[j]
        to_origins[r, j] += value
        to_directions[r, j] += value * at
