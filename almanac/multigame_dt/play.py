"""Games played from beginning to end by a policy, many at once: a lane whose game is over takes the next one, until all are played. How it
is played (no-ops, sticky actions, pictures that went through JPEG, the longest game) follows the official notebook and Machado et al.
(2018), each by an argument. Consoles go on in step, in this process or several; no game hangs on which others are played. Who plays is
`acting`'s."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from almanac.multigame_dt.emulator import SIZE, TIME_LIMIT, Emulator, Frame
from almanac.multigame_dt.games import ACTIONS, Game
from almanac.multigame_dt.logs import Episode
from almanac.runtime import console
from almanac.runtime.errors import RunFailed, UserError
from almanac.runtime.workers import WorkerDied, processes

NOOPS = 30
"""At most, before an episode (Mnih et al. 2015). The official notebook has none: there each game begins the same."""
JPEG_QUALITY = 95
"""That `tf.io.encode_jpeg` has where none is given, as in the official notebook."""
_LANES_A_PROCESS = 8
"""Consoles for which a process of their own pays: their step takes it 3.4 ms, and asking it takes this process 0.3 ms."""

Frames = UInt8[np.ndarray, "count 84 84"]


@runtime_checkable
class Decides(Protocol):
    """What a policy answers."""

    @property
    def actions(self) -> Any:
        """Of the full set, one a lane: `Int[" count"]`, an array or a tensor of the processor's."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Who plays, in several lanes at once."""

    @property
    def count(self) -> int:
        """Lanes."""
        ...

    def reset(self, i: int, seed: int | None = None) -> None:
        """An episode begins in a lane: forget what was.

        Args:
            i: the lane.
            seed: of what is drawn in the episode, so that it is the same in whichever lane.
        """
        ...

    def act(self, frames: Frames, live: Bool[np.ndarray, " count"]) -> Decides:
        """What to do next.

        Args:
            frames: what is seen.
            live: lanes in which a game is going on; of the others nothing is asked.
        """
        ...

    def observe(self, rewards: Float32[np.ndarray, " count"]) -> None:
        """What came of it.

        Args:
            rewards: points that were won, unclipped.
        """
        ...


@dataclass(frozen=True)
class Chosen:
    """Actions, and nothing else."""

    actions: UInt8[np.ndarray, " count"]


class Random:
    """A policy that chooses any action, each as often as the others.

    Args:
        count: lanes.
        seed: of its choices.
        actions: among which; by default all 18, of which a game may know few.
    """

    def __init__(self, count: int, seed: int = 0, actions: Sequence[int] = range(ACTIONS)):
        self.count, self._actions = count, np.array(actions, np.uint8)
        self._random = [np.random.default_rng([seed, i]) for i in range(count)]

    def reset(self, i: int, seed: int | None = None) -> None:
        """Nothing was remembered."""
        self._random[i] = self._random[i] if seed is None else np.random.default_rng(seed)

    def act(self, frames: Frames, live: Bool[np.ndarray, " count"]) -> Chosen:
        """Without looking."""
        drawn = [int(self._random[i].integers(len(self._actions))) if live[i] else 0 for i in range(self.count)]
        return Chosen(self._actions[drawn])

    def observe(self, rewards: Float32[np.ndarray, " count"]) -> None:
        """Nothing is learned from it."""


@dataclass(frozen=True)
class Played:
    """A game that was played."""

    game: Game
    """Which."""
    score: float
    """Points, as the game counts them."""
    steps: int
    """The agent's."""
    noops: int
    """Frames without an action before the first."""
    capped: bool
    """Whether it was cut off, rather than over."""
    actions: bytes
    """Of the full set, one a step."""
    sticky: float = 0.0
    """With which probability a frame repeated the last action."""

    def episode(self, agent: str, quality: float = 1.0) -> Episode:
        """As a log has it.

        Args:
            agent: who played.
            quality: how well it plays, from 0 (random) to 1 (its best).

        Raises:
            UserError: actions were sticky, so that they don't say what happened.
        """
        if self.sticky:
            what = f"a game of {self.game.name} with sticky actions ({self.sticky:g}) can't be logged"
            raise UserError(what, "a log holds actions, which must lead to the same play again: play with sticky 0")
        return Episode(self.game, self.actions, self.score, self.noops, agent, quality)


