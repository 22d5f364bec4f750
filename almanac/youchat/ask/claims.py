"""What can be checked in a sentence without understanding it: quantities with their units, dates, names, negations, and which way a
comparison points. The verifier compares those of a claim with those of its source (`verify`); what is compared how is said there,
when two of a kind agree is said here."""

import math
import re
import unicodedata
import zlib
from dataclasses import dataclass, field, replace

from almanac.youchat.text.terms import STOP_WORDS, stem, words

_ONES = re.findall(
    r"\S+",
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen""",
)
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBER_WORDS = {word: value for value, word in enumerate(_ONES)} | {word: 10 * at for at, word in enumerate(_TENS, 2)}
"""The value of each small number's word."""
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "bn": 1e9, "dozen": 12.0}
_ORDINALS = {
    "third": 3,
    "fifth": 5,
    "eighth": 8,
    "ninth": 9,
    "twelfth": 12,
    "twentieth": 20,
} | {f"{word}th": value for value, word in enumerate(_ONES) if value in (4, 6, 7, 10, 11, *range(13, 20))}
_UNITS: dict[str, tuple[str, float]] = {
    name: (unit, factor)
    for unit, names in {
        "metre": {"mm": 1e-3, "millimetre": 1e-3, "cm": 1e-2, "centimetre": 1e-2, "metre": 1, "km": 1e3, "kilometre": 1e3,
                  "mile": 1609.344, "foot": 0.3048, "feet": 0.3048, "ft": 0.3048, "yard": 0.9144, "inch": 0.0254, "inche": 0.0254},
        "gram": {"mg": 1e-3, "milligram": 1e-3, "µg": 1e-6, "g": 1, "gram": 1, "kg": 1e3, "kilogram": 1e3, "tonne": 1e6, "lb": 453.592,
                 "pound": 453.592, "ounce": 28.3495, "oz": 28.3495},
        "second": {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "millisecond": 1e-3, "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60,
                   "h": 3600, "hr": 3600, "hour": 3600, "day": 86400, "week": 604800},
        "year": {"month": 1 / 12, "year": 1, "decade": 10, "century": 100, "centurie": 100},
        "per cent": {"%": 1, "percent": 1, "per cent": 1},
        "byte": {"byte": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15, "kib": 1024, "mib": 1 << 20, "gib": 1 << 30,
                 "tib": 1 << 40, "kilobyte": 1e3, "megabyte": 1e6, "gigabyte": 1e9, "terabyte": 1e12, "petabyte": 1e15,
                 "kibibyte": 1024, "mebibyte": 1 << 20, "gibibyte": 1 << 30, "tebibyte": 1 << 40},
        "dollar": {"$": 1, "dollar": 1, "usd": 1}, "euro": {"€": 1, "euro": 1, "eur": 1}, "sterling": {"£": 1, "gbp": 1},
        "hertz": {"hz": 1, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}, "watt": {"w": 1, "kw": 1e3, "mw": 1e6, "watt": 1},
        "celsius": {"°c": 1}, "fahrenheit": {"°f": 1}, "mph": {"mph": 1}, "km/h": {"km/h": 1}, "litre": {"litre": 1, "ml": 1e-3},
    }.items()
    for name, factor in names.items()
}  # fmt: skip
"""A unit's singular: what it measures in, and how many of those."""
_MONTHS = re.findall(
    r"\S+", """january february march april may june july august september october november december"""
)
_MONTH = (
    {name: at for at, name in enumerate(_MONTHS, 1)}
    | {name[:3]: at for at, name in enumerate(_MONTHS, 1)}
    | {"sept": 9}
)

