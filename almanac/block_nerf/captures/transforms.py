"""`transforms.json`, as nerfstudio, instant-ngp and our `capture-city` write it. Of our own keys there are `exposure`, `session`,
`segment` and `split` of a frame, and `crossings` of the street map; other writers' `exposure_time_s` and `iso` are understood."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from almanac.block_nerf.cameras import MODELS, Camera
from almanac.block_nerf.captures.capture import Capture, Crossing
from almanac.runtime.errors import UserError

FILE = "transforms.json"
_TESTED = 8  # one photo in so many, where the file doesn't say


def read(path: Path) -> Capture:
    """A capture.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        UserError: it can't be read, or lacks what a capture needs.
    """
    path = path / FILE if path.is_dir() else path
    try:
        said = json.loads(path.read_bytes())
        frames = said["frames"]
        if not isinstance(frames, list):
            raise TypeError("frames is no list")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}", "give a folder with a transforms.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no transforms.json: {error}", "it needs frames with file_path and transform_matrix"
        ) from None
    frames = sorted(frames, key=lambda frame: str(frame.get("file_path")))
    cameras: dict[Camera, int] = {}
    try:
        which = [cameras.setdefault(_camera({**said, **frame}, path), len(cameras)) for frame in frames]
        poses = np.array([frame["transform_matrix"] for frame in frames], float).reshape(
            -1, np.shape(frames[0]["transform_matrix"])[0], 4
        )
        poses = np.concatenate([poses[:, :3], np.tile([[[0.0, 0.0, 0.0, 1.0]]], (len(frames), 1, 1))], 1)
        splits = [frame.get("split") for frame in frames]
        return Capture(
            folder=path.parent,
            cameras=tuple(cameras),
            images=tuple(_existing(path.parent, str(frame["file_path"])) for frame in frames),
            masks=tuple(frame.get("mask_path") for frame in frames),
            camera=np.array(which),
            poses=poses,
            exposures=np.array([_exposure(frame) for frame in frames], float),
            sessions=_numbers([frame.get("session") for frame in frames]),
            segments=_numbers([frame.get("segment", frame.get("session")) for frame in frames]),
            tested=np.array([s == "test" for s in splits])
            if any(splits)
            else np.arange(len(frames)) % _TESTED == _TESTED // 2,
            crossings=tuple(
                Crossing(tuple(each["place"]), tuple(np.array(arm, float) for arm in each["arms"]))
                for each in said.get("crossings", ())
            ),
            attribution=str(said.get("attribution", "")),
            notes={name: said[name] for name in ("sessions", "note") if name in said},
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path} is no transforms.json: {type(error).__name__} {error}",
            "frames need file_path and transform_matrix",
        ) from None


def _camera(said: dict[str, Any], path: Path) -> Camera:
    model = str(said.get("camera_model", "OPENCV" if any(said.get(k) for k in ("k1", "k2", "p1", "p2")) else "PINHOLE"))
    if said.get("is_fisheye"):
        model = "OPENCV_FISHEYE"
    if model not in MODELS:
        raise UserError(
            f"{path} has the camera model {model}, which isn't known",
            f"undistort the photos, or use one of {', '.join(MODELS)}",
        )
    try:
        width, height = int(said["w"]), int(said["h"])
        across = said["fl_x"] if "fl_x" in said else 0.5 * width / np.tan(0.5 * said["camera_angle_x"])
        down = said.get("fl_y", across)
    except KeyError as error:
        raise UserError(
            f"{path} doesn't say {error.args[0]}", "a camera needs w, h and fl_x or camera_angle_x"
        ) from None
    bent = tuple(float(said.get(name, 0.0)) for name in MODELS[model])
    centre = (float(said.get("cx", width / 2)), float(said.get("cy", height / 2)))
    return Camera(width, height, (float(across), float(down)), centre, model, bent if any(bent) else ())


def _exposure(frame: dict[str, Any]) -> float:
    if frame.get("exposure") is not None:
        return float(frame["exposure"])
    if frame.get("exposure_time_s") is not None:
        return float(frame["exposure_time_s"]) * float(frame.get("iso", 100)) / 100 * 1_000  # ms at ISO 100
    return float("nan")


def _numbers(said: list[Any]) -> np.ndarray:
    """Names of groups as numbers from 0 on; who has none is a group of its own."""
    known: dict[Any, int] = {}
    return np.array(
        [known.setdefault(f"photo {at}" if each is None else each, len(known)) for at, each in enumerate(said)]
    )


def _existing(folder: Path, name: str) -> str:
    """Instant-NGP leaves the ending out."""
    if Path(name).suffix or (folder / name).exists():
        return name
    return next((name + end for end in (".png", ".jpg", ".jpeg") if (folder / (name + end)).exists()), name + ".png")
