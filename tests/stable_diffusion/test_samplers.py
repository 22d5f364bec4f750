"""Samplers are k-diffusion's and the published code's, as diffusers has them too."""

import math

import diffusers
import numpy as np
import pytest
import torch

from almanac.stable_diffusion.model import signal
from almanac.stable_diffusion.noise import BrownianNoise, GaussianNoise
from almanac.stable_diffusion.samplers import KEEPING, OFFICIAL, SAMPLERS, Noise, Run, Schedule

SHAPE = (4, 6, 5)
SEEDS = (3, 2**40 + 1)
CPU = torch.device("cpu")
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PUBLISHED = {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
EVEN = {**BETAS, "timestep_spacing": "linspace"}
KARRAS = {**EVEN, "use_karras_sigmas": True, "final_sigmas_type": "zero"}
PEERS = {
    "ddim": lambda: diffusers.DDIMScheduler(**PUBLISHED),
    "plms": lambda: diffusers.PNDMScheduler(
        skip_prk_steps=True, **{key: value for key, value in PUBLISHED.items() if key != "clip_sample"}
    ),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**EVEN),
    "euler karras": lambda: diffusers.EulerDiscreteScheduler(**EVEN, use_karras_sigmas=True),
    "euler_a": lambda: diffusers.EulerAncestralDiscreteScheduler(**EVEN),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**EVEN),
    "lms": lambda: diffusers.LMSDiscreteScheduler(**EVEN),
    "dpm2": lambda: diffusers.KDPM2DiscreteScheduler(**EVEN),
    "dpm2_a": lambda: diffusers.KDPM2AncestralDiscreteScheduler(**EVEN),
    "dpmpp_2m karras": lambda: diffusers.DPMSolverMultistepScheduler(**KARRAS),
    "dpmpp_2m_sde karras": lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **KARRAS),
    "dpmpp_sde karras": lambda: diffusers.DPMSolverSDEScheduler(
        **EVEN,
        use_karras_sigmas=True,
        noise_sampler_seed=SEEDS,  # pyright: ignore[reportArgumentType] (it takes several)
    ),
}
SCHEDULE = Schedule(signal())


def predicted(x: torch.Tensor, time: float) -> torch.Tensor:
    """Noise as a network might see it: of a few numbers, each pulled to one of two places."""
    strength = SCHEDULE.sigma(np.array([time])).item()
    place = 0.7 * torch.tanh(x.roll(1, dims=-1) * 1.3) - 0.1
    return (x * math.sqrt(1 + strength**2) - place) / strength


def ours(name: str, sigmas: np.ndarray, noise: Noise) -> torch.Tensor:
    run = Run(sigmas, lambda x, sigma: x - sigma * predicted(x / math.sqrt(1 + sigma**2), SCHEDULE.time(sigma)), noise)
    x = GaussianNoise(SEEDS, SHAPE, CPU).draw() * (math.sqrt(1 + sigmas[0] ** 2) if name in KEEPING else sigmas[0])
    for number in range(len(sigmas) - 1):
        x = SAMPLERS[name](run, x, number)
    return x / math.sqrt(1 + sigmas[-1] ** 2)


def few(which: str) -> int:
    """Steps that do not divide 1000; but for the published code's samplers, which take a step more then, and diffusers' do not."""
    return 8 if which in OFFICIAL else 7


@pytest.mark.parametrize(("which", "steps"), [(which, steps) for which in PEERS for steps in (20, few(which))])
def test_samplers_are_those_of_diffusers(which, steps):
    name, *kind = which.split()
    schedule = SCHEDULE.official if name in OFFICIAL else SCHEDULE.karras if kind else SCHEDULE.linear
    sigmas = schedule(steps)
    noise = GaussianNoise([seed + 1 for seed in SEEDS], SHAPE, CPU)
    if name == "dpmpp_sde":
        noise = BrownianNoise(SEEDS, SHAPE, CPU, sigmas[-2], sigmas[0])
    found = ours(name, sigmas, noise)
    peer = PEERS[which]()
    peer.set_timesteps(steps)
    x = GaussianNoise(SEEDS, SHAPE, CPU).draw() * peer.init_noise_sigma
    generators = [torch.Generator().manual_seed(seed + 1) for seed in SEEDS]
    more = {"generator": generators} if name in ("euler_a", "dpm2_a", "dpmpp_2m_sde") else {}
    for number, time in enumerate(peer.timesteps):
        asked = float(time)
        if name.startswith("dpmpp_2m"):  # diffusers rounds these times to whole ones, k-diffusion does not
            asked = SCHEDULE.time(float(peer.sigmas[number]))
        x = peer.step(predicted(peer.scale_model_input(x, time), asked), time, x, **more).prev_sample
    assert (found - x).abs().max() < (1e-3 if name == "dpmpp_sde" else 1e-4)  # a path read a hair beside


def test_the_published_code_takes_a_step_more_where_steps_do_not_divide_1000():
    """CompVis' `make_ddim_timesteps`: 1, 21 … 981 for 50 steps; 1, 34 … 991, which are 31, for 30. The end is the first time's σ, not 0."""
    for asked, every in ((50, 20), (30, 33), (7, 142)):
        times = [SCHEDULE.time(sigma) for sigma in SCHEDULE.official(asked)]
        expected = [*reversed(range(1, 1001, every)), 0]
        assert times == pytest.approx([min(time, 999) for time in expected], abs=1e-3)


def test_more_steps_than_a_model_has_times():
    short = Schedule(signal()[:10])
    for sigmas in (short.official(25), short.linear(25), short.karras(25)):
        assert (np.diff(sigmas) <= 0).all() and sigmas[0] == pytest.approx(short.sigmas[-1])


def test_karras_noise_falls_as_k_diffusion_has_it():
    """k-diffusion's `get_sigmas_karras(20, 0.0292, 14.615)`."""
    sigmas = SCHEDULE.karras(20)
    assert sigmas[[0, 1, 2, -3, -2]] == pytest.approx([14.615, 11.725, 9.340, 0.0485, 0.0292], rel=2e-3)
    assert sigmas[-1] == 0
