"""Cities that are flown through in the browser: the page, what cities there are, a WebSocket for each person, and pictures to keep. Drawing
is `live`'s."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import JSONResponse, RedirectResponse, Response

from almanac.block_nerf import city as folders
from almanac.block_nerf.city import City
from almanac.block_nerf.live import OVERLAYS, STOPS, Look, Session, Shown
from almanac.block_nerf.render import METHODS, Abandoned
from almanac.runtime import connection, console, hub, serving, watching
from almanac.runtime.errors import UserError
from almanac.runtime.serving import Turns
from almanac.runtime.watching import Patience

CITY = "ALMANAC_BLOCK_NERF_CITY"
"""The environment's variable that holds a city's folder."""


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    sessions: int = 4
    """Flights at once: they take turns at the processor."""
    patience: Patience = field(default_factory=Patience)
    """How long a flight waits for people."""
    person: connection.Limits = field(default_factory=connection.Limits)
    """What one person's connection takes; the page sends twenty wishes a second, and a message for each picture."""


def cities() -> dict[str, Path]:
    """Cities that can be flown through, by name: those that ship, and the one in $ALMANAC_BLOCK_NERF_CITY."""
    shipped = sorted((hub.WEIGHTS / "block_nerf").glob(f"*/{folders.FILE}"))
    found = {path.parent.name: path.parent for path in shipped}
    own = os.environ.get(CITY)
    return ({Path(own).resolve().name: Path(own)} if own else {}) | found


def router(limits: Limits = Limits(), known: Callable[[], Mapping[str, Path]] = cities) -> APIRouter:
    """The flights, to be included in an application.

    Args:
        limits: what it takes.
        known: folders of cities by name; asked each time.
    """
    api, rooms = APIRouter(), _Rooms(limits, known)
    watching.add_page(api, Path(__file__).parent)

    @api.get("/live/choices")
    def choices() -> dict[str, Any]:
        return {"cities": list(known()), "methods": METHODS, "overlays": OVERLAYS, "stops": STOPS}

    @api.get("/live/picture")
    def picture(token: str) -> Response:
        session = rooms.sessions.get(token)
        try:
            if session is None:
                raise UserError("there is no such flight", "reload the page")
            png = session.saved()
        except UserError as error:
            return JSONResponse({"what": error.what, "hint": error.hint}, 404)
        except Abandoned:
            return JSONResponse({"what": "the flight has ended", "hint": "begin another one"}, 404)
        name = f"block-nerf-{time.strftime('%Y%m%d-%H%M%S')}.png"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return Response(png, media_type="image/png", headers=headers)

    @api.websocket("/live/ws")
    async def fly(socket: WebSocket) -> None:
        await connection.attend(socket, limits.person, rooms.enter, rooms.hear, Session.lose)

    return api


def application(city: Path) -> FastAPI:
    """One city's page, without Studio.

    Args:
        city: its folder.
    """
    app = FastAPI(title="Almanac Block-NeRF", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router(known=lambda: {city.resolve().name: city}))

    @app.get("/")
    def home() -> Response:
        return RedirectResponse("live")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    return app


def serve(city: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve one city's page until it is interrupted.

    Args:
        city: its folder.
        host: the address to listen on; 0.0.0.0 lets other machines in.
        port: the port; 0 takes a free one.

    Raises:
        UserError: there is no city, or the address can't be listened on.
    """
    City(city)  # which says what is wrong with it
    with serving.listen(host, port) as listener:
        console.log(f"{city} is at http://{host}:{listener.getsockname()[1]}/live (Ctrl-C stops it)")
        serving.serve(application(city), listener)


class _Rooms(watching.Rooms[Session]):
    """All flights.

    Args:
        limits: what the server takes.
        known: folders of cities by name.
    """

    def __init__(self, limits: Limits, known: Callable[[], Mapping[str, Path]]):
        super().__init__(limits.sessions, "people fly already, as many as this machine draws for")
        self.limits, self.known = limits, known
        self._open: dict[str, tuple[float, Shown]] = {}
        self._turns = Turns()

    def hear(self, session: Session, said: dict[str, Any] | bytes) -> bool:
        """Do what somebody wants.

        Args:
            session: whose flight it is.
            said: its `type` is `look`, with the fields of a `Look` and its `city`; `hidden`, with whether it is as `value`; `choose`, with
                `city`; or `leave`.

        Raises:
            UserError: it can't be done.
        """
        if isinstance(said, bytes):
            raise UserError("a message is no text", "reload the page")
        match said:
            case {"type": "look"}:
                session.ask(look_of(said), str(said.get("city")))
            case {"type": "hidden", "value": bool(is_hidden)}:
                session.hide(is_hidden)
            case {"type": "choose"}:
                session.choose(self._named(said))
            case {"type": "leave"}:
                session.close()
                return False
            case _:
                raise UserError(f"a message is {str(said)[:40]}", "it is look, hidden, choose or leave")
        return True

    def _named(self, said: dict[str, Any]) -> str:
        """The city that a message names."""
        name = str(said.get("city"))
        if name not in self.known():
            raise UserError(f"there is no city {name[:80]}", "reload the page: it lists those that there are")
        return name

    def _made(self, hello: dict[str, Any]) -> Session:
        return Session(self._opened, self._named(hello), self._ended, self.limits.patience)

    def _opened(self, name: str) -> Shown:
        """A city, which all who fly there share; read anew after any of it was trained again."""
        folder = self.known().get(name)
        if folder is None:
            raise UserError(f"there is no city {name} any more", "choose another one")
        with self._lock:
            files = [*folder.glob(folders.FILE), *folder.glob("*/*.safetensors")]
            changed = max((each.stat().st_mtime for each in files), default=0.0)
            if self._open.get(name, (None,))[0] != changed:
                self._open[name] = changed, Shown(name, City(folder), self._turns)
            return self._open[name][1]


def look_of(said: Any) -> Look:
    """A wish, as a page sends it.

    Raises:
        UserError: it is none.
    """
    match said:
        case {"number": int(number), "at": [_, _, _] as at, "yaw": yaw, "pitch": pitch, **more}:
            pass
        case _:
            raise UserError(f"a look is {str(said)[:40]}", "it has number, at, yaw and pitch")
    method, overlay, alone = more.get("method", "idw"), more.get("overlay", "colours"), more.get("alone")
    if method not in METHODS:
        raise UserError(f"there is no method {str(method)[:40]}", f"known: {', '.join(METHODS)}")
    if overlay not in OVERLAYS:
        raise UserError(f"there is no overlay {str(overlay)[:40]}", f"known: {', '.join(OVERLAYS)}")
    if alone is not None and not isinstance(alone, str):
        raise UserError(f"the only block is {str(alone)[:40]}", "it is a block's name, or null")
    x, y, z = (_number(each, 1e6, "a coordinate") for each in at)
    return Look(
        number,
        (x, y, z),
        _number(yaw, 1e3, "yaw"),
        _number(pitch, math.pi / 2, "pitch"),
        _number(more.get("light", 0.0), 1e6, "light"),
        _number(more.get("stops", 0.0), STOPS, "stops"),
        method,
        overlay,
        alone,
    )


def _number(value: Any, most: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= most:
        raise UserError(f"{name} is {str(value)[:40]}", f"it is a number from {-most:g} to {most:g}")
    return float(value)
