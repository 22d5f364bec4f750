"""Figures over games: equal to SciPy's and to a slow reading of their definition, in any order; intervals that cover; comparisons; and what
is said of files that hold no scores."""

import math

import numpy as np
import pytest
from scipy import stats

from almanac.multigame_dt import games, scores
from almanac.runtime.errors import UserError

PLAYED = ("Alien", "Boxing", "Breakout", "Pong", "Qbert")


@pytest.mark.parametrize(("count", "episodes"), [(1, 1), (3, 1), (39, 1), (41, 16), (5, 7), (2, 2)])
def test_the_interquartile_mean_of_evenly_played_games_is_scipys_trimmed_mean(count, episodes):
    runs = _runs([episodes] * count)
    found = scores.summary(runs, draws=10)
    everything = np.stack(list(runs.values()))
    assert found.iqm.value == pytest.approx(stats.trim_mean(everything, 0.25, axis=None), rel=1e-12)
    assert found.mean.value == pytest.approx(everything.mean(), rel=1e-12)
    assert found.median.value == pytest.approx(np.median(everything.mean(1)), rel=1e-12)
    assert found.optimality_gap.value == pytest.approx(1 - np.minimum(everything, 1).mean(), rel=1e-12)
    assert (found.games, found.episodes) == (count, count * episodes)


def test_a_game_counts_the_same_however_many_of_its_episodes_were_played():
    even, doubled = _runs([4] * 6), {}
    for number, (game, values) in enumerate(even.items()):
        doubled[game] = np.tile(values, 1 + number % 3)
    one, other = scores.summary(even, draws=10), scores.summary(doubled, draws=10)
    for figure in ("iqm", "mean", "median", "optimality_gap"):
        assert getattr(one, figure).value == pytest.approx(getattr(other, figure).value, rel=1e-12), figure


@pytest.mark.parametrize("counts", [(1, 2, 3), (16, 4, 7, 1), (1, 1, 9, 30)])
def test_the_interquartile_mean_of_unevenly_played_games_is_that_of_as_many_copies_as_make_them_even(counts):
    runs = _runs(counts)
    assert scores.summary(runs, draws=10).iqm.value == pytest.approx(_slow_iqm(runs), rel=1e-12)


def test_nothing_depends_on_the_order_of_games_and_episodes():
    runs, random = _runs((16, 4, 7, 1, 5)), np.random.default_rng(3)
    turned = {game: random.permutation(runs[game]) for game in reversed(runs)}
    assert scores.summary(runs, 1, 500) == scores.summary(turned, 1, 500)
    other = {game: values + 0.1 for game, values in runs.items()}
    raw, raw_turned, raw_other = (_as_games(each) for each in (runs, turned, other))
    assert scores.compare(raw, raw_other, 1, 500) == scores.compare(raw_turned, raw_other, 1, 500)


def test_intervals_are_those_of_a_bootstrap_that_draws_each_games_episodes_one_by_one():
    runs = _runs((16, 12, 16, 9, 16))
    found = scores.summary(runs, draws=4000)
    random, drawn = np.random.default_rng(7), []
    for _ in range(4000):
        parts = {game: random.choice(values, len(values)) for game, values in runs.items()}
        drawn.append(_slow_iqm(parts))
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert found.iqm.low == pytest.approx(low, abs=0.05 * (high - low))
    assert found.iqm.high == pytest.approx(high, abs=0.05 * (high - low))
    assert found.resampled == "episodes"


def test_an_interval_covers_what_many_more_episodes_come_to():
    random, covered = np.random.default_rng(11), 0
    means, spread = random.exponential(1, 12), random.uniform(0.2, 1, 12)
    truth = stats.trim_mean(random.normal(means, spread, (200_000, 12)), 0.25, axis=None)
    for seed in range(200):
        played = random.normal(means, spread, (16, 12))
        iqm = scores.summary({f"{game:02}": played[:, game] for game in range(12)}, seed, 300).iqm
        assert iqm.low <= iqm.value <= iqm.high
        covered += iqm.low <= truth <= iqm.high
    assert 0.88 <= covered / 200 <= 0.99


def test_of_single_episodes_the_interval_lets_the_games_vary_and_of_one_it_says_nothing():
    single = scores.summary(_runs([1] * 9), draws=500)
    assert single.resampled == "games"
    assert single.iqm.low < single.iqm.value < single.iqm.high
    alone = scores.summary(_runs([1]), draws=500)
    assert alone.resampled == "nothing"
    assert math.isnan(alone.iqm.low)


def test_the_same_seed_gives_the_same_interval_and_another_one_about_the_same():
    runs = _runs([16] * 8)
    one, same, other = (scores.summary(runs, seed).iqm for seed in (0, 0, 1))
    assert one == same
    assert one.low != other.low
    assert one.low == pytest.approx(other.low, abs=0.05 * (one.high - one.low))


def test_a_comparison_counts_pairs_of_episodes_with_ties_as_halves():
    ours = {"Alien": [1.0, 5.0, 5.0], "Boxing": [2.0], "Breakout": [3.0, 3.0]}
    theirs = {"Alien": [5.0, 0.0], "Boxing": [2.0], "Breakout": [4.0], "Pong": [1.0]}
    found = scores.compare(ours, theirs, draws=200)
    alien = np.mean([(a > b) + (a == b) / 2 for a in ours["Alien"] for b in theirs["Alien"]])
    assert found.improvement.value == pytest.approx((alien + 0.5 + 0.0) / 3, rel=1e-12)
    assert (found.won, found.tied, found.games) == (1, 1, 3)
    assert found.share_won == pytest.approx(0.5)
    turned = scores.compare(theirs, ours, draws=200)
    assert turned.improvement.value == pytest.approx(1 - found.improvement.value)
    assert turned.difference.value == pytest.approx(-found.difference.value)


