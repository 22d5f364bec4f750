"""Practice: a driver's laps alone, before any race, by which it learns how much of the grip each place of a track bears. It begins with a
part that is surely borne, asks for more from lap to lap, and takes back what led to a slide, a locked wheel or a car beside its line
(iterative learning control; Kapania and Gerdes 2015 do the same with a car on a road)."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d

from almanac.nn.compiled import compiled_exactly
from almanac.sophy import balance, raceline, tracking
from almanac.sophy.lap import Lap
from almanac.sophy.raceline import Line
from almanac.sophy.sim import dynamics, road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.road import Road
from almanac.sophy.sim.track import Track
from almanac.sophy.tracking import Guide

_LEAST, _BEGUN, _MOST = 0.5, 0.84, 1.0
"""Parts of the grip: of the more careful of two diagrams, in the beginning, and of the other."""
_MORE, _LESS = (0.04, 0.04, 0.03, 0.03, 0.02), 0.04
"""What is asked more of each lap where all went well, and less before a place where it did not."""
_LAPS = 14
"""At most: after those that ask for more, those that only take back."""
_CARS = 24
"""That practise at once, from as many places."""
_BESIDE = (0.4, 0.0, -0.4)
"""m to the left of the line where they begin."""
_SETTLING = 3.0
"""s after which they are judged."""
_FURTHER = 1.2
"""Laps that each drives."""
_CAUSES = 3.0, 1.5
"""s before a place where something went wrong in which its cause is, and after it in which the next would be."""
_SMOOTH = 15.0
"""m over which grip changes."""
_SPARE = 0.015
"""Grip that is left for what practice did not know."""
_STRAYED, _TURNED, _LOCKED = 0.5, 0.12, 3.0
"""m beside the line, rad of slide more than meant, and the slip ratio of a braked wheel as a part of that near its peak, from which
something went wrong."""


@dataclass(frozen=True)
class Practised:
    """What a driver knows of a track."""

    line: Line
    grip: Float[np.ndarray, " points"]
    """The part of its grip that each point of the line bears."""


def plan(track: Track, car: CarSpec, known: Practised, skill: float) -> Lap:
    """The lap that a driver means to drive.

    Args:
        track: the track.
        car: the car.
        known: what it knows of both.
        skill: the part that it uses of what it knows to be borne.
    """
    share = (skill * known.grip - _LEAST) / (_MOST - _LEAST)
    return balance.lap(car, track, known.line, diagram(car, _MOST), diagram(car, _LEAST), share)


@functools.lru_cache(maxsize=64)
def diagram(car: CarSpec, grip: float) -> balance.Diagram:
    """`balance.diagram`, remembered."""
    return balance.diagram(car, grip)


def practise(track: Track, car: CarSpec, hold: int) -> Practised:
    """Learn how much grip each place bears.

    Args:
        track: the track.
        car: the car.
        hold: frames (1/60 s) between two decisions.
    """
    line = raceline.fastest(track, car, balance.limits(car, diagram(car, _MOST)))
    where = road.road(track)
    s = line.step * np.arange(len(line.offset))
    grip, most = np.full(len(s), _BEGUN), np.full(len(s), _MOST)
    known, best, least = Practised(line, grip), None, np.inf
    for lap in range(_LAPS):
        known = Practised(line, gaussian_filter1d(grip, _SMOOTH / line.step, mode="wrap"))
        meant = plan(track, car, known, 1.0)
        troubles = _drive(track, where, car, meant, hold)
        if len(troubles) == 0 and meant.lap_time < least:
            best, least = known, meant.lap_time
        if len(troubles) == 0 and lap >= len(_MORE):
            break
        causes = np.zeros(len(s), bool)
        for place in troubles:
            when = np.interp(place, np.append(meant.s, track.length), np.append(meant.time, meant.lap_time))
            causes |= (meant.time - when + _CAUSES[0]) % meant.lap_time < sum(_CAUSES)
        most[causes] = np.minimum(most, grip - 0.4 * _LESS)[causes]
        grip[causes] -= _LESS
        grip[~causes] += _MORE[lap] if lap < len(_MORE) else 0.0
        grip = np.minimum(grip, most)
    return Practised(line, (known.grip - _LESS if best is None else best.grip) - _SPARE)


def _drive(track: Track, where: Road, car: CarSpec, lap: Lap, hold: int) -> np.ndarray:
    """Where each of some cars that drive a lap went wrong, m; those that did not, or hardly had begun, are not among them."""
    way, numbers = tracking.guide(track, car, lap, hold), step.numbers(car)
    states, wishes, places = tracking.timed(track, car, lap)
    them = world.cars(_CARS, 1)
    hard = np.abs(states[tracking.VX] * states[tracking.VX + 2]) + 20 * (wishes[1] < 0)
    at = np.array([int(each[hard[each].argmin()]) for each in np.array_split(np.arange(len(places)), _CARS)])
    begun = states[:, at]
    begun[tracking.N] += np.resize(_BESIDE, _CARS)
    spots = road.places(track, places[at], begun[tracking.N])
    spots[2] += begun[tracking.ANGLE]
    world.place(them, car, where, np.arange(_CARS), spots, places[at], begun[tracking.VX])
    them.state[step.VX :] = begun[tracking.VX :]
    went_wrong = np.full(_CARS, np.nan)
    frames = round(_FURTHER * lap.lap_time * world.FRAMES)
    locked = 1e9 if car.abs else _LOCKED
    _practise(way, where, *numbers, world.size(car), them, hold, frames, car.steering, locked, went_wrong)
    return went_wrong[np.isfinite(went_wrong)] % track.length


@compiled_exactly
def _practise(
    way: Guide,
    where: Any,
    car: Any,
    drive: Any,
    body: Any,
    them: Any,
    hold: int,
    frames: int,
    steering: float,
    locked: float,
    went_wrong: np.ndarray,
) -> None:
    wish = np.zeros(2)
    for frame in range(frames):
        for number in range(len(went_wrong)):
            if frame % hold:
                continue
            throttle, brake = tracking.pedals(car, drive, them, number, hold / world.FRAMES)
            tracking.ask(way, car, them, number, 0.0, 1e9, wish)
            pedal = min(max(wish[1], -brake, -1.0), throttle, 1.0)
            them.given[step.STEER_TO, number] = min(max(wish[0], -steering), steering)
            them.given[step.THROTTLE_TO, number], them.given[step.BRAKE_TO, number] = max(pedal, 0.0), max(-pedal, 0.0)
        world.frame(where, car, drive, body, them, 1)
        for number in range(len(went_wrong)):
            if np.isnan(went_wrong[number]) and _is_wrong(way, car, them, number, locked):
                judged = frame > _SETTLING * world.FRAMES
                went_wrong[number] = them.travelled[number] if judged else np.inf


@compiled_exactly
def _is_wrong(way: Guide, car: Any, them: Any, number: int, locked: float) -> bool:
    line, _, _ = tracking.known(way, them.travelled[number])
    meant = way.rows[math.floor(them.travelled[number] / way.step) % way.rows.shape[0]]
    vx, vy = them.state[step.VX, number], them.state[step.VY, number]
    if them.off[number] or them.wall[number] or abs(them.offset[number] - line) > _STRAYED:
        return True
    if abs(vy - meant[tracking.VX + 1]) > _TURNED * vx:
        return True
    for wheel in range(4):
        tyre = car.tyre_front if wheel < 2 else car.tyre_rear
        peak = dynamics.peaks(tyre, them.seen[step.LOAD + wheel, number])[2]
        if them.seen[step.SLIP + wheel, number] < -locked * peak:
            return True
    return False
