"""What is measured of YouChat, in five tables: what is left of pages, how well search finds (SciFact, the mini web's questions), how fast
an index is made and asked, how good answers are, and how a crawl behaves. The measuring itself is in `measure_search`,
`measure_answers` and `measure_crawl`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from almanac.youchat.ask.ask import ask
from almanac.youchat.data import search_sets
from almanac.youchat.documents import Page
from almanac.youchat.evaluate import measure_answers, measure_crawl, measure_search
from almanac.youchat.index.index import Index
from almanac.youchat.index.retrieve import Embeds
from almanac.youchat.text import extract
from almanac.youchat.text.passages import split

PASSAGES = 40_000
"""In the index whose speed is measured (issue)."""

Row = dict[str, Any]


def retrieval(embedder: Embeds | None = None) -> list[Row]:
    """How well search finds: nDCG@10 of SciFact's claims, hit@k of the mini web's questions with their own words taken out of the pages."""
    with _folder() as folder:
        rows = [_judged(each) for each in measure_search.scifact(folder / "scifact", embedder)]
        pages, gold = search_sets.stripped(mini_web(), search_sets.faq())
        index = Index.open(folder / "mini-web", embedder=embedder)
        index.update(pages)
        index.embed()
        rows += [_judged(each) for each in measure_search.faq(index, gold, embedder)]
    return rows


def _judged(row: Row) -> Row:
    """A row with the columns of both sets."""
    return {name: row.get(name) for name in ("set", "ranking", "nDCG@10", "hit@1", "hit@5", "hit@10", "MRR")}


def extraction() -> list[Row]:
    """What of answers is left by ways of extraction, on the mini web's pages with questions, and how fast they are."""
    questions = search_sets.faq()
    wanted = {each.url for each in questions}
    return measure_search.extraction([page for page in search_sets.mini_web_pages() if page.url in wanted], questions)


def speed() -> list[Row]:
    """How fast an index of the mini web is made and asked, and what of its duplicates was collapsed."""
    pages: list[Page] = []
    held, begun = 0, time.process_time()
    for page in mini_web():
        held += len(split(page))
        pages.append(page)
        if held >= PASSAGES:
            break
    seconds = time.process_time() - begun
    questions = [each.question for each in search_sets.faq()]
    with _folder() as folder:
        made = measure_search.indexing(pages, folder / "index")
        index = Index.open(folder / "index")
        searches = measure_search.latency(lambda question: index.search(question, 10), questions)
        answers = measure_search.latency(lambda question: ask(question, index), questions)
    rows = [{"what": "pages read and cut a CPU second", "value": round(len(pages) / seconds, 1)}]
    rows += [{"what": name, "value": value} for name, value in made.items()]
    rows += [{"what": f"search, {name}", "value": value} for name, value in searches.items()]
    rows += [{"what": f"extractive answer, {name}", "value": value} for name, value in answers.items()]
    return rows


def answers(progress: Callable[[], None] | None = None) -> list[Row]:
    """How good answers are; the parts take some minutes on one core."""
    parts: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("ClapNQ", measure_answers.clapnq_figures),
        ("quotes, ClapNQ", measure_answers.extractive_figures),
        ("a model that lies, ClapNQ", measure_answers.planted_figures),
        ("WiCE", measure_answers.wice_figures),
        ("the judge, SciFact", measure_answers.judge_figures),
        ("follow-ups, CANARD", measure_answers.canard_figures),
        ("injections, BIPIA", measure_answers.injection_figures),
    ]
    rows = []
    for name, figures in parts:
        rows += [{"set": name, "what": what, "value": round(value, 4)} for what, value in figures().items()]
        if progress:
            progress()
    return rows


def audit(answers: list[Row]) -> list[Row]:
    """Citations beside those of four commercial engines of 2023, whose sentences people judged; ours by `judge`, not by the verifier.

    Args:
        answers: of `answers`.
    """
    ours = {(row["set"], row["what"]): row["value"] for row in answers}
    # Liu et al. 2023 (arXiv 2304.09848), abstract.
    rows = [_cited("Bing Chat, NeevaAI, perplexity.ai, YouChat, mean", "people", 0.515, 0.745)]
    for system, name in (("quotes", "quotes, ClapNQ"), ("a model that lies, verified", "a model that lies, ClapNQ")):
        figures = (ours[name, "alce_recall"], ours[name, "alce_precision"])
        rows.append(_cited(f"almanac, {system}", "judge.py", *figures))
    return rows


def _cited(system: str, judge: str, recall: float, precision: float) -> Row:
    return {"system": system, "judged_by": judge, "citation_recall": recall, "citation_precision": precision}


def crawling() -> list[Row]:
    """How a crawl of the mini web behaves: nine sites on loopback with traps, killed once and gone on with."""
    with _folder() as folder:
        return [
            {"what": what, "value": round(value, 4)} for what, value in asdict(measure_crawl.measure(folder)).items()
        ]


def mini_web() -> Iterator[Page]:
    """The pages of the mini web that can be read."""
    return (page for page in map(extract.read, search_sets.mini_web_pages()) if isinstance(page, Page))


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)
