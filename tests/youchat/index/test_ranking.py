"""Scores are BM25's, and shards with common statistics rank as one index does."""

import itertools
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almanac.youchat.documents import Page
from almanac.youchat.index import ranking, retrieve
from almanac.youchat.index.index import Index
from almanac.youchat.index.ranking import Scored, Statistics
from almanac.youchat.text import passages, terms

from .pages import made, questions


def written_out(pages: list[Page], question: str) -> dict[tuple[str, int], float]:
    """BM25 with a title at 0.3, in the plainest way: (address, start) → score."""
    held = [each for page in pages for each in passages.split(page)]
    texts = [terms.stems(each.text) for each in held]
    titles = [terms.stems(" ".join(dict.fromkeys([each.title, *each.headings]))) for each in held]
    scores = dict.fromkeys(((each.url, each.start) for each in held), 0.0)
    for weight, field in ((1.0, texts), (0.3, titles)):
        average = sum(map(len, field)) / len(field)
        for stem in terms.content_stems(question):  # one that is said twice counts twice
            n = sum(stem in said for said in field)
            idf = math.log(1 + (len(field) - n + 0.5) / (n + 0.5))
            for each, said in zip(held, field, strict=True):
                f = said.count(stem)
                scores[each.url, each.start] += weight * idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(said) / average))
    return {name: score for name, score in scores.items() if score > 0}


def best(index: retrieve.Searchable, question: str, k: int, statistics: Statistics | None = None) -> list[Scored]:
    query = ranking.parse(question)
    return index.candidates(query, statistics or index.statistics(query.stems), k)[0]


def test_the_best_are_those_of_bm25_written_out(tmp_path: Path):
    pages = made(50)
    index = Index.open(tmp_path)
    index.update(pages)
    for question in [*questions(12), "word3 word3 word50"]:
        wanted = written_out(pages, question)
        ordered = sorted(wanted, key=lambda name: (-wanted[name], name))
        found = best(index, question, 25)
        assert [each.score for each in found] == pytest.approx([wanted[name] for name in ordered[:25]], rel=1e-12)
        assert len(found) == min(25, len(wanted))
        assert all(each.score == pytest.approx(wanted[each.url, each.start], rel=1e-12) for each in found)


