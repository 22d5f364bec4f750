"""How a sentence of a passage bears on a question: the features by which sentences are quoted (`quotes`) and questions refused (`refuse`).
Words, places and kinds of answer only; vectors come in through the hits' cosines where an index has them."""

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from almanac.youchat.ask.claims import Claims, claims
from almanac.youchat.text.terms import content_stems, stem, stems, words

Idf = Callable[[str], float]
"""The inverse document frequency of a stem."""
_REFERS = re.compile(
    r"^\W*(?:it|its|they|their|this|these|that|those|he|his|she|her|such|the latter|the former|both|there)\b",
    re.IGNORECASE,
)
_CONTINUES = re.compile(
    r"^\W*(?:however|but|also|for example|for instance|in addition|moreover|then|thus|therefore|instead|similarly)\b",
    re.IGNORECASE,
)
_BECAUSE = re.compile(
    r"\b(?:because|due to|owing to|since|as a result|results? (?:in|from)|caus\w+|so that|in order to|therefore|led to|leads to"
    r"|reasons?|thus|for this)\b",
    re.I,
)
_DEFINES = re.compile(
    r"\b(?:is|are|was|were)\s+(?:an?|the|one of|any|usually|typically|generally|defined|used)\b|\brefers? to"
    r"|\bmeans?\b|\bknown as|\bcalled\b|\bconsists? of|\bdefined as",
    re.IGNORECASE,
)
_STEPS = re.compile(
    r"\b(?:by \w+ing|using|use|with the|can be|steps?|first|method|process|through|via|allows?|run|set|call|create|must|should)\b",
    re.I,
)
_PLACE = re.compile(
    r"\b(?:in|at|near|on|from|to|of|between|along|north|south|east|west|located|situated)\s+(?:the\s+)?[A-Z]"
)


@dataclass(frozen=True)
class Question:
    """A question as sentences are compared with it."""

    text: str
    """As it was asked."""
    weights: dict[str, float]
    """The stems that it is about, and the idf of each."""
    kind: str
    """What it asks for: when, number, who, where, why, what, how, list or empty."""


def read(question: str, idf: Idf) -> Question:
    """Read a question. One of stop words only ("to be or not to be") is about those."""
    about = content_stems(question) or stems(question)
    return Question(question, {each: max(idf(each), 0.1) for each in about}, _kind(question))


def coverage(weights: dict[str, float], there: set[str]) -> float:
    """The part of a question, by idf, that is spoken of."""
    return sum((weight for each, weight in weights.items() if each in there), 0.0) / (sum(weights.values()) or 1.0)


def sentence_features(
    question: Question, title: str, sentences: Sequence[str], settled: float = 0.0
) -> list[dict[str, float]]:
    """The features of each sentence of a passage.

    Args:
        question: what is asked.
        title: of the page, with its headings: text leaves its topic out.
        sentences: of the passage, in order.
        settled: what `settled` says of it.
    """
    known = [stems(each) for each in sentences]
    sets = [set(each) for each in known]
    entitled = set(stems(title))
    further = beyond(question, entitled)
    average = sum(map(len, known)) / max(1, len(known))
    scores = [_bm25(question.weights, each, average) for each in known]
    rest = [coverage(further, each) if further else settled for each in sets]
    covered = [coverage(question.weights, each) for each in sets]
    cues = [_cue(question, each, claims(each)) for each in sentences]
    best, best_rest = max(scores, default=0.0) or 1.0, max(rest, default=0.0) or 1.0
    pairs = _pairs(question.text)
    found = []
    for at, sentence in enumerate(sentences):
        around = [scores[each] / best for each in (at - 1, at + 1) if 0 <= each < len(sentences)]
        length = len(known[at])
        found.append(
            {
                "bm25": scores[at] / best,
                "covered": covered[at],
                "rest": rest[at],
                "best_rest": float(rest[at] == best_rest and rest[at] > 0),
                "before": scores[at - 1] / best if at else 0.0,
                "after": scores[at + 1] / best if at + 1 < len(sentences) else 0.0,
                "between": float(len(around) == 2 and min(around) > 0.6),
                "pairs": float(bool(pairs & _pairs(sentence))),
                "first": float(at == 0),
                "second": float(at == 1),
                "place": at / max(1, len(sentences) - 1),
                "few": 1 / len(sentences),
                "cue": cues[at],
                "cue_missing": float(question.kind in ("when", "number", "who", "where", "why") and not cues[at]),
                "only_cue": float(cues[at] > 0 and sum(map(bool, cues)) <= 2),
                "refers": float(bool(_REFERS.match(sentence))) * (scores[at - 1] / best if at else 0.0),
                "continues": float(bool(_CONTINUES.match(sentence))),
                "length": math.log(1 + length),
                "short": float(length < 6),
                "titled": float(bool(entitled & sets[at])),
            }
        )
    return found