_ALTERNATIVES = "|".join(sorted({*NUMBER_WORDS, *_SCALES}, key=len, reverse=True))
_NUMBER = re.compile(
    rf"""(?P<money>[$€£]\s?)?(?:(?<![\w.])(?P<sign>[-−]\s?(?=\d))?(?P<digits>\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d+(?:\.\d+)?)(?P<version>(?:\.\d+)+)?
    (?P<ordinal>st|nd|rd|th)?(?P<decade>'?s)?(?![\d])
    |\b(?P<words>(?:{_ALTERNATIVES})(?:(?:\s?-\s?|\s+and\s+|\s+)(?:{_ALTERNATIVES}))*)\b)
    (?:\s?-?\s?(?P<scale>hundred|thousand|million|billion|trillion|bn)\b)?""",
    re.VERBOSE | re.IGNORECASE,
)
_UNIT = re.compile(r"\s?-?\s?(per\s?cent|km/h|°\s?[CF]|%|µ?[A-Za-z]+)")
_MONTH_NAME = rf"(?P<month>{'|'.join(sorted(_MONTH, key=len, reverse=True))})\b\.?"
_DATES = [
    re.compile(r"\b(?P<year>\d{4})-(?P<number>\d{2})-(?P<day>\d{2})\b"),
    re.compile(
        rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH_NAME}(?:\s?,?\s?(?P<year>\d{{4}})\b)?",
        re.IGNORECASE,
    ),
    re.compile(
        rf"\b{_MONTH_NAME}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?:\s?,?\s?(?P<year>\d{{4}})\b)?", re.IGNORECASE
    ),
    re.compile(rf"\b{_MONTH_NAME}\s?,?\s(?:of\s)?(?P<year>\d{{4}})\b", re.IGNORECASE),
    re.compile(r"(?<![\d.,$€£])\b(?P<year>1\d{3}|20\d{2})\b(?![.,]\d|\s?(?:%|per\b|km|kg|people|men|feet|ft|m\b))"),
]
_HEDGE = re.compile(
    r"\b(about|approximately|approx\.?|around|roughly|nearly|almost|some|circa|ca?\.|over|more than|at least|up to|under)\s*$",
    re.I,
)
_BOUND = re.compile(
    r"(?<!\bno )(?<!\bnot )\b(?:(?P<less>(?:fewer|less|lower|smaller|shorter) than|below)"
    r"|(?:more|greater|higher|larger|longer) than|over|above|exceed(?:s|ed|ing)?)\s*$",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not(?!\s+(?:only|just|least))|never|neither|nor|none|nobody|nothing|nowhere|cannot|without|unable|(?<!\bif )no(?!\.?\s?\d)"
    r"|lacks?|lacked|lacking|fails?|failed|rarely|hardly|scarcely)\b|\w+n\s?['’]t\b|\bn't\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[,;:.!?()]|\b(?:but|although|though|while|whereas|because|which|who)\b", re.IGNORECASE)
_COMPASS = frozenset(["north", "south", "east", "west", "northern", "southern", "eastern", "western"])
_WORD = re.compile(r"[^\W_]+(?:[._][^\W_]+)*")
_AXES: dict[str, tuple[str, int]] = {
    stem(word): (axis, sign)
    for axis, (more, less) in {
        "amount": (
            "increase increased rise rises raise grow grew growth higher more greater larger gain expand improve exceed enhance elevated",
            "decrease decreased fall falls fell drop lower fewer less smaller decline reduce reduced reduction shrink worsen diminish",
        ),
        "time": ("before earlier prior preceding", "after later following subsequent"),
        "length": ("longer taller", "shorter"), "pace": ("faster quicker", "slower"), "heat": ("hot hotter warmer", "cold colder cooler"),
        "latitude": ("north northern", "south southern"), "longitude": ("east eastern", "west western"),
        "extreme": ("largest highest most maximum biggest best", "smallest lowest least minimum worst"),
        "outcome": ("win won victory succeed success", "lose lost defeat failure"), "switch": ("enable enabled on", "disable disabled"),
        "consent": ("allow allowed permit accept accepted approve legal", "forbid forbidden prohibit reject rejected deny illegal"),
        "effect": ("promote activate activates stimulate induce", "inhibit inhibits suppress block prevent impair"),
        "membership": ("include includes included", "exclude excludes excluded"), "birth": ("born", "died"),
        "evaluation": ("positive positively true", "negative negatively false"),
        "ends": ("begin began start started open", "end ended finish close"),
        "presence": ("present presence", "absent absence"), "cost": ("expensive", "cheap cheaper"), "move": ("arrive enter", "leave exit"),
        "age": ("old older oldest", "young younger youngest new newer newest"), "side": ("left", "right"), "order": ("first", "last"),
        "frequency": ("always", "never"), "wealth": ("rich richer", "poor poorer"), "speed": ("fast", "slow"),
        "width": ("wide wider", "narrow"),
        "access": ("public", "private"), "place": ("internal inside indoor", "external outside outdoor"), "height": ("upper top", "bottom"),
        "number": ("single", "multiple"), "rarity": ("common", "rare"), "sex": ("male", "female"),
        "weight": ("heavy heavier", "light lighter"),
        "strength": ("strong stronger", "weak weaker"), "rank": ("major", "minor"), "earliness": ("early", "late"),
        "size": ("large big", "small little"), "stretch": ("long", "short"), "vitality": ("alive", "dead"), "contest": ("winner", "loser"),
    }.items()
    for sign, words in ((1, more), (-1, less))
    for word in words.split()
}  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """A number and what it counts."""

    value: float
    """In the unit."""
    unit: str
    """What is measured in, e.g. "metre" for kilometres too; empty where it is none that we know."""
    digits: int
    """How many significant ones were written."""
    hedged: bool
    """Whether "about" or the like stands before it."""
    text: str
    """As it stands in the sentence."""
    at: int = field(default=0, compare=False)
    """The character of the sentence at which it begins."""
    bound: int = 0
    """1 where it says "more than" or the like, −1 where "less than", 0 where neither."""

    def agrees(self, other: "Quantity") -> bool:
        """Whether another says the same, or what this one is rounded from. Units that are not known agree with all."""
        if self.unit and other.unit and self.unit != other.unit:
            return False
        if self.bound and self.bound != other.bound and (other.value - self.value) * self.bound <= 0:
            return False  # "fewer than 800" of 800, or of more than 800
        if math.isclose(self.value, other.value, rel_tol=1e-6):  # converted units leave a little
            return True
        if self.hedged and math.isclose(self.value, other.value, rel_tol=0.06):
            return True
        rounded = float(f"{other.value:.{self.digits}g}")
        return self.digits >= 2 and other.digits > self.digits and math.isclose(rounded, self.value, rel_tol=1e-6)


