"""A person's WebSocket: what waits for a slow one is little, old packets are dropped and messages are not, and its end has a reason."""

import asyncio
import json
import threading

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from almanac.runtime import connection
from almanac.runtime.connection import Connection, Limits
from almanac.runtime.errors import UserError


class Stuck(WebSocket):
    """A connection that nothing gets through."""

    def __init__(self):
        self.scope = {"type": "websocket"}

    async def send_text(self, text: str) -> None:
        await asyncio.sleep(1000)

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.sleep(1000)


def test_what_waits_for_a_slow_connection_is_little_and_it_is_closed_at_last():
    async def stall() -> None:
        slow = Connection(Stuck(), Limits(ahead=None, kept=3, stalled=0.2, waiting=50))
        sending = asyncio.create_task(slow.send_all())
        for _ in range(1000):
            slow.offer(b"x" * 656)
            slow.tell({"type": "note", "what": "x"})
        assert len(slow._packets) <= 3 and len(slow._messages) <= 50 and slow.is_closed
        with pytest.raises(TimeoutError):
            await sending

    asyncio.run(stall())


class Room:
    """Who speaks on the connections of a server: it echoes, and does as it is told."""

    def __init__(self, limits: Limits):
        self.lost = threading.Event()
        app = FastAPI()

        @app.websocket("/ws")
        async def serve(socket: WebSocket) -> None:
            await connection.attend(socket, limits, self.enter, self.hear, self.lose)

        self.client = TestClient(app)

    def enter(self, hello: dict, sink: Connection) -> Connection:
        if hello.get("type") != "hello":
            raise UserError("that is no hello", "say hello")
        return sink

    def hear(self, sink: Connection, said: dict | bytes) -> bool:
        if isinstance(said, bytes):
            sink.offer(said)
        elif said["type"] == "refuse":
            raise UserError("not that", "something else")
        elif said["type"] == "end":
            sink.close("the game is over")
        elif said["type"] == "many":
            for number in range(5):
                sink.offer(bytes([number]))
            sink.tell({"type": "sent"})
        return said != {"type": "leave"}

    def lose(self, joined: Connection, sink: Connection) -> None:
        assert joined is sink
        self.lost.set()


def entered(room: Room):
    socket = room.client.websocket_connect("/ws")
    return socket, {"type": "hello"}


@pytest.mark.parametrize("kept", [1, 3])
def test_of_packets_that_wait_the_newest_go_and_all_messages(kept):
    async def send() -> list:
        sent = []

        class Heard(Stuck):
            async def send_text(self, text: str) -> None:
                sent.append(json.loads(text)["n"])

            async def send_bytes(self, data: bytes) -> None:
                sent.append(data)

        line = Connection(Heard(), Limits(ahead=None, kept=kept))
        for number in range(5):
            line.offer(bytes([number]))
            line.tell({"n": number})
        sending = asyncio.create_task(line.send_all())
        while len(sent) < 5 + kept:
            await asyncio.sleep(0.01)
        line.close()
        await sending
        return sent

    assert asyncio.run(send()) == [*range(5), *(bytes([number]) for number in range(5 - kept, 5))]


def test_no_more_packets_are_under_way_than_the_page_can_draw():
    room = Room(Limits(ahead=2, kept=5))
    connected, hello = entered(room)
    with connected as socket:
        socket.send_json(hello)
        socket.send_json({"type": "many"})
        found = [socket.receive() for _ in range(3)]
        assert [each.get("bytes") for each in found if each.get("bytes")] == [b"\0", b"\1"]
        for number in (2, 3, 4):
            socket.send_json({"type": "drawn"})
            assert socket.receive_bytes() == bytes([number])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (["[" * 3000], "no JSON object"),
        (["{}" + " " * 5000], "no JSON object"),
        ([json.dumps({"type": "bye"})], "no hello"),
        ([b"bytes"], "no text"),
        ([json.dumps({"type": "hello"}), *["nonsense"] * 3], "no JSON object"),
        ([json.dumps({"type": "hello"}), *[json.dumps({"type": "refuse"})] * 3], "not that"),
        ([json.dumps({"type": "hello"}), *[b"x"] * 500], "far too many"),
        ([json.dumps({"type": "hello"}), json.dumps({"type": "end"})], "the game is over"),
    ],
)
def test_whatever_ends_a_connection_is_said_and_it_is_closed(sent, said):
    room = Room(Limits(strikes=3, messages=10.0, burst=20.0, flood=100))
    with room.client.websocket_connect("/ws") as socket:
        for each in sent:
            socket.send_bytes(each) if isinstance(each, bytes) else socket.send_text(each)
        last = {}
        with pytest.raises(WebSocketDisconnect) as closed:
            while True:
                packet = socket.receive()
                if packet["type"] == "websocket.close":
                    raise WebSocketDisconnect(packet["code"], packet.get("reason"))
                last = json.loads(packet["text"]) if packet.get("text") else last
        assert closed.value.code == 1008
        assert last["type"] == "error" and said in last["what"] and last["hint"]
    assert room.lost.wait(5) or len(sent) == 1


def test_who_leaves_is_let_go_without_a_word():
    room = Room(Limits())
    connected, hello = entered(room)
    with connected as socket:
        socket.send_json(hello)
        socket.send_json({"type": "leave"})
        packet = socket.receive()
        assert packet["type"] == "websocket.close" and packet["code"] == 1000
    assert room.lost.wait(5)
