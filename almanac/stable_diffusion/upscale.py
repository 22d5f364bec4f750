"""Enlarging pictures: by an upscaler of the ESRGAN family (Wang et al. 2018, ESRGAN; Wang et al. 2021, Real-ESRGAN) in any of the three
layouts in which its files go around, in tiles, so that a large picture needs no more memory than a small one; or, where no upscaler is
at hand, by resizing and painting over it."""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from almanac.nn.winograd import Conv3x3
from almanac.runtime import checkpoint, model_folder
from almanac.runtime.errors import UserError
from almanac.stable_diffusion.generate import Given, Job, Painter, Settings

MOST_PIXELS = 67_108_864
"""Of an enlarged picture: 2048×2048 four times as wide and high, 805 MB of float32."""
STRENGTH = 0.25
"""Of painting over an enlarged picture: people who do so settle on 0.2 to 0.3, above which other things appear in it."""
TILE = 256
"""Pixels of a side that the network sees at once, which takes 0.8 GB; larger ones take more, smaller ones see their margins oftener."""
MARGIN = 32
"""Pixels by which tiles see beyond what is theirs. A network of 23 blocks sees 350 pixels around, but little of them: two photographs that
RealESRGAN_x4plus enlarged in tiles of 96 pixels of their own were, on average, 0.1 and 0.3 of 255 levels from the whole (at most 20);
with half the margin 0.3 and 0.9 (53), with 12, near to Real-ESRGAN's own 10, 0.3 and 1.1 (66)."""
_NESTED = ("params_ema", "params", "state_dict")
"""What files hold weights under, the averaged ones first."""
_MIDDLE = (("RRDB_trunk.", "body."), ("trunk_conv.", "conv_body."), ("upconv", "conv_up"), ("HRconv.", "conv_hr."))
"""Names of ESRGAN's own second layout, and what Real-ESRGAN calls the same."""
_HINT = "give an upscaler of the ESRGAN family, such as RealESRGAN_x4plus.pth"


@dataclass(frozen=True)
class UpscalerConfig:
    """The shape of an upscaler; the default is that of RealESRGAN_x4plus."""

    channels: int = 64
    growth: int = 32
    """Channels that each convolution of a dense block adds."""
    blocks: int = 23
    doublings: int = 2
    """Times that the features are made twice as wide and high."""
    folded: int = 1
    """Pixels of a side that are one pixel with more channels before the network sees them."""

    @property
    def scale(self) -> int:
        """How many times as wide and high pictures become."""
        return 2**self.doublings // self.folded


class Upscaler(nn.Module):
    """Enlarges pictures. Names of parameters are those of Real-ESRGAN's files.

    Args:
        config: its shape.
    """

    def __init__(self, config: UpscalerConfig = UpscalerConfig()):
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_first = nn.Conv2d(3 * config.folded**2, channels, 3, padding=1)
        self.body = nn.Sequential(*(Block(channels, config.growth) for _ in range(config.blocks)))
        self.conv_body = Conv3x3(channels, channels)
        for number in range(config.doublings):
            self.add_module(f"conv_up{number + 1}", Conv3x3(channels, channels))
        self.conv_hr = Conv3x3(channels, channels)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 tall wide"]:
        """Enlarge whole pictures.

        Args:
            images: in [0, 1].
        """
        height, width = (side * self.config.scale for side in images.shape[2:])
        x = self.conv_first(self._fold(images).contiguous(memory_format=torch.channels_last))
        x = x + self.conv_body(self.body(x))
        for number in range(self.config.doublings):
            x = _leaky(self.get_submodule(f"conv_up{number + 1}")(F.interpolate(x, scale_factor=2)))
        return self.conv_last(_leaky(self.conv_hr(x)))[..., :height, :width]

    @torch.inference_mode()
    def enlarge(
        self,
        pictures: Float[Tensor, "batch 3 height width"],
        tile: int = TILE,
        watch: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "batch 3 tall wide"]:
        """Enlarge pictures in tiles that fade into each other.

        Args:
            pictures: in [−1, 1].
            tile: pixels of a side that the network sees at once, at least 128; memory grows with its square.
            watch: told after each tile how many are done, and of how many.

        Returns:
            In [−1, 1], in float32, where the pictures were.

        Raises:
            UserError: they would become too large.
        """
        count, _, height, width = pictures.shape
        scale, folded = self.config.scale, self.config.folded
        check_size(width * scale, height * scale)
        if tile < 4 * MARGIN:
            raise UserError(f"tiles of {tile} pixels are too small", f"give at least {4 * MARGIN}")
        rows, columns = (_spans(side, tile, folded) for side in (height, width))
        total = torch.zeros(count, 3, height * scale, width * scale, device=pictures.device)
        done, tiles = 0, count * len(rows) * len(columns)
        for picture, whole in zip(pictures, total, strict=True):
            for row in rows:
                for column in columns:
                    seen = picture[None, :, row.seen, column.seen].to(self.conv_first.weight)
                    made = self((seen + 1) / 2)[0].to(total)
                    made *= row.share(scale).to(made)[:, None] * column.share(scale).to(made)
                    whole[:, row.painted(scale), column.painted(scale)] += made
                    done += 1
                    if watch:
                        watch(done, tiles)
        return total.mul_(2).sub_(1).clamp_(-1, 1)

    def _fold(self, images: Tensor) -> Tensor:
        """Pixels as channels; the edge is repeated where they do not come out even."""
        folded = self.config.folded
        down, right = (-side % folded for side in images.shape[2:])
        return F.pixel_unshuffle(F.pad(images, (0, right, 0, down), mode="replicate"), folded)


