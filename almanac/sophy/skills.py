"""What a racing driver must be able to do besides a fast lap, each measured by itself (Wurman et al. 2022, Methods: skill tests): pass a
car by its slipstream, come through the first bends of a full grid, find back from mistakes, and pass a slower car without touching it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from almanac.sophy import env, opponents
from almanac.sophy.race import Decides
from almanac.sophy.scenarios import Beginnings, Scenario
from almanac.sophy.sim import road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track


@dataclass(frozen=True)
class Skill:
    """A test of many short drives."""

    scenario: Scenario
    seconds: float
    """Of each."""
    skill: float
    """Of the opponents."""


SKILLS = {
    "slipstream": Skill(Scenario(2, "slipstream", 1.0), 40.0, 0.9),
    "grid": Skill(Scenario(8, "grid", 1.0), 40.0, 0.95),
    "pass": Skill(Scenario(2, "anywhere", 1.0), 60.0, 0.85),
    "recover": Skill(Scenario(1, "anywhere", 1.0), 12.0, 1.0),
}
TRIES = 40
"""Drives of a test."""
_ASTRAY = 0.9
"""rad, at most, to the road from which a car must find back."""


def run(driver: Decides, track: Track, car: CarSpec, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each skill: `skill`, `tries`, `passed` (of them), and what is measured beside, as means of a drive: places won, s off the
    track, and contacts that were the driver's own fault.

    Passed is: in front at the end and no contact of one's own (slipstream, pass), no such contact and no time off the track (grid), back on
    the track and as fast as half of what the place bears (recover).

    Args:
        driver: who is tested.
        track: where.
        car: in which car.
        seed: of where tests begin.
    """
    return [_tried(name, skill, driver, track, car, seed) for name, skill in SKILLS.items()]


def _tried(name: str, skill: Skill, driver: Decides, track: Track, car: CarSpec, seed: int) -> dict[str, Any]:
    each = skill.scenario.cars
    begin = Beginnings(skill.scenario)
    rules = env.Rules(seconds=skill.seconds + 1, stuck=math.inf, weights=env.Weights(unsporting=1.0))
    races = env.make(track, car, TRIES * each, each, rules=rules, begin=begin)
    races.reset(seed=seed)
    own = np.arange(0, TRIES * each, each)
    others = np.setdiff1d(np.arange(TRIES * each), own)
    if name == "recover":
        _astray(races, car)
    rivals = opponents.Drivers(track, car, [skill.skill] * len(others)) if len(others) else None
    ahead = _ahead(races, own, each)
    faults, off = np.zeros(TRIES), np.zeros(TRIES)
    actions = np.zeros((TRIES * each, 2), np.float32)
    for _ in range(round(skill.seconds * env.RATE)):
        actions[own] = driver.act(races.cars, own, each)
        if rivals is not None:
            actions[others] = rivals.act(races.cars, others, each)
        *_, info = races.step(actions)
        faults += info["terms"]["unsporting"][own] != 0
        off += races.cars.off[own] / env.RATE
    won = ahead - _ahead(races, own, each)
    speed, limit = races.cars.state[step.VX, own], races.limits[races.cars.nearest[own]]
    passed: Callable[[], np.ndarray] = {
        "slipstream": lambda: (won > 0) & (faults == 0),
        "pass": lambda: (_ahead(races, own, each) == 0) & (faults == 0),
        "grid": lambda: (faults == 0) & (off == 0),
        "recover": lambda: ~races.cars.off[own] & (speed > 0.5 * limit),
    }[name]
    return {
        "skill": name, "tries": TRIES, "passed": int(passed().sum()), "places_won": round(float(won.mean()), 2),
        "off_s": round(float(off.mean()), 2), "faults": round(float(faults.mean()), 3),
    }  # fmt: skip


def _ahead(races: env.Racing, own: np.ndarray, each: int) -> np.ndarray:
    """Cars before each of those."""
    travelled = races.cars.travelled.reshape(-1, each)
    return (travelled > travelled[:, :1]).sum(1) if len(own) else np.zeros(0, int)


def _astray(races: env.Racing, car: CarSpec) -> None:
    """Turn cars away from the road, half of them beside it."""
    rng, count = races.np_random, races.num_envs
    s = races.cars.nearest * races.course.step
    index = races.cars.nearest
    beside = rng.random(count) < 0.5
    edge = np.where(rng.random(count) < 0.5, races.course.left[index] + 1.5, -races.course.right[index] - 1.5)
    offset = np.where(beside, edge, races.cars.offset)
    spots = road.places(races.course, s, offset)
    spots[2] += rng.uniform(-_ASTRAY, _ASTRAY, count)
    world.place(races.cars, car, races.road, np.arange(count), spots, s, 0.4 * races.limits[index])
