"""A question and its conversation in, an answer with references out: rewrite, search, choose, decide whether to answer, and quote, join
or let a language model write and check every sentence. `ask_stream` says what happens as it happens. Where passages come from is the
index's matter: anything with these three methods will do."""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, Protocol, runtime_checkable

from almanac.runtime.errors import RunFailed, UserError
from almanac.youchat.ask import language_model
from almanac.youchat.ask.citations import Cited
from almanac.youchat.ask.citations import stream as cited_sentences
from almanac.youchat.ask.compose import Draft, Numbering, checked, joined, quoted
from almanac.youchat.ask.language_model import CANNOT, Endpoint
from almanac.youchat.ask.quotes import Quote, candidates, choose
from almanac.youchat.ask.refuse import decide
from almanac.youchat.ask.rewrite import Turn, rewrite
from almanac.youchat.documents import Answer, Hit, Page, Reference, Sentence
from almanac.youchat.index.retrieve import fused
from almanac.youchat.text.terms import words

Mode = Literal["extractive", "semi", "abstractive"]
"""How an answer is written: quotes; quotes joined by a few words; a language model whose every sentence is checked."""
_MOST_WRITTEN = 12
"""Sentences of a language model that are read."""
LONGEST = 2_000
"""Characters of a question."""


@runtime_checkable
class Index(Protocol):
    """What is asked of an index."""

    def search(self, question: str, k: int) -> list[Hit]:
        """The best `k` passages, best first, two of a page at most; none for a question without words that it knows."""
        ...

    def page(self, url: str) -> Page | None:
        """The page at an address, None if it isn't there (any more)."""
        ...

    def idf(self, stem: str) -> float:
        """The inverse document frequency of a stem, ≥ 0; the highest for stems that it doesn't have."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to answer."""

    mode: Mode = "extractive"
    """How the answer is written."""
    hits: int = 10
    """Passages that are searched for."""
    shown: int = 5
    """Passages that a language model is shown."""
    closest: int = 5
    """Hits that a refusal shows."""
    endpoint: Endpoint | None = None
    """The language model's server; needed by `abstractive` only."""


@dataclass(frozen=True)
class Found:
    """What was searched for, and found."""

    searched: tuple[str, ...]
    """The question, and where it doesn't stand alone with what it leaves out."""
    hits: tuple[Hit, ...]
    """Best first."""


@dataclass(frozen=True)
class Said:
    """A sentence of the answer."""

    sentence: Sentence
    """It."""
    references: tuple[Reference, ...]
    """All that are cited so far."""


@dataclass(frozen=True)
class Withdrawn:
    """What was said so far doesn't hold: the answer begins anew, with quotes."""

    reason: str
    """Why, for the reader."""


@dataclass(frozen=True)
class Done:
    """The end."""

    answer: Answer
    """The whole answer; what was streamed, or what replaces it."""


Event = Found | Said | Withdrawn | Done
"""What `ask_stream` says."""


def ask(question: str, index: Index, history: Sequence[Turn] = (), settings: Settings | None = None) -> Answer:
    """Answer a question from an index.

    Args:
        question: what is asked.
        index: where to look.
        history: the conversation before, oldest turn first.
        settings: None: quotes of ten passages.

    Raises:
        UserError: the question is empty or too long, or a language model is wanted and none is named.
    """
    *_, last = ask_stream(question, index, history, settings)
    assert isinstance(last, Done)
    return last.answer


def ask_stream(
    question: str, index: Index, history: Sequence[Turn] = (), settings: Settings | None = None
) -> Iterator[Event]:
    """Answer a question, saying what happens as it happens: `Found`, `Said` …, at most one `Withdrawn`, `Done`; arguments as in `ask`."""
    settings = settings or Settings()
    question = " ".join(question.split())
    if not question:
        raise UserError("the question is empty", "ask something")
    if len(question) > LONGEST:
        raise UserError(f"the question has {len(question):,} characters", f"{LONGEST:,} are read; shorten it")
    if settings.mode == "abstractive" and settings.endpoint is None:
        raise UserError(
            "mode 'abstractive' needs a language model",
            "give the address of its server, e.g. --llm http://127.0.0.1:8000/v1",
        )
    asked = rewrite(question, history)
    hits, pages = _search(asked.searches, index, settings.hits)
    yield Found(asked.searches, tuple(hits))
    idf = cache(index.idf)  # the same few stems are asked for again and again
    quotes = choose(asked.meant, hits, idf, pages=pages)
    verdict = decide(asked.meant, hits, quotes, idf, typed=question)
    answer = Answer(
        question,
        verdict.outcome,
        (),
        (),
        missing=verdict.missing,
        searched=asked.expanded if len(asked.searches) > 1 else "",
        confidence=verdict.confidence,
        note=left_out(index),
    )
    if verdict.outcome == "refused":
        yield Done(replace(answer, closest=tuple(_a_page_once(hits)[: settings.closest])))
        return
    if settings.mode == "abstractive" and settings.endpoint:
        shown = hits[: settings.shown]
        writing = _Writing(settings.endpoint, shown, pages, candidates(asked.meant, shown, idf, pages=pages), idf)
        written = yield from _written(writing, *language_model.messages(question, shown, history), answer)
        if written.sentences:
            yield Done(written)
            return
        answer = written
        yield Withdrawn(answer.note)
    yield from _told(joined(quotes, hits) if settings.mode == "semi" else quoted(quotes), hits, pages, answer)


