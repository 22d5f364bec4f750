"""The recipe (paper, sections 3.1 and 4.1): the likelihood of each window's first return and of all its actions and rewards, over all games
at once, bad play and good together. Without returns it is behaviour cloning. Begun from another model, it is fine-tuning (section 4.5)."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.multigame_dt import published
from almanac.multigame_dt.augment import CROP, TURN, augmented
from almanac.multigame_dt.data import Play
from almanac.multigame_dt.games import ACTIONS
from almanac.multigame_dt.learner import Learner
from almanac.multigame_dt.model import SIZES, DecisionTransformer, Dimensions
from almanac.multigame_dt.tokens import RETURNS, REWARDS
from almanac.multigame_dt.windows import Batch, Windows
from almanac.runtime import checkpoint, console, device
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, Fitted, fit

_TESTED = 1_024  # windows that a model is tested with, of episodes that it isn't trained on
_AT_ONCE = 128  # of these


@dataclass(frozen=True)
class Preset:
    """A size of machine."""

    model: Dimensions
    batch: int
    """Windows."""
    fit: FitConfig
    """How to optimise."""
    released: bool = False
    """Whether the loss is the released code's, a mean over tokens and over what each could be: a reward then counts 4.5 times as much as an
    action, and that 6.7 times as much as a return. Else all count the same."""
    balanced: bool = True
    """Whether each game has the same share of each batch; else as large a one as it has of the play."""
    crop: int = CROP
    """Pixels that a window is moved by at most."""
    turn: float = TURN
    """Degrees that it is turned by at most."""


PRESETS = {
    "cpu": Preset(
        replace(SIZES["1.5m"], dropout=0.0),
        32,
        FitConfig(18_000, learning_rate=1e-3, warmup_steps=200, weight_decay=0.01, muon=5e-3, ema_decay=0.998),
        crop=0,  # a budget of few passes learns more from pictures as they are (docs/log.md)
        turn=0.0,
    ),
    "gpu": Preset(
        replace(SIZES["10m"], dropout=0.0),
        1_024,
        FitConfig(
            8_000,
            learning_rate=6e-4,
            warmup_steps=500,
            weight_decay=0.01,
            ema_decay=0.999,
            compile=True,
            save_every=1_000,
        ),
    ),
    # Section 4.1: LAMB, 3e-4 after 4,000 steps, no decay of weights or rate, 2,048 windows a step.
    "paper": Preset(
        SIZES["200m"],
        256,
        FitConfig(
            10_000_000,
            learning_rate=3e-4,
            final_ratio=1.0,
            warmup_steps=4_000,
            betas=(0.9, 0.999),
            eps=1e-6,
            lamb=True,
            ema_decay=0.0,
            accumulate=8,
            save_every=10_000,
            log_every=100,
        ),
        released=True,
        balanced=False,
    ),
}
"""From the beginning."""

TUNING = {
    "cpu": Preset(
        replace(SIZES["1.5m"], dropout=0.0),
        32,
        FitConfig(2_000, learning_rate=5e-4, warmup_steps=50, weight_decay=0.01, ema_decay=0.99, save_every=250),
    ),
    "gpu": Preset(
        replace(SIZES["10m"], dropout=0.0),
        256,
        FitConfig(4_000, learning_rate=2e-4, warmup_steps=100, weight_decay=0.01, ema_decay=0.995),
    ),
    # Sections 4.1 and 4.5: 100,000 steps of 256 windows, 1e-4, a decay of 1e-2, of 1 % of a game's play.
    "paper": Preset(
        SIZES["200m"],
        256,
        replace(
            PRESETS["paper"].fit, steps=100_000, learning_rate=1e-4, weight_decay=1e-2, accumulate=1, save_every=5_000
        ),
        released=True,
        balanced=False,
    ),
}
"""From another model, whose size is kept."""


def train(
    play: Play,
    out: Path,
    preset: Preset,
    *,
    returns: bool = True,
    start: DecisionTransformer | None = None,
    part: float = 1.0,
    seed: int = 0,
    device_name: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train a transformer and write `out/model.safetensors`. One episode in twenty of each game is kept to test it with.

    Args:
        play: what it learns from.
        out: the run's folder.
        preset: its size, and how it is trained.
        returns: whether it learns returns too; else it clones behaviour.
        start: a model that learns on, and keeps its size and kind.
        part: of the windows of each game, drawn at random, are learnt from.
        seed: of weights, order and augmentation.
        device_name: auto, cpu or cuda.
        resume: go on with the run in `out`.

    Returns:
        The facts that the weights carry: `data` (of each game the episodes, steps, mean and best score); how they came to be (`part`,
        `preset`, `loss`, `steps`, `seconds`, `windows_per_second`, `machine`, `date`, `seed`); and `nll`, how much the actions,
        rewards and returns of the episodes that were kept surprise the model, in nats, or None where there are too few.

    Raises:
        UserError: there is nothing to learn from, or as `fit`.
    """
    if not 0 < part <= 1:
        raise UserError(f"{part:g} of the play can't be learnt from", "give a part above 0 and up to 1")
    torch.manual_seed(seed)
    dimensions = start.dimensions if start else replace(preset.model, returns=returns)
    model = DecisionTransformer(replace(dimensions, dropout=preset.model.dropout))
    if start:
        model.load_state_dict(start.state_dict())
    learner = Learner(model)
    kept, tested = play.held_out()
    windows = Windows(kept, preset.batch, seed, shares_of(kept) if preset.balanced else None, part)
    test = _test(tested, seed)
    began = time.time()
    fitted = fit(
        learner,
        imitation_loss(preset),
        windows,
        preset.fit,
        out,
        seed=seed,
        device_name=device_name,
        resume=resume,
        validate=None if test is None else lambda model: sum(surprise(model, test).values()),
    )
    learner.load_state_dict(fitted.weights)
    learner.eval()
    nll = None if test is None else {name: round(each, 4) for name, each in surprise(learner, test).items()}
    facts = {"nll": nll, **provenance(play, part, preset, fitted, began, seed)}
    if console.is_main_process():
        weights = checkpoint.in_sixteen_bits(model.state_dict())
        published.save(Path(out) / "model.safetensors", model, facts, weights)
    return facts


