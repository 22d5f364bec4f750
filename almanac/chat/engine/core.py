"""The engine's core: texts of tokens in, their continuations out, many at a time. Each step it asks the scheduler what to compute, has
it computed, and draws a token for every text whose last one was computed. It knows nothing of words, HTTP or who asks; one thread uses
it.

Its law: what a text becomes does not depend on who else is served, nor on how its tokens came into steps."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from almanac.chat.engine import sampler
from almanac.chat.engine.pages import PAGE, PagePool
from almanac.chat.engine.request import Reason, Sequence
from almanac.chat.engine.rows import Batch
from almanac.chat.engine.scheduler import DEFAULT, Limits, Plan, Scheduler
from almanac.chat.engine.speculate import Guesser


@runtime_checkable
class Runner(Protocol):
    """What computes steps."""

    def forward(
        self, batch: Batch, meanwhile: Callable[[], object] | None = None
    ) -> Float[Tensor, "wanted vocabulary"]:
        """Compute tokens, keep their keys and values; the logits of the rows that are wanted. On the way it may call `meanwhile`, which may
        have another batch computed."""
        ...

    def ring(self) -> None:
        """Have the step that is being computed, or else the next one, call its `meanwhile` soon; from any thread."""
        ...

    def features(self, count: int) -> Float[Tensor, "count width"]:
        """What the last step's first so many wanted rows were before the head."""
        ...

    def copy_page(self, source: int, target: int) -> None:
        """Give a page what another holds."""
        ...

    def close(self) -> None:
        """End what it runs."""
        ...


@dataclass(frozen=True)
class Drawn:
    """What happened to a text in a step."""

    sequence: Sequence
    tokens: tuple[int, ...]
    """New ones."""
    reason: Reason | None
    """Why it ended, if it did."""


