"""A steward: watches a recorded race and says who gained by leaving the track, who drove into whom, and who won. His rules: who comes back
onto the track sooner than any car could have driven there gives back what that gained and a second more, and who leaves it without gain is
warned, and from the fourth time on pays a second; who drives into the rear of a car pays three seconds, who moves over onto a car beside
pays two; touching so lightly, or both alike, is racing."""

from dataclasses import dataclass

import numpy as np

from almanac.sophy import race, steady
from almanac.sophy.env import RATE
from almanac.sophy.race import Recording
from almanac.sophy.sim import world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

_CUT, _LEFT, _REAR, _SIDE = 1.0, 1.0, 3.0, 2.0
"""s."""
_WARNINGS = 3
_SHORT = 0.2
"""s off the track that nobody counts."""
_LIGHT_REAR, _LIGHT_SIDE = 3.0, 1.0
"""m/s of a touch that is racing."""
_MOVED = 0.5
"""m/s across by which one car came more towards the other than that towards it."""
_APART = 1.0
"""s after which a touch of the same two is another one."""


@dataclass(frozen=True)
class Event:
    """What the steward saw."""

    time: float
    """s since the race began (of those who stand, since they were let go)."""
    kind: str
    """`off`, `cut`, `wall`, `rear`, `side`, `touch`, `lap` or `finish`."""
    car: int
    """Whose it is, and who pays; cars are counted from the front of the grid."""
    other: int = -1
    """Whom it met; −1: nobody."""
    penalty: float = 0.0
    """s."""


@dataclass(frozen=True)
class Place:
    """How a car ended."""

    place: int
    car: int
    name: str
    laps: int
    time: float
    """s, with penalties; nan: it did not finish."""
    gap: float
    """s behind the winner; nan likewise."""
    lap_times: tuple[float, ...]
    """s; the first from the start."""
    sectors: tuple[tuple[float, float, float], ...]
    """Of each lap, s."""
    penalty: float
    """s."""
    off_course: float
    """s."""
    at_wall: float
    """s."""


@dataclass(frozen=True)
class Result:
    """A race, judged."""

    places: tuple[Place, ...]
    events: tuple[Event, ...]


def judge(recording: Recording, track: Track, car: CarSpec) -> Result:
    """Simulate a recorded race again and judge it.

    Raises:
        UserError: its track or car is another one.
    """
    scene = race.scene_of(recording, track, car)
    watch = Steward(scene, recording.laps)
    for wishes in recording.wishes:
        for _ in scene.frames(wishes):
            watch.pass_gates()
        watch.look()
    return Result(watch.places(recording.names), tuple(sorted(watch.events, key=lambda each: each.time)))


