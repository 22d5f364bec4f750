"""What is measured of cities, on cases whose answer is known."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.spatial.transform import Rotation

from almanac.block_nerf import evaluate, measures
from almanac.block_nerf.capture_city.capture_city import Request, capture_city
from almanac.block_nerf.captures.opened import opened
from almanac.block_nerf.captures.photos import Photos
from almanac.block_nerf.city import Loaded
from almanac.block_nerf.model import Block, Dimensions, Visibility
from almanac.block_nerf.placement import Place
from almanac.block_nerf.render import METHODS
from almanac.block_nerf.train import PRESETS, Preset, scaled
from almanac.block_nerf.truth import Truth
from almanac.runtime.errors import UserError
from tests.block_nerf.made import hamlet, yard

TINY = replace(
    scaled(PRESETS["cpu"], 6),
    rays=256,
    block=Dimensions(width=16, levels=4, log2_rows=10, finest=64),
)


class Knows(Visibility):
    """A visibility network that is right or wrong of all that is nearer than the yard's walls."""

    def __init__(self, right: bool):
        super().__init__(10.0)
        self.right = right

    def forward(self, points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        inside = (points[:, :2].abs().amax(-1) < 6) & (points[:, 2] > 0)
        return torch.where(inside == self.right, 5.0, -5.0)


def test_a_block_that_knows_what_it_sees_is_told_from_one_that_guesses(tmp_path):
    capture = opened(yard(tmp_path / "yard"), tmp_path)
    photos = Photos(capture, tmp_path)
    place = Place("a", (0.0, 0.0, 0.0), 10.0)
    rays = [
        photos.rays(np.full(32 * 24, n), capture.cameras[0].all_pixels().reshape(-1, 2)) for n in range(len(capture))
    ]
    distances = []
    for each in rays:
        origins, unit = each.origins.numpy(), torch.nn.functional.normalize(each.directions, dim=-1).numpy()
        walls = np.where(unit > 0, (6 - origins) / unit, (-6 - origins) / unit)[:, :2].min(-1)
        floor = np.where(unit[:, 2] < 0, -origins[:, 2] / unit[:, 2], np.inf)
        distances.append(np.minimum(walls, floor).reshape(24, 32).astype(np.float32))
    for right, wanted in ((True, 1.0), (False, 0.0)):
        block = Block(TINY.block)
        block.visibility = Knows(right)
        knows = Loaded(place, block, torch.zeros(1, 32), {})
        assert measures.visibility_auroc(knows, photos, distances) == pytest.approx(wanted, abs=0.02)


def test_poses_that_are_put_right_count_as_recovered_wherever_north_is(tmp_path):
    capture = opened(yard(tmp_path / "yard", photos=24, sessions=4), tmp_path)
    random = np.random.default_rng(0)
    shifts, turns = random.normal(0, 0.3, (4, 3)), Rotation.from_rotvec(random.normal(0, 0.02, (4, 3)))
    true = np.array(capture.poses)
    given = np.array(true)
    given[:, :3, 3] -= shifts[capture.segments]
    given[:, :3, :3] = turns.inv().as_matrix()[capture.segments] @ true[:, :3, :3]
    block = Block(Dimensions(width=16, levels=2, log2_rows=8, finest=32, segments=4))
    loaded = Loaded(Place("a", (0.0, 0.0, 0.0), 10.0), block, torch.zeros(1, 32), {"segments": [0, 1, 2, 3]})
    nothing = measures.recovered(loaded, capture.moved(given), true)
    assert nothing.metres == pytest.approx(0) and nothing.degrees == pytest.approx(0)
    assert nothing.metres_before > 0.1 and nothing.degrees_before > 0.5
    assert block.poses is not None
    with torch.no_grad():
        block.poses.shift.copy_(torch.from_numpy(shifts).float() / block.poses._SHIFT)
        block.poses.turn.copy_((torch.from_numpy(turns.as_matrix()).float() - torch.eye(3)) / block.poses._TURN)
    put_right = measures.recovered(loaded, capture.moved(given), true)
    assert put_right.metres > 0.99 and put_right.degrees > 0.97
    north = Rotation.from_rotvec([0, 0, 0.3]).as_matrix()
    moved = np.array(true)
    moved[:, :3, 3] = true[:, :3, 3] @ north.T + (5, -3, 1)
    moved[:, :3, :3] = north @ true[:, :3, :3]
    assert measures._off(moved, true) == pytest.approx((0, 0), abs=1e-5)


def test_a_photo_is_exposed_again(tmp_path):
    random = np.random.default_rng(0)
    linear = random.uniform(0, 0.45, (6, 8, 3))

    def curved(light: np.ndarray) -> np.ndarray:
        light = light.clip(0, 1)
        return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)

    for factor in (0.5, 2.0, 3.0):
        again, known = measures.redeveloped(curved(linear), factor)
        assert known.all() and np.abs(again - curved(linear * factor)).max() < 1e-6
    white = np.ones((2, 2, 3))
    assert not measures.redeveloped(white, 0.5)[1].any() and measures.redeveloped(white, 2.0)[1].all()


