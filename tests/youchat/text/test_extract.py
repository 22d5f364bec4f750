"""A response becomes a page."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.youchat.documents import Fetched, Page
from almanac.youchat.text.extract import Unread, read

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
WORDS = "The quick brown fox jumps over the lazy dog while seven otters watch from the river bank. "
MANY = " ".join(f"a{number}=1" for number in range(100_000))


def fetched(html: str | bytes, url: str = "http://host/a/page", kind: str = "text/html", **headers: str) -> Fetched:
    return Fetched(url, html if isinstance(html, bytes) else html.encode(), kind, NOW, headers)


def page_of(html: str, url: str = "http://host/a/page") -> Page:
    page = read(fetched(html, url))
    assert isinstance(page, Page), page
    return page


def test_headings_have_their_exact_places_and_anchors():
    page = page_of(
        f"""<title>T</title><body><main><h1 id="top">Foxes &amp; otters</h1><p>{WORDS * 3}</p>
        <section id="food"><h2>What they eat<a class="headerlink" href="#food">¶</a></h2><p>{WORDS * 3}</p></section>
        <a name="old"></a><h3>Old <em>anchors</em></h3><p>{WORDS * 3}</p>
        <div class="section"><div class="titlepage"><div><div><h3 class="title"><a id="docbook"></a>DocBook</h3></div></div></div>
        <p>{WORDS * 3}</p></div><h2>None</h2><p>{WORDS * 3}</p></main>"""
    )
    told = [(each.level, each.text, each.anchor) for each in page.headings]
    assert told == [
        (1, "Foxes & otters", "top"), (2, "What they eat", "food"), (3, "Old anchors", "old"), (3, "DocBook", "docbook"), (2, "None", ""),
    ]  # fmt: skip
    for heading in page.headings:
        assert page.text[heading.start :].startswith(heading.text)


def test_terms_that_can_be_linked_to_are_borders_with_anchors():
    page = page_of(
        f"""<title>T</title><body><main><h1>Otters</h1><p>{WORDS * 3}</p><dl>
        <dt id="otters.swim">swim(<em>speed</em>)<a class="headerlink" href="#otters.swim">¶</a></dt><dd><p>Swim.</p></dd>
        <dt><a name="-dive"><strong>dive</strong></a>()</dt><dd>Dive.</dd><dt>not named</dt><dd>{WORDS}</dd></dl></main>"""
    )
    told = [(each.level, each.text, each.anchor) for each in page.headings]
    assert told == [(1, "Otters", ""), (7, "swim(speed)", "otters.swim"), (7, "dive()", "-dive")]
    for heading in page.headings[1:]:
        assert page.text[: heading.start].endswith("\n\n") and page.text[heading.start :].startswith(heading.text)


def test_a_page_with_the_signs_that_mark_headings_gains_none():
    page = page_of(f"<title>T</title><main><h1>One</h1><p>{WORDS} \ufdd00\ufdd1 &#xFDD0;0&#xFDD1; {WORDS}</p></main>")
    assert page.headings[0].text == "One" and page.text.count("seven otters") == 2


def test_ways_about_the_site_are_left_out():
    page = page_of(
        f"""<body><nav><ul><li><a href="/">Home</a><li><a href="/x">Products</a></ul></nav><header>Acme Inc.</header>
        <main><h1>Otters</h1><p>{WORDS * 5}</p></main><footer>Imprint</footer>"""
    )
    assert "Products" not in page.text and "Imprint" not in page.text


def test_a_page_of_nothing_but_links_is_read_whole():
    links = "".join(f'<li><a href="{at}">Guide {at}</a>' for at in range(9))
    page = page_of(f"<title>Guides</title><body><h1>Guides</h1><ul>{links}</ul>")
    assert "Guide 0" in page.text and "Guide 8" in page.text and page.headings[0].text == "Guides"


def test_the_title_is_what_the_page_calls_itself_else_its_heading_else_its_address():
    assert page_of(f"<title> A\n title </title><h1>B</h1><p>{WORDS}").title == "A title"
    assert page_of(f"<h1>B</h1><p>{WORDS}").title == "B"
    assert page_of(f"<p>{WORDS}").title == "http://host/a/page"


def test_a_canonical_address_is_written_as_the_crawl_writes_it():
    head = '<head><base href="/sub/"><link rel="canonical" href="caf\u00e9?utm_source=x"></head>'
    assert page_of(f"{head}<p>{WORDS}").url == "http://host/sub/caf%C3%A9"


@pytest.mark.parametrize("markup", ["<pre>x{}y</pre>", "<style>{}</style>", "<p style='{}'>x</p>"])
def test_a_page_is_read_in_time_that_grows_with_its_length(markup: str):
    """A hundred times as long as what took seconds; the test does not end where that grows with the square."""
    for filling in (" " * 500_000, "a" * 500_000, "@media " * 70_000, "/*" * 250_000, "translate(" * 50_000):
        assert isinstance(read(fetched(f"<body><p>{WORDS}{markup.format(filling)}")), Page)


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("http://host/canonical", "http://host/canonical"), ("/c#frag", "http://host/c"), ("http://www.host/c", "http://www.host/c"),
        ("http://other/c", "http://host/a/page"), ("file:///usr/share/doc/x.html", "http://host/a/page"),
        ("http://host:99999/c", "http://host/a/page"), ("http://[::1", "http://host/a/page"), ("http://me@host/c", "http://host/a/page"),
    ],
)  # fmt: skip
def test_a_canonical_address_counts_on_the_same_host_only(link: str, url: str):
    page = page_of(f'<head><link rel="canonical" href="{link}"></head><p>{WORDS}', "http://host/a/page#x")
    assert page.url == url
    assert page.aliases == (() if url == "http://host/a/page" else ("http://host/a/page",))
    assert page.is_canonical is (url != "http://host/a/page")


@pytest.mark.parametrize(
    ("head", "date"),
    [
        ('<meta property="article:published_time" content="2021-03-04T10:00:00Z">', "2021-03-04"),
        ('<script type="application/ld+json">{"@type":"Article","datePublished":"2020-02-29"}</script>', "2020-02-29"),
        ('<meta name="date" content="2019-12-31">', "2019-12-31"), ('<meta name="date" content="2031-01-01">', None), ("", None),
    ],
)  # fmt: skip
def test_a_page_is_of_the_date_that_it_names_never_of_the_day_it_was_fetched(head: str, date: str | None):
    page = page_of(f"<head>{head}<title>T</title></head><body><p>{WORDS * 3} Copyright 2001-2022, 17 seats.</p>")
    assert (page.published_at.strftime("%Y-%m-%d") if page.published_at else None) == date
    assert page.fetched_at == NOW


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (WORDS * 5, "en"), ("Der schnelle braune Fuchs springt über den faulen Hund, während die Otter zusehen. " * 5, "de"),
        ("Le renard brun saute par-dessus le chien paresseux pendant que les loutres regardent. " * 5, "fr"),
    ],
)  # fmt: skip
def test_the_language_is_told_by_the_text_not_by_its_label(text: str, code: str):
    assert page_of(f'<html lang="xx"><body><p>{text}').language == code


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (fetched(""), "empty"), (fetched("<body><p hidden>x</p>"), "shows no text"),
        (fetched(f'<meta name="ROBOTS" content="NoIndex, follow"><p>{WORDS}'), "not to be indexed"),
        (fetched(f"<p>{WORDS}", **{"x-robots-tag": "noindex"}), "not to be indexed"), (fetched(b"\x89PNG", kind="image/png"), "image/png"),
        (fetched("<div>" * 5000 + WORDS), "deep"), (fetched("<b>" * 3000 + WORDS), "deep"),
        (fetched("<p>x " * (5 << 20)), "MiB"), (fetched(bytes(range(128, 256)) * 50 + b"\xff\xfe\x81", kind="text/plain"), "text"),
        (fetched(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50), "no text"), (fetched(f"<p {MANY}>{WORDS}"), "attributes"),
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_page_says_why(document: Fetched, reason: str):
    read_as = read(document)
    assert isinstance(read_as, Unread) and reason in read_as.reason and read_as.url == document.url


def test_directives_for_another_crawler_do_not_count():
    assert isinstance(read(fetched(f"<p>{WORDS}", **{"x-robots-tag": "otherbot: noindex"})), Page)


def test_plain_text_keeps_its_lines():
    page = read(fetched("First line\n\n  indented\nand more", kind="text/plain; charset=utf-8"))
    assert isinstance(page, Page) and page.title == "First line" and page.text == "First line\n\n  indented\nand more"


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="<>/=\"' abdivsptyle:none;&#x0\ufdd0\ufdd1\u200b\0é😀h1", max_size=300))
def test_no_markup_raises(html: str):
    assert isinstance(read(fetched(html.encode("utf-8", "replace"))), Page | Unread)
