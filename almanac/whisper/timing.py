"""When each word was said (official `timing.py`): some heads of the decoder look at the sound of the word that they are about to write.
Their attention, cleaned, is a picture of text against time, and dynamic time warping finds the way through it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from almanac.whisper.model import Whisper
from almanac.whisper.tokenizer import Task, Tokenizer

MEDIAN_WIDTH = 7
"""Positions over which the attention is smoothed (official `medfilt_width`)."""
LONGEST_USUAL_WORD = 0.7
"""s; the median duration of a window's words counts as no longer than this."""
SENTENCE_ENDS = ".。!！?？"
OPENING = "\"'“¿([{-"
"""Punctuation that belongs to the word after it."""
CLOSING = "\"'.。,，!！?？:：”)]}、"
"""Punctuation that belongs to the word before it."""
_POSITIONS_PER_SECOND = 50


@dataclass(frozen=True)
class Word:
    """A word and when it was said."""

    text: str
    """With the space before it."""
    start: float
    """s."""
    end: float
    """s."""
    probability: float
    """Mean of its tokens'."""
    tokens: list[int] = field(default_factory=list)


@torch.inference_mode()
def align(
    model: Whisper,
    tokenizer: Tokenizer,
    text: Sequence[int],
    sound: Float[Tensor, "positions state"],
    positions: int,
    language: str,
    task: Task = "transcribe",
) -> list[Word]:
    """Times of the words of a text, from the start of its window.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        text: tokens, ordinary ones only.
        sound: what the encoder made of the window.
        positions: how many positions of it hold sound.
        language: what is spoken.
        task: what the text is.
    """
    products, probabilities = attend(model, tokenizer, text, sound, language, task)
    heard = pictures(products[model.alignment_heads], positions).mean(0)
    return place(tokenizer, text, heard, probabilities, language)


@torch.inference_mode()
def attend(
    model: Whisper,
    tokenizer: Tokenizer,
    text: Sequence[int],
    sound: Float[Tensor, "positions state"],
    language: str,
    task: Task = "transcribe",
) -> tuple[Float[Tensor, "layers heads tokens positions"], list[float]]:
    """How each head of each layer attends to the sound (before the softmax) as the decoder is about to write each token, from the second
    of the start of transcript on to what follows the end of text; and how likely each token of the text is among ordinary ones."""
    start = tokenizer.start(language, task)
    tokens = torch.tensor([[*start, tokenizer.no_timestamps, *text, tokenizer.eot]], device=sound.device)
    states, products = model.decoder.attention(tokens, sound[None])
    logits = model.decoder.logits(states[0, len(start) : len(start) + len(text)])
    probabilities = logits[:, : tokenizer.eot].softmax(-1)
    chosen = probabilities[torch.arange(len(text)), torch.tensor(text, dtype=torch.long)].tolist()
    return products[:, 0], chosen


def pictures(
    products: Float[Tensor, "heads tokens all_positions"], positions: int
) -> Float[Tensor, "heads tokens positions"]:
    """Text against time, as each head sees it: attention over the positions that hold sound, normalised over the tokens and smoothed in
    time."""
    weights = products[..., :positions].softmax(-1)
    deviation, mean = torch.std_mean(weights, -2, keepdim=True, unbiased=False)
    return _median((weights - mean) / deviation)


def place(
    tokenizer: Tokenizer,
    text: Sequence[int],
    picture: Float[Tensor, "tokens positions"],
    probabilities: Sequence[float],
    language: str,
) -> list[Word]:
    """The words of a text along the way through its picture, whose last rows are those of the text and of its end.

    Args:
        tokenizer: the model's.
        text: tokens.
        picture: text against time.
        probabilities: of each token.
        language: what is spoken.
    """
    way = warp(-picture[-len(text) - 2 : -1].double().cpu().numpy())
    words = tokenizer.split_words([*text, tokenizer.eot], language)[:-1]
    if not words:
        return []
    edges = np.cumsum([0, *(len(own) for _, own in words)])
    first_positions = way[1][np.diff(way[0], prepend=-1) > 0]  # where each token begins
    times = (first_positions / _POSITIONS_PER_SECOND)[edges].tolist()
    return [
        Word(word, times[index], times[index + 1], float(np.mean(probabilities[first:last])), own)
        for index, ((word, own), (first, last)) in enumerate(zip(words, pairwise(edges), strict=True))
    ]


