"""Quasi-steady-state laps: along a line that is known, at each point the speed at which tyres are just in balance, then what the car can
brake and accelerate to. Four loads and load-sensitive grip as in `dynamics`; no transients, so that a lap takes a second to compute."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from almanac.sophy.sim import dynamics
from almanac.sophy.sim.car import CarSpec

_FASTEST = 130.0
"""m/s."""


def speeds(
    car: CarSpec,
    curvature: Float[np.ndarray, " points"],
    step: float,
    grip: float = 1.0,
    held: Float[np.ndarray, " points"] | None = None,
) -> Float[np.ndarray, " points"]:
    """Speeds along a closed line, m/s.

    Args:
        car: the car.
        curvature: of the line at even steps, rad/m.
        step: m.
        grip: the part of the tyres' grip that is used.
        held: drag where the car accelerates, as a part of its own (less where a flap opens); None: its own.
    """
    bend = np.abs(curvature, dtype=np.float64)
    drags = np.ones_like(bend) if held is None else held.astype(np.float64)
    return _speeds(car, bend.tobytes(), step, grip, drags.tobytes()).copy()


@lru_cache(64)
def _speeds(car: CarSpec, bends: bytes, step: float, grip: float, drags: bytes) -> np.ndarray:
    """The same, of arrays as their bytes: each race on a track asks for it again."""
    numbers, drive = car.equations(), car.drive()
    bend, held = np.frombuffer(bends), np.frombuffer(drags)
    slow, fast = np.zeros_like(bend), np.full_like(bend, _FASTEST)
    for _ in range(40):
        middle = 0.5 * (slow + fast)
        used = np.maximum(*(across for across, *_ in _axles(numbers, middle, 0.0, middle**2 * bend, grip)))
        slow, fast = np.where(used < 1, middle, slow), np.where(used < 1, fast, middle)
    speed = np.clip(slow, 1.0, (car.power / (numbers.drag * held.min())) ** (1 / 3))
    for forward in (True, False):
        order = range(len(speed)) if forward else range(len(speed) - 1, -1, -1)
        last = None
        for _ in range(2):  # the second time around, the first point knows of the last
            for at in order:
                if last is not None:
                    now, bent = float(speed[last]), float(bend[last])
                    change = (
                        _gain(car, drive, now, bent, grip, float(held[last]))
                        if forward
                        else _loss(car, now, bent, grip)
                    )
                    speed[at] = min(speed[at], math.sqrt(max(now**2 + 2 * step * change, 1.0)))
                last = at
    return speed


def lap_time(speed: Float[np.ndarray, " points"], step: float) -> float:
    """Seconds around a closed line at these speeds."""
    return float((2 * step / (speed + np.roll(speed, -1))).sum())


def _gain(car: CarSpec, drive: dynamics.Drive, speed: float, bend: float, grip: float, held: float) -> float:
    """What a car can gain, m/s²: what the driven wheels hold, or what the engine gives, of which some turns the wheels."""
    numbers = car.equations()
    resisted = held * numbers.drag * speed**2 + _rolling(car, numbers, speed)
    turning = sum(2 * tyre.inertia / tyre.radius**2 for tyre in (car.tyre_front, car.tyre_rear))
    spin = max(speed / car.tyre_rear.radius, float(drive.slowest))
    given = float(dynamics.full_power(drive.power, drive.gears, spin)) / max(speed, spin * car.tyre_rear.radius)
    most, change = (given - resisted) / (car.mass + turning), 0.0
    for _ in range(4):  # load follows from what is gained, and grip from load
        _, (used, held_by, _) = _axles(numbers, speed, change, speed**2 * bend, grip)
        change = min((_left(used, held_by) - resisted) / car.mass, most)
    return change


def _loss(car: CarSpec, speed: float, bend: float, grip: float) -> float:
    """What a car can lose, m/s²."""
    numbers, change = car.equations(), 0.0
    resisted = numbers.drag * speed**2 + _rolling(car, numbers, speed)
    for _ in range(4):
        front, rear = _axles(numbers, speed, -change, speed**2 * bend, grip)
        # The front brakes press alike, so that the lighter wheel says how hard; those of the rear are joined by the differential.
        change = (_left(front[0], front[2]) + _left(rear[0], rear[1]) + resisted) / car.mass
    return change


def _rolling(car: CarSpec, numbers: dynamics.Car, speed: float) -> float:
    """Rolling resistance, N."""
    return car.rolling * (car.mass * dynamics.GRAVITY + numbers.lift * speed**2)


def _left(used: Any, most: Any) -> float:
    """Grip along, N, of an axle of whose grip a bend takes a part."""
    return float(most) * math.sqrt(max(1 - min(float(used), 1.0) ** 2, 0.0))


def _axles(numbers: dynamics.Car, speed: Any, ax: Any, ay: Any, grip: float) -> list[tuple[Any, Any, Any]]:
    """Of the front and the rear axle: the part of its grip that a bend takes, its grip along, N, and that where both wheels pull alike."""
    loads = dynamics.loads(numbers, speed, ax, ay, dynamics.GRAVITY, 1.0, 1.0)
    base = numbers.front + numbers.rear
    found = []
    for tyre, pair, lever in (
        (numbers.tyre_front, loads[:2], numbers.rear),
        (numbers.tyre_rear, loads[2:], numbers.front),
    ):
        peaks = [dynamics.peaks(tyre, load) for load in pair]
        across = grip * sum(load * peak[1] for load, peak in zip(pair, peaks, strict=True))
        inner, outer = (grip * load * peak[0] for load, peak in zip(pair, peaks, strict=True))
        used = numbers.mass * ay * lever / base / np.maximum(across, 1.0)
        found.append((used, inner + outer, 2 * np.minimum(inner, outer)))
    return found
