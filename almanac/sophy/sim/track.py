"""Tracks: a closed centre line with height and banking, and how far the asphalt goes to both sides. They are read from what people have
(TUMFTM's CSV, fastest-lap's XML, GPX and GeoJSON of their own), smoothed once, and kept at even steps.

x is east, y north, z up, s along the centre line in the direction of driving; headings and curvatures are positive to the left, banking
where the left side is higher, slope uphill."""

import csv
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from almanac.runtime import checkpoint, hub
from almanac.runtime.errors import UserError

TRACKS = Path(__file__).parents[1] / "tracks"
"""The tracks that ship: circuits of our own, invented."""
STEP = 2.0
"""Between points of a track, m, about."""
_SURVEYED, _WALKED = 40.0, 70.0
"""Waves of surveyed lines and of people's recordings, m, of which half is smoothed away, and of shorter ones nearly all: two hairpins are
longer, and noise is shorter."""
_SHORTEST, _LONGEST = 100.0, 50_000.0
"""Of a track, m."""
_EARTH = 6_378_388.0
"""Radius, m."""
_LEAST_WIDTH = 2.0
"""Of a track, m."""


@dataclass(frozen=True)
class Track:
    """A closed track at even steps."""

    name: str
    source: str
    length: float
    """Of its centre line, m."""
    x: Float[np.ndarray, " points"]
    """m; the first point is the line where laps begin."""
    y: Float[np.ndarray, " points"]
    z: Float[np.ndarray, " points"]
    heading: Float[np.ndarray, " points"]
    """rad, without jumps."""
    curvature: Float[np.ndarray, " points"]
    """rad/m."""
    slope: Float[np.ndarray, " points"]
    """rad."""
    bank: Float[np.ndarray, " points"]
    """rad."""
    left: Float[np.ndarray, " points"]
    """From the centre line to the edge of the asphalt, m."""
    right: Float[np.ndarray, " points"]

    @property
    def step(self) -> float:
        """Between points, m."""
        return self.length / len(self.x)

    @property
    def s(self) -> Float[np.ndarray, " points"]:
        """Of each point, m."""
        return self.step * np.arange(len(self.x))

    @property
    def dip(self) -> Float[np.ndarray, " points"]:
        """Change of slope, rad/m: above 0 in a dip, below on a crest."""
        return (np.roll(self.slope, -1) - np.roll(self.slope, 1)) / (2 * self.step)

    def edges(self) -> tuple[Float[np.ndarray, "points 2"], Float[np.ndarray, "points 2"]]:
        """Left and right edge, x and y."""
        normal = np.stack((-np.sin(self.heading), np.cos(self.heading)), 1)
        centre = np.stack((self.x, self.y), 1)
        return centre + self.left[:, None] * normal, centre - self.right[:, None] * normal


def find(name: str | Path) -> Track:
    """A track by its file, or by its name: of one that ships (`solstice`) or is at hand, such as `Norisring`.

    Raises:
        UserError: there is none.
    """
    path = Path(name)
    if path.suffix:
        return load(path)
    known = {each.lower(): file for each, file in _at_hand().items()}
    if path.name.lower() not in known:
        raise UserError(f"there is no track '{name}'", f"give a file, or one of {', '.join(names())}")
    return load(known[path.name.lower()])


def names() -> list[str]:
    """Of tracks that ship or are at hand."""
    return sorted(_at_hand())


def _at_hand() -> dict[str, Path]:
    folders = [TRACKS]
    if hub.has_data("racing"):
        folders += [hub.data("racing") / each / "tracks" for each in ("fastest_lap", "tumftm_racetrack_database")]
    return {each.stem: each for folder in folders for each in sorted(folder.glob("*"))}


