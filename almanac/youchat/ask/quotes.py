"""Answers by quotation: sentences of the passages that were found, chosen by a small model over how each bears on the question, without
repetition (maximal marginal relevance, Carbonell and Goldstein 1998), as many as promise the best F1. Every quote is an exact stretch of
its page. Whether to answer at all is `refuse`'s question."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from urllib.parse import urlsplit

from almanac.youchat.ask.relevance import coverage, read, sentence_features, settled
from almanac.youchat.ask.weights_file import Logistic, model
from almanac.youchat.documents import Hit, Page
from almanac.youchat.text.injections import hosts, is_furniture, speaks_to_assistant
from almanac.youchat.text.sentences import Stretch, split
from almanac.youchat.text.terms import STOP_WORDS, content_stems, stems, words

Idf = Callable[[str], float]
"""The inverse document frequency of a stem."""
MOST = 5
"""Sentences in an answer."""
_PASSAGES = 6
"""Hits that are read."""
_LAMBDA = 0.7
"""MMR: how much relevance counts against novelty."""
_WITHIN = 0.5
"""How much likeness counts within a passage, which rarely says a thing twice: "A shallow copy …", "A deep copy …" belong together."""
_SAME = 0.8
"""The Jaccard similarity of their stems from which two sentences say the same."""
LONGEST = 700
"""Characters of a sentence that is quoted: what is longer is a table or a list without stops."""
_STOPS = re.compile(r"[.!…。！;][\"'”’»)\]*`]*$")
"""How a sentence ends."""
_NO_PROSE = re.compile(r"\t|__all__|^(?:[$%>#]|--)\s|^(?:~|\w:)?[/\\][\w.-]+[/\\]")
"""Rows of tables, lists of names, what is typed after a prompt, comments of code, paths of files."""
_COMMAND = re.compile(
    r"\s--?[a-z]|\s#\s|&&|\\$|^(?:almanac|apt(?:-get)?|cd|curl|docker|git|make|npm|pip3?|python3?|sudo|wget)\s"
)
"""What a command has; a sentence that names one has a stop."""
_FURNITURE = 3
"""Pages of one host on which a sentence stands that says nothing of any of them."""


@dataclass(frozen=True)
class Place:
    """Where a quote stands."""

    hit: int
    """The place in the list of hits, from 0."""
    start: int
    """Its first character in the page's text."""
    end: int
    """One past its last."""


@dataclass(frozen=True)
class Quote:
    """A sentence, word for word, and everywhere it is said."""

    text: str
    """Exactly what stands at the first place."""
    places: tuple[Place, ...]
    """Where it stands, the best hit first; near-duplicates in other hits follow."""
    relevance: float
    """The probability that an annotator would have chosen it."""


def choose(
    question: str,
    hits: Sequence[Hit],
    idf: Idf,
    weights: Logistic | None = None,
    pages: Mapping[str, Page] | None = None,
) -> list[Quote]:
    """The sentences that answer a question, ordered by source and place in it.

    Args:
        question: what is asked.
        hits: passages, best first.
        idf: of the index's stems.
        weights: None: those that ship.
        pages: of the hits, by address: none of their headings is quoted; None: those above the passages are known.
    """
    ranked = candidates(question, hits, idf, weights, pages)
    chosen = _diverse(ranked)
    return sorted(
        chosen[: best_count([each.relevance for each in chosen])],
        key=lambda each: (each.places[0].hit, each.places[0].start),
    )


def candidates(
    question: str,
    hits: Sequence[Hit],
    idf: Idf,
    weights: Logistic | None = None,
    pages: Mapping[str, Page] | None = None,
) -> list[Quote]:
    """All sentences that may be quoted, best first, those that say the same made one; arguments as in `choose`."""
    weights = weights or model("quotes")
    asked = read(question, idf)
    levels = [coverage(asked.weights, set(stems(f"{_topic(hit)} {hit.passage.text}"))) for hit in hits[:_PASSAGES]]
    top = max(levels, default=0.0)
    ours = {urlsplit(hit.passage.url).netloc.lower() for hit in hits}
    found: list[Quote] = []
    asks = question.rstrip().endswith("?") or STOP_WORDS.issuperset(words(question)[:1])
    asking = f" {_bare(question)} " if asks and len(asked.weights) > 2 else "?"
    stretches = [split(hit.passage.text) for hit in hits]
    everywhere = _furniture(hits, stretches)
    for at, (hit, pieces) in enumerate(zip(hits[:_PASSAGES], stretches, strict=False)):
        page = (pages or {}).get(hit.passage.url)
        headings = {_bare(each.text) for each in page.headings} if page else set(map(_bare, hit.passage.headings))
        texts = [each.of(hit.passage.text) for each in pieces]
        rows = sentence_features(asked, _topic(hit), texts, settled(asked, hit.passage.title, hit.passage.headings))
        for piece, text, features in zip(pieces, texts, rows, strict=True):
            told = _bare(text)
            if told in headings or told in everywhere or asking in f" {told} ":  # who asks the same gives no answer
                continue
            if not _quotable(text, piece.code, ours):
                continue
            lifted = features | {
                "passage": levels[at] - top,
                "rank": float(min(at, 4)),
                "score": hit.score / (hits[0].score or 1.0) - 1.0,
                "fragment": float(not _STOPS.search(text)),
                "cosine": hit.cosine and hit.cosine - hits[0].cosine,
            }
            place = Place(at, hit.passage.start + piece.start, hit.passage.start + piece.end)
            found.append(Quote(text, (place,), weights.probability(lifted)))
    return _merged(sorted(found, key=lambda each: -each.relevance))


