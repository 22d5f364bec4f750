"""Texts made comparable before errors are counted (paper, Appendix C; official `normalizers/`): a transcript must not pay for writing
"Mr. Kim's 20%" where the reference has "mister kim is twenty percent". What comes out is for scoring, not for reading."""

import json
import re
import unicodedata
from fractions import Fraction
from functools import cache

import regex

from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.whisper.languages import WITHOUT_SPACES, code


def english(text: str) -> str:
    """English without case, punctuation, fillers and contractions, with numbers in digits and American spelling.

    British spellings stay where the official table of them (`english.json` of the data set `whisper-vocabulary`) is not at hand.

    Raises:
        UserError: that table can't be read.
    """
    text = _without_asides(text.lower())
    text = re.sub(r"\b(hmm|mm|mhm|mmm|uh|um)\b", "", text)
    text = re.sub(r"\s+'", "'", text)
    text = _expanded(text)
    text = re.sub(r"(\d),(\d)", r"\1\2", text)
    text = re.sub(r"\.([^0-9]|$)", r" \1", text)  # periods that are not decimal points
    text = unicodedata.normalize("NFKD", text).translate(_FOR_NUMBERS)
    american = _american()
    text = " ".join(american.get(word, word) for word in _with_digits(text).split())
    text = re.sub(r"[.$¢€£]([^0-9])", r" \1", text)  # signs that belong to no number
    text = re.sub(r"([^0-9])%", r"\1 ", text)
    return re.sub(r"\s+", " ", text)


def basic(text: str, *, remove_diacritics: bool = False, split_letters: bool = False) -> str:
    """Any language without case, punctuation and symbols.

    Args:
        text: what was said.
        remove_diacritics: write é as e and ß as ss.
        split_letters: put a space between all letters, so that errors in words are errors in letters.
    """
    text = _without_asides(text.lower())
    form, table = ("NFKD", _WITHOUT_DIACRITICS) if remove_diacritics else ("NFKC", _WITH_DIACRITICS)
    text = unicodedata.normalize(form, text).translate(table).lower()
    if split_letters:
        text = " ".join(regex.findall(r"\X", text))
    return re.sub(r"\s+", " ", text)


def for_language(text: str, language: str) -> str:
    """What the paper does for a language, given by code or English name: `english` for English and `basic` for the others, in letters
    where there are no spaces between words."""
    found = code(language)
    return english(text) if found == "en" else basic(text, split_letters=found in WITHOUT_SPACES)


def _without_asides(text: str) -> str:
    """Without what is in brackets: sounds and speakers, not speech."""
    return re.sub(r"\(([^)]+?)\)", "", re.sub(r"[<\[][^>\]]*[>\]]", "", text))


class _SymbolTable(dict[int, str]):
    """For `str.translate`: symbols, punctuation and marks → a space. It grows with the characters that are asked for."""

    def __init__(self, known: dict[str, str], accent: str):
        super().__init__({ord(character): replacement for character, replacement in known.items()})
        self.accent = accent
        """What stands for a mark that takes no room of its own."""

    def __missing__(self, point: int) -> str:
        category = unicodedata.category(chr(point))
        self[point] = self.accent if category == "Mn" else " " if category[0] in "MSP" else chr(point)
        return self[point]


_LETTERS = {
    "œ": "oe", "ø": "o", "æ": "ae", "Æ": "AE", "ß": "ss", "đ": "d", "ð": "d", "þ": "th", "ł": "l",
}  # fmt: skip
"""Letters that Unicode does not take apart. A capital Æ can follow lower-casing: it is what ᴭ stands for."""
_WITH_DIACRITICS = _SymbolTable({}, accent=" ")
_WITHOUT_DIACRITICS = _SymbolTable(_LETTERS, accent="")
_FOR_NUMBERS = _SymbolTable(_LETTERS | {sign: sign for sign in ".%$¢€£"}, accent="")


@cache
def _american() -> dict[str, str]:
    """British → American spelling; empty where the table is not at hand."""
    path = hub.data("whisper-vocabulary") / "english.json" if hub.has_data("whisper-vocabulary") else None
    if path is None or not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a table of spellings ({error})", "get it anew") from None


_SHORT = {
    "won't": "will not", "can't": "can not", "let's": "let us", "ain't": "aint", "y'all": "you all", "wanna": "want to",
    "gotta": "got to", "gonna": "going to", "i'ma": "i am going to", "imma": "i am going to", "woulda": "would have",
    "coulda": "could have", "shoulda": "should have", "ma'am": "madam",
} | {
    title: f"{full} "
    for title, full in {
        "mr": "mister", "mrs": "missus", "st": "saint", "dr": "doctor", "prof": "professor", "capt": "captain",
        "gov": "governor", "ald": "alderman", "gen": "general", "sen": "senator", "rep": "representative",
        "pres": "president", "rev": "reverend", "hon": "honorable", "asst": "assistant", "assoc": "associate",
        "lt": "lieutenant", "col": "colonel", "jr": "junior", "sr": "senior", "esq": "esquire",
    }.items()
}  # fmt: skip
"""Whole words and what they are short for. Titles end in a space, for the next word may follow their period directly."""
_ENDINGS = {"re": "are", "s": "is", "d": "would", "ll": "will", "t": "not", "ve": "have", "m": "am"}
"""What follows an apostrophe at the end of a word."""
_SHORT_WORD = re.compile(rf"\b({'|'.join(_SHORT)})\b")
_ENDING = re.compile(rf"'({'|'.join(_ENDINGS)})\b")


