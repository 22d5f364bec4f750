"""Every layout that people have is read whole; damage and hostility have their errors."""

import json
import os
import pickle
import shutil
import sys
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

from almanac.runtime.errors import UserError
from almanac.stable_diffusion import published
from tests.stable_diffusion import made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made.folder(tmp_path_factory.mktemp("diffusers"))


@pytest.fixture(scope="module")
def model(folder):
    return published.load(folder)


def tensors(model) -> dict[str, torch.Tensor]:
    """Its weights, as files hold them."""
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def same(one, other) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def beside(model) -> dict[str, torch.Tensor]:
    """What official files hold beside the networks' weights."""
    return {
        "betas": torch.zeros(1000),
        "alphas_cumprod": torch.zeros(1000),
        "sqrt_recipm1_alphas_cumprod": torch.zeros(1000),
        "posterior_mean_coef1": torch.zeros(1000),
        "first_stage_model.loss.logvar": torch.zeros(1),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }


def test_a_single_file_is_read_back(model, tmp_path):
    published.save(model, tmp_path / "model.safetensors", torch.float32)
    found = published.read(tmp_path / "model.safetensors")
    assert found.layout == "safetensors" and not (
        found.missing or found.unexpected or found.mismatched or found.averaged
    )
    assert same(published.load(tmp_path / "model.safetensors"), model)
    published.save(model, tmp_path / "half.safetensors", torch.float16)
    assert published.load(tmp_path / "half.safetensors").unet.out[2].weight.dtype == torch.float32


def test_what_lies_beside_weights_is_no_surprise(model, tmp_path):
    save_file({**tensors(model), **beside(model), "stranger": torch.zeros(1)}, tmp_path / "model.safetensors")
    found = published.read(tmp_path / "model.safetensors")
    assert found.unexpected == ("stranger",) and not found.missing


def test_averaged_weights_are_preferred(model, tmp_path):
    state = tensors(model)
    averaged = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in state.items()
        if name.startswith(published.UNET)
    }
    extra = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    save_file({**state, **averaged, **extra}, tmp_path / "full.safetensors")
    found = published.read(tmp_path / "full.safetensors")
    assert found.averaged and not found.unexpected
    name = f"{published.UNET}out.2.weight"
    assert torch.equal(found.tensors[name], state[name] + 1)
    name = f"{published.AUTOENCODER}quant_conv.weight"
    assert torch.equal(found.tensors[name], state[name])


def test_text_keys_of_new_files_are_read(model, tmp_path):
    old, new = f"{published.TEXT}text_model.", published.TEXT
    renamed = {name.replace(old, new): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(renamed, tmp_path / "new.safetensors")
    assert same(published.load(tmp_path / "new.safetensors"), model)


def test_a_trainers_file_is_read_without_its_trainer(model, tmp_path, monkeypatch):
    class ModelCheckpoint:
        def __init__(self):
            self.best = 1.5

    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    vars(module)["ModelCheckpoint"] = ModelCheckpoint
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        state = {"state_dict": model.state_dict(), "epoch": 3, "callbacks": {ModelCheckpoint: ModelCheckpoint()}}
        torch.save(state, tmp_path / "model.ckpt")
    assert published.read(tmp_path / "model.ckpt").layout == "ckpt"
    assert same(published.load(tmp_path / "model.ckpt"), model)


def test_code_in_a_file_is_refused_and_named(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"state_dict": {"x": torch.zeros(1)}, "callbacks": Hostile()}, tmp_path / "hostile.ckpt")
    with pytest.raises(UserError, match="system"):
        published.read(tmp_path / "hostile.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError):
        published.read(tmp_path / "old.ckpt")
    assert not (tmp_path / "ran").exists()


def test_damage_has_its_error(model, folder, tmp_path):
    whole = tmp_path / "model.safetensors"
    published.save(model, whole, torch.float16)
    blob = whole.read_bytes()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "whole.ckpt")
    for name, content in {
        "short.safetensors": blob[: len(blob) // 2],
        "empty.safetensors": b"",
        "words.safetensors": b"hello" * 100,
        "short.ckpt": (tmp_path / "whole.ckpt").read_bytes()[:50_000],
        "empty.ckpt": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            published.read(tmp_path / name)
    with pytest.raises(UserError, match="no checkpoint"):
        published.read(tmp_path / "nowhere.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no Stable Diffusion"):
        published.read(tmp_path / "other.safetensors")


def test_a_model_that_is_not_whole_is_refused(model, tmp_path):
    state = tensors(model)
    name = f"{published.UNET}input_blocks.1.0.in_layers.2.weight"
    path = tmp_path / "model.safetensors"
    save_file({key: tensor for key, tensor in state.items() if key != name}, path)
    assert published.read(path).missing == (name,)
    with pytest.raises(UserError, match=r"input_blocks\.1\.0\.in_layers\.2\.weight is missing"):
        published.load(path)
    save_file({**state, name: torch.zeros(32, 32, 1, 1)}, path)
    with pytest.raises(UserError, match="32×32×1×1, not 32×32×3×3"):
        published.load(path)
    save_file({**state, name: torch.full_like(state[name], torch.nan)}, path)
    with pytest.raises(UserError, match=rf"{name.replace('.', '[.]')} holds numbers that are not finite"):
        published.load(path)


def test_an_old_folder_is_read(model, folder, tmp_path):
    """Weights as pickles, and the autoencoder's attention by the names of 2022."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for file in copy.glob("*/*.safetensors"):
        tensors = load_file(file)
        for now, then in old.items() if file.parent.name == "vae" else ():
            tensors = {name.replace(now, then): tensor for name, tensor in tensors.items()}
        torch.save(tensors, file.with_suffix(".bin"))
        file.unlink()
    assert same(published.load(copy), model)


def test_code_in_a_folder_is_refused(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"x": torch.zeros(1), "y": Hostile()}, copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="could run code"):
        published.read(copy)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_ours_is_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    facts = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps({**facts, "use_linear_projection": True}))
    with pytest.raises(UserError, match="not Stable Diffusion 1"):
        published.read(copy)
    (copy / "unet" / "config.json").write_text(json.dumps({"in_channels": 4}))
    with pytest.raises(UserError, match="config"):
        published.read(copy)
    (copy / "unet" / "config.json").write_text(json.dumps({**facts, "block_out_channels": [33, 66, 66, 66]}))
    with pytest.raises(UserError, match="shape that can't be"):
        published.read(copy)
    (copy / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError):
        published.read(copy)
    shutil.rmtree(copy / "vae")
    with pytest.raises(UserError):
        published.read(copy)
