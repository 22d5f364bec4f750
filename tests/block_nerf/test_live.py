"""Cities that are flown through: what stands is what the command line draws, what moves is drawn at once whatever else goes on, and nobody
who floods, stalls or talks nonsense holds anything up."""

import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from almanac.block_nerf import api, build, live
from almanac.block_nerf.cameras import Camera
from almanac.block_nerf.captures.opened import opened
from almanac.block_nerf.city import City
from almanac.block_nerf.live import EYE, MOVING, STILL, Look, Session, Shown
from almanac.block_nerf.placement import Place
from almanac.block_nerf.render import METHODS, view
from almanac.block_nerf.train import PRESETS, scaled
from almanac.runtime import connection as connections
from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.runtime.serving import Turns
from almanac.runtime.watching import Patience
from tests.block_nerf.made import pose, yard

SOON = 120.0
"""s for what takes parts of one on a machine that has nothing else to do."""
AHEAD = Look(1, (0.5, 0.2, 1.6), 1.2, -0.1, light=0.3, stops=0.5)


def flown(folder: Path, steps: int = 1_000) -> Path:
    """A yard in two blocks, learnt in two sessions of light by little training."""
    recipe = scaled(PRESETS["cpu"], steps)
    recipe = replace(
        recipe, rays=1_536, decay=0.003, block=replace(recipe.block, width=16, levels=4, log2_rows=12, finest=64)
    )
    capture = opened(yard(folder / "yard", photos=32, sessions=2), folder)
    build.build(capture, folder / "a_yard", build.Plan(recipe, blocks=2, matched=False))
    return folder / "a_yard"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return flown(tmp_path_factory.mktemp("flown"))


class Eye:
    """Who looks, and remembers all."""

    def __init__(self):
        self.heads: list[dict] = []
        self.pictures: list[np.ndarray] = []
        self.told: list[dict] = []

    def offer(self, packet: bytes) -> None:
        head, picture = live.unpack(packet)
        self.pictures.append(picture)
        self.heads.append(head)

    def tell(self, message: dict) -> None:
        self.told.append(message)

    def until(self, is_so: Callable[[dict], bool]) -> tuple[dict, np.ndarray]:
        """The first picture of which something is true."""
        ends = time.monotonic() + SOON
        while time.monotonic() < ends:
            for head, picture in zip(list(self.heads), self.pictures, strict=False):
                if is_so(head):
                    return head, picture
            time.sleep(0.005)
        raise AssertionError(f"not in {SOON} s: {self.heads[-1:]} {self.told[-3:]}")

    def hears(self, kind: str) -> dict:
        soon(lambda: any(each["type"] == kind for each in self.told))
        return next(each for each in self.told if each["type"] == kind)


@pytest.fixture
def fly(folder):
    """Begins a session, and somebody who looks."""
    begun: list[Session] = []

    def begin(**more) -> tuple[Session, Eye]:
        shown = Shown("yard", City(folder), Turns(1))
        session, eye = Session(lambda _: shown, "yard", **more), Eye()
        begun.append(session)
        session.join(eye)
        session.start()
        return session, eye

    yield begin
    for session in begun:
        session.close(SOON)


def soon(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + SOON
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((one / 255 - other / 255) ** 2)))


# Looking --------------------------------------------------------------------------------------------------------------


def test_a_look_is_where_a_level_camera_stands():
    for heading in (0.0, 1.0, -2.5):
        assert np.allclose(Look(0, (1.0, 2.0, 3.0), heading, 0.0).pose(), pose((1.0, 2.0, 3.0), heading))
    up = Look(0, (0.0, 0.0, 0.0), 0.3, 0.7).pose()
    assert -up[2, 2] == pytest.approx(np.sin(0.7)) and np.allclose(up[:3, :3].T @ up[:3, :3], np.eye(3))


def test_light_is_shared_by_the_two_sessions_that_it_is_between():
    shares = [replace(AHEAD, light=at).appearance(3).sessions for at in (0.0, 1.25, 2.0, 9.0)]
    assert shares == [(1.0, 0.0, 0.0), (0.0, 0.75, 0.25), (0.0, 0.0, 1.0), (0.0, 0.0, 1.0)]
    assert replace(AHEAD, stops=-1.0).appearance(1).exposure == 0.5


def test_the_lens_is_the_photos_where_it_can_be():
    wide = Camera(96, 72, (48.0, 48.0), (48.0, 36.0))
    assert live.lens(wide) == wide.scaled(640, 480)
    tall = live.lens(Camera(1080, 1920, (1_300.0, 1_300.0), (540.0, 960.0), "OPENCV", (0.1,)))
    assert (tall.width, tall.height, tall.distortion) == (640, 480, ()) and tall.focal == (325.0, 325.0)


