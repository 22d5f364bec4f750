"""One response from the web: asked for politely (who we are, what we have already), through the guard, and bounded in bytes, time and
decompression. It comes as a document, as the word that nothing changed, as a redirect, or as a failure that says why. Which address
is asked for, and when, is for others to say."""

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, TypeAlias

import httpcore
from resiliparse.parse.encoding import detect_mime

from almanac.youchat import addresses
from almanac.youchat.crawl.guard import Guard, Refused, deadline, port_of
from almanac.youchat.documents import Fetched
from almanac.youchat.text.directives import TOKEN

Reason = Literal["refused", "unreachable", "slow", "large", "type", "status", "redirects", "damaged"]
"""The guard refused it; no connection; out of time; out of bytes; not text; an error's status; too many or circular redirects; bytes
that break the protocol or its compression."""

PAGES = ("text/html", "application/xhtml+xml", "text/plain", "text/markdown", "text/x-markdown", "application/pdf")
"""Content types that can be read as pages."""
SITEMAPS = (
    "application/xml",
    "text/xml",
    "text/plain",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
)
"""Content types that sitemaps come as."""
ANY: tuple[str, ...] = ()
"""Whatever it is."""
REDIRECTS = 5
"""That are followed (RFC 9309, 2.3.1.2, asks for at least five)."""
_PIECE = 1 << 16
"""Bytes that are decompressed at a time."""
_MAX_WAIT = 24 * 3600.0
"""s; the longest Retry-After that is believed."""


@dataclass(frozen=True)
class Limits:
    """What a response may cost."""

    bytes: int = 10_000_000
    """Of the body, on the wire and decompressed."""
    seconds: float = 30.0
    """From the first packet to the last byte."""
    connect_seconds: float = 10.0
    """For a connection."""


@dataclass(frozen=True)
class Unchanged:
    """The server says that what we have is still so (304)."""

    url: str
    """Of the page."""
    robots: str = ""
    """X-Robots-Tag of the answer."""


@dataclass(frozen=True)
class Redirected:
    """The server sends us elsewhere; nobody went there yet."""

    url: str
    """That was asked for."""
    target: str
    """Where it leads, normalised."""


@dataclass(frozen=True)
class Failure:
    """No document, and why."""

    url: str
    """That was asked for."""
    reason: Reason
    """In one word."""
    detail: str
    """In words for a person."""
    status: int = 0
    """Of the response; 0 where there was none."""
    retry_after: float = 0.0
    """s that the server asks us to wait."""


Outcome: TypeAlias = Fetched | Unchanged | Redirected | Failure


