"""From a capture to a city, and what changes one block of it: each block is trained on its own photos and knows nothing of the others, so
they are trained wherever there is room, and one can be trained again without the rest (Block-NeRF, sections 4 and 5.4)."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from almanac.block_nerf import placement
from almanac.block_nerf.captures.capture import Capture
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import About, City, save_block, with_place, write_about
from almanac.block_nerf.matching import Matched, match
from almanac.block_nerf.placement import Place
from almanac.block_nerf.train import Preset, Told, train_block
from almanac.runtime import cluster, console
from almanac.runtime.errors import UserError

_RUNS = "runs"  # folder of trainings that aren't finished
_PIXELS = "pixels"


@dataclass(frozen=True)
class Plan:
    """How a city is made of a capture."""

    preset: Preset
    spacing: float | None = None
    """Metres between blocks; None: a block at each crossing of the street map."""
    blocks: int | None = None
    """Their number along the drive, instead."""
    longest: int | None = None
    """Pixels of a photo's longer side, at most."""
    appearance: bool = True
    """Whether the light of sessions is told apart, by codes."""
    poses: bool = True
    """Whether poses are corrected."""
    matched: bool = True
    """Whether codes are matched over blocks."""
    seed: int = 0


def build(
    capture: Capture,
    out: Path,
    plan: Plan,
    *,
    cluster_address: str | None = None,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Make a city.

    Args:
        capture: photos with poses.
        out: the folder of the city.
        plan: how.
        cluster_address: of a Ray cluster whose machines train blocks; None: this one trains them in turn.
        device_name: auto, cpu or cuda.
        resume: go on with what is in `out`.

    Returns:
        `blocks`: of each its name, photos, seconds and loss; `matched`; the folder.

    Raises:
        UserError: as the parts do, or `out` holds a city and `resume` is off.
    """
    if (out / "city.json").exists() and not resume:
        raise UserError(
            f"{out} already holds a city",
            "go on with --resume, change one block with update-block, or choose another --out",
        )
    learnt = capture.of(~capture.tested)
    places = placed(learnt, plan)
    write_about(out, about_of(capture, places))
    todo = [place for place in places if not (out / place.name / "model.safetensors").exists()]
    console.log(f"{len(places)} blocks, {len(learnt)} photos; {len(todo)} blocks to train")
    jobs = [(learnt, place, out, plan, device_name, resume) for place in todo]
    told = list(cluster.map(_train, jobs, address=cluster_address))
    matched: list[Matched] = []
    if plan.matched and plan.appearance and len(places) > 1:
        matched = match(City(out), seed=plan.seed)
    shutil.rmtree(out / _RUNS, ignore_errors=True)
    return {"out": str(out), "blocks": told, "matched": [asdict(each) for each in matched]}


def update(
    capture: Capture,
    city: City,
    place: Place,
    plan: Plan,
    *,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train one block anew, or one more, and match its codes to its neighbours'. No other file of the city changes, but for the list of
    blocks where there is one more.

    Args:
        capture: what is there now; what lies in the block's circle is learnt from.
        city: which.
        place: of the block.
        plan: how.
        device_name: auto, cpu or cuda.
        resume: go on with a training that was stopped.
    """
    learnt = capture.of(~capture.tested)
    known = next((each for each in city.places if each.name == place.name), None)
    told = _train((learnt, place, city.folder, plan, device_name, resume))
    if known != place:
        write_about(city.folder, with_place(city.about, place))
    fresh = City(city.folder)
    matched = match(fresh, [place.name], plan.seed) if plan.matched and plan.appearance else []
    shutil.rmtree(city.folder / _RUNS, ignore_errors=True)
    return {"out": str(city.folder), "blocks": [told], "matched": [asdict(each) for each in matched]}


def placed(capture: Capture, plan: Plan) -> list[Place]:
    """Where the blocks of a plan are."""
    if plan.spacing is None and plan.blocks is None and capture.crossings:
        return placement.at_crossings(capture)
    if plan.spacing is None and plan.blocks is None:
        return placement.evenly(capture, count=1)
    return placement.evenly(capture, plan.spacing, plan.blocks)


def about_of(capture: Capture, places: list[Place]) -> About:
    """What a city's blocks share."""
    known = capture.exposures[np.isfinite(capture.exposures)]
    return About(
        places=tuple(places),
        sessions=int(capture.sessions.max()) + 1,
        exposure=float(np.median(known)) if len(known) else 1.0,
        camera=capture.cameras[int(np.bincount(capture.camera).argmax())],
        crossings=tuple(
            {"place": each.place, "arms": [arm.tolist() for arm in each.arms]} for each in capture.crossings
        ),
        attribution=capture.attribution,
        power=4.0 if capture.crossings else 1.0,
    )


def told_of(capture: Capture, place: Place, exposure: float) -> Told:
    """What a block's networks are told of a capture's photos.

    Args:
        capture: its photos.
        place: of the block.
        exposure: the city's middle one.
    """
    shares = np.where(np.isfinite(capture.exposures), capture.exposures / exposure, 1.0)
    _, segments = np.unique(capture.segments, return_inverse=True)
    return Told(place.origin, capture.sessions.astype(np.int64), segments.astype(np.int64), shares)


def sized(capture: Capture, place: Place, plan: Plan, sessions: int) -> Preset:
    """The preset of one block: its radius, and how many codes and poses it has."""
    codes = sessions if plan.appearance else 0
    segments = len(np.unique(capture.segments)) if plan.poses else 0
    block = replace(plan.preset.block, radius=round(place.radius, 2), codes=codes, segments=segments)
    return replace(plan.preset, block=block)


def _train(job: tuple[Capture, Place, Path, Plan, str, bool]) -> dict[str, Any]:
    """One block, wherever there is room for it."""
    learnt, place, out, plan, device_name, resume = job
    mine = learnt.of(place.holds(learnt.poses[:, :3, 3]))
    if len(mine) < 3:
        raise UserError(
            f"{place.name} has {len(mine)} photos within {place.radius:.0f} m",
            "give it more photos, or a larger radius",
        )
    about = City(out).about
    run = out / _RUNS / place.name
    preset = sized(mine, place, plan, max(about.sessions, int(learnt.sessions.max()) + 1))
    photos = Photos(mine, out / _RUNS / _PIXELS, plan.longest)
    going_on = resume and (run / "last.pt").exists()
    told = told_of(mine, place, about.exposure)
    console.log(f"{place.name}: {len(mine)} photos within {place.radius:.0f} m")
    block, facts = train_block(photos, told, run, preset, seed=plan.seed, device_name=device_name, resume=going_on)
    save_block(out, place, block.cpu(), {**facts, "photos": len(mine), "segments": np.unique(mine.segments).tolist()})
    return {"block": place.name, "photos": len(mine), "seconds": facts["seconds"], "loss": facts["loss"]}
