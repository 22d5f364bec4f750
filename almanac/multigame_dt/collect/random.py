"""Play at random, each of the game's actions as likely as the others: what 0 means on the scale of human-normalised scores."""

import numpy as np

from almanac.multigame_dt.collect.record import record
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.logs import Episode

AGENT = "random"


def play(game: Game, generator: np.random.Generator) -> Episode:
    """An episode.

    Args:
        game: which.
        generator: of no-ops and actions.
    """
    return record(game, lambda console: int(generator.choice(console.actions)), generator, agent=AGENT, quality=0.0)
