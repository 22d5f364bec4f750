"""Quasi-steady-state laps: along a line that is known, at each point the speed at which tyres are just in balance, then what the car can
brake and accelerate to. Four loads and load-sensitive grip as in `dynamics`; no transients, so that a lap takes a second to compute."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from almanac.sophy.sim import dynamics
from almanac.sophy.sim.car import CarSpec

_FASTEST = 130.0
"""m/s."""


def speeds(
    car: CarSpec, curvature: Float[np.ndarray, " points"], step: float, grip: float = 1.0
) -> Float[np.ndarray, " points"]:
    """Speeds along a closed line, m/s.

    Args:
        car: the car.
        curvature: of the line at even steps, rad/m.
        step: m.
        grip: the part of the tyres' grip that is used.
    """
    numbers = car.equations()
    bend = np.abs(curvature)
    slow, fast = np.zeros_like(bend), np.full_like(bend, _FASTEST)
    for _ in range(40):
        middle = 0.5 * (slow + fast)
        used = np.maximum(*(across for across, _ in _axles(numbers, middle, 0.0, middle**2 * bend, grip)))
        slow, fast = np.where(used < 1, middle, slow), np.where(used < 1, fast, middle)
    speed = np.clip(slow, 1.0, (car.power / numbers.drag) ** (1 / 3))
    radii, tyres = (car.tyre_front.radius, car.tyre_rear.radius), (car.tyre_front, car.tyre_rear)
    turning = sum(2 * tyre.inertia / radius**2 for tyre, radius in zip(tyres, radii, strict=True))
    mass = car.mass + turning
    for forward in (True, False):
        order = range(len(speed)) if forward else range(len(speed) - 1, -1, -1)
        for _ in range(2):  # the second time around, the first point knows of the last
            last = None
            for at in order:
                if last is not None:
                    now = float(speed[last])
                    change = _along(car, numbers, mass, now, float(bend[last]), forward, grip)
                    speed[at] = min(speed[at], math.sqrt(max(now**2 + 2 * step * change, 1.0)))
                last = at
    return speed


def lap_time(speed: Float[np.ndarray, " points"], step: float) -> float:
    """Seconds around a closed line at these speeds."""
    return float((2 * step / (speed + np.roll(speed, -1))).sum())


def _along(
    car: CarSpec, numbers: dynamics.Car, mass: float, speed: float, bend: float, forward: bool, grip: float
) -> float:
    """What the car can gain (forward), or lose before (backward), m/s²."""
    held = numbers.drag * speed**2 + car.rolling * (car.mass * dynamics.GRAVITY + numbers.lift * speed**2)
    change = 0.0
    for _ in range(4):  # load follows from what is gained, and grip from load
        axles = _axles(numbers, speed, change if forward else -change, speed**2 * bend, grip)
        left = [most * math.sqrt(max(1 - min(float(used), 1.0) ** 2, 0.0)) for used, most in axles]
        pulled = min(left[1], car.power / speed) - held if forward else left[0] + left[1] + held
        change = pulled / mass
    return change


def _axles(numbers: dynamics.Car, speed: Any, ax: Any, ay: Any, grip: float) -> list[tuple[Any, Any]]:
    """Of the front and the rear axle: the part of its grip that a bend takes, and its grip along, N."""
    loads = dynamics.loads(numbers, speed, ax, ay, dynamics.GRAVITY, 1.0, 1.0)
    base = numbers.front + numbers.rear
    found = []
    for tyre, pair, lever in (
        (numbers.tyre_front, loads[:2], numbers.rear),
        (numbers.tyre_rear, loads[2:], numbers.front),
    ):
        peaks = [dynamics.peaks(tyre, load) for load in pair]
        across = grip * sum(load * peak[1] for load, peak in zip(pair, peaks, strict=True))
        along = grip * sum(load * peak[0] for load, peak in zip(pair, peaks, strict=True))
        found.append((numbers.mass * ay * lever / base / np.maximum(across, 1.0), along))
    return found
