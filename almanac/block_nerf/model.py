"""A block (Block-NeRF, section 4.2 and figure 3): a field of densities and features, and above it what makes colours of those: where one
looks from, a code of the day's light, the camera's exposure. Beside it are a small network that says how well a point is seen from the
block's own photos, the sky, and corrections of the poses that the photos came with."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.block_nerf import rendering
from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.fields import fused
from almanac.block_nerf.fields.hash_grid import HashEncoding, HashField, drawn_in
from almanac.block_nerf.fields.ipe import IpeField
from almanac.block_nerf.fields.occupancy import Occupancy
from almanac.block_nerf.rendering import Samples

CODE = 32
"""Numbers of an appearance code (paper, supplement)."""
_NEARBY = 4.0
"""Metres, nearer than which samples learn less, by the square of the distance: a camera has many there that no other camera sees, and fog
before its lens explains its photos as well as walls do (Philip and Deschaintre 2023)."""


@dataclass(frozen=True)
class Dimensions:
    """The shape of a block, and which of the paper's parts it has."""

    field: Literal["hash", "ipe-mlp"] = "hash"
    """hash: tables of many resolutions; ipe-mlp: mip-NeRF's perceptron, as in the paper."""
    radius: float = 80.0
    """Metres from its middle that it is for."""
    width: int = 64
    """Channels of hidden layers."""
    levels: int = 8
    """Resolutions of the tables."""
    log2_rows: int = 17
    """Of a table's largest size."""
    finest: int = 2048
    """Cells along an edge of the finest."""
    colour_layers: int = 1
    """Hidden ones between features and colours; the paper's are 3."""
    colour_width: int = 64
    """Their channels; the paper's are 128."""
    codes: int = 1
    """Sessions, or photos, that have an appearance code of their own; 0: appearance is not told apart."""
    exposure: Literal["encoding", "scale", "none"] = "encoding"
    """encoding: the colours' network is told of the exposure, as in the paper; scale: light is multiplied by it; none: it isn't known."""
    segments: int = 0
    """Groups of photos whose poses are corrected; 0: poses are taken as they are."""
    octaves: int = 1
    """Of the direction that colours are told of; mip-NeRF's are 4, by which fog before a lens can show something else to each side."""
    samples: int = 12
    """Of a ray; in each of the two passes of ipe-mlp."""


class Light(NamedTuple):
    """What colours depend on besides the place, of each ray."""

    code: Float[Tensor, "rays 32"] | None
    exposure: Float[Tensor, " rays"] | None
    """Over the capture's middle one."""


class View(NamedTuple):
    """What rays see."""

    colours: Float[Tensor, "rays 3"]
    """From 0 to 1, in sRGB."""
    opacity: Float[Tensor, " rays"]
    """How much of it is not sky."""
    distance: Float[Tensor, " rays"]
    """Metres to what is seen: half of it is nearer."""


class Shape(NamedTuple):
    """What rays meet."""

    samples: Samples
    features: Float[Tensor, "samples features"]
    weight: Float[Tensor, " samples"]
    """How much each sample is seen of."""


