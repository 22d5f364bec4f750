"""A model's weights in one of another vocabulary or window: what a training on other speech begins with, instead of random numbers. Layers
are taken as they are; a token that is new begins as the mean of the tokens that spelled it."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from almanac.whisper.model import Whisper
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.tokenizer import Tokenizer


@torch.no_grad()
def adapted(found: Recogniser, tokens: Tokenizer, seconds: float, context: int) -> Whisper:
    """A model with the weights of another.

    Args:
        found: the other.
        tokens: the vocabulary.
        seconds: its window.
        context: tokens that its decoder can look back on.
    """
    old = found.model.dims
    dims = replace(old, n_vocab=tokens.encoding.n_vocab, n_audio_ctx=round(seconds * 50), n_text_ctx=context)
    model = Whisper(dims, found.model.alignment_heads)
    weights, own = found.model.state_dict(), model.state_dict()
    positions = weights["decoder.positional_embedding"]
    weights["decoder.positional_embedding"] = positions[torch.arange(context).clamp(max=old.n_text_ctx - 1)]
    weights["decoder.token_embedding.weight"] = _embeddings(
        weights["decoder.token_embedding.weight"], found.tokenizer, tokens
    )
    weights["encoder.positional_embedding"] = own["encoder.positional_embedding"]
    model.load_state_dict(weights)
    return model


def _embeddings(table: Float[Tensor, "old state"], old: Tokenizer, new: Tokenizer) -> Float[Tensor, "new state"]:
    """The rows of a vocabulary's tokens, by those of another that spell the same."""
    if new.ranks == old.ranks and new.encoding.n_vocab == old.encoding.n_vocab and new.languages == old.languages:
        return table
    spelled = [_spelling(new.encoding.decode_single_token_bytes(token), old) for token in range(new.eot)]
    special = [_namesakes(new.decode_with_timestamps([token]), old) for token in range(new.eot, new.encoding.n_vocab)]
    return torch.stack([table[own].mean(0) for own in (*spelled, *special)])


def _spelling(piece: bytes, old: Tokenizer) -> list[int]:
    return [old.ranks[piece]] if piece in old.ranks else old.encode(piece.decode(errors="replace"))


def _namesakes(name: str, old: Tokenizer) -> list[int]:
    """The special token of that name; else, the last time for a time, and all languages for a language."""
    try:
        return [old.encoding.encode_single_token(name)]
    except KeyError:
        return [old.encoding.n_vocab - 1] if "." in name else old.language_tokens
