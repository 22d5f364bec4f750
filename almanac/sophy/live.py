"""A race in progress: a thread that moves it on sixty times a second, four steps of the simulator each, by the clock and by nothing else.
What people press reaches it as packets of eight bytes, what they see leaves it as snapshots of sixteen bytes and thirty-two a car; a
person who floods it, is slow or gone holds nobody else up. How packets travel is left to `api`."""

import logging
import math
import queue
import secrets
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from almanac.runtime.connection import Sink
from almanac.runtime.errors import UserError
from almanac.runtime.watching import Going
from almanac.sophy import heat, race
from almanac.sophy.heat import Ground, Heat, LapDone, Plan, Press, Rival
from almanac.sophy.sim import step, world

VERSION = 1
"""Of both packets."""
PREPARING, WAITING, COUNTDOWN, RACING, OVER = range(5)
"""Phases: things are made, nobody is ready, cars are held, cars drive, and all people have finished."""
OFF, WALL, FINISHED, ABS, TRACTION, PERSON, SPOILT = 1, 2, 4, 8, 16, 32, 64
"""Flags of a car: three wheels off the track, at a wall, finished, its aids, whether a person drives it, and whether the lap is spoilt."""

_INPUT = struct.Struct("<BBHhh")
"""Version, aids (1: ABS, 2: traction control), sequence, steering and pedal, ±32,767."""
_HEAD = struct.Struct("<BBBBIfI")
"""Version, phase, cars, 0, frame, clock (s, below 0: cars are held), and how often people came or went."""
_CAR = np.dtype([
    ("who", "u1"), ("flags", "u1"), ("heard", "<u2"), ("x", "<f4"), ("y", "<f4"), ("yaw", "<i2"), ("steering", "<i2"), ("speed", "<i2"),
    ("pedal", "i1"), ("gear", "u1"), ("travelled", "<f4"), ("lap_clock", "<f4"), ("offset", "<i2"), ("penalty", "<u2"),
])  # fmt: skip
"""m; yaw and steering in 1e-4 rad, speed and offset in cm/s and cm, pedal ±127, clock of the lap in s (−1: none), penalty in 0.01 s."""

_FRAME = 1 / world.FRAMES
_BEHIND = 0.25
"""s behind the clock after which time is let go, rather than raced after."""
_HOLD = 3.0
"""s before a rolling start."""
_SILENT = 0.5
"""s without a packet after which pedals are let go."""
_CALM = 1.0
"""s between two resets of a car."""
_KEPT = 20_000
"""Ticks that are remembered."""
_LOG = logging.getLogger(__name__)


def pack_input(press: Press) -> bytes:
    """What a person presses, as eight bytes."""
    aids = (1 if press.abs else 0) | (2 if press.traction else 0)
    steering, pedal = (round(32767 * min(max(each, -1.0), 1.0)) for each in (press.steering, press.pedal))
    return _INPUT.pack(VERSION, aids, press.sequence & 0xFFFF, steering, pedal)


def read_input(packet: bytes) -> Press:
    """What a packet says that a person presses.

    Raises:
        UserError: it is no such packet.
    """
    if len(packet) != _INPUT.size or packet[0] != VERSION or packet[1] > 3:
        raise UserError(f"a packet of {len(packet)} bytes is none of ours", "reload the page")
    _, aids, sequence, steering, pedal = _INPUT.unpack(packet)
    return Press(sequence, max(steering / 32767, -1.0), max(pedal / 32767, -1.0), bool(aids & 1), bool(aids & 2))


