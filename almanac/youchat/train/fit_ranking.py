"""Fits how search weighs what it knows of a passage (`retrieve.Recipe`) and prints the best: `python -m almanac.youchat.train.fit_ranking
[FOLDER|minilm]`, with vectors where these are named. It learns from SciFact's training claims, and from headings of the mini web's pages,
whose sections they ask for when their words are stripped from the pages; pages with a question that search is measured by are left out of
these. Nothing that is measured is fitted on."""

import itertools
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from almanac.youchat.data import search_sets
from almanac.youchat.data.search_sets import Faq, Gold
from almanac.youchat.documents import Page
from almanac.youchat.evaluate import measure_search
from almanac.youchat.index import retrieve, vectors
from almanac.youchat.index.index import Index
from almanac.youchat.index.retrieve import Gathered, Recipe
from almanac.youchat.text import extract, terms

HEADINGS = 400
"""That are asked for."""
COVERAGE = (0.0, 0.4, 0.8, 1.2, 1.6, 2.4)
COSINE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Weights that are tried."""


def headings(pages: Sequence[Page], count: int, seed: int = 0) -> list[Faq]:
    """Headings of three and more content words, each of which stands once in all pages, over sections of forty words and more."""
    measured = {each.url for each in search_sets.faq()}
    free = [page for page in pages if page.url not in measured and "faq" not in page.url]
    seen: dict[str, int] = {}
    for page in pages:
        for heading in page.headings:
            seen[heading.text] = seen.get(heading.text, 0) + 1
    found = []
    for page in free:
        ends = [*(each.start for each in page.headings[1:]), len(page.text)]
        for heading, end in zip(page.headings, ends, strict=False):  # a page without headings has an end all the same
            long = len(terms.content_stems(heading.text)) >= 3 and len(page.text[heading.start : end].split()) >= 40
            if long and seen[heading.text] == 1:
                found.append(Faq(heading.text, page.url, heading.anchor))
    return random.Random(seed).sample(found, min(count, len(found)))


def reciprocal_rank(gathered: Gathered, gold: Gold, ends: dict[tuple[str, int], int], recipe: Recipe) -> float:
    """1 over the rank of the first passage of the section; 0 below ten."""
    for rank, each in enumerate(retrieve.ranked(gathered, recipe)[:10], 1):
        if each.url == gold.url and min(ends[each.url, each.start], gold.end) > max(each.start, gold.start):
            return 1 / rank
    return 0.0


def main() -> None:
    """Fit and print."""
    embedder = vectors.load(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        headings_found = _headings_found(Path(folder) / "web")
        claims = search_sets.scifact("train")
        index = Index.open(Path(folder) / "scifact", embedder=embedder)
        index.update(claims.pages)
        index.embed()
        names = {page.url: page.identifier for page in claims.pages}
        plain = {name: retrieve.gather([index], said, retrieve.DEPTH) for name, said in claims.questions.items()}
        for coverage in COVERAGE:
            recipe = Recipe(coverage)
            mrr = sum(reciprocal_rank(*each, recipe) for each in headings_found) / len(headings_found)
            print(
                f"{recipe}: headings MRR@10 {mrr:.4f}, SciFact train nDCG@10 {_ndcg(plain, claims, names, recipe):.4f}"
            )
        if embedder is not None:
            both = {
                name: retrieve.gather([index], said, retrieve.DEPTH, embedder)
                for name, said in claims.questions.items()
            }
            for recipe in itertools.starmap(Recipe, itertools.product(COVERAGE, COSINE)):
                print(f"{recipe}: SciFact train nDCG@10 {_ndcg(both, claims, names, recipe):.4f}")


def _headings_found(folder: Path) -> list[tuple[Gathered, Gold, dict[tuple[str, int], int]]]:
    """What is found for each heading, where it stood, and where the passages end."""
    read = [extract.read(each) for each in search_sets.mini_web_pages()]
    pages = [each for each in read if isinstance(each, Page)]
    held, gold = search_sets.stripped(pages, headings(pages, HEADINGS))
    index = Index.open(folder)
    index.update(held)
    made = []
    for each in gold:
        page = index.page(each.url)
        gathered = retrieve.gather([index], each.question, retrieve.DEPTH)
        there = index.passages([one.number for one in gathered.found]).values()
        ends = {(one.url, one.start): one.end for one in there}
        made.append((gathered, replace(each, url=page.url if page else each.url), ends))
    return made


def _ndcg(found: dict[str, Gathered], claims: search_sets.Collection, names: dict[str, str], recipe: Recipe) -> float:
    run: dict[str, dict[str, float]] = {}
    for name, each in found.items():
        best: dict[str, float] = {}
        for one in retrieve.ranked(each, recipe):
            best.setdefault(names[one.url], one.score)
        run[name] = dict(list(best.items())[:10])
    return measure_search.ndcg(claims.relevant, run)


if __name__ == "__main__":
    main()
