"""The command line as a person types it, good and bad."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from almanac.cold_diffusion import train as recipe
from almanac.runtime import checkpoint
from tests.typed import two_lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of ten steps: bad at restoring, good for everything around it."""
    folder = tmp_path_factory.mktemp("trained")
    preset = recipe.with_overrides(recipe.PRESETS["cpu"], steps=10, batch_size=8, size=16)
    recipe.train("pixelate", "digits", folder, preset)
    return folder / "model.safetensors"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 255, (20, 28, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_help_needs_no_torch_and_names_every_system(almanac):
    import subprocess
    import sys

    code = "import sys; from almanac.cli import main; main(['--help']); assert 'torch' not in sys.modules; assert 'tyro' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cold-diffusion" in done.stdout


@pytest.mark.parametrize("verb", ["degrade", "train", "restore", "generate", "evaluate", "features"])
def test_every_field_of_every_verb_is_explained(almanac, verb):
    done = almanac("cold-diffusion", verb, "--help")
    assert done.returncode == 0
    assert "--seed" in done.stdout
    assert "almanac cold-diffusion" in done.stdout


def test_degrade_measures_a_set_as_one_json_object(almanac):
    done = almanac("cold-diffusion", "degrade", "--data", "digits", "--degradation", "blur", "--json")
    found = json.loads(done.stdout)
    assert found.keys() == {"degradation", "data", "n", "rmse", "ssim"}
    assert found["n"] == 179
    assert 0.1 < found["rmse"] < 0.5


def test_what_degrade_wrote_is_restored_without_being_told_how(almanac, trained, picture, tmp_path):
    degraded, restored = tmp_path / "degraded.png", tmp_path / "restored.png"
    done = almanac(
        "cold-diffusion", "degrade", picture, "--degradation", "pixelate", "--data", "mnist", "--out", degraded
    )
    assert done.returncode == 0, done.stderr
    strip = tmp_path / "strip.png"
    done = almanac(
        "cold-diffusion", "restore", degraded, "--model", trained, "--out", restored, "--steps-out", strip, "--json"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["sampler"] == "improved"
    assert Image.open(restored).size == Image.open(degraded).size
    assert Image.open(strip).width > 3 * Image.open(strip).height


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
@pytest.mark.parametrize("size", [(5, 7), (90, 61)])
def test_pictures_of_every_kind_and_size_keep_their_size(almanac, trained, tmp_path, suffix, size):
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    Image.new("RGB", size, "teal").save(path)
    done = almanac(
        "cold-diffusion",
        "restore",
        path,
        "--degradation",
        "pixelate",
        "--model",
        trained,
        "--out",
        out,
        "--sampler",
        "direct",
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(out).size == size
    assert "tiles" in done.stderr or "as one" in done.stderr


def test_a_folder_is_restored_picture_by_picture(almanac, trained, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("L", (16, 16), 99).save(folder / name)
    done = almanac("cold-diffusion", "restore", folder, "--degradation", "pixelate", "--model", trained, "--out", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.write_bytes(b""), "not an image"),
        (lambda path: path.write_text("a text"), "not an image"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50), ""),
        (lambda path: Image.new("L", (1, 1)).save(path), "1×1"),
        (lambda path: Image.new("1", (20_000, 20_000)).save(path), "40,000,000"),
    ],
    ids=["missing", "empty", "text", "corrupt", "1x1", "huge"],
)
@pytest.mark.parametrize("verb", ["restore", "degrade"])
def test_bad_pictures_are_two_lines(almanac, trained, tmp_path, make, expected, verb):
    path = tmp_path / "bad.png"
    make(path)
    model = ["--model", trained] if verb == "restore" else []
    done = almanac("cold-diffusion", verb, path, "--degradation", "pixelate", *model, "--out", tmp_path / "o.png")
    assert expected in two_lines(done)[0]
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize("verb", ["degrade", "restore", "generate", "train"])
def test_an_unknown_degradation_names_the_known_ones(almanac, picture, tmp_path, verb):
    image = [picture] if verb in ("degrade", "restore") else []
    done = almanac("cold-diffusion", verb, *image, "--degradation", "smudge", "--out", tmp_path / "o.png")
    what, hint = two_lines(done)
    assert "smudge" in what
    assert "animorph" in hint


def test_a_checkpoint_of_another_system_is_refused(almanac, picture, tmp_path):
    path = tmp_path / "other.safetensors"
    checkpoint.save_weights(path, {"x": torch.zeros(1)}, {"system": "whisper"})
    done = almanac("cold-diffusion", "restore", picture, "--degradation", "blur", "--model", path)
    assert "whisper" in two_lines(done)[0]


class _Mischief:
    def __reduce__(self):
        return os.system, ("touch mischief",)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(almanac, picture, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"model": _Mischief()}))
    torch.save({"model": _Mischief()}, tmp_path / "zipped.pt")
    for bad in (path, tmp_path / "zipped.pt"):
        done = almanac("cold-diffusion", "restore", picture, "--degradation", "blur", "--model", bad, cwd=tmp_path)
        two_lines(done)
    assert not (tmp_path / "mischief").exists()


