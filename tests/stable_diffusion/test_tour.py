"""The tour's section, by models that nobody trained: whatever they paint, it says what was asked and what was read."""

import pytest
import torch
from PIL import Image

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.stable_diffusion import scenes, tour
from almanac.stable_diffusion.recogniser import Recogniser
from tests.stable_diffusion import made


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tour")
    torch.manual_seed(0)
    judge = folder / "recogniser.safetensors"
    checkpoint.save_weights(judge, Recogniser().state_dict(), {"system": "stable_diffusion", "kind": "recogniser"})
    return tour.run(folder, str(made.own(folder / "tiny.safetensors")), judge)


def test_every_caption_is_of_unseen_combinations_and_has_its_row(section):
    assert len(section.rows) == 9
    for row in section.rows[:8]:
        asked, _ = scenes.understand(row["asked"])
        for each in asked:
            assert scenes.is_held_out(scenes.Digit(each.digit, each.colour, each.size or "small", each.place))
        assert row["digits"] == len(asked) and 0 <= row["right"] <= len(asked)
        assert row["read"].endswith(tuple(scenes.BACKGROUNDS)) and row["all"] in ("yes", "no")


def test_the_hole_asks_for_another_digit_in_the_same_place(section):
    (before, *others), _ = scenes.understand(section.rows[0]["asked"])
    (after, *still), _ = scenes.understand(section.rows[8]["asked"])
    assert after.place == before.place and after.digit != before.digit and after.colour != before.colour
    assert [(each.digit, each.colour, each.place) for each in still] == [
        (each.digit, each.colour, each.place) for each in others
    ]
    assert "changed no pixel around it" in section.sentence


def test_its_figures_are_pictures(section):
    assert [path.name for path, _ in section.figures] == ["painted.png", "way.png", "varied.png", "repainted.png"]
    for path, caption in section.figures:
        assert Image.open(path).width > 400 and caption


def test_without_the_shipped_model_it_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no weights 'stable_diffusion/none'"):
        tour.run(tmp_path, "stable_diffusion/none")
