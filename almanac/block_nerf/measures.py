"""What is measured of blocks where the truth is known, as only a rendered city has it: how well they know what they see, how much of wrong
poses they put right, how far off their surfaces are, and how a picture changes when other blocks make it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation
from sklearn.metrics import roc_auc_score

from almanac.block_nerf.cameras import Camera
from almanac.block_nerf.captures.capture import Capture
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import City, Loaded
from almanac.block_nerf.render import Appearance, Method, Picture, local, view

_ASKED = 256  # rays of a photo whose visibility is asked
_REACH = (1.0, 60.0)  # metres along a ray, between which it is asked


@dataclass(frozen=True)
class Recovered:
    """How much of what was wrong with poses is right now, in root mean squares over photos, best alignment of all to the truth taken out:
    nothing that is learnt from photos could know where north is."""

    metres_before: float
    metres_after: float
    degrees_before: float
    degrees_after: float

    @property
    def metres(self) -> float:
        """The part of the shifts that was recovered."""
        return 1 - self.metres_after / max(self.metres_before, 1e-9)

    @property
    def degrees(self) -> float:
        """The part of the turns that was recovered."""
        return 1 - self.degrees_after / max(self.degrees_before, 1e-9)


def visibility_auroc(
    loaded: Loaded, photos: Photos, distances: Sequence[Float[np.ndarray, "height width"]], seed: int = 0
) -> float:
    """How well a block tells points that a camera sees from those behind something: the area under the curve of its visibility network, 0.5
    by chance.

    Args:
        loaded: the block.
        photos: that it didn't learn from.
        distances: true ones of each, in metres along the ray; infinite in the sky.
        seed: of the points.
    """
    random = np.random.default_rng(seed)
    said, true = [], []
    for number, distance in enumerate(distances):
        camera = photos.cameras[photos.capture.camera[number]]
        places = camera.all_pixels().reshape(-1, 2)
        drawn = random.integers(0, len(places), _ASKED)
        rays = local(photos.rays(np.full(_ASKED, number), places[drawn]), loaded.place)
        unit = torch.nn.functional.normalize(rays.directions, dim=-1)
        away = (_REACH[0] * (_REACH[1] / _REACH[0]) ** random.random(_ASKED)).astype(np.float32)
        points = rays.origins + unit * torch.from_numpy(away)[:, None]
        with torch.no_grad():
            said.append(loaded.block.visibility(points, unit).numpy())
        true.append(away < distance.reshape(-1)[drawn])
    return float(roc_auc_score(np.concatenate(true), np.concatenate(said)))


def depth_error(
    found: Float[np.ndarray, "height width"],
    true: Float[np.ndarray, "height width"],
    counts: Bool[np.ndarray, "height width"],
) -> Float[np.ndarray, " pixels"]:
    """Relative errors of distances where there is something that stands still.

    Args:
        found: metres along the ray.
        true: likewise; infinite in the sky.
        counts: where nothing moves.
    """
    here = np.isfinite(true) & counts & (true > 0)
    return np.abs(found[here] - true[here]) / true[here]


def recovered(loaded: Loaded, capture: Capture, true: Float[np.ndarray, "photos 4 4"]) -> Recovered:
    """How much of wrong poses a block has put right.

    Args:
        loaded: the block.
        capture: the photos that it learnt from, with the poses that it was given.
        true: where their cameras were.
    """
    given = capture.poses
    after = np.array(given)
    known = list(loaded.facts.get("segments", []))
    poses = loaded.block.poses
    if poses is not None:
        with torch.no_grad():
            shifts, turns = poses.shifts().numpy(), poses.rotations().numpy()
        at = np.array([known.index(each) for each in capture.segments])
        after[:, :3, 3] += shifts[at]
        after[:, :3, :3] = turns[at] @ given[:, :3, :3]
    before, now = (_off(each, true) for each in (given, after))
    return Recovered(before[0], now[0], before[1], now[1])


def _off(poses: Float[np.ndarray, "photos 4 4"], true: Float[np.ndarray, "photos 4 4"]) -> tuple[float, float]:
    """Metres and degrees, when all poses were moved as one to where they are nearest to the truth."""
    turned = Rotation.from_matrix(true[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1)).mean()
    middle, wanted = poses[:, :3, 3].mean(0), true[:, :3, 3].mean(0)
    places = turned.apply(poses[:, :3, 3] - middle) + wanted
    metres = np.linalg.norm(places - true[:, :3, 3], axis=-1)
    left = turned * Rotation.from_matrix(poses[:, :3, :3]) * Rotation.from_matrix(true[:, :3, :3]).inv()
    return float(np.sqrt((metres**2).mean())), float(np.degrees(np.sqrt((left.magnitude() ** 2).mean())))


def jumps(
    city: City,
    camera: Camera,
    poses: Sequence[Float[np.ndarray, "4 4"]],
    method: Method,
    appearance: Appearance | None = None,
) -> list[float]:
    """How much each picture of a way differs from what the weights of the picture before would have made of it, in root mean squares of
    parts of full scale: what changes because other blocks are looked at, and not because the camera moves.

    Args:
        city: which.
        camera: the lens.
        poses: of a camera that moves.
        method: of mixing.
        appearance: of the pictures.
    """
    found, last = [], None
    for pose in poses:
        picture = view(city, camera, pose, appearance, method, everything=True)
        if last is not None:
            found.append(float(np.sqrt(((picture.colours - _mixed(picture, last)) ** 2).mean())))
        last = {part.place.name: part.weights for part in picture.parts if part.weights is not None}
    return found


def _mixed(picture: Picture, weights: dict) -> Float[np.ndarray, "height width 3"]:
    """A picture's parts by other weights; blocks that have no picture now keep their share among those that do."""
    parts = [part for part in picture.parts if part.view is not None and part.place.name in weights]
    if not parts:
        return picture.colours
    total = torch.stack([weights[part.place.name] for part in parts]).sum(0).clamp_min(1e-9)
    mixed = sum((weights[part.place.name] / total)[:, None] * part.view.colours for part in parts if part.view)
    assert isinstance(mixed, torch.Tensor)
    return mixed.numpy().reshape(picture.colours.shape).clip(0, 1)


def redeveloped(
    photo: Float[np.ndarray, "height width 3"], factor: float
) -> tuple[Float[np.ndarray, "height width 3"], Bool[np.ndarray, "height width"]]:
    """A photo as if it had been exposed longer, and where that is known: what is white tells nothing of a shorter exposure.

    Args:
        photo: from 0 to 1, in sRGB.
        factor: of the exposure.
    """
    linear = np.where(photo <= 0.04045, photo / 12.92, ((photo + 0.055) / 1.055) ** 2.4)
    scaled = np.clip(linear * factor, 0, 1)
    curved = np.where(scaled <= 0.0031308, 12.92 * scaled, 1.055 * scaled ** (1 / 2.4) - 0.055)
    return curved, (photo.max(-1) < 0.98) | (factor > 1)
