"""Small changes of a model's weights that people share (LoRA, Hu et al. 2022): files of kohya's trainer (LoCon's convolutions too), of
PEFT and of diffusers, put onto a model and taken off again, bit for bit. And words that were taught to a text encoder (textual inversion,
Gal et al. 2022), in the three layouts that are in use."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.stable_diffusion.model import LatentDiffusion
from almanac.stable_diffusion.published import TEXT, UNET, diffusers_names, tensors_of

_KOHYA = {"lora_unet_": UNET, "lora_te_": TEXT, "lora_te1_": TEXT}
_PEFT = {"unet.": UNET, "text_encoder.": TEXT}
_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight")
_UP = (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight")
_MIDDLE = ".lora_mid.weight"
_OLD = re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$")


@dataclass(frozen=True)
class Change:
    """What is added to a weight."""

    down: Tensor
    up: Tensor
    middle: Tensor | None
    """Between both, of a convolution that was taken apart in three."""
    scale: float

    def whole(self, shape: torch.Size) -> Tensor:
        """As one tensor of the weight's shape, in float32.

        Raises:
            ValueError: it has another.
        """
        down, up = self.down.float(), self.up.float()
        if self.middle is not None:
            whole = torch.einsum("or,rskl,si->oikl", up.flatten(1), self.middle.float(), down.flatten(1))
        else:
            whole = (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])
        if whole.numel() != shape.numel():
            raise ValueError(f"{tuple(whole.shape)} instead of {tuple(shape)}")
        return self.scale * whole.view(shape)


def read(path: Path, model: LatentDiffusion) -> dict[str, Change]:
    """Changes of a file, by the official names of the weights that they change.

    Args:
        path: a file of kohya's trainer, of PEFT or diffusers.
        model: that they are for.

    Raises:
        UserError: it is damaged, or for another model.
    """
    tensors = tensors_of(path)
    names = _names(model)
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown = []
    for name, tensor in tensors.items():
        split = _split(name)
        if split is None or split[0] not in names:
            unknown.append(name)
        else:
            groups[names[split[0]]][split[1]] = tensor
    if unknown or not groups:
        said = ", ".join(unknown[:3]) or "nothing"
        raise UserError(
            f"{path} changes {said}, which this model does not have", "give a LoRA of a Stable Diffusion 1 model"
        )
    found = {}
    state = model.state_dict()
    for name, parts in groups.items():
        if not {"down", "up"} <= parts.keys():
            raise UserError(f"{path} has only a half of the change of {name}", "it may be truncated; get it again")
        rank = len(parts["down"])
        alpha = parts["alpha"].item() if "alpha" in parts else rank
        change = Change(parts["down"], parts["up"], parts.get("middle"), alpha / rank)
        try:
            finite = change.whole(state[name].shape).isfinite().all()
        except (RuntimeError, ValueError) as error:
            what = f"{path} does not fit {name} ({str(error).splitlines()[0]})"
            raise UserError(what, "give a LoRA of a Stable Diffusion 1 model") from None
        if not finite:
            raise UserError(
                f"{path} changes {name} by numbers that are not finite", "the file is damaged; get it again"
            )
        found[name] = change
    return found


def kohya_names(model: LatentDiffusion) -> dict[str, str]:
    """The official name of each layer that can be changed → what a file of kohya's trainer calls it."""
    beginnings = {UNET: "lora_unet_", TEXT: "lora_te_"}
    found = {}
    for official, theirs in diffusers_names(_weights(model), model.config):
        beginning = beginnings[UNET if official.startswith(UNET) else TEXT]
        found[official.removesuffix(".weight")] = beginning + theirs.removesuffix(".weight").replace(".", "_")
    return found


