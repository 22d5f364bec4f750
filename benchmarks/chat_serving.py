"""What the chat server promises whoever is served beside others, on a real server with random weights: what begins alike comes sooner, a
long prompt does not hold up answers, one who asks for much does not keep another waiting, and who is too many is told so at once. Each is
measured twice: over HTTP as a client sees it, who computes on the same cores, and without HTTP, in the engine's own thread."""

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.request import urlopen

import numpy as np

from almanac.chat import models
from almanac.chat.engine.engine import Ask, Engine, Options, Part, Ticket
from almanac.chat.engine.request import Sampling
from almanac.runtime import console, hub
from almanac.runtime.errors import UserError

AGAIN, GAP, WAIT = 0.25, 3.0, 2.0
"""What is promised: at most such a part of the first time, times the usual gap, times the wait alone."""
SYSTEM_PROMPT, QUESTION = 1000, 24
"""Tokens of a beginning that is asked again, and of what follows it."""
STREAMS, LONG_PROMPT = 32, 1500
"""Answers in the making when a prompt of so many tokens arrives."""
GREEDY = 64
"""Answers that one user has made at a time: as many as a server makes."""
SHORT, FEWER = 60, 20
"""Requests that another user makes meanwhile, one at a time; and where nothing is promised."""
CROWD, QUEUE = 200, 64
"""Requests that come at once, where so many may wait."""
_BEFORE, _AFTER = 2.0, 1.0
"""s that are looked at before the long prompt comes, and after its first token."""


@dataclass
class Answer:
    """An answer in the making, as whoever asked sees it; times are in s, by `time.perf_counter`."""

    ended: asyncio.Future[None]
    asked: float = field(default_factory=time.perf_counter)
    times: list[float] = field(default_factory=list)
    """When its tokens came."""
    status: int = 200
    retries_after: str | None = None
    """What a refusal says."""

    @property
    def first_ms(self) -> float:
        """From asking to the first token."""
        return 1000 * (self.times[0] - self.asked)

    def end(self) -> None:
        """Nothing more comes."""
        if not self.ended.done():  # whoever waited for it may have left
            self.ended.set_result(None)


class Door(Protocol):
    """Where one asks."""

    async def ask(self, prompt: Sequence[int], tokens: int, user: str) -> Answer:
        """Ask for exactly so many tokens."""
        ...

    async def settle(self) -> None:
        """Leave all that is not answered, and wait until nothing is computed."""
        ...


