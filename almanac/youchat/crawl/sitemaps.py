"""Sitemaps (sitemaps.org): lists of a site's pages, lists of such lists, in XML or plain text, gzipped or not; at most 50,000 addresses
and 50 MB a file. They come from anybody: entities are not resolved, and a bomb is stopped at the limit."""

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

import lxml.etree as etree

from almanac.youchat import addresses
from almanac.youchat.crawl.fetch import inflate
from almanac.youchat.documents import Fetched

MOST_BYTES = 50_000_000
"""Of a file, decompressed."""
MOST_ADDRESSES = 50_000
"""In a file."""


@dataclass(frozen=True)
class Entry:
    """An address in a sitemap."""

    url: str
    """Normalised."""
    modified: float = 0.0
    """Unix time, s, of its last change, as the site says; 0 where it does not."""


@dataclass(frozen=True)
class Sitemap:
    """What a file lists."""

    pages: tuple[Entry, ...]
    """Of the site."""
    sitemaps: tuple[Entry, ...]
    """Further files."""
    damage: str = ""
    """Why the rest of it could not be read; empty where all was."""


def read(fetched: Fetched) -> Sitemap:
    """What a sitemap lists: as much of it as can be read, up to the limits."""
    body, damage = _unpacked(fetched.body)
    text = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text.startswith((b"<", codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        lines = (
            addresses.normalise(line.decode("utf-8", "replace"), fetched.url) for line in text.split() if b"://" in line
        )
        urls = dict.fromkeys(url for url in lines if url)
        return Sitemap(tuple(Entry(url) for url in list(urls)[:MOST_ADDRESSES]), (), damage)
    pages: dict[str, Entry] = {}
    sitemaps: dict[str, Entry] = {}
    try:
        for number, (kind, entry) in enumerate(_entries(text, fetched.url), 1):
            if entry:
                (sitemaps if kind == "sitemap" else pages).setdefault(entry.url, entry)
            if number >= MOST_ADDRESSES:  # the same one again costs as much as another
                damage = damage or f"it lists more than {MOST_ADDRESSES:,} addresses"
                break
    except etree.XMLSyntaxError as error:
        damage = damage or f"it is no XML from line {error.lineno} on"
    return Sitemap(tuple(pages.values()), tuple(sitemaps.values()), damage)


def _unpacked(body: bytes) -> tuple[bytes, str]:
    """The file without its gzip, at most `MOST_BYTES` of it, and what was wrong."""
    if body[:2] != b"\x1f\x8b":
        return body[:MOST_BYTES], "it is larger than 50 MB" if len(body) > MOST_BYTES else ""
    whole = bytearray()
    try:
        for piece in inflate([body]):
            whole += piece
            if len(whole) > MOST_BYTES:
                return bytes(whole[:MOST_BYTES]), "it is larger than 50 MB"
    except zlib.error as error:
        return bytes(whole), f"its compression is damaged ({error})"
    return bytes(whole), ""


def _entries(text: bytes, base: str) -> Iterator[tuple[str, Entry | None]]:
    """(`url` or `sitemap`, what it says; None where that is no address), in the file's order."""
    reader = etree.iterparse(
        BytesIO(text),
        events=("end",),
        tag=("{*}url", "{*}sitemap"),
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
    )
    for _, element in reader:
        location, modified = element.findtext("{*}loc"), element.findtext("{*}lastmod")
        url = addresses.normalise(location or "", base) if location and location.strip() else None
        yield etree.QName(element).localname, Entry(url, _when(modified or "")) if url else None
        element.clear()
        while element.getprevious() is not None:  # else the tree of what was read grows
            del element.getparent()[0]


def _when(text: str) -> float:
    """Unix time of a W3C date; 0 where it is none."""
    try:
        when = datetime.fromisoformat(text.strip())
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
