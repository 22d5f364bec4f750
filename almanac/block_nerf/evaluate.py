"""What is measured of cities (Block-NeRF, section 5), as tables: what each of the paper's parts is worth, how many blocks a street wants,
how their pictures are best mixed; and what only a rendered city can tell: whether blocks know what they see, how much of wrong poses they
put right, how far off their surfaces are, what a block's update changes. The paper's printed numbers stand beside ours. Every city that is
trained for it is kept, so an evaluation that was killed goes on when it is started again."""

import hashlib
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from almanac.block_nerf import build, figures, measures, ways
from almanac.block_nerf.build import Plan
from almanac.block_nerf.captures.capture import Capture
from almanac.block_nerf.captures.opened import opened
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import City, Loaded
from almanac.block_nerf.matching import from_another_light
from almanac.block_nerf.placement import Place
from almanac.block_nerf.render import METHODS, Appearance, chosen, composed, looked
from almanac.block_nerf.scores import Exam, Scored, scored, scored_city
from almanac.block_nerf.train import Preset
from almanac.block_nerf.truth import Truth
from almanac.runtime import console
from almanac.runtime.errors import UserError

Part = Literal["ablations", "masks", "city", "street", "update", "photos"]
PARTS: tuple[Part, ...] = get_args(Part)
Row = dict[str, Any]

FULL, NONE = "full", "mip-NeRF"
PRINTED_ABLATIONS = {
    NONE: (17.86, 0.563),
    "- appearance": (20.13, 0.611),
    "- exposure": (23.55, 0.649),
    "- pose optimization": (23.05, 0.625),
    FULL: (23.60, 0.649),
}
"""PSNR and SSIM of the paper's table 1."""
PRINTED_BLOCKS = {
    "of a block": {1: (23.83, 0.825), 4: (25.55, 0.868), 8: (26.59, 0.890), 16: (27.40, 0.907)},
    "of all": {8: (25.92, 0.875), 16: (25.98, 0.877)},
}
"""By whose weights stay as many, and by the number of blocks, of its table 2. Where it is those of all, the paper's are as many as four of
its blocks have, ours as many as one has."""
PRINTED_MIXING = {
    "nearest": (26.40, 0.887),
    "idw": (26.59, 0.890),
    "idw-3d": (26.57, 0.890),
    "pixelwise": (27.39, 0.906),
    "imagewise": (27.41, 0.907),
}
"""By the way of mixing, of its table 3."""

BLOCKS = (1, 2, 4, 8)
"""Into which a street is cut."""
FACTORS = (0.5, 0.71, 1.41, 2.0)
"""Of a photo's exposure, at which it is rendered again."""
_SPEED = 10 / 30  # metres between two pictures of a way: 10 m/s at 30 pictures a second
_TIMED = 24  # pictures whose time is taken
_LOOKED_FROM = 4.0  # metres between places that are tried for the scheme


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    city: Path | None = None
    """A capture of `capture-city`, of several lights."""
    street: Path | None = None
    """One along a street."""
    changed: Path | None = None
    """One of `city` after a house is gone, round its first crossing."""
    photos: Path | None = None
    """Photos of a real street."""
    parts: tuple[Part, ...] = PARTS


@dataclass(frozen=True)
class Means:
    """With what."""

    preset: Preset
    cells: Path
    """Folder of what is trained for it."""
    most: int = 40
    """Photos that a model is scored by, at most, evenly from all that it didn't learn from."""
    device: str = "auto"
    seed: int = 0

    @property
    def blind(self) -> Preset:
        """The preset of networks that aren't told exposures."""
        return replace(self.preset, block=replace(self.preset.block, exposure="none"))

    def trained(self, name: str, capture: Capture, plan: Plan) -> City:
        """A city, trained now or before."""
        build.build(capture, self.cells / name, plan, device_name=self.device, resume=True)
        return City(self.cells / name, loaded=16)

    def train(self, wanted: Mapping[str, tuple[Capture, Plan]]) -> None:
        """Train cities that will be asked for, side by side."""
        cities = [(capture, self.cells / name, plan) for name, (capture, plan) in wanted.items()]
        build.build_all(cities, device_name=self.device, resume=True)

    def plan(self, **changes: Any) -> Plan:
        """How a city is made."""
        return Plan(self.preset, seed=self.seed, **changes)