def settled(question: Question, title: str, headings: Sequence[str]) -> float:
    """1 where the headings above a passage, and not its page's title alone, say all that is asked: what stands there answers it."""
    all_said = not beyond(question, set(stems(" ".join((title, *headings)))))
    return float(all_said and bool(beyond(question, set(stems(title)))))


def beyond(question: Question, entitled: Collection[str]) -> dict[str, float]:
    """What a question asks beyond what a title says; empty where the title says it all."""
    return {each: weight for each, weight in question.weights.items() if each not in entitled}


def _kind(question: str) -> str:
    """What a question asks for; empty where its words don't tell."""
    text = question.lower()
    for kind, pattern in (
        ("number", r"\bhow (?:many|much|old|long|far|tall|high|big|large|often|fast|deep|heavy|wide|hot|cold)\b"
         r"|\bwhat (?:percentage|number|population)\b"),
        ("when", r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|century|time)\b|\bdate of\b"),
        ("who", r"\bwho(?:se|m)?\b|\bname of the (?:person|actor|author)\b"),
        ("where", r"\bwhere\b|\b(?:what|which) (?:country|city|state|place|region|location)\b"),
        ("why", r"\bwhy\b|\bhow come\b|\b(?:reasons?|causes?|purpose|significance)\b|\bwhat (?:caused|led)\b"),
        ("how", r"\bhow\b"),
        ("list", r"\b(?:list|types|kinds|examples|differences?|advantages)\b"),
        ("what", r"\bwhat(?:'s)?\b|\bdefin\w+|\bmeaning\b|\bmean\b|\bwhich\b"),
    ):  # fmt: skip
        if re.search(pattern, text):
            return kind
    return ""


def _cue(question: Question, sentence: str, said: Claims) -> float:
    """Whether a sentence holds the kind of thing that is asked for, in [0, 1]."""
    asked = set(words(question.text))
    match question.kind:
        case "when":
            return float(bool(said.dates)) or 0.5 * bool(said.quantities)
        case "number":
            return float(bool(said.quantities))
        case "who":
            return float(any(asked.isdisjoint(name) and len(name) > 1 for name in said.names)) or 0.5 * bool(said.names)
        case "where":
            return float(bool(_PLACE.search(sentence)))
        case "why":
            return float(bool(_BECAUSE.search(sentence)))
        case "what":
            return float(bool(_DEFINES.search(sentence)))
        case "how":
            return float(bool(_STEPS.search(sentence)))
    return 0.0


def _bm25(weights: dict[str, float], sentence: Sequence[str], average: float) -> float:
    """BM25 with k1 = 1.2 and b = 0.75, as the index has it, within one passage."""
    total = 0.0
    for each, weight in weights.items():
        if count := sentence.count(each):
            total += weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(sentence) / max(average, 1.0)))
    return total


def _pairs(text: str) -> set[tuple[str, str]]:
    """Pairs of neighbouring stems of which one tells something."""
    each = [stem(word) for word in words(text)]
    telling = set(content_stems(text))
    return {pair for pair in pairwise(each) if telling.issuperset(pair)}
