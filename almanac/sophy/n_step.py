"""n-step transitions of many cars at once, formed while they drive: the return of n rewards, or of fewer where an episode ended, and where
it went on from. Only an end that is the car's own stops the return; a time that is over does not."""

import numpy as np
import torch
from jaxtyping import Bool, Float

from almanac.sophy.qr_sac import Batch


class NStep:
    """The last steps of each car.

    Args:
        cars: how many.
        observed: numbers of an observation.
        actions: of an action.
        steps: n.
        gamma: discount of a step.
    """

    def __init__(self, cars: int, observed: int, actions: int, steps: int, gamma: float):
        self.steps, self.gamma = steps, gamma
        self.observations = np.zeros((steps, cars, observed), np.float32)
        self.actions = np.zeros((steps, cars, actions), np.float32)
        self.rewards = np.zeros((steps, cars))
        self.held = np.zeros(cars, np.int64)
        """Steps of each car that no transition began with yet."""
        self.now = 0

    def add(
        self,
        observations: Float[np.ndarray, "cars observed"],
        actions: Float[np.ndarray, "cars actions"],
        rewards: Float[np.ndarray, " cars"],
        terminated: Bool[np.ndarray, " cars"],
        truncated: Bool[np.ndarray, " cars"],
        next_observations: Float[np.ndarray, "cars observed"],
        away: Bool[np.ndarray, " cars"] | None = None,
    ) -> list[Batch]:
        """Take a step of all cars.

        Args:
            observations: before it.
            actions: what was done.
            rewards: what it brought.
            terminated: whose episode ended, after which nothing is to be won.
            truncated: whose time was over.
            next_observations: after it; of those that ended, their last.
            away: whose step is none of theirs; none: nobody's.

        Returns:
            Transitions that are complete now, of their cars in order.
        """
        slot, ended = self.now % self.steps, terminated | truncated
        self.observations[slot], self.actions[slot], self.rewards[slot] = observations, actions, rewards
        self.held = self.held + 1 if away is None else np.where(away, 0, self.held + 1)
        made = []
        for length in range(self.steps, 0, -1):
            whose = np.flatnonzero(self.held == length if length == self.steps else ended & (self.held >= length))
            if len(whose) == 0:
                continue
            first = self.now - length + 1
            places = [(first + step) % self.steps for step in range(length)]
            returns = sum(self.gamma**step * self.rewards[place, whose] for step, place in enumerate(places))
            discounts = np.where(terminated[whose], 0.0, self.gamma**length)
            made.append(
                Batch(
                    torch.from_numpy(self.observations[places[0], whose]),
                    torch.from_numpy(self.actions[places[0], whose]),
                    torch.from_numpy(np.asarray(returns, np.float32)),
                    torch.from_numpy(discounts.astype(np.float32)),
                    torch.from_numpy(next_observations[whose]),
                )
            )
        self.held[self.held == self.steps] -= 1
        self.held[ended] = 0
        self.now += 1
        return made
