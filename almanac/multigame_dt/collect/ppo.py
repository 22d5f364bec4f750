"""A specialist that learns one game by proximal policy optimisation (Schulman et al. 2017), with all its games logged, from the first
to the last: what DQN's replay buffers were to the paper (section 3.3), of an agent that takes minutes and not days. Its tricks are those
that reproduce on Atari (Huang et al. 2022, "The 37 implementation details"), but for sticky actions, which no log could repeat. It computes
on one core: several specialists are several processes (`collect`). Or one agent learns several games at once, the paper's online
multi-game baseline (section 4.2): the same network, its consoles shared among the games, with the full set of actions."""

import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from almanac.multigame_dt import logs
from almanac.multigame_dt.collect.record import NOOPS
from almanac.multigame_dt.emulator import SIZE, TIME_LIMIT, Emulator
from almanac.multigame_dt.games import ACTIONS, Game
from almanac.multigame_dt.logs import Episode
from almanac.runtime import checkpoint, console, device, stopping
from almanac.runtime.errors import Interrupted, RunFailed, UserError

AGENT = "ppo"
TOGETHER = "multi-game-ppo"
"""Of one that learns several games."""
STACKED = 4  # frames that the policy sees
RECENT = 20  # episodes whose mean score is told
SECONDS_BETWEEN_SAVES = 60.0

_CPU = torch.device("cpu")
_ADAM_EPSILON = 1e-5  # Huang et al., detail 3


@dataclass(frozen=True)
class Recipe:
    """How to learn: the numbers of Huang et al., with twice the rate, for a smaller network and a short run."""

    steps: int = 1_000_000
    """The agent's, of four frames; the last rollout may go beyond."""
    consoles: int = 8
    """Games at once."""
    rollout: int = 128
    """Steps of each before an update."""
    epochs: int = 4
    """How often a rollout is learned from."""
    minibatch: int = 256
    """Steps, of all consoles; a divisor of a rollout's."""
    rate: float = 5e-4
    """Adam's, at the beginning; it falls to 0 in a straight line."""
    gamma: float = 0.99
    """Discount of a step."""
    trace: float = 0.95
    """λ of the advantages (Schulman et al. 2016)."""
    clip: float = 0.1
    """How far an action's probability may go before it isn't pushed any more, as a part of what it was."""
    entropy: float = 0.01
    """Weight of the policy's entropy, at the beginning; it falls as the rate does, so that what is learned is at last done, and not by
    chance something else."""
    value: float = 0.5
    """Weight of the values' loss."""
    norm: float = 0.5
    """Largest norm of the gradient."""


def recipe_for(games: Sequence[Game], steps: int) -> Recipe:
    """How to learn games, each for so many steps, on two consoles at least.

    Args:
        games: which.
        steps: of each.
    """
    recipe = Recipe(steps=steps * len(games))
    return replace(recipe, consoles=max(recipe.consoles, 2 * len(games)))


class Learnt(NamedTuple):
    """What came of a training."""

    steps: int
    episodes: int
    """All that were played, and logged."""
    scores: dict[str, float]
    """By game, the mean of the last 20 episodes."""


class Rollout(NamedTuple):
    """A stretch of play, of all consoles."""

    seen: UInt8[Tensor, "steps consoles 84 84 4"]
    actions: Int[Tensor, "steps consoles"]
    """Places in the set that it chooses from: a game's minimal one, of several games the full one."""
    log_probabilities: Float[Tensor, "steps consoles"]
    """Of the actions, when they were taken."""
    values: Float[Tensor, "later consoles"]
    """What was expected, before each step and after the last."""
    rewards: Float[Tensor, "steps consoles"]
    """Signs of the points."""
    ended: Bool[Tensor, "steps consoles"]
    """Whether the step lost a life, or the game."""


def log_path(out: Path, game: Game, agent: str = AGENT) -> Path:
    """Where the episodes of a game's training are logged."""
    return out / f"{game.rom}.{agent}{logs.SUFFIX}"


