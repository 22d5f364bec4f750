"""Agents that plan: they try what would happen on a copy of the console, and take the first action of the best that they found. Flat Monte
Carlo plays at random, persistently, for a second or two; Rollout-IW(1) (Bandrés, Bonet and Geffner 2018) grows a tree of what is new to the
console's memory. Where nothing tells actions apart the last one goes on, or none is taken: decided by chance, it could not be learned. How
well they play is set by how much they may try, and how often they act at random instead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt8

from almanac.multigame_dt.collect.record import record
from almanac.multigame_dt.emulator import Emulator
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.logs import Episode
from almanac.runtime.errors import UserError

HELD = 2  # steps of an agent that an action is held: 8 frames
DISCOUNT = 0.98  # of an action; points that come sooner are surer
PERSISTENCE = 0.8  # probability with which a random player repeats its action: a paddle crosses the screen
LIFE = 10.0  # what a life is worth, in the largest gains of an action that were met so far
DEEPEST = 100  # actions that a tree looks ahead, at most

QUALITIES = {0.2: (8, 0.5), 0.4: (8, 0.2), 0.6: (16, 0.1), 0.8: (40, 0.05), 1.0: (100, 0.0)}
"""For each quality: actions that are tried before one is taken, and how often it is a random one instead."""


@dataclass(frozen=True)
class Plan:
    """How to plan."""

    budget: int = 40
    """Actions that are tried before one is taken."""
    mixed: float = 0.0
    """Probability of a random action instead."""
    depth: int = 10
    """Actions that flat Monte Carlo looks ahead, at most: as many as leave it four ways to choose from."""


class Planner(Protocol):
    """Who chooses."""

    def choose(self, console: Emulator) -> int:
        """An action, of the full set; the console stays as it is."""
        ...

    def forget(self) -> None:
        """Another action was taken than the chosen one."""
        ...


def play(game: Game, agent: str, quality: float, generator: np.random.Generator) -> Episode:
    """An episode.

    Args:
        game: which.
        agent: one of `PLANNERS`.
        quality: one of `QUALITIES`.
        generator: of no-ops and of what is tried.

    Raises:
        UserError: there is no such agent or quality.
    """
    if agent not in PLANNERS:
        raise UserError(f"no planner is called {agent}", f"they are {', '.join(PLANNERS)}")
    if quality not in QUALITIES:
        raise UserError(f"no planner is of quality {quality:g}", f"choose among {', '.join(map(str, QUALITIES))}")
    budget, mixed = QUALITIES[quality]
    return played(game, agent, Plan(budget, mixed), quality, generator)


def played(game: Game, agent: str, plan: Plan, quality: float, generator: np.random.Generator) -> Episode:
    """An episode, with numbers of one's own.

    Args:
        game: which.
        agent: one of `PLANNERS`.
        plan: how.
        quality: what the log says of it.
        generator: of no-ops and of what is tried.
    """
    planner = PLANNERS[agent](game, plan, generator)

    def choose(console: Emulator) -> int:
        if generator.random() < plan.mixed:
            planner.forget()
            return int(generator.choice(console.actions))
        return planner.choose(console)

    return record(game, choose, generator, agent=agent, quality=quality, held=HELD)


class Outcome(NamedTuple):
    """What an action led to."""

    points: float
    lives: int
    """That were lost."""
    over: bool


class Copy:
    """A second console, to try actions on. The one that is played on is never set back: not every console plays on as it would have.

    Args:
        game: which.
    """

    def __init__(self, game: Game):
        self.emulator = Emulator(game)
        self.emulator.start()
        self.actions = self.emulator.actions
        self._largest = 1.0

    def hold(self, action: int) -> Outcome:
        """Hold an action, on the copy as it is.

        Args:
            action: of the full set.
        """
        lives, points = self.emulator.lives, 0.0
        for _ in range(HELD):
            if not self.emulator.over:
                points += self.emulator.step(action)
        self._largest = max(self._largest, abs(points))
        return Outcome(points, max(0, lives - self.emulator.lives), self.emulator.over)

    def worth(self, outcome: Outcome) -> float:
        """Points, less what the lives are worth that were lost.

        Args:
            outcome: of an action.
        """
        return outcome.points - LIFE * self._largest * outcome.lives


class FlatMonteCarlo:
    """Random play, of which the best is followed as long as nothing better is found.

    Args:
        game: which.
        plan: how.
        generator: of what is tried.
    """

    def __init__(self, game: Game, plan: Plan, generator: np.random.Generator):
        self.copy, self.generator = Copy(game), generator
        self.depth = max(1, min(plan.depth, plan.budget // 4))
        self.ways = plan.budget // self.depth
        self.forget()

    def forget(self) -> None:
        self._best: list[int] = []
        self._last = 0

    def choose(self, console: Emulator) -> int:
        here = console.saved()
        found = [self._rollout(here, begin) for begin in self._beginnings()]
        worth = max(each[0] for each in found)
        best = min((each for each in found if each[0] == worth), key=lambda each: _preferred(each[1][0], self._last))
        self._last, self._best = best[1][0], best[1][1:]
        return self._last

    def _beginnings(self) -> list[list[int]]:
        """What was best goes on; what was done last; and other actions in turn, in a random order."""
        others = [int(each) for each in self.generator.permutation(self.copy.actions)]
        order = ([self._best] if self._best else []) + [[each] for each in [self._last, *others * self.ways]]
        return order[: self.ways]

    def _rollout(self, here: Any, begin: Sequence[int]) -> tuple[float, list[int]]:
        """What play is worth that begins so and goes on at random, and its actions."""
        self.copy.emulator.restore(here)
        taken, worth = list[int](), 0.0
        for step in range(self.depth):
            if step < len(begin):
                action = begin[step]
            elif self.generator.random() < PERSISTENCE:
                action = taken[-1]
            else:
                action = int(self.generator.choice(self.copy.actions))
            taken.append(action)
            outcome = self.copy.hold(action)
            worth += DISCOUNT**step * self.copy.worth(outcome)
            if outcome.over:
                break
        return worth, taken


@dataclass
class _Node:
    """A state of the console, and what actions led to from there."""

    state: Any
    memory: UInt8[np.ndarray, " 128"]
    outcome: Outcome
    depth: int
    children: "dict[int, _Node]" = field(default_factory=dict)
    solved: bool = False
    """Whether nothing new can be found behind it."""
    seen: bool = False
    """Whether this search came by."""


class RolloutIW:
    """Rollout-IW(1): random ways through a tree, each until a state in which no byte of the memory has a value that wasn't met as early.
    The part of the tree that lies behind the action which is taken is kept.

    Args:
        game: which.
        plan: how.
        generator: of what is tried.
    """

    def __init__(self, game: Game, plan: Plan, generator: np.random.Generator):
        self.copy, self.plan, self.generator = Copy(game), plan, generator
        self._bytes = np.arange(128)
        self.forget()

    def forget(self) -> None:
        self._root: _Node | None = None
        self._last = 0

    def choose(self, console: Emulator) -> int:
        root = self._rooted(console)
        self._earliest = np.full((128, 256), DEEPEST + 1)
        self._earliest[self._bytes, root.memory] = 0
        left = self.plan.budget
        while left > 0 and not root.solved:
            left -= self._rollout(root, left)
        values = {action: self._value(child) for action, child in root.children.items()}
        best = max(values.values())
        self._last = min(
            (action for action in values if values[action] == best), key=lambda each: _preferred(each, self._last)
        )
        self._root = root.children[self._last]
        return self._last

    def _rooted(self, console: Emulator) -> _Node:
        """The tree from here on."""
        memory = console.memory()
        root = self._root
        if root is None or not np.array_equal(root.memory, memory):
            return _Node(console.saved(), memory, Outcome(0.0, 0, False), 0)
        root.state = console.saved()
        below = [(root, 0)]
        while below:
            node, depth = below.pop()
            node.depth, node.solved, node.seen = depth, False, False
            below.extend((child, depth + 1) for child in node.children.values())
        return root

    def _rollout(self, root: _Node, left: int) -> int:
        """Go down once; how many actions were tried."""
        way, tried = [root], 0
        while True:
            node = way[-1]
            open_ = [a for a in self.copy.actions if a not in node.children or not node.children[a].solved]
            first = node is root and self._last not in root.children  # so that it can go on
            action = self._last if first else int(self.generator.choice(open_))
            if action not in node.children:
                if tried == left:
                    return tried
                tried += 1
                self._expand(node, action, restore=tried == 1)
            child = node.children[action]
            way.append(child)
            if child.outcome.over or child.depth >= DEEPEST or not self._is_new(child):
                self._solve(way)
                return tried

    def _expand(self, node: _Node, action: int, restore: bool) -> None:
        if restore:
            self.copy.emulator.restore(node.state)
        outcome = self.copy.hold(action)
        emulator = self.copy.emulator
        node.children[action] = _Node(emulator.saved(), emulator.memory().copy(), outcome, node.depth + 1)

    def _is_new(self, node: _Node) -> bool:
        """Whether a byte has a value that was met nowhere as early, or, of a state that this search knows, nowhere earlier."""
        earliest = self._earliest[self._bytes, node.memory]
        new = bool((earliest >= node.depth).any() if node.seen else (earliest > node.depth).any())
        self._earliest[self._bytes, node.memory] = np.minimum(earliest, node.depth)
        node.seen = True
        return new

    def _solve(self, way: list[_Node]) -> None:
        """The last one is done with, and those before of which all that follows is."""
        way[-1].solved = True
        for node in reversed(way[:-1]):
            if len(node.children) < len(self.copy.actions) or not all(each.solved for each in node.children.values()):
                return
            node.solved = True

    def _value(self, node: _Node) -> float:
        """What an action is worth, with the best that follows."""
        later = max((self._value(child) for child in node.children.values()), default=0.0)
        return self.copy.worth(node.outcome) + DISCOUNT * later


PLANNERS: dict[str, Callable[[Game, Plan, np.random.Generator], Planner]] = {
    "planner": FlatMonteCarlo,
    "rollout-iw": RolloutIW,
}


def _preferred(action: int, last: int) -> tuple[bool, int]:
    """The smaller, the rather it is taken of actions that are worth as much: the last one, none, and then in the order of the set."""
    return action != last, action