def test_an_agent_beside_itself_is_no_better_and_beside_a_worse_one_it_is():
    random = np.random.default_rng(5)
    ours = {game: random.normal(50, 20, 16).tolist() for game in PLAYED}
    worse = {game: [value - 40 for value in values] for game, values in ours.items()}
    same = scores.compare(ours, ours)
    assert same.improvement.value == 0.5
    assert same.improvement.low < 0.5 < same.improvement.high
    assert same.difference.low < 0 < same.difference.high
    better = scores.compare(ours, worse)
    assert better.improvement.low > 0.5
    assert better.difference.low > 0
    assert better.share_won == 1


def test_games_without_a_persons_score_are_left_out_and_said(tmp_path):
    path = _file(tmp_path, "game,score", "Pong,14.6", "Carnival,4860", "Pooyan,0", "Pong,-20.7")
    found = scores.score(path)
    assert found["iqm"] == pytest.approx(0.5)
    assert (found["games"], found["episodes"]) == (1, 2)
    assert [row["game"] for row in found["excluded"]] == ["Carnival", "Pooyan"]
    assert "Carnival" in scores.told(found) and "Pooyan" in scores.told(found)
    rows = {row["game"]: row for row in found["rows"]}
    assert rows["Carnival"]["human"] is None
    assert rows["Carnival"]["dqn"] == pytest.approx(1.0)
    with pytest.raises(UserError, match=r"no score in .* can be normalised.*Carnival"):
        scores.score(_file(tmp_path, "game,score", "Carnival,4860"))


def test_a_file_of_scores_is_read_whatever_its_order_spelling_and_line_ends(tmp_path):
    rows = ["ms_pacman,6951.6", "MsPacman,307.3", "ALE/Pong-v5,14.6", "Boxing,12.1"]
    plain = scores.score(_file(tmp_path, "game,score", *rows))
    assert plain["games"] == 3
    assert plain["iqm"] == pytest.approx(1.0)  # half of MsPacman's half is cut
    turned = tmp_path / "turned.csv"
    told = ["\ufeffScore , note,GAME", *(f"{row.split(',')[1]},x,{row.split(',')[0]}" for row in reversed(rows))]
    turned.write_bytes("\r\n".join([*told, "", ""]).encode())
    assert scores.score(turned) == plain


def test_agents_of_a_file_are_told_apart_and_compared_and_what_one_did_not_play_is_said(tmp_path):
    lines = [f"{game},{at * 10 + number},a" for at, game in enumerate(PLAYED) for number in range(3)]
    lines += [f"{game},{at * 10 + 5},b" for at, game in enumerate(PLAYED[:-1])]
    found = scores.score(_file(tmp_path, "game,score,agent", *lines))
    assert list(found["agents"]) == ["a", "b"]
    assert found["agents"]["b"]["lacking"] == [PLAYED[-1]]
    (pair,) = found["pairs"]
    assert (pair["won"], pair["games"], pair["improvement"]) == (0, 4, 0.0)
    assert f"{PLAYED[-1]} was not played" in scores.told(found)
    alone = scores.score(_file(tmp_path, "game,score,agent", *lines[:15]))
    assert alone["agent"] == "a"
    assert alone["iqm"] == found["agents"]["a"]["iqm"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "is empty"),
        (["game,score"], "holds no scores"),
        (["name,points", "Pong,1"], "no column game and no column score"),
        (["game;score", "Pong;1"], "no column game"),
        (["game,score,score", "Pong,1,2"], "column score 2 times"),
        (["game,score", "Pong,1", "Pang,1"], "line 3 of .*no game of that name: Pang"),
        (["game,score", ",1"], "line 2 of .* names no game"),
        (["game,score", "Pong,"], "line 2 of .*Pong is no finite number: nothing"),
        (["game,score", "Pong,nan"], "no finite number: nan"),
        (["game,score", "Pong,-inf"], "no finite number: -inf"),
        (["game,score", 'Pong,"1,000"'], "no finite number: 1,000"),
        (["game,score", "Pong,1,2"], "line 2 of .* has 3 fields"),
        (["game,score,agent", "Pong,1,"], "names no agent"),
        (["game,score", 'Pong,"1'], "is no CSV file"),
    ],
)
def test_a_file_that_holds_no_scores_is_refused_by_what_is_wrong(tmp_path, lines, said):
    with pytest.raises(UserError, match=said):
        scores.score(_file(tmp_path, *lines))


def test_files_that_are_no_text_or_not_there_are_refused(tmp_path):
    picture = tmp_path / "picture.csv"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    for path in (picture, tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            scores.score(path)


def _runs(counts):
    random = np.random.default_rng(len(counts))
    return {f"{game:02}": random.normal(game, 1 + game, count) for game, count in enumerate(counts)}


def _slow_iqm(runs):
    """Of as many copies of each game's episodes as make all games equal; an episode's copies are cut together."""
    common = math.lcm(*map(len, runs.values()))
    weighed = sorted((value, common // len(values)) for values in runs.values() for value in values.tolist())
    total = common * len(runs)
    kept, below = [], 0
    for value, copies in weighed:
        below += copies
        if 4 * below > total and 4 * (total - below + copies) > total:
            kept += [value] * copies
    return sum(kept) / len(kept)


def _as_games(runs):
    names = list(games.all_games())
    return {names[int(game)]: values.tolist() for game, values in runs.items()}


def _file(folder, *lines):
    path = folder / "scores.csv"
    path.write_text("".join(line + "\n" for line in lines))
    return path
