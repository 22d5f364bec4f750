"""Stable Diffusion 1 as a folder of diffusers': `unet`, `vae` and `text_encoder`, each with its config.json and weights, and `scheduler`;
read, and written. Our names are the official ones; diffusers' are made of them here. Single files are `published`'s to read."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.runtime.model_folder import read_json, read_tensors
from almanac.stable_diffusion.autoencoder import AutoencoderConfig
from almanac.stable_diffusion.model import Config, LatentDiffusion, NoiseConfig
from almanac.stable_diffusion.text_encoder import TextConfig
from almanac.stable_diffusion.unet import UnetConfig

UNET, AUTOENCODER, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
"""How the official names of each network's weights begin."""
_PARTS = {"unet": UNET, "vae": AUTOENCODER, "text_encoder": TEXT}
"""The folder of each network."""


def read_folder(path: Path) -> tuple[dict[str, Tensor], Config]:
    """Read a folder.

    Args:
        path: the folder.

    Returns:
        Its tensors by their official names (those that no network has: by diffusers', behind their folder's), and the networks' shape.

    Raises:
        UserError: something is missing or damaged, or it is no Stable Diffusion 1.
    """
    config = _config(path)
    wanted = weights_of(config, path)
    found: dict[str, Tensor] = {}
    for part, beginning in _PARTS.items():
        theirs = {_today(name, part): tensor for name, tensor in _part(path / part).items()}
        for ours, name in diffusers_names([each for each in wanted if each.startswith(beginning)], config):
            tensor = theirs.pop(name, None)
            if tensor is not None:
                pixelwise = wanted[ours].dim() == 4 and tensor.dim() == 2  # attention's convolutions as matrices
                found[ours] = tensor[..., None, None] if pixelwise else tensor
        found |= {f"{part}.{name}": tensor for name, tensor in theirs.items() if not name.endswith("position_ids")}
    return found, config


