"""What COLMAP found out about photos, and having it find out (Schönberger and Frahm 2016): poses by pycolmap, with settings for a camera
that drives forwards; with those it begins with, two photos of thirty are kept."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from almanac.block_nerf.cameras import MODELS, Camera
from almanac.block_nerf.captures.capture import Capture
from almanac.runtime import checkpoint, console
from almanac.runtime.errors import RunFailed, UserError

PICTURES = (".jpg", ".jpeg", ".png")
FILMS = (".mp4", ".mov", ".avi", ".mkv", ".webm")

_MODELS = {"PINHOLE": 4, "SIMPLE_PINHOLE": 3, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8}
_TESTED = 8
_OVERLAP = 6  # photos before and after that one is matched to
_STEP = 1.0  # metres between photos, where nothing says how large the world is
_FRAMES_PER_SECOND = 4.0  # of a film that are taken
_SIZE = 1_024  # pixels of a photo's longer side that features are looked for in


def read(folder: Path) -> Capture:
    """A capture of a folder that COLMAP wrote: `sparse/0` (or `sparse`, or the folder itself) and `images`.

    Raises:
        UserError: there is no reconstruction, it has a camera model that isn't known, or pycolmap isn't installed.
    """
    colmap = _pycolmap()
    places = [folder / "sparse" / "0", folder / "sparse", folder / "colmap" / "sparse" / "0", folder]
    place = next((each for each in places if (each / "cameras.bin").exists() or (each / "cameras.txt").exists()), None)
    if place is None:
        raise UserError(
            f"{folder} holds no reconstruction of COLMAP's", "it is in sparse/0: cameras, images and points3D"
        )
    try:
        model = colmap.Reconstruction(place)
    except (ValueError, RuntimeError, IndexError) as error:
        raise UserError(f"{place} can't be read: {error}", "run COLMAP again") from None
    images = folder / "images"
    return _capture(model, images if images.is_dir() else folder, folder)


def reconstructed(source: Path, out: Path) -> Capture:
    """A capture of photos without poses, or of a film.

    Args:
        source: a folder of photos, in the order in which they were taken by their names, or a film.
        out: folder for the film's pictures and what COLMAP found.

    Raises:
        UserError: there are fewer than three photos, or pycolmap isn't installed.
        RunFailed: too little of them could be fitted together.
    """
    colmap = _pycolmap()
    folder = source
    if source.is_file():
        folder = out / "images"
        _unrolled(source, folder)
    names = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.suffix.lower() in PICTURES)
    if len(names) < 3:
        raise UserError(f"{folder} holds {len(names)} photos", "a block needs at least 3, better 50 or more")
    sparse = out / "sparse" / "0"
    if not (sparse / "cameras.bin").exists():
        sparse.mkdir(parents=True, exist_ok=True)
        console.log(f"finding the poses of {len(names)} photos")
        with tempfile.TemporaryDirectory(dir=out) as work:
            _mapped(colmap, folder, names, Path(work)).write(sparse)
    model = colmap.Reconstruction(sparse)
    found = _capture(model, folder, folder)
    console.log(
        f"{len(found)} of {len(names)} photos have poses, {model.compute_mean_reprojection_error():.2f} pixels off"
    )
    return found


def _mapped(colmap: Any, folder: Path, names: list[str], work: Path) -> Any:
    """The largest model of photos that fit together."""
    database = work / "database.db"
    extraction = colmap.FeatureExtractionOptions()
    extraction.max_image_size = _SIZE
    colmap.logging.minloglevel = 2
    colmap.extract_features(database, folder, names, colmap.CameraMode.AUTO, extraction_options=extraction)
    pairing = colmap.SequentialPairingOptions()
    pairing.overlap = _OVERLAP
    colmap.match_sequential(database, pairing_options=pairing)
    options = colmap.IncrementalPipelineOptions()
    # a camera that drives forwards sees the same things under small angles
    options.mapper.init_max_forward_motion = 1.0
    options.mapper.init_min_tri_angle = 2.0
    options.mapper.filter_min_tri_angle = 0.5
    options.triangulation.min_angle = 0.5
    options.mapper.init_min_num_inliers = 40
    options.mapper.abs_pose_min_num_inliers = 12
    models = colmap.incremental_mapping(database, folder, work / "sparse", options)
    best = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
    if best is None or best.num_reg_images() < 3:
        there = 0 if best is None else best.num_reg_images()
        what = f"the poses of {there} of {len(names)} photos could be found"
        raise RunFailed(
            what, "photos must overlap: take more of them, sharper ones, or give poses in a transforms.json"
        )
    return best


def _capture(model: Any, images: Path, folder: Path) -> Capture:
    shots = sorted((model.images[number] for number in model.reg_image_ids()), key=lambda image: image.name)
    if not shots:
        raise UserError(f"the reconstruction of {folder} has no photo with a pose", "run COLMAP again")
    cameras: dict[int, int] = {}
    lenses, poses = [], []
    for shot in shots:
        if shot.camera_id not in cameras:
            cameras[shot.camera_id] = len(lenses)
            lenses.append(_lens(model.cameras[shot.camera_id]))
        world = np.eye(4)
        world[:3] = shot.cam_from_world().inverse().matrix()
        poses.append(world @ np.diag([1.0, -1.0, -1.0, 1.0]))  # COLMAP's cameras look along z, y is down
    count = len(shots)
    where = np.array([cameras[shot.camera_id] for shot in shots])
    return Capture(
        folder=images,
        cameras=tuple(lenses),
        images=tuple(shot.name for shot in shots),
        masks=tuple(_mask(folder, shot.name, images) for shot in shots),
        camera=where,
        poses=upright(np.array(poses)),
        exposures=np.array([exposure_of(images / shot.name) for shot in shots]),
        sessions=np.arange(count),
        segments=np.arange(count),
        tested=np.arange(count) % _TESTED == _TESTED // 2,
    )


def upright(poses: Float[np.ndarray, "photos 4 4"]) -> Float[np.ndarray, "photos 4 4"]:
    """The same poses with z up, cameras about the origin, and the middle distance between one photo and the next a metre: a reconstruction
    doesn't know how large the world is, nor where is up; photographers hold cameras upright."""
    up = poses[:, :3, 1].mean(0)
    up /= np.linalg.norm(up)
    across = np.cross([0.0, 1.0, 0.0] if abs(up[1]) < 0.9 else [1.0, 0.0, 0.0], up)
    across /= np.linalg.norm(across)
    turn = np.stack([across, np.cross(up, across), up])
    found = np.array(poses)
    found[:, :3, :3] = turn @ poses[:, :3, :3]
    places = poses[:, :3, 3] @ turn.T
    steps = np.linalg.norm(np.diff(places, axis=0), axis=-1)
    scale = _STEP / max(float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0, 1e-9)
    found[:, :3, 3] = (places - places.mean(0)) * scale
    return found


