"""`almanac sophy VERB`: parse, call, print."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from almanac.runtime import console
from almanac.runtime.errors import UserError

OUT = Path("out/sophy")
Cars = Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])]


def track(
    file: tyro.conf.Positional[str] = "solstice",
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
            name of a track: of ours (solstice), or one that is at hand.
        width: of the asphalt, m, where the file does not say.
        name: what to call it; default: as the file.
        out: a .csv to write the smoothed track to, which all verbs take.
        picture: a .png to draw it into.
        json: print one JSON object.
    """
    from almanac.sophy import draw
    from almanac.sophy.sim import track as tracks

    path = Path(file)
    found = tracks.load(path, width, name) if path.suffix else tracks.find(file)
    if out is not None:
        tracks.write(found, out)
    if picture is not None:
        draw.course(found, picture)
    facts = tracks.facts(found) | {key: str(value) for key, value in (("out", out), ("picture", picture)) if value}
    console.result(facts, json, _lines(facts))


def validate(*, car: str = "f1_2014", lap: Path, track: str | None = None, json: bool = False) -> None:
    """Check a car's equations against a lap: what they say of each change of speed, less what it was.

    Args:
        car: a car that ships, or a file: .toml as ours, or fastest-lap's .xml.
        lap: an optimal lap of fastest-lap's (.xml), or one that `optimal-lap` wrote (.csv).
        track: its track, for slopes; default: found beside the lap, or level.
        json: print one JSON object.
    """
    from almanac.sophy import lap as laps
    from almanac.sophy.sim import car as cars
    from almanac.sophy.sim import track as tracks

    driven = laps.read(lap)
    course = tracks.find(track) if track else laps.track_of(driven, lap)
    found = {name: round(value, 4) for name, value in laps.residuals(cars.load(car), driven, course).items()}
    facts = {"lap_time_s": driven.lap_time, "track": course.name if course else None, **found}
    units = {"dvx": "m/s²", "dvy": "m/s²", "dr": "rad/s²"}
    lines = [f"{name}: {found[name]} of {found[f'{name}_signal']} {unit} rms" for name, unit in units.items()]
    console.result(facts, json, "\n".join(lines))


def optimal_lap(
    *,
    car: str = "f1_2014",
    track: str = "solstice",
    spacing: float = 6.0,
    out: Path | None = None,
    picture: Path | None = None,
    drive: bool = True,
    verbose: bool = False,
    json: bool = False,
) -> None:
    """Find the fastest lap that a car's equations allow, and drive it in the simulator.

    Takes two or three minutes for a lap of four kilometres. That it is driven is no matter of course: pedals take time there, loads come
    late, and at the limit of grip nothing is forgiven; it is approached lap by lap.

    Args:
        car: a car that ships, or a file: .toml as ours, or fastest-lap's .xml.
        track: a track that ships or is at hand, or a file, as `track` takes it.
        spacing: between points of the lap, m, on average: halving it takes twice as long.
        out: a .csv for the lap with all its states; default: out/sophy/TRACK-CAR.csv. That which was driven is beside it (…-driven.csv),
            and `replay` shows both.
        picture: a .png to draw it into, coloured by speed.
        drive: whether to drive it, too.
        verbose: whether IPOPT tells what it does.
        json: print one JSON object.
    """
    from almanac.runtime.errors import RunFailed
    from almanac.sophy import draw, optimal
    from almanac.sophy import lap as laps
    from almanac.sophy import replay as replays
    from almanac.sophy.sim import car as cars
    from almanac.sophy.sim import track as tracks

    spec, course = cars.load(car), tracks.find(track)
    console.log(f"searching for the fastest lap of {course.name} ({course.length:,.0f} m): a minute or two")
    with console.progress("searching", 0, "iterations") as advance:
        found = optimal.optimal_lap(spec, course, spacing, verbose, lambda seconds: advance(1, f"{seconds:.2f} s"))
    path = out or OUT / f"{course.name}-{Path(car).stem}.csv"
    laps.write(found.lap, path)
    facts = {"lap_time_s": round(found.lap.lap_time, 3), "iterations": found.iterations, "file": str(path)}
    if drive:
        facts |= {"replay_lap_time_s": None, "replay_off_course_frames": None}
        try:
            with console.progress(f"driving it, {found.lap.lap_time:.2f} s", replays.LAPS, "laps") as advance:
                driven = replays.replay(found.lap, course, spec, lambda seconds: advance(1, f"{seconds:.2f} s"))
            beside = path.with_stem(f"{path.stem}-driven")
            laps.write(driven.lap, beside)
            facts["replay_lap_time_s"] = round(driven.lap.lap_time, 3)
            facts |= {"replay_off_course_frames": driven.off_frames, "replay_file": str(beside)}
        except RunFailed as error:
            console.log(str(error))
    if picture is not None:
        facts["picture"] = str(draw.course(course, picture, found.lap))
    console.result(facts, json, _lines(facts))


