"""Driving among others: how near a driver follows, when it passes and on which side, how gently it moves over, and what bends bear beside
its line and in stirred air. All is said in terms of the lap that it would drive alone: who follows keeps a distance in time and keeps
the pace of the car ahead at each place, not its speed, so that a row of cars goes through a bend without being pushed together."""

import math
from typing import Any

from almanac.nn.compiled import compiled_exactly
from almanac.sophy import tracking
from almanac.sophy.sim import road, step

MOST_PATIENCE = 12.0
"""s that a driver follows a slower car before it passes it wherever it can."""
_CALMS, _HELD = 0.05, 0.97
"""s of patience that come back in a second, and the part of what it would drive from which a driver feels held up."""
_SIDEWAYS = 12.0
"""m/s² across from which the lap is in a bend: there a car is followed, and passed elsewhere."""
_SOON, _PLACES = 1.5, 6
"""s in which a bend comes, or the line an edge of the track, and places on the way there that are looked at."""
_LOOK = 2.0
"""s ahead in which cars matter, and slow places, where those that follow come near."""
_STANDING, _WALKING = 5.0, 2.5
"""m/s below which a car is in the way wherever it is, and at which it is passed."""

_ROOM, _CLEAR = 0.6, 0.5
"""Between the sides of two cars, m, at least, where one passes; and less, in which a car ahead is in the way by degrees."""
_CLOSING, _SLOWER = 0.5, 0.97
"""m/s by which it is faster than a car that it begins to pass; or the part of its own pace that the other has."""
_TOWED, _REACH = 12.0, 35.0
"""m to a car that it passes for want of patience, for it is towed until then; and m where both brake soon."""
_EARLY, _BRAKING = 3.5, 0.9
"""s before that, and the part of its speed that it has then."""
_ACROSS = 2.5, 0.8
"""m/s by which a driver moves aside, on straights and in bends: at the limit of grip any haste is a slide."""
_MARGIN = 0.2
"""m from a car's side to the edge of the track."""
_YIELD = 0.96
"""Of its pace, for who is beside a car in a bend, and behind by anything."""

_FORESEEN = 0.25
"""s for which a car ahead is taken to go on braking as it does."""
_HEADWAY, _GAP, _LEAST_GAP = 0.12, 1.5, 0.5
"""s, and m from nose to tail where it is slowest soon, that a driver keeps behind a car in its path; and m where it attacks."""
_HASTE, _NEARER, _FARTHER = 0.5, -0.3, 0.5
"""By how much slower or faster than a car ahead, as a part for each s that is missing or spare, and s between which that holds."""
_EASE, _AT_EASE = 10.0, 2.0
"""m/s² of braking that it counts on to come no nearer than that, m."""
_CLOSING_EASE = 3.0
"""m/s² by which it counts on to brake more than the car ahead, to come no nearer than `_LEAST_GAP`."""

_OFF_LINE, _ASIDE, _FAR_ASIDE = 0.08, 0.5, 1.2
"""Of its speed, that a driver gives up in bends away from its line, m from which it does, and further m from which by all of that."""
_STIRRED = 1.0
"""Of its speed in bends, that a driver gives up for the part of its weight that stirred air takes away; tyres alone would ask for half."""


@compiled_exactly
def around(way: Any, where: Any, body: Any, them: Any, number: int, each: int, attacks: bool) -> tuple[float, float]:
    """How far to the left of its line to drive, m, and how fast at most, m/s, for the cars around.

    Args:
        way: the lap that it would drive alone, a `tracking.Guide`.
        where: the road.
        body: the cars' `world.Size`.
        them: all cars.
        number: which of them.
        each: cars of a race.
        attacks: whether it passes a car that holds up those behind, and is not held up itself, as soon as it can.
    """
    first, travelled = number - number % each, them.travelled[number]
    line, speed, _ = tracking.known(way, travelled)
    vx, own = float(them.state[step.VX, number]), them.offset[number]
    wide, half = body.width + _ROOM, 0.5 * body.width + _MARGIN
    slowest, bends, brakes = speed, False, False
    for part in range(_PLACES + 1):
        ahead = part / _PLACES * vx
        slowest = min(slowest, tracking.known(way, travelled + _LOOK * ahead)[1])
        bends = bends or abs(_sideways(way, travelled + _SOON * ahead)) > _SIDEWAYS
        brakes = brakes or tracking.known(way, travelled + _EARLY * ahead)[1] < _BRAKING * speed
    most, low, high, target, nearest = 1e9, -1e9, 1e9, line, 1e9
    for other in range(first, first + each):
        if other == number:
            continue
        ahead = road.apart(where.length, travelled, them.travelled[other])
        aside, theirs = them.offset[other] - own, float(them.state[step.VX, other])
        theirs = max(theirs + _FORESEEN * min(float(them.state[step.AX, other]), 0.0), 0.0)
        if abs(ahead) < body.length + 1.0 and abs(aside) > 0.5 * body.width:  # beside: leave it room
            if aside > 0:
                high = min(high, them.offset[other] - wide)
            else:
                low = max(low, them.offset[other] + wide)
            if bends and ahead > 0 and theirs > _STANDING:
                most = min(most, _YIELD * theirs)
        elif 0 < ahead < 2 * body.length + _LOOK * max(vx - theirs + 3.0, 0.0) + 0.4 * vx:
            there, pace, _ = tracking.known(way, travelled + ahead)
            stands = theirs < _STANDING
            beside = aside + line - there  # both keep beside their lines what they are
            if stands and ahead < 2 * body.length:
                beside = aside
            attacked = attacks and not _follows(where, them, other, number, each)
            near = _REACH if brakes else _TOWED
            is_slower = vx - theirs > _CLOSING or theirs < _SLOWER * pace * min(vx / speed, 1.0)
            is_out = attacked and abs(beside) > body.width  # who has moved over goes on
            passes = (stands or is_out or not bends) and (is_slower or (attacked and ahead < near))
            passes = passes and ahead < nearest and abs(beside) < wide + _CLEAR
            if passes:
                nearest = ahead
                side = -math.copysign(1.0, beside)
                if abs(beside) < _CLEAR:
                    row = where.points[them.nearest[other]]
                    side = math.copysign(1.0, row[road.LEFT] - row[road.RIGHT] - 2 * them.offset[other])
                target = own + beside + side * (wide + 0.1)
            share = min(max((body.width + _CLEAR - abs(beside)) / _CLEAR, 0.0), 1.0)
            if share > 0:
                wanted = (body.length + _GAP) / slowest + _HEADWAY
                if attacked:
                    wanted = (body.length + _LEAST_GAP) / slowest
                elif passes:
                    wanted = (body.length + _GAP) / speed
                behind = _behind(ahead - body.length, vx, theirs, speed, pace, 2 * ahead / (speed + pace) - wanted)
                if stands and abs(aside) > 0.3:
                    behind = max(behind, _WALKING)
                most = min(most, behind + (1 - share) * max(1.2 * speed - behind, 0.0))
    row = where.points[them.nearest[number]]
    target = min(max(target, low), high) if low <= high else 0.5 * (low + high)
    target = min(max(target, half - row[road.RIGHT]), row[road.LEFT] - half)
    return target - line, most


