"""The crawl: many hosts at once, each at its own pace, within what robots.txt and pages allow, through the guard, into WARC files. It is
one folder: `frontier.sqlite` says what is known of every address, `warc/` holds the pages. A run that was killed or stopped goes on when it
is started again; after one that came to its end, sites that are named are visited anew, else what is due. `changed` and `pages` tell the
index what to add and to drop."""

import hashlib
import sqlite3
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from filelock import FileLock, Timeout

from almanac.runtime.errors import UserError
from almanac.youchat import addresses
from almanac.youchat.crawl import links, robots, sitemaps, warc
from almanac.youchat.crawl.fetch import PAGES, SITEMAPS, Failure, Fetcher, Redirected, Unchanged
from almanac.youchat.crawl.frontier import LATEST, Found, Frontier, Kind, Task
from almanac.youchat.crawl.guard import Guard, Refused, Resolver, resolve
from almanac.youchat.crawl.settings import Settings
from almanac.youchat.documents import Fetched
from almanac.youchat.text.directives import directives
from almanac.youchat.text.extract import Unread

_TELL_SECONDS = 0.25
"""How often progress is told."""
_RATE_SECONDS = 30.0
"""Over which pages a second are counted."""
_PATIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be others later (RFC 9110)."""
_SLOWER = 2.0
"""A host of others rests twice as long as its last response took, so that a host in trouble is troubled less."""
_SILENCES = 5
"""Requests in a row without any answer, after which a host is left alone for `robots.RETRY_SECONDS`."""
_LONGEST_PAUSE = 60.0
"""s between two requests that a run waits for; a host that asks for more is asked once a run."""
_SITEMAP_DEPTH = 3
"""Lists of lists of lists; sitemaps.org allows two levels."""
_MOST_TROUBLES = 50
"""Failed addresses that a summary names."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    fetched: int
    """Pages that came in this run and may be kept, changed or not."""
    waiting: int
    """Addresses that were never asked for yet."""
    disallowed: int
    """Addresses that robots.txt forbids, in the folder."""
    failed: int
    """Addresses that could not be had, in the folder."""
    pages_per_second: float
    """Of late."""
    seconds_left: float
    """Until all that waits is fetched, or the budget of pages is spent, at that rate; inf where nothing came yet."""


@dataclass(frozen=True)
class Summary:
    """What a run did, and where its folder stands."""

    fetched: int
    """Pages that this run got and stored: new ones and changed ones."""
    unchanged: int
    """Pages that are as they were."""
    waiting: int
    """Addresses that were never asked for yet: beyond the budget, of shut hosts, or left by a run that was stopped."""
    pages: int
    """Pages in the folder."""
    noindex: int
    """Addresses that want to be in no index, in the folder."""
    redirects: int
    """Addresses that lead elsewhere, in the folder."""
    gone: int
    """Tombstones in the folder."""
    disallowed: int
    """Addresses that robots.txt forbids, in the folder."""
    failed: int
    """Addresses that could not be had, in the folder."""
    alike: int
    """Addresses that this run met and left out, because as many that differ in their numbers only are known."""
    troubles: tuple[tuple[str, str], ...]
    """The newest of those, and why, at most fifty."""
    shut: dict[str, str]
    """Hosts of which nothing is asked now (their robots.txt could not be had, they asked to wait), and why."""
    seconds: float
    """That the run took."""
    stopped: bool
    """Whether it was asked to stop before it was done."""


@dataclass(frozen=True)
class Changes:
    """What is another than it was at a point in a folder's history."""

    until: int
    """This point; hand it in as `since` next time."""
    changed: tuple[str, ...]
    """Addresses of pages that are new or say something else."""
    gone: tuple[str, ...]
    """Addresses that were pages and must leave the index: tombstones, forbidden or redirected now, or lost for long."""


