"""What is measured of search, and that it is what it says."""

import random
from pathlib import Path

import pytest

from almanac.youchat.data import search_sets
from almanac.youchat.data.search_sets import Faq, Gold, stripped
from almanac.youchat.documents import Heading, Page
from almanac.youchat.evaluate import measure_search
from almanac.youchat.index import retrieve
from almanac.youchat.index.index import Index
from almanac.youchat.text import extract


def test_ndcg_is_ir_measures_ndcg():
    ir_measures = pytest.importorskip(
        "ir_measures", reason="ir_measures, the reference, is not installed (almanac[dev])"
    )
    draw = random.Random(0)
    names = [f"d{at}" for at in range(40)]
    relevant = {f"q{q}": {name: draw.choice([0, 1, 1, 2]) for name in draw.sample(names, 8)} for q in range(30)}
    run = {f"q{q}": {name: draw.random() for name in draw.sample(names, 15)} for q in range(28)}
    wanted = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], relevant, run)[ir_measures.nDCG @ 10]
    # ir_measures leaves out questions that the run does not answer; they count as nought.
    assert measure_search.ndcg(relevant, run) == pytest.approx(wanted * 28 / 30) or measure_search.ndcg(
        relevant, run
    ) == pytest.approx(wanted)


def test_bm25_on_scifact_is_as_good_as_published(needs_data, tmp_path: Path):
    needs_data("pages")
    ir_measures = pytest.importorskip(
        "ir_measures", reason="ir_measures, the reference, is not installed (almanac[dev])"
    )
    collection = search_sets.scifact("test")
    assert len(collection.pages) == 5183 and len(collection.questions) == 300
    index = Index.open(tmp_path)
    index.update(collection.pages)
    run = measure_search.run_of(index, collection, retrieve.Recipe(), None)
    wanted = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], collection.relevant, run)[ir_measures.nDCG @ 10]
    assert measure_search.ndcg(collection.relevant, run) == pytest.approx(wanted)
    assert wanted >= 0.675  # published: 0.679 (Anserini, flat)


def test_no_question_is_left_in_the_pages_that_answer_it():
    parts = [
        "How do otters sleep?", "1.1. Where do bears live?", "They hold hands in the water all night.",
        "Where do bears live?", "In dens in the woods.",
    ]  # fmt: skip
    text = "\n\n".join(parts)
    headings = (
        Heading(1, "How do otters sleep?", 0, "otters"),
        Heading(2, "Where do bears live?", text.rindex("Where"), "bears"),
    )
    pages = [
        Page("http://h/faq", "How do otters sleep?", text, headings),
        Page("http://h/contents", "Contents", "How do otters sleep? Where do bears live?"),
        Page("http://h/other", "Other", "Bears live."),
    ]  # fmt: skip
    asked = [
        Faq("How do otters sleep?", "http://h/faq", "otters"),
        Faq("Where do bears live?", "http://h/faq", ""),
        Faq("Why?", "http://h/faq", "none"),
    ]
    held, gold = stripped(pages, asked)
    assert not any(each.question in page.text + page.title for each in asked[:2] for page in held)
    assert held[0].text[gold[1].start : gold[1].end].strip() == "In dens in the woods."
    assert gold[0].end == len(held[0].text) and len(gold) == 2 and held[2] == pages[2]


def test_a_hit_is_in_the_section_and_on_its_page(tmp_path: Path):
    index = Index.open(tmp_path)
    body = "Otters hold hands while they sleep on the water. " * 12
    index.update(
        [
            Page(
                "http://h/long", "t", body + "\n\n" + body.replace("Otters", "Bears"), (Heading(2, "x", len(body), ""),)
            ),
            Page("http://h/b", "t", "Fish. " * 30),
        ]
    )
    hits = index.search("bears otters", 5)
    for start in (5, len(body) + 5):
        wanted = next(at for at, hit in enumerate(hits, 1) if hit.passage.start <= start < hit.passage.end)
        assert measure_search.rank_of(Gold("q", "http://h/long", start, start + 9), hits, index) == wanted
    assert measure_search.rank_of(Gold("q", "http://h/b", 0, 10), hits, index) == float("inf")


def test_the_mini_webs_exact_duplicates_collapse(needs_data, tmp_path: Path):
    needs_data("pages")
    some = (
        "http://debian-faq/",
        "http://sqlite3/fileformat",
        "http://sqlite3/releaselog/3_4",
        "http://sqlite3/releaselog/current",
    )
    pages = [extract.read(each) for each in search_sets.mini_web_pages() if each.url.startswith(some)]
    row = measure_search.indexing([each for each in pages if isinstance(each, Page)], tmp_path)
    assert row["aliases"] >= row["exact duplicates"] >= 2
