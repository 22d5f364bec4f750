"""Drivers without learning: a car in balance is in balance, drivers lap as they planned without a slide, slower with less skill, and find
back from wherever they are put."""

import math

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import balance, opponents, steady
from almanac.sophy.sim import car, road, step, track, world
from tests.sophy import made

CARS = {name: car.load(name) for name in ("f1_2014", "gt3")}


class Driven:
    """Cars, each alone or all together, and their drivers.

    Args:
        course: the track.
        spec: the car.
        skills: of the drivers.
        places: of each m along the track, m to the left, rad to the road, m/s.
        each: cars of a race.
    """

    def __init__(self, course, spec, skills, places, each=1):
        self.drivers, self.spec, self.each = opponents.Drivers(course, spec, skills), spec, each
        s, offset, angle, speed = np.asarray(places, float).T
        spots = road.places(course, s, offset)
        spots[2] += angle
        self.cars = world.cars(len(s) // each, each)
        world.place(self.cars, spec, self.drivers.road, np.arange(len(s)), spots, s, speed)
        self.numbers = step.numbers(spec)
        self.slide, self.touched = np.zeros(len(s)), 0

    def seconds(self, count: float) -> "Driven":
        cars, state = self.cars, self.cars.state
        for frame in range(round(count * world.FRAMES)):
            if frame % opponents.HOLD == 0:
                wishes = self.drivers.act(cars, np.arange(len(cars.nearest)), self.each)
                assert np.isfinite(wishes).all() and np.abs(wishes).max() <= 1
                cars.given[step.STEER_TO] = wishes[:, 0] * self.spec.steering
                cars.given[step.THROTTLE_TO] = wishes[:, 1].clip(0)
                cars.given[step.BRAKE_TO] = (-wishes[:, 1]).clip(0)
            cars.hits[:] = 0
            world.frame(self.drivers.road, *self.numbers, self.drivers.size, cars, self.each)
            self.touched += int((cars.hits & world.TOUCHED).any())
            fast = state[step.VX] > 5
            self.slide = np.maximum(self.slide, np.where(fast, np.abs(state[step.VY] / state[step.VX]), 0))
        return self


@pytest.mark.parametrize("name", CARS)
def test_a_balance_balances_and_a_diagram_is_of_the_car(name):
    spec = CARS[name]
    can, careful = balance.diagram(spec, 0.95), balance.diagram(spec, 0.7)
    speed = np.array([20.0, 40.0, 60.0])
    for part in (0.0, 0.5, 0.9):
        across = part * can.most(speed)
        motion = balance.Motion(speed, np.zeros(3), across / speed)
        found, left, loads = balance.balance(spec, motion, np.zeros((7, 3)))
        assert left.max() < 1e-3 and ((found[1] > 0.01) == (part > 0)).all()
        weight = spec.mass * 9.81 + spec.equations().lift * speed**2
        assert np.allclose(loads.sum(0), weight, rtol=1e-3)
    assert (can.most(speed) > 1.2 * careful.most(speed)).all()
    assert (can.braking[:-2, 0] < careful.braking[:-2, 0]).all() and (can.gaining[:, 0] >= careful.gaining[:, 0]).all()
    top = (spec.power / spec.equations().drag) ** (1 / 3)
    assert can.along(0.7 * top, 0.0, True) > 0 > can.along(1.02 * top, 0.0, True)


@pytest.mark.parametrize("name", CARS)
def test_drivers_lap_as_planned_without_a_slide_and_slower_with_less_skill(name, needs_data):
    needs_data("racing")
    course, spec, skills = track.find("Norisring"), CARS[name], [0.6, 1.0]
    driven = Driven(course, spec, skills, [(-300.0, 0.0, 0.0, 25.0)] * 2).seconds(85)
    cars = driven.cars
    assert not cars.off_time.any() and not cars.wall_time.any() and (driven.slide < 0.2).all()
    assert cars.lap_time[0] > 1.1 * cars.lap_time[1] > 0
    line = driven.drivers.line
    plans = [each.lap_time for each in driven.drivers.plans]
    assert np.allclose(cars.lap_time, plans, rtol=0.015)
    gap = line.length / len(line.x)
    assert cars.lap_time[1] < 1.15 * steady.lap_time(steady.speeds(spec, line.curvature, gap), gap)


@pytest.mark.parametrize("name", CARS)
def test_a_driver_is_clean_over_crests_and_in_banked_bends(name, needs_data):
    needs_data("racing")
    driven = Driven(track.find("catalunya_3d"), CARS[name], [1.0], [(600.0, 0.0, 0.0, 40.0)]).seconds(215)
    cars = driven.cars
    assert not cars.off_time.any() and not cars.wall_time.any() and driven.slide < 0.2
    assert 0 < cars.lap_time[0] < 1.015 * driven.drivers.plans[0].lap_time


@pytest.mark.parametrize("name", CARS)
def test_a_car_that_stands_with_its_nose_to_a_wall_is_turned_and_drives_on(name, tmp_path):
    course = made.oval(tmp_path)
    places = [(300.0, 14.0, 0.5 * math.pi, 3.0), (300.0, -12.0, -0.5 * math.pi, 8.0), (300.0, 12.0, 1.2, 10.0)]
    driven, drives = Driven(course, CARS[name], [0.8] * len(places), places), np.zeros(len(places), bool)
    for _ in range(20):
        cars = driven.seconds(1).cars
        drives |= (cars.state[step.VX] > 5) & (np.abs(cars.angle) < 0.5)
    assert drives.all()


@pytest.mark.parametrize("is_helped", [False, True])
def test_who_knows_nothing_but_full_throttle_is_turned_back_from_a_wall(is_helped: bool, tmp_path, monkeypatch):
    course, places = made.oval(tmp_path), [(300.0, 14.0, 0.5 * math.pi, 3.0), (300.0, -12.0, -0.5 * math.pi, 8.0)]
    driven, where = Driven(course, CARS["gt3"], [0.8] * 2, places), road.road(course)
    full, drives = np.array([[0.0, 1.0]] * 2, np.float32), np.zeros(2, bool)

    def act(cars, numbers, each):
        return opponents.turned_back(where, CARS["gt3"], cars, numbers, full) if is_helped else full

    monkeypatch.setattr(driven.drivers, "act", act)
    for _ in range(20):
        cars = driven.seconds(1).cars
        drives |= (cars.state[step.VX] > 5) & (np.abs(cars.angle) < 0.6)
    assert drives.tolist() == [is_helped] * 2 and (full == [0.0, 1.0]).all()


@pytest.mark.parametrize("name", CARS)
def test_drivers_find_back_from_wherever_they_are(name, tmp_path):
    course = made.oval(tmp_path)
    places = [
        (100.0, 0.0, 0.0, 0.0),  # standing
        (250.0, 4.5, 0.0, 30.0),  # off its line
        (300.0, -11.0, 0.1, 10.0),  # on the grass
        (400.0, 2.0, 2.0, 25.0),  # spinning
        (100.0, 0.0, 0.0, -12.0),  # rolling back
    ]
    if name == "gt3":  # the other one turns in 19 m, for which there is no room between these walls
        places += [(450.0, 0.0, math.pi, 15.0), (200.0, 1.0, 1.5, 0.0)]  # driving the wrong way, across the track
    driven = Driven(course, CARS[name], [0.8] * len(places), places).seconds(35)
    before = driven.cars.travelled.copy()
    off = driven.cars.off_time.copy()
    driven.seconds(15)
    assert (driven.cars.travelled - before > 400).all() and (driven.cars.off_time == off).all()


def test_a_skill_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"skill is 1\.2"):
        opponents.Drivers(made.oval(tmp_path), CARS["gt3"], [1.0, 1.2])
