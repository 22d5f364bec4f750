"""Where there is something to see. A grid over the block, drawn in as the field is, keeps for each cell the density that samples had in it
of late; what light it lets through along a ray says where the ray is worth looking at, and a ray's samples are put there, closest together
where most is seen of. So the grid is what mip-NeRF's coarse pass and later proposal networks are, at the price of a look-up, and what is
behind a wall is passed over as what is empty (Müller et al. 2022, section E.2, keep such a grid to leave out what is empty alone)."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.fields.hash_grid import drawn, drawn_in
from almanac.block_nerf.fields.threads import shared, slices
from almanac.block_nerf.rendering import Samples, evenly
from almanac.nn.compiled import compiled

CELLS = (256, 256, 128)
"""Of the grid, along x, y and z."""
NEAR = 0.5
"""Metres before the first sample: parked cars are nearer than 1.5 m."""
FAR = 600.0
"""Metres after which there is only sky."""

_STEP, _WIDENING = 0.5, 0.05  # metres of a look into the grid at least, and for each metre of its distance
_LOOKS = 160  # of a ray, at most
_HEARD = 0.1  # how much of what a cell remembers a sample in it is
_BEGIN = 0.01  # density that all cells have at first, for a metre
_DENSEST = 0.3  # density that is remembered, at most: a wall is somewhere in its cell, so looks do not end at the cell's near side
_DARK = 1e-3  # of a ray's light, at which it is looked no further
_SLIGHT = 0.01  # optical depth below which two terms of its exponential are enough
_LEAST = 0.05  # of a ray's light, below which what is met is not worth more samples than what is empty


class Occupancy(nn.Module):
    """The grid, and how rays are sampled by it.

    Args:
        scale: metres for each axis that come to 1, as the field has them.
    """

    density: Tensor
    """Of each cell, for a metre."""
    scale: Tensor

    def __init__(self, scale: Float[Tensor, "3"]):
        super().__init__()
        self.register_buffer("density", torch.full((math.prod(CELLS),), _BEGIN))
        self.register_buffer("scale", scale.clone())

    def samples(self, rays: Rays, jitter: Float[Tensor, " rays"], count: int, share: float) -> Samples:
        """Pieces of rays that touch, as many of each, from `NEAR` to `FAR`: short where most is seen.

        Args:
            rays: in the block's own metres.
            jitter: from 0 to 1, by how much of a piece each ray's are moved.
            count: pieces of a ray.
            share: of them, that are put where nothing is known to be: evenly by the logarithm of the distance.
        """
        lengths = rays.directions.norm(dim=-1)
        if lengths.device.type != "cpu":
            return evenly(self._placed(rays, lengths, jitter, count, share))
        given = [each.detach().contiguous().numpy() for each in (*rays[:2], lengths, jitter)]
        grid = [each.detach().numpy() for each in (self.density, self.scale)]
        edges = torch.empty(len(lengths), count + 1)
        found, borders = edges.numpy(), np.array(_looks())
        gaps = np.diff(np.log(borders)) / np.log(borders[-1] / borders[0])

        def place(some: slice) -> None:
            _place(*(each[some] for each in given), *grid, np.array(CELLS), borders, gaps, share, found[some])

        shared(place, slices(len(found), 256))
        return evenly(edges)

    @torch.no_grad()
    def remember(self, rays: Rays, samples: Samples, density: Float[Tensor, " samples"]) -> None:
        """What came of a batch.

        Args:
            rays: that were sampled.
            samples: of them.
            density: of each.
        """
        points = rays.origins[samples.ray] + rays.directions[samples.ray] * samples.middles[:, None]
        if points.device.type != "cpu":
            return self._remember(points, density)
        arrays = [each.detach().contiguous().numpy() for each in (points, density, self.scale, self.density)]
        _keep(*arrays, np.array(CELLS))

    # The same where there are no compiled loops

    @torch.no_grad()
    def _placed(
        self, rays: Rays, lengths: Float[Tensor, " rays"], jitter: Float[Tensor, " rays"], count: int, share: float
    ) -> Float[Tensor, "rays edges"]:
        looks = torch.tensor(_looks(), device=lengths.device)
        steps, middles = looks.diff(), (looks[1:] + looks[:-1]) / 2
        unit_directions = rays.directions / lengths[:, None]
        points = rays.origins[:, None] + unit_directions[:, None] * middles[:, None]
        depth = self.density[self._cells(points.flatten(0, 1))].view(len(lengths), -1) * steps
        before = depth.cumsum(-1) - depth
        through = torch.exp(-before)
        seen = through * -torch.expm1(-depth) * (through > _DARK)
        padded = torch.cat([seen[:, :1], seen, seen[:, -1:]], -1)
        largest = torch.maximum(padded[:, :-1], padded[:, 1:])
        seen = (largest[:, :-1] + largest[:, 1:]) / 2
        total = seen.sum(-1, keepdim=True)
        known, logs = (1 - share) / total.clamp_min(_LEAST), looks.log()
        mass = known * seen + (1 - known * total) * logs.diff() / (logs[-1] - logs[0])
        upto = torch.cat([torch.zeros_like(total), mass.cumsum(-1)], -1)
        wanted = (torch.arange(1, count, device=looks.device) + jitter[:, None] - 0.5) / count
        above = torch.searchsorted(upto, wanted, right=True).clamp(1, len(steps))
        low, high = upto.gather(1, above - 1), upto.gather(1, above)
        part = ((wanted - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        inner = looks[above - 1] + part * steps[above - 1]
        ends = looks[[0, -1]].expand(len(lengths), 2)
        return torch.cat([ends[:, :1], inner, ends[:, 1:]], -1) / lengths[:, None]

    def _remember(self, points: Float[Tensor, "samples 3"], density: Float[Tensor, " samples"]) -> None:
        """All at once: of those that one cell hears, the mean, as often as they are."""
        cells, which, times = torch.unique(self._cells(points), return_inverse=True, return_counts=True)
        heard = torch.zeros_like(times, dtype=density.dtype).index_add_(0, which, density.clamp_max(_DENSEST)) / times
        self.density[cells] = heard + (self.density[cells] - heard) * (1 - _HEARD) ** times

    def _cells(self, points: Float[Tensor, "points 3"]) -> Int[Tensor, " points"]:
        shape = torch.tensor(CELLS, device=points.device)
        i, j, k = (drawn_in(points / self.scale) * shape).long().clamp_min(0).minimum(shape - 1).unbind(-1)
        return (i * CELLS[1] + j) * CELLS[2] + k


def _looks() -> list[float]:
    """Borders of the looks into the grid, in metres."""
    found = [NEAR]
    while found[-1] < FAR and len(found) <= _LOOKS:
        found.append(found[-1] + max(_STEP, _WIDENING * found[-1]))
    return found


@compiled
def _cell(x, y, z, shape):
    """The number of the cell of a point, in radii of the block, as `drawn_in` has it."""
    x, y, z = drawn(x, y, z)
    i = min(max(np.int64(x * shape[0]), 0), shape[0] - 1)
    j = min(max(np.int64(y * shape[1]), 0), shape[1] - 1)
    k = min(max(np.int64(z * shape[2]), 0), shape[2] - 1)
    return (i * shape[1] + j) * shape[2] + k


@compiled
def _place(origins, directions, lengths, jitter, density, scale, shape, edges, gaps, share, posts):
    """Where pieces of each ray begin and end: equal parts of what is seen by the grid, widened to both sides as in mip-NeRF (section 3.1),
    and of a part that knows of nothing, `gaps` for each look."""
    looks, seen = len(gaps), np.empty(len(gaps))
    count = posts.shape[1] - 1
    for ray in range(len(origins)):
        x, y, z = origins[ray, 0] / scale[0], origins[ray, 1] / scale[1], origins[ray, 2] / scale[2]
        dx, dy, dz = directions[ray, 0] / scale[0], directions[ray, 1] / scale[1], directions[ray, 2] / scale[2]
        dx, dy, dz = dx / lengths[ray], dy / lengths[ray], dz / lengths[ray]
        through, used = 1.0, 0
        seen[:] = 0.0
        while used < looks and through > _DARK:
            step = edges[used + 1] - edges[used]
            middle = np.float32((edges[used] + edges[used + 1]) * 0.5)
            depth = density[_cell(x + dx * middle, y + dy * middle, z + dz * middle, shape)] * step
            stopped = depth - 0.5 * depth * depth if depth < _SLIGHT else 1.0 - np.exp(-depth)
            seen[used] = through * stopped
            through -= seen[used]
            used += 1
        total, before = 0.0, seen[0]
        for i in range(looks):
            here = seen[i]
            after = seen[i + 1] if i + 1 < looks else here
            seen[i] = 0.5 * (max(before, here) + max(here, after))
            before = here
            total += seen[i]
        known = (1.0 - share) / max(total, _LEAST)
        unknown = 1.0 - known * total
        gone, at = 0.0, 0
        mass = known * seen[0] + unknown * gaps[0]
        posts[ray, 0] = edges[0] / lengths[ray]
        posts[ray, count] = edges[looks] / lengths[ray]
        for k in range(1, count):
            wanted = (k + jitter[ray] - 0.5) / count
            while gone + mass < wanted and at < looks - 1:
                gone += mass
                at += 1
                mass = known * seen[at] + unknown * gaps[at]
            part = min(max((wanted - gone) / max(mass, 1e-12), 0.0), 1.0)
            posts[ray, k] = (edges[at] + part * (edges[at + 1] - edges[at])) / lengths[ray]


@compiled
def _keep(points, found, scale, density, shape):
    for i in range(len(points)):
        cell = _cell(points[i, 0] / scale[0], points[i, 1] / scale[1], points[i, 2] / scale[2], shape)
        density[cell] += _HEARD * (min(found[i], _DENSEST) - density[cell])
