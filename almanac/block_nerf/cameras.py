"""Cameras: from pixels to rays. A camera looks along its own −z, x is to the right and y up, as in OpenGL and nerfstudio; pixels' centres
are at halves. Directions are not of unit length but of unit depth, as mip-NeRF has them, so that a distance along a ray is a depth."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from almanac.runtime.errors import UserError

MODELS = {
    "PINHOLE": (),
    "SIMPLE_PINHOLE": (),
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2", "k3", "k4"),
    "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"),
}
"""Camera models by COLMAP's and nerfstudio's names, and their coefficients."""

_ITERATIONS = 12  # of Newton's, by which distortion is undone
_CONE = 2 / np.sqrt(12)  # a pixel's width as the radius of a disc of the same variance (mip-NeRF, section 3.1)


class Rays(NamedTuple):
    """Lines of sight."""

    origins: Float[Tensor, "rays 3"]
    """Metres."""
    directions: Float[Tensor, "rays 3"]
    """Of unit depth: longer towards a picture's corners."""
    radii: Float[Tensor, " rays"]
    """Of the cone of each at distance 1 along it."""

    def of(self, chosen: Int[Tensor, " some"] | slice) -> "Rays":
        """Some of them."""
        return Rays(*(part[chosen] for part in self))


@dataclass(frozen=True)
class Camera:
    """A lens and its picture."""

    width: int
    height: int
    focal: tuple[float, float]
    """Pixels, across and down."""
    centre: tuple[float, float]
    """Where the axis meets the picture, in pixels from its upper left corner."""
    model: str = "PINHOLE"
    """One of `MODELS`."""
    distortion: tuple[float, ...] = ()
    """The model's coefficients; those that are missing are 0."""

    def __post_init__(self):
        if self.model not in MODELS:
            raise UserError(f"there is no camera model {self.model}", f"they are {', '.join(MODELS)}")
        if len(self.distortion) > len(MODELS[self.model]):
            what = f"{self.model} has no {len(self.distortion)} coefficients of distortion"
            raise UserError(what, f"it has {len(MODELS[self.model])}: {', '.join(MODELS[self.model]) or 'none'}")
        if not (self.width > 0 and self.height > 0 and min(self.focal) > 0):
            raise UserError(f"a camera can't be {self}", "size and focal length must be above 0")

    def scaled(self, width: int, height: int) -> "Camera":
        """The same lens with another number of pixels."""
        x, y = width / self.width, height / self.height
        focal, centre = (self.focal[0] * x, self.focal[1] * y), (self.centre[0] * x, self.centre[1] * y)
        return Camera(width, height, focal, centre, self.model, self.distortion)

    def directions(self, pixels: Float[np.ndarray, "*pixels 2"]) -> Float[np.ndarray, "*pixels 3"]:
        """Where places of the picture look, in the camera's own axes.

        Args:
            pixels: across and down, in pixels from the upper left corner; the first pixel's centre is (0.5, 0.5).
        """
        x = (pixels[..., 0] - self.centre[0]) / self.focal[0]
        y = (pixels[..., 1] - self.centre[1]) / self.focal[1]
        if any(self.distortion):
            x, y = self._undistorted(x, y)
        return np.stack([x, -y, -np.ones_like(x)], -1)

    def projected(self, points: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 2"]:
        """Where points in the camera's axes are in the picture; those behind it are nowhere (NaN)."""
        depth = np.where(points[..., 2] < 0, -points[..., 2], np.nan)
        x, y = self._distorted(points[..., 0] / depth, -points[..., 1] / depth)
        return np.stack([x * self.focal[0] + self.centre[0], y * self.focal[1] + self.centre[1]], -1)

    def all_pixels(self) -> Float[np.ndarray, "height width 2"]:
        """The centres of all pixels."""
        x, y = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return np.stack([x, y], -1)

    def _distorted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = dict(zip(MODELS[self.model], self.distortion, strict=False))
        r2 = x * x + y * y
        if self.model == "OPENCV_FISHEYE":
            r = np.sqrt(np.maximum(r2, 1e-18))
            angle = np.arctan(r)
            a2 = angle * angle
            bent = 1 + a2 * (k.get("k1", 0) + a2 * (k.get("k2", 0) + a2 * (k.get("k3", 0) + a2 * k.get("k4", 0))))
            return x * angle * bent / r, y * angle * bent / r
        k1, k2, k3, k4, p1, p2 = (k.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
        return (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )

    def _undistorted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By Newton's method, with the slopes measured."""
        u, v, step = np.array(x, float), np.array(y, float), 1e-6
        if self.model == "OPENCV_FISHEYE":  # a fisheye's radius is an angle
            angle = np.clip(np.hypot(x, y), 1e-9, np.pi / 2 - 1e-3)
            u, v = x * np.tan(angle) / angle, y * np.tan(angle) / angle
        for _ in range(_ITERATIONS):
            a, b = self._distorted(u, v)
            (ax, bx), (ay, by) = self._distorted(u + step, v), self._distorted(u, v + step)
            xx, xy, yx, yy = (ax - a) / step, (ay - a) / step, (bx - b) / step, (by - b) / step
            det = xx * yy - xy * yx
            det = np.where(np.abs(det) < 1e-9, 1e-9, det)
            u, v = u - (yy * (a - x) - xy * (b - y)) / det, v - (xx * (b - y) - yx * (a - x)) / det
        return u, v


def level(place: Float[np.ndarray, "3"], heading: float) -> Float[np.ndarray, "4 4"]:
    """The pose of a camera that looks level.

    Args:
        place: where it is.
        heading: radians from x towards y.
    """
    forward = np.array([np.cos(heading), np.sin(heading), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack([np.cross(forward, [0.0, 0.0, 1.0]), [0.0, 0.0, 1.0], -forward])
    pose[:3, 3] = place
    return pose


def rays_of(camera: Camera, poses: Float[np.ndarray, "*rays 4 4"], pixels: Float[np.ndarray, "rays 2"]) -> Rays:
    """The rays through places of pictures that one camera took.

    Args:
        camera: the lens.
        poses: camera to world, metres; one, or one for each ray.
        pixels: as `Camera.directions` takes them.
    """
    here = camera.directions(pixels)
    beside = camera.directions(pixels + np.array([1.0, 0.0]))
    turned = np.einsum("ij,nj->ni" if poses.ndim == 2 else "nij,nj->ni", poses[..., :3, :3], here)
    origins = np.broadcast_to(poses[..., :3, 3], turned.shape)
    radii = np.linalg.norm(beside - here, axis=-1) * _CONE
    return Rays(*(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in (origins, turned, radii)))
