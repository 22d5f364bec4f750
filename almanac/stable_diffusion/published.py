"""Published Stable Diffusion 1 models: the official single file (`.safetensors`, or `.ckpt`, from which nothing but tensors is taken),
with or without the averaged weights of training, and back. Our names are the official ones, so that a single file needs no map. The
folder of diffusers, which `read` and `load` take too, is `diffusers_folder`'s."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.runtime.model_folder import check_weights, read_tensors, size_of
from almanac.stable_diffusion.autoencoder import AutoencoderConfig
from almanac.stable_diffusion.diffusers_folder import (
    AUTOENCODER,
    TEXT,
    UNET,
    diffusers_names,
    read_folder,
    save_folder,
    weights_of,
)
from almanac.stable_diffusion.model import Config, LatentDiffusion
from almanac.stable_diffusion.text_encoder import TextConfig
from almanac.stable_diffusion.unet import UnetConfig

__all__ = [
    "AUTOENCODER",
    "FILES",
    "TEXT",
    "UNET",
    "Published",
    "diffusers_names",
    "load",
    "read",
    "save",
    "save_folder",
    "tensors_of",
]

FILES = ("*.json", "*.safetensors", "*.txt")
"""What is fetched of a repository."""
_AVERAGED = "model_ema."
_LIGHTNING = ("pytorch_lightning.", "lightning.", "lightning_fabric.")
"""Modules of a trainer, whose objects official files hold beside the tensors."""
_BESIDE = re.compile(
    r"(betas|.*alphas_cumprod.*|posterior_.*|logvar|model_ema\..*|first_stage_model\.loss\..*|.*\.position_ids)"
)
"""Names in official files that are no weights of the three networks."""


@dataclass(frozen=True)
class Published:
    """What a checkpoint holds."""

    layout: str
    """safetensors, ckpt or diffusers."""
    config: Config
    tensors: dict[str, Tensor]
    """By their official names; the averaged ones where there are any."""
    averaged: bool
    """Whether they are."""
    missing: tuple[str, ...]
    """Weights of the networks that are not there."""
    unexpected: tuple[str, ...]
    """Tensors that nobody knows."""
    mismatched: tuple[str, ...]
    """Those of other shapes than the networks have, with both shapes."""


def read(path: Path) -> Published:
    """Read a checkpoint.

    Args:
        path: a file of the official layout, or a folder of diffusers'.

    Raises:
        UserError: it is damaged, holds code, or no Stable Diffusion.
    """
    if path.is_dir():
        layout, averaged = "diffusers", False
        tensors, config = read_folder(path)
    else:
        layout = "safetensors" if path.suffix == ".safetensors" else "ckpt"
        tensors, averaged = _official(tensors_of(path))
        config = _guessed(tensors, path)
    wanted = weights_of(config, path)
    known = {name: tensor for name, tensor in tensors.items() if name in wanted}
    return Published(
        layout,
        config,
        known,
        averaged,
        missing=tuple(name for name in wanted if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in wanted and not _BESIDE.fullmatch(name)),
        mismatched=tuple(
            f"{name} is {size_of(tensor)}, not {size_of(wanted[name])}"
            for name, tensor in known.items()
            if tensor.shape != wanted[name].shape
        ),
    )


def load(path: Path, dtype: torch.dtype = torch.float32) -> LatentDiffusion:
    """Load a checkpoint whole.

    Args:
        path: as `read` takes it.
        dtype: of the weights.

    Raises:
        UserError: as `read`; or weights are missing, of other shapes, or not finite.
    """
    found = read(path)
    check_weights(path, weights_of(found.config, path), found.tensors, "give a whole Stable Diffusion 1 model")
    with torch.device("meta"):
        model = LatentDiffusion(found.config)
    model.load_state_dict({name: _copied(tensor, dtype) for name, tensor in found.tensors.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of one's own, channels last, so that the file's pages, which count as this process's memory, are given back."""
    lies = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
    return tensor.to(dtype, memory_format=lies, copy=True)


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        UserError: there is none, it is damaged, or holds code.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}", "give a .safetensors or .ckpt file, or diffusers' folder")
    return read_tensors(path) if path.suffix == ".safetensors" else _pickled(path)


