"""Cars through time: they stand and stop, do not see each other, and nothing becomes what is not a number."""

import numpy as np
import pytest

from almanac.sophy.sim import car, step

SPEC = car.load("f1_2014")
CAR, DRIVE = step.numbers(SPEC)


class Cars:
    """Some cars on a level road."""

    def __init__(self, count: int, speed: float = 0.0):
        self.state = np.zeros((step.STATES, count), np.float32)
        self.given = np.zeros((step.GIVEN, count), np.float32)
        self.seen = np.zeros((step.SEEN, count), np.float32)
        self.state[step.VX] = speed
        self.state[step.SPIN : step.SPIN + 4] = speed / 0.33
        self.given[step.GRIP : step.GRIP + 4] = 1
        self.given[step.WEIGHT] = 9.81
        self.given[[step.PRESSED, step.HELD, step.ENGAGED, step.TRACTION, step.ABS]] = 1

    def drive(self, seconds: float, **asked) -> "Cars":
        for name, value in asked.items():
            self.given[getattr(step, name)] = value
        step.advance(CAR, DRIVE, self.state, self.given, self.seen, round(seconds * step.RATE))
        return self


def test_a_car_stands_and_stops():
    cars = Cars(3).drive(5)
    assert np.array_equal(cars.state[[step.X, step.Y, step.VX, step.VY, step.TURN]], np.zeros((5, 3), np.float32))
    cars = Cars(1, 60.0).drive(5, BRAKE_TO=1.0)
    assert abs(cars.state[step.VX, 0]) < 0.02 and 55 < cars.state[step.X, 0] < 100


@pytest.mark.parametrize("count", [1, 31, 32, 33, 70])
def test_cars_beside_others_are_the_same_alone(count):
    rng = np.random.default_rng(count)
    asked = rng.uniform(-0.2, 0.2, count).astype(np.float32), rng.uniform(0, 1, count).astype(np.float32)
    together = Cars(count, 40.0).drive(2, STEER_TO=asked[0], THROTTLE_TO=asked[1])
    for number in (0, count - 1):
        alone = Cars(1, 40.0).drive(2, STEER_TO=asked[0][number], THROTTLE_TO=asked[1][number])
        assert np.array_equal(alone.state[:, 0], together.state[:, number])


def test_whatever_is_done_numbers_stay_numbers():
    rng = np.random.default_rng(0)
    cars = Cars(64)
    cars.state[step.VX : step.TURN + 1] = rng.uniform((-60,), (90,), (3, 64)) * ((1,), (0.5,), (0.1,))
    for _ in range(200):
        cars.given[step.GRIP : step.GRIP + 4] = rng.uniform(0.2, 1, (4, 64))
        cars.given[[step.TRACTION, step.ABS]] = rng.integers(0, 2, (2, 64))
        cars.drive(
            0.1,
            STEER_TO=rng.uniform(-0.35, 0.35, 64),
            THROTTLE_TO=rng.uniform(0, 1, 64),
            BRAKE_TO=rng.uniform(-1, 1, 64).clip(0),
        )
        assert np.isfinite(cars.state).all() and np.isfinite(cars.seen).all()
        assert np.abs(cars.state[step.VX]).max() < 120
