"""Collecting: what is played depends on the seed alone, whoever was stopped goes on, and what is kept of a log is spread evenly over it."""

import gzip
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from almanac.multigame_dt import logs
from almanac.multigame_dt.collect import collect as collecting
from almanac.multigame_dt.collect import planner, ppo, random, team
from almanac.multigame_dt.collect.collect import _Line, collect, evenly, index, thin
from almanac.multigame_dt.games import Game, human_normalised, named
from almanac.multigame_dt.logs import Episode
from almanac.runtime.errors import Interrupted, RunFailed, UserError
from almanac.runtime.workers import WorkerDied

BREAKOUT, BOXING, CARNIVAL = named("Breakout"), named("Boxing"), named("Carnival")


def played(game: Game, agent: str, quality: float, generator: np.random.Generator) -> Episode:
    """An episode that takes no time, of a random length."""
    actions = generator.integers(18, size=generator.integers(5, 40)).astype(np.uint8)
    return Episode(game, actions.tobytes(), float(generator.integers(100)), 3, agent, quality, 8, "", "")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planners that don't plan."""
    monkeypatch.setattr(planner, "play", played)


def read(out: Path) -> dict[str, list[Episode]]:
    return {path.name: list(logs.read(path)) for path in sorted(out.glob("*.gz"))}


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_stopped_goes_on_to_the_same_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    games = [BREAKOUT, BOXING]
    collect(games, "planner", 900, tmp_path / "whole", seed=3, processes=1)
    count = 0

    def stopping(*arguments) -> Episode:
        nonlocal count
        count += 1
        if count == 14:
            os.kill(os.getpid(), signal.SIGTERM)
        return played(*arguments)

    monkeypatch.setattr(planner, "play", stopping)
    with pytest.raises(Interrupted):
        collect(games, "planner", 900, tmp_path / "stopped", seed=3, processes=1)
    log = tmp_path / "stopped" / "breakout.planner.jsonl.gz"
    log.write_bytes(log.read_bytes() + gzip.compress(b"{cut off")[:-9])
    with pytest.raises(UserError, match="already holds"):
        collect(games, "planner", 900, tmp_path / "stopped", seed=3, processes=1)
    with pytest.raises(RunFailed, match="'seed': 3"):
        collect(games, "planner", 900, tmp_path / "stopped", seed=4, processes=1, resume=True)
    found = collect(games, "planner", 900, tmp_path / "stopped", seed=3, processes=1, resume=True)
    assert read(tmp_path / "stopped") == read(tmp_path / "whole")
    assert all(900 <= each["steps"] < 900 + 80 for each in found["games"].values())


@pytest.mark.usefixtures("quick")
def test_episodes_come_in_their_order_whoever_is_first(tmp_path: Path) -> None:
    generators = [np.random.default_rng(number) for number in range(6)]
    episodes = [played(BREAKOUT, "planner", 1.0, generator) for generator in generators]
    steps = sum(2 * len(each.actions) for each in episodes[:4])
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 2, 0, 4], [1, 0, 5, 4, 3, 2]):
        line = _Line(BREAKOUT, tmp_path / f"{order}.jsonl.gz")
        added = [line.take(number, episodes[number], steps) for number in order]
        assert [each.actions for each in logs.read(line.path)] == [each.actions for each in episodes[:4]]
        assert sum(added) == line.steps == steps


