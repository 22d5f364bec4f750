import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from almanac.block_nerf.cameras import Camera
from almanac.block_nerf.capture_city import area as areas
from almanac.block_nerf.capture_city import capture_city as capturing
from almanac.block_nerf.capture_city import drive as drives
from almanac.block_nerf.capture_city import town as towns
from almanac.block_nerf.capture_city.capture_city import Request, capture_city
from almanac.block_nerf.capture_city.light import developed
from almanac.block_nerf.captures.opened import opened
from almanac.runtime.errors import Interrupted, UserError
from tests.block_nerf.made import hamlet


def request(folder: Path, **changes) -> Request:
    return Request(
        **{"area": str(hamlet(folder)), "sessions": 1, "frames": 8, "size": (32, 24), "samples": 2, **changes}
    )


def pictures(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.*"))
        if path.name != "request.json"
    }


def test_streets_that_cross_make_one_crossing_with_its_arms(tmp_path):
    area = areas.read(hamlet(tmp_path))
    (crossing,) = area.crossings
    assert crossing.place == (0.0, 0.0) and len(crossing.arms) == 4 and crossing.others == (None,) * 4
    assert all(arm.coords[0] == (0.0, 0.0) and arm.length == 90 for arm in crossing.arms)


def test_the_ground_lies_where_houses_stand(tmp_path):
    area = areas.read(hamlet(tmp_path, rise=0.05))
    east = np.array([[-30.0, 0.0], [0.0, 0.0], [30.0, 0.0]])
    assert np.abs(area.terrain(east) - (50 + 0.05 * east[:, 0])).max() < 1.0


def test_known_areas_are_those_of_the_paper(needs_data):
    needs_data("block_nerf")
    alamo, third = areas.read("alamo_square"), areas.read("third_street")
    assert len(alamo.houses) == 3056 and len(alamo.streets) == 155 and 60 < len(alamo.crossings) < 90
    assert len(third.houses) == 616 and min(len(crossing.arms) for crossing in third.crossings) >= 3
    chosen = drives.chosen(alamo, 4)
    assert len(chosen) == 4 and len({crossing.place for crossing in chosen}) == 4
    along = drives.chosen(third, 1, (8.0, -407.0), (-66.0, 527.0))
    norths = [crossing.place[1] for crossing in along]
    assert len(along) > 8 and norths == sorted(norths)
    with pytest.raises(UserError, match="no crossing"):
        drives.chosen(third, 1, (5e3, 0.0), (5e3, 100.0))
    few = drives.planned(third, along, 1, 160, 0)
    there = np.array([shot.pose[:2, 3] for shot in few.shots])
    assert np.abs(there[:, 0] - np.interp(there[:, 1], norths, [crossing.place[0] for crossing in along])).max() < 30


def test_a_drive_is_as_long_as_asked_and_its_poses_are_wrong_by_segment(tmp_path):
    area = areas.read(hamlet(tmp_path))
    drive = drives.planned(area, area.crossings, 2, 320, 0)
    assert 0.85 * 320 <= len(drive.shots) <= 320 and {shot.session for shot in drive.shots} == {0, 1}
    assert 0.08 < np.mean([shot.test for shot in drive.shots]) < 0.2
    assert all(abs(shot.pose[2, 3] - 50 - drives.HEIGHT) < 0.2 for shot in drive.shots)
    for shot in drive.shots[::7]:
        given = drives.given(shot.pose, drive.drifts[shot.segment])
        assert np.allclose(given[:3, 3] - shot.pose[:3, 3], drive.drifts[shot.segment][:3])
        turn = given[:3, :3] @ shot.pose[:3, :3].T
        assert np.allclose(Rotation.from_matrix(turn).as_rotvec(), drive.drifts[shot.segment][3:])
        assert Rotation.from_matrix(turn).magnitude() < np.radians(6)
    again = drives.planned(area, area.crossings, 2, 320, 0)
    assert all(
        np.array_equal(a.pose, b.pose) and a.exposure == b.exposure
        for a, b in zip(drive.shots, again.shots, strict=True)
    )


