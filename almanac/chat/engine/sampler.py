"""The next token of a text, of its logits. What is drawn depends on the text's own seed and on how many tokens it has drawn, and on
nothing else: each has one random number that belongs to it, so that neither company nor speculation changes a seeded answer."""

import math

import numpy as np
import torch
from jaxtyping import Float

from almanac.chat.engine.request import Sampling, Sequence, TokenLogprob
from almanac.nn.compiled import compiled, compiled_exactly

_FIRST_LOOK = 256
"""Likeliest tokens that are sorted first; more where they are not enough."""


def draw(sequence: Sequence, logits: Float[np.ndarray, " vocabulary"]) -> int:
    """The next token of a text.

    Args:
        sequence: the text so far.
        logits: of what follows; changed.
    """
    sampling = sequence.sampling
    _penalise(sequence, logits)
    if sequence.grammar is not None:
        sequence.grammar.mask(logits)
    return choose(logits, sampling, uniform(sequence.seed, len(sequence.tokens) - sequence.prompt))


def choose(logits: Float[np.ndarray, " vocabulary"], sampling: Sampling, number: float) -> int:
    """A token of logits.

    Args:
        logits: changed.
        sampling: temperature and what of the vocabulary is left.
        number: the random number, in [0, 1).
    """
    if sampling.temperature == 0:
        return int(logits.argmax())  # the first, where several are largest
    if sampling.top_k or sampling.top_p < 1 or sampling.min_p > 0:
        return _of_few(logits, sampling, number)
    return int(_of_all(logits, logits.max(), np.float32(1 / sampling.temperature), number))


def uniform(seed: int, index: int) -> float:
    """The random number in [0, 1) that belongs to the how-manieth token of a seed (SplitMix64 of both, Steele et al. 2014)."""
    state = _mixed(_mixed(seed & _64_BITS) ^ (index * 0x9E3779B97F4A7C15 & _64_BITS))
    return (_mixed(state) >> 11) * 2.0**-53


def logprob(logits: Float[np.ndarray, " vocabulary"], token: int, top: int) -> TokenLogprob:
    """How likely a token is, and the likeliest `top`."""
    total = float(_log_total(logits, logits.max()))
    if not top:
        return TokenLogprob(token, float(logits[token]) - total)
    values, places = torch.topk(torch.from_numpy(logits), min(top, len(logits)))
    likeliest = tuple((int(place), float(value) - total) for value, place in zip(values, places, strict=True))
    return TokenLogprob(token, float(logits[token]) - total, likeliest)


_64_BITS = 2**64 - 1


def _mixed(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _64_BITS
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _64_BITS
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _64_BITS
    return state ^ (state >> 31)


def _penalise(sequence: Sequence, logits: np.ndarray) -> None:
    sampling = sequence.sampling
    if sampling.repetition_penalty != 1:
        seen = np.unique(sequence.tokens)
        known = logits[seen]
        logits[seen] = np.where(known > 0, known / sampling.repetition_penalty, known * sampling.repetition_penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and sequence.counts:
        drawn = np.fromiter(sequence.counts.keys(), np.int64)
        times = np.fromiter(sequence.counts.values(), np.float32)
        logits[drawn] -= sampling.presence_penalty + sampling.frequency_penalty * times
    for token, bias in sampling.logit_bias.items():
        logits[token] += bias


def _of_few(logits: np.ndarray, sampling: Sampling, number: float) -> int:
    """Drawn among the likeliest, by top-k, then top-p, then min-p, as vLLM and transformers do."""
    scaled = torch.from_numpy(logits) / sampling.temperature
    most = sampling.top_k or len(logits)
    look = min(most, _FIRST_LOOK)
    whole = 1.0 if sampling.top_k else math.exp(torch.logsumexp(scaled.double(), 0) - scaled.max())
    while True:
        values, tokens = torch.topk(scaled, look)
        likely = (values - values[0]).double().exp()
        total = likely.sum().item() if sampling.top_k else whole
        enough = likely.cumsum(0) >= sampling.top_p * total
        floor = likely < sampling.min_p
        if look == most or (sampling.top_p < 1 and enough.any()) or floor.any():
            break
        look = min(most, look * 16)
    kept = look if sampling.top_p >= 1 or not enough.any() else int(enough.nonzero()[0]) + 1
    if floor.any():
        kept = min(kept, max(int(floor.nonzero()[0]), 1))
    bounds = likely[:kept].cumsum(0)
    place = int(torch.searchsorted(bounds, number * bounds[-1].item(), right=True))
    return int(tokens[min(place, kept - 1)])


@compiled
def _log_total(logits, most):
    total = 0.0
    for i in range(len(logits)):
        total += np.exp(logits[i] - most)
    return most + np.log(total)


@compiled_exactly
def _of_all(logits, most, sharpness, number):
    total = 0.0
    for i in range(len(logits)):
        logits[i] = np.exp((logits[i] - most) * sharpness)
        total += logits[i]
    until, reached, last = number * total, 0.0, 0
    for i in range(len(logits)):
        if logits[i] > 0:
            reached, last = reached + logits[i], i
            if reached > until:
                return i
    return last
