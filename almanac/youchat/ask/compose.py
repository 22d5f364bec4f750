"""From sentences to an answer: quotes as they are, quotes joined by a few words (semi-extractive, Schuster et al. 2024: whatever says
something is copied), or a language model's sentences, each kept, cited anew, replaced by a quote or taken out (issue, section 1.3). Then
references are numbered without gaps. Nothing leaves here but prose: no picture, no HTML, no address."""

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import nh3

from almanac.youchat.ask.citations import Cited
from almanac.youchat.ask.fragments import link
from almanac.youchat.ask.quotes import LONGEST, Place, Quote
from almanac.youchat.ask.verify import Source, Support, support
from almanac.youchat.documents import Hit, Page, Reference, Sentence, Span
from almanac.youchat.text.injections import speaks_to_assistant, without_addresses, without_invisible
from almanac.youchat.text.terms import content_stems, words

Idf = Callable[[str], float]
"""The inverse document frequency of a stem."""
_PICTURE = re.compile(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])?")
_LINK = re.compile(r"\[([^\]]*)\]\((?:[^()]|\([^()]*\))*\)|\[([^\]]*)\]\[[^\]]*\]")
_EMPHASIS = re.compile(r"(\*\*|__|\*|(?<!\w)_|_(?!\w)|~~)")
_LEAD = re.compile(
    r"^(?:However|But|And|Also|Moreover|Furthermore|In addition|Therefore|Thus|Hence|Similarly|Instead|Then"
    r"|For example|For instance)\s*,?\s+"
)
_CLOSE_ENOUGH = 0.5
"""The part of a removed sentence's words that a quote must have to stand in for it."""


@dataclass(frozen=True)
class Draft:
    """A sentence with where it is said, before references have numbers."""

    text: str
    """What it says, without marks."""
    places: tuple[Place, ...]
    """What supports it, at least one."""


def quoted(quotes: Iterable[Quote]) -> list[Draft]:
    """Quotes as they are."""
    return [Draft(quote.text, quote.places) for quote in quotes]


def joined(quotes: Sequence[Quote], hits: Sequence[Hit]) -> list[Draft]:
    """Quotes joined by a few words that say who says it; the words between the marks of quotation are exactly the source's."""
    found, before = [], ""
    for quote in quotes:
        place = quote.places[0]
        lead = match.end() if (match := _LEAD.match(quote.text)) else 0
        url, title = hits[place.hit].passage.url, " ".join(plain(hits[place.hit].passage.title).split()) or "One page"
        hosts = len({hits[each.hit].passage.url for each in quote.places})
        connector = (
            f"{hosts} pages say:"
            if hosts > 1
            else "It adds:"
            if url == before
            else f"According to “{title}”:"
            if not before
            else f"“{title}” says:"
        )
        places = (Place(place.hit, place.start + lead, place.end), *quote.places[1:])
        found.append(Draft(f"{connector} “{quote.text[lead:]}”", places))
        before = url
    return found


@dataclass(frozen=True)
class Checked:
    """What became of a language model's sentence."""

    draft: Draft | None
    """What stands now; None where nothing does."""
    removed: bool
    """Whether a statement of the model was taken out, replaced by a quote or not."""


def checked(said: Iterable[Cited], hits: Sequence[Hit], quotes: Sequence[Quote], idf: Idf) -> Iterator[Checked]:
    """A language model's sentences, each as far as it may stand.

    Args:
        said: its sentences with their marks, which count `hits` from 1.
        hits: the passages that it was shown.
        quotes: what may stand in for a sentence, best first.
        idf: of the index's stems.
    """
    sources = [Source(hit.passage.text, " ".join((hit.passage.title, *hit.passage.headings))) for hit in hits]
    spare = list(quotes)
    seen: set[tuple[str, ...]] = set()
    for each in said:
        text = each.text if each.code else plain(each.text)
        told = tuple(words(text))
        if not content_stems(text) or told in seen or _announces(text):
            continue  # says nothing, or nothing new
        seen.add(told)
        if each.code:
            draft = _copied(text, hits)
        elif speaks_to_assistant(text) or len(set(content_stems(text))) < 2 or len(text) > LONGEST:
            draft = None  # a word says nothing that could be checked, and what has no stop for so long is no sentence
        else:
            draft = _supported(text, each.marks, sources, hits, idf)
        if draft:
            yield Checked(draft, removed=False)
            continue
        stand_in = None if each.code else _stand_in(text, spare)
        if stand_in and tuple(words(stand_in.text)) not in seen:
            spare.remove(stand_in)
            seen.add(tuple(words(stand_in.text)))
            yield Checked(Draft(stand_in.text, stand_in.places), removed=True)
        else:
            yield Checked(None, removed=True)


