"""Lines and speeds of drivers without learning: smoother than the centre line, on the asphalt, and the car's own; and laps in files."""

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import lap as laps
from almanac.sophy import opponents, optimal, steady
from almanac.sophy.sim import car
from tests.sophy import made

F1 = car.load("f1_2014")


@pytest.fixture(scope="module")
def oval(tmp_path_factory):
    return made.oval(tmp_path_factory.mktemp("oval"))


def test_the_line_of_least_curvature_uses_the_width(oval):
    line = opponents.least_curvature(oval, F1)
    index = (np.arange(len(line.x)) * line.step / oval.step).astype(int)
    half = 0.5 * F1.width
    assert (line.offset < oval.left[index] - half).all() and (line.offset > half - oval.right[index]).all()
    assert np.ptp(line.offset) > 6
    centre = (oval.curvature**2).sum() * oval.step
    assert (line.curvature**2).sum() * line.length / len(line.x) < 0.85 * centre
    assert abs(line.curvature.sum() * line.length / len(line.x) / (2 * np.pi) - 1) < 0.03


def test_speeds_are_those_of_a_circle_and_a_straight():
    numbers = F1.equations()
    circle = opponents.speeds(F1, np.full(300, 1 / 40), 2.0, 0.9)
    grip = 0.9 * min(F1.tyre_rear.mu_x_2, F1.tyre_rear.mu_y_2)
    known = np.sqrt(grip * 9.81 / (1 / 40 - grip * numbers.lift / F1.mass))
    assert np.allclose(circle, known, rtol=5e-3)
    straight = opponents.speeds(F1, np.zeros(300), 20.0, 0.9)
    assert np.allclose(straight, (F1.power / numbers.drag) ** (1 / 3), rtol=1e-6)


def test_a_steady_lap_is_near_the_limit_and_a_driver_slower(oval):
    line = opponents.least_curvature(oval, F1)
    step = line.length / len(line.x)
    steadily = steady.lap_time(steady.speeds(F1, line.curvature, step), step)
    driver = steady.lap_time(opponents.speeds(F1, line.curvature, step, 0.85), step)
    best = optimal.optimal_lap(F1, oval, 4.0).lap.lap_time
    assert 0.95 * best < steadily < driver  # no transients: a little too fast


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
