"""Sound that arrives in its own time, from a microphone, a pipe or a file that is played: it is taken in while the model is busy, and
handed on chunk by chunk. Who falls behind a speaker gets more at once; a sender that is faster than speech can wait."""

import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import takewhile
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float

from almanac.runtime.errors import UserError
from almanac.whisper import audio
from almanac.whisper.stream import Stream, Update

Piece = Float[np.ndarray, " _"]
"""Some of the sound, mono at `audio.SAMPLE_RATE`; pieces need not be equally long."""

RECORDERS = {
    "arecord": "-q -t raw -f S16_LE -r 16000 -c 1",
    "parec": "--raw --format=s16le --rate=16000 --channels=1",
    "rec": "-q -t raw -e signed -b 16 -r 16000 -c 1 -",
}
"""Programs that write what a microphone hears to stdout: ALSA's, PulseAudio's and SoX's (Linux, macOS). FFmpeg inside PyAV's wheels has no
way to the sound servers of desktops."""
_BLOCK = audio.SAMPLE_RATE // 10


class Arrived(NamedTuple):
    """What there is to listen to."""

    samples: audio.Samples
    late: bool
    """Whether a speaker is ahead of us, so that all of it should be taken at once."""
    ended: bool
    """Whether the input ends after it."""


class Arrivals:
    """Sound between those who bring it and the one who listens.

    Args:
        chunk_seconds: how much is handed on at a time.
    """

    def __init__(self, chunk_seconds: float):
        self.closed = False
        self._chunk = round(chunk_seconds * audio.SAMPLE_RATE)
        self._change = threading.Condition()
        self._waiting: deque[Piece | Exception | None] = deque()  # None, or what went wrong: the input ends here
        self._brought, self._began, self._live = 0, 0.0, True

    @property
    def seconds(self) -> float:
        """How much is waiting."""
        with self._change:
            return sum(len(piece) for piece in self._waiting if isinstance(piece, np.ndarray)) / audio.SAMPLE_RATE

    def bring(self, samples: audio.Samples) -> None:
        """Add what was heard."""
        with self._change:
            now = time.monotonic()
            self._began = self._began if self._brought else now
            self._brought += len(samples)
            spoken = 2 * self._chunk + 1.1 * (now - self._began) * audio.SAMPLE_RATE
            self._live = self._brought <= spoken  # else it comes faster than anybody speaks
            self._waiting.append(samples)
            self._change.notify()

    def end(self, error: Exception | None = None) -> None:
        """Say that the input ends here, or broke; more may come."""
        with self._change:
            self._waiting.append(error)
            self._change.notify()

    def close(self) -> None:
        """Say that nobody waits for an answer any more."""
        with self._change:
            self.closed = True
            self._change.notify()

    def take(self) -> Arrived | None:
        """Wait for a chunk, or for the end of the input; None: it was closed.

        Raises:
            UserError: the source broke.
        """
        with self._change:
            self._change.wait_for(lambda: self.closed or self._enough())
            if self.closed:
                return None
            pieces = self._front()
            for _ in pieces:
                self._waiting.popleft()
            samples = np.concatenate([np.zeros(0, np.float32), *pieces])
            late = self._live and len(samples) >= 3 * self._chunk
            if len(samples) > self._chunk and not late:
                self._waiting.appendleft(samples[self._chunk :])
                return Arrived(samples[: self._chunk], False, False)
            ended = len(self._waiting) > 0
            error = self._waiting.popleft() if ended else None
            if isinstance(error, Exception):
                raise error
            return Arrived(samples, late, ended)

    def _front(self) -> list[Piece]:
        """What comes before the end."""
        front = takewhile(lambda piece: isinstance(piece, np.ndarray), self._waiting)
        return list(front)  # pyright: ignore[reportReturnType]

    def _enough(self) -> bool:
        front = self._front()
        return len(front) < len(self._waiting) or sum(map(len, front)) >= self._chunk


def follow(listening: Stream, arrivals: Arrivals, turn: AbstractContextManager[object]) -> Iterator[Update]:
    """Listen to what arrives until the input ends.

    Args:
        listening: who listens.
        arrivals: the sound.
        turn: entered for each chunk, while the model is at work.

    Raises:
        UserError: the source broke.
    """
    while (arrived := arrivals.take()) is not None:
        with turn:
            updates = listening.feed(arrived.samples, arrived.late)
            updates += [listening.finish()] if arrived.ended else []
        yield from updates
        if arrived.ended:
            return


def arriving(blocks: Iterable[Piece], chunk_seconds: float) -> Arrivals:
    """Take in sound in a thread of its own, until it ends."""
    arrivals = Arrivals(chunk_seconds)

    def bring() -> None:
        try:
            for block in blocks:
                arrivals.bring(block)
            arrivals.end()
        except Exception as error:
            arrivals.end(error)

    threading.Thread(target=bring, daemon=True).start()
    return arrivals


def played(blocks: Iterable[Piece]) -> Iterator[Piece]:
    """Sound at the speed at which it was spoken."""
    begun, heard = time.monotonic(), 0.0
    for block in blocks:
        for first in range(0, len(block), _BLOCK):
            piece = block[first : first + _BLOCK]
            heard += len(piece) / audio.SAMPLE_RATE
            time.sleep(max(0.0, begun + heard - time.monotonic()))
            yield piece


def pcm(file: IO[bytes]) -> Iterator[Piece]:
    """Raw sound, 16-bit little-endian mono at `audio.SAMPLE_RATE`, from a file that has no buffer or is read to its end."""
    odd = b""
    while data := file.read(2 * _BLOCK):
        data = odd + data
        whole = len(data) // 2 * 2
        odd = data[whole:]
        yield floats(data[:whole])


def floats(data: bytes) -> audio.Samples:
    """Raw 16-bit sound as float32 in [−1, 1]."""
    return audio.floats(np.frombuffer(data, "<i2").astype(np.int16))


def microphone() -> Iterator[Piece]:
    """What a microphone hears, until the program is interrupted.

    Raises:
        UserError: there is no program that records, or it could not.
    """
    recorder = next((program for program in RECORDERS if shutil.which(program)), None)
    if recorder is None:
        raise UserError(
            f"there is no program here that records from a microphone ({', '.join(RECORDERS)})",
            "install alsa-utils (Linux) or sox (macOS), or pipe raw sound in: … | almanac whisper stream -",
        )
    command = [recorder, *RECORDERS[recorder].split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as recording:
        assert recording.stdout is not None and recording.stderr is not None
        try:
            yield from pcm(recording.stdout)
            said = recording.stderr.read().decode(errors="replace").strip().splitlines()
        finally:
            recording.terminate()
        reason = said[-1] if said else "it stopped"
        raise UserError(f"no microphone can be heard ({recorder}: {reason})", "connect one, or give a file")


def standard_input() -> Iterator[Piece]:
    """Raw sound from stdin.

    Raises:
        UserError: stdin is a terminal.
    """
    if sys.stdin.isatty():
        raise UserError("stdin is a terminal, not sound", "pipe raw 16-bit mono sound of 16 kHz in, or give a file")
    return pcm(open(sys.stdin.fileno(), "rb", buffering=0, closefd=False))
