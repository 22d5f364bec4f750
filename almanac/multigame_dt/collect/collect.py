"""Collecting play: for each game and agent one log of actions in a folder, and an index of what the folder holds. Episodes are played in
several processes, on this machine or on a Ray cluster; which ones there are depends on the seed alone, not on how many processes there are
or how often they were stopped. Who plays, and how, is `random`'s, `planner`'s and `ppo`'s."""

import json
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from almanac.multigame_dt import logs
from almanac.multigame_dt.collect import planner, random
from almanac.multigame_dt.collect.team import Team, hired
from almanac.multigame_dt.games import Game, human_normalised
from almanac.multigame_dt.logs import Episode
from almanac.runtime import checkpoint, console
from almanac.runtime.errors import Interrupted, RunFailed, UserError
from almanac.runtime.stopping import stop_signals

LEARNER, TOGETHER = "ppo", "multi-game-ppo"
"""Who learns: one agent for each game, or one for all of them."""
AGENTS = (random.AGENT, *planner.PLANNERS, LEARNER, TOGETHER)
INDEX = "index.json"

_SLICE = 2.0  # s that an agent learns before it tells how far it is


def collect(
    games: Sequence[Game],
    agent: str,
    steps: int,
    out: Path,
    *,
    qualities: Sequence[float] | None = None,
    seed: int = 0,
    processes: int | None = None,
    cluster_address: str | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Play games, whole episodes, into `out/ROM.AGENT.jsonl.gz`.

    Args:
        games: which.
        agent: one of `AGENTS`.
        steps: of each game, at least; of PPO those that it learns for, of one for several games so many times their number.
        out: the folder.
        qualities: of a planner, which take turns; None: all of `planner.QUALITIES`.
        seed: of no-ops, of what is tried, of weights.
        processes: that play at the same time; None: one a processor.
        cluster_address: of a Ray cluster, as `cluster.workers` takes it; `out` must be there, too.
        resume: go on with what is in `out`.

    Returns:
        The folder's index, as `index` makes it.

    Raises:
        UserError: there is no such agent or quality, or `out` holds such play and `resume` is off.
        RunFailed: what is there is of another seed, or workers die again and again.
        Interrupted: SIGTERM or Ctrl-C; what was played is saved.
    """
    games = list(dict.fromkeys(games))
    qualities = _checked(games, agent, steps, qualities)
    lines = [_Line(game, out / f"{game.rom}.{agent}{logs.SUFFIX}") for game in games]
    for line in lines:
        if line.path.exists() and not resume:
            what = f"{out} already holds play of {agent} in {line.game.name}"
            raise UserError(what, "go on with --resume, or choose another --out")
    _remember(out, lines, {"seed": seed, "qualities": list(qualities)})
    groups = [games] if agent == TOGETHER else [[game] for game in games]
    with (
        stop_signals() as stopped,
        hired(processes, cluster_address, len(groups) if agent in (LEARNER, TOGETHER) else None) as team,
    ):
        if agent in (LEARNER, TOGETHER):
            _learn(team, groups, steps, out, seed, stopped)
        else:
            _play(team, lines, agent, qualities, steps, seed, stopped)
    return index(out)


def index(out: Path) -> dict[str, Any]:
    """What a folder of logs holds; also written to `out/index.json`.

    Args:
        out: the folder.

    Returns:
        `games`: by name, their `episodes`, `steps` (of four frames each, at most), `bytes`, `mean` and `best` score, the mean
        `human_normalised`, and the same `by` agent and quality (to a tenth); `runs`: how each log was made.

    Raises:
        UserError: it holds no logs.
    """
    found: dict[Game, dict[tuple[str, float], list[Episode]]] = {}
    sizes: dict[Game, int] = {}
    for path in sorted(out.glob(f"*{logs.SUFFIX}")):
        episodes = list(logs.read(path))
        for each in episodes:
            found.setdefault(each.game, {}).setdefault((each.agent, round(each.quality, 1)), []).append(each)
        for game in {each.game for each in episodes}:
            sizes[game] = sizes.get(game, 0) + path.stat().st_size
    if not found:
        raise UserError(f"{out} holds no logs of actions", "make some: almanac multigame-dt collect")
    said = {
        "games": {
            game.name: {
                **_summary(game, [each for some in by.values() for each in some]),
                "bytes": sizes[game],
                "by": [{"agent": a, "quality": q, **_summary(game, some)} for (a, q), some in sorted(by.items())],
            }
            for game, by in sorted(found.items(), key=lambda each: each[0].name)
        },
        "runs": _said(out)["runs"],
    }
    _write(out, said)
    return said


def thin(
    source: Path, out: Path, steps: int, *, processes: int | None = None, cluster_address: str | None = None
) -> dict[str, Any]:
    """Of each log of a folder so many steps, to be shipped: whole episodes, evenly from the first to the last, so that the share of each
    stage of a training stays what it was. Each that is taken is played again, to see that it comes to its score.

    Args:
        source: the folder.
        out: where to.
        steps: of each log, at most.
        processes: that replay at the same time; None: one a processor.
        cluster_address: of a Ray cluster, as `cluster.workers` takes it.

    Returns:
        The index of `out`.

    Raises:
        UserError: there are no logs, or an episode isn't what its log says.
    """
    taken = {path: evenly(list(logs.read(path)), steps) for path in sorted(source.glob(f"*{logs.SUFFIX}"))}
    if not any(taken.values()):
        raise UserError(f"no episode of {source} has as few steps as {steps:,}", "give a folder of logs, or more steps")
    everything = [each for episodes in taken.values() for each in episodes]
    with (
        hired(processes, cluster_address) as team,
        console.progress("replaying", sum(each.steps for each in everything), "steps") as advance,
    ):
        waiting = deque(everything)
        while waiting or team.busy:
            while waiting and team.idle:
                team.idle[0].ask(waiting[0], "check", waiting.popleft())
            for member, _ in team.answers():
                advance(member.task.steps)
    for path, episodes in taken.items():
        if episodes:
            logs.write(out / path.name, episodes)
    return index(out)


def evenly(episodes: Sequence[Episode], steps: int) -> list[Episode]:
    """Some of the episodes, as many as have no more steps together, spread evenly over their order.

    Args:
        episodes: in the order in which they were played.
        steps: that they may have.
    """
    count = len(episodes)
    while count:
        chosen = [episodes[(2 * number + 1) * len(episodes) // (2 * count)] for number in range(count)]
        total = sum(each.steps for each in chosen)
        if total <= steps:
            return chosen
        count = min(count - 1, max(1, count * steps // total)) if count > 1 else 0
    return []


@dataclass
class _Line:
    """The play of one game."""

    game: Game
    path: Path
    steps: int = 0
    """That are in the log."""
    written: int = 0
    """Episodes that are."""
    asked: int = 0
    """Episodes that were asked for, the first ones."""
    waiting: dict[int, Episode] = field(default_factory=dict)
    """Those that came before their turn."""

    def open(self) -> None:
        """Find out what the log holds; what a crash cut off is removed."""
        if self.path.exists():
            episodes = list(logs.read(self.path))
            logs.write(self.path, episodes)
            self.steps, self.written = sum(each.steps for each in episodes), len(episodes)
        self.asked = self.written

    def wants(self, steps: int) -> bool:
        """Whether an episode more should be asked for, by what the ones before came to."""
        known = self.written + len(self.waiting)
        come = self.steps + sum(each.steps for each in self.waiting.values())
        under_way = self.asked - known
        return come + under_way * (come / known if known else 0) < steps

    def take(self, number: int, episode: Episode, steps: int) -> int:
        """Log an episode when all before are, if it is still needed; how many steps the log has more."""
        self.waiting[number] = episode
        before = self.steps
        while self.steps < steps and self.written in self.waiting:
            now = self.waiting.pop(self.written)
            logs.append(self.path, now)
            self.written, self.steps = self.written + 1, self.steps + now.steps
        return self.steps - before


def _play(
    team: Team,
    lines: Sequence[_Line],
    agent: str,
    qualities: Sequence[float],
    steps: int,
    seed: int,
    stopped: Sequence[float],
) -> None:
    """Episodes by number: each has a generator of its own, and they are logged in order."""
    for line in lines:
        line.open()
    done = sum(min(line.steps, steps) for line in lines)
    with console.progress(f"playing, {agent}", steps * len(lines), "steps", done) as advance:
        while any(line.steps < steps for line in lines):
            for line in lines:
                while team.idle and line.wants(steps):
                    quality = qualities[line.asked % len(qualities)]
                    seeds = (seed, zlib.crc32(line.game.rom.encode()), zlib.crc32(agent.encode()), line.asked)
                    team.idle[0].ask((line, line.asked), "play", line.game, agent, quality, seeds)
                    line.asked += 1
            for member, episode in team.answers():
                line, number = member.task
                before = min(line.steps, steps)
                line.take(number, episode, steps)
                advance(min(line.steps, steps) - before, f"{line.game.name}: {episode.score:g}")
            if stopped:
                raise Interrupted("stopped; the episodes that were over are logged", "go on with --resume")


def _learn(
    team: Team, groups: Sequence[list[Game]], steps: int, out: Path, seed: int, stopped: Sequence[float]
) -> None:
    """Trainings, each of the games that one agent learns: a worker has one until it is finished."""
    waiting, known = deque(groups), [0] * len(groups)
    total = steps * sum(map(len, groups))
    with console.progress("learning, PPO", total, "steps") as advance:
        while waiting or team.busy:
            while waiting and team.idle and not stopped:
                games = waiting.popleft()
                team.idle[0].ask(games, "learn", games, out, steps, seed, _SLICE)
            for member, learnt in team.answers():
                if learnt is None:  # it was saved
                    continue
                games, (done, finished, note) = member.task, learnt
                number, done = groups.index(games), min(done, steps * len(games))
                advance(done - known[number], note)
                known[number] = done
                if not finished and not stopped:
                    member.ask(games, "learn", games, out, steps, seed, _SLICE)
                elif not finished:
                    member.ask(games, "save")
            if stopped and not team.busy:
                raise Interrupted("stopped; the trainings are saved", "go on with --resume")


def _checked(games: Sequence[Game], agent: str, steps: int, qualities: Sequence[float] | None) -> Sequence[float]:
    """The qualities that take turns."""
    if agent not in AGENTS:
        raise UserError(f"no agent is called {agent}", f"they are {', '.join(AGENTS)}")
    if not games or steps < 1:
        raise UserError(
            f"there is nothing to play: {len(games)} games, {steps} steps", "give a game and a number of steps"
        )
    if agent not in planner.PLANNERS:
        if qualities:
            raise UserError(f"{agent} has no qualities to choose", f"only planners have: {', '.join(planner.PLANNERS)}")
        return [0.0]
    unknown = [each for each in qualities or [] if each not in planner.QUALITIES]
    if unknown:
        raise UserError(
            f"no planner is of quality {unknown[0]:g}", f"choose among {', '.join(map(str, planner.QUALITIES))}"
        )
    return list(qualities or planner.QUALITIES)


def _remember(out: Path, lines: Sequence[_Line], how: dict[str, Any]) -> None:
    """Write down how logs are made, and see that those which are there were made so."""
    said = _said(out)
    runs = said["runs"]
    for line in lines:
        name = line.path.name.removesuffix(logs.SUFFIX)
        if line.path.exists() and runs.get(name, how) != how:
            what = f"the play in {line.path} was made with {runs[name]}, not {how}"
            raise RunFailed(what, "resume with the options that it was begun with")
        runs[name] = how
    _write(out, said)


def _said(out: Path) -> dict[str, Any]:
    """What the index of a folder says; one that can't be read is made anew."""
    try:
        said = json.loads((out / INDEX).read_text())
        return {"games": dict(said["games"]), "runs": dict(said["runs"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"games": {}, "runs": {}}


def _write(out: Path, said: dict[str, Any]) -> None:
    checkpoint.write_atomic(out / INDEX, lambda file: file.write(json.dumps(said, indent=1).encode() + b"\n"))


def _summary(game: Game, episodes: Sequence[Episode]) -> dict[str, Any]:
    mean = float(np.mean([each.score for each in episodes]))
    return {
        "episodes": len(episodes),
        "steps": sum(each.steps for each in episodes),
        "mean": mean,
        "best": max(each.score for each in episodes),
        "human_normalised": human_normalised(game, mean),
    }
