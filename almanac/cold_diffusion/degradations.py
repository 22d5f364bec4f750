"""Degradations D(x, t, state): a clean image x, its severity t = 0 … steps (0 leaves it as it is), and the state of the sample
(its mask's place, its snowfall, its animal), which is drawn once and stays the same at every t. One small class each; `named`
finds them, and one of the user's own as `module:Class`. Which settings the paper used is in `recipes.py`."""

import importlib
import math
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from almanac.cold_diffusion import data
from almanac.runtime.errors import UserError

Images = Float[Tensor, "batch channels height width"]
"""Images scaled to [−1, 1]."""
State = dict[str, Tensor]
"""What a sample's degradation consists of besides t; every tensor has the batch as its first axis."""
SYMMETRY_NOISE = 0.002
"""Standard deviation of the noise that breaks the symmetry of a constant start (paper, §5.2), on images in [−1, 1]."""


class Degradation:
    """Base class. A degradation needs `steps` and `__call__`; the rest has defaults."""

    steps: int = 1
    """Number of degradation steps T."""
    eight_bit: bool = False
    """Whether training rounds degraded images down to 8 bits, as the official code does for some degradations."""
    thumbnail: int | None = None
    """Side of the thumbnail whose Gaussian starts a generation; None: the degradation keeps too much to generate from."""

    def __call__(self, images: Images, t: Int[Tensor, " batch"], state: State) -> Images:
        """D(x, t): degrade each image to its own severity.

        Args:
            images: clean images.
            t: severities, 0 … steps.
            state: what `draw` returned for these images.
        """
        raise NotImplementedError

    def draw(self, images: Images, generator: torch.Generator) -> State:
        """Draw the state of each sample; the images give its shape only."""
        return {}

    def infer(self, degraded: Images, t: int) -> State | None:
        """The state of degraded pictures that come without one, as far as it shows; None: it does not.

        Without a state of its own (blur, pixelate, colour), a degradation has nothing to infer.
        """
        return {} if type(self).draw is Degradation.draw else None

    def fit_prior(self, images: Images) -> State:
        """Fit what `start` needs to clean training images: a Gaussian over their thumbnails (for blur: over channel means)."""
        if self.thumbnail is None:
            return {}
        flat = F.adaptive_avg_pool2d(images, self.thumbnail).flatten(1).double()
        return {"mean": flat.mean(0).float(), "cov": torch.atleast_2d(flat.T.cov()).float()}

    def start(self, prior: State, images: Images, generator: torch.Generator) -> tuple[Images, State]:
        """Draw fully degraded images of the same shape as `images`, and their states, without seeing an image.

        Raises:
            UserError: nothing can be generated from this degradation.
        """
        if self.thumbnail is None or "mean" not in prior:
            raise UserError(
                f"{type(self).__name__} keeps too much of an image to generate from nothing",
                "use `restore`, or a model trained with a degradation that ends in blur, mask, pixelate, snow, animorph or noise",
            )
        mean, cov = prior["mean"].double(), prior["cov"].double()
        factor = torch.linalg.cholesky(cov + 1e-9 * torch.eye(len(mean), dtype=torch.double))
        draws = torch.randn(len(images), len(mean), generator=generator, dtype=torch.double) @ factor.T + mean
        thumbnails = draws.float().view(len(images), images.shape[1], self.thumbnail, self.thumbnail).clamp(-1, 1)
        state = self.draw(images, generator)
        return self(F.interpolate(thumbnails, images.shape[2:], mode="nearest-exact"), self.full(images), state), state

    def full(self, images: Images) -> Int[Tensor, " batch"]:
        """The full severity for each image."""
        return torch.full((len(images),), self.steps, device=images.device)


