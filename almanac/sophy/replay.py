"""A known lap, driven in the simulator: what its driver did at each place, and a regulator that mends what small differences become
(LQR of a single-track model). An optimal lap that can be driven so is a limit that holds in the simulator too."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from almanac.runtime.errors import RunFailed
from almanac.sophy.lap import Lap
from almanac.sophy.sim import dynamics, road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

_LEAD = 0.02
"""s by which wishes come before the place that they are for: pedals and steering take time."""
_SPEEDS = np.arange(10.0, 121.0, 10.0)
"""m/s for which the regulator is known; between them it is interpolated."""
_HURRY = 0.3
"""Pedal per m/s that is missing."""
_LONGEST = 3.0
"""Times the lap's own time after which a replay is given up."""


@dataclass(frozen=True)
class Replay:
    """A lap as it was driven in the simulator."""

    lap_time: float
    """s, of the second lap: the first finds the pace."""
    off_frames: int
    """Frames of it with three wheels or more beyond the track."""
    s: Float[np.ndarray, " frames"]
    """m along the centre line."""
    speed: Float[np.ndarray, " frames"]
    """m/s."""
    offset: Float[np.ndarray, " frames"]
    """m to the left of the centre line."""
    away: float
    """m, the largest distance from the lap's own line."""


def replay(lap: Lap, track: Track, spec: CarSpec, hold: int = 1) -> Replay:
    """Drive a lap twice, and time the second one.

    Args:
        lap: what is followed.
        track: its track.
        spec: its car.
        hold: frames between two decisions: 1: sixty a second, 6: ten.

    Raises:
        RunFailed: the car does not get around.
    """
    where, numbers, body = road.road(track), step.numbers(spec), world.size(spec)
    cars = world.cars(1, 1)
    s = np.array([lap.s[0]])
    place = road.places(track, s, np.array([lap.offset[0]]))
    place[2] += lap.angle[0]
    world.place(cars, spec, where, np.array([0]), place, s, np.array([lap.vx[0]]))
    cars.state[step.VY, 0], cars.state[step.TURN, 0] = lap.vy[0], lap.yaw_rate[0]
    cars.state[step.STEER, 0] = lap.steering[0]
    cars.state[step.THROTTLE, 0], cars.state[step.BRAKE, 0] = max(lap.pedal[0], 0), max(-lap.pedal[0], 0)
    gains = np.stack([_gains(spec, speed, hold / world.FRAMES) for speed in _SPEEDS])
    trace: list[tuple[float, float, float]] = []
    off, worst = 0, 0.0
    for frame in range(round(2 * _LONGEST * lap.lap_time * world.FRAMES)):
        if frame % hold == 0:
            steer, pedal, away = _wish(lap, cars, where, gains, track.length)
            cars.given[step.STEER_TO, 0] = np.clip(steer, -spec.steering, spec.steering)
            cars.given[step.THROTTLE_TO, 0], cars.given[step.BRAKE_TO, 0] = max(pedal, 0), max(-pedal, 0)
        world.frame(where, *numbers, body, cars, 1)
        if cars.lap_time[0] > 0:
            return Replay(float(cars.lap_time[0]), off, *np.array(trace).T, away=worst)
        if cars.passed[0, 0] > -1:
            trace.append((cars.travelled[0] % track.length, float(cars.state[step.VX, 0]), cars.offset[0]))
            off, worst = off + int(cars.off[0]), max(worst, abs(away))
    raise RunFailed(
        f"the lap of {lap.lap_time:.2f} s could not be driven: the car stopped or left the track",
        "check its car and track",
    )


def _wish(lap: Lap, cars: world.Cars, where: road.Road, gains: np.ndarray, length: float) -> tuple[float, float, float]:
    """Steering (rad) and pedal, and how far the car is from the lap's line."""
    state = cars.state[:, 0]
    s = cars.index[0] * where.step + cars.along[0]

    def at(values: np.ndarray, place: float) -> float:
        return float(np.interp(place % length, lap.s, values, period=length))

    vx = float(state[step.VX])
    soon = s + _LEAD * vx
    missed = np.array(
        [
            cars.offset[0] - at(lap.offset, s),
            cars.angle[0] - at(lap.angle, s),
            float(state[step.VY]) - at(lap.vy, s),
            float(state[step.TURN]) - at(lap.yaw_rate, s),
        ]
    )
    regulator = np.array([np.interp(vx, _SPEEDS, gains[:, each]) for each in range(4)])
    steer = at(lap.steering, soon) - float(regulator @ missed)
    pedal = at(lap.pedal, soon) + _HURRY * (at(lap.vx, s) - vx)
    return steer, min(max(pedal, -1.0), 1.0), float(missed[0])


def _gains(spec: CarSpec, speed: float, time: float) -> Float[np.ndarray, " 4"]:
    """Steering, rad, per m off the line, rad of heading, m/s across and rad/s of yaw: the linear-quadratic regulator of a single track
    whose tyres are as stiff as they are near no slip.

    Args:
        spec: the car.
        speed: m/s.
        time: between two decisions, s.
    """
    numbers = spec.equations()
    weight = spec.mass * dynamics.GRAVITY + numbers.lift * speed**2
    base = spec.front + spec.rear
    stiff = []
    for tyre, share in ((numbers.tyre_front, spec.rear / base), (numbers.tyre_rear, spec.front / base)):
        load = 0.5 * weight * share
        _, mu, _, angle = dynamics.peaks(tyre, load)
        stiff.append(2 * load * mu * math.sin(tyre.shape * math.atan(tyre.stretch * 0.5)) / (0.5 * angle))
    front, rear = stiff
    turning = spec.front * front - spec.rear * rear
    changes = np.array(
        [
            [0, speed, 1, 0],
            [0, 0, 0, 1],
            [0, 0, -(front + rear) / (spec.mass * speed), -turning / (spec.mass * speed) - speed],
            [
                0,
                0,
                -turning / (spec.yaw_inertia * speed),
                -(spec.front**2 * front + spec.rear**2 * rear) / (spec.yaw_inertia * speed),
            ],
        ]
    )
    steered = np.array([[0], [0], [front / spec.mass], [spec.front * front / spec.yaw_inertia]])
    whole = scipy.linalg.expm(time * np.block([[changes, steered], [np.zeros((1, 5))]]))
    step_on, pushed = whole[:4, :4], whole[:4, 4:]
    cost, effort = np.diag([1.0, 10.0, 0.1, 0.1]), np.array([[200.0]])
    future = scipy.linalg.solve_discrete_are(step_on, pushed, cost, effort)
    return (np.linalg.solve(effort + pushed.T @ future @ pushed, pushed.T @ future @ step_on)).ravel()
