"""Team races and skill tests, with built-in drivers on both sides."""

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import opponents, skills, teams
from almanac.sophy.race import Start
from almanac.sophy.sim import car as cars
from almanac.sophy.sim.track import Track
from almanac.sophy.teams import Outcome
from tests.sophy import made

CAR = cars.load("gt3")


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Track:
    return made.oval(tmp_path_factory.mktemp("track"))


def drivers(course: Track, count: int, skill: float) -> opponents.Drivers:
    return opponents.Drivers(course, CAR, [skill] * count)


def test_the_points_of_a_race_are_those_of_its_places_and_the_last_counts_twice(course: Track):
    found = teams.races(course, CAR, drivers(course, 2, 1.0), drivers(course, 2, 0.8), (2, 2), 1, Start(), 0, 2)
    for each in found:
        assert sum(each.points) == 10 + 8 + 6 + 5 and each.finished == (2, 2) and each.car_laps == 4
        by_name = {place.name: place.place for place in each.result.places}
        ours = [place for name, place in by_name.items() if name.startswith(teams.OURS)]
        assert each.points[0] == sum(teams.POINTS[place - 1] for place in ours) and len(ours) == 2
    assert found[0].recording.names != found[1].recording.names  # another grid
    total = teams.series(found)
    assert total["points"] == found[0].points[0] + 2 * found[1].points[0]
    assert total["points"] + total["their_points"] == 29 * 3
    assert total["points"] > total["their_points"]  # a fifth more skill


def test_contacts_and_rear_ends_are_counted_for_each_lap_of_a_car(course: Track):
    (one,) = teams.races(course, CAR, drivers(course, 1, 0.9), drivers(course, 1, 0.9), (1, 1), 1, Start(), 0, 1)
    touched = Outcome(one.points, 3, 1, 6, one.finished, one.recording, one.result)
    assert teams.series([touched, touched])["contacts_per_car_lap"] == 0.5
    assert teams.series([touched, touched])["rear_ends"] == 2


@pytest.mark.parametrize("text", ["4", "v4", "0v4", "4v0", "15v6", "fourvfour", "4v4v4", "-1v4"])
def test_teams_that_can_not_be_are_refused(text: str):
    with pytest.raises(UserError, match="are no teams"):
        teams.sizes(text)
    assert teams.sizes("4v4") == (4, 4)


class Parks:
    """A driver that does nothing."""

    def act(self, cars, numbers, each):
        return np.zeros((len(numbers), 2), np.float32)


class Rams:
    """A driver that keeps to the road, and never slows down."""

    def __init__(self, steers: opponents.Drivers):
        self.steers = steers

    def act(self, cars, numbers, each):
        wishes = self.steers.act(cars, numbers, each)
        wishes[:, 1] = 1.0
        return wishes


def test_skills_tell_who_drives_from_who_does_not(course: Track, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(skills, "TRIES", 8)
    good = {each["skill"]: each for each in skills.run(drivers(course, 8, 1.0), course, CAR)}
    bad = {each["skill"]: each for each in skills.run(Parks(), course, CAR)}
    rude = {each["skill"]: each for each in skills.run(Rams(drivers(course, 8, 1.0)), course, CAR)}
    assert set(good) == set(skills.SKILLS)
    assert good["recover"]["passed"] >= 6 and bad["recover"]["passed"] == 0
    assert bad["slipstream"]["passed"] == 0 and bad["grid"]["places_won"] < good["grid"]["places_won"]
    assert rude["grid"]["faults"] > good["grid"]["faults"]
