"""What a site allows us (RFC 9309): its robots.txt is fetched, kept for a day at most, and asked before every request. Protego reads the
rules; here stands what a missing, broken or unreachable file means. A file speaks for one origin: scheme, host and port."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

from protego import Protego

from almanac.youchat import addresses
from almanac.youchat.crawl.fetch import ANY, Failure, Fetcher
from almanac.youchat.documents import Fetched
from almanac.youchat.text.directives import TOKEN

MOST_BYTES = 500 * 1024
"""That are parsed; the rest of a longer file is not there (RFC 9309, 2.5, asks for at least as many)."""
KEPT_SECONDS = 24 * 3600.0
"""How long a file is believed (RFC 9309, 2.4)."""
_WITH_VERSION = re.compile(rf"^([ \t]*user-agent[ \t]*:[ \t]*{TOKEN})/\S*", re.IGNORECASE | re.MULTILINE)
"""Our name with a version, which does not count (RFC 9309, 2.2.1)."""
RETRY_SECONDS = 3600.0
"""After which a site whose file could not be had is asked for it again."""


@dataclass(frozen=True)
class Robots:
    """The rules of an origin."""

    origin: str
    """`scheme://host:port`, as `addresses.origin` writes it."""
    text: str
    """Of the file; empty where there is none."""
    closed: str
    """Why nothing may be fetched at all, because the rules could not be had; empty where they could."""
    expires: float
    """Unix time, s, at which they are to be fetched anew."""

    @cached_property
    def _rules(self) -> Protego:
        return Protego.parse(_WITH_VERSION.sub(r"\1", self.text))

    def allows(self, url: str) -> bool:
        """Whether we may fetch an address of this origin: the longest rule decides, and `Allow` between equals."""
        return not self.closed and self._rules.can_fetch(url, TOKEN)

    @property
    def delay(self) -> float:
        """s between two requests, as the site asks; 0 where it does not."""
        rate = self._rules.request_rate(TOKEN)
        return max(self._rules.crawl_delay(TOKEN) or 0.0, rate.seconds / rate.requests if rate else 0.0)

    @property
    def sitemaps(self) -> tuple[str, ...]:
        """Addresses of sitemaps, normalised, each once."""
        found = (addresses.normalise(address, self.origin + "/") for address in self._rules.sitemaps)
        return tuple(dict.fromkeys(address for address in found if address))


def fetch(
    origin: str, fetcher: Fetcher, now: float, turn: Callable[[str], AbstractContextManager[bool]] | None = None
) -> Robots:
    """The rules of an origin, from its robots.txt.

    A file that is not there (4xx, or more redirects than five) allows all; one that can't be had (5xx, no connection, no answer in time,
    429, refused by the guard) forbids all for an hour.

    Args:
        origin: as `addresses.origin` writes it.
        fetcher: fetches it.
        now: Unix time, s.
        turn: as `Fetcher.get` takes it.
    """
    answer = fetcher.get(f"{origin}/robots.txt", types=ANY, most_bytes=MOST_BYTES, cut=True, turn=turn)
    if isinstance(answer, Fetched):
        return Robots(origin, answer.body.decode("utf-8-sig", "replace"), "", now + KEPT_SECONDS)
    if isinstance(answer, Failure) and _is_missing(answer):
        return Robots(origin, "", "", now + KEPT_SECONDS)
    why = answer.detail if isinstance(answer, Failure) else "answered 304 to a question that it was not asked"
    wait = max(RETRY_SECONDS, answer.retry_after) if isinstance(answer, Failure) else RETRY_SECONDS
    return Robots(origin, "", f"robots.txt {why}", now + wait)


def _is_missing(failure: Failure) -> bool:
    """Whether there is no such file, rather than no answer. 429 is an overloaded server's, not a missing file's."""
    return failure.reason == "redirects" or (400 <= failure.status < 500 and failure.status != 429)
