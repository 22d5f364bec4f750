"""A page as it was when it was quoted: its stored text as HTML of our own, with what is cited marked, so that a citation leads to its
sentence even where the page itself is gone. All that comes from the page is text here; nothing of its HTML, scripts or pictures is."""

import hashlib
import re
from collections.abc import Container, Iterator
from datetime import datetime
from html import escape
from urllib.parse import urlsplit

from almanac.youchat.api.snippets import Spans, cut
from almanac.youchat.ask.fragments import link
from almanac.youchat.documents import Page

_MOST = 200_000
"""Characters that are shown; of a longer page, those around what is cited."""
_DIGITS = 16
"""Of a text's sha256 that stand in links."""
_LINE = re.compile(r"[^\n]*(?:\n|(?<=[^\n])\Z)")
_WRAPPED = 48
"""Characters from which a line looks as if it were broken because it was full."""
_GONE = "The page is not in the index any more."
_CHANGED = "The page was fetched again since, and its text is another one now. What was cited is not marked."


def fingerprint(page: Page) -> str:
    """What tells a page's text from another one at its address."""
    return hashlib.sha256(page.text.encode()).hexdigest()[:_DIGITS]


def document(page: Page | None, number: int, spans: Spans, known: str = "") -> str:
    """The HTML document.

    Args:
        page: None: it is gone.
        number: of the reference; 0: none.
        spans: stretches of the page's text that are cited.
        known: the text's fingerprint when it was cited; empty: whatever it is now.
    """
    if page is None:
        return _framed(_GONE, f'<main><p class="changed">{_GONE}</p></main>')
    changed = bool(known) and known != fingerprint(page)
    spans = [] if changed else [(max(0, one), min(other, len(page.text))) for one, other in spans if 0 <= one < other]
    word = f'<p class="changed">{_CHANGED}</p>' if changed else ""
    return _framed(page.title, f"{_head(page, number, spans)}<main>{word}{''.join(_blocks(page, spans))}</main>")


def _head(page: Page, number: int, spans: Spans) -> str:
    """What page it is, from when, and the way to the original."""
    mark = f'<span class="n">{number}</span>' if number else ""
    dates = [
        f"{name} {_day(when)}"
        for name, when in (("fetched", page.fetched_at), ("published", page.published_at))
        if when
    ]
    parts = urlsplit(page.url)
    where = parts.netloc or parts.path
    out = ""
    if parts.scheme in ("http", "https"):
        address = link(page.url, page.text, *min(spans)) if spans else page.url
        out = (
            f'<a class="out" href="{escape(address)}" target="_blank" rel="noopener noreferrer nofollow">Open the original'
            '<span aria-hidden="true"> ↗</span></a>'
        )
    about = " · ".join([escape(where), *dates])
    return f"<header>{mark}<div><h1>{escape(page.title)}</h1><p>{about}</p></div>{out}</header>"


def _blocks(page: Page, spans: Spans) -> Iterator[str]:
    """Headings and paragraphs, from where to where the page is shown."""
    text = page.text
    first = min(spans)[0] if spans else 0
    begin = text.rfind("\n", 0, max(0, first - _MOST // 2)) + 1 if len(text) > _MOST else 0
    end = min(len(text), begin + _MOST)
    levels = {heading.start: heading.level for heading in page.headings}
    seen = False
    if begin:
        yield "<p>…</p>"
    for start, until in _paragraphs(text, begin, end, levels):
        inner = ""
        for one, other, cited in cut(start, until, spans):
            piece = escape(text[one:other])
            if cited:
                piece = f"<mark>{piece}</mark>" if seen else f'<mark id="cited" tabindex="-1">{piece}</mark>'
                seen = True
            inner += piece
        name = f"h{min(levels[start] + 1, 6)}" if start in levels else "p"
        kind = "" if start in levels else _kind(text[start:until])
        yield f"<{name}{kind}>{inner}</{name}>"
    if end < len(text):
        yield "<p>…</p>"


def _paragraphs(text: str, begin: int, end: int, headings: Container[int]) -> Iterator[tuple[int, int]]:
    """What stands between empty lines, and headings apart from what follows them in the next line."""
    start = begin
    for line in _LINE.finditer(text, begin, end):
        alone = line.start() in headings
        if alone or not line[0].strip():
            if text[start : line.start()].strip():
                yield start, start + len(text[start : line.start()].rstrip())
            if alone:
                yield line.start(), line.start() + len(line[0].rstrip())
            start = line.end()
    if text[start:end].strip():
        yield start, start + len(text[start:end].rstrip())


def _kind(text: str) -> str:
    """How a paragraph's line breaks are meant: as code, as lines, or as those of a file that is wrapped (no word about that)."""
    lines = text.strip("\n").split("\n")
    if any(line.startswith((">>>", "    ", "\t")) for line in lines):
        return ' class="code"'
    return "" if all(len(line) >= _WRAPPED for line in lines[:-1]) else ' class="lines"'


def _day(when: datetime) -> str:
    return f"{when.day} {when:%b %Y}"


def _framed(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><meta name="robots" content="noindex"><title>{escape(title)}</title>'
        f'<link rel="stylesheet" href="search.css"></head><body class="reader">{body}</body></html>'
    )
