"""Changes and words that people share do to our models what they do to diffusers' pipelines; taken off, they leave nothing behind."""

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from almanac.runtime.errors import UserError
from almanac.stable_diffusion import lora, published
from almanac.stable_diffusion.generate import Painter, Settings
from tests.parity.test_diffusers_pipelines import PROMPT, pipeline
from tests.stable_diffusion import made
from tests.stable_diffusion.test_samplers import PEERS

RANK = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made.folder(tmp_path_factory.mktemp("diffusers"))


def changes(folder, convolutions: bool) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Random ones of a model's attention and feed-forward layers, and convolutions: diffusers' name → (down, up, alpha)."""
    model = published.load(folder)
    draw = torch.Generator().manual_seed(0)
    found = {}
    weights = [name for name in model.state_dict() if name.endswith(".weight")]
    for official, theirs in published.diffusers_names(weights, model.config):
        weight = model.state_dict()[official]
        part = "unet" if official.startswith(published.UNET) else "text_encoder"
        attends = any(each in theirs for each in ("attn1", "attn2", "self_attn", "ff.net", "mlp.fc"))
        convolves = convolutions and part == "unet" and "resnets" in theirs and ".conv" in theirs
        if official.startswith(published.AUTOENCODER) or not ((attends and weight.dim() == 2) or convolves):
            continue
        down = torch.randn(RANK, *weight.shape[1:], generator=draw) * 0.2
        up = torch.randn(len(weight), RANK, *[1] * (weight.dim() - 2), generator=draw) * 0.2
        found[f"{part}.{theirs.removesuffix('.weight')}"] = (down, up, 2.0)
    return found


def kohya(found) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (down, up, alpha) in found.items():
        name = name.replace("unet.", "lora_unet_", 1).replace("text_encoder.", "lora_te_", 1).replace(".", "_")
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(alpha),
        }
    return tensors


def peft(found) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (down, up, alpha) in found.items():
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up * alpha / RANK}
    return tensors


def latents(painter, settings):
    job = painter.job(settings, [1])
    while not job.done:
        job.advance()
    return job.latents()


@pytest.mark.parametrize("layout", [kohya, peft])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_changes_are_those_of_diffusers(layout, strength, folder, vocabulary, tmp_path):
    tensors = layout(changes(folder, convolutions=layout is kohya))
    save_file(tensors, tmp_path / "style.safetensors")
    peer = pipeline(diffusers.StableDiffusionPipeline, folder, vocabulary, PEERS["euler"]())
    peer.load_lora_weights(str(tmp_path / "style.safetensors"), adapter_name="style")
    peer.set_adapters(["style"], [strength])
    asked = {"prompt": PROMPT, "width": 64, "height": 64, "num_inference_steps": 10, "guidance_scale": 7.5}
    expected = peer(**asked, generator=torch.Generator().manual_seed(1), output_type="latent").images
    model = published.load(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = Settings(PROMPT, "", 64, 64, 10, sampler="euler")
    plain = latents(Painter(model, vocabulary), settings)
    adapted = lora.Adapted(model)
    adapted.put_on(lora.read(tmp_path / "style.safetensors", model), strength)
    changed = latents(Painter(model, vocabulary), settings)
    assert (changed - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (changed - plain).abs().max() > 0.1
    adapted.take_off()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("layout", ["web ui", "diffusers", "safetensors"])
def test_taught_words_are_those_of_diffusers(layout, folder, vocabulary, tmp_path):
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    if layout == "web ui":
        path = tmp_path / "zqx.pt"
        torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "zqx"}, path)
    elif layout == "diffusers":
        path = tmp_path / "learned_embeds.bin"
        torch.save({"zqx": vectors}, path)
    else:
        path = tmp_path / "zqx.safetensors"
        save_file({"emb_params": vectors}, path)
    word, found = lora.taught(path, 64)
    assert word == "zqx" and torch.equal(found, vectors)
    peer = pipeline(diffusers.StableDiffusionPipeline, folder, vocabulary, PEERS["euler"]())
    peer.load_textual_inversion(str(path), token="zqx")
    prompt = "a photo of zqx on a chair"
    asked = {"prompt": prompt, "width": 64, "height": 64, "num_inference_steps": 10, "guidance_scale": 7.5}
    expected = peer(**asked, generator=torch.Generator().manual_seed(1), output_type="latent").images
    painter = Painter(published.load(folder), vocabulary, {word: found})
    mine = latents(painter, Settings(prompt, "", 64, 64, 10, sampler="euler"))
    assert (mine - expected).abs().max() < 1e-5 * expected.abs().max()


def test_what_does_not_fit_is_refused(folder, tmp_path):
    model = published.load(folder)
    good = kohya(changes(folder, convolutions=False))
    name = next(each for each in good if each.endswith("lora_down.weight"))
    wrong = {
        "another model's": {name.replace("lora_unet_", "lora_unet_xl_").replace("lora_te_", "lora_te2_"): good[name]},
        "half": {key: tensor for key, tensor in good.items() if key != name},
        "of another size": {**good, name: torch.zeros(RANK, 7)},
        "not finite": {**good, name: torch.full_like(good[name], torch.nan)},
    }
    for what, tensors in wrong.items():
        save_file(tensors, tmp_path / "style.safetensors")
        with pytest.raises(UserError):
            lora.read(tmp_path / "style.safetensors", model)
            pytest.fail(what)
    save_file({"emb_params": torch.zeros(2, 768)}, tmp_path / "thing.safetensors")
    with pytest.raises(UserError, match="768"):
        lora.taught(tmp_path / "thing.safetensors", 64)