@dataclass(frozen=True)
class Date:
    """A date, or as much of one as is said."""

    year: int = 0
    """0 where it isn't said."""
    month: int = 0
    """From 1; 0 where it isn't said."""
    day: int = 0
    """From 1; 0 where it isn't said."""
    at: int = field(default=0, compare=False)
    """The character of the sentence at which it begins."""

    def agrees(self, other: "Date") -> bool:
        """Whether another says at least as much, and the same."""
        pairs = ((self.year, other.year), (self.month, other.month), (self.day, other.day))
        return all(not mine or mine == theirs for mine, theirs in pairs)


@dataclass(frozen=True)
class Claims:
    """What can be checked in a sentence."""

    quantities: tuple[Quantity, ...]
    """In order; numbers in dates are not among them."""
    dates: tuple[Date, ...]
    """In order."""
    names: tuple[tuple[str, ...], ...]
    """Names of persons, places, programs: the stems of each one's words."""
    subject: str
    """The stem of the first word, where it may be a name or only a sentence's capital letter; else empty."""
    negated: tuple[tuple[str, ...], ...]
    """For each negation the stems that it may negate: the first few words after it that tell something, the nearest first."""
    directions: tuple[tuple[str, int], ...]
    """Axes of comparison and which way each points, e.g. ("amount", -1) for "fewer"; as often as it is said."""


def claims(sentence: str) -> Claims:
    """What can be checked in a sentence."""
    sentence = unicodedata.normalize("NFC", sentence)
    dates, rest = _dates(sentence)
    names, subject = _names(sentence)
    found = [_AXES[each] for each in (stem(word.lower()) for word in _WORD.findall(sentence)) if each in _AXES]
    return Claims(_quantities(rest), dates, names, subject, _negated(sentence), tuple(found))


def _dates(sentence: str) -> tuple[tuple[Date, ...], str]:
    """The dates, and the sentence with blanks in their places."""
    found: list[tuple[int, Date]] = []
    for pattern in _DATES:
        for match in pattern.finditer(sentence):
            parts = match.groupdict()
            month = int(parts.get("number") or 0) or _MONTH.get((parts.get("month") or "").lower(), 0)
            date = Date(int(parts.get("year") or 0), month, int(parts.get("day") or 0))
            if date.month <= 12 and date.day <= 31:
                found.append((match.start(), date))
                sentence = sentence[: match.start()] + " " * len(match[0]) + sentence[match.end() :]
    return tuple(replace(date, at=at) for at, date in sorted(found, key=lambda each: each[0])), sentence


