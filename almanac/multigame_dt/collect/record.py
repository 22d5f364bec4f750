"""A whole game, played by anyone who chooses actions, as the episode that a log holds."""

from collections.abc import Callable

import numpy as np

from almanac.multigame_dt.emulator import FRAMES, TIME_LIMIT, Emulator
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.logs import Episode

NOOPS = 30  # frames without an action before an episode, at most: uniformly random


def record(
    game: Game,
    choose: Callable[[Emulator], int],
    generator: np.random.Generator,
    *,
    agent: str,
    quality: float,
    held: int = 1,
    limit: int = TIME_LIMIT,
) -> Episode:
    """Play a game to its end.

    Args:
        game: which.
        choose: an action, of the full set, for a console as it is; which it must leave as it is.
        generator: of the no-ops.
        agent: who plays.
        quality: how well, from 0 to 1.
        held: the agent's steps that an action is held.
        limit: steps after which the game is broken off.
    """
    console = Emulator(game)
    noops = int(generator.integers(NOOPS + 1))
    console.start(noops)
    taken = bytearray()
    while not console.over and console.steps + held <= limit:
        taken.append(choose(console))
        for _ in range(held):
            if not console.over:
                console.step(taken[-1])
    return Episode(game, bytes(taken), console.score, noops, agent, quality, held * FRAMES)
