"""The built-in opponents, drivers without a network: each follows the lap that practice taught it, or a slower one, by a regulator along
that lap, drives among others as `traffic` says, and finds back to its line from wherever it is."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from almanac.nn.compiled import compiled_exactly
from almanac.runtime.errors import UserError
from almanac.sophy import practice, tracking, traffic
from almanac.sophy.env import RATE
from almanac.sophy.practice import Practised
from almanac.sophy.race import digest
from almanac.sophy.sim import road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.road import Road
from almanac.sophy.sim.track import Track
from almanac.sophy.tracking import Guide

HOLD = world.FRAMES // RATE
"""Frames (1/60 s) between two decisions."""
LEAST = 0.5
"""Skill."""

_OFF_TRACK, _BACK, _BACK_MOST = 15.0, 0.05, 0.3
"""m/s off the track, and there, rad towards the line for each m beside it, and at most."""
_SLIDING, _ASTRAY = 0.35, 0.9
"""rad between where a car points and moves, or the road goes, from which it is caught or turned, before anything else."""
_FACING, _TURNING = 0.5, 7.0
"""rad from which a slow car's nose may be at a wall, and m that it needs to turn from there."""
_BACKWARDS = 2.2
"""rad from which a car faces the wrong way."""
_SLOW, _WALKING = 6.0, 5.0
"""m/s below which no slide matters, and at which it turns around."""


class Drivers:
    """Drivers of cars, one each.

    Args:
        track: the track.
        car: all their cars.
        skills: of each, `LEAST` to 1: the part of what the best of them uses of its grip.
        hold: frames (1/60 s) between two decisions.

    Raises:
        UserError: a skill is none.
    """

    def __init__(self, track: Track, car: CarSpec, skills: Sequence[float], hold: int = HOLD):
        for skill in skills:
            if not LEAST <= skill <= 1:
                raise UserError(f"skill is {skill}", f"give a number from {LEAST} to 1")
        known = _practised(track, car, hold)
        plans = {skill: practice.plan(track, car, known, skill) for skill in set(skills)}
        guides = {skill: tracking.guide(track, car, lap, hold) for skill, lap in plans.items()}
        self.line, self.plans = known.line, [plans[skill] for skill in skills]
        order = list(guides)
        self.which = np.array([order.index(skill) for skill in skills], np.int64)
        self.rows = np.stack([guide.rows for guide in guides.values()])
        self.step = guides[order[0]].step
        self.road = road.road(track)
        self.time = hold / world.FRAMES
        self.aside = np.zeros(len(skills))  # how far to the left of its line each drives among others, m
        self.patience = np.zeros(len(skills))  # s for which it will still follow a slower car
        self.car, self.drive = step.numbers(car)
        self.size, self.steering = world.size(car), car.steering

    def act(self, cars: world.Cars, numbers: Int[np.ndarray, " some"], each: int = 1) -> Float[np.ndarray, "some 2"]:
        """Steering and pedal (−1 to 1), as the environment takes them.

        Args:
            cars: all cars.
            numbers: which of them these drivers drive, as many as there are skills.
            each: cars of a race.
        """
        wishes = np.empty((len(numbers), 2), np.float32)
        _decide(
            self.rows,
            self.which,
            self.step,
            self.road,
            self.car,
            self.drive,
            self.size,
            cars,
            numbers,
            each,
            self.time,
            self.aside,
            self.patience,
            wishes,
        )
        wishes[:, 0] /= self.steering
        return wishes.clip(-1, 1)


def turned_back(
    where: Road,
    car: CarSpec,
    cars: world.Cars,
    numbers: Int[np.ndarray, " some"],
    wishes: Float[np.ndarray, "some 2"],
) -> Float[np.ndarray, "some 2"]:
    """Wishes of other drivers, but for cars that hardly move and point elsewhere than the road goes, at a wall perhaps: a built-in driver
    turns these back first.

    Args:
        where: the road.
        car: what they are.
        cars: all cars.
        numbers: of which cars.
        wishes: steering and pedal, −1 to 1.
    """
    wishes = wishes.copy()
    _turn_back(where, world.size(car), cars, numbers, car.steering, wishes)
    return wishes


_known: dict[tuple[str, str, int], Practised] = {}


def _practised(track: Track, car: CarSpec, hold: int) -> Practised:
    """What practice taught, once for each track and car."""
    key = digest(track), digest(car), hold
    if key not in _known:
        _known[key] = practice.practise(track, car, hold)
    return _known[key]


