"""llama.cpp's files: weights, config, tokenizer and chat template in one, often in four or eight bits, which become floats here. `gguf`
reads the format; what its names and orders mean for our network is said here."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from almanac.chat.model import Config
from almanac.chat.tokenizer import Vocabulary
from almanac.nn.embeddings import Rope
from almanac.runtime.errors import UserError

_NAMES = (
    (r"^token_embd\.", "model.embed_tokens."),
    (r"^output_norm\.", "model.norm."),
    (r"^output\.", "lm_head."),
    (r"^blk\.(\d+)\.", r"model.layers.\1."),
    (r"\.attn_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
    (r"\.attn_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.attn_output\.", ".self_attn.o_proj."),
    (r"\.attn_([qk])_norm\.", r".self_attn.\1_norm."),
    (r"\.ffn_(gate|up|down)\.", r".mlp.\1_proj."),
)
"""llama.cpp's names → Llama's."""

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CUTS = {
    "llama-bpe": rf"{_LETTERS}|\p{{N}}{{1,3}}|{_PUNCTUATION}",
    "qwen2": rf"{_LETTERS}|\p{{N}}|{_PUNCTUATION}",
}
"""How text is cut before it is merged, where it is not as GPT-2 does it."""
_DIGITS_APART = ("smollm",)
"""Vocabularies that cut as GPT-2 does, but digits one by one."""
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6


@dataclass(frozen=True)
class File:
    """What is in one."""

    config: Config
    tensors: dict[str, Tensor]
    """float32, by Llama's names."""
    vocabulary: Vocabulary
    template: str | None


def read(path: Path) -> File:
    """Read a file of the architectures llama, qwen2 or qwen3.

    Raises:
        UserError: it is damaged, or of another architecture, number format or tokenizer.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        facts = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # ValueError, IndexError, struct.error …: whatever a damaged file leads to
        raise UserError(f"{path} is not a readable GGUF file ({error})", "it may be truncated; get it anew") from None
    kind = facts.get("general.architecture")
    if kind not in ("llama", "qwen2", "qwen3"):
        raise UserError(f"{path} is of the architecture '{kind}'", "those that run here: llama, qwen2, qwen3")
    try:
        floats = {
            tensor.name: torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32))
            for tensor in reader.tensors
        }
        config = _config(kind, facts, floats)
        tensors = {}
        for published, weight in floats.items():
            name = _renamed(published)
            if kind == "llama" and re.search(r"[qk]_proj", name):
                weight = _turned_back(weight, config.heads if "q_proj" in name else config.kv_heads)
            tensors[name] = weight
        vocabulary = _vocabulary(facts)
    except NotImplementedError as error:
        raise UserError(
            f"{path} has weights in a format that is not read here ({error})", "use F16, Q8_0 or Q4_K_M"
        ) from None
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{path} lacks what it must say ({type(error).__name__}: {error})", "get it anew") from None
    return File(config, tensors, vocabulary, facts.get("tokenizer.chat_template"))


def _config(kind: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Config:
    def fact(name: str, *default: Any) -> Any:
        found = facts.get(f"{kind}.{name}", *default)
        if found is None and not default:
            raise KeyError(f"{kind}.{name}")
        return found

    width, heads = fact("embedding_length"), fact("attention.head_count")
    head_dim = fact("attention.key_length", None) or width // heads
    scaling = fact("rope.scaling.type", "none")
    rope = Rope(base=fact("rope.freq_base", 10_000.0))
    if scaling in ("linear", "yarn"):
        context = fact("rope.scaling.original_context_length", fact("context_length"))
        rope = Rope(rope.base, scaling, fact("rope.scaling.factor"), context, 1.0, 32.0)
    elif "rope_freqs.weight" in tensors:
        rope = Rope(rope.base, "divided", divisors=tuple(tensors.pop("rope_freqs.weight").tolist()))
    window = fact("attention.sliding_window", 0) or 0
    return Config(
        vocabulary=len(facts["tokenizer.ggml.tokens"]),
        width=width,
        layers=fact("block_count"),
        heads=heads,
        kv_heads=fact("attention.head_count_kv", heads),
        head_dim=head_dim,
        hidden=fact("feed_forward_length"),
        context=fact("context_length"),
        norm_eps=fact("attention.layer_norm_rms_epsilon"),
        rope=rope,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        out_bias="blk.0.attn_output.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        windows=(window,) * fact("block_count") if window else (),
        tied="output.weight" not in tensors,
    )


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _turned_back(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp turns neighbouring channels of Llama's heads, we those that are half a head apart."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape).contiguous()


def _vocabulary(facts: dict[str, Any]) -> Vocabulary:
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts.get("tokenizer.ggml.token_type")
    match facts["tokenizer.ggml.model"]:
        case "gpt2":
            tokenizer = _byte_level(tokens, facts)
        case "llama":
            tokenizer = _sentence_pieces(tokens, facts)
        case other:
            raise ValueError(f"a tokenizer of type {other}")
    added = [
        AddedToken(text, special=kinds[number] == _CONTROL, normalized=False)
        for number, text in enumerate(tokens)
        if kinds and kinds[number] in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    begin, end = facts.get("tokenizer.ggml.bos_token_id"), facts.get("tokenizer.ggml.eos_token_id")
    adds = facts.get("tokenizer.ggml.add_bos_token", facts["tokenizer.ggml.model"] == "llama")
    if adds and begin is not None:
        named = [(tokens[begin], begin)]
        tokenizer.post_processor = processors.TemplateProcessing(f"{tokens[begin]} $A", None, named)
    ends = {number for number in (end, facts.get("tokenizer.ggml.eot_token_id")) if number is not None}
    text = ["" if number is None else tokens[number] for number in (begin, end)]
    return Vocabulary(tokenizer, ends, *text)


def _byte_level(tokens: list[str], facts: dict[str, Any]) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    kind = facts.get("tokenizer.ggml.pre", "default")
    tokenizer = Tokenizer(
        models.BPE({text: number for number, text in enumerate(tokens)}, merges, ignore_merges=kind == "llama-bpe")
    )
    if kind in _CUTS:
        cut = pre_tokenizers.Split(Regex(_CUTS[kind]), "isolated")
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, by_bytes])
    else:
        first = [pre_tokenizers.Digits(individual_digits=True)] if kind in _DIGITS_APART else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_pieces(tokens: list[str], facts: dict[str, Any]) -> Tokenizer:
    """SentencePiece's BPE: pairs are merged by the score of what they make."""
    scores, known = facts["tokenizer.ggml.scores"], {text: number for number, text in enumerate(tokens)}
    merges = []
    for text, number in known.items():
        cuts = [(text[:at], text[at:]) for at in range(1, len(text)) if text[:at] in known and text[at:] in known]
        merges += [(-scores[number], known[left], known[right], left, right) for left, right in cuts]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    unknown = tokens[facts.get("tokenizer.ggml.unknown_token_id", 0)]
    tokenizer = Tokenizer(models.BPE(known, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = facts.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer
