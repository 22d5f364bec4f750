"""Views of a city (Block-NeRF, section 4.3): blocks near the camera that see something of the view, each asked for its own picture, and the
pictures mixed by how far the camera is from each block. Other ways to mix them are here, too, as the paper compares them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from almanac.block_nerf.cameras import Camera, Rays, rays_of
from almanac.block_nerf.city import City, Loaded
from almanac.block_nerf.fields.ipe import IpeField, two_passes
from almanac.block_nerf.model import Block, Light, Shape, View
from almanac.block_nerf.placement import Place
from almanac.block_nerf.rendering import Samples

Method = Literal["nearest", "idw", "idw-3d", "imagewise", "pixelwise"]
METHODS: tuple[Method, ...] = ("nearest", "idw", "idw-3d", "imagewise", "pixelwise")
"""Of mixing: the nearest block alone; inverse distance weights from the camera (the default, and the only one that is steady while the
camera moves); from each pixel's place; the mean visibility of a block's view; each pixel's visibility."""

_CHUNK = 8_192  # rays at once
_FINER = 2  # samples of a ray, for each that it had while the block learnt: there, more rays are worth more
_EXPLORED = 0.1  # share of them where nothing is known to be
_UNSEEN = 1e-3  # weight below which a sample is left out while a code is looked for
_LOOKED = (8, 6)  # rays of a view, across and down, that tell whether a block sees anything of it
_DISTANCES = (6.0, 12.0, 24.0, 48.0)  # metres, at which they are asked
_REACH = 2.0  # radii of a block, within which it may be asked
_FADE = 0.15  # of that, over which it fades away at its edge
_SLIGHT = 0.03  # share of a picture, below which a block isn't asked for it
_MOST = 3  # blocks of a view


@dataclass(frozen=True)
class Appearance:
    """How a view looks."""

    sessions: tuple[float, ...] | int = 0
    """The session whose light it has, or a share of each."""
    exposure: float = 1.0
    """As a multiple of the capture's middle one."""


def fading(start: Appearance, session: int, share: float) -> Appearance:
    """A light on its way to another session's.

    Args:
        start: of one session.
        session: that it ends in.
        share: of the way, from 0 to 1.
    """
    assert isinstance(start.sessions, int)
    shares = np.zeros(max(start.sessions, session) + 1)
    shares[start.sessions] += 1 - share
    shares[session] += share
    return Appearance(tuple(shares.tolist()), start.exposure)


@dataclass(frozen=True)
class Part:
    """What one block makes of a view."""

    place: Place
    visibility: float
    """The mean of what it thinks to see."""
    kept: bool
    view: View | None = None
    """Its picture, [pixels, …]; None where it isn't asked."""
    weights: Tensor | None = None
    """Of its pixels in the mixture."""


@dataclass(frozen=True)
class Picture:
    """A view of a city."""

    colours: Float[np.ndarray, "height width 3"]
    """From 0 to 1, in sRGB."""
    distance: Float[np.ndarray, "height width"]
    """Metres."""
    opacity: Float[np.ndarray, "height width"]
    """1 where no sky is seen."""
    parts: tuple[Part, ...]
    """Blocks that were near enough, the nearest first."""


class Abandoned(Exception):
    """Nobody wants a picture any more that was begun."""


Looks = Callable[[Loaded, Rays], View]
"""What a block sees along rays in the world's metres."""


def view(
    city: City,
    camera: Camera,
    pose: Float[np.ndarray, "4 4"],
    appearance: Appearance | None = None,
    method: Method = "idw",
    everything: bool = False,
    wanted: Callable[[], bool] = lambda: True,
) -> Picture:
    """A view of a city.

    Args:
        city: which.
        camera: the lens, and how many pixels.
        pose: camera to world, metres.
        appearance: of which light and exposure.
        method: of mixing.
        everything: also the pictures of blocks that are left out, for those who want to see why.
        wanted: whether it still is; asked every few thousand rays.

    Raises:
        Abandoned: it isn't wanted any more.
    """
    how = appearance or Appearance()
    return composed(
        city, camera, pose, lambda loaded, rays: looked(loaded, rays, how, wanted), method, everything=everything
    )


