"""Whether a sentence is supported by given text: how much of it the best few stretches of the text cover, and whether a number, date, name,
negation or comparison contradicts them. Features as in issue and ALCE's task (Gao et al. 2023, section 4), a logistic model over them
(`weights.json`), and vetoes that no model can outvote. It reads words, not meaning: a paraphrase without shared words is not recognised,
and `measure_answers` says how often it errs."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from almanac.youchat.ask.claims import NUMBER_WORDS, Claims, Date, Quantity, claims
from almanac.youchat.ask.weights_file import Logistic, model
from almanac.youchat.text.sentences import Stretch, split
from almanac.youchat.text.terms import STOP_WORDS, stem, words

Idf = Callable[[str], float]
"""The inverse document frequency of a stem."""
_MOST_SPANS = 3
_PREFIX = re.compile(r"^(?:un|in|im|il|ir|non|dis)(?=\w{4})")
"""What turns a word into its opposite."""
_DIGITS = {word: str(value) for word, value in NUMBER_WORDS.items()}


@dataclass(frozen=True)
class Source:
    """A text that may support a sentence."""

    text: str
    """What it says."""
    title: str = ""
    """What it is about: names in it count as said, since text leaves its topic out ("He was born in …")."""


@dataclass(frozen=True)
class Evidence:
    """A stretch of a source."""

    source: int
    """The source's place in the list, from 0."""
    start: int
    """The first character in its text."""
    end: int
    """One past the last."""


@dataclass(frozen=True)
class Support:
    """How well a sentence is supported."""

    probability: float
    """That it is; 0 where something is vetoed."""
    spans: tuple[Evidence, ...]
    """The stretches that cover it best, at most 3, best first."""
    vetoes: tuple[str, ...]
    """What contradicts them, in words, e.g. "number 12"; empty where nothing does."""

    @property
    def holds(self) -> bool:
        """Whether the sentence may stand."""
        return not self.vetoes and self.probability >= model("verify").facts["threshold"]


def support(
    sentence: str, sources: Sequence[Source], idf: Idf | None = None, weights: Logistic | None = None
) -> Support:
    """Whether sources support a sentence.

    Args:
        sentence: without marks of citation.
        sources: what may support it.
        idf: of the index's stems; None: longer words count a little more.
        weights: None: those that ship.
    """
    idf = idf or plain_idf
    spans, features, vetoes = examine(sentence, sources, idf)
    probability = (weights or model("verify")).probability(features) if spans else 0.0
    return Support(0.0 if vetoes else probability, spans, vetoes)


def plain_idf(word: str) -> float:
    """A stand-in for idf where there is no index: rare words are longer (Zipf 1935)."""
    return 1.0 + 0.25 * min(len(word), 8)


def examine(
    sentence: str, sources: Sequence[Source], idf: Idf
) -> tuple[tuple[Evidence, ...], dict[str, float], tuple[str, ...]]:
    """The best stretches, the features of the model, and the vetoes."""
    wanted = _weighted(sentence, idf)
    pieces = [_Piece.of(at, each, source) for at, source in enumerate(sources) for each in split(source.text)]
    chosen, anchor = _best(wanted, pieces)
    if anchor is None:
        return (), {}, ()
    said = claims(sentence)
    stems = {each for piece in chosen for each in (*piece.stems, *piece.entitled)}
    total = sum(wanted.values())
    missing = {word: weight for word, weight in wanted.items() if word not in stems}
    features = {
        "best": _covered(wanted, chosen[0].stems) / total,
        "covered": 1 - sum(missing.values()) / total,
        "rarest": max(missing.values(), default=0.0) / max(wanted.values()),
        "gap": min(_gap(sentence, stems), 6) / 6,
    }
    # A sentence that stands in the source word for word can't contradict it: what looks like a contradiction is a neighbour's.
    quoted = _quoted(words(sentence), [words(piece.text) for piece in chosen])
    vetoes = () if quoted else tuple(dict.fromkeys(_vetoes(sentence, said, chosen, anchor, pieces, wanted)))
    return tuple(piece.evidence for piece in chosen), features, vetoes