def test_one_begins_at_the_crossing_in_the_middle_with_a_view_along_its_street(folder):
    about = City(folder).about
    position, yaw = live.start(about)
    assert min(np.hypot(*np.subtract(position[:2], place.origin[:2])) for place in about.places) == 0
    crossing = {"place": [*about.places[0].origin[:2], -0.5], "arms": [[[0, 0], [5.0, 5.0], [-1e4, 0.0]]]}
    places = (about.places[0], Place("far", (90.0, 0.0, 0.0), 8.0))
    position, yaw = live.start(replace(about, crossings=(crossing,), places=places))
    assert position == pytest.approx((*about.places[0].origin[:2], -0.5 + EYE)) and abs(yaw) == pytest.approx(
        np.pi, abs=0.01
    )


def test_what_is_packed_comes_out_as_it_was():
    picture = np.random.default_rng(0).integers(256, size=(6, 8, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    head, unpacked = live.unpack(live.pack({"é": [1, None]}, picture, True))
    assert head["é"] == [1, None] and psnr(picture, unpacked) > 35


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_is_what_the_command_line_draws(fly, folder, method):
    session, eye = fly()
    eye.hears("city")
    look = replace(AHEAD, method=method)
    session.ask(look, "yard")
    head, picture = eye.until(lambda head: head["still"] and head["size"][0] >= 320)
    city = City(folder)
    drawn = view(city, live.lens(city.about.camera).scaled(320, 240), look.pose(), look.appearance(2), method)
    assert psnr(picture, np.round(drawn.colours * 255)) > 35
    assert [part["name"] for part in head["parts"]] == [part.place.name for part in drawn.parts]
    assert sum(part["weight"] for part in head["parts"]) == pytest.approx(1)


def test_a_picture_grows_while_nothing_moves_and_then_nothing_is_drawn(fly):
    session, eye = fly()
    eye.hears("city")
    session.ask(AHEAD, "yard")
    eye.until(lambda head: head["last"])
    first, *rest = [head["size"][0] for head in eye.heads]
    assert first in MOVING and rest == [width for width in STILL if width >= first]
    assert all(head["size"][1] == head["size"][0] * 3 // 4 for head in eye.heads)
    time.sleep(0.6)
    assert len(eye.heads) == 1 + len(rest)


def test_who_moves_on_is_shown_at_once_and_the_large_picture_is_given_up(fly):
    session, eye = fly()
    eye.hears("city")
    drawn = threading.Event()
    abandons = []
    whole = session._draw

    def draw(shown, look, width, still):
        if width == STILL[-1]:
            drawn.set()
        try:
            whole(shown, look, width, still)
        except live.Abandoned:
            abandons.append(width)
            raise

    session._draw = draw
    session.ask(AHEAD, "yard")
    assert drawn.wait(SOON)
    session.ask(replace(AHEAD, number=2, yaw=2.0), "yard")
    head, _ = eye.until(lambda head: head["number"] == 2)
    assert not head["still"] and abandons == [STILL[-1]]
    assert not any(head["number"] == 1 and head["last"] for head in eye.heads)


def test_light_exposure_and_overlays_change_the_picture(fly):
    session, eye = fly()
    eye.hears("city")
    looks = [
        AHEAD, replace(AHEAD, light=1.0), replace(AHEAD, stops=2.0), *(replace(AHEAD, overlay=each) for each in live.OVERLAYS[1:]),
        replace(AHEAD, alone="block_01"), replace(AHEAD, alone="block_99"),
    ]  # fmt: skip
    shown = []
    for number, look in enumerate(looks, 1):
        session.ask(replace(look, number=number), "yard")
        shown.append(eye.until(lambda head, number=number: head["number"] == number and head["still"])[1].astype(float))
    plain, dark, bright, weights, visibility, depth, alone, none = shown
    assert dark.mean() < 0.9 * plain.mean()
    for other in (bright, weights, visibility, depth, alone):
        assert np.abs(other - plain).mean() > 0.5
    assert np.abs(visibility - visibility.mean(-1, keepdims=True)).max() < 3, "visibility is grey"
    assert np.abs(none - plain).mean() < 0.1, "a block that isn't asked can't be alone"


def test_the_ground_is_where_the_floor_was_photographed_and_no_pit_is_fallen_into(folder, monkeypatch):
    city = City(folder)
    rough, away = live.height(city.about, *city.places[0].origin[:2])
    assert away == 0 and abs(rough) < 0.3
    felt = live.ground(city, 0.0, 0.0, 0.0)
    assert felt is not None and abs(felt) < 0.3
    session = Session(lambda _: Shown("yard", city, Turns(1)), "yard")
    session._ground = (0.0, 0.0, 0.0)
    monkeypatch.setattr(live, "ground", lambda *_: -50.0)
    for x in np.arange(0.0, 5.0, 0.5):
        session._feel(Shown("yard", city, Turns(1)), replace(AHEAD, position=(float(x), 0.0, 1.6)))
    assert -3 < session._ground[2] < 0


def test_what_is_saved_is_the_picture_that_is_looked_at(fly, folder):
    session, eye = fly()
    with pytest.raises(UserError, match="nothing is looked at"):
        session.saved()
    eye.hears("city")
    session.ask(AHEAD, "yard")
    eye.until(lambda head: True)
    saved = np.array(Image.open(io.BytesIO(session.saved())))
    city = City(folder)
    drawn = view(city, live.lens(city.about.camera), AHEAD.pose(), AHEAD.appearance(2))
    assert saved.shape == (480, 640, 3) and np.abs(saved - np.round(drawn.colours * 255)).max() <= 1


# Sessions -------------------------------------------------------------------------------------------------------------


def test_a_session_stands_while_nobody_is_there_and_goes_on_where_it_was(fly):
    session, eye = fly(patience=Patience(lost=SOON))
    eye.hears("city")
    session.lose(eye)
    session.ask(AHEAD, "yard")
    time.sleep(0.3)
    assert not eye.heads
    other = Eye()
    session.join(other)
    assert other.hears("city")["places"][0]["name"] == "block_00"
    other.until(lambda head: head["number"] == 1)
    third = Eye()
    session.join(third)
    assert other.told[-1]["type"] == "error", "another tab has taken it"
    third.until(lambda head: True)
    session.ask(replace(AHEAD, number=7), "another city")
    session.hide(True)
    session.ask(replace(AHEAD, number=8), "yard")
    time.sleep(0.3)
    assert {head["number"] for head in third.heads} == {1}
    session.hide(False)
    third.until(lambda head: head["number"] == 8)


@pytest.mark.parametrize(("patience", "goes", "why"), [
    (Patience(idle=0.2), False, "nobody touched anything"), (Patience(lost=0.2), True, "nobody was there"),
])  # fmt: skip
def test_who_is_idle_or_gone_for_long_is_not_waited_for(fly, patience, goes, why):
    over = threading.Event()
    session, eye = fly(patience=patience, on_end=lambda _: over.set())
    if goes:
        session.lose(eye)
    assert over.wait(SOON) and session.is_ended
    assert goes or why in eye.told[-1]["why"]
    with pytest.raises(UserError, match="ended"):
        session.join(eye)


# The server -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cities(tmp_path, monkeypatch, folder):
    """A city that ships, one that is broken, and one's own."""
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path)
    monkeypatch.setenv(api.CITY, str(folder))
    (tmp_path / "block_nerf" / "broken").mkdir(parents=True)
    (tmp_path / "block_nerf" / "broken" / "city.json").write_text('{"format": 99}')


def served(**limits) -> TestClient:
    app = FastAPI()
    app.include_router(api.router(api.Limits(**{"patience": Patience(lost=1.0), **limits})), prefix="/b")
    return TestClient(app)


def entered(client: TestClient, **hello):
    """A connection, and its hello."""
    return client.websocket_connect("/b/live/ws"), {"type": "hello", "city": "a_yard", **hello}


def wish(look: Look) -> dict:
    said = {name: getattr(look, name) for name in ("number", "yaw", "pitch", "light", "stops", "method", "overlay")}
    return {"type": "look", "city": "a_yard", "at": list(look.position), **said}


def told(socket, kind: str) -> dict:
    while True:
        said = socket.receive()
        assert said["type"] != "websocket.close", said
        if said.get("text") and json.loads(said["text"])["type"] == kind:
            return json.loads(said["text"])


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


def test_cities_are_listed_and_one_is_flown_through_and_its_picture_kept(cities):
    client = served(person=connections.Limits(stalled=SOON))  # nobody draws while the picture is made
    assert client.get("/b/live/choices").json()["cities"] == ["a_yard", "broken"]
    assert "html" in client.get("/b/live").headers["content-type"]
    assert client.get("/b/live/picture?token=none").status_code == 404
    connection, hello = entered(client)
    with connection as socket:
        socket.send_json(hello)
        token = told(socket, "welcome")["token"]
        about = told(socket, "city")
        assert len(about["places"]) == len(about["lights"]) == 2 and about["camera"]["w"] == 640
        for number in (1, 2, 3):
            socket.send_json(wish(replace(AHEAD, number=number, yaw=0.1 * number)))
        while pictures(socket, 1)[0]["number"] < 3:
            pass
        saved = client.get(f"/b/live/picture?token={token}")
        assert saved.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(saved.content)).size == (640, 480)
        socket.send_json({"type": "choose", "city": "broken"})
        assert "another version" in told(socket, "error")["what"]
    soon(lambda: client.get(f"/b/live/picture?token={token}").status_code == 404)


def test_pictures_wait_until_those_before_them_were_drawn(cities):
    client = served(person=connections.Limits(ahead=2, stalled=2.0))
    connection, hello = entered(client)
    with connection as socket:
        socket.send_json(hello)
        told(socket, "city")
        socket.send_json(wish(AHEAD))
        sent, said = 0, {}
        while said.get("type") != "websocket.close":
            said = socket.receive()
            sent += bool(said.get("bytes"))
        assert sent == 2 and "stalled" in said["reason"]


NONSENSE = (
    "{",
    json.dumps({"type": "dance"}),
    json.dumps({"type": "hidden", "value": 1}),
    json.dumps({"type": "choose", "city": "Atlantis"}),
    *(json.dumps(wish(AHEAD) | wrong) for wrong in (
        {"at": [0, 1]}, {"at": [0, 1, 1e9]}, {"at": [0, 1, "2"]}, {"yaw": None}, {"pitch": 2.0}, {"stops": 2.1}, {"light": float("nan")},
        {"method": "guess"}, {"overlay": ["depth"]}, {"alone": 3}, {"number": "one"},
    )),
)  # fmt: skip


def test_who_talks_nonsense_is_told_and_at_last_closed(cities):
    client = served(person=connections.Limits(strikes=len(NONSENSE) + 1))
    connection, hello = entered(client)
    with connection as socket:
        socket.send_json(hello)
        told(socket, "city")
        for nonsense in NONSENSE:
            socket.send_text(nonsense)
            assert told(socket, "refused")["hint"]
        socket.send_json(wish(AHEAD))
        pictures(socket, 1)
        socket.send_bytes(b"\x00")
        assert "no text" in told(socket, "error")["what"]
        with pytest.raises(WebSocketDisconnect):
            while True:
                socket.receive_bytes()
    for wrong, what in (
        ({"type": "hi"}, "no hello"),
        ({"city": "Atlantis"}, "no city Atlantis"),
        ({"city": None}, "no city"),
    ):
        connection, hello = entered(client, **wrong)
        with connection as socket:
            socket.send_json(hello)
            assert what in told(socket, "error")["what"]


def test_no_more_people_fly_than_the_machine_draws_for_and_who_comes_back_finds_ones_own(cities):
    client = served(sessions=1, patience=Patience(lost=SOON))
    connection, hello = entered(client)
    with connection as socket:
        socket.send_json(hello)
        token = told(socket, "welcome")["token"]
        other, same = entered(client)
        with other as second:
            second.send_json(same)
            assert "as many as this machine draws for" in told(second, "error")["what"]
    connection, hello = entered(client, token=token)
    with connection as socket:
        socket.send_json(hello)
        assert told(socket, "welcome")["token"] == token
        socket.send_json({"type": "leave"})

    def is_free() -> bool:
        connection, hello = entered(client)
        with connection as socket:
            socket.send_json(hello)
            found = json.loads(socket.receive()["text"])
            socket.send_json({"type": "leave"})
            return found["type"] == "welcome" and found["token"] != token

    soon(is_free)  # a flight that nobody is on any more makes room


def test_a_city_that_was_trained_again_is_read_anew(cities, folder):
    rooms = api._Rooms(api.Limits(), api.cities)
    first = rooms._opened("a_yard")
    assert rooms._opened("a_yard") is first
    path = folder / "block_01" / "model.safetensors"
    path.write_bytes(path.read_bytes())
    soon(lambda: rooms._opened("a_yard") is not first)


def test_one_city_is_served_without_studio(folder, tmp_path):
    client = TestClient(api.application(folder))
    assert client.get("/").url.path == "/live" and client.get("/live/choices").json()["cities"] == ["a_yard"]
    with pytest.raises(UserError, match="is no city"):
        api.serve(tmp_path)
