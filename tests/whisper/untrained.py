"""A model that nobody trained, but which says something: syllables, and others for other sounds."""

from dataclasses import replace
from itertools import product

import torch

from almanac.whisper import tokenizer
from almanac.whisper.model import Dims, Whisper
from almanac.whisper.recogniser import Recogniser


def small(seconds: float = 6.0, seed: int = 1) -> Recogniser:
    """A model of two languages.

    Args:
        seconds: its window.
        seed: of its weights.
    """
    syllables = ["".join(letters) for letters in product((" ", " b", "t"), "aeiouy", "klmnrs", "aeiou")]
    vocabulary = [*(bytes([value]) for value in range(256)), *(syllable.encode() for syllable in syllables)]
    ranks = {token: rank for rank, token in enumerate(vocabulary)}
    tokens = tokenizer.build(ranks, ("en", "nl"), seconds)
    torch.manual_seed(seed)
    dims = replace(Dims.of_width(64, 1, 2, tokens.encoding.n_vocab, seconds=seconds), n_text_ctx=80)
    model = Whisper(dims).eval()
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.5)
    torch.nn.init.normal_(model.decoder.token_embedding.weight, std=0.02)  # else each token would be followed by itself
    model.decoder.token_embedding.weight.data[tokens.sot :] *= 0.7  # mostly text, now and then a time
    model.decoder.token_embedding.weight.data[:256] *= 0.1  # bytes are rarely whole characters
    with torch.no_grad():
        usual = model.encoder(torch.randn(4, dims.n_mels, dims.frames)).mean((0, 1))
        for block in model.decoder.blocks:  # what differs from sound to sound is heard best
            block.cross_attn.value.bias.copy_(-block.cross_attn.value.weight @ usual)
            block.cross_attn.out.weight.mul_(30)
    return Recogniser(model, tokens)
