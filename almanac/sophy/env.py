"""The simulator as an environment of Gymnasium's vector API: ten decisions a second for each car, what Sophy sees (Wurman et al. 2022,
Methods), and its reward, term by term. Numbers are scaled by fixed ranges, so that actors and learners never disagree."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from jaxtyping import Float, Int

from almanac.nn.compiled import compiled_exactly
from almanac.runtime.errors import UserError
from almanac.sophy import steady
from almanac.sophy.sim import car as car_files
from almanac.sophy.sim import dynamics, road, step, track, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.road import Road
from almanac.sophy.sim.track import Track

RATE = 10
"""Decisions a second."""
TERMS = ("progress", "off_course", "wall", "tyre_slip", "passing", "collision", "rear_end", "unsporting")
"""Of the reward, as weights name them."""
_PLAIN = 30
"""Numbers of an observation about the car alone."""
_OTHER = 7
"""And about each other car."""
_NEAR, _FAR = (10.0, 4.0), (45.0, 12.0)
"""m ahead and m aside that are 1 where a point of the course is reached at once, and how many more for each s until it is: what is near
is known to the decimetre, what is far need not be."""
_AHEAD, _BEHIND = 40.0, 20.0
"""m along the track between which passing is rewarded (Extended Data Table 1)."""

_CAREFUL = 0.85
"""The part of the grip that the speeds of starts are of."""


@dataclass(frozen=True)
class Weights:
    """Of the reward's terms; the defaults are Maggiore's (Wurman et al. 2022, Extended Data Table 1)."""

    progress: float = 1.0
    """Per m along the centre line, none while off course."""
    off_course: float = 0.01
    """Per s off course and (km/h)²."""
    wall: float = 0.01
    """Per s at a wall and (km/h)²."""
    tyre_slip: float = 0.25
    """Per slip ratio × slip angle, rad, of all tyres."""
    passing: float = 0.5
    """Per m gained on a car nearby."""
    collision: float = 4.0
    """Per decision with a contact."""
    rear_end: float = 0.1
    """Per (m/s)² into a car ahead."""
    unsporting: float = 0.0
    """Per decision with a contact that is one's own fault."""


@dataclass(frozen=True)
class Sight:
    """What an observation holds."""

    points: int = 60
    """Of each line of the course."""
    lines: tuple[float, ...] = (1.0, 0.0, -1.0)
    """Which lines: 1 is the left edge, 0 the centre, −1 the right edge."""
    seconds: float = 6.0
    """How far ahead they go, at the speed of the moment."""
    ahead: int = 7
    """Cars in front that are seen, nearest first."""
    behind: int = 7
    reach: float = 100.0
    """m along the track within which they are."""


@dataclass(frozen=True)
class Rules:
    """How an episode goes."""

    seconds: float = 150.0
    """Its length."""
    stuck: float = 3.0
    """s below 1 m/s after which a car's episode ends; a race goes on while one of its cars drives."""
    lost: float = math.inf
    """s off the track, or across it or backwards, after which it ends likewise: nothing that follows is worth practising."""
    start: tuple[float, float] = (0.3, 1.0)
    """Speeds at the start, as parts of what the bend there allows."""
    gap: float = 15.0
    """m between cars of a race at its start."""
    weights: Weights = field(default_factory=Weights)


class Starts(NamedTuple):
    """Where cars begin, those of a race one after the other."""

    s: Float[np.ndarray, " cars"]
    """m along the track."""
    offset: Float[np.ndarray, " cars"]
    """m to the left of its centre line."""
    speed: Float[np.ndarray, " cars"]
    """m/s."""
    heading: Float[np.ndarray, " cars"] | None = None
    """To the road, rad; none: along it."""
    moving: Float[np.ndarray, "rows cars"] | None = None
    """All that `sim.step` knows of a car from `step.VX` on; none: it rolls straight on."""


Begin = Callable[["Racing", int], Starts]
"""Where so many races of an environment begin."""


