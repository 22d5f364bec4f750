"""Sitemaps: lists, lists of lists, gzip, plain text, and what is damaged or malicious."""

import gzip
from datetime import UTC, datetime

import pytest

from almanac.youchat.crawl import sitemaps
from almanac.youchat.crawl.sitemaps import Entry, Sitemap
from almanac.youchat.documents import Fetched

NAMESPACE = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


def read(body: str | bytes) -> Sitemap:
    body = body.encode() if isinstance(body, str) else body
    return sitemaps.read(Fetched("http://a.example/sitemap.xml", body, "application/xml", datetime.now(UTC)))


def test_a_list_of_pages_with_their_dates():
    found = read(
        f"""\ufeff<?xml version="1.0" encoding="UTF-8"?><urlset {NAMESPACE} xmlns:i="http://x/image">
        <url><loc> http://A.example/1?a=1&amp;b=2 </loc><lastmod>2024-03-01</lastmod><i:image><i:loc>http://a.example/p.png</i:loc></i:image></url>
        <url><loc>http://a.example/2</loc><lastmod>2024-03-01T12:30:00+01:00</lastmod></url>
        <url><loc>http://a.example/2</loc></url><url><loc>mailto:x</loc></url><url><loc/></url>
        <url><loc>/3</loc><lastmod>last week</lastmod></url></urlset>"""
    )
    assert found == Sitemap(
        (
            Entry("http://a.example/1?a=1&b=2", 1709251200.0),
            Entry("http://a.example/2", 1709292600.0),
            Entry("http://a.example/3"),
        ),
        (),
    )


def test_a_list_of_lists_with_or_without_its_namespace():
    for namespace in (NAMESPACE, ""):
        found = read(
            f"<sitemapindex {namespace}><sitemap><loc>http://a.example/s.xml.gz</loc></sitemap></sitemapindex>"
        )
        assert found == Sitemap((), (Entry("http://a.example/s.xml.gz"),))


def test_gzip_and_plain_text():
    plain = b"http://a.example/1\r\n\r\nhttp://a.example/2\nnot an address\n"
    assert [entry.url for entry in read(gzip.compress(plain)).pages] == ["http://a.example/1", "http://a.example/2"]


def test_what_came_before_the_damage_is_kept():
    whole = f"<urlset {NAMESPACE}>" + "".join(f"<url><loc>http://a.example/{n}</loc></url>" for n in range(2000))
    torn = read(whole + "<url><loc>http://a.exa")
    assert len(torn.pages) == 2000 and "no XML" in torn.damage
    packed = read(gzip.compress(whole.encode())[:-500])
    assert 0 < len(packed.pages) < 2000 and packed.damage


def test_bombs_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sitemaps, "MOST_ADDRESSES", 1_000)  # 50,000 take the checked functions of tests 8 s
    urls = "".join(f"<url><loc>http://a.example/{n}</loc></url>" for n in range(1_010))
    many = read(f"<urlset>{urls}</urlset>")
    assert len(many.pages) == 1_000 and "more than 1,000" in many.damage
    assert len(read("\n".join(f"http://a.example/{n}" for n in range(1_010))).pages) == 1_000
    large = read(gzip.compress(b"<urlset>" + b" " * 100_000_000, 1))
    assert large.pages == () and "larger than 50 MB" in large.damage
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    laughs = read(
        f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]><urlset><url><loc>http://a.example/&e9;</loc></url></urlset>'
    )
    assert laughs.pages == ()
    files = read(
        '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><urlset><url><loc>http://a.example/&f;</loc></url></urlset>'
    )
    assert all(entry.url in ("http://a.example/",) for entry in files.pages)


def test_an_address_that_is_repeated_counts_each_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sitemaps, "MOST_ADDRESSES", 1_000)
    same = read("<urlset>" + "<url><loc>http://a.example/</loc></url>" * 1_010 + "</urlset>")
    assert len(same.pages) == 1 and "more than 1,000" in same.damage


def test_a_list_in_utf_16_is_read():
    made = '<?xml version="1.0" encoding="UTF-16"?><urlset><url><loc>http://a.example/1</loc></url></urlset>'
    assert [entry.url for entry in read(made.encode("utf-16")).pages] == ["http://a.example/1"]
