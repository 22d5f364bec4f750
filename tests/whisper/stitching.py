"""Recordings put together from clips with pauses between them, and the truth about them: what was said when."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from almanac.whisper import audio

ROOM = 10 ** (-65 / 20)
"""Noise of a quiet room, of 1."""


@dataclass(frozen=True)
class Part:
    """A clip in a recording."""

    start: float
    """s."""
    end: float
    """s."""
    text: str


@dataclass(frozen=True)
class Stitched:
    """A recording put together."""

    samples: audio.Samples
    parts: list[Part]


def stitch(
    clips: Sequence[tuple[audio.Samples, str]],
    pauses: tuple[float, float],
    draw: np.random.Generator,
    noise: audio.Samples | None = None,
    snr: float = 20.0,
) -> Stitched:
    """Clips one after another, with a pause before each and behind the last, in a quiet room.

    Args:
        clips: sounds, and what is said in them.
        pauses: shortest and longest, s.
        draw: how long each pause is.
        noise: what is heard all the time instead of the room, repeated.
        snr: how much louder than the noise speech is, dB.
    """
    sounds, parts, now = [], [], 0
    for sound, text in clips:
        pause = round(draw.uniform(*pauses) * audio.SAMPLE_RATE)
        sounds += [np.zeros(pause, np.float32), sound]
        now += pause + len(sound)
        parts.append(Part((now - len(sound)) / audio.SAMPLE_RATE, now / audio.SAMPLE_RATE, text))
    sounds.append(np.zeros(round(pauses[1] * audio.SAMPLE_RATE), np.float32))
    samples = np.concatenate(sounds)
    if noise is None:
        background = draw.normal(0, ROOM, len(samples))
    else:
        speech = np.concatenate([sound for sound, _ in clips])
        level = np.sqrt((speech**2).mean() / (noise**2).mean()) * 10 ** (-snr / 20)
        background = np.resize(noise, len(samples)) * level
    return Stitched((samples + background).astype(np.float32), parts)


def speech_data() -> Path:
    """The folder of real speech; skips the test where it is not at hand."""
    folder = Path(os.environ.get("ALMANAC_DATA", "")) / "speech"
    if not (folder / "clips").is_dir():
        pytest.skip("real speech is not on this machine (ALMANAC_DATA)")
    return folder


def equally_loud(sound: audio.Samples) -> audio.Samples:
    """A clip at −26 dB."""
    return sound * (0.05 / np.sqrt((sound**2).mean()))