class Fetcher:
    """Fetches; may be used by many threads at once. Close it, or use it as a context.

    Args:
        guard: what may be fetched.
        limits: what a response may cost.
        contact: a web or mail address of whoever runs this, told to every server.
        connections: how many may be open.
    """

    def __init__(self, guard: Guard, limits: Limits | None = None, contact: str = "", connections: int = 32):
        self._guard = guard
        self._limits = limits or Limits()
        self._pool = guard.pool(connections)
        self._agent = f"{TOKEN}/1.0 (+{contact})" if contact else f"{TOKEN}/1.0"

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def once(
        self,
        url: str,
        types: Iterable[str] = PAGES,
        etag: str = "",
        modified: str = "",
        most_bytes: int | None = None,
        cut: bool = False,
    ) -> Outcome:
        """One request and its answer; a redirect is told, not followed.

        Args:
            url: normalised.
            types: content types that are wanted; empty for any.
            etag: of what we have, as the server gave it.
            modified: the `Last-Modified` of what we have.
            most_bytes: instead of the limits' bytes.
            cut: give the first `most_bytes` of a longer body instead of failing.
        """
        most = most_bytes or self._limits.bytes
        try:
            parts = self._guard.check(url)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            host = (parts.hostname or "").encode("ascii")
            address = httpcore.URL(
                scheme=parts.scheme.encode("ascii"), host=host, port=port_of(parts), target=target.encode("ascii")
            )
            headers = self._headers(parts.netloc, etag, modified)
            with (
                deadline(self._limits.seconds),
                self._pool.stream("GET", address, headers=headers, extensions=self._timeouts()) as response,
            ):
                return _read(url, response, tuple(types), most, cut)
        except Refused as refusal:
            return Failure(url, "refused", str(refusal))
        except httpcore.TimeoutException as error:
            slow = "no connection" if isinstance(error, httpcore.ConnectTimeout) else "not whole"
            return Failure(url, "slow", f"{slow} after {self._limits.seconds:g} s at most")
        except httpcore.NetworkError as error:
            return Failure(url, "unreachable", f"no connection ({str(error) or type(error).__name__})")
        except (httpcore.ProtocolError, zlib.error) as error:
            return Failure(url, "damaged", f"the response is damaged ({error})")
        except httpcore.UnsupportedProtocol as error:
            return Failure(url, "refused", str(error))

    def get(
        self,
        url: str,
        types: Iterable[str] = PAGES,
        etag: str = "",
        modified: str = "",
        most_bytes: int | None = None,
        cut: bool = False,
        turn: Callable[[str], AbstractContextManager[bool]] | None = None,
    ) -> Fetched | Unchanged | Failure:
        """A document, after at most five redirects, each of which passes the guard. See `once` for the arguments.

        Args:
            turn: from the address of a redirect to a context in which it may be asked for, and whether it may.
        """
        seen, asked = [url], url
        while True:
            with turn(asked) if turn and asked != url else nullcontext(True) as granted:
                if not granted:
                    return Failure(url, "slow", f"redirects to {asked}, whose host is busy")
                outcome = self.once(asked, types, etag, modified, most_bytes, cut)
            if not isinstance(outcome, Redirected):
                return outcome
            asked = outcome.target
            if asked in seen:
                return Failure(
                    url, "redirects", "redirects in a circle: " + " → ".join([*seen[seen.index(asked) :], asked])
                )
            if len(seen) > REDIRECTS:
                return Failure(url, "redirects", f"more than {REDIRECTS} redirects, the last to {asked}")
            seen.append(asked)
            etag = modified = ""  # they were of another address

    def _headers(self, host: str, etag: str, modified: str) -> list[tuple[bytes, bytes]]:
        headers = {
            "Host": host,
            "User-Agent": self._agent,
            "Accept": "text/html, application/xhtml+xml, text/*;q=0.9, application/pdf;q=0.8, */*;q=0.1",
            "Accept-Encoding": "gzip, deflate",
        }
        if etag:
            headers["If-None-Match"] = etag
        if modified:
            headers["If-Modified-Since"] = modified
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]

    def _timeouts(self) -> dict[str, dict[str, float]]:
        most, connect = self._limits.seconds, self._limits.connect_seconds
        return {"timeout": {"connect": min(connect, most), "read": most, "write": most, "pool": most}}


def _read(url: str, response: httpcore.Response, types: tuple[str, ...], most: int, cut: bool) -> Outcome:
    """What a response amounts to; its body is read only where it is wanted."""
    headers = _headers_of(response)
    status = response.status
    if status == 304:
        return Unchanged(url, headers.get("x-robots-tag", ""))
    if status in (301, 302, 303, 307, 308) and "location" in headers:
        target = addresses.normalise(headers["location"], url)
        if target is None:
            return Failure(
                url, "redirects", f"redirects to what is no address of the web: {headers['location'][:200]}", status
            )
        if target == url:
            return Failure(url, "redirects", f"redirects in a circle: {url} → {url}", status)
        return Redirected(url, target)
    if not is_whole(status):
        return Failure(url, "status", f"answered {status}", status, _retry_after(headers.get("retry-after", "")))
    kind = headers.get("content-type", "")
    if types and kind and _mime(kind) not in types:
        return Failure(url, "type", f"is {_mime(kind)}, not text", status)
    announced = headers.get("content-length", "")
    if not cut and announced.isdigit() and int(announced) > most:
        return Failure(url, "large", f"has {int(announced):,} bytes, more than {most:,}", status)
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        return Failure(url, "damaged", f"is compressed by '{encoding[:40]}', which was not asked for", status)
    chunks = _counted(response.iter_stream(), most, cut)
    body, whole = _gathered(chunks if encoding in ("", "identity") else inflate(chunks), most, cut)
    if not whole:
        return Failure(url, "large", f"has more than {most:,} bytes", status)
    if types and not kind and detect_mime(body) not in types:
        return Failure(url, "type", f"does not say what it is, and looks like {detect_mime(body)}", status)
    return Fetched(url, body, kind or detect_mime(body), datetime.now(UTC), headers, status)


def inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What was compressed by gzip (in one member or several) or deflate, in pieces of 64 KiB at most, so that a bomb can be stopped.

    Raises:
        zlib.error: it was not, or it ends too early.
    """
    unpacker, begun = None, b""
    for chunk in chunks:
        if unpacker is None:
            begun += chunk
            if len(begun) < 2:
                continue
            unpacker, chunk = zlib.decompressobj(_window(begun)), begun
        full = False
        while chunk or full:
            piece = unpacker.decompress(chunk, _PIECE)
            full = len(piece) == _PIECE
            if piece:
                yield piece
            chunk = unpacker.unconsumed_tail
            if unpacker.eof:
                chunk, full = unpacker.unused_data, False
                if chunk[:1] != b"\x1f":  # the end, or padding
                    return
                unpacker = zlib.decompressobj(31)
    if begun and (unpacker is None or not unpacker.eof):
        raise zlib.error("it ends too early")


def _window(begun: bytes) -> int:
    """zlib's `wbits` by the first two bytes: of gzip, of zlib, or of the raw deflate that some servers send and browsers bear."""
    if begun[:2] == b"\x1f\x8b":
        return 31
    return 15 if begun[0] & 15 == 8 and int.from_bytes(begun[:2], "big") % 31 == 0 else -15


def _counted(chunks: Iterable[bytes], most: int, cut: bool) -> Iterator[bytes]:
    """The chunks off the wire, until they are too many."""
    left = most
    for chunk in chunks:
        yield chunk
        left -= len(chunk)
        if left < 0:
            if cut:
                return
            raise _TooLarge


def _gathered(chunks: Iterable[bytes], most: int, cut: bool) -> tuple[bytes, bool]:
    """The body, and whether it is whole (or was to be cut)."""
    body = bytearray()
    try:
        for chunk in chunks:
            body += chunk
            if len(body) > most:
                return (bytes(body[:most]), cut)
    except _TooLarge:
        return b"", False
    except zlib.error:
        if not (cut and body):
            raise
    return bytes(body), True


class _TooLarge(Exception):
    """More bytes came over the wire than are wanted."""


def _headers_of(response: httpcore.Response) -> dict[str, str]:
    """As `joined` has them. Where a redirect leads is UTF-8 if it can be, as browsers read it."""
    found = joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers)
    with suppress(UnicodeError):
        found |= {"location": found["location"].encode("latin-1").decode("utf-8")} if "location" in found else {}
    return found


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by their names in lower case; what comes several times is joined by commas (RFC 9110, 5.3), but the last type counts."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found and key != "content-type" else value
    return found


def is_whole(status: int) -> bool:
    """Whether a response of that status has the whole document in its body."""
    return 200 <= status < 300 and status not in (204, 205, 206)


def _mime(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _retry_after(value: str) -> float:
    """s to wait, of a number or a date; 0 where it says nothing."""
    if value.strip().isascii() and value.strip().isdigit():
        return min(float(value), _MAX_WAIT)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(until - time.time(), 0.0), _MAX_WAIT)
