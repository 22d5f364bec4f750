"""Cold Diffusion in the browser, as a person uses it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from almanac.cold_diffusion import data
from almanac.runtime.pictures import to_picture


@pytest.fixture
def digit(tmp_path):
    """A handwritten digit that no model has seen, as a PNG."""
    path = tmp_path / "digit.png"
    to_picture(data.load("digits", "test").batch(slice(3, 4))[0]).save(path)
    return path


@pytest.fixture
def cold_diffusion(page):
    """Its page, by its link on the home page."""
    page.get_by_role("main").get_by_role("link", name="Cold Diffusion").click()
    page.get_by_role("heading", level=1, name="Cold Diffusion").wait_for()
    page.get_by_role("button", name="Degrade & restore").wait_for()
    return page


def upload(page, path) -> None:
    page.get_by_label("File upload").first.set_input_files(path)


def restore_blurred_digit(page, digit, severity: int) -> dict[str, np.ndarray]:
    """Upload, choose, press; the pictures that are shown, by name."""
    upload(page, digit)
    page.get_by_alt_text("Chosen: your picture").wait_for()
    page.get_by_role("radio", name="Blur").check()
    page.get_by_role("radio", name="Digits").check()
    page.get_by_label("number input for Severity, %").fill(str(severity))
    page.get_by_role("button", name="Degrade & restore").click()
    page.get_by_alt_text("Pictures along the sampling").wait_for(timeout=120_000)
    return {plate.get_attribute("data-plate"): downloaded(plate) for plate in page.locator(".plate").all()}


def downloaded(plate) -> np.ndarray:
    """What a click on a picture saves, in [0, 1]."""
    image = plate.locator("img")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth * image.naturalHeight)") > 0
    assert image.bounding_box()["width"] > 100, "big enough to see"
    with plate.page.expect_download() as saving:
        image.click()
    assert saving.value.suggested_filename.endswith(".png")
    kind, _, content = plate.locator("a").get_attribute("href").partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L")) / 255


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def assert_fits_the_screen(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_a_blurred_digit_comes_back_closer_to_the_original(cold_diffusion, digit):
    assert_fits_the_screen(cold_diffusion)
    shown = restore_blurred_digit(cold_diffusion, digit, severity=30)
    assert list(shown) == ["original", "degraded", "improved-sampling", "naive-sampling", "direct-estimate"]
    with Image.open(digit) as uploaded:
        enlarged = uploaded.resize(shown["original"].shape, Image.Resampling.NEAREST)
    assert np.array_equal(shown["original"], np.asarray(enlarged) / 255)
    degraded = rmse(shown["degraded"], shown["original"])
    assert rmse(shown["improved-sampling"], shown["original"]) < degraded
    assert rmse(shown["direct-estimate"], shown["original"]) < degraded
    assert_fits_the_screen(cold_diffusion)


def test_a_file_that_is_no_picture_is_said_and_the_page_goes_on_working(cold_diffusion, digit, tmp_path):
    wrong = tmp_path / "notes.png"
    wrong.write_text("these are notes, not a picture\n")
    upload(cold_diffusion, wrong)
    message = cold_diffusion.get_by_test_id("toast-text")
    message.wait_for()
    assert message.inner_text().splitlines() == ["The picture is not an image", "Give a PNG, JPEG or WebP file"]
    assert cold_diffusion.get_by_text("Traceback").count() == 0
    cold_diffusion.get_by_test_id("toast-close").click()
    assert len(restore_blurred_digit(cold_diffusion, digit, severity=10)) == 5


def test_an_example_is_one_click(cold_diffusion):
    before = cold_diffusion.locator(".chosen img").get_attribute("src")
    cold_diffusion.get_by_role("button", name="Thumbnail 2 of").click()
    cold_diffusion.wait_for_function("before => document.querySelector('.chosen img').src !== before", arg=before)


def test_generating_shows_the_pictures_and_the_steps(cold_diffusion):
    cold_diffusion.get_by_role("tab", name="Generate").click()
    cold_diffusion.get_by_label("number input for How many").fill("3")
    cold_diffusion.get_by_role("button", name="Generate", exact=True).click()
    cold_diffusion.get_by_alt_text("Pictures along the sampling").wait_for(timeout=120_000)
    sizes = cold_diffusion.locator(".plates.many img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(sizes) == 3 and all(size > 0 for size in sizes)
    assert_fits_the_screen(cold_diffusion)


def test_the_menu_leads_from_every_page_to_every_system(cold_diffusion):
    cold_diffusion.get_by_text("Systems", exact=True).click()
    cold_diffusion.get_by_role("navigation").get_by_role("link", name="Cold Diffusion").click()
    cold_diffusion.get_by_role("button", name="Degrade & restore").wait_for()
    cold_diffusion.get_by_role("link", name="Almanac, home").click()
    cold_diffusion.get_by_role("heading", level=1, name="The deep learning of 2022").wait_for()
    assert_fits_the_screen(cold_diffusion)