@compiled_exactly
def _decide(
    rows: np.ndarray,
    which: np.ndarray,
    gap: float,
    where: Any,
    car: Any,
    drive: Any,
    body: Any,
    them: Any,
    numbers: np.ndarray,
    each: int,
    time: float,
    asides: np.ndarray,
    patience: np.ndarray,
    wishes: np.ndarray,
) -> None:
    wish = np.zeros(2)
    for at in range(numbers.shape[0]):
        number, way = numbers[at], Guide(gap, rows[which[at]])
        throttle, brake = tracking.pedals(car, drive, them, number, time)
        line, speed, _ = tracking.known(way, them.travelled[number])
        off, vx = them.off[number], float(them.state[step.VX, number])
        is_first = them.clock[number] < time
        recovers = _recover(where, body, them, number, wish)
        if is_first or recovers or off:
            asides[at] = them.offset[number] - line
        if not recovers:
            aside, most = 0.0, 1e9
            if each > 1:
                patience[at] = traffic.MOST_PATIENCE if is_first else patience[at]
                wanted, most = traffic.around(way, where, body, them, number, each, patience[at] <= 0)
                asides[at] = traffic.moved(way, where, body, them, number, asides[at], wanted, time)
                patience[at] = traffic.patient(patience[at], most, speed, vx, time)
                aside = asides[at]
            if off:
                most = min(most, max(min(0.5 * speed, _OFF_TRACK), _WALKING))
            else:
                most = min(most, traffic.borne(way, car, them, number) * speed)
            tracking.ask(way, car, them, number, aside, most, wish)
            if off and vx < 1.2 * _OFF_TRACK:
                back = min(max(_BACK * (line - them.offset[number]), -_BACK_MOST), _BACK_MOST)
                wish[0] = 1.5 * (back - them.angle[number])
            wish[1] = max(wish[1], -brake)
        wish[1] = min(wish[1], throttle)
        wishes[at, 0], wishes[at, 1] = wish[0], wish[1]


@compiled_exactly
def _turn_back(where: Any, body: Any, them: Any, numbers: np.ndarray, steering: float, wishes: np.ndarray) -> None:
    wish = np.zeros(2)
    for at in range(numbers.shape[0]):
        number = numbers[at]
        is_slow = abs(them.state[step.VX, number]) < _WALKING
        if is_slow and abs(them.angle[number]) > _FACING and _recover(where, body, them, number, wish):
            wishes[at, 0] = min(max(wish[0] / steering, -1.0), 1.0)
            wishes[at, 1] = wish[1]


@compiled_exactly
def _recover(where: Any, body: Any, them: Any, number: int, wish: np.ndarray) -> bool:
    """Catch a car that slides, and turn one that faces elsewhere; whether there was need."""
    state = them.state
    vx, vy, turn = float(state[step.VX, number]), float(state[step.VY, number]), float(state[step.TURN, number])
    angle = them.angle[number]
    speed = math.sqrt(vx * vx + vy * vy)
    if speed > _SLOW and (vx < 0 or abs(vy) > _SLIDING * vx):
        slide = math.atan2(vy, vx)
        if vx > 0 and abs(slide) < 1.0:
            wish[0], wish[1] = slide - 0.15 * turn, -0.05
        else:
            wish[0], wish[1] = 0.0, -0.5
        return True
    if abs(angle) > _FACING and vx < _WALKING:
        room = _room(where, body, them, number, 1.0)
        stuck = them.wall[number] or room < 1.0
        across = abs(math.sin(angle)) > world.MARSHALS_TURN
        if across and (stuck or vx < -0.05) and room < _TURNING and _room(where, body, them, number, -1.0) > 1.0:
            wish[0], wish[1] = math.copysign(1.0, angle), 0.0  # marshals push
            return True
    if abs(angle) < _ASTRAY:
        return False
    if vx < -0.5:
        wish[0], wish[1] = 0.0, -0.5
        return True
    wish[0] = -math.copysign(1.0, angle)
    if abs(angle) > _BACKWARDS:  # away from the wall that is near
        wish[0] = math.copysign(1.0, them.offset[number])
    wish[1] = min(0.1 * (_WALKING - vx), 0.5 if them.off[number] else 0.25)
    return True


@compiled_exactly
def _room(where: Any, body: Any, them: Any, number: int, way: float) -> float:
    """To the wall that a car's nose (1) or tail (−1) points to, m."""
    row, angle = where.points[them.nearest[number]], them.angle[number]
    across = way * math.sin(angle)
    end = them.offset[number] + 0.5 * body.length * across
    gap = row[road.WALL_LEFT] - end if across > 0 else row[road.WALL_RIGHT] + end
    return (gap - 0.5 * body.width * abs(math.cos(angle))) / max(abs(across), 0.1)
