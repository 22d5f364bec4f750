"""Small models that nobody trained, in every layout that people have."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


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
