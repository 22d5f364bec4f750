"""A race's page: what it holds is what was driven."""

import base64
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import view
from almanac.sophy.lap import Lap
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks
from tests.sophy import made

three = pytest.mark.skipif(
    not (Path(sys.prefix) / "node_modules" / "three").is_dir(), reason="three.js is not installed (make setup)"
)


@pytest.fixture(scope="module")
def course():
    return tracks.find("solstice")


@pytest.fixture(scope="module")
def gt3():
    return cars.load("gt3")


def held(page: str) -> dict:
    """What a page holds."""
    found = re.search(r'<script type="application/json" id="race">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def numbers(packed: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed), "<f4")


@three
def test_a_page_holds_what_was_driven(course, gt3):
    seen = made.rolling(course)
    scene = held(view.page(seen, course, gt3, "a race"))
    frames = numbers(scene["frames"]).reshape(len(seen.x), 3, 10)
    assert np.array_equal(frames[..., 0], seen.x.astype("f4")) and np.array_equal(
        frames[..., 9], seen.travelled.astype("f4")
    )
    z = np.interp(seen.travelled, course.s, course.z, period=course.length)
    assert np.abs(frames[..., 2] - z).max() < 1e-3 and np.ptp(z) > 0.1
    assert np.array_equal(numbers(scene["track"]["x"]), course.x.astype("f4"))
    assert scene["events"] == [{"time": 2.0, "car": 1, "what": "leaves the track"}]
    assert scene["cars"][0]["laps"] == [{"at": 4.0, "time": 61.5}]


def test_a_lap_goes_once_around(course):
    points = 400
    s = course.length / points * np.arange(points)
    flat, wheels = np.zeros(points), np.zeros((4, points))
    lap = Lap(
        60.0, s, 60.0 * np.arange(points) / points, flat + 50.0, flat, flat, flat, flat, flat, flat, wheels, wheels
    )
    seen = view.of_lap(lap, course)
    assert seen.x.shape == (60 * view.RATE, 1)
    assert np.all(np.diff(seen.travelled[:, 0]) > 0)
    assert abs(seen.travelled[-1, 0] - course.length * (1 - 1 / len(seen.x))) < 0.1
    from_line = np.hypot(seen.x[:, 0][:, None] - course.x, seen.y[:, 0][:, None] - course.y).min(1)
    assert from_line.max() < 0.5 * course.step + 0.1


@three
def test_what_can_not_be_drawn_is_refused(course, gt3):
    seen = made.rolling(course)
    seen.x[3, 1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        view.page(seen, course, gt3, "a race")
