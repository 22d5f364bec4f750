"""Who is computed when: by a clock that a step moves by what it holds, so that it is the same on every machine."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch

from almanac.chat.engine import core as cores
from almanac.chat.engine import scheduler
from almanac.chat.engine.core import Core, Drawn
from almanac.chat.engine.pages import PAGE, PagePool, keys
from almanac.chat.engine.queue import FairQueue
from almanac.chat.engine.request import Sampling, Sequence
from almanac.chat.engine.rows import Batch
from almanac.chat.engine.scheduler import Limits


@dataclass
class Clock:
    """A runner of no model: a step takes what its rows cost on two cores of a server."""

    now: float = 0.0
    before: float = 0.0
    """s that a row takes longer for each token before it."""
    held_up: int = -1
    """A step that something else on the machine holds up."""
    rows: list[int] = field(default_factory=list)

    on_the_way: list[Callable[[], object]] = field(default_factory=list)
    """What happens in the middle of the next steps, before it lets others in."""

    def forward(self, batch: Batch, meanwhile: Callable[[], object] | None = None) -> torch.Tensor:
        texts = len(set(batch.owner.tolist()))
        seconds = 0.004 + 0.0006 * texts + 0.0002 * (len(batch.tokens) - texts)
        self.now += seconds / 2
        if meanwhile is not None and self.on_the_way:
            self.on_the_way.pop(0)()
            meanwhile()
        self.now += seconds / 2
        self.now += self.before * int(batch.positions.sum()) + 0.3 * (len(self.rows) == self.held_up)
        self.rows.append(len(batch.tokens))
        return torch.zeros(len(batch.wanted), 4)

    def ring(self) -> None:
        pass

    def features(self, count: int) -> torch.Tensor:
        return torch.zeros(count, 1)

    def copy_page(self, source: int, target: int) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cores.time, "monotonic", lambda: made.now)
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: made.now)
    return made


def text(prompt: int, answer: int, key: str = "", start: int = 0) -> Sequence:
    return Sequence(list(range(start, start + prompt)), Sampling(answer, temperature=0.0), key)


def times(engine: Core, clock: Clock, arriving: dict[int, list[Sequence]]) -> dict[Sequence, list[float]]:
    """When each text's tokens came; texts arrive before the step of their number."""
    came: dict[Sequence, list[float]] = {}
    engine.warm_up()
    for step in itertools.count():
        for new in arriving.get(step, []):
            new.arrived = clock.now
            engine.add(new)
        if engine.idle and step > max(arriving):
            return came
        for drawn in engine.step():
            came.setdefault(drawn.sequence, []).extend([clock.now] * len(drawn.tokens))


@pytest.mark.parametrize("same_user", [True, False])
def test_a_long_prompt_stretches_no_gap_beyond_three_times_the_median(clock, same_user):
    engine = Core(clock, 2000, frozenset(), 4096)
    streams = [text(60, 300, "a", 1000 * number) for number in range(32)]
    long = text(1500, 20, "a" if same_user else "b", 10**6)
    came = times(engine, clock, {0: streams, 100: [long]})
    gaps = np.concatenate([np.diff(came[stream]) for stream in streams])
    assert gaps.max() < 3 * np.median(gaps)
    assert came[long][0] - long.arrived < 2.5  # it is not starved either: alone, it takes 0.6 s


@pytest.mark.parametrize("same_user", [True, False])
def test_a_step_that_was_held_up_stretches_none_after_it(clock, same_user):
    clock.before, clock.held_up = 1e-6, 97
    engine = Core(clock, 2000, frozenset(), 4096)
    streams = [text(60, 300, "a", 1000 * number) for number in range(32)]
    long = text(1500, 20, "a" if same_user else "b", 10**6)
    came = times(engine, clock, {0: streams, 100: [long]})
    before = np.concatenate([np.diff([at for at in came[each] if at <= long.arrived]) for each in streams])
    after = np.concatenate([np.diff([at for at in came[each] if at >= long.arrived]) for each in streams])
    assert after.max() < 3 * np.median(before)


def test_one_greedy_user_does_not_double_anothers_wait(clock):
    def waits(others: list[Sequence]) -> float:
        engine = Core(clock, 4000, frozenset(), 4096)
        mine = [text(200, 30, "b", 10**6 + 1000 * number) for number in range(12)]
        arriving = {0: others} | {100 + 41 * number: [each] for number, each in enumerate(mine)}
        came = times(engine, clock, arriving)
        return float(np.median([came[each][0] - each.arrived for each in mine]))

    alone = waits([])
    greedy = waits([text(60, 900, "a", 1000 * number) for number in range(64)])
    assert greedy < 2 * alone


def test_users_are_served_alike_whatever_they_ask(clock):
    """Eight texts of one and forty of another, as many at a time as four: after a while each has had about half."""
    engine = Core(clock, 4000, frozenset(), 4096, Limits(running=4))
    texts = [text(64, 50, "a", 1000 * number) for number in range(40)] + [
        text(64, 50, "b", 10**6 + 1000 * n) for n in range(8)
    ]
    for each in texts:
        engine.add(each)
    drawn = {"a": 0, "b": 0}
    while drawn["b"] < 400:
        for news in engine.step():
            drawn[news.sequence.key] += len(news.tokens)
    assert 0.7 < drawn["a"] / drawn["b"] < 1.5


