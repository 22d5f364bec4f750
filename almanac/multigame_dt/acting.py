"""How a transformer plays (arXiv 2205.15241, section 3.4 and footnote 4; the released notebook's `optimal_action`): at each step it draws
a return as an expert would have it, and then an action that leads there. Two recipes are known, and both are here, with their quirks:
the paper's tilts the returns by κ, the released code's takes the highest of 128. Many games are played at once, each by its own
chance."""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num, UInt8

from almanac.multigame_dt import fast
from almanac.multigame_dt.emulator import SIZE
from almanac.multigame_dt.games import ACTIONS
from almanac.multigame_dt.model import DecisionTransformer
from almanac.multigame_dt.tokens import LOWEST, RETURNS, STEPS, reward_tokens
from almanac.nn.int8 import has_integer_products
from almanac.runtime import device as devices
from almanac.runtime.errors import UserError

PRECISIONS = ("auto", "int8", "bf16", "fp32")
"""The words for a precision; auto: on a processor int8 where that is fast, else bfloat16 where that is."""


@dataclass(frozen=True)
class Sampler:
    """How returns and actions are drawn from what the model expects. As in the released code the "temperature" multiplies. The percentile
    comes before κ, which is then among what the model holds possible: a model that saw few windows leaves a ten-thousandth to returns
    that no game came to, and κ = 10 makes them likely (docs/log.md). The released code has the other order, but never uses both."""

    kappa: float = 10.0
    """How much an expert prefers high returns: the log-probability of the highest gains so much on that of the lowest (footnote 4)."""
    samples: int = 1
    """Returns that are drawn, of which the highest counts."""
    return_percentile: float | None = None
    """Only returns whose logits, before κ, lie above this percentile of all are drawn."""
    return_sharpness: float = 1.0
    """What logits of returns are multiplied by: one over the temperature."""
    action_percentile: float | None = None
    """Likewise, of actions."""
    action_sharpness: float = 1.0
    """Likewise, of actions."""

    def __post_init__(self):
        numbers = {
            "return_percentile": 100.0,
            "action_percentile": 100.0,
            "return_sharpness": 1e6,
            "action_sharpness": 1e6,
        }
        for name, most in numbers.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise UserError(f"{name} is {value:g}", f"give {name} from 0 to {most:g}")
        if not abs(self.kappa) <= 1e6:
            raise UserError(f"kappa is {self.kappa:g}", "give a number such as 10, the paper's")
        if not 1 <= self.samples <= 1_000_000:
            raise UserError(f"samples is {self.samples}", "give samples from 1 to 1,000,000")

    def returns(self, logits: Float[np.ndarray, "*batch 120"]) -> Float[np.ndarray, "*batch 120"]:
        """With which probability each return is the one that counts.

        Args:
            logits: of the first step's return.
        """
        tilted = _above(logits, self.return_percentile) + self.kappa * np.linspace(0, 1, RETURNS)
        once = _probabilities(tilted, self.return_sharpness)
        below = once.cumsum(-1) ** self.samples  # that the highest of so many is not above
        return np.diff(below, axis=-1, prepend=0.0)

    def actions(self, logits: Float[np.ndarray, "*batch 18"]) -> Float[np.ndarray, "*batch 18"]:
        """With which probability each action is taken.

        Args:
            logits: of the last step's action.
        """
        return _probabilities(_above(logits, self.action_percentile), self.action_sharpness)


PAPER = Sampler(return_percentile=85.0, action_percentile=50.0)
"""κ = 10 (footnote 4) among the returns above the 85th percentile, and actions above the median, as the appendix is remembered."""
COLAB = Sampler(kappa=0.0, samples=128, return_sharpness=0.75, action_percentile=50.0)
"""The released notebook's."""


class Decision(NamedTuple):
    """What an agent will do in each game, and why. Games that are not live have zeros."""

    actions: Int[np.ndarray, " count"]
    """Of the full set."""
    returns: Int[np.ndarray, " count"] | None
    """The return to go, of clipped rewards from the window's first step on, that it aims at; None without returns, as what follows."""
    predicted: Float[np.ndarray, "count 120"] | None
    """Probabilities of returns from −20 to 99, as the model expects them."""
    return_probabilities: Float[np.ndarray, "count 120"] | None
    """Likewise, as they were drawn from."""
    action_probabilities: Float[np.ndarray, "count 18"]
    """Of each action, as it was drawn from."""


