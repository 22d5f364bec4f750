"""A grown canvas keeps the old picture, and its mask covers all that is new."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from almanac.runtime import pictures
from almanac.runtime.errors import UserError
from almanac.stable_diffusion import outpaint, published, tokenizer
from almanac.stable_diffusion.generate import Painter, Settings
from almanac.stable_diffusion.outpaint import Margins
from tests.stable_diffusion import made

SIDES = st.integers(0, 70)


def picture(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@settings(max_examples=50, deadline=None)
@given(
    st.integers(24, 90), st.integers(24, 90), SIDES, SIDES, SIDES, st.integers(1, 70), st.sampled_from([1, 2, 8]),
)  # fmt: skip
def test_laws_of_a_grown_canvas(height, width, left, top, right, bottom, factor):
    old, asked = picture(height, width), Margins(left, top, right, bottom)
    margins = outpaint.rounded(width, height, asked, factor)
    found = outpaint.grown(old, asked, factor)
    assert found.mask is not None
    # whole latents, and no side grows by less than asked, or by a latent more
    assert found.picture.shape[1] % factor == found.picture.shape[2] % factor == 0
    for side in ("left", "top", "right", "bottom"):
        assert 0 <= getattr(margins, side) - getattr(asked, side) < factor
    # the old picture, bit for bit
    within = (slice(margins.top, margins.top + height), slice(margins.left, margins.left + width))
    assert torch.equal(found.picture[:, within[0], within[1]], old)
    # the mask is 1 on all that is new and a band of the old, 0 within
    new = torch.ones_like(found.mask, dtype=torch.bool)
    new[within] = False
    assert (found.mask[new] == 1).all()
    band = F.max_pool2d(new[None, None].float(), 2 * factor + 1, 1, factor)[0, 0] > 0
    assert (found.mask[band] == 1).all()
    assert (found.mask[~band] == 0).all()
    # as a painter reads the mask, each latent that sees anything new is painted
    size = [side // factor for side in found.mask.shape]
    painted = F.interpolate((found.mask > 0.5).float()[None, None], size=size)[0, 0]
    sees = F.max_pool2d(new[None, None].float(), factor)[0, 0]
    assert (painted >= sees).all()
    # nothing beyond the picture's own colours
    assert found.picture.min() >= old.min() - 1e-6
    assert found.picture.max() <= old.max() + 1e-6


def test_a_side_that_does_not_grow_is_kept_to_its_edge():
    found = outpaint.grown(picture(64, 64), Margins(right=32))
    assert found.mask is not None
    assert torch.equal(found.mask.amax(0), (torch.arange(96) >= 56).float())
    assert torch.equal(found.mask.amin(0), found.mask.amax(0))


def test_a_flat_picture_grows_flat():
    flat = torch.tensor([0.5, -0.25, 0.0])[:, None, None].expand(3, 40, 40)
    found = outpaint.filled(flat, Margins(100, 3, 0, 64))
    assert (found - flat[:, :1, :1]).abs().max() < 1e-6


def test_the_canvas_meets_the_picture_at_its_edge():
    """The nearest new pixels are nearer to the edge than those farther out, and farther ones are smoother."""
    old = picture(64, 64)
    found = outpaint.filled(old, Margins(left=64))
    off = (found[:, :, :64] - old[:, :, :1]).square().mean((0, 1))
    assert off[63] < off[48] < off[0]
    rough = (found[:, 1:] - found[:, :-1]).square().mean((0, 1))
    assert (rough[[0, 32, 56]] < rough[[32, 56, 63]]).all()


@pytest.mark.parametrize("margin", [32, 64])
def test_photographs_are_continued_better_than_by_an_edge_or_grey(margin):
    errors = torch.zeros(3)
    for photograph in load_sample_images().images:
        whole = pictures.to_tensor(Image.fromarray(photograph).resize((512, 344), Image.Resampling.LANCZOS), 3)
        for margins in (Margins(left=margin), Margins(top=margin), Margins(right=margin), Margins(bottom=margin)):
            right, bottom = 512 - margins.right, 344 - margins.bottom
            kept = whole[:, margins.top : bottom, margins.left : right]
            sides = (margins.left, margins.right, margins.top, margins.bottom)
            edge = F.pad(kept[None], sides, mode="replicate")[0]
            fills = (outpaint.filled(kept, margins), edge, torch.where(edge == whole, edge, 0))
            errors += torch.stack([(fill - whole).square().mean() for fill in fills])
    assert errors[0] < 0.8 * errors[1] < 0.3 * errors[2]


@pytest.mark.parametrize("channels", [4, 9])
def test_a_painter_keeps_the_old_picture(channels, tmp_path, needs_data):
    needs_data("clip_bpe")
    painter = Painter(published.load(made.folder(tmp_path, channels)), tokenizer.published())
    old = picture(36, 44)
    found = outpaint.grown(old, Margins(left=10, bottom=20), painter.factor)
    height, width = found.picture.shape[1:]
    assert (height, width) == (56, 56)
    assert found.mask is not None
    painted = painter.paint(Settings("a", width=width, height=height, steps=2), [1], found)[0]
    assert torch.equal(painted[:, found.mask < 0.5], found.picture[:, found.mask < 0.5])
    assert not torch.equal(painted, found.picture)
    margins = outpaint.rounded(44, 36, Margins(left=10, bottom=20), painter.factor)
    assert torch.equal(painted[:, :28, margins.left + 8 :], old[:, :28, 8:])


@pytest.mark.parametrize(
    ("margins", "more", "said"),
    [
        (Margins(left=-8), {}, "left -8"),
        (Margins(), {}, "left 0, top 0, right 0, bottom 0"),
        (Margins(right=64_000, bottom=64), {}, "64064×128 pixels"),
        (Margins(left=8, right=8), {"overlap": 32}, "64 of the picture's 64"),
        (Margins(left=8), {"overlap": 64}, "64 of the picture's 64"),
        (Margins(left=8), {"overlap": -1}, "overlap is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(margins, more, said):
    with pytest.raises(UserError, match=said):
        outpaint.grown(picture(64, 64), margins, **more)
