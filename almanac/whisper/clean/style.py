"""Transcript-ese: how texts look that an existing recogniser wrote (paper §2.1). A model that learns them writes like it: in one case,
without commas, without capitals at the start of sentences, without spaces where they belong, with numbers as no person writes
them. Paragraphs, which the paper names too, have no place in a list of single lines."""

import re
from collections.abc import Iterator, Sequence
from functools import cache

import regex

from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Row, Verdict, by_source
from almanac.whisper.languages import WITHOUT_SPACES

_COMPLEX = frozenset("!?,;:…¿¡–—、，！？；：،؟؛՝՞՜፣፥၊")
"""Punctuation beyond full stops."""
_WITHOUT_PUNCTUATION = frozenset(("th", "lo"))
"""Languages that are written without it."""
_LONGEST_WORD = 60
"""Letters; what is longer are words without spaces between them."""


def one_case(rows: Sequence[Row], limits: Limits) -> Iterator[tuple[Row, Verdict]]:
    """All letters are upper case, or all are lower case; and the short texts of a source where that is so. Where texts begin in the
    middle of sentences, as some with capitals later on show, one sentence in lower case may be such a piece too."""
    for source, texts in by_source(rows).items():
        judged = [row for row in texts if row.words >= limits.words and _case(row.entry.text)]
        begun = [row for row in judged if _first(row.entry.text).islower()]
        pieces = sum(_case(row.entry.text) == "mixed" for row in begun) >= limits.pieces * max(1, len(begun))
        hit = [row for row in judged if _one_case(row.entry.text, pieces)]
        for row in hit:
            yield row, Verdict(f"all {_case(row.entry.text)} case")
        if len(judged) >= limits.source_rows and len(hit) >= limits.source_share * len(judged):
            for row in texts:
                if 0 < row.words < limits.words and _one_case(row.entry.text, pieces):
                    yield row, Verdict(f"nearly all of {source} is in one case")


def punctuation(rows: Sequence[Row], limits: Limits) -> Iterator[tuple[Row, Verdict]]:
    """A text has none where it should have some, or nothing but full stops though it is long; or a source never has a comma,
    question or exclamation mark."""
    for source, texts in by_source(rows).items():
        judged = [row for row in texts if row.written not in _WITHOUT_PUNCTUATION]
        sentences = [row for row in judged if row.words >= limits.unpunctuated_words]
        plain = sum(row.words for row in sentences) >= limits.source_words
        plain = plain and not any(_complex(row.entry.text) for row in judged)
        for row in judged:
            if row.words >= limits.unpunctuated_words and not _punctuated(row.entry.text):
                yield row, Verdict(f"{row.words} words without punctuation")
            elif row.words >= limits.complex_words and not _complex(row.entry.text):
                yield row, Verdict(f"{row.words} words with full stops only")
            elif plain and row.entry.text:
                yield row, Verdict(f"{source} has no comma, question or exclamation mark anywhere")


def capitals(rows: Sequence[Row], limits: Limits) -> Iterator[tuple[Row, Verdict]]:
    """Most sentences of a text begin in lower case. A text of one sentence may be cut from the middle of another, so that it is
    judged only with its source: nearly all of those begin so."""
    for source, texts in by_source(rows).items():
        judged = [(row, _starts(row.entry.text)) for row in texts if row.words >= limits.words]
        judged = [(row, starts) for row, starts in judged if starts]
        lower = sum(starts[0].islower() for _, starts in judged)
        whole = len(judged) >= limits.source_rows and lower >= limits.source_share * len(judged)
        for row, starts in judged:
            small = sum(letter.islower() for letter in starts)
            if len(starts) > 1 and small > len(starts) / 2:
                yield row, Verdict(f"{small} of {len(starts)} sentences begin in lower case")
            elif whole and starts[0].islower():
                yield row, Verdict(f"nearly all texts of {source} begin in lower case")


