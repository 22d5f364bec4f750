"""A race: cars on the grid or rolling, drivers who decide ten times a second, a steward who watches, and a recording. A recording holds
the start and every decision; the simulator makes the same race of it, to the last bit."""

import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.sophy import steady
from almanac.sophy.sim import road, step, world
from almanac.sophy.sim.car import CarSpec, TyreSpec
from almanac.sophy.sim.road import Road
from almanac.sophy.sim.track import Track

RATE = 10
"""Decisions a second."""
_ROW, _ASIDE = 8.0, 2.5
"""Between two places on the grid along the track, and from the centre line to the side, m."""
_CUT, _RAM = 1.0, 3.0
"""s of penalty for a cut, beside what it gained, and for driving into the rear of a car."""
_HARD = 3.0
"""m/s from which driving into a car is punished."""
_FORMAT = 1


@runtime_checkable
class Decides(Protocol):
    """A driver of one or more cars."""

    def act(self, cars: world.Cars, where: Road, numbers: Int[np.ndarray, " some"], each: int) -> np.ndarray:
        """Steering and pedal, −1 to 1, of these cars."""
        ...


@dataclass(frozen=True)
class Recording:
    """All of a race."""

    track: Track
    spec: CarSpec
    names: tuple[str, ...]
    """Of the drivers."""
    s: Float[np.ndarray, " cars"]
    """Where each began, m; below 0: before the line."""
    offset: Float[np.ndarray, " cars"]
    speed: Float[np.ndarray, " cars"]
    aided: tuple[bool, ...]
    """Whose brakes and throttle are held back from slipping."""
    decisions: Float[np.ndarray, "decisions cars 2"]


@dataclass(frozen=True)
class Place:
    """How a car ended."""

    place: int
    name: str
    laps: int
    time: float
    """s, with penalties; of those who did not finish: nan."""
    best_lap: float
    """s; nan: none."""
    penalty: float
    """s."""
    off_course: float
    """s."""
    contacts: int
    """Decisions in which it touched a car."""