def evaluate(asked: Asked, means: Means) -> dict[str, list[Row]]:
    """Measure what is asked for.

    Args:
        asked: what.
        means: with what.

    Returns:
        tables by name: `ablations`, `masks`, `poses`, `surfaces`, `exposure`, `matching`, `culling`, `blocks`, `interpolation`, `border`,
        `update`, `photos`; those that there are captures for.

    Raises:
        UserError: a capture can't be read, or there is none.
    """
    if not any((asked.city, asked.street, asked.photos)):
        raise UserError(
            "there is nothing to measure with", "give a capture: almanac block-nerf evaluate --city CAPTURE"
        )
    tables: dict[str, list[Row]] = {}
    if asked.city is not None:
        capture, truth = opened(asked.city, means.cells / "source"), Truth(asked.city)
        if "ablations" in asked.parts:
            tables |= _ablations(capture, truth, means)
        if "masks" in asked.parts:
            tables |= _masks(capture, truth, means)
        if "city" in asked.parts:
            tables |= _city(capture, truth, means)
        if "update" in asked.parts and asked.changed is not None:
            tables |= _update(capture, opened(asked.changed, means.cells / "source"), means)
    if asked.street is not None and "street" in asked.parts:
        tables |= _street(opened(asked.street, means.cells / "source"), means)
    if asked.photos is not None and "photos" in asked.parts:
        tables |= _photos(opened(asked.photos, means.cells / "source"), means)
    return tables


def draw(tables: dict[str, list[Row]], means: Means, folder: Path) -> list[Path]:
    """Draw the figures of tables, and the paper's scheme of a view of the city.

    Args:
        tables: of `evaluate`.
        means: whose cells hold the city.
        folder: of the PNGs.
    """
    kinds = {"ablations": figures.draw_ablations, "blocks": figures.draw_blocks, "border": figures.draw_border}
    drawn = [kind(tables[name], folder / f"{name}.png") for name, kind in kinds.items() if name in tables]
    if "culling" in tables:
        city = City(means.cells / "city")
        pose = _with_discarded(city)
        drawn.append(figures.draw_scheme(city, city.about.camera, pose, folder / "scheme.png"))
    return drawn


def _with_discarded(city: City) -> np.ndarray:
    """A pose on a way through the city from which most blocks are near, and one of them is left out."""
    poses = ways.along(ways.through(city), _LOOKED_FROM)

    def worth(pose: np.ndarray) -> tuple[bool, int, float]:
        parts = chosen(city, city.about.camera, pose)
        kept = [part.visibility for part in parts if part.kept]
        return len(kept) < len(parts) and len(kept) > 1, len(parts), min(kept)

    return max(poses, key=worth)


def first_block(capture: Capture, means: Means) -> tuple[Capture, Place]:
    """The photos of a city's first block, and where it is."""
    place = build.placed(capture.of(~capture.tested), means.plan())[0]
    own = tuple(each for each in capture.crossings if np.allclose(each.place[:2], place.origin[:2]))
    return replace(capture.of(place.holds(capture.poses[:, :3, 3])), crossings=own), place


def variants(means: Means) -> dict[str, Plan]:
    """The rows of the paper's table 1."""
    return {
        NONE: Plan(means.blind, appearance=False, poses=False, seed=means.seed),
        "- appearance": means.plan(appearance=False),
        "- exposure": Plan(means.blind, seed=means.seed),
        "- pose optimization": means.plan(poses=False),
        FULL: means.plan(),
    }