def spacing(row: Row, limits: Limits) -> Verdict | None:
    """No space follows a comma or the end of a sentence, or words run into each other."""
    if row.written in WITHOUT_SPACES:
        return None
    glued = regex.search(r"\p{L}{2}[,;!?]\p{L}{2}|\p{Ll}{2}\.\p{Lu}\p{Ll}", row.entry.text)
    if glued is not None:
        return Verdict(f"no space in '{glued[0]}'")
    if any(len(word) > _LONGEST_WORD for word in regex.findall(r"\p{L}+", row.entry.text)):
        return Verdict("no spaces between words")
    return None


def numbers(row: Row, limits: Limits) -> Verdict | None:
    """Numbers as rules write them and persons do not: "twenty five" without a hyphen, years in words; in English, a 1 where "one" is no
    number, and digits parted from what belongs to them ("5 th", "$ 20", "9 : 30")."""
    spelled = _spelled(row.entry.text, row.written)
    if spelled:
        return Verdict(f"'{spelled}' is in words")
    found = _BY_RULE.search(row.entry.text) if row.written == "en" else None
    return Verdict(f"'{found[0].strip()}' was put into digits by rule") if found else None


_BY_RULE = re.compile(
    r"\b(?:this|that|every|any|each|another|which|some|no) 1\b"
    r"|\b1 (?:of (?:the|them|us|those|these|my|his|her|our)|another|day|thing)\b"
    r"|\d (?:st|nd|rd|th)\b|[$£€] \d|\d : \d\d\b|\d [ap] m\b",
    re.IGNORECASE,
)
_LONGEST_NUMBER = 8
"""Words; "one thousand nine hundred and eighty four" has seven."""
_MOST = 2100
"""Numbers up to here, years among them, are known in words; of most larger ones, so is the end."""


def _spelled(text: str, language: str) -> str:
    """The first number of a text that is written in words, though persons write such in digits or with hyphens."""
    known = _in_words(language)
    words = [word.strip(".,!?;:\"'()") for word in text.lower().split()] if known else []
    for first, word in enumerate(words):
        following = (" ".join(words[first : first + length]) for length in range(_LONGEST_NUMBER, 0, -1))
        ends = (word[place:] for place in range(1, len(word)))  # zweiundvierzigtausend*einundzwanzig*
        if found := next((part for part in (*following, *ends) if part in known), ""):
            return found
    return ""


@cache
def _in_words(language: str) -> frozenset[str]:
    """Numbers from 21 on in words, without hyphens, except round ones; empty where they are not known."""
    from num2words import num2words

    found = set()
    for value in range(21, _MOST):
        if value % (10 if value < 100 else 100) == 0:
            continue
        for kind in ("cardinal", "year") if value > 1100 else ("cardinal",):
            try:
                text = str(num2words(value, lang=language, to=kind)).lower()
            except (NotImplementedError, TypeError, KeyError):
                continue
            text = text.replace("-", " ").replace(",", "").replace("\u00ad", "")
            found |= {text, text.replace(" and ", " ")}
    return frozenset(found)


def _case(text: str) -> str:
    """upper, lower or mixed; empty where a script has no case."""
    upper, lower = any(map(str.isupper, text)), any(map(str.islower, text))
    return "mixed" if upper and lower else "upper" if upper else "lower" if lower else ""


def _one_case(text: str, pieces: bool) -> bool:
    """Whether a text is in one case and not, where there are pieces of sentences, such a piece."""
    case = _case(text)
    return case == "upper" or (case == "lower" and not (pieces and len(_starts(text)) < 2))


def _first(text: str) -> str:
    """The first letter that has case."""
    return next((letter for letter in text if letter.isupper() or letter.islower()), "")


def _punctuated(text: str) -> bool:
    """Whether there is any punctuation but that within words."""
    return regex.search(r"[^\P{P}'’‘\-]", text) is not None


def _complex(text: str) -> bool:
    return not _COMPLEX.isdisjoint(text)


def _starts(text: str) -> list[str]:
    """The first letters of a text's sentences, where they have case."""
    found = regex.findall(r"(?:^|(?<=\p{Ll}{2}[.!?]\s))[^\p{L}\p{N}]*(\p{L})", text)
    return [letter for letter in found if letter.isupper() or letter.islower()]
