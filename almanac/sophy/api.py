"""Races that are driven in the browser: the page, what it draws, the board, and a WebSocket for each person, up which presses go as bytes
and wishes as JSON. Who floods it is dropped, who stalls sees fewer pictures, and the race goes on for the others; racing is `live`'s."""

import atexit
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse, Response

from almanac.runtime import checkpoint, connection, hub
from almanac.runtime.connection import Connection
from almanac.runtime.errors import UserError
from almanac.sophy import heat, lap, opponents, race, steady, view
from almanac.sophy.board import LONGEST_NAME, Board, default_path, tidy
from almanac.sophy.heat import LapDone
from almanac.sophy.lap import Lap
from almanac.sophy.live import Seat, Session
from almanac.sophy.scenarios import KNOWN
from almanac.sophy.sim import car as car_files
from almanac.sophy.sim import road, track
from almanac.sophy.sim.car import CarSpec
from almanac.sophy.sim.track import Track

_CAREFUL = 0.85
"""The part of the grip whose speeds the page is told for each place."""
_CODE = "BCDFGHJKLMNPQRSTVWXZ23456789"
"""Of rooms: no two that look alike, and no words."""
_SPACING = 1 / 20
"""s between points of a ghost."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    rooms: int = 6
    """Races at once."""
    person: connection.Limits = field(
        default_factory=lambda: connection.Limits(
            ahead=None, kept=3, messages=150.0, burst=100.0, flood=2000, waiting=500
        )
    )
    """What one person's connection takes; the page sends sixty presses a second."""


def policies() -> dict[str, Path]:
    """Sophy's that can be raced, by name: those that ship, and of the run in $ALMANAC_SOPHY_RUN the best and all earlier ones."""
    found = {name: hub.WEIGHTS / f"{name}.safetensors" for name in hub.shipped_weights("sophy")}
    run = os.environ.get("ALMANAC_SOPHY_RUN")
    if run:
        folder = Path(run)
        files = [folder / "model.safetensors", *sorted((folder / "policies").glob("*.safetensors"))]
        found |= {f"{folder.name}/{each.stem}": each for each in files if each.is_file()}
    return found


def _about(policy: Path) -> dict[str, Any] | None:
    """What a policy's file says that it knows: `track`, `car` (that ships; none: another), and whether it practised among others
    (`races`); None: the file is damaged."""
    try:
        _, facts = checkpoint.load_weights(policy, "sophy")
    except UserError:
        return None
    cars = {race.digest(car_files.load(name)): name for name in heat.car_names()}
    races = any(KNOWN[name].cars > 1 for name in facts.get("practised", ()) if name in KNOWN)
    return {"track": facts.get("track"), "car": cars.get(str(facts.get("car_digest"))), "races": races}


