"""Pictures of tracks and laps, as a person wants to see them: the asphalt from above, coloured by speed, and traces along the lap."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from almanac.runtime.errors import UserError
from almanac.sophy.lap import Lap
from almanac.sophy.race import Frames
from almanac.sophy.sim import road, world
from almanac.sophy.sim.track import Track

Examined = tuple[int, float, float]
"""Updates, mean of clean laps (s; nan: none was), and the part of all that was clean."""
_ASPHALT, _INK = "#d9d5cc", "#b5402c"


def course(track: Track, path: Path, lap: Lap | None = None) -> Path:
    """Draw a track from above, and a lap on it, coloured by its speed.

    Args:
        track: the track.
        path: a .png.
        lap: what is driven; None: the centre line.
    """
    wide, high = max(np.ptp(track.x), 1), max(np.ptp(track.y), 1)
    figure = Figure(figsize=(8, min(max(8 * high / wide + 0.6, 3), 12)), layout="constrained")
    axes = figure.add_subplot()
    left, right = (np.concatenate((edge, edge[:1])) for edge in track.edges())
    axes.fill(*np.concatenate((left, right[::-1])).T, color=_ASPHALT, lw=0)
    axes.plot(*left.T, color="#8a867d", lw=0.6)
    axes.plot(*right.T, color="#8a867d", lw=0.6)
    if lap is None:
        axes.plot(np.append(track.x, track.x[0]), np.append(track.y, track.y[0]), color=_INK, lw=0.8)
    else:
        x, y, _ = road.places(track, lap.s, lap.offset)
        drawn = LineCollection(list(_pieces(x, y)), array=3.6 * lap.vx, cmap="plasma", lw=1.8)
        axes.add_collection(drawn)
        figure.colorbar(drawn, ax=axes, shrink=0.6, label="km/h")
    across = np.array([track.edges()[0][0], track.edges()[1][0]])
    axes.plot(*across.T, color="black", lw=2)
    axes.annotate("start", across[0], textcoords="offset points", xytext=(6, 6), fontsize=9)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(f"{track.name}, {track.length:,.0f} m" + (f", {lap.lap_time:.2f} s" if lap else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def gaps(names: Sequence[str], travelled: Float[np.ndarray, "frames cars"], rate: int, path: Path) -> Path:
    """Draw a race as its gaps: by how many seconds each car passes a place after the first one there.

    Args:
        names: of the cars.
        travelled: m along the track, since the line.
        rate: frames a second.
        path: a .png.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(0.0, travelled.max(), 20.0)
    forward = np.maximum.accumulate(travelled, 0) + 1e-9 * np.arange(len(travelled))[:, None]
    times = np.stack([np.interp(places, each, np.arange(len(each)) / rate, np.nan, np.nan) for each in forward.T], 1)
    late = times - np.nanmin(times, 1, keepdims=True)
    for name, line in zip(names, late.T, strict=True):
        axes.plot(places / 1000, line, lw=1.6, label=name)
    axes.invert_yaxis()
    axes.set_xlabel("km")
    axes.set_ylabel("s behind the first")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


_CROSSES = 0.04
"""Of a picture's height, between the crosses of two kinds of runs."""


def learning(curves: Mapping[str, Sequence[Sequence[Examined]]], limits: Mapping[str, float], path: Path) -> Path:
    """Draw how lap times came down in trainings: a line for each run, its dots as large as the part of its laps that was clean, and crosses
    at the top where none was.

    Args:
        curves: examinations of runs, by what was trained.
        limits: s, beside which they are seen: of the optimum, say.
        path: a .png.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    colours = [_INK, "#3d6b8e", "#6a8f3c", "#8a5aa0"]
    worst = max(limits.values())
    for row, ((kind, runs), colour) in enumerate(zip(curves.items(), colours, strict=False)):
        for number, run in enumerate(runs):
            updates, times, clean = np.array(run, float).reshape(-1, 3).T
            there = np.isfinite(times)
            at = updates[there] / 1000
            axes.plot(at, times[there], lw=1.2, color=colour, label=None if number else kind)
            axes.scatter(at, times[there], s=40 * clean[there], color=colour, lw=0)
            height = np.full((~there).sum(), 0.98 - _CROSSES * row)
            top = axes.get_xaxis_transform()
            axes.scatter(updates[~there] / 1000, height, s=20, marker="x", color=colour, lw=1.2, transform=top)
            worst = max(worst, float(np.median(times[there])) if there.any() else worst)
    for name, seconds in limits.items():
        axes.axhline(seconds, color="#8a867d", lw=1, ls=":")
        axes.annotate(name, (0, seconds), textcoords="offset points", xytext=(2, 3), fontsize=9, color="#8a867d")
    axes.set_xlim(left=0)
    axes.set_ylim(min(limits.values()) - 0.4, worst + 1.5)
    axes.set_xlabel("thousand updates")
    axes.set_ylabel("s, mean of clean laps")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.12))
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def telemetry(driven: Frames, track: Track, optimum: Lap, path: Path) -> Path:
    """Draw the last whole lap of a race's first car beside the fastest possible one: speed, pedals, wheel, line, and time lost.

    Args:
        driven: the race.
        track: the track.
        optimum: the lap beside which it is drawn.
        path: a .png.

    Raises:
        UserError: no lap was driven from line to line.
    """
    travelled = np.maximum.accumulate(driven.travelled[:, 0])
    last = int(travelled[-1] // track.length) - 1
    if last < 0:
        raise UserError(f"the car came {travelled[-1]:.0f} m far, and a lap is {track.length:.0f} m", "drive more laps")
    at = np.arange(0.0, track.length, 2.0)
    frame = np.interp(last * track.length + at, travelled + 1e-9 * np.arange(len(travelled)), np.arange(len(travelled)))

    def along(values: np.ndarray) -> np.ndarray:
        return np.interp(frame, np.arange(len(travelled)), values[:, 0])

    def best(values: np.ndarray) -> np.ndarray:
        return np.interp(at, optimum.s, values, period=track.length)

    around = np.append(optimum.s, optimum.s[0] + track.length), np.append(optimum.time, optimum.lap_time)
    lost = (frame - frame[0]) / world.FRAMES - (np.interp(at, *around) - np.interp(0.0, *around))
    rows = [
        ("km/h", 3.6 * along(driven.speed), 3.6 * best(optimum.vx)),
        ("pedal", along(driven.throttle - driven.brake), best(optimum.pedal)),
        ("wheel, rad", along(driven.steering), best(optimum.steering)),
        ("m to the left", along(driven.offset), best(optimum.offset)),
        ("s lost", lost, None),
    ]
    figure = Figure(figsize=(10, 9), layout="constrained")
    for axes, (name, ours, theirs) in zip(figure.subplots(len(rows), sharex=True), rows, strict=True):
        if theirs is not None:
            axes.plot(at / 1000, theirs, color="#8a867d", lw=1.4, label=f"optimum, {optimum.lap_time:.2f} s")
        axes.plot(at / 1000, ours, color=_INK, lw=1.4, label=f"Sophy, {(frame[-1] - frame[0]) / world.FRAMES:.2f} s")
        axes.set_ylabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    figure.axes[-1].set_xlabel(f"km along {track.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _pieces(x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points 2 2"]:
    """A closed line's pieces."""
    points = np.stack((x, y), 1)
    return np.stack((points, np.roll(points, -1, 0)), 1)
