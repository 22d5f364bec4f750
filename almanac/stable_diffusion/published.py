"""Published Stable Diffusion 1 models: the official single file (`.safetensors`, or `.ckpt`, from which nothing but tensors is taken),
with or without the averaged weights of training, and the folder of diffusers; and back. Our names are the official ones, so that a
single file needs no map; diffusers' are made of them here."""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.stable_diffusion.autoencoder import AutoencoderConfig
from almanac.stable_diffusion.model import Config, LatentDiffusion, NoiseConfig
from almanac.stable_diffusion.text_encoder import TextConfig
from almanac.stable_diffusion.unet import UnetConfig

UNET, AUTOENCODER, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
FILES = ("*.json", "*.safetensors", "*.txt")
"""What is fetched of a repository."""
_AVERAGED = "model_ema."
_PARTS = {"unet": UNET, "vae": AUTOENCODER, "text_encoder": TEXT}
"""Folders of diffusers', and how names of what they hold begin."""
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
        layout, (tensors, config) = "diffusers", _folder(path)
        averaged = False
    else:
        layout = "safetensors" if path.suffix == ".safetensors" else "ckpt"
        tensors = tensors_of(path)
        tensors, averaged = _official(tensors)
        config = _guessed(tensors, path)
    with torch.device("meta"):
        wanted = LatentDiffusion(config).state_dict()
    known = {name: tensor for name, tensor in tensors.items() if name in wanted}
    return Published(
        layout,
        config,
        known,
        averaged,
        missing=tuple(name for name in wanted if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in wanted and not _BESIDE.fullmatch(name)),
        mismatched=tuple(
            f"{name} is {_size(tensor)}, not {_size(wanted[name])}"
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
    for kind, names in (("is missing", found.missing), ("does not fit", found.mismatched)):
        if names:
            more = f", and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{path}: {', '.join(names[:3])}{more} {kind}", "give a whole Stable Diffusion 1 model")
    for name, tensor in found.tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds numbers that are not finite", "the file is damaged; get it again")
    with torch.device("meta"):
        model = LatentDiffusion(found.config)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in found.tensors.items()}, assign=True)
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # pyright: ignore[reportCallIssue]


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        UserError: there is none, it is damaged, or holds code.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}", "give a .safetensors or .ckpt file, or diffusers' folder")
    if path.suffix != ".safetensors":
        return _pickled(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:
        raise _damaged(path, error) from None


def save(model: LatentDiffusion, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a model as an official single file.

    Args:
        model: the model.
        path: ends in `.safetensors`.
        dtype: of the weights in the file.
    """
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    checkpoint.write_atomic(path, lambda file: file.write(safetensors_bytes(tensors)))


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
        named = {
            theirs: state[ours].detach().cpu().to(dtype).contiguous()
            for ours, theirs in diffusers_names(state, config)
            if ours.startswith(beginning)
        }
        if part == "vae":  # written today as matrices
            named = {
                name: tensor[..., 0, 0] if ".attentions." in name and tensor.dim() == 4 else tensor
                for name, tensor in named.items()
            }
        file = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
        blob = safetensors_bytes(
            {name: tensor.contiguous() for name, tensor in named.items()}, metadata={"format": "pt"}
        )
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
        unet = _guessed_unet(tensors, first)
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


def _guessed_unet(tensors: Mapping[str, Tensor], first: Tensor) -> UnetConfig:
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
        out_channels=len(tensors[f"{UNET}out.2.weight"]),
        channels=channels,
        mults=tuple(width // channels for width in widths),
        blocks=each,
        attention=tuple(level for level, reads in enumerate(reading) if reads),
        context=tensors[f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
    )


def _folder(path: Path) -> tuple[dict[str, Tensor], Config]:
    """The tensors of diffusers' folder by their official names, and its shape."""
    facts = {part: _read_json(path / part / "config.json") for part in _PARTS}
    noise = NoiseConfig()
    scheduler = path / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        said = _read_json(scheduler)
        noise = NoiseConfig(
            said.get("num_train_timesteps", noise.steps),
            said.get("beta_start", noise.first),
            said.get("beta_end", noise.last),
        )
        if said.get("prediction_type", "epsilon") != "epsilon":
            raise UserError(f"{path} predicts {said['prediction_type']}, not noise", "give a Stable Diffusion 1 model")
    try:
        config = Config(
            _unet_config(facts["unet"]), _vae_config(facts["vae"]), _text_config(facts["text_encoder"]), noise
        )
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{path} has a config.json without {error}", "give a Stable Diffusion 1 model") from None
    with torch.device("meta"):
        state = LatentDiffusion(config).state_dict()
    found: dict[str, Tensor] = {}
    for part, beginning in _PARTS.items():
        theirs = _weights_of(path / part)
        if part == "text_encoder":
            theirs = {
                name if name.startswith("text_model.") else f"text_model.{name}": each for name, each in theirs.items()
            }
        if part == "vae":
            theirs = {_today(name): tensor for name, tensor in theirs.items()}
        for ours, name in diffusers_names([each for each in state if each.startswith(beginning)], config):
            tensor = theirs.pop(name, None)
            if tensor is not None:
                pixelwise = state[ours].dim() == 4 and tensor.dim() == 2
                found[ours] = tensor[..., None, None] if pixelwise else tensor
        found |= {f"{part}.{name}": tensor for name, tensor in theirs.items() if not name.endswith("position_ids")}
    return found, config


def _weights_of(folder: Path) -> dict[str, Tensor]:
    """The weights of a part: safetensors rather than pickles, whole precision rather than half."""
    names = ("diffusion_pytorch_model", "model", "pytorch_model")
    for name in [
        f"{name}{kind}" for kind in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin") for name in names
    ]:
        if (folder / name).is_file():
            return tensors_of(folder / name)
    raise UserError(f"there are no weights in {folder}", "give a whole folder of diffusers'")


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
        raise _damaged(path, error) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = {name: each for name, each in state.items() if isinstance(each, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors", "give an official single file")
    return tensors


def _damaged(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return UserError(f"{path} is not a readable checkpoint ({reason})", "it may be truncated")


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


def _today(name: str) -> str:
    """What diffusers calls today what it called otherwise, in the autoencoder's attention."""
    for old, new in ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")):
        name = name.replace(old, new)
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
    return replace(config, scale=facts.get("scaling_factor") or config.scale)


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no {path}", "give a whole folder of diffusers'") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not an object", "give a whole folder of diffusers'")
    return found


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    checkpoint.write_atomic(path, lambda file: file.write(json.dumps(facts, indent=1).encode()))


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))
