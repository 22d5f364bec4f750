"""Which caption is of which picture, word by word (FILIP, Yao et al. 2022): what a text encoder learns before a U-Net reads it, whose own
loss hardly asks what words say. A caption fits a picture as well as its words, on average, fit the cells that each fits best; compared as
wholes (CLIP, Radford et al. 2021), colours and digits are not told apart (docs/log.md)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.runtime import device
from almanac.stable_diffusion.text_encoder import TextEncoder

_BLUR = 0.1
"""Noise in latents from which captions are told, so that their finest detail does not tell which picture it is."""


class Matcher(nn.Module):
    """A text encoder, and a small network that sees latents.

    Args:
        text_encoder: learns.
        end: the token that ends a caption and fills what is left of its line.
        latents: channels of the pictures' latents.
        side: their height and width.
        width: numbers that a word and a cell of a picture are compared by.
    """

    def __init__(self, text_encoder: TextEncoder, end: int, latents: int, side: int, width: int = 96):
        super().__init__()
        self.text_encoder, self.end = text_encoder, end
        self.say = nn.Linear(text_encoder.config.width, width)
        self.see = nn.Sequential(
            nn.Conv2d(latents, 64, 3, 1, 1), nn.GELU(), nn.Conv2d(64, 128, 3, 2, 1), nn.GELU(),
            nn.Conv2d(128, 128, 3, 1, 1), nn.GELU(),
        )  # fmt: skip
        cells = -(-side // 2)
        self.places = nn.Parameter(0.02 * torch.randn(1, 128, cells, cells))
        self.tell = nn.Sequential(nn.Conv2d(128, 128, 1), nn.GELU(), nn.Conv2d(128, width, 1))
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, latents: Float[Tensor, "pictures channels height width"], tokens: Int[Tensor, "captions words"]
    ) -> Float[Tensor, "captions pictures"]:
        """How well each caption (a row) fits each picture: logits."""
        words = tokens != self.end
        longest = int(words.sum(1).max()) + 1
        tokens, words = tokens[:, :longest], words[:, :longest]
        said = F.normalize(self.say(self.text_encoder(tokens)).float(), dim=2)
        seen = F.normalize(self.tell(self.see(latents) + self.places).float().flatten(2), dim=1)
        with torch.autocast(said.device.type, enabled=False):
            best = torch.einsum("cwn,pns->cpws", said, seen).amax(3)
        fits = (best * words[:, None]).sum(2) / words.sum(1)[:, None]
        return self.sharpness.exp().clamp(max=100) * fits


def matching_loss(scale: float) -> Callable[[nn.Module, tuple[Tensor, Tensor, Tensor], torch.Generator], Tensor]:
    """The loss of a `Matcher`: each caption is to find its picture, and each picture its caption.

    Args:
        scale: of latents.
    """

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
        mean, deviation, tokens = batch
        noise = device.send(torch.randn(mean.shape, generator=generator), mean.device)
        logits = model(scale * mean + (scale * deviation + _BLUR) * noise, tokens)
        own = torch.arange(len(logits), device=logits.device)
        return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))

    return loss