def best_count(relevances: Sequence[float], most: int = MOST) -> int:
    """How many of the best to take: as many as promise the highest F1, which is near 2·Σp(taken) / (taken + Σp(all)); at least one."""
    total, kept, best = sum(relevances), 0.0, (0.0, 0)
    for count, each in enumerate(relevances[:most], 1):
        kept += each
        best = max(best, (2 * kept / (count + total), count))
    return best[1]


def _topic(hit: Hit) -> str:
    return " ".join((hit.passage.title, *hit.passage.headings))


def _bare(text: str) -> str:
    """A text's words, by which two are the same."""
    return " ".join(words(text))


def _furniture(hits: Sequence[Hit], stretches: Sequence[Sequence[Stretch]]) -> set[str]:
    """The words of what stands on several pages of a host that have little else in common (versions of one page have)."""
    where: dict[tuple[str, str], dict[str, set[str]]] = {}
    for hit, pieces in zip(hits, stretches, strict=True):
        host, said = urlsplit(hit.passage.url).netloc, {_bare(each.of(hit.passage.text)) for each in pieces}
        for each in said:
            where.setdefault((host, each), {})[hit.passage.url] = said
    return {
        each
        for (_, each), pages in where.items()
        if len(pages) >= _FURNITURE
        and all(2 * len(one & other) < min(len(one), len(other)) for one, other in combinations(pages.values(), 2))
    }


def _quotable(text: str, code: bool, ours: set[str]) -> bool:
    """Whether a stretch may be quoted: no question, code, command, path, row of a table, furniture, order to an assistant, picture, or
    address of a host that is none of `ours`."""
    told = words(text)
    if code or len(told) < 4 or len(text) > LONGEST or text.rstrip().endswith(("?", ":")):
        return False
    if sum(letter.isalpha() or letter.isspace() for letter in text) < 0.6 * len(text):
        return False
    if _NO_PROSE.search(text) or (_COMMAND.search(text) and not _STOPS.search(text)):
        return False
    return not (
        speaks_to_assistant(text)
        or is_furniture(text)
        or "](" in text
        or ("<" in text and ">" in text)
        or hosts(text) - ours
    )


def _merged(ranked: Sequence[Quote]) -> list[Quote]:
    """Quotes without near-duplicates: the better one stands, and says where else it is said."""
    kept: list[tuple[Quote, set[str]]] = []
    for quote in ranked:
        told = set(content_stems(quote.text))
        for at, (other, there) in enumerate(kept):
            if len(told & there) >= _SAME * len(told | there) and _numbers(told) == _numbers(there):
                if quote.places[0].hit not in {place.hit for place in other.places}:
                    kept[at] = (replace(other, places=other.places + quote.places), there)
                break
        else:
            kept.append((quote, told))
    return [quote for quote, _ in kept]


def _numbers(told: set[str]) -> set[str]:
    return {each for each in told if any(map(str.isdigit, each))}


def _diverse(ranked: Sequence[Quote]) -> list[Quote]:
    """The best first, each next one by relevance less its likeness to those before it."""
    left = [(quote, set(content_stems(quote.text))) for quote in ranked[:30]]
    chosen: list[tuple[Quote, set[str]]] = []
    while left and len(chosen) < 3 * MOST:
        score = [
            _LAMBDA * quote.relevance
            - (1 - _LAMBDA)
            * max(
                (_likeness(told, there) * (_WITHIN if _hit(other) == _hit(quote) else 1.0) for other, there in chosen),
                default=0.0,
            )
            for quote, told in left
        ]
        chosen.append(left.pop(max(range(len(left)), key=score.__getitem__)))
    return [quote for quote, _ in chosen]


def _hit(quote: Quote) -> int:
    return quote.places[0].hit


def _likeness(one: set[str], other: set[str]) -> float:
    return len(one & other) / max(1, len(one | other))
