"""How well agents play over games: their scores as parts of the way from random play to a person's, in one figure, the interquartile mean
(Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice"), with intervals from a bootstrap whose strata are the games, and
agents beside each other. Every game counts the same, however many episodes of it were played. What scores are measured by is in `games`."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from almanac.multigame_dt import games
from almanac.multigame_dt.games import Game
from almanac.runtime.errors import UserError

TRIMMED = 0.25
"""Of the lowest and of the highest scores, which an interquartile mean leaves out."""
DRAWS = 10_000
"""Of a bootstrap: its ends then differ from seed to seed by a hundredth of the interval's width or so."""
_COVERED = (2.5, 97.5)
"""Percentiles at which an interval ends."""
_AT_ONCE = 1_000_000
"""Episodes that are drawn before figures are made of them."""
_AFFORDABLE = 50_000_000
"""Episodes that a bootstrap draws in all, in some seconds. Of more than 5,000 episodes there are fewer draws, but a thousand at least."""
_SLACK = 1e-9
"""By which sums of weights are off, at most."""
_LISTED = 5
"""Names in an error, at most."""

Values = Float64[np.ndarray, " _"]
"""One number an episode; games may have different numbers of them."""
Scores = Mapping[str, Sequence[float] | Values]
"""An agent's: every episode's score as the game counts it, by the game's name in the paper."""
Draws = Float64[np.ndarray, "draws episodes"]


@dataclass(frozen=True)
class Interval:
    """A figure, and between which it would come to lie in 95 of 100 repetitions; nan where a single episode says nothing of that."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """An agent over games; its figures are in the normalised scores' unit."""

    iqm: Interval
    """Interquartile mean over all episodes, each weighing as much as makes its game count the same as others."""
    mean: Interval
    """Of the games' means: games with thousands of percent rule it."""
    median: Interval
    """Of the games' means."""
    optimality_gap: Interval
    """By how much episodes fall short of 1 on average; what is above 1 makes up for nothing."""
    games: int
    episodes: int
    resampled: str
    """What the intervals let vary: `episodes` of each game; the `games` where none has two episodes; `nothing` where there's one in all."""


@dataclass(frozen=True)
class Comparison:
    """One agent beside another, over the games that both have played."""

    improvement: Interval
    """Probability that an episode of the one scores more than one of the other's, its mean over games; a tie is half."""
    difference: Interval | None
    """Of the interquartile means of human-normalised scores; None where no such game is among them."""
    won: int
    """Games in which the one's mean is higher."""
    tied: int
    games: int

    @property
    def share_won(self) -> float:
        """Of games, a tie being half a game."""
        return (self.won + self.tied / 2) / self.games


def score(path: Path, seed: int = 0) -> dict[str, Any]:
    """The scores in a CSV file in one figure: `almanac multigame-dt score`.

    Args:
        path: columns `game`, `score` and, where there are several, `agent`; a row an episode, in any order. Other columns don't matter.
        seed: of the intervals.

    Returns:
        of one agent: the columns of `summary_row`, `excluded` (games that human-normalised figures leave out, and why) and `rows`, one a
        game (`game_rows`). Of several: `agents`, such facts of each and which games it is `lacking` that others played, and `pairs`, each
        beside each (`pair_row`).

    Raises:
        UserError: the file can't be read, has other columns, no rows, a game that isn't known, a score that is no number, or none that
            can be normalised.
    """
    agents = _read(path)
    found = {name: _facts(scores, seed, f"{path}" + (f" ({name})" if name else "")) for name, scores in agents.items()}
    if len(found) == 1:
        ((name, facts),) = found.items()
        return ({"agent": name} if name else {}) | facts
    played = sorted({game for scores in agents.values() for game in scores})
    for name, facts in found.items():
        facts["lacking"] = [game for game in played if game not in agents[name]]
    pairs = [
        {"agent": one, "other": other, **pair_row(agents[one], agents[other], seed)}
        for one, other in combinations(agents, 2)
        if agents[one].keys() & agents[other].keys()
    ]
    return {"agents": found, "pairs": pairs}


