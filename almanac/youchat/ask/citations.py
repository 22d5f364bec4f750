"""Marks of citation in a language model's text: `[1]`, `[1, 2]`, `[1-3]`, `[[3]]`, `【2】`, `[^4]`, as they stream in pieces that may cut
a mark in two. Code is left as it is: `[1]` there is an index. What a mark points to and whether it may is `compose`'s question."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from almanac.youchat.text.sentences import split

_LIST = r"\s*\^?\d{1,4}(?:\s*(?:[,;、]|–|-|\band\b)\s*\^?\d{1,4})*\s*"
_MARK = re.compile(
    rf"[ \t]*(?:\[\[{_LIST}\]\](?:\([^)\s]*\))?|\[(?:(?:source|ref|citation)s?:?\s)?{_LIST}\](?:\([^)\s]*\))?"
    rf"|[【［〔]{_LIST}(?:†[^】］〕]*)?[】］〕])",
    re.I,
)
_OPEN = re.compile(r"(?:\[|[【［〔])[^\]】］〕\n]{0,40}\]?$|[ \t]+$|\]\([^)\s]{0,200}$")
"""What may be the beginning of a mark at the end of a piece."""
_STEP = 60
"""Characters after which a stream is looked at again."""
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`", re.DOTALL)


@dataclass(frozen=True)
class Cited:
    """A sentence of a model's text, and the numbers it cites."""

    text: str
    """Without its marks."""
    marks: tuple[int, ...]
    """As they were written, ascending, each once; they may point to nothing."""
    code: bool = False
    """Whether it is a block of code."""


def sentences(text: str) -> list[Cited]:
    """The sentences of a text with the marks that stand in or after each. Marks between two sentences belong to the one before."""
    marks: list[tuple[int, tuple[int, ...]]] = []
    plain, at = "", 0
    for match in _marks(text):
        plain += text[at : match.start()]
        marks.append((len(plain), numbers(match[0])))
        at = match.end()
        if text[at : at + 1].isalnum():
            plain += " "
    plain += text[at:]
    found = []
    pieces = split(plain)
    for place, piece in enumerate(pieces):
        until = pieces[place + 1].start if place + 1 < len(pieces) else len(plain) + 1
        since = piece.start if place else -1
        mine = {
            number
            for where, said in marks
            if since < where <= until and not (place and where <= since)
            for number in said
        }
        marks = [each for each in marks if each[0] > until]
        found.append(Cited(piece.of(plain), tuple(sorted(mine)), piece.code))
    return found


def numbers(mark: str) -> tuple[int, ...]:
    """The numbers in a mark; a range is all of it."""
    found: list[int] = []
    inside = re.sub(r"†.*|\]\(.*", "", mark)
    for match in re.finditer(r"(\d{1,4})(?:\s*[–-]\s*(\d{1,4}))?", inside):
        first, last = int(match[1]), int(match[2] or match[1])
        found += range(first, last + 1) if first <= last <= first + 20 else [first, last]
    return tuple(dict.fromkeys(found))


def stream(pieces: Iterable[str]) -> Iterator[Cited]:
    """The sentences of a text that comes in pieces, each as soon as the next has begun; a mark that a piece cuts in two is one."""
    text, given, parsed = "", 0, 0
    for piece in pieces:
        text += piece
        if len(text) < parsed + _STEP:
            continue
        parsed = len(text)
        for each in sentences(_OPEN.sub("", text))[given:-1]:
            given += 1
            yield each
    yield from sentences(text)[given:]


def _marks(text: str) -> Iterator[re.Match[str]]:
    """The marks of a text, those in code aside."""
    code = [match.span() for match in _CODE.finditer(text)]
    for match in _MARK.finditer(text):
        if not any(start <= match.start() < end for start, end in code) and not _is_index(text, match):
            yield match


def _is_index(text: str, match: re.Match[str]) -> bool:
    """Whether brackets follow a name without a blank and something like code goes on: `a[1] = 2`, `argv[1](x)`."""
    glued = match[0][0] == "[" and re.search(r"[\w)]$", text[: match.start()]) is not None
    return (
        glued
        and re.match(r"\s*(?:[=+*/<>.(]\s*\w|\[)", text[match.end() :]) is not None
        and not re.match(r"\s*\[\d", text[match.end() :])
    )
