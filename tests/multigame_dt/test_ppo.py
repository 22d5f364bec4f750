"""PPO: advantages and loss are as they are defined, all games are logged, and a run that is stopped anywhere goes on as if it were not."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from almanac.multigame_dt import logs
from almanac.multigame_dt.collect import ppo
from almanac.multigame_dt.games import named
from almanac.runtime.errors import Interrupted, RunFailed, UserError

GAME = named("Breakout")
SMALL = ppo.Recipe(steps=300, consoles=2, rollout=32, minibatch=32, epochs=1)


def some_rollout(steps: int, consoles: int, generator: torch.Generator, actions: int = 4) -> ppo.Rollout:
    seen = torch.randint(256, (steps, consoles, 84, 84, 4), dtype=torch.uint8, generator=generator)
    size = (steps, consoles)
    return ppo.Rollout(
        seen,
        torch.randint(actions, size, generator=generator),
        torch.full(size, -float(np.log(actions))),
        torch.randn(steps + 1, consoles, generator=generator),
        torch.randn(size, generator=generator),
        torch.rand(size, generator=generator) < 0.2,
    )


def test_advantages_are_sums_of_discounted_surprises_up_to_the_end_of_a_life() -> None:
    rollout = some_rollout(12, 3, torch.Generator().manual_seed(1))
    found = ppo.advantages(rollout, 0.9, 0.7)
    for console in range(3):
        for step in range(12):
            expected, weight = 0.0, 1.0
            for later in range(step, 12):
                ended = bool(rollout.ended[later, console])
                after = 0.0 if ended else 0.9 * float(rollout.values[later + 1, console])
                expected += weight * (
                    float(rollout.rewards[later, console]) + after - float(rollout.values[later, console])
                )
                weight *= 0.9 * 0.7
                if ended:
                    break
            assert float(found[step, console]) == pytest.approx(expected, abs=1e-5)


def test_the_loss_pushes_no_action_beyond_the_clip() -> None:
    generator = torch.Generator().manual_seed(2)
    network = ppo.Network(4, generator)
    recipe = ppo.Recipe(entropy=0.0, value=0.0, clip=0.1)
    seen = torch.randint(256, (2, 84, 84, 4), dtype=torch.uint8, generator=generator)
    actions, better = torch.tensor([0, 1]), torch.tensor([1.0, -1.0])
    with torch.no_grad():
        now = network(seen)[0].log_softmax(-1).gather(1, actions[:, None])[:, 0]

    def pushed(ratio: float) -> float:
        """How large the gradient is when the first action has become so much likelier, and the second as much less likely."""
        network.zero_grad()
        before = now - torch.tensor([np.log(ratio), -np.log(ratio)], dtype=torch.float32)
        ppo.loss(network, recipe, seen, actions, before, better, torch.zeros(2)).backward()
        return float(sum(each.grad.abs().sum() for each in network.parameters() if each.grad is not None))

    assert pushed(1.05) > 0
    assert pushed(1.2) == 0
    assert pushed(0.8) > 0  # a step back is always allowed


def test_the_policy_begins_uniform_and_sees_where_pixels_are() -> None:
    generator = torch.Generator().manual_seed(3)
    network = ppo.Network(6, generator)
    seen = torch.randint(256, (3, 84, 84, 4), dtype=torch.uint8, generator=generator)
    logits, values = network(seen)
    assert torch.allclose(logits.softmax(-1), torch.full((3, 6), 1 / 6), atol=0.02)
    assert values.shape == (3,)
    assert not torch.equal(network(seen.flip(1))[1], values)


def test_an_update_makes_rewarded_actions_likelier(tmp_path: Path) -> None:
    training = ppo.Training([GAME], tmp_path, ppo.Recipe(steps=10_000, consoles=2, rollout=64, minibatch=32), seed=1)
    rollout = some_rollout(64, 2, torch.Generator().manual_seed(4))
    rollout = rollout._replace(rewards=(rollout.actions == 2).float(), values=torch.zeros(65, 2))
    seen = rollout.seen.flatten(0, 1)
    before = training.network(seen)[0].softmax(-1)[:, 2].mean()
    for _ in range(3):
        training.update(rollout)
    assert training.network(seen)[0].softmax(-1)[:, 2].mean() > before + 0.02


def test_a_console_shows_its_last_four_frames(tmp_path: Path) -> None:
    training = ppo.Training([GAME], tmp_path, SMALL)
    console = training.in_progress[0]
    frames = [console.emulator.frame()]
    assert not console.seen[..., :3].any()
    for action in (1, 3, 3, 4, 0, 3):
        console.step(action)
        frames.append(console.emulator.frame())
    assert np.array_equal(console.seen, np.stack(frames[-4:], -1))


def test_every_game_is_logged_and_replays(tmp_path: Path) -> None:
    learnt = ppo.learn([GAME], tmp_path, SMALL)
    episodes = list(logs.read(ppo.log_path(tmp_path, GAME)))
    replays = [logs.replay(each) for each in episodes]
    assert learnt.episodes == len(episodes) >= SMALL.consoles
    assert sum(len(each.actions) for each in episodes) >= learnt.steps >= SMALL.steps
    assert all(each.over for each in replays)
    assert [each.quality for each in episodes] == sorted(each.quality for each in episodes)
    assert episodes[-1].quality == 1.0
    assert len({each.noops for each in episodes}) > 1
    assert learnt.scores[GAME.name] == pytest.approx(np.mean([each.score for each in episodes[-20:]]))


def test_a_killed_run_goes_on_to_the_same_log(tmp_path: Path) -> None:
    ppo.learn([GAME], tmp_path / "whole", SMALL, seed=5)
    training = ppo.Training([GAME], tmp_path / "killed", SMALL, seed=5)
    training.go_on(0.0)
    training.save()
    while training.episodes < 2:  # and of these nothing is saved
        training.go_on(0.0)
    assert ppo.log_path(tmp_path / "killed", GAME).stat().st_size > 0
    del training
    learnt = ppo.learn([GAME], tmp_path / "killed", SMALL, seed=5, resume=True)
    whole, killed = (ppo.log_path(tmp_path / name, GAME).read_bytes() for name in ("whole", "killed"))
    assert whole == killed
    assert ppo.learn([GAME], tmp_path / "killed", SMALL, seed=5, resume=True) == learnt  # there is nothing left to do


def test_one_agent_learns_several_games_by_the_full_set_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    games = [GAME, named("RoadRunner")]
    small = ppo.Recipe(**{**vars(SMALL), "consoles": 4})
    learnt = ppo.learn(games, tmp_path / "whole", small, seed=3)
    assert set(learnt.scores) == {game.name for game in games}
    training = ppo.Training(games, tmp_path / "killed", small, seed=3)
    assert len(training.actions) == 18 and [each.game for each in training.in_progress] == games * 2
    while training.steps < small.steps // 2:
        training.go_on(0.0)
    training.save()
    training.go_on(0.0)
    del training  # what it did since is lost
    ppo.learn(games, tmp_path / "killed", small, seed=3, resume=True)
    for game in games:
        whole, killed = (ppo.log_path(tmp_path / name, game, ppo.TOGETHER) for name in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()
        for each in logs.read(whole):
            assert (each.agent, each.game) == (ppo.TOGETHER, game)
            assert logs.replay(each).over
    with pytest.raises(UserError, match="2 consoles can't play 3 games"):
        ppo.Training([*games, named("Pong")], tmp_path / "few", SMALL)


def test_a_run_that_is_told_to_stop_saves_first(tmp_path: Path) -> None:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted):
        ppo.learn([GAME], tmp_path / "stopped", ppo.Recipe(**{**vars(SMALL), "steps": 10**9}), seed=6)
    assert (tmp_path / "stopped" / "breakout.ppo.pt").exists()
    with pytest.raises(RunFailed, match="begun with"):
        ppo.learn([GAME], tmp_path / "stopped", SMALL, seed=6, resume=True)


def test_a_run_is_not_begun_over_another(tmp_path: Path) -> None:
    training = ppo.Training([GAME], tmp_path, SMALL)
    training.save()
    with pytest.raises(UserError, match="already holds"):
        ppo.Training([GAME], tmp_path, SMALL)
    with pytest.raises(UserError, match="minibatches"):
        ppo.Training([GAME], tmp_path / "other", ppo.Recipe(consoles=3, minibatch=256))


def test_a_run_whose_log_lost_episodes_is_not_gone_on_with(tmp_path: Path) -> None:
    training = ppo.Training([GAME], tmp_path, SMALL)
    while not training.episodes:
        training.go_on(0.0)
    training.save()
    os.truncate(training.logs[GAME], 10)
    with pytest.raises(RunFailed, match="lacks episodes"):
        ppo.Training([GAME], tmp_path, SMALL, resume=True)
