"""Our networks are Stable Diffusion 1's: names and shapes are the official ones, and random weights give what diffusers and
transformers make of them."""

import pytest
import torch

from almanac.stable_diffusion import published
from almanac.stable_diffusion.model import LatentDiffusion
from tests.stable_diffusion import made

OFFICIAL = {
    published.UNET: (686, 859_520_964),
    published.AUTOENCODER: (248, 83_653_863),
    published.TEXT: (196, 123_060_480),
}


def test_names_and_sizes_are_the_official_ones():
    with torch.device("meta"):
        state = LatentDiffusion().state_dict()
    for beginning, (count, parameters) in OFFICIAL.items():
        mine = [tensor for name, tensor in state.items() if name.startswith(beginning)]
        assert (len(mine), sum(tensor.numel() for tensor in mine)) == (count, parameters)
    assert len(state) == sum(count for count, _ in OFFICIAL.values())


@pytest.fixture(scope="module", params=[4, 9])
def folder(request, tmp_path_factory):
    return made.folder(tmp_path_factory.mktemp("diffusers"), request.param)


def test_networks_compute_what_diffusers_and_transformers_do(folder):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    model = published.load(folder)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 49_408, (2, 77), generator=draw)
    words = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()(tokens).last_hidden_state
    assert (model.text_encoder(tokens) - words).abs().max() < 1e-5
    theirs = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    latents = torch.randn(2, model.config.unet.in_channels, 16, 24, generator=draw)
    times = torch.tensor([999.0, 17.5])
    noise = theirs(latents, times, words).sample
    assert (model.unet(latents, times, words) - noise).abs().max() < 1e-5
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    pictures = torch.rand(2, 3, 48, 64, generator=draw) * 2 - 1
    mean, deviation = model.autoencoder.encode(pictures)
    expected = vae.encode(pictures).latent_dist
    assert (mean - expected.mean).abs().max() < 1e-5 and (deviation - expected.std).abs().max() < 1e-5
    assert (model.autoencoder.decode(mean) - vae.decode(mean).sample).abs().max() < 5e-5  # norms amplify


def test_folders_that_we_write_are_read_by_diffusers(folder, tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    model = published.load(folder)
    published.save_folder(model, tmp_path / "ours", torch.float32)
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextModel)):
        before, after = (kind.from_pretrained(path / name).state_dict() for path in (folder, tmp_path / "ours"))
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
