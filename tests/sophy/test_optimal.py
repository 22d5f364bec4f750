"""The limit: the published optimal laps' times, laps that obey the car's equations, and laws that hold for any best lap."""

from dataclasses import replace

import numba
import numpy as np
import pytest

from almanac.runtime import hub
from almanac.sophy import lap, optimal
from almanac.sophy.sim import car, road, step, track
from tests.sophy import made

F1 = car.load("f1_2014")


@pytest.mark.parametrize(("name", "seconds"), [("catalunya_3d", 77.38), ("catalunya_adapted", 78.02)])
def test_the_published_optimal_laps_are_met(name, seconds, needs_data):
    needs_data("racing")
    course = track.load(hub.data("racing") / "fastest_lap" / "tracks" / f"{name}.xml")
    found = optimal.optimal_lap(F1, course, 10.0)
    assert abs(found.lap.lap_time / seconds - 1) < 0.007


@pytest.fixture(scope="module")
def oval(tmp_path_factory):
    return made.oval(tmp_path_factory.mktemp("oval"))


@pytest.fixture(scope="module")
def best(oval):
    return optimal.optimal_lap(F1, oval, 4.0).lap


def test_a_best_lap_obeys_the_equations_and_stays_on_the_asphalt(oval, best):
    found = lap.residuals(F1, best, oval)
    assert found["dvx"] < 0.3 and found["dvy"] < 0.5 and found["dr"] < 0.1 and found["dvx_signal"] > 3
    half = 0.5 * F1.track_front
    left, right = (np.interp(best.s, oval.s, each, period=oval.length) for each in (oval.left, oval.right))
    assert (best.offset <= left - half + 1e-6).all() and (best.offset >= half - right - 1e-6).all()
    assert abs(best.time[-1] + (best.time[1] - best.time[0]) - best.lap_time) < 0.1


def test_kerbs_make_a_lap_faster_and_are_not_left(oval, best):
    found, half = optimal.optimal_lap(F1, oval, 4.0, kerbs=True).lap, 0.5 * F1.track_front
    assert 0.97 * best.lap_time < found.lap_time < 0.999 * best.lap_time
    beside, index = road.road(oval).points, np.round(found.s / (oval.s[1] - oval.s[0])).astype(int) % len(oval.x)
    beyond = np.maximum(found.offset - oval.left[index], -found.offset - oval.right[index]) + half
    kerb = np.maximum(
        np.where(found.offset > 0, beside[index, road.KERB_LEFT], beside[index, road.KERB_RIGHT]), road.LINE
    )
    assert beyond.max() > 0.2 and (beyond < kerb + 0.05).mean() > 0.98  # but where a kerb begins or ends


def test_a_finer_mesh_changes_little_and_a_better_car_is_faster(oval, best, tmp_path):
    assert abs(optimal.optimal_lap(F1, oval, 3.0).lap.lap_time / best.lap_time - 1) < 0.005
    stronger = replace(F1, power=1.2 * F1.power)
    assert optimal.optimal_lap(stronger, oval, 4.0).lap.lap_time < best.lap_time
    held = replace(F1, abs=True)  # so that each wheel brakes as it can
    assert optimal.optimal_lap(held, oval, 4.0).lap.lap_time < 0.999 * best.lap_time
    wide = made.oval(tmp_path, width=16.0)
    assert optimal.optimal_lap(F1, wide, 4.0).lap.lap_time < best.lap_time


def test_its_car_stays_before_near_walls(needs_data):
    needs_data("racing")
    tight = track.find("Norisring")
    walls = road.road(tight).points
    found = optimal.optimal_lap(F1, tight, 8.0).lap
    near = 0
    for side, edge, wall in ((1, tight.left, road.WALL_LEFT), (-1, tight.right, road.WALL_RIGHT)):
        away = np.interp(found.s, tight.s, walls[:, wall], period=tight.length)
        near += int((away - np.interp(found.s, tight.s, edge, period=tight.length) < 1).sum())
        for end in (1, -1):
            corner = end * 0.5 * F1.length * np.sin(found.angle) + 0.5 * F1.width * np.cos(found.angle)
            assert (side * found.offset + corner < away).all()
    assert near


def test_to_the_right_is_as_fast_as_to_the_left(best, tmp_path):
    found = optimal.optimal_lap(F1, made.mirrored(tmp_path), 4.0).lap
    assert abs(found.lap_time / best.lap_time - 1) < 1e-3
    assert np.allclose(found.offset, -best.offset, atol=0.3)


def test_the_search_brakes_by_the_simulators_anti_lock():
    eased = numba.njit(step._eased)
    for slip in np.linspace(-3, 0, 61):
        assert abs(float(optimal._spared(slip)) - eased(np.float32(-slip), np.float32(1))) < 0.02
