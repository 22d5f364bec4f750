"""What stands in an area, seen from its streets: houses painted as San Francisco paints them, trees, parked cars, and a ground with
asphalt, pavements and crossings painted on it. Only outlines, heights and streets are data; all else is invented, the same for the same
seed."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import shapely
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring

from almanac.block_nerf.capture_city import meshes
from almanac.block_nerf.capture_city.area import Area, House, Street
from almanac.block_nerf.capture_city.meshes import Mesh

STYLES = 4
"""Patterns of windows; `PATTERNS` draws them."""
PLAIN, GARAGES = "plain", "garages"
"""Materials: paint alone; walls of a ground floor. Walls above are `windows0`, `windows1` and so on."""

_PIXEL = 0.15  # m, of the ground's picture
_GROUND_CELL = 6.0  # m, of the ground's triangles
_BEYOND = 3_000.0  # m that the ground goes on behind what is built
_PAVEMENT = 3.2  # m
_NEAR_STREET = 24.0  # m from a street's middle to a wall that faces it
_LARGE = 500.0  # m²: houses above it are of another age
_PAINTS = np.array(
    [
        [0.72, 0.66, 0.55], [0.62, 0.66, 0.68], [0.45, 0.55, 0.62], [0.70, 0.52, 0.44], [0.52, 0.60, 0.48], [0.75, 0.72, 0.68],
        [0.78, 0.66, 0.40], [0.42, 0.40, 0.46], [0.66, 0.44, 0.42], [0.55, 0.50, 0.42], [0.35, 0.45, 0.50], [0.80, 0.76, 0.62],
    ]
)  # fmt: skip
_MODERN = np.array([[0.55, 0.55, 0.54], [0.66, 0.63, 0.58], [0.45, 0.38, 0.34], [0.38, 0.40, 0.43]])
_CARS = np.array(
    [
        [0.75, 0.75, 0.75],
        [0.05, 0.05, 0.06],
        [0.30, 0.31, 0.33],
        [0.45, 0.05, 0.05],
        [0.06, 0.12, 0.35],
        [0.62, 0.60, 0.52],
    ]
)
_TRIM = np.array([0.82, 0.81, 0.77])


@dataclass(frozen=True)
class Town:
    """Everything that does not move."""

    parts: dict[str, Mesh]
    """By material; `ground` among them, its pattern laid once over all of it."""
    ground: UInt8[np.ndarray, "height width 3"]
    """Its picture, in sRGB, north up."""


def build(area: Area, route: BaseGeometry, seed: int, reach: float = 150.0) -> Town:
    """What is seen along a route.

    Args:
        area: where.
        route: where one drives.
        seed: of all that is invented. A house looks the same whichever route it is seen from.
        reach: metres from the route within which there are houses.
    """
    seen = route.buffer(reach)
    shapely.prepare(seen)
    near = seen.buffer(60)
    streets = shapely.union_all([street.line for street in area.streets if street.line.intersects(near)])
    houses = [
        (number, house)
        for number, house in enumerate(area.houses)
        if house.height > 0 and seen.intersects(shapely.Point(house.centre))
    ]
    parts: dict[str, list[Mesh]] = {}
    for number, house in houses:
        for material, mesh in _house(area, house, streets, np.random.default_rng([seed, 1, number])):
            parts.setdefault(material, []).append(mesh)
    plans = (
        shapely.union_all([shapely.Polygon(house.corners()) for _, house in houses]) if houses else shapely.Polygon()
    )
    parts.setdefault(PLAIN, []).extend(_greenery(area, seen, streets, plans, seed))
    parts[PLAIN].extend(_parked(area, seen, seed))
    bounds = seen.bounds
    picture = _picture(area, bounds, plans, seed)
    return Town(
        {**{name: meshes.joined(some) for name, some in parts.items()}, "ground": _ground(area, bounds)}, picture
    )


def painted_car(random: np.random.Generator) -> Mesh:
    """A car of some colour and size."""
    mesh = _car(int(random.integers(len(_CARS))))
    return replace(mesh, vertices=mesh.vertices * (random.uniform(0.92, 1.1), 1.0, random.uniform(0.95, 1.2)))


@cache
def _car(paint: int) -> Mesh:
    return meshes.car(_CARS[paint])


def pattern(material: str) -> tuple[UInt8[np.ndarray, "height width"], UInt8[np.ndarray, "height width"]]:
    """Of one floor and bay of a wall, where it is trim and where glass: 255 there, 0 elsewhere.

    Args:
        material: `garages` or `windows0` and so on.
    """
    trim, glass = Image.new("L", (104, 128)), Image.new("L", (104, 128))
    draw, pane = ImageDraw.Draw(trim), ImageDraw.Draw(glass)
    style = -1 if material == GARAGES else int(material.removeprefix("windows"))
    if style == -1:  # a door beside a garage's gate
        draw.rectangle((8, 22, 62, 127), fill=255)
        for y in range(30, 120, 16):
            draw.rectangle((12, y, 58, y + 1), fill=0)
        pane.rectangle((76, 40, 92, 70), fill=255)
        draw.rectangle((72, 30, 96, 127), outline=255, width=3)
    elif style == 0:  # sash
        draw.rectangle((26, 24, 78, 104), fill=255)
        for box in ((32, 30, 72, 62), (32, 67, 72, 98)):
            pane.rectangle(box, fill=255)
    elif style == 1:  # a pair under an arch
        draw.rectangle((16, 22, 88, 106), fill=255)
        draw.rectangle((12, 104, 92, 110), fill=255)
        for left in (22, 56):
            pane.rounded_rectangle((left, 28, left + 26, 98), 12, fill=255, corners=(True, True, False, False))
    elif style == 2:  # divided panes
        draw.rectangle((20, 30, 84, 100), fill=255)
        for left in (25, 46, 67):
            for top in (35, 57, 79):
                pane.rectangle((left, top, left + 12, top + 16), fill=255)
    else:  # a band of glass
        pane.rectangle((3, 34, 100, 100), fill=255)
        draw.rectangle((0, 100, 103, 106), fill=255)
    glassy = np.array(glass)
    return np.where(glassy > 0, 0, np.asarray(trim)).astype(np.uint8), glassy


def _house(area: Area, house: House, streets: BaseGeometry, random: np.random.Generator) -> list[tuple[str, Mesh]]:
    """The walls, roof and ornaments of a house, by material."""
    plan = house.corners()
    middle = float(area.terrain(np.array(house.centre)))
    low, top = float(area.terrain(plan).min()) - 0.5, middle + max(house.height, 3.0)
    large = 4 * house.half[0] * house.half[1] > _LARGE or house.height > 20
    paint = (_MODERN if large else _PAINTS)[random.integers(len(_MODERN if large else _PAINTS))]
    paint = np.clip(paint * random.uniform(0.8, 1.1) + random.normal(0, 0.02, 3), 0.03, 0.85)
    style = f"windows{STYLES - 1 if large else random.integers(STYLES - 1)}"
    first = min(middle + meshes.FLOOR, top)
    found = [(GARAGES, meshes.walls(plan, low, first, paint * 0.9, windows=True))]
    if top - first > 1.0:
        found.append((style, meshes.walls(plan, first, top, paint, windows=True)))
    roof = np.array([0.16, 0.15, 0.15]) * random.uniform(0.6, 1.6)
    if not large and random.random() < 0.45:
        found.append((PLAIN, meshes.gable(plan, top, min(house.half[1], 3.5) * 0.8, roof, paint)))
    else:
        found.append((PLAIN, meshes.lid(plan, top - 0.02, roof)))
    found.append((PLAIN, meshes.box(house.corners(0.35), top - 0.45, top - 0.05, _TRIM * random.uniform(0.7, 1.0))))
    found.append((PLAIN, meshes.box(house.corners(0.12), first - 0.12, first + 0.12, _TRIM * random.uniform(0.6, 1.0))))
    if not large and top - first > 3.0:
        for side in range(4):
            found += _bays(plan[side], plan[(side + 1) % 4], first, top, paint, style, streets, random)
    return found


def _bays(
    start: Float[np.ndarray, "2"],
    end: Float[np.ndarray, "2"],
    first: float,
    top: float,
    paint: Float[np.ndarray, "3"],
    style: str,
    streets: BaseGeometry,
    random: np.random.Generator,
) -> list[tuple[str, Mesh]]:
    """Bay windows on a side that faces a street."""
    length = float(np.linalg.norm(end - start))
    along = (end - start) / max(length, 1e-6)
    out = np.array([along[1], -along[0]])
    faced = (start + end) / 2 + out * 3
    if length < 4.5 or streets.distance(shapely.Point(faced)) > _NEAR_STREET - 3:
        return []
    found = []
    for number in range(int(length // 6) or 1):
        at = start + along * (number + 0.3) * length / (int(length // 6) or 1)
        wide, deep = 2.6, random.uniform(0.6, 1.0)
        plan = np.array([at + out * deep + along * 0.5, at + out * deep + along * (wide - 0.5), at + along * wide, at])
        plan = plan[[3, 0, 1, 2]]
        found.append((style, meshes.walls(plan, first, top - 0.6, paint, windows=True)))
        found.append((PLAIN, meshes.lid(plan, top - 0.6, paint * 0.6)))
        found.append((PLAIN, meshes.quads(np.column_stack([plan[::-1], np.full(4, first)])[None], paint[None])))
    return found


def _greenery(area: Area, seen: BaseGeometry, streets: BaseGeometry, plans: BaseGeometry, seed: int) -> list[Mesh]:
    """Trees along the pavements, and in parks: wherever no house and no street is near."""
    asphalt = shapely.union_all([street.line.buffer(street.width / 2) for street in area.streets])
    shapely.prepare(asphalt)
    built = plans.buffer(2.5)
    shapely.prepare(built)
    found, places = [], []
    for number, street in enumerate(area.streets):
        random = np.random.default_rng([seed, 2, number])
        for side in (-1, 1):
            edge = street.line.offset_curve(side * (street.width / 2 + 1.1))
            for at in np.arange(6.0, edge.length - 6.0, 13.0):
                place = edge.interpolate(at + random.uniform(-3, 3))
                if random.random() < 0.6:
                    places.append((place, random.uniform(4.5, 8.0)))
    low_x, low_y, high_x, high_y = seen.bounds
    random = np.random.default_rng([seed, 3])
    count = int((high_x - low_x) * (high_y - low_y) / 250)
    for at in random.uniform((low_x, low_y), (high_x, high_y), (count, 2)):
        place = shapely.Point(at)
        if plans.distance(place) > 22 and streets.distance(place) > 12:
            places.append((place, random.uniform(7.0, 14.0)))
    for number, (place, height) in enumerate(places):
        if seen.intersects(place) and not asphalt.intersects(place) and not built.intersects(place):
            at = np.array(place.coords[0])
            root = np.array([*at, float(area.terrain(at)) - 0.1])
            found.append(meshes.tree(height, np.random.default_rng([seed, 5, number])).moved(np.eye(3), root))
    return found


def _parked(area: Area, seen: BaseGeometry, seed: int) -> list[Mesh]:
    """Cars along the kerbs; they stay for all sessions."""
    found = []
    for number, street in enumerate(area.streets):
        for side in (-1, 1):
            kerb = street.line.offset_curve(side * (street.width / 2 - 1.0))
            for slot, at in enumerate(np.arange(14.0, kerb.length - 14.0, 6.0)):
                place, ahead = kerb.interpolate(at), kerb.interpolate(at + 1)
                random = np.random.default_rng([seed, 6, number, side + 1, slot])
                if seen.intersects(place) and random.random() < 0.35:
                    mesh, back = painted_car(random), random.random() < 0.5
                    found.append(on_ground(area, mesh, np.array(place.coords[0]), np.array(ahead.coords[0]), back))
    return found


def on_ground(
    area: Area, mesh: Mesh, place: Float[np.ndarray, "2"], ahead: Float[np.ndarray, "2"], back: bool = False
) -> Mesh:
    """A mesh that heads along x, put on a slope.

    Args:
        area: whose ground.
        mesh: what is put there.
        place: where its origin comes.
        ahead: a point that it heads to.
        back: whether it heads the other way.
    """
    way = (place - ahead if back else ahead - place) / max(float(np.linalg.norm(ahead - place)), 1e-6)
    heights = area.terrain(np.stack([place - way, place + way]))
    x = np.array([*way * 2, heights[1] - heights[0]])
    x /= np.linalg.norm(x)
    y = np.cross([0.0, 0.0, 1.0], x)
    y /= np.linalg.norm(y)
    return mesh.moved(np.column_stack([x, y, np.cross(x, y)]), np.array([*place, float(heights.mean())]))


def _ground(area: Area, bounds: tuple[float, float, float, float]) -> Mesh:
    """The terrain; its pattern covers the bounds once, and goes on at its edges' colours."""
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
    xs, ys = (
        np.concatenate(
            [[low[i] - _BEYOND], np.arange(low[i], high[i] + _GROUND_CELL, _GROUND_CELL), [high[i] + _BEYOND]]
        )
        for i in range(2)
    )
    places = np.stack(np.meshgrid(xs, ys, indexing="ij"), -1)
    vertices = np.concatenate([places, area.terrain(places)[..., None]], -1).reshape(-1, 3)
    index = np.arange(len(vertices)).reshape(len(xs), len(ys))
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    return Mesh(vertices, faces, (vertices[:, :2] - low) / (high - low), np.ones_like(vertices))