def save(model: LatentDiffusion, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a model as an official single file.

    Args:
        model: the model.
        path: ends in `.safetensors`.
        dtype: of the weights in the file.
    """
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    checkpoint.write_atomic(path, lambda file: file.write(safetensors_bytes(tensors)))


def _official(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """A single file's tensors by the names that we have: the averaged ones in place of the last ones, and the text encoder's with
    `text_model`, which new files leave out. And whether there were averaged ones."""
    found = {}
    for name, tensor in tensors.items():
        rest = name.removeprefix(TEXT)
        if rest != name and not rest.startswith("text_model."):
            name = f"{TEXT}text_model.{rest}"
        found[name] = tensor
    averaged = {name for name in found if name.startswith(_AVERAGED)}
    for name in [name for name in found if name.startswith(UNET)] if averaged else ():
        mean = _AVERAGED + name.removeprefix("model.").replace(".", "")
        if mean in averaged:
            found[name] = found[mean]
    return {name: tensor for name, tensor in found.items() if name not in averaged}, bool(averaged)


def _guessed(tensors: Mapping[str, Tensor], path: Path) -> Config:
    """The shape of an official file's networks; the number of heads, which no tensor tells, is Stable Diffusion 1's."""
    first = tensors.get(f"{UNET}input_blocks.0.0.weight")
    embedding = tensors.get(f"{TEXT}text_model.embeddings.token_embedding.weight")
    decoder = tensors.get(f"{AUTOENCODER}decoder.conv_out.weight")
    if first is None or embedding is None or decoder is None or first.dim() != 4 or decoder.dim() != 4:
        if any(name.startswith("conditioner.") or "cond_stage_model.model." in name for name in tensors):
            raise UserError(f"{path} is not of Stable Diffusion 1", "2 and XL have other networks; give a v1 model")
        raise UserError(
            f"{path} holds no Stable Diffusion 1 model", "give an official single file, or diffusers' folder"
        )

    def count(pattern: str) -> int:
        numbers = [int(match[1]) for name in tensors if (match := re.match(pattern, name))]
        return max(numbers, default=-1) + 1

    try:
        levels = count(re.escape(f"{AUTOENCODER}encoder.down.") + r"(\d+)\.")
        wide = [len(tensors[f"{AUTOENCODER}encoder.down.{level}.block.0.conv2.weight"]) for level in range(levels)]
        autoencoder = AutoencoderConfig(
            channels=decoder.shape[1],
            mults=tuple(each // decoder.shape[1] for each in wide),
            blocks=count(re.escape(f"{AUTOENCODER}encoder.down.0.block.") + r"(\d+)\."),
            latents=tensors[f"{AUTOENCODER}post_quant_conv.weight"].shape[0],
            pixels=decoder.shape[0],
        )
        unet = _guessed_unet(tensors, first, autoencoder.latents)
    except (KeyError, ZeroDivisionError, IndexError) as error:
        raise UserError(f"{path} lacks {error}", "give a whole Stable Diffusion 1 model") from None
    width = embedding.shape[1]
    text = TextConfig(
        vocabulary=embedding.shape[0],
        width=width,
        layers=count(re.escape(f"{TEXT}text_model.encoder.layers.") + r"(\d+)\."),
        heads=max(width // 64, 1),
        positions=len(tensors.get(f"{TEXT}text_model.embeddings.position_embedding.weight", torch.empty(77))),
    )
    return Config(unet, autoencoder, text)


def _guessed_unet(tensors: Mapping[str, Tensor], first: Tensor, latents: int) -> UnetConfig:
    blocks = {
        int(match[1]) for name in tensors if (match := re.match(re.escape(f"{UNET}input_blocks.") + r"(\d+)\.", name))
    }
    shrinking = [number for number in sorted(blocks) if f"{UNET}input_blocks.{number}.0.op.weight" in tensors]
    levels = len(shrinking) + 1
    each = (shrinking[0] if shrinking else max(blocks) + 1) - 1
    channels, inside = first.shape[:2]
    widths = [
        len(tensors[f"{UNET}input_blocks.{1 + level * (each + 1)}.0.out_layers.3.weight"]) for level in range(levels)
    ]
    reading = [f"{UNET}input_blocks.{1 + level * (each + 1)}.1.norm.weight" in tensors for level in range(levels)]
    return UnetConfig(
        in_channels=inside,
        out_channels=latents,
        channels=channels,
        mults=tuple(width // channels for width in widths),
        blocks=each,
        attention=tuple(level for level, reads in enumerate(reading) if reads),
        context=tensors[f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
    )


def _pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch wrote. Objects of a trainer become empty ones; of anything else nothing is loaded."""

    class Empty:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    try:
        if zipfile.is_zipfile(path):
            needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            hostile = [name for name in needed if not name.startswith(_LIGHTNING)]
            if hostile:
                what = f"{path} would run {', '.join(hostile[:3])}, and is not loaded"
                raise UserError(what, "convert it to safetensors where you trust it")
            stubs: list[Any] = [(type(name.rpartition(".")[2], (Empty,), {}), name) for name in needed]
            with torch.serialization.safe_globals(stubs):
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            state = checkpoint.load_state(path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is not a readable checkpoint ({reason})", "it may be truncated") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = {name: each for name, each in state.items() if isinstance(each, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors", "give an official single file")
    return tensors
