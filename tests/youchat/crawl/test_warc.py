"""WARC files: ours by the two readers that others use, others' by ours, and torn ones."""

import gzip
import hashlib
import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcio.archiveiterator import ArchiveIterator as WarcioIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from almanac.runtime.errors import UserError
from almanac.youchat.crawl import warc
from almanac.youchat.documents import Fetched


def made(number: int, size: int = 200) -> Fetched:
    body = hashlib.sha512(b"%d" % number).hexdigest().encode() * (1 + size // 128)
    when = datetime(2026, 3, 4, 5, 6, number % 60, 123456, tzinfo=UTC)
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-encoding": "gzip",
        "etag": f'"{number}"',
        "x-note": "caf\u00e9",
    }
    return Fetched(f"http://a.example/{number}?x=%C3%A9", body, headers["content-type"], when, headers)


def written(folder: Path, count: int, largest: int = warc.LARGEST) -> list[tuple[str, int]]:
    writer = warc.Writer(folder, largest=largest)
    try:
        return [writer.write(made(number)) for number in range(count)]
    finally:
        writer.close()


def test_both_readers_of_others_read_what_we_write(tmp_path: Path):
    places = written(tmp_path, 5)
    file = tmp_path / "00000.warc.gz"
    with file.open("rb") as stream:
        theirs = [
            (
                record.rec_headers["WARC-Target-URI"],
                record.http_headers.get_statuscode(),
                record.content_stream().read(),
            )
            for record in WarcioIterator(stream, check_digests="raise")
            if record.rec_type == "response"
        ]
    with file.open("rb") as stream:
        records = ArchiveIterator(stream, record_types=WarcRecordType.response, verify_digests=True)
        others = [
            (r.headers["WARC-Target-URI"], str(r.http_headers.status_code), r.reader.read(), r.stream_pos)
            for r in records
        ]
    assert theirs == [(made(n).url, "200", made(n).body) for n in range(5)]
    assert [other[:3] for other in others] == theirs and [other[3] for other in others] == [
        place for _, place in places
    ]
    assert gzip.decompress(file.read_bytes()).startswith(b"WARC/1.1\r\nWARC-Type: warcinfo")


def test_a_page_comes_back_as_it_went(tmp_path: Path):
    places = written(tmp_path, 3)
    pages = list(warc.read(tmp_path / "00000.warc.gz"))
    assert pages == [warc.at(tmp_path / name, place) for name, place in places]
    for number, page in enumerate(pages):
        sent = made(number)
        assert (page.url, page.body, page.content_type, page.fetched_at, page.status) == (
            sent.url, sent.body, sent.content_type, sent.fetched_at, 200
        )  # fmt: skip
        assert page.headers["etag"] == sent.headers["etag"] and "content-encoding" not in page.headers
        assert page.headers["x-crawl-content-encoding"] == "gzip"


def test_a_torn_tail_is_cut_off_and_written_over(tmp_path: Path):
    places = written(tmp_path / "whole", 4)
    data, last = (tmp_path / "whole" / "00000.warc.gz").read_bytes(), places[-1][1]
    for number, end in enumerate([*range(last + 1, len(data), 37), len(data) - 1]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "00000.warc.gz").write_bytes(data[:end])
        writer = warc.Writer(folder, healed=places[number % 3])
        assert (folder / "00000.warc.gz").stat().st_size == last
        assert writer.write(made(3)) == ("00000.warc.gz", last)
        writer.close()
        assert [page.body for page in warc.read(folder / "00000.warc.gz")] == [made(n).body for n in range(4)]


def test_whole_files_are_left_as_they_are(tmp_path: Path):
    written(tmp_path, 3)
    before = (tmp_path / "00000.warc.gz").read_bytes()
    assert warc.heal(tmp_path / "00000.warc.gz") == 0
    assert (tmp_path / "00000.warc.gz").read_bytes() == before


def test_a_full_file_is_followed_by_the_next(tmp_path: Path):
    places = written(tmp_path, 6, largest=1000)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) > 1 and {name for name, _ in places} == set(names)
    assert [page.url for name in names for page in warc.read(tmp_path / name)] == [made(n).url for n in range(6)]


