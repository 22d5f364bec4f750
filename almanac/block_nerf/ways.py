"""Ways through a city: poses of a camera that goes from place to place and looks ahead."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d

from almanac.block_nerf.cameras import level
from almanac.block_nerf.captures.capture import Capture
from almanac.block_nerf.city import City
from almanac.block_nerf.placement import neighbours
from almanac.runtime.errors import UserError

_TURNS = 4.0  # metres over which a corner is rounded


def through(city: City, places: Sequence[tuple[float, float]] = ()) -> Float[np.ndarray, "places 3"]:
    """Places to go by.

    Args:
        city: how high its blocks' middles are says how high the camera is.
        places: x and y in metres; none: from block to neighbouring block, each once.

    Raises:
        UserError: there is but one place.
    """
    origins = np.array([place.origin for place in city.places])
    if not places:
        return _from_block_to_block(city)
    if len(places) < 2:
        raise UserError(f"a path of {len(places)} place leads nowhere", "give x and y of at least two")
    flat = np.array(places, float)
    away = np.linalg.norm(flat[:, None] - origins[None, :, :2], axis=-1)
    near = 1 / np.maximum(away, 1.0) ** 2
    return np.column_stack([flat, (near * origins[:, 2]).sum(1) / near.sum(1)])


def along(places: Float[np.ndarray, "places 3"], step: float) -> list[Float[np.ndarray, "4 4"]]:
    """Poses of a level camera that goes straight from each place to the next and looks where it goes.

    Args:
        places: metres.
        step: metres between poses.
    """
    legs = np.linalg.norm(np.diff(places, axis=0), axis=-1)
    gone = np.concatenate([[0], np.cumsum(legs)])
    at = np.linspace(0, gone[-1], max(round(gone[-1] / step) + 1, 2))
    where = np.stack([np.interp(at, gone, places[:, axis]) for axis in range(3)], -1)
    smooth = _rounded(where, _TURNS / step) if len(places) > 2 else where
    headings = np.unwrap(np.arctan2(*np.gradient(smooth[:, :2], axis=0).T[::-1]))
    return [level(smooth[number], float(heading)) for number, heading in enumerate(headings)]


def _rounded(places: Float[np.ndarray, "poses 3"], width: float) -> Float[np.ndarray, "poses 3"]:
    """A way without sharp corners, whose ends stay where they are."""
    more = min(round(4 * width), len(places) - 1)
    longer = np.pad(places, ((more, more), (0, 0)), "reflect", reflect_type="odd")
    return gaussian_filter1d(longer, width, axis=0)[more : more + len(places)]


def capture(city: City, poses: Sequence[Float[np.ndarray, "4 4"]]) -> Capture:
    """Poses as a capture without photos."""
    count = len(poses)
    zeros = np.zeros(count, np.int64)
    return Capture(
        folder=Path(),
        cameras=(city.about.camera,),
        images=tuple(f"{number:05d}.png" for number in range(count)),
        masks=(None,) * count,
        camera=zeros,
        poses=np.stack(poses),
        exposures=np.full(count, np.nan),
        sessions=zeros,
        segments=zeros,
        tested=np.zeros(count, bool),
    )


def _from_block_to_block(city: City) -> Float[np.ndarray, "places 3"]:
    """All blocks' middles, depth first over the graph of neighbours; of a single block, a few metres across its middle."""
    graph, order = neighbours(list(city.places)), list[str]()
    waiting = [min(graph, key=lambda name: (len(graph[name]), name))]
    while waiting:
        name = waiting.pop()
        if name not in order:
            order.append(name)
            waiting += [other for other in reversed(graph[name]) if other not in order]
    found = [place.origin for name in order for place in city.places if place.name == name]
    if len(found) == 1:
        x, y, z = found[0]
        reach = city.places[0].radius / 3
        found = [(x - reach, y, z), (x + reach, y, z)]
    return np.array(found)
