"""Cars on a road: followed through hairpins and over bridges, held by walls, parted from each other, sheltered behind each other, timed by
gates; and whatever they do, numbers stay numbers."""

import math

import numpy as np
import pytest

from almanac.sophy.sim import car, road, step, world
from tests.sophy import made

SPEC = car.load("f1_2014")
NUMBERS = step.numbers(SPEC)
BODY = world.size(SPEC)


class Meeting:
    """Cars of one race on a track."""

    def __init__(self, course, s, offset=0.0, speed=0.0):
        s = np.asarray(s, float)
        self.each, self.road = len(s), road.road(course)
        self.cars = world.cars(1, self.each)
        places = road.places(course, s, np.broadcast_to(np.asarray(offset, float), s.shape))
        speeds = np.broadcast_to(np.asarray(speed, float), s.shape)
        world.place(self.cars, SPEC, self.road, np.arange(self.each), places, s, speeds)

    def frames(self, count: int) -> "Meeting":
        for _ in range(count):
            world.frame(self.road, *NUMBERS, BODY, self.cars, self.each)
        return self

    def momentum(self) -> np.ndarray:
        state = self.cars.state.astype(float)
        cosine, sine = np.cos(state[step.YAW]), np.sin(state[step.YAW])
        east, north = state[step.VX] * cosine - state[step.VY] * sine, state[step.VX] * sine + state[step.VY] * cosine
        return np.array([east.sum(), north.sum()])

    def energy(self) -> float:
        state = self.cars.state.astype(float)
        moving = SPEC.mass * (state[step.VX] ** 2 + state[step.VY] ** 2) + SPEC.yaw_inertia * state[step.TURN] ** 2
        front, rear = (state[step.SPIN + at : step.SPIN + at + 2] for at in (0, 2))
        spinning = SPEC.tyre_front.inertia * (front**2).sum(0) + SPEC.tyre_rear.inertia * (rear**2).sum(0)
        return float((0.5 * (moving + spinning)).sum())


@pytest.mark.parametrize("shape", [made.oval, made.eight])
def test_a_car_is_followed_around_any_track(shape, tmp_path):
    course = shape(tmp_path)
    meeting = Meeting(course, [0.0])
    state, s = meeting.cars.state, 0.0
    while s < 2.5 * course.length:
        s += 1.5
        state[[step.X, step.Y, step.YAW], 0] = road.places(course, np.array([s]), np.array([2.0]))[:, 0]
        world.follow(meeting.road.points, meeting.road.step, meeting.road.length, meeting.cars, 0)
        assert abs(meeting.cars.travelled[0] - s) < 0.2 and abs(meeting.cars.offset[0] - 2) < 0.1
        assert abs(meeting.cars.angle[0]) < 0.02


def test_cars_are_put_where_they_are_asked_to_be(tmp_path):
    course = made.oval(tmp_path)
    asked = np.array([-20.0, 0.0, 100.0, 300.0, 1.4 * course.length])
    cars = Meeting(course, asked, [0.0, 1.0, -2.0, 3.0, 0.5], 20.0).cars
    assert np.allclose(cars.travelled, asked, atol=0.1) and np.allclose(cars.offset, [0, 1, -2, 3, 0.5], atol=0.05)
    assert cars.gates.tolist() == [0, 1, 2, 5, 17]


def test_a_lap_is_timed_once_however_one_crosses_the_line(tmp_path):
    course = made.oval(tmp_path)
    meeting = Meeting(course, [-20.0], speed=50.0)
    cars = meeting.cars
    assert cars.gates[0] == 0
    cars.given[step.THROTTLE_TO] = 0.2
    times = []
    for seconds, s in enumerate([-5.0, 5.0, -5.0, 5.0, *np.arange(15, 2 * course.length + 30, 10.0)]):
        before = cars.travelled[0]
        cars.state[[step.X, step.Y, step.YAW], 0] = road.places(course, np.array([s]), np.array([0.0]))[:, 0]
        world.follow(meeting.road.points, meeting.road.step, meeting.road.length, cars, 0)
        cars.clock[0] = seconds
        world.pass_gates(meeting.road.length, cars, 0, before)
        if cars.lap_time[0] and (not times or cars.lap_time[0] != times[-1]):
            times.append(float(cars.lap_time[0]))
    assert cars.gates[0] == 2 * world.GATES + 1 and len(times) == 2
    assert all(abs(each - course.length / 10) < 2.5 for each in times)  # 10 m a second, but for going to and fro once


def test_walls_hold_cars_and_take_energy(tmp_path):
    course = made.oval(tmp_path)
    meeting = Meeting(course, [100.0, 300.0], speed=40.0)
    meeting.cars.state[step.YAW] += (0.5, -0.8)
    energy = meeting.energy()
    touched = np.zeros(2, bool)
    for _ in range(240):
        meeting.frames(1)
        assert meeting.energy() < energy + 1.0
        energy = meeting.energy()
        touched |= meeting.cars.wall
        corners = np.hypot(SPEC.length, SPEC.width) / 2
        row = meeting.road.points[meeting.cars.nearest]
        assert (meeting.cars.offset < row[:, road.WALL_LEFT] + corners).all()
        assert (meeting.cars.offset > -row[:, road.WALL_RIGHT] - corners).all()
    assert touched.all() and (meeting.cars.wall_time > 0).all()


