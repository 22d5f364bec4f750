"""What every server of ours does alike: errors in the form of OpenAI's API, uploads of limited size, a fair queue in front of a model, and
listening on an address. What is served is in the systems' `api.py`."""

import asyncio
import logging
import math
import resource
import socket
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message

from almanac.runtime.errors import UserError

T = TypeVar("T")

AT_ONCE = 64
"""Jobs that a queue takes in; a thread for each."""
_DRAINED = 8
"""Times its limit, how much of an upload that is too large is read and thrown away: a client that is cut off in the middle of
sending may never read the answer."""
_LOG = logging.getLogger(__name__)


class Refused(UserError):
    """A request that can't be answered, with what an API says of it besides the two lines.

    Args:
        what: what was wrong, with the value.
        hint: what to do about it.
        status: HTTP's.
        param: the field that was wrong.
        code: the error's name, where OpenAI has one.
    """

    def __init__(self, what: str, hint: str, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(what, hint)
        self.status, self.param, self.code = status, param, code


class Gone(Exception):
    """Who asked for the work has left, or the server is about to."""


def error_body(error: Exception) -> dict[str, Any]:
    """OpenAI's body of an error. Of a defect of ours it shows nothing; that goes to the log."""
    message, kind, param, code = "something went wrong here; it is our defect", "server_error", None, None
    if not isinstance(error, UserError):
        _LOG.error("a request failed", exc_info=error)
    if isinstance(error, UserError):
        message, kind = f"{error.what}; {error.hint}", "invalid_request_error"
    if isinstance(error, Refused):
        param, code = error.param, error.code
        kind = "rate_limit_error" if error.status == 429 else kind
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: Exception) -> Response:
    """The answer to a request that failed."""
    refused = _refused(error)
    if refused is None:
        return JSONResponse(error_body(error), 500)
    headers = {"Retry-After": "1"} if refused.status == 429 else None
    return JSONResponse(error_body(refused), refused.status, headers)


def openai_route(upload_limit: int) -> type[APIRoute]:
    """A class of routes that answer errors in OpenAI's form, for `APIRouter(route_class=…)`.

    Args:
        upload_limit: bytes of the largest body that is read.
    """

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                limited = _Limited(request, upload_limit)
                try:
                    limited.check()
                    return await handle(Request(request.scope, limited.receive))
                except Exception as error:
                    if limited.exceeded:
                        await limited.drain()
                    return error_response(error)

            return answer

    return Route


def answer_errors(app: FastAPI) -> None:
    """Have an application answer in OpenAI's form where it has no such page or method."""

    @app.exception_handler(HTTPException)
    def answer(request: Request, error: Exception) -> Response:
        return error_response(error)


def listen(host: str, port: int) -> socket.socket:
    """Take a port, so that one that is taken is said before anything is loaded.

    Args:
        host: the address to listen on; 0.0.0.0 lets other machines in.
        port: the port; 0 takes a free one.

    Raises:
        UserError: the address can't be listened on.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"can't listen on {host}:{port}: {reason}", "choose another --port or --host") from None


def serve(app: FastAPI, listener: socket.socket, drain_seconds: float = 3.0) -> None:
    """Serve an application until it is interrupted; what is going on then has a few seconds to end. It takes as many connections as the
    system lets it, not the thousand that a shell begins with."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, most), most))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=math.ceil(drain_seconds))
    uvicorn.Server(config).run(sockets=[listener])


