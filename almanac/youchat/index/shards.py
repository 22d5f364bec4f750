"""An index cut into shards by what pages say, each held by workers of its own (processes here, Ray's actors on a cluster), by several of
them where replicas are wanted. A question goes through the two phases of `retrieve` in all shards at once, so that they rank as one index
does. A worker that dies is replaced while another one answers; a shard that does not answer in time is left out, and that is said."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from almanac.runtime import console
from almanac.runtime.errors import UserError
from almanac.runtime.workers import Answer, Worker, WorkerDied, Workers
from almanac.youchat.documents import Hit, Page, Passage
from almanac.youchat.index import duplicates, ranking, retrieve
from almanac.youchat.index.index import Index
from almanac.youchat.index.ranking import Query, Scored, Statistics
from almanac.youchat.index.retrieve import Embeds
from almanac.youchat.index.store import Counts

_PLAN = "shards.json"
"""Beside the shards' folders: how many there are."""
PATIENCE_S = 2.0
"""How long a question waits for a shard in each phase."""
_SECOND_ASKED = 0.25
"""After which part of that another worker of the shard is asked too (hedged requests, Dean and Barroso 2013)."""
FIRST_PATIENCE_S = 120.0
"""How long the first question waits: workers are starting."""


@dataclass(frozen=True)
class Searched:
    """How much of the index the last question has seen."""

    answered: int
    """Shards that answered in time."""
    of: int
    """All of them."""


@dataclass
class _Shard:
    """A shard's workers, the one that is asked first in front."""

    folder: Path
    workers: list[Worker] = field(default_factory=list)
    owes: list[tuple[Worker, Answer]] = field(default_factory=list)
    """Who was asked and has not answered yet."""


