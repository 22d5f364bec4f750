"""The tour of Sophy: the fastest lap that a racing car's equations allow, Sophy beside it, and a race of the built-in drivers."""

from pathlib import Path

from almanac.runtime.report import Section
from almanac.sophy import draw, drive, opponents, optimal, race, steward
from almanac.sophy.names import named
from almanac.sophy.race import Start
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks
from almanac.sophy.sim import world

TRACK, CAR = "solstice", "gt3"
_DRIVER = f"{TRACK}-{CAR}"
"""The policy that ships for them."""
_LAPS = 2
"""That it drives; the second is looked at."""
_SPACING = 16.0
"""Between points of the lap, m: fewer than usual, to be found sooner."""
_SKILLS = (1.0, 1.0, 0.94, 0.94, 0.88, 0.88)


def run(out: Path) -> Section:
    """Run once on real input.

    Args:
        out: folder for the pictures.
    """
    course, spec = tracks.find(TRACK), cars.load(CAR)
    found = optimal.optimal_lap(spec, course, _SPACING)
    sophy = drive.Sophy(drive.load(_DRIVER, spec), course, spec)
    alone = race.run(course, spec, [("Sophy", sophy)], _LAPS, Start(speed=30.0))
    flying = steward.judge(alone, course, spec).places[0].lap_times[-1]
    telemetry = draw.telemetry(race.frames(alone, course, spec), course, found.lap, out / "telemetry.png")
    drivers = opponents.Drivers(course, spec, _SKILLS)
    recording = race.run(course, spec, named(drivers, _SKILLS), 1, Start(), seed=1)
    judged = steward.judge(recording, course, spec)
    frames = race.frames(recording, course, spec)
    figures = [
        (draw.course(course, out / "lap.png", found.lap), "The fastest lap of the circuit, coloured by speed"),
        (telemetry, "A lap of Sophy, the agent that ships, beside it"),
        (
            draw.gaps(recording.names, frames.travelled, world.FRAMES, out / "race.png"),
            "Six built-in drivers, a lap from a standing start; the grid was drawn",
        ),
    ]
    rows = [
        {
            "place": each.place,
            "driver and skill": each.name,
            "time, s": round(each.time, 2),
            "penalties, s": round(each.penalty, 1),
        }
        for each in judged.places
    ]
    sentence = (
        f"On {course.length / 1000:.1f} km the equations of the car allow a flying lap of {found.lap.lap_time:.2f} s, on the asphalt "
        f"alone, and Sophy drives one of {flying:.2f} s; the winner of a race "
        f"of six built-in drivers took {rows[0]['time, s']:.2f} s from a standing start."
    )
    return Section(sentence, figures, rows)
