"""Who decides in a game that is watched, one step at a time, and says what it makes of what it sees: a model, or chance. It is told what
was done, by whomever, and goes on from there. How a model decides is `acting`'s."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from almanac.multigame_dt.acting import PAPER, Agent
from almanac.multigame_dt.emulator import Frame
from almanac.multigame_dt.games import ACTIONS
from almanac.multigame_dt.model import DecisionTransformer
from almanac.multigame_dt.play import Random


class Thought(NamedTuple):
    """What an agent makes of what it sees. Who decides without looking has the action alone."""

    action: int
    """That it would take."""
    actions: Float[np.ndarray, " actions"] | None = None
    """Probabilities of all."""
    predicted: Float[np.ndarray, " returns"] | None = None
    """Of returns, as it learned them."""
    tilted: Float[np.ndarray, " returns"] | None = None
    """Of returns, as it draws one."""
    target: int | None = None
    """The return that it has drawn, and aims at."""


@runtime_checkable
class Mind(Protocol):
    """Who plays, or would play."""

    def tilt(self, kappa: float) -> None:
        """Draw returns nearer to an expert's, or less so."""
        ...

    def begin(self) -> None:
        """An episode begins."""
        ...

    def think(self, frame: Frame) -> Thought:
        """Look, and decide."""
        ...

    def did(self, action: int, points: float) -> None:
        """What was done, by whomever, and what came of it."""
        ...


class AtRandom:
    """Who decides without looking.

    Args:
        actions: among which.
        seed: of its choices.
    """

    def __init__(self, actions: Sequence[int], seed: int):
        self._policy = Random(1, seed, actions)
        self._parts = np.isin(np.arange(ACTIONS), actions) / len(actions)

    def tilt(self, kappa: float) -> None:
        """Returns are not drawn."""

    def begin(self) -> None:
        """Nothing was remembered."""

    def think(self, frame: Frame) -> Thought:
        """Any action, each as often as the others."""
        chosen = self._policy.act(frame[None], np.ones(1, bool))
        return Thought(int(chosen.actions[0]), self._parts)

    def did(self, action: int, points: float) -> None:
        """Nothing is learned from it."""


class Looking:
    """Who looks, and decides as a model does.

    Args:
        model: a transformer.
        device: where it computes.
        seed: of its draws.
    """

    def __init__(self, model: DecisionTransformer, device: str, seed: int):
        self._agent = Agent(model, 1, PAPER, device, seed=seed)

    def tilt(self, kappa: float) -> None:
        """Draw returns nearer to an expert's, or less so."""
        self._agent.sampler = replace(self._agent.sampler, kappa=kappa)

    def begin(self) -> None:
        """An episode begins."""
        self._agent.reset(0)

    def think(self, frame: Frame) -> Thought:
        """Look, and decide; again, if nothing was done since."""
        found = self._agent.act(frame[None])
        predicted, tilted = (
            None if each is None else each[0] for each in (found.predicted, found.return_probabilities)
        )
        target = None if found.returns is None else int(found.returns[0])
        return Thought(int(found.actions[0]), found.action_probabilities[0], predicted, tilted, target)

    def did(self, action: int, points: float) -> None:
        """What was done, by whomever, and what came of it."""
        self._agent.observe(np.array([points]), np.array([action]))
