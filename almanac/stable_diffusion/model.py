"""A latent diffusion model whole: the U-Net, the autoencoder and the text encoder under the names that they have in the official files,
and the noise that it was trained with (Rombach et al. 2022; the published v1 models)."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from almanac.stable_diffusion.autoencoder import Autoencoder, AutoencoderConfig
from almanac.stable_diffusion.text_encoder import TextConfig, TextEncoder
from almanac.stable_diffusion.unet import Unet, UnetConfig


@dataclass(frozen=True)
class NoiseConfig:
    """How noisy latents become, by betas whose roots are evenly spaced; and what the U-Net says of them."""

    steps: int = 1000
    first: float = 0.00085
    last: float = 0.012
    predicts: Literal["noise", "velocity"] = "noise"
    """The noise ε, as the published v1 models; or v = √ᾱ ε − √(1 − ᾱ) z (Salimans and Ho 2022), which also says in heavy noise what the
    latents z are, so that captions are understood sooner."""


@dataclass(frozen=True)
class Config:
    """The shape of a model; the default is Stable Diffusion 1's."""

    unet: UnetConfig = field(default_factory=UnetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text: TextConfig = field(default_factory=TextConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)


class LatentDiffusion(nn.Module):
    """The three networks.

    Args:
        config: their shapes.
    """

    def __init__(self, config: Config = Config()):
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({"diffusion_model": Unet(config.unet)})
        self.first_stage_model = Autoencoder(config.autoencoder)
        self.cond_stage_model = nn.ModuleDict({"transformer": TextEncoder(config.text)})

    @property
    def unet(self) -> Unet:
        """Predicts noise."""
        return self.model["diffusion_model"]  # pyright: ignore[reportReturnType]

    @property
    def autoencoder(self) -> Autoencoder:
        """Pictures to latents and back."""
        return self.first_stage_model

    @property
    def text_encoder(self) -> TextEncoder:
        """Tokens to features."""
        return self.cond_stage_model["transformer"]  # pyright: ignore[reportReturnType]


def signal(config: NoiseConfig = NoiseConfig()) -> Float[Tensor, " steps"]:
    """How much of the signal's variance is left at each step, ᾱ; in float32, as diffusers computes it: a Brownian path that is read a hair
    beside is other noise."""
    roots = torch.linspace(config.first**0.5, config.last**0.5, config.steps)
    return (1 - roots**2).cumprod(0)
