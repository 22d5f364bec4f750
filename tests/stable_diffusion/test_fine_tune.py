"""What a few captioned pictures teach a model: that it learns, that its own weights stay, and that the file means the same to everybody."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from almanac.runtime import checkpoint
from almanac.runtime.errors import Interrupted, UserError
from almanac.stable_diffusion import data, fine_tune, lora, models, published, tokenizer
from almanac.stable_diffusion import train as scratch
from almanac.stable_diffusion.fine_tune import Adapters, Preset
from almanac.stable_diffusion.models import PaintingModel
from tests.stable_diffusion import made

QUICK = Preset(
    steps=16,
    rank=4,
    alpha=2.0,
    learning_rate=2e-2,
    batch=4,
    size=64,
    text_encoder=True,
    convolutions=True,
    save_every=8,
)
PICTURES = 20


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of stripes, whose colour their captions say."""
    folder = tmp_path_factory.mktemp("stripes")
    colours = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (250, 250, 250)}
    for number in range(PICTURES):
        name, colour = list(colours.items())[number % 4]
        pixels = np.full((40, 40, 3), 16, np.uint8)
        pixels[(np.arange(40) + number) % 8 < 4] = colour
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"stripes, {name}\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made.folder(tmp_path_factory.mktemp("diffusers"))


@pytest.fixture(scope="module")
def load(folder, tmp_path_factory):
    """A fresh model in one of the layouts: (layout) → model."""
    own = made.own(tmp_path_factory.mktemp("own") / "model.safetensors")
    words = tokenizer.learnt(["red green blue white stripes"], 600)

    def made_of(layout: str) -> PaintingModel:
        if layout == "own":
            return models.load(str(own), "fp32", "cpu")
        return PaintingModel("made", published.load(folder), words, 64)

    return made_of


@pytest.fixture(scope="module", params=["own", "published"])
def trained(request, load, pictures, tmp_path_factory):
    """A training: the model, its weights before, the run's folder and the facts."""
    out, model = tmp_path_factory.mktemp(request.param), load(request.param)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    facts = fine_tune.train(model, str(pictures), out, QUICK, device_name="cpu")
    return model, before, out, facts


def learnt(model: PaintingModel, out) -> Adapters:
    """The changes as the training itself kept them, not from the file."""
    adapters = Adapters(model.network, QUICK, torch.Generator())
    adapters.load_state_dict(checkpoint.load_state(out / "last.pt")["ema"]["weights"])
    return adapters


def asked(model: PaintingModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(3, 4, 8, 8, generator=draw)
    times = torch.tensor([3.0, 500.0, 990.0])
    return latents, times, scratch.tokens_of(model.vocabulary, ["stripes, red", "blue", ""], 48)


def alone(model: PaintingModel) -> torch.Tensor:
    latents, times, tokens = asked(model)
    with torch.no_grad():
        return model.network.unet(latents, times, model.network.text_encoder(tokens))


def loss_of(model: PaintingModel, pictures) -> float:
    """On the training pictures, averaged over many times and noises."""
    config, examples = model.network.config, data.load(str(pictures), "train", 64)
    numbers = range(len(examples))
    blank = scratch.tokens_of(model.vocabulary, [""], config.text.positions)
    loss = scratch.noise_loss(config.noise, config.autoencoder.scale, 5.0, blank)
    tokens = scratch.tokens_of(model.vocabulary, examples.captions(numbers), config.text.positions)
    with torch.no_grad():
        batch = (*model.network.autoencoder.encode(examples.pictures(numbers)), tokens)
        network = Adapters(model.network, Preset(rank=1), torch.Generator())  # detached: the model as it is
        return sum(loss(network, batch, torch.Generator().manual_seed(seed)).item() for seed in range(8)) / 8


@pytest.mark.parametrize("layout", ["own", "published"])
def test_before_training_nothing_is_changed(layout, load):
    model = load(layout)
    before, adapters = alone(model), Adapters(model.network, QUICK, torch.Generator().manual_seed(0))
    with adapters.attached(), torch.no_grad():
        assert torch.equal(adapters(*asked(model)), before)
        for adapter in adapters.values():
            torch.nn.init.normal_(adapter.lora_up.weight)
        assert not torch.equal(adapters(*asked(model)), before)
    assert torch.equal(alone(model), before)


def test_the_pictures_are_learnt(trained, pictures):
    model, _, out, _ = trained
    before = loss_of(model, pictures)
    adapted = lora.Adapted(model.network)
    adapted.put_on(lora.read(out / fine_tune.FILE, model.network))
    after = loss_of(model, pictures)
    adapted.take_off()
    assert after < 0.8 * before, (before, after)


def test_the_models_own_weights_stay(trained):
    model, before, _, _ = trained
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.network.modules())


def test_the_file_is_what_was_learnt(trained):
    model, before, out, _ = trained
    adapters = learnt(model, out)
    with adapters.attached(), torch.no_grad():
        expected = adapters(*asked(model))
    plain, adapted = alone(model), lora.Adapted(model.network)
    adapted.put_on(lora.read(out / fine_tune.FILE, model.network))
    put_on = alone(model)
    assert (put_on - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (put_on - plain).abs().max() > 1e-2
    adapted.take_off()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())
    assert torch.equal(alone(model), plain)