@dataclass(frozen=True)
class _Piece:
    """A sentence of a source, read."""

    evidence: Evidence
    text: str
    stems: frozenset[str]
    entitled: frozenset[str]

    @classmethod
    def of(cls, at: int, stretch: Stretch, source: Source) -> "_Piece":
        text = stretch.of(source.text)
        return cls(
            Evidence(at, stretch.start, stretch.end), text, frozenset(_stems(text)), frozenset(_stems(source.title))
        )


def _weighted(sentence: str, idf: Idf) -> dict[str, float]:
    """The stems that a sentence says, and how much each tells; only stop words if there is nothing else."""
    told = [word for word in words(sentence) if word not in STOP_WORDS] or words(sentence)
    return {each: max(idf(each), 0.1) for each in _stems(" ".join(told))}


def _best(wanted: dict[str, float], pieces: Sequence[_Piece]) -> tuple[list[_Piece], _Piece | None]:
    """Up to three sentences that together cover the most, chosen one after the other; a later one must add something. And the sentence that
    speaks of the same: which covers most of the claim without its numbers and what the title says."""
    left, chosen, total = dict(wanted), [], sum(wanted.values())
    while len(chosen) < _MOST_SPANS and left and pieces:
        gains = [_covered(left, piece.stems) for piece in pieces]
        at = max(range(len(pieces)), key=lambda each: (gains[each], -len(pieces[each].stems)))
        if gains[at] <= (0.05 * total if chosen else 0.0):
            break
        chosen.append(pieces[at])
        left = {word: weight for word, weight in left.items() if word not in pieces[at].stems}
    if not chosen:
        return [], None
    titles = {word for piece in chosen for word in piece.entitled}
    about = {word: weight for word, weight in wanted.items() if not word[0].isdigit() and word not in titles}
    return chosen, max(pieces, key=lambda piece: (_covered(about, piece.stems), _covered(wanted, piece.stems)))


def _covered(wanted: dict[str, float], there: Collection[str]) -> float:
    return sum((weight for word, weight in wanted.items() if word in there), 0.0)


def _stems(text: str) -> list[str]:
    """The stems of a text's words, small numbers in words as digits."""
    return [_DIGITS.get(word) or stem(word) for word in words(unicodedata.normalize("NFC", text))]


def _vetoes(
    sentence: str,
    said: Claims,
    chosen: Sequence[_Piece],
    anchor: _Piece,
    pieces: Sequence[_Piece],
    wanted: dict[str, float],
) -> Iterator[str]:
    """What a sentence says and its evidence doesn't, or says otherwise."""
    read = cache(lambda piece: claims(piece.text))
    known = {part for piece in chosen for name in read(piece).names for part in name}
    squashed = "".join(words(anchor.text))
    for quantity in said.quantities:
        mine = [piece for piece in pieces if any(quantity.agrees(other) for other in read(piece).quantities)]
        if quantity.text.lower() not in known:
            yield from _misplaced(
                "number", quantity.text, sentence, quantity.at, mine, chosen, anchor, _odd(said, read(anchor), quantity)
            )
    for date in said.dates:
        mine = [piece for piece in pieces if any(date.agrees(other) for other in _dates_of(read(piece)))]
        told = "-".join(str(part) for part in (date.year, date.month, date.day) if part)
        yield from _misplaced("date", told, sentence, date.at, mine, chosen, anchor, _odd(said, read(anchor), date))
    about = anchor.stems | anchor.entitled
    for name in said.names:
        lost = [part for part in name if part not in about and not (len(part) >= 5 and part in squashed)]
        mine = [piece for piece in pieces if lost and piece.stems.issuperset(lost)]
        at = max(0, sentence.lower().find(lost[0][:4])) if lost else 0
        beside = (
            (piece in chosen and piece.evidence.source == anchor.evidence.source) or _near(sentence, at, piece)
            for piece in mine
        )
        if lost and not any(beside):
            yield f"name {' '.join(name)}"
    both = said.negated + read(anchor).negated
    if _negated_otherwise(said, [read(piece) for piece in chosen], wanted) or _negated_otherwise(
        read(anchor), [said], wanted
    ):
        yield "negation"
    if len(said.negated) == len(read(anchor).negated):
        yield from _exchanged(said, read(anchor))
    if not both:
        yield from _turned(sentence, anchor, chosen)


