"""Games that are watched: what was played, by whomever, replays from its recording; what a person does the agent sees; κ acts at once; and
nobody who stalls, floods or talks nonsense holds anything up."""

import json
import threading
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

pytest.importorskip("ale_py", reason="the Atari emulator is an extra")

from almanac.multigame_dt import api, emulator, live, logs, published
from almanac.multigame_dt.emulator import Emulator
from almanac.multigame_dt.games import ACTION_NAMES, all_games, named
from almanac.multigame_dt.live import (
    DOWN,
    FIRE,
    LEFT,
    RIGHT,
    UP,
    Session,
)
from almanac.multigame_dt.minds import AtRandom, Looking, Thought
from almanac.multigame_dt.model import DecisionTransformer, Dimensions
from almanac.runtime import connection as connections
from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.runtime.watching import Patience

SOON = 60.0
"""s for what takes parts of one on a machine that has nothing else to do."""
BREAKOUT, BOXING = named("Breakout"), named("Boxing")
TINY = Dimensions(16, 1, 1)


class Eye:
    """Who watches, and remembers all."""

    def __init__(self):
        self.heads: list[dict] = []
        self.told: list[dict] = []

    def offer(self, packet: bytes) -> None:
        self.heads.append(live.unpack(packet)[0])

    def tell(self, message: dict) -> None:
        self.told.append(message)

    def until(self, is_so: Callable[[dict], bool]) -> dict:
        """The first picture from now on of which something is true."""
        at, ends = len(self.heads), time.monotonic() + SOON
        while time.monotonic() < ends:
            for head in self.heads[at:]:
                if is_so(head):
                    return head
            time.sleep(0.005)
        raise AssertionError(f"not in {SOON} s: {self.heads[-1:]} {self.told[-3:]}")


class Left:
    """Somebody who always wants to go to the left, and remembers what was done in its place."""

    def __init__(self):
        self.done: list[tuple[int, float]] = []
        self.tilts: list[float] = []

    def tilt(self, kappa: float) -> None:
        self.tilts.append(kappa)

    def begin(self) -> None:
        self.done.clear()

    def think(self, frame: np.ndarray) -> Thought:
        return Thought(ACTION_NAMES.index("LEFT"))

    def did(self, action: int, points: float) -> None:
        self.done.append((action, points))


@pytest.fixture
def watch():
    """Begins a session that is as fast as it gets, and somebody who watches it."""
    begun: list[Session] = []

    def begin(mind, game=BOXING, **more) -> tuple[Session, Eye]:
        session, eye = Session(lambda *_: mind, game, "somebody", **more), Eye()
        begun.append(session)
        session.join(eye)
        session.ask("speed", max(live.SPEEDS))
        session.start()
        return session, eye

    yield begin
    for session in begun:
        session.close(SOON)


@pytest.fixture(scope="module")
def tiny() -> DecisionTransformer:
    torch.manual_seed(0)
    return DecisionTransformer(TINY).eval()


