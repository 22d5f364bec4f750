"""Texts that are there already (paper §2.1, §3.1): twice in the list, or in a list that models are tested on. Texts are compared by the
runs of letters that they share; MinHash and locality-sensitive hashing (datasketch) find the few that are worth comparing. Short
texts recur by themselves, and are left alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from almanac.whisper import normalise
from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Row, Verdict
from almanac.whisper.manifest import Entry

_RUN = 5
"""Letters of a run."""
_PERMUTATIONS = 128
_WIDER = 0.75
"""The index looks for texts that share so much less, as it is not exact; what it finds is compared exactly."""


class Texts:
    """Texts in which alike ones are found.

    Args:
        similarity: the part of their runs that alike texts share (Jaccard's index).
    """

    def __init__(self, similarity: float):
        from datasketch import MinHashLSH

        self.similarity = similarity
        self.runs: dict[str, frozenset[str]] = {}
        self.index = MinHashLSH(_WIDER * similarity, _PERMUTATIONS)

    def find(self, text: str) -> str | None:
        """The id of a text like it, of the most alike if there are several."""
        runs = _runs(text)
        likely = map(str, self.index.query(_sketch(runs)))
        shared = {name: _similarity(runs, self.runs[name]) for name in likely}
        best = max(shared, key=shared.__getitem__, default=None)
        return best if best is not None and shared[best] >= self.similarity else None

    def add(self, name: str, text: str) -> None:
        """Add a text under an id that none has yet."""
        self.runs[name] = _runs(text)
        self.index.insert(name, _sketch(self.runs[name]))


def repeated(rows: Sequence[Row], limits: Limits) -> Iterator[tuple[Row, Verdict]]:
    """A text that an earlier recording has, or a later one if the earlier is dropped for another fault."""
    texts, names = Texts(limits.similarity), {}
    for row in sorted(rows, key=lambda row: bool(row.dropped)):
        if row.words < limits.duplicate_words:
            continue
        first = texts.find(row.entry.text)
        if first is not None:
            yield row, Verdict(f"its text is that of {names[first]}")
        else:
            names[str(len(names))] = row.entry.id
            texts.add(str(len(names) - 1), row.entry.text)


def tested(rows: Sequence[Row], limits: Limits, against: Sequence[Entry]) -> Iterator[tuple[Row, Verdict]]:
    """A text that is among those of lists to test on."""
    texts = Texts(limits.similarity)
    for number, entry in enumerate(against):
        texts.add(str(number), entry.text)
    for row in rows:
        found = texts.find(row.entry.text) if row.words >= limits.duplicate_words else None
        if found is not None:
            yield row, Verdict(f"its text is that of {against[int(found)].id}, which is tested on")


def _runs(text: str) -> frozenset[str]:
    plain = normalise.basic(text).strip()
    return frozenset(plain[first : first + _RUN] for first in range(max(1, len(plain) - _RUN + 1)))


def _sketch(runs: frozenset[str]) -> Any:
    from datasketch import MinHash

    sketch = MinHash(_PERMUTATIONS)
    sketch.update_batch([run.encode() for run in sorted(runs)])
    return sketch


def _similarity(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
