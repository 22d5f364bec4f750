"""The pages of an index and what is known of their passages, in SQLite: texts (compressed: a third of the size for 30 µs a page), stems,
how many passages hold each stem, signatures of duplicates, vectors. Everything that a change touches is one transaction, and what the
search engine has yet to hear of it is written down in the same one (`pending`), so that a crash between the two heals. Numbers of pages and
passages are never used twice."""

import hashlib
import json
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from almanac.runtime.errors import UserError
from almanac.youchat.documents import Heading, Page, Passage
from almanac.youchat.index import duplicates
from almanac.youchat.index.duplicates import Fingerprint
from almanac.youchat.index.ranking import Pair, Statistics, Stemmed, stemmed
from almanac.youchat.text import passages

_VERSION = "1"
_SCHEMA = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pages(
    id INTEGER PRIMARY KEY AUTOINCREMENT, url TEXT NOT NULL UNIQUE, found TEXT NOT NULL, title TEXT NOT NULL, text BLOB NOT NULL,
    headings TEXT NOT NULL, language TEXT NOT NULL, fetched TEXT, published TEXT, identifier TEXT NOT NULL, canonical INTEGER NOT NULL,
    sha256 TEXT NOT NULL, exact TEXT NOT NULL, signature BLOB NOT NULL);
