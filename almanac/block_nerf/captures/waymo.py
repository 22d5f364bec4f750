"""Waymo's Block-NeRF data set of Mission Bay, as it is handed on: TFRecord files of examples, a photo each, with a ray for every pixel (the
shutter rolls while the car drives). Rays become a pose and a lens that see them within a fraction of a pixel, since a block's poses are
corrected anyway, and a ray for each of a million pixels is ten times the photo. The data set's licence is for non-commercial use."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from almanac.block_nerf.cameras import Camera
from almanac.block_nerf.captures.capture import Capture
from almanac.runtime import checkpoint, console, pictures, tfrecords
from almanac.runtime.errors import UserError

PATTERN = "*waymo_block_nerf*.tfrecord*"
_KEYS = (
    "image_hash",
    "cam_idx",
    "equivalent_exposure",
    "height",
    "width",
    "image",
    "ray_origins",
    "ray_dirs",
    "intrinsics",
)
_SPREAD = 12  # rays across and down that a pose is fitted to


def read(folder: Path, out: Path) -> Capture:
    """A capture of the files of a folder; photos are unpacked beside it once.

    Args:
        folder: of TFRecord files; those with `validation` in their names are kept to test with.
        out: folder to put the photos in.

    Raises:
        UserError: there are none, or one is damaged or holds something else.
    """
    files = sorted(folder.glob(PATTERN))
    if not files:
        raise UserError(f"{folder} holds no files of the data set", f"they are called like {PATTERN}")
    rows: list[dict[str, Any]] = []
    with console.progress("unpacking", len(files), "files") as advance:
        for file in files:
            try:
                for features in tfrecords.examples(file):
                    rows.append({**_photo(features, file, out), "tested": "validation" in file.name})
            except tfrecords.NoExample as error:
                raise _foreign(file, str(error)) from None
            advance(1)
    cameras = {row["camera"]: number for number, row in enumerate({row["camera"]: row for row in rows}.values())}
    return Capture(
        folder=out,
        cameras=tuple(cameras),
        images=tuple(row["image"] for row in rows),
        masks=(None,) * len(rows),
        camera=np.array([cameras[row["camera"]] for row in rows]),
        poses=np.array([row["pose"] for row in rows]),
        exposures=np.array([row["exposure"] for row in rows]),
        sessions=np.zeros(len(rows), np.int64),  # one drive of 100 s
        segments=np.array([row["cam"] for row in rows]),
        tested=np.array([row["tested"] for row in rows]),
        attribution="Waymo Block-NeRF data set, for non-commercial use",
    )


def _photo(features: Mapping[str, Any], file: Path, out: Path) -> dict[str, Any]:
    missing = [key for key in _KEYS if key not in features]
    if missing:
        raise _foreign(file, f"an example has no {missing[0]}")
    height, width = (int(features[key].int64_list.value[0]) for key in ("height", "width"))
    name = f"images/{features['image_hash'].int64_list.value[0]}.png"
    data = features["image"].bytes_list.value[0]
    picture = pictures.read_picture(io.BytesIO(data))
    if picture.size != (width, height):
        raise _foreign(file, f"a photo of {picture.width}x{picture.height} is said to be {width}x{height}")
    if not (out / name).exists():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(out / name, lambda target: target.write(data))
    origins, directions = (np.array(features[key].float_list.value, np.float32) for key in ("ray_origins", "ray_dirs"))
    if len(origins) != 3 * height * width or len(directions) != len(origins):
        raise _foreign(file, f"{name} has {len(directions) // 3} rays for {height * width} pixels")
    pose, camera = fitted(origins.reshape(height, width, 3), directions.reshape(height, width, 3))
    exposure = float(features["equivalent_exposure"].float_list.value[0])
    return {
        "image": name,
        "pose": pose,
        "camera": camera,
        "exposure": exposure,
        "cam": int(features["cam_idx"].int64_list.value[0]),
    }


def fitted(
    origins: Float[np.ndarray, "height width 3"], directions: Float[np.ndarray, "height width 3"]
) -> tuple[Float[np.ndarray, "4 4"], Camera]:
    """The pose and the lens that see given rays.

    Args:
        origins: of each pixel's ray.
        directions: of each, of any length.
    """
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    height, width = directions.shape[:2]
    rows, columns = (np.linspace(0, size - 1, _SPREAD).round().astype(int) for size in (height, width))
    seen = directions[rows][:, columns].reshape(-1, 3).astype(float)
    seen /= np.linalg.norm(seen, axis=-1, keepdims=True)
    across, down = (each.ravel() for each in np.meshgrid(columns + 0.5, rows + 0.5))
    middle = directions[height // 2, width // 2].astype(float)
    right = directions[height // 2, -1].astype(float) - directions[height // 2, 0]
    forward = middle / np.linalg.norm(middle)
    right -= forward * (right @ forward)
    right /= np.linalg.norm(right)
    start = np.column_stack([right, np.cross(right, forward), -forward])
    angle = np.arccos(np.clip(seen[0] @ seen[_SPREAD - 1], -1, 1))
    focal = width / 2 / np.tan(angle / 2)

    def away(x: np.ndarray) -> np.ndarray:
        turned = Rotation.from_rotvec(x[:3]).as_matrix() @ start
        camera = Camera(width, height, (x[3], x[3]), (x[4], x[5]), "RADIAL", (x[6], x[7]))
        here = camera.directions(np.stack([across, down], -1)) @ turned.T
        return (here / np.linalg.norm(here, axis=-1, keepdims=True) - seen).ravel() * focal

    found = least_squares(
        away, [0, 0, 0, focal, width / 2, height / 2, 0, 0], x_scale=[1e-2] * 3 + [focal, width, height, 1e-2, 1e-2]
    ).x
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(found[:3]).as_matrix() @ start
    pose[:3, 3] = origins.reshape(-1, 3).mean(0)
    bent = (round(float(found[6]), 6), round(float(found[7]), 6))
    focal = round(float(found[3]), 3)
    return pose, Camera(
        width, height, (focal, focal), (round(float(found[4]), 3), round(float(found[5]), 3)), "RADIAL", bent
    )


def _foreign(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file} is no part of Waymo's Block-NeRF data set: {reason}",
        "give its TFRecord files, as they were downloaded",
    )