def test_lower_priorities_come_first(clock):
    engine = Core(clock, 4000, frozenset(), 4096, Limits(running=2))
    texts = [text(40, 10, "a", 1000 * number) for number in range(6)]
    for number, each in enumerate(texts):
        each.priority = -number
        engine.add(each)
    ended = [news.sequence for news in engine.run() if news.reason]
    assert ended == texts[::-1]


def test_a_step_holds_no_more_than_it_may(clock):
    engine = Core(clock, 4000, frozenset(), 4096, Limits(rows=100, running=16))
    for number in range(40):
        engine.add(text(30 + 7 * number, 20, str(number % 3), 1000 * number))
    list(engine.run())
    assert max(clock.rows) <= 100


def test_a_text_that_does_not_fit_waits_and_others_are_not_held_up_for_ever(clock):
    engine = Core(clock, 10, frozenset(), 4096)
    big, small = text(8 * PAGE, 5), text(20, 200, start=10**6)
    engine.add(small)
    engine.step()
    engine.add(big)
    list(engine.run())
    assert big.reason == small.reason == "length" and engine.pool.free == 10


def test_pages_are_found_again_until_they_are_needed():
    pool = PagePool(4)
    tokens = list(range(2 * PAGE + 5))
    taken = [pool.take() for _ in range(3)]
    for page, key in zip(taken, keys(tokens), strict=False):
        pool.remember(page, key)
    pool.release(taken)
    assert pool.free == 4 and pool.find(keys(tokens)) == taken[:2] and pool.cached == 2
    assert pool.find(keys(tokens, b"another's")) == []
    assert pool.find(keys([1, *tokens])) == []
    pool.share(taken[0])
    assert pool.free == 3
    pool.release(taken[:1])
    assert pool.take() not in taken[:2]  # what holds nothing is taken first
    assert pool.take() not in taken[:2]
    assert pool.take() == taken[1]  # then the end of a text, so that its beginning can still be found
    assert pool.find(keys(tokens)) == taken[:1]
    assert pool.take() == taken[0] and pool.find(keys(tokens)) == []


def test_one_who_asked_for_nothing_has_no_credit():
    queue = FairQueue()
    old, new = text(5, 5, "old"), text(5, 5, "new")
    queue.enter(old)
    queue.drop(old)
    queue.charge(old, 1000.0)
    queue.enter(new)
    assert queue.served("new") == 1000
    queue.leave(new)
    queue.leave(old)
    queue.enter(text(5, 5, "old"))
    assert queue.served("old") == 0  # nobody is left to compare with


def test_a_newcomer_does_not_wait_for_the_end_of_a_greedy_users_step(clock):
    engine = Core(clock, 4000, frozenset(), 4096)
    engine.warm_up()
    streams = [text(60, 400, "a", 1000 * number) for number in range(64)]
    mine = [text(40, 30, "b", 10**6 + 1000 * number) for number in range(12)]
    came: dict[Sequence, list[float]] = {each: [] for each in [*streams, *mine]}

    def note(drawn: list[Drawn]) -> None:
        for each in drawn:
            came[each.sequence].extend([clock.now] * len(each.tokens))

    def arrive(new: Sequence) -> None:
        new.arrived = clock.now
        engine.add(new)

    for each in streams:
        engine.add(each)
    for step in itertools.count():
        if step >= 100 and step % 40 == 0 and step // 40 - 3 < len(mine):
            clock.on_the_way = [partial(arrive, mine[step // 40 - 3])]
        note(engine.step(lambda: note(engine.interject())))
        assert len(engine.scheduler.running) <= 65  # and the next step trims it
        if engine.idle:
            break
    gaps = np.concatenate([np.diff(came[stream]) for stream in streams])
    assert np.quantile(gaps, 0.99) < 3 * np.median(gaps)  # one of them gives its place up, and waits
    whole = 0.004 + 0.0006 * 64
    waits = [came[each][0] - each.arrived for each in mine]
    assert np.median(waits) < 0.004 + 0.0002 * 40 + 0.001 < whole / 2 + 0.004
    assert all(len(came[each]) == 400 for each in streams)
    assert engine.pool.free == engine.pool.pages


def test_nobody_is_let_in_where_a_step_is_as_long_as_it_may(clock):
    """A long prompt has its part of a step already: another, from somebody else, waits for the next."""
    engine = Core(clock, 2000, frozenset(), 4096)
    engine.warm_up()
    for number in range(32):
        engine.add(text(60, 300, "a", 1000 * number))
    for _ in range(50):
        engine.step()
    engine.add(text(1500, 20, "a", 10**6))
    clock.on_the_way = [lambda: engine.add(text(40, 20, "b", 10**7))]
    meanwhile: list[Drawn] = []
    engine.step(lambda: meanwhile.extend(engine.interject()))
    assert not meanwhile
    assert any(each.sequence.key == "b" for _ in range(3) for each in engine.step())
