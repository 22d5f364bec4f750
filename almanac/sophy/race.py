"""A race: up to twenty cars on a grid or rolling, drivers who decide ten times a second, and a recording of the start and all their wishes,
of which the simulator makes the same race again, to the last bit. What happened in it, the steward says (`steward`)."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.sophy.env import RATE
from almanac.sophy.sim import road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

MOST = 20
"""Cars of a race."""
_FORMAT = 1
_LARGEST = 64 * 2**20
"""Bytes of a recording, unpacked."""
_STILL = 10.0
"""s that a car stands, after which nobody waits for it."""


@runtime_checkable
class Decides(Protocol):
    """A driver of one or more cars."""

    def act(self, cars: world.Cars, numbers: Int[np.ndarray, " some"], each: int) -> Float[np.ndarray, "some 2"]:
        """Steering and pedal, −1 to 1, of these cars."""
        ...


@dataclass(frozen=True)
class Start:
    """How a race starts: in two columns, staggered."""

    speed: float = 0.0
    """m/s at which all come to the line; 0: they stand."""
    countdown: float = 3.0
    """s that those who stand are held."""
    gap: float = 8.0
    """m along the track from one car to the next."""
    aside: float = 2.0
    """m from the centre line to a column."""


@dataclass(frozen=True)
class Recording:
    """All that a race is made of."""

    track: str
    """Its name."""
    track_digest: str
    car: str
    car_digest: str
    names: tuple[str, ...]
    """Of the drivers; the first starts in front."""
    laps: int
    start: Start
    seed: int
    wishes: Float[np.ndarray, "decisions cars 2"]
    """float32: steering and pedal, −1 to 1."""

    def write(self, path: Path) -> None:
        """Write it (.npz).

        Raises:
            UserError: it can't be written.
        """
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "wishes"}
        facts |= {"format": _FORMAT, "start": vars(self.start)}
        held = io.BytesIO()
        np.savez_compressed(held, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), wishes=self.wishes)
        checkpoint.write_atomic(path, lambda file: file.write(held.getvalue()))


def read(path: Path) -> Recording:
    """Read a recording.

    Raises:
        UserError: it can't be read, is none, or of a format of another time.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(each.file_size for each in packed.infolist())
        if size > _LARGEST:
            raise ValueError(f"{size} bytes unpacked, more than {_LARGEST}")
        with np.load(path, allow_pickle=False) as found:
            facts, wishes = json.loads(found["facts"].tobytes()), found["wishes"]
        if facts["format"] != _FORMAT:
            raise UserError(f"{path} is of format {facts['format']}", f"this reads format {_FORMAT}: race again")
        names = tuple(str(each) for each in facts["names"])
        if wishes.dtype != np.float32 or wishes.shape[1:] != (len(names), 2) or not 1 <= len(names) <= MOST:
            raise ValueError(f"wishes of {wishes.dtype} and shape {wishes.shape} for {len(names)} drivers")
        if not np.isfinite(wishes).all() or np.abs(wishes).max(initial=0) > 1:
            raise ValueError("wishes beyond 1")
        start = Start(**{name: float(value) for name, value in facts["start"].items()})
        if not np.isfinite(list(vars(start).values())).all():
            raise ValueError("a start that is not finite")
        track, track_digest, car, car_digest = (
            str(facts[name]) for name in ("track", "track_digest", "car", "car_digest")
        )
        laps, seed = int(facts["laps"]), int(facts["seed"])
        return Recording(track, track_digest, car, car_digest, names, laps, start, seed, wishes)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{path} can't be read as a recording ({error})", "give what a race wrote (.npz)") from None


def digest(of: Track | CarSpec) -> str:
    """What tells a track or a car from all others."""
    summed = hashlib.sha256()

    def add(value: Any) -> None:
        if is_dataclass(value):
            for each in fields(value):
                summed.update(each.name.encode())
                add(getattr(value, each.name))
        else:
            summed.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())

    add(of)
    return summed.hexdigest()


