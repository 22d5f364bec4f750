"""Published checkpoints as our `Whisper` and back: OpenAI's `.pt` files, whose names our modules have, and Hugging Face's folders
(config.json and safetensors), whose names are translated. Which of the decoder's heads follow the words in time is known for
every published size. What else a folder holds is `hugging_face`'s to write."""

import base64
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.runtime.model_folder import read_json, read_weights
from almanac.whisper import hugging_face
from almanac.whisper import tokenizer as tokenizers
from almanac.whisper.model import SIZES, Dims, Whisper
from almanac.whisper.tokenizer import Tokenizer

_ALIGNMENT_HEADS: dict[str, str] = {
    "tiny.en": "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    "tiny": "2.2 3.0 3.2 3.3 3.4 3.5",
    "base.en": "3.3 4.7 5.1 5.5 5.7",
    "base": "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    "small.en": "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4",
    "small": "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    "medium.en": "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14 21.12",
    "medium": "13.15 15.4 15.15 16.1 20.0 23.4",
    "large-v1": "9.19 11.2 11.4 11.17 22.7 22.11 22.17 23.2 23.15",
    "large-v2": "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 22.3 22.9 22.12 23.5 23.7 23.13 "
    "25.5 26.1 26.12 27.15",
    "large-v3": "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    "large-v3-turbo": "2.4 2.11 3.3 3.6 3.11 3.14",
}
"""layer.head of each size (official `__init__.py`)."""

_HUGGING_FACE = (
    (r"\bblocks\b", "layers"),
    (r"\bmlp\.0\b", "fc1"),
    (r"\bmlp\.2\b", "fc2"),
    (r"\bmlp_ln\b", "final_layer_norm"),
    (r"\bcross_attn_ln\b", "encoder_attn_layer_norm"),
    (r"\battn_ln\b", "self_attn_layer_norm"),
    (r"\bcross_attn\b", "encoder_attn"),
    (r"\battn\b", "self_attn"),
    (r"\b(query|key|value|out)\b", lambda found: f"{found[0][0] if found[0] != 'out' else 'out'}_proj"),
    (r"\bln_post\b|(?<=decoder\.)ln\b", "layer_norm"),
    (r"\btoken_embedding\b", "embed_tokens"),
    (r"\bpositional_embedding\b", "embed_positions.weight"),
)
"""Parts of OpenAI's names → Hugging Face's, in this order."""


def to_hugging_face(name: str) -> str:
    """Hugging Face's name of one of our tensors."""
    for pattern, replacement in _HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return f"model.{name}"


def load(path: Path) -> Whisper:
    """Load a published checkpoint, in float32.

    Args:
        path: a `.pt` file of OpenAI's, or a folder of Hugging Face's.

    Raises:
        UserError: there is none, it is damaged, carries code, or lacks tensors.
    """
    dims, tensors, heads = _hugging_face(path) if path.is_dir() else _openai(path)
    model = Whisper(dims, heads)
    fill(model, tensors, path)
    return model