class Block(nn.Module):
    """Three dense blocks, added with a weight to what was there (ESRGAN, figure 4: a residual-in-residual dense block).

    Args:
        channels: of the features.
        growth: channels that each convolution adds.
    """

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (Dense(channels, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Refine features."""
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))  # β of ESRGAN, section 3.1


class Dense(nn.Module):
    """Five convolutions, each of which sees what all before it made (ESRGAN, figure 4).

    Args:
        channels: of the features.
        growth: channels that each convolution adds.
    """

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (Conv3x3(channels + n * growth, growth) for n in range(4))
        self.conv5 = Conv3x3(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features."""
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, _leaky(conv(seen))), dim=1)
        return x + 0.2 * self.conv5(seen)


def load(path: Path, dtype: torch.dtype = torch.float32) -> Upscaler:
    """Load an upscaler.

    Args:
        path: a `.safetensors` file, or one that torch wrote, from which only tensors are taken; in the layout of Real-ESRGAN
            (`conv_first`, `body.0.rdb1.conv1` …), or one of ESRGAN's two (`RRDB_trunk.0.RDB1.conv1` …; `model.1.sub.0.RDB1.conv1.0` …).
            The number of blocks, channels and the scale are read from the shapes.
        dtype: of the weights.

    Raises:
        UserError: it is missing or damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}", _HINT)
    state = _read(path)
    theirs = _names(state)
    tensors = {ours: state[name] for ours, name in theirs.items()}
    with torch.device("meta"):
        network = Upscaler(_config(tensors, state, path))
    wanted = {theirs.get(name, name): tensor for name, tensor in network.state_dict().items()}
    model_folder.check_weights(path, wanted, {theirs[name]: tensor for name, tensor in tensors.items()}, _HINT)
    network.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    return network.eval().requires_grad_(False)


def latent(
    painter: Painter,
    picture: Float[Tensor, "3 height width"],
    scale: float,
    settings: Settings,
    seed: int,
    strength: float = STRENGTH,
    watch: Callable[[Job], None] | None = None,
) -> Float[Tensor, "3 tall wide"]:
    """Enlarge a picture without an upscaler: resize it, and paint over it a little.

    Args:
        painter: paints.
        picture: in [−1, 1].
        scale: how many times as wide and high it becomes.
        settings: how it is painted; but for the size, which is the enlarged picture's, and the strength.
        seed: of the noise.
        strength: how much is painted over: 0 leaves the picture as it was resized.
        watch: told after each step.

    Returns:
        In [−1, 1], of the sides' products with the scale, rounded.

    Raises:
        UserError: the scale or the size is out of range, or as `Painter.paint`.
    """
    if not 1 <= scale <= 8:
        raise UserError(f"the scale is {scale}", "give a number from 1 to 8")
    height, width = (round(side * scale) for side in picture.shape[1:])
    large = resized(picture, width, height)
    down, right = (-side % painter.factor for side in (height, width))
    padded = F.pad(large[None], (0, right, 0, down), mode="replicate")[0]
    everywhere = torch.ones(padded.shape[1:]) if painter.paints_holes else None
    settings = replace(settings, width=width + right, height=height + down, strength=strength)
    return painter.paint(settings, [seed], Given(padded, everywhere), watch)[0, :, :height, :width]


def resized(picture: Float[Tensor, "3 height width"], width: int, height: int) -> Float[Tensor, "3 tall wide"]:
    """A picture in another size, by Lanczos' filter.

    Args:
        picture: in [−1, 1].
        width: pixels.
        height: pixels.

    Raises:
        UserError: it would be too large.
    """
    check_size(width, height)
    layers = [Image.fromarray(layer).resize((width, height), Image.Resampling.LANCZOS) for layer in _array(picture)]
    return torch.from_numpy(np.stack([np.array(layer) for layer in layers])).clamp(-1, 1).to(picture)


def check_size(width: int, height: int) -> None:
    """Refuse a picture that would be too large or have no pixels.

    Raises:
        UserError: it would.
    """
    if min(width, height) < 1 or width * height > MOST_PIXELS:
        raise UserError(f"the picture would have {width}×{height} pixels", f"at most {MOST_PIXELS:,} in all are made")


@dataclass(frozen=True)
class _Span:
    """Which part of a side belongs to a tile, and which it sees."""

    begin: int
    end: int
    length: int
    """Of the whole side."""
    margin: int

    @property
    def seen(self) -> slice:
        return slice(max(self.begin - self.margin, 0), min(self.end + self.margin, self.length))

    def painted(self, scale: int) -> slice:
        """Pixels that it adds to."""
        return slice(self.seen.start * scale, self.seen.stop * scale)

    def share(self, scale: int) -> Float[Tensor, " pixels"]:
        """How much of each pixel is the tile's: it falls from 1 to 0 between half a margin within its part and half a margin beyond, so
        that neighbours' shares add up to 1, and what sees less than half a margin around it counts nothing."""
        place = (torch.arange(self.seen.start * scale, self.seen.stop * scale) + 0.5) / scale
        rising = (place - self.begin) / self.margin + 0.5 if self.begin else torch.ones_like(place)
        falling = 0.5 - (place - self.end) / self.margin if self.end < self.length else torch.ones_like(place)
        return rising.clamp(0, 1) * falling.clamp(0, 1)