def told(found: Mapping[str, Any]) -> str:
    """What `score` found, as a person reads it.

    Args:
        found: of `score`.
    """
    if "agents" not in found:
        return _told(found, found.get("agent", ""))
    lines = [_told(facts, name) for name, facts in found["agents"].items()]
    for pair in found["pairs"]:
        said = f"{pair['agent']} against {pair['other']}: the higher mean in {pair['won']} of {_counted(pair['games'], 'game')}"
        sure = _between(pair["improvement_low"], pair["improvement_high"])
        lines.append(f"{said}, and the better of two episodes in {pair['improvement']:.0%} of cases{sure}")
    return "\n".join(lines)


def _told(facts: Mapping[str, Any], name: str) -> str:
    varied = {"episodes": "", "games": ", over games: none has two episodes", "nothing": ", of a single episode"}
    sure = _between(facts["low"], facts["high"]) + varied[facts["intervals"]]
    lines = [f"{name + ': ' if name else ''}{facts['iqm']:.1%} of a person's score{sure}"]
    lines.append(
        f"  interquartile mean of {_counted(facts['games'], 'game')}, {_counted(facts['episodes'], 'episode')}"
    )
    if facts["intervals"] == "episodes" and facts["single"]:
        lines.append(f"  of {facts['single']} of them there is one episode only, which the interval takes as certain")
    lines += [f"  without {row['game']}: {row['why']}" for row in facts["excluded"]]
    lines += [f"  {game} was not played" for game in facts.get("lacking", [])]
    return "\n".join(lines)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.1%} to {high:.1%})"


def summary_row(scores: Scores, seed: int = 0) -> dict[str, Any]:
    """An agent's figures as columns, each None where it can't be told: `iqm` with `low` and `high` (human-normalised: 0 is random play, 1 a
    person), `mean`, `median` and `optimality_gap`; `dqn_iqm`, `dqn_low`, `dqn_high` (1 is Dopamine's DQN); how many `games` and `episodes`
    `iqm` is of, how many games among them have a `single` episode, and what `intervals` let vary (`Summary.resampled`).

    Args:
        scores: the agent's.
        seed: of the intervals.
    """
    human, dqn = (normalised(scores, by) for by in (games.human_normalised, games.dqn_normalised))
    found, beside = (summary(runs, seed) if runs else None for runs in (human, dqn))
    return {
        **_columns_of(found and found.iqm, "iqm", "low", "high"),
        "mean": found and found.mean.value,
        "median": found and found.median.value,
        "optimality_gap": found and found.optimality_gap.value,
        **_columns_of(beside and beside.iqm, "dqn_iqm", "dqn_low", "dqn_high"),
        "games": found.games if found else 0,
        "episodes": found.episodes if found else 0,
        "single": sum(len(values) == 1 for values in human.values()),
        "intervals": found and found.resampled,
    }


def game_rows(scores: Scores) -> list[dict[str, Any]]:
    """An agent's games: `game`, `episodes`, the `mean` score with its standard error `sem` (None of one episode), the `median`, and of the
    mean the part of the way to a person's (`human`) and to DQN's (`dqn`); None where no such score was published.

    Args:
        scores: the agent's.
    """
    rows = []
    for name in sorted(scores):
        game, values = games.named(name), np.asarray(scores[name], float)
        mean = float(values.mean())
        rows.append(
            {
                "game": game.name,
                "episodes": len(values),
                "mean": mean,
                "sem": float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None,
                "median": float(np.median(values)),
                "human": games.human_normalised(game, mean),
                "dqn": games.dqn_normalised(game, mean),
            }
        )
    return rows