def test_cars_drive_one_behind_the_other_and_never_where_the_photos_are_taken(tmp_path):
    area = areas.read(hamlet(tmp_path))
    drive = drives.planned(area, area.crossings, 1, 320, 0)
    shots = [shot for shot in drive.shots if shot.camera == "front"]
    for shot in shots:
        cars = np.array([car[:4] for car in shot.cars]).reshape(-1, 4)
        headings = cars[:, 2:] - cars[:, :2]
        assert np.allclose(np.linalg.norm(headings, axis=-1), 1)
        mine = np.array([shot.pose[:2, 3]]), -shot.pose[None, :2, 2]
        places, ways = np.concatenate([cars[:, :2], mine[0]]), np.concatenate([headings, mine[1]])
        apart = np.linalg.norm(places[:, None] - places, axis=-1)
        same = (ways @ ways.T > 0.5) & ~np.eye(len(ways), dtype=bool)
        assert apart[same].min(initial=np.inf) >= drives._GAP - 0.3
    assert (
        np.mean([len(shot.cars) > 0 for shot in shots]) > 0.5 and 2 < np.mean([len(shot.cars) for shot in shots]) < 12
    )


def test_a_house_looks_the_same_from_whichever_street(tmp_path):
    area = areas.read(hamlet(tmp_path))
    near, far = (towns.build(area, area.crossings[0].arms[at], 0, reach=110.0) for at in (0, 1))
    for material in near.parts.keys() - {"ground", "plain"}:
        assert np.array_equal(near.parts[material].colours, far.parts[material].colours)
    other = towns.build(area, area.crossings[0].arms[0], 1, reach=110.0)
    assert any(
        not np.array_equal(near.parts[name].colours, other.parts[name].colours)
        for name in near.parts.keys() & other.parts.keys() - {"ground"}
        if near.parts[name].colours.shape == other.parts[name].colours.shape
    )