CREATE INDEX pages_exact ON pages(exact);
CREATE INDEX pages_found ON pages(found);
CREATE INDEX pages_identifier ON pages(identifier) WHERE identifier != '';
CREATE TABLE aliases(url TEXT PRIMARY KEY, page INTEGER NOT NULL, exact TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX aliases_page ON aliases(page);
CREATE TABLE bands(band INTEGER NOT NULL, page INTEGER NOT NULL, PRIMARY KEY(band, page)) WITHOUT ROWID;
CREATE INDEX bands_page ON bands(page);
CREATE TABLE passages(
    id INTEGER PRIMARY KEY AUTOINCREMENT, page INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, headings TEXT NOT NULL,
    anchor TEXT NOT NULL, stems TEXT NOT NULL, title_stems TEXT NOT NULL, length INTEGER NOT NULL, title_length INTEGER NOT NULL);
CREATE INDEX passages_page ON passages(page);
CREATE TABLE terms(stem TEXT PRIMARY KEY, texts INTEGER NOT NULL, titles INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE vectors(passage INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE pending(page INTEGER PRIMARY KEY);
"""
_COLUMNS = "id, url, title, text, headings, language, fetched, published, identifier, canonical"


@dataclass
class Counts:
    """What an update did."""

    added: int = 0
    """Pages that were not there."""
    changed: int = 0
    """Pages whose text, title or headings are others now."""
    unchanged: int = 0
    """Pages that are as they were; when they were fetched is noted."""
    removed: int = 0
    """Addresses that are gone."""
    duplicates: int = 0
    """Addresses that became another page's aliases."""
    passages: int = 0
    """That were added."""


@dataclass
class _Changes:
    """What a transaction has yet to write."""

    more: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    """Passages whose text, whose title hold a stem: more by so many."""
    fewer: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    """Likewise those that go."""
    totals: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Pages, passages, stems in texts, stems in titles: more."""


class Store:
    """The SQLite file of an index. Each thread has its own connection."""

    def __init__(self, path: Path):
        self._path = path
        self._own = threading.local()
        try:
            connection = self.connection
            held = connection.execute("SELECT name FROM sqlite_master WHERE name = 'facts'").fetchone()
            if held is None:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
                self._set_fact("version", _VERSION)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path} can't be read as an index: {error}", "give another folder, or index anew"
            ) from None
        version = self.fact("version")
        if version != _VERSION:
            raise UserError(
                f"{path} is of version {version} of the index, not {_VERSION}", "index anew in another folder"
            )
        self._text = lru_cache(256)(self._read_text)

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._own, "connection"):
            made = sqlite3.connect(self._path, isolation_level=None, timeout=30.0)
            settings = (
                "journal_mode=WAL",
                "synchronous=FULL",
                "cache_size=-65536",
                "mmap_size=1073741824",
                "journal_size_limit=0",
            )
            for pragma in settings:
                made.execute(f"PRAGMA {pragma}")
            self._own.connection = made
        return self._own.connection

    def fact(self, name: str) -> str:
        """Something that is known of the whole; empty where it is not."""
        row = self.connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def _set_fact(self, name: str, value: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # Reading

    def page(self, url: str) -> Page | None:
        """The page at an address, or of which it is an alias."""
        read = self.connection.execute
        row = read(f"SELECT {_COLUMNS} FROM pages WHERE url = ?", (url,)).fetchone()
        if row is None:
            columns = ", ".join(f"pages.{each}" for each in _COLUMNS.split(", "))
            row = read(
                f"SELECT {columns} FROM aliases JOIN pages ON page = id WHERE aliases.url = ?", (url,)
            ).fetchone()
        return self._page_of(row) if row else None

    def identified(self, identifier: str) -> Page | None:
        """The page of that name in a collection."""
        row = self.connection.execute(
            f"SELECT {_COLUMNS} FROM pages WHERE identifier = ? AND identifier != ''", (identifier,)
        ).fetchone()
        return self._page_of(row) if row else None

    def urls(self) -> list[str]:
        """The addresses of all pages, in order."""
        return [row[0] for row in self.connection.execute("SELECT url FROM pages ORDER BY url")]

    def addresses(self, beginning: str) -> list[str]:
        """All addresses that begin so: of pages, their aliases, and where pages were found."""
        query = " UNION ".join(
            f"SELECT {name} FROM {table} WHERE substr({name}, 1, ?1) = ?2"
            for name, table in (("url", "pages"), ("found", "pages"), ("url", "aliases"))
        )
        return [row[0] for row in self.connection.execute(query, (len(beginning), beginning))]

    def orphans(self) -> list[str]:
        """Addresses whose page went, though nobody said that they are gone: duplicates of it, whose own text has to be read again."""
        query = "SELECT url FROM aliases WHERE page NOT IN (SELECT id FROM pages) ORDER BY url"
        return [row[0] for row in self.connection.execute(query)]

    def statistics(self, stems: Iterable[str] = ()) -> Statistics:
        """The whole, and in how many passages each of some stems is."""
        totals = json.loads(self.fact("totals") or "[0, 0, 0, 0]")
        found: dict[str, Pair] = {}
        for stem in stems:
            row = self.connection.execute("SELECT texts, titles FROM terms WHERE stem = ?", (stem,)).fetchone()
            found[stem] = (row[0], row[1]) if row else (0, 0)
        return Statistics(totals[0], totals[1], (totals[2], totals[3]), found)

    def searched(self, numbers: Sequence[int]) -> dict[int, tuple[str, int, Stemmed]]:
        """Of passages by number: address, start, and what is searched of them. Those that are gone are left out."""
        asked = ", ".join(map(str, numbers))
        rows = self.connection.execute(
            "SELECT passages.id, url, start, stems, title_stems, length, title_length FROM passages JOIN pages ON page = pages.id "
            f"WHERE passages.id IN ({asked})"
        )
        return {row[0]: (row[1], row[2], Stemmed(row[3], row[4], (row[5], row[6]))) for row in rows}

    def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number; those that are gone are left out."""
        asked = ", ".join(map(str, numbers))
        rows = self.connection.execute(
            'SELECT passages.id, page, url, title, start, "end", sha256, passages.headings, anchor, fetched, published, identifier '
            f"FROM passages JOIN pages ON page = pages.id WHERE passages.id IN ({asked})"
        )
        return {
            row[0]: Passage(
                row[2], row[3], self._text(row[1])[row[4] : row[5]], row[4], row[5], row[6], tuple(json.loads(row[7])),
                row[8], _date(row[9]), _date(row[10]), row[11],
            )
            for row in rows
        }  # fmt: skip

    def of_page(self, page: int) -> list[tuple[int, str, str]]:
        """Of a page by number: each passage's number, stems, and stems of titles; none of a page that is gone."""
        rows = self.connection.execute(
            "SELECT id, stems, title_stems FROM passages WHERE page = ? ORDER BY id", (page,)
        )
        return rows.fetchall()

    def a_stem(self, place: int) -> str | None:
        """Some stem that texts (0) or titles (1) hold."""
        column = ("texts", "titles")[place]
        row = self.connection.execute(f"SELECT stem FROM terms WHERE {column} > 0 LIMIT 1").fetchone()
        return row[0] if row else None

    # Vectors

    def without_vector(self, most: int) -> list[tuple[int, Passage]]:
        """Passages that have no vector yet, with their numbers."""
        rows = self.connection.execute(
            "SELECT id FROM passages WHERE id NOT IN (SELECT passage FROM vectors) ORDER BY id LIMIT ?", (most,)
        )
        found = self.passages([row[0] for row in rows])
        return sorted(found.items())

    def add_vectors(self, numbers: Sequence[int], vectors: np.ndarray, embedder: str) -> None:
        """Store the vectors of passages, in half precision; those of another embedder are forgotten."""
        with self._transaction():
            if self.fact("embedder") != embedder:
                self.connection.execute("DELETE FROM vectors")
                self._set_fact("embedder", embedder)
            rows = zip(numbers, (each.tobytes() for each in vectors.astype(np.float16)), strict=True)
            self.connection.executemany(
                "INSERT OR REPLACE INTO vectors SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM passages WHERE id = ?1)", rows
            )

    def vectors(self) -> tuple[list[int], np.ndarray]:
        """Numbers of passages, ascending, and their vectors as the rows of a matrix."""
        rows = self.connection.execute("SELECT passage, vector FROM vectors ORDER BY passage").fetchall()
        held = b"".join(row[1] for row in rows)
        matrix = np.frombuffer(held, np.float16).reshape(len(rows), -1) if rows else np.zeros((0, 0), np.float16)
        return [row[0] for row in rows], matrix

    # Writing

    def update(self, pages: Iterable[Page], removed: Iterable[str]) -> Counts:
        """Take addresses out, put pages in, in one transaction; `pending` names the pages that the search engine has to hear of."""
        counts, changes = Counts(), _Changes()
        with self._transaction():
            for url in removed:
                counts.removed += self._remove_url(url, changes)
            for page in pages:
                self._take(page, counts, changes)
            self._write(changes)
        return counts

    def pending(self) -> list[int]:
        """Numbers of pages that were changed and not yet settled."""
        return [row[0] for row in self.connection.execute("SELECT page FROM pending ORDER BY page")]

    def settle(self, pages: Sequence[int]) -> None:
        """The search engine has heard of these."""
        with self._transaction():
            self.connection.executemany("DELETE FROM pending WHERE page = ?", ((page,) for page in pages))

    def _transaction(self) -> "_Transaction":
        return _Transaction(self)

    def _take(self, page: Page, counts: Counts, changes: _Changes) -> None:
        """A page that was fetched: as it is known already, changed, new, or what another one says."""
        mark = duplicates.fingerprint(page.text)
        found = page.aliases[0] if page.is_canonical and page.aliases else page.url
        page = self._with_own_address(page, found, mark)
        write = self.connection.execute
        for before, exact in write(
            "SELECT id, exact FROM pages WHERE found = ? AND url != ?", (found, page.url)
        ).fetchall():
            self._hand_on(before, exact, {found}, changes)  # it called another address its own then
        sha256 = hashlib.sha256(page.text.encode("utf-8", "surrogatepass")).hexdigest()
        old = write("SELECT id, exact, sha256, title, headings FROM pages WHERE url = ?", (page.url,)).fetchone()
        if old and old[2:] == (sha256, page.title, _headings(page)):
            write(
                "UPDATE pages SET fetched = ?, published = ?, found = iif(found = url, found, ?) WHERE id = ?",
                (_said(page.fetched_at), _said(page.published_at), found, old[0]),
            )
            self._add_aliases(page.aliases, old[0], mark.exact)
            counts.unchanged += 1
            return
        known = write(
            "SELECT aliases.exact FROM aliases JOIN pages ON page = id WHERE aliases.url = ?", (page.url,)
        ).fetchone()
        if known and known[0] == mark.exact:
            counts.unchanged += 1
            return
        write("DELETE FROM aliases WHERE url = ?", (page.url,))
        if old:
            self._hand_on(old[0], old[1], {page.url, found, *page.aliases}, changes)
        twin = None if page.identifier else self._twin(page, mark)
        if twin is None:
            self._insert(page, found, sha256, mark, changes, counts)
            counts.changed, counts.added = counts.changed + bool(old), counts.added + (not old)
            return
        counts.duplicates += 1
        number, other = twin
        if duplicates.preference(page) < duplicates.preference(other):
            exact = write("SELECT exact FROM pages WHERE id = ?", (number,)).fetchone()[0]
            self._remove(number, changes)
            kept = self._insert(page, found, sha256, mark, changes, counts)
            write("UPDATE aliases SET page = ? WHERE page = ?", (kept, number))
            self._add_aliases([other.url], kept, exact)
        else:
            self._add_aliases([page.url, *page.aliases], number, mark.exact)

    def _with_own_address(self, page: Page, found: str, mark: Fingerprint) -> Page:
        """Many pages may claim one address, though they say different things (a site that calls its front page canonical everywhere). A
        claim counts unless what is known to be at that address says something else."""
        row = self.connection.execute("SELECT id, found, signature FROM pages WHERE url = ?", (page.url,)).fetchone()
        if row is None or row[1] == found or _alike(mark, row[2]):
            return page
        if found == page.url:  # it is there itself; the other one only said so
            self.connection.execute("DELETE FROM aliases WHERE url = ?", (row[1],))
            self.connection.execute("UPDATE pages SET url = found, canonical = 0 WHERE id = ?", (row[0],))
            return page
        return replace(page, url=found, aliases=page.aliases[1:], is_canonical=False)

    def _twin(self, page: Page, mark: Fingerprint) -> tuple[int, Page] | None:
        """A page that says the same: exactly, or else the one that says it most nearly, with the same title and the same numbers."""
        read = self.connection.execute
        row = read("SELECT id FROM pages WHERE exact = ? AND identifier = '' ORDER BY id", (mark.exact,)).fetchone()
        if row is None:
            names = ", ".join(map(str, duplicates.bands(mark.signature)))
            near = read(
                f"SELECT DISTINCT id, signature FROM bands JOIN pages ON page = id WHERE band IN ({names}) AND identifier = '' "
                "AND title = ?",
                (page.title,),
            ).fetchall()
            likeness = sorted((-duplicates.similarity(mark.signature, _signature(each[1])), each[0]) for each in near)
            numbers = duplicates.numbers(page.text) if near else frozenset()
            alike = (number for likely, number in likeness if -likely >= duplicates.ALIKE)
            best = next((each for each in alike if duplicates.numbers(self._read_text(each)) == numbers), None)
            if best is None:
                return None
            row = (best,)
        held = read("SELECT url, title, canonical FROM pages WHERE id = ?", row).fetchone()
        return row[0], Page(held[0], held[1], "", is_canonical=bool(held[2]))

    def _insert(
        self,
        page: Page,
        found: str,
        sha256: str,
        mark: Fingerprint,
        changes: _Changes,
        counts: Counts,
    ) -> int:
        write = self.connection.execute
        text = zlib.compress(page.text.encode("utf-8", "surrogatepass"), 1)
        number = write(
            "INSERT INTO pages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                page.url, found, page.title, text, _headings(page), page.language, _said(page.fetched_at),
                _said(page.published_at), page.identifier, int(page.is_canonical), sha256, mark.exact, mark.signature.tobytes(),
            ),
        ).lastrowid  # fmt: skip
        assert number is not None
        if not page.identifier:
            names = duplicates.bands(mark.signature)
            self.connection.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", ((name, number) for name in names))
        self._add_aliases(page.aliases, number, mark.exact)
        rows = []
        for each in passages.split(page):
            held = stemmed(each.text, page.title, each.headings)
            path = json.dumps(each.headings, ensure_ascii=False)
            rows.append((number, each.start, each.end, path, each.anchor, held.text, held.title, *held.lengths))
            _count(changes, held, 1)
        self.connection.executemany("INSERT INTO passages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        write("INSERT OR IGNORE INTO pending VALUES (?)", (number,))
        changes.totals[0] += 1
        counts.passages += len(rows)
        return number

    def _remove(self, page: int, changes: _Changes) -> None:
        """Take a page out. The aliases that it had are left, with nothing behind them: see `orphans`."""
        write = self.connection.execute
        for stems, titles, length, title_length in write(
            "SELECT stems, title_stems, length, title_length FROM passages WHERE page = ?", (page,)
        ):
            _count(changes, Stemmed(stems, titles, (length, title_length)), -1)
        changes.totals[0] -= 1
        write("DELETE FROM vectors WHERE passage IN (SELECT id FROM passages WHERE page = ?)", (page,))
        for table in ("passages", "bands"):
            write(f"DELETE FROM {table} WHERE page = ?", (page,))
        write("DELETE FROM pages WHERE id = ?", (page,))
        write("INSERT OR IGNORE INTO pending VALUES (?)", (page,))

    def _remove_url(self, url: str, changes: _Changes) -> int:
        """An address is gone, and what was found there, whatever it calls itself."""
        write = self.connection.execute
        was_alias = write("DELETE FROM aliases WHERE url = ?", (url,)).rowcount
        row = write("SELECT id, exact FROM pages WHERE url = ?1 OR found = ?1 ORDER BY url != ?1", (url,)).fetchone()
        if row is None:
            return was_alias
        self._hand_on(row[0], row[1], {url}, changes)
        return 1

    def _hand_on(self, page: int, exact: str, leaving: Iterable[str], changes: _Changes) -> None:
        """A page's addresses say it no more. It moves to an alias that says exactly the same, if there is one; else it goes, and the
        aliases that say nearly the same are orphans: they have a text of their own that is not here."""
        write = self.connection.execute
        self.connection.executemany("DELETE FROM aliases WHERE url = ?", ((url,) for url in leaving))
        heir = write(
            "SELECT url FROM aliases WHERE page = ? AND exact = ? ORDER BY length(url), url LIMIT 1", (page, exact)
        ).fetchone()
        if heir is None:
            self._remove(page, changes)
        else:
            write("DELETE FROM aliases WHERE url = ?", heir)
            write("UPDATE pages SET url = ?1, found = ?1, canonical = 0 WHERE id = ?2", (heir[0], page))

    def _add_aliases(self, urls: Iterable[str], page: int, exact: str) -> None:
        """Addresses that have no page of their own."""
        self.connection.executemany(
            "INSERT OR REPLACE INTO aliases SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM pages WHERE url = ?1)",
            ((url, page, exact) for url in urls),
        )

    def _write(self, changes: _Changes) -> None:
        """Counts of stems and totals."""
        merged = {stem: [0, 0] for counted in (*changes.more, *changes.fewer) for stem in counted}
        for sign, both in ((1, changes.more), (-1, changes.fewer)):
            for place, counted in enumerate(both):
                for stem, count in counted.items():
                    merged[stem][place] += sign * count
        self.connection.executemany(
            "INSERT INTO terms VALUES (?1, ?2, ?3) "
            "ON CONFLICT(stem) DO UPDATE SET texts = texts + excluded.texts, titles = titles + excluded.titles",
            ((stem, *more) for stem, more in sorted(merged.items()) if any(more)),
        )
        self.connection.execute("DELETE FROM terms WHERE texts = 0 AND titles = 0")
        before = json.loads(self.fact("totals") or "[0, 0, 0, 0]")
        self._set_fact("totals", json.dumps([was + more for was, more in zip(before, changes.totals, strict=True)]))

    def _page_of(self, row: Sequence[Any]) -> Page:
        number, url, title, text, headings, language, fetched, published, identifier, canonical = row
        aliases = self.connection.execute("SELECT url FROM aliases WHERE page = ? ORDER BY url", (number,))
        return Page(
            url, title, zlib.decompress(text).decode("utf-8", "surrogatepass"), tuple(Heading(*each) for each in json.loads(headings)),
            language, _date(fetched), _date(published), tuple(each[0] for each in aliases), identifier, bool(canonical),
        )  # fmt: skip

    def _read_text(self, page: int) -> str:
        """Of a page by number: what a number stands for never changes."""
        row = self.connection.execute("SELECT text FROM pages WHERE id = ?", (page,)).fetchone()
        return zlib.decompress(row[0]).decode("utf-8", "surrogatepass") if row else ""


class _Transaction:
    """All of a change or nothing of it; readers see that something changed by `generation`."""

    def __init__(self, store: Store):
        self._store = store

    def __enter__(self) -> None:
        self._store.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._store._set_fact("generation", str(int(self._store.fact("generation") or 0) + 1))
            self._store.connection.execute("COMMIT")
        else:
            self._store.connection.execute("ROLLBACK")


def _count(changes: _Changes, held: Stemmed, sign: int) -> None:
    """A passage more or less."""
    counted = changes.more if sign > 0 else changes.fewer
    for place, text in enumerate((held.text, held.title)):
        counted[place].update(set(text.split()))
        changes.totals[2 + place] += sign * held.lengths[place]
    changes.totals[1] += sign


def _alike(mark: Fingerprint, signature: bytes) -> bool:
    return duplicates.similarity(mark.signature, _signature(signature)) >= duplicates.ALIKE


def _signature(held: bytes) -> duplicates.Signature:
    return np.frombuffer(held, np.uint32)


def _headings(page: Page) -> str:
    return json.dumps([[each.level, each.text, each.start, each.anchor] for each in page.headings], ensure_ascii=False)


def _said(date: datetime | None) -> str | None:
    return date.isoformat() if date else None


def _date(said: str | None) -> datetime | None:
    return datetime.fromisoformat(said) if said else None
