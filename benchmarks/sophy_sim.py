"""The racing simulator beside others that people learn to drive in: its physics beside a single track with linear tyres, integrated as
f1tenth_gym does, and the whole environment (observations, walls, contacts) beside Gymnasium's CarRacing. All on one thread, in turn in one
process, by its CPU time. And a soak: random driving of crowded races, in which everything must stay a number."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from almanac.runtime import console, results
from almanac.runtime.errors import UserError
from almanac.sophy import env
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import dynamics, step
from almanac.sophy.sim import track as tracks

_SINGLE_TRACK_RATE, _CAR_RACING_RATE = 100, 50
"""Steps a second that f1tenth_gym and CarRacing make."""
_RACE = 20
"""Cars of a crowded race."""


def run(
    *,
    track: str = "Norisring",
    car: str = "f1_2014",
    rounds: int = 5,
    seconds: float = 2.0,
    soak: float = 0.0,
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure the simulator beside others, or drive it at random for long.

    Args:
        track: where the environment's cars drive.
        car: which car they are.
        rounds: times that each is measured, in turn.
        seconds: CPU seconds of each measurement, about.
        soak: car-steps (240 a second) to drive at random instead, with all cars that ship, in races of 20.
        write: whether to write results/sophy/bench.json, or soak.json.
        seed: of what drivers do.
        json: print one JSON object.
    """
    if soak:
        rows = [_soak(track, path.stem, soak / len(_shipped()), seed) for path in _shipped()]
    else:
        rows = _measured(_tasks(track, car, seed), rounds, seconds)
    if write:
        results.write("sophy", "soak" if soak else "bench", rows, seed, threads=1)
    console.result({"rows": rows}, json)


Task = tuple[str, str, Callable[[int], None], int, float]
"""What it does, who, so many times, how many steps that is each time, and how many seconds of driving a step is."""


