"""Triangles of a street: houses with bays, cornices and gables, trees, cars. Everything is plain arrays; where things stand is `town`'s to
know, and what they are made of a renderer's."""

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, Int

FLOOR = 3.2  # m
BAY = 2.6  # m of wall for each window


@dataclass(frozen=True)
class Mesh:
    """Triangles, wound counter-clockwise as seen from outside."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    texture: Float[np.ndarray, "vertices 2"]
    """Where each vertex is in its material's pattern, in tiles."""
    colours: Float[np.ndarray, "vertices 3"]
    """Reflectances of red, green and blue."""

    def moved(self, turn: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, "3"]) -> "Mesh":
        """The same, elsewhere: turned first, and then shifted."""
        return Mesh(self.vertices @ np.asarray(turn).T + shift, self.faces, self.texture, self.colours)


def joined(meshes: list[Mesh]) -> Mesh:
    """Several as one."""
    counts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, counts[:-1], strict=True)]),
        np.concatenate([mesh.texture for mesh in meshes]),
        np.concatenate([mesh.colours for mesh in meshes]),
    )


def quads(
    corners: Float[np.ndarray, "quads 4 3"],
    colours: Float[np.ndarray, "quads 3"],
    tiles: Float[np.ndarray, "quads 2"] | None = None,
) -> Mesh:
    """Flat pieces of four corners.

    Args:
        corners: counter-clockwise, from the lower left one.
        colours: of each.
        tiles: how often the pattern is repeated along and up each; None: not at all.
    """
    count = len(corners)
    unit = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    texture = np.zeros((count, 4, 2)) if tiles is None else unit * np.asarray(tiles)[:, None]
    faces = np.arange(count)[:, None, None] * 4 + np.array([[0, 1, 2], [0, 2, 3]])
    return Mesh(corners.reshape(-1, 3), faces.reshape(-1, 3), texture.reshape(-1, 2), np.repeat(colours, 4, 0))


def walls(
    plan: Float[np.ndarray, "corners 2"], low: float, high: float, colour: Float[np.ndarray, "3"], windows: bool
) -> Mesh:
    """Upright walls round a plan.

    Args:
        plan: counter-clockwise.
        low: height of their foot.
        high: of their top.
        colour: of all.
        windows: whether the pattern is laid out by floors and bays, a whole number of each.
    """
    after = np.roll(plan, -1, 0)
    foot = [np.column_stack([each, np.full(len(plan), low)]) for each in (plan, after)]
    top = [np.column_stack([each, np.full(len(plan), high)]) for each in (after, plan)]
    corners = np.stack([*foot, *top], 1)
    length = np.linalg.norm(after - plan, axis=1)
    tiles = np.column_stack(
        [np.maximum(np.round(length / BAY), 1), np.full(len(plan), max(round((high - low) / FLOOR), 1))]
    )
    return quads(corners, np.tile(colour, (len(plan), 1)), tiles if windows else None)


def lid(plan: Float[np.ndarray, "4 2"], height: float, colour: Float[np.ndarray, "3"]) -> Mesh:
    """A flat roof over four corners."""
    return quads(np.column_stack([plan, np.full(4, height)])[None], colour[None])


def gable(
    plan: Float[np.ndarray, "4 2"], low: float, rise: float, roof: Float[np.ndarray, "3"], wall: Float[np.ndarray, "3"]
) -> Mesh:
    """A roof with its ridge along the first side of the plan, and the two triangles of wall below its ends."""
    a, b, c, d = np.column_stack([plan, np.full(4, low)])
    up = np.array([0.0, 0.0, rise])
    left, right = (a + d) / 2 + up, (b + c) / 2 + up
    slopes = quads(np.array([[a, b, right, left], [c, d, left, right]]), np.tile(roof, (2, 1)))
    ends = Mesh(
        np.array([b, c, right, d, a, left]), np.array([[0, 1, 2], [3, 4, 5]]), np.zeros((6, 2)), np.tile(wall, (6, 1))
    )
    return joined([slopes, ends])


def box(
    plan: Float[np.ndarray, "4 2"], low: float, high: float, colour: Float[np.ndarray, "3"], windows: bool = False
) -> Mesh:
    """Walls with a lid and a floor."""
    below = quads(np.column_stack([plan[::-1], np.full(4, low)])[None], colour[None])
    return joined([walls(plan, low, high, colour, windows), lid(plan, high, colour), below])