def load(path: Path, width: float = 12.0, name: str | None = None) -> Track:
    """Read a track.

    Args:
        path: fastest-lap's .xml; a .csv of x, y, and widths to the right and left (TUMFTM's); a .gpx or .geojson of its centre line.
        width: of the asphalt, m, where a file does not say.
        name: what to call it; None: as the file.

    Raises:
        UserError: it can't be read, is open, too short or long, or its edges cross.
    """
    readers = {
        ".xml": _from_xml,
        ".csv": _from_csv,
        ".gpx": _from_gpx,
        ".geojson": _from_geojson,
        ".json": _from_geojson,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is of no kind that is known", f"give one of {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path")
    if not (math.isfinite(width) and _LEAST_WIDTH <= width <= 100):
        raise UserError(f"the width is {width} m", f"give a number from {_LEAST_WIDTH:g} to 100")
    try:
        track = reader(path, width)
    except (OSError, ValueError, KeyError, TypeError, IndexError, ElementTree.ParseError) as error:
        raise UserError(f"{path} can't be read as a track ({error})", "see `almanac sophy track --help`") from None
    track = track if name is None else Track(**{**vars(track), "name": name})
    _check(track, path)
    return track


def write(track: Track, path: Path) -> None:
    """Write a track in TUMFTM's layout (.csv): x, y, widths to the right and left, and height, m. Banking is not in it.

    Raises:
        UserError: it can't be written.
    """
    rows = zip(track.x, track.y, track.right, track.left, track.z, strict=True)
    lines = "\n".join(",".join(f"{each:.4f}" for each in row) for row in rows)
    text = f"# x_m,y_m,w_tr_right_m,w_tr_left_m,z_m\n{lines}\n"
    checkpoint.write_atomic(path, lambda file: file.write(text.encode()))


def facts(track: Track) -> dict[str, Any]:
    """What one would say of a track."""
    width = track.left + track.right
    return {
        "name": track.name,
        "source": track.source,
        "length_m": round(track.length, 1),
        "direction": "left" if track.curvature.sum() > 0 else "right",
        "width_m": [round(float(width.min()), 1), round(float(width.max()), 1)],
        "sharpest_bend_m": round(float(1 / np.abs(track.curvature).max()), 1),
        "height_m": round(float(np.ptp(track.z)), 1),
        "steepest_percent": round(100 * float(np.tan(np.abs(track.slope).max())), 1),
    }


def _from_xml(path: Path, width: float) -> Track:
    """fastest-lap's layout: x east, y south, z down, all along the same arc length; left and right as driven."""
    root = ElementTree.fromstring(path.read_text("utf-8"))
    if root.get("type") != "closed":
        raise UserError(f"{path} is an open track ({root.get('type')})", "give a closed one")

    def numbers(place: str) -> np.ndarray | None:
        found = root.find(f"data/{place}")
        if found is None or not found.text:
            return None
        unit = found.get("units", "m")
        if unit not in ("m", "rad"):
            raise UserError(f"{path} has {place} in {unit}", "give metres and radians")
        return np.array([float(each) for each in found.text.split(",")])

    s, x, y = numbers("arclength"), numbers("centerline/x"), numbers("centerline/y")
    left, right, yaw, turn = numbers("nl"), numbers("nr"), numbers("yaw"), numbers("yaw_dot")
    length = root.find("header/track_length")
    if (
        s is None
        or x is None
        or y is None
        or left is None
        or right is None
        or yaw is None
        or turn is None
        or length is None
    ):
        raise UserError(f"{path} lacks a part of a track", "give fastest-lap's layout, with nl, nr, yaw and yaw_dot")
    z, pitch, roll = numbers("centerline/z"), numbers("pitch"), numbers("roll")
    flat = np.zeros_like(s)
    facts = {
        "x": x,
        "y": -y,
        "z": flat if z is None else -z,
        "curvature": -turn,
        "slope": flat if pitch is None else pitch,
        "bank": flat if roll is None else roll,
        "left": left,
        "right": right,
    }
    total = float(str(length.text))
    step = total / round(total / STEP)
    at = step * np.arange(round(total / step))
    found = {name: _periodic(s, values, total)(at) for name, values in facts.items()}
    heading = np.unwrap(-yaw)
    turns = 2 * math.pi * round((heading[-1] - heading[0] + _wrapped(heading[0] - heading[-1])) / (2 * math.pi))
    even = _periodic(s, heading - turns * s / total, total)(at) + turns * at / total
    return Track(path.stem, f"{path.name}, fastest-lap", total, heading=even, **found)


def _from_csv(path: Path, width: float) -> Track:
    """TUMFTM's layout: x, y, width to the right, width to the left, and height where `write` wrote it; or x and y alone."""
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            said = [each.strip() for each in row]
            if not said or not said[0]:
                continue
            if any("_ft" in each or "feet" in each for each in said):
                raise UserError(f"{path} is in feet", "give metres")
            try:
                rows.append([float(each) for each in said])
            except ValueError:
                if rows:
                    raise
                # what stands above the numbers says what they are
    points = np.array(rows)
    if points.ndim != 2 or points.shape[1] not in (2, 4, 5):
        raise UserError(f"{path} has no points", "give lines of x, y, width to the right, width to the left, in metres")
    right, left = points[:, 2:4].T if points.shape[1] > 2 else np.full((2, len(points)), width / 2)
    z = points[:, 4] if points.shape[1] == 5 else np.zeros(len(points))
    return _smoothed(path, points[:, 0], points[:, 1], z, left, right, _SURVEYED)


def _from_gpx(path: Path, width: float) -> Track:
    """A recorded line: latitudes, longitudes, and heights where there are any."""
    root = ElementTree.fromstring(path.read_text("utf-8"))
    found = [each for each in root.iter() if each.tag.rpartition("}")[2] in ("trkpt", "rtept")]
    points = []
    for each in found:
        height = next((float(str(part.text)) for part in each if part.tag.rpartition("}")[2] == "ele"), 0.0)
        points.append((float(each.attrib["lon"]), float(each.attrib["lat"]), height))
    return _from_globe(path, points, width)


def _from_geojson(path: Path, width: float) -> Track:
    """The first line of a file, or the outline of its first polygon."""
    about = json.loads(path.read_text("utf-8"))
    for feature in about.get("features", [about]):
        shape = feature.get("geometry", feature)
        if shape["type"] in ("LineString", "Polygon"):
            line = shape["coordinates"][0] if shape["type"] == "Polygon" else shape["coordinates"]
            return _from_globe(path, [(float(each[0]), float(each[1]), *map(float, each[2:3])) for each in line], width)
    raise UserError(f"{path} holds no line", "give a LineString or a Polygon")


def _from_globe(path: Path, points: Sequence[tuple[float, ...]], width: float) -> Track:
    """Degrees east and north, and metres up where they are known, on the plane that touches the globe there."""
    if len(points) < 8:
        raise UserError(f"{path} has {len(points)} points", "give a recording of a whole lap")
    east, north, z = np.array([(*each, 0.0)[:3] for each in points]).T
    if np.abs(north).max() > 85 or np.abs(east).max() > 180:
        raise UserError(f"{path} holds no degrees of longitude and latitude", "give GPX or GeoJSON in WGS 84")
    middle = math.radians(north.mean())
    x = _EARTH * math.cos(middle) * np.radians(east - east.mean())
    y = _EARTH * np.radians(north - north.mean())
    half = np.full(len(x), width / 2)
    return _smoothed(path, x, y, z - z.mean(), half, half, _WALKED)


def _smoothed(
    path: Path, x: np.ndarray, y: np.ndarray, z: np.ndarray, left: np.ndarray, right: np.ndarray, wave: float
) -> Track:
    """A track through points that err: without its short waves, and with widths to where the edges were."""
    points = np.stack((x, y, z, left, right))
    if not np.isfinite(points).all():
        raise UserError(f"{path} holds numbers that are not finite", "give a whole file")
    moved = np.hypot(np.diff(x), np.diff(y))
    points = points[:, np.concatenate(([True], moved > 1e-3))]
    x, y = points[:2]
    gap, usual = math.hypot(x[0] - x[-1], y[0] - y[-1]), float(np.median(np.hypot(np.diff(x), np.diff(y))))
    if gap > max(10 * usual, 30.0):
        raise UserError(f"{path} is an open track: {gap:.0f} m are between its ends", "give a whole lap")
    if gap > 1e-3:
        points = np.concatenate((points, points[:, :1]), 1)
    points[:, -1] = points[:, 0]
    x, y, z, left, right = points
    if len(x) < 8:
        raise UserError(f"{path} has {len(x)} points", "give at least eight")
    along = np.concatenate(([0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()))
    if not _SHORTEST <= along[-1] <= _LONGEST:
        hint = f"give one of {_SHORTEST:.0f} to {_LONGEST:.0f} m, in metres"
        raise UserError(f"{path} is a track of {along[-1]:.0f} m", hint)
    fine = np.linspace(0, along[-1], round(along[-1]), endpoint=False)
    line = np.interp(fine, along, x) + 1j * np.interp(fine, along, y)
    waves = 2 * math.pi * np.fft.fftfreq(len(fine), fine[1])
    line = np.fft.ifft(np.fft.fft(line) / (1 + (waves * wave / (2 * math.pi)) ** 6))
    ends = np.append(fine, along[-1])
    spline = CubicSpline(ends, np.append(line, line[0]), bc_type="periodic")
    real = np.concatenate(([0.0], np.abs(np.diff(np.append(line, line[0]))).cumsum()))
    count = round(real[-1] / STEP)
    at = np.interp(real[-1] / count * np.arange(count), real, ends)
    (px, py), (dx, dy), (ddx, ddy) = ((found.real, found.imag) for found in (spline(at, order) for order in range(3)))
    speed = np.hypot(dx, dy)
    heading = np.unwrap(np.arctan2(dy, dx))
    # Edges stay where they were, though the centre line moved: by how far, across.
    ox, oy = (np.interp(at, along, each) for each in (x, y))
    shift = (px - ox) * -np.sin(heading) + (py - oy) * np.cos(heading)
    height = _periodic(along, z, along[-1]) if np.ptp(z) == 0 else _smooth_height(along, z)
    return Track(
        path.stem,
        path.name,
        float(real[-1]),
        np.asarray(px),
        np.asarray(py),
        height(at),
        heading,
        (dx * ddy - dy * ddx) / speed**3,
        np.arctan(height(at, 1) / speed),
        np.zeros(count),
        np.interp(at, along, left) - shift,
        np.interp(at, along, right) + shift,
    )


def _smooth_height(along: np.ndarray, z: np.ndarray) -> CubicSpline:
    """Heights of a recording: means over a hundred metres, of which a spline is made."""
    count = max(round(along[-1] / 100), 4)
    middles = (np.arange(count) + 0.5) * along[-1] / count
    even = np.linspace(0, along[-1], 20 * count, endpoint=False)
    means = np.interp(even, along, z, period=along[-1]).reshape(count, -1).mean(1)
    return _periodic(middles, means, along[-1])


def _periodic(s: np.ndarray, values: np.ndarray, period: float) -> CubicSpline:
    """A spline through values that repeat."""
    keep = s < s[0] + period - 1e-6
    return CubicSpline(np.append(s[keep], s[0] + period), np.append(values[keep], values[0]), bc_type="periodic")


def _check(track: Track, path: Path) -> None:
    """Refuse a track on which nobody can drive."""
    if not _SHORTEST <= track.length <= _LONGEST:
        hint = f"give one of {_SHORTEST:.0f} to {_LONGEST:.0f} m, in metres"
        raise UserError(f"{path} is a track of {track.length:.0f} m", hint)
    width = track.left + track.right
    at = int(width.argmin())
    if width[at] < _LEAST_WIDTH:
        what = f"{path} is {width[at]:.1f} m wide at {at * track.step:.0f} m"
        raise UserError(what, f"give widths of {_LEAST_WIDTH:g} m or more, in metres")
    inside = np.where(track.curvature > 0, track.left, track.right)
    folded = 1 - inside * np.abs(track.curvature)
    at = int(folded.argmin())
    if folded[at] <= 0:
        where = f"{inside[at]:.1f} m wide in a bend of {1 / abs(track.curvature[at]):.1f} m, at {at * track.step:.0f} m"
        what = f"the inner edge of {path} crosses itself: {where}"
        raise UserError(what, "narrow it there, or give a smoother line")


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi
