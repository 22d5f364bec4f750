"""Games that are played: what happens doesn't hang on how many are played at once, or where; it replays from its log, and is told whole."""

import io
import zlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ale_py", reason="the Atari emulator is an extra")

from almanac.multigame_dt import logs, play, published, tour
from almanac.multigame_dt.emulator import Emulator
from almanac.multigame_dt.games import ACTIONS, named
from almanac.multigame_dt.model import DecisionTransformer, Dimensions
from almanac.multigame_dt.play import Chosen
from almanac.runtime import hub
from almanac.runtime.errors import UserError

BOXING, PONG, BREAKOUT = named("Boxing"), named("Pong"), named("Breakout")


class Reader:
    """A policy that does what the frame says, so that it plays the same wherever it sees the same; and it remembers all it is told."""

    def __init__(self, count: int):
        self.count = count
        self.told: list[tuple[str, object]] = []

    def reset(self, i: int, seed: int | None = None) -> None:
        self.told.append(("reset", i))

    def act(self, frames: np.ndarray, live: np.ndarray) -> Chosen:
        self.told.append(("act", (frames.copy(), live.copy())))
        return Chosen(np.array([zlib.crc32(frame.tobytes()) % ACTIONS for frame in frames], np.uint8))

    def observe(self, rewards: np.ndarray) -> None:
        self.told.append(("observe", rewards.copy()))


def test_what_was_played_comes_out_of_its_log_again(tmp_path):
    found = play.play_all(play.Random(3), [BOXING, BREAKOUT], 2, cap=250, seed=5)
    played = [each for game in found.values() for each in game]
    assert any(each.score != 0 for each in played) and len(played) == 4
    logs.write(tmp_path / "log.jsonl.gz", [each.episode("random", 0.0) for each in played])
    for each, episode in zip(played, logs.read(tmp_path / "log.jsonl.gz"), strict=True):
        replayed = logs.replay(episode)
        assert (episode.game, replayed.score, len(replayed.actions)) == (each.game, each.score, each.steps)
        assert replayed.over != each.capped


@pytest.mark.parametrize("lanes", [2, 7])
def test_it_does_not_matter_how_many_games_are_played_at_once(lanes):
    alone = play.play_all(Reader(1), [PONG, BOXING], 2, cap=60, seed=3)
    assert play.play_all(Reader(lanes), [PONG, BOXING], 2, cap=60, seed=3) == alone
    assert play.play(Reader(lanes), BOXING, 2, cap=60, seed=3) == alone["Boxing"], "nor which others"
    assert len(set(play.play(play.Random(lanes), PONG, 2, noops=0, cap=5))) == 2
    assert play.play(play.Random(lanes, 1), PONG, 2, cap=5) == play.play(play.Random(1, 2), PONG, 2, cap=5)


def test_it_does_not_matter_in_which_process_a_console_is():
    here = play.play_all(Reader(3), [PONG, BOXING], 2, cap=40, jpeg=True, sticky=0.25, in_processes=0)
    assert play.play_all(Reader(3), [PONG, BOXING], 2, cap=40, jpeg=True, sticky=0.25, in_processes=2) == here


def test_noops_are_drawn_for_each_episode_from_none_to_the_most():
    drawn = [[each.noops for each in play.play(play.Random(4), PONG, 8, noops=2, cap=1, seed=seed)] for seed in (0, 1)]
    assert set(drawn[0]) == set(drawn[1]) == {0, 1, 2}
    assert drawn[0] != drawn[1]
    assert {each.noops for each in play.play(play.Random(2), PONG, 2, noops=0, cap=1)} == {0}


def test_the_policy_first_sees_what_the_console_shows_after_the_noops():
    policy = Reader(1)
    (played,) = play.play(policy, BOXING, 1, noops=30, cap=3)
    console = Emulator(BOXING)
    console.start(played.noops)
    frames = [said[0][0] for what, said in policy.told if what == "act"]
    for frame, action in zip(frames, played.actions, strict=True):
        assert np.array_equal(frame, console.frame())
        console.step(action)


