"""Whether a recording can be heard at all, fits a window of the model, and is about as long as its text takes to say."""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from almanac.runtime.errors import UserError
from almanac.whisper import audio
from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Row, Sound, Verdict, letters

_SHORTEST = 1.0
"""s; of shorter recordings, most may be the silence around a word."""
_ANY_PACE = (1.0, 40.0)
"""Letters a second that no language leaves: Chinese has 4 to 6, Spanish up to 20."""


def listen(path: Path, seconds: float) -> tuple[Sound, audio.Samples]:
    """What is known of a recording's sound, and its first seconds; nothing of them where it can't be read. Only those seconds
    are kept, so that hours of sound need no memory."""
    length, loudest, kept = 0, 0.0, []
    try:
        for block in audio.read_blocks(path):
            if length < seconds * audio.SAMPLE_RATE:
                kept.append(block)
            length += len(block)
            loudest = max(loudest, float(np.abs(block).max(initial=0)))
    except UserError as error:
        return Sound(0.0, -math.inf, error.what), np.zeros(0, np.float32)
    if not length:
        return Sound(0.0, -math.inf, f"{path} holds no sound (0 seconds)"), np.zeros(0, np.float32)
    peak = 20 * math.log10(loudest) if loudest else -math.inf
    return Sound(length / audio.SAMPLE_RATE, peak), np.concatenate(kept)[: round(seconds * audio.SAMPLE_RATE)]


def damaged(row: Row, limits: Limits) -> Verdict | None:
    """It can't be read, or holds nothing."""
    return Verdict(row.sound.damage) if row.sound.damage else None


def silent(row: Row, limits: Limits) -> Verdict | None:
    """There is a text, and nothing to be heard."""
    if row.sound.damage or not row.entry.text or row.sound.peak > limits.silence:
        return None
    return Verdict(f"silent (at most {row.sound.peak:.0f} dB)")


def long(row: Row, limits: Limits) -> Verdict | None:
    """It does not fit a window, and its text can't be parted. What holds no speech can."""
    if row.sound.seconds <= limits.seconds or not row.entry.text:
        return None
    return Verdict(f"{row.sound.seconds:.1f} s do not fit a window of {limits.seconds:g} s")


def untold(row: Row, limits: Limits) -> Verdict | None:
    """Something is said in a language that is named, and there is no text of it."""
    if row.entry.text or row.entry.language in ("", "zxx"):
        return None
    return Verdict("has no text")


def pace(rows: Sequence[Row], limits: Limits) -> Iterator[tuple[Row, Verdict]]:
    """A text is too long or too short for its recording, as compared with others of its source and language: it belongs elsewhere, or
    parts of it are missing."""
    alike: dict[tuple[str, str], list[tuple[Row, float]]] = {}
    for row in rows:
        if row.entry.text and row.sound.seconds >= _SHORTEST:
            rate = letters(row.entry.text) / row.sound.seconds
            alike.setdefault((row.source, row.written), []).append((row, rate))
    for found in alike.values():
        slowest, fastest = _ANY_PACE
        if len(found) >= limits.source_rows:
            usual = median(rate for _, rate in found)
            slowest, fastest = limits.slow * usual, limits.fast * usual
        for row, rate in found:
            if not slowest <= rate <= fastest:
                yield row, Verdict(f"{rate:.1f} letters a second, not {slowest:.1f} to {fastest:.1f}")


def no_speech(rows: Sequence[Row], limits: Limits, seed: int) -> Iterator[tuple[Row, Verdict]]:
    """Of recordings without speech, which teach a model to be silent, there are more than are needed: a part of those that
    nothing else is wrong with is kept, by chance."""
    found = [row for row in rows if not row.entry.text and not row.dropped]
    enough = max(math.ceil(limits.no_speech * len(found)), min(limits.no_speech_least, len(found)))
    kept = random.Random(seed).sample(range(len(found)), enough)
    for index in sorted(set(range(len(found))) - set(kept)):
        yield found[index], Verdict(f"nothing is said; {enough} of {len(found)} such are kept")
