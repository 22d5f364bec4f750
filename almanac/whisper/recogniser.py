"""A model that is ready to listen: found by name, whatever the layout of its file, with the tokenizer that belongs to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from almanac.runtime import checkpoint, device, hub
from almanac.runtime.errors import UserError
from almanac.whisper import audio, published
from almanac.whisper.model import SIZES, Dims, Whisper
from almanac.whisper.tokenizer import Tokenizer

DEFAULT = "multitask"
"""The shipped model that is used where none is named."""

_OTHER_NAMES = {"large": "large-v3", "turbo": "large-v3-turbo"}
_FILES = ("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", "*.index.json")


@dataclass(frozen=True)
class Recogniser:
    """A model with its tokenizer."""

    model: Whisper
    tokenizer: Tokenizer

    def encode(self, *mels: Float[Tensor, "mels _"]) -> Float[Tensor, "windows positions state"]:
        """What the encoder makes of windows, filled with zeros where they are short."""
        parameter = self.model.decoder.positional_embedding
        windows = torch.stack([audio.fit_frames(mel, self.model.dims.frames) for mel in mels])
        with torch.inference_mode():
            return self.model.encoder(windows.to(parameter.device, parameter.dtype))


def load(name: str, device_name: str = "auto", precision: str = "fp32") -> Recogniser:
    """Load a model.

    Args:
        name: a shipped model; a published size (`tiny` … `turbo`), fetched from Hugging Face; the path of OpenAI's `.pt`, of Hugging Face's
            folder, or of weights of ours; or `hf://owner/repo`, `hf://owner/repo/file`.
        device_name: `auto`, `cpu` or `cuda`.
        precision: `fp32`, which can be trained and saved; to listen faster, `auto`, `int8` or `bf16` (see `fast.prepare`).

    Raises:
        UserError: there is no such model, it is damaged, or of another system; or no such precision.
    """
    where = device.resolve(device_name)
    path = _find(name)
    if path.is_dir() or path.suffix in (".pt", ".pth"):
        model = published.load(path)
        found = Recogniser(model, published.tokenizer_of(path, model.dims))
    else:
        found = _ours(path)
    found.model.to(where).eval()
    if precision != "fp32":
        from almanac.whisper import fast  # numba takes half a second to load

        fast.prepare(found.model, precision)
    return found


def shipped() -> list[str]:
    """The models that ship with the project."""
    return [name.removeprefix("whisper/") for name in hub.shipped_weights("whisper")]


def save(recogniser: Recogniser, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a model as weights of ours: a safetensors file whose header holds sizes, vocabulary, languages and alignment heads.

    Raises:
        UserError: it could not be written.
    """
    about = {"system": "whisper", **published.about(recogniser.model, recogniser.tokenizer)}
    tensors = {name: tensor.bfloat16() for name, tensor in recogniser.model.state_dict().items()}
    checkpoint.save_weights(path, tensors, {**facts, **about})


def _find(name: str) -> Path:
    size = _OTHER_NAMES.get(name, name)
    if f"whisper/{name}" in hub.shipped_weights("whisper"):
        return hub.weights(f"whisper/{name}")
    if size in SIZES or size == "large-v1":
        return hub.repository(f"hf://openai/whisper-{size.removesuffix('-v1')}", _FILES)
    if Path(name).is_dir() or (name.startswith("hf://") and name.count("/") <= 3):  # not hf://owner/repo/file
        return hub.repository(name, _FILES)
    try:
        return hub.weights(name)
    except UserError as error:
        known = ", ".join([*shipped(), *SIZES])
        raise UserError(error.what, f"give a path, hf://owner/repo, or one of: {known}") from None


def _ours(path: Path) -> Recogniser:
    tensors, facts = checkpoint.load_weights(path, "whisper")
    try:
        dims = Dims(**facts["dims"])
        tokens = published.tokenizer_from(facts, dims)
        model = Whisper(dims, published.head_mask(dims, facts["alignment_heads"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a Whisper model ({reason})", "train one, or give a shipped name") from None
    published.fill(model, tensors, path)
    return Recogniser(model, tokens)
