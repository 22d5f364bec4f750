"""Pictures from words, from a picture and words, and into the holes of a picture. A picture's noise is its seed's alone, so that it comes
out the same among others, and a job that was stopped goes on to the same picture, bit for bit."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.stable_diffusion import text
from almanac.stable_diffusion.model import LatentDiffusion, signal
from almanac.stable_diffusion.noise import BrownianNoise, GaussianNoise
from almanac.stable_diffusion.samplers import BROWNIAN, KEEPING, OFFICIAL, SAMPLERS, WHOLE, Run, Schedule
from almanac.stable_diffusion.tokenizer import Vocabulary

Schedules = Literal["auto", "karras", "linear"]
MOST_PIXELS = 4_194_304
"""Of a picture."""
_KARRAS = frozenset({"dpmpp_2s_a", "dpmpp_2m", "dpmpp_sde", "dpmpp_2m_sde"})
"""Samplers that are used with Karras' schedule where nothing else is said."""
_TILE, _OVERLAP = 64, 16
"""Latents of a side that are decoded at once where a picture is decoded in tiles, and by which tiles overlap."""


@dataclass(frozen=True)
class Settings:
    """How a picture is made."""

    prompt: str = ""
    negative: str = ""
    """What it should not show."""
    width: int = 512
    """Pixels, a multiple of 8."""
    height: int = 512
    steps: int = 20
    scale: float = 7.5
    """How much more it follows the prompt than it would by itself; 1: not at all more."""
    sampler: str = "dpmpp_2m"
    schedule: Schedules = "auto"
    """Of noise: Karras' for the DPM++ samplers if auto. DDIM and PLMS have their own."""
    eta: float | None = None
    """How much of the noise is fresh at each step; None: as usual for the sampler."""
    strength: float = 0.75
    """Of a change to a given picture: 0 leaves it, 1 begins with noise."""

    @property
    def karras(self) -> bool:
        """Whether noise falls as Karras et al. have it."""
        auto = self.schedule == "auto" and self.sampler in _KARRAS
        return self.sampler not in OFFICIAL and (auto or self.schedule == "karras")


@dataclass(frozen=True)
class Given:
    """A picture to begin with."""

    picture: Float[Tensor, "3 height width"]
    """In [−1, 1]."""
    mask: Float[Tensor, "height width"] | None = None
    """1 where it is to be painted anew; None: everywhere."""


@dataclass
class State:
    """A job on its way: all that it needs to go on."""

    x: Float[Tensor, "batch latents h w"]
    number: int = 0
    """Steps that were done."""
    memory: list[Tensor] = field(default_factory=list)
    generators: list[Tensor] = field(default_factory=list)


