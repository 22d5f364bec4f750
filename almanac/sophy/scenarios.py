"""What Sophy practises: alone, among others from anywhere, from a grid, behind a car whose slipstream it can use, and where it went wrong
before (Wurman et al. 2022, Methods: all at the same time, never one after the other)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from almanac.runtime.errors import UserError
from almanac.sophy import env
from almanac.sophy.env import Racing, Starts
from almanac.sophy.sim import step

Beginning = Literal["anywhere", "grid", "rolling", "slipstream", "mistakes"]

_COLUMN, _ROW = 2.0, 8.0
"""m from the centre line to a column of the grid, and from a car to the next."""
_BEHIND = (8.0, 45.0)
"""m behind a car ahead, whose slipstream is to be used."""
_STRAIGHT = 0.9
"""Part of the track's highest speed that a place bears where a slipstream helps."""


@dataclass(frozen=True)
class Scenario:
    """A kind of driving."""

    cars: int
    """Of a race."""
    begins: Beginning
    """How races begin."""
    share: float
    """Of driving and of each minibatch, beside the other scenarios' shares."""
    own: int = 1
    """Of these, how many the agent drives and learns from: the first ones, wherever they begin."""
    shown: bool = False
    """Whether built-in drivers show the agent how its cars are driven."""


KNOWN: dict[str, Scenario] = {
    "time_trial": Scenario(1, "anywhere", 1.0),
    "mistakes": Scenario(1, "mistakes", 0.25),
    "shown": Scenario(1, "anywhere", 0.25, shown=True),
    "shown_races": Scenario(8, "grid", 0.25, own=8, shown=True),
    "1v1": Scenario(2, "anywhere", 0.25),
    "1v2": Scenario(3, "anywhere", 0.25),
    "1v3": Scenario(4, "anywhere", 0.25),
    "1v7": Scenario(8, "anywhere", 0.5),
    "grid": Scenario(8, "grid", 0.5, own=4),
    "rolling": Scenario(8, "rolling", 0.25, own=4),
    "slipstream": Scenario(2, "slipstream", 0.25),
}
"""By name. Of fields of eight, four are a team. `mistakes` begins where the agent lost control before, or anywhere while it has not yet."""


def chosen(names: Sequence[str]) -> dict[str, Scenario]:
    """Scenarios by name, each with its share, or with another as `NAME=SHARE`.

    Raises:
        UserError: there is none of that name, or a share is no positive number.
    """
    found = {}
    for each in names:
        name, _, share = each.partition("=")
        if name not in KNOWN:
            raise UserError(f"there is no scenario '{name}'", f"there are {', '.join(KNOWN)}")
        scenario = KNOWN[name]
        if share:
            try:
                scenario = replace(scenario, share=float(share))
            except ValueError:
                raise UserError(f"'{share}' is no share", f"give {name}=NUMBER") from None
        if not 0 < scenario.share < float("inf"):
            raise UserError(f"the share of {name} is {scenario.share}", "give a positive number")
        found[name] = scenario
    if not found:
        raise UserError("no scenario", f"give some of {', '.join(KNOWN)}")
    return found


class Beginnings:
    """Where a scenario's races begin.

    Args:
        scenario: which.
    """

    def __init__(self, scenario: Scenario):
        self.scenario = scenario
        self.mistakes = np.zeros((0, MISTAKE))
        """States from which the agent lost control."""

    def __call__(self, races: Racing, count: int) -> Starts:
        begins: Mapping[str, env.Begin] = {
            "anywhere": _anywhere, "grid": _grid, "rolling": _grid, "slipstream": _slipstream, "mistakes": self._mistakes
        }  # fmt: skip
        starts = begins[self.scenario.begins](races, count)
        if self.scenario.begins == "rolling":
            rolling = races.np_random.uniform(0.4, 0.9, count) * races.limits.max()
            ahead = races.limits[_index(races, starts.s)]
            starts = starts._replace(speed=np.minimum(np.repeat(rolling, races.each), ahead))
        return starts

    def _mistakes(self, races: Racing, count: int) -> Starts:
        if len(self.mistakes) == 0:
            return env.anywhere(races, count)
        rows = self.mistakes[races.np_random.integers(len(self.mistakes), size=count)].T
        return Starts(rows[0], rows[1], rows[3], rows[2], rows[3:])


MISTAKE = 3 + step.STATES - step.VX
"""Numbers of a state from which control was lost: place along the track, beside it, angle to it, and how the car moves."""


def _index(races: Racing, s: np.ndarray) -> np.ndarray:
    return np.floor(np.mod(s, races.course.length) / races.course.step).astype(int) % len(races.course.x)


def _shuffled(races: Racing, count: int, values: np.ndarray) -> np.ndarray:
    """Values of each race's places, given to its cars by chance: order (count × each) and those values."""
    return races.np_random.permuted(np.tile(values, (count, 1)), axis=1)


def _anywhere(races: Racing, count: int) -> Starts:
    """Cars near each other, gaps and speeds drawn by chance."""
    if races.each == 1:
        return env.anywhere(races, count)
    rng, length = races.np_random, races.course.length
    first = rng.uniform(0, length, count)
    places = np.cumsum(rng.uniform(races.vehicle.length + 2, 2 * races.rules.gap, (count, races.each)), axis=1)
    s = (first[:, None] - rng.permuted(places, axis=1)).ravel() % length
    index = _index(races, s)
    half = 0.5 * races.vehicle.width + 0.2
    offset = rng.uniform(half - races.course.right[index], races.course.left[index] - half)
    speed = np.repeat(rng.uniform(*races.rules.start, count), races.each) * races.limits[index]
    return Starts(s, offset, speed)


def _grid(races: Racing, count: int) -> Starts:
    """Cars that stand in two columns before the line."""
    order = _shuffled(races, count, np.arange(races.each)).ravel()
    s = -_ROW * (order + 1.0)
    return Starts(s, np.where(order % 2 == 0, _COLUMN, -_COLUMN), np.zeros(len(s)))


def _slipstream(races: Racing, count: int) -> Starts:
    """The agent behind the others on a fast piece of the track, all as fast."""
    rng = races.np_random
    fast = np.flatnonzero(races.limits >= _STRAIGHT * races.limits.max())
    first = races.course.step * rng.choice(fast, count).astype(float)
    gaps = np.cumsum(rng.uniform(*_BEHIND, (count, races.each - 1)), axis=1)
    s = np.concatenate((first[:, None], first[:, None] + gaps), axis=1).ravel() % races.course.length
    index = _index(races, s)
    speed = np.repeat(rng.uniform(0.6, 0.9, count), races.each) * races.limits[index]
    return Starts(s, rng.uniform(-1.5, 1.5, len(s)), speed)
