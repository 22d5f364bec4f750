"""The recipe learns, and its parts do what they say."""

import io
import os
import tarfile
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image

from almanac.cold_diffusion import data, restore
from almanac.cold_diffusion import train as recipe
from almanac.cold_diffusion.degrade import degrade_set, measure
from almanac.cold_diffusion.features import Extractor
from almanac.runtime.errors import UserError


@pytest.mark.slow
def test_a_short_training_already_restores_better_than_nothing(tmp_path):
    preset = recipe.with_overrides(recipe.PRESETS["cpu"], steps=150, batch_size=16, size=16)
    preset = replace(preset, dim=16, fit=replace(preset.fit, warmup_steps=10))
    recipe.train("pixelate", "digits", tmp_path, preset)
    restorer = restore.load(str(tmp_path / "model.safetensors"), "cpu")
    clean, degraded, state = degrade_set(restorer.degradation, data.load("digits", "test", 16), 0)
    direct = restore.sample(restorer, restorer.degradation, degraded, state, restorer.degradation.steps, "direct")
    assert measure(direct, clean)["rmse"] < 0.8 * measure(degraded, clean)["rmse"]


@pytest.mark.slow
def test_two_processes_say_one_result(tmp_path):
    import json
    import subprocess
    import sys

    arguments = ["--degradation", "pixelate", "--data", "digits", "--steps", "2", "--batch-size", "4", "--size", "16"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"]
    command = [
        *launch,
        "-m",
        "almanac.cli",
        "cold-diffusion",
        "train",
        *arguments,
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert restore.load(str(tmp_path / "run" / "model.safetensors"), "cpu").channels == 1


def test_batches_are_a_function_of_their_number_and_cover_the_set():
    images = data.load("digits", "train", 16)
    first, again = data.Batches(images, 32, seed=1), data.Batches(images, 32, seed=1)
    assert torch.equal(first(7), again(7))
    assert not torch.equal(first(7), data.Batches(images, 32, seed=2)(7))
    epoch = torch.cat([first(number) for number in range(first.per_epoch)])
    assert len({row.numpy().tobytes() for row in epoch}) >= 0.98 * len(
        {row.numpy().tobytes() for row in images.batch(slice(None))}
    )
    assert not torch.equal(first(0), first(first.per_epoch))


def test_digits_are_never_mirrored_and_photographs_are():
    digits, photos = data.load("digits", "train", 16), data.load("photos", "train", 16)
    known = {row.numpy().tobytes() for row in digits.batch(slice(None))}
    assert all(row.numpy().tobytes() in known for row in data.Batches(digits, 64, 0)(3))
    known = {row.numpy().tobytes() for row in photos.batch(slice(None))}
    unknown = [row for row in data.Batches(photos, 64, 0)(3) if row.numpy().tobytes() not in known]
    assert 16 <= len(unknown) <= 48
    assert all(row.flip(2).numpy().tobytes() in known for row in unknown)


def test_a_folder_of_pictures_is_a_set(tmp_path):
    for number in range(20):
        Image.new("RGB", (40 + number, 30), (number * 10, 0, 0)).save(tmp_path / f"{number:02}.png")
    train, test = data.load(str(tmp_path), "train", 16), data.load(str(tmp_path), "test", 16)
    assert (len(train), len(test)) == (18, 2)
    assert train.pixels.shape[1:] == (3, 16, 16)
    assert data.load(str(tmp_path), "train", 16, channels=1).pixels.shape[1] == 1


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no images"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "emoji", "animals"])
def test_known_sets_have_the_shape_they_should(name, needs_data):
    needs_data(name if name != "animals" else "cifar10")
    images = data.load(name, "test", 32)
    assert images.pixels.shape[1:] == (1 if name == "mnist" else 3, 32, 32)
    assert images.labels is not None and len(images.labels) == len(images)


def test_the_official_cifar10_archive_is_read(tmp_path, monkeypatch):
    """An archive in the official layout: five training files and a test file of records, label first."""
    folder = tmp_path / "images" / "cifar10"
    folder.mkdir(parents=True)
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    records = {f"data_batch_{i}.bin": [(i + k) % 10 for k in range(20)] for i in range(1, 6)} | {
        "test_batch.bin": [3, 8]
    }
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        files = {
            name: b"".join(bytes([k]) + bytes([k * 20]) * 3072 for k in labels) for name, labels in records.items()
        }
        files["batches.meta.txt"] = "\n".join([*classes, ""]).encode()
        for name, blob in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(blob)
            archive.addfile(entry, io.BytesIO(blob))
    monkeypatch.setenv("ALMANAC_DATA", str(tmp_path))
    data.load.cache_clear()
    try:
        train, test = data.load("cifar10", "train", 32), data.load("cifar10", "test", 32)
        assert (len(train), len(test)) == (100, 2)
        assert train.pixels[:3, 0, 0, 0].tolist() == [20, 40, 60]
        assert test.pixels[:, 2, 31, 31].tolist() == [60, 160]
        assert len(data.load("animals", "test", 32)) == 1  # of the cat and the ship, the cat
    finally:
        data.load.cache_clear()


def test_loss_is_the_mean_absolute_difference():
    images = data.load("digits", "test", 16).batch(slice(8))
    degrade = recipe.recipe("pixelate", "mnist", 16)
    loss = recipe.restoration_loss(degrade)(lambda x, t: torch.zeros_like(x), images, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(images.abs().mean().item())


def test_the_network_sees_steps_from_zero():
    seen = []
    degrade = recipe.recipe("pixelate", "mnist", 16)
    images = torch.zeros(256, 1, 16, 16)
    recipe.restoration_loss(degrade)(lambda x, t: seen.append(t) or x, images, torch.Generator().manual_seed(0))
    assert set(seen[0].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("name", ["blur", "mask", "snow", "noise"])
def test_a_perfect_network_strides_along_the_degradation_itself(name):
    images = data.load("digits", "test", 16).batch(slice(8))
    degrade = recipe.recipe(name, "emoji", 16)
    calls = []

    def perfect(x, t):
        calls.append((x, t + 1))
        return images.clone()

    loss = recipe.restoration_loss(degrade, strides=3)(perfect, images, torch.Generator().manual_seed(0))
    state = degrade.draw(images, torch.Generator().manual_seed(0))
    severities = [t for _, t in calls]
    assert len(calls) == 3
    assert (severities[0][:6] == degrade.steps).all() and (severities[0][6:] < degrade.steps).any()
    assert all((later <= earlier).all() for earlier, later in pairwise(severities))
    left = 0.02 if degrade.eight_bit else 1e-4  # the first state's rounding stays in x
    assert all((x - degrade(images, t, state)).abs().max() <= left for x, t in calls)
    assert loss.item() <= left


def test_noise_of_the_asked_size_is_on_what_the_network_sees():
    images = torch.zeros(4, 3, 32, 32)
    seen = []
    loss = recipe.restoration_loss(recipe.recipe("blur", "emoji", 32), noise=0.002)
    loss(lambda x, t: seen.append(x) or x, images, torch.Generator().manual_seed(0))
    assert seen[0].std().item() == pytest.approx(0.002, rel=0.05)
    assert recipe.PRESETS["paper"].symmetry_noise == 0 and recipe.PRESETS["paper"].strides == 1


def test_a_stride_takes_the_networks_mistake_along_without_a_gradient_through_it():
    images = torch.zeros(4, 1, 16, 16)
    degrade = recipe.recipe("noise", "emoji", 16)
    mistake = torch.tensor(0.5, requires_grad=True)
    seen = []
    loss = recipe.restoration_loss(degrade, strides=2)(
        lambda x, t: seen.append((x, t + 1)) or mistake.expand_as(x), images, torch.Generator().manual_seed(0)
    )
    loss.backward()
    (worse, here), (x, there) = seen
    wrong = torch.full_like(images, 0.5)
    state = degrade.draw(images, torch.Generator().manual_seed(0))
    assert torch.allclose(x, worse - degrade(wrong, here, state) + degrade(wrong, there, state), atol=1e-6)
    # The estimate alone at first, then what sampling would return; a gradient through the second estimate alone.
    final = x - degrade(wrong, there, state) + wrong
    assert loss.item() == pytest.approx((0.5 + final.abs().mean().item()) / 2, rel=1e-5)
    by_estimate = 1 - degrade(torch.ones_like(images), there, {"other": torch.zeros_like(images)})
    assert mistake.grad.item() == pytest.approx((1 + (final.sign() * by_estimate).mean().item()) / 2, rel=1e-5)


@pytest.mark.parametrize(("training", "precise"), [(True, 1), (False, 3)])
def test_a_faint_difference_survives_bfloat16(training, precise):
    """A fully blurred digit differs from its mean by less than bfloat16's rounding; the network must still see it."""
    from almanac.cold_diffusion.model import Unet, UnetConfig

    model = Unet(UnetConfig(16, (1, 2), 1)).train(training)
    seen = []
    block1, block2, attention, _ = model.downs[0]
    for part in (block1.ds_conv, block2.ds_conv, attention.fn.fn.to_qkv):
        part.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.long))
    assert [kind == torch.float32 for kind in seen] == [True] * precise + [False] * (3 - precise)


def test_features_do_not_depend_on_the_company_of_an_image():
    torch.manual_seed(0)
    extractor = Extractor(1, 10).eval()
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(extractor.features(images)[1:2], extractor.features(images[1:2]), atol=1e-5)


def test_a_purpose_decides_the_recipe():
    from almanac.cold_diffusion.recipes import recipe as settings

    assert settings("blur", "cifar10", 32) == settings("blur", "cifar10", 32, "restoration")
    assert settings("blur", "cifar10", 32, "generation") == settings("blur", "emoji", 32)
    assert settings("blur", "emoji", 32).thumbnail == 1 and settings("blur", "cifar10", 32).thumbnail is None
    with pytest.raises(UserError, match="no restoration recipe for snow of emoji"):
        settings("snow", "emoji", 32, "restoration")
