"""Play as the transformer reads it (arXiv 2205.15241, section 3.1, footnote 2; the released notebook's `encode_return` and
`encode_reward`): a step is 36 patches of its frame, then a return, an action and a reward, each one of a few numbers. This file turns
points into those numbers, and knows nothing of networks."""

import numpy as np
from jaxtyping import Int, Num

STEPS = 4  # that a window holds
PATCH = 14  # pixels of a patch's side
PATCHES = 36  # of a frame, 6 × 6, row by row
RETURNS = 120  # numbers of returns
REWARDS = 4  # numbers of rewards
LOWEST = -20  # the return that number 0 stands for

_POSITIVE, _NEGATIVE = 1, 3  # 2 is for an episode's end in the released code, whose encoder never makes it


def returns_to_go(points: Num[np.ndarray, " steps"]) -> Int[np.ndarray, " steps"]:
    """What is still to be won at each step of an episode, a reward counting 1, 0 or −1 by its sign.

    Args:
        points: won after each step, as the game counts them, up to the episode's end.
    """
    signs = np.sign(points).astype(np.int64)
    return np.cumsum(signs[::-1])[::-1].copy()


def return_tokens(returns: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """The numbers of returns. The paper clips returns to −20 … 100, which are 121 values for 120 numbers; a hundred and more share the last
    number with 99, as the released code's lookup has it.

    Args:
        returns: to go.
    """
    return np.clip(returns, LOWEST, LOWEST + RETURNS - 1).astype(np.int64) - LOWEST


def reward_tokens(points: Num[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """The numbers of rewards: 0 none, 1 positive, 3 negative.

    Args:
        points: won, as the game counts them.
    """
    return (points > 0) * _POSITIVE + (points < 0) * _NEGATIVE
