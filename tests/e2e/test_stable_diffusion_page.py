"""Stable Diffusion in the browser, as a person uses it, by a model that nobody trained: what it paints means nothing, but it is painted,
watched, stopped, varied, repainted and painted again."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.runtime.pictures import to_picture
from almanac.runtime.services import Services
from almanac.stable_diffusion import metadata, models
from almanac.stable_diffusion import page as studio_page
from almanac.stable_diffusion.generate import Settings
from tests.e2e.conftest import serving
from tests.stable_diffusion import made

ENOUGH = 120_000
"""ms for what takes a second on a machine that has nothing else to do."""
ALONE = """
from almanac import systems
systems.SYSTEMS = (systems.find("stable-diffusion"),)  # the only one: it is there at once
from almanac.studio.app import serve
serve(port=0)
"""
DESKTOP = pytest.mark.parametrize("page", ["desktop"], indirect=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return made.own(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def studio(model, tmp_path_factory) -> Iterator[str]:
    """A Studio with that model."""
    folder = tmp_path_factory.mktemp("studio")
    with serving(folder, ALONE, ALMANAC_STABLE_DIFFUSION_MODEL=str(model)) as address:
        yield address


@pytest.fixture
def painter(page):
    """Its page, by its link on the home page, where one picture at a time is asked for."""
    page.set_default_timeout(ENOUGH)
    page.get_by_role("main").get_by_role("link", name="Stable Diffusion").click()
    page.get_by_role("button", name="Paint", exact=True).wait_for()
    page.get_by_label("How many").fill("1")
    return page


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> Path:
    """Somebody's picture, of which no two pixels are alike."""
    path = tmp_path_factory.mktemp("mine") / "mine.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def paint(page, press=None) -> None:
    """Press a button, and wait for the pictures."""
    before = page.locator(".batch").count()
    (press or page.get_by_role("button", name="Paint", exact=True)).click()
    page.wait_for_function("before => document.querySelectorAll('.batch').length > before", arg=before)


def saved(page, number: int = 0) -> Path:
    """A picture of the newest batch, as the browser saves it."""
    image = page.locator(".batch").first.locator(".plate img").nth(number)
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    assert image.bounding_box()["width"] > 140, "big enough to see"
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    with page.expect_download() as saving:
        page.locator(".batch").first.get_by_role("link", name="PNG").nth(number).click()
    return Path(saving.value.path())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def upload(page, path: Path, number: int = 0) -> None:
    page.get_by_label("File upload").nth(number).set_input_files(path)


def told(page) -> list[str]:
    """The message that comes up, which is then closed."""
    message = page.get_by_test_id("toast-text")
    message.wait_for()
    lines = message.inner_text().splitlines()
    page.get_by_test_id("toast-close").click()
    message.wait_for(state="detached")
    return lines


def set_steps(page, steps: int) -> None:
    page.get_by_text("More settings").click()
    for _ in range(20):  # until it listens: it is new on the page
        page.get_by_label("number input for Steps").fill(str(steps))
        if page.get_by_label("range slider for Steps").input_value() == str(steps):
            return
        page.get_by_label("number input for Steps").fill("1")
        page.wait_for_timeout(100)
    raise AssertionError("the steps can't be set")


