"""What is asked of the engine, and what becomes of it."""

import itertools
import secrets
import time
from collections.abc import Callable
from collections.abc import Sequence as Row
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from almanac.chat.engine.pages import Key

Reason = Literal["stop", "length", "cancelled", "deadline", "failed"]


@runtime_checkable
class Grammar(Protocol):
    """What a text must be like, token by token (`chat.structure`)."""

    def mask(self, logits: np.ndarray) -> None:
        """Make impossible what must not follow, in place."""

    def advance(self, token: int) -> None:
        """A token follows."""

    @property
    def done(self) -> bool:
        """Whether nothing may follow."""
        ...

    @property
    def failed(self) -> bool:
        """Whether it can't be held to any more."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How a text is drawn."""

    max_tokens: int = 256
    temperature: float = 1.0
    """0: the likeliest token each time."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability."""
    top_k: int = 0
    """Only so many of the likeliest; 0: all."""
    min_p: float = 0.0
    """Only tokens at least so likely, of the likeliest's probability."""
    presence_penalty: float = 0.0
    """Off the logits of tokens that it has already drawn."""
    frequency_penalty: float = 0.0
    """The same for each time."""
    repetition_penalty: float = 1.0
    """What logits of tokens that it has drawn or was asked are divided by (multiplied where negative)."""
    logit_bias: dict[int, float] = field(default_factory=dict)
    """Added to tokens' logits."""
    seed: int | None = None
    """Of what is drawn; None: another each time."""
    stop: tuple[str, ...] = ()
    """Texts that end it, and are left out."""
    ignore_end: bool = False
    """Whether it goes on after tokens that end a text."""
    min_tokens: int = 0
    """Tokens before which it doesn't end."""
    logprobs: int | None = None
    """Of each token, its own logarithm of probability and the likeliest so many; None: none."""
    prompt_logprobs: bool = False
    """Those of the prompt's tokens too."""


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was, before temperature, penalties and masks."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest, first the likeliest."""


_numbers = itertools.count()


@dataclass(eq=False)
class Sequence:
    """A text in the making."""

    tokens: list[int]
    """The prompt's, and what was drawn."""
    sampling: Sampling
    key: str = ""
    """Whose it is, for fairness."""
    salt: bytes = b""
    """Whose pages it may find again."""
    priority: int = 0
    """Lower ones first."""
    grammar: Grammar | None = None
    deadline: float | None = None
    """When it is given up, by `time.monotonic`."""
    ends_it: Callable[[int], bool] | None = None
    """Called with each token that is drawn, says whether the text ends there."""
    wants_features: bool = False
    """Whether what its last token became before the head is kept."""
    siblings: list["Sequence"] = field(default_factory=list)
    """Further answers to the same prompt, which begin when it is computed."""
    about: Any = None
    """Whatever who asked wants to find again."""
    number: int = field(default_factory=lambda: next(_numbers))
    arrived: float = field(default_factory=time.monotonic)

    prompt: int = 0
    """Tokens that were given."""
    computed: int = 0
    """Tokens whose keys and values are there."""
    cached: int = 0
    """Those of the prompt that did not have to be computed."""
    pages: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    """Tokens that are guessed to follow; the step at hand finds out."""
    counts: dict[int, int] = field(default_factory=dict)
    """How often each token was drawn."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of what was drawn."""
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the prompt's tokens from the second on."""
    features: np.ndarray | None = None
    seed: int = 0
    reason: Reason | None = None
    """Why it ended."""
    begun: float | None = None
    """When it was first computed, by `time.monotonic`."""

    def __post_init__(self) -> None:
        self.tokens = list(self.tokens)  # it grows
        self.prompt = self.prompt or len(self.tokens)
        self.seed = self.sampling.seed if self.sampling.seed is not None else secrets.randbits(63)

    @property
    def drawn(self) -> Row[int]:
        """What was drawn."""
        return self.tokens[self.prompt :]

    @property
    def is_prompt(self) -> bool:
        """Whether more than its last token is to be computed."""
        return self.computed < len(self.tokens) - 1
