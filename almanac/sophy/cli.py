"""`almanac sophy VERB`: parse, call, print."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from almanac.runtime import console
from almanac.runtime.errors import UserError

if TYPE_CHECKING:
    from almanac.sophy.drive import Sophy
    from almanac.sophy.sim.car import CarSpec
    from almanac.sophy.sim.track import Track

OUT = Path("out/sophy")
Preset = Literal["cpu", "races", "gpu", "paper"]
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
    kerbs: bool = False,
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
        kerbs: whether wheels may roll on painted lines and kerbs, as they may in races here; fastest-lap's stay on the asphalt.
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
        found = optimal.optimal_lap(
            spec, course, spacing, kerbs, verbose, lambda seconds: advance(1, f"{seconds:.2f} s")
        )
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


def train(
    *,
    track: str = "Norisring",
    car: str = "gt3",
    preset: Preset = "cpu",
    out: Path | None = None,
    scenarios: tuple[str, ...] = (),
    updates: int | None = None,
    batch_size: int | None = None,
    actors: int | None = None,
    points: int | None = None,
    steps: int | None = None,
    quantiles: int | None = None,
    driver: str | None = None,
    lockstep: bool = False,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    cluster: str | None = None,
    json: bool = False,
) -> None:
    """Train Sophy by QR-SAC; writes OUT/model.safetensors, which `drive`, `race` and `evaluate` take as --driver.

    Actors drive in processes of their own while the learner updates. Who dies is replaced; a run that is stopped (Ctrl-C, SIGTERM,
    kill -9) goes on with --resume. Every policy that was examined is in OUT/policies: earlier ones are slower opponents.

    Args:
        track: a track that ships or is at hand, or a file, as `track` takes it.
        car: a car that ships, or a file: .toml as ours, or fastest-lap's .xml.
        preset: cpu (two cores, under an hour), races (the same machine; goes on from such a driver, --driver, among other cars),
            gpu (one large GPU), paper (the published sizes).
        out: the run's folder; default: runs/sophy-TRACK-CAR.
        scenarios: what is practised, each as NAME or NAME=SHARE: time_trial, shown and shown_races (built-in drivers drive, to be
            followed at first), mistakes, 1v1, 1v2, 1v3, 1v7, grid, rolling, slipstream; default: the preset's.
        updates: of the networks, instead of the preset's.
        batch_size: transitions of an update, instead of the preset's.
        actors: processes that drive, instead of the preset's.
        points: of each line of the course that is seen, instead of the preset's; 0: none.
        steps: n of the returns, instead of the preset's 7.
        quantiles: of each critic, instead of 32; 1: the mean alone, as in SAC.
        driver: a policy to go on from, with new critics.
        lockstep: do everything in turn in one process, the same each time.
        resume: go on with the run in --out.
        seed: of weights, starts and noise.
        device: where the learner computes: auto, cpu or cuda.
        cluster: address of a Ray cluster (auto, host:port), or local to start one here.
        json: print one JSON object.
    """
    from almanac.sophy import drive as drives
    from almanac.sophy import train as recipe
    from almanac.sophy.sim import car as cars
    from almanac.sophy.sim import track as tracks

    spec, course = cars.load(car), tracks.find(track)
    sizes = {"updates": updates, "batch": batch_size, "actors": actors}
    others = {"points": points, "steps": steps, "quantiles": quantiles, "scenarios": scenarios or None}
    chosen = recipe.with_overrides(recipe.PRESETS[preset], **sizes, **others)
    facts = recipe.train(
        course,
        spec,
        (out or Path("runs") / f"sophy-{course.name}-{Path(car).stem}").absolute(),
        chosen,
        seed=seed,
        device_name=device,
        resume=resume,
        begin_with=None if driver is None else drives.load(driver, spec),
        lockstep=lockstep,
        cluster_address=cluster,
    )
    console.result(facts, json)


def drive(
    *,
    driver: str = "solstice-gt3",
    track: str | None = None,
    car: str = "gt3",
    laps: int = 3,
    rolling: float = 30.0,
    out: Path | None = None,
    picture: Path | None = None,
    json: bool = False,
) -> None:
    """Let Sophy drive alone, write a recording, and say its lap times. `almanac sophy replay` shows it.

    Args:
        driver: a policy that ships (solstice-gt3, norisring-gt3, ...), or what `train` wrote: a run's folder or a .safetensors.
        track: where; default: the track that it was trained on.
        car: its car.
        laps: to be driven.
        rolling: m/s at which it comes to the line; 0: it starts from where it stands.
        out: an .npz for the recording; default: out/sophy/TRACK-CAR-sophy.npz.
        picture: a .png of its last lap beside the fastest possible one: speed, pedals, wheel, line, time lost.
        json: print one JSON object.
    """
    from almanac.sophy import draw, optimal, steward
    from almanac.sophy import race as races

    _check_laps(laps)
    trained, course, spec = _sophy(driver, track, car)
    recording = races.run(course, spec, [("Sophy", trained)], laps, races.Start(speed=rolling))
    place = steward.judge(recording, course, spec).places[0]
    path = out or OUT / f"{course.name}-{Path(car).stem}-sophy.npz"
    recording.write(path)
    if picture is not None:
        draw.telemetry(races.frames(recording, course, spec), course, optimal.remembered(spec, course), picture)
    rows = [
        {"lap": number, "time_s": round(time, 3), "sectors_s": [round(each, 3) for each in sectors]}
        for number, (time, sectors) in enumerate(zip(place.lap_times, place.sectors, strict=True), 1)
    ]
    facts = {"file": str(path), "laps": len(rows), "off_course_s": round(place.off_course, 2), "rows": rows}
    console.result(facts, json)


def race(
    *,
    car: str = "gt3",
    track: str | None = None,
    count: Cars = 8,
    laps: int | None = None,
    skill: float = 1.0,
    spread: float = 0.1,
    rolling: float = 0.0,
    seed: int = 0,
    driver: str | None = None,
    teams: str | None = None,
    races: int = 1,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Race the built-in drivers, or Sophy among them, write a recording, and say who won. `almanac sophy replay` shows it.

    With --teams 4v4, a team of Sophys races one of built-in drivers: points 10-8-6-5-4-3-2-1, and the last race counts twice.

    Args:
        car: a car that ships, or a file: .toml as ours, or fastest-lap's .xml.
        track: a track that ships or is at hand, or a file, as `track` takes it; default: solstice, or the driver's own.
        count: cars, 1 to 20.
        laps: to be driven; default: 2, by teams 4.
        skill: of the best driver, 0.5 to 1.
        spread: by how much less the last one has.
        rolling: m/s of a rolling start; 0: cars start from where they stand.
        seed: draws who starts where; 0: the best in front, and Sophy behind all.
        driver: a policy that drives one of the cars: one that ships, or what `train` wrote; with --teams, a whole team
            (default: norisring-gt3-race).
        teams: cars of Sophy and of the built-in drivers, such as 4v4.
        races: of the two teams; of each, another grid is drawn.
        out: an .npz for the recording (of the last race); default: out/sophy/TRACK-CAR.npz.
        json: print one JSON object.
    """
    import numpy as np

    from almanac.sophy import evaluate as measured
    from almanac.sophy import opponents, steward
    from almanac.sophy import race as racing
    from almanac.sophy.names import named
    from almanac.sophy.sim import car as cars
    from almanac.sophy.sim import track as tracks

    if not 1 <= count <= racing.MOST:
        raise UserError(f"{count} cars", f"give 1 to {racing.MOST}")
    if not opponents.LEAST <= skill - max(spread, 0) <= skill <= 1:
        raise UserError(f"skills go from {skill - spread:g} to {skill:g}", f"give numbers from {opponents.LEAST} to 1")
    laps = laps if laps is not None else 2 if teams is None else measured.TEAM_LAPS
    _check_laps(laps)
    if teams is not None:
        _race_teams(
            teams, races, driver or "norisring-gt3-race", track, car, laps, skill, spread, rolling, seed, out, json
        )
        return
    if driver is None:
        ours, spec, course = [], cars.load(car), tracks.find(track or "solstice")
    else:
        trained, course, spec = _sophy(driver, track, car)
        ours = [("Sophy", trained)]
    skills = np.linspace(skill, skill - spread, count - len(ours)).round(3).tolist()
    console.log(f"planning laps of {course.name}")
    built_in = named(opponents.Drivers(course, spec, skills), skills) if skills else []
    recording = racing.run(course, spec, [*built_in, *ours], laps, racing.Start(speed=rolling), seed)
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


