"""The replay buffer: a table for each scenario, from which every minibatch takes a fixed part, so that what is learnt in one scenario is
not forgotten while another is driven (Wurman et al. 2022, Methods). Observations are kept in half precision."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from almanac.sophy.qr_sac import Batch

_CPU = torch.device("cpu")


class Table:
    """A ring of the newest transitions.

    Args:
        capacity: how many.
        observed: numbers of an observation.
        actions: of an action.
        device: where they lie.
    """

    def __init__(self, capacity: int, observed: int, actions: int, device: torch.device):
        def rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(capacity, *shape, dtype=dtype, device=device)

        self.capacity, self.filled, self._next = capacity, 0, 0
        half = torch.float16
        self.rows = Batch(rows(observed, dtype=half), rows(actions), rows(), rows(), rows(observed, dtype=half))

    def insert(self, batch: Batch) -> None:
        """Put transitions in the place of the oldest."""
        count = min(len(batch.returns), self.capacity)
        first = min(count, self.capacity - self._next)
        for kept, new in zip(self.rows, batch, strict=True):
            kept[self._next : self._next + first] = new[:first]
            kept[: count - first] = new[first:count]
        self._next = (self._next + count) % self.capacity
        self.filled = min(self.filled + count, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """Transitions drawn by chance, with replacement."""
        device = self.rows.returns.device
        drawn = torch.randint(self.filled, (count,), generator=generator, device=device)
        return Batch(*(each[drawn].float() for each in self.rows))

    def state(self) -> dict[str, Any]:
        """All that going on takes."""
        kept = {name: each[: self.filled].clone() for name, each in self.rows._asdict().items()}
        return {**kept, "filled": self.filled, "next": self._next}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.filled, self._next = state["filled"], state["next"]
        for name, each in self.rows._asdict().items():
            each[: self.filled] = state[name]


class Buffer:
    """Tables by scenario.

    Args:
        shares: of each minibatch, by scenario.
        capacity: transitions of all tables together, shared alike.
        observed: numbers of an observation.
        actions: of an action.
        device: where they lie.
        seed: of what is drawn.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        capacity: int,
        observed: int,
        actions: int = 2,
        device: torch.device = _CPU,
        seed: int = 0,
    ):
        whole = sum(shares.values())
        self.shares = {name: share / whole for name, share in shares.items()}
        self.tables = {
            name: Table(max(1, int(share * capacity)), observed, actions, device) for name, share in self.shares.items()
        }
        self.inserted = 0
        self.generator = torch.Generator(device).manual_seed(seed)

    def insert(self, name: str, batch: Batch) -> None:
        """Add a scenario's transitions."""
        self.tables[name].insert(batch)
        self.inserted += len(batch.returns)

    def sample(self, count: int) -> Batch:
        """A minibatch, of each scenario its part; scenarios of which there is nothing yet leave theirs to the others.

        Args:
            count: transitions.
        """
        found = self.of(list(self.tables), count)
        assert found is not None
        return found

    def of(self, names: Sequence[str], count: int) -> Batch | None:
        """Likewise, of some scenarios; none where there is nothing of them yet."""
        there = {name: self.shares[name] for name in names if self.tables[name].filled}
        drawn, left, weight = [], count, sum(there.values())
        for name, share in there.items():
            part = round(left * share / weight)
            left, weight = left - part, weight - share
            if part:
                drawn.append(self.tables[name].sample(part, self.generator))
        if len(drawn) < 2:
            return drawn[0] if drawn else None
        return Batch(*(torch.cat(each) for each in zip(*drawn, strict=True)))

    def state(self) -> dict[str, Any]:
        """All that going on takes."""
        tables = {name: table.state() for name, table in self.tables.items()}
        return {"tables": tables, "inserted": self.inserted, "generator": self.generator.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same tables."""
        for name, table in self.tables.items():
            table.load(state["tables"][name])
        self.inserted = state["inserted"]
        self.generator.set_state(state["generator"])