@pytest.mark.parametrize(("apart", "faster", "turned"), [(6.0, 15.0, 0.0), (5.3, 25.0, 0.25), (5.5, 8.0, -0.1)])
def test_cars_that_meet_keep_their_momentum_and_lose_energy(apart, faster, turned, tmp_path):
    course = made.drawn(tmp_path, "round", lambda turn: (2000 * np.cos(turn), 2000 * np.sin(turn)), 40.0)
    meeting = Meeting(course, [100.0, 100.0 + apart], speed=[30.0 + faster, 30.0])
    meeting.cars.state[step.YAW, 0] += turned
    for _ in range(60):
        before, energy = meeting.momentum(), meeting.energy()
        state = meeting.cars.state.copy()
        if world.touch(BODY, meeting.cars, 0, 2):
            assert np.allclose(meeting.momentum(), before, atol=1e-3)
            assert meeting.energy() < energy + 1.0
            break
        assert np.array_equal(state, meeting.cars.state)
        meeting.frames(0)
        world.step.advance(*NUMBERS, meeting.cars.state, meeting.cars.given, meeting.cars.seen, 4)
    assert meeting.cars.hits[0, 1] & world.TOUCHED and meeting.cars.hits[1, 0] & world.TOUCHED
    assert meeting.cars.hits[0, 1] & world.FROM_BEHIND and not meeting.cars.hits[1, 0] & world.FROM_BEHIND
    assert meeting.cars.hit_speed[0, 1] > 0.5 * faster


def test_who_follows_closely_is_faster_and_presses_less(tmp_path):
    course = made.drawn(tmp_path, "round", lambda turn: (4000 * np.cos(turn), 4000 * np.sin(turn)), 60.0)
    meeting = Meeting(course, [100.0, 115.0, 1000.0], speed=80.0).frames(1)
    held, pressed = meeting.cars.given[step.HELD], meeting.cars.given[step.PRESSED]
    assert held[0] < 0.8 < held[1] <= 1 and held[2] == 1
    assert abs((1 - pressed[0]) - 0.5 * meeting.cars.shelter[0]) < 1e-6 and pressed[2] == 1


def test_twenty_cars_on_one_spot_part(tmp_path):
    meeting = Meeting(made.oval(tmp_path), [50.0] * 20)
    for _ in range(30):
        meeting.frames(60)
        assert np.isfinite(meeting.cars.state).all()
    x, y = meeting.cars.state[step.X], meeting.cars.state[step.Y]
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 10 * np.eye(20)
    assert apart.min() > 0.9 * SPEC.width
    assert np.abs(meeting.cars.state[step.VX]).max() < 1


def test_grass_and_gravel_hold_and_kerbs_do_not(tmp_path):
    course = made.oval(tmp_path)
    found = road.road(course)
    bend = int(np.abs(course.curvature).argmax())
    row = found.points[bend]
    kerb, gravel = float(row[road.KERB_LEFT]), float(row[road.GRAVEL_RIGHT])
    assert kerb > 0 and gravel < 100  # to the right is the outside of a bend to the left
    edge = float(row[road.RIGHT])
    for beyond, grip, out in (
        (-0.1, 1.0, False),
        (kerb / 2, road.KERB_GRIP, False),
        (kerb + 0.5, road.GRASS_GRIP, True),
    ):
        assert road.ground(found.points, bend, -edge - beyond)[::2] == (grip, out)
    assert road.ground(found.points, bend, -edge - gravel - 1) == (road.GRAVEL_GRIP, road.GRAVEL_HOLD, True)


def test_walls_leave_room_for_other_parts_of_the_track(tmp_path):
    for shape in (made.oval, made.eight):
        course = shape(tmp_path)
        found = road.road(course).points
        assert (found[:, road.WALL_LEFT] > course.left).all() and (found[:, road.WALL_RIGHT] > course.right).all()
        inside = np.where(course.curvature > 0, found[:, road.WALL_LEFT], found[:, road.WALL_RIGHT])
        bent = np.abs(course.curvature) > 0.01
        assert (inside[bent] * np.abs(course.curvature[bent]) < 1).all()


def test_a_race_is_the_same_whenever_it_is_driven(tmp_path):
    course = made.oval(tmp_path)

    def drive() -> np.ndarray:
        rng = np.random.default_rng(4)
        meeting = Meeting(course, np.arange(8) * 9.0, speed=30.0)
        for _ in range(40):
            given = meeting.cars.given
            given[step.STEER_TO], given[step.THROTTLE_TO] = rng.uniform(-0.1, 0.1, 8), rng.uniform(0, 1, 8)
            meeting.frames(6)
        assert meeting.cars.hits.any()
        return np.concatenate((meeting.cars.state.ravel(), meeting.cars.travelled))

    assert np.array_equal(drive(), drive())


def test_whatever_drivers_do_numbers_stay_numbers(tmp_path):
    rng = np.random.default_rng(1)
    meeting = Meeting(made.oval(tmp_path), rng.uniform(0, 800, 20), rng.uniform(-4, 4, 20), rng.uniform(-30, 80, 20))
    for _ in range(300):
        given = meeting.cars.given
        given[step.STEER_TO] = rng.uniform(-0.35, 0.35, 20)
        given[step.THROTTLE_TO], given[step.BRAKE_TO] = rng.uniform(0, 1, 20), rng.uniform(-2, 1, 20).clip(0)
        meeting.frames(6)
        assert np.isfinite(meeting.cars.state).all() and np.isfinite(meeting.cars.travelled).all()
    assert np.abs(meeting.cars.state[step.VX]).max() < 120 and math.isfinite(meeting.energy())
