"""What is measured of the simulator and its drivers: fastest laps beside published ones, laps of a car in balance, and those of the
built-in driver."""

from dataclasses import dataclass
from typing import Any

from almanac.sophy import opponents, optimal, race, raceline, replay, steady, steward
from almanac.sophy.race import Start
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks

_ROLLING = 40.0
"""m/s at which the built-in driver begins."""
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
    """A row of `car`, `track`, and seconds: `asked` (published), `optimal`, `driven` (the optimum, in the simulator), `steady` (a car in
    balance on the line of least curvature) and `drivers` (the best of three laps of the built-in driver); and for how many frames the
    driven one was `off` course."""
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
        "steady": round(steady.lap_time(steady.speeds(spec, line.curvature, step), step), 3),
        "drivers": round(min(laps), 3) if laps else None,
    }