def crawl(
    seeds: Sequence[str],
    folder: Path,
    settings: Settings | None = None,
    *,
    sitemap_seeds: Sequence[str] = (),
    allow_hosts: Sequence[str] = (),
    stop: Event | None = None,
    progress: Callable[[Progress], None] | None = None,
    resolver: Resolver = resolve,
) -> Summary:
    """Fetch the seeds and what they lead to. A run that was stopped or killed is gone on with; after one that came to its end, all that is
    known of the seeds' hosts is visited anew, and without seeds what is due by how often it changes. What is as it was costs a 304.

    Args:
        seeds: addresses of pages; `https://` is added where there is no scheme. May be empty where the folder was crawled before.
        folder: made where it is missing.
        settings: how it goes on, and where it ends.
        sitemap_seeds: addresses of sitemaps, whose pages on the same host are seeds.
        allow_hosts: `host:port` of the operator's own servers, which the guard lets through wherever they are.
        stop: set it (from a handler of SIGTERM, say) to end the run; what is under way is finished.
        progress: is told how far it is, four times a second, in this thread.
        resolver: how names become addresses.

    Raises:
        UserError: a seed is not an address of the web or is refused by the guard, there is none, another run is in the folder, or it can't
            be written.
    """
    settings = settings or Settings()
    guard = Guard(allow_hosts, resolver)
    if not (seeds or sitemap_seeds or (folder / "frontier.sqlite").is_file()):
        raise UserError(
            f"there is nothing to crawl, and {folder} holds no crawl", "give an address or a sitemap to begin at"
        )
    first = [_seed(seed, guard, "page") for seed in seeds] + [_seed(seed, guard, "sitemap") for seed in sitemap_seeds]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            return _Run(folder, settings, guard, stop or Event()).go(first, progress)
    except Timeout:
        raise UserError(f"another crawl is running in {folder}", "wait for it, or give another folder") from None
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"the crawl in {folder} can't be written ({error})", "make room, or give another folder"
        ) from None


def changed(folder: Path, since: int = 0) -> Changes:
    """What is new, changed or gone since a point: what an index has to do to be up to date. May be asked while a crawl runs.

    Args:
        folder: of a crawl.
        since: the `until` of the last time; 0 for everything.

    Raises:
        UserError: the folder holds no crawl.
    """
    rows = _rows(folder, "select url, state, serial from urls where serial > ? order by serial", since)
    return Changes(
        until=max((row["serial"] for row in rows), default=since),
        changed=tuple(row["url"] for row in rows if row["state"] == "page"),
        gone=tuple(row["url"] for row in rows if row["state"] != "page"),
    )


def pages(folder: Path, since: int = 0) -> Iterator[Fetched | Unread]:
    """The newest copy of every page that is new or changed since a point (see `changed`): no tombstones, and nothing that wants to be in no
    index. In the order in which they lie on the disk; a copy that is damaged is told.

    Raises:
        UserError: the folder holds no crawl.
    """
    query = "select url, file, place from urls where serial > ? and state = 'page' order by file, place"
    yield from _copies(folder, _rows(folder, query, since))


def copies(folder: Path, urls: Iterable[str]) -> Iterator[Fetched | Unread]:
    """The newest copies of some addresses, as far as they are pages of a crawl."""
    query = "select url, file, place from urls where url = ? and state = 'page'"
    yield from _copies(folder, [row for url in urls for row in _rows(folder, query, url)])


def _copies(folder: Path, rows: Iterable[sqlite3.Row]) -> Iterator[Fetched | Unread]:
    for row in rows:
        page = warc.at(folder / "warc" / row["file"], row["place"])
        yield page or Unread(row["url"], f"its copy in the crawl is damaged ({row['file']}, byte {row['place']:,})")


def closed(folder: Path) -> frozenset[str]:
    """The addresses that must be in no index: tombstones, forbidden ones, and those that ask for it.

    Raises:
        UserError: the folder holds no crawl.
    """
    rows = _rows(folder, "select url from urls where state in ('gone', 'disallowed', 'noindex')")
    return frozenset(row["url"] for row in rows)


