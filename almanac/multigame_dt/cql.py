"""The temporal-difference baseline (paper, section 4.2): conservative Q-learning (Kumar et al. 2020) on the residual network of
IMPALA (Espeholt et al. 2018), with a distribution of values for each action (C51, Bellemare et al. 2017), targets of double DQN, and
a term that keeps it to the actions of its data. It learns from the transformer's windows and plays in its place. Constants are
Dopamine's (`labs/offline_rl`, `jax_classy_cql.gin`)."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor, nn

from almanac.multigame_dt.acting import Decision
from almanac.multigame_dt.augment import CROP, TURN, augmented
from almanac.multigame_dt.data import Play
from almanac.multigame_dt.emulator import SIZE
from almanac.multigame_dt.games import ACTIONS
from almanac.multigame_dt.published import SYSTEM
from almanac.multigame_dt.tokens import STEPS
from almanac.multigame_dt.train import provenance, shares_of
from almanac.multigame_dt.windows import Batch, Windows
from almanac.runtime import checkpoint, console, device
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, fit
from almanac.runtime.model_folder import check_weights

KIND = "cql"
"""Of networks, as a file's header says it."""
ATOMS = 51
HIGHEST = 10.0  # value; the lowest is −10
DISCOUNT = 0.99
EPSILON = 0.001  # share of actions that are drawn at random
_TARGET_EVERY = 2_000  # steps


@dataclass(frozen=True)
class Shape:
    """The shape of a network."""

    channels: int
    stages: int
    """Each halves its picture's sides, and has five convolutions."""
    hidden: int = 512


SIZES = {
    "0.13m": Shape(16, 5, 64),
    "0.4m": Shape(32, 5, 128),
    "1.3m": Shape(64, 5, 256),
    "5m": Shape(128, 5),
    "30m": Shape(256, 10),
    "60m": Shape(512, 5),
    "120m": Shape(512, 10),
}
"""Networks by name: the paper's four, and three that a processor trains."""


@dataclass(frozen=True)
class Preset:
    """A size of machine."""

    shape: Shape
    batch: int
    """Windows."""
    fit: FitConfig
    """How to optimise."""
    weight: float = 1.0
    """Of the term that keeps to the data: the paper's with all of it; 4 with 1 %."""
    balanced: bool = True
    """Whether each game has the same share of each batch."""
    crop: int = CROP
    turn: float = TURN


_FIT = FitConfig(
    6_250_000,
    learning_rate=6.25e-5,
    final_ratio=1.0,
    warmup_steps=0,
    betas=(0.9, 0.999),
    eps=3.125e-4,
    clip_norm=float("inf"),
    ema_decay=0.0,
    save_every=10_000,
    log_every=100,
)
PRESETS = {
    "cpu": Preset(
        SIZES["0.4m"],
        32,
        replace(
            _FIT,
            steps=6_000,
            learning_rate=5e-4,
            final_ratio=0.0,
            warmup_steps=200,
            eps=1e-5,
            save_every=500,
            log_every=10,
        ),
    ),
    "gpu": Preset(
        SIZES["5m"],
        512,
        replace(
            _FIT,
            steps=12_000,
            learning_rate=3e-4,
            final_ratio=0.0,
            warmup_steps=500,
            eps=1e-5,
            save_every=1_000,
            log_every=10,
        ),
    ),
    # Dopamine's 100 × 62,500 steps of 32 on a network of the paper's.
    "paper": Preset(SIZES["30m"], 32, _FIT, balanced=False),
}
"""From the beginning."""
TUNING = {
    name: replace(preset, weight=4.0, fit=replace(preset.fit, steps=steps))
    for (name, preset), steps in zip(PRESETS.items(), (1_000, 4_000, 100_000), strict=True)
}
"""From another network, whose size is kept; with the weight that the paper gives to keeping to little data."""


class QNetwork(nn.Module):
    """IMPALA's residual network, and values of each action.

    Args:
        shape: its size.
    """

    values: Tensor

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        channels = shape.channels
        self.stages = nn.ModuleList(_Stage(channels if number else STEPS, channels) for number in range(shape.stages))
        side = SIZE
        for _ in range(shape.stages):
            side = (side + 1) // 2
        self.hidden = nn.Linear(channels * side * side, shape.hidden)
        self.head = nn.Linear(shape.hidden, ACTIONS * ATOMS)
        self.register_buffer("values", torch.linspace(-HIGHEST, HIGHEST, ATOMS), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, frames: UInt8[Tensor, "batch 4 84 84"]) -> Float[Tensor, "batch 18 51"]:
        """Logits of the values of each action.

        Args:
            frames: the last four, the newest last.
        """
        x = (frames.to(self.head.weight.dtype) / 255).contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
        x = F.relu(self.hidden(F.relu(x).flatten(1)))
        return self.head(x).float().unflatten(1, (ACTIONS, ATOMS))

    def expected(self, logits: Float[Tensor, "batch 18 51"]) -> Float[Tensor, "batch 18"]:
        """The mean value of each action."""
        return logits.softmax(2) @ self.values