def _ablations(capture: Capture, truth: Truth, means: Means) -> dict[str, list[Row]]:
    mine, _ = first_block(capture, means)
    photos = _tested(mine, means)
    rows, loaded = [], None
    means.train({_named("block", name): (mine, plan) for name, plan in variants(means).items()})
    for name, plan in variants(means).items():
        city = means.trained(_named("block", name), mine, plan)
        loaded = city.block(city.places[0].name)
        psnr, ssim = PRINTED_ABLATIONS[name]
        found = _scores(loaded, photos, city.about.exposure, name)
        rows.append({"variant": name, **_means(found), "psnr_paper": psnr, "ssim_paper": ssim})
    assert loaded is not None
    learnt = mine.of(~mine.tested)
    poses = measures.recovered(loaded, learnt, truth.poses(learnt))
    return {
        "ablations": rows,
        "poses": [
            {
                "photos": len(learnt),
                "segments": len(np.unique(learnt.segments)),
                "metres_before": round(poses.metres_before, 4),
                "metres_after": round(poses.metres_after, 4),
                "metres_recovered": round(poses.metres, 4),
                "degrees_before": round(poses.degrees_before, 4),
                "degrees_after": round(poses.degrees_after, 4),
                "degrees_recovered": round(poses.degrees, 4),
            }
        ],
    }