def grid(count: int, rolling: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places before the line in two files, the first in front: s, offset (m) and speed (m/s).

    Args:
        count: cars.
        rolling: m/s at which they come; 0: they stand.
    """
    at = np.arange(count)
    return -10.0 - _ROW * at, np.where(at % 2 == 0, _ASIDE, -_ASIDE), np.full(count, rolling)


def run(
    track: Track,
    spec: CarSpec,
    drivers: Sequence[tuple[str, Decides, bool]],
    laps: int,
    rolling: float = 0.0,
    longest: float = 1800.0,
) -> tuple[Recording, list[Place]]:
    """Race until all have finished, or nobody drives any more.

    Args:
        track: where.
        spec: in which car.
        drivers: name, driver, and whether its car has aids; the first starts in front.
        laps: to be driven.
        rolling: m/s at the start; 0: from a stand.
        longest: s after which the race is stopped.

    Raises:
        UserError: there are no drivers, or more than 20.
    """
    if not 1 <= len(drivers) <= 20:
        raise UserError(f"{len(drivers)} drivers", "give 1 to 20")
    s, offset, speed = grid(len(drivers), rolling)
    aided = tuple(each[2] for each in drivers)
    names = tuple(each[0] for each in drivers)
    begun = Recording(track, spec, names, s, offset, speed, aided, np.zeros((0, len(drivers), 2), np.float32))
    scene = Scene(begun)
    steward = Steward(scene, laps)
    made: list[np.ndarray] = []
    for _ in range(round(longest * RATE)):
        wishes = np.concatenate(
            [
                driver.act(scene.cars, scene.road, np.array([at]), len(drivers))
                for at, (_, driver, _) in enumerate(drivers)
            ]
        )
        made.append(wishes.astype(np.float32))
        scene.decide(made[-1])
        steward.watch()
        if steward.is_over:
            break
    decisions = np.stack(made)
    return Recording(track, spec, names, s, offset, speed, aided, decisions), steward.places(names)


class Scene:
    """A race under way.

    Args:
        recording: its start.
    """

    def __init__(self, recording: Recording):
        spec, count = recording.spec, len(recording.names)
        self.track, self.spec, self.count = recording.track, spec, count
        self.road = road.road(recording.track)
        self._car, self._drive = step.numbers(spec)
        self._size = world.size(spec)
        self.cars = world.cars(1, count)
        places = road.places(recording.track, recording.s, recording.offset)
        world.place(self.cars, spec, self.road, np.arange(count), places, recording.s, recording.speed)
        aided = np.array(recording.aided, np.float32)
        self.cars.given[step.ABS], self.cars.given[step.TRACTION] = aided, aided

    def decide(self, wishes: Float[np.ndarray, "cars 2"], watch: Any = None) -> None:
        """A tenth of a second.

        Args:
            wishes: steering and pedal of each.
            watch: called after each frame.
        """
        wishes = wishes.clip(-1, 1)
        given = self.cars.given
        given[step.STEER_TO] = wishes[:, 0] * self.spec.steering
        given[step.THROTTLE_TO], given[step.BRAKE_TO] = wishes[:, 1].clip(0), (-wishes[:, 1]).clip(0)
        self.cars.hits[:] = 0
        self.cars.hit_speed[:] = 0
        for _ in range(world.FRAMES // RATE):
            world.frame(self.road, self._car, self._drive, self._size, self.cars, self.count)
            if watch is not None:
                watch()


class Steward:
    """Watches a race after each decision: who cuts, who drives into whom, who is done.

    Args:
        scene: the race.
        laps: to be driven.
    """

    def __init__(self, scene: Scene, laps: int):
        self.scene, self.laps = scene, laps
        count = scene.count
        self.limit = steady.speeds(scene.spec, scene.track.curvature, scene.track.step)
        self.penalty, self.best = np.zeros(count), np.full(count, np.nan)
        self.contacts = np.zeros(count, int)
        self.finished = np.full(count, np.nan)
        self.still = np.zeros(count)
        self._left = np.full((count, 2), np.nan)  # where and when each left the track
        self._touching = np.zeros((count, count), bool)

    def watch(self) -> None:
        """Look at the last decision."""
        cars, now = self.scene.cars, float(self.scene.cars.clock[0])
        for at in range(self.scene.count):
            if cars.lap_time[at] > 0:
                self.best[at] = np.nanmin((self.best[at], cars.lap_time[at]))
            if np.isnan(self.finished[at]) and cars.gates[at] > self.laps * world.GATES:
                self.finished[at] = cars.passed[at, 0]
            self._cut(at, now)
            self._ram(at)
        still = np.abs(cars.state[step.VX]) < 1.0
        self.still = np.where(still, self.still + 1 / RATE, 0.0)

    @property
    def is_over(self) -> bool:
        """Whether everybody is done, or nobody goes on."""
        return bool((~np.isnan(self.finished) | (self.still > 10)).all())

    def places(self, names: Sequence[str]) -> list[Place]:
        """The result."""
        cars = self.scene.cars
        time = self.finished + self.penalty
        order = sorted(range(len(names)), key=lambda at: (np.isnan(time[at]), time[at], -cars.travelled[at]))
        return [
            Place(
                place,
                names[at],
                int(max((cars.gates[at] - 1) // world.GATES, 0)),
                round(float(time[at]), 3),
                round(float(self.best[at]), 3),
                round(float(self.penalty[at]), 2),
                round(float(cars.off_time[at]), 2),
                int(self.contacts[at]),
            )
            for place, at in enumerate(order, 1)
        ]

    def _cut(self, at: int, now: float) -> None:
        """Whoever comes back sooner than anybody could have driven there pays what that gained, and a second."""
        cars = self.scene.cars
        if cars.off[at]:
            if np.isnan(self._left[at, 0]):
                self._left[at] = cars.travelled[at], now
            return
        if not np.isnan(self._left[at, 0]):
            began, since = self._left[at]
            gap = self.scene.track.step
            on_the_way = np.arange(began, cars.travelled[at], gap) / gap
            could = float((gap / self.limit[on_the_way.astype(int) % len(self.limit)]).sum())
            if could > now - since:
                self.penalty[at] += could - (now - since) + _CUT
            self._left[at] = np.nan

    def _ram(self, at: int) -> None:
        """Whoever drives hard into a car's rear pays, once a contact."""
        cars = self.scene.cars
        touching = (cars.hits[at] & world.TOUCHED) > 0
        rammed = ((cars.hits[at] & world.FROM_BEHIND) > 0) & (cars.hit_speed[at] > _HARD) & ~self._touching[at]
        self.penalty[at] += _RAM * rammed.sum()
        self.contacts[at] += int(touching.any())
        self._touching[at] = touching


def write(recording: Recording, path: Path) -> None:
    """Write a recording (.npz).

    Raises:
        UserError: it can't be written.
    """
    facts = {
        "format": _FORMAT,
        "spec": asdict(recording.spec),
        "names": recording.names,
        "aided": recording.aided,
        "track": {
            each.name: getattr(recording.track, each.name) for each in fields(Track) if each.type in (str, float)
        },
    }
    arrays = {each.name: getattr(recording.track, each.name) for each in fields(Track) if each.type not in (str, float)}
    held = io.BytesIO()
    np.savez_compressed(
        held,
        facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
        **{f"track_{name}": values for name, values in arrays.items()},
        s=recording.s,
        offset=recording.offset,
        speed=recording.speed,
        decisions=recording.decisions,
    )
    checkpoint.write_atomic(path, lambda file: file.write(held.getvalue()))


def read(path: Path) -> Recording:
    """Read a recording.

    Raises:
        UserError: it can't be read, or is none.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            facts = json.loads(found["facts"].tobytes())
            if facts["format"] != _FORMAT:
                raise UserError(f"{path} is of format {facts['format']}", f"this reads format {_FORMAT}")
            names = {each.name for each in fields(Track)} - facts["track"].keys()
            track = Track(**facts["track"], **{name: found[f"track_{name}"] for name in names})
            tyres = {name: TyreSpec(**facts["spec"].pop(name)) for name in ("tyre_front", "tyre_rear")}
            spec = CarSpec(**facts["spec"], **tyres)
            rows = (found[name] for name in ("s", "offset", "speed"))
            return Recording(track, spec, tuple(facts["names"]), *rows, tuple(facts["aided"]), found["decisions"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} can't be read as a recording ({error})", "give what a race wrote (.npz)") from None
