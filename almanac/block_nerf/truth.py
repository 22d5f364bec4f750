"""What only the maker of a city knows: where cameras were, how far away everything is, and what is behind cars that drive by."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from almanac.block_nerf.capture_city.capture_city import CAPTURE, TRUTH
from almanac.block_nerf.captures import transforms
from almanac.block_nerf.captures.capture import Capture
from almanac.runtime import pictures
from almanac.runtime.errors import UserError


class Truth:
    """Beside a capture of `capture-city`.

    Args:
        folder: of the capture.

    Raises:
        UserError: it has no truth.
    """

    def __init__(self, folder: Path):
        self._folder = Path(folder) / TRUTH
        if not (self._folder / CAPTURE).is_file():
            raise UserError(f"{folder} has no {TRUTH}", "make a capture with almanac block-nerf capture-city")
        said = transforms.read(self._folder / CAPTURE)
        self._poses = {Path(name).stem: pose for name, pose in zip(said.images, said.poses, strict=True)}

    def poses(self, capture: Capture) -> Float[np.ndarray, "photos 4 4"]:
        """Where the cameras of some photos were."""
        return np.stack([self._poses[Path(name).stem] for name in capture.images])

    def distance(self, capture: Capture, number: int) -> Float[np.ndarray, "height width"]:
        """Metres along the rays of a photo to what stands still; infinite in the sky."""
        with np.load(self._folder / "distance" / f"{Path(capture.images[number]).stem}.npz") as found:
            return found["distance"].astype(np.float32)

    def has_static(self, capture: Capture, number: int) -> bool:
        """Whether a photo was taken without cars that drive, too."""
        return self._static(capture, number).is_file()

    def static(self, capture: Capture, number: int) -> Float[np.ndarray, "height width 3"]:
        """A photo without cars that drive, from 0 to 1."""
        return np.asarray(pictures.read_picture(self._static(capture, number)).convert("RGB"), np.float32) / 255

    def _static(self, capture: Capture, number: int) -> Path:
        return self._folder / "static" / Path(capture.images[number]).with_suffix(".jpg").name