def play(
    policy: Policy,
    game: Game,
    episodes: int,
    *,
    noops: int = NOOPS,
    sticky: float = 0.0,
    jpeg: bool = False,
    cap: int = TIME_LIMIT,
    seed: int = 0,
) -> list[Played]:
    """Play a game several times: as many at once as the policy has lanes.

    Args:
        policy: who plays.
        game: which.
        episodes: how often.
        noops: frames without an action before an episode, at most: each episode draws its own number, from 0 on.
        sticky: with which probability a frame repeats the last action: 0.25 is Machado et al.'s, 0 the paper's.
        jpeg: whether each frame is encoded as JPEG and decoded before it is seen, as the notebook does "to better match the dataset".
        cap: steps after which an episode is cut off.
        seed: of all that is drawn in episodes: no-ops, sticky actions, and what the policy draws.

    Returns:
        in the order of the episodes' numbers, whichever ended first.

    Raises:
        UserError: there is no emulator, or an argument is out of its range.
    """
    return play_all(policy, [game], episodes, noops=noops, sticky=sticky, jpeg=jpeg, cap=cap, seed=seed)[game.name]


def play_all(
    policy: Policy,
    games: Sequence[Game],
    episodes: int,
    *,
    noops: int = NOOPS,
    sticky: float = 0.0,
    jpeg: bool = False,
    cap: int = TIME_LIMIT,
    seed: int = 0,
    in_processes: int | None = None,
) -> dict[str, list[Played]]:
    """Play several games several times, all in the same lanes: one policy sees frames of different games at once.

    Args:
        policy: who plays.
        games: which.
        episodes: of each.
        noops: as of `play`, and so all that follow.
        sticky: …
        jpeg: …
        cap: …
        seed: …
        in_processes: how many processes the consoles are in; 0: this one; None: as many as pay on this machine.

    Returns:
        by the game's name in the paper.

    Raises:
        UserError: as of `play`; also that a game is named twice.
    """
    _check(games, episodes, noops, sticky, cap)
    order = [(game, number) for number in range(episodes) for game in games]
    waiting = deque(_Begin(at, game, *_drawn(seed, game, number, noops)) for at, (game, number) in enumerate(order))
    done: dict[int, Played] = {}
    lanes: list[_Lane | None] = [None] * policy.count
    orders: list[_Begin | int | None] = [waiting.popleft() if waiting else None for _ in lanes]
    where = _processes(policy.count) if in_processes is None else in_processes
    title = games[0].name if len(games) == 1 else f"{len(games)} games"
    with _consoles(policy.count, where, sticky, jpeg) as go_on, console.progress(title, len(order), "episodes") as tell:
        pace = _Pace(len(games))
        while any(each is not None for each in orders):
            frames, points, over = go_on(orders)
            if any(isinstance(each, int) for each in orders):
                policy.observe(points)
            for at, each in enumerate(orders):
                if isinstance(each, _Begin):
                    lanes[at] = _Lane(each)
                    policy.reset(at, each.seed)
                elif each is not None:
                    lane = lanes[at]
                    assert lane is not None
                    lane.actions.append(each)
            pace.steps += sum(isinstance(each, int) for each in orders)
            for at, lane in enumerate(lanes):
                if lane is not None:
                    lane.score += float(points[at])
                    if over[at] or len(lane.actions) >= cap:
                        done[lane.begun.number] = pace.ended(lane.ended(capped=not over[at], sticky=sticky))
                        lanes[at] = None
                        tell(1)
            tell(0, pace.note())
            live = np.array([lane is not None for lane in lanes])
            chosen = np.asarray(policy.act(frames, live).actions) if live.any() else np.zeros(len(lanes))
            orders = [
                int(chosen[at]) if live[at] else waiting.popleft() if waiting else None for at in range(len(lanes))
            ]
    found: dict[str, list[Played]] = {game.name: [] for game in games}
    for at, (game, _) in enumerate(order):
        found[game.name].append(done[at])
    return found


def through_jpeg(frame: Frame) -> Frame:
    """A frame as JPEG leaves it."""
    import cv2

    _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    seen = cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)
    assert seen is not None
    return seen


@dataclass(frozen=True)
class _Begin:
    """An episode that is to begin."""

    number: int
    game: Game
    noops: int
    seed: int
    """Of what is drawn in it: sticky actions, and what the policy draws."""


