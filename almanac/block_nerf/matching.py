"""Appearance matching (Block-NeRF, section 4.3.2): each block chose its codes by itself, so one session looks another way in the next.
From a root outwards over the graph of neighbours, a block's codes are moved until what it sees where both see well looks as its matched
neighbours have it. Networks stay as they are."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from almanac.block_nerf.cameras import Camera, Rays, level, rays_of
from almanac.block_nerf.city import City, Loaded, save_codes
from almanac.block_nerf.model import Light
from almanac.block_nerf.placement import neighbours
from almanac.block_nerf.render import Appearance, local, looked, met, visibility
from almanac.runtime import console

ITERATIONS = 100
"""In which a code is matched (section 4.3.2)."""

_VIEWS = 4  # of each pair
_SMALL = (24, 18)  # pixels of a view
_PATCH = 3  # of them across, and down, whose mean is compared
_RATE = 0.05  # Adam's
_TRIED = 24  # directions and places that are tried for good views


@dataclass(frozen=True)
class Matched:
    """How well a block's codes were matched."""

    block: str
    to: tuple[str, ...]
    before: float
    """Root of the mean squared difference of patches of the views, in parts of full scale, over all sessions."""
    after: float


def match(city: City, only: Sequence[str] | None = None, seed: int = 0, iterations: int = ITERATIONS) -> list[Matched]:
    """Match the codes of a city's blocks, and write those that were moved.

    Args:
        city: whose files of codes are written.
        only: blocks whose codes are moved, to all of their neighbours; None: all, from the first block outwards.
        seed: of where is looked.
        iterations: of each code.
    """
    graph = {name: _sharing(city, name) for name in only or [place.name for place in city.places]}
    order = list(graph.items()) if only is not None else _outwards(city.places[0].name, graph)
    found = []
    with console.progress("matching", len(order), "blocks") as advance:
        for name, others in order:
            if others:
                found.append(_matched(city, name, others, seed, iterations))
            advance(1)
    return found


def _outwards(root: str, graph: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """Blocks in the order in which they are reached, each with the neighbours that are matched by then."""
    order, waiting = [root], deque([root])
    while waiting:
        for other in graph[waiting.popleft()]:
            if other not in order:
                order.append(other)
                waiting.append(other)
    order += [name for name in graph if name not in order]
    return [(name, [other for other in graph[name] if other in order[:at]]) for at, name in enumerate(order)]


def _matched(city: City, name: str, others: Sequence[str], seed: int, iterations: int) -> Matched:
    target, began = city.block(name), time.monotonic()
    codes, errors = fitted(target, target.codes, _views(city, name, others, seed), iterations)
    how = {"steps": iterations, "seconds": round(time.monotonic() - began, 1)}
    facts = {"matched_to": list(others), "before": errors[0], "after": errors[-1], **how}
    save_codes(city.folder, target.place, codes, facts)
    city.forget(name)
    return Matched(name, tuple(others), round(errors[0], 5), round(errors[-1], 5))


def from_another_light(city: City, name: str, seed: int = 0, iterations: int = ITERATIONS) -> Matched | None:
    """How well a block is matched to its neighbours when each session begins with the code of another: sessions that all blocks know by the
    same number were never far apart. Nothing is written; None where it has no neighbours.

    Args:
        city: which.
        name: of the block.
        seed: of where is looked.
        iterations: of each code.
    """
    target = city.block(name)
    others = _sharing(city, name)
    if not others:
        return None
    _, errors = fitted(target, target.codes.roll(1, 0), _views(city, name, others, seed), iterations)
    return Matched(name, tuple(others), round(errors[0], 5), round(errors[-1], 5))


def fitted(
    target: Loaded, codes: Float[Tensor, "sessions 32"], views: Sequence[tuple[Loaded, Rays]], iterations: int
) -> tuple[Float[Tensor, "sessions 32"], list[float]]:
    """Codes by which a block looks as others do.

    Args:
        target: the block.
        codes: to begin with.
        views: of others, and along which rays.
        iterations: of Adam.

    Returns:
        the codes, and how far views are apart before each iteration and after the last.
    """
    codes = codes.clone().requires_grad_()
    wanted = [
        torch.stack([_patches(looked(other, rays, Appearance(session)).colours) for session in range(len(codes))])
        for other, rays in views
    ]
    here = [local(rays, target.place) for _, rays in views]
    shapes = [met(target.block, rays) for rays in here]
    optimizer = torch.optim.Adam([codes], _RATE)
    errors = []
    while True:
        loss = torch.zeros(())
        for rays, shape, want in zip(here, shapes, wanted, strict=True):
            for session, code in enumerate(codes):
                light = Light(code.expand(len(rays.origins), -1), torch.ones(len(rays.origins)))
                loss = loss + (_patches(target.block.lit(shape, rays, light)) - want[session]).square().mean()
        loss = loss / (len(views) * len(codes))
        errors.append(float(loss.detach()) ** 0.5)
        if len(errors) > iterations:
            return codes.detach(), errors
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _views(city: City, name: str, others: Sequence[str], seed: int) -> list[tuple[Loaded, Rays]]:
    return [(city.block(other), rays) for other in others for rays in shared_views(city, name, other, seed)]


def _patches(colours: Float[Tensor, "pixels 3"]) -> Float[Tensor, "patches 3"]:
    """Means of a view's patches: light is what they share, and details are each block's own."""
    across, down = _SMALL
    parts = colours.view(down // _PATCH, _PATCH, across // _PATCH, _PATCH, 3)
    return parts.mean((1, 3)).flatten(0, 1)


def shared_views(city: City, one: str, other: str, seed: int) -> list[Rays]:
    """Small views that two blocks both see well: from places that both have photos from, or else from between them.

    Args:
        city: whose blocks.
        one: of them.
        other: likewise.
        seed: of what is tried.
    """
    random = np.random.default_rng([seed, len(one)])
    a, b = city.block(one), city.block(other)
    stands = _shared(a, b)
    start, end = np.array(a.place.origin), np.array(b.place.origin)
    lens = Camera(*_SMALL, (_SMALL[0] / 2, _SMALL[0] / 2), (_SMALL[0] / 2, _SMALL[1] / 2))
    tried = []
    for _ in range(_TRIED):
        share, drawn = random.uniform(0.35, 0.65), int(random.integers(max(len(stands), 1)))
        position = stands[drawn] if len(stands) else start + share * (end - start)
        pose = level(position, random.uniform(0, 2 * np.pi))
        tried.append((min(visibility(a, lens, pose), visibility(b, lens, pose)), pose))
    tried.sort(key=lambda each: -each[0])
    return [rays_of(lens, pose, lens.all_pixels().reshape(-1, 2)) for _, pose in tried[:_VIEWS]]


def _shared(one: Loaded, other: Loaded) -> Float[np.ndarray, "places 3"]:
    """Places that both blocks have photos from."""
    stands = np.array([*one.facts.get("stands", ()), *other.facts.get("stands", ())], float).reshape(-1, 3)
    return stands[one.place.holds(stands) & other.place.holds(stands)]


def _sharing(city: City, name: str) -> list[str]:
    """A block's neighbours that share places of photos with it; where none does, all."""
    others = neighbours(list(city.places))[name]
    return [other for other in others if len(_shared(city.block(name), city.block(other)))] or others
