"""Sessions that one person watches: who is there is told all, however soon it goes wrong, and rooms are full when they are."""

import threading
import time
from typing import Any

import pytest

from almanac.runtime.connection import Sink
from almanac.runtime.errors import UserError
from almanac.runtime.watching import Patience, Rooms, Watched

SOON = 20.0


class Eye:
    """Who looks, and remembers all."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def offer(self, packet: bytes) -> None:
        pass

    def tell(self, message: dict[str, Any]) -> None:
        self.told.append(message)

    def hears(self, kind: str) -> dict[str, Any]:
        until(lambda: any(each["type"] == kind for each in self.told))
        return next(each for each in self.told if each["type"] == kind)


def until(true) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Clock(Watched):
    """It goes on until nobody is there, or breaks at once."""

    def __init__(self, on_end, breaks: Exception | None = None, patience: Patience | None = None):
        super().__init__("clock", on_end, patience)
        self.breaks, self.news = breaks, threading.Event()

    def _live(self) -> None:
        if self.breaks:
            raise self.breaks
        while not self.is_ended and not self._gives_up():
            self.news.wait(0.02)

    def _wake(self) -> None:
        self.news.set()


class Clocks(Rooms[Clock]):
    def __init__(self, most: int = 1, patience: Patience | None = None):
        super().__init__(most, "clocks tick")
        self.patience = patience

    def _made(self, hello: dict[str, Any]) -> Clock:
        return Clock(self._ended, hello.get("breaks"), self.patience)


def hello(**more: Any) -> dict[str, Any]:
    return {"type": "hello", **more}


def test_an_eye_is_a_sink():
    assert isinstance(Eye(), Sink)


@pytest.mark.parametrize(
    ("breaks", "what"), [(UserError("it is broken", "mend it"), "it is broken"), (ValueError("x"), "the clock failed")]
)
def test_who_is_there_is_told_what_went_wrong_at_once(breaks, what):
    for _ in range(50):
        eye, rooms = Eye(), Clocks()
        rooms.enter(hello(breaks=breaks), eye)
        assert eye.hears("error")["what"] == what
        assert eye.told[0]["type"] == "welcome"
        until(lambda rooms=rooms: not rooms.sessions)


def test_who_comes_back_finds_ones_own_and_who_looked_before_is_told():
    rooms, first, second = Clocks(), Eye(), Eye()
    session = rooms.enter(hello(), first)
    assert rooms.enter(hello(token=session.token), second) is session
    assert "another tab" in first.hears("error")["what"]
    session.lose(first)  # its connection is not the one that counts
    assert not session.is_alone
    session.close(SOON)
    assert session.is_ended and not rooms.sessions
    with pytest.raises(UserError, match="has ended"):
        session.join(first)
    assert rooms.enter(hello(token=session.token), first) is not session


def test_full_rooms_take_nobody_but_in_the_place_of_who_is_lost(monkeypatch):
    rooms, first = Clocks(), Eye()
    session = rooms.enter(hello(), first)
    with pytest.raises(UserError, match="1 clocks tick"):
        rooms.enter(hello(), Eye())
    session.lose(first)
    monkeypatch.setattr("almanac.runtime.watching._JOINING", -1.0)
    other = rooms.enter(hello(), Eye())
    assert session.is_ended and list(rooms.sessions) == [other.token]
    other.close(SOON)
    with pytest.raises(UserError, match="no hello"):
        rooms.enter({"type": "hi"}, Eye())


@pytest.mark.parametrize(
    ("patience", "lost", "why"),
    [(Patience(idle=0.1), False, "nobody touched anything"), (Patience(lost=0.1), True, "nobody was there")],
)
def test_a_session_ends_when_nobody_is_there(patience, lost, why):
    rooms, eye = Clocks(patience=patience), Eye()
    session = rooms.enter(hello(), eye)
    if lost:
        session.lose(eye)
    until(lambda: session.is_ended and not rooms.sessions)
    assert why in session._why and (lost or eye.told[-1]["type"] == "ended")
