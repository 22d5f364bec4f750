import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from almanac.block_nerf.cameras import Camera
from almanac.block_nerf.captures import colmap, transforms, waymo
from almanac.block_nerf.captures.opened import opened
from almanac.block_nerf.captures.photos import Photos
from almanac.runtime.errors import UserError
from tests.block_nerf.made import SIZE, photo, pose, yard


def changed(folder: Path, change) -> Path:
    said = json.loads((folder / "transforms.json").read_text())
    change(said)
    (folder / "transforms.json").write_text(json.dumps(said))
    return folder


def test_a_capture_says_what_its_file_does(tmp_path):
    capture = opened(yard(tmp_path / "yard", sessions=2), tmp_path)
    assert len(capture) == 24 and capture.tested.sum() == 2 and len(capture.cameras) == 1
    assert sorted(set(capture.sessions.tolist())) == [0, 1]
    assert np.allclose(capture.poses[3, :3, :3] @ capture.poses[3, :3, :3].T, np.eye(3))
    assert len(capture.of(capture.tested)) == 2 and capture.of(capture.tested).images[0] == "images/005.png"


def test_rays_of_drawn_pixels_see_what_the_photos_hold(tmp_path):
    capture = opened(yard(tmp_path / "yard"), tmp_path)
    batch = Photos(capture, tmp_path / "cache").batch(2_000, np.random.default_rng(0))
    for number in range(0, 2_000, 97):
        origin, direction = batch.rays.origins[number].numpy(), batch.rays.directions[number].numpy()
        where = capture.poses[int(batch.photo[number])]
        assert np.allclose(origin, where[:3, 3], atol=1e-5)
        inside = where[:3, :3].T @ direction
        column, row = np.floor([inside[0] * SIZE[0] / 2 + SIZE[0] / 2, SIZE[1] / 2 - inside[1] * SIZE[0] / 2]).astype(
            int
        )
        assert np.abs(photo(where, 1.0)[row, column] / 255 - batch.colours[number].numpy()).max() < 1e-6


def test_what_masks_cover_is_not_drawn(tmp_path):
    folder = yard(tmp_path / "yard")
    mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    mask[:, :16] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    changed(folder, lambda said: [frame.update(mask_path="mask.png") for frame in said["frames"]])
    photos = Photos(opened(folder, tmp_path), tmp_path / "cache")
    random = np.random.default_rng(0)
    right = [photos.capture.poses[int(n)][:3, 0] @ d.numpy() for n, d in _rays(photos.batch(300, random))]
    assert min(right) > 0
    every = [photos.capture.poses[int(n)][:3, 0] @ d.numpy() for n, d in _rays(photos.batch(300, random, masked=False))]
    assert min(every) < 0


def _rays(batch):
    return zip(batch.photo, batch.rays.directions, strict=True)


def test_photos_may_be_learnt_smaller(tmp_path):
    photos = Photos(opened(yard(tmp_path / "yard"), tmp_path), tmp_path / "cache", longest=16)
    assert photos.photo(0).shape == (12, 16, 3)
    whole = np.asarray(Image.open(tmp_path / "yard" / "images" / "000.png")).astype(float)
    assert np.abs(photos.photo(0) - whole.reshape(12, 2, 16, 2, 3).mean((1, 3))).max() <= 1


