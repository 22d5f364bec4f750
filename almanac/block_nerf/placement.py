"""Where blocks are, and which photos each learns from (Block-NeRF, section 4.1): one at each crossing of the street map, reaching three
quarters of the way to the next ones, so that neighbours share half of the street between them; or, without a map, at even distances along
the drive."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from almanac.block_nerf.captures.capture import Capture
from almanac.runtime.errors import UserError

COVERED = 0.75
"""Of the way to the next crossing that a block covers."""
OVERLAP = 0.5
"""Of the way between two blocks that both cover."""

_LEAST = 3  # photos of a block
_MORE = 5.0  # m beyond its farthest photo that a block reaches


@dataclass(frozen=True)
class Place:
    """Of a block."""

    name: str
    origin: tuple[float, float, float]
    """In the world's metres."""
    radius: float
    """Metres from there, on the ground, within which its photos are."""

    def holds(self, positions: Float[np.ndarray, "*n 3"]) -> Bool[np.ndarray, "*n"]:
        """Which positions are within it."""
        return np.asarray(np.linalg.norm(positions[..., :2] - self.origin[:2], axis=-1) <= self.radius)

    def reach(self, positions: Float[np.ndarray, "places 3"]) -> float:
        """Metres within which photos are learnt from, which may all be near the middle: to the farthest and a little more, the radius at
        most."""
        away = np.linalg.norm(positions[:, :2] - self.origin[:2], axis=-1)
        return min(self.radius, float(np.max(away, initial=0.0)) + _MORE)


def at_crossings(capture: Capture) -> list[Place]:
    """A block at each crossing that photos were taken round.

    Args:
        capture: with a street map.

    Raises:
        UserError: it has none, or no photos near its crossings.
    """
    if not capture.crossings:
        raise UserError(f"{capture.folder} has no street map", "say how far blocks are apart: --spacing METRES")
    positions = capture.poses[:, :3, 3]
    found = []
    for number, crossing in enumerate(capture.crossings):
        east, north, height = crossing.place
        whole = Place(f"block_{number:02d}", (east, north, height), max(map(_length, crossing.arms)) * COVERED)
        near = positions[whole.holds(positions)]
        middle = float(np.median(near[:, 2])) if len(near) else height
        # where photos end before the street's three quarters do, so does the block
        found.append(replace(whole, origin=(east, north, middle), radius=whole.reach(near)))
    return _with_photos(found, capture)


def evenly(capture: Capture, spacing: float | None = None, count: int | None = None) -> list[Place]:
    """Blocks along the way that was driven, as for one long street.

    Args:
        capture: any.
        spacing: metres between two of them.
        count: how many, instead.

    Raises:
        UserError: the spacing isn't above 0, or the count below 1.
    """
    if (
        (spacing is not None and not spacing > 0)
        or (count is not None and count < 1)
        or (spacing is None) == (count is None)
    ):
        raise UserError(f"blocks can't be {spacing} m apart, {count} in all", "give --spacing METRES or --blocks N")
    positions = capture.poses[:, :3, 3]
    middle = positions[:, :2].mean(0)
    axis = np.linalg.svd(positions[:, :2] - middle, full_matrices=False)[2][0]
    along = (positions[:, :2] - middle) @ axis
    low, high = float(along.min()), float(along.max())
    if count is None:
        assert spacing is not None
        count = max(1, round((high - low) / spacing))
    step = (high - low) / count
    found = []
    for number in range(count):
        at = low + (number + 0.5) * step
        near = np.argsort(np.abs(along - at))[: max(len(along) // (4 * count), 8)]
        origin = (*(middle + at * axis), float(np.median(positions[near, 2])))
        across = (
            float(np.max(np.linalg.norm(positions[near, :2] - origin[:2], axis=-1), initial=0.0)) if count == 1 else 0.0
        )
        radius = max(step / 2 * (1 + OVERLAP) if count > 1 else step / 2 + _MORE, across, _MORE)
        found.append(Place(f"block_{number:02d}", (float(origin[0]), float(origin[1]), origin[2]), float(radius)))
    return _with_photos(found, capture)


def neighbours(places: list[Place]) -> dict[str, list[str]]:
    """Of each block those that it shares ground with."""
    return {
        one.name: [
            other.name
            for other in places
            if other is not one and np.hypot(*(np.array(one.origin[:2]) - other.origin[:2])) < one.radius + other.radius
        ]
        for one in places
    }


def _with_photos(places: list[Place], capture: Capture) -> list[Place]:
    kept = [place for place in places if place.holds(capture.poses[:, :3, 3]).sum() >= _LEAST]
    if not kept:
        raise UserError(f"no block of {capture.folder} has {_LEAST} photos", "make blocks larger: --spacing METRES")
    return kept


def _length(line: Float[np.ndarray, "points 2"]) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=-1).sum())
