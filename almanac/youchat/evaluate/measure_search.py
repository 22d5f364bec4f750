"""How well and how fast search is: SciFact by nDCG@10, the mini web's questions by hit@k with their own words stripped from the pages,
duplicates, passages indexed a second, and the time of a search. Rows for tables; the command line prints and keeps them."""

import math
import statistics as of_times
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from almanac.youchat.data import search_sets
from almanac.youchat.data.search_sets import Collection, Gold
from almanac.youchat.documents import Fetched, Hit, Page
from almanac.youchat.index import retrieve
from almanac.youchat.index.index import Index
from almanac.youchat.index.retrieve import Embeds, Recipe
from almanac.youchat.text import extract

Row = dict[str, Any]


def scifact(folder: Path, embedder: Embeds | None = None) -> list[Row]:
    """nDCG@10 on SciFact's 300 test claims: BM25, BM25 ranked again, and hybrids where there is an embedder.

    Args:
        folder: for the index; one that is there already is used.
        embedder: for hybrids.
    """
    collection = search_sets.scifact("test")
    index = Index.open(folder, embedder=embedder)
    index.update(collection.pages)
    index.embed()
    rows = []
    for name, recipe, uses in recipes(embedder):
        run = run_of(index, collection, recipe, uses)
        rows.append({"set": "SciFact", "ranking": name, "nDCG@10": round(ndcg(collection.relevant, run), 4)})
    return rows


def recipes(embedder: Embeds | None) -> list[tuple[str, Recipe | None, Embeds | None]]:
    """The orders that are compared: name, recipe (None: by ranks), embedder."""
    plain: list[tuple[str, Recipe | None, Embeds | None]] = [
        ("BM25", Recipe(), None),
        ("BM25, ranked again", retrieve.WORDS, None),
    ]
    if embedder is None:
        return plain
    return [*plain, ("hybrid by ranks (RRF)", None, embedder), ("hybrid", retrieve.HYBRID, embedder)]


def run_of(
    index: Index, collection: Collection, recipe: Recipe | None, embedder: Embeds | None
) -> dict[str, dict[str, float]]:
    """The ten best documents for each question: question's name → document's name → score."""
    run = {}
    for name, question in collection.questions.items():
        hits = ordered(index, question, 20, recipe, embedder)
        best: dict[str, float] = {}
        for hit in hits:
            best.setdefault(hit.passage.identifier, hit.score)
        run[name] = dict(list(best.items())[:10])
    return run


def ordered(index: Index, question: str, k: int, recipe: Recipe | None, embedder: Embeds | None) -> list[Hit]:
    """Hits in a recipe's order (None: by ranks), two of a page at most."""
    gathered = retrieve.gather([index], question, retrieve.DEPTH, embedder)
    found = retrieve.ranked(gathered, recipe) if recipe else retrieve.by_ranks(gathered)
    return retrieve.fetched([index], retrieve.ranking.few_of_a_page(found, retrieve.A_PAGE)[:k])


def ndcg(relevant: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]], k: int = 10) -> float:
    """The mean nDCG@k (Järvelin and Kekäläinen 2002) over all judged questions; grades are gains, as trec_eval has it."""
    total = 0.0
    for name, grades in relevant.items():
        said = sorted(run.get(name, {}).items(), key=lambda each: (-each[1], each[0]))[:k]
        gain = sum(grades.get(document, 0) / math.log2(rank + 1) for rank, (document, _) in enumerate(said, 1))
        best = sorted(grades.values(), reverse=True)[:k]
        ideal = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, 1))
        total += gain / ideal if ideal else 0.0
    return total / len(relevant)


