"""Shards: they rank as one index, survive a worker that dies, and say which of them did not answer."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from almanac.runtime import cluster, workers
from almanac.runtime.errors import UserError
from almanac.runtime.workers import InTurn, Workers
from almanac.youchat.ask.ask import ask
from almanac.youchat.documents import Hit
from almanac.youchat.index import shards
from almanac.youchat.index.index import Index
from almanac.youchat.index.shards import Searched, Shards

from .pages import made, questions

PAGES = made(160)
ASKED = questions(40)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An index in four shards."""
    folders = shards.plan(tmp_path_factory.mktemp("cut"), 4)
    counts = shards.update(folders, PAGES)
    assert counts.added == 160 and all(len(Index.open(folder).urls()) > 20 for folder in folders)
    return folders


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index.open(tmp_path_factory.mktemp("whole"))
    index.update(PAGES)
    return index


def same(hits: list[Hit], others: list[Hit]) -> bool:
    return [(each.passage, each.bm25) for each in hits] == [(each.passage, each.bm25) for each in others]


def assert_as_one(cut_up: Shards, whole: Index, count: int) -> None:
    for question in ASKED[:count]:
        hits = cut_up.search(question)
        assert same(hits, whole.search(question)), question
        assert cut_up.searched == Searched(4, 4)
    assert hits
    assert all(cut_up.page(page.url) == page for page in PAGES[:8]) and cut_up.page("http://h/none") is None
    assert cut_up.idf("word7") == whole.idf("word7")


def test_shards_rank_as_one_index(cut: list[Path], whole: Index):
    assert_as_one(Shards(InTurn(), cut), whole, len(ASKED))


@contextmanager
def on_ray() -> Iterator[Workers]:
    """On a Ray that is told it has processors enough: actors here wait more than they work."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=8, num_gpus=0, include_dashboard=False, logging_level="ERROR")
    try:
        with cluster.workers("auto", 8.0) as crew:
            yield crew
    finally:
        ray.shutdown()


def test_shards_in_processes_rank_as_one_index_and_a_killed_replica_is_not_missed(cut: list[Path], tmp_path: Path):
    with workers.processes() as crew:
        found = Shards(crew, cut[:2], replicas=2)
        two = Index.open(tmp_path)
        two.update([page for page in PAGES if shards.shard_of(page.text, 4) < 2])
        assert all(same(found.search(question), two.search(question)) for question in ASKED[:5])
        os.kill(found._shards[0].workers[0].pid, signal.SIGKILL)  # pyright: ignore[reportAttributeAccessIssue]
        for question in ASKED[:5]:
            assert same(found.search(question), two.search(question))
            assert found.searched == Searched(2, 2)
        assert len(found._shards[0].workers) == 2


@pytest.mark.slow
def test_four_shards_on_ray_rank_as_one_index_and_a_killed_replica_is_not_missed(cut: list[Path], whole: Index):
    with on_ray() as crew:
        found = Shards(crew, cut, replicas=2, patience_s=60.0)  # the other replica may still be starting
        assert_as_one(found, whole, 3)
        found._shards[1].workers[0].dismiss()
        assert_as_one(found, whole, 3)


class Held(Index):
    """An index whose process can be kept busy."""

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def test_a_shard_that_does_not_answer_is_left_out_and_said(cut: list[Path], whole: Index, monkeypatch):
    with workers.processes() as crew:
        monkeypatch.setattr(Shards, "_hired", lambda self, shard: crew.hire(partial(Held.open, shard.folder, False)))
        found = Shards(crew, cut[:2])
        worker = found._shards[1].workers[0]
        worker.ask("sleep", 600.0)
        found._patience_s = 1.0
        hits = found.search(ASKED[0])
        assert found.searched == Searched(1, 2)
        assert ask(ASKED[0], found).note.startswith("Only 1 of 2 shards were searched")
        assert same(hits, Index.open(cut[0]).search(ASKED[0]))
        os.kill(worker.pid, signal.SIGKILL)  # pyright: ignore[reportAttributeAccessIssue]
        found._patience_s = 60.0
        while found.search(ASKED[0]) and found.searched.answered < 2:  # until its death is seen
            time.sleep(0.1)
        assert found.searched == Searched(2, 2)


def test_an_index_keeps_its_number_of_shards(tmp_path: Path):
    assert shards.plan(tmp_path) == []
    assert len(shards.plan(tmp_path, 3)) == len(shards.plan(tmp_path)) == len(shards.plan(tmp_path, 3)) == 3
    with pytest.raises(UserError, match="has 3 shards, not 4"):
        shards.plan(tmp_path, 4)
    Index.open(tmp_path / "one")
    with pytest.raises(UserError, match="has no shards, not 2"):
        shards.plan(tmp_path / "one", 2)


def test_pages_go_to_their_shard_and_are_taken_out_of_it(tmp_path: Path):
    folders = shards.plan(tmp_path, 3)
    shards.update(folders, PAGES[:20])
    found = Shards(InTurn(), folders)
    counts = shards.update(folders, [], [PAGES[0].url, PAGES[1].url])
    assert counts.removed == 2
    assert found.page(PAGES[0].url) is None and found.page(PAGES[2].url) == PAGES[2]
