"""Play that was never played, in which each frame says where it is from."""

import numpy as np

from almanac.multigame_dt.data import Play
from almanac.multigame_dt.games import named


def made(*episodes: tuple[int, int, bool], games: tuple[str, ...] = ("Boxing", "Pong"), seed: int = 0) -> Play:
    """Episodes of (game, steps, over), with a hole of two steps after each. Pixels in a frame's top left corner are the number of its
    episode from 1 on, and of its step; all others are random."""
    random = np.random.default_rng(seed)
    lengths = np.array([steps for _, steps, _ in episodes], np.int64)
    total = int((lengths + 2).sum())
    starts = np.cumsum([0, *(lengths + 2)])[:-1]
    frames = random.integers(0, 256, (total, 84, 84), dtype=np.uint8)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        frames[start : start + length, 0, 0] = number + 1
        frames[start : start + length, 0, 1] = np.arange(length)
    rewards = random.integers(-3, 4, total).astype(np.float32)
    return Play(
        frames,
        random.integers(1, 18, total).astype(np.uint8),
        rewards,
        starts,
        lengths,
        np.array([over for _, _, over in episodes]),
        tuple(named(game) for game in games),
        np.array([game for game, _, _ in episodes], np.int64),
        np.array([rewards[start : start + length].sum() for start, length in zip(starts, lengths, strict=True)], float),
        tuple("made" for _ in episodes),
        np.linspace(0, 1, len(episodes)),
    )
