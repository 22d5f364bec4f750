"""The learner of a training: networks and, where no shards hold it, the replay buffer, behind a few calls that whoever runs the training
makes in order. It never waits for those who drive; how much of its time nobody had work for it, it tells."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from almanac.runtime import device
from almanac.runtime.errors import RunFailed
from almanac.sophy.buffer import Buffer
from almanac.sophy.qr_sac import Batch, Learner, Pace
from almanac.sophy.rollout import Experience, Plan, Published, Weights

_FEWER = 4
"""Of so many transitions that a minibatch has, so many times fewer are drawn of what was shown, to be followed."""
Drawn = tuple[Batch, Batch | None]
"""A minibatch, and what was shown."""


class Learnt(NamedTuple):
    """What came of some updates."""

    updates: int
    """Of all."""
    figures: dict[str, float]
    """Means of `Learner.update`'s."""
    busy: float
    """s that the learner worked since the last time."""
    idle: float
    """s that it waited for being asked."""


class Shard:
    """A part of the replay buffer.

    Args:
        plan: of the training.
        capacity: transitions.
        device_name: where they lie.
        number: of the shard; each draws others.
    """

    def __init__(self, plan: Plan, capacity: int, device_name: str = "cpu", number: int = 0):
        shares = {name: scenario.share for name, scenario in plan.scenarios.items()}
        self.shown = [name for name, scenario in plan.scenarios.items() if scenario.shown]
        self.buffer = Buffer(
            shares,
            capacity,
            plan.networks.observed,
            plan.networks.actions,
            device.resolve(device_name),
            plan.seed + 1_000 * number,
        )

    def insert(self, experience: Experience) -> int:
        """Add transitions; how many the shard was given so far."""
        for batch in experience.batches:
            self.buffer.insert(experience.scenario, batch)
        return self.buffer.inserted

    def sample(self, updates: int, count: int) -> list[Drawn]:
        """Minibatches of so many transitions, for so many updates."""
        return [(self.buffer.sample(count), self.buffer.of(self.shown, count // _FEWER)) for _ in range(updates)]


class Trainee:
    """The learner.

    Args:
        plan: of the training.
        batch: transitions of a minibatch.
        capacity: of its own part of the replay buffer; 0: shards hold all of it.
        device_name: where it computes.
        compiled: as `Learner` takes it.
    """

    def __init__(self, plan: Plan, batch: int, capacity: int, device_name: str = "cpu", compiled: bool = False):
        self.batch = batch
        self.learner = Learner(plan.networks, plan.learning, device.resolve(device_name), plan.seed, compiled)
        self.shard = Shard(plan, capacity, device_name) if capacity else None
        self._busy, self._idle, self._since = 0.0, 0.0, time.monotonic()

    def insert(self, experience: Experience) -> int:
        """Add transitions to its own buffer; how many it was given so far."""
        assert self.shard is not None
        with _Working(self):
            return self.shard.insert(experience)

    def learn(self, updates: int, pace: Pace, batches: Sequence[Drawn] | None = None) -> Learnt:
        """Update so many times.

        Args:
            updates: how often.
            pace: how fast.
            batches: of shards, one an update; none: of its own buffer.

        Raises:
            RunFailed: a loss is not finite.
        """
        with _Working(self):
            self.learner.set_pace(pace)
            seen = []
            for number in range(updates):
                drawn = self._drawn() if batches is None else batches[number]
                seen.append(self.learner.update(*(self._here(each) for each in drawn)))
            names = list(seen[0])
            means = torch.stack([torch.stack([each[name] for name in names]) for each in seen]).mean(0).tolist()
        figures = dict(zip(names, means, strict=True))
        if not all(abs(value) < float("inf") for value in means):
            what = f"after {self.learner.updates} updates a figure is not finite ({figures})"
            raise RunFailed(what, "the last checkpoint is from before; lower the learning rate")
        busy, idle, self._busy, self._idle = self._busy, self._idle, 0.0, 0.0
        return Learnt(self.learner.updates, figures, busy, idle)

    def policy(self) -> Published:
        """The policy."""
        with _Working(self):
            weights = {name: each.detach().cpu().clone() for name, each in self.learner.policy.state_dict().items()}
            return Published(self.learner.updates, weights)

    def state(self, whole: bool) -> dict[str, Any]:
        """All that going on takes.

        Args:
            whole: whether with its replay buffer, so that the same steps follow.
        """
        with _Working(self):
            kept = {"learner": self.learner.state()}
            return kept | ({"buffer": self.shard.buffer.state()} if whole and self.shard else {})

    def begin_with(self, weights: Weights) -> None:
        """Take a policy's weights; critics are new."""
        self.learner.policy.load_state_dict(weights)

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.learner.load(state["learner"])
        if "buffer" in state and self.shard is not None:
            self.shard.buffer.load(state["buffer"])

    def _drawn(self) -> Drawn:
        assert self.shard is not None
        return self.shard.sample(1, self.batch)[0]

    def _here(self, batch: Batch | None) -> Any:
        device = self.learner.device
        return batch if batch is None else Batch(*(each.to(device, non_blocking=True) for each in batch))


class _Working:
    """Counts what goes on inside as work, and what went on before as waiting."""

    def __init__(self, trainee: Trainee):
        self._trainee = trainee

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._trainee._idle += self._began - self._trainee._since

    def __exit__(self, *_: Any) -> None:
        self._trainee._since = time.monotonic()
        self._trainee._busy += self._trainee._since - self._began
