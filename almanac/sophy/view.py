"""A race to be seen: one page of HTML that holds all it needs and draws the race in three dimensions (three.js), from behind a car, from
the track's side or from above, with what drivers did beside the optimal lap. It opens in any browser, without a server."""

import base64
import colorsys
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from almanac.runtime.errors import UserError
from almanac.sophy import race, raceline, steward
from almanac.sophy.lap import Lap
from almanac.sophy.race import Recording
from almanac.sophy.sim import road, world
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track
from almanac.sophy.steward import Event

RATE = 20
"""Pictures of the cars a second; the page draws those between."""
_OPEN_WHEELED = 900.0
"""kg: lighter cars are drawn with open wheels."""
_TYRE = 0.34
"""Width of a drawn tyre, m."""
_LAND, _CELLS, _BELOW = 420.0, 60, 2.2
"""How far land goes beyond the track, m, its cells along the longer side, and how far below the track it lies, m."""
_TREES, _CLEAR = 450, 9.0
"""How many, and how far from walls they stand, m."""


@dataclass(frozen=True)
class Seen:
    """What cars did, to be drawn."""

    names: tuple[str, ...]
    x: Float[np.ndarray, "pictures cars"]
    """m; `RATE` pictures a second."""
    y: Float[np.ndarray, "pictures cars"]
    heading: Float[np.ndarray, "pictures cars"]
    """rad."""
    steering: Float[np.ndarray, "pictures cars"]
    """rad."""
    speed: Float[np.ndarray, "pictures cars"]
    """m/s."""
    pedal: Float[np.ndarray, "pictures cars"]
    """−1 brakes, 1 accelerates."""
    travelled: Float[np.ndarray, "pictures cars"]
    """m along the track, since the line."""
    offset: Float[np.ndarray, "pictures cars"]
    """m to the left of the centre line."""
    events: tuple[tuple[float, int, str], ...] = ()
    """When (s), whose, and what."""
    laps: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Of each car: when laps ended, and how long they took, s."""


def of_race(recording: Recording, track: Track, car: CarSpec) -> Seen:
    """A recorded race, simulated again and judged.

    Raises:
        UserError: its track or car is another one.
    """
    frames, judged = race.frames(recording, track, car), steward.judge(recording, track, car)
    held = race.scene_of(recording, track, car).countdown
    every = world.FRAMES // RATE
    said = tuple((each.time + held, each.car, told(each, recording.names)) for each in judged.events)
    laps = {place.car: place.lap_times for place in judged.places}
    ends = [tuple(zip((held + np.cumsum(laps[at])).tolist(), laps[at], strict=True)) for at in range(len(laps))]
    return Seen(
        recording.names,
        frames.x[::every],
        frames.y[::every],
        frames.yaw[::every],
        frames.steering[::every],
        frames.speed[::every],
        (frames.throttle - frames.brake)[::every],
        frames.travelled[::every],
        frames.offset[::every],
        said,
        tuple(ends),
    )


def told(event: Event, names: tuple[str, ...]) -> str:
    """An event in words."""
    other = names[event.other] if event.other >= 0 else ""
    words = {
        "off": "leaves the track",
        "cut": "gains off the track",
        "wall": "touches the wall",
        "rear": f"drives into {other}",
        "side": f"moves over onto {other}",
        "touch": f"touches {other}",
        "lap": "ends a lap",
        "finish": "finishes",
    }
    return words[event.kind] + (f", {event.penalty:.1f} s penalty" if event.penalty else "")


def of_lap(lap: Lap, track: Track, name: str = "optimal lap") -> Seen:
    """A lap, once around."""
    times = np.arange(0, lap.lap_time, 1 / RATE)

    def at(values: np.ndarray, last: float) -> np.ndarray:
        return np.interp(times, np.append(lap.time, lap.lap_time), np.append(values, last))[:, None]

    s, offset, angle = at(lap.s, lap.s[0] + track.length), at(lap.offset, lap.offset[0]), at(lap.angle, lap.angle[0])
    x, y, heading = road.places(track, s.ravel(), offset.ravel())[:, :, None]
    steering, speed, pedal = (at(each, each[0]) for each in (lap.steering, lap.vx, lap.pedal))
    return Seen((name,), x, y, heading + angle, steering, speed, pedal, s, offset)


def page(seen: Seen, track: Track, car: CarSpec, title: str, optimum: Lap | None = None) -> str:
    """The page.

    Args:
        seen: what is drawn.
        track: where.
        car: all cars.
        title: of the page.
        optimum: the lap that traces are compared with.

    Raises:
        UserError: three.js is not installed.
    """
    scene = _scene(seen, track, car, title, optimum)
    own = Path(__file__).parent
    held = {
        "__RACE__": json.dumps(scene, allow_nan=False).replace("</", "<\\/"),
        "__THREE_CORE__": three("three.core.min.js").replace("</script", "<\\/script"),
        "__THREE_MODULE__": three("three.module.min.js").replace("</script", "<\\/script"),
        "__SCENE__": (own / "scene.js").read_text("utf-8"),
    }
    return re.sub("|".join(held), lambda mark: held[mark[0]], (own / "viewer.html").read_text("utf-8"))


def three(name: str) -> str:
    """A file of three.js.

    Raises:
        UserError: it is not installed.
    """
    folder = Path(sys.prefix) / "node_modules" / "three" / "build"
    try:
        return (folder / name).read_text("utf-8")
    except OSError:
        hint = f"run `make setup`, or `npm install --prefix {sys.prefix} three@0.180`"
        raise UserError("three.js, which draws races, is not installed", hint) from None


def scenery(track: Track, car: CarSpec) -> dict[str, Any]:
    """What stands still, and what cars look like, as `scene.js` draws it: JSON, with arrays of float32 in base 64.

    Args:
        track: with the land around it.
        car: all cars.
    """
    points = road.road(track).points
    named = {
        "left": road.LEFT, "right": road.RIGHT, "kerb_left": road.KERB_LEFT, "kerb_right": road.KERB_RIGHT,
        "gravel_left": road.GRAVEL_LEFT, "gravel_right": road.GRAVEL_RIGHT, "wall_left": road.WALL_LEFT,
        "wall_right": road.WALL_RIGHT, "curvature": road.CURVATURE, "slope": road.SLOPE,
    }  # fmt: skip
    line = raceline.least_curvature(track, car)
    along = line.step * np.arange(len(line.offset))
    course = {name: packed(points[:, column]) for name, column in named.items()}
    course |= {name: packed(getattr(track, name)) for name in ("x", "y", "z", "heading", "bank")}
    course |= {"line": packed(np.interp(track.s, along, line.offset, period=track.length))}
    land, trees = _land(track, points)
    whole = {"name": track.name, "length": track.length, "step": track.step, **course}
    return {"track": whole, "land": land, "trees": trees, "shape": _shape(car)}


def _scene(seen: Seen, track: Track, car: CarSpec, title: str, optimum: Lap | None) -> dict[str, Any]:
    """All that a page of what was driven draws."""
    cars = [
        {"name": name, "colour": colour(at), "laps": [{"at": end, "time": time} for end, time in laps]}
        for at, (name, laps) in enumerate(zip(seen.names, seen.laps or [()] * len(seen.names), strict=True))
    ]
    best = None
    if optimum is not None:
        known = {"s": optimum.s, "speed": optimum.vx, "pedal": optimum.pedal, "steering": optimum.steering}
        best = {"lap_time": optimum.lap_time} | {name: packed(values) for name, values in known.items()}
    return {
        "title": title,
        "rate": RATE,
        **scenery(track, car),
        "cars": cars,
        "frames": packed(_poses(seen, track)),
        "events": [{"time": time, "car": at, "what": what} for time, at, what in seen.events],
        "optimum": best,
    }


def _poses(seen: Seen, track: Track) -> Float[np.ndarray, "pictures cars 10"]:
    """Of each car: where it is, how it lies on the road, and what its driver does."""

    def under(values: np.ndarray) -> np.ndarray:
        return np.interp(seen.travelled, track.s, values, period=track.length)

    slope, bank = under(track.slope), under(track.bank)
    z = under(track.z) + seen.offset * np.tan(bank)
    told = (seen.x, seen.y, z, seen.heading, slope, bank, seen.steering, seen.speed, seen.pedal, seen.travelled)
    return np.stack(told, -1)


def _shape(car: CarSpec) -> dict[str, Any]:
    front, rear = car.tyre_front.radius, car.tyre_rear.radius
    wheels = [
        [ahead, side * 0.5 * wide, radius, _TYRE]
        for ahead, wide, radius in ((car.front, car.track_front, front), (-car.rear, car.track_rear, rear))
        for side in (1, -1)
    ]
    return {
        "length": car.length,
        "width": car.width,
        "open_wheels": car.mass < _OPEN_WHEELED,
        "wheels": wheels,
    }


def _land(track: Track, points: np.ndarray) -> tuple[dict[str, Any], list[list[float]]]:
    """Heights of a grid around the track, as its points near by are high; and where trees stand."""
    centre = np.stack((track.x, track.y), 1)
    near, walls = KDTree(centre), np.maximum(points[:, road.WALL_LEFT], points[:, road.WALL_RIGHT])
    low, high = centre.min(0) - _LAND, centre.max(0) + _LAND
    cell = float((high - low).max() / _CELLS)
    columns, rows = (int(each) for each in np.ceil((high - low) / cell) + 1)

    def height(places: np.ndarray) -> np.ndarray:
        away, which = near.query(places, 16)
        share = 1 / (away + 10) ** 2
        return (share * track.z[which]).sum(1) / share.sum(1) - _BELOW

    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * cell + low
    rng = np.random.default_rng(2022)
    spots = rng.uniform(low, high, (6 * _TREES, 2))
    away, which = near.query(spots)
    spots = spots[(away > walls[which] + _CLEAR) & (away < 160 + 80 * rng.random(len(away)))][:_TREES]
    trees = np.column_stack((spots, height(spots))).round(2).tolist() if len(spots) else []
    return {
        "rows": rows,
        "columns": columns,
        "west": float(low[0]),
        "south": float(low[1]),
        "cell": cell,
        "heights": packed(height(grid)),
    }, trees


def colour(number: int) -> str:
    """Colours that differ, as far as they go round."""
    hue = (0.02 + number * 0.381966) % 1
    lightness = (0.5, 0.62, 0.4)[number % 3]
    return "#" + "".join(f"{round(255 * each):02x}" for each in colorsys.hls_to_rgb(hue, lightness, 0.68))


def packed(values: Sequence[float] | np.ndarray) -> str:
    """Numbers as float32 in base 64.

    Raises:
        UserError: some are not finite.
    """
    numbers = np.ascontiguousarray(values, "<f4")
    if not np.isfinite(numbers).all():
        raise UserError("what is to be drawn holds numbers that are not finite", "look at what wrote it")
    return base64.b64encode(numbers.tobytes()).decode()
