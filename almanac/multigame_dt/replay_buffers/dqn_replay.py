"""DQN's replay buffers (Agarwal, Schuurmans and Norouzi 2020), what the paper learned from: of each game five runs, of each 50 files of a
million steps, gzipped NumPy arrays as Dopamine's buffer held them. Their quirks (batch_rl's `logged_replay_buffer.py`, Dopamine's
`circular_replay_buffer.py`): three black steps without action before each episode; a file is written when all but its last step are new, so
that this one is the very step that is missing between the two files before; the last file may be short, with old steps behind; rewards are
clipped. A file of frames is 7 GB: it is read once, from its beginning to its end, and no more than two episodes of it are kept."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Integer, UInt8

from almanac.multigame_dt.emulator import SIZE, TIME_LIMIT
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.replay_buffers.recorded import Recorded, game_of, in_the_full_set
from almanac.runtime.errors import UserError

AGENT = "dqn"
FILES = 50  # of a run
PADDING = 3  # black steps before an episode: one less than the frames that DQN sees

_HINT = "give the folder of one run, such as dqn/Breakout/1/replay_logs, as it was downloaded"


def read(folder: Path, game: Game | None = None, files: Iterable[int] | None = None) -> Iterator[Recorded]:
    """The whole episodes of a run, in order, but that one which goes on from a file to the next comes last of the latter. What a file
    begins or ends with is left out where the other part isn't there.

    Args:
        folder: that holds the files, or a folder `replay_logs` that does.
        game: which; None: the one that the path names.
        files: numbers of the files to read, from 0; None: all that there are.

    Raises:
        UserError: there are no such files, or one is cut off, foreign or of another game.
    """
    folder = folder / "replay_logs" if (folder / "replay_logs").is_dir() else folder
    game = game or game_of(folder)
    there = sorted(int(path.name.split(".")[-2]) for path in folder.glob("$store$_observation_ckpt.*.gz"))
    chosen = there if files is None else sorted(set(files))
    missing = [number for number in chosen if number not in there]
    if missing or not there:
        what = f"{folder} holds no $store$_observation_ckpt.{missing[0] if missing else 0}.gz"
        raise UserError(what, _HINT)
    last: _Buffer | None = None
    for number in chosen:
        buffer = _Buffer(folder, number)
        for steps in buffer.episodes(last):
            actions = in_the_full_set(game, steps.actions, folder / f"$store$_action_ckpt.{number}.gz")
            over = bool(steps.terminal[-1]) and len(actions) < TIME_LIMIT
            yield Recorded(
                game, steps.frames, actions, steps.rewards, over, None, AGENT, min(1.0, number / (FILES - 1))
            )
        last = buffer


class _Steps(NamedTuple):
    """Some steps, one after another."""

    frames: UInt8[np.ndarray, "steps 84 84"]
    actions: Integer[np.ndarray, " steps"]
    rewards: Float32[np.ndarray, " steps"]
    terminal: Bool[np.ndarray, " steps"]

    def part(self, begin: int, end: int | None = None) -> "_Steps":
        return _Steps(*(each[begin:end] for each in self))

    @property
    def blank(self) -> Bool[np.ndarray, " steps"]:
        """Which ones may be no steps: black, nothing done, nothing won."""
        blank = (self.actions == 0) & (self.rewards == 0) & ~self.terminal
        blank[blank] = ~self.frames[blank].any((1, 2))
        return blank


class _Buffer:
    """The files of one number.

    Args:
        folder: where.
        number: which.
    """

    def __init__(self, folder: Path, number: int):
        self.folder, self.number = folder, number
        self._actions, self._rewards = self._whole("$store$_action"), self._whole("$store$_reward").astype(np.float32)
        self._terminal = self._whole("$store$_terminal").astype(bool)
        self.capacity = len(self._actions)
        shapes = {each.shape for each in (self._actions, self._rewards, self._terminal)}
        if shapes != {(self.capacity,)} or self._actions.dtype.kind not in "iu" or not self.capacity:
            raise UserError(f"the files of number {number} in {folder} don't belong together", _HINT)
        counted = (folder / f"add_count_ckpt.{number}.gz").exists()
        self.added = int(self._whole("add_count")) if counted else (number + 1) * self.capacity - 1
        """Steps that the run had added when it wrote the file; of its last one, those that are new."""
        self.left: _Steps | None = None
        """What no end was found of."""

    def episodes(self, last: "_Buffer | None") -> Iterator[_Steps]:
        """Stretches of a game each, from its beginning to its end.

        Args:
            last: the file that was read before.
        """
        valid = self.added % self.capacity
        ends = [int(each) + 1 for each in np.flatnonzero(self._terminal[:valid])]
        with closing(_Frames(self.folder / f"$store$_observation_ckpt.{self.number}.gz", self.capacity)) as stream:
            yield from self._episodes(stream, ends, valid, last)

    def _episodes(self, stream: "_Frames", ends: list[int], valid: int, last: "_Buffer | None") -> Iterator[_Steps]:
        head = self._steps(stream, 0, ends[0] if len(ends) else valid)
        carried = last.left if last is not None and self._follows(last) else None
        if carried is None and len(ends) and (self.number == 0 or head.blank[:PADDING].all()):
            yield from _games(head)
        for begin, end in pairwise(ends):
            yield from _games(self._steps(stream, begin, end))
        tail = self._steps(stream, ends[-1] if len(ends) else valid, valid)
        if carried is None:
            self.left = tail if len(ends) else head if self.number == 0 else None
            return
        stream.skip(self.capacity - 1 - valid)
        between = self._steps(stream, self.capacity - 1, self.capacity)
        whole = _Steps(*(np.concatenate(each) for each in zip(carried, between, head, strict=True)))
        ended = [0, *(int(each) + 1 for each in np.flatnonzero(whole.terminal))]
        for begin, end in pairwise(ended):
            yield from _games(whole.part(begin, end))
        self.left = tail if len(ends) else whole.part(ended[-1])

    def _follows(self, last: "_Buffer") -> bool:
        """Whether no step but the one is missing between a file and this one. Nobody counted those before a run's last file, but what is
        old in it is of the file before."""
        if self.number != last.number + 1 or self.capacity != last.capacity:
            return False
        if self.added >= self.capacity:
            return self.added == last.added + self.capacity
        old = slice(self.added, self.capacity - 1)
        pairs = ((self._actions, last._actions), (self._rewards, last._rewards), (self._terminal, last._terminal))
        return all(np.array_equal(mine[old], before[old]) for mine, before in pairs)

    def _steps(self, stream: "_Frames", begin: int, end: int) -> _Steps:
        here = slice(begin, end)
        return _Steps(stream.take(end - begin), self._actions[here], self._rewards[here], self._terminal[here])

    def _whole(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}_ckpt.{self.number}.gz"
        try:
            return np.load(BytesIO(gzip.decompress(path.read_bytes())), allow_pickle=False)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise _unreadable(path, error) from None


class _Frames:
    """A file of frames, read from its beginning to its end.

    Args:
        path: of the file.
        count: frames that it must hold.
    """

    def __init__(self, path: Path, count: int):
        self._path = path
        try:
            self._file = gzip.open(path)  # noqa: SIM115 (closed by `close`)
            version = np.lib.format.read_magic(self._file)
            header: Any = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, kind = header(self._file)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise _unreadable(path, error) from None
        if (shape, fortran, kind) != ((count, SIZE, SIZE), False, np.uint8):
            raise UserError(f"{path} holds {kind} of shape {shape}, not {count} frames of {SIZE}×{SIZE} bytes", _HINT)

    def take(self, count: int) -> UInt8[np.ndarray, "count 84 84"]:
        """The next frames."""
        try:
            data = self._file.read(count * SIZE * SIZE)
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(self._path, error) from None
        if len(data) < count * SIZE * SIZE:
            raise _unreadable(self._path, EOFError("it ends too early"))
        return np.frombuffer(data, np.uint8).reshape(count, SIZE, SIZE)

    def close(self) -> None:
        """Read no more."""
        self._file.close()

    def skip(self, count: int) -> None:
        """Leave out the next frames."""
        for begin in range(0, count, 1_000):
            self.take(min(1_000, count - begin))


def _games(steps: _Steps) -> Iterator[_Steps]:
    """A stretch up to an end, without the padding. Where just as many blank steps stand within, the time for a game was over before."""
    blank = steps.blank
    begin = PADDING if len(blank) > PADDING and blank[:PADDING].all() else 0
    changes = np.flatnonzero(np.diff(np.concatenate([[False], blank[begin:], [False]]).astype(np.int8))) + begin
    for first, after in changes.reshape(-1, 2).tolist():
        if after - first == PADDING and first > begin:
            yield steps.part(begin, first)
            begin = after
    if begin < len(blank):
        yield steps.part(begin)


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{path} can't be read: {reason}", "it was cut off, or is no file of DQN's replay: download it again"
    )
