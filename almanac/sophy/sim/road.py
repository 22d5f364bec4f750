"""A track as cars meet it: for each point of the centre line a row of numbers that compiled loops read, with what is beyond the asphalt
(kerbs, grass, gravel, walls); and where on it a car is, followed step by step, so that a hairpin or a bridge never throws it elsewhere."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from almanac.nn.compiled import compiled_exactly
from almanac.sophy.sim.track import Track

# Columns of a road's points.
(
    X, Y, HEADING, COSINE, SINE, CURVATURE, SLOPE, BANK, DIP, LEFT, RIGHT, KERB_LEFT, KERB_RIGHT, GRAVEL_LEFT, GRAVEL_RIGHT,
    WALL_LEFT, WALL_RIGHT, COLUMNS,
) = range(18)  # fmt: skip
"""m and rad as in `Track`; kerbs are as wide as told, gravel begins and walls stand so far from the
edge of the asphalt, and from the centre line, respectively."""

LINE = 0.3
"""m beyond a track's edge that are as its asphalt: the painted line, and what it is painted on."""
KERB_GRIP, GRASS_GRIP, GRAVEL_GRIP = 0.95, 0.55, 0.5
"""Grip of the ground, as parts of asphalt's."""
GRASS_HOLD, GRAVEL_HOLD = 0.1, 0.4
"""What it holds back, as a part of the load."""
_KERB = 1.0
"""Width of a kerb, m."""
_KERBED = 1 / 300
"""Curvature from which there are kerbs, rad/m."""
_GRAVEL_AFTER = 4.0
"""m of grass before gravel, outside of bends and after them."""
_NEVER = 1e3
"""m: further than any wall."""


class Road(NamedTuple):
    """A track for compiled loops."""

    length: float
    """m."""
    step: float
    """Between points, m."""
    points: np.ndarray
    """float32, points × `COLUMNS`."""


def road(track: Track, run_off: float = 12.0) -> Road:
    """Put kerbs, grass, gravel and walls beside a track.

    Args:
        track: the track.
        run_off: m between the asphalt's edge (or its kerb) and the wall, where there is room: no wall stands where another part of the
            track is, or beyond the centre of a bend.
    """
    count = len(track.x)
    rows = np.zeros((count, COLUMNS), np.float32)
    bent = _smooth(track.curvature, round(20 / track.step))
    kerbed = np.where(np.abs(bent) > _KERBED, _KERB, 0.0)
    left_wall, right_wall = _walls(track, kerbed, run_off)
    after = _spread(np.abs(bent) > _KERBED, round(60 / track.step))
    turn = _smooth(np.sign(bent) * (np.abs(bent) > _KERBED), round(60 / track.step))
    known = {
        X: track.x,
        Y: track.y,
        HEADING: (track.heading + math.pi) % (2 * math.pi) - math.pi,
        COSINE: np.cos(track.heading),
        SINE: np.sin(track.heading),
        CURVATURE: track.curvature,
        SLOPE: track.slope,
        BANK: track.bank,
        DIP: track.dip,
        LEFT: track.left,
        RIGHT: track.right,
        KERB_LEFT: kerbed,
        KERB_RIGHT: kerbed,
        GRAVEL_LEFT: np.where(after & (turn < 0), kerbed + _GRAVEL_AFTER, _NEVER),
        GRAVEL_RIGHT: np.where(after & (turn > 0), kerbed + _GRAVEL_AFTER, _NEVER),
        WALL_LEFT: left_wall,
        WALL_RIGHT: right_wall,
    }
    for column, values in known.items():
        rows[:, column] = values
    return Road(track.length, track.step, rows)


def _walls(track: Track, kerbed: np.ndarray, run_off: float) -> tuple[np.ndarray, np.ndarray]:
    """How far the walls are from the centre line."""
    found = []
    centre = np.stack((track.x, track.y), 1)
    cosine, sine = np.cos(track.heading), np.sin(track.heading)
    near = round(60 / track.step)
    for side, edge in ((1, track.left), (-1, track.right)):
        wall = edge + kerbed + run_off
        inside = side * track.curvature > 1e-6
        centre_of_bend = 0.85 / np.where(inside, np.abs(track.curvature), 1e-6)
        wall = np.minimum(wall, np.maximum(centre_of_bend, edge + 0.2))
        for at in range(len(wall)):
            away = centre - centre[at]
            along = away[:, 0] * cosine[at] + away[:, 1] * sine[at]
            across = side * (away[:, 1] * cosine[at] - away[:, 0] * sine[at])
            others = (np.abs(along) < track.step) & (across > track.left[at] + track.right[at])
            apart = np.abs(np.arange(len(wall)) - at)
            others &= np.minimum(apart, len(wall) - apart) > near
            if others.any():
                wall[at] = min(wall[at], max(0.5 * across[others].min(), edge[at] + 0.2))
        found.append(_narrowest(wall, round(10 / track.step), edge))
    return found[0], found[1]


