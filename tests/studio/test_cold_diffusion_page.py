import base64
import io
import re

import gradio as gr
import pytest
import torch
from PIL import Image

from almanac.cold_diffusion import page, restore
from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.runtime.services import Services


def picture(colour: bool) -> Image.Image:
    grey = Image.linear_gradient("L").resize((48, 32))
    return Image.merge("RGB", (grey, grey.rotate(90), grey.rotate(180))) if colour else grey


def progress_of(steps: list):
    return lambda done, **_: steps.append(done)


def numbers(shown: str, plate: str) -> tuple[float, float]:
    """RMSE and SSIM under a plate."""
    caption = shown.split(f'data-plate="{plate}"')[1].split("</figure>")[0]
    rmse, ssim = re.findall(r"</abbr> (-?[\d.]+)", caption)
    return float(rmse), float(ssim)


def test_without_a_model_the_page_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path)
    with pytest.raises(UserError, match="almanac cold-diffusion train"):
        page.build(Services())


def test_the_page_offers_exactly_the_models_that_are_here(untrained):
    config = page.build(Services()).get_config_file()
    radios = {
        c["props"]["label"]: [value for _, value in c["props"]["choices"]]
        for c in config["components"]
        if c["type"] == "radio"
    }
    assert radios["Degradation"] == ["colour", "mask", "blur"]
    assert radios["Model trained on"] == ["emoji"]
    assert radios["Model"] == ["cold_diffusion/mnist-blur"], "only blur can be started from nothing"


def test_every_control_has_a_label(untrained):
    config = page.build(Services()).get_config_file()
    controls = {"radio", "slider", "number", "file", "gallery"}
    assert all(c["props"].get("label") for c in config["components"] if c["type"] in controls)


@pytest.mark.parametrize("name, colour", [("mnist-blur", False), ("emoji-mask", True)])
def test_restoring_shows_all_pictures_and_counts_every_step(untrained, name, colour):
    steps: list = []
    shown = page._restored(restore.load(name, "cpu"), picture(colour), 0.5, 2, 0, progress_of(steps))
    plates = re.findall(r'data-plate="([a-z-]+)"', shown)
    assert plates == ["original", "degraded", "improved-sampling", "naive-sampling", "direct-estimate"]
    assert steps == [(done, 4) for done in (1, 2, 3, 4)]
    assert shown.count("<img") == 6 and "from t = 2 of 4 down to 0" in shown


def test_severity_0_leaves_the_picture_as_it_is(untrained):
    shown = page._restored(restore.load("emoji-mask", "cpu"), picture(True), 0.0, 1, 0, progress_of([]))
    assert all(numbers(shown, plate) == (0.0, 1.0) for plate in ("degraded", "improved-sampling", "direct-estimate"))
    assert "filmstrip" not in shown


def test_the_same_seed_shows_the_same(untrained):
    def run(seed):
        return page._restored(restore.load("emoji-mask", "cpu"), picture(True), 1.0, 1, seed, progress_of([]))

    assert run(3) == run(3) != run(4)


def test_generating_shows_as_many_as_asked_for(untrained):
    steps: list = []
    shown = page._generated(restore.load("mnist-blur", "cpu"), 5, 0, "improved", 0.002, progress_of(steps))
    assert len(re.findall(r'data-plate="picture-\d"', shown)) == 5
    assert steps[-1] == (4, 4)


def test_a_visitors_picture_is_read_and_a_colour_model_chosen_for_it(untrained, tmp_path):
    path = tmp_path / "mine.png"
    picture(True).save(path)
    example, preview, upload, models = page._read(str(path), "mask", "mnist")
    assert example.picture.size == (32, 32) and preview.count("data:image/png") == 1 and upload is None
    assert models["value"] == "emoji"


def test_what_is_no_picture_is_said_in_two_lines(untrained, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(gr.Error, match="The picture is not an image</strong><br>Give a PNG"):
        page._read(str(path), "mask", "emoji")


def test_a_model_that_is_gone_is_said(untrained):
    with pytest.raises(UserError, match="no model for snow was trained on emoji"):
        page._model("snow", "emoji")


def test_no_more_than_a_modest_square_of_a_large_picture_is_kept():
    assert page._square(Image.new("RGB", (3000, 2000))).size == (page.KEPT_SIDE, page.KEPT_SIDE)
    assert page._square(Image.new("L", (28, 28))).size == (28, 28)


def test_plates_are_enlarged_with_hard_pixels():
    shown = page._plate("Original", torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]]))
    url = re.search(r'<img src="data:image/png;base64,([^"]+)" alt="Original"', shown)
    assert url
    with Image.open(io.BytesIO(base64.b64decode(url[1]))) as plate:
        assert plate.size == (page.SHOWN_SIDE, page.SHOWN_SIDE)
        assert plate.getcolors() == [(page.SHOWN_SIDE**2 // 2, 0), (page.SHOWN_SIDE**2 // 2, 255)]