class _Stage(nn.Module):
    """A convolution, a pooling, and two residual pairs of convolutions (Espeholt et al. 2018, figure 3)."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, channels, 3, padding=1)
        self.pairs = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(x), 3, 2, 1)
        for one, other in self.pairs:  # pyright: ignore[reportGeneralTypeIssues]
            x = x + other(F.relu(one(F.relu(x))))
        return x


class Learner(nn.Module):
    """A network and the older copy of itself that its targets are made by.

    Args:
        network: what learns.
    """

    steps: Tensor

    def __init__(self, network: QNetwork):
        super().__init__()
        self.network = network
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        frames: UInt8[Tensor, "batch 5 84 84"],
        actions: Int[Tensor, " batch"],
        rewards: Float[Tensor, " batch"],
        last: Bool[Tensor, " batch"],
        weight: float,
    ) -> Float[Tensor, ""]:
        """The loss of what happened: C51's, and `weight` times the negative logarithm of how much more than other actions' the values of
        the ones that were taken are, −log softmax(Q)[a].

        Args:
            frames: five in a row, the newest last.
            actions: taken after the fourth.
            rewards: that followed, clipped.
            last: whether the game was over then.
            weight: of the second part.
        """
        if self.training:
            if self.steps % _TARGET_EVERY == 0:
                self.target.load_state_dict(self.network.state_dict())
            self.steps += 1
        network, rows = self.network, torch.arange(len(frames), device=frames.device)
        with torch.no_grad():
            best = network.expected(network(frames[:, 1:])).argmax(1)  # double DQN: chosen by one, valued by the other
            following = self.target(frames[:, 1:])[rows, best].softmax(1)
            wanted = projected(following, rewards, DISCOUNT * ~last)
        logits = network(frames[:, :-1])
        surprise = -(wanted * logits[rows, actions].log_softmax(1)).sum(1).mean()
        return surprise + weight * F.cross_entropy(network.expected(logits), actions)


def projected(
    chances: Float[Tensor, "batch 51"], rewards: Float[Tensor, " batch"], discounts: Float[Tensor, " batch"]
) -> Float[Tensor, "batch 51"]:
    """The distribution of reward + discount · value on the values themselves: what falls between two is shared by nearness (Bellemare et
    al. 2017, algorithm 1).

    Args:
        chances: of each value from −10 to 10.
        rewards: what is added.
        discounts: what each value is multiplied by.
    """
    values = torch.linspace(-HIGHEST, HIGHEST, ATOMS, device=chances.device)
    moved = (rewards[:, None] + discounts[:, None] * values).clamp(-HIGHEST, HIGHEST)
    places = (moved + HIGHEST) * ((ATOMS - 1) / (2 * HIGHEST))
    below = places.floor().clamp(max=ATOMS - 2)
    share = places - below
    found = torch.zeros_like(chances)
    found.scatter_add_(1, below.long(), chances * (1 - share))
    return found.scatter_add_(1, below.long() + 1, chances * share)


def train(
    play: Play,
    out: Path,
    preset: Preset,
    *,
    start: QNetwork | None = None,
    part: float = 1.0,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train a network and write `out/model.safetensors`.

    Args:
        play: what it learns from.
        out: the run's folder.
        preset: its size, and how it is trained.
        start: a network that learns on, and keeps its size.
        part: of the windows of each game, drawn at random, are learnt from.
        seed: of weights, order and augmentation.
        device_name: auto, cpu or cuda.
        resume: go on with the run in `out`.

    Returns:
        The facts that the weights carry.

    Raises:
        UserError: there is nothing to learn from, or as `fit`.
    """
    torch.manual_seed(seed)
    network = copy.deepcopy(start) if start else QNetwork(preset.shape)
    learner = Learner(network.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]
    kept, _ = play.held_out()
    windows = Windows(kept, preset.batch, seed, shares_of(kept) if preset.balanced else None, part, ahead=1)
    began = time.time()
    fitted = fit(
        learner, conservative_loss(preset), windows, preset.fit, out, seed=seed, device_name=device_name, resume=resume
    )
    learner.load_state_dict(fitted.weights)
    facts = {
        "system": SYSTEM,
        "model": KIND,
        "shape": asdict(network.shape),
        **provenance(play, part, preset, fitted, began, seed),
    }
    if console.is_main_process():
        weights = checkpoint.in_sixteen_bits(network.state_dict())
        checkpoint.save_weights(Path(out) / "model.safetensors", weights, facts)
    return facts