def pack_snapshot(now: Heat, phase: int, clock: float, changes: int) -> bytes:
    """All cars, as they are.

    Args:
        now: the race.
        phase: of it.
        clock: s since cars were let go; below 0: until they are.
        changes: how often people came or went.
    """
    cars, count = now.scene.cars, now.scene.count
    state, people = cars.state, now.people
    rows = np.zeros(count, _CAR)
    rows["who"] = now.ids
    first = count - len(people)
    rows["flags"] = OFF * cars.off + WALL * cars.wall + ABS * (cars.given[step.ABS] > 0)
    rows["flags"] += (TRACTION * (cars.given[step.TRACTION] > 0)).astype(np.uint8)
    for at, person in enumerate(people, first):
        rows["flags"][at] += PERSON + (SPOILT if person.spoilt else 0)
        rows["heard"][at] = person.press.sequence
    for who in now.finished:
        rows["flags"][now.number(who)] += FINISHED
    rows["x"], rows["y"] = state[step.X], state[step.Y]
    rows["yaw"], rows["steering"] = np.round(1e4 * state[step.YAW]), np.round(1e4 * state[step.STEER])
    rows["speed"] = np.round(100 * state[step.VX]).clip(-32767, 32767)
    rows["pedal"] = np.round(127 * (state[step.THROTTLE] - state[step.BRAKE]))
    rows["gear"] = heat.gear(now.ground, cars)
    rows["travelled"] = cars.travelled
    begun = cars.passed[:, 0]
    rows["lap_clock"] = np.where(begun > -1, cars.clock - begun, -1)
    rows["offset"] = np.round(100 * cars.offset).clip(-32767, 32767)
    rows["penalty"] = np.round(100 * now.penalties).clip(0, 65535)
    return _HEAD.pack(VERSION, phase, count, 0, now.frames, clock, changes) + rows.tobytes()


class Snapshot(NamedTuple):
    """A race as a packet has it."""

    phase: int
    frame: int
    clock: float
    """s."""
    changes: int
    cars: np.ndarray
    """A row for each, with the fields of the packet."""


def read_snapshot(packet: bytes) -> Snapshot:
    """What `pack_snapshot` packed.

    Raises:
        UserError: it is no such packet.
    """
    if len(packet) < _HEAD.size or packet[0] != VERSION or len(packet) != _HEAD.size + packet[2] * _CAR.itemsize:
        raise UserError(f"a packet of {len(packet)} bytes is no snapshot", "ask a server of this version")
    _, phase, _, _, frame, clock, changes = _HEAD.unpack_from(packet)
    return Snapshot(phase, frame, clock, changes, np.frombuffer(packet, _CAR, offset=_HEAD.size))


@dataclass
class Seat:
    """Somebody's place in a session."""

    token: str
    """By which the same browser gets it back."""
    name: str
    sink: Sink | None
    """None: the connection is lost."""
    who: int | None = None
    """Its car's number; none yet: the browser is not ready."""
    press: Press = field(default_factory=Press)
    heard: float = 0.0
    """When the last packet came, by `perf_counter`; so the others."""
    lost: float = 0.0
    was_reset: float = -math.inf


@dataclass(frozen=True)
class Patience:
    """How long a session waits, s."""

    empty: float = 60.0
    """Without anybody, before it ends; it stands still meanwhile."""
    lost: float = 10.0
    """For somebody whose connection broke, before the car is taken away."""


@dataclass
class _Ticks:
    """How late ticks were and how long they took, s."""

    late: Float[np.ndarray, " kept"] = field(default_factory=lambda: np.zeros(_KEPT))
    took: Float[np.ndarray, " kept"] = field(default_factory=lambda: np.zeros(_KEPT))
    count: int = 0
    skipped: int = 0
    """Frames that were let go."""

    def note(self, late: float, took: float) -> None:
        """One tick."""
        self.late[self.count % _KEPT], self.took[self.count % _KEPT] = late, took
        self.count += 1

    def facts(self) -> dict[str, float]:
        """Percentiles, ms."""
        known = min(self.count, _KEPT)
        facts: dict[str, float] = {"ticks": self.count, "skipped": self.skipped}
        for name, values in (("late", self.late[:known]), ("took", self.took[:known])):
            for part in (50, 99, 99.9) if known else ():
                facts[f"{name}_p{part:g}_ms"] = round(1000 * float(np.percentile(values, part)), 3)
        return facts


