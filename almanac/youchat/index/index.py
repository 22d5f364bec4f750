"""A search index in a folder: the store of pages (`store`), and tantivy over their passages, which is given stems and so searches what is
counted. tantivy finds the candidates by the very statistics that are asked for, each term boosted from tantivy's own weight to the wanted
one; they are scored exactly (`ranking`) and more are taken until no other passage can be among the best. One process writes at a time,
readers see the change at their next question, and a crash between store and tantivy heals when the index is opened next."""

import contextlib
import fcntl
import json
import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tantivy
from jaxtyping import Float32

from almanac.runtime.errors import RunFailed, UserError
from almanac.youchat.documents import Hit, Page, Passage
from almanac.youchat.index import ranking, retrieve
from almanac.youchat.index.ranking import Query, Scored, Statistics
from almanac.youchat.index.retrieve import Embeds
from almanac.youchat.index.store import Counts, Store

_FIELDS = ("text", "title")
_PATIENCE_S = 10.0
"""How long a second writer waits."""
_MEMORY = 64_000_000
"""Bytes that tantivy gathers before it writes a segment."""
_ROUNDING = 1 + 1e-4
"""tantivy sums in float32."""


@dataclass(frozen=True)
class _View:
    """tantivy as it was at a generation of the store."""

    generation: str
    searcher: Any
    documents: int
    """That tantivy computes its weights with: deleted ones count until they are merged away."""
    averages: tuple[float, float]
    """Stems in a text, in a title, as tantivy knows them; 0 where it knows none."""