def test_pixels_are_read_once(tmp_path):
    capture = opened(yard(tmp_path / "yard"), tmp_path)
    Photos(capture, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    before = file.stat().st_mtime_ns
    Photos(capture, tmp_path / "cache")
    assert file.stat().st_mtime_ns == before and file.stat().st_size == 24 * SIZE[0] * SIZE[1] * 4


def test_other_writers_files_are_understood(tmp_path):
    folder = yard(tmp_path / "yard", photos=8)

    def other(said: dict) -> None:
        said["camera_angle_x"] = 2 * np.arctan(1.0)
        del said["fl_x"], said["cx"], said["cy"]
        for frame in said["frames"]:
            frame["file_path"] = frame["file_path"].removesuffix(".png")
            frame["exposure_time_s"], frame["iso"] = 0.002, 50
            for name in ("split", "session", "segment", "exposure"):
                del frame[name]

    capture = opened(changed(folder, other), tmp_path)
    assert capture.images[0] == "images/000.png" and np.allclose(capture.cameras[0].focal, 16)
    assert np.allclose(capture.exposures, 1.0) and len(set(capture.sessions.tolist())) == 8
    assert capture.tested.tolist() == [number == 4 for number in range(8)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda said: said.update(frames=said["frames"][:2]), "2 photos"),
        (lambda said: said["frames"][3].pop("transform_matrix"), "transform_matrix"),
        (lambda said: said["frames"][3].update(transform_matrix=(np.eye(4) * 2).tolist()), "no rotation"),
        (lambda said: said["frames"][3]["transform_matrix"][0].__setitem__(3, float("nan")), "isn't made of numbers"),
        (lambda said: said["frames"][3].update(file_path="images/none.png"), "missing, such as images/none.png"),
        (lambda said: said.update(camera_model="EQUIRECTANGULAR"), "EQUIRECTANGULAR"),
        (lambda said: said.pop("fl_x"), "camera_angle_x"),
        (lambda said: said.update(frames=7), "no list"),
        (lambda said: [frame.update(split="test") for frame in said["frames"]], "kept to test"),
    ],
)
def test_what_is_wrong_with_a_capture_is_said(tmp_path, change, reason):
    with pytest.raises(UserError, match=reason):
        opened(changed(yard(tmp_path / "yard", photos=8), change), tmp_path)


def test_photos_and_masks_of_other_sizes_are_said(tmp_path):
    folder = yard(tmp_path / "yard", photos=4)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "mask.png")
    capture = opened(changed(folder, lambda said: said["frames"][0].update(mask_path="mask.png")), tmp_path)
    with pytest.raises(UserError, match=r"mask\.png is 9x9"):
        Photos(capture, tmp_path / "cache")
    Image.fromarray(photo(pose((0, 0, 1), 0), 1.0, (24, 24))).save(folder / "images" / "001.png")
    changed(folder, lambda said: said["frames"][0].pop("mask_path"))
    with pytest.raises(UserError, match=r"001.png is 24x24, and its camera 32x24"):
        Photos(opened(folder, tmp_path), tmp_path / "cache")


def test_a_ray_for_each_pixel_becomes_a_pose_and_a_lens():
    camera = Camera(64, 48, (50.0, 50.0), (31.0, 25.0), "RADIAL", (0.02, -0.005))
    where = pose((3.0, 4.0, 1.5), 0.7)
    rays = camera.directions(camera.all_pixels()) @ where[:3, :3].T
    origins = np.broadcast_to(where[:3, 3], rays.shape)
    found, lens = waymo.fitted(origins.astype(np.float32), (rays * 3).astype(np.float32))
    again = lens.directions(lens.all_pixels()) @ found[:3, :3].T
    unit = [each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (again, rays)]
    assert np.abs(unit[0] - unit[1]).max() * 50 < 0.05 and np.allclose(found[:3, 3], where[:3, 3], atol=1e-5)


def test_a_world_without_size_is_set_upright_with_a_metre_between_photos():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    poses = np.array([pose((0.3 * number, 0.0, 0.0), 0.2 * number) for number in range(9)])
    poses[:, :3] = turn @ poses[:, :3]
    found = colmap.upright(poses)
    assert np.allclose(found[:, :3, 1], [0, 0, 1], atol=1e-9)
    assert np.allclose(np.linalg.norm(np.diff(found[:, :3, 3], axis=0), axis=-1), 1)
    assert np.allclose(found[:, :3, :3] @ found[:, :3, :3].transpose(0, 2, 1), np.eye(3))


def test_what_is_no_json_is_said(tmp_path):
    (tmp_path / "transforms.json").write_bytes(b"\xff{")
    with pytest.raises(UserError, match=r"no transforms\.json"):
        transforms.read(tmp_path)
    with pytest.raises(UserError, match="there is no"):
        opened(tmp_path / "nothing", tmp_path)


def test_tensors_of_a_batch_are_what_networks_take(tmp_path):
    batch = Photos(opened(yard(tmp_path / "yard", photos=4), tmp_path), tmp_path / "c").batch(
        10, np.random.default_rng(0)
    )
    assert batch.rays.origins.dtype == batch.colours.dtype == torch.float32 and batch.photo.dtype == torch.int64