class Block(nn.Module):
    """The networks of a block. Everything is in the block's own metres: its middle is the origin.

    Args:
        dimensions: its shape.
    """

    steps: Tensor
    """That it was trained for."""

    def __init__(self, dimensions: Dimensions):
        super().__init__()
        self.dimensions = d = dimensions
        if d.field == "hash":
            encoding = HashEncoding(d.levels, d.log2_rows, 16, d.finest)
            self.field: HashField | IpeField = HashField(d.radius, width=d.width, encoding=encoding)
            self.occupancy: Occupancy | None = Occupancy(self.field.scale(torch.zeros(1)))
        else:
            self.field, self.occupancy = IpeField(d.radius, d.width), None
        told = 3 + 6 * d.octaves + (CODE if d.codes else 0) + (8 if d.exposure == "encoding" else 0)
        self.codes = nn.Embedding(d.codes, CODE) if d.codes else None
        self.colour = Colour(self.field.features, told, d.colour_width, d.colour_layers)
        self.sky = nn.Sequential(nn.Linear(told, d.width), nn.ReLU(), nn.Linear(d.width, 3))
        self.visibility = Visibility(d.radius)
        self.poses = Poses(d.segments) if d.segments else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        if self.codes is not None:
            nn.init.normal_(self.codes.weight, std=0.1)

    def light(self, codes: Int[Tensor, " rays"] | None, exposure: Float[Tensor, " rays"] | None) -> Light:
        """The light that rays are seen in.

        Args:
            codes: number of each ray's code.
            exposure: of each, over the capture's middle one.
        """
        known = self.codes(codes) if self.codes is not None and codes is not None else None
        return Light(known, exposure)

    def told(self, rays: Rays, light: Light) -> Float[Tensor, "rays facts"]:
        """What the networks of colours are told of each ray."""
        parts = [_directions(rays.directions, self.dimensions.octaves)]
        if self.codes is not None:
            parts.append(light.code if light.code is not None else rays.origins.new_zeros(len(rays.origins), CODE))
        if self.dimensions.exposure == "encoding":
            exposure = light.exposure if light.exposure is not None else rays.origins.new_ones(len(rays.origins))
            parts.append(_exposures(exposure))
        return torch.cat(parts, -1)

    def seen(
        self, rays: Rays, light: Light, samples: Samples
    ) -> tuple[View, Float[Tensor, " samples"], Float[Tensor, " samples"]]:
        """What rays see, given where to look.

        Args:
            rays: lines of sight.
            light: of each.
            samples: pieces of them.

        Returns:
            the view, and of each sample its density and its weight.
        """
        lengths = rays.directions.norm(dim=-1)
        told = self.told(rays, light)
        density, colours = self.shaded(rays, samples, told)
        if density.requires_grad:
            share = (samples.middles * lengths[samples.ray] / _NEARBY).detach().square().clamp_max(1.0)
            density.register_hook(lambda slope: slope * share)
            colours.register_hook(lambda slope: slope * share[:, None])
        weight, _ = rendering.weights(density, samples, lengths)
        sums = rendering.summed(torch.cat([colours, torch.ones_like(colours[:, :1])], -1), weight, samples)
        found = self._before_sky(sums[:, :3], sums[:, 3], told, light)
        return View(found, sums[:, 3], rendering.median(weight.detach(), samples) * lengths.detach()), density, weight

    def shape(self, rays: Rays, samples: Samples) -> "Shape":
        """What rays meet, whatever the light: to be lit many times.

        Args:
            rays: lines of sight.
            samples: pieces of them.
        """
        density, features = self.field(rays, samples)
        weight, _ = rendering.weights(density, samples, rays.directions.norm(dim=-1))
        return Shape(samples, features, weight)

    def lit(self, shape: "Shape", rays: Rays, light: Light) -> Float[Tensor, "rays 3"]:
        """The colours that rays see.

        Args:
            shape: what they meet.
            rays: lines of sight.
            light: of each.
        """
        told = self.told(rays, light)
        colours = torch.sigmoid(self.colour(shape.features, told, shape.samples.ray))
        sums = rendering.summed(torch.cat([colours, torch.ones_like(colours[:, :1])], -1), shape.weight, shape.samples)
        return self._before_sky(sums[:, :3], sums[:, 3], told, light)

    def _before_sky(
        self,
        near: Float[Tensor, "rays 3"],
        opacity: Float[Tensor, " rays"],
        told: Float[Tensor, "rays facts"],
        light: Light,
    ) -> Float[Tensor, "rays 3"]:
        found = near + (1 - opacity)[:, None] * torch.sigmoid(self.sky(told))
        if self.dimensions.exposure == "scale" and light.exposure is not None:
            return developed(found, light.exposure)
        return found

    def shaded(
        self, rays: Rays, samples: Samples, told: Float[Tensor, "rays facts"]
    ) -> tuple[Float[Tensor, " samples"], Float[Tensor, "samples 3"]]:
        """Densities and colours of samples; where no gradients are wanted, those from which no light comes may be left at 0.

        Args:
            rays: lines of sight.
            samples: pieces of them.
            told: what the networks of colours are told of each ray.
        """
        if isinstance(self.field, HashField) and not self.colour.hidden and told.device.type == "cpu":
            return fused.shaded(self.field, self.colour.here, self.colour.out, rays, samples, self.colour.ray(told))
        density, features = self.field(rays, samples)
        return density, torch.sigmoid(self.colour(features, told, samples.ray))


