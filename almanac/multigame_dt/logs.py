"""Play as the actions that were taken: without sticky actions they, the cartridge and the no-ops before them say everything, at less than
a byte a step, and every frame can be drawn again. A log is a file of lines, gzipped, one JSON object an episode, actions as letters (`a`
is NOOP, `b` FIRE, up to `r`); each episode is a gzip member of its own, so that a log that was cut off by a crash holds all episodes
before. Each names its score, who played it and how well that one plays, the emulator and the cartridge's MD5."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from almanac.multigame_dt import emulator
from almanac.multigame_dt.emulator import Emulator
from almanac.multigame_dt.games import ACTIONS, Game, named
from almanac.runtime.errors import UserError

SUFFIX = ".jsonl.gz"
_LETTERS = "abcdefghijklmnopqr"


@dataclass(frozen=True)
class Episode:
    """One game, as it was played."""

    game: Game
    """Which."""
    actions: bytes
    """Of the full set of 18, one a step of the agent's."""
    score: float
    """Points at its end, as the game counts them; what a replay must come to."""
    noops: int = 0
    """Frames without an action before the first."""
    agent: str = ""
    """Who played: `random`, `planner`, `ppo`, …"""
    quality: float = 0.0
    """How far its training or its budget had come, from 0 (random) to 1 (its best)."""
    frames_per_action: int = emulator.FRAMES
    """Frames an action is held: an agent's step is four."""
    md5: str = ""
    """Of the cartridge; empty where the log doesn't say."""
    emulator: str = ""
    """Its version."""

    @property
    def steps(self) -> int:
        """Of an agent; of a game that ended while an action was held it is up to one more than there were."""
        return len(self.actions) * self.frames_per_action // emulator.FRAMES


@dataclass(frozen=True)
class Replay:
    """An episode played again."""

    frames: UInt8[np.ndarray, "steps 84 84"]
    """What the agent saw before each of its actions."""
    actions: UInt8[np.ndarray, " steps"]
    """What it did, of the full set."""
    rewards: Float32[np.ndarray, " steps"]
    """The points that followed, unclipped."""
    score: float
    """Their sum, and those of the no-ops."""
    over: bool
    """Whether the game had ended, rather than been cut off."""

    @property
    def sha256(self) -> str:
        """Of the frames: the same on every machine."""
        return hashlib.sha256(self.frames.tobytes()).hexdigest()