def _median(x: Float[Tensor, "heads tokens positions"]) -> Float[Tensor, "heads tokens positions"]:
    """The median of each `MEDIAN_WIDTH` positions, mirrored at the ends."""
    half = MEDIAN_WIDTH // 2
    if x.shape[-1] <= half:
        return x
    return F.pad(x, (half, half), mode="reflect").unfold(-1, MEDIAN_WIDTH, 1).sort().values[..., half]


def warp(costs: Float[np.ndarray, "tokens positions"]) -> Int[np.ndarray, "two steps"]:
    """Dynamic time warping: the cheapest way from the first token at the first position to the last at the last, each step one token on,
    one position on, or both.

    Returns:
        The tokens (row 0) and positions (row 1) along the way.
    """
    return _compiled()(costs)


@cache
def _compiled() -> Callable[[np.ndarray], np.ndarray]:
    """`_warp` in machine code; what tests wrap around functions to check types can't be compiled."""
    from numba import njit

    return njit(cache=True)(inspect.unwrap(_warp))


def _warp(costs: np.ndarray) -> np.ndarray:
    rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1), np.inf, np.float32)
    came = np.zeros((rows + 1, columns + 1), np.int8)
    total[0, 0] = 0
    for j in range(1, columns + 1):
        for i in range(1, rows + 1):
            both, token, position = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            if both < token and both < position:
                least, step = both, 0
            elif token < both and token < position:
                least, step = token, 1
            else:
                least, step = position, 2
            total[i, j], came[i, j] = costs[i - 1, j - 1] + least, step
    came[0, :], came[:, 0] = 2, 1
    way = np.empty((2, rows + columns), np.int64)
    count, i, j = 0, rows, columns
    while i > 0 or j > 0:
        way[0, count], way[1, count] = i - 1, j - 1
        count += 1
        step = came[i, j]
        i -= step != 2
        j -= step != 1
    return way[:, :count][:, ::-1]


def tidy(words: list[Word]) -> tuple[list[Word], float]:
    """Words as a reader would have them: punctuation joined to its word, and no word at the end of a sentence much longer than
    usual, for such a one hides a pause.

    Returns:
        The words, some of them empty where they were joined to another; and the usual duration of one, s.
    """
    durations = [word.end - word.start for word in words if word.end != word.start]
    usual = min(LONGEST_USUAL_WORD, float(np.median(durations))) if durations else 0.0
    if durations:
        words = _without_pauses(words, 2 * usual)
    return _joined(words), usual


def _without_pauses(words: list[Word], longest: float) -> list[Word]:
    found = list(words)
    for i in range(1, len(found)):
        word, before = found[i], found[i - 1]
        if word.end - word.start > longest:
            if word.text in SENTENCE_ENDS:
                found[i] = replace(word, end=word.start + longest)
            elif before.text in SENTENCE_ENDS:
                found[i] = replace(word, start=word.end - longest)
    return found


def _joined(words: list[Word]) -> list[Word]:
    found = list(words)

    def join(kept: int, gone: int) -> None:
        first, second = sorted((kept, gone))
        text, tokens = found[first].text + found[second].text, found[first].tokens + found[second].tokens
        found[kept] = replace(found[kept], text=text, tokens=tokens)
        found[gone] = replace(found[gone], text="", tokens=[])

    following = len(found) - 1
    for i in range(len(found) - 2, -1, -1):
        if found[i].text.startswith(" ") and found[i].text.strip() in OPENING:
            join(following, i)
        else:
            following = i
    before = 0
    for i in range(1, len(found)):
        if not found[before].text.endswith(" ") and found[i].text in CLOSING:
            join(before, i)
        else:
            before = i
    return found