@torch.no_grad()
def composed(
    city: City,
    camera: Camera,
    pose: Float[np.ndarray, "4 4"],
    looks: Looks,
    method: Method = "idw",
    *,
    culled: bool = True,
    everything: bool = False,
) -> Picture:
    """A picture of what blocks see.

    Args:
        city: which.
        camera: the lens.
        pose: camera to world, metres.
        looks: asks a block.
        method: of mixing.
        culled: whether blocks that see next to nothing of the view, or would hardly count, are left out.
        everything: also the pictures of blocks that are left out.
    """
    rays = rays_of(camera, pose, camera.all_pixels().reshape(-1, 2))
    parts = chosen(city, camera, pose, method, culled)
    asked = [part for part in parts if part.kept or everything]
    views = {part.place.name: looks(city.block(part.place.name), rays) for part in asked}
    weights = _mixture(city, [part for part in parts if part.kept], views, pose, rays, method, culled)
    shape = (camera.height, camera.width)
    total = [torch.zeros(*shape, 3), torch.zeros(shape), torch.zeros(shape)]
    for name, weight in weights.items():
        for sum_, value in zip(total, (views[name].colours, views[name].distance, views[name].opacity), strict=True):
            sum_ += (weight.reshape(-1, *[1] * (value.ndim - 1)) * value).reshape(sum_.shape)
    told = tuple(
        Part(part.place, part.visibility, part.kept, views.get(part.place.name), weights.get(part.place.name))
        for part in parts
    )
    colours, distance, opacity = (each.numpy() for each in total)
    return Picture(colours.clip(0, 1), distance, opacity, told)


def chosen(
    city: City, camera: Camera, pose: Float[np.ndarray, "4 4"], method: Method = "idw", culled: bool = True
) -> list[Part]:
    """Blocks near a camera, the nearest first, and which are asked: those that see something and count, or if none does the nearest.

    Args:
        city: which.
        camera: the lens.
        pose: camera to world.
        method: of mixing; `nearest` keeps one.
        culled: whether those are left out that see next to nothing, or are so far that their share would be.
    """
    position = pose[:3, 3]
    near = sorted(city.places, key=lambda place: float(np.hypot(*(position[:2] - place.origin[:2]))))
    candidates = [place for place in near if replace(place, radius=_REACH * place.radius).holds(position)] or near[:1]
    seen = [visibility(city.block(place.name), camera, pose) for place in candidates]
    kept = [True] * len(candidates)
    if culled:
        shares = _shares(city, candidates, seen, position) if method == "idw" else np.ones(len(candidates))
        kept = [bool(value >= city.about.threshold and share > 0) for value, share in zip(seen, shares, strict=True)]
    if not any(kept):
        kept[0] = True
    most = 1 if method == "nearest" else _MOST if culled else len(kept)
    passed = np.cumsum(kept) <= most
    return [
        Part(place, value, bool(keep and room))
        for place, value, keep, room in zip(candidates, seen, kept, passed, strict=True)
    ]


def _shares(
    city: City, places: Sequence[Place], seen: Sequence[float], position: Float[np.ndarray, "3"]
) -> Float[np.ndarray, " places"]:
    """Of blocks in a picture by inverse distances, the nearest first; none where they would be slight, or see little, and falling to that,
    so that a block that is no longer asked doesn't vanish at once."""
    raw = np.array([inverse_distance(place, position, city.about.power) for place in places])
    threshold = city.about.threshold
    sharp = [1.0 if threshold <= 0 else min(max(value / threshold - 1, 0.0), 1.0) for value in seen]
    raw = raw * (sharp if any(sharp) else 1.0)
    raw[np.argsort(-raw, kind="stable")[_MOST:]] = 0.0
    shares = np.maximum(raw / raw.sum() - _SLIGHT, 0.0)
    return shares / shares.sum()


@torch.no_grad()
def visibility(loaded: Loaded, camera: Camera, pose: Float[np.ndarray, "4 4"]) -> float:
    """How much of a view a block thinks that its photos saw, on average, by its visibility network alone."""
    small = camera.scaled(*_LOOKED)
    rays = local(rays_of(small, pose, small.all_pixels().reshape(-1, 2)), loaded.place)
    unit = torch.nn.functional.normalize(rays.directions, dim=-1)
    points = torch.cat([rays.origins + unit * distance for distance in _DISTANCES])
    return float(torch.sigmoid(loaded.block.visibility(points, unit.repeat(len(_DISTANCES), 1))).mean())


