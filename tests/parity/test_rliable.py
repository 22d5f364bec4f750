"""Figures over games against rliable's (Agarwal et al. 2021), whose arrays hold the same number of runs of each game."""

import numpy as np
import pytest

from almanac.multigame_dt import games, scores

metrics = pytest.importorskip("rliable.metrics")


@pytest.mark.parametrize(("episodes", "count"), [(1, 39), (16, 41), (7, 5), (3, 3)])
def test_summaries_are_rliables(episodes, count):
    random = np.random.default_rng(count)
    runs = random.normal(1, 1, (episodes, count)) * random.exponential(1, count)
    found = scores.summary({f"{game:02}": runs[:, game] for game in range(count)}, draws=10)
    assert found.iqm.value == pytest.approx(metrics.aggregate_iqm(runs), rel=1e-12)
    assert found.mean.value == pytest.approx(metrics.aggregate_mean(runs), rel=1e-12)
    assert found.median.value == pytest.approx(metrics.aggregate_median(runs), rel=1e-12)
    assert found.optimality_gap.value == pytest.approx(metrics.aggregate_optimality_gap(runs), rel=1e-12)


def test_the_probability_of_improvement_is_rliables_ties_and_all():
    random, names = np.random.default_rng(0), list(games.all_games())[:12]
    one, other = random.integers(0, 6, (16, 12)).astype(float), random.integers(0, 6, (9, 12)).astype(float)
    found = scores.compare(
        {name: one[:, at] for at, name in enumerate(names)}, {name: other[:, at] for at, name in enumerate(names)}
    )
    assert found.improvement.value == pytest.approx(metrics.probability_of_improvement(one, other), rel=1e-12)
