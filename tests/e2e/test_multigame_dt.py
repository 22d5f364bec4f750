"""Watching an agent play in the browser, as a person does it: choosing a game, tilting its returns, taking over by keys and by touch,
handing back, and taking the recording home."""

from collections.abc import Iterator

import pytest

pytest.importorskip("ale_py", reason="the Atari emulator is an extra")

import torch

from almanac.multigame_dt import logs, published
from almanac.multigame_dt.model import DecisionTransformer, Dimensions
from tests.e2e.conftest import SCREENS, serving

pytestmark = pytest.mark.timeout(600)
ENOUGH = 240_000
"""ms for what takes seconds on a machine that has nothing else to do."""
SERVE = """
from almanac import systems
from almanac.studio import app
app.SYSTEMS = (systems.find("multigame_dt"),)
app.create_app.__defaults__ = (None, app.SYSTEMS)
app.serve(port=0)
"""
"""A Studio that has this system alone, and is up sooner."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Iterator[str]:
    """A Studio with a model that has learned nothing."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = DecisionTransformer(Dimensions(32, 1, 1))
    published.save(folder / "multigame_dt" / "tiny.safetensors", model, {"games": ["Boxing", "Pong"]})
    with serving(tmp_path_factory.mktemp("studio"), SERVE, ALMANAC_WEIGHTS=str(folder)) as address:
        yield address


@pytest.fixture
def watched(page):
    """The frame in which a game goes on, and the tab around it."""
    page.set_default_timeout(ENOUGH)
    page.get_by_role("main").get_by_role("link", name="Multi-Game").click()
    frame = page.locator("iframe.watch").element_handle().content_frame()
    until(frame, "state => state.steps > 3")
    return frame


def until(frame, condition: str) -> None:
    frame.wait_for_function(f"window.almanac && (({condition})(window.almanac.state))", timeout=ENOUGH)


def state(frame) -> dict:
    return frame.evaluate("window.almanac.state")


def assert_fits(frame) -> None:
    for each in (frame, frame.page):
        assert each.evaluate("document.documentElement.scrollWidth <= innerWidth")


def drawn(frame, canvas: str) -> str:
    return frame.locator(canvas).evaluate("canvas => canvas.toDataURL()")


def test_it_is_watched_tilted_taken_over_and_handed_back(watched, tmp_path):
    assert_fits(watched)
    assert watched.locator("#game optgroup").first.get_attribute("label") == "Trained on"
    assert watched.locator("#game").input_value() == "Boxing"
    screen, bars = drawn(watched, "#screen"), drawn(watched, "#bars")
    until(watched, "state => state.steps > 20 && state.who === 'agent'")
    assert drawn(watched, "#screen") != screen and drawn(watched, "#bars") != bars

    watched.get_by_role("slider").focus()
    watched.page.keyboard.press("End")
    until(watched, "state => state.kappa === 20 && state.who === 'agent'")
    high = state(watched)
    watched.page.keyboard.press("Home")
    until(watched, "state => state.kappa === 0")
    mean = "list => list.reduce((sum, p, i) => sum + p * (i - 20), 0)"
    assert watched.evaluate(mean, high["tilted"]) > watched.evaluate(mean, state(watched)["tilted"])

    is_touched = watched.page.viewport_size == SCREENS["phone"]["viewport"]
    if is_touched:
        watched.get_by_role("button", name="Take over").tap()
        until(watched, "state => state.who === 'person'")
        stick = watched.locator("#stick")
        stick.hover()  # which waits until nothing scrolls any more
        watched.page.mouse.down()
        stick.hover(position={"x": 8, "y": 84})
    else:
        watched.locator("#tube").click()
        watched.page.keyboard.down("ArrowLeft")
    until(watched, "state => state.who === 'person' && state.context.slice(0, 3).every(step => step && step[0] === 4)")
    assert watched.get_by_text("You play").is_visible()
    if is_touched:
        watched.page.mouse.up()
        watched.get_by_role("button", name="Fire").tap()
    else:
        watched.page.keyboard.up("ArrowLeft")
        watched.page.keyboard.press("Space")
    until(watched, "state => state.context.some(step => step && step[0] === 1)")
    until(watched, "state => state.took === 0")
    assert_fits(watched)
    watched.get_by_role("button", name="Hand back").click()
    until(watched, "state => state.who === 'agent'")
    steps = state(watched)["steps"]
    until(watched, f"state => state.steps > {steps + 3}")

    with watched.page.expect_download() as download:
        watched.get_by_role("link", name="Download the recording").click()
    assert download.value.suggested_filename.startswith("boxing-")
    download.value.save_as(tmp_path / "log.jsonl.gz")
    (played,) = logs.read(tmp_path / "log.jsonl.gz")
    assert played.agent == "multigame_dt/tiny+person" and len(played.actions) >= steps
    assert logs.replay(played).score == played.score

    watched.get_by_role("button", name="Pause").click()
    until(watched, "state => state.state === 'paused'")
    stood = state(watched)["steps"]
    watched.page.wait_for_timeout(400)
    assert state(watched)["steps"] == stood
    watched.get_by_role("button", name="Go on").last.click()
    until(watched, f"state => state.steps > {stood}")


def test_another_game_and_random_play_are_chosen_and_what_it_never_saw_is_said(watched):
    watched.locator("#game").select_option("SpaceInvaders")
    watched.get_by_text("was never trained on Space Invaders").wait_for()
    until(watched, "state => state.game === 2 && state.steps > 3 && state.predicted")
    watched.locator("#game").select_option("Carnival")
    watched.get_by_text("No person's score of this game was published").wait_for()
    watched.locator("#model").select_option(label="Random play")
    until(watched, "state => state.game === 4 && state.steps > 3 && !state.predicted")
    assert not watched.locator("#bars").is_visible()
    watched.get_by_role("button", name="4 times as fast as the console").click()
    until(watched, "state => state.speed === 4")
    watched.get_by_role("button", name="Restart").click()
    until(watched, "state => state.game === 5")
    assert watched.locator("#past li").count() == 4


def test_who_loses_the_connection_goes_on_with_the_same_game(watched):
    token = state(watched)["token"]
    watched.evaluate("window.almanac.cut()")
    until(watched, f"state => state.token === '{token}' && state.game === 1")
    steps = state(watched)["steps"]
    until(watched, f"state => state.steps > {steps + 5}")


def test_without_a_model_or_an_emulator_it_is_said(chromium, tmp_path):
    missing = """
import sys
sys.modules["ale_py"] = None
"""
    with serving(tmp_path, missing + SERVE, ALMANAC_WEIGHTS=str(tmp_path)) as address:
        context = chromium.new_context(viewport={"width": 800, "height": 700})
        tab = context.new_page()
        tab.set_default_timeout(ENOUGH)
        tab.goto(f"{address}/multigame-dt/live")
        tab.get_by_text("The Atari emulator (ale-py) isn't installed").wait_for()
        tab.get_by_text("No trained model is here yet").wait_for()
        assert tab.get_by_role("button", name="Take over").is_disabled()
        context.close()
