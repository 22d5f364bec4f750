"""`almanac sophy VERB`: parse, call, print."""

from collections.abc import Callable
from pathlib import Path

import tyro

from almanac.runtime import console


def track(
    file: tyro.conf.Positional[str],
    *,
    width: float = 12.0,
    name: str | None = None,
    out: Path | None = None,
    picture: Path | None = None,
    json: bool = False,
) -> None:
    """Import a track, check it, and say what it is like.

    Recorded lines (GPX, GeoJSON) and surveyed ones (CSV, XML) are closed, smoothed once, and kept at even steps; an open lap, edges that
    cross and widths that no car fits are refused by name.

    Args:
        file: fastest-lap's .xml; a .csv of x, y, and widths to the right and left, in metres; a .gpx or .geojson of the centre line; or the
            name of a track that is at hand.
        width: of the asphalt, m, where the file does not say.
        name: what to call it; default: as the file.
        out: a .csv to write the smoothed track to.
        picture: a .png to draw it into.
        json: print one JSON object.
    """
    from almanac.sophy import draw, env
    from almanac.sophy.sim import track as tracks

    path = Path(file)
    found = tracks.load(path, width, name) if path.suffix else env.find_track(file)
    if out is not None:
        tracks.write(found, out)
    if picture is not None:
        draw.course(found, picture)
    facts = tracks.facts(found) | {key: str(value) for key, value in (("out", out), ("picture", picture)) if value}
    console.result(facts, json, "\n".join(f"{key}: {value}" for key, value in facts.items()))


def validate(*, car: str = "f1_2014", lap: Path, track: str | None = None, json: bool = False) -> None:
    """Check a car's equations against a lap: what they say of each change of speed, less what it was.

    Args:
        car: a car that ships, or a file: .toml as ours, or fastest-lap's .xml.
        lap: an optimal lap of fastest-lap's (.xml), or one that `optimal-lap` wrote (.csv).
        track: its track, for slopes; default: found beside the lap, or level.
        json: print one JSON object.
    """
    from almanac.sophy import env
    from almanac.sophy import lap as laps
    from almanac.sophy.sim import car as cars

    driven = laps.read(lap)
    course = env.find_track(track) if track else laps.track_of(driven, lap)
    found = {name: round(value, 4) for name, value in laps.residuals(cars.load(car), driven, course).items()}
    found = {"lap_time_s": driven.lap_time, "track": course.name if course else None, **found}
    units = {"dvx": "m/s²", "dvy": "m/s²", "dr": "rad/s²"}
    lines = [f"{name}: {found[name]} {unit} of {found[f'{name}_signal']}" for name, unit in units.items()]
    console.result(found, json, "\n".join(lines))


def optimal_lap(
    *,
    car: str = "f1_2014",
    track: str,
    spacing: float = 6.0,
    out: Path | None = None,
    replay: bool = True,
    verbose: bool = False,
    json: bool = False,
) -> None:
    """Find the fastest lap that a car's equations allow, and drive it in the simulator.

    Args:
        car: a car that ships, or a file: .toml as ours, or fastest-lap's .xml.
        track: a track that is at hand, or a file, as `track` takes it.
        spacing: between points of the lap, m, about: halving it takes twice as long.
        out: a .csv for the lap with all its states; default: out/sophy/TRACK-CAR.csv.
        replay: whether to drive it in the simulator.
        verbose: whether IPOPT tells what it does.
        json: print one JSON object.
    """
    from almanac.sophy import env, optimal
    from almanac.sophy import lap as laps
    from almanac.sophy import replay as again
    from almanac.sophy.sim import car as cars

    spec, course = cars.load(car), env.find_track(track)
    found = optimal.optimal_lap(spec, course, spacing, verbose)
    path = out or Path("out/sophy") / f"{course.name}-{Path(car).stem}.csv"
    laps.write(found.lap, path)
    facts = {"lap_time_s": round(found.lap.lap_time, 3), "iterations": found.iterations, "file": str(path)}
    if replay:
        driven = again.replay(found.lap, course, spec)
        facts |= {
            "replay_lap_time_s": round(driven.lap_time, 3),
            "replay_off_course_frames": driven.off_frames,
            "replay_away_m": round(driven.away, 2),
        }
    console.result(facts, json, "\n".join(f"{key}: {value}" for key, value in facts.items()))


COMMANDS: dict[str, Callable[..., None]] = {
    "track": track,
    "validate": validate,
    "optimal-lap": optimal_lap,
}
