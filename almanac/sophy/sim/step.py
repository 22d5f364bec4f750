"""Cars through time, 240 steps a second: the equations of `dynamics` for many cars at once, in blocks of lanes whose numbers lie side by
side, so that LLVM makes vectors of the loop (docs/log.md). Wheels turn by an implicit step, because a tyre at speed answers faster than a
step is long; cars turn under their velocity without changing their speed, and places follow the mean of a step's velocities."""

import math
from typing import Any

import numpy as np
from numba import float32

from almanac.nn.compiled import compiled_exactly
from almanac.nn.scalars import larger
from almanac.sophy.sim import dynamics, ops
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.dynamics import Car, Drive

RATE = 240
"""Steps a second."""
LANES = 32
"""Cars of a block."""

# Rows of a car's state.
X, Y, YAW, VX, VY, TURN, SPIN, STEER, THROTTLE, BRAKE, AX, AY, STATES = 0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15
"""Where it is (m, rad), how it moves (m/s, rad/s), how fast its four wheels turn (rad/s, `SPIN` the first), where its steering (rad) and
pedals (0 to 1) are, and what tyres and air accelerate it by, smoothed (m/s²)."""
# Rows of what a step is given.
(
    STEER_TO, THROTTLE_TO, BRAKE_TO, GRIP, HOLD, PULL_X, PULL_Y, WEIGHT, PRESSED, HELD, ENGAGED, ABS, TRACTION, GIVEN,
) = 0, 1, 2, 3, 7, 11, 12, 13, 14, 15, 16, 17, 18, 19  # fmt: skip
"""What driver and road ask: steering (rad) and pedals (0 to 1), grip of the ground at each wheel and what it holds back (parts of the
load, each four rows), gravity along the ground (m/s², east and north) and into it, downforce and drag as parts of those in still air,
whether the engine is engaged, and whether brakes and throttle are held back from slipping (0 or 1)."""
# Rows of what is seen of the last step.
LOAD, SLIP, ANGLE, SEEN = 0, 4, 8, 12
"""Loads (N), slip ratios and slip angles (rad), of each wheel."""

_SEEN = STATES + GIVEN
"""The first of these rows in a block, below the others."""

_SMOOTH = 0.05
"""s over which accelerations are smoothed before load follows them: springs and dampers, and no algebraic loop."""
_SLOWEST = 1.0
"""m/s below which slip is no longer measured against a wheel's speed."""
PEDALS = 10.0
"""1/s: how fast a pedal goes from 0 to 1."""


def numbers(car: CarSpec) -> tuple[Car, Drive]:
    """A car as compiled loops take it: in float32."""
    return _single(car.equations()), _single(car.drive())


def _single(values: Any) -> Any:
    """Numbers in float32: one, or a tuple of them and of such tuples."""
    if values is None:
        return None
    if not isinstance(values, tuple):
        return np.float32(values)
    found = [_single(each) for each in values]
    return type(values)(*found) if hasattr(values, "_fields") else tuple(found)


@ops.shared
def turned_wheel(
    spin: Any, gain: Any, torque: Any, braking: Any, wheel: tuple, inertia: Any, radius: Any, time: Any
) -> tuple[Any, Any]:
    """How fast a wheel turns after a step, and the road's force along it meanwhile: driven, held by the road with the force that it has and
    would have, then braked at most to a stand. One force for both, so that the car gains what its wheels lose.

    Args:
        spin: before, rad/s.
        gain: what the car gains ahead, m/s².
        torque: that drives it, N m.
        braking: N m.
        wheel: what `_wheel` says of it.
        inertia: kg m².
        radius: m.
        time: of the step, s.
    """
    now, rise, mean = wheel[0], wheel[2], wheel[3]
    # A road that would turn it beyond rolling within the step turns it to rolling.
    stiffness = larger(rise, mean - inertia / (time * radius))
    force = now - stiffness * time * gain / radius
    mass = inertia + time * stiffness * radius
    free = spin + time * (torque - radius * force) / mass
    slower = larger(abs(free) - time * braking / mass, float32(0))
    after = -slower if free < float32(0) else slower
    # A light wheel that locks within the step would leave the tangent's reach: the road gives no more than it has.
    given = bounded(force + stiffness * (after - spin), -wheel[7], wheel[7])
    free = spin + time * (torque - radius * given) / inertia
    slower = larger(abs(free) - time * braking / inertia, float32(0))
    return -slower if free < float32(0) else slower, given


@ops.shared
def bounded(x: Any, least: Any, most: Any) -> Any:
    """A number within bounds."""
    return -larger(-larger(x, least), -most)


