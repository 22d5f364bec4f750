"""Lines around a track: that of least curvature, and the fastest of a point that can turn, brake and accelerate as a car does (a g-g
diagram; Kapania, Subosits and Gerdes 2016 say what comes of such lines). Drivers without learning follow them."""

from dataclasses import dataclass
from typing import NamedTuple

import casadi
import numpy as np
from jaxtyping import Float

from almanac.runtime.errors import RunFailed
from almanac.sophy.sim import dynamics, road
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

_SPACING = 4.0
"""Between points of a line, m, about."""
_MARGIN = 0.3
"""Between a car's side and the asphalt's edge, m."""
_QUIET = {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes"}
"""What IPOPT is told."""
_MOST_POINTS = 1300
"""Of a fastest line: the search takes seconds."""
_SWERVE = 1e-3
"""s³/m, what a change of acceleration across costs along the way: a point turns in no time, but no car (measured: from a tenth to five
times that, laps differ by half a part in a hundred; without it the search doesn't end)."""
_FASTEST, _BEGUN = 115.0, 15.0
"""m/s of a point at most, and that the search begins with."""


@dataclass(frozen=True)
class Line:
    """A line around a track, at even steps along the track's centre line."""

    step: float
    """m along the centre line."""
    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    offset: Float[np.ndarray, " points"]
    """From the centre line to the left, m."""
    curvature: Float[np.ndarray, " points"]
    """rad/m."""
    length: float
    """Of the line itself, m."""


def least_curvature(track: Track, spec: CarSpec, spacing: float = _SPACING) -> Line:
    """The line whose squared curvature is least: nearly the fastest where tyres alone decide.

    Args:
        track: the track.
        spec: the car, which stays on the asphalt with its sides.
        spacing: between points, m, about.

    Raises:
        RunFailed: there is none.
    """
    path = _path(track, spec, round(track.length / spacing))
    problem = {"x": path.offset, "f": casadi.sum1(path.bent**2 * (path.come + path.go))}
    search = casadi.nlpsol("line", "ipopt", problem, _QUIET)
    found = np.array(search(x0=0, lbx=path.least, ubx=path.most)["x"]).ravel()
    return _found(track, path, found, search)


@dataclass(frozen=True)
class Limits:
    """How hard a car can turn, brake and accelerate, in four numbers."""

    across: float
    """m/s² at a stand."""
    across_moving: float
    """1/m: for each m²/s² more."""
    braking: float
    """How much harder it turns than it brakes, air aside."""
    gaining: float
    """How much harder it turns than it accelerates where its engine has the power."""


def fastest(track: Track, spec: CarSpec, can: Limits) -> Line:
    """The line on which a point within a car's limits takes least time: it knows that a shorter way may be better than a wider one, slopes,
    banks, and where it is worth to be fast.

    Args:
        track: the track.
        spec: the car, which stays on the asphalt with its sides.
        can: its limits.

    Raises:
        RunFailed: there is none.
    """
    count = min(round(track.length / _SPACING), _MOST_POINTS)
    path = _path(track, spec, count)
    speed = casadi.SX.sym("speed", count)  # as a part of `_BEGUN`, so that all that is sought is about 1
    after, v = [*range(1, count), 0], _BEGUN * speed
    slope, bank, dip = (
        np.interp(path.s, track.s, each, period=track.length) for each in (track.slope, track.bank, track.dip)
    )
    down_ahead, down_left = dynamics.slope_gravity(slope, bank, 0.0, 1.0)
    numbers, square = spec.equations(), v**2
    along = (v[after] ** 2 - square) / (2 * path.go) + numbers.drag / spec.mass * square - down_ahead
    across = square * path.bent - down_left
    pressed = (
        can.across * np.cos(slope) * np.cos(bank) + (can.across_moving + can.across / dynamics.GRAVITY * dip) * square
    )
    harder = 0.5 * (can.gaining + can.braking) * along + 0.5 * (can.gaining - can.braking) * casadi.sqrt(
        along**2 + 0.01
    )
    used = casadi.vertcat((across**2 + harder**2) / pressed**2, along * v * spec.mass / spec.power)
    cost = casadi.sum1(2 * path.go / (v + v[after])) + _SWERVE * casadi.sum1(
        (square * (path.bent[after] - path.bent)) ** 2 / path.go
    )
    problem = {"x": casadi.vertcat(path.offset, speed), "f": cost, "g": used}
    search = casadi.nlpsol("line", "ipopt", problem, {**_QUIET, "ipopt.tol": 1e-4})
    found = search(
        x0=np.repeat((0.0, 1.0), count),
        lbx=np.concatenate((path.least, np.full(count, 0.1))),
        ubx=np.concatenate((path.most, np.full(count, _FASTEST / _BEGUN))),
        ubg=1,
    )
    return _found(track, path, np.array(found["x"]).ravel()[:count], search)


class _Path(NamedTuple):
    """A line that is sought."""

    s: np.ndarray
    """Of its points along the track, m."""
    offset: casadi.SX
    """What is sought, m to the left."""
    least: np.ndarray
    most: np.ndarray
    x: casadi.SX
    y: casadi.SX
    come: casadi.SX
    """To each point, m."""
    go: casadi.SX
    """From it."""
    bent: casadi.SX
    """rad/m, of the circle through three points."""


def _path(track: Track, spec: CarSpec, count: int) -> _Path:
    s = track.length / count * np.arange(count)
    x, y, heading = road.places(track, s, np.zeros(count))
    left, right = (np.interp(s, track.s, each, period=track.length) for each in (track.left, track.right))
    half = 0.5 * spec.width + _MARGIN
    least, most = np.minimum(half - right, 0), np.maximum(left - half, 0)
    offset = casadi.SX.sym("offset", count)
    px, py = casadi.DM(x) - offset * casadi.DM(np.sin(heading)), casadi.DM(y) + offset * casadi.DM(np.cos(heading))
    after, before = [*range(1, count), 0], [count - 1, *range(count - 1)]
    come_x, come_y, go_x, go_y = px - px[before], py - py[before], px[after] - px, py[after] - py
    come, go = casadi.sqrt(come_x**2 + come_y**2), casadi.sqrt(go_x**2 + go_y**2)
    across = casadi.sqrt((come_x + go_x) ** 2 + (come_y + go_y) ** 2)
    bent = 2 * (come_x * go_y - come_y * go_x) / (come * go * across)
    return _Path(s, offset, least, most, px, py, come, go, bent)


def _found(track: Track, path: _Path, offset: np.ndarray, search: casadi.Function) -> Line:
    if not search.stats()["success"]:
        raise RunFailed(f"no line around {track.name} was found", "give a smoother track")
    line = casadi.Function("line", [path.offset], [path.x, path.y, path.bent, casadi.sum1(path.go)])
    x, y, bent, length = (np.array(each).ravel() for each in line(offset))
    return Line(track.length / len(offset), x, y, offset, bent, float(length[0]))