class Adapted:
    """Changes that are on a model. Its own weights are kept, and come back when they are taken off.

    Args:
        model: the model.
    """

    def __init__(self, model: LatentDiffusion):
        self._model = model
        self._own: dict[str, Tensor] = {}

    @torch.no_grad()
    def put_on(self, changes: Mapping[str, Change], strength: float = 1.0) -> None:
        """Add changes to those that are on.

        Args:
            changes: what `read` found.
            strength: how much of them; may be negative.
        """
        parameters = dict(self._model.named_parameters())
        for name, change in changes.items():
            parameter = parameters[name]
            if name not in self._own:
                self._own[name] = parameter.detach().clone()
            delta = change.whole(parameter.shape).to(parameter.device)
            parameter.copy_((parameter.float() + strength * delta).to(parameter.dtype))

    @torch.no_grad()
    def take_off(self) -> None:
        """Give the model its own weights back."""
        parameters = dict(self._model.named_parameters())
        for name, own in self._own.items():
            parameters[name].copy_(own)
        self._own.clear()


def taught(path: Path, width: int) -> tuple[str, Float[Tensor, "count width"]]:
    """The word that a file teaches, and the vectors that it stands for.

    Args:
        path: a file of the web UI's (`string_to_param`), diffusers' (one tensor, by its word), or safetensors (`emb_params`).
        width: of the model's tokens.

    Raises:
        UserError: it is damaged, or for another model.
    """
    tensors = _taught_tensors(path)
    if "emb_params" in tensors:
        word, vectors = path.stem, tensors["emb_params"]
    elif "*" in tensors:
        word, vectors = path.stem, tensors["*"]
    elif len(tensors) == 1:
        word, vectors = next(iter(tensors.items()))
    else:
        raise UserError(f"{path} teaches no single word", "give a textual inversion of one word")
    vectors = vectors[None] if vectors.dim() == 1 else vectors
    if vectors.dim() != 2 or vectors.shape[1] != width:
        size = "×".join(map(str, vectors.shape))
        raise UserError(
            f"{path} has vectors of {size} numbers, and the model's words have {width}", "give one of the same model"
        )
    if not vectors.isfinite().all():
        raise UserError(f"{path} has numbers that are not finite", "the file is damaged; get it again")
    return word, vectors.float()


def _taught_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return tensors_of(path)
    from almanac.runtime import checkpoint

    state = checkpoint.load_state(path)
    inner = state.get("string_to_param", state)
    return {str(name): each.detach() for name, each in dict(inner).items() if isinstance(each, Tensor)}


def _names(model: LatentDiffusion) -> dict[str, str]:
    """Every way in which files name a weight → its official name."""
    found = {}
    for official, theirs in diffusers_names(_weights(model), model.config):
        beginning = UNET if official.startswith(UNET) else TEXT
        for name in _spellings(official.removeprefix(beginning), theirs):
            bare = name.removesuffix(".weight")
            found |= {kohya + bare.replace(".", "_"): official for kohya, mine in _KOHYA.items() if mine == beginning}
            found |= {peft + bare: official for peft, mine in _PEFT.items() if mine == beginning}
    return found


def _weights(model: LatentDiffusion) -> list[str]:
    """Official names of those that can be changed."""
    return [name for name in model.state_dict() if name.endswith(".weight") and name.startswith((UNET, TEXT))]


def _spellings(official: str, theirs: str) -> Iterable[str]:
    yield theirs
    yield official
    if theirs.startswith("text_model."):  # transformers leaves it out today
        yield theirs.removeprefix("text_model.")


def _split(name: str) -> tuple[str, str] | None:
    """What a tensor's name says: of which weight, and which part of its change."""
    name = name.removeprefix("base_model.model.").removeprefix("diffusion_model.").replace("transformer.unet.", "unet.")
    if match := _OLD.search(name):
        place = "to_out.0" if match[1] == "to_out" else match[1]
        return f"{name[: match.start()]}.{place}", match[2]
    for endings, part in ((_DOWN, "down"), (_UP, "up"), ((_MIDDLE,), "middle"), ((".alpha",), "alpha")):
        for ending in endings:
            if name.endswith(ending):
                return name.removesuffix(ending), part
    return None
