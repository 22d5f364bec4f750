import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import trimesh
from safetensors.torch import load_file
from threadpoolctl import threadpool_limits

from almanac.block_nerf import build, export, placement, ways
from almanac.block_nerf.captures.capture import Crossing
from almanac.block_nerf.captures.opened import opened
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import City
from almanac.block_nerf.matching import from_another_light, shared_views
from almanac.block_nerf.placement import Place
from almanac.block_nerf.render import METHODS, Abandoned, Appearance, _shares, chosen, fading, inverse_distance, view
from almanac.block_nerf.scores import scored, scored_city
from almanac.block_nerf.train import PRESETS, scaled
from almanac.runtime.errors import UserError
from tests.block_nerf.made import photo, yard

SHORT = scaled(PRESETS["cpu"], 250)
SHORT = replace(SHORT, rays=512, block=replace(SHORT.block, width=32, levels=6, log2_rows=12, finest=128))


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """A yard in two blocks, learnt in two sessions of light."""
    folder = tmp_path_factory.mktemp("city")
    capture = opened(yard(folder / "yard", photos=48, sessions=2), folder)
    plan = build.Plan(SHORT, blocks=2)
    found = build.build(capture, folder / "city", plan)
    return folder / "city", capture, found


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "source" not in path.parts
    }


def test_a_city_shows_what_was_photographed(city):
    folder, capture, _ = city
    tested = capture.of(capture.tested)
    for number in range(len(tested)):
        session = int(tested.sessions[number])
        picture = view(City(folder), tested.cameras[0], tested.poses[number], Appearance(session))
        truth = photo(tested.poses[number], 1.0 if session == 0 else 0.5) / 255
        psnr = -10 * np.log10(((picture.colours - truth) ** 2).mean())
        assert psnr > 17


def test_a_light_that_is_not_known_is_fitted_to_one_half_and_scored_on_the_other(city, tmp_path):
    folder, capture, _ = city
    tested = capture.of(capture.tested)
    loaded = City(folder).block("block_00")
    photos = Photos(tested, tmp_path)
    for number in range(len(tested)):
        fitted = scored(loaded, photos, number, 1.0)
        assert fitted.psnr > 15 and fitted.psnr == pytest.approx(fitted.psnr_unmasked)
        other = replace(tested, sessions=1 - tested.sessions)
        assert fitted.psnr > scored(loaded, Photos(other, tmp_path), number, 1.0, fitted=False).psnr + 1
        moved = replace(loaded, codes=loaded.codes + 3)
        assert scored(moved, photos, number, 1.0).psnr == fitted.psnr, (
            "however codes were matched, a block scores alike"
        )


def test_the_papers_own_field_is_trained_and_looked_at_alike(city, tmp_path):
    _, capture, _ = city
    small = replace(SHORT, block=replace(SHORT.block, field="ipe-mlp", width=16, samples=8), rays=128)
    build.build(capture, tmp_path / "city", build.Plan(scaled(small, 5), matched=False))
    picture = view(City(tmp_path / "city"), capture.cameras[0], capture.poses[0])
    assert np.isfinite(picture.colours).all() and picture.opacity.max() > 0.05


def test_a_session_is_a_light(city):
    folder, capture, _ = city
    bright, dark, between = (
        view(City(folder), capture.cameras[0], capture.poses[5], Appearance(share)).colours.mean()
        for share in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))
    )
    assert bright > 1.3 * dark and dark < between < bright


@pytest.mark.parametrize("method", METHODS)
def test_mixtures_weigh_blocks_and_add_up_to_one(city, method):
    folder, capture, _ = city
    picture = view(City(folder), capture.cameras[0], capture.poses[0], method=method)
    kept = [part.weights for part in picture.parts if part.weights is not None]
    assert kept and torch.allclose(torch.stack(kept).sum(0), torch.ones(len(kept[0])), atol=1e-5)
    assert np.isfinite(picture.colours).all() and picture.colours.min() >= 0 and picture.colours.max() <= 1


def test_blocks_are_compared_from_where_both_have_photos(city):
    folder, capture, _ = city
    one, other = (City(folder).block(name) for name in ("block_00", "block_01"))
    taken = capture.of(~capture.tested).poses[:, :3, 3].round(1)
    for loaded in (one, other):
        stands = np.array(loaded.facts["stands"])
        assert 8 < len(stands) <= 64 and loaded.place.holds(stands).all()
    views = shared_views(City(folder), "block_00", "block_01", 0)
    assert len(views) == 4
    for rays in views:
        position = rays.origins[0].numpy()
        assert one.place.holds(position) and other.place.holds(position)
        assert np.abs(taken - position).sum(1).min() < 1e-4


