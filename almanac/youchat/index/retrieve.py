"""A question finds its passages, in one index or in several that rank as one: phase 1 adds up their statistics, phase 2 gathers each one's
best by those, and the merged list is ranked again, by how much of the question they cover and by vectors where there are any, before the
passages themselves are fetched. Several questions (a follow-up as it was asked, and rewritten) are answered by one list."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from almanac.youchat.documents import Hit, Passage
from almanac.youchat.index import ranking
from almanac.youchat.index.ranking import Query, Scored, Statistics

A_PAGE = 2
"""Passages of a page in a list of hits, at most (specification 1.2)."""
DEPTH = 50
"""Passages that are ranked again (specification 1.2)."""
RRF = 60
"""Reciprocal rank fusion's constant (Cormack et al. 2009)."""


@runtime_checkable
class Searchable(Protocol):
    """What holds passages: an index, or a shard of one elsewhere. It is asked in two phases, so that several rank as one."""

    def statistics(self, stems: Sequence[str] = ()) -> Statistics:
        """Phase 1: what the scores will be computed from, for the sum over all."""
        ...

    def candidates(
        self, query: Query, statistics: Statistics, k: int, vector: np.ndarray | None = None
    ) -> tuple[list[Scored], list[Scored]]:
        """Phase 2: the best `k` by BM25 with these statistics, and the best `k` by cosine where there are vectors."""
        ...

    def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """The passages of the hits that were chosen."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """What makes vectors of texts; `vectors` has two."""

    name: str
    dimensions: int

    def embed(self, texts: Sequence[str], question: bool) -> np.ndarray:
        """A vector of length 1 for each text; of a question where models tell those from passages."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How what was found is ordered: BM25, divided by the best one's, and so much of what else is known."""

    coverage: float = 0.0
    """Of `Scored.coverage`."""
    cosine: float = 0.0
    """Of the cosine, where there are vectors."""


WORDS = Recipe(coverage=0.8)
"""Without vectors; fitted by `fit_ranking`. Nearness of the question's words was tried too: it gained 0.002 of MRR on
headings, and was dropped for its time."""
HYBRID = Recipe(coverage=1.2, cosine=3.0)
"""With vectors of MiniLM, fitted on SciFact's training claims alone: nDCG@10 0.739 there, by ranks (`by_ranks`) 0.718, BM25
over the same candidates 0.692."""


@dataclass(frozen=True)
class Gathered:
    """What all sources found for a question."""

    query: Query
    """What was searched for."""
    statistics: Statistics
    """Of all sources."""
    found: tuple[Scored, ...]
    """By words and by vectors, each passage once; no order."""


def search(
    sources: Sequence[Searchable], question: str, k: int = 10, embedder: Embeds | None = None, depth: int = DEPTH
) -> list[Hit]:
    """The best passages for a question, no more than two of a page.

    Args:
        sources: an index, or shards of one.
        question: any text; one that says nothing finds nothing.
        k: how many.
        embedder: who made the sources' vectors; None: by words alone.
        depth: how many passages are ranked again.
    """
    depth = max(depth, k)
    while True:
        gathered = gather(sources, question, depth, embedder)
        few = ranking.few_of_a_page(ranked(gathered, HYBRID if embedder else WORDS), A_PAGE)
        if len(few) >= k or len(gathered.found) < depth:
            return fetched(sources, few[:k])
        depth *= 2  # a few long pages hold all that was found


def gather(sources: Sequence[Searchable], question: str, depth: int, embedder: Embeds | None = None) -> Gathered:
    """The two phases: what could be among the best."""
    query = ranking.parse(question)
    statistics = sum((source.statistics(query.stems) for source in sources), Statistics())
    vector = embedder.embed([question[:4000]], True)[0] if embedder and question.strip() else None
    by_words: list[Scored] = []
    by_cosine: list[Scored] = []
    for number, source in enumerate(sources):
        words, near = source.candidates(query, statistics, depth, vector)
        by_words += [replace(each, source=number) for each in words] if number else words
        by_cosine += [replace(each, source=number) for each in near] if number else near
    # Each list is cut after it is merged, so that shards find what one index finds.
    both = [*ranking.order(by_words)[:depth], *ranking.order(by_cosine)[:depth]]
    return Gathered(query, statistics, tuple({(each.source, each.number): each for each in both}.values()))


def ranked(gathered: Gathered, recipe: Recipe) -> list[Scored]:
    """What was found, in a recipe's order."""
    best = max((each.bm25 for each in gathered.found), default=0.0) or 1.0
    return ranking.order(
        replace(each, score=each.bm25 / best + recipe.coverage * each.coverage + recipe.cosine * each.cosine)
        for each in gathered.found
    )


def fetched(sources: Sequence[Searchable], chosen: Sequence[Scored]) -> list[Hit]:
    """The passages of what was chosen, in its order."""
    held = {
        number: source.passages([each.number for each in chosen if each.source == number])
        for number, source in enumerate(sources)
    }
    return [
        Hit(held[each.source][each.number], each.score, each.bm25, each.cosine)
        for each in chosen
        if each.number in held[each.source]
    ]


def fused(lists: Sequence[Sequence[Hit]], k: int) -> list[Hit]:
    """One list of several, by reciprocal rank fusion: a bad rewriting of a question can't hurt much.

    Args:
        lists: of hits, best first; of unequal length as they may be.
        k: how many to keep.
    """
    scores: dict[tuple[str, int], float] = {}
    hits: dict[tuple[str, int], Hit] = {}
    for each in lists:
        for rank, hit in enumerate(each, 1):
            name = (hit.passage.url, hit.passage.start)
            scores[name] = scores.get(name, 0.0) + 1 / (RRF + rank)
            known = hits.get(name, hit)
            hits[name] = replace(hit, bm25=max(hit.bm25, known.bm25), cosine=max(hit.cosine, known.cosine))
    ordered = sorted(scores, key=lambda name: (-scores[name], name))
    kept = ranking.few_of_a_page(
        [replace(hits[name], score=scores[name]) for name in ordered], A_PAGE, lambda hit: hit.passage.url
    )
    return kept[:k]


def by_ranks(gathered: Gathered) -> list[Scored]:
    """Words and vectors fused by their ranks alone: what `HYBRID` is measured against."""
    total: dict[tuple[int, int], float] = {}
    for key in (lambda each: each.bm25, lambda each: each.cosine):
        held = sorted(
            (each for each in gathered.found if key(each) > 0), key=lambda each: (-key(each), each.url, each.start)
        )
        for rank, each in enumerate(held, 1):
            total[each.source, each.number] = total.get((each.source, each.number), 0.0) + 1 / (RRF + rank)
    return ranking.order(replace(each, score=total.get((each.source, each.number), 0.0)) for each in gathered.found)
