"""Logs become play, and play becomes windows: all of it, nothing else, and the same each time."""

import math
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from almanac.multigame_dt import data, logs, tokens
from almanac.multigame_dt.data import Frames, Play, joined, rendered
from almanac.multigame_dt.emulator import Emulator
from almanac.multigame_dt.games import named
from almanac.multigame_dt.logs import Episode
from almanac.multigame_dt.windows import Windows
from almanac.runtime.errors import UserError
from tests.multigame_dt.plays import made


def played(game: str, steps: int, seed: int, held: int = 1) -> Episode:
    """Some steps of random play."""
    random, console = np.random.default_rng(seed), Emulator(named(game))
    console.start(seed)
    actions = bytes(random.choice(console.actions, steps).tolist())
    for action in actions:
        for _ in range(held):
            console.step(action)
    return Episode(named(game), actions, console.score, seed, "random", frames_per_action=4 * held)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [played("Pong", 30, 1), played("Boxing", 25, 2), played("Boxing", 20, 3, held=2)]


@pytest.fixture(scope="module")
def log(episodes: list[Episode], tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "random.jsonl.gz"
    logs.write(path, episodes)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_play_is_what_a_replay_shows(log: Path, episodes: list[Episode], cache: Path):
    play = rendered([log], cache)
    assert play.steps == 30 + 25 + 40 and [game.name for game in play.games] == ["Pong", "Boxing"]
    for number, episode in enumerate(episodes):
        seen, steps = logs.replay(episode), np.arange(play.lengths[number]) + play.starts[number]
        assert np.array_equal(play.frames[steps], seen.frames)
        assert np.array_equal(play.actions[steps], seen.actions)
        assert np.array_equal(play.rewards[steps], seen.rewards)
        assert play.scores[number] == episode.score and play.over[number] == seen.over
        assert play.games[play.game[number]] == episode.game


def test_a_drawing_goes_on_where_it_was_and_draws_nothing_twice(log: Path, cache: Path, tmp_path: Path):
    whole = rendered([log], cache)
    shutil.copytree(cache, tmp_path / "stopped")
    (folder,) = (tmp_path / "stopped").iterdir()
    frames, ends = (np.load(folder / name, mmap_mode="r+") for name in ("frames.npy", "ends.npy"))
    frames[30:55], ends[1] = 0, 0  # the second episode had not been drawn
    frames[0, 0, 0] ^= 255  # of one that had been
    frames.flush(), ends.flush()
    again = rendered([log], tmp_path / "stopped")
    steps = np.arange(95)
    expected = whole.frames[steps].copy()
    expected[0, 0, 0] ^= 255
    assert np.array_equal(again.frames[steps], expected)
    assert np.array_equal(again.rewards, whole.rewards) and again.lengths.tolist() == whole.lengths.tolist()


@pytest.mark.slow
def test_processes_draw_the_same(log: Path, cache: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(data, "_IN_TURN", 0)
    one, two = rendered([log], cache), rendered([log], tmp_path / "other", processes=2)
    steps = np.arange(95)
    assert np.array_equal(one.frames[steps], two.frames[steps]) and np.array_equal(one.rewards, two.rewards)
    assert one.lengths.tolist() == two.lengths.tolist() and one.over.tolist() == two.over.tolist()


def test_a_thin_set_is_whole_episodes_evenly_from_all(log: Path, cache: Path):
    lengths = np.random.default_rng(0).integers(50, 150, 300)
    kept = data._thinned([named("Pong")] * 300, lengths, 5_000)
    assert 4_500 <= lengths[kept].sum() <= 5_000
    parts = [lengths[part][kept[part]].sum() for part in np.array_split(np.arange(300), 5)]
    assert max(parts) - min(parts) <= 300
    assert data._thinned([named("Pong")] * 300, lengths, None).all()
    assert data._thinned([named("Pong")] * 300, lengths, 10**9).all()
    play = rendered([log], cache, most=1)
    assert sorted(play.game.tolist()) == [0, 1]  # one episode of each game at least


def test_a_log_that_does_not_lead_to_its_score_is_named(tmp_path: Path, episodes: list[Episode]):
    bad = Episode(episodes[0].game, episodes[0].actions, episodes[0].score + 1, episodes[0].noops)
    logs.write(tmp_path / "bad.jsonl.gz", [bad])
    with pytest.raises(UserError, match=r"bad\.jsonl\.gz.*comes to"):
        rendered([tmp_path / "bad.jsonl.gz"], tmp_path / "cache")


def test_what_cannot_be_drawn_is_refused_before(log: Path, tmp_path: Path, monkeypatch):
    logs.write(tmp_path / "empty.jsonl.gz", [])
    with pytest.raises(UserError, match="no play in the logs"):
        rendered([tmp_path / "empty.jsonl.gz"], tmp_path / "cache")
    with pytest.raises(UserError, match="0 steps"):
        rendered([log], tmp_path / "cache", most=0)
    monkeypatch.setattr(data.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(UserError, match=r"take 0\.0 GB"):
        rendered([log], tmp_path / "cache")


def test_several_plays_are_one():
    one, other = made((0, 5, True), (1, 4, False)), made((0, 6, True), games=("Pong",), seed=1)
    both = joined([one, other])
    assert both.game.tolist() == [0, 1, 1] and both.steps == 15
    assert isinstance(both.frames, Frames) and len(both.frames) == len(both.actions) == len(one.actions) + 8
    steps = np.random.default_rng(0).integers(0, len(both.actions), (7, 3))
    assert np.array_equal(both.frames[steps], np.concatenate([one.frames, other.frames])[steps])
    assert np.array_equal(both.rewards[both.starts[2] : both.starts[2] + 6], other.rewards[:6])


def test_what_is_kept_for_testing_is_not_trained_on():
    play = made(*((i % 2, 4, True) for i in range(90)))
    kept, tested = play.held_out()
    assert sorted([*kept.starts, *tested.starts]) == play.starts.tolist()
    assert Counter(tested.game.tolist()) == {0: 2, 1: 2}
    best = play.best(0.1)
    for game in range(2):
        scores = np.sort(play.scores[play.game == game])
        assert np.sort(best.scores[best.game == game]).tolist() == scores[-5:].tolist()


PLAY = made((0, 9, True), (0, 2, True), (1, 30, False), (1, 1, True), (0, 25, False))


def steps_of(windows: Windows) -> list[int]:
    """The last step of every window."""
    return sorted(np.concatenate(windows._windows).tolist())


def all_steps(play: Play) -> list[int]:
    pairs = zip(play.starts, play.lengths, strict=True)
    return sorted(step for start, length in pairs for step in range(start, start + length))


def test_a_window_is_of_one_episode_and_black_before_it():
    windows = Windows(PLAY, 1, 0)
    assert steps_of(windows) == all_steps(PLAY)
    batch = windows.at(np.array(all_steps(PLAY)))
    for at, step in enumerate(all_steps(PLAY)):
        number = int(np.searchsorted(PLAY.starts, step, side="right")) - 1
        for back in range(4):
            there, frame = step - back, batch.frames[at, 3 - back]
            if there < PLAY.starts[number]:
                assert not batch.played[at, 3 - back] and not frame.any()
                assert batch.actions[at, 3 - back] == batch.rewards[at, 3 - back] == 0
            else:
                assert batch.played[at, 3 - back] and frame[0, 0] == number + 1
                assert frame[0, 1] == there - PLAY.starts[number]
                assert batch.actions[at, 3 - back] == PLAY.actions[there]
                assert batch.rewards[at, 3 - back] == np.sign(PLAY.rewards[there]) % 4


def test_returns_are_those_of_a_slow_loop():
    play = made((0, 40, True), (1, 400, True))
    play.rewards[42 : 42 + 400] = np.abs(play.rewards[42 : 42 + 400])  # up to far above 100
    batch = Windows(play, 1, 0).at(np.array(all_steps(play)))
    for at, step in enumerate(all_steps(play)):
        number = int(step >= 42)
        end = play.starts[number] + play.lengths[number]
        for back in range(4):
            first = max(step - back, play.starts[number])  # before the beginning, all of it is still to come
            to_go = sum(min(1, max(-1, reward)) for reward in play.rewards[first:end])
            assert batch.returns[at, 3 - back] == min(119, max(0, int(to_go) + 20))
    assert tokens.RETURNS == 120 and batch.returns.max() == 119


def test_batches_are_a_function_of_their_number_and_see_everything():
    first, again = Windows(PLAY, 8, seed=1), Windows(PLAY, 8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first(7), again(7), strict=True))
    assert not torch.equal(first(7).frames, first(8).frames)
    assert not torch.equal(first(7).frames, Windows(PLAY, 8, seed=2)(7).frames)
    seen = Counter()
    for number in range(30):
        seen.update((int(frame[0, 0]), int(frame[0, 1])) for frame in first(number).frames[:, -1])
    assert len(seen) == PLAY.steps == first.count
    assert max(seen.values()) - min(seen.values()) <= 3  # 3.6 times on average


@pytest.mark.parametrize("shares", [None, [1.0, 1.0], [0.9, 0.1], [1.0, 0.0]])
def test_each_batch_holds_the_games_in_their_shares(shares):
    windows = Windows(PLAY, 7, 0, shares)
    whole = np.array([36, 31]) if shares is None else np.array(shares)
    wanted = 7 * whole[0] / whole.sum()
    counts = [sum(int(frame[0, 0]) in (1, 2, 5) for frame in windows(number).frames[:, -1]) for number in range(60)]
    assert set(counts) <= {math.floor(wanted), math.ceil(wanted)}
    assert np.mean(counts) == pytest.approx(wanted, abs=0.2)


def test_a_part_of_the_play_is_the_same_windows_always():
    windows = Windows(PLAY, 4, 3, part=0.1)
    assert windows.count == 4 + 4
    assert steps_of(windows) == steps_of(Windows(PLAY, 9, 3, part=0.1)) != steps_of(Windows(PLAY, 4, 4, part=0.1))


def test_what_followed_is_seen_too_where_it_is_known():
    windows = Windows(PLAY, 1, 0, ahead=1)
    cut = {int(PLAY.starts[number] + PLAY.lengths[number] - 1) for number in (2, 4)}
    assert steps_of(windows) == [step for step in all_steps(PLAY) if step not in cut]
    batch = windows.at(np.array(steps_of(windows)))
    assert batch.frames.shape[1:] == (5, 84, 84) and batch.actions.shape[1] == 4
    for frames, last in zip(batch.frames, batch.last, strict=True):
        assert frames[4, 0, 0] == frames[3, 0, 0]
        assert last or frames[4, 0, 1] == frames[3, 0, 1] + 1
    assert batch.last.sum() == 3


def test_a_game_without_play_is_said():
    with pytest.raises(UserError, match="no play of Pong"):
        Windows(made((0, 5, True)), 4, 0, [1.0, 1.0])