class Session(Going):
    """A race and the thread that moves it on.

    Args:
        plan: what is driven.
        policies: Sophy's, by name.
        code: by which others join.
        on_lap: is told of laps that people drove; it returns at once.
        on_end: is told that the session has ended.
        patience: how long it waits for people.
    """

    def __init__(
        self,
        plan: Plan,
        policies: Mapping[str, Path] | None = None,
        code: str = "",
        on_lap: Callable[["Session", LapDone], None] = lambda session, lap: None,
        on_end: Callable[["Session"], None] = lambda session: None,
        patience: Patience = Patience(),
    ):
        super().__init__(f"race {code}")
        self.plan, self.code, self.patience = plan, code, patience
        self.ground: Ground | None = None
        self.heat: Heat | None = None
        self.ticks = _Ticks()
        self._policies, self._on_lap, self._on_end = policies or {}, on_lap, on_end
        self._seats: dict[str, Seat] = {}
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of seats
        self._doing, self._changes, self._hold, self._is_over = "", 0, 0, False

    @property
    def taken(self) -> int:
        """Cars that are taken."""
        return len(self.plan.rivals) + len(self._seats)

    def join(self, name: str, sink: Sink, token: str = "") -> Seat:
        """Take a seat, or the same again after a connection broke. Callable from any thread, as all below.

        Raises:
            UserError: all are taken, or the race has ended.
        """
        with self._lock:
            if self.is_ended:
                raise UserError(f"the race {self.code} has ended", "begin another one")
            seat = self._seats.get(token)
            if seat is None and self.taken >= race.MOST:
                raise UserError(f"all {race.MOST} cars of {self.code} are taken", "begin another race")
            if seat is None:
                seat = Seat(secrets.token_urlsafe(12), name, sink)
                self._seats[seat.token] = seat
            elif seat.sink is not None and seat.sink is not sink:
                seat.sink.tell({"type": "error", "what": "you drive in another tab now", "hint": "close this one"})
            seat.sink, seat.name = sink, name
        sink.tell({"type": "phase", "phase": "ready" if self.heat else "preparing", "doing": self._doing})
        return seat

    def lose(self, seat: Seat, sink: Sink) -> None:
        """A connection broke: the car rolls out, and is taken away unless somebody comes back."""
        with self._lock:
            if seat.sink is sink:
                seat.sink, seat.lost = None, time.perf_counter()

    def leave(self, seat: Seat) -> None:
        """Somebody goes for good."""
        with self._lock:
            seat.sink, seat.lost = None, -math.inf

    def press(self, seat: Seat, packet: bytes) -> None:
        """What somebody presses.

        Raises:
            UserError: it is no such packet.
        """
        seat.press, seat.heard = read_input(packet), time.perf_counter()

    def ask(self, seat: Seat, what: str, value: str = "") -> None:
        """What somebody wants: `ready` to drive, `restart`, `reset` of the car, or another `name`.

        Raises:
            UserError: it is nothing of these.
        """
        wishes = {"ready": self._ready, "restart": self._restart, "reset": self._reset, "name": self._rename}
        if what not in wishes:
            raise UserError(f"there is no '{what[:40]}' to ask for", f"known: {', '.join(wishes)}")
        if self._asked.qsize() < 1000:
            self._asked.put(lambda: wishes[what](seat, value))

    def tell(self, message: dict[str, Any]) -> None:
        """Tell everybody."""
        for seat in self._present():
            if seat.sink is not None:
                seat.sink.tell(message)

    # Below: the session's own thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.ground = heat.prepare(self.plan, self._policies, self._prepares)
            self.heat = Heat(self.ground)
            self._pace(self.heat)
        except UserError as error:
            self.tell({"type": "error", "what": error.what, "hint": error.hint})
        except Exception:
            _LOG.exception("the race %s failed", self.code)
            self.tell({"type": "error", "what": "the race failed", "hint": "it is our defect; begin another one"})
        finally:
            with self._lock:
                self._ending.set()
            self.tell({"type": "ended", "why": "nobody was there"})
            self._on_end(self)

    def _prepares(self, doing: str) -> None:
        if self._ending.is_set():
            raise UserError("the race was ended", "begin another one")
        self._doing = doing
        self.tell({"type": "phase", "phase": "preparing", "doing": doing})

    def _pace(self, now: Heat) -> None:
        """Frames by the clock. Who is late catches up, up to a limit; who sleeps sleeps until the next frame is due."""
        due, alone_since = time.perf_counter(), time.perf_counter()
        self._doing = ""
        self.tell({"type": "phase", "phase": "ready", "doing": ""})
        while not self._ending.is_set():
            if not self._present():
                self._take_away(now)
                if time.perf_counter() - alone_since > self.patience.empty:
                    break
                time.sleep(0.02)
                self._answer()
                due = time.perf_counter()
                continue
            alone_since = time.perf_counter()
            if due > alone_since:
                time.sleep(due - alone_since)
            began = time.perf_counter()
            if began - due > _BEHIND:
                self.ticks.skipped += int((began - due) / _FRAME)
                due = began
            self.tick(now)
            self.ticks.note(began - due, time.perf_counter() - began)
            due += _FRAME

    def tick(self, now: Heat) -> None:
        """One frame, with all that goes in and comes out."""
        self._answer()
        self._take_away(now)
        at = time.perf_counter()
        presses = {}
        for seat in self._everybody():
            if seat.who is not None:
                is_heard = seat.sink is not None and at - seat.heard < _SILENT
                presses[seat.who] = seat.press if is_heard else seat.press._replace(steering=0.0, pedal=0.0)
        phase, clock = WAITING, 0.0
        if now.people:
            if self._hold:
                self._hold -= 1
            else:
                now.frame(presses)
            clock = -self._hold * _FRAME if self._hold else now.clock
            phase = OVER if now.is_over else COUNTDOWN if clock < 0 else RACING
            self._report(now)
        snapshot = pack_snapshot(now, phase, clock, self._changes)
        for seat in self._present():
            if seat.sink is not None:
                seat.sink.offer(snapshot)

    def _report(self, now: Heat) -> None:
        """What happened in the last frame."""
        for who, what, penalty in now.events:
            self.tell({"type": "event", "who": who, "what": what, "penalty": round(penalty, 1)})
        if now.events and (now.is_over or any(what.startswith("finishes") for _, what, _ in now.events)):
            self.tell({"type": "places", "over": now.is_over, "places": now.places()})
        now.events.clear()
        for lap in now.laps_done:
            self.tell({"type": "lap", "who": lap.who, "time": round(lap.time, 4), "spoilt": lap.spoilt})
            self._on_lap(self, lap)
        now.laps_done.clear()

    def _answer(self) -> None:
        """Do what people asked for."""
        while True:
            try:
                self._asked.get_nowait()()
            except queue.Empty:
                return

    def _take_away(self, now: Heat) -> None:
        """Cars of those who left, or whose connection broke long ago."""
        at = time.perf_counter()
        gone = [seat for seat in self._everybody() if seat.sink is None and at - seat.lost > self.patience.lost]
        for seat in gone:
            with self._lock:
                self._seats.pop(seat.token, None)
            if seat.who is not None:
                now.leave(seat.who)
                self._tell_who(now, f"{seat.name} has left")

    def _ready(self, seat: Seat, _: str) -> None:
        """Somebody's browser has drawn the track. The first one starts the race."""
        now, sink = self.heat, seat.sink
        if now is None or sink is None:
            return
        is_new = seat.who is None
        if is_new:
            is_first = not now.people
            try:
                seat.who = now.join(seat.name).who
            except UserError as error:
                sink.tell({"type": "error", "what": error.what, "hint": error.hint})
                return
            if is_first:
                self._begin(now)
        seat.heard = time.perf_counter()
        sink.tell({"type": "you", "who": seat.who, "token": seat.token, "room": self.code})
        for note in now.ground.notes:
            sink.tell({"type": "note", "what": note})
        self._tell_who(now, f"{seat.name} drives" if is_new else "")

    def _restart(self, seat: Seat, _: str) -> None:
        if self.heat is not None and seat.who is not None:
            self._begin(self.heat)
            self.tell({"type": "restart"})

    def _begin(self, now: Heat) -> None:
        now.restart()
        self._hold = round(_HOLD * world.FRAMES) if self.plan.speed else 0

    def _reset(self, seat: Seat, _: str) -> None:
        at = time.perf_counter()
        if self.heat is None or seat.who is None or at - seat.was_reset < _CALM or self._hold or self.heat.clock < 0:
            return
        seat.was_reset = at
        self.heat.reset(seat.who)

    def _rename(self, seat: Seat, name: str) -> None:
        seat.name = name
        for person in self.heat.people if self.heat else ():
            if person.who == seat.who and self.heat:
                person.name = name
                self._tell_who(self.heat, "")

    def _tell_who(self, now: Heat, news: str) -> None:
        """Who is in which car."""
        self._changes += 1
        people = {each.who for each in now.people}
        drivers = [
            {"who": who, "name": name, "person": who in people} for who, name in zip(now.ids, now.names, strict=True)
        ]
        self.tell({"type": "who", "changes": self._changes, "drivers": drivers, "news": news})

    def _everybody(self) -> list[Seat]:
        with self._lock:
            return list(self._seats.values())

    def _present(self) -> list[Seat]:
        return [seat for seat in self._everybody() if seat.sink is not None]