class Painter:
    """A model that paints.

    Args:
        model: the networks.
        vocabulary: of its prompts.
        taught: words that stand for vectors.
        tiled: whether pictures are decoded in tiles, which needs less memory.
        together: whether several pictures go through the network at once; None: on a GPU. A picture among others may differ in its last
            digits then.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        vocabulary: Vocabulary,
        taught: dict[str, Tensor] | None = None,
        tiled: bool = False,
        together: bool | None = None,
    ):
        self.model, self.tiled = model, tiled
        self.device = next(model.parameters()).device
        self.reader = text.Reader(model.text_encoder, vocabulary, taught)
        self.schedule = Schedule(signal(model.config.noise))
        self.together = self.device.type == "cuda" if together is None else together

    @property
    def factor(self) -> int:
        """Pixels to a latent, along a side."""
        return self.model.config.autoencoder.factor

    @property
    def paints_holes(self) -> bool:
        """Whether the network was trained to see a mask and what lies around it."""
        unet = self.model.config.unet
        return unet.in_channels == 2 * self.model.config.autoencoder.latents + 1

    def job(
        self,
        settings: Settings,
        seeds: Sequence[int],
        given: Given | None = None,
        noise: Float[Tensor, "batch latents h w"] | None = None,
        state: State | None = None,
    ) -> "Job":
        """Begin pictures, or go on with them.

        Args:
            settings: how.
            seeds: of each picture.
            given: what they begin with.
            noise: what they begin with instead of their seeds' noise.
            state: of a job that was stopped; with the same settings and seeds.

        Raises:
            UserError: settings are out of range, or do not fit each other.
        """
        return Job(self, settings, seeds, given, noise, state)

    def paint(
        self,
        settings: Settings,
        seeds: Sequence[int],
        given: Given | None = None,
        watch: Callable[["Job"], None] | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint pictures, in [−1, 1].

        Args:
            settings: how.
            seeds: of each.
            given: what they begin with.
            watch: told after each step.

        Raises:
            UserError: as `job`.
        """
        job = self.job(settings, seeds, given)
        while not job.done:
            job.advance()
            if watch:
                watch(job)
        return job.pictures()

    @torch.inference_mode()
    def encode(
        self, pictures: Float[Tensor, "batch 3 height width"], noise: Float[Tensor, "batch latents h w"] | None = None
    ) -> Float[Tensor, "batch latents h w"]:
        """Latents of pictures: their mean, or drawn by the noise."""
        found = []
        for number, picture in enumerate(pictures):
            mean, deviation = self.model.autoencoder.encode(picture[None].to(self.device))
            found.append(mean if noise is None else mean + deviation * noise[number, None].to(self.device))
        return torch.cat(found) * self.model.config.autoencoder.scale

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "batch latents h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Pictures of latents, in [−1, 1].

        Raises:
            UserError: numbers are not finite.
        """
        decoded = torch.cat([self._decoded(each[None]) for each in latents / self.model.config.autoencoder.scale])
        if not decoded.isfinite().all():
            hint = "use --precision fp32, or check the weights with `almanac stable-diffusion inspect`"
            raise UserError("the picture came out as numbers that are not finite", hint)
        return decoded.clamp(-1, 1)

    def _decoded(self, latents: Float[Tensor, "1 latents h w"]) -> Tensor:
        decode = self.model.autoencoder.decode
        height, width = latents.shape[2:]
        if not self.tiled or max(height, width) <= _TILE:
            return decode(latents)
        factor, step = self.factor, _TILE - _OVERLAP
        total = latents.new_zeros((1, 3, height * factor, width * factor))
        weight = torch.zeros_like(total[:, :1])
        for top in range(0, max(height - _OVERLAP, 1), step):
            for left in range(0, max(width - _OVERLAP, 1), step):
                tile = decode(latents[:, :, top : top + _TILE, left : left + _TILE])
                share = _fading(tile.shape[2:], _OVERLAP * factor).to(tile)
                place = (
                    ...,
                    slice(top * factor, top * factor + tile.shape[2]),
                    slice(left * factor, left * factor + tile.shape[3]),
                )
                total[place] += tile * share
                weight[place] += share
        return total / weight


class Job:
    """Pictures in the making.

    Args:
        painter: paints them.
        settings: how.
        seeds: of each.
        given: what they begin with.
        noise: instead of their seeds'.
        state: of a job that was stopped.

    Raises:
        UserError: as `Painter.job`.
    """

    def __init__(
        self,
        painter: Painter,
        settings: Settings,
        seeds: Sequence[int],
        given: Given | None,
        noise: Tensor | None,
        state: State | None,
    ):
        _check(settings, seeds, given, painter.factor)
        self.asked = settings
        if given is None:
            settings = replace(settings, strength=1.0)
        if painter.paints_holes and (given is None or given.mask is None):  # a hole of the whole size
            size = (settings.height, settings.width)
            given = Given(torch.zeros(3, *size) if given is None else given.picture, torch.ones(size))
        self.painter, self.settings, self.seeds, self.given = painter, settings, list(seeds), given
        sigmas, self._times = self._levels()
        steps = len(sigmas) - 1  # the published code's samplers may take more than were asked for
        skipped = steps - int(steps * settings.strength)
        self.sigmas = sigmas[skipped:]
        height, width = settings.height // painter.factor, settings.width // painter.factor
        shape = (painter.model.config.autoencoder.latents, height, width)
        for what, latents in (("the noise", noise), ("the job that was stopped", state and state.x)):
            if latents is not None and tuple(latents.shape) != (len(seeds), *shape):
                found = f"{_size(latents.shape)} numbers, not {_size((len(seeds), *shape))}"
                raise UserError(f"{what} has {found}", "give as many as the pictures have latents")
        self._gaussian = GaussianNoise(seeds, shape, painter.device)
        self._steps = self._conditions(steps)[skipped:]
        self._hole = self._hole_in_latents()
        self._beside, self._clean, self._first = self._prepare(noise)
        if state is None:
            state = State(self._beginning())
        else:  # after what was drawn above, which the stopped job drew too
            for generator, saved in zip(self._gaussian.generators, state.generators, strict=True):
                generator.set_state(saved)
        memory = [each.to(painter.device) for each in state.memory]
        self._run = Run(self.sigmas, self._denoise, self._noise(), settings.eta, memory)
        self.x, self.number = state.x.to(painter.device), state.number
        self._clear: Tensor | None = None

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.sigmas) - 1

    @property
    def done(self) -> bool:
        """Whether all are done."""
        return self.number >= self.steps

    @torch.inference_mode()
    def advance(self) -> None:
        """Do a step."""
        self.x = SAMPLERS[self.settings.sampler](self._run, self.x, self.number)
        self.number += 1
        if self._hole is not None and not self.painter.paints_holes:  # diffusers' way for a network that sees no mask
            sigma = self.sigmas[self.number]
            around = self._clean * math.sqrt(1 + sigma**2) if self.done else self._clean + sigma * self._first
            self.x = self._hole * self.x + (1 - self._hole) * around

    def state(self) -> State:
        """All that it needs to go on later."""
        saved = [generator.get_state() for generator in self._gaussian.generators]
        return State(self.x.cpu(), self.number, [each.cpu() for each in self._run.memory], saved)

    def latents(self) -> Float[Tensor, "batch latents h w"]:
        """As far as they are."""
        return self.x / math.sqrt(1 + self.sigmas[self.number] ** 2)

    def preview(self) -> Float[Tensor, "batch 3 height width"]:
        """What the pictures may become, as the network sees them now."""
        return self.painter.decode(self._clear if self._clear is not None else self.latents())

    def pictures(self) -> Float[Tensor, "batch 3 height width"]:
        """The pictures, in [−1, 1]; where nothing was to change, nothing did."""
        if not self.steps and self.given is not None:
            return self.given.picture[None].repeat(len(self.seeds), 1, 1, 1)
        found = self.painter.decode(self.latents()).cpu()
        if self.given is not None and self.given.mask is not None:
            found = torch.where(self.given.mask > 0.5, found, self.given.picture)
        return found

    def _levels(self) -> tuple[Any, dict[float, float]]:
        """σ from step to step, and times of those that are evenly spaced."""
        settings, schedule = self.settings, self.painter.schedule
        if settings.sampler in OFFICIAL:
            return schedule.official(settings.steps), {}
        if settings.karras:
            return schedule.karras(settings.steps), {}
        sigmas = schedule.linear(settings.steps)
        return sigmas, dict(zip(sigmas.tolist(), schedule.times(settings.steps).tolist(), strict=False))

    def _time(self, sigma: float) -> float:
        """The time step at which the network is asked."""
        time = self._times.get(float(sigma))
        time = self.painter.schedule.time(sigma) if time is None else time
        return float(round(time)) if self.settings.sampler in WHOLE else time

    def _conditions(self, steps: int) -> list[tuple[list[Tensor], list[float]]]:
        """For each step: features of what is not wanted, then of what is, at one length; and how much each of the latter counts."""
        reader = self.painter.reader
        unwanted = reader.features(self.settings.negative, steps)
        wanted = reader.parts(self.settings.prompt, steps)
        blank = reader.blank()
        return [
            (text.padded([never, *(part.features for part in parts)], blank), [part.weight for part in parts])
            for never, parts in zip(unwanted, wanted, strict=True)
        ]

    def _hole_in_latents(self) -> Float[Tensor, "1 1 h w"] | None:
        """1 where latents are painted anew, else 0; None: everywhere, without a mask."""
        if self.given is None or self.given.mask is None:
            return None
        hole = (self.given.mask > 0.5).float()[None, None].to(self.painter.device)
        return F.interpolate(hole, size=self._gaussian.shape[1:])

    def _prepare(self, noise: Tensor | None) -> tuple[Tensor | None, Tensor, Tensor]:
        """What the network sees beside the latents, the given picture's latents, and the first noise. Random numbers are drawn in the
        order of diffusers: of the picture's latents, then the noise; where the network sees a mask, the other way round."""
        painter, given, count = self.painter, self.given, len(self.seeds)

        def drawn() -> Tensor:
            return self._gaussian.draw() if noise is None else noise.to(painter.device)

        if given is None:
            first = drawn()
            return None, torch.zeros_like(first), first
        pictures = given.picture[None].expand(count, -1, -1, -1)
        clean = None
        if self.settings.strength < 1 or not painter.paints_holes:
            clean = painter.encode(pictures, self._gaussian.draw())
        first = drawn()
        beside = None
        if painter.paints_holes:
            assert given.mask is not None and self._hole is not None  # of the whole size, where none was given
            around = painter.encode(pictures * (given.mask <= 0.5), self._gaussian.draw())
            beside = torch.cat((self._hole.expand(count, -1, -1, -1), around), dim=1)
        return beside, torch.zeros_like(first) if clean is None else clean, first

    def _beginning(self) -> Tensor:
        """The picture's latents under noise; noise alone where there is no picture, or where a hole is painted with all strength."""
        sigma = self.sigmas[0]
        if not self.steps:
            return self._clean * math.sqrt(1 + sigma**2)
        if self.given is not None and (self._hole is None or self.settings.strength < 1):
            return self._clean + sigma * self._first
        return self._first * (math.sqrt(1 + sigma**2) if self.settings.sampler in KEEPING else sigma)

    def _noise(self) -> Callable[[float, float], Tensor]:
        if self.settings.sampler not in BROWNIAN or not self.steps:
            return self._gaussian
        least = min(float(sigma) for sigma in self.sigmas if sigma > 0)
        return BrownianNoise(self.seeds, self._gaussian.shape, self.painter.device, least, float(self.sigmas[0]))

    def _denoise(self, x: Tensor, sigma: float) -> Tensor:
        """What the network takes the latents for, as it is guided."""
        features, weights = self._steps[self.number]
        scale = self.settings.scale
        unguided = scale == 1 and len(weights) == 1 and weights[0] == 1
        contexts = torch.stack(features[1:] if unguided else features)
        seen = x / math.sqrt(1 + sigma**2)
        if self._beside is not None:
            seen = torch.cat((seen, self._beside), dim=1)
        parts = [seen] if self.painter.together else seen.split(1)
        noise = torch.cat([self._guided(part, sigma, contexts, weights, unguided) for part in parts])
        if self.painter.model.config.noise.predicts == "velocity":
            noise = (sigma * x / math.sqrt(1 + sigma**2) + noise) / math.sqrt(1 + sigma**2)
        self._clear = x - sigma * noise
        return self._clear

    def _guided(self, seen: Tensor, sigma: float, contexts: Tensor, weights: list[float], unguided: bool) -> Tensor:
        """The noise in latents, e = e_u + s (e_c − e_u) (Ho and Salimans 2022); of several prompts, the sum of their differences."""
        count, ways = len(seen), len(contexts)
        time = torch.full((count * ways,), self._time(sigma), device=seen.device)
        words = contexts.repeat_interleave(count, 0)
        kind = next(self.painter.model.unet.parameters()).dtype
        noise = self.painter.model.unet(seen.repeat(ways, 1, 1, 1), time, words.to(kind)).unflatten(0, (ways, count))
        if unguided:
            return noise[0]
        guided = noise[0]
        for weight, each in zip(weights, noise[1:], strict=True):
            guided = guided + self.settings.scale * weight * (each - noise[0])
        return guided