def provenance(play: Play, part: float, preset: Any, fitted: Fitted, began: float, seed: int) -> dict[str, Any]:
    """How a model came to be, for the facts that its weights carry.

    Args:
        play: what it learned from.
        part: of that.
        preset: the recipe, this one's or CQL's.
        fitted: what came of it.
        began: when, in seconds since 1970.
        seed: of weights, order and augmentation.
    """
    return {
        "games": [game.name for game in play.games],
        "data": described(play),
        "part": part,
        "preset": asdict(preset),
        "loss": round(fitted.loss, 5),
        "steps": fitted.step,
        "seconds": round(fitted.seconds, 1),
        "windows_per_second": round(fitted.batches * preset.batch / fitted.seconds, 1),
        "machine": device.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "seed": seed,
    }


def imitation_loss(preset: Preset) -> Callable[[nn.Module, Batch, torch.Generator], Tensor]:
    """The loss of a preset, for `fit`: cross-entropies of actions, rewards and, if the model knows them, returns.

    Args:
        preset: whose loss and augmentation.
    """

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        frames = augmented(batch.frames, generator, preset.crop, preset.turn)
        parts = cross_entropies(model, batch._replace(frames=frames))
        if preset.released:
            parts = {name: each / _CLASSES[name] for name, each in parts.items()}
        return torch.stack(list(parts.values())).mean()

    return loss


_CLASSES = {"actions": ACTIONS, "rewards": REWARDS, "returns": RETURNS}


def cross_entropies(model: nn.Module, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """What windows surprise a model by, in nats: `actions` and `rewards` of the steps that were played, and the first step's `returns` if
    it knows them.

    Args:
        model: a `Learner`.
        batch: the windows.
    """
    expected = model(batch.frames, batch.returns, batch.actions, batch.rewards)
    played = batch.played / batch.played.sum()
    found = {
        "actions": (_cross_entropy(expected.actions, batch.actions) * played).sum(),
        "rewards": (_cross_entropy(expected.rewards, batch.rewards) * played).sum(),
    }
    if expected.returns.shape[1]:
        found["returns"] = F.cross_entropy(expected.returns.float(), batch.returns[:, 0])
    return found


def surprise(model: nn.Module, test: list[Batch]) -> dict[str, float]:
    """The mean of `cross_entropies` over some batches of one size.

    Args:
        model: a `Learner`.
        test: the batches.
    """
    where = next(model.parameters()).device
    with torch.no_grad():
        each = [cross_entropies(model, Batch(*(part.to(where) for part in batch))) for batch in test]
    return {name: torch.stack([found[name] for found in each]).mean().item() for name in each[0]}


def described(play: Play) -> list[dict[str, Any]]:
    """Of each game what there is of it.

    Args:
        play: of one or more games.

    Returns:
        `game`, `episodes`, `steps`, `agents`, and the `mean` and `best` score, which are None where scores aren't known.
    """
    rows = []
    for number, game in enumerate(play.games):
        here = np.flatnonzero(play.game == number)
        scores = play.scores[here][np.isfinite(play.scores[here])]
        if len(here):
            row = {"game": game.name, "episodes": len(here), "steps": int(play.lengths[here].sum())}
            known = {"mean": round(float(scores.mean()), 2), "best": float(scores.max())} if len(scores) else {}
            rows.append({**row, "mean": None, "best": None, **known, "agents": sorted({play.agents[i] for i in here})})
    return rows


def shares_of(play: Play) -> list[float]:
    """The same share for each game that there is play of.

    Args:
        play: of one or more games.
    """
    return [float(number in play.game) for number in range(len(play.games))]


def resized(preset: Preset, size: str | None) -> Preset:
    """A preset with another size of model.

    Raises:
        UserError: there is no such size.
    """
    if size is None:
        return preset
    if size not in SIZES:
        raise UserError(f"there is no transformer of size '{size}'", f"the sizes are {', '.join(SIZES)}")
    return replace(preset, model=replace(SIZES[size], dropout=preset.model.dropout))


def with_overrides(
    preset: Any, *, steps: int | None = None, batch: int | None = None, learning_rate: float | None = None
) -> Any:
    """A preset, of this recipe or of another one that has `batch` and `fit`, with what the person changed of it.

    Raises:
        UserError: a number is too small.
    """
    for name, value in {"steps": steps, "batch": batch}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}", "give a whole number from 1 on")
    if learning_rate is not None and not learning_rate > 0:
        raise UserError(f"the learning rate is {learning_rate:g}", "give a number above 0")
    config = replace(
        preset.fit, steps=steps or preset.fit.steps, learning_rate=learning_rate or preset.fit.learning_rate
    )
    return replace(preset, batch=batch or preset.batch, fit=config)


def _test(play: Play, seed: int) -> list[Batch] | None:
    """Windows of the same share of each game."""
    if not play.steps:
        return None
    batches = Windows(play, _AT_ONCE, seed, shares_of(play))
    return [batches(number) for number in range(min(_TESTED, batches.count) // _AT_ONCE or 1)]


def _cross_entropy(logits: Float[Tensor, "batch steps classes"], truth: Int[Tensor, "batch steps"]) -> Tensor:
    return F.cross_entropy(logits.float().transpose(1, 2), truth, reduction="none")