def _quantities(sentence: str) -> tuple[Quantity, ...]:
    found = []
    for match in _NUMBER.finditer(sentence):
        unit = _UNIT.match(sentence, match.end())
        name = re.sub(r"\s", "", unit[1]).lower() if unit else ""
        name = name if name in _UNITS else name.removesuffix("s").replace("meter", "metre")
        kind, factor = _UNITS.get((match["money"] or "").strip() or name, ("", 1.0))
        if match["ordinal"]:  # "19th century" is a number, not a length of time
            kind, factor = "", 1.0
        if match["version"]:  # 3.11.2 is a name more than a number: it agrees only with itself
            value, digits = 1e9 + zlib.crc32((match["digits"] + match["version"]).encode()), 10
        elif match["digits"]:
            value, digits = float(match["digits"].replace(",", "")), _significant(match["digits"])
            value *= -1 if match["sign"] else 1
        elif match["words"].lower() == "one" and not kind:
            continue  # a pronoun more often than a number
        else:
            value, digits = _spoken(match["words"].lower()), 1
            digits = _significant(f"{value:.12g}")
        value *= _SCALES.get((match["scale"] or "").lower(), 1.0)
        hedged = bool(_HEDGE.search(sentence, max(0, match.start() - 20), match.start()))
        bound = _BOUND.search(sentence, max(0, match.start() - 20), match.start())
        way = 0 if bound is None else -1 if bound["less"] else 1
        found.append(Quantity(value * factor, kind, digits, hedged, match[0].strip(), match.start(), way))
    for match in _WORD.finditer(sentence.lower()):
        if match[0] in _ORDINALS:
            found.append(Quantity(float(_ORDINALS[match[0]]), "", 2, False, match[0], match.start()))
    return tuple(found)


def _spoken(words: str) -> float:
    """The value of a number in words, e.g. "two hundred and five thousand"."""
    total = part = 0.0
    for word in re.findall(r"[a-z]+", words):
        if word in NUMBER_WORDS:
            part += NUMBER_WORDS[word]
        elif word in _SCALES:
            part = max(part, 1.0) * _SCALES[word]
            if _SCALES[word] >= 1e3:
                total, part = total + part, 0.0
    return total + part


def _significant(digits: str) -> int:
    """How many of its digits say something: 1,200 has two, 3.0 too."""
    bare = digits.replace(",", "").lstrip("0.")
    return max(1, len(bare.replace(".", "")) if "." in digits else len(bare.rstrip("0")))


def _names(sentence: str) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Names, and the first word if it might be one."""
    found: list[list[str]] = []
    previous, subject = -1, ""
    tokens = list(_WORD.finditer(sentence))
    for at, token in enumerate(tokens):
        word = token[0]
        capital = word[0].isupper() or any(letter.isupper() for letter in word[1:])
        special = (
            "_" in word
            or any(letter.isupper() for letter in word[1:])
            or (word[0].isalpha() and any(map(str.isdigit, word)))
        )
        opening = at == 0 or sentence[: token.start()].rstrip(" \"'“‘(`*[")[-1:] in (".", "!", "?", ":", "")
        if (
            not (capital or special)
            or (word.lower() in STOP_WORDS and not special)
            or word.lower() in _MONTH
            or word.lower() in _COMPASS
        ):
            continue
        if opening and not special and not (at + 1 < len(tokens) and _is_name(tokens[at + 1][0], sentence, token)):
            subject = subject or (stem(word.lower()) if at == 0 else "")
            continue
        joined = previous == at - 1 and found and not sentence[tokens[at - 1].end() : token.start()].strip(" -'’.")
        if joined:
            found[-1] += _parts(word)
        else:
            found.append(_parts(word))
        previous = at
    return tuple(map(tuple, dict.fromkeys(map(tuple, found)))), subject


def _parts(word: str) -> list[str]:
    """The stems of what an index makes of a word: "os.path" is two."""
    return [stem(part) for part in words(word)]


def _is_name(following: str, sentence: str, token: re.Match[str]) -> bool:
    """Whether the word after a sentence's first shows that the first is part of a name, as in "Ada Lovelace wrote"."""
    between = sentence[token.end() : token.end() + 2].strip()
    return not between and following[0].isupper() and following.lower() not in STOP_WORDS


def _negated(sentence: str) -> tuple[tuple[str, ...], ...]:
    found = []
    for match in _NEGATION.finditer(sentence):
        clause = _CLAUSE.search(sentence, match.end())
        scope = sentence[match.end() : clause.start() if clause else len(sentence)]
        inside = [stem(word) for word in words(scope) if word not in STOP_WORDS and not word.endswith("ly")]
        found.append(tuple(inside[:4]))
    return tuple(found)
