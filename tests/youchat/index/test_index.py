"""An index in a folder: what goes in is found, what goes out is not, and a crash heals."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.runtime.errors import RunFailed, UserError
from almanac.youchat.documents import Heading, Page
from almanac.youchat.index.index import Index
from almanac.youchat.index.store import Counts

from .pages import made

OTTERS = "Otters hold hands while they sleep on the water, so that they do not drift apart in the night. " * 3
BEARS = "Bears sleep through the winter in a den and live on the fat that they ate themselves in autumn. " * 3
CRANES = "Cranes dance in pairs on wet meadows, bow, leap, and throw sticks and grass high into the air. " * 3
TALE = " ".join(f"{chr(97 + at % 26)}{chr(97 + at // 26)}ul" for at in range(150)) + ". "
"""Of a hundred and fifty words of its own, so that a few more make little difference."""


def page(name: str, text: str, **more) -> Page:
    return Page(f"http://h/{name}", more.pop("title", name), text, **more)


def found(index: Index, question: str) -> list[str]:
    return [hit.passage.url.removeprefix("http://h/") for hit in index.search(question)]


def test_pages_come_back_as_they_went_in(tmp_path: Path):
    index = Index.open(tmp_path)
    for given_page in made(20):
        index.update([given_page])
        assert index.page(given_page.url) == given_page
    assert index.page("http://h/none") is None and len(index.urls()) == 20


def test_hits_are_exact_stretches_and_no_page_has_more_than_two(tmp_path: Path):
    index = Index.open(tmp_path)
    index.update(made(40))
    hits = index.search("word0 word7 word3", 30)
    assert len(hits) == 30 and [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        held = index.page(hit.passage.url)
        assert held and held.text[hit.passage.start : hit.passage.end] == hit.passage.text
    counts = [sum(hit.passage.url == url for hit in hits) for url in {hit.passage.url for hit in hits}]
    assert max(counts) == 2


def test_an_edit_a_removal_and_a_return_are_seen_at_the_next_question(tmp_path: Path):
    writer, reader = Index.open(tmp_path), Index.open(tmp_path)
    writer.update([page("a", OTTERS), page("b", BEARS)])
    assert found(reader, "who holds hands?") == ["a"]
    assert writer.update([page("a", CRANES)]) == Counts(changed=1, passages=1)
    assert found(reader, "who holds hands?") == [] and found(reader, "who dances?") == ["a"]
    assert writer.update([], ["http://h/a", "http://h/never"]).removed == 1
    assert found(reader, "who dances?") == [] and reader.page("http://h/a") is None
    writer.update([page("a", OTTERS)])
    assert found(reader, "who holds hands?") == ["a"]


def test_what_did_not_change_is_not_indexed_again(tmp_path: Path):
    index = Index.open(tmp_path)
    index.update([page("a", OTTERS), page("b", BEARS)])
    assert index.update([page("a", OTTERS), page("b", BEARS)]) == Counts(unchanged=2)
    assert (
        index.update([page("a", OTTERS, title="other"), page("b", BEARS, headings=(Heading(1, "Bears", 0),))]).changed
        == 2
    )


def test_statistics_after_any_changes_are_those_of_a_new_index(tmp_path: Path):
    pages = made(60)
    changed = Index.open(tmp_path / "changed")
    changed.update(pages[:40])
    changed.update([replace(each, text=each.text[: len(each.text) // 2], headings=()) for each in pages[:20]])
    changed.update([*pages[30:], *pages[:10]], [each.url for each in pages[10:20]])
    new = Index.open(tmp_path / "new")
    new.update([*pages[:10], *pages[20:]])
    stems = [f"word{at}" for at in range(400)]
    assert changed.statistics(stems) == new.statistics(stems)
    for question in ("word1 word30", "word200", "word0 word0 word99"):
        told = [
            [(hit.passage.url, hit.passage.start, hit.score) for hit in index.search(question, 20)]
            for index in (changed, new)
        ]
        assert told[0] == told[1]


# Duplicates


def test_exact_and_near_duplicates_become_aliases_of_the_shortest_address(tmp_path: Path):
    index = Index.open(tmp_path)
    near = OTTERS + CRANES * 5
    told = {"long-name": near, "b": near.upper(), "near-one": near + "Really."}
    counts = index.update([page("c", BEARS), *(page(name, text, title="t") for name, text in told.items())])
    assert counts.duplicates == 2 and index.urls() == ["http://h/b", "http://h/c"]
    held = index.page("http://h/near-one")
    assert held and held.url == "http://h/b" and held.aliases == ("http://h/long-name", "http://h/near-one")
    assert found(index, "who holds hands?") == ["b"]
    assert index.update([page("near-one", near + "Really.", title="t")]).unchanged == 1


def test_what_differs_in_its_numbers_or_its_title_is_no_duplicate(tmp_path: Path):
    index = Index.open(tmp_path)
    sheets = [
        page(f"m{n}", CRANES * 5 + f"The model {n} weighs {n // 80} kilograms.", title="Sheet") for n in (3000, 4000)
    ]
    assert (
        index.update(
            [*sheets, page("other", CRANES * 5, title="a"), page("another", CRANES * 5 + "So.", title="b")]
        ).added
        == 4
    )
    assert [hit.passage.url for hit in index.search("model 4000 kilograms", 1)] == ["http://h/m4000"]


def test_a_duplicate_whose_page_changes_or_goes_stays_or_is_named(tmp_path: Path):
    index = Index.open(tmp_path)
    near = [page("near", CRANES + TALE, title="t"), page("near-too", CRANES + TALE + "So they say.", title="t")]
    index.update([page("a", OTTERS), page("bb", OTTERS), *near])
    index.update([page("a", BEARS)])
    assert found(index, "hands") == ["bb"] and found(index, "winter den") == ["a"] and index.orphans() == []
    index.update([], ["http://h/near"])
    assert (
        found(index, "cranes") == []
        and index.orphans() == ["http://h/near-too"]
        and index.page("http://h/near-too") is None
    )
    assert index.update([near[1]]).added == 1 and found(index, "cranes") == ["near-too"] and index.orphans() == []


def test_an_alias_keeps_its_own_text_in_mind_when_another_page_is_preferred(tmp_path: Path):
    index = Index.open(tmp_path)
    texts = [CRANES + TALE + more for more in ("", "So they say.", "So they all say.")]
    index.update(
        [page(name, text, title="t") for name, text in zip(["long-name", "longer-name", "b"], texts, strict=True)]
    )
    assert index.urls() == ["http://h/b"]
    index.update([], ["http://h/b"])
    assert index.urls() == [] and index.orphans() == ["http://h/long-name", "http://h/longer-name"]


def test_a_full_disk_is_told(tmp_path: Path):
    index = Index.open(tmp_path)
    index.update([page("a", OTTERS)])
    size = index._store.connection.execute("PRAGMA page_count").fetchone()[0]
    index._store.connection.execute(
        f"PRAGMA max_page_count = {size}"
    )  # what SQLite says then is what it says of a full disk
    with pytest.raises(RunFailed, match="full"):
        index.update(made(50))
    index._store.connection.execute("PRAGMA max_page_count = 1000000")
    assert index.update([page("b", BEARS)]).added == 1 and found(index, "hands") == ["a"]


def test_the_order_in_which_duplicates_come_does_not_count(tmp_path: Path):
    for name, order in (("there", ["aaa", "bb", "c"]), ("back", ["c", "bb", "aaa"])):
        index = Index.open(tmp_path / name)
        for each in order:
            index.update([page(each, OTTERS)])
        held = index.page("http://h/aaa")
        assert held and held.url == "http://h/c" and held.aliases == ("http://h/aaa", "http://h/bb")


def test_an_alias_that_changes_becomes_a_page_of_its_own(tmp_path: Path):
    index = Index.open(tmp_path)
    index.update([page("a", OTTERS), page("bb", OTTERS)])
    index.update([page("bb", BEARS)])
    assert found(index, "winter den") == ["bb"] and found(index, "hands") == ["a"]
    held = index.page("http://h/a")
    assert held and held.aliases == ()


def test_a_page_that_goes_leaves_its_place_to_an_alias_that_says_the_same(tmp_path: Path):
    index = Index.open(tmp_path)
    index.update([page("a", OTTERS), page("bb", OTTERS)], [])
    index.update([], ["http://h/a"])
    assert index.urls() == ["http://h/bb"] and found(index, "hands") == ["bb"]
    index.update([], ["http://h/bb"])
    assert index.urls() == [] and found(index, "hands") == []


def test_a_declared_address_counts_unless_something_else_is_there(tmp_path: Path):
    index = Index.open(tmp_path)
    claims = [
        replace(page("home", text), aliases=(f"http://h/{at}",), is_canonical=True)
        for at, text in enumerate((OTTERS, BEARS))
    ]
    index.update([claims[0]])
    held = index.page("http://h/0")
    assert held and held.url == "http://h/home"
    index.update([claims[1]])  # it says that it is the same page, and is not
    assert index.urls() == ["http://h/1", "http://h/home"]
    index.update([page("home", CRANES)])  # now the address itself is fetched
    assert index.urls() == ["http://h/0", "http://h/1", "http://h/home"] and found(index, "hands") == ["0"]


def test_documents_of_a_collection_are_never_duplicates(tmp_path: Path):
    index = Index.open(tmp_path)
    assert index.update([page("a", OTTERS, identifier="1"), page("b", OTTERS, identifier="2")]).added == 2
    held = index.identified("2")
    assert held and held.url == "http://h/b" and index.identified("") is None


# Crashes, locks and hostile input

CRASH = """
import os, sys
from almanac.youchat.documents import Page
from almanac.youchat.index.index import Index
index = Index.open(sys.argv[1])
pages = [Page("http://h/a", "a", {cranes!r}), Page("http://h/c", "c", {otters!r})]
{how}
"""
HOWS = {
    "within the store": "index._store.settle = index._store.update = None\n"
    "index._store._write = lambda changes: os._exit(9)\n"
    "type(index._store).update(index._store, pages, ['http://h/b'])",
    "between store and engine": "index._store.update(pages, ['http://h/b'])\nos._exit(9)",
    "between engine and the store's note of it": "index._store.settle = lambda pages: os._exit(9)\nindex.update(pages, ['http://h/b'])",
}


@pytest.mark.parametrize("how", HOWS)
def test_a_crash_leaves_all_of_a_change_or_nothing(tmp_path: Path, how: str):
    Index.open(tmp_path).update([page("a", OTTERS), page("b", BEARS)])
    code = CRASH.format(cranes=CRANES, otters=OTTERS, how=HOWS[how])
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ, timeout=60).returncode == 9
    index = Index.open(tmp_path)
    told = [found(index, each) for each in ("who holds hands", "winter den", "who dances")]
    assert told == ([["a"], ["b"], []] if how == "within the store" else [["c"], [], ["a"]])
    assert index.update([page("d", BEARS)]).added + index.update([page("b", BEARS)]).duplicates <= 2
    assert len(found(index, "winter den")) == 1


def test_a_second_writer_waits_and_is_told_if_the_first_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from almanac.youchat.index import index as module

    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    one, other = Index.open(tmp_path), Index.open(tmp_path)
    with one._locked(1.0), pytest.raises(RunFailed, match="another process"):
        other.update([page("a", OTTERS)])
    assert other.update([page("a", OTTERS)]).added == 1


def test_readers_in_threads_see_whole_states_while_one_writes(tmp_path: Path):
    index = Index.open(tmp_path)
    index.update([page("a", OTTERS)])
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                for hit in index.search("who holds hands or dances"):
                    held = index.page(hit.passage.url)
                    if held and held.text not in (OTTERS, CRANES):
                        wrong.append(held)
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(6):
        index.update([page("a", (CRANES, OTTERS)[turn % 2])])
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong


HOSTILE = [
    "", " ", "?", "\0", "text:otters AND (", '"', "a" * 100_000, "[* TO *]", "otters^1e999", "NOT otters", "\ud800", "水" * 5000, "-" * 99,
    "otters " * 9999,
]  # fmt: skip


@pytest.mark.parametrize("question", HOSTILE, ids=range(len(HOSTILE)))
def test_no_question_raises(tmp_path: Path, question: str):
    index = Index.open(tmp_path)
    assert index.search(question) == []
    index.update([page("a", OTTERS)])
    assert found(index, question) == (["a"] if "otters" in question else [])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index.open(tmp_path_factory.mktemp("index"))
    index.update([page("a", OTTERS), page("b", BEARS)])
    return index


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60), st.integers(1, 5))
def test_any_text_is_a_question(small: Index, question: str, k: int):
    assert len(small.search(question, k)) <= k


def test_a_question_of_stop_words_only_is_searched_as_it_is(tmp_path: Path):
    index = Index.open(tmp_path)
    index.update(
        [
            page("hamlet", "To be, or not to be, that is the question. " + BEARS),
            page("b", OTTERS.replace("so that", "and")),
        ]
    )
    assert found(index, "to be or not to be")[0] == "hamlet"


def test_a_folder_that_is_no_index_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="no index"):
        Index.open(tmp_path / "none", create=False)
    (tmp_path / "pages.sqlite").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(UserError):
        Index.open(tmp_path)