class Turns:
    """A fair queue in front of a model: jobs run in threads of their own and take turns at it, in the order of asking. A long job gives way
    to the others between its parts.

    Args:
        at_once: how many jobs it takes in.
    """

    def __init__(self, at_once: int = AT_ONCE):
        self.at_once = at_once
        self._pool = ThreadPoolExecutor(at_once, "turns")
        self._jobs = 0
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @property
    def jobs(self) -> int:
        """How many jobs there are."""
        return self._jobs

    async def run(self, work: Callable[["Job"], T]) -> T:
        """Do a job in a thread. Cancelled, it ends at its next turn.

        Raises:
            Refused: there are too many.
        """
        if self._jobs >= self.at_once:
            what = f"the server is busy with {self._jobs} requests"
            raise Refused(what, "try again in a moment", 429, code="rate_limit_exceeded")
        self._jobs += 1
        job = Job(self)
        working = asyncio.get_running_loop().run_in_executor(self._pool, work, job)
        working.add_done_callback(self._done)
        try:
            return await asyncio.shield(working)
        finally:
            job.leave()

    async def follow(self, work: Callable[["Job", Callable[[T], None]], None]) -> AsyncGenerator[T, None]:
        """Do a job in a thread, and pass on what it tells; it ends early when nobody listens any more.

        Raises:
            Refused: there are too many.
        """
        told: asyncio.Queue[T | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(item: T) -> None:
            loop.call_soon_threadsafe(told.put_nowait, item)

        running = loop.create_task(self.run(lambda job: work(job, tell)))
        running.add_done_callback(lambda _: told.put_nowait(None))
        try:
            while (item := await told.get()) is not None:
                yield item
            await running
        finally:
            running.cancel()

    def _done(self, working: asyncio.Future) -> None:
        self._jobs -= 1
        if not working.cancelled():
            working.exception()  # of a job whose user left, nobody else asks for it

    def acquire(self) -> None:
        """Wait for a turn."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def release(self) -> None:
        """End a turn; the next one begins."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # it stays taken
            else:
                self._taken = False


class Job:
    """Work for one user: `with job:` is its turn at the model.

    Args:
        turns: the queue it is in.
    """

    def __init__(self, turns: Turns):
        self._turns = turns
        self._left = threading.Event()

    def __enter__(self) -> "Job":
        self._turns.acquire()
        if self._left.is_set():
            self._turns.release()
            raise Gone
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.release()

    def give_way(self) -> None:
        """Within a turn: let the others have theirs first.

        Raises:
            Gone: who asked for the work left.
        """
        if self._left.is_set():
            raise Gone
        self._turns.release()
        self._turns.acquire()
        if self._left.is_set():
            raise Gone

    def leave(self) -> None:
        """End the work at its next turn."""
        self._left.set()


async def attended(request: Request, work: Awaitable[T]) -> T:
    """The result of work, which is cancelled if the client leaves; its request must have been read.

    Raises:
        Gone: it left.
    """

    async def leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(leaves())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        working.cancel()
        watching.cancel()


class _Limited:
    """The body of a request, up to a limit.

    Args:
        request: the request.
        limit: bytes.
    """

    def __init__(self, request: Request, limit: int):
        self.request, self.limit = request, limit
        self.exceeded, self._read, self._more = False, 0, True

    def check(self) -> None:
        """See whether the body says that it is too large."""
        with suppress(ValueError):
            if int(self.request.headers.get("content-length", 0)) > self.limit:
                self._refuse()

    async def receive(self) -> Message:
        """The next part of it."""
        message = await self._next()
        if self._read > self.limit:
            self._refuse()
        return message

    async def drain(self) -> None:
        """Read on without keeping anything."""
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self._more and self._read <= _DRAINED * self.limit:
                    await self._next()

    async def _next(self) -> Message:
        message = await self.request.receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._more = message.get("more_body", False)
        else:
            self._more = False
        return message

    def _refuse(self) -> None:
        self.exceeded = True
        raise HTTPException(413, f"the upload is larger than {self.limit / 2**20:g} MB")


def _refused(error: Exception) -> Refused | None:
    """What was wrong with a request, whoever found it; None: it was not the request."""
    match error:
        case Refused():
            return error
        case UserError():
            return Refused(error.what, error.hint)
        case RequestValidationError():
            first = error.errors()[0]
            field = str(first["loc"][-1])
            return Refused(f"{field}: {first['msg'].lower()}", "see the API's reference", param=field)
        case HTTPException(status_code=413):
            hint = "send less, or a compressed format"
            return Refused(str(error.detail), hint, 413, "file", "file_too_large")
        case HTTPException():
            return Refused(str(error.detail).lower(), "see the API's reference", error.status_code)
        case Gone():
            return Refused("the server is stopping", "try again in a moment", 503)
    return None
