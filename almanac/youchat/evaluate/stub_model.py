"""A language model that says what it is told, over loopback HTTP with OpenAI's API: by it the checks of answers are measured and tested
as they are used. It streams in pieces that cut words and marks in two, and can misbehave as real servers do."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Manner = Literal["stream", "whole", "garbage", "stall", "refuse", "nothing", "cut", "flood"]
"""How it answers: as it should, in one JSON object, with what is no answer, not to the end, with 500, with nothing, breaking
off, without end."""


@contextmanager
def serving(reply: Callable[[list[dict[str, str]]], str], manner: Manner = "stream") -> Iterator[str]:
    """The base URL of a server that answers `reply(messages)`, as long as the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(reply, manner))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def question_in(messages: list[dict[str, str]]) -> str:
    """The question that a request of ours asks."""
    return messages[-1]["content"].rpartition("\n\nQuestion: ")[2]


def _handler(reply: Callable[[list[dict[str, str]]], str], manner: Manner) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._json({"data": [{"id": "stub"}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = reply(asked["messages"])
            if manner == "refuse":
                self._json({"error": {"message": "no memory left"}}, 500)
            elif manner == "garbage":
                self._send(b"<html>It works!</html>", "text/html")
            elif manner == "whole":
                self._json({"choices": [{"message": {"role": "assistant", "content": text}}]})
            else:
                self._stream(text)

        def _stream(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            pieces = [text[at : at + 7] for at in range(0, len(text), 7)] if manner != "nothing" else []
            try:
                for at, piece in enumerate(pieces):
                    if manner in ("stall", "cut") and at > len(pieces) // 2:
                        time.sleep(5.0 if manner == "stall" else 0.0)
                        return
                    self.wfile.write(_event(piece))
                while manner == "flood":
                    self.wfile.write(_event("word " * 200))
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:  # the client has gone
                return

        def _json(self, said: Any, status: int = 200) -> None:
            self._send(json.dumps(said).encode(), "application/json", status)

        def _send(self, body: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _event(text: str) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode()
