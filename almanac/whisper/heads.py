"""Which heads of a trained decoder follow the words in time (official `_ALIGNMENT_HEADS` lists those of the published models): found by how
well they time speech whose words' times are known, one head after another for as long as each makes the others better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from almanac.whisper import audio, timing
from almanac.whisper.audio import Samples
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.speak import TimedWord
from almanac.whisper.timing import Word

Known = tuple[Float[np.ndarray, " _"], str, list[TimedWord]]
"""Sound, language, and all words of its text in order."""


def choose(recogniser: Recogniser, known: Sequence[Known], most: int = 6) -> Bool[Tensor, "layers heads"]:
    """The heads that time known speech best together.

    Args:
        recogniser: the model; its own choice of heads stays.
        known: speech that fits a window, with its words' times.
        most: at most so many heads.
    """
    seen = [_look(recogniser, *one) for one in known]
    chosen = torch.zeros(recogniser.model.alignment_heads.shape, dtype=torch.bool)
    best = np.inf
    for _ in range(most):
        trials = []
        for layer, head in (~chosen).nonzero().tolist():
            heads = chosen.clone()
            heads[layer, head] = True
            trials.append((float(np.mean(errors(recogniser, heads, seen))), layer, head))
        least, layer, head = min(trials, default=(np.inf, 0, 0))
        if least >= best:
            break
        best, chosen[layer, head] = least, True
    return chosen


@dataclass(frozen=True)
class _Seen:
    """Known speech as every head sees it."""

    language: str
    words: list[TimedWord]
    text: list[int]
    """Its tokens."""
    pictures: Float[Tensor, "layers heads tokens positions"]


def _look(recogniser: Recogniser, samples: Samples, language: str, words: list[TimedWord]) -> _Seen:
    text = recogniser.tokenizer.encode(" " + " ".join(word for word, *_ in words))
    sound = recogniser.encode(audio.log_mel(torch.from_numpy(samples), recogniser.model.dims.n_mels))[0]
    products, _ = timing.attend(recogniser.model, recogniser.tokenizer, text, sound, language)
    shown = timing.pictures(products.flatten(0, 1), len(samples) // audio.HOP // 2)
    return _Seen(language, words, text, shown.unflatten(0, products.shape[:2]))


def errors(
    recogniser: Recogniser, heads: Bool[Tensor, "layers heads"], seen: Sequence[_Seen]
) -> Float[np.ndarray, " edges"]:
    """How far starts and ends of words are from where they are known to be, s; at most 0.5, so that no lost word decides alone."""
    far = []
    for one in seen:
        picture = one.pictures[heads].mean(0)
        found = timing.place(recogniser.tokenizer, one.text, picture, [1.0] * len(one.text), one.language)
        for truth, word in paired(one.words, found):
            far += [min(0.5, abs(a - b)) for a, b in zip(truth[1:], word, strict=True)]
    return np.array(far)


def paired(words: Sequence[TimedWord], found: Sequence[Word]) -> list[tuple[TimedWord, tuple[float, float]]]:
    """Known words with the times that were found for the same text: of several words that are known as one, from the first's start to
    the last's end. Nothing where the texts differ."""
    spoken = [word for word in found if any(letter.isalnum() for letter in word.text)]
    counts = [len(word.split()) for word, *_ in words]
    if sum(counts) != len(spoken):
        return []
    ends = np.cumsum(counts).tolist()
    return [
        (word, (spoken[end - count].start, spoken[end - 1].end))
        for word, count, end in zip(words, counts, ends, strict=True)
    ]