def replay(episode: Episode) -> Replay:
    """Play an episode again.

    Args:
        episode: from a log.

    Raises:
        UserError: the cartridge is another one, or the score isn't what the log says.
    """
    console = Emulator(episode.game)
    if episode.md5 and episode.md5 != emulator.md5(episode.game.rom):
        what = f"the log of {episode.game.name} was played on another cartridge (MD5 {episode.md5}, here {emulator.md5(episode.game.rom)})"
        raise UserError(what, f"use the emulator that it names: {episode.emulator or 'ale-py 0.12'}")
    console.start(episode.noops)
    held = [action for action in episode.actions for _ in range(episode.frames_per_action // emulator.FRAMES)]
    frames, rewards = np.empty((len(held), emulator.SIZE, emulator.SIZE), np.uint8), np.empty(len(held), np.float32)
    steps = 0
    for action in held:
        if console.over:
            break
        frames[steps] = console.frame()
        rewards[steps] = console.step(action)
        steps += 1
    if console.score != episode.score:
        what = f"an episode of {episode.game.name} comes to {console.score:g} points, its log says {episode.score:g}"
        raise UserError(
            what, f"it was made with {episode.emulator or 'another emulator'}; this is {emulator.version()}"
        )
    return Replay(frames[:steps], np.array(held[:steps], np.uint8), rewards[:steps], console.score, console.over)


def append(path: Path, episode: Episode) -> None:
    """Add an episode to a log, whole or not at all.

    Args:
        path: the log; it is made, and its folder.
        episode: what to add.

    Raises:
        UserError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(gzip.compress(_line(episode), mtime=0))
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}", "make room, or choose another folder") from None


def write(path: Path, episodes: Sequence[Episode]) -> None:
    """Write a log as one gzip member, which is smaller than an appended one.

    Args:
        path: where to.
        episodes: all of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(gzip.compress(b"".join(map(_line, episodes)), 9, mtime=0))
    partial.replace(path)


def files(paths: Sequence[Path]) -> list[Path]:
    """Logs, and those in folders.

    Args:
        paths: of either.
    """
    return [file for path in paths for file in (sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path])]


def read(path: Path) -> Iterator[Episode]:
    """The episodes of a log, or of a JSON file of such, `{"noops", "frames_per_action", "episodes": {rom: {"score", "actions"}}}`.

    Args:
        path: of either kind. A last episode that was cut off is left out.

    Raises:
        UserError: it is neither.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}", "give a log of actions (.jsonl.gz or .json)") from None
    try:
        if data[:2] != b"\x1f\x8b":
            yield from _from_json(json.loads(data))
            return
        for line in _unzipped(data).splitlines():
            yield _episode(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        what = f"{path} is no log of actions: {type(error).__name__}: {error}"
        raise UserError(what, "a log holds one JSON object an episode, with game, noops, actions and score") from None


def _unzipped(data: bytes) -> bytes:
    """All whole members; of a last one that was cut off nothing."""
    whole = b""
    while data:
        unzip = zlib.decompressobj(wbits=31)
        text = unzip.decompress(data)
        if not unzip.eof:
            break
        whole, data = whole + text, unzip.unused_data
    return whole


def _line(episode: Episode) -> bytes:
    row: dict[str, Any] = {
        "game": episode.game.rom,
        "agent": episode.agent,
        "quality": round(episode.quality, 3),
        "score": episode.score,
        "noops": episode.noops,
        "emulator": episode.emulator or emulator.version(),
        "md5": episode.md5 or emulator.md5(episode.game.rom),
        "actions": "".join(_LETTERS[action] for action in episode.actions),
    }
    if episode.frames_per_action != emulator.FRAMES:
        row["frames_per_action"] = episode.frames_per_action
    return json.dumps(row).encode() + b"\n"


def _episode(row: dict[str, Any]) -> Episode:
    return Episode(
        named(row["game"]),
        bytes(_LETTERS.index(letter) for letter in row["actions"]),
        float(row["score"]),
        _within("noops", row["noops"], 0, 10_000),
        str(row.get("agent", "")),
        float(row.get("quality", 0.0)),
        _frames(row.get("frames_per_action", emulator.FRAMES)),
        str(row.get("md5", "")),
        str(row.get("emulator", "")),
    )


def _from_json(said: dict[str, Any]) -> Iterator[Episode]:
    if said.get("sticky", 0.0) != 0.0:
        raise ValueError("it was played with sticky actions, which no log of actions can repeat")
    shared = Episode(named("Pong"), b"", 0.0, emulator=str(said.get("emulator", "")))
    for rom, each in said["episodes"].items():
        actions = each["actions"]
        if not all(isinstance(action, int) and 0 <= action < ACTIONS for action in actions):
            raise ValueError(f"actions of {rom} are not all whole numbers from 0 to {ACTIONS - 1}")
        yield replace(
            shared,
            game=named(rom),
            actions=bytes(actions),
            score=float(each["score"]),
            noops=_within("noops", each.get("noops", said["noops"]), 0, 10_000),
            frames_per_action=_frames(each.get("frames_per_action", said["frames_per_action"])),
        )


def _frames(value: Any) -> int:
    frames = _within("frames_per_action", value, 1, 1_000)
    if frames % emulator.FRAMES:
        raise ValueError(f"frames_per_action is {frames}, which is no multiple of an agent's step of {emulator.FRAMES}")
    return frames


def _within(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, not a whole number from {low} to {high}")
    return value