def _expanded(text: str) -> str:
    """Without contractions and abbreviated titles."""
    text = _SHORT_WORD.sub(lambda found: _SHORT[found[1]], text)
    text = re.sub(r"'d (been|gone|done)\b", r" had \1", text)  # before a participle, 'd and 's are forms of to have
    text = re.sub(r"'s (been|gone|got)\b", r" has \1", text)
    text = re.sub(r"n't\b", " not", text)
    return _ENDING.sub(lambda found: f" {_ENDINGS[found[1]]}", text)


_ZEROS = frozenset(("o", "oh", "zero"))
_UNITS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_FACTORS = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
    "quintillion": 10**18, "sextillion": 10**21, "septillion": 10**24, "octillion": 10**27, "nonillion": 10**30,
    "decillion": 10**33,
}  # fmt: skip
_IRREGULAR = {1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 12: "twelfth"}
"""Ordinals. That of nine is irregular too, but the official normaliser knows only "nineth"."""
_ORDINAL_ENDINGS = {1: "st", 2: "nd", 3: "rd"}

_Endings = dict[str, tuple[int, str]]
"""Word → number and the ending that it has in digits."""


def _with_endings(names: dict[str, int]) -> _Endings:
    """The words as they are, in the plural (sixties → 60s) and as ordinals (sixtieth → 60th)."""
    found: _Endings = {name: (number, "") for name, number in names.items()}
    for name, number in names.items():
        stem = f"{name[:-1]}ie" if name in _TENS else name
        found["sixes" if name == "six" else f"{stem}s"] = number, "s"
        found[_IRREGULAR.get(number, f"{stem}th")] = number, _ORDINAL_ENDINGS.get(number, "th")
    return found


_ADDED = _with_endings(_UNITS | _TENS) | {"zeroth": (0, "th")}
_MULTIPLIED = _with_endings(_FACTORS)
_SIGNS = {"minus": "-", "negative": "-", "plus": "+", "positive": "+"}
_CURRENCIES = {
    "pound": "£", "pounds": "£", "euro": "€", "euros": "€", "dollar": "$", "dollars": "$", "cent": "¢", "cents": "¢",
}  # fmt: skip
_REPEATS = {"double": 2, "triple": 3}
_DIGIT_WORDS = _ZEROS | set(_UNITS)
_DECIMALS = _DIGIT_WORDS | set(_TENS)
"""What can follow a point."""
_VOCABULARY = _ZEROS | {*_ADDED, *_MULTIPLIED, *_SIGNS, *_CURRENCIES, *_REPEATS} | {"per", "percent", "and", "point"}
_IN_DIGITS = re.compile(r"\d+(\.\d+)?")
_IN_DIGITS_WITH_CURRENCY = re.compile(r"([$¢€£]?)(\d+(?:\.\d+)?)")
_MOST_DIGITS = 4200
"""Numbers with more are left alone: Python converts none with more than 4,300, and multiplying adds some."""

_Number = int | str
"""An `int` is an amount that can still grow: twenty → twenty five → 25 thousand. A `str` is digits in a row, which the next ones are
put behind: one oh one, nineteen eighty four, 1.5."""


def _with_digits(text: str) -> str:
    """Numbers in digits, with the sign of a currency before them and other endings behind: "20 million dollars" → "$20000000",
    "two dollars and five cents" → "$2.05", "nineteen sixties" → "1960s"; a lone 1 is written "one"."""
    text = re.sub(r"(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])", " ", _with_halves(text))
    text = re.sub(r"([0-9])\s+(st|nd|rd|th|s)\b", r"\1\2", text)
    text = " ".join(_NumberReader().read(text.split()))
    text = re.sub(r"([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b", lambda found: _with_cents(*found.groups()), text)
    # The next dot is any character, as officially: "$0 12" → "¢12".
    text = re.sub(r"[€£$]0.([0-9]{1,2})\b", lambda found: f"¢{int(found[1])}", text)
    return re.sub(r"\b1(s?)\b", r"one\1", text)


def _with_cents(currency: str, whole: str, cents: str) -> str:
    return f"{currency}{whole}.{int(cents):02d}"