def learn(
    games: Sequence[Game], out: Path, recipe: Recipe | None = None, *, seed: int = 0, resume: bool = False
) -> Learnt:
    """Learn a game, or several at once, and log every episode in `out/ROM.ppo.jsonl.gz`.

    Args:
        games: which.
        out: folder of the logs, and of the run's state.
        recipe: how.
        seed: of weights, no-ops and actions.
        resume: go on with the run that is there, if there is one.

    Raises:
        UserError: a run is there and `resume` is off, or a number of the recipe can't be.
        RunFailed: that run is another one, or a loss isn't finite.
        Interrupted: SIGTERM or Ctrl-C; the run was saved first.
    """
    with _one_thread(), stopping.stop_signals() as stopped:
        training = Training(games, out, recipe, seed, resume)
        total = training.recipe.steps
        with console.progress(f"{training.name}, PPO", total, "steps", training.steps) as advance:
            while not training.finished:
                before = training.steps
                training.go_on(0.0)
                advance(training.steps - before, training.note())
                if stopped:
                    training.save()
                    raise Interrupted(
                        f"stopped after {training.steps:,} steps of {training.name}", "go on with --resume"
                    )
    return training.learnt()


class Network(nn.Module):
    """Policy and value: DQN's convolutions (Mnih et al. 2015) with half the channels and hidden units, which is four times as fast.

    Args:
        actions: how many there are.
        generator: of its weights, which are orthogonal (Huang et al., detail 2).
    """

    def __init__(self, actions: int, generator: torch.Generator | None = None):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(STACKED, 16, 8, 4), nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2), nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * 7 * 7, 256), nn.ReLU(),
        )  # fmt: skip
        self.policy, self.value = nn.Linear(256, actions), nn.Linear(256, 1)
        gains: dict[nn.Module, float] = {self.policy: 0.01, self.value: 1.0}  # actions are equally likely at first
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, gains.get(layer, math.sqrt(2)), generator)
                nn.init.zeros_(cast(Tensor, layer.bias))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.precision = torch.bfloat16 if device.has_fast_bfloat16(_CPU) else torch.float32

    def forward(
        self, seen: UInt8[Tensor, "batch 84 84 4"]
    ) -> tuple[Float[Tensor, "batch actions"], Float[Tensor, " batch"]]:
        """Logits of the actions, and the value of what is seen."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == torch.bfloat16):
            hidden = self.body(seen.permute(0, 3, 1, 2).to(self.precision) / 255)
        hidden = hidden.float()
        return self.policy(hidden), self.value(hidden)[:, 0]


def advantages(rollout: Rollout, gamma: float, trace: float) -> Float[Tensor, "steps consoles"]:
    """How much better than expected actions turned out (Schulman et al. 2016, eq. 16); nothing is expected after the end of a life.

    Args:
        rollout: what was played.
        gamma: discount of a step.
        trace: λ, from 0 (the next value is believed) to 1 (only what was won is).
    """
    goes_on = gamma * (~rollout.ended).float()
    surprises = rollout.rewards + goes_on * rollout.values[1:] - rollout.values[:-1]
    later, found = torch.zeros_like(rollout.values[0]), torch.empty_like(surprises)
    for step in reversed(range(len(surprises))):
        later = surprises[step] + trace * goes_on[step] * later
        found[step] = later
    return found


def loss(
    network: Network,
    recipe: Recipe,
    seen: UInt8[Tensor, "batch 84 84 4"],
    actions: Int[Tensor, " batch"],
    before: Float[Tensor, " batch"],
    better: Float[Tensor, " batch"],
    returns: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """What is made smaller: the clipped surrogate (Schulman et al. 2017, eq. 7 and 9), with advantages of mean 0 and deviation 1.

    Args:
        network: that learns.
        recipe: its weights.
        seen: frames.
        actions: places in the minimal set.
        before: log-probabilities of the actions, when they were taken.
        better: advantages.
        returns: what values are to be.
    """
    logits, values = network(seen)
    log_probabilities = logits.log_softmax(-1)
    ratio = (log_probabilities.gather(1, actions[:, None])[:, 0] - before).exp()
    better = (better - better.mean()) / (better.std() + 1e-8)
    surrogate = torch.minimum(ratio * better, ratio.clamp(1 - recipe.clip, 1 + recipe.clip) * better).mean()
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1).mean()
    return recipe.value * 0.5 * (values - returns).square().mean() - surrogate - recipe.entropy * entropy


class Training:
    """A network, its consoles, and how far they are. One that was killed goes on as if it had not been: the same episodes follow. Those
    that are in progress when all steps are done are played to their end, by the policy as it is then.

    Args:
        games: which; consoles take them in turn.
        out: folder of the logs and of the state.
        recipe: how.
        seed: of weights, no-ops and actions.
        resume: go on with the run that is there, if there is one.

    Raises:
        UserError: a run is there and `resume` is off, or a number of the recipe can't be.
        RunFailed: that run is another one.
    """

    def __init__(
        self, games: Sequence[Game], out: Path, recipe: Recipe | None = None, seed: int = 0, resume: bool = False
    ):
        recipe = recipe or Recipe()
        batch = recipe.consoles * recipe.rollout
        if min(recipe.steps, recipe.consoles, recipe.rollout, recipe.minibatch) < 1 or batch % recipe.minibatch:
            what = f"a rollout of {recipe.consoles} × {recipe.rollout} steps isn't made of minibatches of {recipe.minibatch}"
            raise UserError(what, "give numbers from 1 on, the last a divisor of the product of the others")
        if recipe.consoles < len(games):
            what = f"{recipe.consoles} consoles can't play {len(games)} games"
            raise UserError(what, "give as many consoles as games, or more")
        self.games, self.recipe, self.seed = tuple(games), recipe, seed
        self.agent = AGENT if len(games) == 1 else TOGETHER
        self.logs = {game: log_path(out, game, self.agent) for game in games}
        self._saved_in = out / (f"{games[0].rom}.{AGENT}.pt" if len(games) == 1 else f"{TOGETHER}.pt")
        if not resume and (self._saved_in.exists() or any(log.exists() for log in self.logs.values())):
            what = f"{out} already holds a training in {self.name}"
            raise UserError(what, "go on with --resume, or choose another --out")
        self.generator = torch.Generator().manual_seed(seed)
        self.in_progress = [_Console(games[number % len(games)]) for number in range(recipe.consoles)]
        self.actions = self.in_progress[0].emulator.actions if len(games) == 1 else tuple(range(ACTIONS))
        self.network = Network(len(self.actions), self.generator)
        self.adam = torch.optim.Adam(self.network.parameters(), recipe.rate, eps=_ADAM_EPSILON, fused=True)
        self.steps = self.episodes = 0
        self.recent: dict[Game, deque[float]] = {game: deque(maxlen=RECENT) for game in games}
        self._seen = torch.empty(recipe.rollout, recipe.consoles, SIZE, SIZE, STACKED, dtype=torch.uint8)
        self._last_saved = time.monotonic()
        if self._saved_in.exists():
            self._load(checkpoint.load_state(self._saved_in))
        else:
            for log in self.logs.values():
                log.unlink(missing_ok=True)
            for each in self.in_progress:
                each.start(self._noops())

    @property
    def name(self) -> str:
        """Of what is learnt."""
        return self.games[0].name if len(self.games) == 1 else f"{len(self.games)} games"

    @property
    def finished(self) -> bool:
        """Whether all is learnt, and all games are played to their end."""
        return not self.in_progress

    def go_on(self, seconds: float) -> None:
        """Play and learn for some time, at least a rollout, and save now and then.

        Args:
            seconds: how long.

        Raises:
            RunFailed: the loss isn't finite.
        """
        until = time.monotonic() + seconds
        while not self.finished:
            if self.steps < self.recipe.steps:
                self.update(self.play())
            else:
                self._play_on()
            if self.finished or time.monotonic() - self._last_saved > SECONDS_BETWEEN_SAVES:
                self.save()
            if time.monotonic() >= until:
                return

    def save(self) -> None:
        """Write all that going on takes. Consoles are the actions that they were given; the log is on the disk before.

        Raises:
            UserError: it can't be written.
        """
        state = {
            "run": self._run(),
            "network": self.network.state_dict(),
            "adam": self.adam.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "episodes": self.episodes,
            "recent": {game.rom: list(scores) for game, scores in self.recent.items()},
            "in_progress": [(each.game.rom, each.noops, bytes(each.taken).hex()) for each in self.in_progress],
            "logged": {game.rom: _on_disk(log) for game, log in self.logs.items()},
        }
        checkpoint.save_state(self._saved_in, state)
        self._last_saved = time.monotonic()

    def play(self) -> Rollout:
        """Go on playing, for a rollout."""
        size = (self.recipe.rollout, self.recipe.consoles)
        actions, ended = torch.empty(size, dtype=torch.long), torch.empty(size, dtype=torch.bool)
        before, rewards, values = torch.empty(size), torch.empty(size), torch.empty(size[0] + 1, size[1])
        for step in range(self.recipe.rollout):
            for number, each in enumerate(self.in_progress):
                self._seen[step, number] = torch.from_numpy(each.seen)
            actions[step], before[step], values[step] = self._act(self._seen[step])
            for number, (each, action) in enumerate(zip(self.in_progress, actions[step].tolist(), strict=True)):
                points, lost = each.step(self.actions[action])
                rewards[step, number], ended[step, number] = float(np.sign(points)), lost
                self.steps += 1
                if each.finished:
                    self._log(each)
                    each.start(self._noops())
        values[-1] = self._act(self._now())[2]
        return Rollout(self._seen, actions, before, values, rewards, ended)

    def update(self, rollout: Rollout) -> None:
        """Learn from what was played.

        Args:
            rollout: that was played last.

        Raises:
            RunFailed: the loss isn't finite.
        """
        left = max(0.0, 1 - (self.steps - rollout.actions.numel()) / self.recipe.steps)
        recipe = replace(self.recipe, entropy=self.recipe.entropy * left)
        self.adam.param_groups[0]["lr"] = recipe.rate * left
        better = advantages(rollout, recipe.gamma, recipe.trace)
        returns = better + rollout.values[:-1]
        parts = [
            each.flatten(0, 1) for each in (rollout.seen, rollout.actions, rollout.log_probabilities, better, returns)
        ]
        for _ in range(recipe.epochs):
            for chosen in torch.randperm(len(parts[0]), generator=self.generator).split(recipe.minibatch):
                now = loss(self.network, recipe, *(each[chosen] for each in parts))
                self.adam.zero_grad()
                now.backward()
                norm = nn.utils.clip_grad_norm_(self.network.parameters(), recipe.norm)
                if not math.isfinite(float(norm)):
                    what = f"after {self.steps:,} steps of {self.name} the loss isn't finite"
                    raise RunFailed(what, "the last state is from before; begin anew with a lower rate")
                self.adam.step()

    def note(self) -> str:
        """How well it plays."""
        return ", ".join(f"{game.name} {np.mean(scores):.4g}" for game, scores in self.recent.items() if scores)

    def learnt(self) -> Learnt:
        """What came of it."""
        scores = {game.name: float(np.mean(scores)) for game, scores in self.recent.items() if scores}
        return Learnt(self.steps, self.episodes, scores)

    def _load(self, state: dict[str, Any]) -> None:
        """Go on from a state: what was logged after it will be played again."""
        if state["run"] != self._run():
            what = f"the training that is there was begun with {state['run']}, not {self._run()}"
            raise RunFailed(what, "resume with the options that it was begun with")
        for game, log in self.logs.items():
            logged = state["logged"][game.rom]
            if _on_disk(log) < logged:
                raise RunFailed(f"{log} lacks episodes that the training had logged", "bring it back, or begin anew")
            if log.exists():
                os.truncate(log, logged)
        self.network.load_state_dict(state["network"])
        self.adam.load_state_dict(state["adam"])
        self.generator.set_state(state["generator"])
        self.steps, self.episodes = state["steps"], state["episodes"]
        for game, scores in self.recent.items():
            scores.extend(state["recent"][game.rom])
        left = state["in_progress"]
        by_rom = {game.rom: game for game in self.games}
        self.in_progress = [_Console(by_rom[rom]) for rom, _, _ in left]
        for each, (_, noops, taken) in zip(self.in_progress, left, strict=True):
            each.start(noops, bytes.fromhex(taken))

    def _play_on(self) -> None:
        """Play one step more, and begin no other game."""
        actions = self._act(self._now())[0].tolist()
        for each, action in zip(self.in_progress, actions, strict=True):
            each.step(self.actions[action])
            if each.finished:
                self._log(each)
        self.in_progress = [each for each in self.in_progress if not each.finished]

    @torch.no_grad()
    def _act(self, seen: UInt8[Tensor, "consoles 84 84 4"]) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, their log-probabilities, and values."""
        logits, values = self.network(seen)
        log_probabilities = logits.log_softmax(-1)
        actions = torch.multinomial(log_probabilities.exp(), 1, generator=self.generator)
        return actions[:, 0], log_probabilities.gather(1, actions)[:, 0], values

    def _now(self) -> UInt8[Tensor, "consoles 84 84 4"]:
        return torch.from_numpy(np.stack([each.seen for each in self.in_progress]))

    def _log(self, each: "_Console") -> None:
        quality = min(1.0, self.steps / self.recipe.steps)
        score = each.emulator.score
        logs.append(self.logs[each.game], Episode(each.game, bytes(each.taken), score, each.noops, self.agent, quality))
        self.episodes += 1
        self.recent[each.game].append(score)

    def _noops(self) -> int:
        return int(torch.randint(NOOPS + 1, (), generator=self.generator))

    def _run(self) -> dict[str, Any]:
        return {"game": "+".join(game.rom for game in self.games), "seed": self.seed, **asdict(self.recipe)}


