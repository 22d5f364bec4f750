"""A field of many resolutions (Müller et al. 2022, "Instant neural graphics primitives"): at each, the corners of a grid keep a few numbers
in a table, found by their place where the table is large enough and else by a hash of it; small perceptrons make density and features of
what lies between the corners. What is far outside the block is drawn in towards it (mip-NeRF 360, equation 10). On a processor the tables
are read by compiled loops; elsewhere by PyTorch."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.fields.threads import shared, slices
from almanac.block_nerf.rendering import Samples
from almanac.nn.compiled import compiled, compiled_exactly

FEATURES = 2
"""Numbers a corner keeps."""
HIGHEST = 9.0
"""Logarithm of a density, for a metre."""
_PRIMES = (1, 2_654_435_761, 805_459_861)  # Teschner et al. 2003, as Instant-NGP has them
_SPREAD = 1e-4  # of what the tables begin with
_APART = 2.5  # as near as 1/√(1 + (ax)²) comes to erf(1/√8x) (Barron et al. 2023, "Zip-NeRF", equation 4)
_THIN = 0.6  # density at first, for a radius: rays see through all of a block


class HashEncoding(nn.Module):
    """Positions as what lies in the tables there.

    Args:
        levels: resolutions.
        log2_rows: of a table's largest size.
        coarsest: cells along an edge of the first resolution.
        finest: of the last; between them they grow by a constant factor.
    """

    def __init__(self, levels: int = 8, log2_rows: int = 15, coarsest: int = 16, finest: int = 1024):
        super().__init__()
        growth = (finest / coarsest) ** (1 / max(levels - 1, 1))
        self.cells = [int(coarsest * growth**level + 1e-6) for level in range(levels)]
        rows = [min((cells + 1) ** 3, 2**log2_rows) for cells in self.cells]
        self.dense = [(cells + 1) ** 3 <= 2**log2_rows for cells in self.cells]
        self.starts = [0, *np.cumsum(rows).tolist()]
        self.table = nn.Parameter(torch.empty(self.starts[-1], FEATURES).uniform_(-_SPREAD, _SPREAD))
        self._layout = np.array([self.cells, self.starts[:-1], rows, self.dense], np.int64)
        self.joined = levels

    joined: int
    """Levels that count, the coarsest first; what others say is 0, and they learn nothing."""

    @property
    def layout(self) -> np.ndarray:
        """Of each level that counts: cells along an edge, first row, rows, and whether each corner has a row of its own."""
        return np.ascontiguousarray(self._layout[:, : self.joined])

    @property
    def width(self) -> int:
        """Numbers that a position becomes."""
        return FEATURES * len(self.cells)

    def forward(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points width"]:
        """What lies at some points of the unit cube; gradients go to the tables and to the points."""
        if points.device.type == "cpu":
            return _Encoded.apply(points, self.table, self.layout, self.width)  # type: ignore[return-value]
        found = torch.cat([self._level(points, level) for level in range(self.joined)], -1)
        return torch.nn.functional.pad(found, (0, self.width - found.shape[-1]))

    def mean_squares(self) -> Float[Tensor, ""]:
        """Of each level that counts the mean square of what its table keeps, added up."""
        levels = self.table.split(np.diff(self.starts).tolist())[: self.joined]
        return torch.stack([level.square().mean() for level in levels]).sum()

    def _level(self, points: Float[Tensor, "points 3"], level: int) -> Float[Tensor, "points features"]:
        cells = self.cells[level]
        place = points.clamp(0, 1) * cells
        corner = place.detach().floor().clamp(0, cells - 1).long()
        between = place - corner
        found = points.new_zeros(len(points), FEATURES)
        for at in range(8):
            offset = torch.tensor([at & 1, at >> 1 & 1, at >> 2], device=points.device)
            x, y, z = (corner + offset).unbind(-1)
            if self.dense[level]:
                row = (z * (cells + 1) + y) * (cells + 1) + x
            else:
                row = (x * _PRIMES[0] ^ y * _PRIMES[1] ^ z * _PRIMES[2]) & (
                    self.starts[level + 1] - self.starts[level] - 1
                )
            share = torch.where(offset.bool(), between, 1 - between).prod(-1, keepdim=True)
            found = found + share * self.table[self.starts[level] + row]
        return found


class HashField(nn.Module):
    """Tables and two layers.

    Args:
        radius: metres from the block's middle that are not drawn in.
        squat: how much finer heights are told apart than places on the ground: a street is longer than it is high.
        width: channels of the hidden layer.
        features: that colours are made of.
        encoding: the tables; None: those by default.
    """

    def __init__(
        self,
        radius: float,
        squat: float = 2.0,
        width: int = 64,
        features: int = 15,
        encoding: HashEncoding | None = None,
    ):
        super().__init__()
        self.radius, self.squat, self.features = radius, squat, features
        self.encoding = encoding or HashEncoding()
        self.hidden = nn.Linear(self.encoding.width, width)
        self.out = nn.Linear(width, 1 + features)
        with torch.no_grad():
            self.out.bias.zero_()
            self.out.bias[0] = math.log(_THIN / radius)

    def forward(
        self, rays: Rays, samples: Samples
    ) -> tuple[Float[Tensor, " samples"], Float[Tensor, "samples features"]]:
        """Densities for a metre, and features.

        Args:
            rays: in the block's own metres: its middle is the origin.
            samples: pieces of them.
        """
        points = rays.origins[samples.ray] + rays.directions[samples.ray] * samples.middles[:, None]
        return self.at(points, rays.radii[samples.ray] * samples.middles)

    def at(
        self, points: Float[Tensor, "points 3"], radii: Float[Tensor, " points"] | None = None
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points features"]]:
        """Densities and features at some points.

        Args:
            points: in metres from the block's middle.
            radii: of the cones that they are in, in metres; None: as fine as the tables are.
        """
        drawn = drawn_in(points / self.scale(points))
        x = self.encoding(drawn)
        if radii is not None:
            norm = (4 * drawn.detach() - 2).norm(dim=-1).clamp_min(1.0)
            size = radii * norm * (2 - norm) / (8 * self.radius)
            cells = torch.tensor(self.encoding.cells, device=x.device)
            share = (1 + (_APART * size[:, None] * cells) ** 2).rsqrt()
            x = x * share.repeat_interleave(FEATURES, -1)
        x = self.out(torch.relu(self.hidden(x)))
        return torch.exp(x[:, 0].clamp_max(HIGHEST)), x[:, 1:]

    def scale(self, like: Tensor) -> Float[Tensor, "3"]:
        """Metres for each axis that come to 1."""
        return like.new_tensor([self.radius, self.radius, self.radius / self.squat])


def drawn_in(points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """All of space in the unit cube: what is within 1 of the origin is its middle half, evenly; what is beyond comes nearer and nearer to
    the edge (mip-NeRF 360, equation 10).

    Args:
        points: in radii of the block.
    """
    norm = points.norm(dim=-1, keepdim=True).clamp_min(1.0)
    return ((2 - 1 / norm) * points / norm + 2) / 4


@compiled
def footprint(x, y, z, radius, scale):
    """Half of a cone's radius, in metres, at a point of the unit cube, as it is there."""
    x, y, z = 4 * x - 2, 4 * y - 2, 4 * z - 2
    norm = max(np.sqrt(x * x + y * y + z * z), np.float32(1))
    return radius * norm * (np.float32(2) - norm) / (np.float32(8) * scale[0])