def test_matching_brings_looks_together_and_leaves_networks(city):
    folder, _, found = city
    assert found["matched"] and all(each["after"] < each["before"] for each in found["matched"])
    before = hashes(folder)
    trial = from_another_light(City(folder), "block_01")
    assert trial is not None and trial.to == ("block_00",) and trial.after < 0.5 * trial.before
    assert hashes(folder) == before, "a trial writes nothing"


def test_an_update_changes_one_blocks_files_only(city, tmp_path):

    folder, capture, _ = city
    shutil.copytree(folder, tmp_path / "city")
    before = hashes(tmp_path / "city")
    known = City(tmp_path / "city")
    build.update(capture, known, known.places[1], build.Plan(scaled(SHORT, 20)))
    after = hashes(tmp_path / "city")
    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        "block_01/model.safetensors",
        "block_01/codes.safetensors",
    }


def test_a_block_more_is_listed_and_no_other_changes(city, tmp_path):

    folder, capture, _ = city
    shutil.copytree(folder, tmp_path / "city")
    before = hashes(tmp_path / "city")
    place = Place("block_02", (0.0, 0.0, 1.6), 8.0)
    build.update(capture, City(tmp_path / "city"), place, build.Plan(scaled(SHORT, 20)))
    after = hashes(tmp_path / "city")
    assert [each.name for each in City(tmp_path / "city").places] == ["block_00", "block_01", "block_02"]
    assert {name for name in before if before[name] != after[name]} == {"city.json"}


def test_a_city_keeps_few_blocks_in_memory(city):
    folder, _, _ = city
    known = City(folder, loaded=1)
    first = known.block("block_00")
    known.block("block_01")
    assert list(known._loaded) == ["block_01"] and known.block("block_00") is not first


def test_where_no_block_is_the_nearest_is_asked(city):
    folder, capture, _ = city
    far = np.array(capture.poses[0])
    far[:3, 3] = (500.0, 0.0, 1.6)
    parts = chosen(City(folder), capture.cameras[0], far)
    assert len(parts) == 1 and parts[0].kept


def test_weights_fall_to_nothing_at_a_blocks_edge_without_a_jump():
    place = Place("a", (0.0, 0.0, 0.0), 25.0)
    along = [inverse_distance(place, np.array([x, 0.0, 0.0]), 4.0) for x in np.linspace(0, 51, 2_000)]
    assert np.isfinite(along).all() and along[-1] < 1e-3 * along[1_000]
    assert all(later <= earlier for earlier, later in pairwise(along))


def test_blocks_come_and_go_without_a_jump(city):
    folder, _, _ = city
    known = City(folder)
    known.about = replace(known.about, power=4.0)
    places = [Place(str(number), (30.0 * number, 0.0, 0.0), 40.0) for number in range(5)]
    ways = [np.array([x, 2.0, 0.0]) for x in np.linspace(0, 120, 4_001)]
    shares = []
    for position in ways:
        near = sorted(range(5), key=lambda at: abs(30.0 * at - position[0]))
        found = np.zeros(5)
        found[near] = _shares(known, [places[at] for at in near], [0.5] * 5, position)
        shares.append(found)
    assert np.allclose(np.sum(shares, 1), 1) and (np.array(shares) > 0).sum(1).max() <= 3
    assert ((np.array(shares) > 0).sum(1) == 1).mean() > 0.2, "near its middle, a block is enough"
    assert np.abs(np.diff(shares, axis=0)).max() < 0.01


def test_a_block_that_sees_ever_less_fades_away(city):
    known = City(city[0])
    places, position = (
        [Place(name, (x, 0.0, 0.0), 40.0) for name, x in (("a", 0.0), ("b", 30.0))],
        np.array([15.0, 0.0, 0.0]),
    )
    shares = [_shares(known, places, [0.5, value], position)[1] for value in np.linspace(0.0, 0.5, 1_001)]
    assert (
        shares[0] == 0 and shares[-1] == pytest.approx(0.5) and 0 <= min(np.diff(shares)) <= max(np.diff(shares)) < 0.01
    )


