"""What is read off pictures of emoji: true pictures score fully, a twin's picture is told from its own, and RMSE is what it says."""

import math

import pytest
import torch

from almanac.runtime.errors import UserError
from almanac.stable_diffusion import evaluate
from almanac.stable_diffusion.data import Emoji

TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")


def emoji(style: str, sequence: str) -> Emoji:
    return Emoji(f"{style}/{sequence}", style, sequence, sequence, ())


@pytest.fixture
def known():
    """Two bases in five tones, and four without tones in both styles; tones are dark or light versions of one picture."""
    draw = torch.Generator().manual_seed(0)
    found = {}
    for base in ("1f44b", "1f44d"):
        plain = torch.rand((3, 8, 8), generator=draw) - 0.5
        found |= {emoji("noto", f"{base}-{tone}"): plain + 0.1 * step for step, tone in enumerate(TONES)}
    for base in ("1f600", "1f601", "1f602", "1f603"):
        for style in ("noto", "fluent3d"):
            found[emoji(style, base)] = torch.rand((3, 8, 8), generator=draw) * 2 - 1
    return found


def scores(asked, shown, known):
    return evaluate.emoji_scores(asked, torch.stack([known[each] for each in shown]), known)


def test_true_pictures_score_fully(known):
    toned, plain = [each for each in known if each.tones], [each for each in known if not each.tones]
    found = scores(toned, toned, known)
    assert found["tone"] == found["base"] == 1 and found["rmse"] < 1e-3
    found = scores(plain, plain, known)
    assert found["style"] == found["base"] == 1 and found["rmse"] < 1e-3 and found["rmse_other"] > 0.3


def test_another_tone_has_the_base_and_another_base_has_the_tone(known):
    toned = [each for each in known if each.tones]
    one, two = toned[:5], toned[5:]
    found = scores(one, one[1:] + one[:1], known)
    # Four steps of 0.1 from the last to the first, one step for the others; half of that on [0, 1].
    assert found["tone"] == 0 and found["base"] == 1 and math.isclose(found["rmse"], (4 * 0.05 + 0.2) / 5, abs_tol=1e-3)
    others = [0.05 * abs(a - b) for a in range(5) for b in range(5) if a != b]
    assert math.isclose(found["rmse_other"], sum(others) / len(others), abs_tol=1e-3)
    assert scores(one, two, known)["base"] == 0


def test_a_twin_of_the_other_style_is_not_the_style(known):
    fluent = [each for each in known if each.style == "fluent3d"]
    twins = [next(each for each in known if each.sequence == one.sequence and each.style == "noto") for one in fluent]
    found = scores(fluent, twins, known)
    assert found["style"] == 0 and math.isclose(found["rmse"], found["rmse_other"], abs_tol=1e-3)


def test_what_is_asked_for_was_in_no_training(needs_data):
    needs_data("emoji")
    test = evaluate.emoji_test(16, 30)
    toned, styled = test.asked[:30], test.asked[30:]
    assert len(styled) == 30 and all(each.is_held_out for each in test.asked)
    assert all(len(each.tones) == 1 for each in toned) and {each.style for each in styled} == {"fluent3d"}
    twins = {each.sequence for each in test.known if each.style == "noto" and not each.is_held_out}
    assert all(each.sequence in twins for each in styled)
    with pytest.raises(UserError, match="held-out"):
        evaluate.emoji_test(16, 0)