def test_distances_are_wrong_only_where_something_stands(tmp_path):
    true = np.array([[10.0, np.inf], [20.0, 5.0]])
    counts = np.array([[True, True], [True, False]])
    assert np.allclose(measures.depth_error(np.array([[11.0, 3.0], [19.0, 50.0]]), true, counts), [0.1, 0.05])


def test_a_small_city_is_measured_whole_and_again_without_training(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCKS", (1, 2))
    capture_city(Request(str(hamlet(tmp_path)), 1, 40, (32, 24), samples=2), tmp_path / "capture", processes=1)
    shutil.copytree(tmp_path / "capture", tmp_path / "changed")
    for path in (tmp_path / "changed" / "images").iterdir():
        ImageOps.invert(Image.open(path)).save(path)
    capture = tmp_path / "capture"
    wanted = evaluate.Asked(city=capture, street=capture, changed=tmp_path / "changed")
    means = evaluate.Means(TINY, tmp_path / "cells", most=2)
    tables = evaluate.evaluate(wanted, means)
    assert set(tables) == {
        "ablations", "masks", "poses", "surfaces", "visibility", "exposure", "matching", "culling", "update",
        "blocks", "interpolation", "border",
    }  # fmt: skip
    assert [row["variant"] for row in tables["ablations"]] == list(evaluate.PRINTED_ABLATIONS)
    assert all(np.isfinite(row["psnr"]) and row["photos"] == 2 for row in tables["ablations"])
    blocks = [(row["same_weights"], row["blocks"], row["million_weights"]) for row in tables["blocks"]]
    assert [each[:2] for each in blocks] == [("of all", 1), ("of all", 2), ("of a block", 1), ("of a block", 2)]
    assert blocks[0][2] == blocks[2][2] and blocks[1][2] < 0.75 * blocks[3][2]
    masks = [(row["training"], row["photos_are"]) for row in tables["masks"]]
    assert ("masked", "learnt from") in masks and len(masks) == 2 * len({of for _, of in masks})
    assert [row["method"] for row in tables["interpolation"]] == list(METHODS)
    assert tables["update"][1]["changed_files"] == "block_00/model.safetensors", "with no neighbour nothing is matched"
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*/block_00/*.safetensors")}
    assert len(trained) >= len(evaluate.PRINTED_ABLATIONS)
    again = evaluate.evaluate(replace(wanted, parts=("ablations", "update")), means)
    assert all(again[name] == tables[name] for name in ("ablations", "update"))
    assert trained == {path: path.stat().st_mtime_ns for path in trained}
    drawn = evaluate.draw(tables, means, tmp_path / "figures")
    assert {path.name for path in drawn} == {"ablations.png", "blocks.png", "border.png", "scheme.png"} and all(
        path.stat().st_size for path in drawn
    )


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("count", [2, 4, 8])
def test_many_small_blocks_have_about_as_many_weights_as_one(preset, count):
    def weights(of: Preset) -> int:
        return sum(each.numel() for each in Block(of.block).field.parameters())

    whole = PRESETS[preset]
    assert count * weights(evaluate._share(whole, count)) == pytest.approx(weights(whole), rel=0.2)


def test_photos_of_a_real_street_are_measured_with_each_correction_and_without(tmp_path):
    asked = evaluate.Asked(photos=yard(tmp_path / "yard"))
    rows = evaluate.evaluate(asked, evaluate.Means(TINY, tmp_path / "cells"))["photos"]
    corrected = ("neither", "poses", "appearance", "both")
    assert [(row["exposures_told"], row["corrected"]) for row in rows] == [
        (told, name) for told in (False, True) for name in corrected
    ]
    assert all(row["photos"] == 6 and np.isfinite(row["psnr"]) for row in rows)
    assert len(list((tmp_path / "cells").glob("photos-*/city.json"))) == 8, "each is a city of its own"


def test_photos_without_truth_are_said(tmp_path):
    yard(tmp_path / "yard")
    with pytest.raises(UserError, match="has no truth"):
        Truth(tmp_path / "yard")
    with pytest.raises(UserError, match="nothing to measure"):
        evaluate.evaluate(evaluate.Asked(), evaluate.Means(TINY, Path("cells")))
