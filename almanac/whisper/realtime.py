"""The WebSocket for speech that is still being spoken: `/v1/audio/stream?model=…&language=…&prompt=…&task=…&chunk_seconds=…`, all optional.

It takes binary messages of raw sound, 16-bit little-endian mono at 16 kHz, of any length, and the text message
`{"type": "input_audio_buffer.commit"}`, which ends an utterance; more may follow. It answers with JSON, whose `type` is named after
OpenAI's realtime events:

- `session.created`: its `session` has model, language, sample_rate and chunk_seconds.
- `conversation.item.input_audio_transcription.delta`: `delta` is more text of the utterance `item_id`, and never changes; its `words` have
  start and end, s since the connection began.
- `conversation.item.input_audio_transcription.tentative`: `text` seems to follow, and may change. (OpenAI has no such event.)
- `conversation.item.input_audio_transcription.completed`: `transcript` is the whole utterance. The speaker paused, or it was committed:
  every commit has one, if only of an empty text.
- `error`: `error` is as in the answers to requests. Then the connection is closed."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from almanac.runtime import serving
from almanac.runtime.errors import UserError
from almanac.runtime.serving import Job, Refused, Turns
from almanac.whisper import audio, live, stream

Event = dict[str, Any]
Tell = Callable[[Event], None]

BACKLOG = 60.0
"""s of sound that are taken in ahead; then the sender has to wait."""


async def converse(
    socket: WebSocket, turns: Turns, name: str, chunk_seconds: float, begin: Callable[[], stream.Stream]
) -> None:
    """Hear and answer a client until it leaves.

    Args:
        socket: the connection.
        turns: the queue in front of the model.
        name: of the model.
        chunk_seconds: of the stream.
        begin: makes the stream that listens.

    Raises:
        UserError: it sent something else than sound and commits, or asked for what can't be had.
    """
    arrivals = live.Arrivals(chunk_seconds)

    def work(job: Job, tell: Tell) -> None:
        listening = begin()
        session = {"model": name, "language": listening.ear.language, "sample_rate": audio.SAMPLE_RATE}
        tell({"type": "session.created", "session": {**session, "chunk_seconds": chunk_seconds}})
        _listen(listening, arrivals, job, tell)

    tasks = [asyncio.ensure_future(_hear(socket, arrivals)), asyncio.ensure_future(_answer(socket, turns.follow(work)))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        arrivals.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def end_with(socket: WebSocket, error: Exception) -> None:
    """Tell a client what went wrong, if it is still there, and close the connection."""
    if isinstance(error, WebSocketDisconnect):
        return
    with suppress(RuntimeError, WebSocketDisconnect):
        await socket.send_json({"type": "error", **serving.error_body(error)})
        await socket.close(1008 if isinstance(error, UserError) else 1011)


class Deltas:
    """Parts of a text as they come, which together are the text without the space around it."""

    def __init__(self):
        self.text, self._space = "", ""

    def add(self, more: str) -> str:
        """What can be said now; space at the end waits for what follows it."""
        more = self._space + more if self.text else more.lstrip()
        delta = more.rstrip()
        self._space = more[len(delta) :]
        self.text += delta
        return delta


async def _hear(socket: WebSocket, arrivals: live.Arrivals) -> None:
    odd = b""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        sound = message.get("bytes")
        if sound is not None:
            whole = (len(odd) + len(sound)) // 2 * 2
            sound, odd = (odd + sound)[:whole], (odd + sound)[whole:]
            arrivals.bring(live.floats(sound))
        elif _is_commit(message.get("text") or ""):
            arrivals.end()
        else:
            hint = 'send sound as binary messages, and {"type": "input_audio_buffer.commit"}'
            raise Refused("a message is not understood", hint)
        while arrivals.seconds > BACKLOG:
            await asyncio.sleep(0.05)


def _is_commit(text: str) -> bool:
    try:
        return json.loads(text)["type"] == "input_audio_buffer.commit"
    except (ValueError, TypeError, KeyError):
        return False


async def _answer(socket: WebSocket, events: AsyncGenerator[Event, None]) -> None:
    async with aclosing(events):
        async for event in events:
            await socket.send_json(event)


def _listen(listening: stream.Stream, arrivals: live.Arrivals, job: Job, tell: Tell) -> None:
    """Listen to what arrives and tell what is heard, until the arrivals are closed."""
    utterance = _Utterance(0, tell)
    while not arrivals.closed:
        answered = False
        for update in live.follow(listening, arrivals, job):
            utterance.add(update)
            answered = update.pause and utterance.deltas.text != ""
            utterance = utterance.complete() if answered else utterance
        if not answered and not arrivals.closed:
            utterance = utterance.complete()


class _Utterance:
    """What is said between two pauses.

    Args:
        number: how many came before it.
        tell: what the client hears.
    """

    def __init__(self, number: int, tell: Tell):
        self.number, self.deltas, self.tentative = number, Deltas(), ""
        self._tell = tell

    def add(self, update: stream.Update) -> None:
        """Tell what a chunk brought."""
        if delta := self.deltas.add("".join(word.text for word in update.committed)):
            words = [{"word": word.text, "start": word.start, "end": word.end} for word in update.committed]
            self._say("delta", delta=delta, words=words)
        if update.tentative != self.tentative and not update.pause:
            self.tentative = update.tentative
            self._say("tentative", text=update.tentative)

    def complete(self) -> "_Utterance":
        """Tell all of it; the next one begins."""
        self._say("completed", transcript=self.deltas.text)
        return _Utterance(self.number + 1, self._tell)

    def _say(self, event: str, **more: Any) -> None:
        about = {"item_id": f"item_{self.number}", "content_index": 0}
        self._tell({"type": f"conversation.item.input_audio_transcription.{event}", **about, **more})
