"""Driving among others: a field gets through its first lap, a slower car is passed, and nobody leaves the track to do so."""

import numpy as np
import pytest

from almanac.sophy import opponents, race, steward, tracking, traffic
from almanac.sophy.names import named
from almanac.sophy.sim import car, road, step, track, world
from tests.sophy import made

GT3 = car.load("gt3")


SOLSTICE = track.find("solstice")


def test_a_field_of_twenty_gets_through_its_first_lap():
    skills = np.linspace(1, 0.9, 20).round(3).tolist()
    drivers = opponents.Drivers(SOLSTICE, GT3, skills)
    judged = steward.judge(race.run(SOLSTICE, GT3, named(drivers, skills), 1, seed=1), SOLSTICE, GT3)
    assert all(np.isfinite(each.time) for each in judged.places)
    assert len({each.car for each in judged.events if each.kind in ("off", "cut")}) <= 1
    assert sum(each.penalty > 0 for each in judged.events) <= 1


def test_a_slower_car_is_passed_without_a_touch():
    skills = [0.7, 1.0]
    drivers = opponents.Drivers(SOLSTICE, GT3, skills)
    start = race.Start(speed=30.0, gap=15.0)
    judged = steward.judge(race.run(SOLSTICE, GT3, named(drivers, skills), 2, start), SOLSTICE, GT3)
    assert [each.car for each in judged.places] == [1, 0]
    assert {each.kind for each in judged.events} <= {"lap", "finish"}


@pytest.mark.parametrize("wanted", [-20.0, 20.0])
def test_who_moves_over_stays_on_the_track_and_does_so_gently(tmp_path, wanted):
    course = made.oval(tmp_path)
    drivers = opponents.Drivers(course, GT3, [0.8])
    way, where = tracking.Guide(drivers.step, drivers.rows[0]), road.road(course)
    them, aside = world.cars(1, 1), 0.0
    half = 0.5 * world.size(GT3).width
    for place in np.arange(0.0, course.length, 4.0):  # a decision at 40 m/s
        at = np.array([place])
        world.place(them, GT3, where, np.array([0]), road.places(course, at, 0 * at), at, np.array([40.0]))
        line, _, _ = tracking.known(way, place)
        before, aside = aside, traffic.moved(way, where, world.size(GT3), them, 0, aside, wanted, 0.1)
        assert abs(line + aside) + half < 6.0 or abs(line) + half > 5.8
        assert (aside - before) * np.sign(wanted) < 0.3


def test_bends_bear_less_beside_the_line_and_in_stirred_air(tmp_path):
    course = made.oval(tmp_path)
    drivers = opponents.Drivers(course, GT3, [0.8])
    way, where, numbers = tracking.Guide(drivers.step, drivers.rows[0]), road.road(course), step.numbers(GT3)[0]
    them = world.cars(1, 1)

    def borne(aside: float, pressed: float) -> np.ndarray:
        found = []
        for place in np.arange(0.0, course.length, 20.0):
            at, offset = np.array([place]), np.array([tracking.known(way, place)[0] + aside])
            world.place(them, GT3, where, np.array([0]), road.places(course, at, offset), at, np.array([30.0]))
            them.given[step.PRESSED] = pressed
            found.append(traffic.borne(way, numbers, them, 0))
        return np.array(found)

    alone = borne(0.0, 1.0)
    assert np.allclose(alone, 1.0) and (borne(0.0, 0.8) <= alone).all() and borne(0.0, 0.8).min() < 0.99
    assert (borne(-1.5, 1.0) <= alone).all() and 0.85 < borne(-1.5, 1.0).min() < 0.97
