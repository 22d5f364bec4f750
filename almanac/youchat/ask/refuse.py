"""Whether to answer: the calibrated probability that what was found holds an answer (issue: three outcomes). Its features are how much of
the question the best sentence, the sentences on the whole and the passage cover, whether the kind of thing that is asked for is there, and
how many hosts agree. Fitted on ClapNQ's answerable and unanswerable questions (`fit_answers`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from almanac.youchat.ask.quotes import Quote
from almanac.youchat.ask.relevance import Question, beyond, coverage, read, sentence_features, settled
from almanac.youchat.ask.weights_file import Logistic, model
from almanac.youchat.documents import Hit, Outcome
from almanac.youchat.text.sentences import split
from almanac.youchat.text.terms import STOP_WORDS, content_stems, stem, stems, words

Idf = Callable[[str], float]
"""The inverse document frequency of a stem."""
_READ = 3
"""Hits whose sentences are looked at, if they are quoted: a passage that can't be is no answer."""
COVERED = 0.5
"""The part of a question, by idf, of which a passage must speak for its answer to be believed in full; below, the less the less."""


@dataclass(frozen=True)
class Verdict:
    """Whether to answer."""

    outcome: Outcome
    """What to do."""
    confidence: float
    """The probability that the hits hold an answer, in [0, 1]."""
    missing: tuple[str, ...]
    """Words of the question, as they were typed, that none of the hits speaks of."""


def decide(
    question: str,
    hits: Sequence[Hit],
    quotes: Sequence[Quote],
    idf: Idf,
    weights: Logistic | None = None,
    typed: str = "",
) -> Verdict:
    """Answer, answer in part, or refuse.

    Args:
        question: what is asked.
        hits: passages, best first.
        quotes: the sentences that would be quoted.
        idf: of the index's stems.
        weights: None: those that ship.
        typed: the question as it was typed, if `question` has the conversation's topic too.
    """
    weights = weights or model("refuse")
    missing = missing_words(question, [_topic(hit) + " " + hit.passage.text for hit in hits])
    if not hits or not quotes or not content_stems(question):
        return Verdict("refused", 0.0, missing)
    asked, alone = read(question, idf), read(typed or question, idf)
    hosts = agreeing(asked, hits)
    quoted = sorted({place.hit for quote in quotes for place in quote.places})
    sources = [hits[at] for at in quoted if at < _READ] or [hits[quoted[0]]]
    confidence = max(
        believed(weights, answer_features(asked, hit, hosts) | {"spoken": spoken(alone, hit)}) for hit in sources
    )
    if confidence < weights.facts["refuse_below"]:
        return Verdict("refused", confidence, missing)
    lacking = sum(max(idf(stem(word.lower())), 0.1) for word in missing)
    partial = bool(missing) and (
        confidence < weights.facts["answer_from"] or lacking > 0.25 * sum(asked.weights.values())
    )
    return Verdict("partial" if partial else "answer", confidence, missing)


def believed(weights: Logistic, features: Mapping[str, float]) -> float:
    """The probability that a passage holds an answer: the model's, less where the passage speaks of too little of the question."""
    return weights.probability(features) * min(1.0, features["spoken"] / COVERED)


def spoken(question: Question, hit: Hit) -> float:
    """The part of a question, by idf, of which a passage speaks."""
    return coverage(question.weights, set(stems(f"{_topic(hit)} {hit.passage.text}")))


def answer_features(question: Question, hit: Hit, hosts: int = 1) -> dict[str, float]:
    """What says that a passage answers a question.

    Args:
        question: what is asked.
        hit: the passage.
        hosts: how many hosts speak of the same.
    """
    text = hit.passage.text
    pieces = [each.of(text) for each in split(text) if not each.code] or [text]
    whole = settled(question, hit.passage.title, hit.passage.headings)
    further = beyond(question, stems(_topic(hit)))
    rows = sentence_features(question, _topic(hit), pieces, whole)
    covered = [row["covered"] for row in rows]
    return {
        "sentence": max(covered),
        "sentence_rest": max(row["rest"] for row in rows),
        "density": sum(covered) / len(covered),
        "passage_rest": coverage(further, set(stems(text))) if further else whole,
        "cue": max(row["cue"] for row in rows),
        "cue_missing": min(row["cue_missing"] for row in rows),
        "pairs": max(row["pairs"] for row in rows),
        "terms": len(question.weights) / 10,
        "cosine": hit.cosine,
        "hosts": float(min(hosts, 3) - 1),
        "spoken": spoken(question, hit),
    }


def agreeing(question: Question, hits: Sequence[Hit]) -> int:
    """How many hosts have a passage that covers most of the question."""
    return len({urlsplit(hit.passage.url).netloc for hit in hits if spoken(question, hit) >= 0.8})


def missing_words(question: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The words of a question, stop words aside, that none of the texts has, as they were typed."""
    there = {each for text in texts for each in stems(text)}
    typed = dict.fromkeys(word.strip("?!.,;:\"'()“”") for word in question.split())
    return tuple(
        word for word in typed if any(each not in STOP_WORDS and stem(each) not in there for each in words(word))
    )


def _topic(hit: Hit) -> str:
    return " ".join((hit.passage.title, *hit.passage.headings))
