"""Scenes and their captions: what a caption says is understood, and held-out combinations are in no training."""

import random

import numpy as np
import pytest
import torch

from almanac.runtime.errors import UserError
from almanac.stable_diffusion import data, scenes


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_a_caption_says_is_understood(split):
    said = 0
    for number in range(2_000):
        scene = scenes.draw(number, split)
        asked, background = scenes.understand(scenes.caption(scene, random.Random(number)))
        meant = [(each.digit, each.colour, each.place) for each in scene.digits]
        assert [(each.digit, each.colour, each.place) for each in asked] == meant
        assert all(one.size in (None, other.size) for one, other in zip(asked, scene.digits, strict=True))
        assert background in (None, scene.background)
        said += background is not None
    assert 800 < said < 1_200


def test_combinations_that_are_held_out_are_in_no_scene_of_the_training():
    combinations = {"train": set(), "test": set()}
    for split, found in combinations.items():
        for number in range(4_000):
            found |= {(each.digit, each.colour, each.place) for each in scenes.draw(number, split).digits}
    assert not combinations["train"] & combinations["test"]
    assert len(combinations["test"]) == 54 and len(combinations["train"]) == 486  # all 10 · 6 · 9 of them
    for place in range(3):  # every digit, colour and place is in both
        alone = [{each[place] for each in found} for found in combinations.values()]
        assert alone[0] == alone[1]


def test_other_ways_to_say_it_are_understood():
    asked, background = scenes.understand(
        "A huge violet three in the upper left corner and an orange 7 on the gray".upper()
    )
    assert [(each.digit, each.colour, each.size, each.place) for each in asked] == [(3, "purple", "large", "top left")]
    assert background is None
    asked, background = scenes.understand("middle right: a small red nine; bottom: a blue 0, white background")
    assert [(each.digit, each.place) for each in asked] == [(9, "right"), (0, "bottom")] and background == "white"
    with pytest.raises(UserError, match="a photo of a cat"):
        scenes.understand("a photo of a cat")


def test_a_picture_shows_its_scene(needs_data):
    """Each digit's ink is of its colour, inside its place, and nowhere else; alone, because neighbours' boxes overlap at the edge."""
    needs_data("mnist")
    alone = [scene for scene in map(scenes.draw, range(400)) if len(scene.digits) == 1]
    for number, scene in enumerate(alone):
        picture = scenes.render(scene, np.random.default_rng(number))
        ground = torch.tensor(scenes.BACKGROUNDS[scene.background])[:, None, None]
        inked = (picture.int() - ground).abs().amax(0) > 8
        for each in scene.digits:
            row, column = next(
                (r, line.index(each.place)) for r, line in enumerate(scenes.PLACES) if each.place in line
            )
            half = scenes.SIZES[each.size] // 2 + 1
            top, left = (max(scenes.CENTRES[at] - half, 0) for at in (row, column))
            window = (slice(top, top + 2 * half + 1), slice(left, left + 2 * half + 1))
            # Every pixel is on the way from the background to the digit's colour.
            way = torch.tensor(scenes.COLOURS[each.colour])[:, None, None].float() - ground
            away = picture[:, *window].float() - ground
            share = (away * way).sum(0) / way.square().sum()
            assert (away - share * way).abs().max() <= 1.5 and share.max() > 0.5 and inked[window].sum() > 10
            inked[window] = False
        assert not inked.any()


def test_a_set_is_a_function_of_its_numbers(needs_data):
    needs_data("mnist")
    one, other = data.load("scenes"), data.load("scenes")
    assert torch.equal(one.pictures([5, 9]), other.pictures([5, 9])) and one.captions([5], 3) == other.captions([5], 3)
    assert one.captions(range(20), 0) != one.captions(range(20), 1)  # another epoch says it otherwise
    assert not torch.equal(one.pictures([5]), data.load("scenes", seed=1).pictures([5]))