@compiled_exactly
def advance(car: Car, drive: Drive, state: np.ndarray, given: np.ndarray, seen: np.ndarray, steps: int) -> None:
    """Move all cars by some steps.

    Args:
        car: their numbers.
        drive: and of what turns their wheels.
        state: float32, `STATES` × cars; written to.
        given: float32, `GIVEN` × cars.
        seen: float32, `SEEN` × cars; written to.
        steps: how many.
    """
    cars = state.shape[1]
    now = np.zeros((_SEEN + SEEN, LANES), np.float32)
    for first in range(0, cars, LANES):
        count = min(LANES, cars - first)
        for row in range(STATES):
            now[row, :count] = state[row, first : first + count]
            now[row, count:] = state[row, first]
        for row in range(GIVEN):
            now[STATES + row, :count] = given[row, first : first + count]
            now[STATES + row, count:] = given[row, first]
        for _ in range(steps):
            for i in range(LANES):
                _step(car, drive, now, i)
        for row in range(STATES):
            state[row, first : first + count] = now[row, :count]
        for row in range(SEEN):
            seen[row, first : first + count] = now[_SEEN + row, :count]


@ops.shared
def _step(car, drive, now, i):
    """One step of one lane of a block."""
    time, half = float32(1 / RATE), float32(0.5)
    pedal, smooth = float32(PEDALS / RATE), float32(1 / RATE / _SMOOTH)
    zero, one = float32(0), float32(1)
    vx, vy, turn, yaw = now[VX, i], now[VY, i], now[TURN, i], now[YAW, i]
    most = drive.steering_rate * time
    steer_was, throttle_was, brake_was = now[STEER, i], now[THROTTLE, i], now[BRAKE, i]
    steer = steer_was + bounded(now[STATES + STEER_TO, i] - steer_was, -most, most)
    throttle = throttle_was + bounded(now[STATES + THROTTLE_TO, i] - throttle_was, -pedal, pedal)
    brake = brake_was + bounded(now[STATES + BRAKE_TO, i] - brake_was, -pedal, pedal)
    held, weight = now[STATES + HELD, i], now[STATES + WEIGHT, i]
    grips = now[STATES + GRIP, i], now[STATES + GRIP + 1, i], now[STATES + GRIP + 2, i], now[STATES + GRIP + 3, i]
    spins = now[SPIN, i], now[SPIN + 1, i], now[SPIN + 2, i], now[SPIN + 3, i]

    # The four wheels on the road.
    loads = dynamics.loads(car, vx, now[AX, i], now[AY, i], weight, now[STATES + PRESSED, i], held)
    midway = half * (steer + steer_was)
    moving, steered, straight = (vx, vy, turn), (ops.sin(midway), ops.cos(midway)), (zero, one)
    left, right = half * car.track_front, half * car.track_rear
    radius_front, radius_rear = drive.radius_front, drive.radius_rear
    fl = _wheel(car.tyre_front, moving, (car.front, left), steered, loads[0], spins[0], radius_front, grips[0])
    fr = _wheel(car.tyre_front, moving, (car.front, -left), steered, loads[1], spins[1], radius_front, grips[1])
    rl = _wheel(car.tyre_rear, moving, (-car.rear, right), straight, loads[2], spins[2], radius_rear, grips[2])
    rr = _wheel(car.tyre_rear, moving, (-car.rear, -right), straight, loads[3], spins[3], radius_rear, grips[3])

    # The engine, the differential, the brakes, and aids.
    spared = _eased(larger(rl[4], rr[4]), larger(now[STATES + TRACTION, i], drive.traction))
    asked = half * (throttle + throttle_was) * spared * now[STATES + ENGAGED, i]
    driven = dynamics.drive_torques(drive, asked, spins[2], spins[3])
    aided, pressed = larger(now[STATES + ABS, i], drive.abs), half * (brake + brake_was)
    front, rear = pressed * drive.brake_front, pressed * drive.brake_rear
    inertia_front, inertia_rear = drive.inertia_front, drive.inertia_rear
    gain = now[AX, i] * bounded(float32(0.2) * abs(vx), zero, one)  # not when it stops, which it does at once
    fl_spin, fl_force = turned_wheel(
        spins[0], gain, zero, front * _eased(-fl[4], aided), fl, inertia_front, radius_front, time
    )
    fr_spin, fr_force = turned_wheel(
        spins[1], gain, zero, front * _eased(-fr[4], aided), fr, inertia_front, radius_front, time
    )
    rl_spin, rl_force = turned_wheel(
        spins[2], gain, driven[0], rear * _eased(-rl[4], aided), rl, inertia_rear, radius_rear, time
    )
    rr_spin, rr_force = turned_wheel(
        spins[3], gain, driven[1], rear * _eased(-rr[4], aided), rr, inertia_rear, radius_rear, time
    )
    now[SPIN, i], now[SPIN + 1, i], now[SPIN + 2, i], now[SPIN + 3, i] = fl_spin, fr_spin, rl_spin, rr_spin

    # The body.
    forces = (
        dynamics.turned(fl_force, fl[1], steered[0], steered[1]),
        dynamics.turned(fr_force, fr[1], steered[0], steered[1]),
        (rl_force, rl[1]),
        (rr_force, rr[1]),
    )
    ground = now[STATES + HOLD, i], now[STATES + HOLD + 1, i], now[STATES + HOLD + 2, i], now[STATES + HOLD + 3, i]
    ax, ay, turning = dynamics.body(car, forces, loads, vx, vy, held, ground)
    new_turn = turn + time * turning
    mean_turn = half * (turn + new_turn)
    heading = yaw + half * time * mean_turn
    yaw_sine, yaw_cosine = ops.sin(heading), ops.cos(heading)
    east, north = now[STATES + PULL_X, i], now[STATES + PULL_Y, i]
    # Half of the push, the turn of the car under its velocity, which changes no speed, and the other half.
    push_x = half * time * (ax + east * yaw_cosine + north * yaw_sine)
    push_y = half * time * (ay + north * yaw_cosine - east * yaw_sine)
    tilt = half * time * mean_turn
    cosine, sine = (one - tilt * tilt) / (one + tilt * tilt), (tilt + tilt) / (one + tilt * tilt)
    half_x, half_y = vx + push_x, vy + push_y
    new_vx = half_x * cosine + half_y * sine + push_x
    new_vy = half_y * cosine - half_x * sine + push_y
    mean_x, mean_y = half * (vx + new_vx), half * (vy + new_vy)
    now[X, i] = now[X, i] + time * (mean_x * yaw_cosine - mean_y * yaw_sine)
    now[Y, i] = now[Y, i] + time * (mean_x * yaw_sine + mean_y * yaw_cosine)
    yaw = yaw + time * mean_turn
    yaw = yaw - np.floor(yaw * float32(0.15915494) + half) * float32(6.2831853)
    now[VX, i], now[VY, i], now[TURN, i], now[YAW, i] = new_vx, new_vy, new_turn, yaw
    now[STEER, i], now[THROTTLE, i], now[BRAKE, i] = steer, throttle, brake
    now[AX, i] = now[AX, i] + smooth * (ax - now[AX, i])
    now[AY, i] = now[AY, i] + smooth * (ay - now[AY, i])
    # One by one: a loop over wheels would keep the lanes from becoming vectors.
    now[_SEEN + LOAD, i], now[_SEEN + SLIP, i], now[_SEEN + ANGLE, i] = loads[0], fl[5], fl[6]
    now[_SEEN + LOAD + 1, i], now[_SEEN + SLIP + 1, i], now[_SEEN + ANGLE + 1, i] = loads[1], fr[5], fr[6]
    now[_SEEN + LOAD + 2, i], now[_SEEN + SLIP + 2, i], now[_SEEN + ANGLE + 2, i] = loads[2], rl[5], rl[6]
    now[_SEEN + LOAD + 3, i], now[_SEEN + SLIP + 3, i], now[_SEEN + ANGLE + 3, i] = loads[3], rr[5], rr[6]