def uneven(pages: list[Page], shards: int) -> list[list[Page]]:
    """Pages dealt so that words are common in one shard and rare in another, and lengths differ."""
    ordered = sorted(pages, key=lambda page: (page.text.count("word3 ") > 2, len(page.text)))
    sizes = [len(pages) // 2, len(pages) // 4, len(pages) // 8]
    borders = [0, *(sum(sizes[: at + 1]) for at in range(shards - 1)), len(pages)]
    return [ordered[start:end] for start, end in itertools.pairwise(borders)]


@pytest.mark.parametrize("edited", [False, True], ids=["new", "edited"])
def test_four_shards_rank_as_one_index_does(tmp_path: Path, edited: bool):
    pages = made(80, vocabulary=300)
    one = Index.open(tmp_path / "one")
    one.update(pages)
    shards = []
    for number, part in enumerate(uneven(pages, 4)):
        shard = Index.open(tmp_path / str(number))
        if edited:  # deleted passages still weigh in the engine's own statistics: they must not in ours
            gone = made(50, seed=7 + number, host="http://gone")
            shard.update(gone)
            shard.update(part, [page.url for page in gone])
        else:
            shard.update(part)
        shards.append(shard)
    for question in questions(25, vocabulary=300):
        whole = retrieve.search([one], question, 10)
        apart = retrieve.search(shards, question, 10)
        assert [(hit.passage, hit.score, hit.bm25) for hit in apart] == [
            (hit.passage, hit.score, hit.bm25) for hit in whole
        ]


def test_local_statistics_would_not_rank_as_one(tmp_path: Path):
    """What the two phases are for: shards that score by what they know themselves disagree with the whole."""
    pages = made(80, vocabulary=300)
    one = Index.open(tmp_path / "one")
    one.update(pages)
    shards = []
    for number, part in enumerate(uneven(pages, 4)):
        shards.append(Index.open(tmp_path / str(number)))
        shards[-1].update(part)
    differ = 0
    for question in questions(30, vocabulary=300):
        apart = ranking.order(each for shard in shards for each in best(shard, question, 10))[:10]
        differ += [(each.url, each.start) for each in apart] != [
            (each.url, each.start) for each in best(one, question, 10)
        ]
    assert differ > 5


def test_candidates_are_complete_though_the_engine_orders_them_by_other_lengths(tmp_path: Path):
    """The engine's average length and the given one differ by far: more has to be fetched than its own best."""
    pages = made(60)
    index = Index.open(tmp_path)
    index.update(pages)
    for question in questions(8):
        query = ranking.parse(question)
        own = index.statistics(query.stems)
        for factor in (0.2, 1.0, 6.0):
            given_ = Statistics(
                own.pages, own.passages, (int(own.lengths[0] * factor), int(own.lengths[1] * factor)), own.frequencies
            )
            few = best(index, question, 5, given_)
            everything = best(index, question, 10_000, given_)
            assert few == everything[:5]


def test_equal_scores_are_ordered_by_address_and_place(tmp_path: Path):
    text = "Otters hold hands. "
    index = Index.open(tmp_path)
    index.update(
        [Page(f"http://h/{name}", "t", text, identifier=name) for name in random.Random(0).sample("abcdefghij", 10)]
    )
    assert [hit.passage.url[-1] for hit in index.search("otters", 10)] == list("abcdefghij")


def test_statistics_add_up():
    one = Statistics(2, 5, (100, 10), {"a": (3, 1), "b": (1, 0)})
    other = Statistics(1, 2, (40, 4), {"b": (2, 2), "c": (1, 1)})
    assert one + other == Statistics(3, 7, (140, 14), {"a": (3, 1), "b": (3, 2), "c": (1, 1)})
    assert one + Statistics() == one


def test_stop_words_are_left_out_of_questions_unless_there_is_nothing_else():
    assert ranking.parse("How do I sleep on the water?").stems == ("sleep", "water")
    assert ranking.parse("To be or not to be").stems == ("to", "be", "or", "not") and ranking.parse(
        "To be or not to be"
    ).counts == (2, 2, 1, 1)


@given(st.text(max_size=200))
def test_stems_between_spaces_are_each_counted(text: str):
    held = ranking.stemmed(text, "")
    said = terms.stems(text)
    assert held.lengths[0] == len(said) and all(held.text.count(f" {stem} ") == said.count(stem) for stem in said)


def test_coverage_is_the_share_of_the_questions_weight_that_text_or_title_hold():
    statistics = Statistics(1, 10, (100, 10), {"otter": (2, 1), "hand": (2, 1), "sea": (2, 1)})
    held = [
        ranking.stemmed("Otters hold hands.", "At sea"),
        ranking.stemmed("Otters swim.", ""),
        ranking.stemmed("", ""),
    ]
    _, coverage = ranking.scores(ranking.parse("otters' hands at sea"), held, statistics)
    assert coverage.tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_fusing_lists_forgives_one_that_is_wrong(tmp_path: Path):
    index = Index.open(tmp_path)
    index.update(made(60))
    good, bad = index.search("word9 word40", 10), index.search("word100", 10)
    fused = retrieve.fused([good, good, bad], 10)
    assert len(fused) == 10
    assert {each.passage for each in good[:5]} <= {each.passage for each in fused[:8]}
    assert [hit.passage for hit in retrieve.fused([good, good, []], 10)] == [hit.passage for hit in good]
    assert retrieve.fused([good, []], 10) == [*retrieve.fused([good], 10)] and retrieve.fused([], 10) == []
