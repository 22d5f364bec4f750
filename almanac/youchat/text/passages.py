"""A page is cut into passages of about 150 words, which are what is searched and cited. Cuts fall on headings, then on paragraphs, then on
sentences; a section longer than a passage gives several of like length, short sections in a row are joined. Every passage is an exact
stretch of the page's text."""

import hashlib
import re
from collections.abc import Iterator

from almanac.youchat.documents import Heading, Page, Passage

WORDS = 150
"""Of a passage (specification 1.2)."""
LONGEST = 220
"""Words after which a passage is cut though its paragraph goes on."""
SHORTEST = 25
"""Words; a section that has fewer is joined to the next one that is not above it."""
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?。！？])[\"'”’)\]]*\s+|\n")
_WORD = re.compile(r"\S+")

Stretch = tuple[int, int]


def split(page: Page) -> list[Passage]:
    """The passages of a page, in order; together they hold every word of it."""
    sha256 = hashlib.sha256(page.text.encode("utf-8", "surrogatepass")).hexdigest()
    made = []
    above = _Above(page.headings)
    for start, end in _stretches(page):
        path, anchor = above.at(start)
        made.append(
            Passage(
                page.url, page.title, page.text[start:end], start, end, sha256, path, anchor,
                page.fetched_at, page.published_at, page.identifier,
            )
        )  # fmt: skip
    return made


def _stretches(page: Page) -> Iterator[Stretch]:
    """Where the passages begin and end."""
    sections = _sections(page)
    at = 0
    while at < len(sections):
        start, end, level = sections[at]
        at += 1
        while at < len(sections) and sections[at][2] >= level and _count(page.text, start, end) < SHORTEST:
            end = sections[at][1]
            at += 1
        yield from _cut(page.text, start, end)


def _sections(page: Page) -> list[tuple[int, int, int]]:
    """The text between headings: start, end and the heading's level (0 before the first one); none that is empty."""
    borders = [(0, 0)] + [(heading.start, heading.level) for heading in page.headings]
    found = []
    for (start, level), (end, _) in zip(borders, [*borders[1:], (len(page.text), 0)], strict=True):
        if page.text[start:end].strip():
            found.append((start, end, level))
    return found


def _cut(text: str, start: int, end: int) -> Iterator[Stretch]:
    """A section in stretches of like length, about `WORDS` words each."""
    pieces = list(_pieces(text, start, end))
    left = sum(size for _, _, size in pieces)
    wanted = left / max(1, round(left / WORDS))
    begun, held = start, 0
    for piece_start, _, size in pieces:
        # A piece goes where the passage comes nearer to its length with it than without it; no passage is a mere rest.
        if min(held, left) >= SHORTEST and held + size - wanted > wanted - held:
            yield _trimmed(text, begun, piece_start)
            begun, held = piece_start, 0
        held += size
        left -= size
    if held:
        yield _trimmed(text, begun, end)


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Paragraphs; of long ones the sentences; of long sentences runs of words. With their numbers of words."""
    for paragraph in _between(_PARAGRAPH, text, start, end):
        size = _count(text, *paragraph)
        if size <= WORDS:
            yield *paragraph, size
            continue
        for sentence in _between(_SENTENCE, text, *paragraph):
            size = _count(text, *sentence)
            yield from [(*sentence, size)] if size <= LONGEST else _runs(text, *sentence)


def _between(border: re.Pattern[str], text: str, start: int, end: int) -> Iterator[Stretch]:
    at = start
    for found in border.finditer(text, start, end):
        if text[at : found.start()].strip():
            yield at, found.end()
            at = found.end()
    if text[at:end].strip():
        yield at, end


def _runs(text: str, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """`WORDS` words at a time; a word without end (base64, Chinese) counts as one for every ten characters."""
    at, held = start, 0
    for word in _WORD.finditer(text, start, end):
        for place in range(word.start(), word.end(), 10 * WORDS):
            if held >= WORDS:
                yield at, place, held
                at, held = place, 0
            held += _size(min(word.end() - place, 10 * WORDS))
    if text[at:end].strip():
        yield at, end, held


def _count(text: str, start: int, end: int) -> int:
    """Words of a stretch."""
    words = text[start:end].split()
    return len(words) if end - start < 20 * len(words) else sum(_size(len(word)) for word in words)


def _size(characters: int) -> int:
    return max(1, characters // 10) if characters > 20 else 1


def _trimmed(text: str, start: int, end: int) -> Stretch:
    """Without white space about it."""
    held = text[start:end]
    return start + len(held) - len(held.lstrip()), end - len(held) + len(held.rstrip())


class _Above:
    """The headings over places that only go forward."""

    def __init__(self, headings: tuple[Heading, ...]):
        self._left = iter([*headings, None])
        self._next = next(self._left)
        self._path: list[Heading] = []
        self._anchor = ""

    def at(self, start: int) -> tuple[tuple[str, ...], str]:
        """From the outermost, and the nearest fragment; a heading that begins there counts."""
        while self._next is not None and self._next.start <= start:
            self._path = [above for above in self._path if above.level < self._next.level] + [self._next]
            self._anchor = self._next.anchor or self._anchor
            self._next = next(self._left)
        return tuple(heading.text for heading in self._path), self._anchor
