"""The built-in opponents, drivers without a network: each follows the lap that practice taught it, or a slower one, by a regulator along
that lap; it slows behind cars, passes them where there is room, and finds back to its line from wherever it is."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from almanac.nn.compiled import compiled_exactly
from almanac.runtime.errors import UserError
from almanac.sophy import practice, tracking
from almanac.sophy.env import RATE
from almanac.sophy.practice import Practised
from almanac.sophy.race import digest
from almanac.sophy.sim import road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track
from almanac.sophy.tracking import Guide

HOLD = world.FRAMES // RATE
"""Frames (1/60 s) between two decisions."""
LEAST = 0.5
"""Skill."""

_ROOM, _CLEAR = 0.6, 0.5
"""Between the sides of two cars, m, at least, where one passes; and less, in which a car ahead is in the way by degrees."""
_STRAIGHT = 1 / 150
"""rad/m of a line up to which a car is passed there; in bends it is followed."""
_FORESEEN = 0.25
"""s for which a car ahead is taken to go on braking as it does."""
_HEADWAY, _GAP = 0.12, 1.5
"""s, and m from nose to tail in the slowest bend to come, that a driver keeps behind a car in its path."""
_PATIENCE, _NEARER, _FARTHER = 0.5, -0.3, 0.5
"""By how much slower than a car ahead, as a part for each s that is missing, and s between which that holds."""
_EASE, _ROOM_AHEAD = 10.0, 2.0
"""m/s² of braking that it counts on to come no nearer than that, m."""
_LOOK = 2.0
"""s ahead in which cars matter, and bends in which one is in the way."""
_LEAST_GAP, _CLOSING_EASE = 0.5, 3.0
"""m that it never means to come nearer than, and m/s² by which it counts on to brake more than that car."""
_HELD, _FORGETS = 12.0, 0.05
"""s of being held up from which a driver wants to pass, and that it forgets a second."""
_TOWED, _REACH = 12.0, 35.0
"""m to a car that it then begins to pass; and where both are about to brake."""
_CLOSING, _STUCK = 0.5, 0.97
"""m/s by which it is faster than a car that it begins to pass; or the part of its own pace that the other has."""
_YIELD = 0.96
"""Of its pace, for who is beside a car in a bend, and behind by anything."""
_OFF_LINE, _ASIDE, _FARTHER_OFF = 0.08, 0.5, 1.2
"""Of its speed, that a driver gives up in bends away from its line, m from which it does, and from which by all of that."""
_OFF_TRACK, _BACK, _BACK_MOST = 15.0, 0.05, 0.3
"""m/s off the track, and there, rad towards the line for each m beside it, and at most."""
_ACROSS = 2.5, 0.8
"""m/s by which a driver moves aside, on straights and in bends: at the limit of grip any haste is a slide."""
_SOON, _PLACES = 1.5, 5
"""s in which a bend comes, or the line an edge of the track, and places on the way there that are looked at."""
_MARGIN = 0.2
"""m from a car's side to the edge of the track."""
_STIRRED = 0.7
"""Of its speed in bends, that a driver gives up for the part of its weight that stirred air takes away; tyres alone would ask for half."""
_STANDING = 5.0
"""m/s below which a car is in the way wherever it is."""
_SLIDING, _ASTRAY = 0.35, 0.9
"""rad between where a car points and moves, or the road goes, from which it is caught or turned, before anything else."""
_FACING, _TURNING = 0.5, 7.0
"""rad from which a slow car's nose may be at a wall, and m that it needs to turn from there."""
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
        self.aside = np.full(len(skills), np.nan)  # how far to the left of its line each drives, m
        self.held = np.zeros(len(skills))  # s for which a slower car has held it up, of late
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
            self.held,
            wishes,
        )
        wishes[:, 0] /= self.steering
        return wishes.clip(-1, 1)


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
    helds: np.ndarray,
    wishes: np.ndarray,
) -> None:
    wish = np.zeros(2)
    for at in range(numbers.shape[0]):
        number, way = numbers[at], Guide(gap, rows[which[at]])
        throttle, brake = tracking.pedals(car, drive, them, number, time)
        line, speed, _ = tracking.known(way, them.travelled[number])
        if them.clock[number] < time:  # another race
            asides[at], helds[at] = math.nan, 0.0
        recovers = _recover(where, body, them, number, wish)
        if recovers or them.off[number] or math.isnan(asides[at]):
            asides[at] = them.offset[number] - line
        if not recovers:
            aside, most = 0.0, 1e9
            if each > 1:
                wanted, most = _around(way, where, body, them, number, each, helds[at] > _HELD)
                held = most < _STUCK * min(speed, float(them.state[step.VX, number]) + 5.0)
                helds[at] = min(helds[at] + time, 2 * _HELD) if held else max(helds[at] - _FORGETS * time, 0.0)
                haste = time * (_ACROSS[0] + (_ACROSS[1] - _ACROSS[0]) * _bent(way, them, number))
                right, left = _beside_line(way, where, body, them, number)
                asides[at] += min(max(wanted - asides[at], -haste), haste)
                asides[at] = max(min(asides[at], left), right)
                aside = asides[at]
            if them.off[number]:
                most = min(most, max(min(0.5 * speed, _OFF_TRACK), _WALKING))
            else:
                most = min(most, _borne(way, car, them, number) * speed)
            tracking.ask(way, car, them, number, aside, most, wish)
            if them.off[number] and float(them.state[step.VX, number]) < 1.2 * _OFF_TRACK:
                back = min(max(_BACK * (line - them.offset[number]), -_BACK_MOST), _BACK_MOST)
                wish[0] = 1.5 * (back - them.angle[number])
            wish[1] = max(wish[1], -brake)
        wish[1] = min(wish[1], throttle)
        wishes[at, 0], wishes[at, 1] = wish[0], wish[1]


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
        if (stuck or vx < -0.05) and room < _TURNING and _room(where, body, them, number, -1.0) > 1.0:
            wish[0], wish[1] = math.copysign(1.0, angle), 0.0  # marshals push
            return True
    if abs(angle) < _ASTRAY:
        return False
    if vx < -0.5:
        wish[0], wish[1] = 0.0, -0.5
        return True
    wish[0] = -math.copysign(1.0, angle)
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


