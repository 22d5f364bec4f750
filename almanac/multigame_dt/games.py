"""The 46 games of the paper (section 3.3: 41 to train on, 5 held out) and what their scores are measured by (`games.csv`): a random
agent's and a person's mean score (DQN Zoo's `atari_data.py`: at most 30 no-ops, 30 minutes), the best mean of Dopamine's DQN and of
CleanRL's PPO. Carnival and Pooyan have no published score of a person: they are left out of human-normalised figures, and it is said."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from almanac.runtime.errors import UserError

ACTIONS = 18
"""The full set of the Arcade Learning Environment, in its order: NOOP, FIRE, UP, RIGHT, LEFT, DOWN, …"""
ACTION_NAMES = (
    "NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT",
    "UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE", "DOWNLEFTFIRE",
)  # fmt: skip


@dataclass(frozen=True)
class Game:
    """A game and its reference scores."""

    name: str
    """As the paper spells it: MsPacman."""
    rom: str
    """As the Arcade Learning Environment does: ms_pacman."""
    held_out: bool
    """Whether the paper trains without it, to fine-tune on it."""
    random: float | None
    """Mean score of uniformly random play; None where none was published."""
    human: float | None
    """Mean score of a professional tester; None where none was published."""
    dqn: float | None
    """Dopamine's DQN, best of 200 iterations, mean of five runs, sticky actions."""
    ppo: float | None
    """CleanRL's PPO after 10 million steps."""


@cache
def all_games() -> dict[str, Game]:
    """Every game, by the paper's name, in alphabetical order."""
    with Path(__file__).with_name("games.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    number = {key: [float(row[key]) if row[key] else None for row in rows] for key in ("random", "human", "dqn", "ppo")}
    return {
        row["game"]: Game(
            row["game"],
            row["rom"],
            row["split"] == "held_out",
            number["random"][i],
            number["human"][i],
            number["dqn"][i],
            number["ppo"][i],
        )
        for i, row in enumerate(rows)
    }


def named(name: str) -> Game:
    """A game by any of its usual names: MsPacman, ms_pacman, ms-pacman, ALE/MsPacman-v5, MsPacmanNoFrameskip-v4.

    Raises:
        UserError: it is none of the 46.
    """
    plain = _plain(re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", name.strip().removeprefix("ALE/")))
    for game in all_games().values():
        if _plain(game.name) == plain or _plain(game.rom) == plain:
            return game
    near = sorted(all_games(), key=lambda each: -_alike(_plain(each), plain))[:3]
    raise UserError(f"no game of that name: {name}", f"the games are those of the paper, such as {', '.join(near)}")


def human_normalised(game: Game, score: float) -> float | None:
    """A score as a part of the way from random play (0) to a person's (1).

    Args:
        game: whose score it is.
        score: the game's own, unclipped.

    Returns:
        None where no person's score was published (Carnival, Pooyan).
    """
    if game.random is None or game.human is None:
        return None
    return (score - game.random) / (game.human - game.random)


def dqn_normalised(game: Game, score: float) -> float | None:
    """A score as a part of the way from random play (0; for Carnival and Pooyan from no points) to Dopamine's DQN (1)."""
    low = game.random if game.random is not None else 0.0
    return None if game.dqn is None else (score - low) / (game.dqn - low)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _alike(one: str, other: str) -> float:
    pairs = [{text[i : i + 2] for i in range(len(text) - 1)} for text in (one, other)]
    return len(pairs[0] & pairs[1]) / max(1, len(pairs[0] | pairs[1]))