def _check(settings: Settings, seeds: Sequence[int], given: Given | None, factor: int) -> None:
    """Refuse what can't be painted."""
    for name, known in (("sampler", SAMPLERS), ("schedule", get_args(Schedules))):
        if getattr(settings, name) not in known:
            raise UserError(f"there is no {name} '{getattr(settings, name)}'", f"use one of: {', '.join(known)}")
    for name in ("width", "height"):
        size = getattr(settings, name)
        if size % factor or not factor <= size <= 4096:
            raise UserError(f"the {name} is {size} pixels", f"give a multiple of {factor}, at most 4096")
    if settings.width * settings.height > MOST_PIXELS:
        raise UserError(f"{settings.width}×{settings.height} pixels are too many", f"at most {MOST_PIXELS:,} in all")
    limits = {"steps": (1, 1000), "scale": (0, 100), "strength": (0, 1), "eta": (0, 1)}
    for name, (least, most) in limits.items():
        value = getattr(settings, name)
        if value is not None and not least <= value <= most:
            raise UserError(f"{name} is {value}", f"give a number from {least} to {most}")
    if not seeds:
        raise UserError("no picture is asked for", "give -n 1 or more")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UserError(f"the seed is {seed}", "give a number from 0 to 2⁶³ − 1")
    for what, pixels in (("picture", given and given.picture), ("mask", given and given.mask)):
        if pixels is not None and tuple(pixels.shape[-2:]) != (settings.height, settings.width):
            found = _size(reversed(pixels.shape[-2:]))
            raise UserError(f"the {what} has {found} pixels", f"give one of {settings.width}×{settings.height}")
    text.check(settings.prompt)
    text.check(settings.negative)


def _size(sides: Iterable[int]) -> str:
    return "×".join(map(str, sides))


def _fading(size: Sequence[int], edge: int) -> Float[Tensor, "height width"]:
    """Weights of a tile that fall towards its edges."""
    lines = [
        torch.minimum(torch.arange(1, length + 1), torch.arange(length, 0, -1)).clamp(max=edge) / edge
        for length in size
    ]
    return lines[0][:, None] * lines[1]
