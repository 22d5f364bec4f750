"""Races that people drive: what is pressed decides what happens, to the last bit; nobody who floods, stalls or talks nonsense holds the
others up; and a clean lap lands on the board."""

import json
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from almanac.runtime.errors import UserError
from almanac.sophy import api, drive, env, heat, live, opponents, race
from almanac.sophy.board import LONGEST_NAME, Board, tidy
from almanac.sophy.heat import Heat, Plan, Press, Rival
from almanac.sophy.live import Patience, Session
from almanac.sophy.model import Networks, Policy
from almanac.sophy.sim import car as cars
from almanac.sophy.sim import step, world
from tests.sophy import made

SOON = 60.0
"""s for what takes parts of one on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def oval(tmp_path_factory) -> str:
    """A short track's file."""
    folder = tmp_path_factory.mktemp("track")
    made.oval(folder)
    return str(folder / "oval.csv")


@pytest.fixture(scope="module")
def rivals(oval):
    """A race against two built-in drivers."""
    return heat.prepare(Plan(oval, laps=1, rivals=(Rival("built-in", 1.0), Rival("built-in", 0.8))), {})


@pytest.fixture(scope="module")
def alone(oval):
    """A time trial."""
    return heat.prepare(Plan(oval, mode="trial"), {})


def pressed(frame: int, who: int) -> Press:
    """Something that differs from frame to frame, and between people."""
    return Press(frame, np.sin(0.05 * frame + who).item(), np.cos(0.013 * frame * (who + 1)).item(), who % 2 == 0, True)


# The race -------------------------------------------------------------------------------------------------------------


def test_a_race_without_people_is_the_one_that_the_simulator_drives(rivals):
    driver = opponents.Drivers(rivals.track, rivals.car, [1.0, 0.8])
    recording = race.run(rivals.track, rivals.car, [("a", driver), ("b", driver)], 1)
    frames, now = race.frames(recording, rivals.track, rivals.car), Heat(rivals)
    for at in range(len(frames.x)):
        now.frame({})
        assert np.array_equal(now.scene.cars.state[step.X], frames.x[at].astype(np.float32)), f"frame {at}"
    assert np.array_equal(now.scene.cars.travelled, frames.travelled[-1])
    assert {0, 1} == set(now.finished)


def test_the_same_presses_in_the_same_frames_give_the_same_race(rivals):
    def driven() -> bytes:
        now, snapshots = Heat(rivals), b""
        first = now.join("Ada")
        now.restart()
        for frame in range(900):
            if frame == 260:
                now.join("Bo")
            if frame == 500:
                now.reset(first.who)
            if frame == 700:
                now.leave(first.who)
            now.frame({each.who: pressed(frame, each.who) for each in now.people})
            snapshots += live.pack_snapshot(now, live.RACING, now.clock, 0)
        return snapshots

    assert driven() == driven()


def test_who_comes_and_goes_changes_nothing_for_who_is_alone(alone):
    def driven(company: bool) -> np.ndarray:
        now = Heat(alone)
        own = now.join("Ada").who
        other = now.join("Bo").who if company else None
        seen = []
        for frame in range(600):
            if company and frame == 200:
                now.leave(other)
            if company and frame == 300:
                other = now.join("Cy").who
            now.frame({each.who: pressed(frame, 0) for each in now.people if each.who == own})
            seen.append(now.scene.cars.state[:, now.number(own)].copy())
        return np.stack(seen)

    assert np.array_equal(driven(True), driven(False))


def test_aids_are_each_persons_own_and_cars_of_a_time_trial_pass_through_each_other(alone):
    now = Heat(alone)
    aided, bare = now.join("aided").who, now.join("bare").who
    for frame in range(900):
        pedal = 1.0 if frame < 420 else -1.0
        now.frame({aided: Press(0, 0.0, pedal), bare: Press(0, 0.0, pedal, abs=False, traction=False)})
        if frame == 432:
            slips = now.scene.cars.seen[step.SLIP, [now.number(aided), now.number(bare)]]
            assert slips[1] < -0.6 < -0.3 < slips[0], "one locks its wheels, the other does not"
    assert not now.scene.cars.hits.any()
    assert now.people[0].aided and not now.people[1].aided


