"""What a Hugging Face folder of Whisper holds besides weights: sizes, how to generate, how to make spectrograms, and the tokenizer, as
transformers, tokenizers and ctranslate2 read them. The weights' own names are `published`'s."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from almanac.runtime import checkpoint
from almanac.whisper import audio
from almanac.whisper import tokenizer as tokenizers
from almanac.whisper.model import Dims, Whisper
from almanac.whisper.tokenizer import Tokenizer

_LATEST_FIRST = 50
"""The first time of a text is at most this, of 20 ms (`Options.max_initial_timestamp`)."""
_ARCHITECTURE = "WhisperForConditionalGeneration"
_PROCESSOR = "WhisperProcessor"


def write(model: Whisper, tokenizer: Tokenizer, folder: Path, dtype: str) -> None:
    """Write all files of a folder but the weights.

    Raises:
        UserError: one could not be written.
    """
    vocabulary = {_letters(token): rank for token, rank in tokenizer.ranks.items()}
    merges = _merges(tokenizer)
    files = {
        "config.json": _config(model.dims, tokenizer, dtype),
        "generation_config.json": _generation(model, tokenizer),
        "preprocessor_config.json": _preprocessor(model.dims),
        "tokenizer.json": _tokenizer(tokenizer, vocabulary, merges),
        "tokenizer_config.json": _tokenizer_config(tokenizer),
        "vocab.json": vocabulary,  # this and the merges: for transformers before 5
    }
    texts = {name: json.dumps(facts, ensure_ascii=False, indent=1) for name, facts in files.items()}
    texts["merges.txt"] = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)
    for name, text in texts.items():
        checkpoint.write_atomic(folder / name, lambda file, text=text: file.write(text.encode()))


def read_tokenizer(file: Mapping[str, Any], seconds: float) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` of Whisper's describes.

    Args:
        file: its contents.
        seconds: the model's window.

    Raises:
        KeyError, TypeError, ValueError: it describes another kind of tokenizer.
    """
    bytes_of = {letter: byte for byte, letter in tokenizers.byte_letters().items()}
    ranks = {bytes(bytes_of[letter] for letter in token): rank for token, rank in file["model"]["vocab"].items()}
    names = [token["content"][2:-2] for token in sorted(file["added_tokens"], key=lambda token: token["id"])]
    languages = tuple(names[names.index("startoftranscript") + 1 : names.index("translate")])
    return tokenizers.build(ranks, languages, seconds, "en" in languages)


def _config(dims: Dims, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    return {
        "architectures": [_ARCHITECTURE],
        "model_type": "whisper",
        "dtype": dtype,
        "torch_dtype": dtype,
        "vocab_size": dims.n_vocab,
        "num_mel_bins": dims.n_mels,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "d_model": dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_layers": dims.n_text_layer,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "num_hidden_layers": dims.n_audio_layer,
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": False,
        "is_encoder_decoder": True,
        "use_cache": True,
        **_special_ids(tokenizer),
    }


def _special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {**dict.fromkeys(names, tokenizer.eot), "decoder_start_token_id": tokenizer.sot}


def _generation(model: Whisper, tokenizer: Tokenizer) -> dict[str, Any]:
    facts = {
        **_special_ids(tokenizer),
        "alignment_heads": model.alignment_heads.nonzero().tolist(),
        "begin_suppress_tokens": [*tokenizer.encode(" "), tokenizer.eot],
        "suppress_tokens": sorted({*tokenizer.non_speech, *tokenizer.not_sampled}),
        "max_initial_timestamp_index": _LATEST_FIRST,
        "max_length": model.dims.n_text_ctx,
        "no_timestamps_token_id": tokenizer.no_timestamps,
        "prev_sot_token_id": tokenizer.sot_prev,
        "return_timestamps": False,
        "is_multilingual": tokenizer.multilingual,
    }
    if tokenizer.multilingual:
        tokens = zip(tokenizer.languages, tokenizer.language_tokens, strict=True)
        facts["lang_to_id"] = {f"<|{language}|>": token for language, token in tokens}
        facts["task_to_id"] = {task: tokenizer.special(task) for task in ("transcribe", "translate")}
    return facts


def _preprocessor(dims: Dims) -> dict[str, Any]:
    seconds = int(dims.seconds) if dims.seconds == int(dims.seconds) else dims.seconds
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": _PROCESSOR,
        "feature_size": dims.n_mels,
        "sampling_rate": audio.SAMPLE_RATE,
        "n_fft": audio.WINDOW,
        "hop_length": audio.HOP,
        "chunk_length": seconds,
        "n_samples": dims.frames * audio.HOP,
        "nb_max_frames": dims.frames,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _tokenizer(tokenizer: Tokenizer, vocabulary: Mapping[str, int], merges: list[tuple[str, str]]) -> dict[str, Any]:
    start = ["<|startoftranscript|>", "<|notimestamps|>"]
    template = [
        *({"SpecialToken": {"id": name, "type_id": 0}} for name in start),
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
    ]
    specials = {name: tokenizer.special(name[2:-2]) for name in (*start, "<|endoftext|>")}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, **facts} for token, facts in _added(tokenizer).items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template[:-1], {"Sequence": {"id": "B", "type_id": 1}}, template[-1]],
            "special_tokens": {
                name: {"id": name, "ids": [token], "tokens": [name]} for name, token in specials.items()
            },
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # as tiktoken, which looks for the whole word first
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    end = "<|endoftext|>"
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": _PROCESSOR,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 1_000_000,
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), end),
        "additional_special_tokens": [facts["content"] for facts in _added(tokenizer).values() if facts["special"]],
        "added_tokens_decoder": {str(token): facts for token, facts in _added(tokenizer).items()},
    }


def _added(tokenizer: Tokenizer) -> dict[int, dict[str, Any]]:
    """The tokens after the ordinary ones. Times do not count as special: transformers tells them by what is not."""
    same = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    names = {token: tokenizer.encoding.decode([token]) for token in range(tokenizer.eot, tokenizer.encoding.n_vocab)}
    return {
        token: {"content": name, **same, "special": token < tokenizer.timestamp_begin} for token, name in names.items()
    }


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Pairs of tokens in the order in which they are merged: all that make a token, as tiktoken takes any of them."""
    ranks, merges = tokenizer.ranks, []
    for token in ranks:
        halves = [(token[:place], token[place:]) for place in range(1, len(token))]
        known = [(left, right) for left, right in halves if left in ranks and right in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [(_letters(left), _letters(right)) for left, right in merges]


def _letters(token: bytes) -> str:
    """A token as the files write it, a letter for each byte."""
    return token.decode("latin-1").translate(_table())


@cache
def _table() -> dict[int, str]:
    return tokenizers.byte_letters()
