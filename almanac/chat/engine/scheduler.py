"""What a step computes. One rule covers all: each text has computed fewer tokens than it has, and is given some of the step; one more
token of an answer is the case "1" of it (iteration-level scheduling, Orca; prompts in parts, Sarathi). Texts that are being answered
come first, and prompts take no more of the step than makes it somewhat longer. Whoever has been served least begins at once, if others
have to make room for it; and when pages run out, the newest text gives its own back. Both are computed again later, or found."""

import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence as Row
from dataclasses import dataclass, field

import numpy as np

from almanac.chat.engine import pages
from almanac.chat.engine.pages import PAGE, PagePool
from almanac.chat.engine.queue import DRAWN, FairQueue
from almanac.chat.engine.request import Sequence


@dataclass(frozen=True)
class Limits:
    """What a step may hold."""

    rows: int = 512
    """Tokens in a step."""
    running: int = 64
    """Texts at a time."""
    stretch: float = 0.9
    """By how much prompts may make a step longer in which answers are drawn, of the time that it takes without. Measured: at 1.0 the
    longest of many gaps between an answer's tokens is 2.5 to 2.9 times the usual."""
    chunk: int | None = None
    """Tokens of prompts in such a step, instead."""


DEFAULT = Limits()
_ROUNDED = 1.25
"""Times what a step has for a prompt, up to which the prompt's rest is computed whole: a step for a few tokens is a long one too."""


class Pace:
    """How long steps take: at least, of answers alone, and for each token of a prompt. Medians of the last ones, because now and then
    something else on the machine holds a step up."""

    def __init__(self) -> None:
        self.least = math.inf
        """s of a step, however little is in it."""
        self._answers: deque[float] = deque(maxlen=31)
        self._drawing = 0
        self._alone, self._beside = PromptPace(), PromptPace()

    @property
    def known(self) -> bool:
        """Whether there were steps of both kinds."""
        return bool(self._answers) and bool(self._alone.known or self._beside.known)

    @property
    def answering(self) -> float:
        """s of a step in which answers are drawn and nothing else is done."""
        return statistics.median(self._answers) if self._answers else 0.0

    def of_prompts(self, alone: bool) -> "PromptPace":
        """What a prompt's tokens take in steps of their own, or beside answers, where a few of them cost more each."""
        own, other = (self._alone, self._beside) if alone else (self._beside, self._alone)
        return own if own.known else other

    def saw(self, drawing: int, parts: Row[tuple[int, int]], seconds: float) -> None:
        """A step took so long.

        Args:
            drawing: texts whose next token was drawn.
            parts: of each prompt in it, tokens before its part, and tokens of it.
            seconds: that it took.
        """
        self.least = min(self.least, seconds)
        alike = 0.9 * self._drawing <= drawing <= 1.1 * self._drawing
        if parts and not drawing:
            self._alone.saw(parts, max(seconds - self.least, seconds / 4))
            self._beside.lean_on(self._alone)
        elif parts and alike:
            self._beside.saw(parts, max(seconds - self.answering, seconds / 8))
            self._alone.lean_on(self._beside)
        else:
            if not alike:  # the last ones say nothing of it
                self._answers.clear()
            prompts = self.of_prompts(alone=False)
            self._answers.append(max(seconds - sum(prompts.seconds(*part) for part in parts), seconds / 4))
            self._drawing = drawing


