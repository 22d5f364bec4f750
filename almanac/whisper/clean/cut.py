"""Long recordings with subtitles, cut into windows that a model can train on (paper §2.1): up to 30 s of sound with the part of the
transcript that is said in it. A window begins and ends where a line of the subtitles does, so that no word is cut; stretches without
any are windows without speech. Readers of subtitles are pysubs2's."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from almanac.runtime.errors import UserError
from almanac.whisper import audio
from almanac.whisper.manifest import Entry

KINDS = (".srt", ".vtt", ".json", ".ass")
"""Subtitles; .json as Whisper writes it."""
_SHORTEST = 1.0
"""s; shorter stretches without speech are not kept."""
_LEAD = 0.2
"""s of sound before a line and after it, where that belongs to no other: subtitles are not exact."""
_ROLLING = 0.3
"""Part of the lines that repeat the line before, from which on captions are those that roll up the screen, as machines make them."""


@dataclass(frozen=True)
class Line:
    """A line of subtitles."""

    start: float
    """s."""
    end: float
    """s."""
    text: str
    """With its line breaks."""


@dataclass(frozen=True)
class Window:
    """A stretch of a recording."""

    start: float
    """s."""
    end: float
    """s."""
    text: str
    """What is said in it; empty: nothing."""


def subtitles(entry: Entry) -> Path | None:
    """The file of subtitles beside a recording: of the same name, or with the language's code behind (`talk.en.vtt`)."""
    stem = entry.path.with_suffix("")
    names = [f"{stem}{middle}{kind}" for middle in ("", f".{entry.language}") for kind in KINDS]
    return next((path for path in map(Path, names) if path.is_file() and path != entry.path), None)


def cut(entry: Entry, found: Path, folder: Path, seconds: float) -> list[Entry]:
    """Cut a recording.

    Args:
        entry: the recording; its own text is not read.
        found: its subtitles.
        folder: where its windows go, as FLAC files in a folder of its own.
        seconds: the longest window.

    Returns:
        Its windows; those without speech have no text and no language.

    Raises:
        UserError: the recording or its subtitles can't be read; the captions are a machine's that roll up.
    """
    lines = read(found)
    if rolls_up(lines):
        raise UserError(f"{found} rolls up: each line repeats the one before, as machines' captions do", "leave it out")
    place = folder / re.sub(r"[^\w.-]", "_", entry.id)
    place.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (window, samples) in enumerate(_sounds(entry.path, lines, seconds)):
        path = place / f"{number:05d}.flac"
        _write_flac(path, samples)
        language = entry.language if window.text else ""
        part = replace(entry, id=f"{entry.id}-{number:05d}", path=path, text=window.text, language=language)
        entries.append(replace(part, source=entry.source or entry.id, task=entry.task if window.text else "transcribe"))
    return entries


def read(path: Path) -> list[Line]:
    """Lines of subtitles in order of time, without empty ones.

    Raises:
        UserError: it can't be read.
    """
    import pysubs2

    try:
        if path.suffix == ".json":
            known = pysubs2.load_from_whisper(json.loads(path.read_text(encoding="utf-8")))
        else:
            known = pysubs2.load(str(path))
    except (OSError, ValueError, KeyError, TypeError, pysubs2.exceptions.Pysubs2Error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise UserError(f"{path} can't be read as subtitles ({reason})", f"give {', '.join(KINDS)} in UTF-8") from None
    lines = [Line(event.start / 1000, event.end / 1000, event.plaintext.strip()) for event in known]
    return sorted((line for line in lines if line.text and line.end > line.start), key=lambda line: line.start)


def rolls_up(lines: Sequence[Line]) -> bool:
    """Whether lines begin with what the line before ended with."""
    pairs = list(pairwise(line.text.splitlines() for line in lines))
    return bool(pairs) and sum(before[-1] == after[0] for before, after in pairs) >= _ROLLING * len(pairs)


def windows(lines: Sequence[Line], duration: float, seconds: float) -> Iterator[Window]:
    """Cut a recording of a duration (s) into windows of at most so many seconds.

    Lines follow each other in a window for as long as they fit. A line that is longer than a window is left out with its sound, and so
    are lines that begin before the one before them has ended, if that belongs to the window before.
    """
    now, index = 0.0, 0
    while index < len(lines):
        first = lines[index]
        if first.start < now or first.end - first.start > seconds or first.end > duration:
            yield from _without_speech(now, min(duration, first.start - _LEAD), seconds)
            now, index = max(now, first.end), index + 1
            continue
        start = max(now, first.start - _LEAD)
        yield from _without_speech(now, start, seconds)
        chosen = [first]
        while index + len(chosen) < len(lines):
            following = lines[index + len(chosen)]
            together = max(line.end for line in (*chosen, following)) - start
            if together > seconds or following.end > duration:
                break
            chosen.append(following)
        index += len(chosen)
        next_start = lines[index].start if index < len(lines) else duration
        ended = max(line.end for line in chosen)
        now = max(ended, min(ended + _LEAD, next_start - _LEAD, start + seconds, duration))
        yield Window(start, now, " ".join(" ".join(line.text for line in chosen).split()))
    yield from _without_speech(now, duration, seconds)


def _without_speech(start: float, end: float, seconds: float) -> Iterator[Window]:
    while end - start >= _SHORTEST:
        yield Window(start, min(end, start + seconds), "")
        start += seconds


def _sounds(path: Path, lines: Sequence[Line], seconds: float) -> Iterator[tuple[Window, audio.Samples]]:
    """Windows with their samples. The recording is decoded twice, for its duration and piece by piece, so that hours of it need
    no memory."""
    duration = sum(map(len, audio.read_blocks(path))) / audio.SAMPLE_RATE
    blocks = audio.read_blocks(path)
    held, begin = np.zeros(0, np.float32), 0
    for window in windows(lines, duration, seconds):
        first, last = round(window.start * audio.SAMPLE_RATE), round(window.end * audio.SAMPLE_RATE)
        parts, reached = [held], begin + len(held)
        while reached < last:
            block = next(blocks, None)
            if block is None:
                break
            parts.append(block)
            reached += len(block)
        held = np.concatenate(parts)[max(0, first - begin) :]
        begin = max(begin, first)
        yield window, held[: last - first]


def _write_flac(path: Path, samples: audio.Samples) -> None:
    import av

    frame = av.AudioFrame.from_ndarray(_sixteen_bits(samples)[None], format="s16", layout="mono")
    frame.rate = audio.SAMPLE_RATE
    with av.open(str(path), "w", format="flac") as container:
        stream: Any = container.add_stream("flac", rate=audio.SAMPLE_RATE, layout="mono")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def _sixteen_bits(samples: audio.Samples) -> np.ndarray:
    return (samples * 32768).clip(-32768, 32767).astype(np.int16)