def router(limits: Limits = Limits(), board: Board | None = None) -> APIRouter:
    """The races, to be included in an application.

    Args:
        limits: what it takes.
        board: where laps are kept; None: on this machine's.
    """
    api = APIRouter()
    rooms = _Rooms(limits, board)
    own = Path(__file__).parent

    @api.get("/live", response_class=HTMLResponse)
    def page() -> Response:
        return Response((own / "live.html").read_text("utf-8"), media_type="text/html")

    @api.get("/live/live.js")
    def script() -> Response:
        drawn = (own / "live.js").read_text("utf-8").replace("__SCENE__", (own / "scene.js").read_text("utf-8"))
        return Response(drawn, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    @api.get("/live/three.{kind}.min.js")
    def three(kind: str) -> Response:
        if kind not in ("core", "module"):
            return JSONResponse({"detail": "not found"}, 404)
        try:
            text = view.three(f"three.{kind}.min.js")
        except UserError as error:
            return _refused(error)
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    @api.get("/live/choices")
    def choices() -> dict[str, Any]:
        known = {name: _about(path) for name, path in policies().items()}
        return {
            "tracks": track.names(), "cars": heat.car_names(), "most": race.MOST,
            "laps": heat.MOST_LAPS, "least_skill": opponents.LEAST, "longest_name": LONGEST_NAME,
            "policies": [{"name": name, **facts} for name, facts in known.items() if facts],
        }  # fmt: skip

    @api.get("/live/scenery")
    def scenery(track: str, car: str) -> Response:
        try:
            return Response(_scenery(*_names(track, car)), media_type="application/json")
        except UserError as error:
            return _refused(error)

    @api.get("/live/board")
    def laps(track: str, car: str) -> Response:
        try:
            return JSONResponse(rooms.laps(*_known(*_names(track, car))))
        except UserError as error:
            return _refused(error)

    @api.websocket("/live/ws")
    async def drive(socket: WebSocket) -> None:
        await connection.attend(socket, limits.person, rooms.enter, rooms.hear, rooms.lose)

    return api


def _refused(error: UserError) -> JSONResponse:
    return JSONResponse({"what": error.what, "hint": error.hint}, 400)


def _names(course: str, car: str) -> tuple[str, str]:
    """Of a track and a car that are at hand: no files are read whose names come from elsewhere.

    Raises:
        UserError: they are none.
    """
    plan = heat.plan_of({"track": course, "car": car}, {})
    return plan.track, plan.car


@lru_cache(8)
def _known(course: str, car: str) -> tuple[Track, CarSpec]:
    return track.find(course), car_files.load(car)


@lru_cache(8)
def _scenery(course: str, car: str) -> str:
    """All that the page draws and drives by, as JSON."""
    where, spec = _known(course, car)
    whole = view.scenery(where, spec)
    speeds = steady.speeds(spec, where.curvature, where.step, _CAREFUL)
    whole["track"] |= {"limit": view.packed(speeds)}
    whole["cars"] = [{"name": "", "colour": view.colour(at)} for at in range(race.MOST)]
    whole["cars"].append({"name": "", "colour": "#f4f1e4"})  # a ghost
    tyre = spec.tyre_front
    whole["car"] = {
        "name": spec.name, "steering": spec.steering, "base": spec.front + spec.rear,
        "grip": 9.81 * tyre.mu_y_1, "slip": tyre.angle_1, "gears": len(spec.gears.ratios) if spec.gears else 0,
    }  # fmt: skip
    return json.dumps(whole, allow_nan=False)


class _Rooms:
    """Races under way, and what they share: the board, and laps to race against.

    Args:
        limits: what it takes.
        board: where laps are kept; None: on this machine's, once it is needed.
    """

    def __init__(self, limits: Limits, board: Board | None):
        self.limits = limits
        self.sessions: dict[str, Session] = {}
        self._board = board
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "board")

    @property
    def board(self) -> Board:
        """Where laps are kept."""
        if self._board is None:
            self._board = Board(default_path())
        return self._board

    def enter(self, hello: dict[str, Any], sink: Connection) -> tuple[Session, Seat]:
        """Begin a race, or join one.

        Args:
            hello: `name`, `token`, and either `room` or `plan`.
            sink: the connection.

        Raises:
            UserError: there is no such race, it can't be, or there are too many.
        """
        if hello.get("type") != "hello":
            raise UserError("the first message is no hello", "reload the page")
        name, token = tidy(hello.get("name")), str(hello.get("token") or "")
        if code := hello.get("room"):
            code = str(code).strip().upper()[:8]
            session = self.sessions.get(code)
            if session is None:
                raise UserError(f"there is no race {code}", "it may have ended: begin another one")
        else:
            known = policies()
            session = self._open(heat.plan_of(hello.get("plan"), known), known)
        seat = session.join(name, sink, token)
        about = asdict(session.plan) | {"rivals": len(session.plan.rivals)}
        sink.tell({"type": "welcome", "room": session.code, "token": seat.token, "name": name, "plan": about})
        threading.Thread(target=self.tell_ghosts, args=(session, sink.tell), daemon=True).start()
        return session, seat

    def hear(self, joined: tuple[Session, Seat], said: dict[str, Any] | bytes) -> bool:
        """Take a press, or do what somebody wishes; whether more is to come.

        Args:
            joined: the race, and who.
            said: of a press the bytes; else `type`, which may be `leave`, and a `name`.

        Raises:
            UserError: it is nothing of ours.
        """
        session, seat = joined
        if isinstance(said, bytes):
            session.press(seat, said)
            return True
        what = str(said.get("type"))
        if what == "leave":
            session.leave(seat)
            return False
        session.ask(seat, what, tidy(said.get("name")))
        return True

    def lose(self, joined: tuple[Session, Seat], sink: Connection) -> None:
        """A connection has ended."""
        session, seat = joined
        session.lose(seat, sink)

    def _open(self, plan: heat.Plan, known: dict[str, Path]) -> Session:
        with self._lock:
            if len(self.sessions) >= self.limits.rooms:
                what = f"{len(self.sessions)} races are under way, as many as this machine drives"
                raise UserError(what, "join one of them by its code, or try again in a minute")
            code = ""
            while not code or code in self.sessions:
                code = "".join(secrets.choice(_CODE) for _ in range(4))
            session = Session(plan, known, code, self._keep, self._ended)
            self.sessions[code] = session
        session.start()
        return session

    def _ended(self, session: Session) -> None:
        with self._lock:
            self.sessions.pop(session.code, None)

    def _keep(self, session: Session, done: LapDone) -> None:
        """A lap is over; what the disk does about it, the race does not wait for."""
        if not done.spoilt:
            self._writer.submit(self._write, session, done)

    def _write(self, session: Session, done: LapDone) -> None:
        try:
            where, car = _known(session.plan.track, session.plan.car)
            place = self.board.add(*_digests(where, car), done.name, done.time, done.aided, done.trace)
            told = {"type": "board", "laps": self.laps(where, car)}
            session.tell(told | {"who": done.who, "place": place, "time": done.time})
            if place == 1:
                session.tell(self.best_ghost(where, car))
        except UserError as error:
            session.tell({"type": "note", "what": f"{error.what}; {error.hint}"})
        except Exception:
            _LOG.exception("a lap could not be kept")

    def laps(self, where: Track, car: CarSpec) -> list[dict[str, Any]]:
        """The board of a track and a car, as JSON takes it."""
        found = self.board.best(*_digests(where, car))
        return [{"place": place, **asdict(each)} for place, each in enumerate(found, 1)]

    def best_ghost(self, where: Track, car: CarSpec) -> dict[str, Any]:
        """The board's best lap, to race against."""
        found = self.board.ghost(*_digests(where, car))
        if found is None:
            return {"type": "ghost", "of": "board", "trace": ""}
        entry, trace = found
        message = {"type": "ghost", "of": "board", "name": entry.name, "time": entry.seconds}
        return message | {"trace": view.packed(trace)}

    def tell_ghosts(self, session: Session, tell: Callable[[dict[str, Any]], None]) -> None:
        """Tell somebody who comes of the board and the laps to race against; the optimal one is sought, which takes minutes the first
        time."""
        try:
            where, car = _known(session.plan.track, session.plan.car)
            tell({"type": "board", "laps": self.laps(where, car)})
            tell(self.best_ghost(where, car))
        except UserError as error:
            tell({"type": "note", "what": f"{error.what}; {error.hint}"})
            return
        try:
            found = _optimum(session.plan.track, session.plan.car)
            name = {"type": "ghost", "of": "optimum", "name": "optimal lap", "time": found.lap_time}
            tell(name | {"trace": view.packed(_trace(found, where))})
        except UserError as error:
            tell({"type": "note", "what": f"there is no optimal lap to race against: {error.what}"})


