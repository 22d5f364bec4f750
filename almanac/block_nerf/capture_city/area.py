"""A piece of a real city, as open data has it: houses as boxes with heights, streets as lines with widths, and what follows from them:
how the ground rises, and where streets cross. Everything is in metres, x east, y north, z up, from the area's centre; how it looks is
`town`'s affair."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.sparse.csgraph import connected_components

from almanac.runtime import hub
from almanac.runtime.errors import UserError

AREAS = {"alamo_square": "sf_alamo_square.json", "third_street": "sf_mission_bay_third_street.json"}
"""Those of the paper, by name, and their files in the data set `block_nerf`."""
ATTRIBUTION = "© OpenStreetMap contributors, ODbL; building footprints: City of San Francisco"

_CELL = 5.0  # m, of the terrain
_SMOOTH = 20.0  # m, over which heights of the ground are averaged
_ONE_CROSSING = 26.0  # m: junctions that are nearer to one another are one, as where carriageways are apart


@dataclass(frozen=True)
class House:
    """A box that stands on the ground."""

    centre: tuple[float, float]
    half: tuple[float, float]
    """Half its length along its own two axes."""
    yaw: float
    """Of the first axis, in radians from east to north."""
    height: float

    def corners(self, grown: float = 0.0) -> Float[np.ndarray, "4 2"]:
        """Its plan, counter-clockwise.

        Args:
            grown: metres that are added on each side.
        """
        along = np.array([np.cos(self.yaw), np.sin(self.yaw)])
        across = np.array([-along[1], along[0]])
        u, v = self.half[0] + grown, self.half[1] + grown
        return np.array([np.array(self.centre) + a * u * along + b * v * across for a, b in _TURN])


_TURN = ((-1, -1), (1, -1), (1, 1), (-1, 1))


@dataclass(frozen=True)
class Street:
    """A centre line."""

    line: shapely.LineString
    width: float


@dataclass(frozen=True)
class Crossing:
    """Where three or more streets meet."""

    place: tuple[float, float]
    arms: tuple[shapely.LineString, ...]
    """The streets from here to the next junctions or ends, this end first."""
    others: tuple[int | None, ...]
    """Which crossing is at the end of each; None: none is."""


class Terrain:
    """Heights of the ground, smooth between those that are known.

    Args:
        places: where they are known.
        heights: there.
    """

    def __init__(self, places: Float[np.ndarray, "points 2"], heights: Float[np.ndarray, " points"]):
        self._low = places.min(0) - 4 * _SMOOTH
        shape = np.ceil((places.max(0) + 4 * _SMOOTH - self._low) / _CELL).astype(int) + 1
        cells = np.round((places - self._low) / _CELL).astype(int)
        total, count = np.zeros(shape), np.zeros(shape)
        np.add.at(total, tuple(cells.T), heights - heights.mean())
        np.add.at(count, tuple(cells.T), 1.0)
        near = [gaussian_filter(each, _SMOOTH / _CELL, truncate=6.0) for each in (total, count)]
        far = [gaussian_filter(each, 6 * _SMOOTH / _CELL, truncate=6.0) for each in (total, count)]
        # where nothing is near, as in a park, what is farther off decides
        self._grid = heights.mean() + (near[0] + 0.02 * far[0]) / (near[1] + 0.02 * far[1] + 1e-9)

    def __call__(self, places: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points"]:
        """Heights at some places."""
        where = (np.asarray(places, float) - self._low) / _CELL
        flat = map_coordinates(self._grid, where.reshape(-1, 2).T, order=1, mode="nearest")
        return flat.reshape(where.shape[:-1])


@dataclass(frozen=True)
class Area:
    """A piece of a city."""

    name: str
    latitude: float
    longitude: float
    houses: tuple[House, ...]
    streets: tuple[Street, ...]
    terrain: Terrain

    @cached_property
    def crossings(self) -> tuple[Crossing, ...]:
        """All, in no order that means anything."""
        return _crossings([street.line for street in self.streets])


def read(name: str | Path) -> Area:
    """An area.

    Args:
        name: one of `AREAS`, or a JSON file like theirs.

    Raises:
        UserError: there is no such file, or it isn't one.
    """
    path = Path(name)
    if str(name) in AREAS:
        path = hub.data("block_nerf") / AREAS[str(name)]
    elif not path.exists():
        raise UserError(f"there is no area {name}", f"name one of {', '.join(AREAS)}, or a JSON file like theirs")
    try:
        said = json.loads(path.read_text())
        boxes = said["osm_boxes"]
        houses = tuple(_house(box) for box in boxes)
        streets = tuple(Street(shapely.LineString(r["line"]), float(r["width_m"])) for r in said["roads"])
        places = np.array([house.centre for house in houses], float).reshape(-1, 2)
        heights = np.array([b["ground_m"] for b in boxes], float)
        if not (len(houses) and len(streets) and np.isfinite(places).all() and np.isfinite(heights).all()):
            raise ValueError("it has no houses or no streets")
        return Area(
            str(said["name"]),
            float(said["centre_lat"]),
            float(said["centre_lon"]),
            houses,
            streets,
            Terrain(places, heights),
        )
    except (ValueError, KeyError, TypeError, shapely.errors.ShapelyError) as error:
        raise UserError(
            f"{path} is no area: {error}", "it needs name, centre_lat, centre_lon, osm_boxes and roads"
        ) from error


def _house(box: dict[str, Any]) -> House:
    east, north, along, across, yaw, height = (
        float(box[name]) for name in ("e", "n", "half_u", "half_v", "yaw", "height_m")
    )
    return House((east, north), (abs(along), abs(across)), yaw, height)


def _crossings(lines: list[shapely.LineString]) -> tuple[Crossing, ...]:
    net = shapely.node(shapely.MultiLineString(lines))
    pieces = [piece for piece in net.geoms if piece.length > 1.0]
    ends = np.array([[piece.coords[0], piece.coords[-1]] for piece in pieces])[..., :2]
    points = ends.reshape(-1, 2)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    junction = connected_components(apart < 0.5)[1].reshape(-1, 2)
    joins = np.bincount(junction.ravel()) >= 3
    # junctions of carriageways that run side by side, and what lies between them, become one crossing
    many = joins[junction.ravel()]
    one = connected_components((apart < _ONE_CROSSING) & (many[:, None] & many | (apart < 0.5)))[1].reshape(-1, 2)
    places = np.array([points[one.ravel() == each].mean(0) for each in range(one.max() + 1)])
    arms: dict[int, list[tuple[shapely.LineString, int]]] = {}
    for piece, (here, there) in zip(pieces, one.tolist(), strict=True):
        if here != there:
            arms.setdefault(here, []).append((piece, there))
            arms.setdefault(there, []).append((piece.reverse(), here))
    kept = {each: _distinct(some, places[each]) for each, some in arms.items()}
    chosen = sorted(each for each, some in kept.items() if len(some) >= 3)
    number = {each: at for at, each in enumerate(chosen)}
    return tuple(
        Crossing(
            (float(places[each][0]), float(places[each][1])),
            tuple(_from(piece, places[each]) for piece, _ in kept[each]),
            tuple(number.get(there) for _, there in kept[each]),
        )
        for each in chosen
    )


def _distinct(
    arms: list[tuple[shapely.LineString, int]], place: Float[np.ndarray, "2"]
) -> list[tuple[shapely.LineString, int]]:
    """One arm for each direction: of two carriageways the first that is found."""
    kept: list[tuple[shapely.LineString, int]] = []
    headings: list[float] = []
    for piece, there in sorted(arms, key=lambda arm: -arm[0].length):
        reach = np.array(piece.interpolate(min(40.0, piece.length)).coords[0])[:2] - place
        heading = float(np.arctan2(reach[1], reach[0]))
        if all(abs((heading - other + np.pi) % (2 * np.pi) - np.pi) > np.pi / 4 for other in headings):
            kept.append((piece, there))
            headings.append(heading)
    return kept


def _from(piece: shapely.LineString, place: Float[np.ndarray, "2"]) -> shapely.LineString:
    """The line, begun at the crossing's own place."""
    return shapely.LineString([tuple(place), *[point[:2] for point in piece.coords[1:]]])
