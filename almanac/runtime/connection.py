"""One person's WebSocket, of a page that shows something live: JSON or bytes up, JSON and packets that grow old down. Of packets that wait
the newest go alone, and if the page says what it has drawn, no faster than it draws; who floods the connection, stalls or talks nonsense
is told why and closed. What is said on it is each page's own."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from almanac.runtime.errors import UserError

_LOG = logging.getLogger(__name__)
_AGAIN = "reload the page"


@dataclass(frozen=True)
class Limits:
    """What a connection takes."""

    ahead: int | None = 2
    """Packets under way that nobody has drawn yet, after which the next one waits; None: the page doesn't say what it has drawn."""
    kept: int = 1
    """Packets that wait, at most; older ones are dropped."""
    messages: float = 60.0
    """A second that are heard."""
    burst: float = 120.0
    """How many more at once."""
    flood: int = 1000
    """Messages too many after which it is closed."""
    strikes: int = 20
    """Messages that are none of ours, likewise."""
    hello: float = 10.0
    """s for the first message."""
    stalled: float = 20.0
    """s in which nothing could be sent, or was drawn that was, likewise."""
    waiting: int = 200
    """Messages that may wait to be sent, likewise."""
    message: int = 4096
    """Characters of a message."""


@runtime_checkable
class Sink(Protocol):
    """Where what one person sees goes. Both return at once, whatever the network does."""

    def offer(self, packet: bytes) -> None:
        """The newest packet; an older one that still waits may be dropped."""
        ...

    def tell(self, message: dict[str, Any]) -> None:
        """What must arrive."""
        ...