class Index:
    """Pages and their passages, in a folder."""

    def __init__(self, folder: Path, store: Store, engine: Any, embedder: Embeds | None = None):
        self.folder = folder
        self._embedder = embedder
        self._store = store
        self._engine = engine
        self._view: _View | None = None
        self._vectors: tuple[str, np.ndarray, np.ndarray] | None = None
        self._looking = threading.Lock()
        self._writing = threading.Lock()

    @classmethod
    def open(cls, folder: Path | str, create: bool = True, embedder: Embeds | None = None) -> "Index":
        """The index in a folder.

        Args:
            folder: where it is.
            create: make an empty one where there is none.
            embedder: who made its vectors, which `search` uses then; see `embed`.

        Raises:
            UserError: there is none, it is of another version, the folder can't be used, or its vectors are another embedder's.
        """
        folder = Path(folder)
        if not (folder / "pages.sqlite").is_file() and not create:
            raise UserError(
                f"there is no index in {folder}", "make one: almanac youchat crawl URL or index PATH, with --index"
            )
        try:
            (folder / "passages").mkdir(parents=True, exist_ok=True)
            store = Store(folder / "pages.sqlite")
            engine = tantivy.Index(_schema(), path=str(folder / "passages"), reuse=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the index in {folder} can't be opened: {error}", "give a folder that can be written"
            ) from None
        made_by = store.fact("embedder")
        if embedder is not None and made_by not in ("", embedder.name):
            raise UserError(
                f"the vectors in {folder} are by {made_by}, not {embedder.name}", "use that one, or index anew"
            )
        index = cls(folder, store, engine, embedder)
        if store.pending():
            with (
                contextlib.suppress(UserError),
                index._written(),
                index._locked(0.0),
            ):  # if somebody is writing, it is being done
                index._settle()
        return index

    # Writing

    def update(self, pages: Iterable[Page], removed_urls: Iterable[str] = ()) -> Counts:
        """Put pages in, or in the place of those at their addresses, and take addresses out: all of it at once, or nothing.

        Args:
            pages: any number that one transaction can hold; give millions in portions.
            removed_urls: addresses that are gone.

        Raises:
            RunFailed: another process is writing, or it can't be written (a full disk); what was done before stays.
        """
        with self._written(), self._locked(_PATIENCE_S):
            self._settle()
            counts = self._store.update(pages, removed_urls)
            self._settle()
        return counts

    def embed(self, batch: int = 256) -> int:
        """Give every passage that has none a vector by the embedder; how many that were. What is done is kept when it is stopped."""
        done = 0
        while self._embedder is not None and (found := self._store.without_vector(batch)):
            vectors = self._embedder.embed([spoken(passage) for _, passage in found], False)
            with self._written(), self._locked(_PATIENCE_S):
                self._store.add_vectors([number for number, _ in found], vectors, self._embedder.name)
            done += len(found)
        return done

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Writing, whose failures are told."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise RunFailed(
                f"the index in {self.folder} can't be written ({error})", "make room, and run the same again"
            ) from None

    @contextlib.contextmanager
    def _locked(self, patience_s: float) -> Iterator[None]:
        """The one who writes."""
        busy = RunFailed(f"another process is writing to {self.folder}", "wait until it is done")
        if not self._writing.acquire(timeout=patience_s):
            raise busy
        try:
            with (self.folder / "lock").open("a") as file:
                until = time.monotonic() + patience_s
                while True:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except OSError:
                        if time.monotonic() >= until:
                            raise busy from None
                        time.sleep(0.05)
                yield  # closing the file gives the lock back
        finally:
            self._writing.release()

    def _settle(self) -> None:
        """Tell tantivy what the store says is pending: those pages' passages go, and come again if the page is still there. Doing so
        twice does no harm."""
        pages = self._store.pending()
        if not pages:
            return
        try:
            self._tell_engine(pages)
        except ValueError as error:  # tantivy's word for a disk that is full
            raise OSError(str(error)) from None
        self._store.settle(pages)

    def _tell_engine(self, pages: Sequence[int]) -> None:
        writer = self._engine.writer(heap_size=_MEMORY, num_threads=1)
        try:
            # Deleting by a plain number finds nothing in an unsigned field (it is taken for a signed one); a query knows the schema.
            writer.delete_documents_by_query(tantivy.Query.term_set_query(self._engine.schema, "page", pages))
            for page in pages:
                for number, text, title in self._store.of_page(page):
                    document = tantivy.Document()
                    document.add_text("text", text)
                    document.add_text("title", title)
                    document.add_unsigned("number", number)
                    document.add_unsigned("page", page)
                    writer.add_document(document)
            writer.commit()
        finally:
            with contextlib.suppress(ValueError):
                writer.wait_merging_threads()

    # Reading

    def page(self, url: str) -> Page | None:
        """The page at an address, or of which it is an alias."""
        return self._store.page(url)

    def identified(self, identifier: str) -> Page | None:
        """The page of that name in a collection (`_id` of JSONL)."""
        return self._store.identified(identifier)

    def urls(self) -> list[str]:
        """The addresses of all pages, in order."""
        return self._store.urls()

    def addresses(self, beginning: str) -> list[str]:
        """All addresses that begin so, of pages and of their aliases."""
        return self._store.addresses(beginning)

    def orphans(self) -> list[str]:
        """Addresses whose page went, though nobody said that they are gone: duplicates of it, whose own text has to be read again."""
        return self._store.orphans()

    def statistics(self, stems: Sequence[str] = ()) -> Statistics:
        """How much there is, and in how many passages each of some stems is."""
        return self._store.statistics(stems)

    def idf(self, stem: str) -> float:
        """ln(1 + (N − n + ½)/(n + ½)) of a stem among the passages' texts."""
        return self._store.statistics([stem]).idf(stem)

    def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number; those that are gone are left out."""
        return self._store.passages(numbers)

    def search(self, question: str, k: int = 10) -> list[Hit]:
        """The best passages for a question, no more than two of a page. Any text is a question; one that says nothing finds nothing."""
        return retrieve.search([self], question, k, self._embedder)

    def candidates(
        self, query: Query, statistics: Statistics, k: int, vector: np.ndarray | None = None
    ) -> tuple[list[Scored], list[Scored]]:
        """The best `k` by BM25 with these statistics, exactly; and the best `k` by cosine, none without vectors."""
        by_words = self._by_words(query, statistics, k)
        if vector is None:
            return by_words, []
        numbers, matrix = self._matrix()
        if not len(numbers):
            return by_words, []
        asked = vector.astype(np.float32)
        cosines = matrix @ asked
        return self._with_cosines(by_words, numbers, cosines), self._by_cosine(query, statistics, k, numbers, cosines)

    def _by_words(self, query: Query, statistics: Statistics, k: int) -> list[Scored]:
        view = self._now()
        parts = self._parts(query, statistics, view)
        if not parts or k < 1:
            return []
        asked = tantivy.Query.boolean_query([(tantivy.Occur.Should, part) for part in parts])
        # What tantivy's score can be short of the exact one: its lengths are rounded down, which only raises scores, so only its average
        # can differ. f/(f + K) grows by no more than the ratio of the two averages.
        short = max([1.0, *(statistics.average(at) / own for at, own in enumerate(view.averages) if own)]) * _ROUNDING
        held: dict[int, Scored] = {}
        known: set[int] = set()
        size = max(64, 2 * k)
        while True:
            hits = view.searcher.search(asked, size, count=False).hits
            numbers = view.searcher.fast_field_values("number", [address for _, address in hits])
            fresh = [number for number in numbers if number not in known]
            known.update(fresh)
            held.update(self._scored(query, statistics, fresh))
            best = ranking.order(held.values())[:k]
            if len(hits) < size or (len(best) == k and hits[-1][0] * short < best[-1].score):
                return best
            size *= 4

    def _parts(self, query: Query, statistics: Statistics, view: _View) -> list[Any]:
        """A query of tantivy for each stem and field, boosted to the wanted weight."""
        parts = []
        for at, name in enumerate(_FIELDS):
            for stem, count in zip(query.stems, query.counts, strict=True):
                held = view.searcher.doc_freq(name, stem)
                if held and statistics.frequencies.get(stem, (0, 0))[at]:
                    own = math.log(1 + (view.documents - held + 0.5) / (held + 0.5))
                    boost = ranking.WEIGHTS[at] * count * statistics.idf(stem, at) / own
                    term = tantivy.Query.term_query(self._engine.schema, name, stem, "freq")
                    parts.append(tantivy.Query.boost_query(term, boost))
        return parts

    def _scored(self, query: Query, statistics: Statistics, numbers: Sequence[int]) -> dict[int, Scored]:
        """Passages by number, with their exact scores; those that are gone are left out."""
        held = self._store.searched(numbers)
        bm25, coverage = ranking.scores(query, [each[2] for each in held.values()], statistics)
        return {
            number: Scored(url, start, number, score, coverage=covered, score=score)
            for (number, (url, start, _)), score, covered in zip(
                held.items(), bm25.tolist(), coverage.tolist(), strict=True
            )
        }

    def _with_cosines(self, found: list[Scored], numbers: np.ndarray, cosines: np.ndarray) -> list[Scored]:
        """Those that have a vector, with its cosine."""
        made = []
        for each in found:
            at = int(np.searchsorted(numbers, each.number))
            has = at < len(numbers) and numbers[at] == each.number
            made.append(replace(each, cosine=float(cosines[at])) if has else each)
        return made

    def _by_cosine(
        self, query: Query, statistics: Statistics, k: int, numbers: np.ndarray, cosines: np.ndarray
    ) -> list[Scored]:
        """The nearest vectors' passages."""
        best = np.argpartition(-cosines, min(k, len(cosines) - 1))[:k]
        cosine = {int(numbers[at]): float(cosines[at]) for at in best}
        return ranking.order(
            replace(each, cosine=cosine[number], score=cosine[number])
            for number, each in self._scored(query, statistics, list(cosine)).items()
        )

    def _now(self) -> _View:
        """tantivy as the store's last change left it."""
        generation = self._store.fact("generation")
        with self._looking:
            if self._view is None or self._view.generation != generation:
                self._engine.reload()
                searcher = self._engine.searcher()
                known = [self._explained(searcher, at) for at in range(len(_FIELDS))]
                documents = int(max(each[0] for each in known))
                self._view = _View(generation, searcher, documents, (known[0][1], known[1][1]))
            return self._view

    def _explained(self, searcher: Any, at: int) -> tuple[float, float]:
        """The number of documents and the average length that tantivy computes with, as it explains a score."""
        stem = self._store.a_stem(at)
        if stem is None:
            return 0.0, 0.0
        query = tantivy.Query.term_query(self._engine.schema, _FIELDS[at], stem, "freq")
        hits = searcher.search(query, 1, count=False).hits
        if not hits:
            return 0.0, 0.0
        said: dict[str, float] = {}
        todo = [json.loads(query.explain(searcher, hits[0][1]).to_json())]
        while todo:
            each = todo.pop()
            said[each["description"].partition(",")[0]] = each["value"]
            todo += each.get("details", [])
        return said["N"], said["avgdl"]

    def _matrix(self) -> tuple[np.ndarray, Float32[np.ndarray, "passages dimensions"]]:
        """All vectors; read again when the store has changed."""
        generation = self._store.fact("generation")
        with self._looking:
            if self._vectors is None or self._vectors[0] != generation:
                numbers, matrix = self._store.vectors()
                self._vectors = generation, np.array(numbers, np.int64), matrix.astype(np.float32)
            return self._vectors[1], self._vectors[2]


def spoken(passage: Passage) -> str:
    """What of a passage is made a vector."""
    return f"{passage.title}. {passage.text}" if passage.title != passage.url else passage.text


def _schema() -> Any:
    made = tantivy.SchemaBuilder()
    for name in _FIELDS:
        made.add_text_field(name, stored=False, tokenizer_name="whitespace", index_option="freq")
    made.add_unsigned_field("number", stored=False, indexed=False, fast=True)
    made.add_unsigned_field("page", stored=False, indexed=True)
    return made.build()
