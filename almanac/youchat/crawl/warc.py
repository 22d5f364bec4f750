"""Pages in WARC 1.1 files (ISO 28500), one gzip member a record, as web archives keep them: written with warcio, read with FastWARC, our
own files and those of others (Common Crawl's WARC and WET) by the same door. A file whose last record was torn by a kill is healed when it
is opened for writing."""

import io
import os
import re
import string
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from almanac.runtime.errors import UserError
from almanac.youchat.crawl.fetch import PAGES, inflate, is_whole, joined
from almanac.youchat.documents import Fetched

LARGEST = 1_000_000_000
"""Bytes of a file after which the next one is begun, as Common Crawl does."""
MOST_BYTES = 10_000_000
"""Of a body that is read; longer ones are left out."""
_MOST_HEADERS = 24_000
"""Characters of a response's headers that are kept: FastWARC reads 32 KiB of them at most."""
_FIRST_HEADERS = ("content-type", "x-robots-tag")
"""Kept before the others."""
_PIECE = 1 << 20
_OF_THE_WIRE = frozenset({"content-encoding", "transfer-encoding", "content-length"})
"""Headers that are not true of a body that is stored decompressed; the first two are kept under Common Crawl's names."""


class Writer:
    """Appends pages to the files of a folder. One thread at a time.

    Args:
        folder: made where it is missing.
        healed: a file's name and a place in it up to which it is known to be whole, so that a large file opens at once.
        largest: bytes of a file after which the next one is begun.

    Raises:
        UserError: it can't be written.
    """

    def __init__(self, folder: Path, healed: tuple[str, int] = ("", 0), largest: int = LARGEST):
        self._folder, self._largest = folder, largest
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = sorted(folder.glob("*.warc.gz"))
            for path in files[-1:]:
                heal(path, healed[1] if path.name == healed[0] else 0)
            self._open(int(files[-1].name.partition(".")[0]) if files else 0)
        except OSError as error:
            raise UserError(f"{folder} can't be written ({error.strerror})", "give another folder") from None

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def write(self, page: Fetched) -> tuple[str, int]:
        """Append a page.

        Returns:
            The file's name, and the place at which its record begins.
        """
        if self._place >= self._largest:
            os.close(self._file)
            self._open(int(self._name.partition(".")[0]) + 1)
        headers = [
            ("X-Crawl-" + name.title() if name in _OF_THE_WIRE else name.title(), value)
            for name, value in _bearable(page.headers)
        ]
        if "content-type" not in page.headers:
            headers.append(("Content-Type", page.content_type))
        headers.append(("Content-Length", str(len(page.body))))
        return self._name, self._append(
            lambda writer: writer.create_warc_record(
                page.url,
                "response",
                payload=io.BytesIO(page.body),
                http_headers=StatusAndHeaders(f"{page.status} OK", headers, protocol="HTTP/1.1"),
                warc_headers_dict={"WARC-Date": page.fetched_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")},
            )
        )

    def _open(self, number: int) -> None:
        self._name = f"{number:05d}.warc.gz"
        path = self._folder / self._name
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._place = path.stat().st_size
        if not self._place:
            about = {"software": "Almanac (YouChat)", "format": "WARC File Format 1.1", "robots": "obey"}
            self._append(lambda writer: writer.create_warcinfo_record(self._name, about))

    def _append(self, make) -> int:
        """Write the record that `make` makes, at once, so that a kill leaves all of it or a torn tail."""
        whole = io.BytesIO()
        writer = WARCWriter(whole, gzip=True, warc_version="1.1")
        writer.write_record(make(writer))
        place, left = self._place, memoryview(whole.getvalue())
        while left:
            left = left[os.write(self._file, left) :]
        self._place += len(whole.getvalue())
        return place


def _bearable(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Headers that warcio can write (in ASCII) and FastWARC can read (not too many characters in all)."""
    left = _MOST_HEADERS
    for name in sorted(headers, key=lambda name: name not in _FIRST_HEADERS):
        value = quote(headers[name], safe=string.printable, encoding="latin-1", errors="replace")
        size = len(name) + len(value) + 20
        if size <= left:
            left -= size
            yield name, value


def heal(path: Path, start: int = 0) -> int:
    """Cut off what follows the last whole record of a file.

    Args:
        path: a gzipped WARC file.
        start: where a record begins, up to which it is whole.

    Returns:
        The bytes that were cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(start)
        whole = start + sum(_members(file))
    if whole < size:
        with path.open("r+b") as file:
            file.truncate(whole)
    return size - whole


def read(path: Path) -> Iterator[Fetched]:
    """The pages of a WARC or WET file, ours or anybody's, gzipped or not: responses from the web that are whole and text, and conversions
    to text. Records that are torn, or longer than `MOST_BYTES`, are left out.

    Raises:
        UserError: it can't be read, or is no WARC file.
    """
    begun = False
    wanted = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.warcinfo
    try:
        with path.open("rb") as file:
            for record in ArchiveIterator(file, record_types=wanted, strict_mode=False):
                begun = True
                page = _page(record)
                if page is not None:
                    yield page
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error})", "give a WARC or WET file") from None
    if not begun:
        raise UserError(f"{path} holds no WARC records", "give a file that ends in .warc, .warc.gz or .wet.gz")