@compiled_exactly
def _bend(way: Any, travelled: float) -> float:
    """A lap's curvature at a place, rad/m, to the left."""
    _, speed, turn = tracking.known(way, travelled)
    return turn / speed


@compiled_exactly
def _beside_line(way: Any, where: Any, body: Any, them: Any, number: int) -> tuple[float, float]:
    """How far beside its line a car may be to stay on the track, here and soon: most to the right (negative), most to the left, m."""
    right, left, half = -1e9, 1e9, 0.5 * body.width + _MARGIN
    count = where.points.shape[0]
    for part in range(_PLACES + 1):
        further = part / _PLACES * _SOON * float(them.state[step.VX, number])
        row = where.points[(them.nearest[number] + round(further / where.step)) % count]
        line, _, _ = tracking.known(way, them.travelled[number] + further)
        right, left = max(right, min(half - row[road.RIGHT] - line, 0.0)), min(left, max(row[road.LEFT] - half - line, 0.0))
    return right, left


@compiled_exactly
def _bent(way: Any, them: Any, number: int) -> float:
    """How much of a bend a car is in, or soon will be, 0 to 1."""
    travelled = them.travelled[number]
    there = _bend(way, travelled + _SOON * float(them.state[step.VX, number]))
    return min(max(max(abs(_bend(way, travelled)), abs(there)) / _STRAIGHT - 0.5, 0.0), 1.0)


@compiled_exactly
def _borne(way: Any, car: Any, them: Any, number: int) -> float:
    """The part of its speed that a car may keep: all on straights, and less in bends beside its line, or in air that a car ahead has
    stirred."""
    travelled = them.travelled[number]
    line, speed, _ = tracking.known(way, travelled)
    away = them.offset[number] - line
    away = math.copysign(max(abs(away) - _ASIDE, 0.0), away)
    here, bent = _bend(way, travelled), _bent(way, them, number)
    aside = (1 - _OFF_LINE * min(abs(away) / _FARTHER_OFF, 1.0)) * math.sqrt(max(1 - max(here * away, 0.0), 0.3))
    down, weight = car.lift * speed * speed, car.mass * them.given[step.WEIGHT, number]
    lost = down * (1 - them.given[step.PRESSED, number]) / (weight + down)
    return 1 - bent * (1 - aside * (1 - _STIRRED * lost))


@compiled_exactly
def _is_held(where: Any, them: Any, number: int, but: int, each: int) -> bool:
    """Whether a car has another one close ahead."""
    first = number - number % each
    for other in range(first, first + each):
        ahead = them.travelled[other] - them.travelled[number]
        ahead -= where.length * math.floor(ahead / where.length + 0.5)
        if other not in (number, but) and 0 < ahead < _REACH:
            return True
    return False