def _picture(
    area: Area, bounds: tuple[float, float, float, float], plans: BaseGeometry, seed: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Grass, yards, pavements, asphalt, its repairs and what is painted on it, in sRGB."""
    random = np.random.default_rng([seed, 4])
    low_x, low_y, high_x, high_y = bounds
    width, height = int((high_x - low_x) / _PIXEL), int((high_y - low_y) / _PIXEL)
    scale = np.array([width / (high_x - low_x), height / (high_y - low_y)])

    def mask(*shapes: BaseGeometry) -> np.ndarray:
        picture = Image.new("L", (width, height))
        draw = ImageDraw.Draw(picture)
        for polygon in shapely.get_parts(np.array([each for each in shapes if not each.is_empty])):
            for number, ring in enumerate([polygon.exterior, *polygon.interiors]):
                points = (np.array(ring.coords)[:, :2] - (low_x, low_y)) * scale
                draw.polygon([(x, height - y) for x, y in points], fill=0 if number else 255)
        return np.asarray(picture, np.float32)[..., None] / 255

    def noise(metres: float, strength: float) -> np.ndarray:
        rough = gaussian_filter(
            random.standard_normal((height // 4 + 1, width // 4 + 1)).astype(np.float32), metres / _PIXEL / 4
        )
        rough = np.asarray(Image.fromarray(rough / rough.std()).resize((width, height), Image.Resampling.BICUBIC))
        return 1 + strength * rough[..., None]

    frame = shapely.box(*bounds)
    lines = [street for street in area.streets if street.line.intersects(frame)]
    roads = shapely.union_all(
        [street.line.buffer(street.width / 2, cap_style="flat") for street in lines]
        + [shapely.Point(each.place).buffer(7) for each in area.crossings]
    )
    walks = roads.buffer(_PAVEMENT, join_style="mitre")
    yards = plans.buffer(12).union(walks.buffer(2))
    fine = 1 + 0.06 * random.standard_normal((height, width, 1), np.float32)
    ground = np.array([88, 112, 58], np.float32) * noise(1.2, 0.16) * noise(12.0, 0.1)
    layers = [
        (yards, np.array([134, 128, 116]) * noise(3.0, 0.08)),
        (walks, np.array([166, 161, 152]) * noise(0.4, 0.05) * noise(2.0, 0.06)),
    ]
    for shape, colour in layers:
        here = mask(shape)
        ground = ground * (1 - here) + here * colour
    joints = mask(*_joints(lines)) * mask(walks)
    ground *= 1 - 0.25 * joints
    here = mask(roads)
    ground = ground * (1 - here) + here * np.array([84, 84, 87]) * noise(0.5, 0.09) * noise(8.0, 0.08)
    for shade, shapes in _repairs(area, lines, seed).items():
        there = mask(*shapes) * here
        ground = ground * (1 - there) + there * ground * shade * noise(0.3, 0.06)
    white, yellow, worn = [], [], noise(0.6, 0.12)
    for crossing in area.crossings:
        white += _zebra(crossing.place, crossing.arms)
    clear = shapely.union_all([shapely.Point(each.place).buffer(17) for each in area.crossings])
    for street in lines:
        free = street.line.difference(clear)
        for piece in shapely.get_parts(free):
            for at in np.arange(0.0, piece.length, 4.5):
                yellow.append(substring(piece, at, at + 2.5).buffer(0.09, cap_style="flat"))
    for shapes, colour in ((white, [206, 205, 200]), (yellow, [196, 158, 60])):
        here = mask(*[each for each in shapes if each.intersects(frame)]) * np.clip(worn, 0.3, 1) * 0.9
        ground = ground * (1 - here) + here * np.array(colour)
    return np.clip(ground * fine, 0, 255).astype(np.uint8)


def _repairs(area: Area, streets: list[Street], seed: int) -> dict[float, list[BaseGeometry]]:
    """What years leave on asphalt, by how bright it is beside the rest: squares that were dug up, cracks filled with tar, stains where
    cars stand, lids."""
    found: dict[float, list[BaseGeometry]] = {shade: [] for shade in (0.5, 0.65, 0.8, 1.22)}
    for street in streets:
        random = np.random.default_rng([seed, 7, area.streets.index(street)])
        line, half = street.line, street.width / 2
        for at in np.arange(1.0, line.length - 1.0, 2.2):
            here, ahead = (np.array(line.interpolate(at + more).coords[0])[:2] for more in (0.0, 0.5))
            along = (ahead - here) / max(float(np.linalg.norm(ahead - here)), 1e-6)
            axes = np.stack([along, [-along[1], along[0]]])
            middle = here + random.uniform(-half, half) * axes[1]
            kind = random.random()
            if kind < 0.35:
                size = random.uniform((1.0, 0.6), (5.0, 2.0)) / 2
                corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size
                found[(0.65, 0.8, 1.22)[random.integers(3)]].append(shapely.Polygon(middle + corners @ axes))
            elif kind < 0.75:
                steps = np.cumsum(random.normal((0.6, 0.0), (0.2, 0.5), (12, 2)), 0)
                turn = np.stack([[np.cos(a := random.uniform(0, np.pi)), np.sin(a)], [-np.sin(a), np.cos(a)]])
                found[0.5].append(shapely.LineString(middle + steps @ turn).buffer(random.uniform(0.05, 0.1)))
            elif kind < 0.9:
                found[0.65].append(shapely.Point(middle).buffer(random.uniform(0.2, 0.6)))
            else:
                found[0.5].append(shapely.Point(middle).buffer(0.4))
    return found


def _joints(streets: list) -> list[BaseGeometry]:
    """Seams between slabs of pavements."""
    found = []
    for street in streets:
        for side in (-1, 1):
            edge = street.line.offset_curve(side * (street.width / 2 + _PAVEMENT / 2))
            for at in np.arange(0.0, edge.length - 0.5, 1.6):
                here, ahead = (np.array(edge.interpolate(at + more).coords[0]) for more in (0.0, 0.5))
                across = np.array([-(ahead - here)[1], (ahead - here)[0]]) * _PAVEMENT
                found.append(shapely.LineString([here - across, here + across]).buffer(0.06, cap_style="flat"))
    return found


def _zebra(place: tuple[float, float], arms: tuple[shapely.LineString, ...]) -> list[BaseGeometry]:
    """Stripes across the arms of a crossing."""
    found = []
    for arm in arms:
        if arm.length < 25:
            continue
        here, ahead = (np.array(arm.interpolate(at).coords[0]) for at in (11.0, 12.0))
        along = ahead - here
        across = np.array([-along[1], along[0]])
        for offset in np.arange(-5.0, 5.01, 1.25):
            middle = here + across * offset
            stripe = [middle - along * 1.5 - across * 0.3, middle + along * 1.5 - across * 0.3,
                      middle + along * 1.5 + across * 0.3, middle - along * 1.5 + across * 0.3]  # fmt: skip
            found.append(shapely.Polygon(stripe))
    return found
