"""Lines and speeds of drivers without learning: smoother than the centre line, on the asphalt, and the car's own; and laps in files."""

from dataclasses import replace

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import balance, optimal, raceline, steady
from almanac.sophy import lap as laps
from almanac.sophy.sim import car, track
from tests.sophy import made

F1 = car.load("f1_2014")
LEVEL = replace(F1.tyre_rear, mu_x_1=1.5, mu_x_2=1.5, mu_y_1=1.5, mu_y_2=1.5)
"""A tyre whose grip does not depend on load."""


@pytest.fixture(scope="module")
def oval(tmp_path_factory):
    return made.oval(tmp_path_factory.mktemp("oval"))


def test_the_line_of_least_curvature_uses_the_width(oval):
    line = raceline.least_curvature(oval, F1)
    index = (np.arange(len(line.x)) * line.step / oval.step).astype(int)
    half = 0.5 * F1.width
    assert (line.offset < oval.left[index] - half).all() and (line.offset > half - oval.right[index]).all()
    assert np.ptp(line.offset) > 6
    centre = (oval.curvature**2).sum() * oval.step
    assert (line.curvature**2).sum() * line.length / len(line.x) < 0.85 * centre
    assert abs(line.curvature.sum() * line.length / len(line.x) / (2 * np.pi) - 1) < 0.03


def test_the_fastest_line_is_faster_than_the_smoothest_and_on_the_asphalt():
    course, spec = track.find("solstice"), car.load("gt3")
    can = balance.diagram(spec, 1.0)
    line, smoothest = raceline.fastest(course, spec, balance.limits(spec, can)), raceline.least_curvature(course, spec)
    index = (np.arange(len(line.x)) * line.step / course.step).astype(int)
    half = 0.5 * spec.width - 0.05
    assert (line.offset < course.left[index] - half).all() and (line.offset > half - course.right[index]).all()
    fast, smooth = (balance.lap(spec, course, each, can).lap_time for each in (line, smoothest))
    assert fast < 0.99 * smooth


def test_steady_speeds_are_those_of_a_circle_and_a_straight():
    numbers = F1.equations()
    straight = steady.speeds(F1, np.zeros(300), 20.0)
    assert np.allclose(straight, (F1.power / numbers.drag) ** (1 / 3), rtol=1e-3)
    light = replace(F1, lift=0.0, height=1e-3, drag=1e-6, **dict.fromkeys(("tyre_front", "tyre_rear"), LEVEL))
    assert np.allclose(steady.speeds(light, np.full(300, 1 / 40), 2.0, 0.9), np.sqrt(0.9 * 1.5 * 9.81 * 40), rtol=1e-3)


def test_a_steady_lap_is_near_the_limit_and_less_grip_is_slower(oval):
    line = raceline.least_curvature(oval, F1)
    step = line.length / len(line.x)
    steadily, careful = (steady.lap_time(steady.speeds(F1, line.curvature, step, grip), step) for grip in (1.0, 0.8))
    best = optimal.optimal_lap(F1, oval, 4.0).lap.lap_time
    assert 0.95 * best < steadily < 1.05 * best < careful  # no transients: a little too fast


def test_all_cars_that_ship_get_around(oval):
    times = {}
    for path in car.CARS.glob("*.toml"):
        spec = car.load(path.stem)
        line = raceline.least_curvature(oval, spec)
        step = line.length / len(line.x)
        times[path.stem] = steady.lap_time(steady.speeds(spec, line.curvature, step), step)
    assert times["f1_2014"] < times["gt3"] < times["tum"] < 40


def test_a_lap_in_a_file_is_the_same(oval, tmp_path):
    best = optimal.optimal_lap(F1, oval, 8.0).lap
    laps.write(best, tmp_path / "best.csv")
    found = laps.read(tmp_path / "best.csv")
    assert abs(found.lap_time - best.lap_time) < 1e-6
    for name, values in vars(best).items():
        assert np.allclose(getattr(found, name), values, rtol=1e-7, atol=1e-9), name
    (tmp_path / "half.csv").write_text((tmp_path / "best.csv").read_text()[:3000])
    with pytest.raises(UserError, match="can't be read as a lap"):
        laps.read(tmp_path / "half.csv")