def _measured(tasks: list[Task], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row a task: the median of its rounds."""
    times, rates = [], []
    for _, _, work, _, _ in tasks:
        work(1)  # compiles
        started = time.process_time()
        work(1)
        times.append(max(1, round(seconds / max(time.process_time() - started, 1e-4))))
        rates.append([])
    with console.progress("measuring", rounds * len(tasks), "rounds") as advance:
        for _ in range(rounds):
            for (_, _, work, steps, _), count, found in zip(tasks, times, rates, strict=True):
                started = time.process_time()
                work(count)
                found.append(count * steps / (time.process_time() - started))
                advance()
    return [
        {
            "task": what,
            "engine": who,
            "steps_per_cpu_s": round(statistics.median(found)),
            "driven_s_per_cpu_s": round(statistics.median(found) * one, 1),
        }
        for (what, who, _, _, one), found in zip(tasks, rates, strict=True)
    ]


def _tasks(track: str, car: str, seed: int) -> list[Task]:
    course, spec = tracks.find(track), cars.load(car)
    found: list[Task] = [_physics(spec, count, seed) for count in (64, 1024)]
    found.append(_single_track(seed))
    found += [_environment(course, spec, each, seed) for each in (1, _RACE)]
    found.append(_car_racing(seed))
    return found


def _physics(spec: cars.CarSpec, count: int, seed: int) -> Task:
    """The equations alone, on a level road: a second of driving."""
    rng, numbers = np.random.default_rng(seed), step.numbers(spec)
    state = np.zeros((step.STATES, count), np.float32)
    given = np.zeros((step.GIVEN, count), np.float32)
    seen = np.zeros((step.SEEN, count), np.float32)
    state[step.VX] = 40
    state[step.SPIN : step.SPIN + 4] = 40 / spec.tyre_rear.radius
    given[step.GRIP : step.GRIP + 4] = 1
    given[step.WEIGHT] = dynamics.GRAVITY
    given[[step.PRESSED, step.HELD, step.ENGAGED]] = 1
    given[step.STEER_TO], given[step.THROTTLE_TO] = rng.uniform(-0.1, 0.1, count), rng.uniform(0, 1, count)

    def work(times: int) -> None:
        for _ in range(times):
            step.advance(*numbers, state, given, seen, step.RATE)

    return f"physics, {count:,} cars", "almanac", work, count * step.RATE, 1 / step.RATE


def _environment(course: tracks.Track, spec: cars.CarSpec, each: int, seed: int) -> Task:
    """Decisions of cars that are driven at random, with everything that the environment does."""
    count = 240
    made = env.make(course, spec, cars=count, each=each)
    made.reset(seed=seed)
    rng = np.random.default_rng(seed)

    def work(times: int) -> None:
        for _ in range(times):
            made.step(rng.uniform((-0.3, -0.3), (0.3, 0.7), (count, 2)))

    name = "environment, cars alone" if each == 1 else f"environment, races of {each}"
    return name, "almanac", work, count, 1 / env.RATE


def _car_racing(seed: int) -> Task:
    import gymnasium

    try:
        made = gymnasium.make("CarRacing-v3", continuous=True)
    except gymnasium.error.DependencyNotInstalled:
        raise UserError("CarRacing needs Box2D, which is not installed", "pip install 'almanac[bench]'") from None
    made.reset(seed=seed)
    made.action_space.seed(seed)

    def work(times: int) -> None:
        for _ in range(times):
            _, _, ended, late, _ = made.step(made.action_space.sample())
            if ended or late:
                made.reset()

    return "environment, pictures of 96×96", "Gymnasium CarRacing-v3", work, 1, 1 / _CAR_RACING_RATE


def _single_track(seed: int) -> Task:
    """A car of f1tenth's size, one call a step, as its simulator makes them."""
    state = np.array([0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0])
    wishes = np.random.default_rng(seed).uniform(-1, 1, (1000, 2)).tolist()

    def work(times: int) -> None:
        nonlocal state
        for _ in range(times):
            for steering, gain in wishes:
                state = _runge_kutta(state, steering, gain + 0.5 * (4.0 - state[3]), 1 / _SINGLE_TRACK_RATE)

    return "physics, 1 car, linear tyres", "single track, RK4", work, 1000, 1 / _SINGLE_TRACK_RATE


@njit
def _runge_kutta(state: np.ndarray, steering: float, gain: float, time: float) -> np.ndarray:
    first = _rates(state, steering, gain)
    second = _rates(state + 0.5 * time * first, steering, gain)
    third = _rates(state + 0.5 * time * second, steering, gain)
    fourth = _rates(state + time * third, steering, gain)
    after = state + time / 6 * (first + 2 * second + 2 * third + fourth)
    after[2] = min(max(after[2], -0.4), 0.4)
    return after


@njit
def _rates(state: np.ndarray, steering: float, gain: float) -> np.ndarray:
    """The single track of CommonRoad's vehicle models (§5), with the numbers of a car a tenth as large: of place, steering angle, speed,
    heading, turning, and the angle at which it slides."""
    _, _, angle, speed, heading, turn, slide = state
    mass, inertia, front, rear, height, grip, stiff_front, stiff_rear = (
        3.74,
        0.04712,
        0.15875,
        0.17145,
        0.074,
        1.0489,
        4.718,
        5.4562,
    )
    base, gravity = front + rear, 9.81
    on_front, on_rear = stiff_front * (gravity * rear - gain * height), stiff_rear * (gravity * front + gain * height)
    turning = grip * mass / (inertia * base) * (
        front * on_front * angle + (rear * on_rear - front * on_front) * slide
        - (front**2 * on_front + rear**2 * on_rear) * turn / speed
    )  # fmt: skip
    sliding = grip / (speed * base) * (
        on_front * angle - (on_rear + on_front) * slide + (on_rear * rear - on_front * front) * turn / speed
    ) - turn  # fmt: skip
    way = heading + slide
    return np.array([speed * np.cos(way), speed * np.sin(way), 3.2 * steering, gain, turn, turning, sliding])


def _shipped() -> list[Any]:
    return sorted(cars.CARS.glob("*.toml"))


def _soak(track: str, car: str, steps: float, seed: int) -> dict[str, Any]:
    """Drive at random, into walls and into each other, and count what is no number."""
    course, spec = tracks.find(track), cars.load(car)
    count = 12 * _RACE
    made = env.make(course, spec, cars=count, each=_RACE)
    made.reset(seed=seed)
    rng, asked = np.random.default_rng(seed), np.zeros((count, 2))
    each, bad, walls, touches, fastest = count * step.RATE // env.RATE, 0, 0, 0, 0.0
    decisions = math.ceil(steps / each)
    started = time.process_time()
    with console.progress(f"driving {car}", decisions, "decisions") as advance:
        for _ in range(decisions):
            anew = rng.random(count) < 0.2  # the others hold what they do
            asked[anew] = rng.uniform(-1, 1, (int(anew.sum()), 2))
            seen, reward, *_ = made.step(asked)
            state = made.cars.state
            bad += int((~np.isfinite(state)).sum() + (~np.isfinite(seen)).sum() + (~np.isfinite(reward)).sum())
            walls, touches = walls + int(made.cars.wall.sum()), touches + int((made.cars.hits > 0).any(1).sum())
            fastest = max(fastest, float(np.abs(state[step.VX]).max()))
            advance()
    return {
        "car": car,
        "car_steps": decisions * each,
        "not_numbers": bad,
        "wall_contacts": walls,
        "car_contacts": touches,
        "fastest_m_s": round(fastest, 1),
        "cpu_s": round(time.process_time() - started),
    }
