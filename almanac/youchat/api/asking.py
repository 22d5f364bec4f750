"""Questions of many people to one index: each in a thread of its own, its events passed on as they come, so many at a time and no more, and
given up when nobody listens. How to answer (which modes, whose language model) is the operator's word; people choose among the modes."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast, get_args, runtime_checkable

from almanac.runtime.serving import Gone, Job, Refused, Turns
from almanac.youchat.api import snippets, wire
from almanac.youchat.api.reader import fingerprint
from almanac.youchat.ask.ask import LONGEST, Done, Event, Found, Index, Mode, Said, Settings, Withdrawn, ask_stream
from almanac.youchat.ask.rewrite import Turn
from almanac.youchat.documents import Answer, Hit, Reference, Span
from almanac.youchat.index.ranking import Statistics

T = TypeVar("T")
AT_ONCE = 32
"""Questions at a time; of a language model's server, so many requests."""
MOST_HITS = 100
"""Passages of a search."""
_ALIVE_SECONDS = 15.0
"""After which a stream in which nothing happens says that it is alive: proxies close silent ones."""


@runtime_checkable
class Served(Index, Protocol):
    """An index, or shards of one, that says how much it holds."""

    def statistics(self, stems: Sequence[str] = ()) -> Statistics:
        """Pages, passages, and what else scores are computed from."""
        ...


class Asking:
    """Asks an index for whoever comes.

    Args:
        index: gives it; called once for each request, so that it may be opened at the first.
        settings: how to answer: the mode of who names none, and the language model; without one there is no mode `abstractive`.
    """

    def __init__(self, index: Callable[[], Served], settings: Settings | None = None):
        self.index, self.settings = index, settings or Settings()
        self._turns = Turns(AT_ONCE)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Those that can be chosen."""
        return tuple(mode for mode in get_args(Mode) if mode != "abstractive" or self.settings.endpoint)

    @property
    def busy(self) -> int:
        """Questions that are being answered."""
        return self._turns.jobs

    def about(self) -> dict[str, Any]:
        """What a page says first: how much there is, and how can be answered."""
        held = self.index().statistics()
        return {
            "pages": held.pages, "passages": held.passages, "modes": list(self.modes), "mode": self.settings.mode,
            "longest": LONGEST,
        }  # fmt: skip

    def chosen(self, mode: str | None) -> Settings:
        """The settings of who chose a mode.

        Raises:
            Refused: there is no such mode here.
        """
        for each in self.modes:
            if each == (mode or self.settings.mode):
                return replace(self.settings, mode=each)
        raise Refused(f"there is no mode '{mode}' here", f"its modes: {', '.join(self.modes)}", param="mode")

    async def run(self, work: Callable[[Served], T]) -> T:
        """What some work with the index comes to, in a thread.

        Raises:
            Refused: there is too much to do.
        """
        return await self._turns.run(lambda _: work(self.index()))

    async def events(
        self, question: str, history: Sequence[Turn], settings: Settings, form: Callable[[Event], T]
    ) -> AsyncGenerator[T | None, None]:
        """What `ask_stream` says, as it says it, in some form; None where nothing has come for a while. Closing this ends it before
        its next event."""
        loop, told, left = asyncio.get_running_loop(), asyncio.Queue[T | None](), threading.Event()

        def work(_: Job) -> None:
            for event in self._asked(question, history, settings, left):
                loop.call_soon_threadsafe(told.put_nowait, form(event))

        running = loop.create_task(self._turns.run(work))
        running.add_done_callback(lambda _: told.put_nowait(None))
        try:
            while not (running.done() and told.empty()):
                try:
                    said = await asyncio.wait_for(told.get(), _ALIVE_SECONDS)
                except TimeoutError:
                    yield None
                    continue
                if said is not None:
                    yield said
            await running
        finally:
            left.set()
            running.cancel()

    async def answer(
        self, question: str, history: Sequence[Turn], settings: Settings, form: Callable[[Answer], T]
    ) -> T:
        """The answer, in some form; cancelled, it is given up before its next event."""
        left = threading.Event()

        def work(_: Job) -> T:
            for event in self._asked(question, history, settings, left):
                if isinstance(event, Done):
                    return form(event.answer)
            raise Gone

        try:
            return await self._turns.run(work)
        finally:
            left.set()

    def _asked(
        self, question: str, history: Sequence[Turn], settings: Settings, left: threading.Event
    ) -> Iterator[Event]:
        told = ask_stream(question, self.index(), history, settings)
        with closing(cast(Generator[Event, None, None], told)):
            for event in told:
                if left.is_set():
                    return
                yield event


def checked(question: str) -> str:
    """A question that says something.

    Raises:
        Refused: it doesn't, or it is too long.
    """
    if not question.strip():
        raise Refused("the question is empty", "ask something", param="question")
    if len(question) > LONGEST:
        raise Refused(
            f"the question has {len(question):,} characters", f"{LONGEST:,} are read; shorten it", param="question"
        )
    return question


class Telling:
    """What events look like to a page: as `wire` has it, with a few lines of each page and what leads to its stored text.

    Args:
        index: gives what was asked.
        question: what was.
    """

    def __init__(self, index: Callable[[], Served], question: str):
        self._index, self._question = index, question
        self._spans: list[Span] = []

    def tell(self, event: Event) -> tuple[str, dict[str, Any]]:
        """An event's name, and what it says."""
        match event:
            case Found(searched, hits):
                return "found", {"searched": list(searched), "results": self.hits(searched[-1], hits)}
            case Said(sentence, references):
                self._spans += sentence.spans
                told = [self._reference(each) for each in references]
                return "said", {"sentence": wire.sentence(sentence), "references": told}
            case Withdrawn(reason):
                self._spans = []
                return "withdrawn", {"reason": reason}
            case Done(answer):
                return "done", self.answer(answer)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """A whole answer."""
        self._spans = [span for sentence in answer.sentences for span in sentence.spans]
        references = [self._reference(each) for each in answer.references]
        closest = self.hits(self._question, answer.closest)
        return {**wire.answer(answer), "references": references, "closest": closest}

    def hits(self, question: str, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        """Passages that were found, each with the lines that fit the question best."""
        lines = snippets.of_hits(question, hits, self._index().idf)
        return [
            {**wire.hit(hit), "sha256": hit.passage.sha256, "snippet": shown}
            for hit, shown in zip(hits, lines, strict=True)
        ]

    def _reference(self, cited: Reference) -> dict[str, Any]:
        page = self._index().page(cited.url)
        spans = [(span.start, span.end) for span in self._spans if span.source == cited.n]
        shown = snippets.around(page.text, spans) if page else []
        return {**wire.reference(cited), "sha256": fingerprint(page) if page else "", "snippet": shown}