@torch.no_grad()
def looked(loaded: Loaded, rays: Rays, appearance: Appearance, wanted: Callable[[], bool] = lambda: True) -> View:
    """What a block sees along rays.

    Args:
        loaded: the block.
        rays: in the world's metres.
        appearance: light and exposure.
        wanted: whether it still is.

    Raises:
        Abandoned: it isn't.
    """
    code = blended(loaded.codes, appearance.sessions)
    found = []
    for start in range(0, len(rays.origins), _CHUNK):
        if not wanted():
            raise Abandoned
        some = local(rays.of(slice(start, start + _CHUNK)), loaded.place)
        count = len(some.origins)
        light = Light(code.expand(count, -1), torch.full((count,), float(appearance.exposure)))
        found.append(see(loaded.block, some, light))
    return View(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def see(block: Block, rays: Rays, light: Light) -> View:
    """What rays see in a block.

    Args:
        block: whose middle is the rays' origin.
        rays: lines of sight.
        light: of each.
    """
    return block.seen(rays, light, samples_of(block, rays))[0]


@torch.no_grad()
def samples_of(block: Block, rays: Rays) -> Samples:
    """Where a block is asked along rays, for a view: nothing of it is by chance."""
    middle = torch.full((len(rays.origins),), 0.5)
    if isinstance(block.field, IpeField):
        pieces = block.dimensions.samples
        random = middle[:, None].expand(-1, 2 * pieces + 2)
        return two_passes(block.field, rays, pieces, random, block.dimensions.radius)[1]
    assert block.occupancy is not None
    return block.occupancy.samples(rays, middle, _FINER * block.dimensions.samples, _EXPLORED)


@torch.no_grad()
def met(block: Block, rays: Rays) -> Shape:
    """What rays meet that anything is seen of, to be lit many times while a code is looked for."""
    samples = samples_of(block, rays)
    return block.shape(rays, samples.of(block.shape(rays, samples).weight > _UNSEEN))


def local(rays: Rays, place: Place) -> Rays:
    """Rays in a block's own metres."""
    return Rays(rays.origins - torch.tensor(place.origin, dtype=torch.float32), *rays[1:])


def blended(codes: Float[Tensor, "sessions 32"], sessions: Sequence[float] | int) -> Float[Tensor, "32"]:
    """The code of a session, or a mixture of several."""
    if isinstance(sessions, int):
        return codes[min(max(sessions, 0), len(codes) - 1)]
    share = torch.zeros(len(codes))
    share[: len(sessions)] = torch.tensor(list(sessions), dtype=torch.float32)[: len(codes)]
    return (share[:, None] * codes).sum(0) / share.sum().clamp_min(1e-6)


def _mixture(
    city: City,
    parts: list[Part],
    views: dict[str, View],
    pose: Float[np.ndarray, "4 4"],
    rays: Rays,
    method: Method,
    culled: bool,
) -> dict[str, Float[Tensor, " rays"]]:
    """The weight of each block in each pixel; they add up to 1."""
    count = len(rays.origins)
    places, seen, position = [part.place for part in parts], [part.visibility for part in parts], pose[:3, 3]
    if culled:
        shares = _shares(city, places, seen, position)
    else:
        shares = np.array([inverse_distance(place, position, city.about.power) for place in places])
    raw = {}
    for part, share in zip(parts, shares, strict=True):
        name, place = part.place.name, part.place
        if len(parts) == 1:
            raw[name] = torch.ones(count)
        elif method in ("idw", "nearest"):
            raw[name] = torch.full((count,), float(share))
        else:
            length = rays.directions.norm(dim=-1, keepdim=True)
            unit = rays.directions / length
            points = rays.origins + unit * views[name].distance[:, None]
            if method == "idw-3d":
                away = (points[:, :2] - torch.tensor(place.origin[:2], dtype=torch.float32)).norm(dim=-1)
                raw[name] = away.clamp_min(1.0) ** -city.about.power
            else:
                here = points - torch.tensor(place.origin, dtype=torch.float32)
                seen = torch.sigmoid(city.block(name).block.visibility(here, unit))
                raw[name] = (seen if method == "pixelwise" else seen.mean().expand(count)).clamp_min(1e-6)
    total = torch.stack(list(raw.values())).sum(0)
    return {name: value / total for name, value in raw.items()}


def inverse_distance(place: Place, position: Float[np.ndarray, "3"], power: float) -> float:
    """A block's weight for a camera: the distance to its middle to the −p, and falling to nothing towards its edge, so that a block that
    comes into range doesn't appear at once."""
    away = float(np.hypot(*(position[:2] - place.origin[:2])))
    fade = min(max((1 - away / (_REACH * place.radius)) / _FADE, 0.0), 1.0)
    smooth = fade * fade * (3 - 2 * fade)
    return max(away / place.radius, 0.02) ** -power * max(smooth, 1e-6)