def others() -> bytes:
    """What archives of others hold: compressed and chunked bodies, text alone, pictures, errors, a bomb, a torn end."""
    stream = io.BytesIO()
    writer = WARCWriter(stream, gzip=True)

    def response(name: str, body: bytes, status: str = "200 OK", **headers: str) -> None:
        pairs = [("Content-Type", "text/html"), *((key.replace("_", "-"), value) for key, value in headers.items())]
        http = StatusAndHeaders(status, pairs, protocol="HTTP/1.1")
        url = f"http://b.example/{name}"
        writer.write_record(writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=http))

    packed = gzip.compress(b"<p>packed")
    response("gzip", packed, Content_Encoding="gzip", Content_Length=str(len(packed)))
    response("chunked", b"4\r\n<p>c\r\n6;x=y\r\nhunked\r\n0\r\n\r\n", Transfer_Encoding="chunked")
    response("unchunked", b"<p>chunks are gone", Transfer_Encoding="chunked")
    response("bomb", gzip.compress(bytes(10_000_000)) * 20, Content_Encoding="gzip")
    response("missing", b"not here", "404 Not Found")
    response("picture", b"GIF89a", Content_Type="image/gif")
    text = writer.create_warc_record(
        "http://b.example/text", "conversion", payload=io.BytesIO(b"text alone"), warc_content_type="text/plain"
    )
    writer.write_record(text)
    response("last", b"<p>last" * 500)
    return stream.getvalue()


def test_archives_of_others_come_in_by_the_same_door(tmp_path: Path):
    file = tmp_path / "others.warc.gz"
    file.write_bytes(others())
    pages = {page.url.rpartition("/")[2]: page for page in warc.read(file)}
    assert {name: page.body[:9] for name, page in pages.items() if name != "last"} == {
        "gzip": b"<p>packed",
        "chunked": b"<p>chunke",
        "unchunked": b"<p>chunks",
        "text": b"text alon",
    }
    assert pages["text"].content_type == "text/plain" and pages["last"].body == b"<p>last" * 500
    assert pages["gzip"].fetched_at.tzinfo is not None


def test_a_torn_archive_is_read_up_to_the_tear(tmp_path: Path):
    file = tmp_path / "torn.warc.gz"
    file.write_bytes(others()[:-40])
    assert [page.url.rpartition("/")[2] for page in warc.read(file)] == ["gzip", "chunked", "unchunked", "text"]


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", gzip.compress(b"not an archive")], ids=["empty", "text", "gzip"]
)
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, content: bytes):
    file = tmp_path / "page.html"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"no WARC records|can't be read"):
        list(warc.read(file))
    with pytest.raises(UserError, match="can't be read"):
        list(warc.read(tmp_path / "missing.warc"))


def test_headers_of_any_kind_and_number_come_back(tmp_path: Path):
    """Such as warcio can't write (not ASCII, with a semicolon) and FastWARC can't read (more than 32 KiB)."""
    headers = {f"x-{number}": "y" * 100 for number in range(5_000)} | {"x-long": "z" * 40_000}
    headers |= {
        "link": "<http://host/caf\u00e9/>; rel=shortlink",
        "content-type": "text/html",
        "x-robots-tag": "noarchive",
    }
    writer = warc.Writer(tmp_path)
    places = [writer.write(replace(made(number), headers=headers)) for number in range(2)]
    writer.close()
    pages = list(warc.read(tmp_path / "00000.warc.gz"))
    assert pages == [warc.at(tmp_path / name, place) for name, place in places] and len(pages) == 2
    assert pages[0].content_type == "text/html" and pages[0].headers["x-robots-tag"] == "noarchive"
    writer = warc.Writer(tmp_path / "short")
    writer.write(replace(made(0), headers={name: headers[name] for name in ("link", "content-type")}))
    writer.close()
    assert (
        next(warc.read(tmp_path / "short" / "00000.warc.gz")).headers["link"] == "<http://host/caf%E9/>; rel=shortlink"
    )


def test_a_record_that_can_not_be_read_is_none(tmp_path: Path):
    import gzip

    head = b"WARC/1.1\r\nWARC-Type: response\r\nX: " + b"y" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    (tmp_path / "x.warc.gz").write_bytes(gzip.compress(head))
    assert warc.at(tmp_path / "x.warc.gz", 0) is None


def test_only_addresses_of_the_web_and_whole_answers_are_taken(tmp_path: Path):
    def record(url: str, status: int) -> bytes:
        answer = b"HTTP/1.1 %d OK\r\nContent-Type: x/y\r\nContent-Type: text/html\r\n\r\n<p>x" % status
        head = f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nContent-Type: application/http\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n%s\r\n\r\n" % (len(answer), answer)

    urls = [
        ("javascript:alert(1)", 200),
        ("file:///etc/passwd", 200),
        ("http://h/1", 200),
        ("http://h/2", 203),
        ("http://h/3", 206),
    ]
    (tmp_path / "x.warc").write_bytes(b"".join(record(*each) for each in urls))
    assert [page.url for page in warc.read(tmp_path / "x.warc")] == ["http://h/1", "http://h/2"]