@ops.shared
def _eased(slip, aided):
    """What an aid leaves of a pedal, when a wheel slips nearly as much as at the peak (1), or more."""
    return float32(1) - aided * bounded((slip - float32(0.9)) * float32(2.5), float32(0), float32(1))


@ops.shared
def _wheel(tyre, moving, place, steered, load, spin, radius, grip):
    """A wheel on the road: its force along itself and to its left; how that along grows with its spin, N s/rad, and how it has grown on
    the mean from none; slip ratio as a part of that near the peak, slip ratio and slip angle; the most force along that the road has."""
    vx, vy, turn = moving
    sine, cosine = steered
    along, across = dynamics.wheel_velocity(vx, vy, turn, place[0], place[1], sine, cosine)
    pace = larger(abs(along), float32(_SLOWEST))
    slip = (spin * radius - along) / pace
    angle = -ops.atan(across / pace)
    mu_x, _, slip_peak, angle_peak = dynamics.peaks(tyre, load)
    part, turned = slip / slip_peak, angle / angle_peak
    force, side = dynamics.tyre_force(tyre, load, part, turned, grip)
    one = float32(1)
    square = part * part + turned * turned + float32(1e-9)
    size = np.sqrt(square)
    reach = tyre.stretch * size
    swing = tyre.shape * ops.atan(reach)
    used = ops.sin(swing)
    rise = np.sqrt(larger(one - used * used, float32(0))) * tyre.shape * tyre.stretch / (one + reach * reach)
    rise = rise if swing < float32(0.5 * math.pi) else float32(0)  # none beyond the peak
    share, mean = part * part / square, used / size
    unit = grip * load * mu_x / slip_peak * radius / pace
    return force, side, unit * (mean + share * (rise - mean)), unit * mean, part, slip, angle, grip * load * mu_x