def test_a_lap_counts_unless_it_is_spoilt(rivals, alone):
    """Somebody drives as the built-in driver does."""
    driver = opponents.Drivers(alone.track, alone.car, [0.8])
    now, press, was_put_back = Heat(alone), Press(), False
    own = now.join("Ada").who
    while len(now.laps_done) < 2 and now.frames < 60 * 200:
        if now.frames % opponents.HOLD == 0:
            press = Press(0, *driver.act(now.scene.cars, np.array([0]), 1)[0].tolist())
        now.frame({own: press})
        if not was_put_back and now.scene.cars.travelled[0] > 1.5 * alone.track.length:
            now.reset(own)
            was_put_back = True
    clean, spoilt = now.laps_done
    assert clean.spoilt == "" and spoilt.spoilt == "the car was put back" and spoilt.time > 15
    since, x, y, _, along = clean.trace.T
    assert since[0] < 0.06 and clean.time - since[-1] < 0.1 and np.all(np.diff(since) > 0)
    assert along[0] < 5 and alone.track.length - along[-1] < 10
    assert np.hypot(np.diff(x), np.diff(y)).max() < 6, "a trace has no gaps"
    assert now.frames / world.FRAMES > clean.time + spoilt.time


def test_a_car_that_is_put_back_stands_on_the_road_where_it_was_with_its_lap(alone):
    now = Heat(alone)
    own = now.join("Ada").who
    for _ in range(700):
        now.frame({own: Press(0, 0.4, 1.0)})
    before = now.scene.cars
    travelled, gates, clock = before.travelled[0], before.gates[0], before.clock[0]
    now.reset(own)
    after = now.scene.cars
    assert abs(after.travelled[0] - travelled) < 0.1 and abs(after.offset[0]) < 0.1 and abs(after.angle[0]) < 0.02
    assert after.gates[0] == gates and after.clock[0] == clock and after.state[step.VX, 0] == 0
    assert now.people[0].spoilt


# Packets --------------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 65535), st.floats(-1, 1), st.floats(-1, 1), st.booleans(), st.booleans()
)  # fmt: skip
def test_what_is_pressed_comes_through_a_packet(sequence, steering, pedal, abs_on, traction):
    sent = Press(sequence, steering, pedal, abs_on, traction)
    packet = live.pack_input(sent)
    found = live.read_input(packet)
    assert len(packet) == 8 and found._replace(steering=steering, pedal=pedal) == sent
    assert abs(found.steering - steering) < 2e-5 and abs(found.pedal - pedal) < 2e-5


@given(st.binary(max_size=16))
def test_any_bytes_are_a_press_within_bounds_or_refused(packet):
    try:
        found = live.read_input(packet)
    except UserError:
        return
    assert len(packet) == 8 and abs(found.steering) <= 1 and abs(found.pedal) <= 1


def test_a_snapshot_says_where_cars_are(rivals):
    now = Heat(rivals)
    own = now.join("Ada").who
    now.restart()
    for frame in range(400):
        now.frame({own: pressed(frame, own)})
    packet = live.pack_snapshot(now, live.RACING, now.clock, 3)
    found = live.read_snapshot(packet)
    assert len(packet) == 16 + 32 * 3
    assert (found.phase, found.frame, found.changes) == (live.RACING, 400, 3)
    assert found.clock == pytest.approx(now.clock)
    state, rows = now.scene.cars.state, found.cars
    assert rows["who"].tolist() == [0, 1, own] and rows["heard"][2] == 399
    assert np.array_equal(rows["x"], state[step.X]) and np.array_equal(rows["y"], state[step.Y])
    assert np.abs(rows["yaw"] / 1e4 - state[step.YAW]).max() < 1e-4
    assert np.abs(rows["speed"] / 100 - state[step.VX]).max() < 0.006
    assert (rows["flags"] & live.PERSON > 0).tolist() == [False, False, True]
    assert rows["gear"].min() >= 1 and rows["gear"].max() <= 6
    with pytest.raises(UserError):
        live.read_snapshot(packet[:-1])


# Sessions -------------------------------------------------------------------------------------------------------------


class Watcher:
    """Somebody who keeps what comes."""

    def __init__(self):
        self.snapshots: list[live.Snapshot] = []
        self.messages: list[dict] = []

    def offer(self, packet: bytes) -> None:
        self.snapshots.append(live.read_snapshot(packet))

    def tell(self, message: dict) -> None:
        self.messages.append(message)

    def has(self, **wanted) -> bool:
        return any(all(each.get(key) == value for key, value in wanted.items()) for each in list(self.messages))