class Scene:
    """A race under way.

    Args:
        track: where.
        car: all cars.
        count: how many.
        start: how they start.
    """

    def __init__(self, track: Track, car: CarSpec, count: int, start: Start):
        self.track, self.car, self.count, self.start = track, car, count, start
        self.road, self.size = road.road(track), world.size(car)
        self.numbers = step.numbers(car)
        self.cars = world.cars(1, count)
        at = np.arange(count)
        s = -start.gap * (at + 1.0)
        offset = np.where(at % 2 == 0, start.aside, -start.aside)
        world.place(self.cars, car, self.road, at, road.places(track, s, offset), s, np.full(count, start.speed))
        self.countdown = 0.0 if start.speed > 0 else start.countdown

    def frames(self, wishes: Float[np.ndarray, "cars 2"]) -> Iterator[None]:
        """A tenth of a second, frame by frame.

        Args:
            wishes: steering and pedal of each, −1 to 1.
        """
        given, cars = self.cars.given, self.cars
        given[step.STEER_TO] = wishes[:, 0] * np.float32(self.car.steering)
        given[step.THROTTLE_TO], given[step.BRAKE_TO] = wishes[:, 1].clip(0), (-wishes[:, 1]).clip(0)
        if self.is_held:
            given[step.THROTTLE_TO], given[step.BRAKE_TO] = 0, 1
        cars.hits[:], cars.hit_speed[:] = 0, 0
        for _ in range(world.FRAMES // RATE):
            world.frame(self.road, *self.numbers, self.size, cars, self.count)
            yield

    @property
    def is_held(self) -> bool:
        """Whether the countdown still runs."""
        return bool(self.cars.clock[0] < self.countdown - 1e-6)


def run(
    track: Track,
    car: CarSpec,
    drivers: Sequence[tuple[str, Decides]],
    laps: int,
    start: Start = Start(),
    seed: int = 0,
    longest: float = 1800.0,
) -> Recording:
    """Race until all have finished, or nobody goes on.

    Args:
        track: where.
        car: in which car.
        drivers: name and driver of each car; a driver of several cars stands there for each, in its cars' order.
        laps: to be driven.
        start: how.
        seed: draws who starts where; 0: as they are given.
        longest: s after which the race is stopped.

    Raises:
        UserError: there are no drivers, more than 20, or no laps.
    """
    if not 1 <= len(drivers) <= MOST:
        raise UserError(f"{len(drivers)} drivers", f"give 1 to {MOST}")
    if laps < 1:
        raise UserError(f"{laps} laps", "give 1 or more")
    count = len(drivers)
    scene = Scene(track, car, count, start)
    order = np.random.default_rng(seed).permutation(count) if seed else np.arange(count)
    place = np.argsort(order)  # of each driver
    who = {id(driver): driver for _, driver in drivers}
    theirs = {key: np.array([place[at] for at in range(count) if id(drivers[at][1]) == key]) for key in who}
    made, still = [], np.zeros(count)
    while scene.cars.clock[0] < longest:
        wishes = np.zeros((count, 2), np.float32)
        for key, driver in who.items():
            wishes[theirs[key]] = np.clip(driver.act(scene.cars, theirs[key], count), -1, 1)
        made.append(wishes)
        for _ in scene.frames(wishes):
            pass
        still = np.where(np.abs(scene.cars.state[step.VX]) < 1.0, still + 1 / RATE, 0.0)
        done = scene.cars.gates > laps * world.GATES
        if (done | (still > _STILL + scene.countdown)).all():
            break
    names = tuple(drivers[each][0] for each in order.tolist())
    return Recording(track.name, digest(track), car.name, digest(car), names, laps, start, seed, np.stack(made))


def scene_of(recording: Recording, track: Track, car: CarSpec) -> Scene:
    """The start of a recorded race.

    Raises:
        UserError: its track or car is another one.
    """
    if digest(track) != recording.track_digest:
        raise UserError(f"the race was on another {recording.track} than {track.name}", "give the track it was on")
    if digest(car) != recording.car_digest:
        raise UserError(f"the race was with another {recording.car} than {car.name}", "give the car it was with")
    return Scene(track, car, len(recording.names), recording.start)


@dataclass(frozen=True)
class Frames:
    """A race to be drawn: 60 frames a second, all cars."""

    x: Float[np.ndarray, "frames cars"]
    """m."""
    y: Float[np.ndarray, "frames cars"]
    yaw: Float[np.ndarray, "frames cars"]
    """rad."""
    speed: Float[np.ndarray, "frames cars"]
    """m/s, ahead."""
    steering: Float[np.ndarray, "frames cars"]
    """rad."""
    throttle: Float[np.ndarray, "frames cars"]
    """0 to 1."""
    brake: Float[np.ndarray, "frames cars"]
    travelled: Float[np.ndarray, "frames cars"]
    """m along the track, since the line."""
    offset: Float[np.ndarray, "frames cars"]
    """m to the left of the centre line."""


_ROWS = (step.X, step.Y, step.YAW, step.VX, step.STEER, step.THROTTLE, step.BRAKE)


def frames(recording: Recording, track: Track, car: CarSpec) -> Frames:
    """Simulate a recorded race again, frame by frame.

    Raises:
        UserError: its track or car is another one.
    """
    scene = scene_of(recording, track, car)
    seen = []
    for wishes in recording.wishes:
        for _ in scene.frames(wishes):
            cars = scene.cars
            seen.append(np.concatenate((cars.state[_ROWS, :], (cars.travelled, cars.offset)), dtype=np.float64))
    shape = (0, len(_ROWS) + 2, scene.count)
    return Frames(*(np.stack(seen) if seen else np.zeros(shape)).transpose(1, 0, 2))
