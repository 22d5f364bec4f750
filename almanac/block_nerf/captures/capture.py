"""What was photographed: where each photo lies, how its camera stood, what is known of its light. Readers of formats make it; nothing here
opens a photo before it is asked for, so a capture of a hundred thousand is a list."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from almanac.block_nerf.cameras import Camera
from almanac.runtime.errors import UserError


@dataclass(frozen=True)
class Crossing:
    """Where streets meet, as a block's place."""

    place: tuple[float, float, float]
    arms: tuple[Float[np.ndarray, "points 2"], ...]
    """The streets from here to the next crossings."""


@dataclass(frozen=True)
class Capture:
    """Photos with poses."""

    folder: Path
    """That names of files are below."""
    cameras: tuple[Camera, ...]
    images: tuple[str, ...]
    masks: tuple[str | None, ...]
    """White where the photo counts; None: everywhere."""
    camera: Int[np.ndarray, " photos"]
    """Which of the cameras took each."""
    poses: Float[np.ndarray, "photos 4 4"]
    """Camera to world, metres, z up; a camera looks along its −z."""
    exposures: Float[np.ndarray, " photos"]
    """Shutter time × gain, in any unit that all share; NaN where it isn't known."""
    sessions: Int[np.ndarray, " photos"]
    """Which time of driving, of one light; each photo its own where that isn't known."""
    segments: Int[np.ndarray, " photos"]
    """Whose poses are wrong together."""
    tested: Bool[np.ndarray, " photos"]
    """That nothing is learnt from."""
    crossings: tuple[Crossing, ...] = ()
    """Of the street map, where there is one."""
    attribution: str = ""
    notes: dict = field(default_factory=dict)
    """What else a format says, such as the sessions' hours."""

    def __len__(self) -> int:
        return len(self.images)

    def of(self, chosen: Int[np.ndarray, " some"] | Bool[np.ndarray, " photos"]) -> "Capture":
        """Some of the photos."""
        which = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        arrays = {name: getattr(self, name)[which] for name in _ARRAYS}
        images, masks = (tuple(each[i] for i in which) for each in (self.images, self.masks))
        return replace(self, images=images, masks=masks, **arrays)

    def moved(self, poses: Float[np.ndarray, "photos 4 4"]) -> "Capture":
        """The same photos with other poses."""
        return replace(self, poses=poses)


_ARRAYS = ("camera", "poses", "exposures", "sessions", "segments", "tested")


def checked(capture: Capture) -> Capture:
    """The capture, if a city can be learnt from it.

    Raises:
        UserError: what is wrong with it.
    """
    if len(capture) < 3:
        raise UserError(
            f"{capture.folder} has {len(capture)} photos with poses", "a block needs at least 3, better 50 or more"
        )
    broken = ~np.isfinite(capture.poses).all((1, 2))
    if broken.any():
        raise UserError(f"the pose of {_named(capture, broken)} isn't made of numbers", "run the reconstruction again")
    turned = capture.poses[:, :3, :3]
    skewed = np.abs(turned @ turned.transpose(0, 2, 1) - np.eye(3)).max((1, 2)) > 1e-2
    if skewed.any():
        raise UserError(
            f"the pose of {_named(capture, skewed)} is no rotation",
            "transform_matrix is camera to world, without scaling",
        )
    absent = next((name for name in capture.images if not (capture.folder / name).is_file()), None)
    if absent is not None:
        missing = sum(not (capture.folder / name).is_file() for name in capture.images)
        raise UserError(
            f"{missing} photos of {capture.folder} are missing, such as {absent}",
            "put them there, or take them out of the list",
        )
    if capture.tested.all():
        raise UserError("all photos are kept to test with", "leave some to learn from")
    return capture


def _named(capture: Capture, which: Any) -> str:
    return capture.images[int(np.flatnonzero(which)[0])]