def soon(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + SOON
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


# Keys -----------------------------------------------------------------------------------------------------------------


def test_keys_mean_the_action_of_their_direction_as_far_as_the_game_knows_it():
    for along, across, fire in product((0, UP, DOWN, UP | DOWN), (0, LEFT, RIGHT, LEFT | RIGHT), (0, FIRE)):
        name = {UP: "UP", DOWN: "DOWN"}.get(along, "") + {LEFT: "LEFT", RIGHT: "RIGHT"}.get(across, "")
        wanted = name + ("FIRE" if fire else "") or "NOOP"
        assert ACTION_NAMES[live.action_of(along | across | fire, range(18))] == wanted
    breakout = [ACTION_NAMES.index(each) for each in ("NOOP", "FIRE", "RIGHT", "LEFT")]
    meant = {held: ACTION_NAMES[live.action_of(held, breakout)] for held in range(32)}
    assert meant[UP | LEFT] == meant[DOWN | LEFT] == "LEFT"
    assert meant[FIRE] == meant[UP | FIRE] == meant[FIRE | RIGHT] == "FIRE"
    assert meant[0] == meant[UP] == meant[LEFT | RIGHT] == "NOOP"


# Playing --------------------------------------------------------------------------------------------------------------


def test_a_person_plays_in_the_agents_place_and_hands_back(watch):
    mind = Left()
    session, eye = watch(mind)
    eye.until(lambda head: head["steps"] > 3 and head["who"] == "agent")
    session.ask("take")
    session.ask("keys", [UP | FIRE, UP | FIRE])
    eye.until(lambda head: ACTION_NAMES[head["took"]] == "UPFIRE")
    shown = eye.until(lambda head: head["steps"] > 12)
    assert (shown["who"], ACTION_NAMES[shown["wants"]]) == ("person", "LEFT")
    session.ask("keys", [0, 0])
    eye.until(lambda head: head["took"] == 0)
    session.ask("keys", [0, DOWN])
    eye.until(lambda head: ACTION_NAMES.index("DOWN") in {step[0] for step in head["context"] if step})
    session.ask("hand")
    eye.until(lambda head: ACTION_NAMES[head["took"]] == "LEFT")
    session.close(SOON)
    did, (episode,) = [action for action, _ in mind.done], session.recording()
    assert bytes(did) == episode.actions, "the agent was told of all"
    runs = [ACTION_NAMES[each] for each, before in zip(did, [-1, *did], strict=False) if each != before]
    assert runs[0] == runs[-1] == "LEFT" and {"UPFIRE", "NOOP", "DOWN"} <= set(runs)
    assert did.count(ACTION_NAMES.index("DOWN")) == 1, "a tap, however short, is one step"
    assert episode.agent == "somebody+person"


def test_a_recording_replays_to_the_score_that_was_seen(watch, tmp_path):
    session, eye = watch(AtRandom(range(18), 3), BREAKOUT, seed=5)
    ended = eye.until(lambda head: head["state"] == "over")
    again = eye.until(lambda head: head["game"] == 2 and head["steps"] > 10)
    session.choose(BOXING, "somebody else")
    third = eye.until(lambda head: head["game"] == 3 and head["steps"] > 30)
    logs.write(tmp_path / "log.jsonl.gz", session.recording())
    played = list(logs.read(tmp_path / "log.jsonl.gz"))
    assert [(each.game.name, each.agent) for each in played] == [
        ("Breakout", "somebody"),
        ("Breakout", "somebody"),
        ("Boxing", "somebody else"),
    ]
    replayed = [logs.replay(each) for each in played]
    assert (replayed[0].score, len(replayed[0].actions)) == (ended["score"], ended["steps"])
    assert (
        replayed[0].over and len(replayed[1].actions) >= again["steps"] and len(replayed[2].actions) >= third["steps"]
    )


def test_the_picture_is_of_the_same_play_and_shows_what_flickers():
    plain, shown = Emulator(named("MsPacman")), Emulator(named("MsPacman"), in_colour=True)
    for each in (plain, shown):
        each.start(7)
    random, flickers = np.random.default_rng(0), 0
    for action in random.integers(18, size=120):
        for each in (plain, shown):
            each.step(int(action))
        assert np.array_equal(plain.frame(), shown.frame())
        now, both = plain.screen(), shown.screen()
        assert (both >= now).all()
        flickers += int((both != now).any())
    assert flickers > 20 and plain.score == shown.score


def test_what_is_packed_comes_out_as_it_was():
    random = np.random.default_rng(0)
    screen, seen = (
        random.integers(256, size=(210, 160, 3), dtype=np.uint8),
        random.integers(256, size=(84, 336), dtype=np.uint8),
    )
    head, first, second = live.unpack(live.pack({"é": [1, None]}, screen, seen))
    assert head["é"] == [1, None] and np.array_equal(first, screen) and np.array_equal(second, seen)


def test_kappa_acts_at_once_even_on_a_game_that_stands(watch, tiny):
    session, eye = watch(Looking(tiny, "cpu", 0))
    eye.until(lambda head: head["steps"] > 5)
    session.ask("pause")
    eye.until(lambda head: head["state"] == "paused")
    means, heads = [], []
    for kappa in (0.0, 5.0, 20.0):
        session.ask("kappa", kappa)
        heads.append(eye.until(lambda head, kappa=kappa: head["kappa"] == kappa))
        means.append(np.average(np.arange(-20, 100), weights=heads[-1]["tilted"]))
    assert means == sorted(set(means)), "the higher κ, the higher the return"
    assert heads[0]["predicted"] == heads[1]["predicted"] == heads[2]["predicted"]
    assert len({head["steps"] for head in heads}) == 1
    for head in heads:
        assert head["tilted"][head["target"] + 20] > 0
        assert sum(head["predicted"]) == pytest.approx(1, abs=0.01) == sum(head["actions"])


def test_a_session_stands_while_nobody_is_there_and_goes_on_where_it_was(watch):
    session, eye = watch(Left(), patience=Patience(lost=SOON))
    eye.until(lambda head: head["steps"] > 5)
    session.lose(eye)
    before = len(session.recording()[0].actions)
    time.sleep(0.3)
    stood = len(session.recording()[0].actions)
    assert stood <= before + 1
    other = Eye()
    session.join(other)
    assert other.until(lambda head: head["steps"] > stood)["game"] == 1
    third = Eye()
    session.join(third)
    assert other.told[-1]["type"] == "error", "another tab has taken it"
    third.until(lambda head: True)


@pytest.mark.parametrize(("patience", "goes", "why"), [
    (Patience(idle=0.2), False, "nobody touched anything"), (Patience(lost=0.2), True, "nobody was there"),
])  # fmt: skip
def test_who_is_idle_or_gone_for_long_is_not_waited_for(watch, patience, goes, why):
    over = threading.Event()
    session, eye = watch(Left(), patience=patience, on_end=lambda _: over.set())
    if goes:
        eye.until(lambda head: True)
        session.lose(eye)
    assert over.wait(SOON) and session.is_ended
    assert goes or why in eye.told[-1]["why"]
    with pytest.raises(UserError, match="ended"):
        session.join(eye)


@pytest.mark.parametrize(("what", "value"), [
    ("dance", None), ("keys", [32, 0]), ("keys", "a"), ("kappa", "10"), ("kappa", float("nan")), ("kappa", 21), ("speed", 0), ("hidden", 1),
])  # fmt: skip
def test_what_can_not_be_asked_for_is_refused_and_changes_nothing(watch, what, value):
    session, eye = watch(Left())
    eye.until(lambda head: head["steps"] > 2)
    with pytest.raises(UserError):
        session.ask(what, value)
    eye.until(lambda head: head["steps"] > 6 and head["kappa"] == live.KAPPA)


# The server -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path, monkeypatch, tiny):
    """Weights that ship: a model, a file that is none, and one of another system."""
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path)
    folder = tmp_path / "multigame_dt"
    published.save(folder / "tiny.safetensors", tiny, {"games": ["Breakout", "boxing"]})
    (folder / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nothing at all")
    return folder


def served(**limits) -> TestClient:
    app = FastAPI()
    limits = {"patience": Patience(lost=1.0), **limits}
    app.include_router(api.router("cpu", api.Limits(**limits)), prefix="/m")
    return TestClient(app)


def entered(client: TestClient, **hello):
    """A connection that has said hello."""
    return client.websocket_connect("/m/live/ws"), {"type": "hello", "game": "Boxing", "model": api.RANDOM, **hello}


def pictures(socket, count: int) -> list[dict]:
    """The next pictures, each of which is drawn; what else comes is let go."""
    found = []
    while len(found) < count:
        said = socket.receive()
        assert "bytes" in said or json.loads(said["text"])["type"] not in ("error", "refused"), said
        if said.get("bytes"):
            found.append(live.unpack(said["bytes"])[0])
            socket.send_json({"type": "drawn"})
    return found


def told(socket, kind: str) -> dict:
    while True:
        said = socket.receive()
        if said.get("text") and json.loads(said["text"])["type"] == kind:
            return json.loads(said["text"])


def test_what_can_be_watched_is_listed_and_what_stands_in_the_way(shipped, monkeypatch):
    client = served()
    found = client.get("/m/live/choices").json()
    assert [each["name"] for each in found["games"]] == list(all_games())
    assert found["models"] == [{"name": "multigame_dt/tiny", "games": ["Breakout", "Boxing"], "returns": True}]
    assert found["error"] is None and "html" in client.get("/m/live").headers["content-type"]

    def missing() -> str:
        raise UserError("the Atari emulator (ale-py) isn't installed", "install it")

    monkeypatch.setattr(emulator, "version", missing)
    assert "ale-py" in client.get("/m/live/choices").json()["error"]["what"]


def test_a_model_is_watched_taken_over_and_its_recording_downloaded(shipped, tmp_path):
    client = served()
    connection, hello = entered(client, model="multigame_dt/tiny")
    with connection as socket:
        socket.send_json(hello)
        token = told(socket, "welcome")["token"]
        assert client.get(f"/m/live/recording?token={token}").status_code in (200, 404)
        first = pictures(socket, 3)[-1]
        assert len(first["predicted"]) == len(first["tilted"]) == 120 and len(first["actions"]) == 18
        socket.send_json({"type": "take"})
        socket.send_json({"type": "keys", "value": [RIGHT, RIGHT]})
        while pictures(socket, 1)[0]["who"] != "person":
            pass
        while pictures(socket, 3)[-1]["took"] != ACTION_NAMES.index("RIGHT"):  # the agent may have gone there, too
            pass
        socket.send_json({"type": "choose", "game": "Breakout", "model": api.RANDOM})
        assert told(socket, "game")["game"] == "Breakout"
        pictures(socket, 3)
        answer = client.get(f"/m/live/recording?token={token}")
        (tmp_path / "log.jsonl.gz").write_bytes(answer.content)
        played = list(logs.read(tmp_path / "log.jsonl.gz"))
        assert [each.agent for each in played] == ["multigame_dt/tiny+person", "random play"]
        for each in played:
            logs.replay(each)
        socket.send_json({"type": "leave"})
    soon(lambda: client.get(f"/m/live/recording?token={token}").content[:2] == b"\x1f\x8b")
    assert client.get("/m/live/recording?token=none").status_code == 404


def test_pictures_wait_until_those_before_them_were_drawn(shipped):
    client = served(person=connections.Limits(ahead=2, stalled=1.0))
    connection, hello = entered(client)
    with connection as socket:
        socket.send_json(hello)
        sent, said = 0, {}
        while said.get("type") != "websocket.close":
            said = socket.receive()
            sent += bool(said.get("bytes"))
        assert sent == 2 and "stalled" in said["reason"]


def test_who_talks_nonsense_is_told_and_at_last_closed(shipped):
    client = served(person=connections.Limits(strikes=3))
    connection, hello = entered(client)
    with connection as socket:
        socket.send_json(hello)
        for nonsense in ("{", json.dumps({"type": "dance"})):
            socket.send_text(nonsense)
            assert told(socket, "refused")["what"]
        pictures(socket, 1)
        socket.send_json({"type": "choose", "game": "Chess"})
        assert "Chess" in told(socket, "error")["what"]
        with pytest.raises(WebSocketDisconnect):
            while True:
                socket.receive_bytes()
    for wrong, what in (
        ({"type": "hi"}, "no hello"),
        ({"model": "m"}, "no model m"),
        ({"game": "Go"}, "no game of that name"),
    ):
        connection, hello = entered(client, **wrong)
        with connection as socket:
            socket.send_json(hello)
            assert what in told(socket, "error")["what"]


def test_no_more_games_are_watched_than_the_machine_plays_and_who_comes_back_finds_ones_own(shipped):
    client = served(sessions=1, patience=Patience(lost=SOON))
    connection, hello = entered(client)
    with connection as socket:
        socket.send_json(hello)
        token = told(socket, "welcome")["token"]
        steps = pictures(socket, 5)[-1]["steps"]
        other, same = entered(client)
        with other as second:
            second.send_json(same)
            assert "as many as this machine plays" in told(second, "error")["what"]
    connection, hello = entered(client, token=token)
    with connection as socket:
        socket.send_json(hello)
        assert told(socket, "welcome")["token"] == token
        assert pictures(socket, 3)[-1]["steps"] >= steps

    def is_free() -> bool:
        connection, hello = entered(client)
        with connection as socket:
            socket.send_json(hello)
            found = json.loads(socket.receive()["text"])
            socket.send_json({"type": "leave"})
            return found["type"] == "welcome" and found["token"] != token

    soon(is_free)  # a game that nobody watches any more makes room
