"""Training a multi-game decision transformer beside a plain loop of the same network on the same windows: one window after the other from a
`Dataset`, float32, every token through every layer, as code for the paper's predecessors does. Both turn and move frames, clip gradients
and take AdamW's steps. They take turns in one process; what counts is CPU time of one thread, so that neither a machine's drift nor
its other work favours one."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from almanac.multigame_dt import tokens
from almanac.multigame_dt.augment import CROP, TURN
from almanac.multigame_dt.data import Play
from almanac.multigame_dt.games import named
from almanac.multigame_dt.learner import Learner
from almanac.multigame_dt.model import SIZES, DecisionTransformer
from almanac.multigame_dt.train import PRESETS, imitation_loss
from almanac.multigame_dt.windows import Windows
from almanac.nn.ema import EMA
from almanac.runtime import console, device

_STEPS, _LENGTH = 6_000, 500  # of the play, and of an episode: 42 MB, which is more than the processor keeps at hand


def training(size: str, batch: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """A step of each engine in turn, by one thread.

    Args:
        size: of the model.
        batch: windows.
        rounds: steps of each.
        seed: of play, weights and order.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = DecisionTransformer(replace(SIZES[size], dropout=0.0))
    play = _noise(seed)
    engines = {"plain loop": _plain(model, play, batch), "almanac": _ours(model, play, batch, seed)}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    with console.progress("training", rounds + 1, "rounds") as advance:
        for _ in range(rounds + 1):
            for name, step in engines.items():
                began = time.process_time()
                step()
                seconds[name].append(time.process_time() - began)
            advance(1, ", ".join(f"{name} {batch / each[-1]:.1f} windows/s" for name, each in seconds.items()))
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}  # the first warms up
    lowers = device.uses_bfloat16(torch.device("cpu"), "auto")
    return [
        {
            "size": size,
            "batch": batch,
            "engine": name,
            "precision": "bf16" if lowers and name == "almanac" else "fp32",
            "windows_per_cpu_s": round(batch / each, 1),
            "times": round(medians["plain loop"] / each, 2),
        }
        for name, each in medians.items()
    ]


def _ours(model: DecisionTransformer, play: Play, batch: int, seed: int) -> Callable[[], None]:
    """A step as `fit` takes it."""
    learner, windows = Learner(model), Windows(play, batch, seed)
    loss, average = imitation_loss(PRESETS["cpu"]), EMA(learner, 0.998)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-5, fused=True)
    numbers = iter(range(1_000_000))

    def step() -> None:
        with device.autocast(torch.device("cpu")):
            found = loss(learner, windows(next(numbers)), torch.Generator())
        found.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(learner)

    return step


def _plain(model: DecisionTransformer, play: Play, batch: int) -> Callable[[], None]:
    """A step as such loops take it."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    batches = _for_ever(DataLoader(_OneByOne(play), batch, shuffle=True, drop_last=True))

    def step() -> None:
        frames, returns, actions, rewards = next(batches)
        expected = model(frames, returns, actions, rewards)
        assert expected.returns is not None
        found = F.cross_entropy(expected.returns[:, 0], returns[:, 0])
        for logits, truth in ((expected.actions, actions), (expected.rewards, rewards)):
            found = found + F.cross_entropy(logits.flatten(0, 1), truth.flatten())
        optimizer.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


class _OneByOne(Dataset):
    """Windows, each by itself."""

    def __init__(self, play: Play):
        self.play = play
        self.returns = np.concatenate(
            [
                tokens.returns_to_go(play.rewards[start : start + length])
                for start, length in zip(play.starts, play.lengths, strict=True)
            ]
        )

    def __len__(self) -> int:
        return self.play.steps // _LENGTH * (_LENGTH - tokens.STEPS + 1)

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        episode, step = divmod(number, _LENGTH - tokens.STEPS + 1)
        here = slice(episode * _LENGTH + step, episode * _LENGTH + step + tokens.STEPS)
        kept = self.play.actions[here], self.returns[here], self.play.rewards[here]
        actions, returns, rewards = (torch.from_numpy(each.astype(np.int64)) for each in kept)
        frames = torch.from_numpy(self.play.frames[np.arange(here.start, here.stop)])
        return _turned(frames), (returns - tokens.LOWEST).clamp(0, tokens.RETURNS - 1), actions, rewards.clamp(0, 1)


def _turned(frames: Tensor) -> Tensor:
    """A window moved and turned."""
    angle = math.radians((2 * torch.rand(()).item() - 1) * TURN)
    x, y = (torch.randint(-CROP, CROP + 1, (2,)) * (-2 / frames.shape[-1])).tolist()
    place = torch.tensor([[[math.cos(angle), -math.sin(angle), x], [math.sin(angle), math.cos(angle), y]]])
    grid = F.affine_grid(place, [1, *frames.shape], align_corners=False)
    return F.grid_sample(frames[None].float(), grid, align_corners=False)[0].to(torch.uint8)


def _for_ever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def _noise(seed: int) -> Play:
    """Play of noise: how fast it is learnt from doesn't hang on what it shows."""
    random, count = np.random.default_rng(seed), _STEPS // _LENGTH
    return Play(
        random.integers(0, 256, (_STEPS, 84, 84), dtype=np.uint8),
        random.integers(0, 18, _STEPS).astype(np.uint8),
        random.integers(0, 2, _STEPS).astype(np.float32),
        np.arange(count) * _LENGTH,
        np.full(count, _LENGTH),
        np.ones(count, bool),
        (named("Boxing"), named("Pong")),
        np.arange(count) % 2,
        np.zeros(count),
        ("noise",) * count,
        np.zeros(count),
    )
