"""Who is served next: the waiting text of whoever has been served least, counted in tokens (virtual token counters, Sheng et al. 2024),
so that one who asks for much does not keep others waiting."""

from collections import deque
from collections.abc import Iterator

from almanac.chat.engine.request import Sequence

DRAWN = 2.0
"""What a drawn token counts, of a prompt's."""


class FairQueue:
    """Texts that wait, by whose they are."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Sequence]] = {}
        self._served: dict[str, float] = {}
        self._texts: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for texts in self._waiting.values():
            yield from texts

    def enter(self, sequence: Sequence) -> None:
        """A text is there to be served, until it `leaves`. Whoever had none does not profit from the time in which they asked for
        nothing."""
        key = sequence.key
        if not self._texts.get(key):
            others = [self._served[other] for other, count in self._texts.items() if count]
            self._served[key] = max(self._served.get(key, 0.0), min(others, default=0.0))
        self._texts[key] = self._texts.get(key, 0) + 1
        self.wait(sequence)

    def leave(self, sequence: Sequence) -> None:
        """A text is done with, whether it waits or not."""
        if sequence in self._waiting.get(sequence.key, ()):
            self.drop(sequence)
        self._texts[sequence.key] -= 1
        if not any(self._texts.values()):
            self._served, self._texts = {}, {}

    def wait(self, sequence: Sequence, first: bool = False) -> None:
        """A text waits; `first`: before its owner's others, as it did before."""
        texts = self._waiting.setdefault(sequence.key, deque())
        texts.appendleft(sequence) if first else texts.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """A text waits no more."""
        texts = self._waiting[sequence.key]
        texts.remove(sequence)
        if not texts:
            del self._waiting[sequence.key]

    @property
    def keys(self) -> set[str]:
        """Whose texts wait."""
        return set(self._waiting)

    @property
    def firsts(self) -> list[Sequence]:
        """The text of each owner whose turn it would be."""
        return [min(texts, key=lambda text: text.priority) for texts in self._waiting.values()]

    def next(self, favourite: str | None = None) -> Sequence | None:
        """Whose turn it is: of the lowest priority, the least served's first; of those who were served alike, the favourite's."""
        order = lambda text: (text.priority, self._served[text.key], text.key != favourite, text.number)  # noqa: E731
        return min(self.firsts, key=order, default=None)

    def served(self, key: str) -> float:
        """How much somebody was served, in tokens."""
        return self._served[key]

    def charge(self, sequence: Sequence, tokens: float) -> None:
        """Somebody was served."""
        self._served[sequence.key] += tokens
