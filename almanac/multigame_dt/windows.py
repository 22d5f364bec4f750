"""The windows of play that a training sees: four steps of one episode (paper, section 4.1), gathered for a whole batch at a time, and of
each game its share in every batch. Which windows batch n holds is a function of the seed and n."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from almanac.multigame_dt import tokens
from almanac.multigame_dt.data import Play
from almanac.multigame_dt.tokens import STEPS
from almanac.runtime import shuffled
from almanac.runtime.errors import UserError


class Batch(NamedTuple):
    """Windows of some steps each. What is before an episode's beginning is a black frame, no action and no reward, as in play."""

    frames: UInt8[Tensor, "batch seen 84 84"]
    """Seen before each action; with `Windows.ahead` those after the last one too."""
    returns: Int64[Tensor, "batch steps"]
    """Token of the clipped rewards' sum from each step to the episode's end."""
    actions: Int64[Tensor, "batch steps"]
    """Of the full set of 18."""
    rewards: Int64[Tensor, "batch steps"]
    """Token of each step's reward."""
    played: Bool[Tensor, "batch steps"]
    """Whether a step is of the episode, rather than before it."""
    last: Bool[Tensor, " batch"]
    """Whether the game was over after the window."""


class Windows:
    """Batch n of a training, for `runtime.fit`. Of each game a batch has its share, rounded up or down by chance; a game's windows come in
    an order that is shuffled anew each time they have all been seen.

    Args:
        play: what was played.
        size: windows of a batch.
        seed: of the order.
        shares: of each of the play's games, in any measure; None: as many as it has steps (the paper's mixture).
        part: of each game's windows, drawn at random, are the only ones that are seen (paper, section 4.5: 0.01).
        ahead: frames after the last action that a window shows too: 0, or 1 for learning from what followed. The last step of an
            episode that was cut off is no window then.

    Raises:
        UserError: there is nothing to see of a game that has a share.
    """

    def __init__(
        self,
        play: Play,
        size: int,
        seed: int,
        shares: Sequence[float] | None = None,
        part: float = 1.0,
        ahead: int = 0,
    ):
        self.play, self.size, self.seed, self.ahead = play, size, seed, ahead
        self._first = np.zeros(len(play.actions), np.int64)  # step of the episode that a step is of
        self._end = np.zeros(len(play.actions), np.int64)  # the step after its last
        self._over = np.zeros(len(play.actions), bool)
        self._returns = np.zeros(len(play.actions), np.uint8)
        for start, length, over in zip(play.starts, play.lengths, play.over, strict=True):
            steps = slice(start, start + length)
            self._first[steps], self._end[steps], self._over[start + length - 1] = start, start + length, over
            self._returns[steps] = tokens.return_tokens(tokens.returns_to_go(play.rewards[steps]))
        self._rewards = tokens.reward_tokens(play.rewards).astype(np.uint8)
        self._windows = [self._of_game(number, part) for number in range(len(play.games))]
        counts = np.array([len(windows) for windows in self._windows], np.float64)
        weights = counts if shares is None else np.array(shares, np.float64)
        empty = [
            game.name for game, count, weight in zip(play.games, counts, weights, strict=True) if weight and not count
        ]
        if empty or not weights.sum() > 0:
            raise UserError(
                f"there is no play of {', '.join(empty) or 'any game'}", "collect some first, or name other logs"
            )
        self._bounds = np.concatenate([[0.0], np.cumsum(weights / weights.sum())])
        self._bounds[-1] = 1.0
        self._order = lru_cache(2 * len(play.games))(shuffled.order.__wrapped__)

    @property
    def count(self) -> int:
        """Windows that there are, of all games."""
        return sum(map(len, self._windows))

    def __call__(self, number: int) -> Batch:
        """Batch `number`, the same one whenever it is asked for."""
        draw = torch.rand((), generator=shuffled.generator(self.seed, number)).item()
        bounds = np.floor(self.size * self._bounds + draw).astype(
            np.int64
        )  # systematic sampling: each share rounded up or down
        steps = [self._drawn(game, number, int(count)) for game, count in enumerate(np.diff(bounds)) if count]
        return self.at(np.concatenate(steps))

    def at(self, steps: Int64[np.ndarray, " batch"]) -> Batch:
        """The windows that end with some steps."""
        wanted = steps[:, None] + np.arange(1 - STEPS, 1 + self.ahead)
        first, end = self._first[steps][:, None], self._end[steps][:, None]
        found = np.clip(wanted, first, end - 1)
        frames = self.play.frames[found]
        before = wanted < first
        frames[before] = 0
        within, before = found[:, :STEPS], before[:, :STEPS]
        actions, rewards = self.play.actions[within], self._rewards[within]
        actions[before] = rewards[before] = 0
        return Batch(
            torch.from_numpy(frames),
            torch.from_numpy(self._returns[within].astype(np.int64)),
            torch.from_numpy(actions.astype(np.int64)),
            torch.from_numpy(rewards.astype(np.int64)),
            torch.from_numpy(~before),
            torch.from_numpy(self._over[steps]),
        )

    def _of_game(self, game: int, part: float) -> Int64[np.ndarray, " windows"]:
        """The last steps of a game's windows."""
        here = np.flatnonzero(self.play.game == game)
        lengths = self.play.lengths[here] - (~self.play.over[here] if self.ahead else 0)
        steps = [
            np.arange(start, start + length) for start, length in zip(self.play.starts[here], lengths, strict=True)
        ]
        windows = np.concatenate([np.empty(0, np.int64), *steps])
        if part < 1.0 and len(windows):
            drawn = torch.randperm(len(windows), generator=shuffled.generator(self.seed, game, 1)).numpy()
            windows = np.sort(windows[drawn[: math.ceil(part * len(windows))]])
        return windows

    def _drawn(self, game: int, number: int, count: int) -> Int64[np.ndarray, " count"]:
        """Windows of a game for a batch. Each batch has as many places in the game's order as it may need at most."""
        windows, most = self._windows[game], math.ceil(self.size * np.diff(self._bounds)[game] - 1e-9)
        places = number * most + np.arange(count)
        drawn = np.empty(count, np.int64)
        for epoch in np.unique(places // len(windows)):
            here = places // len(windows) == epoch
            drawn[here] = self._order(len(windows), self.seed * 1_000_003 + game, int(epoch)).numpy()[
                places[here] % len(windows)
            ]
        return windows[drawn]
