"""A game in progress that somebody watches: a thread that takes a step of the agent's fifteen times a second, as the console would, shows
what is on the screen and what the agent makes of it, and does what a person's keys say in the agent's place when asked to. The agent sees
what the person did and goes on from there. How packets travel is left to `connection`, and deciding to `minds`."""

import json
import queue
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from almanac.multigame_dt import games
from almanac.multigame_dt.emulator import FRAMES, TIME_LIMIT, Emulator, Frame, Screen
from almanac.multigame_dt.games import Game
from almanac.multigame_dt.logs import Episode
from almanac.multigame_dt.minds import Mind, Thought
from almanac.multigame_dt.play import NOOPS
from almanac.runtime.connection import Sink
from almanac.runtime.errors import UserError
from almanac.runtime.watching import Patience, Watched

RATE = 60 / FRAMES
"""Steps of the agent's a second, of a console whose television shows sixty pictures."""
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""At which it can be watched."""
UP, RIGHT, LEFT, DOWN, FIRE = 1, 2, 4, 8, 16
"""What a person holds, one bit each."""
CONTEXT = 4
"""Frames that the agent sees."""
KEPT = 100
"""Games that are recorded, at most; the oldest are forgotten first."""
KAPPA, MOST_KAPPA = 10.0, 20.0
"""Tilt towards an expert's returns: the paper's (its footnote 4), and the most that can be asked for."""

_SHOWN = 20.0
"""Pictures a second, at most."""
_OVER = 2.0
"""s that the end of a game is shown."""
_BEHIND = 0.25
"""s behind the clock after which time is let go, rather than played after."""
_WAITING = 200
"""Wishes that may wait."""


def action_of(held: int, known: Sequence[int]) -> int:
    """The action that keys mean: of those that the game knows, the nearest; directions that cancel each other out are none.

    Args:
        held: `UP`, `RIGHT`, `LEFT`, `DOWN` and `FIRE`, added.
        known: actions of the full set that do something in this game.
    """
    across = ("", "RIGHT", "LEFT", "")[(held >> 1) & 3]
    along = ("", "UP", "DOWN", "")[(held & UP) | ((held & DOWN) >> 2)]
    fire = "FIRE" if held & FIRE else ""
    for name in (along + across + fire, across + fire, along + fire, fire, along + across, across, along):
        if name and games.ACTION_NAMES.index(name) in known:
            return games.ACTION_NAMES.index(name)
    return 0


def pack(head: dict[str, Any], screen: Screen, seen: UInt8[np.ndarray, "84 wide"]) -> bytes:
    """What is shown, as one packet: the length of the JSON (four bytes, little-endian), the JSON, and two lossless WebP pictures, of which
    its `screen` says how long the first one is.

    Args:
        head: what the JSON holds beside.
        screen: in colour.
        seen: the agent's frames, side by side.
    """
    first, second = _webp(screen[..., ::-1]), _webp(seen)
    said = json.dumps(head | {"screen": len(first)}).encode()
    return struct.pack("<I", len(said)) + said + first + second


def unpack(packet: bytes) -> tuple[dict[str, Any], Screen, UInt8[np.ndarray, "84 wide"]]:
    """What `pack` packed."""
    import cv2

    (length,) = struct.unpack_from("<I", packet)
    head, pictures = json.loads(packet[4 : 4 + length]), np.frombuffer(packet, np.uint8, offset=4 + length)
    first, second = np.split(pictures, [head["screen"]])
    screen, seen = cv2.imdecode(first, cv2.IMREAD_COLOR), cv2.imdecode(second, cv2.IMREAD_GRAYSCALE)
    assert screen is not None and seen is not None
    return head, screen[..., ::-1], seen


def _webp(picture: UInt8[np.ndarray, "..."]) -> bytes:
    """Lossless, a third of a PNG's size."""
    import cv2

    done, packed = cv2.imencode(".webp", np.ascontiguousarray(picture), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert done
    return packed.tobytes()


Makes = Callable[[str, Sequence[int], int], Mind]
"""Who plays, by the model's name, the game's actions and a seed."""


@dataclass
class _Now:
    """The game that is going on."""

    console: Emulator
    model: str
    mind: Mind
    noops: int
    frames: deque[Frame]
    """What the agent sees."""
    thought: Thought
    actions: bytearray = field(default_factory=bytearray)
    took: int = -1
    """The action taken last; −1: none yet."""
    points: float = 0.0
    """That it brought."""
    past: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=CONTEXT - 1))
    """The last actions, and the points that each brought."""
    players: set[str] = field(default_factory=set)
    """Who has taken a step in it: `agent`, `person`."""

    @property
    def is_over(self) -> bool:
        return self.console.over or len(self.actions) >= TIME_LIMIT


