"""Planners: they disturb nothing, spend what they may, take no action by chance where none is better, and play better than chance."""

import numpy as np
import pytest

from almanac.multigame_dt import logs
from almanac.multigame_dt.collect import planner, random
from almanac.multigame_dt.collect.planner import FlatMonteCarlo, Outcome, Plan, RolloutIW
from almanac.multigame_dt.collect.record import record
from almanac.multigame_dt.emulator import Emulator
from almanac.multigame_dt.games import named
from almanac.runtime.errors import UserError


def started(name: str, noops: int = 0) -> Emulator:
    console = Emulator(named(name))
    console.start(noops)
    return console


def held(console: Emulator, action: int) -> None:
    for _ in range(planner.HELD):
        console.step(action)


@pytest.mark.parametrize("kind", planner.PLANNERS.values())
def test_planning_leaves_the_console_as_it_is(kind) -> None:
    planned, other = started("Boxing", 7), started("Boxing", 7)
    chooser = kind(planned.game, Plan(12), np.random.default_rng(0))
    for _ in range(12):
        action = chooser.choose(planned)
        held(planned, action)
        held(other, action)
        assert np.array_equal(planned.memory(), other.memory())
        assert np.array_equal(planned.frame(), other.frame())
    assert planned.score == other.score


@pytest.mark.parametrize("kind", planner.PLANNERS.values())
@pytest.mark.parametrize("budget", [1, 9, 25])
def test_no_more_is_tried_than_the_budget(kind, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console, tried = started("Assault", 3), 0
    chooser = kind(console.game, Plan(budget, depth=5), np.random.default_rng(0))
    hold = chooser.copy.hold

    def counted(action: int) -> Outcome:
        nonlocal tried
        tried += 1
        return hold(action)

    monkeypatch.setattr(chooser.copy, "hold", counted)
    for _ in range(4):
        tried = 0
        held(console, chooser.choose(console))
        assert 0 < tried <= budget


@pytest.mark.parametrize("kind", planner.PLANNERS.values())
def test_where_nothing_is_better_nothing_is_done(kind) -> None:
    console = started("Pong", 5)  # no ball for a second
    chooser = kind(console.game, Plan(12, depth=3), np.random.default_rng(0))
    for _ in range(4):
        action = chooser.choose(console)
        assert action == 0
        held(console, action)


def test_the_last_action_goes_on_before_none_and_none_before_others() -> None:
    assert sorted([4, 3, 0, 1], key=lambda each: planner._preferred(each, 3)) == [3, 0, 1, 4]


def test_a_trees_states_are_where_its_actions_lead() -> None:
    console = started("Breakout", 4)
    chooser = RolloutIW(console.game, Plan(30), np.random.default_rng(1))
    for _ in range(3):
        chooser.choose(console)
        assert chooser._root is not None
        again, ways = planner.Copy(console.game), [([chooser._last], chooser._root)]
        while ways:
            taken, node = ways.pop()
            again.emulator.restore(console.saved())
            outcomes = [again.hold(action) for action in taken]
            assert np.array_equal(again.emulator.memory(), node.memory)
            assert outcomes[-1] == node.outcome
            ways.extend(([*taken, action], child) for action, child in node.children.items())
        held(console, chooser._last)


def test_nothing_is_searched_behind_what_is_not_new() -> None:
    console = started("Breakout", 4)
    chooser = RolloutIW(console.game, Plan(10_000), np.random.default_rng(1))
    chooser._is_new = lambda node: node.depth < 2
    root = chooser._rooted(console)
    tried = 0
    while not root.solved:
        tried += chooser._rollout(root, 10_000)
    actions = len(chooser.copy.actions)
    assert tried == actions + actions**2


def test_a_lost_life_outweighs_what_is_won() -> None:
    copy = planner.Copy(named("Breakout"))
    copy._largest = 7.0
    assert copy.worth(Outcome(7.0, 1, False)) < copy.worth(Outcome(0.0, 0, False)) < copy.worth(Outcome(1.0, 0, False))


@pytest.mark.parametrize("kind", [FlatMonteCarlo, RolloutIW])
def test_planners_play_better_than_chance(kind) -> None:
    game = named("Boxing")
    generator = np.random.default_rng(3)
    chooser = kind(game, Plan(20), generator)
    planned = record(game, chooser.choose, generator, agent="", quality=1.0, held=planner.HELD, limit=200)
    chances = [
        record(game, lambda each: int(generator.choice(each.actions)), generator, agent="", quality=0.0, limit=200)
        for _ in range(3)
    ]
    assert planned.score > 3 + max(each.score for each in chances)


def test_play_is_repeatable_and_replays() -> None:
    game = named("Breakout")
    one, other = (planner.play(game, "planner", 0.2, np.random.default_rng([1, 2])) for _ in range(2))
    assert one == other
    assert one != planner.play(game, "planner", 0.2, np.random.default_rng([1, 3]))
    assert (one.agent, one.quality, one.frames_per_action) == ("planner", 0.2, 8)
    assert logs.replay(one).over


def test_random_play_takes_each_action_as_often() -> None:
    episode = random.play(named("Assault"), np.random.default_rng(0))
    counts = np.bincount(np.frombuffer(episode.actions, np.uint8), minlength=18)
    known = list(started("Assault").actions)
    assert set(np.flatnonzero(counts)) == set(known)
    expected = len(episode.actions) / len(known)
    assert ((counts[known] - expected) ** 2 / expected).sum() < 30  # χ² of 6 degrees: p = 4e-5
    assert logs.replay(episode).over


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match="no planner is called mcts"):
        planner.play(named("Pong"), "mcts", 1.0, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"quality 0\.3"):
        planner.play(named("Pong"), "planner", 0.3, np.random.default_rng(0))