@dataclass
class _Lane:
    """An episode that is going on."""

    begun: _Begin
    score: float = 0.0
    actions: bytearray = field(default_factory=bytearray)

    def ended(self, capped: bool, sticky: float) -> Played:
        steps = len(self.actions)
        return Played(self.begun.game, self.score, steps, self.begun.noops, capped, bytes(self.actions), sticky)


class _Consoles:
    """Some of the consoles, in a process of their own or not."""

    def __init__(self, count: int, sticky: float, jpeg: bool):
        self._consoles: list[Emulator | None] = [None] * count
        self._sticky, self._jpeg = sticky, jpeg

    def go_on(self, orders: Sequence[_Begin | int | None]) -> tuple[Frames, Float32[np.ndarray, " count"], list[bool]]:
        """Begin an episode, take an action, or rest, each: what is seen then, the points that it brought, and whether the game is over."""
        frames, points = np.zeros((len(orders), SIZE, SIZE), np.uint8), np.zeros(len(orders), np.float32)
        over = [False] * len(orders)
        for at, order in enumerate(orders):
            if isinstance(order, _Begin):
                held = self._consoles[at] = Emulator(order.game, self._sticky, order.seed)
                held.start(order.noops)
                points[at] = held.score
            elif order is not None:
                held = self._consoles[at]
                assert held is not None
                points[at] = held.step(order)
            else:
                continue
            over[at] = held.over
            frames[at] = through_jpeg(held.frame()) if self._jpeg else held.frame()
        return frames, points, over


@dataclass
class _Pace:
    """How fast it goes, in words."""

    games: int
    """Of how many different games."""
    steps: int = 0
    scores: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def ended(self, played: Played) -> Played:
        self.scores.append(played.score)
        return played

    def note(self) -> str:
        rate = self.steps / max(time.monotonic() - self.began, 1e-9)
        said = f"{self.steps:,} steps, {rate:.0f} a second"
        return said + (f", mean score {np.mean(self.scores):.6g}" if self.scores and self.games == 1 else "")


@contextmanager
def _consoles(count: int, where: int, sticky: float, jpeg: bool) -> Iterator[Callable[..., tuple]]:
    """A function that lets all consoles go on by a step."""
    if not where:
        alone = _Consoles(count, sticky, jpeg)
        yield alone.go_on
        return
    shares = [len(each) for each in np.array_split(np.arange(count), min(where, count))]
    with processes() as hired:
        workers = [hired.hire(partial(_Consoles, share, sticky, jpeg)) for share in shares]
        ends = np.cumsum(shares)

        def go_on(orders: Sequence[_Begin | int | None]) -> tuple:
            asked = [
                worker.ask("go_on", orders[end - share : end])
                for worker, share, end in zip(workers, shares, ends, strict=True)
            ]
            try:
                frames, points, over = zip(*(each.value() for each in asked), strict=True)
            except WorkerDied as error:
                what = f"a process with consoles in it is gone: {error}"
                raise RunFailed(what, "it may have been killed for its memory: play fewer games at once") from None
            return np.concatenate(frames), np.concatenate(points), [each for part in over for each in part]

        yield go_on


def _processes(count: int) -> int:
    """How many processes pay for so many consoles. With one or two cores none does: the policy needs them more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 or count <= _LANES_A_PROCESS else min(cores - 1, math.ceil(count / _LANES_A_PROCESS))


def _drawn(seed: int, game: Game, number: int, noops: int) -> tuple[int, int]:
    """An episode's no-ops and its seed: its own, in whichever lane and beside whichever games it is played."""
    random = np.random.default_rng([seed, number, *game.rom.encode()])
    return int(random.integers(noops + 1)), int(random.integers(2**31))


def _check(games: Sequence[Game], episodes: int, noops: int, sticky: float, cap: int) -> None:
    if not games or len({game.name for game in games}) < len(games):
        raise UserError(f"{len(games)} games, of which some are the same, or none", "name each game once")
    for name, value, low, high in (
        ("episodes", episodes, 1, 1_000_000),
        ("noops", noops, 0, 10_000),
        ("sticky", sticky, 0, 1),
        ("cap", cap, 1, TIME_LIMIT),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} is {value:g}", f"give {name} from {low} to {high:,}")
