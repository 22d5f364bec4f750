"""Which caption is of which picture (CLIP, Radford et al. 2021, §2.3): what a text encoder learns before a U-Net reads it, whose own loss
hardly asks what words say (docs/log.md)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.stable_diffusion.text_encoder import TextEncoder

_BLUR = 0.1
"""Noise in latents from which captions are told, so that their finest detail does not tell which picture it is."""


class Matcher(nn.Module):
    """A text encoder, and a small network that sees latents.

    Args:
        text_encoder: learns.
        latents: channels of the pictures' latents.
        width: numbers that a caption and a picture are compared by.
    """

    def __init__(self, text_encoder: TextEncoder, latents: int, width: int = 128):
        super().__init__()
        self.text_encoder = text_encoder
        self.say = nn.Linear(text_encoder.config.width, width)
        self.look = nn.Sequential(
            nn.Conv2d(latents, 64, 3, 2, 1), nn.GELU(), nn.Conv2d(64, 128, 3, 2, 1), nn.GELU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128 * 16, 256), nn.GELU(), nn.Linear(256, width),
        )  # fmt: skip
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, latents: Float[Tensor, "batch channels height width"], tokens: Int[Tensor, "batch words"]
    ) -> Float[Tensor, "batch batch"]:
        """How well each caption (a row) fits each picture: logits."""
        said = F.normalize(self.say(self.text_encoder(tokens).mean(1)).float(), dim=1)
        seen = F.normalize(self.look(latents).float(), dim=1)
        return self.sharpness.exp().clamp(max=100) * said @ seen.T


def matching_loss(scale: float) -> Callable[[nn.Module, tuple[Tensor, Tensor, Tensor], torch.Generator], Tensor]:
    """The loss of a `Matcher`: each caption is to find its picture, and each picture its caption.

    Args:
        scale: of latents.
    """

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
        mean, deviation, tokens = batch
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        logits = model(scale * mean + (scale * deviation + _BLUR) * noise, tokens)
        own = torch.arange(len(logits), device=logits.device)
        return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))

    return loss
