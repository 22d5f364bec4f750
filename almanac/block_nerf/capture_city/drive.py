"""Where a car with cameras drives, when, and what each of its photos is taken with: streets round some crossings, both ways, in several
sessions of one light each. One pass along a street is a segment: what is wrong with its poses is wrong for all of it."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import shapely
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring

from almanac.block_nerf.capture_city.area import Area, Crossing
from almanac.block_nerf.capture_city.light import Hour
from almanac.runtime.errors import UserError

HEIGHT = 1.9  # m, of the cameras
FIELD = 90.0  # degrees, of a camera's width
CAMERAS = {"front": 0.0, "left": 90.0, "rear": 180.0, "right": -90.0}
"""Degrees to the left that each looks."""
HOURS = (
    Hour((2021, 6, 21), 13.0, 3.0),
    Hour((2021, 9, 22), 17.2, 4.0),
    Hour((2021, 12, 4), 11.0, 8.0, sun=0.05),
    Hour((2021, 3, 20), 9.0, 3.0),
    Hour((2021, 7, 30), 18.6, 5.0),
    Hour((2021, 11, 10), 14.5, 2.5),
)
"""Sessions' lights, in turn: noon, a low sun in the west, clouds, morning, evening, autumn."""
COVERED = 0.75
"""How far towards the next crossing a block goes (paper, section 4.1)."""
DRIFT_M, DRIFT_DEG = 0.25, 0.7
"""Standard deviations of what is wrong with the poses of a segment, of each axis."""
EXPOSURES = (0.5, 2.0)
"""How a camera's exposure is off, at most; it is drawn for each photo."""

_TESTED = 8  # one photo position in so many is kept to test with
_GAP, _MORE_GAP = 6.5, 9.0
"""Metres from a car that drives to the next, middle to middle, at least, and how much more in the mean."""
_EMPTY = 0.3  # of the times a lane has no cars
_APART = 5.0  # m between photos of a session, at most
_BESIDE = 60.0  # m from a crossing or a street that still belongs to it: carriageways run side by side
_LEAST = 0.15  # of a street that is driven at least


@dataclass(frozen=True)
class Shot:
    """One photo to be taken."""

    name: str
    session: int
    segment: int
    camera: str
    pose: Float[np.ndarray, "4 4"]
    """Camera to world; the camera looks along its −z."""
    exposure: float
    """Times the session's."""
    test: bool
    """Whether it is kept to test with."""
    cars: tuple[tuple[float, float, float, float, int], ...]
    """That drive by: where (x, y), ahead of it a point (x, y), and a seed of its looks."""


@dataclass(frozen=True)
class Drive:
    """All that is to be photographed."""

    crossings: tuple[Crossing, ...]
    """That are driven."""
    route: BaseGeometry
    shots: tuple[Shot, ...]
    drifts: Float[np.ndarray, "segments 6"]
    """What is wrong with the given poses of each segment: a shift in metres and a turn in radians about x, y and z."""


def chosen(
    area: Area, count: int, start: tuple[float, float] | None = None, towards: tuple[float, float] | None = None
) -> tuple[Crossing, ...]:
    """So many crossings that lie together, each with an arm to one before it; or those along a street.

    Args:
        area: where.
        count: how many, if `towards` isn't given; fewer if the area has no more.
        start: near which the first is; None: the area's middle.
        towards: the end of a street that begins at `start`.

    Raises:
        UserError: there is no crossing along the street.
    """
    crossings = area.crossings
    places = np.array([each.place for each in crossings])
    begin = np.array(start or places.mean(0))
    if towards is not None:
        return _along(crossings, begin, np.array(towards))
    order = [int(np.argmin(np.linalg.norm(places - begin, axis=-1)))]
    while len(order) < count:
        edge = {other for at in order for other in crossings[at].others if other is not None} - set(order)
        if not edge:
            break
        # along one street rather than round one place: what is nearest to the last
        order.append(min(sorted(edge), key=lambda at: float(np.linalg.norm(places[at] - places[order[-1]]))))
    return tuple(crossings[at] for at in order)


def _along(
    crossings: tuple[Crossing, ...], start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"]
) -> tuple[Crossing, ...]:
    """Those that are near a straight line, in order."""
    line = shapely.LineString([start, end])
    near = [each for each in crossings if line.distance(shapely.Point(each.place)) < _BESIDE]
    if not near:
        raise UserError(
            f"no crossing is between {start} and {end}", "give the ends of a street in metres, east and north"
        )
    return tuple(sorted(near, key=lambda each: line.project(shapely.Point(each.place))))


