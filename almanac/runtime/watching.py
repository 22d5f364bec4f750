"""What is watched in the browser while it goes on, in a thread of its own until it is ended. Where one person watches, it knows who looks,
waits for who lost the connection, and ends when nobody is there; rooms hold all that a server has under way. What goes on is a system's."""

import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from almanac.runtime.connection import Sink
from almanac.runtime.errors import UserError

_JOINING = 1.0  # s within which whoever begins a session has joined it, and whose connection broke for a moment is back
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a session waits, s."""

    idle: float = 900.0
    """For somebody to touch anything, before it ends."""
    lost: float = 30.0
    """For somebody whose connection broke, before it ends; it stands still meanwhile."""


class Going(ABC):
    """What goes on in a thread of its own until it is ended.

    Args:
        thread: the thread's name.
    """

    def __init__(self, thread: str):
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=thread, daemon=True)

    @abstractmethod
    def _run(self) -> None:
        """All that the thread does, until it is ended."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, wait: float = 0.0) -> None:
        """End it.

        Args:
            wait: s for its thread to end.
        """
        self._ending.set()
        if wait and self._thread is not threading.current_thread():
            self._thread.join(wait)

    @property
    def is_ended(self) -> bool:
        """Whether it is, or is about to be."""
        return self._ending.is_set()


class Watched(Going):
    """A session, and the thread that takes it on. Subclasses say `touch()` whenever somebody wants anything.

    Args:
        name: what it is, to people: `game`.
        on_end: is told that the session has ended.
        patience: how long it waits; None: as by default.
    """

    def __init__(self, name: str, on_end: Callable[[Any], None], patience: Patience | None = None):
        self.token, self.name, self.patience = secrets.token_urlsafe(16), name, patience or Patience()
        super().__init__(f"{name} {self.token[:4]}")
        self._on_end = on_end
        self._sink: Sink | None = None
        self._lost = self._touched = time.monotonic()
        self._lock = threading.Lock()  # of the sink
        self._why = ""

    @abstractmethod
    def _live(self) -> None:
        """All that the thread does, until the session is ended or `_gives_up`."""

    @abstractmethod
    def _wake(self) -> None:
        """Have the thread look around. It is called from other threads."""

    def close(self, wait: float = 0.0) -> None:
        self._ending.set()
        self._wake()
        super().close(wait)

    def _joined(self, sink: Sink) -> None:
        """Somebody looks now, or again."""
        self._wake()

    @property
    def is_alone(self) -> bool:
        """Whether nobody looks, since a connection broke."""
        return self._sink is None and time.monotonic() - self._lost > _JOINING

    def join(self, sink: Sink) -> None:
        """Look, or look again after a connection broke; who looked before is told. Callable from any thread.

        Raises:
            UserError: it has ended.
        """
        with self._lock:
            if self.is_ended:
                raise UserError(f"this {self.name} has ended", "begin another one")
            before, self._sink = self._sink, sink
        if before is not None and before is not sink:
            before.tell({"type": "error", "what": f"this {self.name} is in another tab now", "hint": "close this one"})
        self._joined(sink)

    def lose(self, sink: Sink) -> None:
        """A connection broke: the session stands still, and ends unless somebody comes back."""
        with self._lock:
            if self._sink is sink:
                self._sink, self._lost = None, time.monotonic()
        self._wake()

    def touch(self) -> None:
        """Somebody is there."""
        self._touched = time.monotonic()

    def _run(self) -> None:
        try:
            self._live()
        except UserError as error:
            self._tell({"type": "error", "what": error.what, "hint": error.hint})
        except Exception:
            _LOG.exception("a %s failed", self.name)
            hint = "it is our defect; begin another one"
            self._tell({"type": "error", "what": f"the {self.name} failed", "hint": hint})
        finally:
            with self._lock:
                self._ending.set()
            if self._why:
                self._tell({"type": "ended", "why": self._why})
            self._on_end(self)

    def _gives_up(self) -> bool:
        """Whether nobody has been there for too long."""
        at = time.monotonic()
        with self._lock:
            gone = self._sink is None and at - self._lost > self.patience.lost
        if not gone and at - self._touched <= self.patience.idle:
            return False
        self._why = "nobody was there" if gone else f"nobody touched anything for {self.patience.idle / 60:.0f} minutes"
        return True

    def _tell(self, message: dict[str, Any]) -> None:
        sink = self._sink
        if sink is not None:
            sink.tell(message)


T = TypeVar("T", bound=Watched)


class Rooms(ABC, Generic[T]):
    """All sessions under way.

    Args:
        most: sessions at once.
        full: what is said when there are so many, after their number: `games are watched, …`.
    """

    def __init__(self, most: int, full: str):
        self.most, self.full = most, full
        self.sessions: dict[str, T] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def _made(self, hello: dict[str, Any]) -> T:
        """A new session, which tells `_ended` when it ends.

        Args:
            hello: what of.

        Raises:
            UserError: there is no such thing.
        """

    def enter(self, hello: dict[str, Any], sink: Sink) -> T:
        """Begin a session, or go on with one after a connection broke.

        Args:
            hello: `token` of a session that goes on, and what one that may begin is of.
            sink: the connection.

        Raises:
            UserError: there are too many, or there is no such thing.
        """
        if hello.get("type") != "hello":
            raise UserError("the first message is no hello", "reload the page")
        session = self.sessions.get(str(hello.get("token") or ""))
        fresh = session is None or session.is_ended
        if session is None or fresh:
            session = self._made(hello)
            self._admit(session)
        sink.tell({"type": "welcome", "token": session.token})
        session.join(sink)
        if fresh:  # not before somebody is there to be told what is wrong with it
            session.start()
        return session

    def _admit(self, session: T) -> None:
        with self._lock:
            alone = next((each for each in self.sessions.values() if each.is_alone), None)
            if len(self.sessions) >= self.most and alone is not None:
                alone.close()  # who was there may come back, but somebody else is here now
                del self.sessions[alone.token]
            if len(self.sessions) >= self.most:
                raise UserError(f"{len(self.sessions)} {self.full}", "try again in a minute")
            self.sessions[session.token] = session

    def _ended(self, session: T) -> None:
        with self._lock:
            self.sessions.pop(session.token, None)


def add_page(api: APIRouter, folder: Path) -> None:
    """Serve `live.html` and `live.js` of a folder at `/live`.

    Args:
        api: to add them to.
        folder: where they are.
    """

    @api.get("/live", response_class=HTMLResponse)
    def page() -> Response:
        return Response((folder / "live.html").read_text("utf-8"), media_type="text/html")

    @api.get("/live/live.js")
    def script() -> Response:
        text = (folder / "live.js").read_text("utf-8")
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})
