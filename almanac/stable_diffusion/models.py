"""A model that is ready to paint: found by name, whatever its layout, with the vocabulary of its prompts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from almanac.runtime import checkpoint, hub
from almanac.runtime import device as devices
from almanac.runtime.errors import UserError
from almanac.stable_diffusion import lora, published, safety, tokenizer
from almanac.stable_diffusion.autoencoder import Autoencoder, AutoencoderConfig
from almanac.stable_diffusion.generate import Painter
from almanac.stable_diffusion.model import Config, LatentDiffusion, NoiseConfig
from almanac.stable_diffusion.safety import Checker
from almanac.stable_diffusion.text_encoder import TextConfig
from almanac.stable_diffusion.tokenizer import Vocabulary
from almanac.stable_diffusion.unet import UnetConfig

SYSTEM = "stable_diffusion"
DEFAULT = "scenes"
"""The shipped model that is taken where none is named."""


@dataclass(frozen=True)
class PaintingModel:
    """A model with what belongs to it."""

    name: str
    network: LatentDiffusion
    vocabulary: Vocabulary
    size: int
    """Pixels of a side that it was trained on."""
    guidance: float = 7.5
    """The scale of guidance that suits it."""
    checker: Checker | None = None
    """Sees whether its pictures should be shown, where one was published with it."""


def path_of(name: str) -> Path:
    """Where a model lies.

    Args:
        name: of a shipped model (`scenes`), a file of the official layout or of our training, a folder of diffusers', `hf://owner/repo`
            or `hf://owner/repo/file`.

    Raises:
        UserError: there is none of that name, or it can't be had.
    """
    if Path(name).is_dir() or (name.startswith("hf://") and name.count("/") == 3):
        return hub.repository(name, published.FILES)
    own = f"{SYSTEM}/{name}"
    return hub.weights(own if own in hub.shipped_weights(SYSTEM) else name)


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
    short = name.rstrip("/").rsplit("/", 1)[-1].removesuffix(path.suffix)
    if is_own(path):
        model = _own(path, short)
        return replace(model, network=model.network.to(where, kinds[precision]))
    network = published.load(path, kinds[precision]).to(where)
    words = path / "tokenizer" if (path / "tokenizer" / "merges.txt").is_file() else None
    judge = path / "safety_checker"
    checker = safety.load(judge) if (judge / "config.json").is_file() else None
    return PaintingModel(short, network, tokenizer.published(words), 512, checker=checker)


def is_own(path: Path) -> bool:
    """Whether a file is of our training."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "almanac" in (file.metadata() or {})
    except Exception:  # damaged: whoever reads it whole says so
        return False


def autoencoder(path: Path) -> tuple[Autoencoder, dict[str, Any]]:
    """An autoencoder of our training, or that of a whole model, and what its weights say of themselves.

    Raises:
        UserError: it is missing, damaged, or something else.
    """
    tensors, facts = checkpoint.load_weights(path, SYSTEM)
    try:
        made = Autoencoder(_config(AutoencoderConfig, facts["config"].get("autoencoder", facts["config"])))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} holds no autoencoder", "train one with `almanac stable-diffusion train-vae`") from None
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(published.AUTOENCODER)}
    _fill(made, {name.removeprefix(published.AUTOENCODER): tensor for name, tensor in own.items()}, path)
    return made.eval().requires_grad_(False), facts


def _own(path: Path, name: str) -> PaintingModel:
    """A model of our training."""
    tensors, facts = checkpoint.load_weights(path, SYSTEM)
    try:
        parts = {"unet": UnetConfig, "autoencoder": AutoencoderConfig, "text": TextConfig, "noise": NoiseConfig}
        config = Config(**{name: _config(kind, facts["config"][name]) for name, kind in parts.items()})
        network, size = LatentDiffusion(config), int(facts["size"])
        guidance = float(facts.get("guidance", PaintingModel.guidance))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} holds no whole model", "train one with `almanac stable-diffusion train`") from None
    _fill(network, tensors, path)
    words = tokenizer.from_facts(facts.get("vocabulary"))
    return PaintingModel(name, network.eval().requires_grad_(False), words, size, guidance)


def _config(kind: type[Any], facts: dict[str, Any]) -> Any:
    """JSON has lists for tuples."""
    return kind(**{name: tuple(each) if isinstance(each, list) else each for name, each in facts.items()})


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(
            f"the weights of {path} do not fit its config: {reason}", "it is damaged; get it anew"
        ) from None


def painter(
    model: PaintingModel,
    loras: tuple[str, ...] = (),
    embeddings: tuple[Path, ...] = (),
    tiled: bool = False,
    compiled: bool = False,
) -> Painter:
    """A model with what people add to it.

    Args:
        model: the model; its weights are changed.
        loras: files, each with how much of it behind a colon if not 1: `style.safetensors:0.6`.
        embeddings: files that teach words.
        tiled: whether pictures are decoded in tiles.
        compiled: whether the U-Net is compiled (`torch.compile`) when it is first used.

    Raises:
        UserError: a file is missing, damaged, or for another model.
    """
    if compiled:
        model.network.unet.compile()
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
