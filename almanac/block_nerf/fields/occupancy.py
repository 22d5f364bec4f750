"""Where there is something to see. A grid over the block, drawn in as the field is, keeps for each cell the largest weight that a ray's
sample had in it of late: it is low in empty air, and low behind walls, so rays are only sampled where it is not. A few rays of each batch
look everywhere, so that what was thought empty is found (Müller et al. 2022, section E.2, keep densities instead, which also sample
the insides of houses)."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_cdt
from torch import Tensor, nn

from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.fields.hash_grid import unit
from almanac.block_nerf.fields.threads import shared, slices
from almanac.block_nerf.rendering import Samples
from almanac.nn.compiled import compiled

CELLS = (128, 128, 64)
"""Of the grid, along x, y and z."""
NEAR = 0.4
"""Metres before the first sample."""
FAR = 2_000.0
"""Metres after which there is only sky."""
STEP, WIDENING = 0.12, 0.02
"""Metres of the shortest sample, and how long one is for each metre of its distance."""

_REFRESHED = 32  # batches, after which distances between cells are measured again
_FARTHEST = 100  # cells, that are told apart
_EXPLORING = 5.0  # times as long are pieces of rays that look everywhere
_DECAY = 0.995  # of what a cell remembers, in a step
_SEEN = 0.004  # weight from which a cell counts
_BEGIN = 0.012  # what all cells remember at first: until the first rays have looked everywhere


class Occupancy(nn.Module):
    """The grid, and how rays are sampled by it.

    Args:
        scale: metres for each axis that come to 1, as the field has them.
    """

    weight: Tensor
    away: Tensor
    """Of each cell, how many cells it is to the nearest that counts: rays pass over the rest at once."""
    age: Tensor
    scale: Tensor

    def __init__(self, scale: Float[Tensor, "3"]):
        super().__init__()
        self.register_buffer("weight", torch.full((math.prod(CELLS),), _BEGIN))
        self.register_buffer("away", torch.zeros(math.prod(CELLS), dtype=torch.int8))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", scale.clone())

    def samples(
        self, rays: Rays, jitter: Float[Tensor, " rays"], explorers: Bool[Tensor, " rays"] | None = None
    ) -> Samples:
        """Pieces of rays where something may be.

        Args:
            rays: in the block's own metres, on the processor.
            jitter: from 0 to 1, by how much of a piece each ray's are moved.
            explorers: rays that are sampled in empty cells, too, in longer pieces; None: none is.
        """
        look = np.zeros(len(rays.origins), np.bool_) if explorers is None else explorers.numpy()
        lengths = rays.directions.norm(dim=-1)
        each_ray = [each.detach().contiguous().numpy() for each in (*rays[:2], lengths, jitter)]
        grid = [each.detach().numpy() for each in (self.weight, self.away, self.scale)]
        parts = slices(len(look), 256)
        found: list[Any] = [None] * len(parts)
        counts = np.zeros(len(look), np.int64)

        def march(number: int) -> None:
            some = parts[number]
            mine, room = [each[some] for each in each_ray], 64 * (some.stop - some.start)
            while True:
                starts, ends = np.empty((2, room), np.float32)
                used = _march(*mine, *grid, look[some], np.array(CELLS), counts[some], starts, ends)
                if used <= room:
                    break
                room = used
            found[number] = starts[:used], ends[:used]

        shared(march, list(range(len(parts))))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        starts, ends = (np.concatenate([each[at] for each in found] or [np.empty(0, np.float32)]) for at in (0, 1))
        ray = np.repeat(np.arange(len(look)), counts)
        return Samples(*(torch.from_numpy(each) for each in (starts, ends, ray, offsets)))

    @torch.no_grad()
    def remember(self, rays: Rays, samples: Samples, weight: Float[Tensor, " samples"]) -> None:
        """What came of a batch.

        Args:
            rays: that were sampled.
            samples: of them.
            weight: how much was seen of each.
        """
        points = rays.origins[samples.ray] + rays.directions[samples.ray] * samples.middles[:, None]
        self.weight *= _DECAY
        arrays = [each.detach().contiguous().numpy() for each in (points, weight, self.scale, self.weight)]
        _keep(*arrays, np.array(CELLS))
        self.age += 1
        if int(self.age) % _REFRESHED == 0:
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Measure again how far cells are from those that count."""
        counts = self.counts().numpy().reshape(CELLS)
        far = np.full(CELLS, _FARTHEST)
        if counts.any():
            far = np.minimum(np.asarray(distance_transform_cdt(~counts, "chessboard")), _FARTHEST)
        self.away.copy_(torch.from_numpy(far.astype(np.int8).ravel()))

    def counts(self) -> Bool[Tensor, " cells"]:
        """Which cells count."""
        return self.weight > _SEEN


@compiled
def _cell(x, y, z, scale, shape):
    """The number of the cell of a point, as `drawn_in` has it."""
    x, y, z = unit(x, y, z, scale)
    i = min(max(np.int64(x * shape[0]), 0), shape[0] - 1)
    j = min(max(np.int64(y * shape[1]), 0), shape[1] - 1)
    k = min(max(np.int64(z * shape[2]), 0), shape[2] - 1)
    return (i * shape[1] + j) * shape[2] + k


@compiled
def _march(origins, directions, lengths, jitter, weight, away, scale, explorers, shape, counts, starts, ends):
    """Pieces of each ray, as far as there is room for them; how many there are."""
    width = min(4 * scale[0] / shape[0], 4 * scale[1] / shape[1], 4 * scale[2] / shape[2])  # of a cell, in metres
    used = 0
    for ray in range(len(origins)):
        length = lengths[ray]
        longer = _EXPLORING if explorers[ray] else 1.0
        at = NEAR + (jitter[ray] - 0.5) * max(STEP, WIDENING * NEAR) * longer  # metres from here on
        first = used
        while at < FAR:
            step = max(STEP, WIDENING * at) * longer
            middle = (at + 0.5 * step) / length
            x = origins[ray, 0] + directions[ray, 0] * middle
            y = origins[ray, 1] + directions[ray, 1] * middle
            z = origins[ray, 2] + directions[ray, 2] * middle
            cell = _cell(x, y, z, scale, shape)
            if explorers[ray] or weight[cell] > _SEEN:
                if used < len(starts):
                    starts[used] = at / length
                    ends[used] = (at + step) / length
                used += 1
            elif away[cell] > 1:  # where space is drawn in, cells are larger
                step = max(step, (away[cell] - 1) * width)
            at += step
        counts[ray] = used - first
    return used


@compiled
def _keep(points, seen, scale, weight, shape):
    for i in range(len(points)):
        cell = _cell(points[i, 0], points[i, 1], points[i, 2], scale, shape)
        weight[cell] = max(weight[cell], seen[i])