def _with_halves(text: str) -> str:
    """Numbers in words "and a half" as "point five"."""
    *segments, rest = re.split(r"\band\s+a\s+half\b", text)
    parts = []
    for segment in segments:
        if words := segment.split():
            parts += [segment, "point five" if words[-1] in _DECIMALS or words[-1] in _FACTORS else "and a half"]
    return " ".join([*parts, rest])


class _NumberReader:
    """Reads words from left to right and writes the numbers among them in digits.

    A word is judged by its neighbours and by the number that it finds: one more part of it, its sign or ending, or its end.
    """

    def __init__(self) -> None:
        self.written: list[str] = []
        self.number: _Number | None = None
        """What has been read of the current number."""
        self.sign = ""
        """What goes before the next thing that is written."""
        self.skip = False
        """Whether the next word has been used already."""

    def read(self, words: list[str]) -> list[str]:
        """The words, with numbers in digits."""
        for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
            if self.skip:
                self.skip = False
            elif not (self._extend(word, before) or self._modify(word, before, after)):
                self._end()
                self._write(word)
        self._end()
        return self.written

    def _extend(self, word: str, before: str) -> bool:
        """Take a word that is a number, or one more part of the current number; whether it is."""
        if found := _numeral(word):
            self._take_digits(word, *found.groups())
        elif word in _ZEROS:
            self._put_behind("0")
        elif word in _ADDED:
            amount, ending = _ADDED[word]
            self.number = _followed(self.number, amount, before)
            if ending:
                self._end(ending)
        elif word in _MULTIPLIED:
            factor, ending = _MULTIPLIED[word]
            product = _times(self.number, factor)
            if product is None:  # two numbers: "1.2.3 million"
                self._end()
            self.number = factor if product is None else product
            if ending:
                self._end(ending)
        else:
            return False
        return True

    def _modify(self, word: str, before: str, after: str) -> bool:
        """Take a word that says something about a number, if it does so here; whether it does."""
        continues = after in _VOCABULARY or _IN_DIGITS.fullmatch(after) is not None
        if word in _CURRENCIES and self.number is not None:
            self.sign = _CURRENCIES[word]
            self._end()
        elif word == "percent" and self.number is not None:
            self._end("%")
        elif word == "per" and after == "cent" and self.number is not None:
            self._end("%")
            self.skip = True
        elif word in _SIGNS and continues:
            self._end()
            self.sign = _SIGNS[word]
        elif word in _REPEATS and after in _DIGIT_WORDS:
            self._put_behind(str(_UNITS.get(after, 0)) * _REPEATS[word])
            self.skip = True
        elif word == "point" and continues:  # it is dropped if what continues is no decimal
            if after in _DECIMALS or after not in _VOCABULARY:
                self._put_behind(".")
        else:  # two hundred *and* one
            return word == "and" and before in _FACTORS and continues
        return True

    def _take_digits(self, word: str, currency: str, digits: str) -> None:
        """A number that is in digits already."""
        if isinstance(self.number, str) and self.number.endswith("."):
            self.number += word
            return
        self._end()
        self.sign = currency or self.sign
        exact = Fraction(digits)
        self.number = exact.numerator if exact.denominator == 1 else digits

    def _put_behind(self, digits: str) -> None:
        self.number = f"{self.number or ''}{digits}"

    def _end(self, ending: str = "") -> None:
        """Write the current number, if there is one."""
        if self.number is not None:
            self._write(f"{self.number}{ending}")
        self.number = None

    def _write(self, text: str) -> None:
        self.written.append(self.sign + text)
        self.sign = ""


def _numeral(word: str) -> re.Match[str] | None:
    return _IN_DIGITS_WITH_CURRENCY.fullmatch(word) if len(word) <= _MOST_DIGITS else None


def _followed(number: _Number | None, amount: int, before: str) -> _Number:
    """A number and then an amount below a hundred, whose word follows the word `before`. It is added where there is room for it (twenty
    five, two hundred twelve), else its digits go behind: nineteen eighty four, one two, ten five."""
    if number is None:
        return amount
    if isinstance(number, str):
        replaces_zero = before in _TENS and amount < 10  # nineteen eighty, four
        return f"{number[:-1] if replaces_zero else number}{amount}"
    room = 10 if amount < 10 and before != "ten" else 100
    return number + amount if number % room == 0 else f"{number}{amount}"


def _times(number: _Number | None, factor: int) -> int | None:
    """A number and then a hundred, a thousand …, which multiplies only what is below a thousand: two million, five → two million, five
    thousand.

    Returns:
        None where digits in a row are no number, or not a whole one after multiplying.
    """
    if number is None:
        return factor
    if isinstance(number, int):
        below = number % 1000
        return number - below + below * factor
    try:
        product = Fraction(number) * factor if len(number) <= _MOST_DIGITS else None
    except ValueError:  # 1.2.3
        return None
    return product.numerator if product is not None and product.denominator == 1 else None
