"""`almanac block-nerf VERB`: parse, call, print."""

import os
from pathlib import Path
from typing import Any, Literal

import tyro

from almanac.runtime import console
from almanac.runtime.errors import UserError

OUT = Path("out/block_nerf")
Preset = Literal["cpu", "gpu", "paper"]
Field = Literal["hash", "ipe-mlp"]
Mixing = Literal["nearest", "idw", "idw-3d", "imagewise", "pixelwise"]


def capture_city(
    *,
    area: str = "alamo_square",
    sessions: int = 3,
    frames: int = 240,
    size: str = "160x120",
    crossings: int | None = None,
    start: tuple[float, float] | None = None,
    towards: tuple[float, float] | None = None,
    samples: int = 16,
    without_house: tuple[float, float] | None = None,
    out: Path = OUT / "capture",
    processes: int | None = None,
    resume: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Photograph a part of San Francisco, built from its real street map and houses, to learn from and to be measured with.

    A car with four cameras drives round some crossings, in several sessions of one light each; cars drive by, exposures differ, and poses
    are a little wrong. What only the maker of a world can know, true poses and distances, lies in OUT/truth.

    Args:
        area: alamo_square, third_street, or a JSON file like theirs.
        sessions: times that all of it is driven, each in a light of its own.
        frames: photos in all.
        size: of a photo, in pixels: WxH.
        crossings: round which; default: one for 120 photos of a session.
        start: east and north in metres of the area's centre, near which the first crossing is; default: the centre.
        towards: the end of a street that begins at `start`: all crossings along it are driven, instead of so many round one.
        samples: paths of light a pixel; photos to test with have four times as many.
        without_house: east and north in metres, near which a house is gone: the city after a change.
        out: the folder.
        processes: that render at the same time; default: one a processor.
        resume: go on with what is in the folder.
        seed: of all that is invented.
        json: print one JSON object.
    """
    from almanac.block_nerf.capture_city import capture_city as capturing

    request = capturing.Request(
        area, sessions, frames, _size(size), crossings, start, towards, samples, without_house, seed
    )
    found = capturing.capture_city(request, out, processes, resume)
    told = (
        f"{out}: {found['frames']} photos round {found['crossings']} crossings, {found['tested']} of them to test with"
    )
    console.result(found, json, told)


def train(
    capture: tyro.conf.Positional[Path],
    *,
    preset: Preset = "cpu",
    field: Field | None = None,
    spacing: float | None = None,
    blocks: int | None = None,
    longest: int | None = None,
    appearance: bool = True,
    exposure: Literal["encoding", "scale", "none"] | None = None,
    poses: bool = True,
    masks: bool = True,
    steps: int | None = None,
    out: Path = OUT / "city",
    cluster: str | None = None,
    device: str = "auto",
    resume: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Make a city of photos: a block at each crossing, each trained on its own photos, and their looks matched.

    A run that was killed goes on with --resume.

    Args:
        capture: a transforms.json or its folder, a folder of COLMAP's, Waymo's Block-NeRF files, photos without poses, or a film.
        preset: cpu (two cores), gpu, or paper (mip-NeRF's network and steps).
        field: hash (tables of many resolutions, quick) or ipe-mlp (mip-NeRF's perceptron, as in the paper); default: the preset's.
        spacing: metres between blocks along the drive, instead of one at each crossing.
        blocks: their number along the drive, instead.
        longest: pixels of a photo's longer side that are learnt, at most; default: all.
        appearance: tell the light of sessions apart.
        exposure: how networks know it: encoding as in the paper, scale (light times exposure), or none; default: the preset's.
        poses: correct those that photos came with.
        masks: leave out what they cover.
        steps: of each block's training, instead of the preset's.
        out: folder of the city.
        cluster: a Ray whose machines train blocks: local, auto or host:port.
        device: auto, cpu or cuda.
        resume: go on with what is in OUT.
        seed: of weights and order.
        json: print one JSON object.
    """
    from almanac.block_nerf import build
    from almanac.block_nerf.captures.opened import opened

    plan = _plan(preset, field, spacing, blocks, longest, appearance, exposure, poses, masks, steps, seed)
    found = build.build(
        opened(capture, out / "source"), out, plan, cluster_address=cluster, device_name=device, resume=resume
    )
    console.result(found, json, f"{out}: {len(found['blocks'])} blocks\n" + _told(found))


def update_block(
    city: tyro.conf.Positional[Path],
    *,
    block: str,
    images: Path,
    at: tuple[float, float, float] | None = None,
    radius: float | None = None,
    preset: Preset = "cpu",
    field: Field | None = None,
    longest: int | None = None,
    steps: int | None = None,
    device: str = "auto",
    resume: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train one block of a city anew on new photos, or add one, and match its looks to its neighbours'. No other block's file changes.

    Args:
        city: its folder.
        block: the block's name, or its number; a new name adds a block.
        images: photos with poses in the city's metres, as `train` takes them.
        at: x, y and z of a new block's middle.
        radius: of a new block, in metres.
        preset: cpu (two cores), gpu, or paper (mip-NeRF's network and steps).
        field: as for train.
        longest: as for train.
        steps: as for train.
        device: auto, cpu or cuda.
        resume: go on with a training that was stopped.
        seed: of weights and order.
        json: print one JSON object.
    """
    from almanac.block_nerf import build
    from almanac.block_nerf.captures.opened import opened
    from almanac.block_nerf.city import City
    from almanac.block_nerf.placement import Place

    known = City(city)
    name = f"block_{int(block):02d}" if block.isdigit() else block
    place = next((each for each in known.places if each.name == name), None)
    if place is None:
        if at is None or radius is None:
            raise UserError(
                f"{city} has no block {name}",
                f"it has {', '.join(each.name for each in known.places)}; a new one needs --at and --radius",
            )
        place = Place(name, at, radius)
    plan = _plan(preset, field, None, None, longest, True, None, True, True, steps, seed)
    found = build.update(opened(images, city / "source"), known, place, plan, device_name=device, resume=resume)
    console.result(found, json, _told(found))


def render(
    city: tyro.conf.Positional[Path],
    *,
    poses: Path | None = None,
    path: tuple[tuple[float, float], ...] = (),
    step: float = 1.0,
    session: int | None = None,
    exposure: float | None = None,
    method: Mixing = "idw",
    every: int = 1,
    size: str | None = None,
    out: Path = OUT / "views",
    json: bool = False,
) -> None:
    """Pictures of a city from given places; where the places' own photos are at hand, how near they come.

    Args:
        city: its folder.
        poses: a transforms.json: its frames that are to test with, or all where none is.
        path: instead, x and y in metres of places that a camera goes by and looks ahead; with neither, it goes from block to block.
        step: metres between pictures of a path.
        session: whose light pictures have; default: each frame's own.
        exposure: of the pictures, in the capture's unit; default: each frame's own.
        method: of mixing blocks' pictures: idw by the camera's distance (steady), nearest, idw-3d, or imagewise or pixelwise
            visibility (sharper).
        every: only one frame in so many.
        size: of the pictures: WxH; default: the photos'.
        out: folder of the pictures.
        json: print one JSON object.
    """
    from almanac.block_nerf import views
    from almanac.block_nerf.city import City

    known = City(city)
    found = views.rendered(
        known, _places(known, poses, path, step), out, session=session, exposure=exposure, method=method, every=every,
        size=_size(size) if size else None,
    )  # fmt: skip
    said = f"{out}: {found['views']} pictures"
    if found["psnr"] is not None:
        said += f", {found['psnr']:.2f} dB, SSIM {found['ssim']:.3f}"
    console.result(found, json, said)


def view(
    city: tyro.conf.Positional[Path],
    *,
    host: str = os.environ.get("ALMANAC_HOST", "127.0.0.1"),
    port: int = int(os.environ.get("ALMANAC_PORT", "8000")),
) -> None:
    """Fly through a city in the browser: turn the light of the day, the exposure, and how blocks are mixed; see which of them are asked.

    Args:
        city: its folder.
        host: address to listen on ($ALMANAC_HOST); 0.0.0.0 lets other machines in.
        port: port to listen on ($ALMANAC_PORT); 0 takes a free one.
    """
    try:
        from almanac.block_nerf import api
    except ModuleNotFoundError as error:
        raise UserError(
            f"viewing needs {error.name}, which is not installed", "pip install 'almanac[studio]'"
        ) from None
    api.serve(city, host, port)


def export(
    city: tyro.conf.Positional[Path],
    *,
    what: Literal["film", "distances", "points"] = "film",
    poses: Path | None = None,
    path: tuple[tuple[float, float], ...] = (),
    step: float | None = None,
    session: int = 0,
    until: int | None = None,
    exposure: float = 1.0,
    method: Mixing = "idw",
    size: str = "640x480",
    rate: int = 30,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """A film through a city, distances of what is seen, or a cloud of coloured points, for other programs.

    Args:
        city: its folder.
        what: a film (MP4), distances (a NumPy file a view, metres along each ray), or points (PLY, GLB or XYZ by the file's name).
        poses: a transforms.json with the places.
        path: instead, x and y in metres of places that a camera goes by; with neither, it goes from block to block.
        step: metres between pictures of a path; default: a third for a film, 8 for distances and points.
        session: whose light it has.
        until: a session whose light it changes to, on the way.
        exposure: as a multiple of the capture's middle one.
        method: of mixing blocks' pictures, as for render.
        size: of pictures: WxH.
        rate: pictures a second.
        out: the file, or for distances the folder.
        json: print one JSON object.
    """
    import numpy as np

    from almanac.block_nerf import export as exports
    from almanac.block_nerf.city import City
    from almanac.block_nerf.render import Appearance, fading

    known, pixels = City(city), _size(size)
    places = _places(known, poses, path, step or (1 / 3 if what == "film" else 8.0))
    ways, lens = list(places.poses), known.about.camera.scaled(*pixels)
    light = Appearance(session, exposure)
    if what == "film":
        shares = np.linspace(0, 1, len(ways))
        lights = [fading(light, until, float(share)) if until is not None else light for share in shares]
        found = exports.film(known, lens, ways, out or OUT / "film.mp4", lights, method, rate)
    elif what == "distances":
        found = exports.distances(known, lens, ways, out or OUT / "distances", method)
    else:
        found = exports.points(known, [pose[:3, 3] for pose in ways], out or OUT / "points.ply", light, pixels)
    console.result(found, json, f"{found['out']}: {', '.join(f'{v:,} {k}' for k, v in found.items() if k != 'out')}")


def evaluate(
    *,
    city: Path | None = None,
    street: Path | None = None,
    changed: Path | None = None,
    photos: Path | None = None,
    parts: tuple[Literal["ablations", "masks", "city", "street", "update", "photos"], ...] = (
        "ablations", "masks", "city", "street", "update", "photos",
    ),
    preset: Preset = "cpu",
    field: Field | None = None,
    steps: int | None = None,
    most: int = 40,
    device: str = "auto",
    cells: Path = OUT / "cells",
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:  # fmt: skip
    """Measure cities beside the paper's tables, and draw its figures.

    Cities that are trained for it are kept; an evaluation that was killed goes on when it is started again.

    Args:
        city: a capture of `capture-city` of several lights: ablations, masks, visibility, poses, exposure, matching, leaving blocks out.
        street: one along a street: how many blocks it wants, and how they are best mixed.
        changed: one of `city` after a house is gone (--without-house): what an update changes.
        photos: photos of a real street: what correcting poses and telling lights apart are worth.
        parts: of all that.
        preset: cpu (two cores), gpu, or paper (mip-NeRF's network and steps).
        field: as for train.
        steps: of each block's training, instead of the preset's.
        most: photos that a model is scored by, at most.
        device: auto, cpu or cuda.
        cells: folder of what is trained.
        write: whether to write results/block_nerf and its figures.
        seed: of weights, order and points.
        json: print one JSON object.
    """
    from almanac.block_nerf import evaluate as tables
    from almanac.runtime import results

    recipe = _recipe(preset, field, None, True, steps)
    asked = tables.Asked(city, street, changed, photos, parts)
    means = tables.Means(recipe, cells, most, device, seed)
    found = tables.evaluate(asked, means)
    if write:
        for name, rows in found.items():
            results.write("block_nerf", name, rows, seed, steps=recipe.fit.steps)
        tables.draw(found, means, results.default_folder("block_nerf"))
    console.result(found if json else {name: rows for name, rows in found.items() if name != "border"}, json)


def _places(city: Any, poses: Path | None, path: tuple[tuple[float, float], ...], step: float) -> Any:
    """The capture that says where to look from: a file's, or along a path."""
    from almanac.block_nerf import ways
    from almanac.block_nerf.captures import transforms

    if poses is not None and path:
        raise UserError("both --poses and --path say where to look from", "give one of them")
    if poses is not None:
        return transforms.read(poses)
    if not step > 0:
        raise UserError(f"step is {step}", "give metres above 0")
    return ways.capture(city, ways.along(ways.through(city, path), step))


def _plan(
    preset: str,
    field: str | None,
    spacing: float | None,
    blocks: int | None,
    longest: int | None,
    appearance: bool,
    exposure: str | None,
    poses: bool,
    masks: bool,
    steps: int | None,
    seed: int,
) -> Any:
    from almanac.block_nerf.build import Plan

    recipe = _recipe(preset, field, exposure, masks, steps)
    return Plan(recipe, spacing, blocks, longest, appearance, poses, appearance, seed)


def _recipe(preset: str, field: str | None, exposure: str | None, masks: bool, steps: int | None) -> Any:
    from dataclasses import replace

    from almanac.block_nerf.train import PRESETS, scaled

    recipe = replace(PRESETS[preset], masked=masks)
    changes = {name: value for name, value in {"field": field, "exposure": exposure}.items() if value}
    recipe = replace(recipe, block=replace(recipe.block, **changes))
    if steps is not None:
        if steps < 1:
            raise UserError(f"steps is {steps}", "give a whole number from 1 on")
        recipe = scaled(recipe, steps)
    return recipe


def _told(found: dict[str, Any]) -> str:
    lines = [
        f"{each['block']}: {each['photos']} photos, loss {each['loss']:g}, {each['seconds']:.0f} s"
        for each in found["blocks"]
    ]
    lines += [
        f"{each['block']} matched to {', '.join(each['to'])}: {each['before']:.3f} to {each['after']:.3f}"
        for each in found["matched"]
    ]
    return "\n".join(lines)


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise UserError(f"'{text}' is no size", "give width and height, such as 160x120")
    return int(parts[0]), int(parts[1])


COMMANDS = {
    "capture-city": capture_city,
    "train": train,
    "update-block": update_block,
    "render": render,
    "view": view,
    "export": export,
    "evaluate": evaluate,
}
