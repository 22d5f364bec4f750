"""Block-NeRF at work. Field: samples of rays a second, learnt from and looked at, by a block of the `cpu` preset along the drive that its
city was made from; the field with its colours alone, and all of a step. Frames: how long a picture takes while ever more blocks are held in
memory, most of them elsewhere. Peer: a block beside nerfstudio's nerfacto, on the same photos, for as long. Times are the clock's."""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from almanac.block_nerf import api, build
from almanac.block_nerf.capture_city.capture_city import Request, capture_city
from almanac.block_nerf.captures.capture import Capture
from almanac.block_nerf.captures.opened import opened
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import City, write_about
from almanac.block_nerf.evaluate import Means, first_block
from almanac.block_nerf.model import Block
from almanac.block_nerf.placement import Place
from almanac.block_nerf.render import samples_of, view
from almanac.block_nerf.scores import Exam, Scored, scored
from almanac.block_nerf.train import PRESETS, Batches, block_loss, scaled
from almanac.runtime import console, device, hub, results
from almanac.runtime.errors import RunFailed, UserError
from benchmarks import peers

Part = Literal["field", "frames", "peer"]
_AWAY = 10_000.0  # m, from one block that is only held in memory to the next


def run(
    *,
    capture: Path | None = None,
    city: Path | None = None,
    parts: tuple[Part, ...] = ("field", "frames", "peer"),
    threads: int = 2,
    rounds: int = 20,
    loaded: tuple[int, ...] = (2, 4, 8, 16),
    size: tuple[int, int] = (128, 96),
    steps: int | None = None,
    batches: tuple[int, ...] = (4_096, 1_024),
    photos: int = 16,
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure how fast blocks learn and are looked at, and what nerfacto makes of the same photos in the same time.

    Args:
        capture: photos; default: some that are rendered the first time (minutes), and kept in the cache.
        city: a trained one of the same place; default: the one that ships.
        parts: `field`: samples a second; `frames`: pictures by the number of blocks in memory; `peer`: beside nerfacto.
        threads: that may be used.
        rounds: steps, and pictures, that are measured.
        loaded: numbers of blocks for `frames`.
        size: width and height of its pictures.
        steps: of our block, beside nerfacto; None: the preset's.
        batches: rays of a batch of nerfacto's, each for a row; the first is its own.
        photos: that both are scored by, at most.
        write: whether to write results/block_nerf/field.json, frames.json and peer.json.
        seed: of draws.
        json: print one JSON object.
    """
    device.resolve("cpu")
    torch.set_num_threads(threads)
    capture = capture or _captured()
    city = city or next(iter(api.cities().values()), None)
    if city is None:
        raise UserError("there is no city", "give one with --city")
    there, looked_at = City(city), capture
    measures: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "field": lambda: _field(looked_at, there, rounds, seed),
        "frames": lambda: _frames(there, loaded, size, rounds),
        "peer": lambda: _peer(looked_at, steps, batches, photos, threads, seed),
    }
    found = {part: measures[part]() for part in parts}
    for part, rows in found.items():
        if write:
            results.write("block_nerf", part, rows, seed, threads=threads)
    console.result(found, json)


def _captured() -> Path:
    """Photos round the first crossing of the city that ships."""
    folder = hub.cache() / "bench" / "block_nerf"
    request = Request("alamo_square", frames=240, size=(128, 96), samples=16)
    if not (folder / "transforms.json").exists():
        capture_city(request, folder, resume=(folder / "request.json").exists())
    return folder


def _field(capture: Path, city: City, rounds: int, seed: int) -> list[dict[str, Any]]:
    """The first block as it is, and one that knows nothing."""
    with tempfile.TemporaryDirectory() as cache:
        everything = opened(capture, Path(cache))
        place = city.places[0]
        mine = everything.of(place.holds(everything.poses[:, :3, 3]))
        preset = build.sized(mine, place, build.Plan(PRESETS["cpu"]), city.about.sessions)
        batches = Batches(Photos(mine, Path(cache)), preset.rays, seed, True)
        rows = []
        for name in ("untrained", "trained"):
            torch.manual_seed(seed)
            block = Block(preset.block)
            if name == "trained":
                known = city.block(place.name).block.state_dict()
                mine_too = {key: value.float() for key, value in known.items() if value.is_floating_point()}
                block.load_state_dict({**block.state_dict(), **mine_too})
                block.steps.fill_(preset.fit.steps)
            told = build.told_of(mine, place, city.about.exposure)
            works = _works(block, block_loss(preset, told), batches, told.origin, seed)
            seconds: dict[str, list[float]] = {work: [] for work in works}
            with console.progress(name, rounds, "rounds") as advance:
                for number in range(rounds + 3):
                    for work, (do, _) in works.items():
                        began = time.perf_counter()
                        do(number)
                        seconds[work].append(time.perf_counter() - began)
                    advance(number >= 3)
            for work, taken in seconds.items():
                each = statistics.median(taken[3:])
                row = {"block": name, "work": work, "rays_per_s": round(preset.rays / each)}
                samples = works[work][1]
                rows.append({**row, "million_samples_per_s": samples and round(samples / each / 1e6, 3)})
    return rows


def _works(
    block: Block, loss: Callable, batches: Batches, origin: tuple[float, float, float], seed: int
) -> dict[str, tuple[Callable[[int], None], int | None]]:
    """What is timed, by number of the round, and the samples in it; None where some are passed over."""
    optimiser = torch.optim.AdamW(block.parameters(), 1e-9, fused=True)
    random = torch.Generator().manual_seed(seed)
    rays = batches(0).rays
    local = rays._replace(origins=rays.origins - torch.tensor(origin, dtype=torch.float32))
    count = len(local.origins)
    light = block.light(torch.zeros(count, dtype=torch.long), torch.ones(count))
    with torch.no_grad():
        samples, told = samples_of(block, local), block.told(local, light)

    def learn(number: int) -> None:
        optimiser.zero_grad()
        loss(block, batches(number), random).backward()
        optimiser.step()

    def look(_: int) -> None:
        with torch.no_grad():
            block.seen(local, light, samples_of(block, local))

    def forward(_: int) -> None:
        block.shaded(local, samples, told)  # with gradients wanted, so that no sample is passed over

    def back(_: int) -> None:
        optimiser.zero_grad()
        density, colours = block.shaded(local, samples, told)
        (density.mean() + colours.mean()).backward()

    return {
        "field alone, forward": (forward, len(samples.ray)),
        "field alone, forward and back": (back, len(samples.ray)),
        "a picture": (look, None),
        "a step of learning": (learn, count * block.dimensions.samples),
    }


def _frames(city: City, counts: tuple[int, ...], size: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    """The same views, between the first two blocks, with more and more others in memory."""
    camera = city.about.camera.scaled(*size)
    first, second = (np.array(place.origin) for place in city.places[:2])
    pose = np.eye(4)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cities = {count: _grown(city, count, Path(folder) / str(count)) for count in counts}
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        for number in range(rounds + 1):
            forward = (second - first) / np.linalg.norm(second - first)
            up = np.array([0.0, 0.0, 1.0])
            pose[:3, :3] = np.column_stack([np.cross(forward, up), up, -forward])
            pose[:3, 3] = first + (second - first) * number / max(rounds, 1)
            for count, each in cities.items():
                began = time.perf_counter()
                view(each, camera, pose)
                if number:  # the first compiles, and reads
                    seconds[count].append(time.perf_counter() - began)
    for count in counts:
        rows.append({"blocks_in_memory": count, "ms_per_frame": round(statistics.median(seconds[count]) * 1e3, 1)})
    return rows


def _grown(city: City, count: int, folder: Path) -> City:
    """A city with copies of its blocks far away, all of them in memory."""
    known = list(city.places)
    far = [
        Place(f"far_{at:02d}", (_AWAY * (at + 1), 0.0, 0.0), known[at % len(known)].radius)
        for at in range(count - len(known))
    ]
    write_about(folder, replace(city.about, places=(*known[:count], *far)))
    for at, place in enumerate((*known[:count], *far)):
        source = city.folder / known[at % len(known)].name
        (folder / place.name).symlink_to(source.resolve())
    grown = City(folder, loaded=count)
    for place in grown.places:
        grown.block(place.name)
    return grown


def _peer(
    capture: Path, steps: int | None, batches: tuple[int, ...], most: int, threads: int, seed: int
) -> list[dict[str, Any]]:
    """The first block by us, and by nerfacto for as long; both by the right halves of photos that they didn't learn from, with what they
    have for the light fitted to the left halves."""
    python = peers.python_of("nerfacto")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        means = Means(PRESETS["cpu"] if steps is None else scaled(PRESETS["cpu"], steps), here, device="cpu", seed=seed)
        mine, _ = first_block(opened(capture, here / "source"), means)
        began = time.perf_counter()
        city = means.trained("ours", mine, means.plan())
        seconds = time.perf_counter() - began
        tested = np.flatnonzero(mine.tested)
        tested = tested[np.unique(np.linspace(0, len(tested) - 1, most).round().astype(int))]
        mine = mine.of(np.sort(np.concatenate([np.flatnonzero(~mine.tested), tested])))
        photos = Photos(mine.of(mine.tested), here / "pixels")
        loaded = city.block(city.places[0].name)
        found = [scored(loaded, photos, number, city.about.exposure) for number in range(len(photos.capture))]
        exams = [Exam.of(photos, number, city.about.exposure) for number in range(len(photos.capture))]
        code = loaded.codes[0]
        began = time.perf_counter()
        for exam in exams:
            exam.seen(loaded, code)
        looked = sum(exam.photo[..., 0].size for exam in exams) / (time.perf_counter() - began)
        trained = means.preset.fit.steps * means.preset.rays / float(loaded.facts["seconds"])
        rows = [_row("almanac", means.preset.rays, means.preset.fit.steps, seconds, (trained, looked), found)]
        _told(mine, here / "data")
        for rays in batches:
            out = here / f"nerfacto-{rays}"
            out.mkdir()
            script = Path(__file__).with_name("block_nerf_nerfacto.py")
            asked = [str(each) for each in (python, script, here / "data", seconds, rays, threads, out)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            ran = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
            if ran.returncode:
                raise RunFailed(f"nerfacto ended: {ran.stderr[-2_000:]}", "leave it out with --parts field frames")
            rates = json.loads((out / "rates.json").read_text())
            pictures = [np.asarray(Image.open(out / f"{Path(name).stem}.png")) / 255 for name in photos.capture.images]
            nothing = np.zeros(pictures[0].shape[:2])
            seen = [exam.scored(each, nothing) for exam, each in zip(exams, pictures, strict=True)]
            speeds = float(rates["rays_per_s"]), float(rates["looks_rays_per_s"])
            rows.append(_row("nerfacto", rays, rates["steps"], seconds, speeds, seen))
    return rows


def _row(
    system: str, rays: int, steps: int, seconds: float, speeds: tuple[float, float], found: list[Scored]
) -> dict[str, Any]:
    return {
        "system": system,
        "rays_a_batch": rays,
        "steps": steps,
        "seconds": round(seconds, 1),
        "rays_per_s_learning": round(speeds[0]),
        "rays_per_s_looking": round(speeds[1]),
        "psnr": round(float(np.mean([each.psnr for each in found])), 3),
        "ssim": round(float(np.mean([each.ssim for each in found])), 4),
        "photos": len(found),
    }


def _told(capture: Capture, folder: Path) -> None:
    """A capture as nerfstudio reads it."""
    folder.mkdir()
    camera = capture.cameras[0]
    source = capture.folder.resolve()
    names = [str(source / name) for name in capture.images]
    frames = [
        {
            "file_path": name,
            **({"mask_path": str(source / mask)} if mask else {}),
            "transform_matrix": pose.tolist(),
        }
        for name, mask, pose in zip(names, capture.masks, capture.poses, strict=True)
    ]
    split = {
        which: [name for name, tested in zip(names, capture.tested, strict=True) if tested == (which == "test")]
        for which in ("train", "test")
    }
    said = {
        "camera_model": "PINHOLE",
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.focal[0],
        "fl_y": camera.focal[1],
        "cx": camera.centre[0],
        "cy": camera.centre[1],
        "frames": frames,
        "train_filenames": split["train"],
        "val_filenames": split["test"],
        "test_filenames": split["test"],
    }
    (folder / "transforms.json").write_text(json.dumps(said))
