"""What a crawl of the mini web is measured by, in the servers' own logs: manners (nothing that robots.txt forbids, one request a second
and host), completeness (every page that links lead to, found by other means), and what a kill costs. Two runs: a short one at the pace that
is law for hosts of others, and a whole one, killed once, at the pace that an operator may set for hosts of their own."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from gzip import compress, decompress
from itertools import pairwise
from pathlib import Path
from threading import Event, Timer
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import lxml.html
from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from almanac.runtime import console
from almanac.youchat.crawl import crawl
from almanac.youchat.crawl.settings import Settings
from almanac.youchat.data.mini_web import Reply, Request, Site, Web, serve, sites

FORBIDDEN = "/trap/"
"""What the sites' robots.txt forbids."""
_ROBOTS = f"User-agent: *\nDisallow: {FORBIDDEN}\n".encode()
_LURES = (
    f"<a href='{FORBIDDEN}secret.html'>s</a><a href='/made/calendar?month=1'>c</a><a href='/made/loop/a'>l</a><a href='/made/noindex'>n</a>"
    f"<a href='/made/to-trap'>t</a><a href='/made/nofollowed' rel='nofollow'>f</a><a href='/made/bomb'>b</a><a href='/made/broken'>5</a>"
).encode()


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    pages: int
    """Of the nine sites, that links lead to."""
    found_share: float
    """Of those, that the crawl stored."""
    disallowed_fetches: int
    """Requests for what robots.txt forbids, or to the site whose robots.txt answers 503, in both runs."""
    largest_rate: float
    """Requests a second to one host, by the shortest time between two, in the run at the lawful pace."""
    lawful_requests: int
    """Requests in that run."""
    refetched_share: float
    """Of the pages that had come when the crawl was killed, that were asked for again."""
    made_pages: int
    """Pages of endless calendars and other traps that were fetched, of all sites."""
    noindex_stored: int
    """Pages that want to be in no index and were stored all the same."""
    seconds: float
    """That the whole crawl took, in two parts."""
    pages_per_second: float
    """Of it."""
    warcio_records: int
    """Responses that warcio reads in its files."""
    fastwarc_records: int
    """Responses that FastWARC reads."""