@pytest.mark.parametrize("trained", ["published"], indirect=True)  # diffusers has no network of the other's shape
def test_diffusers_reads_the_file_alike(trained, folder):
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin as Loader
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    model, _, out, _ = trained
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder")
    latents, times, tokens = asked(model)
    with torch.no_grad():
        plain = unet(latents, times, text(tokens).last_hidden_state).sample
    state, alphas = Loader.lora_state_dict(out / fine_tune.FILE, unet_config=unet.config)
    Loader.load_lora_into_unet(state, alphas, unet)
    Loader.load_lora_into_text_encoder(state, alphas, text)
    adapters = learnt(model, out)
    with torch.no_grad():
        theirs = unet(latents, times, text(tokens).last_hidden_state).sample
    with adapters.attached(), torch.no_grad():
        mine = adapters(latents, times, tokens)
    assert (theirs - mine).abs().max() < 1e-4
    assert (theirs - plain).abs().max() > 1e-2


def test_the_file_says_what_it_is(trained):
    model, _, out, facts = trained
    with safe_open(out / fine_tune.FILE, framework="pt") as file:
        header, names = file.metadata(), set(file.keys())
    noted = {"ss_network_dim": "4", "ss_network_alpha": "2.0", "ss_sd_model_name": model.name, "ss_steps": "16"}
    assert noted.items() <= header.items() and json.loads(header["almanac"]) == facts
    tags = next(iter(json.loads(header["ss_tag_frequency"]).values()))
    assert tags["stripes"] == 20 and len(tags) == 5
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0"
    assert {f"{layer}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")} <= names
    assert "lora_te_text_model_encoder_layers_0_self_attn_out_proj.alpha" in names
    assert "lora_unet_mid_block_resnets_0_conv1.lora_down.weight" in names
    with pytest.raises(UserError, match="no whole model"):
        models.load(str(out / fine_tune.FILE), device="cpu")


def test_an_interrupted_run_goes_on_to_the_same_file(load, pictures, tmp_path, monkeypatch):
    preset = replace(QUICK, size=32)

    def run(out, resume: bool = False) -> dict[str, torch.Tensor]:
        fine_tune.train(load("own"), str(pictures), out, preset, seed=5, device_name="cpu", resume=resume)
        return published.tensors_of(out / fine_tune.FILE)

    through = run(tmp_path / "through")
    calls = []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return scratch.tokens_of(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(fine_tune, "tokens_of", stopping)
        run(tmp_path / "stopped")
    assert not (tmp_path / "stopped" / fine_tune.FILE).exists()
    assert checkpoint.load_state(tmp_path / "stopped" / "last.pt")["step"] < preset.steps
    stopped = run(tmp_path / "stopped", resume=True)
    assert stopped.keys() == through.keys()
    assert all(torch.equal(stopped[name], tensor) for name, tensor in through.items())


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_blocks_that_are_computed_again_give_the_same_gradients(kind, load):
    model = load("own")
    model.network.to(kind)
    adapters = Adapters(model.network, QUICK, torch.Generator().manual_seed(0))
    for adapter in adapters.values():
        torch.nn.init.normal_(adapter.lora_up.weight, std=0.05)
    found = []
    for frugal in (False, True):
        with adapters.attached(frugal):
            adapters(*asked(model)).square().mean().backward()
        found.append([parameter.grad for parameter in adapters.parameters()])
        adapters.zero_grad()
    assert all(torch.equal(kept, again) and kept.any() for kept, again in zip(*found, strict=True))
    assert all("forward" not in vars(each) for each in model.network.modules())
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_only_what_is_asked_for_learns(load):
    network = load("published").network
    plain, words, locon = (
        set(Adapters(network, preset, torch.Generator()))
        for preset in (Preset(), Preset(text_encoder=True), Preset(convolutions=True))
    )
    assert len(plain) == 16 * 8 and all("_attn" in name for name in plain)  # 16 blocks, two attentions of four each
    assert {name.split("_self_attn")[0] for name in words - plain} == {
        f"lora_te_text_model_encoder_layers_{number}" for number in range(3)
    }
    assert len(locon - plain) == 22 * 2 + 3 + 3  # residual blocks, and what halves and doubles
    assert not any("conv_in" in name or "conv_out" in name for name in locon)


def test_what_can_not_be_trained_is_refused(load, pictures, folder, tmp_path):
    for name in ("steps", "rank", "batch"):
        with pytest.raises(UserError, match=f"{name} is 0"):
            Preset(**{name: 0})
    for name, value in {"alpha": 0.0, "learning_rate": float("nan")}.items():
        with pytest.raises(UserError, match=f"{name} is {value}"):
            Preset(**{name: value})
    model = load("own")
    with pytest.raises(UserError, match="size is 30") as refused:
        fine_tune.train(model, str(pictures), tmp_path, Preset(size=30))
    assert "32" in refused.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no captioned pictures"):
        fine_tune.train(model, str(tmp_path / "empty"), tmp_path, QUICK)
    repaints = published.load(made.folder(tmp_path / "repaints", channels=9))
    with pytest.raises(UserError, match="reads 9 channels"):
        fine_tune.train(PaintingModel("repaints", repaints, model.vocabulary, 64), str(pictures), tmp_path, QUICK)
    assert not (tmp_path / fine_tune.FILE).exists()
