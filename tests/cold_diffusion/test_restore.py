"""Laws of sampling."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from almanac.cold_diffusion import restore
from almanac.cold_diffusion.degradations import Blur, Degradation, Mask, Noise, Pixelate
from almanac.cold_diffusion.generate import generate, start
from almanac.cold_diffusion.model import Unet, UnetConfig
from almanac.runtime.errors import UserError


class Linear(Degradation):
    """D(x, t) = x + t / T · e: the first-order form of the paper's §3.3."""

    def __init__(self, steps: int):
        self.steps = steps

    def __call__(self, images, t, state):
        return images + (t / self.steps)[:, None, None, None] * state["e"]


def random_restorer(x, t):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(t))


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def restorer(degradation: Degradation, channels: int = 3, size: int = 32, prior=None) -> restore.Restorer:
    torch.manual_seed(0)
    model = Unet(UnetConfig(16, (1, 2), channels)).eval()
    return restore.Restorer(model, degradation, "photos", size, prior or {}, torch.device("cpu"))


@pytest.mark.parametrize(("steps", "strides"), [(5, None), (50, None), (50, 7), (200, None), (500, None), (500, 2)])
def test_improved_sampler_is_exact_for_linear_degradations_whatever_is_restored(steps, strides):
    x, linear = images(), Linear(steps)
    state = {"e": torch.randn(x.shape, generator=torch.Generator().manual_seed(9))}
    seen = []

    def watch(t, x_t, estimate):
        seen.append((x_t - linear(x, torch.full((2,), t), state)).abs().max().item())

    start = linear(x, linear.full(x), state)
    # The last step returns the estimate plus what the rest was off by, so that exactness is up to x_1's; hence R(x_1) cancels too.
    end = restore.sample(random_restorer, linear, start, state, steps, "improved", watch, strides)
    assert len(seen) == (strides or steps)
    assert max(seen) <= 1e-4
    assert (end - x).abs().max() <= 1e-4


@pytest.mark.parametrize("steps", [5, 50])
def test_naive_sampler_is_not(steps):
    x, linear = images(), Linear(steps)
    state = {"e": torch.randn(x.shape, generator=torch.Generator().manual_seed(9))}
    end = restore.sample(random_restorer, linear, linear(x, linear.full(x), state), state, steps, "naive")
    assert (end - x).abs().max() > 0.5


@pytest.mark.parametrize("sampler", ["improved", "naive", "direct"])
@pytest.mark.parametrize("degradation", [Blur(20, 11, 7.0, 0.0, "linear"), Mask(20), Pixelate(3), Noise(20)])
def test_a_perfect_restorer_restores_perfectly(degradation, sampler):
    x = images()
    state = degradation.draw(x, torch.Generator().manual_seed(0))
    degraded = degradation(x, degradation.full(x), state)
    end = restore.sample(lambda *_: x, degradation, degraded, state, degradation.steps, sampler)
    assert torch.allclose(end, x, atol=1e-4)


def test_direct_is_the_networks_first_answer():
    x, blur = images(), Blur(20)
    calls = []

    def answer(x, t):
        calls.append(t)
        return x * 0.5

    end = restore.sample(answer, blur, x, {}, 20, "direct")
    assert calls == [20]
    assert torch.equal(end, x * 0.5)


@pytest.mark.parametrize("steps", [1, 3, 20, 50, 199])
@pytest.mark.parametrize("strides", [None, 1, 2, 3, 7, 8, 20, 1000])
def test_strides_are_even_and_fall_from_where_sampling_begins(steps, strides):
    whole = restore.severities(steps, steps, strides)
    assert len(whole) == min(strides or steps, steps)
    assert whole[0] == steps
    lengths = [before - after for before, after in pairwise([*whole, 0])]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
    for t in range(1, steps + 1):
        assert restore.severities(steps, t, strides) == [t, *(s for s in whole if s < t)]


@pytest.mark.parametrize("clip", [True, False])
def test_a_restorer_that_clips_stays_within_the_range_of_images(clip):
    found = replace(restorer(Blur(3)), clip=clip)
    found.model.final_conv[-1].bias.data += 5
    estimate = found(images(), 2)
    assert (estimate.max() <= 1) == clip
    assert estimate.shape == images().shape


@pytest.mark.parametrize("strides", [0, -3])
def test_strides_below_one_are_refused(strides):
    with pytest.raises(UserError, match=f"strides is {strides}"):
        restore.severities(20, 20, strides)


def test_severity_zero_is_returned_as_it_is():
    x = images()
    assert torch.equal(restore.sample(random_restorer, Blur(20), x, {}, 0), x)


def test_sampling_draws_nothing_but_from_its_generator():
    prior = {"mean": torch.zeros(3), "cov": torch.eye(3) * 0.1}
    found = restorer(Blur(6, sigma=0.5, growth=0.3, to_mean=True), prior=prior)
    first = generate(found, 2, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    assert torch.equal(generate(found, 2, torch.Generator().manual_seed(3)), first)
    assert not torch.equal(generate(found, 2, torch.Generator().manual_seed(4)), first)


def test_a_start_is_one_colour_an_image_until_its_symmetry_is_broken():
    prior = {"mean": torch.tensor([0.5, 0.0, -0.5]), "cov": torch.eye(3) * 0.01}
    found = restorer(Blur(6, sigma=0.5, growth=0.3, to_mean=True), prior=prior)
    perfect, _ = start(found, 200, torch.Generator().manual_seed(3), symmetry_noise=0.0)
    broken, _ = start(found, 200, torch.Generator().manual_seed(3), symmetry_noise=0.002)
    assert perfect.std((2, 3)).max() < 1e-6
    assert (broken - perfect).std().item() == pytest.approx(0.002, rel=0.02)
    assert torch.allclose(perfect.mean((0, 2, 3)), prior["mean"], atol=0.03)
    assert torch.allclose(perfect[:, :, 0, 0].std(0), torch.full((3,), 0.1), atol=0.02)


@pytest.mark.parametrize("size", [(32, 32), (33, 70), (100, 32), (20, 50), (8, 8)])
def test_a_picture_of_any_size_is_restored_at_that_size(size):
    found = restorer(Blur(3, kernel_size=5))
    picture = torch.rand(3, *size) * 2 - 1
    restored = restore.restore_picture(found, picture, {}, 3)
    assert restored.shape == picture.shape
    assert restored.isfinite().all()


def test_tiles_of_a_restorer_that_works_pixel_by_pixel_make_no_seams():
    class Halving(Unet):
        def forward(self, x, time):
            return x * 0.5

    found = restore.Restorer(Halving(UnetConfig(16, (1, 2))), Blur(3), "photos", 32, {}, torch.device("cpu"))
    picture = torch.rand(3, 77, 91) * 2 - 1
    restored = restore.restore_picture(found, picture, {}, 3, "direct")
    assert torch.allclose(restored, picture * 0.5, atol=1e-2)  # bfloat16 has three digits


def test_a_picture_of_one_tile_is_restored_as_a_batch_is():
    found = restorer(Pixelate(3))
    x = images(1)
    assert torch.allclose(
        restore.restore_picture(found, x[0], {}, 3), restore.sample(found, found.degradation, x, {}, 3)[0], atol=1e-5
    )


def test_what_has_no_noise_has_none_estimated():
    with pytest.raises(UserError, match="no noise"):
        restore.sample(random_restorer, Blur(3), images(), {}, 3, "estimated")


def test_nothing_is_generated_from_what_keeps_the_image():
    with pytest.raises(UserError, match="keeps too much"):
        generate(restorer(Pixelate(2)), 1, torch.Generator())
