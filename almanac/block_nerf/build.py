"""From a capture to a city, and what changes one block of it: each block is trained on its own photos and knows nothing of the others, so
they are trained wherever there is room, and one can be trained again without the rest (Block-NeRF, sections 4 and 5.4)."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from almanac.block_nerf import placement
from almanac.block_nerf.captures.capture import Capture
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import About, City, save_block, with_place, write_about
from almanac.block_nerf.matching import Matched, match
from almanac.block_nerf.placement import Place
from almanac.block_nerf.train import Preset, Told, train_block
from almanac.runtime import cluster, console, device, workers
from almanac.runtime.errors import Interrupted, RunFailed, UserError
from almanac.runtime.run_log import steps_done
from almanac.runtime.stopping import stop_signals

_RUNS = "runs"  # folder of trainings that aren't finished
_PIXELS = "pixels"
_LONG = 1_000  # steps of a training that is worth a process of its own
_STANDS = 64  # places that a block remembers photos from, at most
_CLOUDED = 0.5  # of the sun, below which a session is one of clouds


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
    """Make a city. Each processor trains a block of its own, which is quicker than all of them on one.

    Args:
        capture: photos with poses.
        out: the folder of the city.
        plan: how.
        cluster_address: of a Ray cluster whose machines train blocks; None: this one does.
        device_name: auto, cpu or cuda.
        resume: go on with what is in `out`.

    Returns:
        `blocks`: of each its name, photos, seconds and loss; `matched`; the folder.

    Raises:
        UserError: as the parts do, or `out` holds a city and `resume` is off.
    """
    wanted = [(capture, out, plan)]
    return build_all(wanted, cluster_address=cluster_address, device_name=device_name, resume=resume)[0]


def build_all(
    wanted: Sequence[tuple[Capture, Path, Plan]],
    *,
    cluster_address: str | None = None,
    device_name: str = "auto",
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Make several cities, the blocks of all of them side by side.

    Args:
        wanted: of each the photos, the folder, and how.
        cluster_address: as `build` takes it.
        device_name: likewise.
        resume: likewise.
    """
    begun = [_begun(capture, out, plan, resume) for capture, out, plan in wanted]
    jobs = [_Job(each.learnt, place, each.out, each.plan, device_name, resume) for each in begun for place in each.todo]
    apart = cluster_address is None and device.resolve(device_name).type == "cpu"
    told = iter(_side_by_side(jobs) if apart else list(cluster.map(_train, jobs, address=cluster_address)))
    return [_ended(each, [next(told) for _ in each.todo]) for each in begun]


class _Begun(NamedTuple):
    """A city whose blocks are to be trained."""

    learnt: Capture
    out: Path
    plan: Plan
    places: list[Place]
    todo: list[Place]


def _begun(capture: Capture, out: Path, plan: Plan, resume: bool) -> _Begun:
    if (out / "city.json").exists() and not resume:
        raise UserError(
            f"{out} already holds a city",
            "go on with --resume, change one block with update-block, or choose another --out",
        )
    learnt = capture.of(~capture.tested)
    places = placed(learnt, plan)
    write_about(out, about_of(capture, places))
    todo = [place for place in places if not (out / place.name / "model.safetensors").exists()]
    console.log(f"{out.name}: {len(places)} blocks, {len(learnt)} photos; {len(todo)} blocks to train")
    return _Begun(learnt, out, plan, places, todo)


def _ended(begun: _Begun, told: list[dict[str, Any]]) -> dict[str, Any]:
    """A city whose blocks are trained: they are matched, if they weren't."""
    _, out, plan, places, todo = begun
    matched: list[Matched] = []
    if plan.matched and plan.appearance and len(places) > 1 and (todo or not City(out).is_matched):
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
    told = _train(_Job(learnt, place, city.folder, plan, device_name, resume))
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
        lights=tuple(_called(each) for each in capture.notes.get("sessions", ())),
        attribution=capture.attribution,
        power=4.0 if capture.crossings else 1.0,
    )


def _called(session: Any) -> str:
    """What a session is called, by what `capture-city` says of its light, or by its own name."""
    try:
        when = date(*session["date"])
        hour, minute = divmod(round(session["hour"] * 60), 60)
        clouds = ", clouds" if session["sun"] < _CLOUDED else ""
        return f"{when.day} {when:%B}, {hour}:{minute:02d}{clouds}"
    except (KeyError, TypeError, ValueError):
        return str(session.get("name", "")) if isinstance(session, Mapping) else ""


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
    """The preset of one block: how far it learns, and how many codes and poses it has."""
    codes = sessions if plan.appearance else 0
    segments = len(np.unique(capture.segments)) if plan.poses else 0
    radius = round(place.reach(capture.poses[:, :3, 3]), 2)
    block = replace(plan.preset.block, radius=radius, codes=codes, segments=segments)
    return replace(plan.preset, block=block)


class _Job(NamedTuple):
    """A block to be trained."""

    learnt: Capture
    place: Place
    out: Path
    plan: Plan
    device_name: str
    resume: bool


class _Trainer:
    """In a process of its own: trains the blocks that it is given, and leaves it to the asking process to tell of them."""

    def __init__(self):
        console.hush()

    def train(self, job: _Job) -> dict[str, Any]:
        return _train(job)


def _side_by_side(jobs: list[_Job]) -> list[dict[str, Any]]:
    """As many at a time as there are processors."""
    count = min(len(jobs), torch.get_num_threads())
    if count < 2 or max(job.plan.preset.fit.steps for job in jobs) < _LONG:
        return [_train(job) for job in jobs]
    runs = [job.out / _RUNS / job.place.name for job in jobs]
    steps, told, asked = [job.plan.preset.fit.steps for job in jobs], {}, {}
    waiting = list(enumerate(jobs))
    with (
        workers.processes() as here,
        stop_signals() as stopped,
        console.progress(f"training {len(jobs)} blocks", sum(steps), "steps", sum(map(steps_done, runs))) as advance,
    ):
        free, done = [here.hire(_Trainer) for _ in range(count)], sum(map(steps_done, runs))
        while waiting or asked:
            while waiting and free:
                number, job = waiting.pop(0)
                worker = free.pop()
                asked[worker.ask("train", job)] = number, worker
            there = here.ready(list(asked), 1.0)
            if stopped:
                raise Interrupted("stopped; what was learnt up to the last checkpoints is there", "go on with --resume")
            for answer in there:
                number, worker = asked.pop(answer)
                told[number] = _value(answer)
                free.append(worker)
            now = sum(steps[number] if number in told else steps_done(run) for number, run in enumerate(runs))
            advance(now - done)
            done = now
    return [told[number] for number in range(len(jobs))]


def _value(answer: workers.Answer) -> Any:
    try:
        return answer.value()
    except workers.WorkerDied:
        what = "a process that trained a block was ended from outside"
        raise RunFailed(what, "memory may be short; go on with --resume") from None


def _train(job: _Job) -> dict[str, Any]:
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
    stands = mine.poses[:: -(-len(mine) // _STANDS), :3, 3].round(1).tolist()
    facts |= {"photos": len(mine), "segments": np.unique(mine.segments).tolist(), "stands": stands}
    save_block(out, place, block.cpu(), facts)
    return {"block": place.name, "photos": len(mine), "seconds": facts["seconds"], "loss": facts["loss"]}
