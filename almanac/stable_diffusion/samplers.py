"""From noise to latents: what is done between two calls of the network. All samplers move x = z + σ · noise along falling σ, as
k-diffusion writes them (Karras et al. 2022, Lu et al. 2022); DDIM (Song et al. 2021) is Euler's method there, and PLMS (Liu et al. 2022) a
multistep one, on time steps of their own. A sampler is a function of one step; what it leaves for the next one is in `Run`, so that a
sampling can stop and go on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial.polynomial import polyfromroots, polyint, polyval
from torch import Tensor

Denoise = Callable[[Float[Tensor, "batch channels h w"], float], Float[Tensor, "batch channels h w"]]
"""(x, σ) → the network's idea of z."""
Noise = Callable[[float, float], Float[Tensor, "batch channels h w"]]
"""(σ, next σ) → fresh Gaussian noise of deviation 1."""


@dataclass
class Run:
    """A sampling on its way."""

    sigmas: Float[np.ndarray, " steps_and_1"]
    """Falling; the last is where it ends."""
    denoise: Denoise
    noise: Noise
    eta: float | None = None
    """How much of the noise is fresh, 0 to 1; None: as usual for the sampler."""
    memory: list[Tensor] = field(default_factory=list)
    """What former steps left, newest last."""

    def slope(self, x: Tensor, sigma: float) -> Tensor:
        """dx/dσ: the noise as the network sees it."""
        return (x - self.denoise(x, sigma)) / sigma

    def keep(self, thing: Tensor, most: int) -> None:
        """Leave something for the next steps, which read so many."""
        self.memory = [*self.memory, thing][-most:]


Step = Callable[[Run, Tensor, int], Tensor]
"""(run, x, the how-manieth step) → x at the next σ."""


