"""One response: every trap ends in a failure that says what it was, within its bounds."""

import gzip
import socket
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from almanac.youchat.crawl.fetch import ANY, Failure, Fetcher, Limits, Redirected, Unchanged
from almanac.youchat.crawl.guard import Guard
from almanac.youchat.data.mini_web import Reply, Web
from almanac.youchat.documents import Fetched
from tests.youchat.crawl.raw_server import raw_server

PAGE = b"<!doctype html><title>A page</title><p>" + b"some words, and " * 200


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def dripping() -> Iterator[bytes]:
    for _ in range(200):
        yield b"x"
        time.sleep(0.05)


def chain(target: str) -> Reply:
    """/0 leads to /1, and so on; /end is a page."""
    number = int(target[1:])
    return Reply(PAGE) if number == 0 else Reply(b"", 301, {"Location": f"/{number - 1}"})


REPLIES = {
    "/": Reply(PAGE, headers={"ETag": '"7"'}),
    "/gzip": Reply(gzip.compress(PAGE), headers={"Content-Encoding": "gzip"}),
    "/members": Reply(gzip.compress(PAGE[:99]) + gzip.compress(PAGE[99:]), headers={"Content-Encoding": "gzip"}),
    "/zlib": Reply(zlib.compress(PAGE), headers={"Content-Encoding": "deflate"}),
    "/deflate": Reply(deflated(PAGE), headers={"Content-Encoding": "deflate"}),
    "/bomb": Reply(gzip.compress(bytes(10_000_000)) * 100, headers={"Content-Encoding": "gzip"}),
    "/torn": Reply(gzip.compress(PAGE)[:-9], headers={"Content-Encoding": "gzip"}),
    "/no-gzip": Reply(PAGE, headers={"Content-Encoding": "gzip"}),
    "/brotli": Reply(b"?", headers={"Content-Encoding": "br"}),
    "/nested": Reply(b"?", headers={"Content-Encoding": "gzip, gzip"}),
    "/large": Reply(bytes(2_000_001)),
    "/large-unsaid": Reply([bytes(1_000_000)] * 100),
    "/image": Reply(b"GIF89a", headers={"Content-Type": "image/gif"}),
    "/unsaid": Reply(PAGE, headers={"Content-Type": ""}),
    "/unsaid-image": Reply(b"GIF89a\x00\x00\x01" * 9, headers={"Content-Type": ""}),
    "/drip": Reply(dripping()),
    "/a": Reply(b"", 302, {"Location": "/b"}),
    "/b": Reply(b"", 307, {"Location": "/c"}),
    "/c": Reply(b"", 308, {"Location": "/b#again"}),
    "/self": Reply(b"", 302, {"Location": "/self"}),
    "/mail": Reply(b"", 302, {"Location": "mailto:a@example.com"}),
    "/busy": Reply(b"", 503, {"Retry-After": "120"}),
    "/missing": Reply(b"", 404),
}


@pytest.fixture(scope="module")
def web():
    with Web({"site": lambda target: REPLIES.get(target) or chain(target)}) as web:
        yield web


@pytest.fixture(scope="module")
def fetcher(web: Web):
    with Fetcher(Guard(web.hosts.values()), Limits(bytes=2_000_000, seconds=0.6), "ops@example.com") as fetcher:
        yield fetcher


@pytest.mark.parametrize("target", ["/", "/gzip", "/members", "/zlib", "/deflate", "/unsaid"])
def test_a_page_comes_whole_however_it_was_packed(web: Web, fetcher: Fetcher, target: str):
    page = fetcher.get(web.url("site", target))
    assert isinstance(page, Fetched) and page.body == PAGE and page.content_type.startswith("text/html")
    assert page.fetched_at.tzinfo is not None and web.log[-1].agent == "AlmanacBot/1.0 (+ops@example.com)"


