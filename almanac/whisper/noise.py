"""Sounds that are not speech: what recorders heard, and what is made of random numbers: coloured noise, things that are put down, water
and wind, squeaks, hum, melodies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.signal import butter, sosfilt

from almanac.whisper.audio import SAMPLE_RATE, Samples
from almanac.whisper.speak import resample

Random = np.random.Generator


@dataclass(frozen=True)
class Surroundings:
    """Recorded noise and rooms; where there are none, made ones serve."""

    noises: Sequence[Float[np.ndarray, " _"]] = ()
    rooms: Sequence[Float[np.ndarray, " _"]] = ()
    """Impulse responses."""


def background(length: int, around: Surroundings, draw: Random) -> Samples:
    """Something that is not speech: recorded noise, coloured noise, knocks, gusts, squeaks, hum, or a melody of tones; or two of them."""
    sound = _noise(length, around, draw)
    if draw.random() < 0.4:
        other = _noise(length, around, draw)
        sound = sound / rms(sound) + other / rms(other) * 10 ** draw.uniform(-1, 1)
    return sound.astype(np.float32)


def _noise(length: int, around: Surroundings, draw: Random) -> Samples:
    kind = draw.random()
    if around.noises and kind < 0.4:
        return recorded(around.noises, length, draw)
    if kind < 0.6:
        return knocks(length, draw)
    if kind < 0.7:
        return gusts(length, draw)
    if kind < 0.77:
        return squeaks(length, draw)
    if kind < 0.87:
        return coloured(length, draw.uniform(-1, 2), draw)
    time = np.arange(length) / SAMPLE_RATE
    if kind < 0.93:
        base = draw.choice((50.0, 60.0, draw.uniform(80, 400)))
        return sum(np.sin(2 * np.pi * base * k * time) / k for k in range(1, 8)).astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]
    notes = np.repeat(220 * 2 ** (draw.integers(0, 24, 40) / 12), SAMPLE_RATE // draw.integers(2, 8))
    return np.sin(2 * np.pi * np.cumsum(np.resize(notes, length)) / SAMPLE_RATE).astype(np.float32)


def recorded(noises: Sequence[Float[np.ndarray, " _"]], length: int, draw: Random) -> Samples:
    """A part of one of the recordings, played faster or slower, its treble raised or lowered; again and again, if it is shorter."""
    noise = noises[int(draw.integers(len(noises)))]
    factor = draw.uniform(0.6, 1.6)
    start = draw.integers(max(1, len(noise) - round(length * factor)))
    noise = at_speed(noise[start : start + round(length * factor)], factor)
    return np.resize(tilted(noise, draw.uniform(-12, 12)), length)


def knocks(length: int, draw: Random) -> Samples:
    """Things that are put down, in heaps or one by one: each a burst of coloured noise that dies away, and rings, if it is of metal or
    glass."""
    sound = 10 ** draw.uniform(-3, -0.5) * coloured(length, draw.uniform(0, 2), draw)
    heap, metal = draw.random(), draw.random()  # how many fall together; how many ring
    start = 0
    while start < length:
        seconds = draw.uniform(0.01, 0.3)
        time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        burst = coloured(len(time), draw.uniform(-1, 2), draw) * 10 ** (-3 * time / seconds)
        if draw.random() < metal:
            time = np.arange(int(draw.uniform(0.05, 1.2) * SAMPLE_RATE)) / SAMPLE_RATE
            tones = 2 * np.pi * draw.uniform(200, 7000, int(draw.integers(2, 9)))
            lasting = draw.uniform(0.2, 1, len(tones)) * len(time) / SAMPLE_RATE
            ringing = (np.sin(np.outer(tones, time)) * 10 ** (-3 * time / lasting[:, None])).mean(0)
            ringing[: len(burst)] += (burst * draw.uniform(0, 1))[: len(ringing)]
            burst = ringing
        burst = (burst * 10 ** -draw.uniform(0, 1.5))[: length - start]
        sound[start : start + len(burst)] += burst
        start += int(draw.exponential(0.06 if draw.random() < heap else 0.6) * SAMPLE_RATE)
    return sound.astype(np.float32)


def gusts(length: int, draw: Random) -> Samples:
    """Water, wind, cloth: noise of a band, whose loudness wanders, slowly or in a flutter."""
    low = 10 ** draw.uniform(2, 3.5)
    band = sosfilt(
        butter(2, (low, min(7900.0, low * draw.uniform(1.5, 8))), "band", fs=SAMPLE_RATE, output="sos"),
        draw.standard_normal(length),
    )
    turns = max(2, round(length / SAMPLE_RATE * 10 ** draw.uniform(-0.5, 1.3)))
    loudness = np.interp(np.linspace(0, turns - 1, length), np.arange(turns), draw.uniform(-1.5, 0, turns))
    return (band * 10**loudness).astype(np.float32)


def squeaks(length: int, draw: Random) -> Samples:
    """Hinges, brakes, chairs: tones with overtones that glide, and pause."""
    turns = max(2, round(length / SAMPLE_RATE * draw.uniform(1, 6)))
    at = np.linspace(0, turns - 1, length)
    pitch = 10 ** np.interp(at, np.arange(turns), draw.uniform(2.3, 3.4, turns))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    tone = sum(np.sin(phase * k) * draw.uniform(0, 1) for k in range(1, 5))
    loudness = np.interp(at, np.arange(turns), np.maximum(0, draw.uniform(-1, 1, turns)))
    return (tone * loudness + 10 ** draw.uniform(-3, -1) * coloured(length, draw.uniform(0, 2), draw)).astype(
        np.float32
    )


def coloured(length: int, power: float, draw: Random) -> Samples:
    """Noise whose power falls as 1 / frequency^power: white 0, pink 1, brown 2."""
    spectrum = np.fft.rfft(draw.standard_normal(length))
    frequency = np.maximum(np.arange(len(spectrum)), 1)
    noise = np.fft.irfft(spectrum * frequency ** (-power / 2), length)
    return (noise / rms(noise)).astype(np.float32)


def at_speed(samples: Samples, factor: float) -> Float[np.ndarray, " played"]:
    """Played faster by a factor; the pitch rises with it."""
    return samples if factor == 1 else resample(samples, SAMPLE_RATE * factor)


def tilted(samples: Samples, decibels: float) -> Samples:
    """The treble (above 1 kHz) raised by so much, or lowered."""
    low = sosfilt(butter(1, 1000, "low", fs=SAMPLE_RATE, output="sos"), samples)
    return (low + (samples - low) * 10 ** (decibels / 20)).astype(np.float32)


def rms(samples: np.ndarray) -> float:
    """Root of the mean square; never quite zero."""
    return float(np.sqrt(np.mean(np.square(samples)) + 1e-12))