@compiled
def told_apart(size, cells):
    """How much a level of so many cells counts where a pixel's deviation is so large: what is finer than a pixel is not to speak for it."""
    over = np.float32(_APART) * size * np.float32(cells)
    return np.float32(1) / np.sqrt(np.float32(1) + over * over)


@compiled
def drawn(x, y, z):
    """`drawn_in` for one point, in loops."""
    part, quarter = np.float32(1), np.float32(0.25)
    square = x * x + y * y + z * z
    if square > np.float32(1):
        norm = np.sqrt(square)
        part = (np.float32(2) - np.float32(1) / norm) / norm
    return (x * part + 2) * quarter, (y * part + 2) * quarter, (z * part + 2) * quarter


@compiled
def unit(x, y, z, scale):
    """The same for one in metres."""
    return drawn(x / scale[0], y / scale[1], z / scale[2])


class _Encoded(torch.autograd.Function):
    """The compiled loops, and their gradients."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, layout: np.ndarray, width: int) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.layout = layout
        found = torch.zeros(len(points), width)
        places, rows, out = (each.detach().numpy() for each in (points.contiguous(), table, found))

        def read(some: slice) -> None:
            for level in range(layout.shape[1]):
                read_level(places[some], rows, layout, level, some.stop - some.start, out[some])

        shared(read, slices(len(points), 4_096))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        points, table = ctx.saved_tensors
        places, rows, given = (
            each.detach().numpy() for each in (points.contiguous(), table, gradients[0].contiguous())
        )
        moved = rewritten = None
        if ctx.needs_input_grad[0]:
            moved = torch.empty_like(points)
            out = moved.numpy()
            shared(
                lambda some: slopes(places[some], rows, ctx.layout, given[some], some.stop - some.start, out[some]),
                slices(len(points), 4_096),
            )
        if ctx.needs_input_grad[1]:
            rewritten = torch.zeros_like(table)
            sums = rewritten.numpy()
            levels = np.array_split(np.argsort(ctx.layout[2]), torch.get_num_threads())
            shared(
                lambda some: write_levels(places, ctx.layout, given, sums, some), [each for each in levels if len(each)]
            )
        return moved, rewritten, None, None


@compiled
def corner_of(x, y, z, cells):
    """The lower corner of the cell that a point of the unit cube is in, and where in it."""
    px = min(max(x, np.float32(0)), np.float32(1)) * np.float32(cells)
    py = min(max(y, np.float32(0)), np.float32(1)) * np.float32(cells)
    pz = min(max(z, np.float32(0)), np.float32(1)) * np.float32(cells)
    i, j, k = min(np.int64(px), cells - 1), min(np.int64(py), cells - 1), min(np.int64(pz), cells - 1)
    return i, j, k, px - np.float32(i), py - np.float32(j), pz - np.float32(k)


@compiled
def row_of(x, y, z, cells, rows, dense):
    """Where a corner's numbers are in its level's table."""
    if dense:
        return (z * (cells + 1) + y) * (cells + 1) + x
    return (x * _PRIMES[0] ^ y * _PRIMES[1] ^ z * _PRIMES[2]) & (rows - 1)


@compiled
def read_level(points, table, layout, level, count, found):
    """What lies at points of the unit cube in the table of one level, into its columns of `found`."""
    cells, start, rows, dense = layout[0, level], layout[1, level], layout[2, level], layout[3, level]
    for i in range(count):
        x, y, z, fx, fy, fz = corner_of(points[i, 0], points[i, 1], points[i, 2], cells)
        a, b = np.float32(0), np.float32(0)
        for corner in range(8):
            i_x, i_y, i_z = corner & 1, (corner >> 1) & 1, corner >> 2
            row = start + row_of(x + i_x, y + i_y, z + i_z, cells, rows, dense)
            share = (fx if i_x else np.float32(1) - fx) * (fy if i_y else np.float32(1) - fy)
            share *= fz if i_z else np.float32(1) - fz
            a += share * table[row, 0]
            b += share * table[row, 1]
        found[i, 2 * level] = a
        found[i, 2 * level + 1] = b


@compiled
def write_levels(points, layout, given, sums, levels):
    """What is given for each number that points became, added up in the tables of some levels."""
    for level in levels:
        cells, start, rows, dense = layout[0, level], layout[1, level], layout[2, level], layout[3, level]
        for i in range(len(points)):
            x, y, z, fx, fy, fz = corner_of(points[i, 0], points[i, 1], points[i, 2], cells)
            a, b = given[i, 2 * level], given[i, 2 * level + 1]
            for corner in range(8):
                i_x, i_y, i_z = corner & 1, (corner >> 1) & 1, corner >> 2
                row = start + row_of(x + i_x, y + i_y, z + i_z, cells, rows, dense)
                share = (fx if i_x else np.float32(1) - fx) * (fy if i_y else np.float32(1) - fy)
                share *= fz if i_z else np.float32(1) - fz
                sums[row, 0] += share * a
                sums[row, 1] += share * b


@compiled_exactly  # else a process that has just compiled it rounds otherwise than one that reads it from the disk
def slopes(points, table, layout, given, count, found):
    """Of what is given for each number that points became, the slope along x, y and z."""
    for i in range(count):
        found[i, 0] = found[i, 1] = found[i, 2] = 0.0
    for level in range(layout.shape[1]):
        cells, start, rows, dense = layout[0, level], layout[1, level], layout[2, level], layout[3, level]
        for i in range(count):
            x, y, z, fx, fy, fz = corner_of(points[i, 0], points[i, 1], points[i, 2], cells)
            a, b = given[i, 2 * level], given[i, 2 * level + 1]
            dx, dy, dz = np.float32(0), np.float32(0), np.float32(0)
            for corner in range(8):
                i_x, i_y, i_z = corner & 1, (corner >> 1) & 1, corner >> 2
                row = start + row_of(x + i_x, y + i_y, z + i_z, cells, rows, dense)
                value = a * table[row, 0] + b * table[row, 1]
                wx = fx if i_x else np.float32(1) - fx
                wy = fy if i_y else np.float32(1) - fy
                wz = fz if i_z else np.float32(1) - fz
                dx += (value if i_x else -value) * wy * wz
                dy += (value if i_y else -value) * wx * wz
                dz += (value if i_z else -value) * wx * wy
            found[i, 0] += dx * np.float32(cells)
            found[i, 1] += dy * np.float32(cells)
            found[i, 2] += dz * np.float32(cells)