@compiled_exactly
def _behind(gap: float, vx: float, theirs: float, speed: float, pace: float, spare: float) -> float:
    """How fast to drive behind a car, m/s.

    Args:
        gap: from nose to tail, m.
        vx: own speed.
        theirs: the other's.
        speed: of the lap where the own car is.
        pace: of the lap where the other is.
        spare: s of distance beyond what is wanted.
    """
    late = math.sqrt(theirs**2 + 2 * _EASE * max(gap - _AT_EASE - _HEADWAY * vx, 0.0))
    paced = theirs / pace * speed * (1 + _HASTE * min(max(spare, _NEARER), _FARTHER))
    left = gap - _LEAST_GAP
    return min(max(late, paced), theirs + math.sqrt(2 * _CLOSING_EASE * max(left, 0.0)) + 2 * min(left, 0.0))


@compiled_exactly
def moved(way: Any, where: Any, body: Any, them: Any, number: int, aside: float, wanted: float, time: float) -> float:
    """How far to the left of its line a car drives next: nearer to what is wanted, and on the track, here and soon."""
    haste = time * (_ACROSS[0] + (_ACROSS[1] - _ACROSS[0]) * _bent(way, them, number))
    aside += min(max(wanted - aside, -haste), haste)
    right, left, half = -1e9, 1e9, 0.5 * body.width + _MARGIN
    for part in range(_PLACES + 1):
        further = part / _PLACES * _SOON * float(them.state[step.VX, number])
        row = where.points[(them.nearest[number] + round(further / where.step)) % where.points.shape[0]]
        line, _, _ = tracking.known(way, them.travelled[number] + further)
        right = max(right, min(half - row[road.RIGHT] - line, 0.0))
        left = min(left, max(row[road.LEFT] - half - line, 0.0))
    return min(max(aside, right), left)


@compiled_exactly
def patient(patience: float, most: float, speed: float, vx: float, time: float) -> float:
    """The patience, s, that is left after a decision.

    Args:
        patience: before it.
        most: m/s that other cars let it drive.
        speed: of its lap there.
        vx: its own.
        time: s from one decision to the next.
    """
    if most < _HELD * min(speed, vx + 5.0):
        return max(patience - time, -MOST_PATIENCE)
    return min(patience + _CALMS * time, MOST_PATIENCE)


@compiled_exactly
def borne(way: Any, car: Any, them: Any, number: int) -> float:
    """The part of its lap's speed that a car may keep: all on straights, and less in bends beside its line, or in air that a car ahead has
    stirred."""
    travelled = them.travelled[number]
    line, speed, turn = tracking.known(way, travelled)
    away = them.offset[number] - line
    away = math.copysign(max(abs(away) - _ASIDE, 0.0), away)
    tighter = math.sqrt(max(1 - max(turn / speed * away, 0.0), 0.3))
    aside = (1 - _OFF_LINE * min(abs(away) / _FAR_ASIDE, 1.0)) * tighter
    down, weight = car.lift * speed * speed, car.mass * them.given[step.WEIGHT, number]
    lost = down * (1 - them.given[step.PRESSED, number]) / (weight + down)
    return 1 - _bent(way, them, number) * (1 - aside * (1 - _STIRRED * lost))


@compiled_exactly
def _sideways(way: Any, travelled: float) -> float:
    """The lap's acceleration to the left at a place, m/s²."""
    _, speed, turn = tracking.known(way, travelled)
    return turn * speed


@compiled_exactly
def _bent(way: Any, them: Any, number: int) -> float:
    """How much of a bend a car is in, or soon will be, 0 to 1."""
    here = them.travelled[number]
    soon = here + _SOON * float(them.state[step.VX, number])
    return min(max(max(abs(_sideways(way, here)), abs(_sideways(way, soon))) / _SIDEWAYS - 0.5, 0.0), 1.0)


@compiled_exactly
def _follows(where: Any, them: Any, number: int, but: int, each: int) -> bool:
    """Whether a car has another one than `but` close ahead."""
    found, first, here = False, number - number % each, them.travelled[number]
    for other in range(first, first + each):
        ahead = road.apart(where.length, here, them.travelled[other])
        found |= other not in (number, but) and 0 < ahead < _REACH
    return found