def pair_row(one: Scores, other: Scores, seed: int = 0) -> dict[str, Any]:
    """`compare` as columns: `improvement`, `improvement_low`, `improvement_high`, `won`, `tied`, `games`, `share_won`, and `difference`,
    `difference_low`, `difference_high`.

    Args:
        one: an agent's.
        other: another's.
        seed: of the intervals.
    """
    found = compare(one, other, seed)
    return {
        **_columns_of(found.improvement, "improvement", "improvement_low", "improvement_high"),
        "won": found.won,
        "tied": found.tied,
        "games": found.games,
        "share_won": found.share_won,
        **_columns_of(found.difference, "difference", "difference_low", "difference_high"),
    }


def _columns_of(found: Interval | None, value: str, low: str, high: str) -> dict[str, float | None]:
    if found is None:
        return dict.fromkeys((value, low, high))
    unsure = math.isnan(found.low)
    return {value: found.value, low: None if unsure else found.low, high: None if unsure else found.high}


def excluded(scores: Scores) -> list[dict[str, str]]:
    """The games that human-normalised figures leave out, as `game` and `why`."""
    out = [name for name in sorted(scores) if games.human_normalised(games.named(name), 0.0) is None]
    return [{"game": name, "why": "no person's score was published"} for name in out]


def normalised(scores: Scores, by: Callable[[Game, float], float | None]) -> dict[str, Values]:
    """Scores as parts of the way from random play to a reference, of the games that have one.

    Args:
        scores: an agent's.
        by: `games.human_normalised` or `games.dqn_normalised`.
    """
    found = {}
    for name, values in scores.items():
        parts = [by(games.named(name), float(value)) for value in values]
        if all(part is not None for part in parts):
            found[name] = np.array(parts, np.float64)
    return found


def summary(runs: Mapping[str, Float[np.ndarray, " _"]], seed: int = 0, draws: int = DRAWS) -> Summary:
    """An agent's figures with their intervals: percentiles of a bootstrap that draws each game's episodes anew.

    Args:
        runs: normalised scores by game, one an episode; games may have different numbers of them.
        seed: of the bootstrap; the order of games and of episodes doesn't matter.
        draws: of the bootstrap.
    """
    split = _Split.of(runs, _resampled(list(runs.values()), len(runs)))
    draws = _affordable(draws, len(split.values))
    figures = (split.iqm, split.mean, split.median, split.optimality_gap)
    within = [np.concatenate(parts) for parts in zip(*_bootstrapped(split, figures, seed, draws), strict=True)]
    iqm, mean, median, gap = (
        _interval(figure(split.values[None])[0], drawn, split.resampled)
        for figure, drawn in zip(figures, within, strict=True)
    )
    return Summary(iqm, mean, median, gap, len(split.counts), len(split.values), split.resampled)


def compare(one: Scores, other: Scores, seed: int = 0, draws: int = DRAWS) -> Comparison:
    """One agent beside another. Games without a person's score count too, but for the difference of interquartile means.

    Args:
        one: an agent's scores.
        other: another's.
        seed: of the intervals.
        draws: of the bootstrap, which draws both agents' episodes on their own.

    Raises:
        UserError: there is no game that both played.
    """
    both = sorted(one.keys() & other.keys())
    if not both:
        what = f"no game was played by both agents: {_some(one)} and {_some(other)}"
        raise UserError(what, "compare agents on the same games")
    ours, theirs = ({game: np.sort(np.asarray(each[game], float)) for game in both} for each in (one, other))
    draws = _affordable(draws, sum(map(len, (*ours.values(), *theirs.values()))))
    random = np.random.default_rng((seed, 1))
    chances, drawn = [], []
    for game in both:
        better = (ours[game][:, None] > theirs[game]) + 0.5 * (ours[game][:, None] == theirs[game])
        chances.append(better.mean())
        drawn.append(_redrawn(better, draws, random))
    resampled = _resampled([*ours.values(), *theirs.values()], len(both))
    if resampled == "games":
        drawn = np.array(chances)[random.integers(len(both), size=(len(both), draws))]
    gaps = [ours[game].mean() - theirs[game].mean() for game in both]
    return Comparison(
        _interval(np.array(chances).mean(), np.array(drawn).mean(0), resampled),
        _difference(ours, theirs, seed, draws),
        sum(bool(gap > 0) for gap in gaps),
        sum(bool(gap == 0) for gap in gaps),
        len(both),
    )


