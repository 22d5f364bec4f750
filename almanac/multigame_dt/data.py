"""Logged play as arrays. Logs of actions are played again once, on all processors, into files that are mapped into memory and named by
the log's hash; a drawing that was stopped goes on where it was. What a training sees of it is `windows`' to say."""

import hashlib
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from almanac.multigame_dt import emulator, logs
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.logs import Episode
from almanac.runtime import console, hub, workers
from almanac.runtime.errors import RunFailed, UserError

_FRAME = emulator.SIZE**2  # bytes
_IN_TURN = 2_000  # steps up to which a process of its own is not worth its start


class Frames:
    """Frames in several files, as if they were one array of them, [steps 84 84].

    Args:
        parts: the files, in order.
    """

    def __init__(self, parts: Sequence[UInt8[np.ndarray, "_ 84 84"]]):
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, steps: Int64[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 84 84"]:
        """The frames of some steps."""
        if len(self.parts) == 1:
            return self.parts[0].take(steps, axis=0)
        found = np.empty((*steps.shape, emulator.SIZE, emulator.SIZE), np.uint8)
        part = np.searchsorted(self._ends, steps, side="right")
        for number in np.unique(part):
            here = part == number
            found[here] = self.parts[number][steps[here] - (self._ends[number] - len(self.parts[number]))]
        return found


@dataclass(frozen=True)
class Play:
    """Episodes of one or more games. An episode's steps are one after another; between episodes there may be steps of none."""

    frames: UInt8[np.ndarray, "steps 84 84"] | Frames
    """What was seen before each action."""
    actions: UInt8[np.ndarray, " steps"]
    """Of the full set of 18."""
    rewards: Float32[np.ndarray, " steps"]
    """The points that followed, unclipped where they are known."""
    starts: Int64[np.ndarray, " episodes"]
    """Each episode's first step."""
    lengths: Int64[np.ndarray, " episodes"]
    """How many steps it has."""
    over: Bool[np.ndarray, " episodes"]
    """Whether the game had ended, rather than been cut off."""
    games: tuple[Game, ...]
    """The games that are played."""
    game: Int64[np.ndarray, " episodes"]
    """Which of them."""
    scores: Float64[np.ndarray, " episodes"]
    """Points at the end."""
    agents: tuple[str, ...]
    """Who played each episode."""
    quality: Float64[np.ndarray, " episodes"]
    """How far its training had come, from 0 (random) to 1 (its best)."""

    @property
    def steps(self) -> int:
        """Of all episodes."""
        return int(self.lengths.sum())

    def part(self, episodes: Bool[np.ndarray, " episodes"]) -> "Play":
        """Some of the episodes, of the same games."""
        return replace(
            self,
            starts=self.starts[episodes],
            lengths=self.lengths[episodes],
            over=self.over[episodes],
            game=self.game[episodes],
            scores=self.scores[episodes],
            agents=tuple(agent for agent, kept in zip(self.agents, episodes, strict=True) if kept),
            quality=self.quality[episodes],
        )

    def of(self, games: Sequence[Game]) -> "Play":
        """The episodes of some of the games.

        Raises:
            UserError: there are none of one.
        """
        missing = [game.name for game in games if game not in self.games]
        if missing:
            known = ", ".join(game.name for game in self.games)
            raise UserError(f"there is no play of {', '.join(missing)}", f"there is play of {known}")
        wanted = [self.games.index(game) for game in games]
        kept = self.part(np.isin(self.game, wanted))
        return replace(kept, games=tuple(games), game=np.array([wanted.index(each) for each in kept.game], np.int64))

    def held_out(self, every: int = 20) -> tuple["Play", "Play"]:
        """What to train on and what to test with: of each game, in the order in which it was played, one episode in `every`."""
        within = np.zeros(len(self.starts), np.int64)
        for number in range(len(self.games)):
            here = self.game == number
            within[here] = np.arange(here.sum())
        tested = within % every == every // 2
        return self.part(~tested), self.part(tested)

    def best(self, share: float) -> "Play":
        """Of each game the episodes of the highest scores, at least one: what behaviour cloning likes to learn from (paper, section 4.8).

        Args:
            share: of the episodes, above 0 and up to 1.
        """
        kept = np.zeros(len(self.starts), bool)
        for number in range(len(self.games)):
            here = np.flatnonzero(self.game == number)
            ranked = here[np.argsort(-self.scores[here], kind="stable")]
            kept[ranked[: math.ceil(share * len(here))]] = True
        return self.part(kept)


def joined(plays: Sequence[Play]) -> Play:
    """Several plays as one; a game that is in more than one of them is one game.

    Args:
        plays: at least one.
    """
    games = tuple(dict.fromkeys(game for play in plays for game in play.games))
    parts = [
        part for play in plays for part in (play.frames.parts if isinstance(play.frames, Frames) else [play.frames])
    ]
    before = np.cumsum([0, *(len(play.actions) for play in plays)])
    return Play(
        Frames(parts),
        np.concatenate([play.actions for play in plays]),
        np.concatenate([play.rewards for play in plays]),
        np.concatenate([play.starts + offset for play, offset in zip(plays, before[:-1], strict=True)]),
        np.concatenate([play.lengths for play in plays]),
        np.concatenate([play.over for play in plays]),
        games,
        np.concatenate([np.array([games.index(game) for game in play.games], np.int64)[play.game] for play in plays]),
        np.concatenate([play.scores for play in plays]),
        tuple(agent for play in plays for agent in play.agents),
        np.concatenate([play.quality for play in plays]),
    )


def rendered(
    paths: Sequence[Path], cache: Path | None = None, processes: int | None = None, most: int | None = None
) -> Play:
    """Logs of actions as play. What was drawn before is not drawn again.

    Args:
        paths: of the logs, as `logs.read` takes them.
        cache: where frames are kept, 7 kB a step; None: in the house's cache.
        processes: that draw at the same time; None: one a processor.
        most: steps of each game in a log; of one that has more, whole episodes are taken, evenly over how it was played. None: all.

    Raises:
        UserError: a log can't be read, doesn't lead to the score that it says, or there is no room for its frames.
        RunFailed: a process that drew was ended from outside.
    """
    cache = cache or hub.cache() / "atari"
    if most is not None and most < 1:
        raise UserError(f"{most} steps of each game are no play", "give a whole number from 1 on")
    drawings = [_Drawing(path, cache, most) for path in paths]
    if not any(drawing.episodes for drawing in drawings):
        raise UserError("there is no play in the logs", "give logs of actions (.jsonl.gz or .json) that hold episodes")
    left = sum(drawing.left for drawing in drawings)
    if left:
        _check_room(cache, left)
        everything = sum(drawing.steps for drawing in drawings)
        processes = processes or len(os.sched_getaffinity(0))
        crew: AbstractContextManager[workers.Workers]
        crew = nullcontext(workers.InTurn()) if processes == 1 or left <= _IN_TURN else workers.processes()
        with console.progress("drawing", everything, "steps", everything - left) as advance, crew as hall:
            hired = [hall.hire(_Renderer) for _ in range(processes)]
            for drawing in drawings:
                for steps in drawing.draw(hall, hired):
                    advance(steps)
    return joined([drawing.play() for drawing in drawings if drawing.episodes])


class _Drawing:
    """A log and where its frames are, or will be: each episode has room for as many steps as it may have."""

    def __init__(self, path: Path, cache: Path, most: int | None):
        self.path, self.episodes = path, list(logs.read(path))
        self.rooms = np.array([len(each.actions) * _held(each) for each in self.episodes], np.int64)
        self.starts = np.cumsum([0, *self.rooms])[:-1]
        self.wanted = _thinned([each.game for each in self.episodes], self.rooms, most)
        self.steps = int(self.rooms[self.wanted].sum())
        said = hashlib.sha256(path.read_bytes())
        said.update(emulator.version().encode())
        self.folder = cache / said.hexdigest()[:24]
        self.left = int(self.rooms[self._missing()].sum())

    @property
    def _ends(self) -> Path:
        return self.folder / "ends.npy"

    def draw(self, hall: workers.Workers, hired: Sequence[workers.Worker]) -> Iterator[int]:
        """Draw the episodes that are not yet there; how many steps there is room for in each, as soon as it is."""
        if not self.left:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            if not self._ends.is_file():
                self._make_room()
            waiting = deque(np.flatnonzero(self._missing()).tolist())
            asked: dict[int, tuple[workers.Answer, workers.Worker, int]] = {}
            free = deque(hired)
            while waiting or asked:
                try:
                    while waiting and free:
                        worker, number = free.popleft(), waiting.popleft()
                        answer = worker.ask(
                            "draw", self.folder, number, int(self.starts[number]), self.episodes[number]
                        )
                        asked[id(answer)] = (answer, worker, number)
                    for answer in hall.ready([each for each, _, _ in asked.values()], None):
                        _, worker, number = asked.pop(id(answer))
                        answer.value()
                        free.append(worker)
                        yield int(self.rooms[number])
                except workers.WorkerDied:
                    hint = "run it again: it goes on where it was"
                    raise RunFailed("a process that draws frames was ended", hint) from None
                except UserError as error:
                    raise UserError(f"{self.path}: {error.what}", error.hint) from None

    def _missing(self) -> Bool[np.ndarray, " episodes"]:
        return self.wanted & (np.load(self._ends)[:, 1] == 0) if self._ends.is_file() else self.wanted

    def _make_room(self) -> None:
        """Files of holes, which take no room until they are filled."""
        shape = (int(self.rooms.sum()), emulator.SIZE, emulator.SIZE)
        np.lib.format.open_memmap(self.folder / "frames.npy", "w+", np.uint8, shape)
        np.lib.format.open_memmap(self.folder / "rewards.npy", "w+", np.float32, shape[:1])
        partial = self._ends.with_suffix(".part")
        with partial.open("wb") as file:
            np.save(file, np.zeros((len(self.episodes), 2), np.int32))
        partial.replace(self._ends)

    def play(self) -> Play:
        ends = np.load(self._ends)
        games = tuple(dict.fromkeys(each.game for each in self.episodes))
        held = [np.repeat(np.frombuffer(each.actions, np.uint8), _held(each)) for each in self.episodes]
        return Play(
            np.load(self.folder / "frames.npy", mmap_mode="r"),
            np.concatenate(held),
            np.load(self.folder / "rewards.npy"),
            self.starts,
            ends[:, 0].astype(np.int64),
            ends[:, 1] == _OVER,
            games,
            np.array([games.index(each.game) for each in self.episodes], np.int64),
            np.array([each.score for each in self.episodes], np.float64),
            tuple(each.agent for each in self.episodes),
            np.array([each.quality for each in self.episodes], np.float64),
        ).part(self.wanted)


_CUT, _OVER = 1, 2  # how an episode that has been drawn ended


class _Renderer:
    """Draws episodes, in a process of its own."""

    def draw(self, folder: Path, number: int, start: int, episode: Episode) -> None:
        """Draw an episode into its room."""
        seen = logs.replay(episode)
        steps = slice(start, start + len(seen.actions))
        np.load(folder / "frames.npy", mmap_mode="r+")[steps] = seen.frames
        np.load(folder / "rewards.npy", mmap_mode="r+")[steps] = seen.rewards
        np.load(folder / "ends.npy", mmap_mode="r+")[number] = len(seen.actions), _OVER if seen.over else _CUT


def _thinned(
    games: Sequence[Game], steps: Int64[np.ndarray, " episodes"], most: int | None
) -> Bool[np.ndarray, " episodes"]:
    """Which episodes to take so that each game has at most so many steps, or one episode, evenly over all that there are."""
    kept = np.ones(len(games), bool)
    if most is None:
        return kept
    for game in dict.fromkeys(games):
        here = np.array([number for number, each in enumerate(games) if each == game])
        share, taken = min(1.0, most / max(1, steps[here].sum())), 0
        for number, due in zip(here, share * np.cumsum(steps[here]), strict=True):
            kept[number] = share == 1.0 or (taken + steps[number] / 2 <= due and taken + steps[number] <= most)
            taken += int(steps[number]) * bool(kept[number])
        if not kept[here].any():
            kept[here[len(here) // 2]] = True
    return kept


def _held(episode: Episode) -> int:
    return episode.frames_per_action // emulator.FRAMES


def _check_room(cache: Path, steps: int) -> None:
    """Frames are written through the memory, where a full disk would end the process without a word."""
    cache.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(cache).free, steps * (_FRAME + 4)
    if free < needed:
        what = f"the frames of the logs take {needed / 1e9:.1f} GB, and {cache} has {free / 1e9:.1f} GB left"
        raise UserError(what, "free some space, set ALMANAC_CACHE to a folder on another disk, or use fewer logs")
