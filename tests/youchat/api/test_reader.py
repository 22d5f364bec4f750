"""Snippets and stored pages: nothing of a text is lost or moved, and what is cited is marked exactly."""

import re
from html import unescape

from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.youchat.api import reader, snippets
from almanac.youchat.documents import Heading, Page

TEXTS = st.text(st.sampled_from("ab <>&\"' \n\n.é😀\t"), min_size=1, max_size=300)
SPANS = st.lists(
    st.tuples(st.integers(0, 320), st.integers(0, 320)).map(lambda pair: (min(pair), max(pair))), max_size=5
)


def packed(text: str) -> str:
    """A text without white space."""
    return "".join(text.split())


@given(TEXTS, SPANS)
def test_cutting_covers_a_stretch_once_and_tells_what_is_cited(text, spans):
    pieces = snippets.cut(0, len(text), spans)
    assert "".join(text[start:end] for start, end, _ in pieces) == text
    for start, end, cited in pieces:
        assert all(any(one <= at < other for one, other in spans) == cited for at in range(start, end))


@given(TEXTS, SPANS, st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=150)
def test_the_reader_shows_all_of_a_text_and_marks_what_is_cited(text, spans, begun):
    starts = sorted({at for at in begun if at < len(text) and (at == 0 or text[at - 1] == "\n")})
    page = Page("http://h/", "A <title>", text, tuple(Heading(2, "x", at) for at in starts))
    shown = reader.document(page, 2, spans)
    main = shown[shown.index("<main>") : shown.index("</main>")]
    assert packed(unescape(re.sub(r"<[^>]*>", "", main))) == packed(text)
    kept = [(start, min(end, len(text))) for start, end in spans if start < end]
    cited = "".join(letter for at, letter in enumerate(text) if any(one <= at < other for one, other in kept))
    assert packed(unescape("".join(re.findall(r"<mark[^>]*>(.*?)</mark>", main, re.DOTALL)))) == packed(cited)
    if packed(cited):
        assert main.count('id="cited"') == 1


@given(TEXTS, SPANS)
def test_a_snippet_begins_near_what_is_cited_first(text, spans):
    spans = [(start, min(end, len(text))) for start, end in spans if start < min(end, len(text))]
    shown = snippets.around(text, spans)
    if spans:
        first = text[slice(*min(spans))]
        cited = packed("".join(piece["text"] for piece in shown if piece["cited"])).replace("·", "")
        assert cited.startswith(packed(first)[:200])
    assert len("".join(piece["text"] for piece in shown)) <= 1_000


def test_of_a_long_page_what_is_around_the_citation_is_shown():
    text = "\n\n".join(f"Paragraph {at} of a long page that goes on and on." for at in range(30_000))
    start = text.index("Paragraph 20000 ")
    shown = reader.document(Page("http://h/", "Long", text), 1, [(start, start + 20)])
    assert "Paragraph 20000" in shown and "Paragraph 19990 " in shown and len(shown) < 400_000
    assert "Paragraph 10 " not in shown and shown.count("<p>…</p>") == 2


def test_code_keeps_its_lines_and_wrapped_prose_does_not():
    prose = "This line of a text file was broken because it was full,\nand this one goes on."
    text = f"{prose}\n\n>>> print(1)\n1\n\none\ntwo"
    shown = reader.document(Page("http://h/", "T", text), 0, [])
    assert (
        '<p class="code">&gt;&gt;&gt; print(1)' in shown and '<p class="lines">one' in shown and "<p>This line" in shown
    )
