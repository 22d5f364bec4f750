"""How addresses are written, and what pages say to crawlers."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almanac.youchat import addresses
from almanac.youchat.crawl import links
from almanac.youchat.documents import Fetched
from almanac.youchat.text.directives import Directives


def page(html: str, tag: str = "", content_type: str = "text/html") -> Fetched:
    headers = {"x-robots-tag": tag} if tag else {}
    return Fetched("http://a.example/d/page.html", html.encode(), content_type, datetime.now(UTC), headers)


@pytest.mark.parametrize(
    "written, normal",
    [
        ("HTTP://A.Example:80", "http://a.example/"),
        ("https://a.example:443/x", "https://a.example/x"),
        ("http://a.example:443/x", "http://a.example:443/x"),
        ("http://a.example./x", "http://a.example/x"),
        ("http://a.example/a/../b/./c/..", "http://a.example/b/"),
        ("http://a.example/../../x", "http://a.example/x"),
        ("http://a.example/%7Euser/%c3%a9%2f", "http://a.example/~user/%C3%A9%2F"),
        ("http://a.example/caf\u00e9 au lait?q=\u00fc", "http://a.example/caf%C3%A9%20au%20lait?q=%C3%BC"),
        ("http://a.example/100%", "http://a.example/100%25"),
        ("http://b\u00fccher.example/", "http://xn--bcher-kva.example/"),
        ("http://a.example/x#part", "http://a.example/x"),
        ("http://a.example/x?b=2&a=1", "http://a.example/x?b=2&a=1"),
        ("http://a.example/x?utm_source=n&id=3&fbclid=z&PHPSESSID=9", "http://a.example/x?id=3"),
        ("http://a.example/x;jsessionid=0F?y", "http://a.example/x?y"),
        (
            "http://a.example/x?sid=q8w7e6r5t4z3u2i1&a=1&session_id=4&ASPSESSIONIDAB=7&cftoken=1",
            "http://a.example/x?a=1",
        ),
        ("http://a.example/x?sid=story", "http://a.example/x?sid=story"),
        ("http://a.example/x?", "http://a.example/x"),
        ("other.html", "http://a.example/d/other.html"),
        ("?page=2", "http://a.example/d/page.html?page=2"),
        ("//b.example/x", "http://b.example/x"),
        (" http://a.exa\nmple/x ", "http://a.example/x"),
        ("http://[2606:4700::1]:80/", "http://[2606:4700::1]/"),
        ("mailto:a@a.example", None),
        ("javascript:alert(1)", None),
        ("http://user:pass@a.example/", None),
        ("http://", None),
        ("http://a..example/", None),
        ("http://a example/", None),
        ("http://[::1/", None),
        ("http://a.example:port/", None),
        ("http://a.example/" + "x" * 2000, None),
    ],
)
def test_an_address_has_one_spelling(written: str, normal: str | None):
    assert addresses.normalise(written, "http://a.example/d/page.html") == normal


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_the_one_spelling_stays_what_it_is(text: str):
    once = addresses.normalise(text, "http://a.example/d/")
    if once is not None:
        assert addresses.normalise(once) == once and once.isascii() and " " not in once


def test_links_are_those_a_reader_could_follow():
    found = links.read(
        page(
            """<head><base href="/e/"><link rel="canonical" href="own.html"><link rel="next" href="2.html">
            <link rel="stylesheet" href="s.css"><meta http-equiv="refresh" content="5; URL='moved.html'"></head><body><a href="1.html">1</a>
            <a href="1.html#there">1</a><a href="no.html" rel="external nofollow">2</a><a href="photo.JPG">3</a>
            <a href="a?b=1&amp;c=2">4</a>
            <map><area href="area.html"></map><iframe src="frame.html"></iframe><a name="here">5</a><a href="mailto:x@a.example">6</a>
            <!-- <a href="comment.html">7</a> --><script>"<a href='script.html'>"</script></body>"""
        )
    )
    names = ["2.html", "moved.html", "1.html", "a?b=1&c=2", "area.html", "frame.html"]
    assert found.addresses == tuple(f"http://a.example/e/{name}" for name in names)
    assert found.canonical == "http://a.example/e/own.html" and found.directives == Directives()


@pytest.mark.parametrize(
    "head, tag, index, follow, archive",
    [
        ("", "", True, True, True),
        ("<meta name='robots' content='noindex'>", "", False, True, True),
        ("<META CONTENT='NoIndex, NOFOLLOW' NAME='ROBOTS'>", "", False, False, True),
        ("<meta name='robots' content='none'>", "", False, False, True),
        ("<meta name='robots' content='noarchive'>", "", True, True, False),
        ("<meta name='robots' content='index, follow, max-snippet:-1'>", "", True, True, True),
        ("<meta name='almanacbot' content='noindex'>", "", False, True, True),
        ("<meta name='googlebot' content='noindex'>", "", True, True, True),
        ("", "noindex", False, True, True),
        ("", "nofollow, noarchive", True, False, False),
        ("", "googlebot: noindex, nofollow", True, True, True),
        ("", "googlebot: nofollow, AlmanacBot: noindex", False, True, True),
        ("", "unavailable_after: 25 Jun 2030 15:00:00 PST, noindex", False, True, True),
        ("<meta name='robots' content='noindex'>", "nofollow", False, False, True),
    ],
)
def test_directives_of_head_and_response_add_up(head: str, tag: str, index: bool, follow: bool, archive: bool):
    said = links.read(page(f"{head}<body><a href='x'>x</a>", tag))
    assert said.directives == Directives(index, follow, archive)
    assert bool(said.addresses) == follow


def test_what_is_not_html_has_no_links_but_may_have_directives():
    said = links.read(page("<a href='x'>x</a>", "noindex", "application/pdf"))
    assert said.addresses == () and not said.directives.index


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(body: bytes):
    for content_type in ("text/html", "text/html; charset=no-such-thing", "text/html; charset=utf-16"):
        links.read(Fetched("http://a.example/", body, content_type, datetime.now(UTC)))


@pytest.mark.parametrize("head", ["<meta http-equiv=refresh content='{}'>", "<p {}>"])
def test_a_page_is_read_in_time_that_grows_with_its_length(head: str):
    """A hundred times as long as what took seconds; the test does not end where that grows with the square."""
    for filling in (" " * 1_000_000, "1" * 1_000_000, " ".join(f"a{n}=1" for n in range(100_000))):
        assert links.read(page(head.format(filling) + "<a href=/x>x</a>")).addresses in ((), ("http://a.example/x",))
