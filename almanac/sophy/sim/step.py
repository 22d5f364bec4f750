"""Cars through time, 240 steps a second: the equations of `dynamics` for many cars at once, in blocks of lanes whose numbers lie side by
side, so that LLVM makes vectors of the loop (docs/log.md). Wheels turn by an implicit step, because a
tyre at speed answers faster than a step is long; positions follow the new speeds."""

from typing import Any, NamedTuple

import numpy as np
from numba import float32

from almanac.nn.compiled import compiled
from almanac.nn.scalars import larger
from almanac.sophy.sim import dynamics, ops
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.dynamics import Car

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
_SLOWEST_TURN = 20.0
"""rad/s of the driven wheels below which the engine gives no more torque: it has its power at any speed above, as if gears had no steps."""
_PEDAL = 0.1
"""s that a pedal takes from end to end."""


class Drive(NamedTuple):
    """What turns the wheels."""

    power: Any
    """W."""
    differential: Any
    """N m s/rad."""
    brake_front: Any
    """N m, of a front wheel at full pedal."""
    brake_rear: Any
    steering_rate: Any
    """rad/s."""
    radius_front: Any
    """m."""
    radius_rear: Any
    inertia_front: Any
    """kg m²."""
    inertia_rear: Any


def numbers(car: CarSpec) -> tuple[Car, Drive]:
    """A car as compiled loops take it: in float32."""
    drive = Drive(
        car.power,
        car.differential,
        0.5 * car.brake_front * car.brake_torque,
        0.5 * (1 - car.brake_front) * car.brake_torque,
        car.steering_rate,
        car.tyre_front.radius,
        car.tyre_rear.radius,
        car.tyre_front.inertia,
        car.tyre_rear.inertia,
    )
    return _single(car.equations()), _single(drive)


def _single(values: Any) -> Any:
    """A tuple of numbers in float32, and of such tuples."""
    return type(values)(*(_single(each) if isinstance(each, tuple) else np.float32(each) for each in values))


@ops.shared
def turned_wheel(
    spin: Any, torque: Any, braking: Any, force: Any, stiffness: Any, inertia: Any, radius: Any, time: Any
) -> Any:
    """How fast a wheel turns after a step: driven, held by the road with the force that it has and would have, then braked at most to
    a stand."""
    mass = inertia + time * stiffness * radius
    spin = spin + time * (torque - radius * force) / mass
    slower = larger(abs(spin) - time * braking / mass, float32(0))
    return -slower if spin < float32(0) else slower


@ops.shared
def bounded(x: Any, least: Any, most: Any) -> Any:
    """A number within bounds."""
    return -larger(-larger(x, least), -most)