def _race_teams(
    teams: str,
    count: int,
    driver: str,
    track: str | None,
    car: str,
    laps: int,
    skill: float,
    spread: float,
    rolling: float,
    seed: int,
    out: Path | None,
    json: bool,
) -> None:
    """A series of races of Sophy's team and the built-in one."""
    import numpy as np

    from almanac.sophy import opponents
    from almanac.sophy import race as racing
    from almanac.sophy import teams as series

    cars = series.sizes(teams)
    if count < 1:
        raise UserError(f"{count} races", "give 1 or more")
    trained, course, spec = _sophy(driver, track, car)
    console.log(f"planning laps of {course.name}")
    theirs = opponents.Drivers(course, spec, np.linspace(skill, skill - spread, cars[1]).round(3).tolist())
    with console.progress("racing", count, "races") as advance:
        found = series.races(
            course, spec, trained, theirs, cars, laps, racing.Start(speed=rolling), seed, count,
            lambda outcome: advance(1, f"{outcome.points[0]} : {outcome.points[1]}"),
        )  # fmt: skip
    path = out or OUT / f"{course.name}-{Path(car).stem}-teams.npz"
    found[-1].recording.write(path)
    facts = series.series(found) | {"file": str(path)}
    console.result(facts, json, _lines(facts))


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


