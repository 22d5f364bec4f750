"""The frontier: which address is fetched next. Every host has its queue and its turn, one request at a time and a rest after each; every
address has its state, and the time at which it is due again (sooner the more often it changes). All of it is in one SQLite file, one
transaction an address, so that a crawl that was killed goes on where it was. How an address is fetched is `crawl`'s matter."""

import heapq
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, RLock
from typing import Literal
from urllib.parse import urlsplit

from almanac.youchat import addresses
from almanac.youchat.crawl.fetch import REDIRECTS
from almanac.youchat.crawl.robots import Robots
from almanac.youchat.crawl.settings import LEAST_DELAY, Settings

Kind = Literal["page", "sitemap"]
State = Literal["waiting", "page", "noindex", "redirect", "gone", "disallowed", "failed", "sitemap"]
"""Not asked for yet; stored; wants no search engine; leads elsewhere; a tombstone (404, 410); robots.txt forbids it; could not be had;
a list of addresses that was read."""

_HOUR, _DAY = 3600.0, 86400.0
SOONEST, LATEST, FIRST = _HOUR, 60 * _DAY, _DAY
"""s until a page is visited again: bounds, and for a page that was seen once."""
_RETRIES = (5.0, 20.0)
"""s until an address is tried again after a failure that may pass; after these, a day, two, four …"""
_KEPT_TRIES = 6
"""Failures in a row after which a page that we have counts as lost."""
_KNOWN_PER_BUDGET = 10
"""Addresses of a host that are remembered, in budgets of the host."""
_MOST_ALIKE = 1_000_000
"""Addresses that are left out and counted."""
_REPEATS, _SEGMENTS = 3, 24
"""Times that a part of a path may occur in it, and parts; what has more was made by a link that leads to itself."""

_TABLES = """
create table if not exists hosts (host text primary key, wanted integer not null, fetched integer not null default 0,
    known integer not null default 0, last real not null default 0, rest real not null default 1,
    closed_until real not null default 0, note text not null default '');
create table if not exists urls (id integer primary key, url text not null unique, host text not null, kind text not null,
    depth integer not null, hops integer not null, state text not null default 'waiting', due real, interval real not null,
    tries integer not null default 0, etag text not null default '', modified text not null default '',
    digest text not null default '', checked real not null default 0, target text not null default '',
    reason text not null default '', file text not null default '', place integer not null default 0,
    serial integer not null default 0);
create index if not exists queues on urls (host, due, id) where due is not null;
create index if not exists serials on urls (serial) where serial > 0;
create table if not exists robots (origin text primary key, text text not null, closed text not null, expires real not null);
create table if not exists runs (open integer not null);
create table if not exists shapes (shape text primary key, known integer not null) without rowid;
"""


@dataclass(frozen=True)
class Found:
    """An address that somebody linked to."""

    url: str
    """Normalised."""
    depth: int
    """Links from a seed."""
    hops: int = 0
    """Redirects that led to it."""
    kind: Kind = "page"
    """What it should be."""
    modified: float = 0.0
    """Unix time, s, of its last change as a sitemap says; what was fetched before is due."""
    is_listed: bool = False
    """Whether a sitemap names it: the site vouches that it is no trap."""


@dataclass(frozen=True)
class Task:
    """An address whose turn it is. Its host is busy until `Frontier.rest`."""

    url: str
    """Normalised."""
    host: str
    """Whom it troubles."""
    kind: Kind
    """What it should be."""
    depth: int
    """Links from a seed."""
    hops: int
    """Redirects that led to it."""
    state: State
    """Before this visit."""
    interval: float
    """s between visits."""
    tries: int
    """Failures in a row."""
    etag: str
    """Of what we have."""
    modified: str
    """`Last-Modified` of what we have."""
    digest: str
    """SHA-256 of what we have."""


@dataclass
class _Host:
    """A host as this run sees it."""

    name: str
    wanted: bool
    fetched: int
    known: int
    next_at: float
    """Monotonic time, s, before which it is left in peace."""
    due_at: float
    """Monotonic time, s, at which an address of it is due; inf: none is."""
    ready: float = float("inf")
    """Its time in the heap."""
    busy: bool = False