class Steward:
    """What he remembers of a race under way.

    Args:
        scene: the race.
        laps: to be driven.
    """

    def __init__(self, scene: race.Scene, laps: int):
        self.scene, self.laps, self.events = scene, laps, list[Event]()
        count = scene.count
        self.limit = steady.speeds(scene.car, scene.track.curvature, scene.track.step)
        self.sectors: list[list[float]] = [[] for _ in range(count)]  # when each ended
        self._gates = scene.cars.gates.copy()
        self._offset = scene.cars.offset.copy()
        self._left = np.full((count, 2), np.nan)  # where and when each left the track
        self._warned = np.zeros(count, int)
        self._wall = np.zeros(count, bool)
        self._touched = np.full((count, count), -np.inf)  # when they last did

    def pass_gates(self) -> None:
        """Note the ends of sectors in the last frame."""
        cars = self.scene.cars
        for at in np.flatnonzero(cars.gates != self._gates):
            gate = int(cars.gates[at]) - 1
            if gate > 0 and gate % (world.GATES // 3) == 0 and len(self.sectors[at]) < 3 * self.laps:
                time = float(cars.passed[at, gate % world.GATES]) - self.scene.countdown
                self.sectors[at].append(time)
                if gate % world.GATES == 0:
                    done = len(self.sectors[at]) == 3 * self.laps
                    self.events.append(Event(time, "finish" if done else "lap", int(at)))
        self._gates[:] = cars.gates

    def look(self) -> None:
        """Look at the last decision."""
        cars, count = self.scene.cars, self.scene.count
        now = float(cars.clock[0]) - self.scene.countdown
        across = (cars.offset - self._offset) * RATE
        for at in range(count):
            if len(self.sectors[at]) < 3 * self.laps:
                self._leave(at, now)
                if cars.wall[at] and not self._wall[at]:
                    self.events.append(Event(now, "wall", at))
            self._wall[at] = cars.wall[at]
            for other in range(at + 1, count):
                if cars.hits[at, other] & world.TOUCHED:
                    if now - self._touched[at, other] > _APART:
                        self.events.append(self._touch(at, other, now, across))
                    self._touched[at, other] = now
        self._offset[:] = cars.offset

    def _leave(self, at: int, now: float) -> None:
        """Whoever comes back onto the track."""
        cars, track = self.scene.cars, self.scene.track
        if cars.off[at]:
            if np.isnan(self._left[at, 0]):
                self._left[at] = cars.travelled[at], now
        elif not np.isnan(self._left[at, 0]):
            began, since = self._left[at]
            self._left[at] = np.nan
            way = (np.arange(began, cars.travelled[at], track.step) / track.step).astype(int) % len(self.limit)
            gained = float((track.step / self.limit[way]).sum()) - (now - since)
            if gained > 0:
                self.events.append(Event(now, "cut", at, penalty=gained + _CUT))
            elif now - since > _SHORT:
                self._warned[at] += 1
                self.events.append(Event(now, "off", at, penalty=_LEFT if self._warned[at] > _WARNINGS else 0.0))

    def _touch(self, one: int, other: int, now: float, across: np.ndarray) -> Event:
        """Whose a contact is."""
        cars = self.scene.cars
        speed = float(cars.hit_speed[one, other])
        rears = [bool(cars.hits[a, b] & world.FROM_BEHIND) for a, b in ((one, other), (other, one))]
        if rears[0] != rears[1]:
            guilty, victim = (one, other) if rears[0] else (other, one)
            if speed > _LIGHT_REAR:
                return Event(now, "rear", guilty, victim, _REAR)
            return Event(now, "touch", guilty, victim)
        towards = np.sign(cars.offset[other] - cars.offset[one]) * (
            across[one] + across[other]
        )  # of one more than of the other
        if speed > _LIGHT_SIDE and abs(towards) > _MOVED:
            guilty, victim = (one, other) if towards > 0 else (other, one)
            return Event(now, "side", guilty, victim, _SIDE)
        return Event(now, "touch", one, other)

    def places(self, names: tuple[str, ...]) -> tuple[Place, ...]:
        """The result."""
        cars, found = self.scene.cars, []
        for at, name in enumerate(names):
            ends, penalty = self.sectors[at], sum((each.penalty for each in self.events if each.car == at), 0.0)
            times = np.diff(np.concatenate(([0.0], ends)))
            laps = len(ends) // 3
            by_lap = times[: 3 * laps].reshape(laps, 3)
            time = ends[-1] + penalty if laps == self.laps else float("nan")
            by_lap = tuple((float(a), float(b), float(c)) for a, b, c in by_lap)
            lap_times = tuple(sum(each) for each in by_lap)
            found.append((at, name, laps, time, lap_times, by_lap, penalty))
        found.sort(key=lambda each: (np.isnan(each[3]), each[3], -cars.travelled[each[0]]))
        first = found[0][3]
        return tuple(
            Place(
                place,
                at,
                name,
                laps,
                time,
                time - first,
                lap_times,
                sectors,
                penalty,
                float(cars.off_time[at]),
                float(cars.wall_time[at]),
            )
            for place, (at, name, laps, time, lap_times, sectors, penalty) in enumerate(found, 1)
        )
