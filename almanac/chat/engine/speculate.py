"""Guesses at what follows, for the model to check several tokens in one step (Leviathan et al. 2023). A guess is taken where it is the
token that the model draws itself, with the random number that belongs to it: so an answer is the same with and without guessing, drawn
or greedy."""

from collections.abc import Sequence as Row
from typing import Protocol, runtime_checkable

from almanac.chat.engine.request import Sequence


@runtime_checkable
class Guesser(Protocol):
    """Guesses."""

    def guess(self, sequences: Row[Sequence], most: int) -> list[list[int]]:
        """For each text up to `most` tokens that may follow."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """A text is done with."""


class PromptLookup:
    """Guesses that a text goes on as it did after the same few tokens before: right where it repeats or quotes.

    Args:
        longest: tokens that must be the same, at most; it looks for the most first.
        shortest: at least.
    """

    def __init__(self, longest: int = 3, shortest: int = 2):
        self.lengths = range(longest, shortest - 1, -1)
        self._places: dict[int, tuple[int, dict[tuple[int, ...], int]]] = {}

    def guess(self, sequences: Row[Sequence], most: int) -> list[list[int]]:
        """What followed the latest place that ends alike."""
        return [self._of(sequence, most) for sequence in sequences]

    def forget(self, sequence: Sequence) -> None:
        """A text is done with."""
        self._places.pop(sequence.number, None)

    def _of(self, sequence: Sequence, most: int) -> list[int]:
        tokens = sequence.tokens
        known, places = self._places.get(sequence.number, (0, {}))
        for end in range(max(known, 1), len(tokens)):  # places after which something follows
            for length in self.lengths:
                if end >= length:
                    places[tuple(tokens[end - length : end])] = end
        self._places[sequence.number] = (len(tokens), places)
        for length in self.lengths:
            place = places.get(tuple(tokens[-length:]))
            if len(tokens) > length and place is not None:
                return tokens[place : place + most]
        return []
