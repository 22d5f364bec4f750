"""The line of least curvature around a track: what drivers without learning follow."""

from dataclasses import dataclass

import casadi
import numpy as np
from jaxtyping import Float

from almanac.runtime.errors import RunFailed
from almanac.sophy.sim import road
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

_SPACING = 4.0
"""Between points of a line, m, about."""
_MARGIN = 0.3
"""Between a car's side and the asphalt's edge, m."""


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
    count = round(track.length / spacing)
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
    bent = 2 * (come_x * go_y - come_y * go_x) / (come * go * across)  # of the circle through three points
    problem = {"x": offset, "f": casadi.sum1(bent**2 * (come + go))}
    quiet = {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes"}
    search = casadi.nlpsol("line", "ipopt", problem, quiet)
    found = np.array(search(x0=0, lbx=least, ubx=most)["x"]).ravel()
    if not search.stats()["success"]:
        raise RunFailed(f"no line around {track.name} was found", "give a smoother track")
    line = casadi.Function("line", [offset], [px, py, bent, casadi.sum1(go)])
    px, py, bent, length = (np.array(each).ravel() for each in line(found))
    return Line(track.length / count, px, py, found, bent, float(length[0]))
