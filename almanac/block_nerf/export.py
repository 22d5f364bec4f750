"""What leaves a city: films, distances and points, for other programs."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float

from almanac.block_nerf.cameras import Camera, level
from almanac.block_nerf.city import City
from almanac.block_nerf.render import Appearance, Method, Picture, view
from almanac.runtime import checkpoint, console
from almanac.runtime.errors import UserError

_SOLID = 0.9  # opacity from which on a pixel is of something
_FAR = 60.0  # metres, to which points are kept
_LOOKS = 6  # directions from each place
_BITRATE = 6_000_000


def film(
    city: City,
    camera: Camera,
    poses: Sequence[Float[np.ndarray, "4 4"]],
    path: Path,
    appearances: Sequence[Appearance],
    method: Method = "idw",
    rate: int = 30,
) -> dict[str, Any]:
    """A film along poses.

    Args:
        city: which.
        camera: the lens; its size is brought to even numbers.
        poses: camera to world, one a picture.
        path: an MP4 to write.
        appearances: of each picture.
        method: of mixing.
        rate: pictures a second.

    Raises:
        UserError: there is no such folder, or it is full.
    """
    camera = camera.scaled(camera.width // 2 * 2, camera.height // 2 * 2)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as container,
            console.progress("filming", len(poses), "pictures") as advance,
        ):
            stream: Any = container.add_stream("libx264", rate=Fraction(rate))
            stream.width, stream.height, stream.pix_fmt = camera.width, camera.height, "yuv420p"
            stream.bit_rate = _BITRATE
            for pose, how in zip(poses, appearances, strict=True):
                pixels = np.round(view(city, camera, pose, how, method).colours * 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                advance(1)
            container.mux(stream.encode(None))
        part.rename(path)
    except OSError as error:
        raise checkpoint.cannot_write(path, error) from None
    finally:
        part.unlink(missing_ok=True)
    return {"out": str(path), "pictures": len(poses), "seconds": round(len(poses) / rate, 2)}


def distances(
    city: City, camera: Camera, poses: Sequence[Float[np.ndarray, "4 4"]], folder: Path, method: Method = "idw"
) -> dict[str, Any]:
    """Distances along rays, a NumPy file for each pose: metres, infinite in the sky.

    Args:
        city: which.
        camera: the lens.
        poses: camera to world.
        folder: of the files.
        method: of mixing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with console.progress("measuring", len(poses), "views") as advance:
        for number, pose in enumerate(poses):
            picture = view(city, camera, pose, None, method)
            found = np.where(picture.opacity > _SOLID / 2, picture.distance, np.inf).astype(np.float32)
            checkpoint.write_atomic(folder / f"{number:05d}.npy", lambda file, found=found: np.save(file, found))
            advance(1)
    return {"out": str(folder), "views": len(poses)}


def points(
    city: City, places: Sequence[Float[np.ndarray, "3"]], path: Path, appearance: Appearance, size: tuple[int, int]
) -> dict[str, Any]:
    """A cloud of coloured points of what is seen from places, all round.

    Args:
        city: which.
        places: metres.
        path: a PLY, GLB or XYZ file to write.
        appearance: whose light they have.
        size: pixels of each look, width and height.

    Raises:
        UserError: trimesh isn't installed, or doesn't know the format.
    """
    try:
        import trimesh
    except ImportError as error:
        raise UserError("trimesh, which writes points, isn't installed", "pip install 'almanac[city]'") from error
    lens = Camera(*size, (size[0] / 2, size[0] / 2), (size[0] / 2, size[1] / 2))
    where, colours = [], []
    with console.progress("looking round", len(places), "places") as advance:
        for place in places:
            for turn in range(_LOOKS):
                pose = level(place, 2 * np.pi * turn / _LOOKS)
                picture = view(city, lens, pose, appearance)
                kept = (picture.opacity > _SOLID) & (picture.distance < _FAR)
                where.append(_met(lens, pose, picture)[kept])
                colours.append(picture.colours[kept])
            advance(1)
    cloud = trimesh.PointCloud(np.concatenate(where), (np.concatenate(colours) * 255).astype(np.uint8))
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("ply", "glb", "xyz"):
        raise UserError(f"{path.name} is no PLY, GLB or XYZ", "name the file points.ply")
    data: Any = cloud.export(file_type=kind)
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomic(path, lambda file: file.write(raw))
    return {"out": str(path), "points": len(cloud.vertices)}


def _met(camera: Camera, pose: Float[np.ndarray, "4 4"], picture: Picture) -> Float[np.ndarray, "height width 3"]:
    """Where the rays of a picture end."""
    ahead = camera.directions(camera.all_pixels()) @ pose[:3, :3].T
    return pose[:3, 3] + ahead / np.linalg.norm(ahead, axis=-1, keepdims=True) * picture.distance[..., None]