class Numbering:
    """Numbers references in the order of first citation; pages are told by their addresses.

    Args:
        hits: what places count in.
        pages: the pages of those hits by address.
    """

    def __init__(self, hits: Sequence[Hit], pages: Mapping[str, Page]):
        self._hits, self._pages = hits, pages
        self._references: dict[str, Reference] = {}

    @property
    def references(self) -> tuple[Reference, ...]:
        """What was cited so far."""
        return tuple(self._references.values())

    def sentence(self, draft: Draft) -> Sentence:
        """A draft with numbers; pages that are cited for the first time get the next ones."""
        spans = tuple(Span(self._number(place), place.start, place.end) for place in draft.places)
        return Sentence(draft.text, tuple(sorted({span.source for span in spans})), spans)

    def _number(self, place: Place) -> int:
        passage = self._hits[place.hit].passage
        if passage.url not in self._references:
            page = self._pages[passage.url]
            address = link(
                f"{passage.url}#{passage.anchor}" if passage.anchor else passage.url, page.text, place.start, place.end
            )
            number = len(self._references) + 1
            self._references[passage.url] = Reference(
                number, passage.url, passage.title, address, passage.fetched_at, passage.published_at
            )
        return self._references[passage.url].n


def plain(text: str) -> str:
    """Prose without pictures, links, addresses, HTML and emphasis: what a page or a model may not bring into an answer."""
    text = _PICTURE.sub("", without_invisible(text))
    text = _LINK.sub(lambda match: match[1] or match[2] or "", text)
    if "<" in text or "&" in text:
        text = html.unescape(nh3.clean(text, tags=set(), clean_content_tags={"script", "style", "iframe", "svg"}))
        text = re.sub(r"<\s*/?\s*[a-zA-Z][^>]*>?", "", text)  # what unescaping brought back
    text = without_addresses(text)
    text = re.sub(r"\(\s*\)|\[\s*\]", "", _EMPHASIS.sub("", text))
    return re.sub(r"[ \t]+([.,;:!?])", r"\1", re.sub(r"[ \t]{2,}", " ", text)).strip()


def _supported(
    text: str, marks: Sequence[int], sources: Sequence[Source], hits: Sequence[Hit], idf: Idf
) -> Draft | None:
    """A sentence with what supports it: first of what it cites, then of all."""
    cited = [mark - 1 for mark in marks if 1 <= mark <= len(hits)]
    for numbers in ([cited] if cited else []) + [list(range(len(hits)))]:
        found = support(text, [sources[number] for number in numbers], idf)
        if found.holds:
            return Draft(text, _places(found, numbers, hits))
    return None


def _places(found: Support, numbers: Sequence[int], hits: Sequence[Hit]) -> tuple[Place, ...]:
    places = (
        Place(
            numbers[span.source],
            hits[numbers[span.source]].passage.start + span.start,
            hits[numbers[span.source]].passage.start + span.end,
        )
        for span in found.spans
    )
    return tuple(dict.fromkeys(places))


def _copied(code: str, hits: Sequence[Hit]) -> Draft | None:
    """A block of code, if one of the passages has it."""
    inner = re.sub(r"^\s*(?:```|~~~)[^\n]*\n|\n?(?:```|~~~)\s*$", "", code).strip()
    for at, hit in enumerate(hits):
        start = hit.passage.text.find(inner) if inner else -1
        if start >= 0:
            return Draft(code, (Place(at, hit.passage.start + start, hit.passage.start + start + len(inner)),))
    return None


def _stand_in(text: str, quotes: Sequence[Quote]) -> Quote | None:
    """The quote that says most of what a sentence speaks of, if it says enough of it."""
    wanted = set(content_stems(text))

    def shared(quote: Quote) -> float:
        return len(wanted & set(content_stems(quote.text))) / max(1, len(wanted))

    best = max(quotes, key=shared, default=None)
    return best if best and shared(best) >= _CLOSE_ENOUGH else None


def _announces(text: str) -> bool:
    """Whether a sentence only announces others ("Here is what the sources say:")."""
    return text.endswith(":") and len(content_stems(text)) <= 5
