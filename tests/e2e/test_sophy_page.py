"""Sophy in the browser, as a person uses it: races are driven and seen in three dimensions, and so is the fastest lap."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from almanac.sophy import view
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks
from tests.sophy import made

pytestmark = pytest.mark.skipif(
    not (Path(sys.prefix) / "node_modules" / "three").is_dir(), reason="three.js is not installed (make setup)"
)
ENOUGH = 180_000
"""ms for what takes seconds on a machine that has nothing else to do."""
on_a_desktop = pytest.mark.parametrize("page", ["desktop"], indirect=True)
on_a_phone = pytest.mark.parametrize("page", ["phone"], indirect=True)


@pytest.fixture
def sophy(page):
    """Its page, by its link on the home page."""
    page.set_default_timeout(ENOUGH)
    page.get_by_role("main").get_by_role("link", name="Sophy").click()
    page.get_by_role("heading", level=1, name="Sophy").wait_for()
    page.get_by_role("tab", name="Race").click()
    page.get_by_role("button", name="Race", exact=True).wait_for()
    return page


@pytest.fixture
def oval(tmp_path) -> Path:
    """A short track of one's own, as a file."""
    made.drawn(tmp_path, "oval", lambda turn: (120 * np.cos(turn), 60 * np.sin(turn)))
    return tmp_path / "oval.csv"


def race(page, cars: int):
    """Press and wait; the frame in which the race is drawn."""
    page.get_by_label("number input for Cars").fill(str(cars))
    page.get_by_role("button", name="Race", exact=True).click()
    return drawn(page)


def drawn(page):
    """The frame in which a race or a lap is drawn, once it goes on."""
    shown, message = page.locator("iframe.race"), page.get_by_test_id("toast-text")
    shown.or_(message).first.wait_for()
    assert message.count() == 0, message.inner_text()
    frame = shown.element_handle().content_frame()
    frame.wait_for_function("window.raceView && window.raceView.time > 0.5")
    return frame


def upload(page, path: Path, tab: int = 0) -> None:
    """Give a file on a tab, and wait until it is there."""
    drop = page.locator(".drop").nth(tab)
    drop.get_by_label("File upload").set_input_files(path)
    drop.get_by_label("Clear").wait_for()
    assert path.stem in drop.inner_text()


def at(frame, seconds: float) -> None:
    """Scrub, and wait until all shows that moment."""
    frame.get_by_label("Time").fill(f"{seconds:.2f}")
    clock = f"{int(seconds // 60)}:{seconds % 60:04.1f} / "
    frame.wait_for_function("clock => document.getElementById('clock').textContent.startsWith(clock)", arg=clock)


def picture(frame) -> np.ndarray:
    """What is seen in three dimensions."""
    return np.asarray(Image.open(io.BytesIO(frame.locator("#view").screenshot())).convert("RGB"))


def standing(frame) -> list[str]:
    """Names, the first in front."""
    return frame.locator("#cars button span:nth-of-type(2)").all_inner_texts()


def telemetry(frame) -> str:
    return frame.locator("#traces canvas").evaluate("canvas => canvas.toDataURL()")


def assert_fits_the_screen(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def assert_it_obeys(frame) -> None:
    """The race stands and goes on, is seen from three sides, and jumps to another time when it is told to."""
    frame.get_by_role("button", name="Pause").click()
    stood = frame.evaluate("window.raceView.time")
    seen = []
    for name, camera in (("TV", "tv"), ("Top", "top"), ("Chase", "chase")):
        frame.get_by_role("button", name=name, exact=True).click()
        assert frame.evaluate("window.raceView.camera") == camera
        frame.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seen.append(picture(frame).astype(float))
    colours = [len(np.unique(each.astype(int).reshape(-1, 3) // 16 @ (256, 16, 1))) for each in seen]
    assert min(colours) > 12, "there is something to be seen"
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(seen[a] - seen[b]).mean() > 5
    assert frame.evaluate("window.raceView.time") == stood
    frame.get_by_role("button", name="Play").click()
    frame.wait_for_function("stood => window.raceView.time > stood + 0.3", arg=stood)
    frame.get_by_role("button", name="Pause").click()


@on_a_desktop
def test_a_race_on_the_built_in_track_is_driven_and_seen_from_its_start_to_its_end(sophy):
    assert_fits_the_screen(sophy)
    frame = race(sophy, cars=3)
    assert_it_obeys(frame)
    at(frame, 20)
    speed, traces, front = frame.locator("#kmh").inner_text(), telemetry(frame), picture(frame).astype(float)
    at(frame, 40)
    assert frame.locator("#kmh").inner_text() != speed and telemetry(frame) != traces
    assert np.abs(picture(frame) - front).mean() > 5
    gaps = [float(gap) for gap in frame.locator("#cars button span:nth-of-type(3)").all_inner_texts()[1:]]
    assert len(gaps) == 2 and 0 < gaps[0] < gaps[1], "the last is behind the second"

    at(frame, 20)
    assert telemetry(frame) == traces, "the same moment looks the same, from whichever side one comes to it"
    second = standing(frame)[1]
    frame.get_by_role("button", name=re.compile(second)).click()
    frame.wait_for_function("traces => document.querySelector('#traces canvas').toDataURL() !== traces", arg=traces)

    at(frame, frame.evaluate("window.raceView.length"))
    rows = sophy.locator("table.places tbody tr").all()
    places = [row.locator("td").all_inner_texts() for row in rows]
    assert [place for place, *_ in places] == ["1", "2", "3"]
    times = [float(time) for _, _, time, *_ in places]
    assert times == sorted(times) and 60 < times[0] < 120
    if sophy.get_by_role("columnheader", name="Penalty").count() == 0:
        assert standing(frame) == [name for _, name, *_ in places], "as the table has it"
        gaps = [float(gap) for gap in frame.locator("#cars button span:nth-of-type(3)").all_inner_texts()[1:]]
        assert np.allclose(gaps, np.array(times[1:]) - times[0], atol=0.06)
    assert "finished" in frame.locator("#lap").inner_text()
    assert_fits_the_screen(sophy)


@on_a_phone
def test_a_race_on_a_track_of_ones_own(sophy, oval, tmp_path):
    wrong = tmp_path / "notes.csv"
    wrong.write_text("these are notes, not a track\n")
    upload(sophy, wrong)
    sophy.get_by_role("button", name="Race", exact=True).click()
    message = sophy.get_by_test_id("toast-text")
    message.wait_for()
    said = message.inner_text().splitlines()
    assert len(said) == 2 and said[0] == "Notes.csv has no points"
    sophy.get_by_test_id("toast-close").click()
    message.wait_for(state="detached")  # it fades

    sophy.get_by_label("Clear").first.click()
    upload(sophy, oval)
    frame = race(sophy, cars=2)
    assert_it_obeys(frame)
    assert frame.get_by_role("heading", name="oval, 1 lap").is_visible()
    boxes = {name: frame.locator(f"#{name}").bounding_box() for name in ("order", "speed", "controls")}
    for name, below in (("order", "speed"), ("speed", "controls")):
        assert boxes[name]["y"] + boxes[name]["height"] <= boxes[below]["y"], f"{name} lies over {below}"
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert_fits_the_screen(sophy)


@on_a_desktop
def test_the_fastest_lap_is_found_driven_and_seen_beside_what_was_driven(sophy, oval):
    sophy.get_by_role("tab", name="The limit").click()
    upload(sophy, oval, tab=1)
    sophy.get_by_role("button", name="Find the fastest lap").click()
    frame = drawn(sophy)
    found = re.findall(r"([\d.]+) s", sophy.locator(".results p").filter(has_text="fastest lap").last.inner_text())
    best, driven = (float(each) for each in found)
    assert 10 < best <= driven < 1.03 * best
    assert standing(frame) == ["driven"]
    frame.get_by_role("button", name="Pause").click()
    at(frame, 5)
    assert frame.evaluate("JSON.parse(document.getElementById('race').textContent).optimum.lap_time") == pytest.approx(
        best, abs=0.01
    )
    assert abs(frame.evaluate("window.raceView.length") - driven) < 0.1


def test_a_replay_that_was_written_opens_without_a_server(chromium, typed, oval, tmp_path):
    done = typed("sophy", "race", "--track", oval, "-n", 2, "--laps", 1, "--out", tmp_path / "race.npz", "--json")
    assert done.returncode == 0, done.stderr
    done = typed("sophy", "replay", tmp_path / "race.npz", "--track", oval, "--json")
    assert done.returncode == 0, done.stderr
    context = chromium.new_context(viewport={"width": 800, "height": 500}, offline=True)
    page = context.new_page()
    page.set_default_timeout(ENOUGH)
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(Path(json.loads(done.stdout)["page"]).as_uri())
    page.wait_for_function("window.raceView && window.raceView.time > 0.5")
    at(page.main_frame, page.evaluate("window.raceView.length"))
    assert "finished" in page.locator("#cars").inner_text()
    assert errors == []
    context.close()


def test_a_browser_draws_the_race(chromium, tmp_path):
    course = tracks.find("solstice")
    seen = made.rolling(course, names=("Ada", "</script><b>Bo", "Cy"))
    (tmp_path / "race.html").write_text(view.page(seen, course, cars.load("gt3"), "a race"))
    context = chromium.new_context(viewport={"width": 640, "height": 400}, offline=True)
    sheet, errors = context.new_page(), []
    sheet.set_default_timeout(ENOUGH)
    sheet.on("pageerror", lambda error: errors.append(str(error)))
    sheet.goto((tmp_path / "race.html").as_uri())
    sheet.wait_for_function("window.raceView && window.raceView.time > 2.2")
    assert sheet.get_by_role("heading", name="a race").is_visible()
    assert sheet.get_by_text("</script><b>Bo").count() >= 1
    assert "leaves the track" in sheet.get_by_role("status").inner_text()
    sheet.get_by_role("button", name="Pause").click()
    for key, camera in (("1", "chase"), ("2", "tv"), ("3", "top")):
        sheet.keyboard.press(key)
        sheet.wait_for_function(f"window.raceView.camera === '{camera}'")
    stood = sheet.evaluate("window.raceView.time")
    sheet.wait_for_timeout(600)
    assert sheet.evaluate("window.raceView.time") == stood
    sheet.keyboard.press("]")
    assert sheet.evaluate("window.raceView.followed") == 1
    at(sheet.main_frame, 11)
    sheet.get_by_role("button", name="Play").click()
    sheet.wait_for_function("window.raceView.time >= window.raceView.length")
    assert sheet.get_by_role("button", name="Play").is_visible(), "a race that is over stands"
    assert errors == []
    context.close()
