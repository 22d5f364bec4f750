"""A race that people and machines drive, frame by frame, 60 a second: who is in which car, what the pedals ask, laps, resets and penalties.
It knows no clock and no network: the same presses in the same frames give the same race, to the last bit. Its pace is `live`'s."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from almanac.runtime.errors import UserError
from almanac.sophy import drive, opponents, race, view
from almanac.sophy.names import NAMES
from almanac.sophy.race import Decides, Scene, Start
from almanac.sophy.sim import car as car_files
from almanac.sophy.sim import dynamics, road, step, track, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track
from almanac.sophy.steward import Event, Steward

MOST_LAPS = 50
ROLLING = 30.0
"""m/s of a rolling start."""
_ENDLESS = 10_000
"""Laps of a time trial, which nobody ends."""
_TRACED = 3
"""Frames between two points of a lap's trace."""
_LONGEST_LAP = 600.0
"""s, after which a lap is no longer traced."""
_APART, _SLOTS = 8.0, 60
"""m to the next car of a place where one is put down, and how many places are tried."""
_SPINS = 0.5
"""rad/s between two rows of the table of gears."""


@dataclass(frozen=True)
class Rival:
    """A car that no person drives."""

    kind: Literal["built-in", "sophy"]
    skill: float = 1.0
    """Of a built-in driver."""
    policy: str = ""
    """Which of Sophy's."""


@dataclass(frozen=True)
class Plan:
    """What is driven."""

    track: str = "solstice"
    car: str = "gt3"
    mode: Literal["race", "trial"] = "race"
    """In a time trial each car is alone: others are seen, and neither met nor followed."""
    laps: int = 3
    """Of a race."""
    speed: float = 0.0
    """m/s at the start; 0: cars stand."""
    rivals: tuple[Rival, ...] = ()


def plan_of(said: Any, policies: Mapping[str, Path]) -> Plan:
    """A plan from what somebody asks for.

    Args:
        said: `track`, `car`, `mode`, `laps`, `rolling`, and `rivals` with `kind` and `skill` or `policy`, as JSON has them.
        policies: Sophy's, by the names they are asked for.

    Raises:
        UserError: it can't be driven.
    """
    if not isinstance(said, Mapping):
        raise UserError("the plan is no object", "give track, car, mode, laps and rivals")
    found: dict[str, Any] = {"speed": ROLLING if said.get("rolling") is True else 0.0}
    known = {"track": track.names(), "car": car_names(), "mode": ["race", "trial"]}
    for name, names in known.items():
        found[name] = said.get(name, getattr(Plan, name))
        if found[name] not in names:
            raise UserError(f"there is no {name} '{str(found[name])[:40]}'", f"give one of {', '.join(names)}")
    found["laps"] = said.get("laps", Plan.laps)
    if not isinstance(found["laps"], int) or not 1 <= found["laps"] <= MOST_LAPS:
        raise UserError(f"laps: {str(found['laps'])[:40]}", f"give a whole number from 1 to {MOST_LAPS}")
    rivals = said.get("rivals", [])
    if not isinstance(rivals, list) or len(rivals) >= race.MOST:
        raise UserError("too many rivals", f"a race has {race.MOST} cars, and you drive one")
    return Plan(**found, rivals=tuple(_rival(each, policies) for each in rivals))


def _rival(said: Any, policies: Mapping[str, Path]) -> Rival:
    said = said if isinstance(said, Mapping) else {}
    if said.get("kind") == "sophy":
        if said.get("policy") not in policies:
            known = ", ".join(policies) or "none is here yet: `almanac sophy train` makes one"
            raise UserError(f"there is no driver '{str(said.get('policy'))[:40]}'", f"known: {known}")
        return Rival("sophy", policy=str(said["policy"]))
    skill = said.get("skill", 1.0)
    if said.get("kind") != "built-in" or not isinstance(skill, int | float) or not opponents.LEAST <= skill <= 1:
        raise UserError(
            f"there is no driver {str(dict(said))[:60]}", "give built-in with a skill of 0.5 to 1, or sophy"
        )
    return Rival("built-in", round(float(skill), 2))


