"""Laps: what a car did at each point of a track. Optimal ones of fastest-lap are read here, and a car's equations are checked against
them: what tyres, air and the road's slope should do to the car at each point, beside what it did."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from almanac.runtime import checkpoint, hub
from almanac.runtime.errors import UserError
from almanac.sophy.sim import dynamics
from almanac.sophy.sim import track as tracks
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

WHEELS = ("fl", "fr", "rl", "rr")


@dataclass(frozen=True)
class Lap:
    """A lap, point by point. Wheels are front left, front right, rear left, rear right."""

    lap_time: float
    """s."""
    s: Float[np.ndarray, " points"]
    """Along the track, m."""
    time: Float[np.ndarray, " points"]
    """s."""
    vx: Float[np.ndarray, " points"]
    """m/s, ahead."""
    vy: Float[np.ndarray, " points"]
    """To the left."""
    yaw_rate: Float[np.ndarray, " points"]
    """rad/s, to the left."""
    offset: Float[np.ndarray, " points"]
    """From the centre line to the left, m."""
    angle: Float[np.ndarray, " points"]
    """Of the car to the centre line, rad."""
    steering: Float[np.ndarray, " points"]
    """rad, to the left."""
    pedal: Float[np.ndarray, " points"]
    """−1 brakes, 1 accelerates."""
    slip: Float[np.ndarray, "4 points"]
    """Slip ratio of each wheel, as a part of that near the peak."""
    load: Float[np.ndarray, "4 points"]
    """Of each wheel, as a part of the car's weight."""


_COLUMNS = ("s", "time", "vx", "vy", "yaw_rate", "offset", "angle", "steering", "pedal")


def write(lap: Lap, path: Path) -> None:
    """Write a lap as a table (.csv): a row for each point, SI units, what they mean as in `Lap`.

    Raises:
        UserError: it can't be written.
    """
    named = {name: getattr(lap, name) for name in _COLUMNS}
    named |= {f"slip_{wheel}": values for wheel, values in zip(WHEELS, lap.slip, strict=True)}
    named |= {f"load_{wheel}": values for wheel, values in zip(WHEELS, lap.load, strict=True)}
    rows = "\n".join(",".join(f"{value:.9g}" for value in row) for row in zip(*named.values(), strict=True))
    text = f"# lap_time_s {lap.lap_time:.6f}\n{','.join(named)}\n{rows}\n"
    checkpoint.write_atomic(path, lambda file: file.write(text.encode()))


def read(path: Path) -> Lap:
    """Read a lap: a table that `write` wrote (.csv), or an optimal lap of fastest-lap's (.xml), whose z points down.

    Raises:
        UserError: it can't be read, or is no such lap.
    """
    return _from_table(path) if path.suffix.lower() == ".csv" else _from_xml(path)


def _from_table(path: Path) -> Lap:
    try:
        first, names, *lines = path.read_text("utf-8").splitlines()
        named = dict(zip(names.split(","), np.array([line.split(",") for line in lines], float).T, strict=True))
        wheels = (np.stack([named[f"{what}_{wheel}"] for wheel in WHEELS]) for what in ("slip", "load"))
        return Lap(float(first.removeprefix("# lap_time_s")), *(named[name] for name in _COLUMNS), *wheels)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} can't be read as a lap ({error})", "give what `optimal-lap` wrote") from None


def _from_xml(path: Path) -> Lap:
    try:
        root = ElementTree.fromstring(path.read_text("utf-8"))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"{path} can't be read ({error})", "give an optimal lap of fastest-lap (.xml)") from None

    def numbers(place: str) -> np.ndarray:
        found = root.find(place)
        try:
            return np.array([float(each) for each in str(found.text).split(",")])  # pyright: ignore[reportOptionalMemberAccess]
        except (AttributeError, ValueError):
            raise UserError(f"{path} has no numbers at {place}", "give an optimal lap of fastest-lap") from None

    ends = {"f": "front-axle", "r": "rear-axle"}
    sides = {"l": "left-tire", "r": "right-tire"}
    controls = "control_variables"
    lap = Lap(
        float(numbers("laptime")[0]),
        numbers("road.arclength"),
        numbers("time"),
        numbers("chassis.velocity.x"),
        -numbers("chassis.velocity.y"),
        -numbers("chassis.omega.z"),
        -numbers("road.lateral-displacement"),
        -numbers("road.track-heading-angle"),
        -numbers(f"{controls}/front-axle.steering-angle/values"),
        numbers(f"{controls}/chassis.throttle/values"),
        np.stack([numbers(f"{ends[end]}.{sides[side]}.kappa") for end, side in WHEELS]),
        np.stack([-numbers(f"chassis.force_z_{wheel}_g") for wheel in WHEELS]),
    )
    if len({each.shape[-1] for each in vars(lap).values() if isinstance(each, np.ndarray)}) != 1:
        raise UserError(f"{path} has parts of different lengths", "it may be truncated; get it again")
    return lap


def track_of(lap: Lap, path: Path) -> Track | None:
    """The track of a lap of fastest-lap's: of those beside it and those that are at hand, the one with the same points.

    Args:
        lap: the lap.
        path: its file.
    """
    folders = [path.parent, path.parent.parent / "tracks"]
    if hub.has_data("racing"):
        folders.append(hub.data("racing") / "fastest_lap" / "tracks")
    for folder in folders:
        for each in sorted(folder.glob("*.xml")):
            try:
                found = ElementTree.parse(each).getroot().find("data/arclength")
                points = np.array(str(found.text).split(","), float) if found is not None else np.empty(0)
            except (OSError, ValueError, ElementTree.ParseError):  # somebody else's file
                continue
            if points.shape == lap.s.shape and np.allclose(points, lap.s, atol=1e-6):
                return tracks.load(each)
    return None


def residuals(car: CarSpec, lap: Lap, track: Track | None) -> dict[str, float]:
    """By how much a car's equations miss a lap: root mean square of what they say of each change of speed between two points (the mean of
    both, as the lap was computed) less what it was; and beside it that of the changes.

    Args:
        car: the car.
        lap: its lap.
        track: for slope and banking; None: level.

    Returns:
        `dvx`, `dvy` (m/s²), `dr` (rad/s²), and of each `…_signal`.
    """
    numbers = car.equations()
    sine, cosine = np.sin(lap.steering), np.cos(lap.steering)
    loads = tuple(lap.load * numbers.mass * dynamics.GRAVITY)
    forces, _ = dynamics.slipping(
        numbers, lap.vx, lap.vy, lap.yaw_rate, sine, cosine, tuple(lap.slip), loads, dynamics.FULL_GRIP
    )
    ax, ay, turning = dynamics.body(numbers, forces, loads, lap.vx, lap.vy, 1.0, dynamics.ASPHALT)
    if track is not None:
        slope, bank = (np.interp(lap.s, track.s, each, period=track.length) for each in (track.slope, track.bank))
        down_ahead, down_left = dynamics.slope_gravity(slope, bank, np.sin(lap.angle), np.cos(lap.angle))
        ax, ay = ax + down_ahead, ay + down_left
    said = {
        "dvx": (lap.vx, ax + lap.vy * lap.yaw_rate),
        "dvy": (lap.vy, ay - lap.vx * lap.yaw_rate),
        "dr": (lap.yaw_rate, turning),
    }
    found = {}
    for name, (value, rate) in said.items():
        change = np.diff(value) / np.diff(lap.time)
        found[name] = _root_mean_square(change - 0.5 * (rate[1:] + rate[:-1]))
        found[f"{name}_signal"] = _root_mean_square(change)
    return found


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
