"""Points as the numbers that the transformer reads."""

import numpy as np
import pytest

from almanac.multigame_dt import tokens


@pytest.fixture
def points() -> np.ndarray:
    """Of an episode with rewards of both signs and every size."""
    random = np.random.default_rng(0)
    return random.choice([0.0, 0.0, 0.0, 1.0, -1.0, 500.0, -0.25, 7.0], 400)


def test_a_return_is_the_sign_of_the_reward_and_the_return_after_it(points):
    returns = tokens.returns_to_go(points)
    assert returns.dtype == np.int64
    assert returns[-1] == np.sign(points[-1])
    assert np.array_equal(returns[:-1] - returns[1:], np.sign(points[:-1]))


def test_returns_have_120_numbers_in_order_and_all_beyond_share_the_ends():
    returns = np.arange(-1000, 1000)
    numbers = tokens.return_tokens(returns)
    assert set(numbers.tolist()) == set(range(tokens.RETURNS))
    assert np.array_equal(numbers + tokens.LOWEST, np.clip(returns, -20, 99))
    assert tokens.return_tokens(np.array([99, 100, 101])).tolist() == [
        119,
        119,
        119,
    ]  # 100 is a 121st value for 120 numbers


def test_rewards_have_a_number_for_each_sign_and_none_is_2(points):
    numbers = tokens.reward_tokens(points)
    assert [{0.0: 0, 1.0: 1, -1.0: 3}[sign] for sign in np.sign(points)] == numbers.tolist()