def planned(area: Area, crossings: tuple[Crossing, ...], sessions: int, frames: int, seed: int) -> Drive:
    """A drive of so many photos.

    Args:
        area: where.
        crossings: round which.
        sessions: each photographs the same streets.
        frames: photos in all, of all four cameras; a few less where they don't come out even.
        seed: of where exactly, of exposures, of other cars, of what is wrong with poses.
    """
    random, traffic = (np.random.default_rng([seed, stream]) for stream in (10, 11))
    positions = max(frames // (len(CAMERAS) * sessions), 2)
    arms = _driven(crossings, positions * _APART)
    spacing = sum(arm.length for arm in arms) / positions
    shots, drifts, number = [], [], 0
    for session in range(sessions):
        carried = random.uniform(0, spacing)
        for arm in arms:
            out = bool(random.random() < 0.5)
            segment = len(drifts)
            drifts.append(np.concatenate([random.normal(0, DRIFT_M, 3), np.radians(random.normal(0, DRIFT_DEG, 3))]))
            places = np.arange(carried, arm.length, spacing)
            carried = (places[-1] + spacing if len(places) else carried) - arm.length
            for at in places:
                rig = _rig(area, arm, float(at), out)
                cars = _traffic(arm, float(at), out, traffic)
                test = number % _TESTED == _TESTED // 2
                for camera, angle in CAMERAS.items():
                    exposure = float(np.exp(random.uniform(*np.log(EXPOSURES))))
                    name = f"{session:02d}_{segment:03d}_{number:05d}_{camera}"
                    shots.append(Shot(name, session, segment, camera, rig @ _turned(angle), exposure, test, cars))
                number += 1
    return Drive(crossings, shapely.union_all(arms), tuple(shots), np.array(drifts))


def _driven(crossings: tuple[Crossing, ...], length: float) -> list[shapely.LineString]:
    """The parts of streets that are driven, from each crossing outwards. Where there is not time for all, streets that lead away from them
    all are left earlier than those between two, which both their blocks learn from."""
    places = np.array([crossing.place for crossing in crossings])
    arms = []
    for crossing in crossings:
        for arm in crossing.arms:
            others = np.linalg.norm(places - arm.coords[-1][:2], axis=-1)[(places != crossing.place).any(-1)]
            arms.append((_cut(arm, COVERED * arm.length), bool((others < _BESIDE).any())))
    between = sum(arm.length for arm, inner in arms if inner)
    away = sum(arm.length for arm, _ in arms) - between
    part_away = min(max((length - between) / max(away, 1e-6), _LEAST), 1.0)
    part_between = min(max((length - part_away * away) / max(between, 1e-6), _LEAST), 1.0)
    return [_cut(arm, (part_between if inner else part_away) * arm.length) for arm, inner in arms]


def given(pose: Float[np.ndarray, "4 4"], drift: Float[np.ndarray, "6"]) -> Float[np.ndarray, "4 4"]:
    """The pose that a capture says, of the true one: turned about itself and shifted."""
    wrong = np.array(pose)
    wrong[:3, :3] = Rotation.from_rotvec(drift[3:]).as_matrix() @ pose[:3, :3]
    wrong[:3, 3] += drift[:3]
    return wrong


def _cut(line: shapely.LineString, end: float) -> shapely.LineString:
    """A line's beginning."""
    return cast(shapely.LineString, substring(line, 0, end))


def _rig(area: Area, arm: shapely.LineString, at: float, out: bool) -> Float[np.ndarray, "4 4"]:
    """The pose of the front camera of a car on a street."""
    here, way = _heading(arm, at, out)
    place = here + np.array([way[1], -way[0]]) * 2.2
    heights = area.terrain(np.stack([place - way, place + way]))
    forward = np.array([*(way * 2), heights[1] - heights[0]])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack([right, np.cross(right, forward), -forward])
    pose[:3, 3] = [*place, float(heights.mean()) + HEIGHT]
    return pose


def _heading(arm: shapely.LineString, at: float, out: bool) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """A place on a street, and the direction in which one drives there."""
    here, ahead = (np.array(arm.interpolate(more).coords[0])[:2] for more in (at, at + 1.0))
    if np.allclose(here, ahead):
        here, ahead = (np.array(arm.interpolate(more).coords[0])[:2] for more in (at - 1.0, at))
    return here, (ahead - here if out else here - ahead) / np.linalg.norm(ahead - here)


def _turned(degrees: float) -> Float[np.ndarray, "4 4"]:
    """About a camera's own y, to the left."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1.0]])


def _traffic(
    arm: shapely.LineString, at: float, out: bool, random: np.random.Generator
) -> tuple[tuple[float, float, float, float, int], ...]:
    """Cars that drive on the same street, one behind the other: before and behind the car that takes the photos, and past it in the other
    lane. At times a lane is empty."""
    found = []
    for along in (True, False):
        if random.random() < _EMPTY:
            continue
        way = 1.0 if along else -1.0
        starts = [(at, way), (at, -way)] if along == out else [(0.0 if along else arm.length, way)]
        for there, step in starts:
            while 0 <= (there := there + step * (_GAP + random.exponential(_MORE_GAP))) <= arm.length:
                here, heading = _heading(arm, there, along)
                place = here + np.array([heading[1], -heading[0]]) * 2.0
                found.append((*place.tolist(), *(place + heading).tolist(), int(random.integers(2**31))))
    return tuple(found)
