"""Driving in the browser, as a person does it: by keys, on a track of the project's, against others and for a place on the board."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from almanac.sophy import lap as laps
from almanac.sophy import race
from almanac.sophy.lap import Lap
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks
from tests.e2e.conftest import serving

pytestmark = [
    pytest.mark.skipif(
        not (Path(sys.prefix) / "node_modules" / "three").is_dir(), reason="three.js is not installed (make setup)"
    ),
    pytest.mark.timeout(600),
]
PILOT = """
() => {
  const { track, car } = window.almanac, down = new Set();
  const at = (list, s) => list[((Math.round(s / track.step) % list.length) + list.length) % list.length];
  const press = (code, on) => {
    if (on === down.has(code)) return;
    document.activeElement.dispatchEvent(new KeyboardEvent(on ? "keydown" : "keyup", { code, key: code, bubbles: true }));
    on ? down.add(code) : down.delete(code);
  };
  setInterval(() => {
    const now = window.almanac.state, speed = Math.max(now.speed, 0);
    if (now.wall && speed < 1) { press("ArrowUp", false); press("KeyR", true); press("KeyR", false); return; }
    let allowed = 36;
    for (let d = 0; d < 8 + 0.1 * speed * speed; d += 5) {
      allowed = Math.min(allowed, Math.sqrt((0.72 * at(track.limit, now.travelled + d)) ** 2 + 10 * d));
    }
    const s = now.travelled + 0.08 * speed, ahead = 8 + 0.7 * speed;
    const angle = now.angle + 0.08 * speed * (now.steering / car.base - at(track.curvature, s));
    const aside = 0.6 * at(track.line, s + ahead) - now.offset - (ahead + 0.08 * speed) * Math.sin(angle);
    const bend = at(track.curvature, s + 0.2 * speed), most = car.base * car.grip / Math.max(speed, 4) ** 2 + 0.5 * car.slip;
    const wanted = car.base * (bend + 2 * aside / ahead ** 2) + 0.0006 * bend * speed * speed;
    const steering = now.turn * (0.3 + 0.7 * now.turn ** 2) * most;  // the wheel turns while a key is held, and back when it is let go
    press("ArrowLeft", wanted > 0.006 * most && steering < wanted);
    press("ArrowRight", wanted < -0.006 * most && steering > wanted);
    press("ArrowUp", speed < allowed);
    press("ArrowDown", speed > allowed + 2);
  }, 20);
}
"""
"""Somebody who sees where the car is and presses arrow keys, in the page, so that it is as fast there as a hand on the keyboard."""
ENOUGH = 240_000
"""ms for what takes seconds on a machine that has nothing else to do."""
SMALL = {"viewport": {"width": 640, "height": 420}}


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Iterator[str]:
    """The address of the page, of a Studio that has an empty board and knows an optimal lap."""
    folder = tmp_path_factory.mktemp("live")
    course, gt3 = tracks.find("solstice"), cars.load("gt3")
    flat, wheels = np.zeros(400), np.zeros((4, 400))
    s = course.length / 400 * np.arange(400)
    known = Lap(74.05, s, 74.05 * np.arange(400) / 400, flat + 50, flat, flat, flat, flat, flat, flat, wheels, wheels)
    laps.write(known, folder / "cache" / "sophy" / f"{race.digest(course)[:16]}-{race.digest(gt3)[:16]}-kerbs.csv")
    with serving(folder, ALMANAC_CACHE=str(folder / "cache")) as address:
        yield f"{address}/sophy/live"


@pytest.fixture
def tab(chromium):
    """Opens tabs, each of somebody else; in none an error may be said."""
    contexts, errors = [], []

    def open_tab(address: str, **screen):
        contexts.append(chromium.new_context(**(screen or SMALL)))
        page = contexts[-1].new_page()
        page.set_default_timeout(ENOUGH)
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.get_by_label("Track").locator("option").first.wait_for(state="attached")
        return page

    yield open_tab
    for context in contexts:
        context.close()
    assert errors == []


def state(page) -> dict:
    return page.evaluate("window.almanac.state")


def wait(page, condition: str) -> None:
    page.wait_for_function(f"window.almanac && (({condition})(window.almanac.state))")


def test_a_lap_is_driven_by_key_presses_and_lands_on_the_board(live, tab):
    page = tab(live)
    page.get_by_label("Name").fill("Ada <b>")
    page.get_by_label("Against").select_option("trial")
    page.get_by_role("button", name="Start").click()
    wait(page, "state => state.phase === 'racing'")
    page.keyboard.down("ArrowUp")
    wait(page, "state => state.speed > 5")
    page.keyboard.up("ArrowUp")
    page.evaluate(PILOT)
    page.wait_for_function("window.almanac.state.laps.some(lap => !lap.spoilt)", timeout=1.5 * ENOUGH)
    page.get_by_role("button", name="Board").click()
    row = page.locator("#board tbody tr").first
    row.wait_for()
    _, name, shown, aids = row.locator("td").all_inner_texts()
    done = next(lap["time"] for lap in state(page)["laps"] if not lap["spoilt"])
    minutes, seconds = shown.split(":")
    assert name == "Ada <b>" and aids == "yes"
    assert abs(60 * int(minutes) + float(seconds) - done) < 0.002 and 74 < done < 160
    assert page.locator("#kmh").inner_text().isdigit() and int(page.locator("#gear").inner_text()) >= 1
    wait(page, "state => state.ghosts.includes('board') && state.ghosts.includes('optimum')")
    wait(page, "state => Number.isFinite(state.delta)")


def test_two_tabs_race_each_other(live, tab):
    first = tab(live)
    first.get_by_label("Built-in drivers").fill("0")
    first.get_by_label("Name").fill("Ada")
    first.get_by_role("button", name="Start").click()
    wait(first, "state => state.phase === 'racing'")
    code = first.locator("#code").inner_text()
    second = tab(f"{live}?room={code}", viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True)
    second.get_by_label("Name").fill("Bo")
    second.get_by_role("button", name="Join").click()
    for page in (first, second):
        wait(page, "state => state.cars === 2 && state.drivers.length === 2")
        page.get_by_text("Bo", exact=True).first.wait_for()
    before = second.evaluate("window.almanac.positions")
    own = str(state(first)["who"])
    first.bring_to_front()
    first.keyboard.down("w")
    second.wait_for_function(
        "([who, x, y]) => { const p = window.almanac.positions[who]; return Math.hypot(p[0] - x, p[1] - y) > 15; }",
        arg=[own, *before[own]],
    )
    first.keyboard.up("w")
    assert second.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert first.locator("#cars li").count() == 2

    second.get_by_role("button", name="Restart").click()
    wait(first, "state => state.phase === 'countdown' && state.travelled < 0")
    second.get_by_role("button", name="Leave").click()
    wait(first, "state => state.cars === 1")
    first.get_by_text("Bo has left").wait_for()


def test_what_can_not_be_driven_is_said(live, tab):
    page = tab(f"{live}?room=ZZZZ")
    page.get_by_role("button", name="Join").click()
    said = page.get_by_role("alert").first
    said.get_by_text("There is no race ZZZZ").wait_for()
    assert page.get_by_role("button", name="Start").is_enabled()


def test_studio_shows_it_first(live, tab):
    page = tab(live)
    page.goto(live.removesuffix("live"))
    frame = page.frame_locator("iframe.live")
    frame.get_by_role("heading", name="Drive").wait_for()
    frame.get_by_role("button", name="Start").wait_for()
