"""Team races, as Sophy's were (Wurman et al. 2022, Results): two teams on one grid, points for places, and the last race counts twice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from almanac.runtime.errors import UserError
from almanac.sophy import race, steward
from almanac.sophy.names import NAMES
from almanac.sophy.race import Decides, Recording, Start
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

POINTS = (10, 8, 6, 5, 4, 3, 2, 1)
"""Of places; none beyond."""
OURS = "Sophy"
"""How cars of the first team are called, with a number."""


@dataclass(frozen=True)
class Outcome:
    """A race of two teams."""

    points: tuple[int, int]
    contacts: int
    """Events in which cars of different teams, or of one, touched."""
    rear_ends: int
    """Cars of the first team that drove into the rear of another, by the steward."""
    car_laps: int
    """Laps of all cars that were driven to the end."""
    finished: tuple[int, int]
    """Cars of each team that drove all laps."""
    recording: Recording
    result: steward.Result


def sizes(text: str) -> tuple[int, int]:
    """Cars of two teams, as in `4v4`.

    Raises:
        UserError: it is something else.
    """
    ours, _, theirs = text.partition("v")
    if not (ours.isdigit() and theirs.isdigit() and int(ours) and int(theirs) and int(ours) + int(theirs) <= race.MOST):
        raise UserError(f"'{text}' are no teams", f"give cars of each, such as 4v4; together at most {race.MOST}")
    return int(ours), int(theirs)


def run(
    track: Track,
    car: CarSpec,
    ours: Decides,
    theirs: Decides,
    cars: tuple[int, int],
    laps: int,
    start: Start,
    seed: int,
) -> Outcome:
    """A race of two teams; who starts where is drawn.

    Args:
        track: where.
        car: of all.
        ours: drives the first team's cars.
        theirs: drives the second's.
        cars: of each team.
        laps: to be driven.
        start: how.
        seed: of the grid, from 1 on.
    """
    drivers = [(f"{OURS} {number + 1}", ours) for number in range(cars[0])]
    drivers += [(name, theirs) for name in NAMES[: cars[1]]]
    recording = race.run(track, car, drivers, laps, start, seed)
    judged = steward.judge(recording, track, car)
    points, finished = [0, 0], [0, 0]
    for place in judged.places:
        team = 0 if place.name.startswith(OURS) else 1
        points[team] += POINTS[place.place - 1] if place.place <= len(POINTS) else 0
        finished[team] += place.laps == laps
    touches = [each for each in judged.events if each.kind in ("rear", "side", "touch")]
    rear = [each for each in touches if each.kind == "rear" and recording.names[each.car].startswith(OURS)]
    return Outcome(
        (points[0], points[1]),
        len(touches),
        len(rear),
        sum(each.laps for each in judged.places),
        (finished[0], finished[1]),
        recording,
        judged,
    )


def series(outcomes: list[Outcome]) -> dict[str, Any]:
    """A series: points of each team, of which the last race's count twice, contacts for each lap of a car, and rear-ends."""
    weights = np.ones(len(outcomes))
    weights[-1] = 2
    points = (weights[:, None] * np.array([each.points for each in outcomes])).sum(0)
    return {
        "points": int(points[0]),
        "their_points": int(points[1]),
        "races": [each.points[0] for each in outcomes],
        "contacts_per_car_lap": round(
            sum(each.contacts for each in outcomes) / max(sum(each.car_laps for each in outcomes), 1), 4
        ),
        "rear_ends": sum(each.rear_ends for each in outcomes),
        "finished": sum(each.finished[0] for each in outcomes),
    }


Tell = Callable[[Outcome], None]


def races(
    track: Track,
    car: CarSpec,
    ours: Decides,
    theirs: Decides,
    cars: tuple[int, int],
    laps: int,
    start: Start,
    seed: int,
    count: int,
    tell: Tell = lambda outcome: None,
) -> list[Outcome]:
    """A series of races, each with another grid.

    Args:
        track: where.
        car: of all.
        ours: drives the first team's cars.
        theirs: drives the second's.
        cars: of each team.
        laps: of a race.
        start: how.
        seed: of all grids.
        count: races.
        tell: is told of each.
    """
    found = []
    for number in range(count):
        found.append(run(track, car, ours, theirs, cars, laps, start, 1 + seed * count + number))
        tell(found[-1])
    return found