def save_folder(model: LatentDiffusion, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a model as a folder of diffusers', without a tokenizer.

    Args:
        model: the model.
        folder: where to.
        dtype: of the weights in the files.
    """
    config, state = model.config, model.state_dict()
    facts = {
        "unet": _unet_facts(config),
        "vae": _vae_facts(config.autoencoder),
        "text_encoder": _text_facts(config.text),
    }
    for part, beginning in _PARTS.items():
        tensors = {}
        for ours, theirs in diffusers_names([name for name in state if name.startswith(beginning)], config):
            tensor = state[ours].detach().cpu().to(dtype)
            if part == "vae" and ".attentions." in theirs and tensor.dim() == 4:
                tensor = tensor[..., 0, 0]  # written today as matrices
            tensors[theirs] = tensor.contiguous()
        file = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
        blob = safetensors_bytes(tensors, metadata={"format": "pt"})
        checkpoint.write_atomic(folder / part / file, lambda stream, blob=blob: stream.write(blob))
        _write_json(folder / part / "config.json", facts[part])
    _write_json(folder / "scheduler" / "scheduler_config.json", _scheduler_facts(config.noise))


def diffusers_names(names: Iterable[str], config: Config) -> list[tuple[str, str]]:
    """Official names, each with what diffusers calls the same within its folder."""
    rename = {UNET: _unet_name, AUTOENCODER: _vae_name, TEXT: lambda name, config: name}
    return [
        (name, rename[beginning](name.removeprefix(beginning), config))
        for name in names
        for beginning in _PARTS.values()
        if name.startswith(beginning)
    ]


def weights_of(config: Config, path: Path) -> dict[str, Tensor]:
    """What weights networks of a shape have: official names, and tensors without numbers.

    Args:
        config: the shape.
        path: what said so.

    Raises:
        UserError: no network can have that shape.
    """
    try:
        with torch.device("meta"):
            return LatentDiffusion(config).state_dict()
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is of a shape that can't be ({reason})", "give a Stable Diffusion 1 model") from None


def _config(path: Path) -> Config:
    """What the parts' config.json say."""
    facts = {part: read_json(path / part / "config.json") for part in _PARTS}
    try:
        return Config(
            _unet_config(facts["unet"]),
            _vae_config(facts["vae"]),
            _text_config(facts["text_encoder"]),
            _noise_config(path / "scheduler" / "scheduler_config.json"),
        )
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{path} has a config.json without {error}", "give a Stable Diffusion 1 model") from None


def _noise_config(path: Path) -> NoiseConfig:
    usual = NoiseConfig()
    if not path.is_file():
        return usual
    facts = read_json(path)
    if facts.get("prediction_type", "epsilon") != "epsilon":
        raise UserError(f"{path} says {facts['prediction_type']}, not noise", "give a Stable Diffusion 1 model")
    return NoiseConfig(
        facts.get("num_train_timesteps", usual.steps),
        facts.get("beta_start", usual.first),
        facts.get("beta_end", usual.last),
    )


def _part(folder: Path) -> dict[str, Tensor]:
    """The weights of a network: safetensors rather than pickles, whole precision rather than half."""
    kinds = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
    for name in (f"{name}{kind}" for kind in kinds for name in ("diffusion_pytorch_model", "model", "pytorch_model")):
        file = folder / name
        if file.is_file() and file.suffix == ".safetensors":
            return read_tensors(file)
        if file.is_file():
            return {key: each for key, each in checkpoint.load_state(file).items() if isinstance(each, Tensor)}
    raise UserError(f"there are no weights in {folder}", "give a whole folder of diffusers'")


def _today(name: str, part: str) -> str:
    """What is called so today of what was called otherwise: all of the text encoder, and the autoencoder's attention."""
    if part == "text_encoder" and not name.startswith("text_model."):
        return f"text_model.{name}"
    if part == "vae":
        for old, new in _ATTENTION:
            name = name.replace(old, new)
    return name


_ATTENTION = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    checkpoint.write_atomic(path, lambda file: file.write(json.dumps(facts, indent=1).encode()))


def _unet_name(name: str, config: Config) -> str:
    """diffusers' name of an official one, of the U-Net."""
    each = config.unet.blocks + 1
    for ours, theirs in (("time_embed.0.", "time_embedding.linear_1."), ("time_embed.2.", "time_embedding.linear_2.")):
        name = name.replace(ours, theirs)
    for ours, theirs in (("input_blocks.0.0.", "conv_in."), ("out.0.", "conv_norm_out."), ("out.2.", "conv_out.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    if match := re.match(r"middle_block\.(\d)\.(.*)", name):
        place = ("resnets.0", "attentions.0", "resnets.1")[int(match[1])]
        return f"mid_block.{place}.{_inside(match[2])}"
    match = re.match(r"(input|output)_blocks\.(\d+)\.(\d)\.(.*)", name)
    if match is None:
        return name
    number, rest = int(match[2]) - (match[1] == "input"), match[4]
    level, place = divmod(number, each)
    side = "down_blocks" if match[1] == "input" else "up_blocks"
    if rest.startswith("op."):
        return f"{side}.{level}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if match[3] == "0":
        return f"{side}.{level}.resnets.{place}.{_inside(rest)}"
    if rest.startswith("conv."):
        return f"{side}.{level}.upsamplers.0.{rest}"
    return f"{side}.{level}.attentions.{place}.{rest}"


_RESNET = (
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
)


def _inside(name: str) -> str:
    """diffusers' names within a residual block."""
    for ours, theirs in _RESNET:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _vae_name(name: str, config: Config) -> str:
    """diffusers' name of an official one, of the autoencoder."""
    top = len(config.autoencoder.mults) - 1

    def level(match: re.Match) -> str:
        number = int(match[2])
        return f"down_blocks.{number}." if match[1] == "down" else f"up_blocks.{top - number}."

    changes: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = (
        (r"\b(down|up)\.(\d+)\.", level),
        (r"\bblock\.(\d+)\.", r"resnets.\1."),
        (r"\b(downsample|upsample)\.conv\.", r"\1rs.0.conv."),
        (r"\bmid\.block_1\.", "mid_block.resnets.0."),
        (r"\bmid\.block_2\.", "mid_block.resnets.1."),
        (r"\bmid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
        (r"\bmid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
        (r"\bmid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
        (r"\bnorm_out\.", "conv_norm_out."),
        (r"\bnin_shortcut\.", "conv_shortcut."),
    )
    for pattern, to in changes:
        name = re.sub(pattern, to, name)
    return name


def _unet_config(facts: Mapping[str, Any]) -> UnetConfig:
    if facts.get("use_linear_projection") or facts.get("class_embed_type") or facts.get("addition_embed_type"):
        raise UserError("the U-Net is not Stable Diffusion 1's", "2 and XL have other networks; give a v1 model")
    widths = facts["block_out_channels"]
    heads = facts["attention_head_dim"]  # what diffusers calls so is their number
    if not isinstance(heads, int):
        raise UserError("the U-Net is not Stable Diffusion 1's", "each level has its own number of heads")
    return UnetConfig(
        facts["in_channels"],
        facts["out_channels"],
        widths[0],
        tuple(width // widths[0] for width in widths),
        facts["layers_per_block"],
        tuple(level for level, kind in enumerate(facts["down_block_types"]) if "CrossAttn" in kind),
        heads,
        facts["cross_attention_dim"],
        facts.get("norm_num_groups") or 32,
    )


def _unet_facts(config: Config) -> dict[str, Any]:
    unet = config.unet
    levels = range(len(unet.mults))
    reads = [level in unet.attention for level in levels]
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "block_out_channels": [unet.channels * mult for mult in unet.mults],
        "layers_per_block": unet.blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in reads],
        "up_block_types": ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(reads)],
        "attention_head_dim": unet.heads,
        "cross_attention_dim": unet.context,
        "norm_num_groups": unet.groups,
        "sample_size": 64,
    }


def _vae_config(facts: Mapping[str, Any]) -> AutoencoderConfig:
    widths = facts["block_out_channels"]
    config = AutoencoderConfig(
        widths[0],
        tuple(width // widths[0] for width in widths),
        facts["layers_per_block"],
        facts["latent_channels"],
        facts["out_channels"],
    )
    groups, scale = facts.get("norm_num_groups") or config.groups, facts.get("scaling_factor") or config.scale
    return replace(config, groups=groups, scale=scale)


def _vae_facts(config: AutoencoderConfig) -> dict[str, Any]:
    levels = len(config.mults)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": config.pixels,
        "out_channels": config.pixels,
        "block_out_channels": [config.channels * mult for mult in config.mults],
        "layers_per_block": config.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": config.latents,
        "norm_num_groups": config.groups,
        "scaling_factor": config.scale,
        "sample_size": 512,
    }


def _text_config(facts: Mapping[str, Any]) -> TextConfig:
    return TextConfig(
        facts["vocab_size"],
        facts["hidden_size"],
        facts["num_hidden_layers"],
        facts["num_attention_heads"],
        facts["max_position_embeddings"],
        facts.get("hidden_act", "quick_gelu") == "quick_gelu",
    )


def _text_facts(config: TextConfig) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.positions,
        "hidden_act": "quick_gelu" if config.quick_gelu else "gelu",
    }


def _scheduler_facts(config: NoiseConfig) -> dict[str, Any]:
    return {
        "_class_name": "PNDMScheduler",
        "num_train_timesteps": config.steps,
        "beta_start": config.first,
        "beta_end": config.last,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }
