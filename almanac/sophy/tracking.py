"""Driving a known lap: what its driver did at each place, and by how much to do otherwise when the car is not where it was then. The
gains are those of the linear-quadratic regulator along the lap (Anderson and Moore 1990, §3), of the simulator's own steps, linearised by
finite differences; what a lap's points miss of the simulator's equations is part of it, so that wishes come before their time."""

import math
from typing import Any, NamedTuple

import numpy as np

from almanac.nn.compiled import compiled_exactly
from almanac.sophy.lap import Lap
from almanac.sophy.sim import dynamics, road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

# Rows of what is regulated: a car's state as in `step`, with its place to the track instead of its place on the plane.
N, ANGLE, VX, STATES = 0, 1, 2, 14
_FIRST = step.VX - VX
"""A row of `step` less the same here."""
WISHES = 2
"""Steering (rad) and pedal (−1 brakes, 1 accelerates)."""
_WISH, _GAIN = STATES, STATES + WISHES
"""Where they are in a guide's rows, and the gains."""

_SPACING = 2.0
"""Between rows of a guide, m, about."""
_SMALL = np.array([0.05, 0.005, 0.3, 0.05, 0.01, 0.3, 0.3, 0.3, 0.3, 0.004, 0.03, 0.03, 0.3, 0.3])
"""By which each state is moved to see what follows; and wishes."""
_SMALL_WISH = np.array([0.004, 0.03])
_COST = np.array([1 / 0.15, 1 / 0.05, 1 / 1.0, 1 / 1.0, 1 / 0.2, 0, 0, 0, 0, 0, 0, 0, 0, 0]) ** 2
"""Of a miss, per frame."""
_EFFORT = np.array([1 / 0.03, 1 / 0.3]) ** 2
_SLIPPING = 0.6
"""Slip ratio as a part of that near the peak, at which wheels are taken to be that slip more."""
_AHEAD = np.array([0.03, 0.3])
"""By how much wishes may differ from what the lap's driver did, beside what mends misses."""
_EVERY = 3
"""Frames from one to the next for which gains are sought."""
_RUN_UP = 6.0
"""s of the next lap that are looked at from the end of one."""


class Guide(NamedTuple):
    """How to drive a lap, at even steps along the track's centre line."""

    step: float
    """m."""
    rows: np.ndarray
    """float64, points × (states, wishes, gains of steering, gains of the pedal)."""


