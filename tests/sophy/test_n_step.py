"""n-step transitions against sums written out step by step."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.sophy.buffer import Buffer, Table
from almanac.sophy.n_step import NStep
from almanac.sophy.qr_sac import Batch

GAMMA = 0.9


def driven(cars: int, length: int, ends: dict[tuple[int, int], str], steps: int) -> tuple[list[Batch], np.ndarray]:
    """Drive with rewards and observations that name their step and car; `ends` says who ended when, and how, and who was away."""
    rng, maker = np.random.default_rng(0), NStep(cars, 2, 1, steps, GAMMA)
    rewards, made = rng.normal(size=(length, cars)), []
    for t in range(length):
        seen, after = (
            np.stack((np.full(cars, float(when)), np.arange(cars)), 1).astype(np.float32) for when in (t, t + 0.5)
        )
        how = [ends.get((t, car)) for car in range(cars)]
        terminated, truncated = (np.array([each == kind for each in how]) for kind in ("end", "late"))
        away = np.array([each == "away" for each in how])
        made += maker.add(seen, seen[:, :1], rewards[t], terminated, truncated, after, away)
    return made, rewards


def by_start(made: list[Batch]) -> dict[tuple[int, int], tuple[float, float, float]]:
    found = {}
    for batch in made:
        for at in range(len(batch.returns)):
            t, car = (int(each) for each in batch.observations[at])
            assert (t, car) not in found and int(batch.actions[at]) == t and batch.next_observations[at, 1] == car
            found[t, car] = float(batch.returns[at]), float(batch.discounts[at]), float(batch.next_observations[at, 0])
    return found


def written_out(rewards: np.ndarray, t: int, car: int, ends: dict[tuple[int, int], str], steps: int):
    total, discount = 0.0, 1.0
    for k in range(steps):
        if t + k >= len(rewards):
            return None  # not complete yet
        total, discount = total + discount * rewards[t + k, car], discount * GAMMA
        how = ends.get((t + k, car))
        if how:
            return total, 0.0 if how == "end" else discount, t + k + 0.5
    return total, discount, t + steps - 0.5


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 7),
    st.dictionaries(st.tuples(st.integers(0, 19), st.integers(0, 2)), st.sampled_from(["end", "late"]), max_size=12),
)
def test_every_step_begins_one_transition_with_the_sum_of_its_rewards(steps: int, ends: dict[tuple[int, int], str]):
    for t, car in sorted(ends):
        if ends.get((t, car)) == "end":  # and then it is away for a while
            ends = ends | {(later, car): "away" for later in range(t + 1, t + 1 + (t + car) % 4)}
    made, rewards = driven(3, 20, ends, steps)
    found = by_start(made)
    for t in range(20):
        for car in range(3):
            expected = written_out(rewards, t, car, ends, steps)
            if expected is None or ends.get((t, car)) == "away":
                assert (t, car) not in found
            else:
                np.testing.assert_allclose(found[t, car], expected, rtol=1e-5, atol=1e-6)


def numbered(first: int, count: int) -> Batch:
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    return Batch(numbers[:, None], numbers[:, None], numbers, numbers, numbers[:, None])


def test_a_table_holds_the_newest():
    table = Table(10, 1, 1, torch.device("cpu"))
    for first in range(0, 28, 4):
        table.insert(numbered(first, 4))
    assert sorted(table.rows.returns.tolist()) == list(range(18, 28)) and table.filled == 10
    table.insert(numbered(100, 25))
    assert table.filled == 10


def test_each_scenario_has_its_part_of_a_minibatch():
    buffer = Buffer({"a": 3.0, "b": 1.0}, 100, 1, 1)
    buffer.insert("a", numbered(0, 50))
    assert len(buffer.sample(64).returns) == 64 and buffer.sample(64).returns.max() < 50
    buffer.insert("b", numbered(1000, 2))
    drawn = buffer.sample(64).returns
    assert (drawn >= 1000).sum() == 16 and len(drawn) == 64
