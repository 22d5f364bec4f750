"""Workers that play, learn and replay, each one thing at a time; those that die are replaced, and what they were at is begun again."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from almanac.multigame_dt import logs
from almanac.multigame_dt.collect import planner, random
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.logs import Episode
from almanac.runtime import cluster, workers
from almanac.runtime.errors import RunFailed
from almanac.runtime.workers import Answer, WorkerDied, Workers

_DEATHS = 5  # workers that are replaced before it is given up


@contextmanager
def hired(processes: int | None, cluster_address: str | None, most: int | None = None) -> Iterator["Team"]:
    """Workers, ended on leaving.

    Args:
        processes: how many; None: one a processor; 1: this process itself.
        cluster_address: of a Ray cluster, as `cluster.workers` takes it; None: this machine.
        most: that there is work for.
    """
    count = processes or len(os.sched_getaffinity(0))
    count = min(count, most or count)
    crew: AbstractContextManager[Workers]
    if cluster_address is not None:
        crew = cluster.workers(cluster_address, float(count))
    else:
        crew = nullcontext(workers.InTurn()) if count == 1 else workers.processes()
    with crew as found:
        yield Team(found, count)


class Team:
    """Workers that do one thing at a time, and are replaced when they die."""

    def __init__(self, crew: Workers, count: int):
        self._crew, self._members, self._deaths = crew, [Member(crew) for _ in range(count)], 0

    @property
    def idle(self) -> list["Member"]:
        """Who has nothing to do."""
        return [each for each in self._members if each.answer is None]

    @property
    def busy(self) -> bool:
        """Whether anyone has."""
        return any(each.answer is not None for each in self._members)

    def answers(self) -> Iterator[tuple["Member", Any]]:
        """Who is done, and with what, after a second at most."""
        there = self._crew.ready([each.answer for each in self._members if each.answer is not None], 1.0)
        for member in self._members:
            if member.answer is not None and any(member.answer is each for each in there):
                try:
                    value = member.answer.value()
                except WorkerDied as error:
                    self._deaths += 1
                    if self._deaths > _DEATHS:
                        what = f"workers died {self._deaths} times ({error})"
                        raise RunFailed(what, "memory may be short: --resume with fewer processes") from None
                    member.begin_again()
                    continue
                member.answer = None
                yield member, value


class Member:
    """A worker, and what it was asked for."""

    def __init__(self, crew: Workers):
        self._crew = crew
        self.worker = crew.hire(Hand)
        self.task: Any = None
        self.answer: Answer | None = None
        """None: it has nothing to do."""

    def ask(self, task: Any, method: str, *arguments: Any) -> None:
        """Ask for something.

        Args:
            task: what it is for.
            method: of `Hand`.
            arguments: of that.
        """
        self.task, self._call = task, (method, *arguments)
        self.answer = self.worker.ask(method, *arguments)

    def begin_again(self) -> None:
        """Replace the worker, which died, and ask the new one."""
        self.worker = self._crew.hire(Hand)
        self.ask(self.task, *self._call)


class Hand:
    """What a worker does."""

    def __init__(self):
        self._training: Any = None

    def play(self, game: Game, agent: str, quality: float, seeds: Sequence[int]) -> Episode:
        """An episode."""
        generator = np.random.default_rng(seeds)
        return random.play(game, generator) if agent == random.AGENT else planner.play(game, agent, quality, generator)

    def check(self, episode: Episode) -> None:
        """Whether an episode comes to its score."""
        logs.replay(episode)

    def learn(self, games: Sequence[Game], out: Path, steps: int, seed: int, seconds: float) -> tuple[int, bool, str]:
        """Learn for some time: to how many steps it has come, whether that is all, and how well it plays."""
        from almanac.multigame_dt.collect import ppo

        if self._training is None or self._training.games != tuple(games):
            self._training = ppo.Training(games, out, ppo.recipe_for(games, steps), seed, resume=True)
        self._training.go_on(seconds)
        return self._training.steps, self._training.finished, self._training.note()

    def save(self) -> None:
        """Save the training, if there is one."""
        if self._training is not None:
            self._training.save()