def test_walls_face_outwards(tmp_path):
    area = areas.read(hamlet(tmp_path, houses=1))
    town = towns.build(area, area.crossings[0].arms[0], 0, reach=60.0)
    walls, centre = town.parts["garages"], np.array(area.houses[0].centre)
    corners = walls.vertices[walls.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((corners.mean(1)[:, :2] - centre) * normals[:, :2]).sum(1).min() > 0


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captured")
    asked = request(folder)
    capture_city(asked, folder / "capture", processes=1)
    return folder, asked


def test_a_capture_can_be_learnt_from(captured):
    folder, _ = captured
    capture = opened(folder / "capture", folder)
    assert len(capture) == 8 and len(capture.crossings) == 1 and "OpenStreetMap" in capture.attribution
    assert np.isfinite(capture.exposures).all() and capture.exposures.std() > 0
    truth = opened_truth(folder)
    away = np.linalg.norm(capture.poses[:, :3, 3] - truth, axis=-1)
    assert 0.01 < away.max() < 1.5


def opened_truth(folder: Path) -> np.ndarray:
    said = json.loads((folder / "capture" / "truth" / "transforms.json").read_text())
    frames = sorted(said["frames"], key=lambda frame: frame["file_path"])
    return np.array([frame["transform_matrix"] for frame in frames])[:, :3, 3]


def test_distances_are_those_to_the_ground(captured):
    folder, _ = captured
    said = json.loads((folder / "capture" / "truth" / "transforms.json").read_text())
    camera = Camera(said["w"], said["h"], (said["fl_x"],) * 2, (said["cx"], said["cy"]))
    on_the_ground = []
    for frame in said["frames"]:
        name = Path(frame["file_path"]).stem
        distance = np.load(folder / "capture" / "truth" / "distance" / f"{name}.npz")["distance"].astype(float)
        pose = np.array(frame["transform_matrix"])
        rays = camera.directions(camera.all_pixels()) @ pose[:3, :3].T
        lowest = slice(-3, None)
        down = ((50 - pose[2, 3]) / rays[..., 2] * np.linalg.norm(rays, axis=-1))[lowest]
        assert (distance[lowest] < 1.15 * down).all()  # cars may stand before it, but nothing is seen through it
        on_the_ground.append((np.abs(distance[lowest] - down) < 0.15 * down).mean())
    assert np.mean(on_the_ground) > 0.5


def test_a_capture_that_was_stopped_goes_on_to_the_same(captured, tmp_path, monkeypatch):
    folder, asked = captured
    taken = []
    take = capturing._take

    def once(world, shots, out):
        taken.append(shots)
        if len(taken) > 1:
            raise Interrupted("stopped", "")
        take(world, shots, out)

    monkeypatch.setattr(capturing, "_take", once)
    with pytest.raises(Interrupted):
        capture_city(asked, tmp_path / "again", processes=1)
    monkeypatch.undo()
    assert not (tmp_path / "again" / "transforms.json").exists()
    with pytest.raises(UserError, match="already holds"):
        capture_city(asked, tmp_path / "again", processes=1)
    with pytest.raises(UserError, match="begun with frames = 8"):
        capture_city(replace(asked, frames=12), tmp_path / "again", processes=1, resume=True)
    capture_city(asked, tmp_path / "again", processes=2, resume=True)
    assert pictures(tmp_path / "again") == pictures(folder / "capture")


def test_a_house_that_is_gone_changes_what_is_behind_it_only(captured):
    _, asked = captured
    whole = capturing.World(asked)
    less = capturing.World(replace(asked, removed=whole.area.houses[0].centre))
    lost = {
        material: len(mesh.faces) - len(less.town.parts[material].faces) for material, mesh in whole.town.parts.items()
    }
    assert lost["garages"] == 8 and lost["ground"] == 0
    assert len(less.area.houses) == len(whole.area.houses)


def test_twice_the_exposure_is_twice_the_light():
    light = np.linspace(0.01, 0.4, 50)[:, None].repeat(3, 1)
    one, two = (developed(light, exposure) / 255 for exposure in (1.0, 2.0))
    linear = [np.where(each <= 0.04045, each / 12.92, ((each + 0.055) / 1.055) ** 2.4) for each in (one, two)]
    assert np.abs(linear[1] / linear[0] - 2).max() < 0.25 and np.abs(np.median(linear[1] / linear[0]) - 2) < 0.02
    assert (developed(light * 10, 1.0)[-1] == 255).all()


def test_masks_hide_what_drives_by(tmp_path):
    world = capturing.World(request(tmp_path, frames=16))
    shot = next(shot for shot in world.drive.shots if shot.camera == "front")
    ahead = shot.pose[:2, 3] - 9 * shot.pose[:2, 2]
    toward = ahead - shot.pose[:2, 2]
    here = replace(shot, cars=((*ahead.tolist(), *toward.tolist(), 1),), test=True)
    capturing._take(world, [here], tmp_path / "out")
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{here.name}.png"))
    assert 0.005 < (mask == 0).mean() < 0.3
    seen, static = (
        np.asarray(Image.open(tmp_path / "out" / place / f"{here.name}.jpg")).astype(float)
        for place in ("images", "truth/static")
    )
    differs = np.abs(seen - static).max(-1)
    assert differs[mask == 0].mean() > 4 * max(differs[mask > 0].mean(), 1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frames": 4}, "too few"),
        ({"size": (4, 4)}, "can't be 4x4"),
        ({"sessions": 0}, "sessions is 0"),
        ({"area": "atlantis"}, "no area atlantis"),
    ],
)
def test_what_cannot_be_captured_is_said(tmp_path, changes, reason):
    with pytest.raises(UserError, match=reason):
        capture_city(request(tmp_path, **changes), tmp_path / "out", processes=1)


def test_a_house_on_the_street_is_said_and_can_be_left_out(tmp_path):
    path = hamlet(tmp_path)
    said = json.loads(path.read_text())
    said["osm_boxes"].append({**said["osm_boxes"][0], "e": 0.0, "n": 12.3})
    path.write_text(json.dumps(said))
    blocked = Request(str(path), 1, 24, (32, 24), samples=2)
    with pytest.raises(UserError, match=r"inside a house, such as the one 0.0 m east and 12.3 m north"):
        capture_city(blocked, tmp_path / "out", processes=1)
    assert not (tmp_path / "out").exists()
    assert capturing.World(replace(blocked, removed=(0.0, 12.3))).drive.shots


def test_a_file_that_is_no_area_is_said(tmp_path):
    (tmp_path / "bad.json").write_text('{"name": "x", "osm_boxes": [], "roads": []}')
    with pytest.raises(UserError, match="is no area"):
        areas.read(tmp_path / "bad.json")
