"""The shipped models, measured."""

import json

import pytest
from PIL import Image

from almanac.cold_diffusion import restore


def test_evaluate_prints_the_table_as_one_json_object(almanac, tmp_path, needs_data):
    needs_data("mnist")
    run = ["evaluate", "--model", "mnist-blur", "--n", 50, "--generated", 0, "--out", tmp_path, "--json"]
    done = almanac("cold-diffusion", *run)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["kind"] for row in rows] == ["degraded", "direct", "sampled"]
    assert all({"degradation", "data", "kind", "n", "rmse", "ssim", "fd", "kid"} <= row.keys() for row in rows)
    assert {(row["model"], row["degradation"], row["data"]) for row in rows} == {("mnist-blur", "blur", "mnist")}
    by_kind = {row["kind"]: row for row in rows}
    assert by_kind["direct"]["rmse"] < by_kind["degraded"]["rmse"]
    assert by_kind["direct"]["fd"] < by_kind["degraded"]["fd"]
    assert by_kind["direct"]["kept"] > by_kind["degraded"]["kept"]
    assert json.loads((tmp_path / "evaluate.json").read_text())["rows"] == rows


def test_evaluate_samples_in_the_strides_that_are_asked_for(almanac, tmp_path, needs_data):
    needs_data("mnist")
    run = ["evaluate", "--model", "mnist-pixelate", "--n", 20, "--generated", 0, "--out", tmp_path, "--json"]
    done = almanac("cold-diffusion", *run, "--strides", 1, 3)
    assert done.returncode == 0, done.stderr
    sampled = [row for row in json.loads(done.stdout)["rows"] if row["kind"] == "sampled"]
    assert [row["strides"] for row in sampled] == [1, 3]
    assert sampled[0]["rmse"] != sampled[1]["rmse"]
    refused = almanac("cold-diffusion", *run, "--strides", 0)
    assert refused.returncode == 2
    assert "strides is 0" in refused.stderr


def test_generate_writes_a_sheet_and_a_strip(almanac, tmp_path):
    out, strip = tmp_path / "sheet.png", tmp_path / "strip.png"
    done = almanac("cold-diffusion", "generate", "--n", 4, "--out", out, "--steps-out", strip, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 4
    assert Image.open(out).size == (260, 260)
    again = tmp_path / "again.png"
    almanac("cold-diffusion", "generate", "--n", 4, "--out", again)
    assert again.read_bytes() == out.read_bytes()


def test_models_that_restore_take_two_strides_and_clip_and_those_that_generate_do_neither():
    for name in restore.shipped():
        found = restore.load(name, "cpu")
        restores = name.startswith("cold_diffusion/mnist-")
        assert (found.strides, found.clip) == ((2, True) if restores else (None, False)), name
        steps = found.degradation.steps
        assert len(found.path(steps)) == (2 if restores else steps)
        assert len(restore.load(name, "cpu", strides=3).path(steps)) == 3


@pytest.mark.parametrize("name", restore.shipped())
def test_every_shipped_model_loads(name):
    restorer = restore.load(name, "cpu")
    assert restorer.size == 32
    assert name.endswith(restorer.degradation.__class__.__name__.lower())
