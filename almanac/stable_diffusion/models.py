"""A model that is ready to paint: found by name, whatever its layout, with the vocabulary of its prompts."""

from dataclasses import dataclass
from pathlib import Path

import torch

from almanac.runtime import device as devices
from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.stable_diffusion import lora, published, tokenizer
from almanac.stable_diffusion.generate import Painter
from almanac.stable_diffusion.model import LatentDiffusion
from almanac.stable_diffusion.tokenizer import Vocabulary


@dataclass(frozen=True)
class PaintingModel:
    """A model with what belongs to it."""

    name: str
    network: LatentDiffusion
    vocabulary: Vocabulary
    size: int
    """Pixels of a side that it was trained on."""


def path_of(name: str) -> Path:
    """Where a model lies.

    Args:
        name: a file of the official layout, a folder of diffusers', `hf://owner/repo` or `hf://owner/repo/file`.

    Raises:
        UserError: there is none of that name, or it can't be had.
    """
    if Path(name).is_dir() or (name.startswith("hf://") and name.count("/") == 3):
        return hub.repository(name, published.FILES)
    return hub.weights(name)


def load(name: str, precision: str = "auto", device: str = "auto") -> PaintingModel:
    """Load a model.

    Args:
        name: as `path_of` takes it.
        precision: of weights: fp32, bf16, fp16; auto: bf16 where it is fast.
        device: auto, cpu or cuda.

    Raises:
        UserError: there is none of that name, or it is damaged or no Stable Diffusion 1.
    """
    path, where = path_of(name), devices.resolve(device)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in ("auto", *kinds):
        raise UserError(f"unknown precision '{precision}'", "use auto, fp32, bf16 or fp16")
    if precision == "auto":
        precision = "bf16" if devices.has_fast_bfloat16(where) else "fp32"
    network = published.load(path, kinds[precision]).to(where)
    words = path / "tokenizer" if (path / "tokenizer" / "merges.txt").is_file() else None
    short = name.rstrip("/").rsplit("/", 1)[-1].removesuffix(path.suffix)
    return PaintingModel(short, network, tokenizer.published(words), 512)


def painter(
    model: PaintingModel,
    loras: tuple[str, ...] = (),
    embeddings: tuple[Path, ...] = (),
    tiled: bool = False,
) -> Painter:
    """A model with what people add to it.

    Args:
        model: the model; its weights are changed.
        loras: files, each with how much of it behind a colon if not 1: `style.safetensors:0.6`.
        embeddings: files that teach words.
        tiled: whether pictures are decoded in tiles.

    Raises:
        UserError: a file is missing, damaged, or for another model.
    """
    adapted = lora.Adapted(model.network)
    for name in loras:
        file, _, strength = name.rpartition(":")
        if not file or not _is_number(strength):
            file, strength = name, "1"
        adapted.put_on(lora.read(Path(file), model.network), float(strength))
    words = dict(lora.taught(path, model.network.config.text.width) for path in embeddings)
    return Painter(model.network, model.vocabulary, words, tiled)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
