"""`almanac block-nerf capture-city`: photographs of a part of San Francisco as it might be, to learn from and to be measured with. What
a photographer would have is in `transforms.json`; what only a world's maker can know, true poses and distances, lies apart in `truth`."""

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image
from scipy.ndimage import binary_dilation

from almanac.block_nerf.capture_city import area as areas
from almanac.block_nerf.capture_city import drive as drives
from almanac.block_nerf.capture_city import town as towns
from almanac.block_nerf.capture_city.area import Area
from almanac.block_nerf.capture_city.drive import Drive, Shot
from almanac.block_nerf.capture_city.light import Studio, developed
from almanac.block_nerf.capture_city.meshes import Mesh
from almanac.runtime import checkpoint, console
from almanac.runtime.errors import Interrupted, RunFailed, UserError
from almanac.runtime.stopping import stop_signals

CAPTURE = "transforms.json"
TRUTH = "truth"
REQUEST = "request.json"
CROSSING_FRAMES = 120
"""Photos of a session round one crossing, if it isn't said how many crossings there are."""

_MIDDLE = 0.16  # of full scale, that a session's exposure brings the middle of its light to
_PROBES = 4  # photos by which a session's light is measured
_TEST_SAMPLES = 4  # times as many paths for a photo that is tested with
_STATIC_EVERY = 12  # of the positions with cars that drive, one in so many is taken without them, too


@dataclass(frozen=True)
class Request:
    """What is to be captured."""

    area: str
    sessions: int = 3
    """Times that all of it is driven, each in a light of its own."""
    frames: int = 240
    """Photos in all."""
    size: tuple[int, int] = (160, 120)
    """Width and height in pixels."""
    crossings: int | None = None
    """Round which; None: one for `CROSSING_FRAMES` of a session."""
    start: tuple[float, float] | None = None
    """In metres from the area's centre, near which the first crossing is; None: its middle."""
    towards: tuple[float, float] | None = None
    """The end of a street that begins at `start`: all crossings along it."""
    samples: int = 16
    """Paths a pixel."""
    removed: tuple[float, float] | None = None
    """Near which a house is gone: the city after a change."""
    seed: int = 0

    def __post_init__(self):
        for name in ("sessions", "frames", "samples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give a whole number from 1 on")
        if min(self.size) < 16 or max(self.size) > 4_096:
            raise UserError(f"photos can't be {self.size[0]}x{self.size[1]}", "give a size from 16x16 to 4096x4096")
        if self.frames < len(drives.CAMERAS) * self.sessions * 2:
            what = f"{self.frames} photos are too few for {self.sessions} sessions"
            raise UserError(what, f"give at least {len(drives.CAMERAS) * self.sessions * 2} frames, or fewer sessions")


def capture_city(request: Request, out: Path, processes: int | None = None, resume: bool = False) -> dict[str, Any]:
    """Photograph a city.

    Args:
        request: what, and how.
        out: the folder: `transforms.json`, `images`, `masks` (black where a car drives by) and `truth` (`transforms.json` with true
            poses, `distance` along each ray in metres, `static` photos of what is behind the cars).
        processes: that render at the same time; None: one a processor.
        resume: go on with what is in `out`.

    Returns:
        `frames`, `tested`, `crossings`, `segments`, and the folder.

    Raises:
        UserError: there is no such area, a house is in the way, or `out` holds a capture and `resume` is off, or one of another request.
        Interrupted: SIGTERM or Ctrl-C; the photos that were taken are there.
    """
    world = World(request)
    _claim(out, request, resume)
    missing = [shots for shots in world.positions if not all(_there(out, shot) for shot in shots)]
    total = len(world.drive.shots)
    done = total - sum(map(len, missing))
    with stop_signals() as stopped, console.progress("photographing", total, "photos", done) as advance:
        for shots in _rendered(world, missing, out, processes, stopped):
            advance(len(shots))
    _write_json(out / CAPTURE, world.told(true=False))
    _write_json(out / TRUTH / CAPTURE, world.told(true=True))
    return {
        "out": str(out),
        "frames": total,
        "tested": sum(shot.test for shot in world.drive.shots),
        "crossings": len(world.drive.crossings),
        "segments": len(world.drive.drifts),
    }