def test_each_episode_is_told_from_its_reset_to_its_last_reward():
    policy = Reader(3)
    played = play.play(policy, BOXING, 5, cap=70)
    begun: list[int | None] = [None] * policy.count
    won, ended = [0.0] * policy.count, []
    calls = [what for what, _ in policy.told]
    assert all(b != "act" for a, b in pairwise(calls) if a == "act"), "what is done is observed before more is"
    live = np.zeros(policy.count, bool)
    for what, said in policy.told:
        if what == "act":
            _, now = said
            assert all(begun[lane] is not None for lane in np.flatnonzero(now)), "no lane acts before its reset"
            live = now
        elif what == "observe":
            for lane in np.flatnonzero(live):
                won[lane] += said[lane]
        else:
            if begun[said] is not None:
                ended.append(won[said])
            begun[said], won[said] = said, 0.0
    ended += [total for lane, total in enumerate(won) if begun[lane] is not None]
    noop_points = 0.0  # Boxing gives none
    assert sorted(ended) == sorted(each.score - noop_points for each in played)
    assert calls.count("reset") == 5
    assert sum(each.steps for each in played) == sum(int(said[1].sum()) for what, said in policy.told if what == "act")


def test_a_game_is_cut_off_at_the_cap_and_says_so():
    capped = play.play(play.Random(2), BREAKOUT, 2, cap=20)
    whole = play.play(play.Random(2), BREAKOUT, 2)
    assert [(each.capped, each.steps) for each in capped] == [(True, 20)] * 2
    for each in whole:
        assert not each.capped and each.steps == len(each.actions) > 20
        console = Emulator(BREAKOUT)
        console.start(each.noops)
        for at, action in enumerate(each.actions):
            assert not console.over, f"over at step {at} of {each.steps}"
            console.step(action)
        assert console.over


def test_frames_are_what_an_encoder_of_ones_own_makes_of_them():
    policy, plain = Reader(1), Reader(1)
    for each, jpeg in ((policy, True), (plain, False)):
        play.play(each, BREAKOUT, 1, noops=0, cap=1, jpeg=jpeg)
    (seen, _), (frame, _) = (next(said for what, said in each.told if what == "act") for each in (policy, plain))
    packed = io.BytesIO()
    Image.fromarray(frame[0]).save(packed, "JPEG", quality=95)
    assert np.array_equal(seen[0], np.asarray(Image.open(packed)))
    assert 0 < np.abs(seen[0].astype(int) - frame[0]).max() < 16


def test_sticky_actions_change_play_and_can_not_be_logged():
    straight, sticky = (play.play(Reader(1), BOXING, 1, noops=0, cap=60, sticky=each)[0] for each in (0.0, 0.25))
    assert straight.actions != sticky.actions
    assert play.play(Reader(1), BOXING, 1, noops=0, cap=60, sticky=0.25)[0] == sticky, "but in the same way"
    with pytest.raises(UserError, match="sticky"):
        sticky.episode("reader")


def test_random_play_chooses_each_action_as_often():
    blind, live = np.zeros((500, 84, 84), np.uint8), np.ones(500, bool)
    chosen = np.concatenate([play.Random(500, seed).act(blind, live).actions for seed in range(40)])
    counts = np.bincount(chosen, minlength=ACTIONS)
    expected = len(chosen) / ACTIONS
    assert ((counts - expected) ** 2 / expected).sum() < 40.8  # χ² of 17 degrees, p = 0.001
    assert set(play.Random(500, 0, [0, 3]).act(blind, live).actions) == {0, 3}


def test_the_tour_is_played_by_the_largest_agent_that_ships_and_says_so_where_none_does(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path)
    monkeypatch.setattr(tour, "STEPS", 20)
    with pytest.raises(UserError, match="no decision transformer ships"):
        tour.run(tmp_path / "out")
    about = {"games": ["Boxing", "Breakout"]}
    for name, shape in {"small": (16, 1, 1), "large": (32, 1, 1), "cloning": (64, 1, 1, False)}.items():
        torch.manual_seed(0)
        model = DecisionTransformer(Dimensions(*shape))
        published.save(tmp_path / "multigame_dt" / f"{name}.safetensors", model, about)
    section = tour.run(tmp_path / "out")
    large = sum(each.numel() for each in DecisionTransformer(Dimensions(32, 1, 1)).parameters())
    assert f"{large / 1e6:.3g} million parameters" in section.sentence and "played 2 of them" in section.sentence
    assert [(row["game"], row["steps"], row["cut off"]) for row in section.rows] == [
        ("Boxing", 20, 2),
        ("Breakout", 20, 2),
    ]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path, _ in section.figures)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"noops": -1}, "noops is -1"),
        ({"sticky": 1.5}, "sticky is 1.5"),
        ({"cap": 27_001}, "cap is 27001"),
    ],
)
def test_what_can_not_be_played_is_said(wrong, said):
    with pytest.raises(UserError, match=said):
        play.play(play.Random(1), PONG, **{"episodes": 1, **wrong})
    with pytest.raises(UserError, match="same"):
        play.play_all(play.Random(1), [PONG, PONG], 1)