class _Nobody:
    """A person who looks away."""

    def __init__(self) -> None:
        self.bytes = 0
        self.can_drive = threading.Event()

    def offer(self, packet: bytes) -> None:
        self.bytes += len(packet)

    def tell(self, message: dict[str, Any]) -> None:
        if message.get("phase") == "ready":
            self.can_drive.set()
        if message["type"] == "error":
            raise UserError(message["what"], message["hint"])


def jitter(
    track: str = "solstice", car: str = "gt3", cars: int = 20, seconds: float = 20.0, people: int = 1
) -> dict[str, float]:
    """How even a session's ticks are, with built-in drivers in all cars but those of people.

    Args:
        track: a track's name.
        car: a car's name.
        cars: of the race, people's included.
        seconds: how long it is watched.
        people: who drive nowhere.

    Returns:
        `ticks`, `skipped`, and of how late ticks were (`late`) and how long they took (`took`): `…_p50_ms`, `…_p99_ms`, `…_p99.9_ms`.

    Raises:
        UserError: there is no such track or car.
    """
    skills = np.linspace(1.0, 0.8, cars - people).round(2).tolist() if cars > people else []
    rivals = tuple(Rival("built-in", skill) for skill in skills)
    session = Session(Plan(track, car, laps=heat.MOST_LAPS, rivals=rivals), code="jitter")
    sinks = [_Nobody() for _ in range(people)]
    seats = [session.join(f"person {at}", sink) for at, sink in enumerate(sinks)]
    session.start()
    try:
        for seat, sink in zip(seats, sinks, strict=True):
            sink.can_drive.wait()
            session.ask(seat, "ready")
        time.sleep(1.0)
        session.ticks = _Ticks()
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends and not session.is_ended:
            for seat in seats:
                session.press(seat, pack_input(Press(1, 0.0, 0.3)))
            time.sleep(0.1)
        return session.ticks.facts()
    finally:
        session.close(5.0)