def resized(preset: Preset, size: str | None) -> Preset:
    """A preset with another size of network.

    Raises:
        UserError: there is no such size.
    """
    if size is None:
        return preset
    if size not in SIZES:
        raise UserError(f"there is no network of size '{size}'", f"the sizes are {', '.join(SIZES)}")
    return replace(preset, shape=SIZES[size])


def conservative_loss(preset: Preset) -> Callable[[nn.Module, Batch, torch.Generator], Tensor]:
    """The loss of a preset, for `fit`.

    Args:
        preset: whose weight and augmentation.
    """

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        frames = augmented(batch.frames, generator, preset.crop, preset.turn)
        rewards = _REWARDS.to(frames.device)[batch.rewards[:, -1]]
        return model(frames, batch.actions[:, -1], rewards, batch.last, preset.weight)

    return loss


_REWARDS = torch.tensor([0.0, 1.0, 0.0, -1.0])
"""That tokens of rewards stand for."""


def load(path: Path, device_name: str = "auto") -> QNetwork:
    """Read a network that `train` wrote.

    Args:
        path: a `.safetensors` file.
        device_name: auto, cpu or cuda.

    Raises:
        UserError: it is missing, damaged, or holds something else.
    """
    tensors, about = checkpoint.load_weights(path, SYSTEM)
    hint = "give a network made by `almanac multigame-dt train --method cql`"
    if about.get("model") != KIND:
        raise UserError(f"{path} holds a network of another kind, {about.get('model')}", hint)
    try:
        network = QNetwork(Shape(**about["shape"]))
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise UserError(f"{path} doesn't say the shape of its network", hint) from None
    check_weights(path, network.state_dict(), tensors, hint)
    network.load_state_dict(tensors)
    return network.to(device.resolve(device_name))


class QAgent:
    """A network that plays several games at once, as `acting.Agent` does: mostly the action of the highest value.

    Args:
        network: which; it isn't changed.
        count: games.
        device_name: auto, cpu or cuda.
        precision: auto, bf16 or fp32.
        seed: of what is drawn.
        epsilon: share of actions that are drawn from all 18.
    """

    def __init__(
        self,
        network: QNetwork,
        count: int,
        device_name: str = "auto",
        precision: str = "auto",
        seed: int = 0,
        epsilon: float = EPSILON,
    ):
        self.count, self.epsilon = count, epsilon
        self._device, self._precision, self._seed = device.resolve(device_name), precision, seed
        self._network = copy.deepcopy(network).to(self._device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
        self._frames = torch.zeros(count, STEPS, SIZE, SIZE, dtype=torch.uint8, device=self._device)
        self._decided, self._episodes = np.zeros(count, bool), np.zeros(count, np.int64)
        self._random = [np.random.default_rng([seed, i, 0]) for i in range(count)]

    def reset(self, i: int, seed: int | None = None) -> None:
        """An episode begins in a game: before its first frame are black ones.

        Args:
            i: which game.
            seed: of the episode's draws; None: the next ones of this place.
        """
        self._frames[i], self._decided[i] = 0, False
        self._episodes[i] += 1
        self._random[i] = np.random.default_rng([self._seed, i, int(self._episodes[i])] if seed is None else seed)

    def act(self, frames: UInt8[np.ndarray, "count 84 84"], live: Bool[np.ndarray, " count"] | None = None) -> Decision:
        """Decide.

        Args:
            frames: what is seen in each game.
            live: games that go on; None: all.
        """
        where = np.arange(self.count) if live is None else np.flatnonzero(live)
        self._frames[where, -1] = torch.from_numpy(frames[where]).to(self._device)
        with torch.inference_mode(), device.autocast(self._device, self._precision):
            best = self._network.expected(self._network(self._frames[where])).argmax(1).cpu().numpy()
        chances = np.zeros((self.count, ACTIONS))
        chances[where] = self.epsilon / ACTIONS
        chances[where, best] += 1 - self.epsilon
        actions = np.zeros(self.count, np.int64)
        for i, action in zip(where, best, strict=True):
            random = self._random[i]
            actions[i] = random.integers(ACTIONS) if random.random() < self.epsilon else action
        self._decided[where] = True
        return Decision(actions, None, None, None, chances)

    def observe(self, rewards: Float32[np.ndarray, " count"]) -> None:
        """What came of the decisions: the frames that were decided upon are now past.

        Args:
            rewards: points that were won; it has no use for them.
        """
        where = np.flatnonzero(self._decided)
        self._frames[where] = self._frames[where].roll(-1, 1)
        self._decided[where] = False