def measure(folder: Path, threads: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Measure what is promised.

    Args:
        folder: a model's, in whose context the long prompt fits.
        threads: of the engine.
        rounds: times that each is tried; how long one waits beside others, once, by many requests.
        seed: of prompts.

    Returns:
        Rows of `what`, seen by the client and by the engine.
    """
    rows: list[dict[str, Any]] = []
    with console.progress("measuring", 2 * (3 * rounds + 4) + 1, "tries") as advance:
        with served(folder, threads, "--max-queue", str(QUEUE)) as address:
            rows.append(asyncio.run(_crowd(Http(address), np.random.default_rng(seed))))
            advance()
        with served(folder, threads) as address:
            rows += asyncio.run(_promises(Http(address), "client", rounds, seed, advance))
        engine = Engine(models.load(str(folder)), Options(threads=threads, guess=False))
        rows += asyncio.run(_promises(Direct(engine), "engine", rounds, seed, advance))
        engine.close()
    return rows


async def _promises(door: Door, by: str, rounds: int, seed: int, advance: Any) -> list[dict[str, Any]]:
    """Rows of what is promised to one, at a door."""
    draw = np.random.default_rng(seed)
    for _ in range(2):  # compiles, and learns how long steps take
        await asyncio.gather(*[_whole(door, _random(draw, 300), 16, "warm") for _ in range(8)])
    rows = [await _again(door, draw, rounds, advance)]
    for user in ("bob", "alice"):
        rows.append(await _gaps(door, draw, rounds, user, advance))
    rows += await _waits(door, draw, advance)
    return [{"kind": "promise", "seen_by": by, **row} for row in rows]


async def _again(door: Door, draw: np.random.Generator, rounds: int, advance: Any) -> dict[str, Any]:
    """A system prompt is asked again, with another question."""
    first, again = [], []
    for _ in range(rounds):
        system = _random(draw, SYSTEM_PROMPT)
        for kept in (first, again):
            answer = await _whole(door, system + _random(draw, QUESTION), 4, "alice")
            kept.append(answer.first_ms)
        advance()
    ratios = [now / before for before, now in zip(first, again, strict=True)]
    return _row("a system prompt again: to the first token", first, again, ratios, AGAIN)


async def _gaps(door: Door, draw: np.random.Generator, rounds: int, user: str, advance: Any) -> dict[str, Any]:
    """A long prompt arrives while alice has many answers made."""
    usual, longest, p99, first, alone = [], [], [], [], []
    for _ in range(rounds):
        alone.append((await _whole(door, _random(draw, LONG_PROMPT), 4, user)).first_ms)
        streams = [await door.ask(_random(draw, 64), 1900, "alice") for _ in range(STREAMS)]
        await _all_begun(streams)
        await asyncio.sleep(_BEFORE + 0.5)
        long = await _whole(door, _random(draw, LONG_PROMPT), 4, user)
        await asyncio.sleep(_AFTER)
        times = [np.array(stream.times) for stream in streams]
        await door.settle()
        before, since = long.asked - _BEFORE, long.times[0] + _AFTER
        quiet = np.concatenate([np.diff(each[(each >= before) & (each <= long.asked)]) for each in times])
        busy = np.concatenate([np.diff(each[each <= since])[each[each <= since][1:] > long.asked] for each in times])
        usual.append(1000 * float(np.median(quiet)))
        longest.append(1000 * float(busy.max()))
        p99.append(1000 * float(np.percentile(busy, 99)))
        first.append(long.first_ms)
        advance()
    ratios = [most / median for most, median in zip(longest, usual, strict=True)]
    whose = "the same user's" if user == "alice" else "another's"
    row = _row(f"{whose} long prompt: the longest gap of {STREAMS} answers", usual, longest, ratios, GAP)
    row["p99_ratio"] = round(statistics.median(p99) / statistics.median(usual), 3)
    return row | {"first_ms": round(statistics.median(first), 1), "first_ms_alone": round(statistics.median(alone), 1)}


async def _waits(door: Door, draw: np.random.Generator, advance: Any) -> list[dict[str, Any]]:
    """Bob asks for a little, now and then: alone, beside alice who has as much made as the server makes, and beside as many others,
    of whom each has one answer made; or one fewer, so that there is a place for him."""
    alone = await _now_and_then(door, draw, SHORT)
    advance()
    rows = []
    for what, users in (
        (f"beside one user's {GREEDY} answers", ["alice"] * GREEDY),
        (f"beside {GREEDY - 1} users' answers", [f"user {number}" for number in range(GREEDY - 1)]),
        (f"beside {GREEDY} users' answers", [f"user {number}" for number in range(GREEDY)]),
    ):
        promised = WAIT if len(set(users)) == 1 else None
        async with _busy(door, draw, users):
            beside = await _now_and_then(door, draw, SHORT if promised else FEWER)
        ratio = statistics.median(beside) / statistics.median(alone)
        row = _row(f"{what}: to the first token", alone, beside, [ratio], promised)
        row["p99_ratio"] = round(float(np.percentile(beside, 99) / np.percentile(alone, 99)), 3)
        rows.append(row)
        advance()
    return rows


async def _now_and_then(door: Door, draw: np.random.Generator, requests: int) -> list[float]:
    """How long short requests of bob's wait, one at a time."""
    waited = []
    for _ in range(requests):
        waited.append((await _whole(door, _random(draw, 128), 16, "bob")).first_ms)
        await asyncio.sleep(draw.uniform(0.05, 0.25))  # so that it meets a step anywhere
    return waited


@asynccontextmanager
async def _busy(door: Door, draw: np.random.Generator, users: Sequence[str]) -> AsyncIterator[None]:
    """Users each of whom has an answer made at any time."""

    async def keep(user: str, answers: list[Answer]) -> None:
        for number in itertools.count():
            tokens = int(draw.integers(50, 600) if number == 0 else draw.integers(300, 600))  # they don't end together
            answers.append(await door.ask(_random(draw, 64), tokens, user))
            await answers[-1].ended

    asked: list[list[Answer]] = [[] for _ in users]
    keeping = [asyncio.create_task(keep(user, answers)) for user, answers in zip(users, asked, strict=True)]
    while not all(asked):
        await asyncio.sleep(0.05)
    await _all_begun([answers[0] for answers in asked])
    await asyncio.sleep(1.0)
    yield
    for task in keeping:
        task.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)
    await door.settle()


