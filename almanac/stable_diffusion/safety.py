"""The safety checker that was published with Stable Diffusion 1: CLIP's picture tower (Radford et al. 2021) sees a picture, and it is
flagged where it lies too near one of 17 concepts that its makers chose and never named (CompVis/stable-diffusion-safety-checker; Rando
et al. 2022 say what they seem to be). Names of parameters are those of the published files. What becomes of a flagged picture is for
others to decide; `hidden` makes one that can be shown in its place."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from almanac.runtime import model_folder, pictures
from almanac.runtime.errors import UserError
from almanac.stable_diffusion.text_encoder import Layer, TextConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of red, green and blue in the pictures that CLIP was trained on (openai/CLIP, `clip/clip.py`)."""
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
CARE = 0.01
"""What is added to all later scores once a special-care concept is hit (diffusers, `safety_checker.py`)."""
DECIMALS = 3
"""To which scores are rounded before they are compared with 0 (there)."""
_WORDS = ("hidden by", "the safety", "checker")
_LEFT = 8
"""Squares of a side that a hidden picture is averaged into: colours remain, no shape does."""


@dataclass(frozen=True)
class SafetyConfig:
    """The shape of a checker; the default is that of the published one, on CLIP ViT-L/14."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    patch: int = 14
    """Pixels of a side."""
    size: int = 224
    """Pixels of a picture's side, as it is seen."""
    projection: int = 768
    concepts: int = 17
    special: int = 3
    """Concepts that make it stricter with all others."""
    quick_gelu: bool = True

    @property
    def layer(self) -> TextConfig:
        """Of each layer: they are those of the text tower, but that each patch reads all others."""
        return TextConfig(
            width=self.width, layers=self.layers, heads=self.heads, quick_gelu=self.quick_gelu, causal=False
        )


@dataclass(frozen=True)
class Flag:
    """Why a picture is flagged. Scores are by how much a cosine is above its threshold, rounded to 3 decimals."""

    concepts: dict[int, float]
    """Scores above 0, by the concept's number."""
    special: dict[int, float]
    """The same, of special-care concepts."""

    def __str__(self) -> str:
        said = [f"concept {number} (+{score:.3f})" for number, score in self.concepts.items()]
        return ", ".join(said + [f"special care {number} (+{score:.3f})" for number, score in self.special.items()])


