"""A model that answers many at a time: the core in a thread of its own, with words around it. What it is asked comes from any thread;
what it says goes to whoever asked, as it is drawn."""

import asyncio
import hashlib
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Row
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Float

from almanac.chat.engine.core import Core, Counts, Drawn, Guessing, Runner
from almanac.chat.engine.cpu import CpuRunner, Precision
from almanac.chat.engine.draft import DraftModel
from almanac.chat.engine.pages import PAGE
from almanac.chat.engine.request import Reason, Sampling, Sequence, TokenLogprob
from almanac.chat.engine.scheduler import DEFAULT, Limits
from almanac.chat.engine.speculate import PromptLookup
from almanac.chat.model import Transformer
from almanac.chat.models import ChatModel
from almanac.chat.structure import TokenGrammar
from almanac.chat.tokenizer import Text
from almanac.runtime import device
from almanac.runtime.errors import UserError


@dataclass(frozen=True)
class Options:
    """How an engine runs."""

    precision: str = "auto"
    """Of weights: int8, bf16, fp32; auto: int8 on a CPU, bf16 on a GPU."""
    device: str = "auto"
    threads: int = 0
    """That compute on a CPU; 0: one for each core."""
    memory: float = 0.0
    """GiB for keys and values; 0: as many as 64 texts of the longest kind need, but no more than a quarter of what is free."""
    guess: bool = True
    """Whether it guesses that texts repeat themselves, where checking that is cheap."""
    limits: Limits = DEFAULT
    queue: int = 256
    """Texts that may wait; further ones are refused."""


class Busy(UserError):
    """Too many wait already."""


@dataclass(frozen=True)
class Part:
    """A piece of an answer."""

    answer: int
    """Which of several it belongs to."""
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens, where they were asked for."""
    reason: Reason | None = None
    """Why the answer ended, with its last piece."""


@dataclass
class Answer:
    """A whole answer."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: Reason | None = None


@dataclass(frozen=True)
class Ask:
    """What is asked."""

    prompt: Row[int]
    """Tokens."""
    sampling: Sampling = field(default_factory=Sampling)
    answers: int = 1
    key: str = ""
    """Whose it is, for fairness."""
    salt: bytes = b""
    """Who may find its pages again."""
    priority: int = 0
    seconds: float | None = None
    """After which it is given up."""
    grammar: TokenGrammar | None = None
    """The form that each answer must have."""
    special: bool = False
    """Whether special tokens are shown."""
    features: bool = False
    """Whether what the prompt's last token became before the head is kept."""


class Ticket:
    """Something that was asked.

    Args:
        ask: what.
        tell: called in the engine's thread with itself and each piece of an answer.
    """

    def __init__(self, ask: Ask, tell: Callable[["Ticket", Part], None]):
        self.ask, self.tell = ask, tell
        self.asked = time.monotonic()
        self.sequences: list[Sequence] = []

    @property
    def cached(self) -> int:
        """Tokens of the prompt that did not have to be computed."""
        return self.sequences[0].cached if self.sequences else 0

    @property
    def prompt_logprobs(self) -> list[TokenLogprob]:
        """Of the prompt's tokens from the second on, where they were asked for."""
        return self.sequences[0].prompt_logprobs


class Following:
    """Answers in the making, as `async for ticket, part in following`; `close` it, and what is not answered yet is given up.

    Args:
        engine: whom to ask.
        asks: what.

    Raises:
        UserError: as `Engine.submit`; then nothing is asked.
    """

    def __init__(self, engine: "Engine", asks: Row[Ask]):
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._told: asyncio.Queue[tuple[Ticket, Part]] = asyncio.Queue()
        self._left = sum(ask.answers for ask in asks)
        self.tickets: list[Ticket] = []
        try:
            for ask in asks:
                self.tickets.append(engine.submit(ask, self._tell))
        except UserError:
            self.close()
            raise

    def __aiter__(self) -> "Following":
        return self

    async def __anext__(self) -> "tuple[Ticket, Part]":
        if not self._left:
            raise StopAsyncIteration
        ticket, part = await self._told.get()
        self._left -= part.reason is not None
        return ticket, part

    def close(self) -> None:
        """Give up what is not answered."""
        if self._left:
            self._left = 0
            for ticket in self.tickets:
                self._engine.cancel(ticket)

    def _tell(self, ticket: "Ticket", part: Part) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._told.put_nowait, (ticket, part))


@dataclass
class _Asked:
    """What an answer in the making must know of who asked."""

    ticket: Ticket
    number: int
    text: Text
    new: str = ""
    """Text that was not told yet."""
    told: int = 0
    """Logprobs that were."""

    def add(self, token: int) -> bool:
        """A token was drawn; whether the answer ends there."""
        self.new += self.text.add(token)
        return self.text.ended