def _redrawn(
    better: Float64[np.ndarray, "ours theirs"], draws: int, random: np.random.Generator
) -> Float64[np.ndarray, " draws"]:
    """Means of a table whose rows and columns are drawn anew."""
    found, at_once = [], max(1, _AT_ONCE // sum(better.shape))
    for start in range(0, draws, at_once):
        mine, yours = (_weights(size, min(at_once, draws - start), random) for size in better.shape)
        found.append(((mine @ better) * yours).sum(1))
    return np.concatenate(found)


def _weights(count: int, draws: int, random: np.random.Generator) -> Draws:
    """How often each of so many is drawn, as parts of 1."""
    return random.multinomial(count, np.full(count, 1.0 / count), draws) / count


def _difference(one: Mapping[str, Values], other: Mapping[str, Values], seed: int, draws: int) -> Interval | None:
    runs = [normalised(each, games.human_normalised) for each in (one, other)]
    if not runs[0]:
        return None
    resampled = _resampled([values for each in runs for values in each.values()], len(runs[0]))
    value, drawn = [], []
    for number, each in enumerate(runs):
        split = _Split.of(each, resampled)
        value.append(split.iqm(split.values[None])[0])
        own = seed if resampled == "games" else seed + number  # the same games of both
        drawn.append(np.concatenate([part for (part,) in _bootstrapped(split, (split.iqm,), own, draws)]))
    return _interval(value[0] - value[1], drawn[0] - drawn[1], resampled)


def _affordable(draws: int, episodes: int) -> int:
    return min(draws, max(1_000, _AFFORDABLE // episodes))


def _resampled(episodes: Sequence[Values], count: int) -> str:
    """What can vary, of so many games."""
    if max(map(len, episodes)) > 1:
        return "episodes"
    return "games" if count > 1 else "nothing"


@dataclass(frozen=True)
class _Split:
    """Episodes in one line, and which are whose: games in the alphabet's order, a game's episodes in that of their scores."""

    values: Values
    counts: tuple[int, ...]
    """Episodes of each game."""
    resampled: str

    @staticmethod
    def of(runs: Mapping[str, Float[np.ndarray, " _"]], resampled: str) -> "_Split":
        parts = [np.sort(np.asarray(runs[game], np.float64)) for game in sorted(runs)]
        return _Split(np.concatenate(parts), tuple(map(len, parts)), resampled)

    def weights(self) -> Values:
        """Of each episode, so that all games weigh the same, and together 1."""
        return np.repeat(1.0 / (len(self.counts) * np.array(self.counts, float)), self.counts)

    def iqm(self, drawn: Draws) -> Float64[np.ndarray, " draws"]:
        """A quarter of the weight is cut at both ends, in whole episodes as SciPy's `trim_mean` does, and the mean taken of the rest."""
        order = np.argsort(drawn, 1)
        ordered, weights = np.take_along_axis(drawn, order, 1), self.weights()[order]
        below = np.cumsum(weights, 1)
        above = 1.0 - below + weights
        kept = np.where((below > TRIMMED + _SLACK) & (above > TRIMMED + _SLACK), weights, 0.0)
        return (kept * ordered).sum(1) / kept.sum(1)

    def mean(self, drawn: Draws) -> Float64[np.ndarray, " draws"]:
        return self._means(drawn).mean(1)

    def median(self, drawn: Draws) -> Float64[np.ndarray, " draws"]:
        return np.median(self._means(drawn), 1)

    def optimality_gap(self, drawn: Draws) -> Float64[np.ndarray, " draws"]:
        return 1.0 - self._means(np.minimum(drawn, 1.0)).mean(1)

    def _means(self, drawn: Draws) -> Float64[np.ndarray, "draws games"]:
        counts = np.array(self.counts)
        return np.add.reduceat(drawn, np.cumsum(counts) - counts, 1) / counts

    def draw(self, count: int, random: np.random.Generator) -> Draws:
        """Each game's episodes drawn from themselves with replacement; where none has two, the games."""
        counts = np.array(self.counts) if self.resampled == "episodes" else np.array([len(self.values)])
        starts, width = np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)
        return self.values[starts + (random.random((count, len(width))) * width).astype(int)]


def _bootstrapped(
    split: _Split, figures: Sequence[Callable[[Draws], Values]], seed: int, draws: int
) -> list[list[Values]]:
    """Figures of draws, some draws at a time."""
    random, found, at_once = np.random.default_rng(seed), [], max(1, _AT_ONCE // len(split.values))
    for start in range(0, draws, at_once):
        drawn = split.draw(min(at_once, draws - start), random)
        found.append([figure(drawn) for figure in figures])
    return found


def _interval(value: float | np.floating, drawn: Values, resampled: str = "episodes") -> Interval:
    low, high = (math.nan, math.nan) if resampled == "nothing" else np.percentile(drawn, _COVERED)
    return Interval(float(value), float(low), float(high))


def _facts(scores: Scores, seed: int, whose: str) -> dict[str, Any]:
    facts = summary_row(scores, seed)
    if not facts["games"]:
        what = f"no score in {whose} can be normalised: there is no person's of {_some(scores)}"
        raise UserError(what, "human-normalised scores need at least one of the 44 games for which one was published")
    return {**facts, "excluded": excluded(scores), "rows": game_rows(scores)}


def _read(path: Path) -> dict[str, dict[str, list[float]]]:
    """Scores by agent and game; the agent is empty where the file has no such column."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    agents: dict[str, dict[str, list[float]]] = {}
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        at = _columns(path, header)
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            where = f"line {reader.line_num} of {path}"
            if len(row) != len(header):
                what = f"{where} has {len(row)} fields, its header {len(header)}"
                raise UserError(what, "give every row each column")
            agent = row[at["agent"]].strip() if "agent" in at else ""
            if "agent" in at and not agent:
                raise UserError(f"{where} names no agent", "name the agent of each row, or leave the column out")
            game = _game(row[at["game"]], where)
            agents.setdefault(agent, {}).setdefault(game.name, []).append(_number(row[at["score"]], where, game))
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file: line {reader.line_num}: {error}", _COLUMNS) from None
    if not agents:
        raise UserError(f"{path} holds no scores", _COLUMNS)
    return agents


_COLUMNS = "give a CSV file with the columns game, score and, where there are several, agent; a row an episode"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}", _COLUMNS) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}", _COLUMNS
        ) from None


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    if not header:
        raise UserError(f"{path} is empty", _COLUMNS)
    missing = [name for name in ("game", "score") if name not in header]
    if missing:
        raise UserError(
            f"{path} has no column {' and no column '.join(missing)}: its header is {','.join(header)}", _COLUMNS
        )
    twice = [name for name in ("game", "score", "agent") if header.count(name) > 1]
    if twice:
        raise UserError(f"{path} has the column {twice[0]} {header.count(twice[0])} times", _COLUMNS)
    return {name: header.index(name) for name in ("game", "score", "agent") if name in header}


def _game(text: str, where: str) -> Game:
    if not text.strip():
        raise UserError(f"{where} names no game", "name a game of the paper in each row, such as MsPacman")
    try:
        return games.named(text)
    except UserError as error:
        raise UserError(f"{where}: {error.what}", error.hint) from None


def _number(text: str, where: str, game: Game) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = f"{where}: the score of {game.name} is no finite number: {text.strip() or 'nothing'}"
        raise UserError(what, "leave out episodes that have no score, and write numbers as 1234.5")
    return value


def _some(names: Mapping[str, Any]) -> str:
    listed = sorted(names)[:_LISTED]
    return ", ".join(listed) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