@dataclass(frozen=True)
class Blur(Degradation):
    """Repeated Gaussian blur. The whole of D_t is one transfer function: the product of the kernels' spectra, exact for circular
    padding by the FFT, and for reflect padding by the FFT of the mirrored image (the DCT-I)."""

    steps: int = 300
    kernel_size: int = 27
    """Side of each truncated kernel, pixels, odd."""
    sigma: float = 1.0
    """Standard deviation of the first kernel, pixels."""
    growth: float = 0.01
    """How the standard deviation grows from kernel to kernel, by `schedule`."""
    schedule: Literal["exponential", "linear"] = "exponential"
    """sigma · exp(growth · i), or sigma + growth · i (growth 0: the same kernel every time)."""
    padding: Literal["circular", "reflect"] = "circular"
    """How the image goes on past its edge."""
    to_mean: bool = False
    """Whether the last step also replaces the image by its channel means (official `discrete`)."""
    eight_bit: bool = False
    """Whether training rounds degraded images down to 8 bits (official `discrete`, too)."""

    @property
    def thumbnail(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """An image that ends in its channel means can be started from them."""
        return 1 if self.to_mean else None

    def __call__(self, images, t, state):
        height, width = images.shape[2:]
        extended = images
        if self.padding == "reflect":
            extended = torch.cat((images, images[:, :, 1:-1].flip(2)), dim=2)
            extended = torch.cat((extended, extended[..., 1:-1].flip(3)), dim=3)
        rows, columns = extended.shape[2:]
        spectrum = torch.fft.rfft2(extended)
        spectrum *= self._transfer(rows).to(images.device)[t][:, None, :, None]
        spectrum *= self._transfer(columns).to(images.device)[t, : columns // 2 + 1][:, None, None, :]
        blurred = torch.fft.irfft2(spectrum, s=(rows, columns))[..., :height, :width]
        if self.to_mean:
            means = images.mean((2, 3), keepdim=True).expand_as(images)
            blurred = torch.where((t == self.steps)[:, None, None, None], means, blurred)
        return blurred

    def kernels(self) -> Float[Tensor, "steps kernel_size"]:
        """The 1-D kernels, in double precision; the 2-D kernels are their outer squares."""
        index = torch.arange(self.steps, dtype=torch.double)
        exponential = self.schedule == "exponential"
        sigmas = self.sigma * torch.exp(self.growth * index) if exponential else self.sigma + self.growth * index
        offset = torch.arange(self.kernel_size, dtype=torch.double) - (self.kernel_size - 1) / 2
        kernels = torch.exp(-(offset**2) / (2 * sigmas[:, None] ** 2))
        return kernels / kernels.sum(1, keepdim=True)

    @lru_cache(maxsize=32)  # noqa: B019 (frozen, hashed by value)
    def _transfer(self, size: int) -> Float[Tensor, "steps_plus_1 size"]:
        """Spectrum of the first t kernels together, for t = 0 … steps, on a circle of `size` pixels."""
        offset = torch.arange(self.kernel_size, dtype=torch.double) - (self.kernel_size - 1) / 2
        angle = 2 * math.pi / size * torch.arange(size, dtype=torch.double)
        spectra = self.kernels() @ torch.cos(offset[:, None] * angle)
        return torch.cat((torch.ones(1, size, dtype=torch.double), spectra.cumprod(0))).float()


@dataclass(frozen=True)
class Mask(Degradation):
    """A soft hole that grows: the image is multiplied by 1 − Gaussian once a step, each Gaussian wider than the last."""

    steps: int = 50
    kernel_std: float = 0.1
    """Growth of the Gaussian's standard deviation per step, pixels."""
    initial_mask: int = 11
    """Standard deviation of the first Gaussian, in growths (11 reproduces the paper's degraded columns)."""
    place: Literal["random", "centre"] = "random"
    """Where the hole is."""
    fill: Literal["grey", "colour"] = "grey"
    """What shows through: mid-grey (0), or one random colour per image, from which images can be generated."""

    eight_bit = True

    def __call__(self, images, t, state):
        height, width = images.shape[2:]
        row = torch.arange(height, device=images.device) - state["centre"][:, :1]
        column = torch.arange(width, device=images.device) - state["centre"][:, 1:]
        squared = row[:, :, None] ** 2 + column[:, None, :] ** 2
        table = self._kept(2 * (max(height, width) + 1) ** 2).to(images.device)
        kept = table[t[:, None, None], squared][:, None]
        return images * kept + state["colour"] * (1 - kept) if self.fill == "colour" else images * kept

    def draw(self, images, generator):
        count, channels, height, width = images.shape
        if self.place == "random":
            # The official window is cut from a grid of twice the side: its offset 0 … side puts the centre at side − 1 … −1.
            places = [torch.randint(-1, side, (count,), generator=generator) for side in (height, width)]
        else:
            places = [torch.full((count,), side // 2 - 1) for side in (height, width)]
        state = {"centre": torch.stack(places, dim=1).to(images.device)}
        if self.fill == "colour":
            colour = torch.rand(count, channels, 1, 1, generator=generator) - 0.5
            state["colour"] = colour.to(images.device)
        return state

    def infer(self, degraded, t):
        """The hole is where "brightness falls as the mask says" fits the picture best, by least squares at every place."""
        height, width = degraded.shape[2:]
        if self.place == "centre" or self.fill == "colour" or t == 0:
            return None
        kept = self._kept(2 * (max(height, width) + 1) ** 2).to(degraded.device)[t]
        radius = next((r for r in range(1, max(height, width)) if kept[r * r] > 0.99), max(height, width) - 1)
        offset = torch.arange(-radius, radius + 1, device=degraded.device)
        hole = 1 - kept[offset[:, None] ** 2 + offset**2][None, None]
        seen = degraded.abs().mean(1, keepdim=True)
        # Σ seen · kept and Σ kept² over the picture, for a hole at every pixel, from what the hole takes away.
        overlap = seen.sum((2, 3), keepdim=True) - F.conv2d(seen, hole, padding=radius)
        energy = height * width - F.conv2d(torch.ones_like(seen), 2 * hole - hole**2, padding=radius)
        best = (overlap**2 / energy.clamp(min=1e-3)).flatten(1).argmax(1)
        return {"centre": torch.stack((best // width, best % width), dim=1)}

    def start(self, prior, images, generator):
        if self.fill != "colour":
            return super().start(prior, images, generator)
        state = self.draw(images, generator)
        return state["colour"].expand_as(images).contiguous(), state

    @lru_cache(maxsize=8)  # noqa: B019 (frozen, hashed by value)
    def _kept(self, largest: int) -> Float[Tensor, "steps_plus_1 squared"]:
        """What is left of a pixel after t steps, by its squared distance from the centre."""
        squared = torch.arange(largest + 1, dtype=torch.double)
        sigmas = self.kernel_std * (torch.arange(self.steps, dtype=torch.double) + self.initial_mask)
        masks = 1 - torch.exp(-squared / (2 * sigmas[:, None] ** 2))
        return torch.cat((torch.ones(1, largest + 1, dtype=torch.double), masks.cumprod(0))).float()


@dataclass(frozen=True)
class Pixelate(Degradation):
    """Super-resolution's inverse: each step halves the resolution (bicubic, no antialiasing) and shows it as large pixels."""

    steps: int = 3

    @property
    def thumbnail(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """An image that ends in 2 × 2 pixels can be started from nothing."""
        return 2 if self.steps >= 4 else None

    def __call__(self, images, t, state):
        size = images.shape[2:]
        degraded = images
        for step in range(int(t.max())):
            small = [max(1, side >> (step + 1)) for side in size]
            coarser = F.interpolate(F.interpolate(degraded, small, mode="bicubic"), size, mode="nearest-exact")
            degraded = torch.where((t > step)[:, None, None, None], coarser, degraded)
        return degraded


@dataclass(frozen=True)
class Snow(Degradation):
    """Snowfall (after ImageNet-C's): one field of random flakes per image, of which a falling threshold shows ever more,
    streaked by a motion blur and laid over the image together with its half-turn."""

    steps: int = 200
    flake_mean: float = 0.55
    """Mean of the random field."""
    flake_std: float = 0.3
    """Standard deviation of the random field."""
    zoom: float = 2.5
    """Enlargement of the field: the size of flakes, pixels."""
    threshold: tuple[float, float] = (1.15, 0.7)
    """What a flake must exceed to be seen, at the first and at the last step."""
    streak: int = 11
    """Width of the motion blur, pixels, odd."""
    streak_sigma: tuple[float, float] = (0.05, 16.0)
    """Standard deviation of the motion blur, pixels, at the first and at the last step."""

    thumbnail = 4

    def __call__(self, images, t, state):
        index = (t - 1).clamp(min=0)
        threshold = torch.linspace(*self.threshold, self.steps, device=images.device)[index][:, None, None]
        sigma = torch.linspace(*self.streak_sigma, self.steps, device=images.device)[index][:, None]
        offset = torch.arange(self.streak, device=images.device) - self.streak // 2
        kernel = torch.exp(-(offset**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum(1, keepdim=True))[:, None, None, :]
        flakes = state["flakes"]
        flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
        across = (F.pad(flakes, (self.streak // 2,) * 2).unfold(2, self.streak, 1) * kernel).sum(-1)
        upright = flakes.transpose(1, 2)
        upright = (F.pad(upright, (self.streak // 2,) * 2).unfold(2, self.streak, 1) * kernel).sum(-1).transpose(1, 2)
        snow = torch.where(state["upright"][:, None, None], upright, across)[:, None]
        snowy = ((images + 1) / 2 + snow + snow.rot90(2, (2, 3))).clamp(0, 1) * 2 - 1
        return torch.where((t == 0)[:, None, None, None], images, snowy)

    def draw(self, images, generator):
        count, _, *size = images.shape
        crop = [math.ceil(side / self.zoom) for side in size]
        zoomed = [max(side, round(small * self.zoom)) for side, small in zip(size, crop, strict=True)]
        field = torch.randn(count, 1, *crop, generator=generator) * self.flake_std + self.flake_mean
        field = F.interpolate(field, zoomed, mode="bilinear", align_corners=True)[:, 0]
        top, left = ((large - side) // 2 for large, side in zip(zoomed, size, strict=True))
        upright = torch.rand(count, generator=generator) > 0.5
        flakes = field[:, top : top + size[0], left : left + size[1]]
        return {"flakes": flakes.to(images.device), "upright": upright.to(images.device)}


@dataclass(frozen=True)
class Colour(Degradation):
    """Colour fades to grey: the difference from the channels' mean shrinks linearly."""

    steps: int = 20

    def __call__(self, images, t, state):
        grey = images.mean(1, keepdim=True)
        return torch.lerp(images, grey.expand_as(images), (t / self.steps)[:, None, None, None])


@dataclass(frozen=True)
class _Mixture(Degradation):
    """√ᾱ_t · x + √(1 − ᾱ_t) · z, with the cosine schedule. Subclasses say what z is."""

    steps: int = 200

    def __call__(self, images, t, state):
        signal = self.signal().to(images.device)[t][:, None, None, None]
        return signal.sqrt() * images + (1 - signal).sqrt() * state["other"]

    def estimate_state(self, degraded: Images, restored: Images, t: Int[Tensor, " batch"]) -> State:
        """The z that would lead from `restored` to `degraded` at t ≥ 1 (the "estimated noise" of the paper, DDIM's ε)."""
        signal = self.signal().to(degraded.device)[t][:, None, None, None]
        return {"other": (degraded - signal.sqrt() * restored) / (1 - signal).sqrt()}

    def start(self, prior, images, generator):
        state = self.draw(images, generator)
        return state["other"], state

    @lru_cache(maxsize=8)  # noqa: B019 (frozen, hashed by value)
    def signal(self) -> Float[Tensor, " steps_plus_1"]:
        """ᾱ_t for t = 0 … steps, as the official code has it: its grid ends one step late, and betas are at most 0.999."""
        grid = torch.linspace(0, self.steps + 1, self.steps + 1, dtype=torch.double) / (self.steps + 1)
        curve = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
        kept = (curve[1:] / curve[:-1]).clamp(min=0.001, max=1)
        return torch.cat((torch.ones(1, dtype=torch.double), kept.cumprod(0))).float()


@dataclass(frozen=True)
class Noise(_Mixture):
    """Gaussian noise: the "hot" diffusion that the others are compared with."""

    def draw(self, images, generator):
        return {"other": torch.randn(images.shape, generator=generator).to(images.device)}


@dataclass(frozen=True)
class Animorph(_Mixture):
    """The image turns into a picture of another set (the paper: a face into an animal)."""

    other: str = "animals"
    """The other set: a name known to `--data`, or a folder of images."""

    def draw(self, images, generator):
        channels, height, width = images.shape[1:]
        others = data.load(self.other, "train", (height, width), channels)
        picks = torch.randint(len(others), (len(images),), generator=generator)
        return {"other": others.batch(picks).to(images.device)}


NAMED: dict[str, type[Degradation]] = {
    "blur": Blur,
    "mask": Mask,
    "pixelate": Pixelate,
    "snow": Snow,
    "colour": Colour,
    "animorph": Animorph,
    "noise": Noise,
}
ALIASES = {"super-resolution": "pixelate", "inpainting": "mask", "color": "colour"}


def named(name: str) -> type[Degradation]:
    """The class of a degradation.

    Args:
        name: a known name, an alias, or `module:Class` for one of the user's own.

    Raises:
        UserError: it is not known or can't be imported.
    """
    if ":" in name:
        return _users_own(name)
    try:
        return NAMED[ALIASES.get(name, name)]
    except KeyError:
        raise UserError(
            f"unknown degradation '{name}'", f"known: {', '.join(NAMED)}; or your own as module:Class"
        ) from None


def to_json(degradation: Degradation) -> dict[str, Any]:
    """What a checkpoint keeps of a degradation."""
    kind = type(degradation)
    name = next((name for name, known in NAMED.items() if known is kind), f"{kind.__module__}:{kind.__qualname__}")
    return {"name": name, **(asdict(degradation) if is_dataclass(degradation) else {})}


def from_json(kept: dict[str, Any], trusted: str | None = None) -> Degradation:
    """The degradation that `to_json` described.

    Args:
        kept: what a file says.
        trusted: the person's own `module:Class`, if they gave one; a file alone can't have a module imported, which is to run it.

    Raises:
        UserError: it is not known, or is somebody's own and not the trusted one.
    """
    if ":" in kept["name"] and kept["name"] != trusted:
        raise UserError(
            f"the file needs the degradation '{kept['name']}', which is code outside this project",
            f"if you trust that code, add --degradation {kept['name']}",
        )
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items() if key != "name"}
    return named(kept["name"])(**settings)


def _users_own(name: str) -> type[Degradation]:
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"degradation '{name}' could not be imported: {error}",
            "give module:Class, where Python finds the module (the current folder counts)",
        ) from None
    if not (isinstance(found, type) and issubclass(found, Degradation)):
        raise UserError(
            f"'{name}' is not a degradation", "derive it from almanac.cold_diffusion.degradations.Degradation"
        )
    return found