class Connection:
    """As who speaks on it sees it; all of it returns at once, from any thread.

    Args:
        socket: the connection.
        limits: what it takes.
    """

    def __init__(self, socket: WebSocket, limits: Limits):
        self.socket, self.limits = socket, limits
        self.is_closed, self.why = False, ""
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._packets: deque[bytes] = deque(maxlen=limits.kept)
        self._messages: deque[str] = deque()
        self._under_way = 0
        self._progress = time.monotonic()
        """When something was drawn, or there was nothing to draw."""

    def offer(self, packet: bytes) -> None:
        """Show the newest; what has waited for long is forgotten."""
        self._packets.append(packet)
        self._stir()

    def tell(self, message: dict[str, Any]) -> None:
        """Send what must arrive."""
        if len(self._messages) >= self.limits.waiting:
            self.close("the connection is too slow")
        if not self.is_closed:
            self._messages.append(json.dumps(message))
            self._stir()

    def drawn(self) -> None:
        """A packet has arrived and been drawn."""
        self._under_way, self._progress = max(self._under_way - 1, 0), time.monotonic()
        self._stir()

    def close(self, why: str = "") -> None:
        """Send no more but the reason."""
        if not self.is_closed:
            self.why, self.is_closed = why, True
            self._stir()

    def _stir(self) -> None:
        with suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._wake.set)

    async def send_all(self) -> None:
        """Send what there is, until it is closed.

        Raises:
            TimeoutError: nothing gets through.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.stalled):
                    await self._wake.wait()
            self._wake.clear()
            if self._under_way and time.monotonic() - self._progress > self.limits.stalled:
                raise TimeoutError
            async with asyncio.timeout(self.limits.stalled):
                while self._messages:
                    await self.socket.send_text(self._messages.popleft())
                if self.is_closed:
                    return
                while self._packets and (self.limits.ahead is None or self._under_way < self.limits.ahead):
                    if self.limits.ahead is not None:
                        self._progress = self._progress if self._under_way else time.monotonic()
                        self._under_way += 1
                    await self.socket.send_bytes(self._packets.popleft())


class _Meter:
    """How many messages are heard.

    Args:
        limits: of the connection.
    """

    def __init__(self, limits: Limits):
        self.limits, self.tokens, self.at = limits, limits.burst, time.monotonic()
        self.excess, self.strikes = 0, 0

    def is_heard(self) -> bool:
        """Whether this one is.

        Raises:
            UserError: there were far too many.
        """
        now = time.monotonic()
        self.tokens = min(self.tokens + (now - self.at) * self.limits.messages, self.limits.burst)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return True
        self.excess += 1
        if self.excess > self.limits.flood:
            raise UserError("the connection sent far too many messages", _AGAIN)
        return False

    def strike(self, error: UserError) -> None:
        """A message was none of ours.

        Raises:
            UserError: it was one too many.
        """
        self.strikes += 1
        if self.strikes >= self.limits.strikes:
            raise error


async def attend(
    socket: WebSocket,
    limits: Limits,
    enter: Callable[[dict[str, Any], Connection], Any],
    hear: Callable[[Any, dict[str, Any] | bytes], bool],
    lose: Callable[[Any, Connection], None],
) -> None:
    """Serve one person until the connection ends.

    Args:
        socket: the connection.
        limits: what it takes.
        enter: is given the first message, in a thread of its own; what it answers the others get.
        hear: is given each later one, bytes as they are, and answers whether more is to come; messages `drawn` it doesn't get. What it
            refuses by a `UserError` the person is told.
        lose: is told that the connection has ended, if `enter` had answered.
    """
    await socket.accept()
    connection = Connection(socket, limits)
    try:
        async with asyncio.timeout(limits.hello):
            hello = _message(await socket.receive_text(), limits)
        joined = await asyncio.to_thread(enter, hello, connection)
    except (UserError, TimeoutError, KeyError, WebSocketDisconnect, RuntimeError) as error:
        await _end_with(socket, error)
        return
    sending = asyncio.create_task(connection.send_all())
    hearing = asyncio.create_task(_listen(socket, connection, lambda said: hear(joined, said)))
    try:
        done, _ = await asyncio.wait((sending, hearing), return_when=asyncio.FIRST_COMPLETED)
        errors = [WebSocketDisconnect() if each.cancelled() else each.exception() for each in done]
        error = next(filter(None, errors), UserError(connection.why, _AGAIN) if connection.why else None)
        sending.cancel()
        await asyncio.wait((sending,), timeout=1)  # why it ends is the last that is said
        with suppress(Exception):
            await (_end_with(socket, error) if error is not None else socket.close())
    finally:
        lose(joined, connection)
        connection.close()
        for each in (sending, hearing):
            each.cancel()
            each.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


async def _listen(socket: WebSocket, connection: Connection, hear: Callable[[dict[str, Any] | bytes], bool]) -> None:
    """What one person sends, until there is to be no more.

    Raises:
        UserError: too much of it, or too much that is none of ours.
        WebSocketDisconnect: the connection has ended.
    """
    meter = _Meter(connection.limits)
    while True:
        packet = await socket.receive()
        if packet["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(packet.get("code", 1000))
        if not meter.is_heard():
            continue
        try:
            said = packet.get("bytes")
            if said is None:
                said = _message(packet.get("text") or "", connection.limits)
            if isinstance(said, dict) and said.get("type") == "drawn":
                connection.drawn()
            elif not hear(said):
                return
        except UserError as error:
            meter.strike(error)
            connection.tell({"type": "refused", "what": error.what, "hint": error.hint})


def _message(text: str, limits: Limits) -> dict[str, Any]:
    """A message that is a JSON object.

    Raises:
        UserError: it is none.
    """
    try:
        said = json.loads(text) if len(text) <= limits.message else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise UserError("a message is no JSON object, or too long", _AGAIN)
    return said


async def _end_with(socket: WebSocket, error: BaseException) -> None:
    """Say why, and close."""
    if isinstance(error, WebSocketDisconnect):
        return
    if isinstance(error, TimeoutError):
        error = UserError("the connection stalled", _AGAIN)
    if isinstance(error, KeyError):  # bytes where text should be
        error = UserError("the first message is no text", _AGAIN)
    if not isinstance(error, UserError):
        _LOG.error("a connection failed", exc_info=error)
        error = UserError("something went wrong here", f"it is our defect; {_AGAIN}")
    with suppress(Exception):
        async with asyncio.timeout(2):
            await socket.send_text(json.dumps({"type": "error", "what": error.what, "hint": error.hint}))
            await socket.close(1008, error.what[:100])