def _narrowest(wall: np.ndarray, reach: int, edge: np.ndarray) -> np.ndarray:
    """A smooth wall that stands nowhere further than asked, and nowhere on the asphalt."""
    lowest = np.min([np.roll(wall, step) for step in range(-reach, reach + 1)], axis=0)
    return np.maximum(_smooth(lowest, reach), edge + 0.2)


def _smooth(values: np.ndarray, reach: int) -> np.ndarray:
    """Means of neighbours."""
    return np.mean([np.roll(values, step) for step in range(-reach, reach + 1)], axis=0)


def _spread(true: np.ndarray, reach: int) -> np.ndarray:
    """Where it is true, or was shortly before."""
    return np.any([np.roll(true, step) for step in range(reach + 1)], axis=0)


@compiled_exactly
def apart(length: float, here: float, there: float) -> float:
    """From one place to another along a closed track of that length, the shorter way, m."""
    gap = there - here
    return gap - length * math.floor(gap / length + 0.5)


@compiled_exactly
def locate(points: Any, step: float, index: int, x: float, y: float) -> tuple[int, float, float]:
    """Where a car is on a road.

    Args:
        points: the road's.
        step: between them, m.
        index: of the point where it was.
        x: m east.
        y: m north.

    Returns:
        The nearest point's index, how far beyond it, m, and how far to the left of the centre line.
    """
    count = points.shape[0]
    along, offset, way = 0.0, 0.0, 0
    for _ in range(12):
        row = points[index]
        dx, dy = x - row[X], y - row[Y]
        offset = dy * row[COSINE] - dx * row[SINE]
        along = (dx * row[COSINE] + dy * row[SINE]) / max(1.0 - offset * row[CURVATURE], 0.15)
        if along > 0.5 * step and way >= 0:  # never back: in a bend, each of two points may take the other for nearer
            index, way = (index + 1 if index + 1 < count else 0), 1
        elif along < -0.5 * step and way <= 0:
            index, way = (index - 1 if index > 0 else count - 1), -1
        else:
            break
    return index, along, offset


@compiled_exactly
def between(points: Any, step: float, index: int, along: float, column: int) -> float:
    """A column's value a little beyond a point, or before it."""
    count = points.shape[0]
    other = (index + (1 if along >= 0 else -1) + count) % count
    part = abs(along) / step
    return points[index, column] * (1 - part) + points[other, column] * part


@compiled_exactly
def ground(points: Any, index: int, offset: float) -> tuple[float, float, bool]:
    """What is under a wheel that is so far to the left of the centre line: its grip, what it holds back, and whether it is beyond the
    track (asphalt and kerb)."""
    row = points[index]
    if offset > 0:
        beyond, kerb, gravel = offset - row[LEFT], row[KERB_LEFT], row[GRAVEL_LEFT]
    else:
        beyond, kerb, gravel = -offset - row[RIGHT], row[KERB_RIGHT], row[GRAVEL_RIGHT]
    if beyond <= LINE:
        return 1.0, 0.0, False
    if beyond <= kerb:
        return KERB_GRIP, 0.0, False
    if beyond <= gravel:
        return GRASS_GRIP, GRASS_HOLD, True
    return GRAVEL_GRIP, GRAVEL_HOLD, True


def places(
    track: Track, s: Float[np.ndarray, " cars"], offset: Float[np.ndarray, " cars"]
) -> Float[np.ndarray, "3 cars"]:
    """East, north and heading of places on a track.

    Args:
        track: the track.
        s: along its centre line, m.
        offset: to the left of it, m.
    """
    s = np.asarray(s) % track.length
    around = np.append(track.s, track.length)

    def at(values: np.ndarray, last: float) -> np.ndarray:
        return np.interp(s, around, np.append(values, last))

    turn = track.heading[-1] + track.curvature[-1] * track.step
    heading = at(track.heading, turn)
    x, y = at(track.x, track.x[0]), at(track.y, track.y[0])
    return np.stack((x - offset * np.sin(heading), y + offset * np.cos(heading), heading))
