"""Races: they end and are judged, a recording is the same race in another process, damaged and foreign ones are refused, and the steward
punishes what is wrong only."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.sophy import opponents, race, steward
from almanac.sophy.sim import car, road, step, world
from tests.sophy import made

GT3 = car.load("gt3")

AGAIN = """
import sys
from pathlib import Path
from almanac.sophy import race
from almanac.sophy.sim import car, track
seen = race.frames(race.read(Path(sys.argv[1])), track.load(Path(sys.argv[2])), car.load("gt3"))
sys.stdout.write(seen.x.tobytes().hex() + seen.travelled.tobytes().hex())
"""


class Scripted:
    """A driver that wishes the same all the time.

    Args:
        steering: −1 to 1.
        pedal: likewise.
    """

    def __init__(self, steering: float, pedal: float):
        self.wish = np.array([steering, pedal], np.float32)

    def act(self, cars: world.Cars, numbers: np.ndarray, each: int) -> np.ndarray:
        return np.repeat(self.wish[None], len(numbers), 0)


@pytest.fixture(scope="module")
def oval(tmp_path_factory):
    return made.oval(tmp_path_factory.mktemp("oval"))


@pytest.fixture(scope="module")
def driven(oval):
    drivers = opponents.Drivers(oval, GT3, [0.9, 0.8, 0.7])
    return race.run(oval, GT3, [(name, drivers) for name in ("one", "two", "three")], laps=2, seed=5)


def test_a_race_ends_and_is_judged(driven, oval):
    result = steward.judge(driven, oval, GT3)
    assert [each.place for each in result.places] == [1, 2, 3] and result.places[0].gap == 0
    for each in result.places:
        assert each.laps == 2 and abs(sum(each.lap_times) + each.penalty - each.time) < 1e-9 and each.time > 40
        assert all(abs(sum(parts) - time) < 1e-9 for parts, time in zip(each.sectors, each.lap_times, strict=True))
        assert each.lap_times[1] < each.lap_times[0]  # the first from a stand
    assert sum(each.kind == "finish" for each in result.events) == 3
    assert sorted(driven.names) == ["one", "three", "two"] and driven.names != ("one", "two", "three")


def test_nobody_moves_before_the_start(driven, oval):
    seen = race.frames(driven, oval, GT3)
    held = round(driven.start.countdown * world.FRAMES)
    assert np.abs(seen.travelled[: held + 1] - seen.travelled[0]).max() < 0.01
    assert (seen.travelled[held + 120] - seen.travelled[0] > 5).all()


def test_a_recording_is_the_same_race_in_another_process(driven, oval, tmp_path):
    driven.write(tmp_path / "race.npz")
    made.oval(tmp_path)
    command = [sys.executable, "-c", AGAIN, str(tmp_path / "race.npz"), str(tmp_path / "oval.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    seen = race.frames(driven, oval, GT3)
    assert done.stdout == seen.x.tobytes().hex() + seen.travelled.tobytes().hex()


def test_damaged_foreign_and_hostile_recordings_are_refused(driven, oval, tmp_path):
    path = tmp_path / "race.npz"
    driven.write(path)
    whole = path.read_bytes()
    assert len(whole) < 20_000
    for content in (whole[:500], whole[: len(whole) // 2], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="can't be read as a recording"):
            race.read(path)
    facts = {"format": 1, "names": ["one"], "laps": 1, "seed": 0, "start": {}, "track": "", "car": ""}
    facts |= {"track_digest": "", "car_digest": ""}
    wishes = np.zeros((3, 1, 2), np.float32)
    for about, values, said in (
        (facts | {"format": 9}, wishes, "is of format 9"),
        (facts | {"names": ["one"] * 21}, np.zeros((3, 21, 2), np.float32), "can't be read"),
        (facts | {"start": {"speed": float("nan")}}, wishes, "can't be read"),
        (facts, wishes + 2, "can't be read"),
        (facts, np.full((3, 1, 2), np.nan, np.float32), "can't be read"),
        (facts, np.zeros((10_000_000, 1, 2), np.float32), "more than"),
        (facts, np.array([[[print, print]]], object), "can't be read"),
    ):
        np.savez_compressed(path, facts=np.frombuffer(json.dumps(about).encode(), np.uint8), wishes=values)
        with pytest.raises(UserError, match=said):
            race.read(path)
    with pytest.raises(UserError, match="another oval"):
        race.frames(driven, made.oval(tmp_path, 14.0), GT3)
    with pytest.raises(UserError, match="another GT3"):
        race.frames(driven, oval, replace(GT3, mass=1000.0))


def test_who_drives_into_a_rear_pays(tmp_path):
    wide = made.drawn(tmp_path, "round", lambda turn: (400 * np.cos(turn), 400 * np.sin(turn)), 40.0)
    fast, slow = Scripted(0.0, 1.0), Scripted(0.0, -0.3)
    start = race.Start(speed=30.0, aside=0.0, gap=8.0)
    found = race.run(wide, GT3, [("ahead", slow), ("behind", fast)], 1, start, longest=2.0)
    blamed = [each for each in steward.judge(found, wide, GT3).events if each.kind == "rear"]
    assert [(each.car, each.other, each.penalty) for each in blamed] == [(1, 0, 3.0)]


def test_who_moves_over_onto_a_car_beside_pays(oval):
    start = race.Start(speed=30.0, aside=1.3, gap=0.5)
    found = race.run(oval, GT3, [("left", Scripted(-0.1, 0.1)), ("right", Scripted(0.0, 0.1))], 1, start, longest=2.0)
    blamed = [each for each in steward.judge(found, oval, GT3).events if each.penalty]
    assert [(each.kind, each.car, each.other) for each in blamed[:1]] == [("side", 0, 1)]


@pytest.mark.parametrize("cuts", [True, False])
def test_a_cut_pays_what_it_gained_and_a_slow_way_round_does_not(oval, cuts):
    scene = race.Scene(oval, GT3, 1, race.Start(speed=20.0))
    watch = steward.Steward(scene, 2)
    s, pace = 100.0, 14.0 if cuts else 1.0
    for number in range(30):
        s += pace
        off = 5 <= number < 20
        place = road.places(oval, np.array([s]), np.array([10.0 if off else 0.0]))
        scene.cars.state[[step.X, step.Y, step.YAW], 0] = place[:, 0]
        world.follow(scene.road.points, scene.road.step, scene.road.length, scene.cars, 0)
        scene.cars.off[0], scene.cars.clock[0] = off, scene.cars.clock[0] + 0.1
        watch.look()
    assert [each.kind for each in watch.events] == ["cut" if cuts else "off"]
    assert (watch.events[0].penalty > 1) == cuts


def test_wrong_races_are_refused(oval):
    with pytest.raises(UserError, match="0 drivers"):
        race.run(oval, GT3, [], 1)
    with pytest.raises(UserError, match="0 laps"):
        race.run(oval, GT3, [("one", Scripted(0, 0))], 0)
