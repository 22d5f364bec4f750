"""Small models that nobody trained, in every layout that people have."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from almanac.runtime import checkpoint
from almanac.stable_diffusion import data, tokenizer
from almanac.stable_diffusion.autoencoder import AutoencoderConfig
from almanac.stable_diffusion.model import Config, LatentDiffusion
from almanac.stable_diffusion.text_encoder import TextConfig
from almanac.stable_diffusion.unet import UnetConfig


def unet(channels: int = 4, seed: int = 0) -> UNet2DConditionModel:
    """A U-Net of diffusers with Stable Diffusion 1's levels and few channels."""
    torch.manual_seed(seed)
    model = UNet2DConditionModel(
        in_channels=channels,
        out_channels=4,
        block_out_channels=(32, 64, 64, 64),
        attention_head_dim=8,
        cross_attention_dim=64,
        sample_size=8,
    )
    return _stirred(model)


def autoencoder(seed: int = 1) -> AutoencoderKL:
    """An autoencoder of diffusers with Stable Diffusion 1's levels and few channels."""
    torch.manual_seed(seed)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
    )
    return _stirred(model)


def text_encoder(vocabulary: int = 49_408, seed: int = 2) -> CLIPTextModel:
    """A text encoder of transformers with few channels."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=1,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
    )
    return _stirred(CLIPTextModel(config))


def folder(path: Path, channels: int = 4) -> Path:
    """A folder of diffusers'."""
    unet(channels).save_pretrained(path / "unet")
    autoencoder().save_pretrained(path / "vae")
    text_encoder().save_pretrained(path / "text_encoder")
    return path


def _stirred(model):
    """Weights that let every path be seen, norms and biases among them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def own(path: Path, seed: int = 3) -> Path:
    """A file in the layout of our own training: three small networks that nobody trained, for pictures of 64 pixels."""
    text = TextConfig(600, 32, 1, 2, 48)
    words = tokenizer.learnt(data.load("scenes").captions(range(200)), text.vocabulary)
    unet = UnetConfig(channels=32, mults=(1, 2), blocks=1, attention=(1,), heads=2, context=32)
    config = Config(unet, AutoencoderConfig(32, (1, 1, 1), 1), replace(text, vocabulary=len(words)))
    torch.manual_seed(seed)
    facts = {"system": "stable_diffusion", "kind": "model", "data": "scenes", "size": 64}
    facts |= {"config": asdict(config), "vocabulary": words.facts()}
    checkpoint.save_weights(path, _stirred(LatentDiffusion(config)).state_dict(), facts)
    return path
