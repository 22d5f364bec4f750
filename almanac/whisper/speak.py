"""Text to speech, to make speech whose words and times are known exactly: espeak-ng in every language (its library says when each
word and phoneme begins), and flite's five English voices where its program is installed. The voices sound like machines; what
is trained on them alone knows machines."""

import ctypes
import io
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from almanac.runtime.errors import UserError
from almanac.whisper.audio import SAMPLE_RATE

PAUSE = "_"
"""Among sounds."""
FLITE_VOICES = ("awb", "kal16", "rms", "slt")

_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8 = 2, 1, 1
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7
_LIST_TERMINATED, _WORD, _END, _PHONEME = 0, 1, 5, 7


@dataclass(frozen=True)
class Voice:
    """Who speaks, and how."""

    name: str
    """espeak-ng's language and variant (`de+f3`), or `flite:slt`."""
    words_per_minute: int = 175
    """espeak-ng only."""
    pitch: int = 50
    """0 to 99; espeak-ng only."""
    pitch_range: int = 50
    """How lively, 0 to 99; espeak-ng only."""
    word_gap: int = 0
    """Pause between words, 10 ms each; espeak-ng only."""


TimedWord = tuple[str, float, float]
"""A word, or a few that are spoken as one, with start and end, s."""


@dataclass(frozen=True)
class Spoken:
    """Speech, and when each word was said."""

    samples: Float[np.ndarray, " samples"]
    """Mono at 16 kHz, in [−1, 1]."""
    words: list[TimedWord]
    """Empty where the engine does not say."""
    sounds: list[TimedWord] = field(default_factory=list)
    """What the words are made of, one after another, from a pause to a pause: espeak-ng's name of each sound, without stress, and `PAUSE`;
    empty where there are no words."""


def speak(text: str, voice: Voice) -> Spoken:
    """Say a text.

    Raises:
        UserError: there is no such voice, or its engine is not installed.
    """
    if voice.name.startswith("flite:"):
        return Spoken(_flite(text, voice.name.removeprefix("flite:")), [])
    return _espeak().speak(text, voice)


def has_flite() -> bool:
    """Whether flite's program is installed (Debian: flite)."""
    return shutil.which("flite") is not None


def _flite(text: str, voice: str) -> Float[np.ndarray, " samples"]:
    from scipy.io import wavfile

    program = shutil.which("flite")
    if program is None:
        raise UserError("flite is not installed", "install it (Debian: flite), or use an espeak-ng voice")
    if voice not in FLITE_VOICES:
        raise UserError(f"flite has no voice '{voice}'", f"one of: {', '.join(FLITE_VOICES)}")
    done = subprocess.run([program, "-voice", voice, "-t", text, "-o", "/dev/stdout"], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip() or "it wrote nothing"
        raise UserError(f"flite could not speak: {said}", "use an espeak-ng voice")
    rate, samples = wavfile.read(io.BytesIO(_whole_header(done.stdout)))
    return resample(samples.astype(np.float32) / 32768, float(rate))


def _whole_header(wav: bytes) -> bytes:
    """A WAV file whose sizes are right; a program that writes to a pipe can't go back to fill them in."""
    return wav[:4] + (len(wav) - 8).to_bytes(4, "little") + wav[8:40] + (len(wav) - 44).to_bytes(4, "little") + wav[44:]


def resample(samples: Float[np.ndarray, " samples"], rate: float) -> Float[np.ndarray, " resampled"]:
    """Samples of another rate, Hz, at `SAMPLE_RATE`."""
    import soxr

    if rate == SAMPLE_RATE:
        return samples
    return soxr.resample(samples, rate, SAMPLE_RATE, "MQ")


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@cache
def _espeak() -> "_Espeak":
    return _Espeak()


class _Espeak:
    """The library, which has one voice and one text at a time for the whole process."""

    def __init__(self):
        try:
            import espeakng_loader
        except ImportError:
            raise UserError("espeak-ng is not installed", "pip install 'almanac[speech]'") from None
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        folder = str(espeakng_loader.get_data_path()).encode()
        self.rate = self.library.espeak_Initialize(_SYNCHRONOUS, 0, folder, _PHONEME_EVENTS)
        if self.rate <= 0:
            raise UserError("espeak-ng could not be started", "its data may be damaged: reinstall espeakng-loader")
        self.pieces: list[np.ndarray] = []
        self.events: list[tuple[int, int, int, str]] = []
        self.callback = _Callback(self._collect)  # kept, or it would be freed under the library's feet
        self.library.espeak_SetSynthCallback(self.callback)

    def speak(self, text: str, voice: Voice) -> Spoken:
        """Say a text."""
        if self.library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise UserError(
                f"espeak-ng has no voice '{voice.name}'", "a language code, such as de, or with a variant: de+f3"
            )
        settings = {
            _RATE: voice.words_per_minute,
            _PITCH: voice.pitch,
            _RANGE: voice.pitch_range,
            _WORD_GAP: voice.word_gap,
        }
        for parameter, value in settings.items():
            self.library.espeak_SetParameter(parameter, value, 0)
        self.pieces, self.events = [], []
        raw = text.encode()
        self.library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, _UTF8, None, None)
        self.library.espeak_Synchronize()
        samples = np.concatenate([*self.pieces, np.zeros(0, np.int16)]).astype(np.float32) / 32768
        seconds = len(samples) / self.rate
        words = self._words(text, seconds)
        return Spoken(resample(samples, float(self.rate)), words, self._sounds(seconds) if words else [])

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _LIST_TERMINATED:
            event = events[index]
            name = event.id.decode(errors="replace") if event.type == _PHONEME else ""
            self.events.append((event.type, event.text_position, event.audio_position, name))
            index += 1
        return 0

    def _sounds(self, seconds: float) -> list[TimedWord]:
        starts = [(PAUSE, 0.0)]
        for kind, _, milliseconds, phoneme in self.events:
            name = PAUSE if phoneme.startswith("_") else phoneme.lstrip("',")
            if kind == _PHONEME and phoneme != "_!" and not name == starts[-1][0] == PAUSE:  # _! begins a vowel
                starts.append((name, milliseconds / 1000))
        if starts[-1][0] != PAUSE:
            starts.append((PAUSE, seconds))
        ends = [*(start for _, start in starts[1:]), seconds]
        return [(name, start, end) for (name, start), end in zip(starts, ends, strict=True)]

    def _words(self, text: str, seconds: float) -> list[TimedWord]:
        """Words by the library's events. The library announces a word while the last sound of the one before still rings, so a word
        begins with its first phoneme; it ends where a pause or the next one begins. Small words that are spoken as one with
        their neighbour (`in the`) are one here too."""
        found: list[list] = []  # [first character, start or None, end or None]
        for kind, position, milliseconds, phoneme in self.events:
            now, pause = milliseconds / 1000, phoneme.startswith("_")
            if kind == _WORD and text[position - 1 : position].strip():
                found.append([position - 1, None, None])
            elif kind in (_PHONEME, _END) and found:
                before = found[-2] if len(found) > 1 and found[-1][1] is None else found[-1]
                if before[1] is not None and before[2] is None and (pause or kind == _END or before is not found[-1]):
                    before[2] = now
                if kind == _PHONEME and not pause and found[-1][1] is None:
                    found[-1][1] = now
        edges = [first for first, _, _ in found] + [len(text)]
        timed = [
            (text[first:after].strip(), start, seconds if end is None else end)
            for (first, start, end), after in zip(found, edges[1:], strict=True)
            if start is not None
        ]
        return [(word, start, end) for word, start, end in timed if word and end > start]
