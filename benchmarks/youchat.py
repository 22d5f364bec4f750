"""YouChat's search beside bm25s, SQLite's FTS5 and a remote Xapian server, on the same passages of the mini web and the same questions: how
fast passages go in, and how long a question takes. Every engine has one thread; bm25s holds its index in memory and can't change it,
Xapian is Debian's own, asked over TCP as shards would be. Each is asked with stop words taken out, as ours does."""

import json as json_
import math
import shutil
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from almanac.runtime import console, results
from almanac.youchat.data import search_sets
from almanac.youchat.documents import Page, Passage
from almanac.youchat.index.index import Index
from almanac.youchat.text import extract, passages, terms

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's, which is the one that Debian's python3-xapian is for."""
_XAPIAN = """
import json, sys, xapian
port, folder, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if mode == "index":
    database = xapian.WritableDatabase(folder, xapian.DB_CREATE_OR_OVERWRITE)
    for line in sys.stdin:
        document = xapian.Document()
        for place, stem in enumerate(json.loads(line)):
            document.add_posting(stem, place)
        database.add_document(document)
    database.commit()
else:
    database = xapian.remote_open("127.0.0.1", port)
    print("ready", flush=True)
    for line in sys.stdin:
        enquire = xapian.Enquire(database)
        enquire.set_weighting_scheme(xapian.BM25Weight(1.2, 0, 1, 0.75, 0))
        enquire.set_query(xapian.Query(xapian.Query.OP_OR, json.loads(line)))
        print(json.dumps([match.docid for match in enquire.get_mset(0, 10)]), flush=True)
"""


@dataclass(frozen=True)
class Engine:
    """A search engine that holds the passages."""

    name: str
    """As tables call it."""
    seconds: float
    """That it took to take them in."""
    search: Callable[[str], Sequence[Any]]
    """A question's ten best."""


def run(*, passages: int = 40_000, rounds: int = 3, write: bool = False, seed: int = 0, json: bool = False) -> None:
    """Measure search beside bm25s, SQLite FTS5 and Xapian: passages indexed a second, and ms a question.

    Args:
        passages: of the mini web, at most.
        rounds: times that each engine is asked each question, in turn.
        write: whether to write results/youchat/bench.json.
        seed: kept with the results; nothing is drawn.
        json: print one JSON object.
    """
    read = [extract.read(each) for each in search_sets.mini_web_pages()]
    pages = _first([each for each in read if isinstance(each, Page)], passages)
    questions = [each.question for each in search_sets.faq() if terms.content_stems(each.question)]
    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engines = [
            _ours(pages, Path(folder) / "ours"),
            *(
                stack.enter_context(peer)
                for peer in (_bm25s(pages), _fts5(pages, Path(folder)), _xapian(pages, Path(folder)))
            ),
        ]
        there = [engine for engine in engines if engine is not None]
        took: dict[str, list[float]] = {engine.name: [] for engine in there}
        for turn in range(rounds + 1):
            for question in questions:
                for engine in there:  # in turn, so that the machine's other work favours none
                    begun = time.perf_counter()
                    engine.search(question)
                    if turn:  # the first round warms up
                        took[engine.name].append(1e3 * (time.perf_counter() - begun))
        count = sum(len(_passages(page)) for page in pages)
        for engine in there:
            own = sorted(took[engine.name])
            rows.append(
                {
                    "engine": engine.name,
                    "passages": count,
                    "passages_per_s": round(count / engine.seconds),
                    "p50_ms": round(statistics.median(own), 2),
                    "p99_ms": round(own[math.ceil(0.99 * len(own)) - 1], 2),
                }
            )
    if write:
        results.write("youchat", "bench", rows, seed, threads=1)
    console.result({"rows": rows}, json)


def _first(pages: list[Page], most: int) -> list[Page]:
    """Pages from the first on that have no more passages than that in all."""
    kept, count = [], 0
    for page in pages:
        count += len(_passages(page))
        if count > most:
            break
        kept.append(page)
    return kept


def _passages(page: Page) -> list[Passage]:
    return passages.split(page)


def _stems(pages: list[Page]) -> Iterator[list[str]]:
    """Of each passage, title included, as one field: the peers have no other here."""
    for page in pages:
        for passage in _passages(page):
            yield terms.stems(f"{passage.title} {passage.text}")


def _ours(pages: list[Page], folder: Path) -> Engine:
    index = Index.open(folder)
    begun = time.perf_counter()
    index.update(pages)
    return Engine("almanac", time.perf_counter() - begun, lambda question: index.search(question, 10))


@contextmanager
def _bm25s(pages: list[Page]) -> Iterator[Engine | None]:
    try:
        import bm25s
    except ModuleNotFoundError:
        console.log("bm25s is not installed (pip install bm25s): left out")
        yield None
        return
    begun = time.perf_counter()
    held = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    held.index(list(_stems(pages)), show_progress=False)
    seconds = time.perf_counter() - begun

    def search(question: str) -> list[Any]:
        return held.retrieve([terms.content_stems(question)], k=10, show_progress=False, n_threads=1)[0][0].tolist()

    yield Engine("bm25s, in memory", seconds, search)


@contextmanager
def _fts5(pages: list[Page], folder: Path) -> Iterator[Engine | None]:
    database = sqlite3.connect(folder / "fts5.sqlite", isolation_level=None)
    begun = time.perf_counter()
    database.execute("CREATE VIRTUAL TABLE held USING fts5(stems, tokenize = 'unicode61')")
    database.execute("BEGIN")
    database.executemany("INSERT INTO held VALUES (?)", ((" ".join(stems),) for stems in _stems(pages)))
    database.execute("COMMIT")
    seconds = time.perf_counter() - begun

    def search(question: str) -> list[Any]:
        asked = " OR ".join(f'"{stem}"' for stem in terms.content_stems(question))
        return database.execute(
            "SELECT rowid FROM held WHERE held MATCH ? ORDER BY bm25(held) LIMIT 10", (asked,)
        ).fetchall()

    yield Engine(f"SQLite {sqlite3.sqlite_version} FTS5", seconds, search)
    database.close()


@contextmanager
def _xapian(pages: list[Page], folder: Path) -> Iterator[Engine | None]:
    server = shutil.which("xapian-tcpsrv")
    has = (
        Path(SYSTEM_PYTHON).is_file()
        and subprocess.run([SYSTEM_PYTHON, "-c", "import xapian"], capture_output=True).returncode == 0
    )
    if server is None or not has:
        console.log("Xapian is not installed (Debian: apt install xapian-tools python3-xapian): left out")
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [SYSTEM_PYTHON, "-c", _XAPIAN, str(port), str(folder / "xapian")]
    begun = time.perf_counter()
    lines = "".join(json_.dumps(stems) + "\n" for stems in _stems(pages))
    subprocess.run([*command, "index"], input=lines, text=True, check=True)
    seconds = time.perf_counter() - begun
    serving = subprocess.Popen(
        [server, "--port", str(port), "--interface", "127.0.0.1", str(folder / "xapian")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    asking = None
    try:
        _wait(port)
        asking = subprocess.Popen([*command, "search"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        sent, heard = asking.stdin, asking.stdout
        assert sent and heard
        heard.readline()

        def search(question: str) -> list[Any]:
            sent.write(json_.dumps(terms.content_stems(question)) + "\n")
            sent.flush()
            return json_.loads(heard.readline())

        yield Engine("Xapian, remote", seconds, search)
    finally:
        for process in (asking, serving):
            if process is not None:
                process.kill()
                process.wait()


def _wait(port: int) -> None:
    """Until somebody listens there."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
