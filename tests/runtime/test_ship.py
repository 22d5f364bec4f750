"""What ships, and what the manifest says of it."""

import hashlib

import pytest
import torch

from almanac.runtime import checkpoint, hub, ship
from almanac.runtime.errors import UserError
from almanac.systems import SYSTEMS

SHIPPING = [system.name for system in SYSTEMS if system.name not in ("chat", "youchat")]
"""Chat runs open weights; its own training is to come. YouChat's few numbers are in its package."""


@pytest.mark.parametrize("system", SHIPPING)
def test_every_shipped_file_is_in_the_manifest_as_it_is(system):
    manifest = ship.manifest()
    names = hub.shipped_weights(system)
    assert names
    assert sorted(name for name in manifest if name.startswith(f"{system}/")) == names
    for name in names:
        blob = hub.weights(name).read_bytes()
        assert hashlib.sha256(blob).hexdigest() == manifest[name]["sha256"]
        assert len(blob) == manifest[name]["bytes"]
        assert {"command", "steps", "seconds"} <= manifest[name].keys()
    assert sum(manifest[name]["bytes"] for name in names) <= ship.LIMIT


def save(folder, matrix: torch.Tensor, steps: int) -> None:
    tensors = {"matrix": matrix.bfloat16(), "vector": matrix[0].clone()}
    checkpoint.save_weights(folder / "model.safetensors", tensors, {"system": "tests", "steps": steps})


@pytest.mark.parametrize("large", [0, 2**20])  # bytes from which weights are stored in eight bits
def test_of_several_runs_the_mean_ships_with_the_facts_of_the_last(tmp_path, monkeypatch, large):
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(ship, "_LARGE", large)
    runs = [tmp_path / "a", tmp_path / "b"]
    first, second = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    for run, matrix, steps in zip(runs, (first, second), (10, 20), strict=True):
        save(run, matrix, steps)
    tensors, facts = checkpoint.load_weights(ship.ship(runs, "tests/mean", "train"), "tests")
    mean = (first + second) / 2
    torch.testing.assert_close(tensors["vector"], mean[0])
    torch.testing.assert_close(tensors["matrix"].float(), mean, atol=0.03, rtol=0)
    assert (facts["steps"], facts["mean_of"]) == (20, [10, 20])
    assert ship.manifest()["tests/mean"]["mean_of"] == [10, 20]
    save(runs[1], second[:4], 20)
    with pytest.raises(UserError, match="different networks"):
        ship.ship(runs, "tests/mean", "train")


def test_a_model_of_several_files_ships_as_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "weights")
    for part in ("north", "south"):
        save(tmp_path / "city" / part, torch.randn(4, 4), 10)
    (tmp_path / "city" / "city.json").write_text('{"parts": 2}')
    ship.ship_folder(tmp_path / "city", "tests/city", "train")
    names = ["tests/city/north/model", "tests/city/south/model"]
    assert hub.shipped_weights("tests") == names == sorted(ship.manifest())
    assert (tmp_path / "weights/tests/city/city.json").read_text() == '{"parts": 2}'
    for name in names:
        assert hub.hash_of(hub.weights(name)) == ship.manifest()[name]["sha256"]
