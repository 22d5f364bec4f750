"""What Sophy's recipe yields: drivers of several seeds, and the paper's ablations (Wurman et al. 2022): without points of the course ahead,
with returns of one step, and with critics that know no quantiles. All are trained, which takes hours; runs that are in --out already are
taken as they are, or go on."""

import json as lines
import math
from pathlib import Path
from typing import Any

from almanac.runtime import console, results
from almanac.runtime.errors import UserError
from almanac.sophy import draw, drive, evaluate
from almanac.sophy import train as recipe
from almanac.sophy.cli import Preset
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import track as tracks

VARIANTS: dict[str, dict[str, int]] = {
    "whole": {},
    "no course points": {"points": 0},
    "1-step returns": {"steps": 1},
    "no quantiles": {"quantiles": 1},
}


def run(
    *,
    track: str = "Norisring",
    car: str = "gt3",
    preset: Preset = "cpu",
    updates: int | None = None,
    seeds: int = 3,
    ablations: bool = False,
    laps: int = 100,
    out: Path = Path("runs/sophy-drivers"),
    device: str = "auto",
    write: bool = False,
    json: bool = False,
) -> None:
    """Train drivers of several seeds, or of the paper's ablations, and measure their laps.

    Args:
        track: where.
        car: in which car.
        preset: of the training.
        updates: of each training, instead of the preset's: ablations show on a part of it.
        seeds: of each, from 0 on.
        ablations: whether to train without each of three parts, too.
        laps: flying laps of each, without noise.
        out: for the runs, a folder each.
        device: where learners compute.
        write: whether to write results/sophy/seeds.json, or ablations.json and the picture of how laps came down.
        json: print one JSON object.
    """
    if seeds < 1 or laps < 1:
        raise UserError(f"{seeds} seeds and {laps} laps", "give 1 or more of each")
    variants = VARIANTS if ablations else {"whole": {}}
    course, spec = tracks.find(track), cars.load(car)
    rows, curves = [], {name: [] for name in variants}
    with console.progress("training drivers", len(variants) * seeds, "drivers") as advance:
        for name, changes in variants.items():
            chosen = recipe.with_overrides(recipe.PRESETS[preset], updates=updates, **changes)
            measured = []
            for seed in range(seeds):
                folder = (out / f"{name.replace(' ', '-')}-{seed}").absolute()
                resume = (folder / "last.pt").exists()
                recipe.train(course, spec, folder, chosen, seed=seed, device_name=device, resume=resume)
                driver = drive.Sophy(drive.load(str(folder), spec), course, spec)
                measured.append({"variant": name, "seed": seed, "updates": chosen.sizes.updates})
                measured[-1] |= evaluate.driver_row(driver, course, spec, laps)
                curves[name].append(_examined(folder / "metrics.jsonl"))
                advance(1, f"{name}, seed {seed}: {measured[-1]['mean_s']} s, {measured[-1]['clean_laps']} clean")
            rows += [_over_seeds(measured)] if ablations else [*measured, _over_seeds(measured)]
    if write:
        what = "ablations" if ablations else "seeds"
        results.write("sophy", what, rows, 0)
        limits = {"optimum": rows[0]["optimal_s"], "built-in driver": rows[0]["builtin_s"]}
        draw.learning(curves, limits, results.default_folder("sophy") / f"{what}.png")
    console.result({"rows": rows}, json)


def _examined(path: Path) -> list[draw.Examined]:
    """A run's examinations."""
    found = [lines.loads(line).get("examined") for line in path.read_text().splitlines()]
    return [
        (each["updates"], math.nan if each["mean_s"] is None else each["mean_s"], each["clean_laps"] / each["laps"])
        for each in found
        if each
    ]


def _over_seeds(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of all seeds: clean laps of all, and means of the rest with half the width of their 95 % interval."""
    row = {**measured[0], "seed": f"{len(measured)} seed{'s' * (len(measured) > 1)}"}
    row |= {name: sum(each[name] for each in measured) for name in ("laps", "clean_laps")}
    for name in ("mean_s", "best_s", "std_s", "mean_over_optimal", "best_over_optimal"):
        row |= evaluate.over_seeds(measured, name)
    return row