@compiled_exactly
def _around(
    way: Any, where: Any, body: Any, them: Any, number: int, each: int, is_eager: bool
) -> tuple[float, float]:
    """How far to the left of its line to drive, m, and how fast at most, m/s, for the cars around; the eager pass whom they reach."""
    first, travelled = number - number % each, them.travelled[number]
    line, speed, _ = tracking.known(way, travelled)
    vx, own = float(them.state[step.VX, number]), them.offset[number]
    most, wide, half = 1e9, body.width + _ROOM, 0.5 * body.width + 0.2
    row = where.points[them.nearest[number]]
    right, left = half - row[road.RIGHT], row[road.LEFT] - half
    slowest, bends = speed, abs(_bend(way, travelled)) > _STRAIGHT
    for part in range(1, 7):
        further = travelled + part / 6 * _LOOK * vx
        slowest = min(slowest, tracking.known(way, further)[1])
        if part / 6 * _LOOK <= _SOON:
            bends = bends or abs(_bend(way, further)) > _STRAIGHT
    low, high, target = right, left, line
    nearest = 1e9
    for other in range(first, first + each):
        if other == number:
            continue
        ahead = them.travelled[other] - travelled
        ahead -= where.length * math.floor(ahead / where.length + 0.5)
        aside, theirs = them.offset[other] - own, float(them.state[step.VX, other])
        theirs = max(theirs + _FORESEEN * min(float(them.state[step.AX, other]), 0.0), 0.0)
        if abs(ahead) < body.length + 1.0 and abs(aside) > 0.5 * body.width:  # beside: leave it room
            if aside > 0:
                high = min(high, them.offset[other] - wide)
            else:
                low = max(low, them.offset[other] + wide)
            if bends and ahead > 0 and theirs > _STANDING:
                most = min(most, _YIELD * theirs)
        elif 0 < ahead < body.length + _ROOM_AHEAD + _LOOK * max(vx - theirs + 3.0, 0.0) + (_HEADWAY + 0.3) * vx:
            there, pace, _ = tracking.known(way, travelled + ahead)
            beside = them.offset[other] - there - own + line  # both keep their distance from the line
            if theirs < _STANDING or ahead < 2 * body.length:
                beside = aside
            is_slower = vx - theirs > _CLOSING or theirs < _STUCK * pace * min(vx / speed, 1.0)
            attacked = is_eager and not _is_held(where, them, other, number, each)
            near = ahead < (_REACH if slowest < 0.9 * speed else _TOWED)  # before that, it is towed
            if abs(beside) < wide + _CLEAR and ahead < nearest and (is_slower or (attacked and near)) and (theirs < _STANDING or not bends):
                nearest = ahead
                front = where.points[them.nearest[other]]
                space_left = front[road.LEFT] - them.offset[other] - half
                space_right = front[road.RIGHT] + them.offset[other] - half
                side = 1.0 if space_left > space_right else -1.0
                if abs(beside) > 0.5:  # the side where it already is
                    side = 1.0 if beside < 0 else -1.0
                if theirs < _STANDING:
                    target = them.offset[other] + side * (wide + 0.1)
                else:
                    target = line + them.offset[other] - there + side * (wide + 0.1)
            share = min(max((body.width + _CLEAR - abs(beside)) / _CLEAR, 0.0), 1.0)
            if share > 0:
                room = max(ahead - body.length - _ROOM_AHEAD - _HEADWAY * vx, 0.0)
                late = math.sqrt(theirs**2 + 2 * _EASE * room)
                kept = 2 * ahead / (speed + pace)  # s, at the lap's own speed
                wanted = (body.length + _GAP) / (speed if nearest == ahead else slowest)
                if attacked:
                    wanted = (body.length + _LEAST_GAP) / slowest
                elif nearest != ahead:
                    wanted += _HEADWAY
                spare = min(max(kept - wanted, _NEARER), _FARTHER)
                may = max(late, theirs / pace * speed * (1 + _PATIENCE * spare))
                left = ahead - body.length - _LEAST_GAP
                may = min(may, theirs + math.sqrt(2 * _CLOSING_EASE * max(left, 0.0)) + 2 * min(left, 0.0))
                if theirs < _STANDING and abs(aside) > 0.3:
                    may = max(may, 0.5 * _WALKING)
                most = min(most, may + (1 - share) * max(1.2 * speed - may, 0.0))
    target = min(max(target, low), high) if low <= high else 0.5 * (low + high)
    target = min(max(target, right), left)
    return target - line, most