def race(
    *,
    car: str = "gt3",
    track: str = "solstice",
    count: Cars = 8,
    laps: int = 2,
    skill: float = 1.0,
    spread: float = 0.1,
    rolling: float = 0.0,
    seed: int = 0,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Race the built-in drivers, write a recording, and say who won. `almanac sophy replay` shows it.

    Args:
        car: a car that ships, or a file: .toml as ours, or fastest-lap's .xml.
        track: a track that ships or is at hand, or a file, as `track` takes it.
        count: cars, 1 to 20.
        laps: to be driven.
        skill: of the best driver, 0.5 to 1.
        spread: by how much less the last one has.
        rolling: m/s of a rolling start; 0: cars start from where they stand.
        seed: draws who starts where; 0: the best in front.
        out: an .npz for the recording; default: out/sophy/TRACK-CAR.npz.
        json: print one JSON object.
    """
    import numpy as np

    from almanac.sophy import opponents, steward
    from almanac.sophy import race as races
    from almanac.sophy.names import named
    from almanac.sophy.sim import car as cars
    from almanac.sophy.sim import track as tracks

    if not 1 <= count <= races.MOST:
        raise UserError(f"{count} cars", f"give 1 to {races.MOST}")
    if not opponents.LEAST <= skill - max(spread, 0) <= skill <= 1:
        raise UserError(f"skills go from {skill - spread:g} to {skill:g}", f"give numbers from {opponents.LEAST} to 1")
    if laps < 1:
        raise UserError(f"{laps} laps", "give 1 or more")
    spec, course = cars.load(car), tracks.find(track)
    skills = np.linspace(skill, skill - spread, count).round(3).tolist()
    console.log(f"planning laps of {course.name}")
    drivers = opponents.Drivers(course, spec, skills)
    recording = races.run(course, spec, named(drivers, skills), laps, races.Start(speed=rolling), seed)
    judged = steward.judge(recording, course, spec)
    path = out or OUT / f"{course.name}-{Path(car).stem}.npz"
    recording.write(path)
    rows = [
        {
            "place": each.place,
            "name": each.name,
            "laps": each.laps,
            "time_s": _seconds(each.time),
            "gap_s": _seconds(each.gap),
            "best_lap_s": _seconds(min(each.lap_times, default=float("nan"))),
            "penalty_s": round(each.penalty, 2),
            "off_course_s": round(each.off_course, 2),
        }
        for each in judged.places
    ]
    console.result({"file": str(path), "rows": rows}, json)


def replay(
    file: tyro.conf.Positional[Path],
    *,
    car: str | None = None,
    track: str | None = None,
    optimum: Path | None = None,
    out: Path | None = None,
    show: bool = False,
    json: bool = False,
) -> None:
    """Draw a recorded race, or a lap, in three dimensions: a page that opens in any browser.

    Args:
        file: what `race` (.npz) or `optimal-lap` (.csv) wrote.
        car: its car; default: by the name in the recording, or behind the last dash of a lap's file.
        track: its track; likewise.
        optimum: a lap (.csv) that the traces are compared with.
        out: the page, .html; default: beside the file.
        show: whether to open it in the browser.
        json: print one JSON object.
    """
    import webbrowser

    from almanac.runtime import checkpoint
    from almanac.sophy import lap as laps
    from almanac.sophy import race as races
    from almanac.sophy import view
    from almanac.sophy.sim import car as cars
    from almanac.sophy.sim import track as tracks

    best = None if optimum is None else laps.read(optimum)
    named, _, driven = file.stem.removesuffix("-driven").rpartition("-")
    if file.suffix.lower() == ".npz":
        recording = races.read(file)
        course, spec = tracks.find(track or recording.track), cars.load(car or recording.car)
        seen, title = (
            view.of_race(recording, course, spec),
            f"{course.name}, {recording.laps} lap{'s' * (recording.laps > 1)}",
        )
    else:
        lap = laps.read(file)
        course, spec = tracks.find(track or named), cars.load(car or driven)
        seen, title = view.of_lap(lap, course, file.stem), f"{course.name}, {lap.lap_time:.2f} s"
    path = out or file.with_suffix(".html")
    page = view.page(seen, course, spec, title, best)
    checkpoint.write_atomic(path, lambda handle: handle.write(page.encode()))
    if show:
        webbrowser.open(path.resolve().as_uri())
    facts = {"page": str(path), "cars": len(seen.names), "seconds": round(len(seen.x) / view.RATE, 1)}
    console.result(facts, json, _lines(facts))


def evaluate(*, write: bool = False, json: bool = False) -> None:
    """Measure fastest laps beside published ones, and the built-in driver's. Takes a quarter of an hour.

    Args:
        write: whether to write results/sophy/laps.json.
        json: print one JSON object.
    """
    from almanac.runtime import results
    from almanac.sophy import evaluate as measured
    from almanac.sophy.sim import track as tracks

    known = tracks.names()
    asked = [each for each in measured.ASKED if each.track in known]
    rows = []
    with console.progress("measuring laps", len(asked), "laps") as advance:
        for each in asked:
            rows.append(measured.lap_row(each))
            advance()
    if write:
        results.write("sophy", "laps", rows, 0)
    console.result({"rows": rows}, json)


def _seconds(value: float) -> float | None:
    return None if value != value else round(value, 3)


def _lines(facts: dict) -> str:
    return "\n".join(f"{key}: {value}" for key, value in facts.items())


COMMANDS: dict[str, Callable[..., None]] = {
    "track": track,
    "validate": validate,
    "optimal-lap": optimal_lap,
    "race": race,
    "replay": replay,
    "evaluate": evaluate,
}
