"""What a question asks for in stems, and how well passages answer to it: BM25 (Robertson and Zaragoza 2009) over a passage's text, and at a
small weight over its page's title and headings, in float64 and from statistics that are given. Shards that are given the same statistics
give the same scores to the last bit; equal scores are ordered by address and place. Finding candidates is the index's."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from almanac.youchat.text import terms

K1, B = 1.2, 0.75
"""tantivy's, which can't be set there; on SciFact they do better than 0.9 and 0.4 (specification 6.1)."""
WEIGHTS = (1.0, 0.3)
"""Of the text, and of the title with the headings. Every passage of a page repeats them: at weight 1 they hurt (specification 6.5)."""
MOST_TERMS = 64
"""Stems of a question that are searched; of a longer one, the first."""
_MOST_CHARACTERS = 20_000

Pair = tuple[int, int]
"""For the text, and for the title with the headings."""


@dataclass(frozen=True)
class Query:
    """What is searched for."""

    stems: tuple[str, ...]
    """Each once, in the question's order."""
    counts: tuple[int, ...]
    """How often the question says each."""


@dataclass(frozen=True)
class Statistics:
    """What scores are computed from. Those of shards add up to those of the whole."""

    pages: int = 0
    """In the index."""
    passages: int = 0
    """N of BM25."""
    lengths: Pair = (0, 0)
    """Stems in all passages."""
    frequencies: Mapping[str, Pair] = field(default_factory=dict)
    """Of the stems that were asked for: passages that hold them."""

    def __add__(self, other: "Statistics") -> "Statistics":
        both = {
            stem: (
                self.frequencies.get(stem, (0, 0))[0] + other.frequencies.get(stem, (0, 0))[0],
                self.frequencies.get(stem, (0, 0))[1] + other.frequencies.get(stem, (0, 0))[1],
            )
            for stem in {**self.frequencies, **other.frequencies}
        }
        lengths = self.lengths[0] + other.lengths[0], self.lengths[1] + other.lengths[1]
        return Statistics(self.pages + other.pages, self.passages + other.passages, lengths, both)

    def idf(self, stem: str, place: int = 0) -> float:
        """ln(1 + (N − n + ½)/(n + ½)) of a stem that was asked for, in texts (0) or in titles (1)."""
        n = self.frequencies.get(stem, (0, 0))[place]
        return math.log(1 + (self.passages - n + 0.5) / (n + 0.5))

    def average(self, place: int = 0) -> float:
        """Stems in a passage's text (0), or title and headings (1)."""
        return self.lengths[place] / self.passages if self.passages else 0.0


@dataclass(frozen=True)
class Scored:
    """A passage that was found, by its number in an index; what is needed to order it among those of other indexes."""

    url: str
    """Of its page."""
    start: int
    """Where it begins there."""
    number: int
    """Of the passage, in its index."""
    bm25: float
    """0 where words did not find it."""
    cosine: float = 0.0
    """0 where there are no vectors."""
    coverage: float = 0.0
    """The share of the question's weight (idf) that text, title or headings hold, in [0, 1]."""
    score: float = 0.0
    """What it is ordered by; BM25 until it is ranked again."""
    source: int = 0
    """Which index it is of."""


@dataclass(frozen=True)
class Stemmed:
    """A passage as it is searched."""

    text: str
    """Its stems between spaces, two between neighbours: ` a  b `, so that counting ` a ` finds every one."""
    title: str
    """Likewise of its page's title and the headings above it."""
    lengths: Pair
    """Stems in each."""


def stemmed(text: str, title: str, headings: Sequence[str] = ()) -> Stemmed:
    """A passage's text and titles, in stems."""
    in_text = terms.stems(text)
    in_title, count = _stemmed_title(" ".join(dict.fromkeys([title, *headings])))
    return Stemmed(_spaced(in_text), in_title, (len(in_text), count))


def parse(question: str) -> Query:
    """What a question searches for: its stems without stop words; with them where it has no others ("To be or not to be")."""
    cut = question[:_MOST_CHARACTERS]
    counted = Counter(terms.content_stems(cut) or terms.stems(cut))  # a Counter keeps the order of first mention
    kept = list(counted.items())[:MOST_TERMS]
    return Query(tuple(stem for stem, _ in kept), tuple(count for _, count in kept))


def scores(
    query: Query, passages: Sequence[Stemmed], statistics: Statistics
) -> tuple[Float[np.ndarray, " passages"], Float[np.ndarray, " passages"]]:
    """BM25 of some passages, and their coverage. Sums go in the query's order, so that neither depends on who else is scored."""
    total, covered, whole = np.zeros(len(passages)), np.zeros(len(passages)), 0.0
    slack = [
        _slack(np.array([each.lengths[at] for each in passages], dtype=np.float64), statistics, at) for at in (0, 1)
    ]
    for stem, count in zip(query.stems, query.counts, strict=True):
        sign = f" {stem} "
        held = [np.array([each.text.count(sign) for each in passages], dtype=np.float64)]
        held.append(np.array([each.title.count(sign) for each in passages], dtype=np.float64))
        for at, weight in enumerate(WEIGHTS):
            if statistics.frequencies.get(stem, (0, 0))[at]:
                total += (weight * count * statistics.idf(stem, at)) * (held[at] * (K1 + 1) / (held[at] + slack[at]))
        idf = statistics.idf(stem)
        covered += idf * (held[0] + held[1] > 0)
        whole += idf
    return total, covered / (whole or 1.0)


def _slack(lengths: Float[np.ndarray, " passages"], statistics: Statistics, at: int) -> Float[np.ndarray, " passages"]:
    """What counts are set against: more in a passage that is longer than the average."""
    return K1 * (1 - B + B * lengths / (statistics.average(at) or 1.0))


def order(found: Iterable[Scored]) -> list[Scored]:
    """Best first; equals by address and place, whichever index they are of."""
    return sorted(found, key=lambda each: (-each.score, each.url, each.start))


def few_of_a_page(found: Iterable[Any], most: int, url: Any = lambda each: each.url) -> list[Any]:
    """Of passages in order, no more than `most` of a page."""
    seen: Counter[str] = Counter()
    kept = []
    for each in found:
        seen[url(each)] += 1
        if seen[url(each)] <= most:
            kept.append(each)
    return kept


@lru_cache(64)  # the passages of a section share it
def _stemmed_title(title: str) -> tuple[str, int]:
    said = terms.stems(title)
    return _spaced(said), len(said)


def _spaced(stems: list[str]) -> str:
    return " " + "  ".join(stems) + " " if stems else ""