def tree(height: float, random: np.random.Generator) -> Mesh:
    """A trunk with a crown of clumps, on the origin.

    Args:
        height: of all of it, in metres.
        random: what makes it different from others.
    """
    trunk = trimesh.creation.cylinder(0.04 * height, 0.55 * height, sections=7)
    trunk.apply_translation([0, 0, 0.275 * height])
    parts = [_plain(trunk, np.array([0.10, 0.07, 0.05]))]
    green = np.array([0.06, 0.13, 0.03]) * random.uniform(0.7, 1.4) + np.array([0.03, 0, 0]) * random.random()
    for _ in range(6):
        clump = trimesh.creation.icosphere(1, random.uniform(0.16, 0.25) * height)
        bumps = random.normal(1, 0.13, (len(clump.vertices), 1))
        clump.vertices = clump.vertices * bumps + [
            *random.normal(0, 0.13, 2) * height,
            random.uniform(0.55, 0.82) * height,
        ]
        parts.append(_plain(clump, green, random.uniform(0.6, 1.3, len(clump.vertices))))
    return joined(parts)


def car(colour: Float[np.ndarray, "3"], length: float = 4.5, height: float = 1.45) -> Mesh:
    """A car on the origin, heading along x.

    Args:
        colour: of its paint.
        length: in metres.
        height: likewise.
    """
    half, wide, sill, waist = length / 2, 0.9, 0.3, 0.62 * height
    dark, black = np.array([0.03, 0.035, 0.04]), np.array([0.02, 0.02, 0.02])
    body = _tapered((-half, half), (-half, half), wide, wide, sill, waist, colour)
    cabin = _tapered(
        (-0.42 * length, 0.26 * length), (-0.30 * length, 0.10 * length), 0.92 * wide, 0.72 * wide, waist, height, dark
    )
    roof = _tapered(
        (-0.30 * length, 0.10 * length),
        (-0.29 * length, 0.09 * length),
        0.72 * wide,
        0.7 * wide,
        height,
        height + 0.05,
        colour,
    )
    parts = [body, cabin, roof]
    for x in (-0.3 * length, 0.31 * length):
        for y in (-0.82, 0.82):
            wheel = trimesh.creation.cylinder(0.33, 0.24, sections=14)
            wheel.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
            wheel.apply_translation([x, y, 0.33])
            parts.append(_plain(wheel, black))
    lamps = np.array([[0.8, 0.78, 0.7], [0.5, 0.02, 0.02]])
    for x, paint in zip((half, -half - 0.02), lamps, strict=True):
        for y in (-0.65, 0.65):
            plan = np.array([[x, y - 0.16], [x + 0.02, y - 0.16], [x + 0.02, y + 0.16], [x, y + 0.16]])
            parts.append(box(plan, 0.62, 0.76, paint))
    return joined(parts)


def _tapered(
    low_x: tuple[float, float],
    high_x: tuple[float, float],
    low_wide: float,
    high_wide: float,
    low: float,
    high: float,
    colour: Float[np.ndarray, "3"],
) -> Mesh:
    """A block whose top may be shorter and narrower than its foot."""
    foot = np.array(
        [[low_x[0], -low_wide, low], [low_x[1], -low_wide, low], [low_x[1], low_wide, low], [low_x[0], low_wide, low]]
    )
    top = np.array(
        [
            [high_x[0], -high_wide, high],
            [high_x[1], -high_wide, high],
            [high_x[1], high_wide, high],
            [high_x[0], high_wide, high],
        ]
    )
    sides = [[foot[i], foot[(i + 1) % 4], top[(i + 1) % 4], top[i]] for i in range(4)]
    return quads(np.array([*sides, top, foot[::-1]]), np.tile(colour, (6, 1)))


def _plain(
    mesh: trimesh.Trimesh, colour: Float[np.ndarray, "3"], shade: Float[np.ndarray, " vertices"] | float = 1.0
) -> Mesh:
    count = len(mesh.vertices)
    paint = np.broadcast_to(np.asarray(shade, float).reshape(-1, 1) * colour, (count, 3))
    return Mesh(np.asarray(mesh.vertices, float), np.asarray(mesh.faces), np.zeros((count, 2)), np.array(paint))