async def _crowd(door: "Http", draw: np.random.Generator) -> dict[str, Any]:
    """More come at once than may wait."""
    await _whole(door, _random(draw, 64), 16, "warm")
    await door.settle()
    before = door.metric("free_pages")
    asks = [door.ask(_random(draw, 64), 32, f"user {number % 8}") for number in range(CROWD)]
    answers = await asyncio.gather(*asks)
    await asyncio.gather(*[answer.ended for answer in answers])
    await door.settle()
    refused = [answer for answer in answers if answer.status == 429]
    return {
        "kind": "crowd",
        "asked": CROWD,
        "may_wait": QUEUE,
        "answered_whole": sum(len(answer.times) == 32 for answer in answers),
        "refused": len(refused),
        "told_when_to_retry": sum(answer.retries_after is not None for answer in refused),
        "free_pages_before": int(before),
        "free_pages_after": int(door.metric("free_pages")),
    }


def _row(
    what: str, usual: Sequence[float], then: Sequence[float], ratios: Sequence[float], promised: float | None
) -> dict[str, Any]:
    return {
        "what": what,
        "usual_ms": round(statistics.median(usual), 2),
        "then_ms": round(statistics.median(then), 2),
        "ratio": round(statistics.median(ratios), 3),
        "worst_ratio": round(max(ratios), 3) if len(ratios) > 1 else None,
        "promised": promised,
    }


async def _whole(door: Door, prompt: Sequence[int], tokens: int, user: str) -> Answer:
    """Ask, and wait for the whole answer."""
    answer = await door.ask(prompt, tokens, user)
    await answer.ended
    assert len(answer.times) == tokens, f"{len(answer.times)} tokens were answered, not {tokens}"
    return answer


async def _all_begun(answers: Sequence[Answer]) -> None:
    while not all(answer.times for answer in answers):
        await asyncio.sleep(0.05)


def _random(draw: np.random.Generator, count: int) -> list[int]:
    """A prompt that nobody asked before."""
    return draw.integers(3, 49_000, count).tolist()


@contextmanager
def served(folder: Path, threads: int, *more: str) -> Iterator[str]:
    """A server; gives its address, as host and port."""
    log = folder / "serving.log"
    command = [sys.executable, "-m", "almanac.cli", "chat", "serve", str(folder), "--port", "0", "--no-guess"]
    environment = {**os.environ, "PYTHONPATH": str(hub.PROJECT)}
    with log.open("w") as stream:
        command += ["--threads", str(threads), *more]
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    try:
        while "/v1" not in (said := log.read_text()):
            if server.poll() is not None:
                raise UserError("the server ended", f"see {log}")
            time.sleep(0.1)
        yield said.split("http://")[1].split("/v1")[0]
    finally:
        server.terminate()
        server.wait(60)


