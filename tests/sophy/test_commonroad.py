"""A car that corners steadily, beside CommonRoad's models of the same car: as the drifting single track and the multi-body model do, and
not as that with linear tyres, which never slides."""

import numpy as np
import pytest
from scipy.optimize import root

from almanac.sophy.sim import car, step
from tests.sophy.test_closed_forms import Cars

pytest.importorskip("vehiclemodels", reason="pip install commonroad-vehicle-models")

from vehiclemodels.init_mb import init_mb
from vehiclemodels.parameters_vehicle2 import parameters_vehicle2
from vehiclemodels.vehicle_dynamics_mb import vehicle_dynamics_mb
from vehiclemodels.vehicle_dynamics_st import vehicle_dynamics_st
from vehiclemodels.vehicle_dynamics_std import vehicle_dynamics_std

THEIRS = parameters_vehicle2()
BASE = THEIRS.a + THEIRS.b
SPEEDS = (12.0, 16.0, 20.0, 25.0, 30.0)
"""m/s."""
ACROSS = (2.0, 4.0, 6.0, 8.0)
"""Acceleration, m/s², to which a car is steered that does not slip."""
# Of the multi-body model's numbers (init_mb), those that are sought, those of their changes that must be none, and how these are measured.
_SOUGHT = [5, 6, 8, 10, 11, 13, 15, 16, 18, 20, 21, 23, 24, 25, 26, 27, 28]
_STILL = [3, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20, 22, 23, 24, 25, 26, 27, 28]
_SIZE = np.array([1, 1, 0.1, 0.1, 1, 1, 0.1, 1, 1, 0.1, 1, 1, 0.01, 0.01, 0.01, 0.01, 1, 1])


def drifting(speed: float) -> list[float]:
    """Turning, rad/s, of the drifting single track at each steering."""
    found, guess = [], np.array([0.0, 0.0, speed / THEIRS.R_w, speed / THEIRS.R_w, 0.1])
    for across in ACROSS:

        def changes(now: np.ndarray, angle: float = across * BASE / speed**2) -> list[float]:
            turn, slide, front, rear, gain = now
            rates = vehicle_dynamics_std([0, 0, angle, speed, 0, turn, slide, front, rear], [0, gain], THEIRS)
            return [rates[3], rates[5], rates[6], 0.01 * rates[7], 0.01 * rates[8]]

        solved = root(changes, guess)
        assert solved.success
        guess = solved.x
        found.append(float(guess[0]))
    return found


def many_bodies(speed: float) -> list[float]:
    """The same of the multi-body model."""
    still = np.array(init_mb([0, 0, 0, speed, 0, 0, 0], THEIRS), float)
    found, guess = [], np.append(still[_SOUGHT], 0.1)
    for across in np.linspace(0.5, max(ACROSS), 16):  # in steps, each from where the last one ended

        def changes(now: np.ndarray, angle: float = float(across) * BASE / speed**2) -> np.ndarray:
            state = still.copy()
            state[_SOUGHT], state[2] = now[:-1], angle
            return np.array(vehicle_dynamics_mb(state.tolist(), [0, now[-1]], THEIRS))[_STILL] * _SIZE

        solved = root(changes, guess)
        assert solved.success
        guess = solved.x
        if across in ACROSS:
            found.append(float(guess[0]))
    return found


@pytest.fixture(scope="module")
def ours() -> np.ndarray:
    """Turning of ours, speeds × steering."""
    speeds, across = (each.ravel() for each in np.meshgrid(SPEEDS, ACROSS, indexing="ij"))
    cars = Cars(car.load("bmw_320i"), speeds)
    for frame in range(12 * 60):
        fast = np.hypot(*cars.state[[step.VX, step.VY]])
        cars.drive(
            4,
            STEER_TO=across * BASE / speeds**2 * min(1.0, frame / 300),
            THROTTLE_TO=np.clip(0.05 + 0.5 * (speeds - fast), 0, 1),
        )
    assert np.abs(np.hypot(*cars.state[[step.VX, step.VY]]) / speeds - 1).max() < 0.02
    return cars.state[step.TURN].reshape(len(SPEEDS), len(ACROSS))


@pytest.mark.parametrize("theirs", [drifting, many_bodies])
def test_a_car_turns_as_much_as_theirs(theirs, ours):
    known = np.array([theirs(speed) for speed in SPEEDS])
    assert np.abs(ours / known - 1).max() < 0.06


def test_a_car_slides_where_that_with_linear_tyres_does_not():
    """Steered ever more at 20 m/s."""
    cars, frames = Cars(car.load("bmw_320i"), [20.0]), 240
    angles = np.linspace(0, 0.16, frames)
    ours = 0.0
    for angle in angles:
        cars.drive(4, STEER_TO=angle)
        ours = max(ours, float(cars.state[step.VX, 0] * cars.state[step.TURN, 0]))
    found = []
    for model, state in (
        (vehicle_dynamics_std, [0, 0, 0, 20.0, 0, 0, 0, 20.0 / THEIRS.R_w, 20.0 / THEIRS.R_w]),
        (vehicle_dynamics_st, [0, 0, 0, 20.0, 0, 0, 0]),
    ):
        now, most = np.array(state, float), 0.0
        for angle in angles:
            for _ in range(16):
                now[2] = angle
                now = now + np.array(model(now.tolist(), [0, 0], THEIRS)) / (60 * 16)
            most = max(most, float(now[3] * now[5]))
        found.append(most)
    limit = THEIRS.tire.p_dy1 * 9.81
    assert found[1] > 2 * limit  # linear
    assert abs(ours / found[0] - 1) < 0.1 and ours < 1.1 * limit
