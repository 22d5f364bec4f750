"""Sophy's hands: what a policy does with the steering wheel is to turn it, as far as hands can within a decision, gently unless it asks
for much. A wheel's angle would be an action most of which is out of reach, where nothing that a critic says has a slope (docs/log.md)."""

import numpy as np
from jaxtyping import Float, Int

from almanac.sophy.env import RATE
from almanac.sophy.sim import step, world
from almanac.sophy.sim.car import CarSpec


def wishes(
    actions: Float[np.ndarray, "some 2"], cars: world.Cars, numbers: Int[np.ndarray, " some"], car: CarSpec
) -> Float[np.ndarray, "some 2"]:
    """Steering and pedal, as the environment takes them.

    Args:
        actions: of a policy: how far the wheel is turned, and the pedal (−1 to 1).
        cars: all cars.
        numbers: whose actions they are.
        car: what they are.
    """
    angle, turn = cars.state[step.STEER, numbers] / car.steering, _most(car) * _turned(actions[:, 0])
    return np.stack(((angle + turn).clip(-1, 1), actions[:, 1]), 1).astype(np.float32)


def actions(
    wishes: Float[np.ndarray, "some 2"], cars: world.Cars, numbers: Int[np.ndarray, " some"], car: CarSpec
) -> Float[np.ndarray, "some 2"]:
    """What a policy would have done to the same effect; the other way round of `wishes`."""
    turn = (wishes[:, 0] - cars.state[step.STEER, numbers] / car.steering) / _most(car)
    return np.stack((np.interp(turn, _turned(_ASKED), _ASKED), wishes[:, 1]), 1).astype(np.float32)


_GENTLY = 0.3
"""Of how far the wheel may turn in a decision, what an action of 1 would be if it went on as it begins."""
_ASKED = np.linspace(-1, 1, 2001)


def _turned(asked: np.ndarray) -> np.ndarray:
    return asked * (_GENTLY + (1 - _GENTLY) * asked**2)


def _most(car: CarSpec) -> float:
    """How far the wheel turns in a decision, as a part of how far it goes to one side."""
    return car.steering_rate / (RATE * car.steering)