class Session(Watched):
    """A game that somebody watches, and the thread that takes it on.

    Args:
        make: who plays.
        game: which.
        model: its name.
        on_end: is told that the session has ended.
        patience: how long it waits.
        seed: of no-ops, and of what the agent draws.
    """

    def __init__(
        self,
        make: Makes,
        game: Game,
        model: str,
        on_end: Callable[["Session"], None] = lambda session: None,
        patience: Patience | None = None,
        seed: int = 0,
    ):
        super().__init__("game", on_end, patience)
        self.game, self.model, self._make = game, model, make
        self._random = np.random.default_rng(seed)
        self._asked: queue.Queue[tuple[str, Any]] = queue.Queue(_WAITING)
        self._kept = threading.Lock()  # of the recording
        self._recorded: deque[Episode] = deque(maxlen=KEPT)
        self._now: _Now | None = None
        self._kappa, self._speed = KAPPA, 1.0
        self._is_paused = self._is_hidden = self._is_taken = False
        self._held = self._tapped = 0
        self._number, self._pictures, self._pace = 0, 0, 0.0

    def ask(self, what: str, value: Any = None) -> None:
        """What somebody wants.

        Args:
            what: `take` the controls, `hand` them back, `pause`, `resume`, `restart`; or one that comes with a value.
            value: of `keys` the bits that are held, and those that were pressed since the last time; of `kappa` the tilt; of `speed` one of
                `SPEEDS`; of `hidden` whether nobody looks.

        Raises:
            UserError: it is nothing of these, or not with that value.
        """
        if what in _VALUES:
            value = _VALUES[what](value)
        elif what not in _PLAIN:
            raise UserError(f"there is no '{what[:40]}' to ask for", f"known: {', '.join([*_PLAIN, *_VALUES])}")
        self.touch()
        self._put(what, value)

    def choose(self, game: Game, model: str) -> None:
        """Watch another game, or another model.

        Args:
            game: which.
            model: its name.
        """
        self.touch()
        self._put("choose", (game, model))

    def recording(self) -> list[Episode]:
        """All games so far, and the one that is going on up to now."""
        with self._kept:
            found, now = list(self._recorded), self._now
            if now is not None and now.actions and not now.is_over:
                found.append(self._episode(now))
        return found

    def _put(self, what: str, value: Any = None) -> None:
        try:
            self._asked.put_nowait((what, value))
        except queue.Full:
            raise UserError("more was asked for than can be done", "wait a moment") from None

    def _wake(self, what: str = "nothing") -> None:
        """Have the session's thread look around; one with so much to do does it anyhow."""
        with suppress(queue.Full):
            self._asked.put_nowait((what, None))

    def _joined(self, sink: Sink) -> None:
        self._wake("show")

    # Below: the session's own thread ---------------------------------------------------------------------------------

    def _live(self) -> None:
        self._begin(fresh=True)
        self._pace_it()

    def _pace_it(self) -> None:
        """Steps by the clock. Who is late lets time go; who stands still waits for a wish."""
        due, shown, ended = time.monotonic(), 0.0, 0.0
        while not self._ending.is_set():
            at = time.monotonic()
            if self._gives_up():
                break
            now = self._now
            assert now is not None
            ended = (ended or at) if now.is_over else 0.0
            if now.is_over and at - ended > _OVER and not self._stands:
                self._begin()
                continue
            if self._stands or now.is_over:
                due = at
                self._answer(0.05 if now.is_over else 0.5)
                continue
            if due > at:
                self._answer(due - at)
                continue
            due = at if at - due > _BEHIND else due
            due += 1 / (RATE * self._speed)
            self._step(now)
            self._pace += 0.05 * (1 / max(time.monotonic() - at, 1e-3) - self._pace)
            if now.is_over or time.monotonic() - shown > 1 / _SHOWN - 0.004:
                shown = time.monotonic()
                self._show()

    @property
    def _stands(self) -> bool:
        return self._is_paused or self._is_hidden or self._sink is None

    def _begin(self, fresh: bool = False) -> None:
        """A new game; of another kind, or by another model, if it is `fresh`."""
        with self._kept:
            now, self._now = self._now, None
            if now is not None and now.actions and not now.is_over:
                self._recorded.append(self._episode(now))
        noops, seed = (int(each) for each in self._random.integers((NOOPS + 1, 2**31)))
        console = Emulator(self.game, in_colour=True) if fresh or now is None else now.console
        console.start(noops)
        if fresh or now is None:
            self._tell({"type": "phase", "phase": "preparing", "doing": f"loading {self.model}"})
            mind = self._make(self.model, console.actions, seed)
        else:
            mind = now.mind
        mind.begin()
        mind.tilt(self._kappa)
        frame = console.frame()
        frames = deque([np.zeros_like(frame)] * (CONTEXT - 1) + [frame], CONTEXT)
        self._number += 1
        now = _Now(console, self.model, mind, noops, frames, mind.think(frame))
        with self._kept:
            self._now = now
        self._tell(self._about(now))
        self._show()

    def _about(self, now: _Now) -> dict[str, Any]:
        past = [
            {"game": each.game.name, "score": each.score, "steps": len(each.actions), "who": each.agent}
            for each in self._recorded
        ]
        return {
            "type": "game",
            "game": self.game.name,
            "model": self.model,
            "number": self._number,
            "actions": list(now.console.actions),
            "random": self.game.random,
            "human": self.game.human,
            "past": past[-20:],
        }

    def _step(self, now: _Now) -> None:
        """One step, of whoever plays."""
        who = "person" if self._is_taken else "agent"
        action = action_of(self._held | self._tapped, now.console.actions) if self._is_taken else now.thought.action
        self._tapped = 0
        with self._kept:
            points = now.console.step(action)
            now.actions.append(action)
            now.took, now.points = action, points
            now.past.append((action, points))
            now.players.add(who)
            if now.is_over:
                self._recorded.append(self._episode(now))
        frame = now.console.frame()
        now.frames.append(frame)
        now.mind.did(action, points)
        if now.is_over:
            self._tell(self._about(now))
        else:
            now.thought = now.mind.think(frame)

    def _episode(self, now: _Now) -> Episode:
        who = [now.model] * ("agent" in now.players) + ["person"] * ("person" in now.players)
        return Episode(now.console.game, bytes(now.actions), now.console.score, now.noops, "+".join(who))

    def _show(self) -> None:
        """Offer the newest picture to whoever watches."""
        now, sink = self._now, self._sink
        if now is None or sink is None:
            return
        self._pictures += 1
        thought, score = now.thought, now.console.score
        part = games.human_normalised(self.game, score)
        head = {
            "picture": self._pictures,
            "game": self._number,
            "state": "over" if now.is_over else "paused" if self._is_paused else "playing",
            "who": "person" if self._is_taken else "agent",
            "score": score,
            "part": None if part is None else round(part, 4),
            "points": now.points,
            "lives": now.console.lives,
            "steps": len(now.actions),
            "capped": now.is_over and not now.console.over,
            "context": self._context(now),
            "took": now.took,
            "wants": thought.action,
            "target": thought.target,
            "kappa": self._kappa,
            "speed": self._speed,
            "pace": round(self._pace, 1),
            "recorded": len(self._recorded) + bool(now.actions and not now.is_over),
            **{name: _parts(getattr(thought, name)) for name in ("actions", "predicted", "tilted")},
        }
        sink.offer(pack(head, now.console.screen(), np.concatenate(list(now.frames), 1)))

    def _context(self, now: _Now) -> list[tuple[int, int] | None]:
        """What was done at each of the agent's frames, and the sign of what it won; None: nothing yet, or before the game."""
        done: list[tuple[int, int] | None] = [(action, int(np.sign(points))) for action, points in now.past]
        return [*[None] * (CONTEXT - 1 - len(done)), *done, None]

    def _answer(self, wait: float) -> None:
        """Do what was asked for, at once, for so many seconds."""
        until = time.monotonic() + wait
        with suppress(queue.Empty):
            while True:
                self._do(*self._asked.get(timeout=max(until - time.monotonic(), 0.0)))

    def _do(self, what: str, value: Any) -> None:
        if what == "keys":
            self._held, pressed = value
            self._tapped |= pressed
            return
        if what in ("take", "hand"):
            self._is_taken, self._held, self._tapped = what == "take", 0, 0
            self._is_paused = False if what == "take" else self._is_paused
        elif what in ("pause", "resume"):
            self._is_paused = what == "pause"
        elif what == "hidden":
            self._is_hidden = value
        elif what == "speed":
            self._speed = value
        elif what == "restart":
            self._is_paused = False
            self._begin()
            return
        elif what == "choose":
            self.game, self.model = value
            self._is_paused = self._is_taken = False
            self._begin(fresh=True)
            return
        elif what == "kappa":
            self._kappa = value
            if self._now is not None:
                self._now.mind.tilt(value)
                if not self._now.is_over:
                    self._now.thought = self._now.mind.think(self._now.frames[-1])
        elif what == "nothing":
            return
        elif what == "show" and self._now is not None:
            self._tell(self._about(self._now))
        self._show()


def _parts(probabilities: Float[np.ndarray, " any"] | None) -> list[float] | None:
    return None if probabilities is None else [round(float(each), 4) for each in probabilities]


def _number(low: float, high: float, name: str) -> Callable[[Any], float]:
    def checked(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f"{name} is {str(value)[:40]}", f"it is a number from {low:g} to {high:g}")
        return float(value)

    return checked


def _keys(value: Any) -> tuple[int, int]:
    match value:
        case [int(held), int(pressed)] if 0 <= held < 32 and 0 <= pressed < 32:
            return held, pressed
    raise UserError(f"keys are {str(value)[:40]}", "they are two numbers from 0 to 31")


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"hidden is {str(value)[:40]}", "it is true or false")
    return value


_PLAIN = ("take", "hand", "pause", "resume", "restart")
_VALUES: dict[str, Callable[[Any], Any]] = {
    "keys": _keys,
    "kappa": _number(0.0, MOST_KAPPA, "kappa"),
    "speed": _number(min(SPEEDS), max(SPEEDS), "speed"),
    "hidden": _flag,
}