def until(condition) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def test_two_people_drive_in_one_race_and_it_ends_when_both_have_gone(oval):
    ended = threading.Event()
    session = Session(Plan(oval), code="TEST", on_end=lambda _: ended.set(), patience=Patience(empty=0.2, lost=0.1))
    ada, bo = Watcher(), Watcher()
    first = session.join("Ada", ada)
    session.start()
    until(lambda: ada.has(type="phase", phase="ready"))
    session.ask(first, "ready")
    until(lambda: ada.has(type="you"))
    second = session.join("Bo", bo)
    assert bo.has(type="phase", phase="ready"), "who comes later need not wait"
    session.ask(second, "ready")
    until(lambda: bo.snapshots and len(bo.snapshots[-1].cars) == 2)
    session.ask(second, "restart")
    until(lambda: bo.snapshots[-1].phase == live.RACING)
    began = len(bo.snapshots)

    def moved() -> bool:
        session.press(first, live.pack_input(Press(1, 0.0, 1.0)))
        x = {at: bo.snapshots[at].cars["x"] for at in (began - 1, -1)}
        return len(x[-1]) == 2 and abs(x[-1][0] - x[began - 1][0]) > 10 and abs(x[-1][1] - x[began - 1][1]) < 1

    until(moved)
    frames = [each.frame for each in bo.snapshots[began:]]
    assert np.all(np.diff(frames) == 1), "each frame is seen once"

    session.lose(first, ada)
    again = session.join("Ada", ada, first.token)
    assert again is first, "who comes back gets the same car"
    session.lose(first, ada)
    until(lambda: len(bo.snapshots[-1].cars) == 1)
    assert bo.has(type="who", news="Ada has left")
    session.lose(second, bo)
    assert ended.wait(SOON) and session.is_ended
    with pytest.raises(UserError, match="has ended"):
        session.join("Cy", Watcher())


def test_a_race_stands_still_while_nobody_is_there(oval):
    session = Session(Plan(oval), patience=Patience(empty=SOON, lost=SOON))
    ada = Watcher()
    seat = session.join("Ada", ada)
    session.start()
    until(lambda: ada.has(type="phase", phase="ready"))
    session.ask(seat, "ready")
    until(lambda: len(ada.snapshots) > 5)
    session.lose(seat, ada)
    time.sleep(0.1)  # the frame that was under way
    stood = session.heat.frames
    time.sleep(0.3)
    assert session.heat.frames == stood
    session.join("Ada", ada, seat.token)
    until(lambda: session.heat.frames > stood)
    session.close(SOON)


def test_a_policy_of_another_car_is_refused_and_one_of_another_track_drives_and_says_so(oval, tmp_path):
    sight = env.Sight(points=10, ahead=2, behind=2)
    networks = Networks(env.observed(sight), width=16)
    torch.manual_seed(0)
    weights, gt3 = Policy(networks).state_dict(), cars.load("gt3")
    facts = {"car": gt3.name, "car_digest": race.digest(gt3), "track": "elsewhere", "track_digest": "?"}
    drive.write(tmp_path / "new.safetensors", weights, networks, sight, facts)
    drive.write(tmp_path / "other.safetensors", weights, networks, sight, {**facts, "car": "F1", "car_digest": "?"})
    policies = {"run/new": tmp_path / "new.safetensors", "run/other": tmp_path / "other.safetensors"}
    plan = Plan(oval, rivals=(Rival("sophy", policy="run/new"),))
    ground = heat.prepare(plan, policies)
    assert ground.notes == ("run/new was not trained on oval",) and ground.names == ("Sophy run/new",)
    now = Heat(ground)
    for _ in range(240):
        now.frame({})
    assert np.isfinite(now.scene.cars.state).all()

    session, watcher = Session(Plan(oval, rivals=(Rival("sophy", policy="run/other"),)), policies), Watcher()
    session.join("Ada", watcher)
    session.start()
    until(lambda: session.is_ended)
    until(lambda: any(each["type"] == "error" and "drives F1" in each["what"] for each in watcher.messages))


# The network ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(oval, tmp_path, monkeypatch):
    """A server whose limits are low, which has a short track and seeks no optimum."""

    def none(*_):
        raise UserError("not here", "it takes long")

    monkeypatch.setattr(api, "_optimum", none)
    monkeypatch.setattr(heat.track, "names", lambda: [oval, "solstice"])
    app = FastAPI()
    person = replace(api.Limits().person, burst=20.0, messages=100.0, flood=300, strikes=5)
    limits = api.Limits(rooms=2, person=person)
    app.include_router(api.router(limits, Board(tmp_path / "board.sqlite")))
    with TestClient(app) as found:
        found.trial = {"track": oval, "car": "gt3", "mode": "trial"}
        yield found


