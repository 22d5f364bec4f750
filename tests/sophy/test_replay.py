"""The optimal lap in the simulator: it is driven, nearly as fast, on the track, and by wishes that its car can follow."""

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import lap, optimal, replay
from almanac.sophy.sim import car
from tests.sophy import made


@pytest.fixture(scope="module", params=["f1_2014", "gt3"])
def driven(request, tmp_path_factory):
    spec, oval = car.load(request.param), made.oval(tmp_path_factory.mktemp("oval"))
    best = optimal.optimal_lap(spec, oval, 4.0).lap
    told = []
    return spec, oval, best, replay.replay(best, oval, spec, told.append), told


def test_it_is_driven_nearly_as_fast_and_on_the_track(driven):
    _, _, best, found, told = driven
    assert 0.995 < found.lap.lap_time / best.lap_time < 1.01
    assert found.off_frames == 0
    assert len(told) == found.laps and told[0] > 1.1 * best.lap_time and abs(min(told) - found.lap.lap_time) < 0.01


def test_its_points_are_a_lap_of_the_same_car(driven, tmp_path):
    spec, oval, best, found, _ = driven
    assert (np.diff(found.lap.s) > 0).all() and found.lap.s[0] < 2 and oval.length - found.lap.s[-1] < 2
    assert np.abs(found.lap.offset - np.interp(found.lap.s, best.s, best.offset, period=oval.length)).max() < 1.0
    missed = lap.residuals(spec, found.lap, oval)
    assert missed["dvx"] < 0.2 * missed["dvx_signal"]
    lap.write(found.lap, tmp_path / "driven.csv")
    assert abs(lap.read(tmp_path / "driven.csv").lap_time - found.lap.lap_time) < 1e-5


def test_a_lap_of_another_track_is_refused(driven, tmp_path):
    spec, _, best, _, _ = driven
    with pytest.raises(UserError, match="m long"):
        replay.replay(best, made.eight(tmp_path), spec)