class Schedule:
    """The noise of a model's time steps.

    Args:
        signal: ᾱ of each.
    """

    def __init__(self, signal: Float[Tensor, " steps"]):
        sigmas = ((1 - signal) / signal) ** 0.5
        self.sigmas = sigmas.double().numpy()
        self._logs = np.log(self.sigmas)

    def time(self, sigma: float) -> float:
        """The time step of a σ, between two as its logarithm is (k-diffusion)."""
        return float(np.interp(math.log(sigma), self._logs, np.arange(len(self._logs))))

    def sigma(self, times: Float[np.ndarray, "*times"]) -> Float[np.ndarray, "*times"]:
        """σ of time steps, between two as they are themselves (diffusers; k-diffusion takes logarithms, which is 10⁻⁵ of it away)."""
        return np.interp(times, np.arange(len(self.sigmas)), self.sigmas)

    def linear(self, steps: int) -> Float[np.ndarray, " steps_and_1"]:
        """Of `times`, then 0."""
        return _rounded(self.sigma(self.times(steps)), 0.0)

    def times(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Evenly spaced ones, from the last to the first."""
        return np.linspace(len(self.sigmas) - 1, 0, steps)

    def karras(self, steps: int, rho: float = 7.0) -> Float[np.ndarray, " steps_and_1"]:
        """Evenly spaced roots of σ (Karras et al. 2022, equation 5), then 0."""
        least, most = self.sigmas[0] ** (1 / rho), self.sigmas[-1] ** (1 / rho)
        return _rounded((most + np.linspace(0, 1, steps) * (least - most)) ** rho, 0.0)

    def official(self, steps: int) -> Float[np.ndarray, " steps_and_1"]:
        """DDIM's and PLMS's of the published code: every 1000/steps-th time and one more, down to the first of all, which is not 0. If
        steps do not divide 1000, there are more of them than asked for."""
        whole = len(self.sigmas)
        times = np.arange(0, whole, max(whole // steps, 1)) + 1
        return _rounded(self.sigmas[times[::-1].clip(max=whole - 1)], self.sigmas[0])


def euler(run: Run, x: Tensor, number: int) -> Tensor:
    """Euler's method; with eta, Euler's ancestral one, which is DDIM with eta."""
    sigma, following = run.sigmas[number : number + 2]
    return _with_noise(run, x, sigma, following, lambda to: x + run.slope(x, sigma) * (to - sigma), usual=0.0)


def euler_ancestral(run: Run, x: Tensor, number: int) -> Tensor:
    """Euler's method to less than the next σ, and fresh noise."""
    sigma, following = run.sigmas[number : number + 2]
    return _with_noise(run, x, sigma, following, lambda to: x + run.slope(x, sigma) * (to - sigma), usual=1.0)


def heun(run: Run, x: Tensor, number: int) -> Tensor:
    """Heun's method: the mean of the slopes here and where Euler's method leads."""
    sigma, following = run.sigmas[number : number + 2]
    slope = run.slope(x, sigma)
    there = x + slope * (following - sigma)
    return there if following == 0 else x + (slope + run.slope(there, following)) / 2 * (following - sigma)


def lms(run: Run, x: Tensor, number: int) -> Tensor:
    """A linear multistep method of up to four slopes (Adams and Bashforth)."""
    run.keep(run.slope(x, run.sigmas[number]), 4)
    slopes = run.memory[::-1]
    known = tuple(float(each) for each in run.sigmas[number::-1][: len(slopes)])
    weights = _adams(known, float(run.sigmas[number + 1]))
    for weight, slope in zip(weights, slopes, strict=True):
        x = x + weight * slope
    return x


def dpm2(run: Run, x: Tensor, number: int) -> Tensor:
    """DPM-Solver-2: the slope at the geometric mean of both σ."""
    sigma, following = run.sigmas[number : number + 2]
    return _with_noise(run, x, sigma, following, lambda to: _through_middle(run, x, sigma, to), usual=0.0)


def dpm2_ancestral(run: Run, x: Tensor, number: int) -> Tensor:
    """DPM-Solver-2 to less than the next σ, and fresh noise."""
    sigma, following = run.sigmas[number : number + 2]
    return _with_noise(run, x, sigma, following, lambda to: _through_middle(run, x, sigma, to), usual=1.0)


def dpmpp_2s_ancestral(run: Run, x: Tensor, number: int) -> Tensor:
    """DPM-Solver++(2S) to less than the next σ, and fresh noise."""
    sigma, following = run.sigmas[number : number + 2]

    def move(to: float) -> Tensor:
        clean = run.denoise(x, sigma)
        if to == 0:
            return clean
        middle = math.sqrt(sigma * to)
        halfway = _exponential(x, clean, sigma, middle)
        return _exponential(x, run.denoise(halfway, middle), sigma, to)

    return _with_noise(run, x, sigma, following, move, usual=1.0)


def dpmpp_2m(run: Run, x: Tensor, number: int) -> Tensor:
    """DPM-Solver++(2M): a multistep method of two denoised pictures."""
    sigma, following = run.sigmas[number : number + 2]
    clean = run.denoise(x, sigma)
    aimed = clean
    if run.memory and following > 0:
        before = math.log(run.sigmas[number - 1] / sigma)
        share = math.log(sigma / following) / (2 * before)
        aimed = (1 + share) * clean - share * run.memory[-1]
    run.keep(clean, 1)
    return aimed if following == 0 else _exponential(x, aimed, sigma, following)


def dpmpp_sde(run: Run, x: Tensor, number: int) -> Tensor:
    """DPM-Solver++ of the stochastic equation, through the middle."""
    sigma, following = run.sigmas[number : number + 2]
    clean = run.denoise(x, sigma)
    if following == 0:
        return clean
    eta = 1.0 if run.eta is None else run.eta
    high, middle, low = _levels(sigma, following)
    down, up = _split(sigma, middle, eta)
    halfway = _exponential(x, clean, sigma, down) + up * run.noise(high, middle)
    aimed = run.denoise(halfway, middle)  # the middle is halfway, so that the clean picture itself has no weight
    down, up = _split(sigma, following, eta)
    return _exponential(x, aimed, sigma, down) + up * run.noise(high, low)


def dpmpp_2m_sde(run: Run, x: Tensor, number: int) -> Tensor:
    """DPM-Solver++(2M) of the stochastic equation, by the midpoint."""
    sigma, following = run.sigmas[number : number + 2]
    clean = run.denoise(x, sigma)
    if following == 0:
        return clean
    eta = 1.0 if run.eta is None else run.eta
    width = math.log(sigma / following)
    share = -math.expm1(-width * (1 + eta))
    x = following / sigma * math.exp(-eta * width) * x + share * clean
    if run.memory:
        before = math.log(run.sigmas[number - 1] / sigma)
        x = x + share / 2 * (width / before) * (clean - run.memory[-1])
    run.keep(clean, 1)
    return x + following * math.sqrt(-math.expm1(-2 * eta * width)) * run.noise(sigma, following)


def plms(run: Run, x: Tensor, number: int) -> Tensor:
    """Pseudo linear multistep (the published code's): slopes weighted as if steps were alike; the first is the mean of two."""
    sigma, following = run.sigmas[number : number + 2]
    slope = run.slope(x, sigma)
    if not run.memory:
        ahead = run.sigmas[
            min(number + 1, len(run.sigmas) - 2)
        ]  # the last of all is no time that the network is asked at
        aimed = (slope + run.slope(x + slope * (following - sigma), ahead)) / 2
    else:
        weights = _BASHFORTH[len(run.memory)]
        aimed = sum(
            (weight * each for weight, each in zip(weights, [slope, *run.memory[::-1]], strict=True)), 0 * slope
        )
    run.keep(slope, 3)
    return x + aimed * (following - sigma)


SAMPLERS: dict[str, Step] = {
    "ddim": euler,
    "plms": plms,
    "euler": euler,
    "euler_a": euler_ancestral,
    "heun": heun,
    "lms": lms,
    "dpm2": dpm2,
    "dpm2_a": dpm2_ancestral,
    "dpmpp_2s_a": dpmpp_2s_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
}
OFFICIAL = frozenset({"ddim", "plms"})
"""Those that have time steps of their own."""
KEEPING = OFFICIAL | {"dpmpp_2m", "dpmpp_2m_sde"}
"""Those that begin with noise as strong as a picture with noise would be, √(1 + σ²), as in diffusers; others begin with σ."""
WHOLE = frozenset({"dpmpp_2m", "dpmpp_2m_sde"})
"""Those that ask the network at whole time steps, as in diffusers."""
BROWNIAN = frozenset({"dpmpp_sde", "dpmpp_2m_sde"})
"""Those whose noise is a path: what is drawn from σ to σ' adds up to what is drawn in parts."""

_BASHFORTH = {
    1: (3 / 2, -1 / 2),
    2: (23 / 12, -16 / 12, 5 / 12),
    3: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def _rounded(sigmas: np.ndarray, last: float) -> np.ndarray:
    """σ as float32 has them, in float64."""
    return np.append(sigmas, last).astype(np.float32).astype(np.float64)


def _levels(sigma: float, following: float) -> tuple[float, float, float]:
    """Two σ and their geometric mean, by float32's logarithms: where k-diffusion asks for noise. A Brownian path that is read a hair beside
    is other noise."""
    begin, end = (-torch.tensor(each).log() for each in (sigma, following))  # vectors of them would round otherwise
    return (-begin).exp().item(), (-(begin + (end - begin) * 0.5)).exp().item(), (-end).exp().item()


def _with_noise(
    run: Run, x: Tensor, sigma: float, following: float, move: Callable[[float], Tensor], usual: float
) -> Tensor:
    """Move below the next σ, and come back to it by noise."""
    down, up = _split(sigma, following, usual if run.eta is None else run.eta)
    moved = move(down)
    return moved + up * run.noise(sigma, following) if up > 0 else moved


def _split(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """Where to go from σ, and the deviation of fresh noise that leads from there to the next σ; in float32, as k-diffusion has it, where
    steps are small and the difference of their squares is coarse."""
    here, there = np.float32(sigma), np.float32(following)
    up = min(there, np.float32(eta) * np.sqrt(there**2 * np.maximum(here**2 - there**2, 0) / here**2))
    return float(np.sqrt(np.maximum(there**2 - up**2, 0))), float(up)


def _exponential(x: Tensor, clean: Tensor, sigma: float, to: float) -> Tensor:
    """Where x is at another σ if the denoised picture stays what it is."""
    return to / sigma * x + (1 - to / sigma) * clean


def _through_middle(run: Run, x: Tensor, sigma: float, to: float) -> Tensor:
    slope = run.slope(x, sigma)
    if to > 0:
        middle = math.sqrt(sigma * to)
        slope = run.slope(x + slope * (middle - sigma), middle)
    return x + slope * (to - sigma)


@cache
def _adams(known: Sequence[float], to: float) -> tuple[float, ...]:
    """Weights of slopes at known σ, newest first: integrals of Lagrange's polynomials from the newest to another σ."""

    def integral(number: int) -> float:
        others = [each for place, each in enumerate(known) if place != number]
        scale = math.prod(known[number] - each for each in others)
        first, last = polyval((known[0], to), polyint(polyfromroots(others)))
        return float(last - first) / scale

    return tuple(integral(number) for number in range(len(known)))
