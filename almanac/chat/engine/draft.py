"""A smaller model that guesses what a larger one says (Leviathan et al. 2023). It draws with the random number that belongs to the
larger one's token, so that where both think alike, both draw the same."""

from collections.abc import Sequence as Row
from dataclasses import dataclass, field

import numpy as np

from almanac.chat.engine import sampler
from almanac.chat.engine.core import Runner
from almanac.chat.engine.pages import PAGE, PagePool
from almanac.chat.engine.request import Sequence
from almanac.chat.engine.rows import Batch


@dataclass
class _Held:
    """What the small model has computed of a text."""

    tokens: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)


class DraftModel:
    """Guesses by a model.

    Args:
        runner: computes it.
        pages: how many pages that has.
        rows: tokens that it computes in a step.
        context: positions that it knows.
    """

    def __init__(self, runner: Runner, pages: int, rows: int, context: int):
        self.runner, self.rows, self.context = runner, rows, context
        self._pool = PagePool(pages)
        self._held: dict[int, _Held] = {}

    def guess(self, sequences: Row[Sequence], most: int) -> list[list[int]]:
        """What it draws after each text."""
        guesses: list[list[int]] = [[] for _ in sequences]
        able = [place for place, sequence in enumerate(sequences) if self._make_room(sequence, most)]
        for _ in range(most):
            if not able:
                break
            drawn = self._next([(sequences[place], guesses[place]) for place in able])
            for place, token in zip(able, drawn, strict=True):
                guesses[place].append(token)
        return guesses

    def forget(self, sequence: Sequence) -> None:
        """A text is done with."""
        held = self._held.pop(sequence.number, None)
        if held:
            self._pool.release(held.pages)

    def _make_room(self, sequence: Sequence, most: int) -> bool:
        """Pages for a text and its guesses; what is kept of it that is no longer so is forgotten."""
        length = len(sequence.tokens) + most
        held = self._held.setdefault(sequence.number, _Held())
        same = next(
            (place for place, pair in enumerate(zip(held.tokens, sequence.tokens, strict=False)) if pair[0] != pair[1]),
            min(len(held.tokens), len(sequence.tokens)),
        )
        del held.tokens[same:]
        needed = -(-length // PAGE) - len(held.pages)
        if length > self.context or needed > self._pool.free:
            return False
        held.pages += [self._pool.take() for _ in range(needed)]
        return True

    def _next(self, texts: Row[tuple[Sequence, list[int]]]) -> list[int]:
        """A token after each text and what is guessed so far."""
        logits: dict[int, np.ndarray] = {}
        left = [(number, sequence.tokens + guessed) for number, (sequence, guessed) in enumerate(texts)]
        while left:
            room, spans, later = self.rows, [], []
            for number, tokens in left:
                held = self._held[texts[number][0].number]
                count = min(len(tokens) - len(held.tokens), room)
                if count:
                    spans.append((number, held, tokens[len(held.tokens) : len(held.tokens) + count]))
                room -= count
                if len(held.tokens) + count < len(tokens):
                    later.append((number, tokens))
            for (number, held, new), row in zip(spans, self.runner.forward(_batch(spans)).cpu().numpy(), strict=True):
                held.tokens += new
                logits[number] = row
            left = later
        return [
            sampler.choose(
                logits[number], sequence.sampling, sampler.uniform(sequence.seed, len(sequence.drawn) + len(guessed))
            )
            for number, (sequence, guessed) in enumerate(texts)
        ]


def _batch(spans: Row[tuple[int, _Held, list[int]]]) -> Batch:
    counts = [len(new) for _, _, new in spans]
    table = np.zeros((len(spans), max(len(held.pages) for _, held, _ in spans)), np.int32)
    for line, (_, held, _) in zip(table, spans, strict=True):
        line[: len(held.pages)] = held.pages
    positions = [np.arange(len(held.tokens), len(held.tokens) + len(new), dtype=np.int32) for _, held, new in spans]
    tokens = np.array([token for _, _, new in spans for token in new], np.int64)
    owner = np.repeat(np.arange(len(spans), dtype=np.int32), counts)
    return Batch(tokens, np.concatenate(positions), owner, table, np.cumsum(counts, dtype=np.int32) - 1)