def _a_page_once(hits: Sequence[Hit]) -> list[Hit]:
    """Each page's best hit."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.passage.url, hit)
    return list(best.values())


def _told(drafts: Sequence[Draft], hits: Sequence[Hit], pages: dict[str, Page], answer: Answer) -> Iterator[Event]:
    """Say drafts one after the other, and the answer that they make."""
    numbering, sentences = Numbering(hits, pages), []
    for draft in drafts:
        sentences.append(numbering.sentence(draft))
        yield Said(sentences[-1], numbering.references)
    yield Done(replace(answer, sentences=tuple(sentences), references=numbering.references))


@dataclass(frozen=True)
class _Writing:
    """What a language model writes from, and what its sentences are checked against."""

    endpoint: Endpoint
    hits: Sequence[Hit]
    pages: dict[str, Page]
    quotes: Sequence[Quote]
    idf: Callable[[str], float]


def _written(
    writing: _Writing, messages: list[dict[str, str]], mark: str, answer: Answer
) -> Generator[Event, None, Answer]:
    """What a language model says, each sentence checked before it is said. An answer without sentences, but with a note, has failed."""
    numbering, sentences, kept, removed, note = Numbering(writing.hits, writing.pages), [], 0, 0, ""
    abstained: list[bool] = []
    try:
        said = _unless_it_cannot(cited_sentences(language_model.stream(writing.endpoint, messages, mark)), abstained)
        for each in checked(said, writing.hits, writing.quotes, writing.idf):
            removed += each.removed
            kept += not each.removed
            if each.draft:
                sentences.append(numbering.sentence(each.draft))
                yield Said(sentences[-1], numbering.references)
            if len(sentences) >= _MOST_WRITTEN:
                break
    except RunFailed as error:
        note = f"The language model failed: {error.what}."
    if kept and kept >= removed:
        told = tuple(sentences)
        return replace(
            answer, sentences=told, references=numbering.references, removed=removed, note=_both(answer.note, note)
        )
    if abstained:
        note, answer = (
            "The language model found no answer in these pages; quotes stand instead.",
            replace(answer, outcome="partial"),
        )
    elif note:
        note += " Quotes stand instead."
    else:
        note = "The pages support too little of what the language model said; quotes stand instead."
    return replace(answer, removed=removed, note=_both(answer.note, note))


def _both(note: str, other: str) -> str:
    """Two remarks, of which there may be none."""
    return f"{note} {other}".strip()


_ABSTAINS = re.compile(
    r"^\W*(?:(?:i'?m |i am )?(?:sorry|afraid)\b.{0,40})?"
    r"(?:i (?:cannot|can'?t|could not|couldn'?t|do not|don'?t|am unable)\b"
    r"|(?:(?:the |these |those )?(?:provided |given )?(?:sources?|passages?|context)"
    r"|(?:these|the (?:provided|given)) (?:pages|documents|texts?))\b.{0,30}"
    r"\b(?:not|do(?:es)?n'?t)\b.{0,20}\b(?:say|contain|mention|hold|provide|answer|include|state|specify)"
    r"|(?:there is )?(?:not enough|insufficient|no) (?:information|evidence)\b)",
    re.IGNORECASE,
)
"""How models say that they can't answer, whatever words they were asked to say it in."""


def _unless_it_cannot(said: Iterator[Cited], abstained: list[bool]) -> Iterator[Cited]:
    """A model's sentences but the one that says that it can't answer, which is noted."""
    for each in said:
        if words(each.text) == words(CANNOT) or _ABSTAINS.match(each.text.replace("’", "'")):
            abstained.append(True)
        else:
            yield each


def left_out(index: Index) -> str:
    """What an index in shards says of those that did not answer."""
    searched = getattr(index, "searched", None)
    if searched is None or searched.answered == searched.of:
        return ""
    return f"Only {searched.answered} of {searched.of} shards were searched: the others did not answer in time."


def _search(searches: Sequence[str], index: Index, k: int) -> tuple[list[Hit], dict[str, Page]]:
    """What is found for a question and its rewrite, fused, each still exactly in its page."""
    lists = [index.search(each, k) for each in searches]
    found = lists[0] if len(lists) == 1 else fused(lists, 2 * k)
    kept: list[Hit] = []
    pages: dict[str, Page] = {}
    for hit in found:
        passage = hit.passage
        page = pages.get(passage.url) or index.page(passage.url)
        if page is None or page.text[passage.start : passage.end] != passage.text:
            continue  # it was deleted or changed since
        pages[passage.url] = page
        kept.append(hit)
    return kept[:k], pages
