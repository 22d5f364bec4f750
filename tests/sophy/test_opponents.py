"""Drivers without learning: their line is smoother than the centre line and stays on the asphalt, their speeds are the car's, and they get
around, alone and among others; a lap that is known is driven again."""

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import env, opponents, optimal, steady
from almanac.sophy import lap as laps
from almanac.sophy import replay as again
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


def test_a_steady_lap_is_between_a_drivers_and_the_limit(oval):
    line = opponents.least_curvature(oval, F1)
    step = line.length / len(line.x)
    steadily = steady.lap_time(steady.speeds(F1, line.curvature, step), step)
    driver = steady.lap_time(opponents.speeds(F1, line.curvature, step, 0.85), step)
    best = optimal.optimal_lap(F1, oval, 4.0).lap.lap_time
    assert 0.98 * best < steadily < driver


@pytest.mark.parametrize("skill", [0.8, 0.9])
def test_a_driver_gets_around_and_skill_is_speed(oval, skill):
    made_env = env.make(oval, rules=env.Rules(seconds=1e9))
    driver = opponents.Driver(oval, F1, skill)
    made_env.reset(options={"s": 0.0, "offset": float(driver.line.offset[0]), "speed": float(driver.speed[0])})
    made_env.aid(np.arange(1))
    times = []
    for _ in range(900):
        info = made_env.step(driver.act(made_env.cars, made_env.road, np.arange(1)))[4]
        times += [float(each) for each in info["lap_time"] if each]
    assert len(times) >= 2 and made_env.cars.off_time[0] == 0 and made_env.cars.wall_time[0] == 0
    predicted = steady.lap_time(driver.speed, driver.line.length / len(driver.line.x))
    assert times[-1] < 1.25 * predicted


def test_drivers_race_without_ending_in_the_walls(oval):
    made_env = env.make(oval, cars=6, each=6, rules=env.Rules(seconds=1e9))
    numbers = np.arange(6)
    drivers = [opponents.Driver(oval, F1, skill) for skill in np.linspace(0.75, 0.9, 6).tolist()]
    made_env.reset(options={"s": 60.0 - 12.0 * numbers, "offset": 0.0, "speed": 20.0})
    made_env.aid(numbers)
    for _ in range(600):
        wishes = [each.act(made_env.cars, made_env.road, numbers[at : at + 1], 6) for at, each in enumerate(drivers)]
        made_env.step(np.concatenate(wishes))
    assert (made_env.cars.travelled > 1.5 * oval.length).all()
    assert np.isfinite(made_env.cars.state).all()


def test_a_known_lap_is_driven_again(oval, tmp_path):
    best = optimal.optimal_lap(F1, oval, 4.0).lap
    laps.write(best, tmp_path / "best.csv")
    found = laps.read(tmp_path / "best.csv")
    assert abs(found.lap_time - best.lap_time) < 1e-6 and np.allclose(found.slip, best.slip, atol=1e-6)
    driven = again.replay(found, oval, F1)
    assert abs(driven.lap_time / best.lap_time - 1) < 0.005 and driven.off_frames == 0 and driven.away < 1.0


def test_an_unskilled_driver_is_refused(oval):
    with pytest.raises(UserError, match="skill is 0"):
        opponents.Driver(oval, F1, 0.0)