def guide(track: Track, car: CarSpec, lap: Lap, hold: int) -> Guide:
    """How to drive a lap.

    Args:
        track: the track.
        car: the car.
        lap: the lap, a flying one.
        hold: frames (1/60 s) between two decisions.
    """
    every = math.gcd(hold, _EVERY)
    states, wishes, s = timed(track, car, lap, every)
    matrices = (np.ascontiguousarray(each) for each in linear(track, car, states, wishes, s, hold, every))
    states, wishes, s = states[:, ::every], wishes[:, ::every], s[::every]
    count = len(s)
    more = round(_RUN_UP * world.FRAMES / every)
    gains, ahead = _regulate(*matrices, np.diag(_COST), np.diag(_EFFORT), hold // every, more)
    points = round(track.length / _SPACING)
    even = track.length / points * np.arange(points)
    rows = np.concatenate((states.T, wishes.T - ahead.clip(-_AHEAD, _AHEAD), gains.reshape(count, -1)), 1)
    found = np.stack([np.interp(even, s, each, period=track.length) for each in rows.T], 1)
    return Guide(track.length / points, np.ascontiguousarray(found))


@compiled_exactly
def _regulate(
    changes: np.ndarray,
    pushes: np.ndarray,
    misses: np.ndarray,
    cost: np.ndarray,
    effort: np.ndarray,
    hold: int,
    more: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Gains, and what to do about misses to come (Riccati's recursion, around the lap and `more` steps of the next; a decision holds for
    `hold` of them)."""
    count = len(changes)
    future, push = np.empty((hold, STATES, STATES)), np.zeros((hold, STATES))
    future[:] = 100 * cost
    gains, ahead = np.zeros((count, WISHES, STATES)), np.zeros((count, WISHES))
    for frame in range(count + more - 1, -1, -1):
        at, lane = frame % count, frame % hold
        change, pushed, missed, later = changes[at], pushes[at], misses[at], future[lane]
        back = pushed.T @ later
        weight = effort + back @ pushed
        gain = np.linalg.solve(weight, back @ change)
        ahead[at] = np.linalg.solve(weight, back @ missed + pushed.T @ push[lane])
        closed = change - pushed @ gain
        gains[at], push[lane] = gain, closed.T @ (push[lane] + later @ missed)
        after = cost + change.T @ later @ closed
        future[lane] = 0.5 * (after + after.T)
    return gains, ahead


def timed(track: Track, car: CarSpec, lap: Lap, every: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A lap at even times, a frame each and so many that they can be counted by `every`: states, wishes, and places along the track (m)."""
    numbers = car.equations()
    steered = np.sin(lap.steering), np.cos(lap.steering)
    loads = tuple(lap.load * car.mass * dynamics.GRAVITY)
    moving = lap.vx, lap.vy, lap.yaw_rate
    forces, _ = dynamics.slipping(numbers, *moving, *steered, tuple(lap.slip), loads, dynamics.FULL_GRIP)
    ax, ay, _ = dynamics.body(numbers, forces, loads, lap.vx, lap.vy, 1.0, dynamics.ASPHALT)
    # Beyond the peak a wheel that slips more is held less: no regulator of use comes of that.
    slips, radii = tuple(lap.slip.clip(-_SLIPPING, _SLIPPING)), (car.tyre_front.radius, car.tyre_rear.radius)
    spins = dynamics.spins(numbers, radii, *moving, *steered, slips, loads)
    throttle, brake = lap.pedal.clip(0, 1), (-lap.pedal).clip(0, 1)
    rows = np.stack((lap.offset, lap.angle, *moving, *spins, lap.steering, throttle, brake, ax, ay))
    count = every * round(lap.lap_time * world.FRAMES / every)
    even = lap.lap_time / count * np.arange(count)
    states = np.stack([np.interp(even, lap.time, each, period=lap.lap_time) for each in rows])
    s = np.interp(even, np.append(lap.time, lap.lap_time), np.append(lap.s, track.length + lap.s[0]))
    return states, np.stack((states[VX + 7], states[VX + 8] - states[VX + 9])), s


def linear(
    track: Track, car: CarSpec, states: np.ndarray, wishes: np.ndarray, s: np.ndarray, hold: int, every: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How a miss grows until the next decision: by itself, by a change of wishes, and where there is neither.

    Args:
        track: the track.
        car: the car.
        states: of a lap, a column a frame.
        wishes: likewise.
        s: where it is then along the track, m.
        hold: frames between two decisions.
        every: frames from one that is looked at to the next.
    """
    frames = len(s)
    here = np.arange(0, frames, every)
    then, count = (here + hold) % frames, len(here)
    slope, bank, dip = (
        np.interp(s, track.s, each, period=track.length) for each in (track.slope, track.bank, track.dip)
    )
    pulls = dynamics.slope_gravity(slope, bank, np.sin(states[ANGLE]), np.cos(states[ANGLE]))
    weights = np.stack((*pulls, dynamics.weight(slope, bank, dip, states[VX], states[VX + 2])))
    x, y, heading = road.places(track, s, states[N])
    yaw, curvature = heading + states[ANGLE], np.interp(s, track.s, track.curvature, period=track.length)
    # All is seen from where the car is in the beginning, so that single precision is enough.
    cosine, sine = np.cos(yaw), np.sin(yaw)
    dx, dy = x[then] - x[here], y[then] - y[here]
    there_x, there_y = dx * cosine[here] + dy * sine[here], dy * cosine[here] - dx * sine[here]
    road_angle = heading[then] - yaw[here]
    rates = np.gradient(np.concatenate((states[:, -2:], states, states[:, :2]), 1), axis=1)[:, 2:-2]
    gone = np.concatenate((s[-1:] - track.length, s, s[:1] + track.length))
    rates /= 0.5 * (gone[2:] - gone[:-2])
    numbers, drive = step.numbers(car)
    given = np.zeros((step.GIVEN, count), np.float32)
    given[[step.PRESSED, step.HELD, step.ENGAGED]], given[step.GRIP : step.GRIP + 4] = 1, 1
    begun = np.zeros((step.STATES, count), np.float32)
    begun[step.VX :], begun_angle, wishes = states[VX:, here], states[ANGLE, here], wishes[:, here]

    def missed(state: np.ndarray, wish: np.ndarray) -> np.ndarray:
        asked, now, seen = given.copy(), state.astype(np.float32), np.zeros((step.SEEN, count), np.float32)
        asked[step.STEER_TO] = wish[0]
        asked[step.THROTTLE_TO], asked[step.BRAKE_TO] = np.where(
            accelerates, (wish[1], 0 * wish[1]), (0 * wish[1], -wish[1])
        )
        for frame in range(hold):
            asked[[step.PULL_X, step.PULL_Y, step.WEIGHT]] = weights[:, (here + frame) % frames]
            step.advance(numbers, drive, now, asked, seen, step.RATE // world.FRAMES)
        now = now.astype(float)
        dx, dy = now[step.X] - there_x, now[step.Y] - there_y
        c, d = np.cos(road_angle), np.sin(road_angle)
        further = (dx * c + dy * d) / (1 - states[N, then] * curvature[then])
        turned = now[step.YAW] - road_angle - states[ANGLE, then]
        turned = (turned + np.pi) % (2 * np.pi) - np.pi - curvature[then] * further
        found = np.concatenate(((dy * c - dx * d)[None], turned[None], now[step.VX :] - states[VX:, then]))
        return found - rates[:, then] * further

    accelerates = wishes[1] >= 0
    base = missed(begun, wishes)
    changes = []
    for row, small in enumerate(_SMALL):
        ends = []
        for sign in (1, -1):
            moved = begun.copy()
            if row == N:
                moved[step.X], moved[step.Y] = (
                    sign * small * np.sin(begun_angle),
                    sign * small * np.cos(begun_angle),
                )
            elif row == ANGLE:
                moved[step.YAW] = sign * small
            else:
                moved[row + _FIRST] += sign * small
            ends.append(missed(moved, wishes))
        changes.append((ends[0] - ends[1]) / (2 * small))
    pushes = []
    for row, small in enumerate(_SMALL_WISH):
        ends = [missed(begun, wishes + sign * small * np.eye(WISHES)[:, row : row + 1]) for sign in (1, -1)]
        pushes.append((ends[0] - ends[1]) / (2 * small))
    return np.stack(changes, 1).transpose(2, 0, 1), np.stack(pushes, 1).transpose(2, 0, 1), base.T


_NEAR, _SLOW = 1.0, 3.0
"""Misses across (m) and of speed (m/s) that count in steering; larger ones are mended no faster."""
_GENTLY = 25.0
"""m²/s: divided by the speed, the most that counts of a miss across: who comes back to the line in haste slides."""
_FULL, _LONG = 0.9, 1.5
"""Pedal that accelerates all the car can, and s for which the lap must go on so."""
_FOLLOWS = 0.25
"""Pedal per m/s that a car is slower than it may be, where it may not be as fast as the lap."""


@compiled_exactly
def known(way: Guide, travelled: float) -> tuple[float, float, float]:
    """A lap at a place: offset (m), speed (m/s) and yaw rate (rad/s)."""
    place, count = travelled / way.step, way.rows.shape[0]
    whole = math.floor(place)
    part, one = place - whole, int(whole) % count
    first, second = way.rows[one], way.rows[one + 1 if one + 1 < count else 0]
    return (
        first[N] * (1 - part) + second[N] * part,
        first[VX] * (1 - part) + second[VX] * part,
        first[VX + 2] * (1 - part) + second[VX + 2] * part,
    )


@compiled_exactly
def ask(way: Guide, car: Any, them: Any, number: int, aside: float, most: float, wish: np.ndarray) -> None:
    """What to wish. At other speeds than the lap's, what the lap knows is scaled to the speed of the moment.

    Args:
        way: the lap.
        car: numbers of `step.numbers`.
        them: all cars.
        number: which of them.
        aside: how far to the left of the lap's line to drive, m.
        most: the speed that it may not exceed, m/s.
        wish: steering (rad) and pedal, written to; not cut.
    """
    state, count = them.state, way.rows.shape[0]
    place = them.travelled[number] / way.step
    whole = math.floor(place)
    part, one = place - whole, int(whole) % count
    first, second = way.rows[one], way.rows[one + 1 if one + 1 < count else 0]
    vx = float(state[step.VX, number])
    speed = first[VX] * (1 - part) + second[VX] * part
    turn = first[VX + 2] * (1 - part) + second[VX + 2] * part
    slow = min(max(vx - speed, -_SLOW), _SLOW)
    across = min(_NEAR, _GENTLY / max(vx, 1.0))
    now, near = min(max(vx / speed, 0.0), 1.5), 1 + slow / speed
    steer, pedal = (
        first[_WISH] * (1 - part) + second[_WISH] * part,
        first[_WISH + 1] * (1 - part) + second[_WISH + 1] * part,
    )
    bent = (car.front + car.rear) * turn / speed  # steering and speed across of a slow car in this bend
    steer = bent + (steer - bent) * min(now * now / (near * near), 1.5)
    bent = car.rear * turn
    for row in range(STATES):
        value = first[row] * (1 - part) + second[row] * part
        is_here = float(state[row + _FIRST, number]) if row >= VX else 0.0
        if row == N:
            miss = min(max(them.offset[number] - value - aside, -across), across)
        elif row == ANGLE:
            miss = them.angle[number] - value
            miss -= 2 * math.pi * math.floor(miss / (2 * math.pi) + 0.5)
        elif row == VX:
            miss = slow
        elif row == VX + 1:
            drift = value - bent
            miss = is_here - bent * now - drift * now**3 + bent * near + drift * near**3 - value
        elif row < VX + 7:  # yaw rate and wheels
            miss = is_here - value * now + value * near - value
        elif row < VX + 10:  # steering and pedals
            miss = is_here - value
        else:
            miss = is_here - value * now * now + value * near * near - value
        gain = _GAIN + row
        steer -= (first[gain] * (1 - part) + second[gain] * part) * miss
        gain += STATES
        pedal -= (first[gain] * (1 - part) + second[gain] * part) * (vx - speed if row == VX else miss)
    if (
        vx > speed and pedal > 0 and first[_WISH + 1] > _FULL
    ):  # who is faster than the lap, behind another car, stays so till it brakes
        there = way.rows[int(whole + math.ceil(_LONG * vx / way.step)) % count]
        if there[_WISH + 1] > _FULL:
            pedal = max(pedal, first[_WISH + 1])
    if most < speed:
        pedal = min(pedal, _FOLLOWS * (most - vx))
    wish[0], wish[1] = steer, pedal


_FREE = 0.05
"""The least that tyres are taken to have left along, squared, as a part of their grip."""
_CRAWLING = 5.0
"""m/s below which slip angles say little."""
_UNAIDED = 0.92
"""The part of it that is asked without ABS of brakes, and without traction control of the engine: who is late doesn't lock a wheel to catch
up."""
_LOCKED = 1.2
"""Slip ratio as a part of that near the peak, from which a pedal is eased."""


@compiled_exactly
def pedals(car: Any, drive: Any, them: Any, number: int, time: float) -> tuple[float, float]:
    """The most throttle and brake that the tyres can take beside what they do across.

    Args:
        car: numbers of `step.numbers`.
        drive: likewise.
        them: all cars.
        number: which of them.
        time: until the next decision, s: brakes may take what tyres have then, with less air to press them.
    """
    state, given, seen = them.state, them.given, them.seen
    loads = (
        seen[step.LOAD, number],
        seen[step.LOAD + 1, number],
        seen[step.LOAD + 2, number],
        seen[step.LOAD + 3, number],
    )
    _, rear, _, spinning = _left(car, them, number, loads)
    spin = max(0.5 * (state[step.SPIN + 2, number] + state[step.SPIN + 3, number]), drive.slowest)
    engine = max(dynamics.full_power(drive.power, drive.gears, np.float32(spin)), np.float32(1))
    throttle = rear * drive.radius_rear * spin / engine * min(max(1 + _LOCKED - spinning, 0.0), 1.0)
    throttle *= _UNAIDED + (1 - _UNAIDED) * drive.traction
    brake, locking, vx = 0.0, 0.0, state[step.VX, number]
    for _ in range(3):  # load follows from braking, and braking from load
        force = 2 * brake * (drive.brake_front / drive.radius_front + drive.brake_rear / drive.radius_rear)
        ax = -(force + car.drag * vx * vx) / car.mass
        speed = max(vx + time * ax, 0.0)
        weight, pressed, held = given[step.WEIGHT, number], given[step.PRESSED, number], given[step.HELD, number]
        loads = dynamics.loads(car, np.float32(speed), np.float32(ax), state[step.AY, number], weight, pressed, held)
        front, rear, locking, _ = _left(car, them, number, loads)
        most = min(front * drive.radius_front / drive.brake_front, rear * drive.radius_rear / drive.brake_rear)
        brake = min(0.5 * most, 1.0)
    brake *= _UNAIDED + (1 - _UNAIDED) * drive.abs
    return throttle, brake * min(max(1 + _LOCKED + locking, 0.3), 1.0)


@compiled_exactly
def _left(car: Any, them: Any, number: int, loads: Any) -> tuple[float, float, float, float]:
    """What each axle's tyres have left along, N, and the least and the most slip ratio of all, as a part of that near the peak."""
    seen, front, rear, least, most = them.seen, 0.0, 0.0, 0.0, 0.0
    slowly = 1.0
    if them.off[number]:  # where a car that digs hardly moves, and slips at any angle
        slowly = min(abs(them.state[step.VX, number]) / _CRAWLING, 1.0)
    for axle in range(2):
        tyre = car.tyre_front if axle == 0 else car.tyre_rear
        worst, both = 1e9, 0.0
        for wheel in range(2 * axle, 2 * axle + 2):
            mu, _, slip, angle = dynamics.peaks(tyre, loads[wheel])
            used = slowly * seen[step.ANGLE + wheel, number] / angle
            has = mu * loads[wheel] * them.given[step.GRIP + wheel, number] * math.sqrt(max(1 - used * used, _FREE))
            worst, both = min(worst, has), both + has
            ratio = seen[step.SLIP + wheel, number] / slip
            least, most = min(least, ratio), max(most, ratio)
        half = 1.5 * worst + 0.25 * both
        if axle == 0:
            front = half
        else:
            rear = half
    return front, rear, least, most