def test_processes_play_what_one_plays(tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        collect([BREAKOUT], "random", 300, tmp_path / name, seed=1, processes=processes)
    assert read(tmp_path / "one") == read(tmp_path / "two")
    assert all(logs.replay(each).over for each in read(tmp_path / "one")["breakout.random.jsonl.gz"])


def test_trainings_are_stopped_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ppo.Recipe(consoles=2, rollout=32, minibatch=32, epochs=1)
    monkeypatch.setattr(ppo, "Recipe", lambda steps: replace(small, steps=steps))
    monkeypatch.setattr(collecting, "_SLICE", 0.0)
    collect([BREAKOUT], "ppo", 128, tmp_path / "whole", seed=2, processes=1)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    go_on = ppo.Training.go_on
    waiting = threading.Event()
    threading.Timer(0.7, waiting.set).start()

    def slow(training: ppo.Training, seconds: float) -> None:
        go_on(training, seconds)
        waiting.wait()

    monkeypatch.setattr(ppo.Training, "go_on", slow)
    with pytest.raises(Interrupted):
        collect([BREAKOUT], "ppo", 128, tmp_path / "stopped", seed=2, processes=1)
    monkeypatch.setattr(ppo.Training, "go_on", go_on)
    found = collect([BREAKOUT], "ppo", 128, tmp_path / "stopped", seed=2, processes=1, resume=True)
    assert read(tmp_path / "stopped") == read(tmp_path / "whole")
    assert {each["agent"] for each in found["games"]["Breakout"]["by"]} == {"ppo"}


@pytest.mark.usefixtures("quick")
def test_a_worker_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = 2

    class Fragile(team.Hand):
        def play(self, *arguments) -> Episode:
            nonlocal dying
            dying -= 1
            if dying >= 0:
                raise WorkerDied("process 1 ended")
            return super().play(*arguments)

    class Later:
        """An answer that is made when it is looked at."""

        def __init__(self, call):
            self.value = call

    class Worker:
        def __init__(self, held):
            self.held = held

        def ask(self, method: str, *arguments):
            return Later(lambda: getattr(self.held, method)(*arguments))

        def dismiss(self) -> None:
            pass

    monkeypatch.setattr(team.workers.InTurn, "hire", lambda self, build, threads=1, gpus=0.0: Worker(Fragile()))
    collect([BREAKOUT], "planner", 300, tmp_path, processes=1)
    dying = 100
    with pytest.raises(RunFailed, match="died"):
        collect([BOXING], "planner", 300, tmp_path, processes=1)


@pytest.mark.usefixtures("quick")
def test_the_index_says_what_the_logs_hold(tmp_path: Path) -> None:
    collect([BREAKOUT, CARNIVAL], "planner", 800, tmp_path, processes=1)
    collect([BREAKOUT], "rollout-iw", 300, tmp_path, qualities=[0.4], processes=1)
    said = json.loads((tmp_path / "index.json").read_text())
    assert said == index(tmp_path)
    episodes = [each for some in read(tmp_path).values() for each in some if each.game == BREAKOUT]
    breakout, carnival = said["games"]["Breakout"], said["games"]["Carnival"]
    assert breakout["episodes"] == len(episodes)
    assert breakout["steps"] == sum(2 * len(each.actions) for each in episodes)
    assert breakout["mean"] == pytest.approx(np.mean([each.score for each in episodes]))
    assert breakout["human_normalised"] == pytest.approx(human_normalised(BREAKOUT, breakout["mean"]))
    assert breakout["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("breakout.*.gz"))
    assert carnival["human_normalised"] is None  # no person's score was published
    assert [(each["agent"], each["quality"]) for each in breakout["by"]] == [
        *(("planner", quality) for quality in sorted(planner.QUALITIES)),
        ("rollout-iw", 0.4),
    ]
    assert sum(each["steps"] for each in breakout["by"]) == breakout["steps"]


def test_what_is_kept_is_spread_evenly_and_has_its_share_of_each_stage() -> None:
    generator = np.random.default_rng(0)
    episodes = [
        Episode(BREAKOUT, bytes(int(20 + 200 * part + generator.integers(30))), float(number), quality=float(part))
        for number, part in enumerate(np.linspace(0, 1, 400))
    ]
    everything = sum(len(each.actions) for each in episodes)
    for steps in (everything // 10, everything // 3, 5_000):
        kept = evenly(episodes, steps)
        assert 0.97 * steps - 250 <= sum(len(each.actions) for each in kept) <= steps
        gaps = np.diff([-1, *(each.score for each in kept), 400])
        assert gaps.max() <= gaps[1:-1].min() + 1 + gaps.mean()  # no stretch is left out
        late = sum(len(each.actions) for each in kept if each.quality > 0.5)
        assert late / sum(len(each.actions) for each in kept) == pytest.approx(
            sum(len(each.actions) for each in episodes if each.quality > 0.5) / everything, abs=0.03
        )
    assert evenly(episodes, everything) == episodes
    assert evenly(episodes, 10) == []


def test_thinned_logs_replay(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "all" / "breakout.random.jsonl.gz"
    for _ in range(4):
        logs.append(path, random.play(BREAKOUT, generator))
    said = thin(tmp_path / "all", tmp_path / "some", 500, processes=1)
    kept = list(logs.read(tmp_path / "some" / path.name))
    assert 0 < said["games"]["Breakout"]["steps"] <= 500
    assert [each for each in logs.read(path) if each in kept] == kept
    wrong = replace(kept[0], score=kept[0].score + 1, md5="", emulator="")
    logs.append(path, wrong)
    with pytest.raises(UserError, match="its log says"):
        thin(tmp_path / "all", tmp_path / "none", 10**6, processes=1)
    assert not list((tmp_path / "none").glob("*"))


def test_wrong_use_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no agent is called dqn"):
        collect([BREAKOUT], "dqn", 10, tmp_path)
    with pytest.raises(UserError, match="nothing to play"):
        collect([], "random", 10, tmp_path)
    with pytest.raises(UserError, match="has no qualities"):
        collect([BREAKOUT], "random", 10, tmp_path, qualities=[0.2])
    with pytest.raises(UserError, match=r"quality 0\.3"):
        collect([BREAKOUT], "planner", 10, tmp_path, qualities=[0.3])
    with pytest.raises(UserError, match="holds no logs"):
        index(tmp_path)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"nothing": 1}\n'))
    with pytest.raises(UserError, match="no log of actions"):
        index(tmp_path)