def exposure_of(path: Path) -> float:
    """Milliseconds at ISO 100 by a photo's EXIF; NaN where it doesn't say."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            said = picture.getexif().get_ifd(0x8769)
        return float(said[0x829A]) * 1_000 * float(said.get(0x8827, 100)) / 100
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return float("nan")


def _lens(camera: Any) -> Camera:
    name = str(camera.model_name)
    if name not in MODELS:
        raise UserError(
            f"a camera has COLMAP's model {name}, which isn't known",
            f"undistort the photos, or use one of {', '.join(MODELS)}",
        )
    p = [float(each) for each in camera.params]
    one = name.startswith("SIMPLE") or name == "RADIAL"
    focal, centre, bent = ((p[0], p[0]), (p[1], p[2]), p[3:]) if one else ((p[0], p[1]), (p[2], p[3]), p[4:])
    return Camera(camera.width, camera.height, focal, centre, name, tuple(bent) if any(bent) else ())


def _mask(folder: Path, name: str, images: Path) -> str | None:
    """COLMAP's masks are called like the photo, with .png behind it."""
    for place in (folder / "masks" / f"{name}.png", folder / "masks" / Path(name).with_suffix(".png")):
        if place.exists():
            return (
                str(Path("..") / place.relative_to(images.parent))
                if images != folder
                else str(place.relative_to(folder))
            )
    return None


def _unrolled(film: Path, folder: Path) -> None:
    """Pictures of a film, a few for each second."""
    import av

    if folder.is_dir() and any(folder.iterdir()):
        return
    try:
        with av.open(str(film)) as reader:
            stream = reader.streams.video[0]
            wanted, number = 0.0, 0
            for frame in reader.decode(stream):
                if (frame.time or 0.0) >= wanted:
                    picture = frame.to_image()
                    number += 1
                    folder.mkdir(parents=True, exist_ok=True)
                    checkpoint.write_atomic(
                        folder / f"{number:05d}.jpg",
                        lambda file, picture=picture: picture.save(file, "JPEG", quality=95),
                    )
                    wanted += 1 / _FRAMES_PER_SECOND
    except (OSError, IndexError, ValueError) as error:
        raise UserError(f"{film} is no film that can be read: {error}", "give an mp4, or a folder of photos") from None


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise UserError("pycolmap, which finds poses, isn't installed", "pip install 'almanac[city]'") from error
    return pycolmap
