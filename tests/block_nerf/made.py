"""What a test can learn from in seconds: coloured walls of a yard, photographed from its middle; and a hamlet to be photographed."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from almanac.block_nerf.cameras import Camera

SIZE = (32, 24)


def pose(place: tuple[float, float, float], heading: float) -> np.ndarray:
    """Of a level camera."""
    forward = np.array([np.cos(heading), np.sin(heading), 0.0])
    right = np.cross(forward, [0.0, 0.0, 1.0])
    found = np.eye(4)
    found[:3, :3] = np.column_stack([right, [0.0, 0.0, 1.0], -forward])
    found[:3, 3] = place
    return found


def photo(where: np.ndarray, brightness: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    """What a camera sees of a yard of 12 m, whose walls and green floor are checkered."""
    camera = Camera(*size, (size[0] / 2, size[0] / 2), (size[0] / 2, size[1] / 2))
    rays = camera.directions(camera.all_pixels()) @ where[:3, :3].T
    origin = where[:3, 3]
    with np.errstate(divide="ignore"):
        walls = np.where(rays > 0, (6 - origin) / rays, (-6 - origin) / rays)[..., :2]
        floor = np.where(rays[..., 2] < 0, -origin[2] / rays[..., 2], np.inf)
    axis, reach = walls.argmin(-1), walls.min(-1)
    point = origin + rays * np.minimum(reach, floor)[..., None]
    checks = (np.floor(point[..., 2]) + np.floor(np.where(axis == 0, point[..., 1], point[..., 0]))) % 2
    paint = np.array([[0.8, 0.3, 0.2], [0.2, 0.3, 0.8]])[axis] * (0.5 + 0.5 * checks[..., None])
    tiles = (np.floor(point[..., 0]) + np.floor(point[..., 1])) % 2
    colour = np.where((floor < reach)[..., None], np.array([0.2, 0.6, 0.2]) * (0.6 + 0.4 * tiles[..., None]), paint)
    colour = np.where((point[..., 2] > 3)[..., None], [0.6, 0.8, 1.0], colour)
    return np.round(np.clip(colour * brightness, 0, 1) * 255).astype(np.uint8)


def yard(folder: Path, photos: int = 24, sessions: int = 1) -> Path:
    """A capture of it, two photos of which are to test with."""
    frames = []
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(photos):
        session = number % sessions
        where = pose((*random.uniform(-2, 2, 2), 1.6), number * 2 * np.pi / photos * 5)
        name = f"images/{number:03d}.png"
        Image.fromarray(photo(where, 1.0 if session == 0 else 0.5)).save(folder / name)
        frames.append(
            {
                "file_path": name,
                "transform_matrix": where.tolist(),
                "session": session,
                "segment": session,
                "exposure": 1.0,
                "split": "test" if number in (5, 12) else "train",
            }
        )
    width, height = SIZE
    said = {"w": width, "h": height, "fl_x": width / 2, "cx": width / 2, "cy": height / 2, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(said))
    return folder


def hamlet(folder: Path, houses: int = 12, rise: float = 0.0) -> Path:
    """Two streets that cross, with houses along them, on a plane that may rise to the east."""
    random = np.random.default_rng(0)
    boxes = []
    for number in range(houses):
        east, north = (number % 4 - 1.5) * 30, (number // 4 - 1) * 36 + 18
        height = float(random.uniform(6, 12))
        boxes.append(
            {
                "e": east,
                "n": north,
                "ground_m": 50 + rise * east,
                "height_m": height,
                "half_u": 6,
                "half_v": 8,
                "yaw": 0.0,
            }
        )
    roads = [
        {"line": [[-90, 0], [0, 0], [90, 0]], "width_m": 9, "kind": 1},
        {"line": [[0, -90], [0, 0], [0, 90]], "width_m": 9, "kind": 1},
    ]
    said = {"name": "hamlet", "centre_lat": 37.77, "centre_lon": -122.43, "osm_boxes": boxes, "roads": roads}
    path = folder / "hamlet.json"
    path.write_text(json.dumps(said))
    return path