def make(
    track_name: str | Path | Track,
    car: str | CarSpec = "f1_2014",
    cars: int = 1,
    each: int = 1,
    *,
    sight: Sight = Sight(),
    rules: Rules = Rules(),
    begin: Begin | None = None,
) -> "Racing":
    """Make an environment.

    Args:
        track_name: a track's file, or the name of one that is at hand, such as `Norisring`.
        car: a car's name or file.
        cars: how many, all of them environments of the vector.
        each: cars of a race; 1: each is alone.
        sight: what is observed.
        rules: how an episode goes.
        begin: where races begin; none: anywhere (`anywhere`).

    Raises:
        UserError: there is no such track or car, or the numbers can't be.
    """
    found = track_name if isinstance(track_name, Track) else track.find(track_name)
    spec = car if isinstance(car, CarSpec) else car_files.load(car)
    return Racing(found, spec, cars, each, sight, rules, begin or anywhere)


class Racing(gymnasium.vector.VectorEnv):
    """Cars on a track.

    Args:
        course: the track.
        spec: which car all of them are.
        cars: how many.
        each: cars of a race.
        sight: what is observed.
        rules: how an episode goes.
        begin: where races begin.
    """

    def __init__(self, course: Track, spec: CarSpec, cars: int, each: int, sight: Sight, rules: Rules, begin: Begin):
        if not 1 <= each <= 20 or cars < 1 or cars % each:
            raise UserError(
                f"{cars} cars in races of {each} can't be", "give races of 1 to 20 cars, and a multiple of them"
            )
        self.course, self.vehicle, self.each, self.sight, self.rules = course, spec, each, sight, rules
        self.begin = begin
        self.road = road.road(course)
        narrowest = float((self.road.points[:, road.LEFT] + self.road.points[:, road.RIGHT]).min())
        if narrowest < spec.width + 0.5:
            raise UserError(
                f"{course.name} is {narrowest:.1f} m wide somewhere, and {spec.name} {spec.width} m", "widen it"
            )
        self.car, self.drive = step.numbers(spec)
        self.size = world.size(spec)
        self.cars = world.cars(cars // each, each)
        self.limits = steady.speeds(spec, course.curvature, course.step, _CAREFUL)
        self.num_envs = cars
        self.seen = observed(sight)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.seen,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, cars)
        self.action_space = batch_space(self.single_action_space, cars)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self.slow, self.astray = np.zeros(cars), np.zeros(cars)
        self.terms = np.zeros((len(TERMS), cars))
        """Of the last decision, each times its weight."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "cars numbers"], dict[str, Any]]:
        """Begin anew: all cars somewhere on the track, rolling.

        Args:
            seed: of all that is random from here on.
            options: `s` (m along the track), `offset` (m to the left) and `speed` (m/s) of each car, instead of random ones.
        """
        super().reset(seed=seed)
        self._begin(np.arange(self.num_envs), options)
        return self._observe(), {}

    def step(self, actions: Float[np.ndarray, "cars 2"]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:  # pyright: ignore
        """A tenth of a second.

        Args:
            actions: steering (1: left, at most what the car has) and pedal (1: throttle, −1: brake), cut to [−1, 1].

        Returns:
            Observations, rewards, who ended, who ran out of time, and: `terms` of the reward, `lap_time` of who finished a lap in this
            decision (0: nobody), `gone` (who would have ended, were it alone in its race), `final_obs` of those who begin anew
            (`_final_obs`: which).

        Raises:
            UserError: an action is not a number.
        """
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, 2):
            raise UserError(f"actions have the shape {actions.shape}", f"give {(self.num_envs, 2)}")
        if not np.isfinite(actions).all():
            bad = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
            raise UserError(f"the action of car {bad} is {actions[bad].tolist()}", "give numbers from −1 to 1")
        actions = actions.clip(-1, 1)
        laps = self.cars.gates // world.GATES
        given = self.cars.given
        given[step.STEER_TO] = actions[:, 0] * self.vehicle.steering
        given[step.THROTTLE_TO], given[step.BRAKE_TO] = actions[:, 1].clip(0), (-actions[:, 1]).clip(0)
        _decide(self.road, self.car, self.drive, self.size, self.cars, self.each, self.terms)
        self.slow = np.where(np.abs(self.cars.state[step.VX]) < 1.0, self.slow + 1 / RATE, 0.0)
        is_lost = self.cars.off | (np.abs(self.cars.angle) > 0.5 * math.pi)
        self.astray = np.where(is_lost, self.astray + 1 / RATE, 0.0)
        weights = self.rules.weights
        self.terms *= np.array([[getattr(weights, name)] for name in TERMS])
        rewards = self.terms.sum(0)
        gone = (self.slow >= self.rules.stuck) | (self.astray >= self.rules.lost - 1e-6)
        stuck = np.repeat(gone.reshape(-1, self.each).all(1), self.each)
        late = (self.cars.clock >= self.rules.seconds - 1e-6) & ~stuck
        new_lap = (self.cars.gates // world.GATES > laps) & (self.cars.lap_time > 0)
        info: dict[str, Any] = {
            "terms": dict(zip(TERMS, self.terms.copy(), strict=True)),
            "lap_time": np.where(new_lap, self.cars.lap_time, 0.0),
            "gone": gone,
        }
        seen = self._observe()
        ended = stuck | late
        if ended.any():
            info |= {"final_obs": seen.copy(), "_final_obs": ended}
            self._begin(np.flatnonzero(ended), None)
            seen[ended] = self._observe()[ended]
        return seen, rewards, stuck, late, info

    def _begin(self, numbers: Int[np.ndarray, " some"], options: dict[str, Any] | None) -> None:
        """Put the cars of some races on the track."""
        starts = self.begin(self, len(numbers) // self.each)
        for name in ("s", "offset", "speed"):
            if options and name in options:
                value = np.broadcast_to(np.asarray(options[name], float), len(numbers))
                starts = starts._replace(**{name: value})
        spots = road.places(self.course, starts.s, starts.offset)
        if starts.heading is not None:
            spots[2] += starts.heading
        world.place(self.cars, self.vehicle, self.road, numbers, spots, starts.s, starts.speed)
        if starts.moving is not None:
            self.cars.state[step.VX :, numbers] = starts.moving
        self.slow[numbers], self.astray[numbers] = 0, 0
        _look_under(self.road, self.car, self.cars)

    def _observe(self) -> Float[np.ndarray, "cars numbers"]:
        return observe(self.road, self.cars, self.vehicle, self.sight, self.each)


def anywhere(races: Racing, count: int) -> Starts:
    """Races that begin anywhere on the track, cars behind each other, somewhere across it, at a speed drawn by chance."""
    rng, length = races.np_random, races.course.length
    behind = races.rules.gap * np.arange(races.each)
    s = (rng.uniform(0, length, count)[:, None] - behind).ravel() % length
    index = np.floor(s / races.course.step).astype(int) % len(races.course.x)
    half = 0.5 * races.vehicle.width + 0.2
    offset = rng.uniform(half - races.course.right[index], races.course.left[index] - half)
    speed = np.repeat(rng.uniform(*races.rules.start, count), races.each) * races.limits[index]
    return Starts(s, offset, speed)


def observe(
    where: Road, cars: world.Cars, vehicle: CarSpec, sight: Sight, each: int
) -> Float[np.ndarray, "cars numbers"]:
    """What the drivers of all cars see.

    Args:
        where: the road.
        cars: all cars.
        vehicle: what car they are.
        sight: what is observed.
        each: cars of a race.
    """
    count = cars.nearest.shape[0]
    seen = np.zeros((count, observed(sight)), np.float32)
    weight = vehicle.mass * dynamics.GRAVITY
    how = _How(sight.points, sight.seconds, sight.ahead, sight.behind, sight.reach, each, weight, vehicle.steering)
    _observe(where, cars, np.array(sight.lines, np.float64), how, seen)
    return seen


class _How(NamedTuple):
    """What a compiled observation is told."""

    points: int
    seconds: float
    ahead: int
    behind: int
    reach: float
    each: int
    weight: float
    steering: float


def observed(sight: Sight) -> int:
    """Numbers of an observation."""
    others = (sight.ahead + sight.behind) * _OTHER + 2 if sight.ahead + sight.behind else 0
    return _PLAIN + 3 * len(sight.lines) * sight.points + others


@compiled_exactly
def _look_under(where: Road, car: Any, them: world.Cars) -> None:
    for number in range(them.nearest.shape[0]):
        world.under(where.points, where.step, car, them, number)


@compiled_exactly
def _decide(where: Road, car: Any, drive: Any, body: Any, them: world.Cars, each: int, terms: np.ndarray) -> None:
    """Six frames, and the terms of the reward for them, not yet weighted."""
    count = them.nearest.shape[0]
    began, off, wall = them.travelled.copy(), them.off_time.copy(), them.wall_time.copy()
    was_off = them.off.copy()
    them.hits[:] = 0
    them.hit_speed[:] = 0
    for _ in range(world.FRAMES // RATE):
        world.frame(where, car, drive, body, them, each)
    for number in range(count):
        moved = them.travelled[number] - began[number]
        kmh = 3.6 * math.sqrt(them.state[step.VX, number] ** 2 + them.state[step.VY, number] ** 2)
        terms[0, number] = 0.0 if them.off[number] or was_off[number] else moved
        terms[1, number] = -(them.off_time[number] - off[number]) * kmh * kmh
        terms[2, number] = -(them.wall_time[number] - wall[number]) * kmh * kmh
        slip = 0.0
        for wheel in range(4):
            ratio = min(abs(them.seen[step.SLIP + wheel, number]), 1.0)
            slip += ratio * abs(them.seen[step.ANGLE + wheel, number])
        terms[3, number] = -slip
        passing, touched, rear, fault = 0.0, 0.0, 0.0, 0.0
        first = number - number % each
        for other in range(each):
            if first + other == number:
                continue
            theirs = them.travelled[first + other] - began[first + other]
            gap = road.apart(where.length, them.travelled[number], them.travelled[first + other])
            before = gap - theirs + moved
            if -_BEHIND <= gap <= _AHEAD or -_BEHIND <= before <= _AHEAD:
                passing += before - gap
            bits = them.hits[number, other]
            if bits & world.TOUCHED:
                touched = 1.0
                if bits & world.FROM_BEHIND:
                    rear += them.hit_speed[number, other] ** 2
                backwards = them.hits[first + other, number - first] & world.FROM_BEHIND
                if bits & world.FROM_BEHIND or not backwards:
                    fault = 1.0
        terms[4, number], terms[5, number], terms[6, number], terms[7, number] = passing, -touched, -rear, -fault


@compiled_exactly
def _observe(where: Road, them: world.Cars, lines: np.ndarray, how: _How, seen: np.ndarray) -> None:
    points, gap = where.points, where.step
    state = them.state
    for number in range(them.nearest.shape[0]):
        out, index, along = seen[number], them.nearest[number], them.along[number]
        vx, vy, turn = state[step.VX, number], state[step.VY, number], state[step.TURN, number]
        slope = road.between(points, gap, index, along, road.SLOPE)
        bank = road.between(points, gap, index, along, road.BANK)
        out[0], out[1], out[2] = vx / 30 - 1, _bent(vy / 2), vx * math.sin(slope) / 5
        out[3], out[4] = _bent(4 * turn), vx * points[index, road.DIP] * 5
        out[5], out[6] = state[step.AX, number] / 15, state[step.AY, number] / 15
        out[7] = (them.given[step.WEIGHT, number] - dynamics.GRAVITY) / 5
        for wheel in range(4):
            out[8 + wheel] = them.seen[step.LOAD + wheel, number] / (0.5 * how.weight) - 0.5
            out[12 + wheel] = _bent(10 * them.seen[step.ANGLE + wheel, number])
            out[16 + wheel] = _bent(10 * them.seen[step.SLIP + wheel, number])
        phase = 2 * math.pi * (index * gap + along) / where.length
        out[20], out[21], out[22], out[23] = math.sin(phase), math.cos(phase), 10 * slope, 10 * bank
        out[24] = _bent(5 * them.angle[number])
        out[25], out[26] = 1.0 * them.wall[number], 1.0 * them.off[number]
        out[27] = _bent(10 * state[step.STEER, number])
        out[28], out[29] = state[step.THROTTLE, number], state[step.BRAKE, number]
        speed = math.sqrt(vx * vx + vy * vy)
        _course(points, gap, them, number, lines, how, max(speed, 5.0), out)
        if how.each > 1 and how.ahead + how.behind > 0:
            _others(where.length, them, number, how, out, _PLAIN + 3 * lines.shape[0] * how.points)


@compiled_exactly
def _bent(value: float) -> float:
    """A number whose small values matter most: at the limit, a hundredth of a radian is much, and in a spin, more is no news."""
    return 4 * math.tanh(value / 4)


@compiled_exactly
def _course(
    points: np.ndarray,
    gap: float,
    them: world.Cars,
    number: int,
    lines: np.ndarray,
    how: _How,
    speed: float,
    out: np.ndarray,
) -> None:
    """Points of the course ahead, as the car sees them: ahead, to the left, and up."""
    count, state = points.shape[0], them.state
    cosine, sine = math.cos(state[step.YAW, number]), math.sin(state[step.YAW, number])
    x, y = state[step.X, number], state[step.Y, number]
    began, place, height, at = them.nearest[number] + them.along[number] / gap, _PLAIN, 0.0, 0.0
    spacing = speed * how.seconds / (how.points * gap)
    for ahead in range(how.points):
        at = began + (ahead + 1) * spacing
        whole = math.floor(at)
        part, one = at - whole, int(whole) % count
        other = one + 1 if one + 1 < count else 0
        a, b = points[one], points[other]
        middle_x = a[road.X] * (1 - part) + b[road.X] * part
        middle_y = a[road.Y] * (1 - part) + b[road.Y] * part
        normal_x = -(a[road.SINE] * (1 - part) + b[road.SINE] * part)
        normal_y = a[road.COSINE] * (1 - part) + b[road.COSINE] * part
        left = a[road.LEFT] * (1 - part) + b[road.LEFT] * part
        right = a[road.RIGHT] * (1 - part) + b[road.RIGHT] * part
        height += a[road.SLOPE] * spacing * gap
        later = (ahead + 1) * how.seconds / how.points
        far, aside = _NEAR[0] + _FAR[0] * later, _NEAR[1] + _FAR[1] * later
        for line in range(lines.shape[0]):
            reach = lines[line] * (left if lines[line] > 0 else right)
            dx, dy = middle_x + reach * normal_x - x, middle_y + reach * normal_y - y
            out[place] = (dx * cosine + dy * sine) / far
            out[place + 1] = (dy * cosine - dx * sine) / aside
            out[place + 2] = (height + reach * a[road.BANK]) / 10
            place += 3


@compiled_exactly
def _others(length: float, them: world.Cars, number: int, how: _How, out: np.ndarray, place: int) -> None:
    """The cars around: those in front, then those behind, nearest first; whether it touches any, and how sheltered it is."""
    state, each = them.state, how.each
    first = number - number % each
    touching = 0.0
    for other in range(each):
        touching = max(touching, 1.0 * (them.hits[number, other] & world.TOUCHED))
    out[place], out[place + 1] = touching, 3 * them.shelter[number]
    place += 2
    cosine, sine = math.cos(state[step.YAW, number]), math.sin(state[step.YAW, number])
    own_x, own_y, own_ax, own_ay = _moving(state, number)
    for front in range(2):
        last = -1.0
        for _ in range(how.ahead if front == 0 else how.behind):
            nearest, found = how.reach, -1
            for other in range(each):
                if first + other == number:
                    continue
                gap = road.apart(length, them.travelled[number], them.travelled[first + other])
                away = gap if front == 0 else -gap
                ahead = gap > 0 or (gap == 0 and first + other > number)
                # Equal distances come in the order of their numbers.
                if ahead == (front == 0) and away < nearest and away + 1e-9 * other > last:
                    nearest, found = away, other
            if found >= 0:
                last = nearest + 1e-9 * found + 1e-10
                other = first + found
                out[place] = 1.0
                vx, vy, ax, ay = _moving(state, other)
                dx, dy = state[step.X, other] - state[step.X, number], state[step.Y, other] - state[step.Y, number]
                along, aside = _turned(dx, dy, cosine, sine)
                out[place + 1], out[place + 2] = _bent(along / 10), _bent(aside / 3)
                along, aside = _turned(vx - own_x, vy - own_y, cosine, sine)
                out[place + 3], out[place + 4] = _bent(along / 4), _bent(aside / 4)
                along, aside = _turned(ax - own_ax, ay - own_ay, cosine, sine)
                out[place + 5], out[place + 6] = along / 8, aside / 8
            place += _OTHER


@compiled_exactly
def _moving(state: np.ndarray, number: int) -> tuple[float, float, float, float]:
    """Velocity and acceleration of a car, east and north."""
    cosine, sine = math.cos(state[step.YAW, number]), math.sin(state[step.YAW, number])
    vx, vy, ax, ay = state[step.VX, number], state[step.VY, number], state[step.AX, number], state[step.AY, number]
    return vx * cosine - vy * sine, vx * sine + vy * cosine, ax * cosine - ay * sine, ax * sine + ay * cosine


@compiled_exactly
def _turned(x: float, y: float, cosine: float, sine: float) -> tuple[float, float]:
    """What is east and north, as ahead and to the left."""
    return x * cosine + y * sine, y * cosine - x * sine
