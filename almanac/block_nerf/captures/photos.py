"""Photos as a machine learns from them: all their pixels in one file, read where they are needed, so that a capture may be larger than the
memory. Made once for a capture and a size."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from almanac.block_nerf.cameras import Camera, Rays, rays_of
from almanac.block_nerf.captures.capture import Capture
from almanac.runtime import checkpoint, console, pictures
from almanac.runtime.errors import UserError

_CHANNELS = 4  # red, green, blue, and whether it counts


class Batch(NamedTuple):
    """Pixels to learn from."""

    rays: Rays
    """In the world's metres."""
    photo: Int[Tensor, " rays"]
    """Which photo of the capture each is of."""
    colours: Float[Tensor, "rays 3"]
    """From 0 to 1, as the file has them."""


class Photos:
    """The pixels of a capture.

    Args:
        capture: which.
        cache: folder to keep them in.
        longest: pixels of a photo's longer side, at most; None: as they are.

    Raises:
        UserError: a photo can't be read, or has another size than its camera, or a mask another than its photo.
    """

    def __init__(self, capture: Capture, cache: Path, longest: int | None = None):
        self.capture = capture
        self.cameras = [_smaller(camera, longest) for camera in capture.cameras]
        sizes = np.array([(self.cameras[at].height, self.cameras[at].width) for at in capture.camera]).reshape(-1, 2)
        self._sizes, self._starts = sizes, np.concatenate([[0], np.cumsum(sizes.prod(1))])
        self._path = cache / f"{self._identity()}.pixels"
        if not self._path.exists():
            self._make()

    @cached_property
    def _pixels(self) -> UInt8[np.ndarray, "pixels channels"]:
        return np.memmap(self._path, np.uint8, "r", shape=(int(self._starts[-1]), _CHANNELS))

    def photo(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """One photo."""
        return np.array(self._whole(number)[..., :3])

    def counts(self, number: int) -> np.ndarray:
        """Which of its pixels count."""
        return self._whole(number)[..., 3] > 0

    def batch(self, count: int, random: np.random.Generator, masked: bool = True) -> Batch:
        """Some pixels of all photos, drawn at random.

        Args:
            count: how many.
            random: what draws.
            masked: whether only those are drawn that count.
        """
        drawn = random.integers(0, self._starts[-1], count + count // 2 if masked else count)
        pixels = self._pixels[drawn]
        if masked:
            kept = np.flatnonzero(pixels[:, 3])
            if not len(kept):
                raise UserError("masks leave nothing to learn from", "white is what counts, black is left out")
            chosen = np.resize(kept, count)
            drawn, pixels = drawn[chosen], pixels[chosen]
        photo = np.searchsorted(self._starts, drawn, "right") - 1
        down, across = np.divmod(drawn - self._starts[photo], self._sizes[photo, 1])
        places = np.stack([across, down], -1) + 0.5
        rays = self.rays(photo, places)
        return Batch(rays, torch.from_numpy(photo), torch.from_numpy(pixels[:, :3].astype(np.float32) / 255))

    def rays(self, photo: Int[np.ndarray, " rays"], places: Float[np.ndarray, "rays 2"]) -> Rays:
        """The rays through places of photos.

        Args:
            photo: which of the capture.
            places: across and down, in pixels.
        """
        found = Rays(torch.empty(len(photo), 3), torch.empty(len(photo), 3), torch.empty(len(photo)))
        camera, poses = self.capture.camera[photo], self.capture.poses[photo]
        for each in np.unique(camera):
            here = np.flatnonzero(camera == each)
            for whole, part in zip(found, rays_of(self.cameras[each], poses[here], places[here]), strict=True):
                whole[here] = part
        return found

    def _whole(self, number: int) -> np.ndarray:
        height, width = (int(each) for each in self._sizes[number])
        return self._pixels[self._starts[number] : self._starts[number + 1]].reshape(height, width, _CHANNELS)

    def _identity(self) -> str:
        facts = [[name, (self.capture.folder / name).stat().st_size] for name in self.capture.images]
        text = json.dumps([str(self.capture.folder.resolve()), facts, self._sizes.tolist(), self.capture.masks])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _make(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(f".{os.getpid()}.part")  # another process may make the same
        try:
            out = np.memmap(part, np.uint8, "w+", shape=(int(self._starts[-1]), _CHANNELS))
        except OSError as error:
            raise checkpoint.cannot_write(part, error) from None
        with ThreadPoolExecutor() as pool, console.progress("reading photos", len(self.capture), "photos") as advance:
            for number, pixels in enumerate(pool.map(self._read, range(len(self.capture)))):
                out[self._starts[number] : self._starts[number + 1]] = pixels.reshape(-1, _CHANNELS)
                advance(1)
        out.flush()
        part.rename(self._path)

    def _read(self, number: int) -> UInt8[np.ndarray, "height width channels"]:
        path = self.capture.folder / self.capture.images[number]
        picture = pictures.read_picture(path).convert("RGB")
        camera = self.capture.cameras[self.capture.camera[number]]
        if abs(picture.width / picture.height - camera.width / camera.height) > 0.02 * camera.width / camera.height:
            what = f"{path} is {picture.width}x{picture.height}, and its camera {camera.width}x{camera.height}"
            raise UserError(what, "give w and h of the photos")
        height, width = (int(each) for each in self._sizes[number])
        mask = np.full((height, width, 1), 255, np.uint8)
        name = self.capture.masks[number]
        if name is not None:
            mask = self._mask(self.capture.folder / name, picture, (width, height))
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BOX, reducing_gap=3.0))
        return np.concatenate([pixels, mask], -1)

    def _mask(self, path: Path, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
        mask = pictures.read_picture(path).convert("L")
        if mask.size != picture.size:
            what = f"the mask {path} is {mask.width}x{mask.height}, and its photo {picture.width}x{picture.height}"
            raise UserError(what, "masks have the size of their photos")
        small = np.asarray(mask.resize(size, Image.Resampling.BOX))
        return np.where(small > 254, 255, 0).astype(np.uint8)[..., None]  # a pixel that is masked in part doesn't count


def _smaller(camera: Camera, longest: int | None) -> Camera:
    if longest is None or max(camera.width, camera.height) <= longest:
        return camera
    part = longest / max(camera.width, camera.height)
    return camera.scaled(max(round(camera.width * part), 1), max(round(camera.height * part), 1))
