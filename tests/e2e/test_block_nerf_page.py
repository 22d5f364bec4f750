"""Flying through a city in the browser, as a person does it: walking by keys and by touch, looking around, another light, what each block
sees, going somewhere by the plan, and taking a picture and its pose home."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from almanac.block_nerf import city as cities
from almanac.block_nerf.captures import transforms
from almanac.block_nerf.live import lens
from almanac.block_nerf.render import Appearance, view
from tests.block_nerf.test_live import flown
from tests.e2e.conftest import SCREENS, serving

pytestmark = pytest.mark.timeout(600)
ENOUGH = 240_000
"""ms for what takes seconds on a machine that has nothing else to do."""
SERVE = """
from almanac import systems
from almanac.studio import app
app.SYSTEMS = (systems.find("block_nerf"),)
app.create_app.__defaults__ = (None, app.SYSTEMS)
app.serve(port=0)
"""
"""A Studio that has this system alone, and is up sooner."""


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return flown(tmp_path_factory.mktemp("flown"))


@pytest.fixture(scope="module")
def studio(tmp_path_factory, city) -> Iterator[str]:
    """A Studio with a city."""
    nothing = str(tmp_path_factory.mktemp("weights"))
    variables = {"ALMANAC_WEIGHTS": nothing, "ALMANAC_BLOCK_NERF_CITY": str(city)}
    with serving(tmp_path_factory.mktemp("studio"), SERVE, **variables) as address:
        yield address


@pytest.fixture
def flight(page):
    """The frame in which a flight goes on."""
    page.set_default_timeout(ENOUGH)
    page.get_by_role("main").get_by_role("link", name="Block-NeRF").click()
    frame = page.locator("iframe.fly").element_handle().content_frame()
    until(frame, "state => state.still")
    return frame


def until(frame, condition: str) -> None:
    frame.wait_for_function(f"window.almanac && (({condition})(window.almanac.state))", timeout=ENOUGH)


def state(frame) -> dict:
    return frame.evaluate("window.almanac.state")


def drawn(frame, canvas: str = "#screen") -> str:
    return frame.locator(canvas).evaluate("canvas => canvas.toDataURL()")


def after(frame, act) -> str:
    """The picture of what is there after something was done."""
    before = state(frame)["sent"]
    act()
    until(frame, f"state => state.sent > {before} && state.number === state.sent && state.still")
    return drawn(frame)


def assert_fits(frame) -> None:
    for each in (frame, frame.page):
        assert each.evaluate("document.documentElement.scrollWidth <= innerWidth")


def is_touched(frame) -> bool:
    return frame.page.viewport_size == SCREENS["phone"]["viewport"]


def test_one_walks_and_looks_around(flight):
    assert_fits(flight)
    assert flight.locator("#veil").is_hidden()
    begun, plan = state(flight), drawn(flight, "#plan")
    flight.evaluate(
        "window.pictures = new Set(); window.watching = setInterval(() => pictures.add(document.getElementById('screen').toDataURL()), 30)"
    )
    if is_touched(flight):
        stick = flight.locator("#stick")
        stick.hover()  # which waits until nothing scrolls any more
        flight.page.mouse.down()
        stick.hover(position={"x": 74, "y": 4})
    else:
        flight.locator("#tube").focus()
        flight.page.keyboard.down("KeyW")
        flight.page.keyboard.down("ArrowLeft")
    until(flight, f"state => state.pictures > {begun['pictures'] + 4} && !state.still")
    flight.page.mouse.up() if is_touched(flight) else [flight.page.keyboard.up(key) for key in ("KeyW", "ArrowLeft")]
    until(flight, "state => state.number === state.sent && state.still")
    walked = state(flight)
    assert np.hypot(*np.subtract(walked["at"], begun["at"])[:2]) > 0.3
    assert flight.evaluate("clearInterval(watching), pictures.size") >= 4, "distinct pictures on the way"
    assert drawn(flight, "#plan") != plan and is_touched(flight) == (walked["yaw"] == begun["yaw"])

    looked, tube = drawn(flight), flight.locator("#tube")
    tube.scroll_into_view_if_needed()
    box = tube.bounding_box()
    mouse = flight.page.mouse

    def drag() -> None:
        mouse.move(box["x"] + 60, box["y"] + 60)
        mouse.down()
        mouse.move(box["x"] + 200, box["y"] + 80, steps=4)
        mouse.up()

    assert after(flight, drag) != looked and state(flight)["yaw"] > walked["yaw"]
    back = after(flight, flight.get_by_role("button", name="Back to the start").click)
    assert back != looked and state(flight)["at"][:2] == pytest.approx(begun["at"][:2])
    assert_fits(flight)


def test_light_exposure_and_what_blocks_see_change_the_picture(flight):
    pictures = [drawn(flight)]
    for name, key in (("Light", "End"), ("Exposure", "Home"), ("Eye height", "PageUp")):
        flight.get_by_role("slider", name=name).focus()
        pictures.append(after(flight, lambda key=key: flight.page.keyboard.press(key)))
    assert flight.get_by_text("−2.0 EV").is_visible() and flight.get_by_text("Light 2").is_visible()
    for name in ("Blocks", "Visibility", "Depth", "Colours"):
        pictures.append(after(flight, flight.get_by_role("button", name=name, exact=True).click))
    assert len(set(pictures[:-1])) == 7
    rows = flight.locator("#blocks button")
    assert rows.count() == 2 and "%" in rows.first.locator(".seen").inner_text()
    after(flight, lambda: flight.get_by_label("Blocks mixed by").select_option("nearest"))
    assert rows.locator(".share").all_inner_texts() == ["100 %", "out"]
    alone = after(flight, rows.nth(1).click)
    assert flight.get_by_text("Only block").is_visible() and alone != pictures[-1]
    assert_fits(flight)


def test_a_click_on_the_plan_goes_there_and_a_picture_and_its_pose_come_home(flight, city, tmp_path):
    begun = state(flight)["at"]
    plan = flight.locator("#plan")
    plan.scroll_into_view_if_needed()
    box = plan.bounding_box()
    after(flight, lambda: plan.click(position={"x": box["width"] / 2 - 30, "y": box["height"] / 2 + 20}))
    assert np.hypot(*np.subtract(state(flight)["at"], begun)[:2]) > 0.5

    (tmp_path / "transforms.json").write_text(flight.evaluate("window.almanac.transforms()"))
    pose = transforms.read(tmp_path / "transforms.json")
    until(flight, "state => state.last")
    with flight.page.expect_download() as download:
        flight.get_by_role("button", name="Save picture").click()
    download.value.save_as(tmp_path / "picture.png")
    saved = np.array(Image.open(tmp_path / "picture.png"))
    known = cities.City(city)
    assert pose.cameras[0] == lens(known.about.camera)
    exposure = float(pose.exposures[0]) / known.about.exposure
    wanted = view(known, pose.cameras[0], pose.poses[0], Appearance(int(pose.sessions[0]), exposure))
    assert -10 * np.log10(np.mean((saved / 255 - wanted.colours) ** 2)) > 35


def test_who_loses_the_connection_goes_on_with_the_same_flight(flight):
    before = state(flight)
    flight.evaluate("window.almanac.cut()")
    until(flight, f"state => state.token === '{before['token']}' && state.sent > {before['sent']} && state.still")
    assert state(flight)["at"] == before["at"]


def test_without_a_city_or_with_a_broken_one_it_is_said(chromium, tmp_path):
    broken = tmp_path / "block_nerf" / "broken"
    with serving(tmp_path, SERVE, ALMANAC_WEIGHTS=str(tmp_path), ALMANAC_BLOCK_NERF_CITY="") as address:
        context = chromium.new_context(viewport={"width": 800, "height": 700})
        tab = context.new_page()
        tab.set_default_timeout(ENOUGH)
        tab.goto(f"{address}/block-nerf/live")
        tab.get_by_text("No city is here yet").wait_for()
        assert "almanac block-nerf train" in tab.locator("#veil").inner_text()
        assert tab.get_by_role("button", name="Save picture").is_disabled()
        broken.mkdir(parents=True)
        (broken / "city.json").write_text(json.dumps({"format": 1}))
        tab.reload()
        tab.get_by_text("can't be read").wait_for()
        assert tab.get_by_text("Train the city again").is_visible()
        context.close()
