"""The command line as a person types it, good and bad."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from almanac.stable_diffusion import generate, published, recogniser
from almanac.stable_diffusion import train as recipe
from tests.stable_diffusion import made
from tests.stable_diffusion.test_data import beside
from tests.stable_diffusion.test_train import TINY
from tests.typed import two_lines

SCENES = replace(TINY, size=64)


@pytest.fixture
def diffusion(typed, needs_data):
    """Run `almanac stable-diffusion`."""
    needs_data("clip_bpe")
    return lambda *arguments: typed("stable-diffusion", *arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small checkpoint in the official layout, and the folder of diffusers' that it was made of."""
    path = tmp_path_factory.mktemp("model")
    published.save(published.load(made.folder(path / "folder")), path / "small.safetensors", torch.float32)
    return path / "small.safetensors"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)).save(path)
    return path


def pixels(path) -> np.ndarray:
    return np.array(Image.open(path))


def test_pictures_say_how_they_were_made(diffusion, model, tmp_path):
    how = ("--model", model, "--steps", 3, "--sampler", "euler_a", "--scale", 4, "--negative-prompt", "a dog")
    done = diffusion(
        "generate", "a (red:1.3) cat", *how, "--size", "64x48", "-n", 2, "--seed", 7, "--out", tmp_path, "--json"
    )
    found = json.loads(done.stdout)
    assert [each["seed"] for each in found["images"]] == [7, 8] and found["seconds"] >= 0
    first, second = (pixels(each["file"]) for each in found["images"])
    assert first.shape == (48, 64, 3) and (first != second).any() and first.std() > 0
    said = Image.open(found["images"][0]["file"]).info["parameters"]
    assert said == (
        "a (red:1.3) cat\nNegative prompt: a dog\n"
        "Steps: 3, Sampler: Euler a, CFG scale: 4, Seed: 7, Size: 64x48, Model: small"
    )
    again = diffusion(
        "generate", "--like", found["images"][1]["file"], "--model", model, "--out", tmp_path / "again", "--json"
    )
    (other,) = json.loads(again.stdout)["images"]
    assert other["seed"] == 8 and np.array_equal(pixels(other["file"]), second)


