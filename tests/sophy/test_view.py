"""A race's page: what it holds is what was driven, and a real browser draws it, moves it and obeys."""

import base64
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import view
from almanac.sophy.lap import Lap
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import road
from almanac.sophy.sim import track as tracks
from almanac.sophy.view import Seen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
three = pytest.mark.skipif(
    not (Path(sys.prefix) / "node_modules" / "three").is_dir(), reason="three.js is not installed (make setup)"
)


@pytest.fixture(scope="module")
def course():
    return tracks.find("solstice")


@pytest.fixture(scope="module")
def gt3():
    return cars.load("gt3")


def rolling(course, count: int = 3, seconds: float = 12.0, names=("Ada", "Bo", "Cy")) -> Seen:
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


def held(page: str) -> dict:
    """What a page holds."""
    found = re.search(r'<script type="application/json" id="race">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def numbers(packed: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed), "<f4")


@three
def test_a_page_holds_what_was_driven(course, gt3):
    seen = rolling(course)
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
    seen = rolling(course)
    seen.x[3, 1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        view.page(seen, course, gt3, "a race")


@three
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_draws_the_race(course, gt3, tmp_path):
    from playwright.sync_api import sync_playwright

    page = view.page(rolling(course, names=("Ada", "</script><b>Bo", "Cy")), course, gt3, "a race")
    (tmp_path / "race.html").write_text(page)
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        sheet = browser.new_page(viewport={"width": 640, "height": 400})
        errors = []
        sheet.on("pageerror", lambda error: errors.append(str(error)))
        sheet.goto((tmp_path / "race.html").as_uri())
        sheet.wait_for_function("window.raceView && window.raceView.time > 2.2", timeout=90_000)
        assert sheet.get_by_role("heading", name="a race").is_visible()
        assert sheet.get_by_text("</script><b>Bo").count() >= 1
        assert "leaves the track" in sheet.get_by_role("status").inner_text()
        sheet.get_by_role("button", name="Pause").click()
        pictures = {}
        for key, camera in (("1", "chase"), ("2", "tv"), ("3", "top")):
            sheet.keyboard.press(key)
            sheet.wait_for_function(f"window.raceView.camera === '{camera}'")
            sheet.wait_for_timeout(1500)
            pictures[camera] = sheet.locator("#view").screenshot()
        assert len(set(pictures.values())) == 3
        stood = sheet.evaluate("window.raceView.time")
        sheet.wait_for_timeout(600)
        assert sheet.evaluate("window.raceView.time") == stood
        sheet.keyboard.press("]")
        assert sheet.evaluate("window.raceView.followed") == 1
        sheet.get_by_label("Time").fill("11")
        assert abs(sheet.evaluate("window.raceView.time") - 11) < 0.1
        sheet.get_by_role("button", name="Play").click()
        sheet.wait_for_function("window.raceView.time >= window.raceView.length", timeout=30_000)
        assert sheet.get_by_role("button", name="Play").is_visible(), "a race that is over stands"
        assert errors == []
        browser.close()