class Shards:
    """Several shards that are asked as one index is.

    Args:
        crew: where workers are hired.
        folders: of the shards, as `plan` gives them.
        replicas: workers of each shard; they read the same folder, which each of their machines must see.
        patience_s: how long a question waits for a shard in each of its two phases.
        embedder: who made the shards' vectors; None: words alone.
    """

    def __init__(
        self,
        crew: Workers,
        folders: Sequence[Path],
        replicas: int = 1,
        patience_s: float = PATIENCE_S,
        embedder: Embeds | None = None,
    ):
        self._crew = crew
        self._embedder = embedder
        self._patience_s = patience_s
        self._shards = [_Shard(folder) for folder in folders]
        self._asking = threading.RLock()
        self._own = threading.local()
        self._left_out: set[int] = set()
        for shard in self._shards:
            shard.workers = [self._hired(shard) for _ in range(replicas)]
        self._all(range(len(folders)), "statistics", [], seconds=FIRST_PATIENCE_S)

    @property
    def searched(self) -> Searched:
        """How many shards this thread's last question has seen."""
        return getattr(self._own, "searched", Searched(len(self._shards), len(self._shards)))

    def search(self, question: str, k: int = 10) -> list[Hit]:
        """The best passages for a question, as one index of all shards that answer would rank them."""
        with self._asking:
            self._left_out = set()
            hits = retrieve.search([self], question, k, self._embedder)
            self._own.searched = Searched(len(self._shards) - len(self._left_out), len(self._shards))
            return hits

    def page(self, url: str) -> Page | None:
        """The page at an address, or of which it is an alias."""
        return next((each for each in self._all(range(len(self._shards)), "page", url).values() if each), None)

    def idf(self, stem: str) -> float:
        """ln(1 + (N − n + ½)/(n + ½)) of a stem among the passages' texts."""
        return self.statistics([stem]).idf(stem)

    # What `retrieve` asks for; passages' numbers carry their shard's.

    def statistics(self, stems: Sequence[str] = ()) -> Statistics:
        """Phase 1: the sum over the shards that answer; the others are left out of this question."""
        found = self._all(range(len(self._shards)), "statistics", list(stems))
        self._left_out |= set(range(len(self._shards))) - set(found)
        return sum(found.values(), Statistics())

    def candidates(
        self, query: Query, statistics: Statistics, k: int, vector: np.ndarray | None = None
    ) -> tuple[list[Scored], list[Scored]]:
        """Phase 2: the best of all shards that said what they hold."""
        asked = [each for each in range(len(self._shards)) if each not in self._left_out]
        found = self._all(asked, "candidates", query, statistics, k, vector)
        self._left_out |= set(asked) - set(found)
        by_words, near = (
            [
                replace(each, number=each.number * len(self._shards) + shard)
                for shard, lists in found.items()
                for each in lists[which]
            ]
            for which in (0, 1)
        )
        return ranking.order(by_words)[:k], ranking.order(near)[:k]

    def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number; those that are gone, or whose shard is, are left out."""
        held: dict[int, Passage] = {}
        of = len(self._shards)
        for shard in sorted({number % of for number in numbers}):
            own = [number // of for number in numbers if number % of == shard]
            found = self._all([shard], "passages", own)
            self._left_out |= {shard} - set(found)
            for number, passage in found.get(shard, {}).items():
                held[number * of + shard] = passage
        return held

    # Asking

    def _hired(self, shard: _Shard) -> Worker:
        return self._crew.hire(partial(_opened, shard.folder))

    def _all(self, shards: Iterable[int], method: str, *arguments: Any, seconds: float | None = None) -> dict[int, Any]:
        """What each of some shards answers, by its number: those that do in time."""
        with self._asking:  # a worker is asked by one thread at a time
            return self._answers(shards, method, arguments, self._patience_s if seconds is None else seconds)

    def _answers(self, shards: Iterable[int], method: str, arguments: tuple, seconds: float) -> dict[int, Any]:
        until, second = time.monotonic() + seconds, time.monotonic() + seconds * _SECOND_ASKED
        found: dict[int, Any] = {}
        waiting: list[tuple[int, Worker, Answer]] = []
        tries: Counter[int] = Counter()

        def ask(number: int) -> None:
            worker = self._free(number)
            if worker is not None and tries[number] <= len(self._shards[number].workers):
                tries[number] += 1
                self._shards[number].owes.append((worker, worker.ask(method, *arguments)))
                waiting.append((number, *self._shards[number].owes[-1]))

        for number in shards:
            ask(number)
        while (left := [each for each in waiting if each[0] not in found]) and (now := time.monotonic()) < until:
            there = self._crew.ready([answer for *_, answer in left], (second if now < second else until) - now)
            for number, worker, answer in left:
                if not any(each is answer for each in there):
                    continue
                waiting.remove((number, worker, answer))
                self._shards[number].owes.remove((worker, answer))
                try:
                    found[number] = answer.value()
                except WorkerDied:
                    self._replace(number, worker)
                    ask(number)
                except (UserError, RuntimeError) as error:
                    console.log(f"shard {number} can't answer: {error}")
            if now < second <= time.monotonic():  # whoever is slow gets a rival
                for number in {each[0] for each in waiting} - found.keys():
                    ask(number)
        return found

    def _free(self, number: int) -> Worker | None:
        """The worker of a shard that is asked next; one that still owes an answer is not, so that nobody waits for it twice."""
        shard = self._shards[number]
        there = self._crew.ready([answer for _, answer in shard.owes], 0.0) if shard.owes else []
        for worker, answer in [each for each in shard.owes if any(one is each[1] for one in there)]:
            shard.owes.remove((worker, answer))
            try:
                answer.value()
            except WorkerDied:
                self._replace(number, worker)
            except (UserError, RuntimeError):
                pass  # it came too late for anybody to be told
        busy = [worker for worker, _ in shard.owes]
        return next((each for each in shard.workers if each not in busy), None)

    def _replace(self, number: int, worker: Worker) -> None:
        """Another worker in the place of one that died, asked last: it must start first."""
        shard = self._shards[number]
        console.log(f"a worker of shard {number} died; another one is started")
        shard.workers = [each for each in shard.workers if each is not worker] + [self._hired(shard)]


def _opened(folder: Path) -> Index:
    """In a worker: what it holds."""
    return Index.open(folder, create=False)


def shard_of(text: str, count: int) -> int:
    """The shard that a page belongs to, by what it says: pages that say the same meet in one, and near duplicates of similarity s with a
    probability of at least s, since that is how likely two texts share a least hash."""
    return duplicates.least_hash(text) % count


def plan(folder: Path, count: int | None = None) -> list[Path]:
    """The folders of an index's shards; none where it is one index.

    Args:
        folder: the index's.
        count: how many are wanted; None: as many as there are.

    Raises:
        UserError: it has another number of them, or the index that is there has none.
    """
    path = folder / _PLAN
    try:
        held = int(json.loads(path.read_text())["shards"]) if path.is_file() else 0
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged", "index again, into another folder") from None
    if count is not None and count != held:
        if held or (folder / "pages.sqlite").is_file():
            raise UserError(
                f"the index in {folder} has {held or 'no'} shards, not {count}", "give its number, or another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"shards": count}))
        held = count
    return [folder / f"shard-{number:03d}" for number in range(held)]


def update(folders: Sequence[Path], pages: Iterable[Page], removed_urls: Iterable[str] = ()) -> Counts:
    """Put pages into the shards that they belong to, and take addresses out, as `Index.update` does."""
    gone = list(removed_urls)  # told to all: a page that was found there may call another address its own
    portions: list[list[Page]] = [[] for _ in folders]
    for page in pages:
        portions[shard_of(page.text, len(folders))].append(page)
    counts = []
    for number, (folder, own) in enumerate(zip(folders, portions, strict=True)):
        index = Index.open(folder)
        index.update([], [page.url for other in portions if other is not portions[number] for page in other])
        counts.append(astuple(index.update(own, gone)))  # what only moved to another shard does not count as removed
    return Counts(*(sum(each) for each in zip(*counts, strict=True)))