def _exchanged(said: Claims, anchor: Claims) -> Iterator[str]:
    """Axes of comparison on which one points one way more often, and the other the other way."""
    mine, theirs = Counter(said.directions), Counter(anchor.directions)
    for axis, sign in mine - theirs:
        if theirs[axis, -sign] > mine[axis, -sign]:
            yield f"direction of {axis}"


def _turned(sentence: str, anchor: _Piece, chosen: Sequence[_Piece]) -> Iterator[str]:
    """Words of which one of the two has the opposite by a prefix, "unsafe" for "safe", and not the word itself."""
    here, there = _words(sentence), _words(anchor.text)
    known = {word for piece in chosen for word in _words(piece.text)}
    for said, other, own in ((here - known, there, here), (there - here, here, known)):
        stems = {stem(word) for word in other}
        for word in said:
            base = _PREFIX.sub("", word)
            if base != word and stem(base) in stems and stem(base) not in {stem(each) for each in own}:
                yield f"opposite of {base}"


def _words(text: str) -> set[str]:
    """The words of a text, "non-free" as one."""
    return set(words(re.sub(r"\bnon-", "non", text, flags=re.IGNORECASE)))


def _misplaced(
    kind: str,
    told: str,
    sentence: str,
    at: int,
    mine: Sequence[_Piece],
    chosen: Sequence[_Piece],
    anchor: _Piece,
    odd: bool,
) -> Iterator[str]:
    """Whether a number or date is said nowhere, or only of something else: not where the rest of the claim is said, which has another of
    the kind in its place, nor beside the words that stand beside it in the claim."""
    if not any(piece in chosen or _near(sentence, at, piece) for piece in mine):
        yield f"{kind} {told}"
    elif anchor not in mine and odd and not any(_near(sentence, at, piece) for piece in mine):
        yield f"{kind} of something else"


def _near(sentence: str, at: int, piece: _Piece) -> bool:
    """Whether a sentence of the source has half of the words that stand beside a place in the claim, three on each side."""
    before = [word for word in words(sentence[:at]) if word not in STOP_WORDS][-3:]
    after = [word for word in words(sentence[at:].partition(" ")[2]) if word not in STOP_WORDS][:3]
    beside = set(_stems(" ".join(before + after)))
    return len(beside & piece.stems) * 2 >= len(beside)


def _odd(said: Claims, anchor: Claims, mine: Quantity | Date) -> bool:
    """Whether the sentence that speaks of the same has a number of the same kind that the claim doesn't have."""
    if isinstance(mine, Date):
        return any(not any(one.agrees(each) or each.agrees(one) for one in said.dates) for each in anchor.dates)
    others = [each for each in anchor.quantities if each.unit == mine.unit]
    return any(not any(one.agrees(each) or each.agrees(one) for one in said.quantities) for each in others)


def _dates_of(there: Claims) -> list[Date]:
    """Dates, and numbers that may be years."""
    return [
        *there.dates,
        *(Date(int(each.value)) for each in there.quantities if not each.unit and 1000 <= each.value < 2100),
    ]


def _gap(sentence: str, stems: set[str]) -> int:
    """The most words in a row, stop words aside, that the evidence doesn't have: something that was added."""
    longest = current = 0
    for word in words(sentence):
        if word not in STOP_WORDS:
            current = 0 if (_DIGITS.get(word) or stem(word)) in stems else current + 1
            longest = max(longest, current)
    return longest


def _negated_otherwise(one: Claims, others: Sequence[Claims], wanted: dict[str, float]) -> bool:
    """Whether one text negates what the claim is about and the others, which speak of it too, do not. Two negations may undo each other."""
    negated = {stem for other in others for scope in other.negated for stem in scope}
    for scope in one.negated if len(one.negated) != 2 else ():
        about = wanted.keys() & scope
        if about & set(scope[:1]) and not about & negated and len(about) * 2 >= len(scope):
            return True
    return False


def _quoted(claim: list[str], texts: Sequence[list[str]]) -> bool:
    """Whether all words of a claim stand in one of the texts, one after the other, stop words too."""
    first = claim[:1]
    return any(
        text[at : at + len(claim)] == claim for text in texts for at in range(len(text)) if text[at : at + 1] == first
    )
