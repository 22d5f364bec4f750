"""The official checkpoints (`model.pt` of the Cold-Diffusion-Models repository) as our `Unet`. A file holds `step`, `model` and
`ema`; names there are the U-Net's own, behind prefixes that differ between its six code bases. Kernels and masks stored beside
the network are left out: degradations are computed, not loaded."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from almanac.cold_diffusion.model import Unet, UnetConfig
from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError

_NAME = re.compile(r"(?:^|\.)((?:time_mlp|downs|mid_block1|mid_attn|mid_block2|ups|final_conv)\..+)$")


def load(path: Path) -> Unet:
    """Load an official `model.pt`: its averaged weights where it has them.

    Raises:
        UserError: damaged, carrying code, or not a checkpoint of this network.
    """
    return from_state_dict(checkpoint.load_state(path), str(path))


def from_state_dict(state: dict[str, Any], name: str = "the checkpoint") -> Unet:
    """The network of an official checkpoint.

    Args:
        state: what the file holds: `{"ema": …, "model": …}`, or the names of one of them.
        name: what errors call it.

    Raises:
        UserError: it is not a checkpoint of this network.
    """
    found = state.get("ema", state.get("model", state))
    weights = {
        match[1]: tensor for key, tensor in found.items() if (match := _NAME.search(key)) and isinstance(tensor, Tensor)
    }
    try:
        model = Unet(_config(weights))
        model.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{name} is not a checkpoint of the official ConvNeXt U-Net ({str(error).splitlines()[0]})",
            "give a model.pt of the official code, or weights of `almanac cold-diffusion train`",
        ) from None
    return model


def to_state_dict(model: Unet, wrapper: str = "module.denoise_fn") -> dict[str, Any]:
    """Our network in the official layout.

    Args:
        model: the network.
        wrapper: the prefix that the reading code expects (`denoise_fn` for blur, `defade_fn` for mask, `restore_fn` …).
    """
    named = {f"{wrapper}.{key}": tensor for key, tensor in model.state_dict().items()}
    return {"step": 0, "model": named, "ema": dict(named)}


def _config(weights: dict[str, Tensor]) -> UnetConfig:
    """The shape of the network, read off its weights."""
    dim = weights["time_mlp.1.weight"].shape[1]
    levels = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("downs."))
    widths = [weights[f"downs.{level}.1.ds_conv.weight"].shape[0] for level in range(levels)]
    channels = weights["final_conv.1.weight"].shape[0]
    return UnetConfig(dim, tuple(width // dim for width in widths), channels)


def save(model: Unet, path: Path) -> None:
    """Write our network as an official `model.pt`."""
    checkpoint.write_atomic(path, lambda file: torch.save(to_state_dict(model), file))