def test_noise_and_latents_are_given_and_kept(diffusion, model, tmp_path):
    noise = np.random.default_rng(1).normal(size=(2, 4, 6, 8)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    how = ("--model", model, "--steps", 2, "--sampler", "ddim", "--size", "64x48", "--out", tmp_path, "--json")
    files = ("--latents-in", tmp_path / "noise.npy", "--latents-out", tmp_path / "last.npy")
    kept = []
    for seed in (1, 2):  # they say all that DDIM draws
        assert diffusion("generate", "a cat", *how, *files, "-n", 2, "--seed", seed).returncode == 0
        kept.append(np.load(tmp_path / "last.npy"))
    assert kept[0].shape == noise.shape and np.array_equal(*kept)
    assert "2×4×6×8" in two_lines(diffusion("generate", "a cat", *how, *files))[0]


def test_pictures_are_changed_and_grown(diffusion, model, picture, tmp_path):
    mask = np.zeros((64, 80), np.uint8)
    mask[20:40, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    how = ("--model", model, "--steps", 4, "--seed", 3, "--init-image", picture, "--out", tmp_path / "out", "--json")

    def painted(*more) -> np.ndarray:
        done = diffusion("generate", "a cat", *how, *more)
        assert done.returncode == 0, done.stderr
        return pixels(json.loads(done.stdout)["images"][0]["file"])

    own = pixels(picture)
    assert np.array_equal(painted("--strength", 0), own)
    changed = painted("--strength", 0.5)
    assert changed.shape == own.shape and (changed != own).mean() > 0.5
    filled = painted("--mask", tmp_path / "mask.png")
    assert np.array_equal(filled[mask == 0], own[mask == 0]) and (filled[mask > 0] != own[mask > 0]).mean() > 0.5
    grown = painted("--outpaint", "0,0,16,8")
    assert grown.shape == (72, 96, 3) and np.array_equal(grown[:56, :72], own[:56, :72])


def test_pictures_are_enlarged(diffusion, model, picture, tmp_path):
    how = ("--out", tmp_path / "large.png", "--model", model, "--steps", 4, "--scale", 1.5, "--json")
    found = json.loads(diffusion("upscale", picture, *how).stdout)
    assert (found["width"], found["height"]) == (120, 96) == Image.open(found["file"]).size
    lines = two_lines(diffusion("upscale", picture, "--out", tmp_path / "x.png", "--upscaler", model))
    assert "is no ESRGAN upscaler" in lines[0]


def test_layouts_are_inspected_and_converted(diffusion, model, tmp_path):
    facts = json.loads(diffusion("inspect", model, "--json").stdout)
    assert facts["layout"] == "safetensors" and not facts["missing"] and not facts["unexpected"]
    assert diffusion("convert", model, "--out", tmp_path / "folder", "--precision", "fp32").returncode == 0
    assert json.loads(diffusion("inspect", tmp_path / "folder", "--json").stdout)["parameters"] == facts["parameters"]
    assert (
        diffusion(
            "convert", tmp_path / "folder", "--out", tmp_path / "back.safetensors", "--precision", "fp32"
        ).returncode
        == 0
    )
    before, after = load_file(model), load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    partly = {name: each for name, each in before.items() if "out.2" not in name} | {"strange": torch.zeros(1)}
    save_file(partly, tmp_path / "partly.safetensors")
    facts = json.loads(diffusion("inspect", tmp_path / "partly.safetensors", "--json").stdout)
    assert "model.diffusion_model.out.2.weight" in facts["missing"] and facts["unexpected"] == ["strange"]
    lines = two_lines(diffusion("generate", "a cat", "--model", tmp_path / "partly.safetensors"))
    assert "model.diffusion_model.out.2" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--size", "65x64"), "the width is 65 pixels"),
        (("--size", "big"), "not WIDTHxHEIGHT"),
        (("--size", "4096x4096"), "too many"),
        (("-n", "0"), "0 pictures"),
        (("--steps", "0"), "steps is 0"),
        (("--strength", "2"), "strength is 2"),
        (("--scale", "-1"), "scale is -1"),
        (("--seed", "-1"), "the seed is -1"),
        (("--sampler", "best"), "best"),
        (("--mask", "nowhere.png"), "without a picture"),
        (("--outpaint", "8,8,8,8"), "without a picture"),
        (("--outpaint", "8"), "LEFT,TOP,RIGHT,BOTTOM"),
        (("--init-image", "nowhere.png"), "nowhere.png"),
        (("--latents-in", "nowhere.npy"), "nowhere.npy"),
        (("--like", "nowhere.png"), "nowhere.png"),
        (("--lora", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--embedding", "nowhere.pt"), "nowhere.pt"),
        (("--model", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_wrong_use_is_two_lines(diffusion, model, tmp_path, arguments, said):
    named = () if "--model" in arguments else ("--model", model)
    assert said in two_lines(diffusion("generate", "a cat", *named, "--out", tmp_path, *arguments))[0]


@pytest.mark.parametrize("prompt", ["x" * 100_000, "🦊" * 30_000])
def test_a_prompt_without_end_is_refused(diffusion, model, tmp_path, prompt):
    assert "characters" in two_lines(diffusion("generate", prompt, "--model", model, "--out", tmp_path))[0]


@pytest.mark.parametrize("prompt", ["", "🦊👩🏽‍🚒", "\x00\x07\u202e", "((((", "[a:b:", "AND", "a BREAK b"])
def test_odd_prompts_are_painted(diffusion, model, tmp_path, prompt):
    done = diffusion("generate", prompt, "--model", model, "--steps", 1, "--size", "32x32", "--out", tmp_path)
    assert done.returncode == 0, done.stderr


def test_weights_that_are_not_numbers_are_named(diffusion, model, tmp_path):
    tensors = load_file(model)
    name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    tensors[name][0, 0, 0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    lines = two_lines(diffusion("generate", "a cat", "--model", tmp_path / "nan.safetensors", "--out", tmp_path))
    assert name in lines[0]
    assert json.loads(diffusion("inspect", tmp_path / "nan.safetensors", "--json").stdout)["not_finite"] == [name]


def test_a_run_that_was_interrupted_goes_on_to_the_same_picture(diffusion, model, tmp_path, monkeypatch):
    how = ("--model", model, "--seed", 5, "--steps", 8, "--size", "64x64", "--sampler", "euler_a", "--json", "--out")
    whole = diffusion("generate", "a cat", *how, tmp_path / "whole")
    expected = pixels(json.loads(whole.stdout)["images"][0]["file"])
    plain = generate.Job.advance
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of a shell's background

    def interrupted(job: generate.Job) -> None:
        plain(job)
        if job.number == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(generate.Job, "advance", interrupted)
        stopped = diffusion("generate", "a cat", *how, tmp_path / "part")
    signal.signal(signal.SIGINT, usual)
    assert stopped.returncode == 130 and stopped.stdout == "" and stopped.stderr.endswith("interrupted\n")
    assert (tmp_path / "part" / "job.pt").is_file()
    other = diffusion("generate", "a dog", *how, tmp_path / "part", "--resume")
    assert "is another run" in two_lines(other)[0]
    went_on = diffusion("generate", "a cat", *how, tmp_path / "part", "--resume")
    assert np.array_equal(pixels(json.loads(went_on.stdout)["images"][0]["file"]), expected)
    assert not (tmp_path / "part" / "job.pt").exists()


def test_a_model_is_taught_and_paints_what_it_learnt(diffusion, model, tmp_path):
    (tmp_path / "pictures").mkdir()
    beside(tmp_path / "pictures")
    how = ("--model", model, "--precision", "fp32", "--size", 32, "--learning-rate", 0.01, "--json")
    done = diffusion("lora", "--data", tmp_path / "pictures", "--out", tmp_path / "run", "--steps", 4, *how)
    facts = json.loads(done.stdout)
    assert facts["steps"] == 4 and facts["rank"] == 16 and (tmp_path / "run" / "lora.safetensors").is_file()
    base = (
        "generate",
        "picture 3",
        "--model",
        model,
        "--size",
        "32x32",
        "--steps",
        2,
        "--seed",
        1,
        "--json",
        "--out",
        tmp_path,
    )
    painted = []
    for more in (
        (),
        ("--lora", tmp_path / "run" / "lora.safetensors"),
        ("--lora", f"{tmp_path}/run/lora.safetensors:0"),
    ):
        painted.append(pixels(json.loads(diffusion(*base, *more).stdout)["images"][0]["file"]))
    assert (painted[0] != painted[1]).any() and np.array_equal(painted[0], painted[2])
    assert "rank is 0" in two_lines(diffusion("lora", "--data", tmp_path / "pictures", "--rank", 0, *how))[0]


def test_a_model_is_trained_and_measured_from_the_command_line(diffusion, tmp_path, monkeypatch, needs_data):
    needs_data("mnist")
    monkeypatch.setitem(recipe.PRESETS, "cpu", SCENES)
    run = ("--seed", 1, "--device", "cpu", "--json")
    done = diffusion("train-vae", "--out", tmp_path / "vae", "--steps", 2, *run)
    assert json.loads(done.stdout)["steps"] == 2, done.stderr
    done = diffusion("train", "--vae", tmp_path / "vae", "--out", tmp_path / "model", "--steps", 2, *run)
    assert "vocabulary" not in json.loads(done.stdout), done.stderr
    start = ("--start", tmp_path / "model" / "model.safetensors")
    done = diffusion("train", *start, "--out", tmp_path / "further", "--steps", 1, *run)
    assert json.loads(done.stdout)["start"] == "model", done.stderr
    assert "given together" in two_lines(diffusion("train", *start, "--vae", tmp_path / "vae"))[0]
    assert "neither" in two_lines(diffusion("train"))[0]
    monkeypatch.setattr(recogniser, "FIT", replace(recogniser.FIT, steps=2))
    assert diffusion("recogniser", "--out", tmp_path / "judge").returncode == 0
    measured = (
        "--model",
        tmp_path / "model" / "model.safetensors",
        "--judge",
        tmp_path / "judge" / "model.safetensors",
    )
    how = ("--steps", 2, "--scale", 1, 3, "--out", tmp_path / "sheet", "--json")
    done = diffusion("evaluate", *measured, *how, "--n", 4)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["kind"] for row in rows] == ["real", "autoencoded", "painted", "painted", "shuffled"]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("digit", "colour", "position", "all", "r_precision"))
    assert (tmp_path / "sheet" / "painted.png").is_file()
    (tmp_path / "captions.txt").write_text("a red 3 at the top left\nan orange 7 in the centre on white\n")
    rows = json.loads(diffusion("evaluate", *measured, *how, "--captions", tmp_path / "captions.txt").stdout)["rows"]
    assert [(row["kind"], row["n"]) for row in rows] == [("painted", 2), ("painted", 2), ("shuffled", 2)]
    (tmp_path / "captions.txt").write_text("a photo of a cat\n")
    lines = two_lines(diffusion("evaluate", *measured, "--captions", tmp_path / "captions.txt"))
    assert "a photo of a cat" in lines[0]
    needs_data("emoji")
    rows = json.loads(diffusion("evaluate", *measured[:2], *how, "--data", "emoji", "--n", 2).stdout)["rows"]
    assert [(row["held_out"], row["kind"], row.get("scale")) for row in rows] == [
        (held_out, *how)
        for held_out in ("tone", "style")
        for how in (("autoencoded", None), ("painted", 1.0), ("painted", 3.0))
    ]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("base", "rmse", "rmse_other"))
    refused = diffusion("evaluate", *measured, "--data", "emoji", "--captions", tmp_path / "captions.txt")
    assert "--captions are of scenes" in two_lines(refused)[0]
