"""A race: it ends, its recording is the same race in another process, and the steward punishes what is wrong only."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import opponents, race
from almanac.sophy.sim import car, road, step, world
from tests.sophy import made

F1 = car.load("f1_2014")

AGAIN = """
import sys
import numpy as np
from almanac.sophy import race
found = race.read(sys.argv[1])
scene = race.Scene(found)
for wishes in found.decisions:
    scene.decide(wishes)
sys.stdout.write(scene.cars.state.tobytes().hex() + scene.cars.travelled.tobytes().hex())
"""


@pytest.fixture(scope="module")
def oval(tmp_path_factory):
    return made.oval(tmp_path_factory.mktemp("oval"))


@pytest.fixture(scope="module")
def driven(oval):
    drivers = [(f"at {skill:g}", opponents.Driver(oval, F1, skill), True) for skill in (0.75, 0.8, 0.85, 0.9)]
    return race.run(oval, F1, drivers, laps=2)


def test_a_race_from_the_grid_ends_and_is_timed(driven):
    recording, places = driven
    assert [each.place for each in places] == [1, 2, 3, 4] and {each.name for each in places} == set(recording.names)
    assert all(each.laps == 2 and each.time > 20 and each.best_lap < each.time for each in places)
    assert places == sorted(places, key=lambda each: each.time)


def test_a_recording_is_the_same_race_in_another_process(driven, tmp_path):
    recording, _ = driven
    race.write(recording, tmp_path / "race.npz")
    scene = race.Scene(recording)
    for wishes in recording.decisions:
        scene.decide(wishes)
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(tmp_path / "race.npz")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == scene.cars.state.tobytes().hex() + scene.cars.travelled.tobytes().hex()


def test_damaged_recordings_are_refused(driven, tmp_path):
    race.write(driven[0], tmp_path / "race.npz")
    whole = (tmp_path / "race.npz").read_bytes()
    for number, content in enumerate((whole[:500], whole[: len(whole) // 2], b"", b"no archive")):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match="can't be read"):
            race.read(path)


def test_a_cut_is_punished_and_a_slide_is_not(oval, driven):
    for cut in (True, False):
        scene = race.Scene(replace(driven[0], decisions=driven[0].decisions[:0]))
        steward = race.Steward(scene, 2)
        steward.watch()
        car_at, began = scene.cars, 200.0
        s = began
        for number in range(30):
            s += 14.0 if cut else 2.0
            off = 5 <= number < 20
            car_at.state[[step.X, step.Y, step.YAW], 0] = road.places(
                oval, np.array([s]), np.array([14.0 if off else 0.0])
            )[:, 0]
            world.follow(scene.road.points, scene.road.step, scene.road.length, car_at, 0)
            car_at.off[0], car_at.clock[0] = off, car_at.clock[0] + 0.1
            steward.watch()
        assert (steward.penalty[0] > 1.0) == cut and not steward.penalty[1:].any()


def test_driving_into_a_rear_is_punished_once(oval, driven):
    start = replace(
        driven[0], s=np.array([100.0, 106.0, 300, 350]), offset=np.zeros(4), speed=np.array([40.0, 25, 20, 20])
    )
    scene = race.Scene(start)
    steward = race.Steward(scene, 2)
    for _ in range(20):
        scene.decide(np.zeros((4, 2), np.float32))
        steward.watch()
    assert steward.penalty.tolist() == [3.0, 0, 0, 0] and steward.contacts[0] >= 1


def test_too_many_drivers_are_refused(oval):
    with pytest.raises(UserError, match="0 drivers"):
        race.run(oval, F1, [], 1)