class Frontier:
    """A frontier in a file. May be used by many threads, but by one process at a time.

    Args:
        path: the SQLite file, made where it is missing.
        settings: depth and budgets.
    """

    def __init__(self, path: Path, settings: Settings):
        self._settings = settings
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = normal")
        self._database.executescript(_TABLES)
        self._serial = self._one("select max(serial) from urls") or 0
        self.counts: Counter[str] = Counter(
            {
                row["state"]: row["n"]
                for row in self._all("select state, count(*) n from urls where kind = 'page' group by state")
            }
        )
        """Pages by state."""
        self._hosts: dict[str, _Host] = {}
        self._heap: list[tuple[float, str]] = []
        self._left_out: set[int] = set()
        self._busy, self._beginning = 0, 0
        self.asked: int = self._one("select sum(fetched) from hosts") or 0
        """Addresses that were asked for, ever."""
        with self._lock:
            self._load_hosts()

    def last_place(self) -> tuple[str, int]:
        """The file and the place of the last page that is known to be stored."""
        with self._lock:
            rows = self._all("select file, place from urls order by file desc, place desc limit 1")
            return (rows[0]["file"], rows[0]["place"]) if rows else ("", 0)

    def begin(self) -> bool:
        """Note that a run begins; gives whether the one before came to its end (or there was none), so that this one begins anew."""
        with self._lock, self._database:
            ended = not self._one("select max(open) from runs")
            self._database.execute("delete from runs")
            self._database.execute("insert into runs values (1)")
            return ended

    def end(self) -> None:
        """Note that the run came to its end."""
        with self._lock, self._database:
            self._database.execute("update runs set open = 0")

    def again(self, hosts: Iterable[str]) -> None:
        """Everything that is known of some hosts is due now, and their robots.txt."""
        with self._lock, self._database:
            for name in hosts:
                self._database.execute(
                    "delete from robots where origin in (?, ?)", (f"http://{name}", f"https://{name}")
                )
                self._database.execute("update urls set due = min(due, ?) where host = ?", (time.time(), name))
                self._due_now(self._host(name))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    # --- whose turn it is ---------------------------------------------------------------------------------------------------

    def take(self) -> Task | None:
        """The next address of a host whose turn it is; None where nobody's is now."""
        with self._lock:
            now = time.monotonic()
            while self._heap and self._heap[0][0] <= now:
                ready, name = heapq.heappop(self._heap)
                host = self._hosts[name]
                if host.busy or ready != host.ready:  # an entry that a later one replaced
                    continue
                row = self._next_of(host)
                if row is None:
                    continue
                host.busy, host.ready = True, float("inf")
                self._busy += 1
                self._beginning += row["state"] == "waiting" and row["kind"] == "page"
                with self._database:
                    self._database.execute("update hosts set last = ? where host = ?", (time.time(), name))
                return Task(*(row[field] for field in Task.__dataclass_fields__))
            return None

    def rest(self, task: Task, seconds: float) -> None:
        """Free a task's host, and leave it in peace that long."""
        with self._lock, self._database:
            host = self._hosts[task.host]
            host.busy, self._busy = False, self._busy - 1
            self._beginning -= task.state == "waiting" and task.kind == "page"
            host.next_at, host.due_at = time.monotonic() + seconds, 0.0
            self._database.execute(
                "update hosts set last = ?, rest = ? where host = ?", (time.time(), max(seconds, 0.0), task.host)
            )
            self._schedule(host)

    @contextmanager
    def borrowed(self, host: str, rest: float, patience: float = 30.0) -> Iterator[bool]:
        """A host's turn out of order, for the redirect of another's robots.txt.

        Args:
            host: whose.
            rest: s for which it is left in peace afterwards.
            patience: s to wait for it.

        Returns:
            A context, and whether it is to be had: two that wait for each other do so in vain.
        """
        until = time.monotonic() + patience
        with self._changed:
            with self._database:
                wanted = self._host(host)
            while (busy := wanted.busy or wanted.next_at > time.monotonic()) and time.monotonic() < until:
                self._changed.wait(0.1)
            if not busy:
                wanted.busy, wanted.ready, self._busy = True, float("inf"), self._busy + 1
        try:
            yield not busy
        finally:
            if not busy:
                with self._lock:
                    wanted.busy, self._busy = False, self._busy - 1
                    wanted.next_at, wanted.due_at = time.monotonic() + rest, 0.0
                    self._schedule(wanted)

    def pause(self) -> float | None:
        """s until somebody's turn may come; None where the run is over: nobody is busy, and nothing is due soon."""
        with self._lock:
            now, horizon = time.monotonic(), time.monotonic() + self._settings.wait
            valid = [
                ready
                for ready, name in self._heap
                if ready == self._hosts[name].ready and self._hosts[name].due_at <= horizon
            ]
            if valid:
                return max(min(valid) - now, 0.0)
            return 1.0 if self._busy else None

    def wait(self, seconds: float) -> None:
        """Sleep until something changes, but not longer."""
        with self._changed:
            self._changed.wait(seconds)

    def shut(self, host: str, seconds: float, note: str) -> None:
        """Ask nothing of a host for a while, and remember why."""
        with self._lock, self._database:
            self._database.execute(
                "update hosts set closed_until = ?, note = ? where host = ?", (time.time() + seconds, note, host)
            )

    def shut_hosts(self) -> dict[str, str]:
        """The hosts that are not asked now, and why."""
        with self._lock:
            rows = self._all("select host, note from hosts where closed_until > ? order by host", time.time())
            return {row["host"]: row["note"] for row in rows}

    @property
    def alike(self) -> int:
        """Addresses that this run left out because they differ from others in their numbers only."""
        with self._lock:
            return len(self._left_out)

    # --- what was found -----------------------------------------------------------------------------------------------------

    def want(self, host: str) -> None:
        """Let a host be crawled."""
        with self._lock, self._database:
            self._host(host).wanted = True
            self._database.execute("update hosts set wanted = 1 where host = ?", (host,))

    def add(self, found: Iterable[Found]) -> int:
        """Queue the addresses that are new, wanted and within the budgets; gives their number."""
        with self._lock, self._database:
            return sum(self._add(each) for each in found)

    # --- what came of a task ------------------------------------------------------------------------------------------------

    def page(
        self, task: Task, digest: str, etag: str, modified: str, file: str, place: int, found: Iterable[Found] = ()
    ) -> None:
        """It was fetched and stored (in a file, at a place), and is new or another than before; and what it links to."""
        interval = _bounded(task.interval * 0.5) if task.digest else task.interval
        self._settle(
            task, "page", interval, found, interval=interval, digest=digest, etag=etag, modified=modified, file=file, place=place,
            serial=-1,
        )  # fmt: skip

    def unchanged(self, task: Task, found: Iterable[Found] = ()) -> None:
        """It is as it was: the server says so, or the same bytes came again."""
        interval = _bounded(task.interval * 1.5)
        if task.state == "page":
            self._settle(task, "page", interval, found, interval=interval)
        else:  # it was lost or forbidden for a while
            self._settle(task, "page", interval, found, interval=interval, serial=-1)

    def listed(self, task: Task, found: Iterable[Found], reason: str = "") -> None:
        """It is a sitemap, and lists these."""
        self._settle(task, "sitemap", _DAY, found, reason=reason)

    def noindex(self, task: Task, found: Iterable[Found] = ()) -> None:
        """It was fetched, and wants to be in no index."""
        self._settle(task, "noindex", FIRST * 7, found, digest="", etag="", modified="")

    def gone(self, task: Task, status: int) -> None:
        """It is no more: a tombstone, which is asked again in two months."""
        self._settle(task, "gone", LATEST, reason=f"answered {status}", digest="", etag="", modified="")

    def disallowed(self, task: Task, reason: str) -> None:
        """robots.txt forbids it, so nobody asked."""
        self._settle(task, "disallowed", 7 * _DAY, asked=False, reason=reason)

    def redirected(self, task: Task, target: str) -> str:
        """It leads elsewhere, which is queued.

        Returns:
            Why that is no use, for a chain that is too long, circular, or leaves the hosts that are wanted; else nothing.
        """
        with self._lock:
            chain, at = [task.url, target], target
            while at and len(chain) <= REDIRECTS + 2 and at != task.url:
                at = self._one("select target from urls where url = ? and state = 'redirect'", at) or ""
                chain += [at] if at else []
            host = addresses.host_of(target)
            if at == task.url:
                trouble = "redirects in a circle: " + " → ".join(chain)
            elif task.hops >= REDIRECTS:
                trouble = f"more than {REDIRECTS} redirects, the last to {target}"
            elif not self._is_wanted(host) and not _same_site(task.host, host):
                trouble = f"leads to another host, {target}"
            else:
                if not self._is_wanted(host):
                    self.want(host)
                onward = Found(target, task.depth, task.hops + 1, task.kind)
                self._settle(
                    task,
                    "redirect",
                    _bounded(task.interval * 1.5),
                    [onward],
                    target=target,
                    digest="",
                    etag="",
                    modified="",
                )
                return ""
            self._settle(task, "failed", LATEST, target=target, reason=trouble)
            return trouble

    def failed(self, task: Task, reason: str, may_pass: bool) -> None:
        """It could not be had. What may pass is tried again twice soon, then ever later; a page that we have is kept for a while."""
        tries = task.tries + 1
        if not may_pass:
            self._settle(task, "failed", LATEST / 2, reason=reason)
        elif tries <= len(_RETRIES):
            self._settle(task, task.state, _RETRIES[tries - 1], tries=tries, reason=reason)
        else:
            kept = task.state in ("page", "noindex", "sitemap") and tries < _KEPT_TRIES
            later = min(_DAY * 2 ** (tries - len(_RETRIES) - 1), LATEST)
            self._settle(task, task.state if kept else "failed", later, tries=tries, reason=reason)

    def troubles(self, most: int) -> list[tuple[str, str]]:
        """Addresses that failed last time, and why; the newest first."""
        with self._lock:
            rows = self._all(
                "select url, reason from urls where state = 'failed' order by checked desc, id desc limit ?", most
            )
            return [(row["url"], row["reason"]) for row in rows]

    # --- robots.txt of the sites --------------------------------------------------------------------------------------------

    def robots(self, origin: str) -> Robots | None:
        """The rules of an origin, where they are known and still believed."""
        with self._lock:
            rows = self._all(
                "select text, closed, expires from robots where origin = ? and expires > ?", origin, time.time()
            )
            return Robots(origin, rows[0]["text"], rows[0]["closed"], rows[0]["expires"]) if rows else None

    def keep_robots(self, robots: Robots) -> None:
        """Remember the rules of an origin."""
        with self._lock, self._database:
            values = (robots.origin, robots.text, robots.closed, robots.expires)
            self._database.execute("insert or replace into robots values (?, ?, ?, ?)", values)

    # --- within -------------------------------------------------------------------------------------------------------------

    def _load_hosts(self) -> None:
        now, clock = time.time(), time.monotonic()
        for row in self._all("select * from hosts"):
            recent = now - row["last"] < 60 + row["rest"]  # a request of a killed run may still be under way
            host = _Host(
                row["host"], bool(row["wanted"]), row["fetched"], row["known"], clock + row["rest"] * recent, 0.0
            )
            self._hosts[host.name] = host
            self._schedule(host)

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            self._hosts[name] = _Host(name, False, 0, 0, 0.0, float("inf"))
            self._database.execute("insert into hosts (host, wanted, rest) values (?, 0, ?)", (name, LEAST_DELAY))
        return self._hosts[name]

    def _is_wanted(self, host: str) -> bool:
        return self._settings.wander or (host in self._hosts and self._hosts[host].wanted)

    def _schedule(self, host: _Host) -> None:
        ready = max(host.next_at, host.due_at)
        if not host.busy and ready != host.ready:
            host.ready = ready
            if ready < float("inf"):
                heapq.heappush(self._heap, (ready, host.name))
        self._changed.notify_all()

    def _next_of(self, host: _Host) -> sqlite3.Row | None:
        """The host's next address; where none is due, the host is scheduled for when one is."""
        now = time.time()
        closed = self._one("select closed_until from hosts where host = ?", host.name)
        full = host.fetched >= self._settings.pages_per_host or self.asked + self._beginning >= self._settings.pages
        rows = self._all(
            "select * from urls where host = ? and due is not null"
            + (" and not (state = 'waiting' and kind = 'page')" if full else "")
            + " order by due, id limit 1",
            host.name,
        )
        due = max(rows[0]["due"], closed) if rows else float("inf")
        if due <= now:
            return rows[0]
        host.due_at = time.monotonic() + due - now
        host.ready = -1.0
        self._schedule(host)
        return None

    def _add(self, found: Found) -> bool:
        name, now = addresses.host_of(found.url), time.time()
        if not self._is_wanted(name) or found.depth > self._settings.depth:
            return False
        rows = self._all("select id, depth, checked, due from urls where url = ?", found.url)
        host = self._host(name)
        if rows:
            row = rows[0]
            if found.depth < row["depth"]:
                self._database.execute("update urls set depth = ? where id = ?", (found.depth, row["id"]))
            if row["checked"] and found.modified > row["checked"] and not (row["due"] or now) < now:
                self._database.execute("update urls set due = ? where id = ?", (now, row["id"]))
                self._due_now(host)
            return False
        if host.known >= self._settings.pages_per_host * _KNOWN_PER_BUDGET or _is_circular(found.url):
            return False
        shape = re.sub(r"\d+", "0", found.url)
        if shape != found.url and not found.is_listed and not self._room_for(shape):
            if len(self._left_out) < _MOST_ALIKE:
                self._left_out.add(hash(found.url))
            return False
        self._database.execute(
            "insert into urls (url, host, kind, depth, hops, due, interval) values (?, ?, ?, ?, ?, ?, ?)",
            (found.url, name, found.kind, found.depth, found.hops, now, FIRST),
        )
        self._database.execute("update hosts set known = known + 1 where host = ?", (name,))
        host.known += 1
        self.counts["waiting"] += found.kind == "page"
        self._due_now(host)
        return True

    def _due_now(self, host: _Host) -> None:
        host.due_at = min(host.due_at, time.monotonic())
        self._schedule(host)

    def _room_for(self, shape: str) -> bool:
        """Count an address among those that differ in their numbers only; False where they are too many."""
        known = self._one("select known from shapes where shape = ?", shape) or 0
        if known >= self._settings.alike:
            return False
        self._database.execute("insert or replace into shapes values (?, ?)", (shape, known + 1))
        return True

    def _settle(
        self, task: Task, state: State, again: float, found: Iterable[Found] = (), asked: bool = True, **columns: object
    ) -> None:
        """Write what came of a task, and what it led to, in one transaction.

        Args:
            again: s until it is due again.
            asked: whether its host was troubled for it.
            columns: of its row; a `serial` among them is given its number here.
        """
        now = time.time()
        values: dict[str, object] = {"tries": 0, "reason": "", **columns, "state": state, "due": now + again}
        if asked:
            values["checked"] = now
        with self._lock, self._database:
            if "serial" in values or (task.state == "page" and state != "page"):
                self._serial += 1
                values["serial"] = self._serial
            assignments = ", ".join(f"{name} = ?" for name in values)
            self._database.execute(f"update urls set {assignments} where url = ?", (*values.values(), task.url))
            if task.kind == "page":
                self.counts[task.state] -= 1
                self.counts[state] += 1
                if asked and task.state == "waiting" and state != "waiting":
                    self._hosts[task.host].fetched += 1
                    self.asked += 1
                    self._database.execute("update hosts set fetched = fetched + 1 where host = ?", (task.host,))
            for each in found:
                self._add(each)

    def _all(self, query: str, *values: object) -> list[sqlite3.Row]:
        return self._database.execute(query, values).fetchall()

    def _one(self, query: str, *values: object):
        row = self._database.execute(query, values).fetchone()
        return row[0] if row else None


def _bounded(interval: float) -> float:
    return min(max(interval, SOONEST), LATEST)


def _is_circular(url: str) -> bool:
    """Whether an address looks like made by a relative link that leads into itself, again and again."""
    parts = [part for part in urlsplit(url).path.split("/") if part]
    return len(parts) > _SEGMENTS or any(count > _REPEATS for count in Counter(parts).values())


def _same_site(host: str, other: str) -> bool:
    """Whether one host is the other with `www.` before it, or another scheme's port: the same site to everybody."""
    first, second = (urlsplit("//" + name).hostname or "" for name in (host, other))
    return first.removeprefix("www.") == second.removeprefix("www.") and ":" not in host + other