class Line:
    """A WebSocket, and what came through it."""

    def __init__(self, socket, **hello):
        self.socket, self.messages, self.snapshots = socket, [], []
        socket.send_text(json.dumps({"type": "hello", "name": "Ada", **hello}))

    def hear(self, kind: str, **wanted) -> dict:
        while True:
            packet = self.socket.receive()
            if packet["type"] == "websocket.close":
                raise WebSocketDisconnect(packet["code"], packet.get("reason"))
            if packet.get("bytes") is not None:
                self.snapshots.append(live.read_snapshot(packet["bytes"]))
                continue
            message = json.loads(packet["text"])
            self.messages.append(message)
            if message["type"] == kind and all(message.get(key) == value for key, value in wanted.items()):
                return message

    def begin(self) -> dict:
        self.hear("phase", phase="ready")
        self.socket.send_text(json.dumps({"type": "ready"}))
        return self.hear("you")

    def see(self, enough) -> None:
        while not (self.snapshots and enough(self.snapshots[-1])):
            packet = self.socket.receive()
            if packet.get("bytes") is not None:
                self.snapshots.append(live.read_snapshot(packet["bytes"]))


@pytest.mark.parametrize(
    ("hello", "said"),
    [
        ({"plan": {"track": "/etc/passwd"}}, "there is no track"),
        ({"plan": {"car": "boat"}}, "there is no car 'boat'"),
        ({"plan": {"mode": 3}}, "there is no mode"),
        ({"plan": {"laps": float("nan")}}, "laps: nan"),
        ({"plan": {"laps": 10**9}}, "laps: 1000000000"),
        ({"plan": {"rivals": [{"kind": "built-in", "skill": 7}]}}, "there is no driver"),
        ({"plan": {"rivals": [{"kind": "built-in", "skill": float("nan")}]}}, "there is no driver"),
        ({"plan": {"rivals": [{"kind": "sophy", "policy": "/etc/passwd"}]}}, "there is no driver"),
        ({"plan": {"rivals": [{}] * 20}}, "too many rivals"),
        ({"plan": []}, "the plan is no object"),
        ({"room": "QQQQ"}, "there is no race QQQQ"),
    ],
)
def test_what_can_not_be_driven_is_refused_with_a_reason(client, hello, said):
    with client.websocket_connect("/live/ws") as socket:
        message = Line(socket, **hello).hear("error")
        assert said in message["what"] and message["hint"]
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()


@pytest.mark.parametrize("first", ["", "nonsense", "[1]", '{"type": "ready"}', "x" * 10_000, "[" * 3000])
def test_a_connection_that_begins_with_nonsense_is_closed(client, first):
    with client.websocket_connect("/live/ws") as socket:
        socket.send_text(first)
        assert json.loads(socket.receive_text())["type"] == "error"
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()


def test_who_floods_or_talks_nonsense_is_dropped_and_the_others_drive_on(client):
    with client.websocket_connect("/live/ws") as one:
        ada = Line(one, plan=client.trial)
        room = ada.hear("welcome")["room"]
        own = ada.begin()["who"]
        for nonsense in (b"", b"\x01" * 7, b"\xff" * 8, "NaN", '{"type": "fly"}'):
            with client.websocket_connect("/live/ws") as two:
                bo = Line(two, room=room)
                bo.begin()
                for _ in range(6):
                    two.send_bytes(nonsense) if isinstance(nonsense, bytes) else two.send_text(nonsense)
                with pytest.raises(WebSocketDisconnect):
                    bo.hear("never")
                assert bo.messages[-1]["type"] == "error"
        with client.websocket_connect("/live/ws") as two:
            bo = Line(two, room=room)
            bo.begin()
            for at in range(600):
                two.send_bytes(live.pack_input(Press(at, 0.0, 1.0)))
            with pytest.raises(WebSocketDisconnect):
                bo.hear("never")
            assert "too many" in bo.messages[-1]["what"]
        ada.see(lambda now: now.phase == live.RACING)
        one.send_bytes(live.pack_input(Press(4321, 0.0, 1.0)))
        ada.see(lambda now: (now.cars["heard"][now.cars["who"] == own] == 4321).any())
        one.send_text(json.dumps({"type": "leave"}))


def test_there_are_only_so_many_races(client):
    with client.websocket_connect("/live/ws") as one, client.websocket_connect("/live/ws") as two:
        Line(one, plan=client.trial).hear("welcome")
        Line(two, plan=client.trial).hear("welcome")
        with client.websocket_connect("/live/ws") as three:
            assert "2 races are under way" in Line(three, plan=client.trial).hear("error")["what"]


# The board ------------------------------------------------------------------------------------------------------------


