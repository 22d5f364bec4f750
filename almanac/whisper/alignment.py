"""When each word and sound of a recording was said, by no model: espeak-ng says the text too, it tells their times in its own speech,
and dynamic time warping finds the way from there to the recording (Malfrère & Dutoit 1997). `timing` is better once a model has
learnt."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dct
from scipy.spatial.distance import cdist

from almanac.whisper import audio, timing
from almanac.whisper.audio import SAMPLE_RATE, Samples
from almanac.whisper.speak import Spoken, TimedWord, Voice, speak

_CEPSTRA = 13
_FRAMES_PER_SECOND = SAMPLE_RATE // audio.HOP


def align(samples: Samples, text: str, voices: Sequence[Voice]) -> Spoken:
    """What is said in a recording: the words and sounds of its text, with start and end, s.

    Args:
        samples: a recording of the text, of seconds rather than minutes (the cost is quadratic).
        text: what is said.
        voices: of espeak-ng, of the same language; the one that is nearest to the speaker's is taken.
    """
    heard = _features(samples)
    ways = [_way(heard, said) for voice in voices if (said := speak(text, voice)).words]
    words, sounds = min(ways, key=lambda way: way[0])[1:] if ways else ([], [])
    return Spoken(samples, words, sounds)


def _way(heard: Float[np.ndarray, "frames features"], said: Spoken) -> tuple[float, list[TimedWord], list[TimedWord]]:
    """How far a recording is from a machine's speech, on average; and where the machine's words and sounds are in it."""
    costs = cdist(heard, _features(said.samples))
    here, there = timing.warp(costs)
    frames, first = np.unique(there, return_index=True)

    def found(known: Sequence[TimedWord]) -> list[TimedWord]:
        times = np.array([(start, end) for _, start, end in known]) * _FRAMES_PER_SECOND
        moved = np.interp(times, frames, here[first]) / _FRAMES_PER_SECOND
        return [(name, start, end) for (name, *_), (start, end) in zip(known, moved.tolist(), strict=True)]

    return float(costs[here, there].mean()), found(said.words), found(said.sounds)


def _features(samples: Samples) -> Float[np.ndarray, "frames features"]:
    """Mel cepstra of 100 frames a second and how they change, each of mean 0 and deviation 1, so that voices and levels matter less."""
    mel = audio.log_mel(torch.from_numpy(np.ascontiguousarray(samples))).numpy()
    cepstra = np.asarray(dct(mel.T, axis=1, norm="ortho"))[:, :_CEPSTRA]
    change = np.gradient(cepstra, axis=0) if len(cepstra) > 1 else np.zeros_like(cepstra)
    found = np.concatenate((cepstra, change), 1)
    return (found - found.mean(0)) / (found.std(0) + 1e-6)