class _Console:
    """A game in progress: what was done in it, and what is seen."""

    def __init__(self, game: Game):
        self.game, self.emulator = game, Emulator(game)
        self.start(0)

    def start(self, noops: int, taken: bytes = b"") -> None:
        """Begin a game, and bring it to where some actions bring it."""
        self.noops, self.taken = noops, bytearray()
        self._stacked = np.zeros((SIZE, SIZE), "<u4")  # each pixel's four frames, the latest in the highest byte
        self.emulator.start(noops)
        self._look()
        for action in taken:
            self.step(action)

    def step(self, action: int) -> tuple[float, bool]:
        """Points, and whether a life ended."""
        lives = self.emulator.lives
        points = self.emulator.step(action)
        self.taken.append(action)
        self._look()
        return points, self.finished or self.emulator.lives < lives

    @property
    def seen(self) -> UInt8[np.ndarray, "84 84 4"]:
        """The last four frames; black before the first."""
        return self._stacked.view(np.uint8).reshape(SIZE, SIZE, STACKED)

    @property
    def finished(self) -> bool:
        """Whether the game is over, or its time."""
        return self.emulator.over or self.emulator.steps >= TIME_LIMIT

    def _look(self) -> None:
        self._stacked >>= 8
        self._stacked |= self.emulator.frame().astype("<u4") << 24


def _on_disk(log: Path) -> int:
    """How many bytes of a log are on the disk, after this."""
    if not log.exists():
        return 0
    with log.open("rb") as file:
        os.fsync(file.fileno())
        return file.seek(0, os.SEEK_END)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One core is enough for a network of this size, and the results don't depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