class Checker(nn.Module):
    """Sees whether pictures should be shown.

    Args:
        config: its shape.
    """

    def __init__(self, config: SafetyConfig = SafetyConfig()):
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        self.visual_projection = nn.Linear(config.width, config.projection, bias=False)
        self.concept_embeds = nn.Parameter(torch.ones(config.concepts, config.projection))
        self.special_care_embeds = nn.Parameter(torch.ones(config.special, config.projection))
        self.concept_embeds_weights = nn.Parameter(torch.ones(config.concepts))
        self.special_care_embeds_weights = nn.Parameter(torch.ones(config.special))

    def flagged(self, pictures: Float[Tensor, "batch 3 height width"]) -> list[Flag | None]:
        """Why each picture is flagged; None: it is not. A picture is seen by itself, so that its neighbours decide nothing.

        Args:
            pictures: in [−1, 1], of any size.
        """
        found: list[Flag | None] = []
        for picture in pictures:
            concepts, special = (each[0].tolist() for each in self.scores(*self.cosines(self.seen(picture[None]))))
            over = {number: round(score, DECIMALS) for number, score in enumerate(concepts) if score > 0}
            cared = {number: round(score, DECIMALS) for number, score in enumerate(special) if score > 0}
            found.append(Flag(over, cared) if over else None)
        return found

    def seen(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Pictures as CLIP sees them: in 8 bits, the short side resized by cubics, the middle cut out, then normalised.

        Args:
            images: in [−1, 1].
        """
        size = self.config.size
        cut = torch.stack([pictures.to_tensor(_middle(pictures.to_picture(image), size), 3) for image in images])
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
        return ((cut + 1) / 2 - mean) / deviation

    @torch.inference_mode()
    def cosines(
        self, seen: Float[Tensor, "batch 3 size size"]
    ) -> tuple[Float[Tensor, "batch concepts"], Float[Tensor, "batch special"]]:
        """Of pictures with each concept, and each that needs special care.

        Args:
            seen: as `seen` makes them.
        """
        features = F.normalize(self.visual_projection(self.vision_model(seen.to(self.concept_embeds))))
        return features @ F.normalize(self.concept_embeds).T, features @ F.normalize(self.special_care_embeds).T

    def scores(
        self, concepts: Float[Tensor, "batch concepts"], special: Float[Tensor, "batch special"]
    ) -> tuple[Float[Tensor, "batch concepts"], Float[Tensor, "batch special"]]:
        """By how much cosines are above their thresholds, to 3 decimals: after a special-care concept whose score is above 0, all scores
        of that picture are higher by 0.01, those of later special-care concepts and of all others.

        Args:
            concepts: as `cosines` finds them.
            special: the same, of what needs special care.
        """
        special = special - self.special_care_embeds_weights
        hits = special.round(decimals=DECIMALS) > 0
        earlier = (hits.cumsum(1) - hits.long()) > 0
        concepts = concepts - self.concept_embeds_weights + CARE * hits.any(1, keepdim=True)
        return concepts.round(decimals=DECIMALS), (special + CARE * earlier).round(decimals=DECIMALS)


def load(folder: Path) -> Checker:
    """Load a published checker.

    Args:
        folder: diffusers' `safety_checker`, with config.json and safetensors.

    Raises:
        UserError: it is missing or damaged, or holds another network.
    """
    facts = model_folder.read_json(folder / "config.json")
    half = folder / "model.fp16.safetensors"
    only_half = half.is_file() and not list(folder.glob("model.safetensors*"))
    tensors = model_folder.read_tensors(half) if only_half else model_folder.read_weights(folder)
    tensors = {
        name.replace("vision_model.vision_model.", "vision_model."): tensor.float()
        for name, tensor in tensors.items()
        if not name.endswith("position_ids")
    }
    with torch.device("meta"):
        checker = Checker(_config(facts, tensors, folder))
    hint = "give the `safety_checker` folder of a v1 model"
    model_folder.check_weights(folder, checker.state_dict(), tensors, hint)
    checker.load_state_dict(tensors, assign=True)
    return checker.eval().requires_grad_(False)


def hidden(
    picture: Float[Tensor, "3 height width"], how: Literal["blur", "blank"] = "blur"
) -> Float[Tensor, "3 height width"]:
    """What can be shown in a flagged picture's place: it says so, and is never plain black, which looks like a failure.

    Args:
        picture: in [−1, 1].
        how: blur: 8×8 of its colours remain, from which nothing can be made out; blank: grey.
    """
    size = (picture.shape[2], picture.shape[1])
    if how == "blank":
        shown = Image.new("RGB", size, "grey")
    else:
        few = pictures.to_picture(picture).resize((_LEFT, _LEFT), Image.Resampling.BOX)
        shown = few.resize(size, Image.Resampling.BICUBIC)
    _write(shown, "\n".join(_WORDS))
    return pictures.to_tensor(shown, 3).to(picture)


class VisionModel(nn.Module):
    """What the published files call `vision_model`: CLIP's picture tower, up to what it makes of the class token.

    Args:
        config: its shape.
    """

    def __init__(self, config: SafetyConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width)  # so spelled in the files
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(config.layer) for _ in range(config.layers))})
        self.post_layernorm = nn.LayerNorm(config.width)

    def forward(self, seen: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch width"]:
        """Features of pictures."""
        x = self.pre_layrnorm(self.embeddings(seen))
        for layer in self.encoder["layers"]:  # pyright: ignore[reportGeneralTypeIssues]
            x = layer(x)
        return self.post_layernorm(x[:, 0])


class Embeddings(nn.Module):
    """Of a class token and patches, and of their places.

    Args:
        config: its shape.
    """

    def __init__(self, config: SafetyConfig):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.position_embedding = nn.Embedding((config.size // config.patch) ** 2 + 1, config.width)

    def forward(self, seen: Tensor) -> Tensor:
        """Embed."""
        patches = self.patch_embedding(seen).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_embedding.expand(len(seen), 1, -1), patches), dim=1)
        return tokens + self.position_embedding.weight


def _config(facts: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> SafetyConfig:
    """What a config.json says; where it says nothing, transformers' `CLIPConfig` means what stands here."""
    vision = facts.get("vision_config")
    if not isinstance(vision, dict):
        raise UserError(f"{folder}/config.json has no vision_config", "give the `safety_checker` folder of a v1 model")
    read = {
        name: _whole(said, key, usual, folder)
        for name, said, key, usual in (
            ("width", vision, "hidden_size", 768),
            ("layers", vision, "num_hidden_layers", 12),
            ("heads", vision, "num_attention_heads", 12),
            ("patch", vision, "patch_size", 32),
            ("size", vision, "image_size", 224),
            ("projection", facts, "projection_dim", 512),
        )
    }
    gelu, epsilon = vision.get("hidden_act", "quick_gelu"), vision.get("layer_norm_eps", 1e-5)
    if gelu not in ("quick_gelu", "gelu") or epsilon != 1e-5 or read["width"] % read["heads"]:
        what = f"{folder}/config.json has {gelu}, ε {epsilon}, and {read['heads']} heads for {read['width']} channels"
        raise UserError(what, "a checker has quick_gelu or gelu, ε 1e-5, and heads that divide the channels")
    counts = {
        name: len(tensors[f"{key}_embeds_weights"])
        for name, key in (("concepts", "concept"), ("special", "special_care"))
        if f"{key}_embeds_weights" in tensors and tensors[f"{key}_embeds_weights"].dim()
    }
    return SafetyConfig(**read, **counts, quick_gelu=gelu == "quick_gelu")


def _whole(said: dict[str, Any], key: str, usual: int, folder: Path) -> int:
    number = said.get(key, usual)
    if not isinstance(number, int) or not 1 <= number <= 10_000:
        raise UserError(f"{folder}/config.json has {key} {number}", "it is damaged; get it anew")
    return number


def _middle(picture: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, its short side resized."""
    short = min(picture.size)
    width, height = (size * side // short for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def _write(picture: Image.Image, words: str) -> None:
    """Words in the middle of a picture, white with a black rim, as large as they fit into three quarters of it."""
    draw = ImageDraw.Draw(picture)
    known = 100
    box = draw.multiline_textbbox((0, 0), words, ImageFont.load_default(known), align="center")
    size = 0.75 * known * min(picture.width / (box[2] - box[0]), picture.height / (box[3] - box[1]))
    size = max(math.floor(size), 1)
    place = (picture.width / 2, picture.height / 2)
    font, rim = ImageFont.load_default(size), max(size // 16, 1)
    draw.multiline_text(place, words, "white", font, "mm", align="center", stroke_width=rim, stroke_fill="black")