@pytest.mark.parametrize(
    "target, reason, words",
    [
        ("/bomb", "large", "more than 2,000,000 bytes"),
        ("/torn", "damaged", "ends too early"),
        ("/no-gzip", "damaged", "damaged"),
        ("/brotli", "damaged", "'br'"),
        ("/nested", "damaged", "not asked for"),
        ("/large", "large", "has 2,000,001 bytes"),
        ("/large-unsaid", "large", "more than"),
        ("/image", "type", "image/gif"),
        ("/unsaid-image", "type", "does not say"),
        ("/drip", "slow", "not whole after 0.6 s"),
        ("/a", "redirects", "in a circle: {b} → {c} → {b}"),
        ("/self", "redirects", "in a circle"),
        ("/6", "redirects", "more than 5 redirects"),
        ("/mail", "redirects", "mailto:"),
        ("/busy", "status", "503"),
        ("/missing", "status", "404"),
    ],
)
def test_every_trap_ends_in_a_failure_that_names_it(web: Web, fetcher: Fetcher, target: str, reason: str, words: str):
    failure = fetcher.get(web.url("site", target))
    assert isinstance(failure, Failure) and failure.reason == reason, failure
    assert words.format(b=web.url("site", "/b"), c=web.url("site", "/c")) in failure.detail
    assert failure.retry_after == (120.0 if target == "/busy" else 0.0)


def test_five_redirects_are_followed_and_one_is_told(web: Web, fetcher: Fetcher):
    page = fetcher.get(web.url("site", "/5"))
    assert isinstance(page, Fetched) and page.url == web.url("site", "/0")
    assert fetcher.once(web.url("site", "/5")) == Redirected(web.url("site", "/5"), web.url("site", "/4"))


def test_what_did_not_change_is_not_sent_again(web: Web, fetcher: Fetcher):
    url = web.url("site")
    assert fetcher.get(url, etag='"7"') == Unchanged(url)
    assert isinstance(fetcher.get(url, etag='"6"'), Fetched)


def test_a_bomb_costs_no_memory(web: Web, fetcher: Fetcher):
    tracemalloc.start()
    try:
        fetcher.get(web.url("site", "/bomb"))
        assert tracemalloc.get_traced_memory()[1] < 12_000_000  # of a gigabyte
    finally:
        tracemalloc.stop()


def test_the_first_bytes_of_a_longer_body_can_be_had(web: Web, fetcher: Fetcher):
    for target in ("/large", "/large-unsaid", "/bomb"):
        page = fetcher.get(web.url("site", target), types=ANY, most_bytes=1000, cut=True)
        assert isinstance(page, Fetched) and page.body == bytes(1000)


def drip_headers(connection: socket.socket, _: bytes) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 1000:
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


def send(data: bytes):
    return lambda connection, _: connection.sendall(data)


@pytest.mark.parametrize(
    "answer, reason",
    [
        (drip_headers, "slow"),
        (lambda connection, _: time.sleep(2), "slow"),
        (send(b"SSH-2.0-OpenSSH_9.2\r\n"), "damaged"),
        (send(b""), "damaged"),
        (send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000), "damaged"),
        (send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 500\r\n\r\nshort"), "damaged"),
        (send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/html\r\n\r\nZZ\r\n"), "damaged"),
    ],
)
def test_servers_that_stall_or_speak_nonsense_are_left(answer, reason: str):
    with raw_server(answer) as host, Fetcher(Guard([host]), Limits(seconds=0.5)) as fetcher:
        failure = fetcher.get(f"http://{host}/")
    assert isinstance(failure, Failure) and failure.reason == reason, failure


def test_nobody_there_is_a_failure_too():
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"

    def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with Fetcher(Guard([host])) as fetcher:
        failure = fetcher.get(f"http://{host}/")
    assert isinstance(failure, Failure) and failure.reason == "unreachable"
    with Fetcher(Guard(resolver=nowhere)) as fetcher:
        failure = fetcher.get("http://nowhere.example/")
    assert isinstance(failure, Failure) and failure.reason == "unreachable" and "looked up" in failure.detail
