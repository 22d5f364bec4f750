"""New sentences by somebody who has read others aloud: pieces of those recordings, each from the middle of a sound to the middle of
another, one after another (speech synthesis by unit selection, Hunt & Black 1996). An ear that knows a reader's few sentences by heart
must listen again."""

import itertools
import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from almanac.whisper.audio import SAMPLE_RATE, Samples
from almanac.whisper.speak import Spoken, TimedWord, Voice, speak

_TRIED = 40
"""Places at which a piece may begin, of which the one is taken that fits longest."""
_FADE = SAMPLE_RATE // 200
"""Samples in which a piece goes over into the next."""


class Reader:
    """Somebody whose recordings are known sound by sound.

    Args:
        readings: recordings with their sounds (`alignment`).
        voice: of espeak-ng, of their language; it says what sounds a text has.
    """

    def __init__(self, readings: Sequence[Spoken], voice: Voice):
        self.readings, self.voice = readings, voice
        self.names = [[name for name, *_ in reading.sounds] for reading in readings]
        self.places: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for number, names in enumerate(self.names):
            for first, pair in enumerate(itertools.pairwise(names)):
                self.places.setdefault(pair, []).append((number, first))

    def say(self, text: str, draw: random.Random) -> Spoken | None:
        """A text in the reader's voice, with the times of its words; None: two of its sounds never follow each other in what was read."""
        said = speak(text, self.voice)
        wanted = [name for name, *_ in said.sounds]
        pieces: list[np.ndarray] = []
        edges: list[float] = []  # where each sound but the first begins, s
        length, at = 0, 0
        while at < len(wanted) - 1:
            places = self.places.get((wanted[at], wanted[at + 1]))
            if not places:
                return None
            tried = draw.sample(places, min(_TRIED, len(places)))
            number, first = max(tried, key=lambda place: self._fits(place, wanted[at:]))
            count = self._fits((number, first), wanted[at:])
            own = self.readings[number]
            middles = [
                round((start + end) / 2 * SAMPLE_RATE)
                for _, start, end in (own.sounds[first], own.sounds[first + count])
            ]
            pieces.append(own.samples[middles[0] : middles[1]])
            edges += [
                (length - middles[0]) / SAMPLE_RATE + start for _, start, _ in own.sounds[first + 1 : first + count + 1]
            ]
            length += len(pieces[-1])
            at += count
        return Spoken(_joined(pieces), _moved(said, edges, length / SAMPLE_RATE))

    def _fits(self, place: tuple[int, int], wanted: Sequence[str]) -> int:
        """How many sounds after the first are as wanted."""
        number, first = place
        count = 0
        for own, other in zip(self.names[number][first + 1 :], wanted[1:], strict=False):
            if own != other:
                break
            count += 1
        return count


def _joined(pieces: Sequence[Float[np.ndarray, " _"]]) -> Samples:
    """One after another, faded at the seams."""
    found = []
    for piece in pieces:
        edge = min(_FADE, len(piece) // 2)
        faded = piece.copy()
        faded[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
        faded[len(piece) - edge :] *= np.linspace(1, 0, edge, dtype=np.float32)
        found.append(faded)
    return np.concatenate(found)


def _moved(said: Spoken, edges: Sequence[float], seconds: float) -> list[TimedWord]:
    """The words of a machine's speech, whose sounds but the first begin at other times in speech of so many seconds."""
    known = [0.0, *(start for _, start, _ in said.sounds[1:]), said.sounds[-1][2]]
    times = [0.0, *edges, seconds]
    return [
        (word, float(np.interp(start, known, times)), float(np.interp(end, known, times)))
        for word, start, end in said.words
    ]