def measure(folder: Path, archive: Path | None = None, lawful_seconds: float = 40.0) -> Figures:
    """Crawl the mini web with traps, twice.

    Args:
        folder: for the two crawls; must not hold any.
        archive: of the pages; by default the one in the data set "pages".
        lawful_seconds: how long the run at the lawful pace lasts.

    Raises:
        UserError: the data set is not on this machine.
    """
    mini = sites(archive)
    console.log(
        f"{sum(map(len, mini.values())):,} pages on {len(mini)} sites; which can be reached is found by other means"
    )
    reachable = {(name, path) for name, pages in mini.items() for path in _reachable(pages)}
    served: dict[str, Site] = {name: _with_traps(pages) for name, pages in mini.items()}
    with Web({**served, "shut": _shut}) as web:
        seeds, own = [web.url(name) for name in web.hosts], list(web.hosts.values())
        stop = Event()
        timer = Timer(lawful_seconds, stop.set)
        timer.start()
        crawl.crawl(seeds, folder / "lawful", allow_hosts=own, stop=stop)
        timer.cancel()
        lawful = list(web.log)
        web.log.clear()
        began = time.monotonic()
        settings = Settings(own_delay=0.0, wait=0.0)
        _killed(seeds, folder / "whole", settings, own, web, len(reachable) // 2)
        before = list(web.log)
        crawl.crawl(seeds, folder / "whole", settings, allow_hosts=own)
        seconds, log = time.monotonic() - began, list(web.log)
        stored = crawl.changed(folder / "whole").changed
        names = {host: name for name, host in web.hosts.items()}
    paths = {(names[urlsplit(url).netloc], unquote(urlsplit(url).path)) for url in stored}
    paths = {(name, "/index.html" if path == "/" and "/index.html" in mini[name] else path) for name, path in paths}
    had = Counter(_pages(before))
    again = sum(1 for page in _pages(log[len(before) :]) if had[page])
    return Figures(
        pages=len(reachable),
        found_share=len(reachable & paths) / len(reachable),
        disallowed_fetches=sum(_is_forbidden(request) for request in lawful + log),
        largest_rate=_largest_rate(lawful),
        lawful_requests=len(lawful),
        refetched_share=again / max(len(had), 1),
        made_pages=sum(request.target.startswith("/made/") for request in log),
        noindex_stored=sum(path == "/made/noindex" for _, path in paths),
        seconds=seconds,
        pages_per_second=len(stored) / seconds,
        **_records(folder / "whole" / "warc"),
    )


def _killed(seeds: list[str], folder: Path, settings: Settings, own: list[str], web: Web, after: int) -> None:
    """Crawl in a process of its own, and kill it (SIGKILL) after so many requests."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_crawl, args=(seeds, folder, settings, own))
    process.start()
    while process.is_alive() and len(web.log) < after:
        time.sleep(0.005)
    process.kill()
    process.join()


def _crawl(seeds: list[str], folder: Path, settings: Settings, own: list[str]) -> None:
    crawl.crawl(seeds, folder, settings, allow_hosts=own)


def _with_traps(pages: Mapping[str, bytes]) -> Site:
    """A site that leads its visitors astray: its first page links to what is forbidden, endless, circular, or too large."""
    real, first = serve(pages), "/index.html" if "/index.html" in pages else "/"
    page = decompress(pages[first])
    start = Reply(page.replace(b"</body>", _LURES + b"</body>") if b"</body>" in page else page + _LURES)

    def answer(target: str) -> Reply:
        if target == "/robots.txt":
            return Reply(_ROBOTS, headers={"Content-Type": "text/plain"})
        if target in ("/", first):
            return start
        return (
            _MADE[target]() if target in _MADE else _calendar(target) if target.startswith("/made/") else real(target)
        )

    return answer


def _calendar(target: str) -> Reply:
    month = target.partition("month=")[2]
    if not month.isdigit():
        return Reply(b"not found", 404)
    return Reply(
        "".join(f"<a href='/made/calendar?month={int(month) + step}'>later</a>" for step in (1, 2, 3)).encode()
    )


_MADE = {
    "/made/loop/a": lambda: Reply(b"", 302, {"Location": "/made/loop/b"}),
    "/made/loop/b": lambda: Reply(b"", 302, {"Location": "/made/loop/a"}),
    "/made/to-trap": lambda: Reply(b"", 301, {"Location": f"{FORBIDDEN}moved.html"}),
    "/made/noindex": lambda: Reply(b"<meta name='robots' content='noindex'>a page for nobody"),
    "/made/nofollowed": lambda: Reply(b"a page that nobody vouches for"),
    "/made/broken": lambda: Reply(b"", 500),
    "/made/bomb": lambda: Reply(compress(bytes(10_000_000)) * 100, headers={"Content-Encoding": "gzip"}),
}


def _shut(target: str) -> Reply:
    """A site in trouble: robots.txt answers 503."""
    return Reply(b"", 503) if target == "/robots.txt" else Reply(b"nobody should read this")


def _reachable(pages: Mapping[str, bytes]) -> set[str]:
    """The pages that links lead to from the first one, read by lxml and walked in the simplest way."""
    first = "/index.html" if "/index.html" in pages else "/"
    found, queue = {first}, [first]
    while queue:
        path = queue.pop()
        for element, attribute, link, _ in lxml.html.fromstring(decompress(pages[path])).iterlinks():
            if element.tag not in ("a", "area", "frame", "iframe") or attribute not in ("href", "src"):
                continue
            address = urlsplit(urldefrag(urljoin(f"http://site{path}", link.strip()))[0])
            target = unquote(address.path) or "/"
            target = target + "index.html" if target.endswith("/") and target not in pages else target
            if (
                address.netloc == "site"
                and target in pages
                and target not in found
                and element.get("rel") != "nofollow"
            ):
                found.add(target)
                queue.append(target)
    return found


def _pages(log: list[Request]) -> list[tuple[str, str]]:
    """The requests for pages that came."""
    return [
        (request.site, request.target) for request in log if request.target != "/robots.txt" and request.status == 200
    ]


def _is_forbidden(request: Request) -> bool:
    return request.target.startswith(FORBIDDEN) or (request.site == "shut" and request.target != "/robots.txt")


def _largest_rate(log: list[Request]) -> float:
    """Of any host, requests a second by the shortest time between two."""
    gaps = []
    for site in {request.site for request in log}:
        times = [request.at for request in log if request.site == site]
        gaps += [later - earlier for earlier, later in pairwise(times)]
    return 1 / min(gaps) if gaps else 0.0


def _records(folder: Path) -> dict[str, Any]:
    counts = {"warcio_records": 0, "fastwarc_records": 0}
    for path in sorted(folder.glob("*.warc.gz")):
        with path.open("rb") as file:
            counts["warcio_records"] += sum(record.rec_type == "response" for record in WarcioIterator(file))
        with path.open("rb") as file:
            counts["fastwarc_records"] += sum(1 for _ in ArchiveIterator(file, record_types=WarcRecordType.response))
    return counts