def at(path: Path, place: int) -> Fetched | None:
    """The page whose record begins at a place of one of our files; None where it is damaged."""
    with path.open("rb") as file:
        file.seek(place)
        try:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                return _page(record)
        except OSError:  # a header that is too long, a torn member
            return None
    return None


def _members(file: io.BufferedReader) -> Iterator[int]:
    """The sizes of the whole gzip members from here on."""
    rest = b""
    while True:
        unpacker, size = zlib.decompressobj(31), 0
        while not unpacker.eof:
            piece = rest or file.read(_PIECE)
            rest = b""
            if not piece:
                return
            try:
                unpacker.decompress(piece)
            except zlib.error:
                return
            size += len(piece)
        rest = unpacker.unused_data
        yield size - len(rest)


def _page(record: WarcRecord) -> Fetched | None:
    url = record.headers.get("WARC-Target-URI", "") or ""
    url = url.strip("<>")  # WARC 1.0 files have it in angle brackets
    if record.record_type == WarcRecordType.conversion:
        kind, headers, status = record.headers.get("Content-Type", "") or "text/plain", {}, 200
    elif record.record_type == WarcRecordType.response and record.http_headers is not None:
        status, headers = record.http_headers.status_code or 0, joined(record.http_headers.to_tuples())
        kind = headers.get("content-type", "")
    else:
        return None
    if not url.lower().startswith(("http://", "https://")):  # javascript:, file:, dns:
        return None
    if not is_whole(status) or kind.partition(";")[0].strip().lower() not in PAGES:
        return None
    body = _decoded(record.reader.read(MOST_BYTES + 1), record.content_length, headers)
    if body is None:
        return None
    when = record.record_date or datetime.fromtimestamp(0, UTC)
    return Fetched(url, body, kind, when.astimezone(UTC), headers, status)


def _decoded(raw: bytes, announced: int, headers: Mapping[str, str]) -> bytes | None:
    """A body without its transfer coding and compression; None where it is torn, too long, or compressed in a way of its own. We
    decode ourselves: FastWARC loses its place behind a large body that is left half decoded."""
    if len(raw) < announced or len(raw) > MOST_BYTES:
        return None
    chunks: Iterable[bytes] = [raw]
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunks = _without_chunks(raw)
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        chunks = inflate(chunks)
    elif encoding not in ("", "identity"):
        return None
    body = bytearray()
    try:
        for chunk in chunks:
            body += chunk
            if len(body) > MOST_BYTES:
                return None
    except (zlib.error, ValueError):
        return None
    return bytes(body)


def _without_chunks(raw: bytes) -> Iterator[bytes]:
    """The bytes in HTTP/1.1's chunks. Common Crawl kept the header and dropped the chunks in some years: such a body comes as it is.

    Raises:
        ValueError: a chunk is cut off.
    """
    head, at = re.match(rb"[0-9a-fA-F]{1,8}[ \t;\r]", raw), 0
    while head and (end := raw.find(b"\r\n", at)) >= 0:
        size = int(raw[at:end].partition(b";")[0], 16)
        if not size:
            return
        if end + 2 + size > len(raw):
            raise ValueError("a chunk is cut off")
        yield raw[end + 2 : end + 2 + size]
        at = end + 4 + size
    if not head:
        yield raw