@compiled
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
    pedal, smooth = float32(1 / RATE / _PEDAL), float32(1 / RATE / _SMOOTH)
    zero, one = float32(0), float32(1)
    vx, vy, turn, yaw = now[VX, i], now[VY, i], now[TURN, i], now[YAW, i]
    most = drive.steering_rate * time
    steer = now[STEER, i] + bounded(now[STATES + STEER_TO, i] - now[STEER, i], -most, most)
    throttle = now[THROTTLE, i] + bounded(now[STATES + THROTTLE_TO, i] - now[THROTTLE, i], -pedal, pedal)
    brake = now[BRAKE, i] + bounded(now[STATES + BRAKE_TO, i] - now[BRAKE, i], -pedal, pedal)
    held, weight = now[STATES + HELD, i], now[STATES + WEIGHT, i]
    grips = now[STATES + GRIP, i], now[STATES + GRIP + 1, i], now[STATES + GRIP + 2, i], now[STATES + GRIP + 3, i]
    spins = now[SPIN, i], now[SPIN + 1, i], now[SPIN + 2, i], now[SPIN + 3, i]

    # The four wheels on the road.
    speed = np.sqrt(vx * vx + vy * vy)
    loads = dynamics.loads(car, speed, now[AX, i], now[AY, i], weight, now[STATES + PRESSED, i], held)
    moving, steered, straight = (vx, vy, turn), (ops.sin(steer), ops.cos(steer)), (zero, one)
    left, right = half * car.track_front, half * car.track_rear
    radius_front, radius_rear = drive.radius_front, drive.radius_rear
    fl = _wheel(car.tyre_front, moving, (car.front, left), steered, loads[0], spins[0], radius_front, grips[0])
    fr = _wheel(car.tyre_front, moving, (car.front, -left), steered, loads[1], spins[1], radius_front, grips[1])
    rl = _wheel(car.tyre_rear, moving, (-car.rear, right), straight, loads[2], spins[2], radius_rear, grips[2])
    rr = _wheel(car.tyre_rear, moving, (-car.rear, -right), straight, loads[3], spins[3], radius_rear, grips[3])

    # The engine, the differential, the brakes, and aids.
    asked = throttle * _eased(larger(rl[4], rr[4]), now[STATES + TRACTION, i]) * now[STATES + ENGAGED, i]
    driven = half * asked * drive.power / larger(half * (spins[2] + spins[3]), float32(_SLOWEST_TURN))
    apart = half * drive.differential * (spins[2] - spins[3])
    aided, front, rear = now[STATES + ABS, i], brake * drive.brake_front, brake * drive.brake_rear
    inertia_front, inertia_rear = drive.inertia_front, drive.inertia_rear
    now[SPIN, i] = turned_wheel(
        spins[0], zero, front * _eased(-fl[4], aided), fl[2], fl[3], inertia_front, radius_front, time
    )
    now[SPIN + 1, i] = turned_wheel(
        spins[1], zero, front * _eased(-fr[4], aided), fr[2], fr[3], inertia_front, radius_front, time
    )
    now[SPIN + 2, i] = turned_wheel(
        spins[2], driven - apart, rear * _eased(-rl[4], aided), rl[2], rl[3], inertia_rear, radius_rear, time
    )
    now[SPIN + 3, i] = turned_wheel(
        spins[3], driven + apart, rear * _eased(-rr[4], aided), rr[2], rr[3], inertia_rear, radius_rear, time
    )

    # The body.
    ax, ay, turning = dynamics.body(car, ((fl[0], fl[1]), (fr[0], fr[1]), (rl[0], rl[1]), (rr[0], rr[1])), vx, held)
    holds = now[STATES + HOLD, i] + now[STATES + HOLD + 1, i] + now[STATES + HOLD + 2, i] + now[STATES + HOLD + 3, i]
    holding = (car.rolling + float32(0.25) * holds) * weight
    ax = ax - holding * bounded(vx, -one, one)
    ay = ay - holding * bounded(vy, -one, one)
    yaw_sine, yaw_cosine = ops.sin(yaw), ops.cos(yaw)
    east, north = now[STATES + PULL_X, i], now[STATES + PULL_Y, i]
    new_vx = vx + time * (ax + east * yaw_cosine + north * yaw_sine + turn * vy)
    new_vy = vy + time * (ay + north * yaw_cosine - east * yaw_sine - turn * vx)
    turn = turn + time * turning
    yaw = yaw + time * turn
    yaw = yaw - np.floor(yaw * float32(0.15915494) + half) * float32(6.2831853)
    now[X, i] = now[X, i] + time * (new_vx * yaw_cosine - new_vy * yaw_sine)
    now[Y, i] = now[Y, i] + time * (new_vx * yaw_sine + new_vy * yaw_cosine)
    now[VX, i], now[VY, i], now[TURN, i], now[YAW, i] = new_vx, new_vy, turn, yaw
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
    """A wheel on the road: its force ahead and to the left of the car, and along itself; how that would grow with its spin; slip ratio
    as a part of that near the peak, slip ratio and slip angle."""
    vx, vy, turn = moving
    sine, cosine = steered
    along, across = dynamics.wheel_velocity(vx, vy, turn, place[0], place[1], sine, cosine)
    pace = larger(abs(along), float32(_SLOWEST))
    slip = (spin * radius - along) / pace
    angle = -ops.atan(across / pace)
    mu_x, _, slip_peak, angle_peak = dynamics.peaks(tyre, load)
    part = slip / slip_peak
    force, side = dynamics.tyre_force(tyre, load, part, angle / angle_peak, grip)
    stiffness = grip * load * mu_x * tyre.shape * tyre.stretch / slip_peak * radius / pace
    ahead_force, left_force = dynamics.turned(force, side, sine, cosine)
    return ahead_force, left_force, force, stiffness, part, slip, angle