def test_uncached_data_without_a_network_is_two_lines(almanac, tmp_path, monkeypatch):
    monkeypatch.delenv("ALMANAC_DATA", raising=False)
    monkeypatch.setenv("ALMANAC_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    done = almanac("cold-diffusion", "degrade", "--data", "mnist")
    assert done.returncode == 2
    assert "could not be downloaded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("smudge",),
        ("cold-diffusion", "smudge"),
        ("cold-diffusion", "train", "--smudge"),
        ("cold-diffusion", "train", "--seed", "x"),
        ("cold-diffusion", "train", "--data", "digits", "--batch-size", "0"),
        ("cold-diffusion", "train", "--data", "digits", "--strides", "-1"),
        ("cold-diffusion", "restore"),
        ("bench", "smudge"),
        ("tour", "--only", "smudge"),
        ("cold-diffusion", "degrade", "--data", "no/such/folder"),
        ("cold-diffusion", "generate", "--n", "0"),
        ("cold-diffusion", "train", "--device", "tpu", "--data", "digits", "--out", "/tmp/never"),
    ],
)
def test_wrong_use_is_two_lines(almanac, arguments):
    two_lines(almanac(*arguments))


def test_a_full_disk_leaves_the_old_picture(trained, picture, tmp_path):
    import subprocess
    import sys

    out = tmp_path / "out.png"
    out.write_bytes(b"what was there before")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from almanac.cli import main; main(sys.argv[1:])"
    )
    arguments = ["cold-diffusion", "degrade", picture, "--degradation", "blur", "--out", out]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert "could not write" in two_lines(done)[0]
    assert out.read_bytes() == b"what was there before"


def test_ones_own_degradation_works_from_end_to_end(almanac, picture, tmp_path):
    (tmp_path / "fog.py").write_text(
        "from almanac.cold_diffusion.degradations import Degradation\n"
        "class Fog(Degradation):\n"
        "    steps = 4\n"
        "    def __call__(self, images, t, state):\n"
        "        thickness = (t / self.steps)[:, None, None, None]\n"
        "        return images * (1 - 0.8 * thickness) + 0.8 * thickness\n"
    )
    own = ["--degradation", "fog:Fog"]
    run = ["train", *own, "--data", "digits", "--steps", 3, "--batch-size", 4, "--size", 16, "--out", "run", "--json"]
    done = almanac("cold-diffusion", *run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["degradation"]["name"] == "fog:Fog"
    model = tmp_path / "run" / "model.safetensors"
    done = almanac(
        "cold-diffusion", "restore", picture, *own, "--model", model, "--degrade", "--out", "o.png", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    done = almanac("cold-diffusion", "restore", picture, "--degradation", "blur", "--model", model, cwd=tmp_path)
    assert "fog:Fog" in two_lines(done)[1]