class Http:
    """A server's door. Its client does as little as can be done for an event, because it computes on the server's cores.

    Args:
        address: host and port.
    """

    def __init__(self, address: str):
        self._address = address
        self._open: set[_Stream] = set()

    async def ask(self, prompt: Sequence[int], tokens: int, user: str) -> Answer:
        """Ask for exactly so many tokens, on a connection of its own."""
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        body = json.dumps(asked).encode()
        lines = (
            "POST /v1/completions HTTP/1.1",
            f"Host: {self._address}",
            f"Authorization: Bearer {user}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        loop = asyncio.get_running_loop()
        stream = _Stream("\r\n".join(lines).encode() + b"\r\n\r\n" + body, Answer(loop.create_future()), self._open)
        host, _, port = self._address.rpartition(":")
        await loop.create_connection(lambda: stream, host, int(port))
        return stream.answer

    async def settle(self) -> None:
        """Leave all that is not answered, and wait until nothing is computed."""
        for stream in list(self._open):
            stream.leave()
        while self.metric("running") or self.metric("waiting"):
            await asyncio.sleep(0.05)

    def metric(self, name: str) -> float:
        """What the server says of itself."""
        with urlopen(f"http://{self._address}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(f"almanac_chat_{name} ")))


class _Stream(asyncio.Protocol):
    """A connection that asks, and notes when events come.

    Args:
        request: its bytes.
        answer: what is noted.
        among: the connections that are open.
    """

    _EVENT = b"data: {"

    def __init__(self, request: bytes, answer: Answer, among: set["_Stream"]):
        self.answer, self._request, self._among = answer, request, among
        self._head, self._tail = b"", b""
        self._in_body = False

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self._transport = transport
        self._among.add(self)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Something came: an event for each token."""
        now = time.perf_counter()
        if not self._in_body:
            self._head += data
            head, self._in_body, data = self._head.partition(b"\r\n\r\n")[0], b"\r\n\r\n" in self._head, b""
            if not self._in_body:
                return
            data = self._head[len(head) :]
            self._read_head(head.decode())
        if self.answer.status == 200:
            data = self._tail + data
            self.answer.times += [now] * data.count(self._EVENT)
            self._tail = data[-len(self._EVENT) + 1 :]

    def connection_lost(self, exc: Exception | None) -> None:
        """The answer is whole, or was left."""
        self._among.discard(self)
        self.answer.end()

    def leave(self) -> None:
        """Hang up."""
        self._transport.abort()

    def _read_head(self, head: str) -> None:
        first, *fields = head.split("\r\n")
        self.answer.status = int(first.split()[1])
        assert self.answer.status in (200, 429), first
        told = dict(field.lower().split(": ", 1) for field in fields)
        self.answer.retries_after = told.get("retry-after")


class Direct:
    """An engine's door, without HTTP: times are taken in the engine's thread.

    Args:
        engine: answers.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._tickets: set[Ticket] = set()

    async def ask(self, prompt: Sequence[int], tokens: int, user: str) -> Answer:
        """Ask for exactly so many tokens."""
        loop = asyncio.get_running_loop()
        answer = Answer(loop.create_future())

        def tell(ticket: Ticket, part: Part) -> None:
            answer.times += [time.perf_counter()] * len(part.tokens)
            if part.reason:
                loop.call_soon_threadsafe(end, ticket)

        def end(ticket: Ticket) -> None:
            self._tickets.discard(ticket)
            answer.end()

        sampling = Sampling(tokens, temperature=0.0, ignore_end=True)
        self._tickets.add(self._engine.submit(Ask(prompt, sampling, key=user, salt=user.encode()), tell))
        return answer

    async def settle(self) -> None:
        """Leave all that is not answered, and wait until nothing is computed."""
        for ticket in self._tickets:
            self._engine.cancel(ticket)
        self._tickets.clear()
        while self._engine.running or self._engine.waiting:
            await asyncio.sleep(0.05)
