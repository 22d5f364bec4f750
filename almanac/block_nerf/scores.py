"""How near a block comes to photos that it didn't learn from (Block-NeRF, section 5). Their light isn't known, so a code for it is fitted
to the left half of each photo, and the right half is scored (as NeRF in the Wild does; to fit the whole photo would be to look at the
answer). Poses are corrected as those of their segment were."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import Loaded
from almanac.block_nerf.model import Block, Light
from almanac.block_nerf.render import local, met, samples_of
from almanac.block_nerf.views import compared

ITERATIONS = 100
"""In which a code is fitted."""

_RATE = 0.05  # Adam's


@dataclass(frozen=True)
class Scored:
    """One photo."""

    psnr: float
    """Of the right half, where the photo's mask lets it count."""
    psnr_unmasked: float
    ssim: float
    distance: Float[np.ndarray, "height width"]
    """Metres to what the block sees, of the whole photo."""
    colours: Float[np.ndarray, "height width 3"]


def scored(loaded: Loaded, photos: Photos, number: int, exposure: float, fitted: bool = True) -> Scored:
    """Score one photo.

    Args:
        loaded: the block.
        photos: of a capture; exposures and segments are looked up in it.
        number: of the photo.
        exposure: the city's middle one.
        fitted: whether a code is fitted to the left half; else that of the photo's session is taken.
    """
    capture = photos.capture
    photo = photos.photo(number) / 255
    height, width = photo.shape[:2]
    camera = photos.cameras[capture.camera[number]]
    places = camera.all_pixels().reshape(-1, 2)
    rays = local(photos.rays(np.full(len(places), number), places), loaded.place)
    rays = corrected(loaded, rays, int(capture.segments[number]))
    known = capture.exposures[number]
    share = torch.full((len(places),), float(known / exposure) if np.isfinite(known) else 1.0)
    left = torch.from_numpy(places[:, 0] < width / 2)
    truth = torch.from_numpy(photo.reshape(-1, 3).astype(np.float32))
    counts = torch.from_numpy(photos.counts(number).reshape(-1))
    code = loaded.codes[int(capture.sessions[number]) % len(loaded.codes)]
    if fitted and loaded.block.codes is not None:
        here = left & counts
        code = fit_code(loaded.block, rays.of(here.nonzero()[:, 0]), share[here], truth[here], loaded.codes.mean(0))
    with torch.no_grad():
        light = Light(code.expand(len(places), -1), share)
        view = loaded.block.seen(rays, light, samples_of(loaded.block, rays))[0]
    colours = view.colours.clamp(0, 1).numpy().reshape(height, width, 3)
    right = slice(width // 2, None)
    kept = photos.counts(number)[:, right]
    one, other = colours[:, right], photo[:, right]
    masked, whole = compared(one, other, kept), compared(one, other)
    return Scored(masked["psnr"], whole["psnr"], whole["ssim"], view.distance.numpy().reshape(height, width), colours)


def fit_code(
    block: Block,
    rays: Rays,
    exposure: Float[Tensor, " rays"],
    colours: Float[Tensor, "rays 3"],
    start: Float[Tensor, "32"],
    iterations: int = ITERATIONS,
) -> Float[Tensor, "32"]:
    """The code of a light, of pixels that were seen in it; the block stays as it is.

    Args:
        block: whose light.
        rays: of the pixels, in the block's own metres.
        exposure: of each, over the middle one.
        colours: that they have.
        start: the code to begin with.
        iterations: of Adam.
    """
    shape = met(block, rays)
    code = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([code], _RATE)
    for _ in range(iterations):
        found = block.lit(shape, rays, Light(code.expand(len(rays.origins), -1), exposure))
        optimizer.zero_grad()
        (found - colours).square().mean().backward()
        optimizer.step()
    return code.detach()


def corrected(loaded: Loaded, rays: Rays, segment: int) -> Rays:
    """Rays of a photo, as the block has learnt that its segment's poses should be."""
    known = list(loaded.facts.get("segments", []))
    if loaded.block.poses is None or segment not in known:
        return rays
    return loaded.block.poses.corrected(rays, torch.full((len(rays.origins),), known.index(segment)))