@dataclass
class Counts:
    """What an engine did so far."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    drawn_tokens: int = 0
    guessed: int = 0
    right: int = 0
    """Guesses that were taken."""


@dataclass(frozen=True)
class Guessing:
    """How guesses are made, for the model to check several tokens in a step."""

    guesser: Guesser
    most: int = 6
    """Tokens at a time."""
    below: int = 4
    """Texts being answered up to which it pays: with more, checking costs what it saves."""


class Core:
    """Answers texts.

    Args:
        runner: computes.
        pages: how many pages it has.
        ends: tokens that end a text.
        context: positions that the model knows.
        limits: of a step.
        guessing: None: nobody guesses.
    """

    def __init__(
        self,
        runner: Runner,
        pages: int,
        ends: frozenset[int],
        context: int,
        limits: Limits = DEFAULT,
        guessing: Guessing | None = None,
    ):
        self.runner, self.ends, self.context, self.guessing = runner, ends, context, guessing
        self.pool = PagePool(pages)
        self.scheduler = Scheduler(self.pool, limits)
        self.counts = Counts()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.scheduler.running and not len(self.scheduler.waiting)

    def add(self, sequence: Sequence) -> None:
        """Take in a text, with its siblings."""
        self.scheduler.add(sequence)

    def cancel(self, sequence: Sequence, reason: Reason = "cancelled") -> None:
        """Give a text up; its pages are free at once. Siblings that have not begun go on."""
        if sequence.reason is None:
            self._end(sequence, reason)

    def warm_up(self) -> None:
        """Compute what is thrown away, before there is anything to do: then all is compiled, and how long steps take is known."""
        count = min(2 * PAGE, self.scheduler.limits.rows, self.context, self.pool.free * PAGE)
        table = np.arange(-(-count // PAGE), dtype=np.int32)[None]
        for drawing, rows in ((1, 1), (0, count)):
            places = np.arange(rows, dtype=np.int32)
            batch = Batch(np.zeros(rows, np.int64), places, np.zeros(rows, np.int32), table, places[-1:])
            self.runner.forward(batch).cpu()
            began = time.monotonic()
            self.runner.forward(batch).cpu()
            self.scheduler.pace.saw(drawing, [] if drawing else [(0, rows)], time.monotonic() - began)

    def step(self, meanwhile: Callable[[], object] | None = None) -> list[Drawn]:
        """Compute a step, and say what was drawn.

        Args:
            meanwhile: called on the way when the runner is rung for; may `add` texts, and `interject`.
        """
        drawn = self._give_up_late_ones()
        self._guess()
        return drawn + self._compute(self.scheduler.plan(), meanwhile)

    def interject(self) -> list[Drawn]:
        """While a step is computed, compute what should not wait for its end, and say what was drawn."""
        return self._compute(self.scheduler.interject())

    def _compute(self, plan: Plan, meanwhile: Callable[[], object] | None = None) -> list[Drawn]:
        drawn: list[Drawn] = []
        if not plan.spans:
            return drawn
        for source, target in plan.copies:
            self.runner.copy_page(source, target)
        batch, wanted = _batch(plan)
        apart = 0.0

        def others(meanwhile: Callable[[], object]) -> None:
            nonlocal apart
            left = time.monotonic()
            meanwhile()
            apart += time.monotonic() - left

        began = time.monotonic()
        logits = self.runner.forward(batch, partial(others, meanwhile) if meanwhile else None).cpu().numpy()
        self._note_features(plan, wanted)
        self.counts.steps += 1
        self.scheduler.took(plan, time.monotonic() - began - apart)
        place = 0
        for (sequence, count), asked in zip(plan.spans, wanted, strict=True):
            drawn += self._take(sequence, count, logits[place : place + asked])
            place += asked
        return drawn

    def run(self) -> Iterator[Drawn]:
        """Step until all is answered."""
        while not self.idle:
            yield from self.step()

    def give_up(self) -> list[Drawn]:
        """Give up all texts, after a step that failed."""
        ended = []
        while not self.idle:  # a sibling takes the place of one that is given up
            for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
                self.cancel(sequence, "failed")
                ended.append(Drawn(sequence, (), "failed"))
        return ended

    def _take(self, sequence: Sequence, count: int, logits: Float[np.ndarray, "asked vocabulary"]) -> Iterator[Drawn]:
        """What a text's part of a step brought it."""
        known, start = len(sequence.tokens), sequence.computed
        if start < sequence.prompt:
            self.counts.prompt_tokens += min(count, sequence.prompt - start)
        if sequence.sampling.prompt_logprobs and start < sequence.prompt:
            logits = self._note_prompt(sequence, start, count, logits)
        if start + count < known:  # more of it is to come
            self.scheduler.computed(sequence, count)
            return
        if len(sequence.tokens) == sequence.prompt:
            yield from self._begin_siblings(sequence, count, logits[0])
        draft, sequence.draft = sequence.draft, []
        reason = self._draw(sequence, logits, draft)
        self.scheduler.computed(sequence, count - len(draft) + len(sequence.tokens) - known - 1)
        yield self._drawn(sequence, known, reason)

    def _begin_siblings(
        self, sequence: Sequence, count: int, logits: Float[np.ndarray, " vocabulary"]
    ) -> Iterator[Drawn]:
        """A prompt is computed: the other answers to it begin with the same pages and logits."""
        self.counts.cached_tokens += sequence.cached
        siblings, sequence.siblings = sequence.siblings, []
        for sibling in siblings:
            self.scheduler.join(sibling, sequence)
            sibling.cached, sibling.prompt_logprobs = sequence.cached, sequence.prompt_logprobs
            reason = self._draw(sibling, logits[None].copy(), [])
            self.scheduler.computed(sibling, count)
            yield self._drawn(sibling, sibling.prompt, reason)

    def _draw(
        self, sequence: Sequence, logits: Float[np.ndarray, "asked vocabulary"], draft: list[int]
    ) -> Reason | None:
        """Tokens of the logits after a text's last token and after each of its draft, as long as they are what was guessed."""
        self.counts.guessed += len(draft)
        for row, guess in zip(logits, [*draft, None], strict=True):
            token = self._next(sequence, row)
            reason = self._reason(sequence, token)
            if reason or token != guess:
                return reason
            self.counts.right += 1
        return None

    def _next(self, sequence: Sequence, row: Float[np.ndarray, " vocabulary"]) -> int:
        """Draw a text's next token."""
        sampling = sequence.sampling
        raw = row.copy() if sampling.logprobs is not None else row
        if len(sequence.tokens) - sequence.prompt < sampling.min_tokens:
            row[list(self.ends)] = -np.inf
        token = sampler.draw(sequence, row)
        if sampling.logprobs is not None:
            sequence.logprobs.append(sampler.logprob(raw, token, sampling.logprobs))
        sequence.tokens.append(token)
        sequence.counts[token] = sequence.counts.get(token, 0) + 1
        self.counts.drawn_tokens += 1
        return token

    def _reason(self, sequence: Sequence, token: int) -> Reason | None:
        """Whether a text ends with the token that was just drawn."""
        grammar = sequence.grammar
        if grammar is not None:
            grammar.advance(token)
            if grammar.failed:
                return "failed"
        if token in self.ends and not sequence.sampling.ignore_end:
            return "stop"
        ends = sequence.ends_it is not None and sequence.ends_it(token)
        if ends or (grammar is not None and grammar.done):
            return "stop"
        full = len(sequence.tokens) - sequence.prompt >= sequence.sampling.max_tokens
        return "length" if full or len(sequence.tokens) >= self.context else None

    def _drawn(self, sequence: Sequence, known: int, reason: Reason | None) -> Drawn:
        if reason:
            self._end(sequence, reason)
        return Drawn(sequence, tuple(sequence.tokens[known:]), reason)

    def _end(self, sequence: Sequence, reason: Reason) -> None:
        sequence.reason = reason
        self.scheduler.finish(sequence)
        if self.guessing:
            self.guessing.guesser.forget(sequence)
        if sequence.siblings:  # they have not begun
            first, *others = sequence.siblings
            first.siblings, sequence.siblings = others, []
            self.scheduler.add(first)

    def _give_up_late_ones(self) -> list[Drawn]:
        now = time.monotonic()
        texts = [*self.scheduler.running, *self.scheduler.waiting]
        late = [text for text in texts if text.deadline is not None and text.deadline < now]
        for sequence in late:
            self.cancel(sequence, "deadline")
        return [Drawn(sequence, (), "deadline") for sequence in late]

    def _guess(self) -> None:
        """Guess what follows, where checking is cheap."""
        if self.guessing is None:
            return
        texts = [text for text in self.scheduler.running if not text.is_prompt]
        if len(texts) > self.guessing.below:
            return
        texts = [text for text in texts if text.grammar is None]
        for text, draft in zip(texts, self.guessing.guesser.guess(texts, self.guessing.most), strict=True):
            left = min(text.sampling.max_tokens + text.prompt, self.context) - len(text.tokens)
            text.draft = draft[: max(left - 1, 0)]

    def _note_features(self, plan: Plan, wanted: list[int]) -> None:
        """Keep the features of texts that are asked for theirs."""
        if not any(sequence.wants_features for sequence, _ in plan.spans):
            return
        features = self.runner.features(sum(wanted)).cpu().numpy()
        for (sequence, _), last in zip(plan.spans, np.cumsum(wanted), strict=True):
            if sequence.wants_features and last:
                sequence.features = features[last - 1].copy()

    def _note_prompt(self, sequence: Sequence, start: int, count: int, logits: np.ndarray) -> np.ndarray:
        """How likely a prompt's tokens were, of the logits of all rows; returns those that are to be drawn from."""
        top = sequence.sampling.logprobs or 0
        for row, place in enumerate(range(start + 1, min(start + count + 1, sequence.prompt))):
            if place > len(sequence.prompt_logprobs):  # not again after a preemption
                sequence.prompt_logprobs.append(sampler.logprob(logits[row], sequence.tokens[place], top))
        return logits[len(sequence.tokens) - 1 - start :]


def _batch(plan: Plan) -> tuple[Batch, list[int]]:
    """A plan's tokens in rows, and how many rows' logits each text wants."""
    tokens, positions, wanted, numbers = [], [], [], []
    row = 0
    for sequence, count in plan.spans:
        start, known = sequence.computed, len(sequence.tokens)
        tokens += (sequence.tokens[start:] + sequence.draft)[:count]
        positions.append(np.arange(start, start + count, dtype=np.int32))
        all_rows = sequence.sampling.prompt_logprobs and start < sequence.prompt
        first = 0 if all_rows else min(known - 1 - start, count)
        wanted += range(row + first, row + count)
        numbers.append(count - first)
        row += count
    table = np.zeros((len(plan.spans), max(len(sequence.pages) for sequence, _ in plan.spans)), np.int32)
    for line, (sequence, _) in zip(table, plan.spans, strict=True):
        line[: len(sequence.pages)] = sequence.pages
    owner = np.repeat(np.arange(len(plan.spans), dtype=np.int32), [count for _, count in plan.spans])
    batch = Batch(np.array(tokens, np.int64), np.concatenate(positions), owner, table, np.array(wanted, np.int32))
    return batch, numbers
