"""Sophy at the wheel: a trained policy as a driver of cars, as races take it, and laps driven alone. Without noise, so that the same laps
follow each time."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from almanac.runtime import checkpoint, hub
from almanac.runtime.errors import UserError
from almanac.sophy import env, hands, opponents, race, steady
from almanac.sophy.env import Sight
from almanac.sophy.model import Networks, Policy
from almanac.sophy.sim import road, step, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

_CAREFUL = 0.85
"""Part of the grip by whose speeds cars are let go, and of those speeds:"""
_LET_GO = 0.7
_STILL = 10.0
"""s that a car stands, after which nobody waits for it."""
_LONGEST = 2.0
"""Times a careful lap's time after which a lap is given up."""


@dataclass(frozen=True)
class Trained:
    """What a file of a policy holds."""

    policy: Policy
    networks: Networks
    sight: Sight
    facts: dict[str, Any]
    """`track`, `car`, their digests, `updates` and how they came to be."""

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], networks: Networks, sight: Sight, facts: dict[str, Any]) -> "Trained":
        """By a policy's weights."""
        policy = Policy(networks)
        policy.load_state_dict({key: each.float() for key, each in weights.items()})
        return cls(policy.eval().requires_grad_(False), networks, sight, facts)

    def knows(self, track: Track) -> bool:
        """Whether it was trained on a track."""
        return self.facts.get("track_digest") == race.digest(track)


def write(
    path: Path, weights: Mapping[str, Tensor], networks: Networks, sight: Sight, facts: Mapping[str, Any]
) -> None:
    """Write a policy (.safetensors).

    Raises:
        UserError: it can't be written.
    """
    about = {"system": "sophy", "networks": networks.facts(), "sight": asdict(sight), **facts}
    checkpoint.save_weights(path, weights, about)


def facts_of(track: Track, car: CarSpec) -> dict[str, Any]:
    """What a file says of the track and the car that its policy was trained with."""
    return {
        "track": track.name, "track_digest": race.digest(track), "car": car.name, "car_digest": race.digest(car)
    }  # fmt: skip


def load(name: str, car: CarSpec) -> Trained:
    """A trained policy.

    Args:
        name: of one that ships, or a run's folder or file.
        car: that it shall drive.

    Raises:
        UserError: there is none, it is damaged, or it was trained with another car.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "model.safetensors"
    elif not path.suffix:
        path = hub.weights(f"sophy/{name}")
    tensors, facts = checkpoint.load_weights(path, "sophy")
    try:
        networks, sight = Networks(**facts["networks"]), dict(facts["sight"])
        sight = Sight(**{**sight, "lines": tuple(sight["lines"])})
        trained = Trained.of(tensors, networks, sight, facts)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} holds no policy of Sophy's ({reason})", "give what `train` wrote") from None
    if networks.observed != env.observed(sight):
        what = f"{path} sees {networks.observed} numbers, and its sight gives {env.observed(sight)}"
        raise UserError(what, "it is of another version: train it again")
    if facts.get("car_digest") != race.digest(car):
        raise UserError(f"{path} drives {facts.get('car')}, not {car.name}", "give its car, or train one for yours")
    return trained


class Sophy:
    """A driver of cars. Where practice ends, in a car that stands across the road, a built-in driver turns it back.

    Args:
        trained: the policy.
        track: where.
        car: all its cars.
    """

    def __init__(self, trained: Trained, track: Track, car: CarSpec):
        self.trained, self.car = trained, car
        self.road = road.road(track)

    def act(self, cars: world.Cars, numbers: Int[np.ndarray, " some"], each: int = 1) -> Float[np.ndarray, "some 2"]:
        """Steering and pedal, −1 to 1.

        Args:
            cars: all cars.
            numbers: which of them it drives.
            each: cars of a race.
        """
        seen = env.observe(self.road, cars, self.car, self.trained.sight, each)[numbers]
        with torch.no_grad():
            actions = self.trained.policy.best(torch.tensor(seen)).numpy()
        wishes = hands.wishes(actions, cars, numbers, self.car)
        return opponents.turned_back(self.road, self.car, cars, numbers, wishes)


@dataclass(frozen=True)
class Laps:
    """Laps driven alone."""

    times: Float[np.ndarray, " laps"]
    """s."""
    clean: Float[np.ndarray, " laps"]
    """1: never off the track nor at a wall."""
    asked: int
    """How many there should be; others were not finished."""

    @property
    def clean_times(self) -> Float[np.ndarray, " laps"]:
        """Of the clean ones, s."""
        return self.times[self.clean > 0]

    def facts(self) -> dict[str, Any]:
        """`laps`, `clean_laps`, and `mean_s`, `std_s`, `best_s` of the clean ones; none where there is none."""
        times = self.clean_times
        there = len(times) > 0
        return {
            "laps": self.asked,
            "clean_laps": len(times),
            "mean_s": round(float(times.mean()), 3) if there else None,
            "std_s": round(float(times.std()), 3) if there else None,
            "best_s": round(float(times.min()), 3) if there else None,
        }


def laps(driver: race.Decides, track: Track, car: CarSpec, count: int, at_once: int = 20) -> Laps:
    """Drive flying laps, some cars at the same time from places all around the track, each alone.

    Args:
        driver: of all of them.
        track: where.
        car: in which car.
        count: laps, of all cars together.
        at_once: cars.
    """
    at_once = min(at_once, count)
    wanted = np.full(at_once, count // at_once) + (np.arange(at_once) < count % at_once)
    careful = steady.speeds(car, track.curvature, track.step, _CAREFUL)
    where, body, numbers = road.road(track), world.size(car), step.numbers(car)
    cars, all_of_them = world.cars(at_once, 1), np.arange(at_once)
    index = (all_of_them * len(track.x)) // at_once
    s = index * track.step
    world.place(cars, car, where, all_of_them, road.places(track, s, np.zeros(at_once)), s, _LET_GO * careful[index])
    times, clean, bad = [], [], np.full(at_once, np.inf)  # the lap that it is let go in does not count
    still, done, longest = np.zeros(at_once), np.zeros(at_once, int), _LONGEST * steady.lap_time(careful, track.step)
    for _ in range(math.ceil((int(wanted.max()) + 1) * longest * env.RATE)):
        wishes, gates = np.clip(driver.act(cars, all_of_them, 1), -1, 1), cars.gates // world.GATES
        cars.given[step.STEER_TO] = wishes[:, 0] * np.float32(car.steering)
        cars.given[step.THROTTLE_TO], cars.given[step.BRAKE_TO] = wishes[:, 1].clip(0), (-wishes[:, 1]).clip(0)
        for _ in range(world.FRAMES // env.RATE):
            world.frame(where, *numbers, body, cars, 1)
        for at in np.flatnonzero(cars.gates // world.GATES > gates):
            spoilt = cars.off_time[at] + cars.wall_time[at]
            if np.isfinite(bad[at]) and cars.lap_time[at] > 0 and done[at] < wanted[at]:
                times.append(float(cars.lap_time[at]))
                clean.append(float(spoilt <= bad[at]))
                done[at] += 1
            bad[at] = spoilt
        still = np.where(np.abs(cars.state[step.VX]) < 1.0, still + 1 / env.RATE, 0.0)
        if ((done >= wanted) | (still > _STILL)).all():
            break
    return Laps(np.array(times), np.array(clean), count)