class Colour(nn.Module):
    """Colours of features. What is the same for a whole ray is computed once for it, and added where a first layer over all of it would.

    Args:
        features: of a sample.
        told: numbers that a ray is told of.
        width: channels of hidden layers.
        layers: hidden ones.
    """

    def __init__(self, features: int, told: int, width: int, layers: int):
        super().__init__()
        self.here = nn.Linear(features, width)
        self.ray = nn.Linear(told, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.out = nn.Linear(width, 3)

    def forward(
        self,
        features: Float[Tensor, "samples features"],
        told: Float[Tensor, "rays facts"],
        ray: Int[Tensor, " samples"],
    ) -> Float[Tensor, "samples 3"]:
        """Logits of colours."""
        x = torch.relu(self.here(features) + self.ray(told)[ray])
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.out(x)


class Visibility(nn.Module):
    """How much light comes from a point to a camera that looks along a direction, as a training ray would have measured it (section 4.2.3).
    It reads places by sines, not by the field's tables, so that it can be asked alone.

    Args:
        radius: metres from the block's middle that are within ±1.
    """

    OCTAVES, TURNS, WIDTH, LAYERS = 6, 4, 128, 4

    def __init__(self, radius: float):
        super().__init__()
        self.radius = radius
        sizes = [3 + 6 * self.OCTAVES + 3 + 6 * self.TURNS, *[self.WIDTH] * self.LAYERS]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(self.WIDTH, 1)

    def forward(
        self, points: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]
    ) -> Float[Tensor, " points"]:
        """Logits of the transmittance.

        Args:
            points: in metres from the block's middle.
            directions: from a camera to each, of any length.
        """
        near = 4 * drawn_in(points / self.radius) - 2
        angles = (
            near[:, None] * (math.pi / 2 * 2.0 ** torch.arange(self.OCTAVES, device=near.device))[:, None]
        ).flatten(1)
        x = torch.cat([near, angles.sin(), angles.cos(), _directions(directions, self.TURNS)], -1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.out(x)[:, 0]


class Poses(nn.Module):
    """Corrections of poses, one for each segment of a drive: a shift, and a matrix that is added to the identity and made a rotation
    (section 4.2.2). Their parameters are in tenths of a metre and hundredths, so that one rate suits them and the field.

    Args:
        segments: how many.
    """

    _SHIFT, _TURN = 0.1, 0.01

    def __init__(self, segments: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(segments, 3))
        self.turn = nn.Parameter(torch.zeros(segments, 3, 3))

    def shifts(self) -> Float[Tensor, "segments 3"]:
        """Metres."""
        return self.shift * self._SHIFT

    def rotations(self) -> Float[Tensor, "segments 3 3"]:
        """By Gram's and Schmidt's method; the identity at first."""
        rough = torch.eye(3, device=self.turn.device) + self.turn * self._TURN
        x = F.normalize(rough[..., 0], dim=-1)
        y = F.normalize(rough[..., 1] - (rough[..., 1] * x).sum(-1, keepdim=True) * x, dim=-1)
        return torch.stack([x, y, torch.linalg.cross(x, y)], -1)

    def corrected(self, rays: Rays, segment: Int[Tensor, " rays"]) -> Rays:
        """The same rays from where they were seen."""
        turned = torch.einsum("nij,nj->ni", self.rotations()[segment], rays.directions)
        return Rays(rays.origins + self.shifts()[segment], turned, rays.radii)

    def size(self, radius: float) -> Float[Tensor, ""]:
        """The sum of squares of all offsets, which is penalised.

        Args:
            radius: metres that count as 1, as the paper's networks know their blocks.
        """
        return (self.shifts() / radius).square().sum() + (self.turn * self._TURN).square().sum()


def developed(linear: Float[Tensor, "rays 3"], exposure: Float[Tensor, " rays"]) -> Float[Tensor, "rays 3"]:
    """Light times exposure, with sRGB's curve; the curve goes on above 1, where a photo is white, so that a gradient is left."""
    x = (linear * exposure[:, None]).clamp_min(1e-5)
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def _directions(directions: Float[Tensor, "rays 3"], octaves: int) -> Float[Tensor, "rays features"]:
    """The direction itself, and sines and cosines of its octaves."""
    unit = F.normalize(directions, dim=-1)
    angles = (unit[:, None] * 2.0 ** torch.arange(octaves, device=unit.device)[:, None]).flatten(1)
    return torch.cat([unit, angles.sin(), angles.cos()], -1)


def _exposures(exposure: Float[Tensor, " rays"]) -> Float[Tensor, "rays 8"]:
    """Sines and cosines of four octaves of its logarithm (section 4.2.1 takes it as it is: that ends where the training's ended)."""
    angles = exposure.clamp_min(1e-6).log()[:, None] * 2.0 ** (torch.arange(4, device=exposure.device) - 1)
    return torch.cat([angles.sin(), angles.cos()], -1)
