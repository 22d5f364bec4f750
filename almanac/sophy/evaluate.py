"""What is measured of the simulator and its drivers: fastest laps beside published ones, laps of a car in balance, and those of the
built-in driver; and of Sophy, laps beside the optimum and the built-in driver, skills, and team races."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from almanac.sophy import drive, opponents, optimal, race, raceline, replay, skills, steady, steward, teams
from almanac.sophy.drive import Sophy
from almanac.sophy.race import Start
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

_ROLLING = 40.0
"""m/s at which the built-in driver begins."""
TEAM_LAPS = 4
"""Of a team race."""
_LAPS = 3
"""That it drives, of which the best counts."""


@dataclass(frozen=True)
class Asked:
    """A car and a track."""

    car: str
    track: str
    published: float | None = None
    """s of fastest-lap's optimum, where there is one: of the same car, but for a little inertia of its wheels."""


ASKED = (
    Asked("f1_2014", "catalunya_3d", 77.383),
    Asked("f1_2014", "catalunya_adapted", 78.019),
    Asked("f1_2014", "Norisring"),
    Asked("f1_2014", "Spielberg"),
    Asked("f1_2014", "solstice"),
    Asked("gt3", "Norisring"),
    Asked("gt3", "Spa"),
    Asked("gt3", "solstice"),
)


def lap_row(asked: Asked) -> dict[str, Any]:
    """A row of `car`, `track`, and seconds: `asked` (published), `optimal`, `driven` (the optimum, in the simulator), `kerbs` (the optimum
    that may use them), `steady` (a car in balance on the line of least curvature) and `drivers` (the best of three laps of the built-in
    driver); and for how many frames the driven one was `off` course."""
    spec, course = cars.load(asked.car), tracks.find(asked.track)
    found = optimal.optimal_lap(spec, course)
    driven = replay.replay(found.lap, course, spec)
    line = raceline.least_curvature(course, spec)
    step = line.length / len(line.offset)
    drivers = opponents.Drivers(course, spec, [1.0])
    recording = race.run(course, spec, [("driver", drivers)], _LAPS, Start(speed=_ROLLING))
    laps = steward.judge(recording, course, spec).places[0].lap_times
    return {
        "car": asked.car,
        "track": course.name,
        "asked": asked.published,
        "optimal": round(found.lap.lap_time, 3),
        "iterations": found.iterations,
        "driven": round(driven.lap.lap_time, 3),
        "off": driven.off_frames,
        "kerbs": round(optimal.remembered(spec, course).lap_time, 3),
        "steady": round(steady.lap_time(steady.speeds(spec, line.curvature, step), step), 3),
        "drivers": round(min(laps), 3) if laps else None,
    }


def driver_row(driver: Sophy, track: Track, car: CarSpec, laps: int) -> dict[str, Any]:
    """Laps of a policy, without noise, beside the limit: `laps`, `clean_laps`, `mean_s`, `std_s`, `best_s` (of the clean ones),
    `optimal_s` (kerbs allowed, as they are for the policy), `builtin_s` (mean of the built-in driver at its best), and by how much (%) the
    mean and the best are above the optimum.

    Args:
        driver: the policy at the wheel.
        track: where.
        car: in which car.
        laps: flying laps.
    """
    driven = drive.laps(driver, track, car, laps)
    best = optimal.remembered(car, track).lap_time
    builtin = builtin_time(track, car)
    facts = driven.facts()
    over = {
        f"{name}_over_optimal": None if facts[f"{name}_s"] is None else round(100 * (facts[f"{name}_s"] / best - 1), 2)
        for name in ("mean", "best")
    }
    return {**facts, "optimal_s": round(best, 3), "builtin_s": round(builtin, 3), **over}


def builtin_time(track: Track, car: CarSpec) -> float:
    """Mean of flying laps of the built-in driver at its best, s; nan: it drives none."""
    count = _LAPS * 2
    driven = drive.laps(opponents.Drivers(track, car, [1.0] * count), track, car, 2 * count, count)
    return float(driven.times.mean()) if len(driven.times) else float("nan")


def skill_rows(driver: Sophy, track: Track, car: CarSpec, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of `skills.run`, each beside what the built-in driver at its best passes (`builtin`)."""
    ours = skills.run(driver, track, car, seed)
    builtin = skills.run(opponents.Drivers(track, car, [1.0] * skills.TRIES), track, car, seed)
    return [{**own, "builtin": theirs["passed"]} for own, theirs in zip(ours, builtin, strict=True)]


def race_row(driver: Sophy, track: Track, car: CarSpec, races: int, seed: int = 0) -> dict[str, Any]:
    """A series of 4v4 against built-in drivers at their best, `TEAM_LAPS` each, as `teams.series` says."""
    theirs = opponents.Drivers(track, car, [1.0] * 4)
    return teams.series(teams.races(track, car, driver, theirs, (4, 4), TEAM_LAPS, Start(), seed, races))


def over_seeds(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float | None]:
    """Mean of a figure over runs of several seeds, and half the width of its 95 % interval (Student's t)."""
    from scipy import stats

    values = np.array([row[name] for row in rows if row[name] is not None], float)
    if len(values) == 0:
        return {name: None, f"{name}_half": None}
    if len(values) == 1:
        return {name: round(float(values[0]), 3), f"{name}_half": None}
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return {name: round(float(values.mean()), 3), f"{name}_half": round(float(half), 3)}
