"""Listening to speech while it is spoken, on the command line: committed text appears as it is committed, and what may still change stands
behind it, dim, on a terminal. Where the sound comes from is `live`'s, what is heard in it `stream`'s."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.cells import cell_len, set_cell_size

from almanac.whisper import audio, live, stream
from almanac.whisper.stream import Stream, Update


def source(file: Path | None, fast: bool) -> Iterator[live.Piece]:
    """The sound to listen to.

    Args:
        file: a recording; `-`: raw sound on stdin; None: a microphone.
        fast: whether a recording is taken as fast as it can be listened to, not as fast as it was spoken.
    """
    if file is None:
        return live.microphone()
    if str(file) == "-":
        return live.standard_input()
    return audio.read_blocks(file) if fast else live.played(audio.read_blocks(file))


def run(listening: Stream, sound: Iterable[live.Piece], fast: bool, tell: Callable[[Update], None]) -> dict[str, Any]:
    """Listen until the sound ends. An interruption (Ctrl-C) ends it too: what was heard is committed.

    Args:
        listening: who listens.
        sound: what to.
        fast: whether the sound can wait while the model is busy.
        tell: told every update.

    Returns:
        Text, language and words; seconds of sound, and that it took; how long words waited to be committed, in chunks (median); and
        whether it was interrupted.

    Raises:
        UserError: the sound can't be had.
    """
    updates: list[Update] = []
    begun, interrupted = time.monotonic(), False
    try:
        for update in _patiently(listening, sound) if fast else _keeping_up(listening, sound):
            updates.append(update)
            tell(update)
    except KeyboardInterrupt:
        interrupted = True
        updates.append(listening.finish())
        tell(updates[-1])
    words = [word for update in updates for word in update.committed]
    waits = stream.latencies(updates, listening.settings.chunk_seconds)
    return {
        "text": "".join(word.text for word in words).strip(),
        "language": listening.ear.language,
        "words": [{"word": word.text, "start": word.start, "end": word.end} for word in words],
        "seconds": listening.heard,
        "wall_seconds": time.monotonic() - begun,
        "latency_chunks": float(np.median(waits)) if waits else None,
        "interrupted": interrupted,
    }


def _patiently(listening: Stream, sound: Iterable[live.Piece]) -> Iterator[Update]:
    for block in sound:
        yield from listening.feed(block)
    yield listening.finish()


def _keeping_up(listening: Stream, sound: Iterable[live.Piece]) -> Iterator[Update]:
    return live.follow(listening, live.arriving(sound, listening.settings.chunk_seconds), nullcontext())


class Screen:
    """Shows updates as text, a line for what is said between two pauses.

    Args:
        out: where committed text goes.
        aside: where tentative text goes, if it is a terminal.
    """

    def __init__(self, out: TextIO, aside: TextIO):
        self._out, self._aside, self._column = out, aside, 0

    def __call__(self, update: Update) -> None:
        """Show an update."""
        text = "".join(word.text for word in update.committed)
        text = text if self._column else text.lstrip()
        ending = "\n" if update.pause and (self._column or text) else ""
        self._clear()
        if text or ending:
            self._out.write(text + ending)
            self._out.flush()
            self._column = 0 if ending else self._column + cell_len(text)
        if update.tentative and self._aside.isatty():
            self._show(update.tentative if self._column else update.tentative.lstrip())

    def _clear(self) -> None:
        if self._aside.isatty():
            self._aside.write("\x1b[K")
            self._aside.flush()

    def _show(self, tentative: str) -> None:
        """Text that stands behind the cursor, without a step of it: no more than the line has room for."""
        width = shutil.get_terminal_size().columns
        room = width - 1 - (self._column % width if self._out.isatty() else 0)
        shown = tentative if cell_len(tentative) <= room else set_cell_size(tentative, max(0, room - 1)) + "…"
        if room > 1:
            self._aside.write(f"\x1b[2m{shown}\x1b[0m\x1b[{cell_len(shown)}D")
            self._aside.flush()


def print_event(update: Update) -> None:
    """Print an update as a line of JSON."""
    words = [{"word": word.text, "start": word.start, "end": word.end} for word in update.committed]
    event = {"heard": update.heard, "committed": words, "tentative": update.tentative, "pause": update.pause}
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()
