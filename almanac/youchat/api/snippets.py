"""What is shown of a page beneath its title: a few lines of its text around what is cited or fits the question best, in pieces that are
cited and pieces that are not. Pieces rather than offsets, since a browser counts characters otherwise than Python does."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from almanac.youchat.ask.quotes import candidates
from almanac.youchat.documents import Hit

Spans = Sequence[tuple[int, int]]
"""Stretches of a text: the first character of each, and one past its last."""
_SPACE, _BREAK = re.compile(r"\s+"), re.compile(r"\s*\n\s*\n\s*")
_BEFORE = 70
"""Characters before what is cited."""
_READ = 6
"""Hits that `candidates` reads at once."""
_LENGTH = 320
"""Characters of a snippet; what is cited is shown as far as it goes, up to twice as many."""


def around(text: str, spans: Spans) -> list[dict[str, Any]]:
    """The lines around the first stretch, and every stretch that falls into them.

    Args:
        text: of the page.
        spans: what is cited; none: the text's beginning is shown.

    Returns:
        pieces in order: `text`, and whether it is `cited`.
    """
    first, last = min(spans, default=(0, 0))
    begin = _word(text, max(0, first - _BEFORE))
    end = min(len(text), max(begin + _LENGTH, min(last, begin + 2 * _LENGTH)))
    end = end if end == len(text) else max(text.rfind(" ", begin, end), min(last, end), begin + 1)
    found: list[dict[str, Any]] = [{"text": "… ", "cited": False}] if begin else []
    for start, until, cited in cut(begin, end, spans):
        found.append({"text": _SPACE.sub(" ", _BREAK.sub(" · ", text[start:until])), "cited": cited})
    return [*found, {"text": " …", "cited": False}] if end < len(text) else found


def cut(begin: int, end: int, spans: Spans) -> list[tuple[int, int, bool]]:
    """A stretch cut where others begin and end within it: start, end, and whether one of them covers it."""
    borders = {begin, end}
    for start, until in spans:
        borders |= {min(max(start, begin), end), min(max(until, begin), end)}
    ordered = sorted(borders)
    found: list[tuple[int, int, bool]] = []
    for start, until in pairwise(ordered):
        cited = any(one <= start and until <= other for one, other in spans)
        if found and found[-1][2] == cited:
            found[-1] = (found[-1][0], until, cited)
        else:
            found.append((start, until, cited))
    return found


def of_hits(question: str, hits: Sequence[Hit], idf: Callable[[str], float]) -> list[list[dict[str, Any]]]:
    """Of each hit, the lines around the sentence that fits the question best; where none can be quoted, how the passage begins."""
    best: dict[int, tuple[int, int]] = {}
    for first in range(0, len(hits), _READ):
        for quote in candidates(question, hits[first : first + _READ], idf):
            for place in quote.places:
                begun = hits[first + place.hit].passage.start
                best.setdefault(first + place.hit, (place.start - begun, place.end - begun))
    return [around(hit.passage.text, [best[at]] if at in best else []) for at, hit in enumerate(hits)]


def _word(text: str, at: int) -> int:
    """Where the next word begins, unless the text does so here."""
    while 0 < at < len(text) and not text[at - 1].isspace():
        at += 1
    return at