def assert_fits_the_screen(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_pictures_are_watched_and_are_those_of_generate(painter, model):
    assert_fits_the_screen(painter)
    painter.get_by_role("button", name="One green 5").click()
    painter.get_by_label("Negative prompt").fill("blue")
    painter.get_by_label("Seed", exact=True).fill("42")
    painter.get_by_label("How many").fill("2")
    set_steps(painter, 40)
    painter.get_by_role("button", name="Paint", exact=True).click()
    painter.locator("[data-preview] img").nth(1).wait_for()
    assert re.fullmatch(r"Step \d+ of 40, about \d+ s left", painter.locator(".work [role=status]").inner_text())
    assert painter.get_by_label("Painted").get_attribute("max") == "40"
    painter.locator(".batch").wait_for()
    assert not painter.locator(".work").count()
    settings, said = metadata.read(saved(painter, 1))
    prompt = "a large green 5 in the centre on a black background"
    assert settings == Settings(prompt, "blue", 64, 64, 40, strength=settings.strength)
    assert said == {"model": "tiny", "seed": 43}
    alone = to_picture(models.painter(models.load(str(model))).paint(settings, [43])[0])
    assert np.array_equal(pixels(saved(painter, 1)), alone)
    assert_fits_the_screen(painter)


@DESKTOP
def test_a_seed_again_is_the_same_picture_and_a_file_brings_its_settings_back(painter, photograph):
    painter.get_by_label("Prompt", exact=True).fill("a blue 7 at the top")
    set_steps(painter, 6)
    paint(painter)
    first = saved(painter)
    seed = painter.locator(".batch .plate").get_attribute("data-seed")
    painter.get_by_label("Prompt", exact=True).fill("something else")
    painter.get_by_label("A picture", exact=True).check()
    painter.locator("[data-do=again]").click()
    painter.wait_for_function("document.querySelector('.controls textarea').value === 'a blue 7 at the top'")
    assert painter.get_by_label("Seed", exact=True).input_value() == seed
    paint(painter)
    assert np.array_equal(pixels(saved(painter)), pixels(first))

    painter.reload()
    painter.get_by_text("Settings of a picture").click()
    upload(painter, photograph)
    assert told(painter) == ["Mine.png does not say how it was made", "Give a PNG that was painted here"]
    file = first.with_name("kept.png")
    file.write_bytes(first.read_bytes())
    upload(painter, file)
    painter.wait_for_function("document.querySelector('.controls textarea').value === 'a blue 7 at the top'")
    assert painter.get_by_label("Seed", exact=True).input_value() == seed
    paint(painter)
    assert np.array_equal(pixels(saved(painter)), pixels(first))


@DESKTOP
def test_a_picture_leads_to_the_next(painter, photograph):
    set_steps(painter, 8)
    painter.get_by_label("A picture", exact=True).check()
    painter.get_by_role("button", name="Paint", exact=True).click()
    assert told(painter)[0] == "No picture is chosen to begin with"
    upload(painter, photograph)
    painter.get_by_alt_text("Chosen: your picture").wait_for()
    painter.get_by_label("number input for Strength of changes").fill("0")
    paint(painter)
    assert np.array_equal(pixels(saved(painter)), pixels(photograph))
    painter.get_by_label("number input for Strength of changes").fill("0.5")
    paint(painter, painter.get_by_role("button", name="Vary"))
    varied = saved(painter)
    assert not np.array_equal(pixels(varied), pixels(photograph))
    settings, said = metadata.read(varied)
    assert settings.strength == 0.5 and said["begun"].startswith("as a variation of seed ")
    painter.get_by_role("button", name="Start").first.click()
    painter.get_by_alt_text(f"Chosen: the picture of seed {said['seed']}").wait_for()
    painter.get_by_label("number input for Strength of changes").fill("0")
    paint(painter)
    assert np.array_equal(pixels(saved(painter)), pixels(varied))


@DESKTOP
def test_what_is_painted_meanwhile_is_not_lost(painter):
    set_steps(painter, 60)
    painter.get_by_role("button", name="Paint", exact=True).click()
    painter.locator("[data-preview]").wait_for()
    painter.get_by_label("Prompt", exact=True).press("Shift+Enter")
    painter.wait_for_function("document.querySelectorAll('.batch').length === 2")


@DESKTOP
def test_what_can_not_be_painted_is_said_and_what_is_painted_can_be_stopped(painter):
    set_steps(painter, 150)
    painter.get_by_label("Width").fill("63")
    painter.get_by_role("button", name="Paint", exact=True).click()
    assert told(painter) == ["The width is 63 pixels", "Give a multiple of 4, at most 4096"]
    assert not painter.locator(".work").count()
    painter.get_by_label("Width").fill("64")
    painter.get_by_label("Seed", exact=True).fill("seven")
    painter.get_by_role("button", name="Paint", exact=True).click()
    assert told(painter)[0] == "The seed is 'seven'"
    painter.get_by_label("Seed", exact=True).fill("")
    painter.get_by_label("How many").fill("8")
    painter.get_by_role("button", name="Paint", exact=True).click()
    painter.locator("[data-preview]").first.wait_for()
    painter.get_by_role("button", name="Stop").click()
    painter.locator(".work").wait_for(state="detached")
    painter.get_by_label("How many").fill("1")
    painter.get_by_label("number input for Steps").fill("2")
    paint(painter)
    assert painter.locator(".batch").count() == 1 and painter.locator(".batch .plate").count() == 1


def test_without_a_model_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path)
    monkeypatch.delenv(studio_page.MODEL, raising=False)
    with pytest.raises(UserError, match="no trained model of Stable Diffusion"):
        studio_page.build(Services())
    monkeypatch.setenv(studio_page.MODEL, str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match="no weights"):
        studio_page.build(Services())


@DESKTOP
def test_outside_of_the_brush_nothing_changes(painter, photograph):
    set_steps(painter, 8)
    painter.get_by_label("A part of one").check()
    upload(painter, photograph)
    canvas = painter.locator(".brushed canvas").first
    canvas.wait_for()
    painter.get_by_role("button", name="Paint", exact=True).click()
    assert told(painter) == ["Nothing is marked in the picture", "Brush over what is to be painted anew"]
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    painter.mouse.move(x - 40, y)
    painter.mouse.down()
    painter.mouse.move(x + 40, y, steps=6)
    painter.mouse.up()
    paint(painter)
    before, after = pixels(photograph), pixels(saved(painter))
    changed = np.argwhere((before != after).any(-1))
    top, left = changed.min(0)
    bottom, right = changed.max(0)
    assert 15 < top < 32 < bottom < 49, "a stroke through the middle"
    assert 4 < left < 22 and 42 < right < 60
    inside = (before[30:34, 25:39] != after[30:34, 25:39]).any(-1)
    assert inside.mean() > 0.9
    assert len(changed) < 0.4 * 64 * 64
