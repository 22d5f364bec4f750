"""What a step computes. One rule covers all: each text has computed fewer tokens than it has, and is given some of the step; one more
token of an answer is the case "1" of it (iteration-level scheduling, Orca; prompts in parts, Sarathi). Texts that are being answered
come first, and prompts take no more of the step than makes it somewhat longer. Whoever has been served least begins at once, if others
have to make room for it; and when pages run out, the newest text gives its own back. Both are computed again later, or found."""

import time
from collections import Counter
from dataclasses import dataclass, field

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
    stretch: float = 1.75
    """By how much prompts may make a step longer in which answers are drawn, of the time that it takes without."""
    chunk: int | None = None
    """Tokens of prompts in such a step, instead."""


DEFAULT = Limits()


class Pace:
    """How long steps take, as far as they went."""

    def __init__(self) -> None:
        self.answering = 0.0
        """s of a step in which answers are drawn and nothing else is done."""
        self.reading = 0.0
        """s of a token of a prompt."""

    def saw(self, drawing: int, reading: int, seconds: float) -> None:
        """A step of so many texts' next tokens, and tokens of prompts, took so long."""
        if not reading:
            self.answering = _smooth(self.answering, seconds)
        elif reading >= PAGE:
            self.reading = _smooth(self.reading, max(seconds - (self.answering if drawing else 0.0), 0.0) / reading)

    def tokens(self, stretch: float) -> int | None:
        """Tokens of prompts by which a step takes longer by so much of itself; None: nobody knows yet."""
        if not self.answering or not self.reading:
            return None
        return int(stretch * self.answering / self.reading)


def _smooth(before: float, now: float) -> float:
    return now if not before else 0.8 * before + 0.2 * now


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
        plan, room = Plan(), self.limits.rows
        self._make_place()
        first = None if self._gave_way else self._first()
        for sequence in [each for each in self.running if not each.is_prompt and first in (None, each.key)]:
            count = min(1 + len(sequence.draft), room)
            if count and sequence in self.running and self._make_room(sequence, sequence.computed + count, plan):
                sequence.draft = sequence.draft[: count - 1]
                plan.spans.append((sequence, count))
                room -= count
        if plan.spans or first is not None:
            room = min(room, 0 if self._gave_way else self._chunk())
        self._gave_way = first is not None
        prompts = [each for each in self.running if each.is_prompt]
        for sequence in sorted(prompts, key=lambda each: each.key != first):
            room -= self._advance(sequence, room, plan)
        while room > 0:
            sequence = self.waiting.next(first)
            if sequence is None or len(self.running) >= self.limits.running or not self._admit(sequence):
                break
            room -= self._advance(sequence, room, plan)
        return plan

    def took(self, plan: Plan, seconds: float) -> None:
        """How long a step took; before its tokens are `computed`."""
        reading = sum(count for sequence, count in plan.spans if sequence.is_prompt)
        drawing = sum(not sequence.is_prompt for sequence, _ in plan.spans)
        self.pace.saw(drawing, reading, seconds)

    def _chunk(self) -> int:
        """Tokens of prompts in a step in which answers are drawn."""
        if self.limits.chunk is not None:
            return self.limits.chunk
        known = self.pace.tokens(self.limits.stretch)
        return 2 * PAGE if known is None else max(known, PAGE // 2)

    def _first(self) -> str | None:
        """Who has been served no more than all whose answers are being drawn, has none of these, and a text that begins: they wait for
        a part of it, and then it for them."""
        begins = {each.key for each in self.running if each.is_prompt and not each.drawn} | self.waiting.keys
        answered = {each.key for each in self.running if not each.is_prompt}
        if not begins - answered or not answered:
            return None
        key = min(begins - answered, key=self.waiting.served)
        return key if self.waiting.served(key) <= min(map(self.waiting.served, answered)) else None

    def _make_place(self) -> None:
        """Where as many texts run as may, one of whoever has most of them gives its place to one of whoever has fewer."""
        sequence = self.waiting.next()
        if sequence is None or len(self.running) < self.limits.running:
            return
        counts = Counter(each.key for each in self.running)
        greediest, most = counts.most_common(1)[0]
        if most > counts[sequence.key] + 1:
            self._preempt(max((each for each in self.running if each.key == greediest), key=lambda text: text.number))

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

    def _advance(self, sequence: Sequence, room: int, plan: Plan) -> int:
        count = min(len(sequence.tokens) - sequence.computed, room)
        if count > 0:
            plan.spans.append((sequence, count))
        return max(count, 0)

    def _admit(self, sequence: Sequence) -> bool:
        """Begin a text, if all of it finds place: one that began with less might wait for pages in the middle, and others with it."""
        length = len(sequence.tokens)
        sequence.keys = pages.keys(sequence.tokens, sequence.salt, sequence.keys)
        known = [] if sequence.sampling.prompt_logprobs else self.pool.find(sequence.keys[: (length - 1) // PAGE])
        needed = -(-length // PAGE) - len(known)
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
