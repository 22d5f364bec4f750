"""Hot diffusion with estimated noise is DDIM with η = 0 and prediction of x_0, checked against diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler

from almanac.cold_diffusion import restore
from almanac.cold_diffusion.degradations import Noise


@pytest.mark.parametrize(("steps", "strides"), [(10, None), (50, None), (200, None), (200, 50), (50, 1)])
def test_estimated_noise_is_ddim(steps, strides):
    noise = Noise(steps)
    signal = noise.signal().double()
    betas = 1 - signal[1:] / signal[:-1]
    scheduler = DDIMScheduler(
        steps,
        trained_betas=betas.numpy(),
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = signal[1:]
    scheduler.set_timesteps(strides or steps)

    def restorer(x, t):
        return torch.tanh(x * (0.3 + t / steps))

    start = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    theirs = start
    for timestep in scheduler.timesteps:
        theirs = scheduler.step(restorer(theirs, int(timestep) + 1), int(timestep), theirs, eta=0.0).prev_sample
    ours = restore.sample(restorer, noise, start, {"other": start}, steps, "estimated", strides=strides)
    assert (ours - theirs).abs().max() <= 1e-5