def fill(model: Whisper, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a model the weights of a file.

    Raises:
        UserError: some are missing, or of other shapes.
    """
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    if missing:
        raise UserError(f"{path} lacks {_some(missing)}", "it is not a whole Whisper checkpoint; get it anew")
    wrong = [name for name, tensor in wanted.items() if tensor.shape != tensors[name].shape]
    if wrong:
        raise UserError(f"{path} has {_some(wrong)} of other shapes than its sizes say", "get it anew")
    model.load_state_dict({name: tensors[name].float() for name in wanted})


def save_openai(model: Whisper, tokenizer: Tokenizer, path: Path, dtype: torch.dtype) -> None:
    """Write a model as OpenAI's `.pt`, which openai-whisper loads. What it has no place for (vocabulary, alignment heads) stands
    beside it, for us.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        path: ends in `.pt`.
        dtype: float16, as published, or float32.

    Raises:
        UserError: the name ends otherwise, or it could not be written.
    """
    if path.suffix != ".pt":
        raise UserError(f"{path} does not end in .pt, as OpenAI's checkpoints do", f"call it {path.stem}.pt")
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    facts = {key: fact for key, fact in about(model, tokenizer).items() if key != "dims"}
    checkpoint.save_state(path, {"dims": vars(model.dims), "model_state_dict": tensors, "almanac": facts})


def save_hugging_face(model: Whisper, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype) -> None:
    """Write a model as a folder of Hugging Face's, which transformers and ctranslate2's converter load.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        folder: made where it is not there.
        dtype: float32, or float16.

    Raises:
        UserError: its encoder and decoder have different widths, or it could not be written.
    """
    dims = model.dims
    if dims.n_audio_state != dims.n_text_state:
        what = f"Hugging Face's layout has one width, and this model two: {dims.n_audio_state}, {dims.n_text_state}"
        raise UserError(what, "write it as openai")
    if folder.is_file():
        raise UserError(f"{folder} is a file", "give a folder, or one that is to be made")
    tensors = {to_hugging_face(name): tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    blob = safetensors_bytes(tensors, {"format": "pt"})
    checkpoint.write_atomic(folder / "model.safetensors", lambda file: file.write(blob))
    hugging_face.write(model, tokenizer, folder, str(dtype).removeprefix("torch."))


def about(model: Whisper, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a file must say besides weights: sizes, vocabulary, languages and alignment heads."""
    return {
        "dims": vars(model.dims),
        "vocabulary": [base64.b64encode(token).decode() for token in tokenizer.ranks],
        "languages": list(tokenizer.languages),
        "multilingual": tokenizer.multilingual,
        "alignment_heads": model.alignment_heads.nonzero().tolist(),
    }


def tokenizer_from(facts: Mapping[str, Any], dims: Dims) -> Tokenizer:
    """The tokenizer that `about` describes. Its timestamps cover the window; a published vocabulary's cover 30 s in any window."""
    ranks = {base64.b64decode(token): rank for rank, token in enumerate(facts["vocabulary"])}
    seconds = 30.0 if dims.n_vocab in {known.n_vocab for known in SIZES.values()} else dims.seconds
    return tokenizers.build(ranks, tuple(facts["languages"]), seconds, facts["multilingual"])


def tokenizer_of(path: Path, dims: Dims) -> Tokenizer:
    """The tokenizer of a published checkpoint: OpenAI's, unless it brings another vocabulary.

    Raises:
        UserError: OpenAI's vocabulary is not at hand, or the checkpoint's own is damaged.
    """
    if dims.n_vocab in {known.n_vocab for known in SIZES.values()}:
        return tokenizers.official(dims.n_vocab)
    try:
        if path.is_dir():
            return hugging_face.read_tokenizer(read_json(path / "tokenizer.json"), dims.seconds)
        return tokenizer_from(checkpoint.load_state(path)["almanac"], dims)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{path} has {dims.n_vocab:,} tokens, and says not which ({error})"
        raise UserError(what, "give a checkpoint with its vocabulary") from None


def who_can_run(dims: Dims) -> str | None:
    """What other programs can't run a model, and why; None where all can."""
    odd = [f"windows of {dims.seconds:g} s"] if dims.seconds != 30 else []
    if dims.n_vocab not in {known.n_vocab for known in SIZES.values()}:
        odd.append(f"a vocabulary of its own ({dims.n_vocab:,} tokens)")
    if not odd:
        return None
    return (
        f"this model has {' and '.join(odd)}: transformers runs it, but openai-whisper, faster-whisper and whisper.cpp "
        "are made for 30 s and OpenAI's vocabularies"
    )


def size_name(dims: Dims, hint: str = "") -> str | None:
    """The published size of a model, if it is one; `hint` (a file's name) tells large-v1 from large-v2."""
    name = next((name for name, known in SIZES.items() if known == dims), None)
    return "large-v1" if name == "large-v2" and "v1" in hint else name


def alignment_heads(dims: Dims, hint: str = "") -> Tensor | None:
    """layers × heads, true where attention follows the words; None for what is not a published size."""
    name = size_name(dims, hint)
    if name is None:
        return None
    return head_mask(dims, (map(int, pair.split(".")) for pair in _ALIGNMENT_HEADS[name].split()))


def head_mask(dims: Dims, pairs: Iterable[Iterable[int]]) -> Tensor:
    """layers × heads, true at the pairs of a layer and a head."""
    mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
    for layer, head in pairs:
        mask[layer, head] = True
    return mask


def _openai(path: Path) -> tuple[Dims, dict[str, Tensor], Tensor | None]:
    state = checkpoint.load_state(path)
    try:
        dims, tensors = Dims(**state["dims"]), state["model_state_dict"]
    except (KeyError, TypeError):
        raise UserError(
            f"{path} is not a checkpoint of OpenAI's Whisper (it has no dims and model_state_dict)",
            "give a .pt file of openai-whisper, a folder of Hugging Face's, or weights of `almanac whisper train`",
        ) from None
    pairs = state["almanac"]["alignment_heads"] if "almanac" in state else None
    return dims, tensors, head_mask(dims, pairs) if pairs else alignment_heads(dims, path.name)


def _hugging_face(folder: Path) -> tuple[Dims, dict[str, Tensor], Tensor | None]:
    config = read_json(folder / "config.json")
    try:
        dims = Dims(
            config["num_mel_bins"],
            config["max_source_positions"],
            config["d_model"],
            config["encoder_attention_heads"],
            config["encoder_layers"],
            config["vocab_size"],
            config["max_target_positions"],
            config["d_model"],
            config["decoder_attention_heads"],
            config["decoder_layers"],
        )
    except KeyError as error:
        raise UserError(f"{folder}/config.json has no {error}", "give a folder of a Whisper model") from None
    theirs = read_weights(folder)
    translated = {name: to_hugging_face(name) for name in _names(dims)}
    tensors = {name: theirs[other] for name, other in translated.items() if other in theirs}
    generation = folder / "generation_config.json"
    pairs = read_json(generation).get("alignment_heads") if generation.is_file() else None
    return dims, tensors, head_mask(dims, pairs) if pairs else alignment_heads(dims, folder.name)


def _names(dims: Dims) -> list[str]:
    with torch.device("meta"):
        return list(Whisper(dims).state_dict())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