class Agent:
    """A model that plays several games at once, all in one batch. What it does in one doesn't hang on the others.

    Args:
        model: a transformer, with returns or without; it isn't changed.
        count: games.
        sampler: how it draws; may be replaced at any time.
        device: where it computes, as `runtime.device` names it.
        precision: one of `PRECISIONS`.
        seed: of its draws; each game and each of its episodes has chances of its own.

    Raises:
        UserError: there is no such device or precision here.
    """

    def __init__(
        self,
        model: DecisionTransformer,
        count: int,
        sampler: Sampler = PAPER,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
    ):
        self.count, self.sampler = count, sampler
        self._device, self._seed = devices.resolve(device), seed
        self._model = _prepared(model, self._device, precision)
        self._threads = torch.get_num_threads() if self._device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._threads)
        self._frames = torch.zeros(count, STEPS, SIZE, SIZE, dtype=torch.uint8, device=self._device)
        self._actions, self._rewards = np.zeros((2, count, STEPS - 1), np.int64)
        self._took, self._decided = np.zeros(count, np.int64), np.zeros(count, bool)
        self._episodes = np.zeros(count, np.int64)
        self._random = [self._chance(i) for i in range(count)]

    def reset(self, i: int, seed: int | None = None) -> None:
        """An episode begins in a game: before its first frame are black ones, without actions or rewards, as in the released code.

        Args:
            i: which game.
            seed: of the episode's draws, in whichever place it is played; None: the next ones of this place.
        """
        self._frames[i], self._actions[i], self._rewards[i], self._decided[i] = 0, 0, 0, False
        self._episodes[i] += 1
        self._random[i] = self._chance(i) if seed is None else np.random.default_rng(seed)

    def act(self, frames: UInt8[np.ndarray, "count 84 84"], live: Bool[np.ndarray, " count"] | None = None) -> Decision:
        """Decide; again, if nothing was observed since.

        Args:
            frames: what is seen in each game.
            live: games that go on; None: all.
        """
        where = np.arange(self.count) if live is None else np.flatnonzero(live)
        self._frames[where, -1] = torch.from_numpy(frames[where]).to(self._device)
        knows = self._model.dimensions.returns
        decision = Decision(
            np.zeros(self.count, np.int64),
            np.zeros(self.count, np.int64) if knows else None,
            np.zeros((self.count, RETURNS)) if knows else None,
            np.zeros((self.count, RETURNS)) if knows else None,
            np.zeros((self.count, ACTIONS)),
        )
        shares = np.array_split(where, min(len(where), self._threads)) if len(where) else []
        at_once = len(shares) > 1
        with _one_thread_each() if at_once else nullcontext():
            decided = (self._pool.map if at_once else map)(self._decide, shares)
            for share, parts in zip(shares, decided, strict=True):
                for whole, part in zip(decision, parts, strict=True):
                    if whole is not None:
                        whole[share] = part
        self._took[where], self._decided[where] = decision.actions[where], True
        return decision

    def observe(self, rewards: Num[np.ndarray, " count"], actions: Int[np.ndarray, " count"] | None = None) -> None:
        """What came of the decisions, in the games that had one.

        Args:
            rewards: points that were won, unclipped.
            actions: what was done, where somebody else did it; None: what was decided.
        """
        where = np.flatnonzero(self._decided)
        took = self._took if actions is None else actions
        for context, new in ((self._actions, took), (self._rewards, reward_tokens(np.asarray(rewards)))):
            context[where] = np.roll(context[where], -1, 1)
            context[where, -1] = new[where]
        self._frames[where] = self._frames[where].roll(-1, 1)
        self._decided[where] = False

    def _decide(self, where: Int[np.ndarray, " some"]) -> Decision:
        """In some of the games."""
        draws = np.array([self._random[i].random(2) for i in where])
        window = self._frames[where]
        context = [self._sent(each[where]) for each in (self._actions, self._rewards)]
        with torch.inference_mode():
            prefix = self._model.prefix(window[:, 0])
            tokens = predicted = aimed = None
            if prefix.returns is not None:
                logits = _on_cpu(prefix.returns)
                predicted, aimed = _probabilities(logits, 1.0), self.sampler.returns(logits)
                tokens = _drawn(aimed, draws[:, 0])
            shown = None if tokens is None else self._sent(tokens)
            chances = self.sampler.actions(_on_cpu(self._model.rest(prefix, window[:, 1:], shown, *context)))
        returns = None if tokens is None else tokens + LOWEST
        return Decision(_drawn(chances, draws[:, 1]), returns, predicted, aimed, chances)

    def _chance(self, i: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, i, int(self._episodes[i])])

    def _sent(self, numbers: Int[np.ndarray, "..."]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self._device)


def _prepared(model: DecisionTransformer, device: torch.device, precision: str) -> DecisionTransformer:
    """A copy that computes as `precision` says, where it will run."""
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision '{precision}'", f"use {', '.join(PRECISIONS)}")
    if precision == "int8" and device.type != "cpu":
        raise UserError("int8 is for the CPU", "use --precision bf16 on a GPU")
    ready = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    if precision == "int8" or (precision == "auto" and device.type == "cpu" and has_integer_products()):
        return fast.in_eight_bits(ready)
    return ready.bfloat16() if devices.uses_bfloat16(device, precision) else ready


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Threads of ours share the games, instead of PyTorch's each product: those wait for one another hundreds of times a step, and what
    is between products only one of them does. On a busy machine that costs half of the time."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def _above(logits: Float[np.ndarray, "*batch kinds"], percentile: float | None) -> Float[np.ndarray, "*batch kinds"]:
    """Those above a percentile; the likeliest is always among them."""
    if percentile is None:
        return logits
    above = logits > np.percentile(logits, percentile, axis=-1, keepdims=True)
    return np.where(above | (logits == logits.max(-1, keepdims=True)), logits, -np.inf)


def _probabilities(logits: Float[np.ndarray, "*batch kinds"], sharpness: float) -> Float[np.ndarray, "*batch kinds"]:
    highest = logits.max(-1, keepdims=True)
    weights = np.exp(sharpness * (logits - highest)) if sharpness else np.isfinite(logits).astype(float)
    return weights / weights.sum(-1, keepdims=True)


def _drawn(
    probabilities: Float[np.ndarray, "batch kinds"], draws: Float[np.ndarray, " batch"]
) -> Int[np.ndarray, " batch"]:
    """A kind for each number from 0 to 1, as often as it is probable."""
    upto = probabilities.cumsum(-1)
    return (upto > draws[:, None] * upto[:, -1:]).argmax(-1)


def _on_cpu(logits: torch.Tensor) -> Float[np.ndarray, "batch kinds"]:
    return logits.double().cpu().numpy()
