"""A model that nobody trained, but which says something: syllables, and others for other sounds."""

from dataclasses import replace
from itertools import product

import torch

from almanac.whisper import tokenizer
from almanac.whisper.model import Dims, Whisper
from almanac.whisper.recogniser import Recogniser


def small(seconds: float = 6.0, seed: int = 3) -> Recogniser:
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
    dims = replace(Dims.of_width(64, 1, 2, tokens.encoding.n_vocab, seconds=seconds), n_text_ctx=48)
    model = Whisper(dims).eval()
    decoder, embedding = model.decoder, model.decoder.token_embedding.weight
    with torch.no_grad():
        torch.nn.init.normal_(decoder.positional_embedding, std=0.5)
        torch.nn.init.normal_(embedding, std=0.02)  # else each token would be followed by itself
        decoder.ln.weight.fill_(40)  # texts that are likely enough to stand
        decoder.ln.weight[0], decoder.ln.bias[0] = 0, 1  # the first channel: how likely a token is, whatever was heard
        embedding[:, 0] = 0
        embedding[:256, 0] = -100  # bytes are rarely whole characters
        embedding[tokens.sot :, 0] = -4
        usual = model.encoder(torch.randn(4, dims.n_mels, dims.frames)).mean((0, 1))
        for block in decoder.blocks:  # what differs from sound to sound is heard best
            block.cross_attn.value.bias.copy_(-block.cross_attn.value.weight @ usual)
            block.cross_attn.out.weight.mul_(30)
    return Recogniser(model, tokens)