def _digests(where: Track, car: CarSpec) -> tuple[str, str]:
    return race.digest(where)[:16], race.digest(car)[:16]


def _trace(found: Lap, where: Track) -> np.ndarray:
    """A lap's points as a ghost has them: time, east, north, heading, and how far along."""
    times = np.append(np.arange(0, found.lap_time, _SPACING), found.lap_time)

    def at(values: np.ndarray, last: float) -> np.ndarray:
        return np.interp(times, np.append(found.time, found.lap_time), np.append(values, last))

    s, offset = at(found.s, found.s[0] + where.length), at(found.offset, found.offset[0])
    x, y, heading = road.places(where, s, offset)
    return np.stack((times, x, y, heading + at(found.angle, found.angle[0]), s), 1).astype(np.float32)


_searching = threading.Lock()
_SEARCH = """
import os, sys
from pathlib import Path
os.nice(10)
from almanac.sophy import lap, optimal
from almanac.sophy.sim import car, track
lap.write(optimal.remembered(car.load(sys.argv[2]), track.find(sys.argv[1])), Path(sys.argv[3]))
"""


@lru_cache(16)
def _optimum(course: str, car: str) -> Lap:
    """The optimal lap. It is sought by a process of its own, which leaves the races their time and ends with this one.

    Raises:
        UserError: it was not found.
    """
    with _searching, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lap.csv"
        command = [sys.executable, "-c", _SEARCH, course, car, str(path)]
        search = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        atexit.register(search.kill)
        try:
            _, said = search.communicate()
        finally:
            search.kill()
            atexit.unregister(search.kill)
        if search.returncode:
            _LOG.warning("no optimal lap of %s on %s: %s", car, course, said[-2000:])
            raise UserError("the search for it failed", "the server's log says why")
        return lap.read(path)