def test_a_folder_that_is_no_city_is_said(tmp_path):
    with pytest.raises(UserError, match="is no city"):
        City(tmp_path)
    (tmp_path / "city.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="another version"):
        City(tmp_path)


def test_a_damaged_block_is_said(city, tmp_path):

    folder, _, _ = city
    shutil.copytree(folder, tmp_path / "city")
    (tmp_path / "city" / "block_01" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError):
        City(tmp_path / "city").block("block_01")
    with pytest.raises(UserError, match="has no block"):
        City(tmp_path / "city").block("block_09")


def test_blocks_are_at_crossings_and_share_half_of_the_street(tmp_path):
    capture = opened(yard(tmp_path / "yard"), tmp_path)
    arm = np.array([[0.0, 0.0], [100.0, 0.0]])
    poses = np.tile(np.eye(4), (60, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 100, 60)
    spread = capture.of(np.arange(60) % 24).moved(poses)
    both = replace(
        spread,
        crossings=(
            Crossing((0.0, 0.0, 0.0), (arm,)),
            Crossing((100.0, 0.0, 0.0), (arm[::-1],)),
        ),
    )
    places = placement.at_crossings(both)
    assert [round(each.radius) for each in places] == [75, 75]
    shared = sum(places[0].holds(poses[:, :3, 3]) & places[1].holds(poses[:, :3, 3]))
    assert 0.45 < shared / 60 < 0.55
    few = capture.of(np.arange(12)).moved(poses[:12])
    plan = build.Plan(SHORT)
    assert build.sized(both, places[0], plan, 1).block.radius == 75.0
    assert build.sized(few, places[0], plan, 1).block.radius == pytest.approx(poses[11, 0, 3] + 5, abs=0.01), (
        "what few photos of an update see is learnt as finely as by a block of its own"
    )
    assert placement.neighbours(places) == {"block_00": ["block_01"], "block_01": ["block_00"]}


def test_blocks_at_even_distances_cover_the_drive(tmp_path):
    capture = opened(yard(tmp_path / "yard"), tmp_path)
    poses = np.tile(np.eye(4), (200, 1, 1))
    poses[:, 1, 3] = np.linspace(0, 400, 200)
    drive = capture.of(np.arange(200) % 24).moved(poses)
    places = placement.evenly(drive, count=4)
    assert len(places) == 4
    held = sum(place.holds(poses[:, :3, 3]).astype(int) for place in places)
    assert held.min() >= 1 and held.max() == 2
    assert len(placement.evenly(drive, spacing=50.0)) == 8
    for wrong in ({"spacing": -1.0}, {"count": 0}, {}, {"spacing": 5.0, "count": 2}):
        with pytest.raises(UserError):
            placement.evenly(drive, **wrong)
    with pytest.raises(UserError, match="street map"):
        placement.at_crossings(drive)


def test_a_way_goes_by_its_places_and_looks_ahead(city):
    known = City(city[0])
    places = ways.through(known, [(0.0, 0.0), (40.0, 0.0), (40.0, 40.0)])
    poses = ways.along(places, 0.5)
    there = np.array([pose[:3, 3] for pose in poses])
    steps = np.linalg.norm(np.diff(there, axis=0), axis=-1)
    assert len(poses) == 161 and steps.max() < 0.51 and np.abs(there[[0, -1]] - places[[0, -1]]).max() < 1e-6
    ahead = np.array([-pose[:3, 2] for pose in poses])
    assert ahead[0] @ (1, 0, 0) > 0.99 and ahead[-1] @ (0, 1, 0) > 0.99
    assert (np.einsum("ij,ij->i", ahead[:-1], np.diff(there, axis=0)) > 0.9 * steps).all()
    assert len(ways.through(known)) == len(known.places)
    with pytest.raises(UserError, match="leads nowhere"):
        ways.through(known, [(0.0, 0.0)])


def test_what_is_exported_is_read_by_others(city, tmp_path):
    known = City(city[0])
    poses = ways.along(ways.through(known, [(-1.0, 0.0), (1.0, 0.0)]), 0.5)
    lights = [fading(Appearance(0), 1, share) for share in np.linspace(0, 1, len(poses))]
    film = export.film(known, known.about.camera, poses, tmp_path / "film.mp4", lights, rate=10)
    with av.open(film["out"]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == film["pictures"] == len(poses) and frames[0].shape == (24, 32, 3)
    assert frames[0].mean() > 1.3 * frames[-1].mean(), "the light of the second session is half as bright"
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]

    told = export.distances(known, known.about.camera, poses[:2], tmp_path / "distances")
    assert told["views"] == 2 and np.load(tmp_path / "distances" / "00001.npy").shape == (24, 32)

    cloud = export.points(known, [poses[0][:3, 3]], tmp_path / "points.ply", Appearance(0), (16, 12))
    points = trimesh.load(cloud["out"])
    assert isinstance(points, trimesh.PointCloud) and len(points.vertices) == cloud["points"] > 0
    with pytest.raises(UserError, match="no PLY"):
        export.points(known, [poses[0][:3, 3]], tmp_path / "points.txt", Appearance(0), (16, 12))


def test_a_picture_that_nobody_wants_is_abandoned(city):
    folder, capture, _ = city
    asked = []

    def wanted() -> bool:
        asked.append(True)
        return len(asked) < 2

    large = capture.cameras[0].scaled(160, 120)
    with pytest.raises(Abandoned):
        view(City(folder), large, capture.poses[0], wanted=wanted)
    assert len(asked) == 2


def test_blocks_that_see_nothing_are_kept_where_that_is_asked(city):
    folder, capture, _ = city
    blind = City(folder)
    blind.about = replace(blind.about, threshold=1.1)
    one, both = (
        len([part for part in chosen(blind, capture.cameras[0], capture.poses[0], culled=c) if part.kept])
        for c in (True, False)
    )
    assert one == 1 and both == 2


def test_a_city_is_scored_by_what_all_its_blocks_make_of_a_photo(city, tmp_path):
    folder, capture, _ = city
    photos = Photos(capture.of(capture.tested), tmp_path)
    found = scored_city(City(folder), photos, 0)
    alone = [scored(City(folder).block(name), photos, 0, 1.0).psnr for name in ("block_00", "block_01")]
    assert min(alone) - 0.5 < found.psnr < max(alone) + 3


@pytest.mark.parametrize(
    ("said", "called"),
    [
        ({"date": [2021, 6, 21], "hour": 13.0, "turbidity": 3.0, "sun": 1.0}, "21 June, 13:00"),
        ({"date": [2021, 12, 4], "hour": 11.25, "turbidity": 8.0, "sun": 0.05}, "4 December, 11:15, clouds"),
        ({"name": "after the rain"}, "after the rain"),
        ({"date": [2021, 13, 40], "hour": 1.0, "sun": 1.0}, ""),
        ("morning", ""),
    ],
)
def test_sessions_are_called_by_their_hour(city, said, called):
    _, capture, _ = city
    about = build.about_of(replace(capture, notes={"sessions": [said]}), [])
    assert about.lights == (called,)


def test_blocks_that_processors_train_side_by_side_are_those_that_one_trains_in_turn(
    city, tmp_path, monkeypatch, capfd
):
    _, capture, _ = city
    plan = build.Plan(scaled(SHORT, 12), blocks=2, matched=False)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1):  # how sums are rounded depends on it
            build.build(capture, tmp_path / "in turn", plan)
        torch.set_num_threads(2)
        monkeypatch.setattr(build, "_LONG", 0)
        found = build.build(capture, tmp_path / "side by side", plan)
    finally:
        torch.set_num_threads(threads)
    assert [each["block"] for each in found["blocks"]] == ["block_00", "block_01"]
    assert "training 2 blocks: 24/24 steps" in capfd.readouterr().err
    for name in ("block_00", "block_01"):
        one, other = (load_file(tmp_path / how / name / "model.safetensors") for how in ("in turn", "side by side"))
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_a_city_that_is_there_is_neither_trained_nor_matched_again(city, capsys):
    folder, capture, _ = city
    before = hashes(folder)
    found = build.build(capture, folder, build.Plan(SHORT, blocks=2), resume=True)
    assert found["blocks"] == [] and found["matched"] == []
    assert hashes(folder) == before


STOPPED = """
import json, sys, torch
from dataclasses import replace
from pathlib import Path
from almanac.block_nerf import build
from almanac.block_nerf.captures.opened import opened
from almanac.runtime.errors import UserError
from tests.block_nerf.test_city import SHORT, scaled

if __name__ == "__main__":
    torch.set_num_threads(2)
    build._LONG = 0
    preset = scaled(SHORT, int(sys.argv[2]))
    preset = replace(preset, fit=replace(preset.fit, save_every=10))
    here = Path(sys.argv[1])
    try:
        plan = build.Plan(preset, blocks=2, matched=False)
        print(json.dumps(build.build(opened(here / "yard", here), here / "city", plan, resume=True)))
    except UserError as error:
        sys.exit(f"{error.what}; {error.hint}")
"""


def test_blocks_that_were_stopped_while_they_trained_go_on(tmp_path):
    yard(tmp_path / "yard", photos=24)
    (tmp_path / "stopped.py").write_text(STOPPED)
    command = [sys.executable, tmp_path / "stopped.py", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    going = subprocess.Popen([*command, "100000"], env=environment, stderr=subprocess.PIPE, text=True)
    runs = [tmp_path / "city/runs" / name / "last.pt" for name in ("block_00", "block_01")]
    ends = time.monotonic() + 120
    while not all(run.exists() for run in runs) and time.monotonic() < ends:
        time.sleep(0.1)
    going.terminate()
    _, said = going.communicate(timeout=60)
    assert going.returncode == 1 and "stopped; what was learnt up to the last checkpoints is there" in said
    steps = max(torch.load(run, weights_only=True)["step"] for run in runs)
    done = subprocess.run([*command, str(steps + 10)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {each["block"] for each in json.loads(done.stdout)["blocks"]} == {"block_00", "block_01"}
    assert City(tmp_path / "city").block("block_01").facts["steps"] == steps + 10