class World:
    """A request's city, its drive and its light; two of the same request are the same."""

    def __init__(self, request: Request):
        self.request = request
        area = areas.read(request.area)
        count = request.crossings or max(1, request.frames // (CROSSING_FRAMES * request.sessions))
        crossings = drives.chosen(area, count, request.start, request.towards)
        self.drive: Drive = drives.planned(area, crossings, request.sessions, request.frames, request.seed)
        self.area: Area = _without(area, request.removed) if request.removed else area
        _check_free(self.drive, self.area)
        self._studios: dict[int, Studio] = {}
        self._exposures: dict[int, float] = {}

    @cached_property
    def town(self) -> towns.Town:
        """What stands along the drive."""
        return towns.build(self.area, self.drive.route, self.request.seed)

    @cached_property
    def positions(self) -> list[list[Shot]]:
        """Shots that are taken at the same moment."""
        found: dict[str, list[Shot]] = {}
        for shot in self.drive.shots:
            found.setdefault(shot.name.rpartition("_")[0], []).append(shot)
        return list(found.values())

    @property
    def focal(self) -> float:
        """In pixels."""
        return self.request.size[0] / 2 / float(np.tan(np.radians(drives.FIELD / 2)))

    def studio(self, session: int) -> Studio:
        """A session's light."""
        if session not in self._studios:
            hour = drives.HOURS[session % len(drives.HOURS)]
            self._studios = {session: Studio(self.town, hour, (self.area.latitude, self.area.longitude))}
        return self._studios[session]

    def exposure(self, session: int) -> float:
        """That a session's light asks for."""
        if session not in self._exposures:
            mine = [shots for shots in self.positions if shots[0].session == session]
            probes = [mine[at][at % len(mine[at])] for at in np.linspace(0, len(mine) - 1, _PROBES).astype(int)]
            light = [self.studio(session).empty.photograph(each.pose, (32, 24), 16.0, 16, 0) for each in probes]
            ground = np.concatenate([each.radiance[each.distance > 0] for each in light])
            self._exposures[session] = round(_MIDDLE / max(float(np.median(ground)), 1e-6), 4)
        return self._exposures[session]

    def cars(self, shot: Shot) -> list[Mesh]:
        """That drive by when a photo is taken."""
        return [
            towns.on_ground(
                self.area, towns.painted_car(np.random.default_rng(looks)), np.array([x, y]), np.array([to_x, to_y])
            )
            for x, y, to_x, to_y, looks in shot.cars
        ]

    def told(self, true: bool) -> dict[str, Any]:
        """The capture's description, with true poses or those that are given to whoever learns from it."""
        width, height = self.request.size
        frames = []
        for shot in self.drive.shots:
            pose = shot.pose if true else drives.given(shot.pose, self.drive.drifts[shot.segment])
            frames.append(
                {
                    "file_path": f"images/{shot.name}.jpg",
                    "mask_path": f"masks/{shot.name}.png",
                    "transform_matrix": np.round(pose, 6).tolist(),
                    "exposure": round(shot.exposure * self.exposure(shot.session), 5),
                    "session": shot.session,
                    "segment": shot.segment,
                    "camera": shot.camera,
                    "split": "test" if shot.test else "train",
                }
            )
        return {
            "camera_model": "PINHOLE",
            "w": width,
            "h": height,
            "fl_x": self.focal,
            "fl_y": self.focal,
            "cx": width / 2,
            "cy": height / 2,
            "attribution": areas.ATTRIBUTION,
            "crossings": [
                {
                    "place": [*map(float, crossing.place), float(self.area.terrain(np.array(crossing.place)))],
                    "arms": [np.round(np.array(arm.coords)[:, :2], 2).tolist() for arm in crossing.arms],
                }
                for crossing in self.drive.crossings
            ],
            "sessions": [
                {**asdict(drives.HOURS[session % len(drives.HOURS)]), "exposure": self.exposure(session)}
                for session in range(self.request.sessions)
            ],
            "frames": frames,
        }


def _rendered(
    world: World, missing: Sequence[list[Shot]], out: Path, processes: int | None, stopped: Sequence[float]
) -> Iterator[list[Shot]]:
    """Positions, each as it is done."""
    count = min(processes or len(os.sched_getaffinity(0)), len(missing))
    if count <= 1:
        for shots in missing:
            if stopped:
                raise Interrupted("stopped; the photos that were taken are there", "go on with --resume")
            _take(world, shots, out)
            yield shots
        return
    with ProcessPoolExecutor(count, get_context("spawn"), _begin, (world.request, out)) as pool:
        asked = {pool.submit(_take_here, shots): shots for shots in missing}
        try:
            while asked and not stopped:
                for each in wait(asked, 1.0, FIRST_COMPLETED).done:
                    each.result()
                    yield asked.pop(each)
        except BrokenProcessPool:
            raise RunFailed(
                "a process that renders was ended", "memory may be short: --resume with fewer processes"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if stopped:
        raise Interrupted("stopped; the photos that were taken are there", "go on with --resume")


_world: tuple[World, Path] | None = None


def _begin(request: Request, out: Path) -> None:
    """In a process that renders."""
    global _world
    _world = World(request), out


def _take_here(shots: list[Shot]) -> None:
    assert _world is not None
    _take(_world[0], shots, _world[1])


def _take(world: World, shots: list[Shot], out: Path) -> None:
    """The photos of one moment, with their masks and truth."""
    missing = [shot for shot in shots if not _there(out, shot)]
    if not missing:
        return
    studio, number = world.studio(shots[0].session), int(shots[0].name.split("_")[2])
    stage = studio.with_cars(world.cars(shots[0]))
    for shot in missing:
        samples = world.request.samples * (_TEST_SAMPLES if shot.test else 1)
        exposure = shot.exposure * world.exposure(shot.session)
        seed = int(
            np.random.default_rng([world.request.seed, number, list(drives.CAMERAS).index(shot.camera)]).integers(2**31)
        )
        how = (shot.pose, world.request.size, world.focal, samples, seed)
        seen = stage.photograph(*how)
        if seen.moving.any() and (shot.test or number % _STATIC_EVERY == 0):
            static = studio.empty.photograph(*how)
            _picture(out / TRUTH / "static" / f"{shot.name}.jpg", developed(static.radiance, exposure))
        near = np.where(seen.distance > 0, seen.distance, np.inf).astype(np.float16)
        _atomic(
            out / TRUTH / "distance" / f"{shot.name}.npz",
            lambda file, near=near: np.savez_compressed(file, distance=near),
        )
        hidden = np.asarray(binary_dilation(seen.moving), bool)
        _picture(out / "masks" / f"{shot.name}.png", np.where(hidden, 0, 255).astype(np.uint8))
        _picture(out / "images" / f"{shot.name}.jpg", developed(seen.radiance, exposure))


def _there(out: Path, shot: Shot) -> bool:
    """The photo is what is written last."""
    return (out / "images" / f"{shot.name}.jpg").exists()


def _picture(path: Path, pixels: np.ndarray) -> None:
    kind = {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": 95, "subsampling": 0}
    _atomic(path, lambda file: Image.fromarray(pixels).save(file, **kind))


def _atomic(path: Path, write: Callable[[Any], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    write(buffer)
    checkpoint.write_atomic(path, lambda file: file.write(buffer.getbuffer()))


def _write_json(path: Path, said: dict[str, Any]) -> None:
    _atomic(path, lambda file: file.write(json.dumps(said, indent=1).encode() + b"\n"))


def _claim(out: Path, request: Request, resume: bool) -> None:
    """See that a folder is new, or holds a part of the same capture."""
    said = json.loads(json.dumps(asdict(request)))
    path = out / REQUEST
    if path.exists():
        if not resume:
            raise UserError(f"{out} already holds a capture", "go on with --resume, or choose another --out")
        before = json.loads(path.read_text())
        if before != said:
            wrong = next(name for name in said if before.get(name) != said[name])
            raise UserError(f"{out} was begun with {wrong} = {before.get(wrong)}", "resume with what it was begun with")
    _write_json(path, said)


def _check_free(drive: Drive, area: Area) -> None:
    houses = [house for house in area.houses if house.height > 0]
    plans = shapely.STRtree([shapely.Polygon(house.corners()) for house in houses])
    shots, inside = plans.query([shapely.Point(shot.pose[:2, 3]) for shot in drive.shots], predicate="within")
    if len(shots):
        east, north = (round(each, 1) for each in houses[inside[0]].centre)
        raise UserError(
            f"{len(set(shots))} photos would be taken inside a house, such as the one {east} m east and {north} m north",
            f"leave it out with --without-house {east} {north}, or drive elsewhere with --start",
        )


def _without(area: Area, place: tuple[float, float]) -> Area:
    """The area after its nearest house is gone. The numbers of the others, which decide their looks, stay."""
    away = [float(np.hypot(*(np.array(house.centre) - place))) for house in area.houses]
    nearest = int(np.argmin(away))
    houses = [house if at != nearest else replace(house, height=0.0) for at, house in enumerate(area.houses)]
    return replace(area, houses=tuple(houses))
