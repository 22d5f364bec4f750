"""Evaluations: each cell is played once, whatever happens in between; tables hold what was asked for, beside the paper's numbers; and
models that don't belong into a table are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from almanac.multigame_dt import cells, cql, evaluate, figures, games, logs, published
from almanac.multigame_dt.cells import Entrant, Protocol, Setting
from almanac.multigame_dt.evaluate import Asked
from almanac.multigame_dt.logs import Episode
from almanac.multigame_dt.model import DecisionTransformer, Dimensions
from almanac.multigame_dt.play import Random
from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError

PLAYED = [games.named(name) for name in ("Boxing", "Carnival")]
SHORT = Protocol(episodes=2, cap=6)


class _Counted:
    """Who plays at random and counts how often it was asked to; after `limit` times it is killed."""

    def __init__(self, name="counted", limit=100):
        self.made, self.limit = 0, limit
        self.entrant = Entrant(name, cells.RANDOM, self._make, name, {})

    def _make(self, lanes):
        self.made += 1
        if self.made > self.limit:
            raise KeyboardInterrupt
        return Random(lanes)


def test_a_cell_is_played_once_and_a_new_agent_plays_alone(tmp_path):
    one, other = _Counted(), _Counted("other")
    first = cells.measure([one.entrant], PLAYED, SHORT, tmp_path)
    assert (one.made, len(list(tmp_path.iterdir()))) == (2, 2)
    second = cells.measure([one.entrant, other.entrant], PLAYED, SHORT, tmp_path)
    assert (one.made, other.made) == (2, 2)
    assert second["counted"] == first["counted"]
    assert {game: len(values) for game, values in first["counted"].items()} == {game.name: 2 for game in PLAYED}


def test_an_evaluation_that_was_killed_goes_on_and_comes_to_the_same(tmp_path):
    killed, again, whole = _Counted(limit=1), _Counted(), _Counted()
    with pytest.raises(KeyboardInterrupt):
        cells.measure([killed.entrant], PLAYED, SHORT, tmp_path / "killed")
    found = cells.measure([again.entrant], PLAYED, SHORT, tmp_path / "killed")
    assert again.made == 1
    assert found == cells.measure([whole.entrant], PLAYED, SHORT, tmp_path / "whole")


def test_games_that_are_played_together_come_to_the_same(tmp_path):
    alone, together = _Counted(), _Counted()
    apart = cells.measure([alone.entrant], PLAYED, SHORT, tmp_path / "apart", Setting(lanes=1))
    assert apart == cells.measure([together.entrant], PLAYED, SHORT, tmp_path / "together", Setting(together=2))
    assert (alone.made, together.made) == (2, 1)


def test_what_would_be_played_otherwise_is_played_anew_and_damage_is_noticed(tmp_path):
    counted = _Counted()
    boxing = PLAYED[:1]
    cells.measure([counted.entrant], boxing, SHORT, tmp_path)
    (kept,) = tmp_path.iterdir()
    others = [replace(SHORT, noops=0), replace(SHORT, sticky=0.25), replace(SHORT, seed=1), replace(SHORT, episodes=3)]
    for number, protocol in enumerate(others):
        cells.measure([counted.entrant], boxing, protocol, tmp_path)
        assert counted.made == number + 2, protocol
    cells.measure([replace(counted.entrant, identity="other weights")], boxing, SHORT, tmp_path)
    assert counted.made == 6
    kept.write_bytes(kept.read_bytes()[:-20])
    cells.measure([counted.entrant], boxing, SHORT, tmp_path)
    assert counted.made == 7


def test_a_specialists_best_is_the_last_of_its_steps_and_no_one_elses():
    boxing, random = PLAYED[0], np.random.default_rng(0)
    lengths = random.integers(10, 200, 60)
    episodes = [
        Episode(boxing, bytes(int(length)), float(number), agent="ppo", quality=(number + 1) / 60)
        for number, length in enumerate(lengths)
    ]
    others = [Episode(boxing, bytes(50), -1.0, agent="random"), Episode(PLAYED[1], bytes(50), -1.0, agent="ppo")]
    mixed = [*episodes, *others]
    random.shuffle(mixed)
    found = evaluate.of_logs(mixed, [boxing], "ppo", 0.05)
    assert list(found) == ["Boxing"]
    assert sorted(found["Boxing"]) == [float(number) for number in range(60 - len(found["Boxing"]), 60)]
    steps = lengths[-len(found["Boxing"]) :]
    assert steps[1:].sum() < 0.05 * lengths.sum() <= steps.sum()
    assert len(evaluate.of_logs(mixed, PLAYED)["Boxing"]) == 61


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models of each kind."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    known = {"games": [game.name for game in PLAYED], "nll": {"actions": 2.5}}
    for name, shape in {
        "small": Dimensions(64, 1, 1),
        "large": Dimensions(128, 1, 2),
        "cloned": Dimensions(64, 1, 1, False),
    }.items():
        published.save(folder / name / "model.safetensors", DecisionTransformer(shape), known)
    network = cql.QNetwork(cql.Shape(8, 5, 16))
    facts = {"system": "multigame_dt", "model": "cql", "shape": {"channels": 8, "stages": 5, "hidden": 16}, **known}
    checkpoint.save_weights(folder / "valued.safetensors", network.state_dict(), facts)
    for name in ("tuned", "scratch"):
        path = folder / f"{name}-pong.safetensors"
        published.save(path, DecisionTransformer(Dimensions(64, 1, 1)), {"games": ["Pong"]})
    return folder


@pytest.fixture(scope="module")
def tables(models, tmp_path_factory):
    """All that can be measured of them."""
    several = [models / name / "model.safetensors" for name in ("small", "large", "cloned")]
    tuned, scratch = ((models / f"{name}-pong.safetensors",) for name in ("tuned", "scratch"))
    asked = Asked((*several, models / "valued.safetensors"), tuned, scratch)
    return evaluate.evaluate(asked, Protocol(episodes=1, cap=2), tmp_path_factory.mktemp("cells"))


def test_the_papers_numbers_stand_beside_the_largest_of_each_method_and_what_is_missing(tables):
    rows = {row["agent"]: row for row in tables["agents"]}
    paper = {name: row["paper"] for name, row in rows.items()}
    assert (paper["large"], paper["cloned"], paper["valued"]) == (1.26, 0.68, 0.38)
    assert paper["small"] is None and paper[cells.RANDOM] is None
    assert (paper[evaluate.SPECIALIST], paper[evaluate.SPECIALIST_OFFLINE], paper[evaluate.ONLINE]) == (
        1.44,
        1.35,
        0.66,
    )
    assert rows["large"]["parameters"] > rows["small"]["parameters"]
    assert (rows["large"]["kappa"], rows["cloned"]["kappa"], rows["large"]["action_nll"]) == (10.0, None, 2.5)


def test_games_without_a_persons_score_are_said_and_have_their_rows(tables):
    for row in tables["agents"]:
        if row.get("iqm") is not None:
            assert (row["games"], row["excluded"]) == (1, "Carnival")
    by_game = [row for row in tables["games"] if row["agent"] == "large"]
    assert {row["game"]: row["human"] is None for row in by_game} == {"Boxing": False, "Carnival": True}
    assert all(pair["games"] == 2 for pair in tables["pairs"])


def test_each_part_has_its_rows(tables):
    assert [row["kappa"] for row in tables["kappa"]] == list(evaluate.KAPPAS)
    ways = [(row["noops"], row["sticky"]) for row in tables["robustness"] if row["agent"] == "large"]
    assert ways == [(30, 0.0), (0, 0.0), (30, 0.25)]
    assert [(row["from"], row["games"]) for row in tables["held_out"]] == [("pre-trained", 1), ("scratch", 1)]
    (pair,) = tables["held_out_pairs"]
    assert pair["games"] == 1
    usual = next(row for row in tables["agents"] if row["agent"] == "large")
    swept = next(row for row in tables["kappa"] if row["kappa"] == 10)
    steady = next(row for row in tables["robustness"] if row["agent"] == "large" and row["how"] == "as measured")
    assert usual["iqm"] == swept["iqm"] == steady["iqm"]


def test_what_models_learnt_from_has_rows_of_its_own(models, tmp_path):
    boxing, pong = (games.named(name) for name in ("Boxing", "Pong"))
    episodes = [Episode(boxing, bytes(100), float(n), agent="ppo", quality=n / 9) for n in range(10)]
    logs.write(tmp_path / "log.jsonl.gz", [*episodes, Episode(pong, bytes(100), -21.0, agent="random")])
    together = [Episode(boxing, bytes(100), 6.1, agent="multi-game-ppo", quality=1.0)]
    logs.write(tmp_path / "together.jsonl.gz", together)
    network = checkpoint.load_weights(models / "valued.safetensors", "multigame_dt")
    checkpoint.save_weights(tmp_path / "alone.safetensors", network[0], {**network[1], "games": ["Boxing"]})
    asked = Asked(
        (models / "large" / "model.safetensors",),
        specialists=(tmp_path / "alone.safetensors",),
        logs=(tmp_path,),
        games=(boxing,),
        parts=("agents",),
    )
    found = evaluate.evaluate(asked, Protocol(episodes=1, cap=2), tmp_path / "cells")
    row, _ = found["logs"]
    known = {"game": "Boxing", "by": "ppo", "episodes": 10, "steps": 1000, "mean": 4.5, "best": 9.0, "at_the_end": 9.0}
    assert {name: row[name] for name in known} == known
    whole = (tmp_path / "log.jsonl.gz").stat().st_size
    assert row["bytes_per_step"] == pytest.approx(whole / 1100, rel=1e-4)
    said = {each["agent"]: each.get("iqm") for each in found["agents"]}
    wanted = {evaluate.DATA: 4.4 / 12, evaluate.SPECIALIST: 8.9 / 12, evaluate.ONLINE: 0.5}
    assert {name: said[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert said[evaluate.SPECIALIST_OFFLINE] is not None
    with pytest.raises(UserError, match="specialists of CQL"):
        wrong = replace(asked, specialists=(models / "tuned-pong.safetensors",))
        evaluate.evaluate(wrong, Protocol(episodes=1, cap=2), tmp_path / "cells")


def test_models_that_do_not_belong_into_a_table_are_refused(models, tmp_path):
    small = models / "small" / "model.safetensors"
    wrong = {
        "no model to be measured": Asked(),
        "was not trained on Pong": Asked((small,), games=(games.named("Pong"),)),
        "two models are called small": Asked((small, small)),
        "was trained on 2 games": Asked(tuned=(small,)),
        "is the second decision transformer": Asked(tuned=(models / "tuned-pong.safetensors",) * 2),
    }
    for said, asked in wrong.items():
        with pytest.raises(UserError, match=said):
            evaluate.evaluate(asked, Protocol(episodes=1, cap=1), tmp_path)


def test_pictures_are_drawn_of_what_there_is(tables, models, tmp_path):
    drawn = evaluate.draw(tables, SHORT, tmp_path)
    assert [path.name for path in drawn] == ["agents.png", "scaling.png"]
    fewer = evaluate.draw({"agents": tables["agents"]}, SHORT, tmp_path / "fewer")
    step = evaluate.one_step(models / "large" / "model.safetensors", games.named("Boxing"))
    assert step.points[-1] != 0
    assert step.frames.shape == (4, 84, 84)
    assert step.returns.sum() == pytest.approx(1) and step.tilted.sum() == pytest.approx(1)
    assert step.tilted[step.target + 20] > 0 and step.likely_actions[step.actions[-1]] > 0
    picture = figures.draw_step(step, tmp_path / "step.png")
    for path in (*drawn, *fewer, picture):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert evaluate.draw({}, SHORT, tmp_path / "none") == []