class PromptPace:
    """How long a prompt's tokens take: the longer, the more tokens are before them."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=16)
        self._first = self._further = 0.0
        self._says_slope = False

    @property
    def known(self) -> bool:
        """Whether there were any."""
        return bool(self._seen)

    def seconds(self, start: int, count: int) -> float:
        """How long so many tokens of a prompt take that are after others."""
        return count * (self._first + self._further * (start + count / 2))

    def tokens(self, start: int, seconds: float) -> int:
        """How many tokens of a prompt, after others, are computed in a time."""
        each = self._first + self._further * start
        return int(2 * seconds / (each + math.sqrt(each**2 + 2 * self._further * seconds)))

    def saw(self, parts: Row[tuple[int, int]], seconds: float) -> None:
        """Prompts took so long: a line through what a token took, by how many were before it (Theil 1950, Sen 1968).

        Args:
            parts: of each prompt, tokens before its part, and tokens of it.
            seconds: that they took, beside what else there was.
        """
        tokens = sum(count for _, count in parts)
        if tokens >= PAGE // 2:
            before = sum(count * (start + count / 2) for start, count in parts) / tokens
            self._seen.append((before, seconds / tokens))
            self._fit()

    def lean_on(self, other: "PromptPace") -> None:
        """Where nothing here says what tokens before others cost, steps of another kind do."""
        if not self._says_slope and self._seen and other._says_slope:
            self._fit(other._further)

    def _fit(self, further: float | None = None) -> None:
        before, each = np.array(self._seen).T
        apart = before[:, None] - before
        pairs = apart > 2 * PAGE
        self._says_slope = bool(pairs.any())
        if self._says_slope:
            further = float(np.median(((each[:, None] - each)[pairs]) / apart[pairs]))
        self._further = max(self._further if further is None else further, 0.0)
        self._first = max(float(np.median(each - self._further * before)), float(np.median(each)) / 4, 1e-7)


@dataclass
class Room:
    """What a step has left for prompts."""

    tokens: int
    seconds: float = math.inf
    alone: bool = False
    """Whether nothing is in it but prompts."""
    least: int = PAGE // 2
    """Tokens that the next prompt is given, however long they take."""

    @property
    def is_left(self) -> bool:
        """Whether there is any."""
        return self.tokens > 0 and self.seconds > 0


@dataclass
class Plan:
    """A step."""

    spans: list[tuple[Sequence, int]] = field(default_factory=list)
    """Texts, and how many of their next tokens, drafts among them, are computed."""
    copies: list[tuple[int, int]] = field(default_factory=list)
    """Pages to copy first, from and to."""


class Scheduler:
    """Decides.

    Args:
        pool: pages.
        limits: of a step.
    """

    def __init__(self, pool: PagePool, limits: Limits):
        self.pool, self.limits = pool, limits
        self.waiting = FairQueue()
        self.running: list[Sequence] = []
        self.pace = Pace()
        self.preemptions = 0
        self._gave_way = False
        self._spare = 0.0  # s that others may still add to the step that is being computed
        self._beyond = 0  # texts that were let in on the way, though as many ran as may

    def add(self, sequence: Sequence) -> None:
        """A text is to be answered."""
        self.waiting.enter(sequence)

    def join(self, sequence: Sequence, like: Sequence) -> None:
        """Another answer to a prompt that is computed: it shares its pages, until it writes to one."""
        sequence.pages, sequence.keys = list(like.pages), list(like.keys)
        sequence.computed = like.computed
        for page in sequence.pages:
            self.pool.share(page)
        self.waiting.enter(sequence)
        self.waiting.drop(sequence)
        self.running.append(sequence)

    def finish(self, sequence: Sequence) -> None:
        """A text is answered, or given up; its pages are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
        self._give_back(sequence)
        self.waiting.leave(sequence)

    def plan(self) -> Plan:
        """The next step; empty, where there is nothing to do."""
        plan, room = Plan(), Room(self.limits.rows)
        self._make_place()
        first = None if self._gave_way else self._first()
        favourite = first.key if first is not None else None
        gives_way = first is not None and self._is_short(first)
        answered = [each for each in self.running if not each.is_prompt]
        for sequence in [each for each in answered if not gives_way or each.key == favourite]:
            count = min(1 + len(sequence.draft), room.tokens)
            if count and sequence in self.running and self._make_room(sequence, sequence.computed + count, plan):
                sequence.draft = sequence.draft[: count - 1]
                plan.spans.append((sequence, count))
                room.tokens -= count
        if plan.spans or gives_way:
            self._limit(room, alone=not plan.spans)
        self._gave_way = gives_way
        if first is not None and first not in self.running and len(self.running) < self.limits.running:
            self._admit(first)
        prompts = [each for each in self.running if each.is_prompt]
        for sequence in sorted(prompts, key=lambda each: each.key != favourite):
            if room.is_left:
                self._advance(sequence, room, plan)
        while room.is_left:
            sequence = self.waiting.next(favourite)
            if sequence is None or len(self.running) >= self.limits.running or not self._admit(sequence):
                break
            self._advance(sequence, room, plan)
        self._spare = room.seconds if room.seconds < math.inf else 0.0
        return plan

    def interject(self) -> Plan:
        """A step within the one that is being computed, for somebody who should not wait for its end: the beginning of a short prompt, as
        far as it makes the other step no longer than prompts may. It takes nothing from texts that run; empty, where there is none."""
        plan, sequence = Plan(), self._first()
        if sequence is None or sequence in self.running or not self.pace.known or not self._is_short(sequence):
            return plan
        room = Room(self.limits.rows, self._spare - self.pace.least, alone=True)
        full = len(self.running) >= self.limits.running
        if not room.is_left or (full and self._greediest(sequence) is None) or not self._admit(sequence):
            return plan
        self._beyond += full
        self._advance(sequence, room, plan)
        self._spare = room.seconds
        return plan

    def took(self, plan: Plan, seconds: float) -> None:
        """How long a step took; before its tokens are `computed`."""
        parts = [(sequence.computed, count) for sequence, count in plan.spans if sequence.is_prompt]
        self.pace.saw(len(plan.spans) - len(parts), parts, seconds)

    def _limit(self, room: Room, alone: bool) -> None:
        """Leave prompts as much of a step as makes it somewhat longer for those whose answers are drawn in it, or wait for it."""
        if self._gave_way:
            room.tokens = 0
        elif self.limits.chunk is not None or not self.pace.known:
            room.tokens = min(room.tokens, self.limits.chunk or 2 * PAGE)
        else:
            room.seconds, room.alone = self._share(alone), alone

    def _share(self, alone: bool) -> float:
        """s of prompts by which a step may become longer; `alone`: by a step of their own."""
        return max(self.limits.stretch * self.pace.answering - (self.pace.least if alone else 0.0), 1e-4)

    def _first(self) -> Sequence | None:
        """A text that begins, of somebody who has been served no more than all whose answers are being drawn, and has none of these."""
        begins = {each.key: each for each in self.waiting.firsts}
        begins |= {each.key: each for each in self.running if each.is_prompt and not each.drawn}
        answered = {each.key for each in self.running if not each.is_prompt}
        if not begins.keys() - answered or not answered:
            return None
        key = min(begins.keys() - answered, key=self.waiting.served)
        return begins[key] if self.waiting.served(key) <= min(map(self.waiting.served, answered)) else None

    def _is_short(self, sequence: Sequence) -> bool:
        """Whether others wait while a text begins, and then it for them: if that takes no more than two turns. A longer one has its parts
        in steps with them, which need not be read twice."""
        if not self.pace.known:
            return True
        start = sequence.computed or len(self._find(sequence)) * PAGE
        left = len(sequence.tokens) - start
        return self.pace.of_prompts(alone=True).seconds(start, left) <= 2 * self._share(alone=True)

    def _make_place(self) -> None:
        """Where as many texts run as may, one of whoever has most of them gives its place to one of whoever has fewer."""
        while self._beyond and len(self.running) > self.limits.running:
            self._preempt(self._newest(Counter(each.key for each in self.running).most_common(1)[0][0]))
            self._beyond -= 1
        self._beyond = 0
        sequence = self.waiting.next()
        if sequence is None or len(self.running) < self.limits.running:
            return
        greediest = self._greediest(sequence)
        if greediest is not None:
            self._preempt(self._newest(greediest))

    def _greediest(self, sequence: Sequence) -> str | None:
        """Who has most texts that run, if that is more than the text's owner would have with it."""
        counts = Counter(each.key for each in self.running)
        greediest, most = counts.most_common(1)[0]
        return greediest if most > counts[sequence.key] + 1 else None

    def _newest(self, key: str) -> Sequence:
        """Of somebody's texts that run."""
        return max((each for each in self.running if each.key == key), key=lambda text: text.number)

    def computed(self, sequence: Sequence, count: int) -> None:
        """So many more tokens of a text have keys and values; full pages can be found from now on."""
        was_prompt = min(sequence.computed + count, sequence.prompt) - min(sequence.computed, sequence.prompt)
        self.waiting.charge(sequence, was_prompt + DRAWN * (count - was_prompt))
        sequence.computed += count
        full = sequence.computed // PAGE
        if len(sequence.keys) < full:
            sequence.keys = pages.keys(sequence.tokens[: full * PAGE], sequence.salt, sequence.keys)
        for page, key in list(zip(sequence.pages, sequence.keys, strict=False))[
            (sequence.computed - count) // PAGE : full
        ]:
            self.pool.remember(page, key)

    def _advance(self, sequence: Sequence, room: Room, plan: Plan) -> None:
        """Compute as much of a prompt as there is room for."""
        whole = len(sequence.tokens) - sequence.computed
        count = min(whole, room.tokens)
        if room.seconds < math.inf:
            pace = self.pace.of_prompts(room.alone)
            if pace.seconds(sequence.computed, count) > _ROUNDED * room.seconds:
                count = min(count, max(pace.tokens(sequence.computed, room.seconds), room.least))
            room.seconds -= pace.seconds(sequence.computed, count)
        plan.spans.append((sequence, count))
        room.tokens = room.tokens - count if count == whole else 0
        room.least = 1

    def _admit(self, sequence: Sequence) -> bool:
        """Begin a text, if all of it finds place: one that began with less might wait for pages in the middle, and others with it."""
        known = self._find(sequence)
        needed = -(-len(sequence.tokens) // PAGE) - len(known)
        if needed > self.pool.free - sum(map(self.pool.is_free, known)):
            return False
        self.waiting.drop(sequence)
        for page in known:
            self.pool.share(page)
        sequence.pages = known + [self.pool.take() for _ in range(needed)]
        sequence.computed = len(known) * PAGE
        if not sequence.drawn:
            sequence.cached = sequence.computed
        sequence.begun = sequence.begun or time.monotonic()
        self.running.append(sequence)
        return True

    def _find(self, sequence: Sequence) -> list[int]:
        """Pages that hold a text's beginning already; its last token is computed in any case."""
        sequence.keys = pages.keys(sequence.tokens, sequence.salt, sequence.keys)
        if sequence.sampling.prompt_logprobs:
            return []
        return self.pool.find(sequence.keys[: (len(sequence.tokens) - 1) // PAGE])

    def _make_room(self, sequence: Sequence, length: int, plan: Plan) -> bool:
        """Pages for a text's next tokens, its own; False: it gave its pages back instead."""
        place = sequence.computed // PAGE
        shared = place < len(sequence.pages) and self.pool.is_shared(sequence.pages[place])
        while self.pool.free < -(-length // PAGE) - len(sequence.pages) + shared:
            newest = max(self.running, key=lambda text: (text.priority, text.number))
            planned = {text for text, _ in plan.spans}
            if newest in planned:  # it has its part of this step already; then it is this one that waits
                newest = sequence
            self._preempt(newest)
            if newest is sequence:
                return False
        if shared:
            own = self.pool.take()
            plan.copies.append((sequence.pages[place], own))
            self.pool.release([sequence.pages[place]])
            sequence.pages[place] = own
        while len(sequence.pages) * PAGE < length:
            sequence.pages.append(self.pool.take())
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._give_back(sequence)
        sequence.computed, sequence.draft = 0, []
        self.waiting.wait(sequence, first=True)

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.pages = []
