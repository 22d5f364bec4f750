"""An episode as others recorded it, and many of them as one `Play` that lies on the disk. What the formats have in common: where the files
lie says which game they are of, and actions count within the game's own set."""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from almanac.multigame_dt.data import Play
from almanac.multigame_dt.emulator import SIZE, Emulator
from almanac.multigame_dt.games import Game, all_games, named
from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError

_EPISODES = "episodes.json"


@dataclass(frozen=True)
class Recorded:
    """An episode."""

    game: Game
    frames: UInt8[np.ndarray, "steps 84 84"]
    """What the agent saw before each of its actions."""
    actions: UInt8[np.ndarray, " steps"]
    """What it did, of the full set."""
    rewards: Float32[np.ndarray, " steps"]
    """The points that followed; where the recording has no more, clipped to -1 … 1."""
    over: bool
    """Whether the game had ended, rather than been cut off."""
    score: float | None = None
    """Points at its end; None where the recording doesn't say."""
    agent: str = ""
    """Who played."""
    quality: float = 0.0
    """How far its training had come, from 0 to 1."""


def imported(episodes: Iterable[Recorded], folder: Path) -> Play:
    """Recorded episodes as play, with the frames on the disk: 7 kB a step. What was imported before is not imported again.

    Args:
        episodes: of one or more games; where the folder is there already they are not looked at.
        folder: where to, or where they are.

    Raises:
        UserError: there are none, or the folder can't be written.
    """
    if not is_imported(folder):
        try:
            _write(episodes, folder)
        except OSError as error:
            raise checkpoint.cannot_write(folder, error) from None
    said = json.loads((folder / _EPISODES).read_text())
    games = tuple(named(name) for name in dict.fromkeys(each["game"] for each in said))
    lengths = np.array([each["steps"] for each in said], np.int64)
    return Play(
        np.memmap(folder / "frames", np.uint8, "r", shape=(int(lengths.sum()), SIZE, SIZE)),
        np.fromfile(folder / "actions", np.uint8),
        np.fromfile(folder / "rewards", np.float32),
        np.cumsum(lengths) - lengths,
        lengths,
        np.array([each["over"] for each in said], bool),
        games,
        np.array([games.index(named(each["game"])) for each in said], np.int64),
        np.array([np.nan if each["score"] is None else each["score"] for each in said], np.float64),
        tuple(each["agent"] for each in said),
        np.array([each["quality"] for each in said], np.float64),
    )


def is_imported(folder: Path) -> bool:
    """Whether `imported` made a folder."""
    return (folder / _EPISODES).is_file()


def game_of(path: Path) -> Game:
    """The game that a path names, in a folder or a file of its own: `dqn/Breakout/1/replay_logs`, `Asterix_run_1`.

    Raises:
        UserError: it names none.
    """
    known = {_letters(name): game for game in all_games().values() for name in (game.name, game.rom)}
    for part in reversed(path.absolute().parts):
        for name in (part, part.split("_run_")[0], part.split("-")[0]):
            if _letters(name) in known:
                return known[_letters(name)]
    raise UserError(f"{path} doesn't say which game it is of", "name the game")


def in_the_full_set(game: Game, actions: np.ndarray, where: Path) -> UInt8[np.ndarray, " steps"]:
    """Actions that count within a game's own set, as actions of the full one.

    Args:
        game: whose.
        actions: whole numbers.
        where: they are from.

    Raises:
        UserError: the game has no such action.
    """
    own = _own_actions(game)
    if len(actions) and not 0 <= actions.min() <= actions.max() < len(own):
        what = f"{where} has action {actions.max() if actions.max() >= len(own) else actions.min()}; {game.name} has {len(own)}"
        raise UserError(what, "it is of another game, or of the full set of actions; name the right game")
    return np.array(own, np.uint8)[actions]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


@cache
def _own_actions(game: Game) -> tuple[int, ...]:
    console = Emulator(game)
    console.start()
    return console.actions


def _write(episodes: Iterable[Recorded], folder: Path) -> None:
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    said = []
    with (
        (partial / "frames").open("wb") as frames,
        (partial / "actions").open("wb") as actions,
        (partial / "rewards").open("wb") as rewards,
    ):
        for each in episodes:
            frames.write(np.ascontiguousarray(each.frames).data)
            actions.write(each.actions.tobytes())
            rewards.write(each.rewards.tobytes())
            about = {"game": each.game.name, "steps": len(each.actions), "over": each.over, "score": each.score}
            said.append({**about, "agent": each.agent, "quality": each.quality})
    if not said:
        shutil.rmtree(partial)
        raise UserError("there are no episodes in the recording", "give one that holds at least one whole episode")
    (partial / _EPISODES).write_text(json.dumps(said))
    partial.rename(folder)