class _Run:
    """One run over a folder."""

    def __init__(self, folder: Path, settings: Settings, guard: Guard, stop: Event):
        self._settings, self._guard, self._stop = settings, guard, stop
        self._frontier = Frontier(folder / "frontier.sqlite", settings)
        self._warc = warc.Writer(folder / "warc", self._frontier.last_place())
        self._lock = Lock()
        self._fetched = self._unchanged = 0
        self._lately: deque[float] = deque(maxlen=10_000)
        self._silent: Counter[str] = Counter()

    def go(self, first: Iterable[Found], progress: Callable[[Progress], None] | None) -> Summary:
        began = time.monotonic()
        workers = self._settings.workers
        try:
            anew, named = self._frontier.begin(), list(first)
            for found in named:
                self._frontier.want(addresses.host_of(found.url))
                self._frontier.add([found])
            if anew:
                self._frontier.again({addresses.host_of(found.url) for found in named})
            with (
                Fetcher(self._guard, self._settings.limits, self._settings.contact, workers) as fetcher,
                ThreadPoolExecutor(workers, "crawl") as threads,
            ):
                running = [threads.submit(self._work, fetcher) for _ in range(workers)]
                try:
                    while wait(running, _TELL_SECONDS, FIRST_EXCEPTION).not_done:
                        if any(each.done() and each.exception() for each in running):
                            break
                        if progress:
                            progress(self._progress())
                finally:
                    stopped = self._stop.is_set()
                    if any(not each.done() for each in running):  # one of them, or the person, broke off
                        self._stop.set()
                for each in running:
                    each.result()
            if not stopped:
                self._frontier.end()
            if progress:
                progress(self._progress())
            return self._summary(time.monotonic() - began, stopped)
        finally:
            self._warc.close()
            self._frontier.close()

    def _work(self, fetcher: Fetcher) -> None:
        """Take what is due, until nothing is."""
        while not self._stop.is_set():
            task = self._frontier.take()
            if task is None:
                seconds = self._frontier.pause()
                if seconds is None:
                    return
                self._frontier.wait(min(seconds, 0.5))
                continue
            rest = self._floor(task.url)
            try:
                rest = self._handle(task, fetcher)
            except (OSError, sqlite3.Error):  # the folder can't be written
                raise
            except (
                Exception
            ) as error:  # an address that we have no answer to is a failure of its own; the crawl goes on
                place = traceback.extract_tb(error.__traceback__)[-1]
                words = f"{type(error).__name__}: {error}, {Path(place.filename).name}:{place.lineno}"
                self._frontier.failed(task, f"it can't be dealt with ({words[:300]})", may_pass=False)
            finally:
                self._frontier.rest(task, rest)

    def _handle(self, task: Task, fetcher: Fetcher) -> float:
        """One visit to a host: its robots.txt where that is not known, else the address; gives the s for which the host then rests."""
        origin = addresses.origin(task.url)
        rules = self._frontier.robots(origin)
        if rules is None:
            floor = self._floor(task.url)
            rules = robots.fetch(origin, fetcher, time.time(), turn=lambda url: self._turn(task, url))
            self._frontier.keep_robots(rules)
            if rules.closed:
                self._frontier.shut(task.host, rules.expires - time.time(), rules.closed)
            elif self._settings.sitemaps:
                self._frontier.add(Found(address, 0, 0, "sitemap") for address in rules.sitemaps)
            return max(floor, rules.delay if rules.delay <= _LONGEST_PAUSE else 0.0)
        if rules.closed:
            self._frontier.shut(task.host, rules.expires - time.time(), rules.closed)
            return 0.0
        if not rules.allows(task.url):
            self._frontier.disallowed(task, "robots.txt forbids it")
            return 0.0
        wanted = SITEMAPS if task.kind == "sitemap" else PAGES
        most = sitemaps.MOST_BYTES if task.kind == "sitemap" else None
        began = time.monotonic()
        outcome = fetcher.once(task.url, wanted, task.etag, task.modified, most)
        took = time.monotonic() - began
        self._settle(task, outcome)
        slower = 0.0 if self._guard.is_own(task.url) else _SLOWER * took
        if rules.delay > _LONGEST_PAUSE:
            self._frontier.shut(
                task.host, min(rules.delay, LATEST), f"robots.txt asks for a pause of {rules.delay:,.0f} s"
            )
            return 0.0
        return max(self._floor(task.url), rules.delay, slower)

    @contextmanager
    def _turn(self, task: Task, url: str) -> Iterator[bool]:
        """The turn of the host that a redirect of a task's robots.txt leads to, and whether it is to be had."""
        host = addresses.host_of(url)
        if host == task.host:  # it is ours already
            time.sleep(self._floor(url))
            yield True
        else:
            with self._frontier.borrowed(host, self._floor(url)) as granted:
                yield granted

    def _settle(self, task: Task, outcome: Fetched | Unchanged | Redirected | Failure) -> None:
        if not (isinstance(outcome, Failure) and not outcome.status):
            self._silent.pop(task.host, None)
        match outcome:
            case Fetched():
                if task.kind == "sitemap":
                    self._list(task, outcome)
                else:
                    self._store(task, outcome)
            case Unchanged():
                if not directives(outcome.robots).index:
                    self._frontier.noindex(task)
                elif task.digest:
                    self._count(unchanged=1)
                    self._frontier.unchanged(task)
                else:
                    self._frontier.failed(task, "answered 304 to a question that it was not asked", may_pass=True)
            case Redirected():
                self._frontier.redirected(task, outcome.target)
            case Failure(status=404 | 410):
                self._frontier.gone(task, outcome.status)
            case Failure():
                passing = outcome.reason in ("unreachable", "slow", "damaged") or outcome.status in _PATIENT_STATUS
                self._frontier.failed(task, outcome.detail, may_pass=passing)
                if passing and not outcome.status:
                    self._silent[task.host] += 1
                    if self._silent[task.host] >= _SILENCES:
                        self._frontier.shut(task.host, robots.RETRY_SECONDS, outcome.detail)
                if outcome.retry_after:
                    self._frontier.shut(task.host, outcome.retry_after, f"{outcome.detail} and asked to wait")

    def _store(self, task: Task, page: Fetched) -> None:
        """A page came: keep it if it may be kept and is new, and queue what it links to."""
        try:
            said = links.read(page)
        except Exception as error:  # of a page that breaks the parser, the crawl goes on
            self._frontier.failed(task, f"its links can't be read ({type(error).__name__}: {error})", may_pass=False)
            return
        found = [Found(address, task.depth + 1) for address in said.addresses]
        if said.canonical and said.directives.follow:
            found.append(Found(said.canonical, task.depth))
        if not (said.directives.index and said.directives.archive):
            self._count()
            self._frontier.noindex(task, found)
            return
        digest = hashlib.sha256(page.body).hexdigest()
        if task.state == "page" and digest == task.digest:
            self._count(unchanged=1)
            self._frontier.unchanged(task, found)
            return
        with self._lock:
            file, place = self._warc.write(page)
        self._count(fetched=1)
        etag, modified = page.headers.get("etag", ""), page.headers.get("last-modified", "")
        self._frontier.page(task, digest, etag, modified, file, place, found)

    def _list(self, task: Task, fetched: Fetched) -> None:
        listed = sitemaps.read(fetched)
        found = [Found(entry.url, 1, modified=entry.modified, is_listed=True) for entry in listed.pages]
        if task.depth < _SITEMAP_DEPTH:
            found += [Found(entry.url, task.depth + 1, 0, "sitemap", entry.modified) for entry in listed.sitemaps]
        self._frontier.listed(task, found, listed.damage)

    def _floor(self, url: str) -> float:
        """The shortest rest of a host."""
        own = self._guard.is_own(url)
        return self._settings.own_delay if own else self._settings.delay

    def _count(self, fetched: int = 0, unchanged: int = 0) -> None:
        with self._lock:
            self._fetched += fetched
            self._unchanged += unchanged
            self._lately.append(time.monotonic())

    def _progress(self) -> Progress:
        counts, now = self._frontier.counts, time.monotonic()
        recent = [at for at in list(self._lately) if now - at < _RATE_SECONDS]
        rate = len(recent) / max(now - recent[0], 1.0) if recent else 0.0
        left = min(counts["waiting"], max(self._settings.pages - self._frontier.asked, 0))
        return Progress(
            fetched=self._fetched + self._unchanged,
            waiting=counts["waiting"],
            disallowed=counts["disallowed"],
            failed=counts["failed"],
            pages_per_second=rate,
            seconds_left=left / rate if rate else float("inf"),
        )

    def _summary(self, seconds: float, stopped: bool) -> Summary:
        counts = self._frontier.counts
        return Summary(
            fetched=self._fetched,
            unchanged=self._unchanged,
            waiting=counts["waiting"],
            pages=counts["page"],
            noindex=counts["noindex"],
            redirects=counts["redirect"],
            gone=counts["gone"],
            disallowed=counts["disallowed"],
            failed=counts["failed"],
            alike=self._frontier.alike,
            troubles=tuple(self._frontier.troubles(_MOST_TROUBLES)),
            shut=self._frontier.shut_hosts(),
            seconds=seconds,
            stopped=stopped,
        )


def _seed(address: str, guard: Guard, kind: Kind) -> Found:
    """A seed in our spelling; what has no scheme is one of https."""
    url = addresses.normalise(address if "://" in address else f"https://{address}")
    if url is None:
        raise UserError(f"'{address}' is not an address of the web", "give one that begins with http:// or https://")
    try:
        guard.check(url)
    except Refused as refusal:
        hint = "only addresses of the public web are crawled; --allow-host host:port lets a server of your own through"
        raise UserError(f"{url} is not fetched: {refusal}", hint) from None
    return Found(url, 0, kind=kind)


def _rows(folder: Path, query: str, *values: object) -> list[sqlite3.Row]:
    path = folder / "frontier.sqlite"
    if not path.is_file():
        raise UserError(f"{folder} holds no crawl", "give the folder of `almanac youchat crawl`")
    database = sqlite3.connect(path)
    try:
        database.row_factory = sqlite3.Row
        return database.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"the crawl in {folder} can't be read ({error})", "crawl anew into another folder") from None
    finally:
        database.close()