def _spans(length: int, tile: int, folded: int) -> list[_Span]:
    """Tiles along a side, that begin where folded pixels do; at least a margin of each is its own."""
    if length <= tile * folded:
        return [_Span(0, length, length, MARGIN * folded)]
    own = (tile - 2 * MARGIN) * folded
    count = math.ceil(length / own)
    ends = [number * length // count // folded * folded for number in range(count)] + [length]
    return [_Span(*each, length, MARGIN * folded) for each in itertools.pairwise(ends)]


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, out of what they lie in."""
    if path.suffix == ".safetensors":
        return model_folder.read_tensors(path)
    state = checkpoint.load_state(path)
    nested = [state[name] for name in _NESTED if isinstance(state.get(name), Mapping)]
    found = nested[0] if nested else state
    return {name: each for name, each in found.items() if isinstance(name, str) and isinstance(each, Tensor)}


def _names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name of Real-ESRGAN's layout what a file calls the same. In the oldest one, what comes after the blocks is numbered, with
    numbers for what has no weights among them: doublings, then the last two convolutions."""
    tail = sorted({int(match[1]) for name in state if (match := re.fullmatch(r"model\.([1-9]\d*)\.\w+", name))})
    called = ["conv_last.", "conv_hr."] + [f"conv_up{number}." for number in range(len(tail) - 2, 0, -1)]
    oldest = {f"model.{number}.": name for number, name in zip(reversed(tail), called, strict=False)}
    oldest["model.0."] = "conv_first."
    found = {}
    for name in state:
        ours = re.sub(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.(conv\d)\.0\.", r"body.\1.rdb\2.\3.", name)
        ours = re.sub(r"^model\.1\.sub\.\d+\.(weight|bias)$", r"conv_body.\1", ours)
        for beginning, new in (oldest | dict(_MIDDLE)).items():
            if ours.startswith(beginning):
                ours = new + ours.removeprefix(beginning)
        found[ours.replace(".RDB", ".rdb")] = name
    return found


def _config(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> UpscalerConfig:
    first, dense = tensors.get("conv_first.weight"), tensors.get("body.0.rdb1.conv1.weight")
    if first is None or dense is None or first.dim() != 4 or dense.dim() != 4:
        holds = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(f"{path} is no ESRGAN upscaler: it holds {holds} …", _HINT)
    channels, inside = first.shape[:2]
    folded = math.isqrt(inside // 3)
    doublings = sum(re.fullmatch(r"conv_up\d+\.weight", name) is not None for name in tensors)
    if folded < 1 or inside != 3 * folded**2 or 2**doublings % folded:
        what = f"{path} has an upscaler of {inside} channels and {doublings} doublings, not one of colour pictures"
        raise UserError(what, _HINT)
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"body\.(\d+)\.", name))}
    return UpscalerConfig(channels, len(dense), len(blocks), doublings, folded)


def _array(picture: Tensor) -> np.ndarray:
    return picture.detach().float().cpu().contiguous().numpy()


def _leaky(x: Tensor) -> Tensor:
    """As the published models were trained; in place, to need half the memory."""
    return F.leaky_relu(x, 0.2, inplace=True)