def faq(index: Index, gold: Sequence[Gold], embedder: Embeds | None = None) -> list[Row]:
    """hit@1, 5 and 10 and MRR of the mini web's questions: a hit is a passage of the question's section, no other counts.

    Args:
        index: of pages that `search_sets.stripped` made.
        gold: that it made with them.
        embedder: for hybrids.
    """
    rows = []
    for name, recipe, uses in recipes(embedder):
        ranks = [rank_of(each, ordered(index, each.question, 10, recipe, uses), index) for each in gold]
        row: Row = {"set": "mini web's questions", "ranking": name, "questions": len(gold)}
        for k in (1, 5, 10):
            row[f"hit@{k}"] = round(sum(rank <= k for rank in ranks) / len(ranks), 3)
        rows.append({**row, "MRR": round(sum(1 / rank for rank in ranks if rank <= 10) / len(ranks), 3)})
    return rows


def rank_of(gold: Gold, hits: Sequence[Hit], index: Index) -> int | float:
    """The first hit that is in the section of a question, from 1; infinite where none is."""
    page = index.page(gold.url)  # the section's page may be an alias of another that says the same
    url = page.url if page else gold.url
    for rank, hit in enumerate(hits, 1):
        if hit.passage.url == url and min(hit.passage.end, gold.end) - max(hit.passage.start, gold.start) > 0:
            return rank
    return math.inf


def extraction(fetched: Sequence[Fetched], questions: Sequence[search_sets.Faq]) -> list[Row]:
    """What ways of extraction keep of answers that are known word by word, and how much text they keep in all.

    Args:
        fetched: pages with questions.
        questions: of these pages, with their answers.
    """
    rows = []
    ways: dict[str, Callable[[Fetched], str]] = {
        "resiliparse, headings kept (ours)": _ours,
        "trafilatura": lambda page: _trafilatura(page, False),
        "trafilatura, fast": lambda page: _trafilatura(page, True),
    }
    for name, way in ways.items():
        begun = time.process_time()
        texts = {page.url: way(page) for page in fetched}
        seconds = time.process_time() - begun
        kept = [_kept(asked.answer, texts[asked.url]) for asked in questions if asked.url in texts]
        rows.append(
            {
                "way": name,
                "pages_per_cpu_s": round(len(fetched) / seconds, 1),
                "kept": round(sum(kept) / len(kept), 3),
                "words": sum(len(text.split()) for text in texts.values()),
            }
        )
    return rows


def _ours(page: Fetched) -> str:
    read = extract.read(page)
    return read.text if isinstance(read, Page) else ""


def _trafilatura(page: Fetched, fast: bool) -> str:
    import trafilatura

    return trafilatura.extract(page.body, fast=fast, include_comments=False) or ""


def _kept(answer: str, text: str) -> float:
    """The share of an answer's runs of five words that a text holds."""
    runs = [tuple(each) for each in _runs(answer)]
    there = {tuple(each) for each in _runs(text)}
    return sum(run in there for run in runs) / len(runs) if runs else 1.0


def _runs(text: str) -> list[list[str]]:
    from almanac.youchat.text.terms import words

    said = words(text)
    return [said[at : at + 5] for at in range(len(said) - 4)]


def indexing(pages: Sequence[Page], folder: Path) -> Row:
    """Pages into a new index: passages a second, and what became of duplicates."""
    index = Index.open(folder)
    begun = time.perf_counter()
    counts = index.update(pages)
    seconds = time.perf_counter() - begun
    exact = len(pages) - len({" ".join(page.text.lower().split()) for page in pages})
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "pages": len(pages),
        "passages": counts.passages,
        "passages a second": round(counts.passages / seconds),
        "exact duplicates": exact,
        "aliases": counts.duplicates,
        "MB": round(size / 1e6, 1),
        "MB of text": round(sum(len(page.text.encode()) for page in pages) / 1e6, 1),
    }


def latency(search: Callable[[str], Any], questions: Sequence[str]) -> Row:
    """The time of a search, ms, by each of some questions, after a first round that is not counted."""
    took = []
    for counts in (False, True):
        for question in questions:
            begun = time.perf_counter()
            search(question)
            if counts:
                took.append(1e3 * (time.perf_counter() - begun))
    took.sort()
    return {
        "searches": len(took),
        "p50 ms": round(of_times.median(took), 2),
        "p99 ms": round(took[min(len(took) - 1, math.ceil(0.99 * len(took)) - 1)], 2),
    }
