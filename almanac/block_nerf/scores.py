"""How near blocks come to photos that they didn't learn from (Block-NeRF, section 5). Their light isn't known, so a code for it is fitted
to the left half of each photo, and the right half is scored (as NeRF in the Wild does; to fit the whole photo would be to look at the
answer). Poses are corrected as those of their segment were."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from almanac.block_nerf.cameras import Camera, Rays
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import City, Loaded
from almanac.block_nerf.model import Block, Light, View
from almanac.block_nerf.render import Method, composed, local, met, samples_of
from almanac.block_nerf.views import compared

ITERATIONS = 100
"""In which a code is fitted."""

_RATE = 0.05  # Adam's
_LOOKED_AT = 2_048  # pixels of the left half, at most


@dataclass(frozen=True)
class Scored:
    """One photo."""

    psnr: float
    """Of the right half, where the photo's mask lets it count."""
    psnr_unmasked: float
    ssim: float
    distance: Float[np.ndarray, "height width"]
    """Metres to what is seen, of the whole photo."""
    colours: Float[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Exam:
    """A photo to be scored by."""

    camera: Camera
    pose: Float[np.ndarray, "4 4"]
    photo: Float[np.ndarray, "height width 3"]
    """From 0 to 1."""
    counts: Bool[np.ndarray, "height width"]
    """Where it does."""
    rays: Rays
    """Of all its pixels, in the world's metres."""
    exposure: Float[Tensor, " rays"]
    """Over the city's middle one."""
    segment: int
    session: int

    @classmethod
    def of(cls, photos: Photos, number: int, exposure: float) -> "Exam":
        """One of a capture's photos.

        Args:
            photos: exposures and segments are looked up in their capture.
            number: of the photo.
            exposure: the city's middle one.
        """
        capture = photos.capture
        camera = photos.cameras[capture.camera[number]]
        places = camera.all_pixels().reshape(-1, 2)
        known = capture.exposures[number]
        share = float(known / exposure) if np.isfinite(known) else 1.0
        return cls(
            camera,
            capture.poses[number],
            (photos.photo(number) / 255).astype(np.float32),
            photos.counts(number),
            photos.rays(np.full(len(places), number), places),
            torch.full((len(places),), share),
            int(capture.segments[number]),
            int(capture.sessions[number]),
        )

    def code(self, loaded: Loaded, fitted: bool = True) -> Float[Tensor, "32"]:
        """The code of the photo's light.

        Args:
            loaded: the block.
            fitted: whether it is fitted to the left half; else that of the photo's session is taken.
        """
        learnt = loaded.block.codes
        if not fitted or learnt is None:
            return loaded.codes[self.session % len(loaded.codes)]
        left = self.counts.copy()
        left[:, self.camera.width // 2 :] = False
        here = torch.from_numpy(np.flatnonzero(left))
        here = here[:: -(-len(here) // _LOOKED_AT) or 1]
        truth = torch.from_numpy(self.photo.reshape(-1, 3))[here]
        rays = self._from(loaded).of(here)
        # from what the block itself has learnt: codes that are matched to its neighbours' lie far from there, too far for so few iterations
        return fit_code(loaded.block, rays, self.exposure[here], truth, learnt.weight.detach().mean(0))

    @torch.no_grad()
    def seen(self, loaded: Loaded, code: Float[Tensor, "32"]) -> View:
        """What a block makes of the photo.

        Args:
            loaded: the block.
            code: of the light.
        """
        rays = self._from(loaded)
        light = Light(code.expand(len(rays.origins), -1), self.exposure)
        return loaded.block.seen(rays, light, samples_of(loaded.block, rays))[0]

    def _from(self, loaded: Loaded) -> Rays:
        return corrected(loaded, local(self.rays, loaded.place), self.segment)

    def scored(
        self, colours: Float[np.ndarray, "height width 3"], distance: Float[np.ndarray, "height width"]
    ) -> Scored:
        """How near a picture comes to the photo's right half."""
        right = slice(self.camera.width // 2, None)
        one, other = colours[:, right].clip(0, 1), self.photo[:, right]
        masked, whole = compared(one, other, self.counts[:, right]), compared(one, other)
        return Scored(masked["psnr"], whole["psnr"], whole["ssim"], distance, colours)


def scored(loaded: Loaded, photos: Photos, number: int, exposure: float, fitted: bool = True) -> Scored:
    """Score a block by one photo.

    Args:
        loaded: the block.
        photos: of a capture.
        number: of the photo.
        exposure: the city's middle one.
        fitted: whether a code is fitted to the left half; else that of the photo's session is taken.
    """
    exam = Exam.of(photos, number, exposure)
    view = exam.seen(loaded, exam.code(loaded, fitted))
    shape = exam.photo.shape
    return exam.scored(view.colours.clamp(0, 1).numpy().reshape(shape), view.distance.numpy().reshape(shape[:2]))


def scored_city(
    city: City, photos: Photos, number: int, method: Method = "idw", *, fitted: bool = True, culled: bool = True
) -> Scored:
    """Score a city by one photo: each block makes of it what it can, and the pictures are mixed.

    Args:
        city: which.
        photos: of a capture.
        number: of the photo.
        method: of mixing.
        fitted: whether each block's code is fitted to the left half.
        culled: whether blocks that see next to nothing are left out.
    """
    exam = Exam.of(photos, number, city.about.exposure)
    picture = composed(
        city,
        exam.camera,
        exam.pose,
        lambda loaded, _: exam.seen(loaded, exam.code(loaded, fitted)),
        method,
        culled=culled,
    )
    return exam.scored(picture.colours, picture.distance)


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
    with torch.enable_grad():
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
