"""Games that are watched in the browser: the page, what can be watched, a WebSocket for each person, and recordings as action logs. Playing
is `live`'s."""

import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, WebSocket
from fastapi.responses import JSONResponse, Response
from safetensors import SafetensorError, safe_open

from almanac.multigame_dt import emulator, games, live, logs, published
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.live import Session
from almanac.multigame_dt.minds import AtRandom, Looking, Mind
from almanac.multigame_dt.model import DecisionTransformer
from almanac.runtime import connection, hub, watching
from almanac.runtime.errors import UserError
from almanac.runtime.watching import Patience

RANDOM = "random play"
"""In the place of a model's name."""
_REMEMBERED = 50
"""Sessions that have ended, whose recordings can still be had."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    sessions: int = 4
    """Games at once: each computes what a model does fifteen times a second."""
    patience: Patience = field(default_factory=Patience)
    """How long a game waits for people."""
    person: connection.Limits = field(default_factory=connection.Limits)
    """What one person's connection takes; the page sends a message for each key, and for each of the twenty pictures a second."""


def models() -> dict[str, Path]:
    """Models that can be watched, by name: those that ship, and those of the run in $ALMANAC_MULTIGAME_DT_RUN."""
    found = {name: hub.WEIGHTS / f"{name}.safetensors" for name in hub.shipped_weights("multigame_dt")}
    run = os.environ.get("ALMANAC_MULTIGAME_DT_RUN")
    if run:
        found |= {f"{Path(run).name}/{each.stem}": each for each in sorted(Path(run).glob("*.safetensors"))}
    return found


def router(device: str = "auto", limits: Limits = Limits()) -> APIRouter:
    """The games, to be included in an application.

    Args:
        device: where models compute.
        limits: what it takes.
    """
    api, rooms = APIRouter(), _Rooms(device, limits)
    watching.add_page(api, Path(__file__).parent)

    @api.get("/live/choices")
    def choices() -> dict[str, Any]:
        return _choices()

    @api.get("/live/recording")
    def recording(token: str) -> Response:
        found = rooms.recording(token)
        if not found:
            return JSONResponse({"what": "there is no such recording", "hint": "let a game go on for a while"}, 404)
        name = f"{found[-1].game.rom}-{time.strftime('%Y%m%d-%H%M%S')}{logs.SUFFIX}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return Response(_packed(found), media_type="application/gzip", headers=headers)

    @api.websocket("/live/ws")
    async def watch(socket: WebSocket) -> None:
        await connection.attend(socket, limits.person, rooms.enter, rooms.hear, Session.lose)

    return api


def _packed(episodes: Sequence[logs.Episode]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"recording{logs.SUFFIX}"
        logs.write(path, episodes)
        return path.read_bytes()


def _choices() -> dict[str, Any]:
    """What can be watched; `error` says what stands in the way of all of it."""
    error = None
    try:
        emulator.version()
    except UserError as found:
        error = {"what": found.what, "hint": found.hint}
    known = [{"name": each.name, "held_out": each.held_out, "human": each.human} for each in games.all_games().values()]
    found = [(name, _about(path, path.stat().st_mtime_ns)) for name, path in models().items() if path.is_file()]
    offered = [{"name": name, **about} for name, about in found if about is not None]
    return {
        "games": known,
        "models": sorted(offered, key=lambda each: (not each["returns"], -len(each["games"]))),
        "random": RANDOM,
        "speeds": live.SPEEDS,
        "kappa": {"value": live.KAPPA, "most": live.MOST_KAPPA},
        "error": error,
    }


@lru_cache(64)
def _about(path: Path, changed: int) -> dict[str, Any] | None:
    """What a model's file says of it: the `games` that it was trained on, and whether it knows `returns`; None: it is no model of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("almanac", "{}"))
        if (about.get("system"), about.get("model")) != (published.SYSTEM, published.KIND):
            return None
        trained = [games.named(str(each)).name for each in about.get("games", [])]
        return {"games": trained, "returns": bool(about["dimensions"]["returns"])}
    except (SafetensorError, OSError, ValueError, AttributeError, KeyError, TypeError, UserError) as error:
        _LOG.warning("%s is not offered: %s", path, error)
        return None


class _Rooms(watching.Rooms[Session]):
    """Games under way.

    Args:
        device: where models compute.
        limits: what it takes.
    """

    def __init__(self, device: str, limits: Limits):
        super().__init__(limits.sessions, "games are being watched, as many as this machine plays")
        self.device, self.limits = device, limits
        self._past: dict[str, list[logs.Episode]] = {}

    def hear(self, session: Session, said: dict[str, Any] | bytes) -> bool:
        """Do what somebody wants.

        Args:
            session: whose game it is.
            said: `type` and `value` of `Session.ask`; or `choose`, with `game` and `model`; or `leave`.

        Raises:
            UserError: it can't be done.
        """
        if isinstance(said, bytes):
            raise UserError("a message is no text", "reload the page")
        what = said.get("type")
        if what == "leave":
            session.close()
            return False
        if what == "choose":
            session.choose(*self._chosen(said))
        else:
            session.ask(str(what), said.get("value"))
        return True

    def _chosen(self, said: dict[str, Any]) -> tuple[Game, str]:
        """The game and the model that a message names."""
        model = str(said.get("model") or RANDOM)
        if model != RANDOM and model not in models():
            raise UserError(f"there is no model {model[:80]}", "reload the page: it lists those that there are")
        return games.named(str(said.get("game"))[:80]), model

    def _made(self, hello: dict[str, Any]) -> Session:
        game, model = self._chosen(hello)
        return Session(self._mind, game, model, self._ended, self.limits.patience, secrets.randbits(32))

    def recording(self, token: str) -> list[logs.Episode]:
        """All that was played in a session, or in one that has ended lately."""
        session = self.sessions.get(token)
        return session.recording() if session else self._past.get(token, [])

    def _ended(self, session: Session) -> None:
        with self._lock:
            self._past[session.token] = session.recording()
            while len(self._past) > _REMEMBERED:
                del self._past[next(iter(self._past))]
        super()._ended(session)

    def _mind(self, model: str, actions: Sequence[int], seed: int) -> Mind:
        if model == RANDOM:
            return AtRandom(actions, seed)
        path = models().get(model)
        if path is None or not path.is_file():
            raise UserError(f"there is no model {model} any more", "choose another one")
        return Looking(_loaded(path, path.stat().st_mtime_ns, self.device), self.device, seed)


@lru_cache(2)
def _loaded(path: Path, changed: int, device: str) -> DecisionTransformer:
    return published.load(path, device)
