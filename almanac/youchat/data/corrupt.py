"""False sentences made of true ones: a number changed, a negation put in or taken out, a name exchanged, something added that no source
says, a word exchanged for its opposite, a bound put before a number or turned round. The verifier is fitted
against them and, made of other texts, measured with them. Some changes leave a sentence true by luck ("a 5-day week" of a source that
has both 5 and 6); nothing here can know that, so measured figures are lower bounds."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "negation", "name", "addition", "opposite", "comparator"]
KINDS: tuple[Kind, ...] = ("number", "negation", "name", "addition", "opposite", "comparator")
"""What can be planted."""
_DIGITS = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![\w.]*\w)")
_SPOKEN = re.compile(
    r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand)\b"
)
_NAME = re.compile(r"(?<!^)(?<![.!?:] )\b[A-Z][a-zà-ÿ]{2,}(?: [A-Z][a-zà-ÿ]+)*\b")
_AUXILIARY = re.compile(
    r"\b(is|are|was|were|has|have|had|can|could|will|would|should|must|may|might|does|do|did)\b(?! not|n't| \w+ not)"
)
_NEGATED = re.compile(
    r"\b(is|are|was|were|has|have|had|can|could|will|would|should|must|may|might|does|do|did) ?(?:not|n't)\b ?"
)
_LINKS = (" and ", " because ", " after ", ", which ", " so that ", ", where ", " while ")
_STRANGERS = (
    "Ottokar Lindqvist", "Port Marlow", "Helena Brandt", "Kestrel Systems", "Santa Irena", "Vasily Orlov", "Greenholm", "Tamsin Adeyemi",
)  # fmt: skip
"""Names that no source has."""
_PAIRS = [
    pair.split("/")
    for pair in re.findall(
        r"\S+",
        """maximum/minimum highest/lowest largest/smallest most/least more/fewer first/last before/after early/late high/low old/new
        increased/decreased increase/decrease rose/fell male/female always/never inside/outside internal/external public/private rich/poor
        hot/cold true/false safe/unsafe possible/impossible legal/illegal known/unknown able/unable common/rare major/minor single/multiple
        left/right north/south northern/southern east/west eastern/western included/excluded includes/excludes won/lost
        open/closed began/ended begins/ends life/death positive/negative longer/shorter higher/lower long/short large/small
        strong/weak active/inactive
        direct/indirect dependent/independent formal/informal similar/different same/opposite successful/unsuccessful winner/loser
        mother/father son/daughter husband/wife buy/sell bought/sold day/night summer/winter""",
    )
]
"""Words and their opposites. Some the verifier knows, some not."""
_OPPOSITES = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_ENTIRE = re.compile(rf"\b(?:{'|'.join(sorted(_OPPOSITES, key=len, reverse=True))})\b")
_COMPARED = re.compile(r"\b(?:more|fewer|less|greater|higher|lower|longer|shorter) than\b")
_COUNTED = re.compile(
    rf"(?<![\w.,$€£])(?!1\d{{3}}\b|20\d\d\b)\d+(?:,\d{{3}})*(?= [a-z]{{3,}})|{_SPOKEN.pattern}(?= [a-z]{{3,}})"
)
""""800 people", "twelve members", no years: what "more than" may stand before."""


@dataclass(frozen=True)
class Corruption:
    """A false sentence."""

    kind: Kind
    """What was done."""
    text: str
    """What it says now."""


def corrupt(
    sentence: str, others: Sequence[str], chance: random.Random, kinds: Sequence[Kind] = KINDS
) -> Corruption | None:
    """Make a true sentence false.

    Args:
        sentence: what is true.
        others: sentences of other texts, from which names and additions are taken.
        chance: what decides.
        kinds: what may be done to it.

    Returns:
        None where nothing of `kinds` can be done to it, such as where it has no number.
    """
    for kind in chance.sample(list(kinds), len(kinds)):
        changed = _WAYS[kind](sentence, others, chance)
        if changed and changed != sentence:
            return Corruption(kind, changed)
    return None


def _number(sentence: str, others: Sequence[str], chance: random.Random) -> str | None:
    found = [*_DIGITS.finditer(sentence), *_SPOKEN.finditer(sentence)]
    if not found:
        return None
    match = chance.choice(found)
    if match[0].isalpha():
        words = re.findall(
            r"\S+", """two three four five six seven eight nine ten eleven twelve twenty forty hundred"""
        )
        new = chance.choice([word for word in words if word != match[0]])
    else:
        value = float(match[0].replace(",", ""))
        if value.is_integer() and 1000 <= value <= 2100 and "," not in match[0]:  # a year
            new = str(int(value) + chance.choice([-30, -12, -7, -3, -1, 1, 2, 5, 11, 40]))
        else:
            new = f"{value * chance.choice([0.25, 0.5, 2, 3, 10]) + chance.choice([1, 2, 3]):.12g}"
    return sentence[: match.start()] + new + sentence[match.end() :]


def _negation(sentence: str, others: Sequence[str], chance: random.Random) -> str | None:
    if match := _NEGATED.search(sentence):
        return sentence[: match.start()] + match[1] + " " + sentence[match.end() :].lstrip()
    if match := _AUXILIARY.search(sentence):
        return sentence[: match.end()] + " not" + sentence[match.end() :]
    return None


def _name(sentence: str, others: Sequence[str], chance: random.Random) -> str | None:
    found = list(_NAME.finditer(sentence))
    if not found:
        return None
    match = chance.choice(found)
    foreign = [name[0] for other in others for name in _NAME.finditer(other)]
    new = chance.choice([name for name in (*foreign, *_STRANGERS) if name != match[0]])
    return sentence[: match.start()] + new + sentence[match.end() :]


def _addition(sentence: str, others: Sequence[str], chance: random.Random) -> str | None:
    if not others:
        return None
    words = chance.choice(others).rstrip(" .!?").split()
    if len(words) < 4:
        return None
    tail = words[-min(len(words), chance.randint(4, 9)) :]
    return sentence.rstrip(" .!?") + chance.choice(_LINKS) + " ".join(tail) + "."


def _opposite(sentence: str, others: Sequence[str], chance: random.Random) -> str | None:
    found = list(_ENTIRE.finditer(sentence))
    if not found:
        return None
    match = chance.choice(found)
    return sentence[: match.start()] + _OPPOSITES[match[0]] + sentence[match.end() :]


def _comparator(sentence: str, others: Sequence[str], chance: random.Random) -> str | None:
    if match := _COMPARED.search(sentence):
        word = match[0].split()[0]
        turned = {"more": "fewer", "less": "more", "fewer": "more", "greater": "less"}.get(word) or _OPPOSITES[word]
        return f"{sentence[: match.start()]}{turned} than{sentence[match.end() :]}"
    found = [
        each
        for each in _COUNTED.finditer(sentence)
        if not re.search(r"\b(?:in|than|about|over) $", sentence[: each.start()])
    ]
    if not found:
        return None
    match = chance.choice(found)
    return sentence[: match.start()] + chance.choice(["more than ", "fewer than "]) + sentence[match.start() :]


_WAYS: dict[Kind, Callable[[str, Sequence[str], random.Random], str | None]] = {
    "number": _number,
    "negation": _negation,
    "name": _name,
    "addition": _addition,
    "opposite": _opposite,
    "comparator": _comparator,
}
