"""Whole pipelines with random weights and the same noise give the latents and pixels of diffusers'."""

import diffusers
import pytest
import torch

from almanac.stable_diffusion import published
from almanac.stable_diffusion.generate import Given, Painter, Settings
from almanac.stable_diffusion.noise import GaussianNoise
from tests.stable_diffusion import made
from tests.stable_diffusion.test_samplers import PEERS, SEEDS

NEAR = 1e-4
"""Of the largest latent. What networks of random weights make of a last digit in 20 steps depends on the processor's convolutions: up to
2e-5 with AVX-512, 1e-4 with PyTorch's own on AVX2."""
PROMPT, NEGATIVE = "a photo of a cat, sitting on a red chair", "blurry"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {channels: made.folder(tmp_path_factory.mktemp("diffusers"), channels) for channels in (4, 9)}


def pipeline(kind, folder, vocabulary, scheduler):
    from transformers import CLIPTextModel, CLIPTokenizer

    merges = vocabulary.merges
    made = kind(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer(vocab=vocabulary.tokenizer.get_vocab(), merges=merges, model_max_length=77),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def generators():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


@pytest.mark.parametrize("which", PEERS)
def test_text_to_image(which, folders, vocabulary):
    name, *kind = which.split()
    peer = pipeline(diffusers.StableDiffusionPipeline, folders[4], vocabulary, PEERS[which]())
    painter = Painter(published.load(folders[4]), vocabulary)
    settings = Settings(PROMPT, NEGATIVE, 64, 48, 20, 7.5, name, "karras" if kind else "auto")
    asked = {
        "prompt": [PROMPT] * 2,
        "negative_prompt": [NEGATIVE] * 2,
        "width": 64,
        "height": 48,
        "num_inference_steps": 20,
    }
    expected = peer(**asked, guidance_scale=7.5, generator=generators(), output_type="latent").images
    job = painter.job(settings, SEEDS)
    if name == "dpmpp_2m_sde":  # diffusers draws its noise anew at each step, k-diffusion along a path
        job._run.noise = GaussianNoise(SEEDS, job.x.shape[1:], torch.device("cpu"))
        job._run.noise.draw()
    while not job.done:
        job.advance()
    far = (job.latents() - expected).abs().max() / expected.abs().max()
    assert far < (2e-4 if name == "dpmpp_sde" else 1e-5)  # a path that is read a hair beside is other noise


def both(job):
    """Latents and pixels of a job."""
    while not job.done:
        job.advance()
    return job.latents(), job.painter.decode(job.latents())


def picture(seed=0, height=48, width=64):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("which", ["ddim", "euler", "dpm2_a", "dpmpp_2m karras"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_image_to_image(which, strength, folders, vocabulary):
    name, *kind = which.split()
    peer = pipeline(diffusers.StableDiffusionImg2ImgPipeline, folders[4], vocabulary, PEERS[which]())
    painter = Painter(published.load(folders[4]), vocabulary)
    settings = Settings(PROMPT, NEGATIVE, 64, 48, 20, 7.5, name, "karras" if kind else "auto", strength=strength)
    asked = {"prompt": [PROMPT] * 2, "negative_prompt": [NEGATIVE] * 2, "num_inference_steps": 20}
    images = torch.stack([picture()] * 2) / 2 + 0.5
    expected = peer(**asked, image=images, strength=strength, generator=generators(), output_type="latent").images
    latents, _ = both(painter.job(settings, SEEDS, Given(picture())))
    assert (latents - expected).abs().max() < NEAR * expected.abs().max()


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_inpainting(channels, strength, folders, vocabulary):
    peer = pipeline(diffusers.StableDiffusionInpaintPipeline, folders[channels], vocabulary, PEERS["ddim"]())
    painter = Painter(published.load(folders[channels]), vocabulary)
    settings = Settings(PROMPT, NEGATIVE, 64, 48, 20, 7.5, "ddim", strength=strength)
    mask = torch.zeros(48, 64)
    mask[8:32, 16:56] = 1
    asked = {
        "prompt": [PROMPT] * 2,
        "negative_prompt": [NEGATIVE] * 2,
        "num_inference_steps": 20,
        "width": 64,
        "height": 48,
    }
    images = torch.stack([picture()] * 2) / 2 + 0.5
    holes = torch.stack([mask[None]] * 2)
    expected = peer(
        **asked, image=images, mask_image=holes, strength=strength, generator=generators(), output_type="latent"
    ).images
    job = painter.job(settings, SEEDS, Given(picture(), mask))
    latents, _ = both(job)
    assert (latents - expected).abs().max() < NEAR * expected.abs().max()
    outside = mask < 0.5
    assert torch.equal(job.pictures()[..., outside], torch.stack([picture()] * 2)[..., outside])