class Engine:
    """A model that answers.

    Args:
        model: the model.
        options: how it runs.
        draft: a smaller model of the same vocabulary, which guesses what this one says.
    """

    def __init__(self, model: ChatModel, options: Options = Options(), draft: ChatModel | None = None):
        self.model, self.options = model, options
        precision, where = options.precision, device.resolve(options.device)
        if precision == "auto":
            precision = "bf16" if where.type == "cuda" else "int8"
        if precision not in ("int8", "bf16", "fp32"):
            raise UserError(f"unknown precision '{precision}'", "use auto, int8, bf16, fp32")
        self.precision = precision
        rows = min(options.limits.rows, max(model.config.context, 64))
        limits = replace(options.limits, rows=rows)
        self.pages = self._pages(model.network, where, limits)
        self.context = min(model.config.context, self.pages * PAGE)
        guessing = Guessing(PromptLookup()) if options.guess else None
        if draft is not None:
            guessing = Guessing(self._drafting(draft, where, rows))
        runner = self._runner(model.network, where, rows)
        self.core = Core(runner, self.pages, model.vocabulary.ends, self.context, limits, guessing)
        self.core.warm_up()
        self._inbox: queue.SimpleQueue[Sequence | Callable[[], None] | None] = queue.SimpleQueue()
        self._later: deque[Callable[[], None] | None] = (
            deque()
        )  # what came while a step was computed, and may change what is in it
        self._thread = threading.Thread(target=self._run, daemon=True, name="engine")
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """What it did so far."""
        return self.core.counts

    @cached_property
    def digest(self) -> str:
        """Of the weights: tells two models of one name apart."""
        made = hashlib.blake2b(digest_size=6)
        for name, tensor in self.model.network.state_dict().items():
            made.update(
                name.encode()
                + tensor.flatten()[:64].float().cpu().numpy().tobytes()
                + str(tuple(tensor.shape)).encode()
            )
        return made.hexdigest()

    @property
    def waiting(self) -> int:
        """Texts that have not begun."""
        return self._inbox.qsize() + len(self.core.scheduler.waiting)

    @property
    def running(self) -> int:
        """Texts that are being answered."""
        return len(self.core.scheduler.running)

    def submit(self, ask: Ask, tell: Callable[[Ticket, Part], None]) -> Ticket:
        """Ask; what is answered is told in the engine's thread.

        Raises:
            Busy: too many wait already.
            UserError: the prompt is empty, longer than the model's context, or has tokens that are none.
        """
        self._check(ask)
        if self.waiting >= self.options.queue:
            raise Busy(f"{self.waiting} requests wait already", "try again in a moment")
        ticket = Ticket(ask, tell)
        sampling = replace(ask.sampling, max_tokens=min(ask.sampling.max_tokens, self.context - len(ask.prompt)))
        deadline = None if ask.seconds is None else time.monotonic() + ask.seconds
        for number in range(ask.answers):
            asked = _Asked(ticket, number, Text(self.model.vocabulary, sampling.stop, ask.special))
            own = replace(sampling, seed=sampling.seed + number) if sampling.seed is not None else sampling
            ticket.sequences.append(
                Sequence(
                    list(ask.prompt),
                    own,
                    ask.key,
                    ask.salt,
                    ask.priority,
                    ask.grammar.copy() if ask.grammar else None,
                    deadline,
                    asked.add,
                    ask.features,
                    about=asked,
                )
            )
        first, *others = ticket.sequences
        first.siblings = others
        self._inbox.put(first)
        self.core.runner.ring()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody wants the answer any more: its pages are free before the next step."""

        def cancel() -> None:
            for sequence in ticket.sequences:  # in order: a sibling that has not begun takes the former's place
                self.core.cancel(sequence)

        self._inbox.put(cancel)

    def answer(self, ask: Ask) -> list[Answer]:
        """Ask and wait for all answers.

        Raises:
            UserError: as `submit`.
        """
        told: queue.SimpleQueue[Part] = queue.SimpleQueue()
        self.submit(ask, lambda ticket, part: told.put(part))
        answers = [Answer() for _ in range(ask.answers)]
        while any(answer.reason is None for answer in answers):
            _add(answers, told.get())
        return answers

    def pieces(self, ask: Ask) -> Iterator[str]:
        """Ask for one answer, and get its text as it comes; who stops listening cancels.

        Raises:
            UserError: as `submit`.
        """
        told: queue.SimpleQueue[Part] = queue.SimpleQueue()
        ticket = self.submit(ask, lambda ticket, part: told.put(part))
        try:
            reason = None
            while reason is None:
                part = told.get()
                reason = part.reason
                if part.text:
                    yield part.text
        finally:
            self.cancel(ticket)

    def follow(self, asks: Row[Ask]) -> "Following":
        """Ask, from an event loop, and follow the answers there.

        Raises:
            UserError: as `submit`; then nothing is asked.
        """
        return Following(self, asks)

    def features(self, prompts: Row[Row[int]]) -> Float[np.ndarray, "prompts width"]:
        """What each prompt's last token became before the head."""
        tickets, done = [], threading.Semaphore(0)
        for prompt in prompts:
            ask = Ask(prompt, Sampling(max_tokens=1, temperature=0.0), features=True)
            tickets.append(self.submit(ask, lambda ticket, part: done.release() if part.reason else None))
        for _ in tickets:
            done.acquire()
        return np.stack([ticket.sequences[0].features for ticket in tickets])

    def close(self) -> None:
        """Stop; what is not answered stays so."""
        self._inbox.put(None)
        self._thread.join()
        self.core.runner.close()

    def _run(self) -> None:
        while True:
            try:
                task = self._later.popleft() if self._later else self._inbox.get(block=self.core.idle)
            except queue.Empty:
                self._step()
                continue
            if task is None:
                return
            self.core.add(task) if isinstance(task, Sequence) else task()

    def _step(self) -> None:
        try:
            drawn = self.core.step(self._meanwhile)
        except Exception:
            logging.getLogger(__name__).exception("a step failed; what was being answered is given up")
            drawn = self.core.give_up()
        for each in drawn:
            self._tell(each)

    def _meanwhile(self) -> None:
        """While a step is computed: who has just come is let in, and may begin."""
        with suppress(queue.Empty):
            while True:
                task = self._inbox.get_nowait()
                self.core.add(task) if isinstance(task, Sequence) else self._later.append(task)
        for each in self.core.interject():
            self._tell(each)

    def _tell(self, drawn: Drawn) -> None:
        sequence, asked = drawn.sequence, drawn.sequence.about
        if drawn.reason:
            asked.new += asked.text.finish()
        told = tuple(sequence.logprobs[asked.told :])
        part = Part(asked.number, asked.new, drawn.tokens, told, drawn.reason)
        asked.new, asked.told = "", len(sequence.logprobs)
        asked.ticket.tell(asked.ticket, part)

    def _check(self, ask: Ask) -> None:
        if not ask.prompt:
            raise UserError("the prompt is empty", "give at least a token")
        if len(ask.prompt) >= self.context:
            what = f"the prompt has {len(ask.prompt):,} tokens, and the model's context is {self.context:,}"
            raise UserError(what, "shorten it")
        wrong = next((token for token in ask.prompt if not 0 <= token < self.model.config.vocabulary), None)
        if wrong is not None:
            raise UserError(f"there is no token {wrong}", f"tokens are 0 to {self.model.config.vocabulary - 1}")

    def _runner(self, network: Transformer, where: torch.device, rows: int) -> Runner:
        """What computes a network's steps there."""
        if where.type == "cpu":
            threads = self.options.threads or len(os.sched_getaffinity(0))
            return CpuRunner(network, cast(Precision, self.precision), self.pages, threads, rows)
        from almanac.chat.engine.gpu import GpuRunner  # needs Triton, which is where PyTorch is made for GPUs

        return GpuRunner(network, cast(Precision, self.precision), self.pages, where)

    def _drafting(self, draft: ChatModel, where: torch.device, rows: int) -> DraftModel:
        """A smaller model to guess."""
        if draft.config.vocabulary != self.model.config.vocabulary:
            what = f"the draft has {draft.config.vocabulary:,} tokens, and the model {self.model.config.vocabulary:,}"
            raise UserError(what, "take a smaller model of the same family")
        return DraftModel(self._runner(draft.network, where, rows), self.pages, rows, draft.config.context)

    def _pages(self, network: Transformer, where: torch.device, limits: Limits) -> int:
        """How many pages there is memory for: at least two, or by default a text of full length."""
        page_bytes = CpuRunner.page_bytes(network, cast(Precision, self.precision))
        if self.options.memory:
            return max(int(self.options.memory * 2**30 / page_bytes), 2)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if where.type == "cuda":
            free = torch.cuda.mem_get_info(where)[0]
        whole = -(-network.config.context // PAGE)
        return max(min(limits.running * whole, int(free / 4 / page_bytes)), whole)


def _add(answers: Row[Answer], part: Part) -> None:
    answer = answers[part.answer]
    answer.text += part.text
    answer.tokens += part.tokens
    answer.logprobs += part.logprobs
    answer.reason = part.reason
