"""Where there is something to see. A grid over the block, drawn in as the field is, keeps for each cell the largest weight that a ray's
sample had in it of late: it is low in empty air, and low behind walls, so rays are only sampled where it is not. A few rays of each batch
look everywhere, so that what was thought empty is found (Müller et al. 2022, section E.2, keep densities instead, which also sample
the insides of houses)."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from almanac.block_nerf.cameras import Rays
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

_MOST = 1_024  # samples of a ray
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
    scale: Tensor

    def __init__(self, scale: Float[Tensor, "3"]):
        super().__init__()
        self.register_buffer("weight", torch.full((math.prod(CELLS),), _BEGIN))
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
        arrays = [each.detach().contiguous().numpy() for each in (*rays[:2], lengths, jitter, self.weight, self.scale)]
        counts = np.zeros(len(look), np.int64)
        shape = np.array(CELLS)
        room = np.empty((len(look), _MOST, 2), np.float32)

        def march(some: slice) -> None:
            mine = [each[some] for each in arrays[:4]]
            _march(*mine, *arrays[4:], look[some], shape, counts[some], room[some])

        shared(march, slices(len(look), 256))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        kept = room[np.arange(_MOST) < counts[:, None]]
        ray = np.repeat(np.arange(len(look)), counts)
        return Samples(
            *(torch.from_numpy(np.ascontiguousarray(each)) for each in (kept[:, 0], kept[:, 1], ray, offsets))
        )

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

    def counts(self) -> Bool[Tensor, " cells"]:
        """Which cells count."""
        return self.weight > _SEEN


@compiled
def _cell(x, y, z, scale, shape):
    """The number of the cell of a point, as `drawn_in` has it."""
    x, y, z = x / scale[0], y / scale[1], z / scale[2]
    norm = np.sqrt(x * x + y * y + z * z)
    if norm > 1.0:
        part = (2.0 - 1.0 / norm) / norm
        x, y, z = x * part, y * part, z * part
    i = min(max(np.int64((x + 2.0) * 0.25 * shape[0]), 0), shape[0] - 1)
    j = min(max(np.int64((y + 2.0) * 0.25 * shape[1]), 0), shape[1] - 1)
    k = min(max(np.int64((z + 2.0) * 0.25 * shape[2]), 0), shape[2] - 1)
    return (i * shape[1] + j) * shape[2] + k


@compiled
def _march(origins, directions, lengths, jitter, weight, scale, explorers, shape, counts, room):
    for ray in range(len(origins)):
        length = lengths[ray]
        longer = _EXPLORING if explorers[ray] else 1.0
        step = max(STEP, WIDENING * NEAR) * longer
        at = NEAR + (jitter[ray] - 0.5) * step  # metres from here on
        count = 0
        while at < FAR and count < room.shape[1]:
            step = max(STEP, WIDENING * at) * longer
            middle = (at + 0.5 * step) / length
            x = origins[ray, 0] + directions[ray, 0] * middle
            y = origins[ray, 1] + directions[ray, 1] * middle
            z = origins[ray, 2] + directions[ray, 2] * middle
            if explorers[ray] or weight[_cell(x, y, z, scale, shape)] > _SEEN:
                room[ray, count, 0] = at / length
                room[ray, count, 1] = (at + step) / length
                count += 1
            at += step
        counts[ray] = count


@compiled
def _keep(points, seen, scale, weight, shape):
    for i in range(len(points)):
        cell = _cell(points[i, 0], points[i, 1], points[i, 2], scale, shape)
        weight[cell] = max(weight[cell], seen[i])