def _masks(capture: Capture, truth: Truth, means: Means) -> dict[str, list[Row]]:
    """What stands behind cars that drive by, in photos that were learnt from, of which an unmasked block learns the cars themselves, and in
    others."""
    mine, _ = first_block(capture, means)
    passed = _with_cars(mine, truth, means)
    if not len(passed):
        return {}
    photos = Photos(passed, means.cells / "pixels")
    plans = {
        "masked": (_named("block", FULL), means.plan()),
        "unmasked": (_named("block", "unmasked"), Plan(replace(means.preset, masked=False), seed=means.seed)),
    }
    means.train({cell: (mine, plan) for cell, plan in plans.values()})
    rows = []
    for name, (cell, plan) in plans.items():
        city = means.trained(cell, mine, plan)
        loaded = city.block(city.places[0].name)
        behind: dict[str, list[np.ndarray]] = {"learnt from": [], "held out": [], "all": []}
        for number in range(len(passed)):
            exam = Exam.of(photos, number, city.about.exposure)
            picture = exam.seen(loaded, exam.code(loaded)).colours.clamp(0, 1).numpy().reshape(exam.photo.shape)
            error = (picture - truth.static(passed, number))[~photos.counts(number)] ** 2
            for of in ("held out" if passed.tested[number] else "learnt from", "all"):
                behind[of].append(error.ravel())
        for of, errors in behind.items():
            if errors:
                row = {"training": name, "photos_are": of, "photos": len(errors), "pixels": sum(map(len, errors)) // 3}
                rows.append({**row, "psnr_behind_cars": _decibels(float(np.concatenate(errors).mean()))})
    return {"masks": rows}


def _city(capture: Capture, truth: Truth, means: Means) -> dict[str, list[Row]]:
    city = means.trained("city", capture, means.plan())
    photos = _tested(capture, means, means.most * 2)
    return {
        "visibility": _visibility(city, photos, truth, means),
        "surfaces": _surfaces(city, photos, truth),
        "exposure": _exposure(city, photos),
        "matching": _matching(city, means.seed),
        "culling": _culling(city, photos),
    }


def _visibility(city: City, photos: Photos, truth: Truth, means: Means) -> list[Row]:
    rows = []
    for place in city.places:
        inside = np.flatnonzero(place.holds(photos.capture.poses[:, :3, 3]))
        some = Photos(photos.capture.of(inside), means.cells / "pixels")
        distances = [truth.distance(some.capture, number) for number in range(len(inside))]
        area = measures.visibility_auroc(city.block(place.name), some, distances, means.seed)
        rows.append({"block": place.name, "photos": len(inside), "auroc": round(area, 4)})
    return rows


def _surfaces(city: City, photos: Photos, truth: Truth) -> list[Row]:
    """How far off surfaces are as all blocks show them, and as each does alone in all of its circle."""
    errors: dict[str, list[np.ndarray]] = {}
    with console.progress("looking for surfaces", len(photos.capture), "photos") as advance:
        for number in range(len(photos.capture)):
            found = {"all": scored_city(city, photos, number, fitted=False)}
            for place in city.places:
                if place.holds(photos.capture.poses[number, :3, 3]):
                    loaded = city.block(place.name)
                    found[place.name] = scored(loaded, photos, number, city.about.exposure, fitted=False)
            true, counts = truth.distance(photos.capture, number), photos.counts(number)
            for name, each in found.items():
                errors.setdefault(name, []).append(measures.depth_error(each.distance, true, counts))
            advance(1)
    rows = []
    for name in sorted(errors):
        each = np.concatenate(errors[name])
        row = {"blocks": name, "photos": len(errors[name]), "pixels": len(each)}
        row |= {"median_error": round(float(np.median(each)), 5)}
        rows.append({**row, "within_10_percent": round(float((each < 0.1).mean()), 4)})
    return rows


def _exposure(city: City, photos: Photos) -> list[Row]:
    rows = []
    exams = [Exam.of(photos, number, city.about.exposure) for number in range(len(photos.capture))]
    for factor in FACTORS:
        with_it, without = [], []
        for exam in exams[::4]:
            wanted, known = measures.redeveloped(exam.photo, factor)
            known[:, : exam.camera.width // 2] = False
            for found, share in ((with_it, factor), (without, 1.0)):
                taken = replace(exam, exposure=exam.exposure * share)
                loaded = _nearest(city, exam)
                picture = taken.seen(loaded, exam.code(loaded)).colours.clamp(0, 1).numpy().reshape(exam.photo.shape)
                found.append(((picture - wanted)[known] ** 2).mean())
        row = {"factor": factor, "psnr": _decibels(float(np.mean(with_it)))}
        rows.append({**row, "psnr_without_control": _decibels(float(np.mean(without)))})
    return rows


def _matching(city: City, seed: int) -> list[Row]:
    """As the city's blocks were matched, and from codes of another light."""
    rows = []
    for place in city.places:
        told = city.block(place.name).matched
        trial = from_another_light(city, place.name, seed)
        if trial is None:
            continue
        row = {"block": place.name, "to": ", ".join(trial.to), "before": trial.before, "after": trial.after}
        row["cut"] = round(1 - trial.after / max(trial.before, 1e-9), 4)
        known = (None, None) if told is None else (round(told["before"], 5), round(told["after"], 5))
        rows.append({**row, "own_before": known[0], "own_after": known[1]})
    return rows


def _culling(city: City, photos: Photos) -> list[Row]:
    some = np.unique(np.linspace(0, len(photos.capture) - 1, _TIMED).round().astype(int))
    exams = [Exam.of(photos, int(number), city.about.exposure) for number in some]
    rows: dict[bool, Row] = {}
    seconds = {True: 0.0, False: 0.0}
    scores: dict[bool, list[Scored]] = {True: [], False: []}
    asked = {True: 0, False: 0}
    for exam in exams:
        how = Appearance(exam.session, float(exam.exposure[0]))
        for culled in (True, False):
            began = time.process_time()
            picture = composed(
                city, exam.camera, exam.pose, lambda loaded, rays, how=how: looked(loaded, rays, how), culled=culled
            )
            seconds[culled] += time.process_time() - began
            scores[culled].append(exam.scored(picture.colours, picture.distance))
            asked[culled] += sum(part.kept for part in picture.parts)
    for culled in (False, True):
        row = {"culled": culled, "blocks_a_picture": round(asked[culled] / len(exams), 3)}
        rows[culled] = {**row, "seconds_a_picture": round(seconds[culled] / len(exams), 4), **_means(scores[culled])}
    rows[True]["time_saved"] = round(1 - seconds[True] / seconds[False], 4)
    return list(rows.values())


def _street(capture: Capture, means: Means) -> dict[str, list[Row]]:
    photos = _tested(capture, means)
    kinds, plans = [], {}
    for kept in ("of all", "of a block"):
        for count in BLOCKS:
            shrunk = kept == "of all" and count > 1
            name = f"street-{count}-small" if shrunk else f"street-{count}"
            preset = _share(means.preset, count) if shrunk else means.preset
            plans[name] = Plan(preset, blocks=count, appearance=_sessions(capture) > 1, seed=means.seed)
            kinds.append((name, kept, count))
    means.train({name: (capture, plan) for name, plan in plans.items()})
    blocks, most = [], None
    for name, kept, count in kinds:
        most = means.trained(name, capture, plans[name])
        found = [scored_city(most, photos, number) for number in range(len(photos.capture))]
        printed = PRINTED_BLOCKS[kept].get(count, (None, None))
        weights = sum(each.numel() for each in most.block(most.places[0].name).block.field.parameters())
        row = {"same_weights": kept, "blocks": count, "million_weights": round(count * weights / 1e6, 2)}
        row |= {"size_m": round(2 * max(place.radius for place in most.places), 1), **_means(found)}
        blocks.append({**row, "psnr_paper": printed[0], "ssim_paper": printed[1]})
    assert most is not None
    mixing, border = [], []
    one, other = _neighbours(most)
    way = ways.along(np.array([one.origin, other.origin]), _SPEED)
    camera = photos.cameras[0].scaled(64, 48)
    for method in METHODS:
        found = [scored_city(most, photos, number, method) for number in range(len(photos.capture))]
        jumped = measures.jumps(most, camera, way, method)
        printed = PRINTED_MIXING[method]
        row = {"method": method, **_means(found), "jump": round(max(jumped), 5)}
        mixing.append({**row, "psnr_paper": printed[0], "ssim_paper": printed[1]})
        border += [
            {"method": method, "metres": round((at + 1) * _SPEED, 2), "jump": round(value, 6)}
            for at, value in enumerate(jumped)
        ]
    return {"blocks": blocks, "interpolation": mixing, "border": border}


def _share(preset: Preset, count: int) -> Preset:
    """A preset of blocks that have so many times fewer weights."""
    block = preset.block
    if block.field == "hash":
        return replace(preset, block=replace(block, log2_rows=block.log2_rows - round(math.log2(count))))
    return replace(preset, block=replace(block, width=round(block.width / math.sqrt(count))))


def _update(before: Capture, after: Capture, means: Means) -> dict[str, list[Row]]:
    """A block is trained anew after a house is gone; beside it the same from nothing, in a city of its own."""
    source = means.trained("city", before, means.plan()).folder
    mine, place = first_block(after, means)
    changed, begun = means.cells / "updated", means.cells / "updating"
    if not changed.exists():
        shutil.copytree(source, begun, dirs_exist_ok=True)
        build.update(mine, City(begun), _same(City(source), place), means.plan(), device_name=means.device, resume=True)
        begun.rename(changed)
    was, is_now = _hashes(source), _hashes(changed)
    files = sorted(name for name in was | is_now if was.get(name) != is_now.get(name))
    alone = means.trained(_named("block", "fresh"), mine, means.plan())
    photos = _tested(mine, means)
    rows = []
    for name, city in (("before", City(source)), ("updated", City(changed)), ("trained alone", alone)):
        loaded = city.block(place.name if name != "trained alone" else alone.places[0].name)
        rows.append({"city": name, **_means(_scores(loaded, photos, city.about.exposure, name))})
    rows[1]["changed_files"] = ", ".join(files)
    return {"update": rows}


def _photos(capture: Capture, means: Means) -> dict[str, list[Row]]:
    """Photos of a real street, each in a light of its own, with the exposures that they name and without. Every fourth is left out, and its
    left half tells the light."""
    capture = replace(capture, tested=np.arange(len(capture)) % 4 == 2)
    photos, own = _tested(capture, means), replace(capture, sessions=np.arange(len(capture)))
    wanted: dict[tuple[bool, str], tuple[Capture, Plan]] = {}
    for told, preset in ((False, means.blind), (True, means.preset)):
        for name, appearance, poses in (
            ("neither", False, False),
            ("poses", False, True),
            ("appearance", True, False),
            ("both", True, True),
        ):
            plan = Plan(preset, appearance=appearance, poses=poses, blocks=1, seed=means.seed)
            wanted[told, name] = own if appearance else capture, plan
    cells = {key: _named("photos", key[1] if key[0] else f"{key[1]} blind") for key in wanted}
    means.train({cells[key]: each for key, each in wanted.items()})
    rows = []
    for (told, name), each in wanted.items():
        city = means.trained(cells[told, name], *each)
        found = _scores(city.block(city.places[0].name), photos, city.about.exposure, name)
        rows.append({"exposures_told": told, "corrected": name, **_means(found)})
    return {"photos": rows}


def _scores(loaded: Loaded, photos: Photos, exposure: float, name: str) -> list[Scored]:
    with console.progress(f"scoring {name}", len(photos.capture), "photos") as advance:
        found = []
        for number in range(len(photos.capture)):
            found.append(scored(loaded, photos, number, exposure))
            advance(1)
    return found


def _tested(capture: Capture, means: Means, most: int | None = None) -> Photos:
    """Photos to score by."""
    some = capture.of(capture.tested)
    count = min(most or means.most, len(some))
    if not count:
        raise UserError(f"{capture.folder} has no photo to test with", "make one with capture-city")
    return Photos(some.of(np.linspace(0, len(some) - 1, count).round().astype(int)), means.cells / "pixels")


def _with_cars(capture: Capture, truth: Truth, means: Means) -> Capture:
    """Photos in which cars drive, of which it is known what is behind these."""
    photos = Photos(capture, means.cells / "pixels")
    known = (truth.has_static(capture, number) and not photos.counts(number).all() for number in range(len(capture)))
    return capture.of(np.fromiter(known, bool, len(capture)))


def _means(found: Sequence[Scored]) -> Row:
    psnr, unmasked, ssim = (
        float(np.mean([getattr(each, name) for each in found])) for name in ("psnr", "psnr_unmasked", "ssim")
    )
    return {
        "psnr": round(psnr, 3),
        "psnr_unmasked": round(unmasked, 3),
        "ssim": round(ssim, 4),
        "photos": len(found),
    }


def _decibels(error: float) -> float:
    return round(float(-10 * np.log10(max(error, 1e-10))), 3)


def _nearest(city: City, exam: Exam) -> Loaded:
    away = [float(np.hypot(*(exam.pose[:2, 3] - place.origin[:2]))) for place in city.places]
    return city.block(city.places[int(np.argmin(away))].name)


def _neighbours(city: City) -> tuple[Place, Place]:
    """Two blocks in the middle of a street."""
    middle = len(city.places) // 2
    return city.places[middle - 1], city.places[middle]


def _same(city: City, place: Place) -> Place:
    """The city's block at a place."""
    away = [float(np.hypot(*(np.array(place.origin[:2]) - each.origin[:2]))) for each in city.places]
    return city.places[int(np.argmin(away))]


def _sessions(capture: Capture) -> int:
    return int(capture.sessions.max()) + 1


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _named(kind: str, variant: str) -> str:
    words = variant.replace("-", " ").split()
    return "-".join([kind, *(word.lower() for word in words)])
