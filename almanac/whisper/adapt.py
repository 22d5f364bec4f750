"""A model's weights in one of another vocabulary, window or depth: what a training on other speech begins with, instead of random
numbers. Layers are taken as they are; a token that is new begins as the mean of the tokens that spelled it."""

import re
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from almanac.whisper.model import Whisper
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.tokenizer import Tokenizer


@torch.no_grad()
def adapted(
    found: Recogniser,
    tokens: Tokenizer,
    seconds: float,
    context: int,
    encoder: int | None = None,
    decoder: int | None = None,
) -> Whisper:
    """A model with the weights of another.

    Args:
        found: the other.
        tokens: the vocabulary.
        seconds: its window.
        context: tokens that its decoder can look back on.
        encoder: blocks of its encoder, at most as many as the other has; None: as many. Fewer are taken at even distances, the first and
            the last among them (Gandhi et al. 2023, §4).
        decoder: the same for its decoder.
    """
    old = found.model.dims
    kept = {"encoder": _spread(old.n_audio_layer, encoder), "decoder": _spread(old.n_text_layer, decoder)}
    dims = replace(
        old,
        n_vocab=tokens.encoding.n_vocab,
        n_audio_ctx=round(seconds * 50),
        n_text_ctx=context,
        n_audio_layer=len(kept["encoder"]),
        n_text_layer=len(kept["decoder"]),
    )
    model = Whisper(dims, found.model.alignment_heads[kept["decoder"]])
    weights, own = _with_blocks(found.model.state_dict(), kept), model.state_dict()
    positions = weights["decoder.positional_embedding"]
    weights["decoder.positional_embedding"] = positions[torch.arange(context).clamp(max=old.n_text_ctx - 1)]
    weights["decoder.token_embedding.weight"] = _embeddings(
        weights["decoder.token_embedding.weight"], found.tokenizer, tokens
    )
    weights["encoder.positional_embedding"] = own["encoder.positional_embedding"]
    model.load_state_dict(weights)
    return model


def _spread(blocks: int, wanted: int | None) -> list[int]:
    """So many of the blocks, at even distances; of one, the last."""
    return torch.linspace(blocks - 1, 0, wanted or blocks).round().long().flip(0).tolist()


def _with_blocks(weights: dict[str, Tensor], kept: dict[str, list[int]]) -> dict[str, Tensor]:
    """The weights of these blocks of the encoder and the decoder, numbered anew, and of all that is not in blocks."""
    found = {}
    for name, tensor in weights.items():
        block = re.match(r"(encoder|decoder)\.blocks\.(\d+)\.", name)
        if not block:
            found[name] = tensor
        elif int(block[2]) in kept[block[1]]:
            place = kept[block[1]].index(int(block[2]))
            found[f"{block[1]}.blocks.{place}.{name[block.end() :]}"] = tensor
    return found


def _embeddings(table: Float[Tensor, "old state"], old: Tokenizer, new: Tokenizer) -> Float[Tensor, "new state"]:
    """The rows of a vocabulary's tokens, by those of another that spell the same."""
    if new.ranks == old.ranks and new.encoding.n_vocab == old.encoding.n_vocab and new.languages == old.languages:
        return table
    spelled = [_spelling(new.encoding.decode_single_token_bytes(token), old) for token in range(new.eot)]
    special = [_namesakes(new.decode_with_timestamps([token]), old) for token in range(new.eot, new.encoding.n_vocab)]
    return torch.stack([table[own].mean(0) for own in (*spelled, *special)])


def _spelling(piece: bytes, old: Tokenizer) -> list[int]:
    if not piece:  # the published multilingual vocabulary ends with a token that spells nothing
        return list(old.ranks.values())
    return [old.ranks[piece]] if piece in old.ranks else old.encode(piece.decode(errors="replace"))


def _namesakes(name: str, old: Tokenizer) -> list[int]:
    """The special token of that name; else, the last time for a time, and all languages for a language."""
    try:
        return [old.encoding.encode_single_token(name)]
    except KeyError:
        return [old.encoding.n_vocab - 1] if "." in name else old.language_tokens
