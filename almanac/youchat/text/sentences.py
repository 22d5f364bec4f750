"""Where the sentences of a text begin and end, as offsets into it: a quote has to be found again at its exact characters, so nothing is
normalised here. Our own rules (abbreviations, initials, list marks, wrapped lines, code) in the spirit of Kiss and Strunk (2006) and of
syntok, which gives tokens and not exact stretches. What a sentence is worth is said in `quotes`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_END = re.compile(r"(?:[.!?…]+|[。！？]+)(?:[\"'”’»)\]]|''|\*{1,2}|\[\d{1,3}\])*(?=\s|$|(?<=[。！？]))")
"""Where a sentence may end: its mark, with quotes, brackets and marks of citation that close after it."""
_MARK = re.compile(r"[ \t]*(?:[-*•–▪◦]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|#{1,6}|>)[ \t]+(?=\S)")
"""What stands before an item of a list, a heading or a quotation in Markdown."""
_FENCE = re.compile(r"[ \t]*(```|~~~)")
_CODE = re.compile(r"[ \t]*(?:>>>|\.\.\. |\$ |In \[\d+\]:)|(?: {4}|\t)\s*\S")
_NEVER = frozenset(
    re.findall(
        r"\S+",
        """mr mrs ms dr prof sr st mt messrs mmes rev hon capt col lt sgt maj gen gov sen rep cf e.g i.e eg ie viz vs v
    approx ca resp""",
    )
)
"""Abbreviations after which a sentence goes on."""
_BEFORE_NUMBERS = frozenset(
    re.findall(
        r"\S+",
        """no nos fig figs eq eqs vol vols p pp ch chap sec sect art para ver v jan feb mar apr jun jul aug sep sept oct
    nov dec""",
    )
)
"""Abbreviations after which a sentence goes on if a number follows."""
_PERHAPS = frozenset(
    re.findall(
        r"\S+",
        """etc al inc ltd co corp jr sr bros dept est u.s u.k u.n e.u d.c a.m p.m a.d b.c ph.d m.d b.a m.a b.s m.s ed eds""",
    )
)
"""Abbreviations that may close a sentence: it ends there if the next word looks like a beginning."""
_OPENERS = frozenset(
    re.findall(
        r"\S+",
        """a an and although after all another as at because before both but by despite during each every finally first for
    from he her here his how however i if in it its later many meanwhile more most my no not now of on one or other
    our over she since so some such that the their then there these they this those though thus to under until we
    what when where which while who with you your""",
    )
)
"""Words that begin sentences rather than names."""


@dataclass(frozen=True)
class Stretch:
    """A sentence, or what stands for one: a heading, an item of a list, a block of code."""

    start: int
    """Its first character."""
    end: int
    """One past its last; neither is white space."""
    code: bool = False
    """Whether it is a block of code, which is kept whole."""
    block: int = 0
    """The number of its paragraph in the text, from 0."""

    def of(self, text: str) -> str:
        """What it says in the text that it was found in."""
        return text[self.start : self.end]


def split(text: str) -> list[Stretch]:
    """The sentences of a text in order; they don't overlap, and all but white space and list marks lies in one of them."""
    found: list[Stretch] = []
    for block, (start, end, code) in enumerate(_blocks(text)):
        pieces = [(start, end)] if code else _in_block(text, start, end)
        for first, last in pieces:
            first, last = _stripped(text, first, last)
            if first < last:
                found.append(Stretch(first, last, code, block))
    return found


def _in_block(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The sentences of a paragraph."""
    if mark := _MARK.match(text, start, end):
        start = mark.end()
    for mark in _END.finditer(text, start, end):
        if _closes(text, start, mark, end):
            yield start, mark.end()
            start = mark.end()
    yield start, end


def _closes(text: str, start: int, mark: re.Match[str], end: int) -> bool:
    """Whether a sentence that began at `start` ends with a mark."""
    rest = text[mark.end() : min(end, mark.end() + 60)].lstrip()
    following = rest.lstrip("\"'“‘«([`*")
    if not rest or mark[0][0] in "。！？":
        return True
    if not following or following[0].islower():
        return False
    if mark[0][0] != "." or mark[0].startswith(".."):
        return True
    before = re.search(r"[^\s(\[\"'“‘`]+$", text[start : mark.start()].rstrip())
    word = before[0].lower() if before else ""
    opener = (re.match(r"\w+", following) or [""])[0].lower() in _OPENERS
    if word in _NEVER or (word in _BEFORE_NUMBERS and following[0].isdigit()):
        return False
    if word in _PERHAPS or re.fullmatch(r"[a-z]|(?:[a-z]\.)+[a-z]", word):  # an initial, "U.S."
        return opener
    return not (before and before.start() == 0 and word.isdigit() and len(word) <= 3)  # "1. Install it"


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """What no sentence crosses: (start, end, whether it is code) of paragraphs, headings, items and blocks of code."""
    start, code, fenced, at, previous = -1, False, "", 0, ""
    for line in text.splitlines(keepends=True):
        here, at = at, at + len(line)
        bare = line.rstrip()
        fence = _FENCE.match(bare)
        if fenced:
            if fence and fence[1] == fenced:
                yield start, at, True
                start, fenced = -1, ""
            continue
        is_code = bool(_CODE.match(bare)) and (start < 0 or code or not bare.startswith((" ", "\t")))
        is_code |= code and start >= 0 and text[start:here].lstrip().startswith(">>>")  # what it printed
        breaks = not bare or fence or is_code != code or (not is_code and not _goes_on(previous, bare))
        if start >= 0 and breaks:
            yield start, here, code
            start = -1
        if start < 0 and bare:
            start, code, fenced = here, is_code, fence[1] if fence else ""
        previous = bare
        if not bare:
            code = False
    if start >= 0:
        yield start, len(text), code or bool(fenced)


def _goes_on(line: str, following: str) -> bool:
    """Whether a line is wrapped text that the following one continues. Files are wrapped at 60 to 100 columns; extracted
    pages not at all."""
    if (
        _MARK.match(following)
        or _MARK.fullmatch(line + " ")
        or line.lstrip().startswith("#")
        or "|" in (line[:1], following[:1])
    ):
        return False
    last = line.rpartition(" ")[2].lower()
    if line.endswith((",", ";", "-", "–", "(")) or following.lstrip()[0].islower() or last.rstrip(".") in _NEVER:
        return True
    return 50 <= len(line) <= 110 and not line.endswith(":")


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """A stretch without the white space at its ends."""
    inside = text[start:end]
    return end - len(inside.lstrip()), start + len(inside.rstrip())