def test_the_board_keeps_each_persons_best_and_the_trace_of_the_fastest(tmp_path):
    board = Board(tmp_path / "board.sqlite")
    trace = np.arange(10, dtype=np.float32).reshape(2, 5)
    assert board.add("t", "c", "Ada", 80.0, True, trace) == 1
    assert board.add("t", "c", "Bo", 79.0, False, trace + 1) == 1
    assert board.add("t", "c", "Ada", 81.0, True, trace) is None
    assert board.add("t", "other", "Ada", 60.0, True, trace) == 1
    again = Board(tmp_path / "board.sqlite")
    assert again.add("t", "c", "Ada", 79.5, True, trace) == 2
    assert [(each.name, each.seconds, each.aided) for each in again.best("t", "c")] == [
        ("Bo", 79.0, False), ("Ada", 79.5, True)
    ]  # fmt: skip
    entry, kept = again.ghost("t", "c") or pytest.fail("no ghost")
    assert entry.name == "Bo" and np.array_equal(kept, trace + 1)
    assert again.ghost("t", "nothing") is None
    (tmp_path / "broken").write_text("this is no database, however long it may be" * 100)
    with pytest.raises(UserError, match="can't keep laps"):
        Board(tmp_path / "broken")
    assert sqlite3.connect(tmp_path / "board.sqlite").execute("select count(*) from laps").fetchone() == (3,)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("  Ada \n Lovelace ", "Ada Lovelace"), ("", "Guest"), (None, "Guest"), ("\u202e\x00\ud800", "Guest"), ("é" * 99, "é" * 24),
        ("<b>Bo</b>", "<b>Bo</b>"),
    ],
)  # fmt: skip
def test_names_are_one_short_line(typed, kept):
    assert tidy(typed) == kept and len(tidy(typed)) <= LONGEST_NAME


def test_the_board_and_what_is_drawn_are_served(client):
    choices = client.get("/live/choices").json()
    assert (
        choices["tracks"] == [client.trial["track"], "solstice"]
        and "gt3" in choices["cars"]
        and choices["most"] == race.MOST
    )
    shipped = {each["name"]: each for each in choices["policies"]}["sophy/solstice-gt3"]
    assert (shipped["track"], shipped["car"], shipped["races"]) == ("solstice", "gt3", False)
    asked = {"track": client.trial["track"], "car": "gt3"}
    assert client.get("/live/board", params=asked).json() == []
    scenery = client.get("/live/scenery", params=asked).json()
    assert len(scenery["cars"]) == race.MOST + 1 and scenery["car"]["gears"] == 6
    refused = client.get("/live/scenery", params={**asked, "track": "/etc/passwd"})
    assert refused.status_code == 400 and "there is no track" in refused.json()["what"]
    script = client.get("/live/live.js").text
    assert "__SCENE__" not in script and "function arrange" in script
    assert 'src="live/live.js"' in client.get("/live").text


def test_a_clean_lap_of_a_person_lands_on_the_board(client, monkeypatch):
    """The laps are told of by the session; here one is made up."""
    monkeypatch.setattr(heat.Heat, "places", lambda self: [])
    with client.websocket_connect("/live/ws") as socket:
        ada = Line(socket, plan=client.trial)
        room = ada.hear("welcome")["room"]
        own = ada.begin()["who"]
        thread = next(each for each in threading.enumerate() if each.name == f"race {room}")
        session = thread._target.__self__  # pyright: ignore[reportAttributeAccessIssue]
        trace = np.zeros((3, 5), np.float32)
        for spoilt, seconds in (("it left the track", 70.0), ("", 90.0)):
            session.heat.laps_done.append(heat.LapDone(own, "Ada", seconds, spoilt, True, trace))
        told = ada.hear("board", who=own)
        assert told["place"] == 1 and [each["seconds"] for each in told["laps"]] == [90.0]
        assert ada.hear("ghost", of="board", name="Ada")["trace"]
        assert [
            each["name"]
            for each in client.get("/live/board", params={"track": client.trial["track"], "car": "gt3"}).json()
        ] == ["Ada"]
        session.close(SOON)


def test_runs_of_ones_own_can_be_raced(tmp_path, monkeypatch):
    (tmp_path / "run" / "policies").mkdir(parents=True)
    for name in ("model", "policies/000000100", "policies/000000200"):
        (tmp_path / "run" / f"{name}.safetensors").touch()
    monkeypatch.setenv("ALMANAC_SOPHY_RUN", str(tmp_path / "run"))
    found = {name: path for name, path in api.policies().items() if name.startswith("run/")}
    assert list(found) == ["run/model", "run/000000100", "run/000000200"]
    assert all(isinstance(path, Path) and path.is_file() for path in found.values())