def car_names() -> list[str]:
    """Cars that ship."""
    return sorted(each.stem for each in car_files.CARS.glob("*.toml"))


class Press(NamedTuple):
    """What a person presses."""

    sequence: int = 0
    """Of the packet that said so; comes back with the car, so that the client knows what was heard."""
    steering: float = 0.0
    """−1 to 1 (left)."""
    pedal: float = 0.0
    """−1 (brake) to 1."""
    abs: bool = True
    """Whether brakes are held back from slipping."""
    traction: bool = True
    """Whether the throttle is."""


class LapDone(NamedTuple):
    """A lap that a person has driven."""

    who: int
    name: str
    time: float
    """s."""
    spoilt: str
    """Why it counts for nothing; empty: it is clean."""
    aided: bool
    """Whether ABS or traction control was on at any time."""
    trace: Float[np.ndarray, "points 5"]
    """s since the line, m east and north, rad, m along the track since the line; float32."""


@dataclass
class Person:
    """Somebody in a car."""

    who: int
    """Number among all that drive, as snapshots and rosters have it."""
    name: str
    press: Press = field(default_factory=Press)
    spoilt: str = ""
    aided: bool = False
    off_time: float = 0.0
    """s, when the lap began; so `wall_time`."""
    wall_time: float = 0.0
    trace: list[tuple[float, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Ground:
    """What takes long to make, made once: the track, the drivers' practice, the rules, and machine code."""

    plan: Plan
    track: Track
    car: CarSpec
    scene: Scene
    """Of one car; others are made after it."""
    marshals: "Marshals"
    drivers: tuple[tuple[Decides, Int[np.ndarray, " some"]], ...]
    """And which cars they drive."""
    names: tuple[str, ...]
    """Of the cars that no person drives."""
    notes: tuple[str, ...]
    """What people should know."""
    gears: Int[np.ndarray, " spins"]
    """The gear that is in, by how fast the driven wheels turn; 0: the car has none."""


def prepare(plan: Plan, policies: Mapping[str, Path], tell: Callable[[str], None] = lambda doing: None) -> Ground:
    """Make all that takes seconds or, the first time, minutes.

    Args:
        plan: what is driven.
        policies: Sophy's, by name.
        tell: is told what is being done.

    Raises:
        UserError: a driver can't be had, or does not drive this car.
    """
    tell("laying the track")
    where, car = track.find(plan.track), car_files.load(plan.car)
    scene = Scene(where, car, 1, Start(speed=plan.speed))
    # Aids are each car's own, so that people can switch theirs.
    body, engine = scene.numbers
    scene.numbers = body, engine._replace(abs=np.float32(0), traction=np.float32(0))
    laps = plan.laps if plan.mode == "race" else _ENDLESS
    marshals = Marshals(scene, laps)
    names, drivers, notes = [""] * len(plan.rivals), [], []
    built = [at for at, each in enumerate(plan.rivals) if each.kind == "built-in"]
    if built:
        tell("the built-in drivers practise")
        skills = [plan.rivals[at].skill for at in built]
        drivers.append((opponents.Drivers(where, car, skills), np.array(built)))
        for at, name in zip(built, NAMES, strict=False):
            names[at] = f"{name} {plan.rivals[at].skill:.2f}"
    for policy in dict.fromkeys(each.policy for each in plan.rivals if each.kind == "sophy"):
        tell(f"loading {policy}")
        trained = drive.load(str(policies[policy]), car)
        if not trained.knows(where):
            notes.append(f"{policy} was not trained on {where.name}")
        theirs = [at for at, each in enumerate(plan.rivals) if each.policy == policy]
        drivers.append((drive.Sophy(trained, where, car), np.array(theirs)))
        for order, at in enumerate(theirs, 1):
            number = f" {order}" if len(theirs) > 1 else ""  # first, as long names are cut
            names[at] = f"Sophy{number} {policy.removeprefix('sophy/')}"
    ground = Ground(plan, where, car, scene, marshals, tuple(drivers), tuple(names), tuple(notes), _gears(car))
    tell("compiling the simulator")
    tried = Heat(ground)
    for name in ("a", "b")[: race.MOST - len(names)]:
        tried.join(name)
    for _ in range(2 * opponents.HOLD):
        tried.frame({})
    tried.reset(tried.people[0].who)
    return ground


def _gears(car: CarSpec) -> Int[np.ndarray, " spins"]:
    """The gear with the most power at each of the driven wheels' speeds."""
    engine = car.drive()
    spins = np.arange(0, 400, _SPINS)
    if engine.gears is None:
        return np.zeros(len(spins), np.int64)
    each = [
        [float(dynamics.full_power(engine.power, engine.gears._replace(ratios=(ratio,)), spin)) for spin in spins]
        for ratio in engine.gears.ratios
    ]
    return np.argmax(each, 0) + 1


class Marshals(Steward):
    """The steward of a race that cars join and leave, or whose cars are alone."""

    def begin(self, scene: Scene) -> "Marshals":
        """Another one, for a race that begins."""
        fresh = copy.copy(self)
        fresh.events = []
        fresh._take(scene, np.full(scene.count, -1))
        return fresh

    def reseat(self, scene: Scene, kept: Int[np.ndarray, " cars"]) -> None:
        """Cars came or went.

        Args:
            scene: the race as it is now.
            kept: where each of its cars was before; −1: nowhere.
        """
        now = {int(was): at for at, was in enumerate(kept) if was >= 0}
        met = {-1: -1, **now}
        self.events = [
            replace(each, car=now[each.car], other=met.get(each.other, -1)) for each in self.events if each.car in now
        ]
        self._take(scene, kept)

    def look(self) -> None:
        """Look at the last decision; where cars are alone, they touch nobody."""
        cars = self.scene.cars
        if cars.hits.shape[1] == self.scene.count:
            super().look()
            return
        now = float(cars.clock[0]) - self.scene.countdown
        for at in range(self.scene.count):
            self._leave(at, now)
            if cars.wall[at] and not self._wall[at]:
                self.events.append(Event(now, "wall", at))
        self._wall[:] = cars.wall

    def _take(self, scene: Scene, kept: Int[np.ndarray, " cars"]) -> None:
        count, new, was = scene.count, np.flatnonzero(kept >= 0), kept[kept >= 0]
        self.scene = scene
        self.sectors = [list(self.sectors[at]) if at >= 0 else [] for at in kept]
        self._gates, self._offset = scene.cars.gates.copy(), scene.cars.offset.copy()
        left, warned = np.full((count, 2), np.nan), np.zeros(count, int)
        wall, touched = np.zeros(count, bool), np.full((count, count), -np.inf)
        left[new], warned[new], wall[new] = self._left[was], self._warned[was], self._wall[was]
        touched[np.ix_(new, new)] = self._touched[np.ix_(was, was)]
        self._left, self._warned, self._wall, self._touched = left, warned, wall, touched


class Heat:
    """A race under way. Rivals have the first numbers, and people those after them.

    Args:
        ground: where, and against whom.
    """

    def __init__(self, ground: Ground):
        self.ground, self.people = ground, list[Person]()
        self.restart()

    def restart(self) -> None:
        """All begin anew."""
        count = len(self.ground.plan.rivals) + len(self.people)
        self.frames, self.events = 0, list[tuple[int, str, float]]()
        self.laps_done, self.finished = list[LapDone](), dict[int, float]()
        self.scene = self._scene(count)
        at = np.arange(count)
        self._put(at, at)
        self.marshals = self.ground.marshals.begin(self.scene)
        self._told = 0
        self.penalties = np.zeros(count)
        for person in self.people:
            person.press = person.press._replace(steering=0.0, pedal=0.0)
            self._begin_lap(person)
        for at in range(len(self.ground.plan.rivals)):
            self._aid(at, self.ground.car.abs, self.ground.car.traction)

    @property
    def ids(self) -> list[int]:
        """Who drives each car."""
        return [*range(len(self.ground.plan.rivals)), *(each.who for each in self.people)]

    @property
    def names(self) -> tuple[str, ...]:
        """Of who drives each car."""
        return (*self.ground.names, *(each.name for each in self.people))

    @property
    def clock(self) -> float:
        """s since cars were let go; below 0: they are held."""
        return float(self.scene.cars.clock[0]) - self.scene.countdown if self.scene.count else 0.0

    @property
    def is_over(self) -> bool:
        """Whether all people have finished."""
        return bool(self.people) and all(each.who in self.finished for each in self.people)

    def join(self, name: str) -> Person:
        """Somebody gets a car: the last on the grid, or, while others drive, one that stands behind the line.

        Raises:
            UserError: all cars are taken.
        """
        taken = set(self.ids)
        if len(taken) >= race.MOST:
            raise UserError(f"all {race.MOST} cars are taken", "join another race")
        person = Person(next(each for each in range(race.MOST) if each not in taken), name)
        began = self.frames > 0
        kept = np.append(np.arange(self.scene.count), -1)
        self.people.append(person)
        self._reseat(kept)
        at = self.scene.count - 1
        slot = at
        while began and slot < at + _SLOTS and not self._is_free(*self._slot(slot), at):
            slot += 1
        self._put(np.array([at]), np.array([slot]))
        if at:
            self.scene.cars.clock[at] = self.scene.cars.clock[0]
        self.marshals.reseat(self.scene, np.append(np.arange(at), -1))
        self._begin_lap(person)
        return person

    def leave(self, who: int) -> None:
        """Somebody's car is taken away."""
        gone = self.number(who)
        self.people = [each for each in self.people if each.who != who]
        kept = np.delete(np.arange(self.scene.count), gone)
        self._reseat(kept)
        self.marshals.reseat(self.scene, kept)
        self._told = len(self.marshals.events)
        self.finished.pop(who, None)

    def number(self, who: int) -> int:
        """Of somebody's car in all arrays."""
        return self.ids.index(who)

    def reset(self, who: int) -> None:
        """Put somebody's car back onto the track, where it left it; it stands. The lap counts for nothing."""
        person, at = self._person(who), self.number(who)
        cars, length = self.scene.cars, self.scene.road.length
        kept = {name: getattr(cars, name)[at].copy() for name in _REMEMBERED}
        here = float(cars.travelled[at])
        tries = ((here - 4.0 * (n // 3), (0.0, 2.5, -2.5)[n % 3]) for n in range(_SLOTS))
        s, offset = next((each for each in tries if self._is_free(*each, at)), (here, 0.0))
        spots = road.places(self.ground.track, np.array([s % length]), np.array([offset]))
        number = np.array([at])
        world.place(cars, self.ground.car, self.scene.road, number, spots, np.array([s]), np.zeros(1))
        for name, value in kept.items():
            getattr(cars, name)[at] = value
        person.spoilt = person.spoilt or "the car was put back"

    def frame(self, presses: Mapping[int, Press]) -> None:
        """A sixtieth of a second.

        Args:
            presses: what people press; who says nothing presses what they did before.
        """
        scene, cars = self.scene, self.scene.cars
        if not scene.count:
            return
        for person in self.people:
            person.press = presses.get(person.who, person.press)
        if self.frames % opponents.HOLD == 0:
            self._decide()
        self._obey()
        before = cars.gates.copy()
        world.frame(scene.road, *scene.numbers, scene.size, cars, cars.hits.shape[1])
        self.frames += 1
        self.marshals.pass_gates()
        if self.frames % opponents.HOLD == 0:
            self.marshals.look()
        self._watch_laps(before)
        self._hear()

    def places(self) -> list[dict[str, Any]]:
        """The order, with who finished when, as JSON takes it."""

        def known(value: float) -> float | None:
            return round(value, 3) if math.isfinite(value) else None

        ids = self.ids
        return [
            {
                "place": each.place, "who": ids[each.car], "name": each.name, "laps": each.laps,
                "time": known(each.time), "gap": known(each.gap), "penalty": round(each.penalty, 1),
                "best": known(min(each.lap_times, default=math.nan)),
            }
            for each in self.marshals.places(self.names)
        ]  # fmt: skip

    def _decide(self) -> None:
        """Rivals decide ten times a second, as in any race."""
        scene, cars, given = self.scene, self.scene.cars, self.scene.cars.given
        self._held = scene.is_held
        cars.hits[:], cars.hit_speed[:] = 0, 0
        for driver, numbers in self.ground.drivers:
            wishes = np.zeros((len(numbers), 2), np.float32)
            wishes[:] = np.clip(driver.act(cars, numbers, cars.hits.shape[1]), -1, 1)
            given[step.STEER_TO, numbers] = wishes[:, 0] * np.float32(self.ground.car.steering)
            given[step.THROTTLE_TO, numbers], given[step.BRAKE_TO, numbers] = (
                wishes[:, 1].clip(0),
                (-wishes[:, 1]).clip(0),
            )
            if self._held:
                given[step.THROTTLE_TO, numbers], given[step.BRAKE_TO, numbers] = 0, 1

    def _obey(self) -> None:
        """People's pedals, each frame."""
        given, first = self.scene.cars.given, len(self.ground.plan.rivals)
        for at, person in enumerate(self.people, first):
            press = person.press
            pedal = -1.0 if self._held else press.pedal
            given[step.STEER_TO, at] = press.steering * self.ground.car.steering
            given[step.THROTTLE_TO, at], given[step.BRAKE_TO, at] = max(pedal, 0.0), max(-pedal, 0.0)
            self._aid(at, press.abs, press.traction)
            person.aided |= press.abs or press.traction

    def _aid(self, at: int, abs_on: bool, traction_on: bool) -> None:
        self.scene.cars.given[step.ABS, at], self.scene.cars.given[step.TRACTION, at] = abs_on, traction_on

    def _watch_laps(self, before: Int[np.ndarray, " cars"]) -> None:
        """Who crossed the line, whose lap is spoilt, and where people are along it."""
        cars, first = self.scene.cars, len(self.ground.plan.rivals)
        for at, person in enumerate(self.people, first):
            gates = int(cars.gates[at])
            if gates != before[at] and (gates - 1) % world.GATES == 0:
                if gates > world.GATES and cars.lap_time[at] > 0 and person.trace:
                    time, trace = float(cars.lap_time[at]), np.array(person.trace, np.float32)
                    self.laps_done.append(LapDone(person.who, person.name, time, person.spoilt, person.aided, trace))
                self._begin_lap(person, at)
            elif not person.spoilt:
                if cars.off_time[at] > person.off_time:
                    person.spoilt = "it left the track"
                elif cars.wall_time[at] > person.wall_time:
                    person.spoilt = "it touched the wall"
                elif (self.frames % opponents.HOLD) == 0 and cars.hits[at].any():
                    person.spoilt = "it touched another car"
            since = float(cars.clock[at] - cars.passed[at, 0])
            if cars.passed[at, 0] > -1 and since < _LONGEST_LAP and self.frames % _TRACED == 0:
                state, along = cars.state[:, at], float(cars.travelled[at])
                lap = self.scene.road.length * ((gates - 1) // world.GATES)
                person.trace.append(
                    (since, float(state[step.X]), float(state[step.Y]), float(state[step.YAW]), along - lap)
                )

    def _begin_lap(self, person: Person, at: int | None = None) -> None:
        at = self.number(person.who) if at is None else at
        cars = self.scene.cars
        person.spoilt, person.aided, person.trace = "", False, []
        person.off_time, person.wall_time = float(cars.off_time[at]), float(cars.wall_time[at])

    def _hear(self) -> None:
        """What the marshals have seen since, and who finished."""
        ids, names, seen = self.ids, self.names, self.marshals.events
        for each in seen[self._told :]:
            self.penalties[each.car] += each.penalty
            if each.kind == "finish":
                self.finished[ids[each.car]] = each.time
            if each.kind != "lap":
                self.events.append((ids[each.car], view.told(each, names), each.penalty))
        self._told = len(seen)

    def _person(self, who: int) -> Person:
        return next(each for each in self.people if each.who == who)

    def _scene(self, count: int) -> Scene:
        """A race of so many cars, which stand nowhere yet. Nothing of it takes long."""
        scene = copy.copy(self.ground.scene)
        scene.count = count
        scene.cars = world.cars(count, 1) if self.ground.plan.mode == "trial" else world.cars(1, count)
        return scene

    def _slot(self, slot: int) -> tuple[float, float]:
        """A place on the grid, as a race has it: m along the track, and to the left. Who is alone has the first one."""
        start = self.ground.scene.start
        slot = 0 if self.ground.plan.mode == "trial" else slot
        return -start.gap * (slot + 1.0), start.aside if slot % 2 == 0 else -start.aside

    def _put(self, numbers: Int[np.ndarray, " some"], slots: Int[np.ndarray, " some"]) -> None:
        """Cars on the grid; those that come later stand."""
        if not len(numbers):
            return
        s, offset = np.array([self._slot(int(each)) for each in slots]).T
        speed = np.full(len(numbers), 0.0 if self.frames else self.ground.plan.speed)
        spots = road.places(self.ground.track, s, offset)
        world.place(self.scene.cars, self.ground.car, self.scene.road, numbers, spots, s, speed)

    def _is_free(self, s: float, offset: float, own: int) -> bool:
        """Whether no other car is near a place."""
        cars = self.scene.cars
        if cars.hits.shape[1] != self.scene.count:
            return True
        x, y, _ = road.places(self.ground.track, np.array([s]), np.array([offset]))[:, 0]
        away = np.hypot(cars.state[step.X] - x, cars.state[step.Y] - y)
        away[own] = np.inf
        return bool((away > _APART).all())

    def _reseat(self, kept: Int[np.ndarray, " cars"]) -> None:
        """Other cars than before: `kept` says where each was, −1: nowhere."""
        old, self.scene = self.scene.cars, self._scene(len(kept))
        new, was = np.flatnonzero(kept >= 0), kept[kept >= 0]
        for name, values in self.scene.cars._asdict().items():
            before = getattr(old, name)
            if name in ("state", "given", "seen"):
                values[:, new] = before[:, was]
            elif name in ("hits", "hit_speed") and self.ground.plan.mode == "race":
                values[np.ix_(new, new)] = before[np.ix_(was, was)]
            else:
                values[new] = before[was]
        penalties = np.zeros(len(kept))
        penalties[new] = self.penalties[was]
        self.penalties = penalties


_REMEMBERED = ("clock", "passed", "lap_time", "off_time", "wall_time", "gates")
"""What a car that is put back keeps."""


def gear(ground: Ground, cars: world.Cars) -> Int[np.ndarray, " cars"]:
    """The gear that each car has in; 0: it has none."""
    spin = np.abs(cars.state[step.SPIN + 2 : step.SPIN + 4]).mean(0)
    return ground.gears[np.minimum(spin / _SPINS, len(ground.gears) - 1).astype(int)]
