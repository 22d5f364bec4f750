"""Laws of degradations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.cold_diffusion import data, degradations
from almanac.cold_diffusion.degradations import Animorph, Blur, Colour, Degradation, Mask, Noise, Pixelate, Snow
from almanac.cold_diffusion.degrade import degrade_set, measure
from almanac.cold_diffusion.recipes import GENERATION_128, GENERATION_SMALL, RESTORATION, recipe
from almanac.runtime.errors import UserError
from benchmarks.plain_unet import SequentialBlur

EVERY = [
    *RESTORATION["mnist"].values(),
    *RESTORATION["cifar10"].values(),
    *(d for d in GENERATION_SMALL.values() if not isinstance(d, Animorph)),
    Animorph(10, other="photos"),
]


def ids(found: Degradation) -> str:
    return f"{type(found).__name__}{found.steps}"


def images(count: int = 3, channels: int = 3, size: tuple[int, int] = (32, 32), seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def drawn(degradation: Degradation, x: torch.Tensor, seed: int = 0):
    return degradation.draw(x, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("degradation", EVERY, ids=ids)
def test_severity_zero_leaves_the_image(degradation):
    x = images()
    assert torch.allclose(degradation(x, torch.zeros(3, dtype=torch.long), drawn(degradation, x)), x, atol=1e-6)


@pytest.mark.parametrize("degradation", EVERY, ids=ids)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_each_image_is_degraded_as_if_alone(degradation, size):
    x = images(size=size)
    state = drawn(degradation, x)
    t = torch.tensor([1, max(1, degradation.steps // 2), degradation.steps])
    together = degradation(x, t, state)
    for i in range(3):
        alone = degradation(x[i : i + 1], t[i : i + 1], {k: v[i : i + 1] for k, v in state.items()})
        assert torch.allclose(together[i], alone[0], atol=1e-5)


@pytest.mark.parametrize("degradation", EVERY, ids=ids)
def test_the_state_depends_on_the_seed_alone(degradation):
    x, y = images(seed=1), images(seed=2)
    first, second = drawn(degradation, x, 5), drawn(degradation, y, 5)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    if first:
        other = drawn(degradation, x, 6)
        assert (
            any(not torch.equal(first[key], other[key]) for key in first)
            or getattr(degradation, "place", "") == "centre"
        )


@pytest.mark.parametrize("degradation", EVERY, ids=ids)
def test_severity_grows(degradation):
    x = images(8)
    state = drawn(degradation, x)
    errors = [
        (degradation(x, torch.full((8,), t), state) - x).square().mean().item()
        for t in (0, degradation.steps // 3 + 1, degradation.steps)
    ]
    assert errors[0] < 1e-10 < errors[1] <= errors[2] + 1e-6


@pytest.mark.parametrize("degradation", [*EVERY, *GENERATION_128.values()], ids=ids)
def test_a_degradation_survives_being_written_down(degradation):
    import json

    kept = json.loads(json.dumps(degradations.to_json(degradation)))
    assert degradations.from_json(kept) == degradation


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("blur", "size"),
    [
        (RESTORATION["mnist"]["blur"], (32, 32)),
        (RESTORATION["cifar10"]["blur"], (32, 32)),
        (GENERATION_SMALL["blur"], (32, 48)),
        (Blur(60, kernel_size=15, padding="reflect"), (64, 40)),
    ],
)
def test_one_transfer_function_equals_the_sequence_of_convolutions(blur, size, channels):
    x = images(4, channels, size)
    t = torch.tensor([1, 2, blur.steps // 2, blur.steps])
    assert (blur(x, t, {}) - SequentialBlur(blur, channels)(x, t)).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("blur", [Blur(300), Blur(200, kernel_size=15, padding="reflect")], ids=["circular", "reflect"])
def test_the_papers_blurs_at_128_pixels_equal_their_convolutions(blur):
    x = images(1, 3, (128, 128))
    assert (blur(x, blur.full(x), {}) - SequentialBlur(blur, 3)(x, blur.full(x))).abs().max() < 1e-4


def test_generation_blur_ends_in_the_channel_means():
    x = images()
    blur = GENERATION_SMALL["blur"]
    assert torch.allclose(blur(x, blur.full(x), {}), x.mean((2, 3), keepdim=True).expand_as(x), atol=1e-6)
    before_last = blur(x, blur.full(x) - 1, {})
    assert before_last.std((2, 3)).max() < 0.02


def test_masks_are_the_product_of_the_official_gaussians():
    mask, x = Mask(50), torch.ones(64, 1, 32, 32)
    state = drawn(mask, x)
    kept = mask(x, mask.full(x), state)[:, 0].double()
    grid = torch.arange(65, dtype=torch.double) - 32
    window = torch.ones(64, 64, dtype=torch.double)
    for step in range(50):
        gauss = torch.exp(-(grid**2) / (2 * (0.1 * (step + 11)) ** 2))
        gauss = torch.outer(gauss, gauss)
        window *= (1 - gauss / gauss.max())[1:, 1:]
    for sample, (row, column) in zip(kept, state["centre"], strict=True):
        top, left = 31 - row, 31 - column
        assert torch.allclose(sample, window[top : top + 32, left : left + 32], atol=1e-6)


def test_mask_places_cover_the_official_range():
    centres = drawn(Mask(50), torch.zeros(4000, 1, 32, 32))["centre"]
    assert centres.min() == -1
    assert centres.max() == 31


def test_an_unknown_hole_is_found():
    x = images(20, 3, seed=4)
    mask = Mask(50)
    state = drawn(mask, x)
    found = mask.infer(mask(x, mask.full(x), state), mask.steps)
    inside = ((state["centre"] > 4) & (state["centre"] < 27)).all(1)
    assert inside.sum() >= 5
    assert (found["centre"] - state["centre"])[inside].abs().max() <= 2


def test_colour_mask_hides_everything_at_the_end():
    x = images()
    mask = GENERATION_SMALL["mask"]
    state = drawn(mask, x)
    assert torch.allclose(mask(x, mask.full(x), state), state["colour"].expand_as(x), atol=0.03)  # 1.5 % of a corner


def test_pixelate_shows_large_pixels():
    x = images()
    for t in (1, 2, 3):
        blocks = Pixelate(3)(x, torch.full((3,), t), {}).unfold(2, 2**t, 2**t).unfold(3, 2**t, 2**t)
        assert torch.equal(blocks, blocks[..., :1, :1].expand_as(blocks))


def test_snow_is_symmetric_under_a_half_turn_and_never_darkens():
    snow, x = Snow(200), torch.full((4, 3, 32, 32), -1.0)
    snowy = snow(x, snow.full(x), drawn(snow, x))
    assert torch.allclose(snowy, snowy.rot90(2, (2, 3)), atol=1e-6)
    y = images(4)
    assert (snow(y, snow.full(y), drawn(snow, y)) >= y - 1e-6).all()


def test_colour_ends_in_grey_of_the_same_brightness():
    x = images()
    grey = Colour(20)(x, torch.full((3,), 20), {})
    assert torch.allclose(grey, x.mean(1, keepdim=True).expand_as(x), atol=1e-6)


def test_noise_schedule_is_the_official_cosine():
    steps = 200
    grid = [(steps + 1) * i / steps for i in range(steps + 1)]
    curve = [math.cos((g / (steps + 1) + 0.008) / 1.008 * math.pi / 2) ** 2 for g in grid]
    product = 1.0
    for i in range(steps):
        product *= 1 - min(0.999, max(0.0, 1 - curve[i + 1] / curve[i]))
        assert Noise(steps).signal()[i + 1].item() == pytest.approx(product, rel=1e-4)


def test_estimated_state_is_the_state():
    x, noise = images(), Noise(50)
    state = drawn(noise, x)
    t = torch.tensor([3, 20, 45])
    assert torch.allclose(noise.estimate_state(noise(x, t, state), x, t)["other"], state["other"], atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 2**31), st.sampled_from(EVERY))
def test_any_size_stays_that_size_and_finite(height, width, seed, degradation):
    if isinstance(degradation, Blur) and degradation.padding == "reflect":
        height, width = max(12, height), max(12, width)
    x = images(2, 3, (height, width), seed % 100)
    degraded = degradation(x, degradation.full(x), drawn(degradation, x, seed))
    assert degraded.shape == x.shape
    assert degraded.isfinite().all()


@pytest.mark.parametrize(
    ("name", "images_name", "error", "similarity"),
    [
        ("blur", "mnist", 0.287, 0.014),
        ("pixelate", "mnist", 0.231, 0.183),
        ("mask", "mnist", 0.261, 0.508),
        ("blur", "cifar10", 0.135, 0.313),
        ("pixelate", "cifar10", 0.145, 0.282),
        ("mask", "cifar10", 0.142, 0.632),
    ],
)
def test_degraded_columns_of_the_paper(name, images_name, error, similarity, needs_data):
    needs_data(images_name)
    clean, degraded, _ = degrade_set(recipe(name, images_name, 32), data.load(images_name, "test", 32), seed=0)
    measured = measure(degraded, clean)
    assert measured["rmse"] == pytest.approx(error, abs=0.003)
    assert measured["ssim"] == pytest.approx(similarity, abs=0.02)


def test_unknown_degradation_names_the_known_ones():
    with pytest.raises(UserError) as raised:
        degradations.named("smudge")
    assert "smudge" in raised.value.what
    assert all(name in raised.value.hint for name in degradations.NAMED)


class Fade(Degradation):
    """A user's own degradation, as the card shows it."""

    steps = 10

    def __call__(self, images, t, state):
        return images * (1 - t / self.steps)[:, None, None, None]


def test_ones_own_degradation_is_found_by_module_and_class():
    assert degradations.named(f"{__name__}:Fade") is Fade


@pytest.mark.parametrize("name", ["no_such_module:Fade", f"{__name__}:Nothing", "os:system", "math:", ":Fade"])
def test_what_is_not_a_degradation_is_refused(name):
    with pytest.raises(UserError):
        degradations.named(name)


def test_a_file_alone_can_not_have_code_imported():
    kept = degradations.to_json(Fade())
    with pytest.raises(UserError, match="outside this project"):
        degradations.from_json(kept)
    assert isinstance(degradations.from_json(kept, trusted=kept["name"]), Fade)
