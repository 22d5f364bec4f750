"""Tracks that are drawn by formulas."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from almanac.sophy import view
from almanac.sophy.sim import road, track
from almanac.sophy.sim.track import Track
from almanac.sophy.view import Seen


def drawn(
    folder: Path, name: str, point: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], width: float = 12.0
) -> Track:
    """A track through points of turns from 0 to 2 π."""
    turn = np.linspace(0, 2 * math.pi, 800, endpoint=False)
    x, y = point(turn)
    lines = [f"{a},{b},{width / 2},{width / 2}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    path = folder / f"{name}.csv"
    path.write_text("# x_m,y_m,w_tr_right_m,w_tr_left_m\n" + "\n".join(lines))
    return track.load(path)


def oval(folder: Path, width: float = 12.0) -> Track:
    """Two sharp bends and two wide ones, driven to the left; 840 m."""
    return drawn(folder, "oval", lambda turn: (180 * np.cos(turn), 70 * np.sin(turn)), width)


def mirrored(folder: Path) -> Track:
    """The same, driven to the right."""
    return drawn(folder, "mirrored", lambda turn: (180 * np.cos(turn), -70 * np.sin(turn)))


def eight(folder: Path) -> Track:
    """A figure of eight, that crosses itself."""
    return drawn(folder, "eight", lambda turn: (200 * np.sin(turn), 200 * np.sin(turn) * np.cos(turn)))


def rolling(course: Track, count: int = 3, seconds: float = 12.0, names=("Ada", "Bo", "Cy")) -> Seen:
    """Cars that follow the centre line at constant speeds."""
    time = np.arange(0, seconds, 1 / view.RATE)
    speed = np.broadcast_to(40.0 - 4.0 * np.arange(count), (len(time), count))
    travelled = time[:, None] * speed + 30.0
    places = [road.places(course, column, np.zeros(len(time))) for column in travelled.T]
    x, y, heading = (np.stack([place[row] for place in places], 1) for row in range(3))
    still = np.zeros_like(travelled)
    laps = (((4.0, 61.5),), (), ())[:count]
    return Seen(
        names, x, y, heading, still, speed.copy(), still + 0.5, travelled, still, ((2.0, 1, "leaves the track"),), laps
    )
