"""Driving to learn: an actor holds races of each scenario, drives them for a while with the policy that it is given, and returns n-step
transitions, what was seen of the driving, and states from which control was lost. It forms transitions itself and knows no learner."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from almanac.sophy import env, hands, opponents
from almanac.sophy.env import Rules, Sight
from almanac.sophy.model import Networks, Policy
from almanac.sophy.n_step import NStep
from almanac.sophy.qr_sac import Batch, Config
from almanac.sophy.scenarios import MISTAKE, Beginnings, Scenario
from almanac.sophy.sim import step
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

_SKILLS = (0.75, 1.0)
"""Of built-in opponents."""
_ERRORS = 0.01
"""Chance of an opponent that errs to begin an error, each decision."""
_ERROR_LASTS = (5, 20)
"""Decisions."""
_ERROR_KINDS = ((0.0, -0.7), (0.0, -0.2), (0.12, 0.0), (-0.12, 0.0))
"""What an error adds to steering, and the pedal that it keeps to at most (none: 0): braking early, lifting, and two swerves."""
_SHOWN = (0.9, 1.0)
"""Skills of built-in drivers who show how it is done."""
_UNSTEADY = 0.05
"""Standard deviation of what is added to their actions where they are unsteady."""
_BEFORE = (10, 25)
"""Decisions before a loss of control from which it is practised again."""
_RESCUER = 0.9
"""Skill of the built-in driver who brings a car back whose episode ended while others race on."""
_STRAIGHT, _ROLLING = 0.2, 8.0
"""rad to the road, and m/s, from which it is back."""
_SPUN = 1.2
"""rad to the road from which a car has spun."""


@dataclass(frozen=True)
class Plan:
    """What all parts of a training know."""

    track: Track
    car: CarSpec
    sight: Sight
    rules: Rules
    scenarios: Mapping[str, Scenario]
    networks: Networks
    learning: Config
    gamma: float
    """Discount of a decision."""
    steps: int
    """n, of a transition."""
    cars: int
    """That learn at the same time, of each actor and scenario."""
    seed: int


Weights = dict[str, Tensor]


class Published(NamedTuple):
    """A policy that goes out."""

    version: int
    """Updates that it had."""
    weights: Weights


class Order(NamedTuple):
    """What an actor is asked to do."""

    scenario: str
    decisions: int
    mistakes: Float[np.ndarray, "states numbers"]
    """States to begin from, where the scenario is theirs."""


class Experience(NamedTuple):
    """What came of it."""

    scenario: str
    version: int
    batches: list[Batch]
    """Observations in half precision."""
    seconds: float
    """Driven, of all cars that learn."""
    terms: dict[str, float]
    """Of the reward, mean of a decision."""
    lost: int
    """How often control was lost: off the track, at a wall, or spun."""
    mistakes: Float[np.ndarray, "states numbers"]

    @property
    def transitions(self) -> int:
        """How many there are."""
        return sum(len(each.returns) for each in self.batches)


class Actor:
    """One that drives.

    Args:
        plan: of the training.
        number: of this actor; each drives another way.
    """

    def __init__(self, plan: Plan, number: int):
        self.plan = plan
        self.generator = torch.Generator().manual_seed(_seed(plan.seed, number, 0))
        self.policy, self.earlier = Policy(plan.networks), Policy(plan.networks)
        self.has_earlier = False
        self.fields = {
            name: _Field(plan, scenario, _seed(plan.seed, number, 1 + at))
            for at, (name, scenario) in enumerate(plan.scenarios.items())
        }

    def drive(self, order: Order, policy: Published, earlier: Published | None) -> Experience:
        """Drive.

        Args:
            order: what, and for how long.
            policy: the one that learns.
            earlier: one that opponents may drive by.
        """
        self.policy.load_state_dict(policy.weights)
        self.has_earlier = earlier is not None
        if earlier is not None:
            self.earlier.load_state_dict(earlier.weights)
        field = self.fields[order.scenario]
        made: list[Batch] = []
        field.beginnings.mistakes = order.mistakes
        terms: dict[str, float] = dict.fromkeys(env.TERMS, 0.0)
        lost: list[np.ndarray] = []
        for _ in range(order.decisions):
            actions = field.shown.act(field.races) if field.shown else self._act(self.policy, field.seen[field.own])
            theirs = None
            if field.others is not None and self.has_earlier:
                theirs = self._act(self.earlier, field.seen[field.others.learnt])
            batches, of_terms, mistakes = field.step(actions, theirs)
            made += batches
            lost.append(mistakes)
            for name, value in of_terms.items():
                terms[name] += float(value) / order.decisions
        seconds = order.decisions / env.RATE * len(field.own)
        found = np.concatenate(lost)
        return Experience(
            order.scenario, policy.version, [_halved(Batch(*map(torch.cat, zip(*made, strict=True))))] if made else [],
            seconds, terms, len(found), found,
        )  # fmt: skip

    def _act(self, policy: Policy, seen: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            noise = torch.randn(len(seen), self.plan.networks.actions, generator=self.generator)
            # In memory of PyTorch's own: how NumPy's is aligned differs from run to run, and with it, on some processors, the last bit.
            return policy.sample(torch.tensor(seen), noise)[0].numpy()

    def state(self) -> dict[str, Any]:
        """All that going on takes."""
        fields = {name: field.state() for name, field in self.fields.items()}
        return {"fields": fields, "generator": self.generator.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.generator.set_state(state["generator"])
        for name, field in self.fields.items():
            field.load(state["fields"][name])


class _Field:
    """Races of a scenario under way."""

    def __init__(self, plan: Plan, scenario: Scenario, seed: int):
        self.beginnings = Beginnings(scenario)
        each = scenario.cars
        count = each * max(plan.cars // scenario.own, 1)
        self.races = env.make(
            plan.track, plan.car, count, each, sight=plan.sight, rules=plan.rules, begin=self.beginnings
        )
        self.own = np.flatnonzero(np.arange(count) % each < scenario.own)
        """From whom the agent learns."""
        self.rng = np.random.default_rng(seed)
        self.shown = _Shown(plan, count, each, self.rng) if scenario.shown else None
        theirs = np.setdiff1d(np.arange(count), self.own)
        self.others = _Others(plan, theirs, each, self.rng) if len(theirs) else None
        learn = len(self.own)
        self.n_step = NStep(learn, self.races.seen, plan.networks.actions, plan.steps, plan.gamma)
        self.away = np.zeros(learn, bool)  # whose episode ended before its race did
        self.rescue = opponents.Drivers(plan.track, plan.car, learn * [_RESCUER]) if self.others is not None else None
        self.trail = np.zeros((_BEFORE[1], MISTAKE, learn))  # where each was, the newest first
        self.driven = np.zeros(learn, np.int64)  # decisions since it began, or last lost control
        self.seen, _ = self.races.reset(seed=seed)

    def step(self, actions: np.ndarray, earlier: np.ndarray | None) -> tuple[list[Batch], dict[str, float], np.ndarray]:
        """A decision of all: transitions, the reward's terms, and states from which control was lost.

        Args:
            actions: of the cars that are learnt from.
            earlier: what an earlier policy does at the wheel of opponents that learnt.
        """
        self._remember()
        wishes = np.zeros((self.races.num_envs, 2), np.float32)
        wishes[self.own] = hands.wishes(actions, self.races.cars, self.own, self.races.vehicle)
        if self.others is not None:
            self.others.act(self.races, earlier, wishes)
        if self.rescue is not None and self.away.any():
            wishes[self.own[self.away]] = self.rescue.act(self.races.cars, self.own, self.races.each)[self.away]
        seen, rewards, stuck, late, info = self.races.step(wishes)
        last = np.where(info["_final_obs"][:, None], info["final_obs"], seen) if "final_obs" in info else seen
        own, over, away = self.own, (stuck | late)[self.own], self.away
        gone = info["gone"][own] & ~away
        batches = self.n_step.add(self.seen[own], actions, rewards[own], gone, late[own] & ~gone, last[own], away)
        mistakes = self._lost(over)
        self.away = (away | gone) & ~over & ~self._is_back()
        self.seen = seen
        return batches, {name: value[own].mean() for name, value in info["terms"].items()}, mistakes

    def _is_back(self) -> np.ndarray:
        """Who drives along the road."""
        cars, own = self.races.cars, self.own
        return ~cars.off[own] & (np.abs(cars.angle[own]) < _STRAIGHT) & (cars.state[step.VX, own] > _ROLLING)

    def _remember(self) -> None:
        cars, own = self.races.cars, self.own
        self.trail = np.roll(self.trail, 1, axis=0)
        place = cars.nearest[own] * self.races.road.step + cars.along[own]
        self.trail[0] = np.concatenate(
            (np.stack((place, cars.offset[own], cars.angle[own])), cars.state[step.VX :, own])
        )

    def _lost(self, ended: np.ndarray) -> np.ndarray:
        """States before those that lost control now."""
        cars, own = self.races.cars, self.own
        self.driven = np.where(ended, 0, self.driven + 1)
        lost = cars.off[own] | cars.wall[own] | (np.abs(cars.angle[own]) > _SPUN)
        new = np.flatnonzero(lost & (self.driven > _BEFORE[1]))
        self.driven[lost] = 0
        when = self.rng.integers(*_BEFORE, size=len(new))
        return self.trail[when, :, new]

    def state(self) -> dict[str, Any]:
        """All that going on takes."""
        kept = {name: torch.from_numpy(getattr(self, name).copy()) for name in ("trail", "driven", "seen", "away")}
        cars = {name: torch.from_numpy(each.copy()) for name, each in self.races.cars._asdict().items()}
        steps = {name: torch.from_numpy(getattr(self.n_step, name).copy()) for name in _STEPS}
        others = self.others.state() if self.others is not None else {}
        return {
            **kept, "cars": cars, "steps": steps, "now": self.n_step.now, "slow": torch.from_numpy(self.races.slow.copy()),
            "astray": torch.from_numpy(self.races.astray.copy()),
            "rng": self.rng.bit_generator.state, "races_rng": self.races.np_random.bit_generator.state, "others": others,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name in ("trail", "driven", "seen", "away"):
            setattr(self, name, state[name].numpy().copy())
        for name, each in self.races.cars._asdict().items():
            each[...] = state["cars"][name].numpy()
        for name in _STEPS:
            getattr(self.n_step, name)[...] = state["steps"][name].numpy()
        self.n_step.now = state["now"]
        self.races.slow, self.races.astray = state["slow"].numpy().copy(), state["astray"].numpy().copy()
        self.rng.bit_generator.state = state["rng"]
        self.races.np_random.bit_generator.state = state["races_rng"]
        if self.others is not None:
            self.others.load(state["others"])


_STEPS = ("observations", "actions", "rewards", "held")


class _Shown:
    """Built-in drivers who show how it is done, half of them with an unsteady hand, so that mending is seen, too."""

    def __init__(self, plan: Plan, count: int, each: int, rng: np.random.Generator):
        self.numbers, self.each, self.rng = np.arange(count), each, rng
        skills = np.linspace(*_SHOWN, count).round(2).reshape(each, -1).T  # a race has some of all
        self.drivers = opponents.Drivers(plan.track, plan.car, skills.ravel().tolist())
        self.unsteady = np.arange(count)[:, None] % 2 * _UNSTEADY

    def act(self, races: env.Racing) -> np.ndarray:
        """What they do, as a policy would have done it."""
        wishes = self.drivers.act(races.cars, self.numbers, self.each)
        noise = self.rng.standard_normal(wishes.shape) * self.unsteady
        wishes = (wishes + noise).clip(-1, 1).astype(np.float32)
        return hands.actions(wishes, races.cars, self.numbers, races.vehicle)


class _Others:
    """Opponents: of three races, one is of built-in drivers, in one these err, and in one earlier policies drive."""

    def __init__(self, plan: Plan, numbers: np.ndarray, each: int, rng: np.random.Generator):
        self.numbers = numbers
        skills = np.linspace(*_SKILLS, 6)[rng.integers(6, size=len(numbers))].round(3)
        self.drivers = opponents.Drivers(plan.track, plan.car, skills.tolist())
        kind = numbers // each % 3
        self.err, self.learnt = kind == 1, numbers[kind == 2]
        self.rng, self.each = rng, each
        self.left = np.zeros(len(self.numbers), np.int64)  # decisions that its error still lasts
        self.kind = np.zeros(len(self.numbers), np.int64)

    def act(self, races: env.Racing, earlier: np.ndarray | None, given: np.ndarray) -> None:
        """Put opponents' wishes in their places among all.

        Args:
            races: the races.
            earlier: actions of an earlier policy, of those that learnt.
            given: wishes of all cars.
        """
        wishes = self.drivers.act(races.cars, self.numbers, self.each)
        begin = self.err & (self.left == 0) & (self.rng.random(len(self.err)) < _ERRORS)
        self.kind = np.where(begin, self.rng.integers(len(_ERROR_KINDS), size=len(begin)), self.kind)
        self.left = np.where(begin, self.rng.integers(*_ERROR_LASTS, size=len(begin)), np.maximum(self.left - 1, 0))
        erring = self.left > 0
        steering, pedal = np.array(_ERROR_KINDS, np.float32)[self.kind[erring]].T
        wishes[erring, 0] += steering
        wishes[erring, 1] = np.where(pedal < 0, np.minimum(wishes[erring, 1], pedal), wishes[erring, 1])
        given[self.numbers] = wishes.clip(-1, 1)
        if earlier is not None:
            given[self.learnt] = hands.wishes(earlier, races.cars, self.learnt, races.vehicle)

    def state(self) -> dict[str, Any]:
        """All that going on takes."""
        names = ("left", "kind")
        own = {name: torch.from_numpy(getattr(self, name).copy()) for name in names}
        drivers = {name: torch.from_numpy(getattr(self.drivers, name).copy()) for name in ("aside", "patience")}
        return {**own, **drivers}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.left, self.kind = state["left"].numpy().copy(), state["kind"].numpy().copy()
        self.drivers.aside[:], self.drivers.patience[:] = state["aside"].numpy(), state["patience"].numpy()


def _halved(batch: Batch) -> Batch:
    return batch._replace(observations=batch.observations.half(), next_observations=batch.next_observations.half())


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
