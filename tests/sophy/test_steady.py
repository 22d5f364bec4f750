"""Quasi-steady-state laps: those of TUMFTM's laptime-simulation, of its Formula 1 car on its lines."""

import configparser
import json

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from almanac.runtime import hub
from almanac.sophy import steady
from almanac.sophy.sim import car

FLAP = 0.17
"""Part of the drag that an open flap takes away (F1_Shanghai.ini)."""


def along(name: str, spacing: float = 5.0) -> tuple[np.ndarray, float, np.ndarray]:
    """Curvature of a line, smoothed over 10 m as they do, the step between its points, and drag with their flap where it may be open."""
    folder = hub.data("racing")
    points = np.loadtxt(folder / "tumftm_racetrack_database" / "racelines" / f"{name}.csv", delimiter=",")
    ring = np.concatenate((points, points[:1]))
    chord = np.concatenate(([0.0], np.hypot(*np.diff(ring, axis=0).T).cumsum()))
    line = CubicSpline(chord, ring, bc_type="periodic")
    count = round(chord[-1] / spacing)
    at = chord[-1] / count * np.arange(count)
    (dx, dy), (ddx, ddy) = line(at, 1).T, line(at, 2).T
    curvature = (dx * ddy - dy * ddx) / np.hypot(dx, dy) ** 3
    curvature = (np.roll(curvature, 1) + curvature + np.roll(curvature, -1)) / 3
    parser = configparser.ConfigParser()
    parser.read(folder / "tumftm_laptime_simulation" / "track_pars.ini")
    zones = json.loads(parser["TRACK_PARS"]["track_pars"])[name]
    drag = np.ones(count)
    for zone in ("drs1", "drs2"):
        opened, closed = zones[f"{zone}_act"], zones[f"{zone}_deact"]
        inside = (at >= opened) & (at < closed) if opened < closed else (at >= opened) | (at < closed)
        drag[inside] = 1 - FLAP if opened and closed else 1.0
    return curvature, chord[-1] / count, drag


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("Shanghai", 91.238), ("Monza", 84.111), ("Catalunya", 78.815)],
)
def test_laps_are_those_of_laptime_simulation(name, seconds, needs_data):
    needs_data("racing")
    spec = car.load(str(hub.data("racing") / "tumftm_laptime_simulation" / "F1_Shanghai.ini"))
    curvature, step, drag = along(name)
    found = steady.lap_time(steady.speeds(spec, curvature, step, held=drag), step)
    assert abs(found / seconds - 1) < 0.015