def evaluate(
    *,
    driver: tuple[str, ...] = (),
    track: str | None = None,
    car: str = "gt3",
    laps: int = 100,
    skills: bool = False,
    races: int = 0,
    write: bool = False,
    json: bool = False,
) -> None:
    """Measure Sophy: laps beside the optimum and the built-in driver. Without --driver, measure the limit itself: fastest laps beside
    published ones, and the built-in driver's (twenty minutes).

    Args:
        driver: policies: those that ship, runs' folders or files; several (seeds of one recipe) give their mean with its interval.
        track: where; default: the track that they were trained on.
        car: their car.
        laps: flying laps of each, without noise.
        skills: whether to test skills, too: slipstream, grid, passing, finding back.
        races: races of 4v4 against the built-in drivers, too.
        write: whether to write results/sophy/drivers.json and, with --skills, skills.json; laps.json without --driver.
        json: print one JSON object.
    """
    from almanac.runtime import results
    from almanac.sophy import evaluate as measured
    from almanac.sophy.sim import track as tracks

    if driver:
        _evaluate_drivers(driver, track, car, laps, skills, races, write, json)
        return
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


def _evaluate_drivers(
    drivers: tuple[str, ...],
    track: str | None,
    car: str,
    laps: int,
    skills: bool,
    races: int,
    write: bool,
    json: bool,
) -> None:
    """Laps of policies; of one, its facts are the result itself."""
    from almanac.runtime import results
    from almanac.sophy import evaluate as measured

    _check_laps(laps)
    rows = []
    with console.progress("driving", len(drivers), "drivers") as advance:
        for each in drivers:
            trained, course, spec = _sophy(each, track, car)
            row: dict[str, Any] = {"driver": Path(each).stem, "car": spec.name, "track": course.name}
            row |= measured.driver_row(trained, course, spec, laps)
            if races:
                row |= measured.race_row(trained, course, spec, races)
            if skills:
                row["skills"] = measured.skill_rows(trained, course, spec)
            rows.append(row)
            advance(1, f"{row['mean_s']} s, {row['clean_laps']} clean")
    if write:
        flat = [{name: value for name, value in row.items() if name != "skills"} for row in rows]
        results.write("sophy", "drivers", flat, 0, by="driver")
        if skills:
            tried = [{"driver": row["driver"], **each} for row in rows for each in row["skills"]]
            results.write("sophy", "skills", tried, 0, by="driver")
    found = rows[0] if len(rows) == 1 else {"rows": rows}
    if len(rows) > 1 and len({row["track"] for row in rows}) == 1:
        found |= {"mean": measured.over_seeds(rows, "mean_s")}
    console.result(found, json)


def _sophy(driver: str, track: str | None, car: str) -> "tuple[Sophy, Track, CarSpec]":
    """A trained driver, on its track or another one, of which it is said that it does not know it."""
    from almanac.sophy import drive as drives
    from almanac.sophy.sim import car as cars
    from almanac.sophy.sim import track as tracks

    spec = cars.load(car)
    trained = drives.load(driver, spec)
    course = tracks.find(track or trained.facts["track"])
    if not trained.knows(course):
        console.log(
            f"{driver} was trained on {trained.facts['track']}, and never saw {course.name}: it is untrained there"
        )
    return drives.Sophy(trained, course, spec), course, spec


def _check_laps(laps: int) -> None:
    if laps < 1:
        raise UserError(f"{laps} laps", "give 1 or more")


def _seconds(value: float) -> float | None:
    return None if value != value else round(value, 3)


def _lines(facts: dict) -> str:
    return "\n".join(f"{key}: {value}" for key, value in facts.items())


COMMANDS: dict[str, Callable[..., None]] = {
    "track": track,
    "validate": validate,
    "optimal-lap": optimal_lap,
    "train": train,
    "drive": drive,
    "race": race,
    "replay": replay,
    "evaluate": evaluate,
}
