"""A transcript as a file: txt, srt, vtt, tsv or json, byte for byte as the official `utils.py` writes them. Subtitles are made in two
steps, words into cues and cues into lines of the file; whose words, and when they were said, is `transcribe`'s to find."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, NamedTuple

from almanac.runtime.errors import UserError
from almanac.whisper.timing import Word
from almanac.whisper.transcript import Segment, Transcript

FORMATS = ("txt", "srt", "vtt", "tsv", "json")
LONG_PAUSE = 3.0
"""s from the beginning of a word to that of the next, after which lines that run on over segments start a new cue."""
_UNLIMITED = 1000
"""Characters of a line, or words of a cue, where no limit is given (official `iterate_result`)."""


@dataclass(frozen=True)
class Layout:
    """How srt and vtt cut words into cues; all of it needs the times of words. The other formats know no cues and ignore it."""

    max_line_width: int | None = None
    """Characters of a line."""
    max_line_count: int | None = None
    """Lines of a cue. Given together with a width, cues fill up regardless of where segments end."""
    max_words_per_line: int | None = None
    """Words of a cue; without effect where both width and count are given."""
    highlight_words: bool = False
    """Show each cue once for every word, that word underlined."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and value is not False and value < 1:
                raise UserError(f"{name}={value} is below 1", "give 1 or more, or leave it out")


def render(transcript: Transcript, form: str, layout: Layout = Layout()) -> str:
    """The text of a file that holds a transcript.

    Args:
        transcript: what was said.
        form: one of `FORMATS`.
        layout: how srt and vtt cut words into cues.

    Raises:
        UserError: the format is unknown, or the layout needs the times of words and they have none.
    """
    segments = transcript.segments
    match form:
        case "txt":
            return "".join(f"{segment.text.strip()}\n" for segment in segments)
        case "srt":
            cues = enumerate(_cues(segments, layout), 1)
            return "".join(f"{number}\n{_timed(cue, hours=True, decimal_mark=',')}" for number, cue in cues)
        case "vtt":
            return "WEBVTT\n\n" + "".join(_timed(cue, hours=False, decimal_mark=".") for cue in _cues(segments, layout))
        case "tsv":
            return "start\tend\ttext\n" + "".join(map(_row, segments))
        case "json":
            return json.dumps(record(transcript))
    raise UserError(f"unknown transcript format '{form}'", f"known: {', '.join(FORMATS)}")


def record(transcript: Transcript) -> dict[str, Any]:
    """A transcript as its JSON file holds it, words where they were timed."""
    return {
        "text": transcript.text,
        "segments": list(map(_record, transcript.segments)),
        "language": transcript.language,
    }


def clock(seconds: float, hours: bool, decimal_mark: str) -> str:
    """A time as subtitles write it, such as 00:01:02,345.

    Args:
        seconds: the time; one below 0 counts as 0.
        hours: write them even where there are none.
        decimal_mark: what stands before the milliseconds.
    """
    whole_seconds, milliseconds = divmod(max(0, _milliseconds(seconds)), 1000)
    whole_minutes, second = divmod(whole_seconds, 60)
    hour, minute = divmod(whole_minutes, 60)
    prefix = f"{hour:02d}:" if hours or hour else ""
    return f"{prefix}{minute:02d}:{second:02d}{decimal_mark}{milliseconds:03d}"


class _Cue(NamedTuple):
    """What is shown, from when to when (s)."""

    start: float
    end: float
    text: str


def _cues(segments: list[Segment], layout: Layout) -> list[_Cue]:
    """Those of the words where all were timed, else one a segment."""
    asked = {name: value for name, value in vars(layout).items() if value != getattr(Layout(), name)}
    timed = [segment.words for segment in segments if segment.words is not None]
    if len(timed) < len(segments):
        if asked:
            raise UserError(f"{', '.join(asked)}: not without the times of words", "transcribe with word times")
        return [_Cue(each.start, each.end, each.text.strip().replace("-->", "->")) for each in segments]
    show = _highlighted if layout.highlight_words else _plain
    return [cue for stretch in _stretches(timed, layout) for words in _filled(stretch, layout) for cue in show(words)]


def _stretches(timed: list[list[Word]], layout: Layout) -> list[list[Word]]:
    """Words over whose ends no cue runs: those of a segment, or, where a cue has a size to fill, those between long pauses."""
    if layout.max_line_width is None or layout.max_line_count is None:
        most = layout.max_words_per_line or _UNLIMITED
        return [words[first : first + most] for words in timed for first in range(0, len(words), most)]
    words = list(chain.from_iterable(timed))
    pauses = [i for i in range(1, len(words)) if words[i].start - words[i - 1].start > LONG_PAUSE]
    return [words[first:after] for first, after in pairwise([0, *pauses, len(words)])]


def _filled(stretch: list[Word], layout: Layout) -> list[list[Word]]:
    """The words of each cue, with the line breaks before them; a word wider than a line has one to itself."""
    width = layout.max_line_width or _UNLIMITED
    cues, width_used, lines_used = [], 0, 0
    for word in stretch:
        text = word.text
        if width_used and width_used + len(text) <= width:
            width_used += len(text)
        else:
            text = text.strip()
            if not cues or lines_used == layout.max_line_count:
                cues.append([])
                lines_used = 1
            elif width_used:  # else the line holds nothing yet
                lines_used += 1
                text = "\n" + text
            width_used = len(text.strip())
        cues[-1].append(replace(word, text=text))
    return cues


def _plain(words: list[Word]) -> Iterator[_Cue]:
    yield _Cue(words[0].start, words[-1].end, "".join(word.text for word in words))


def _highlighted(words: list[Word]) -> Iterator[_Cue]:
    """The words once for each of them, that one underlined, and as they are in the pauses between."""
    texts = [word.text for word in words]
    now = words[0].start
    for index, word in enumerate(words):
        if _milliseconds(now) != _milliseconds(word.start):
            yield _Cue(now, word.start, "".join(texts))
        yield _Cue(word.start, word.end, "".join([*texts[:index], _underlined(word.text), *texts[index + 1 :]]))
        now = word.end


def _underlined(text: str) -> str:
    """A word with its tags; the space before it and a line break after it stay outside, and one that spans lines has none."""
    body = text.lstrip()
    line, line_break, more = body.partition("\n")
    return text if more else f"{text.removesuffix(body)}<u>{line}</u>{line_break}"


def _timed(cue: _Cue, hours: bool, decimal_mark: str) -> str:
    start, end = (clock(seconds, hours, decimal_mark) for seconds in (cue.start, cue.end))
    return f"{start} --> {end}\n{cue.text}\n\n"


def _row(segment: Segment) -> str:
    text = segment.text.strip().replace("\t", " ")
    return f"{_milliseconds(segment.start)}\t{_milliseconds(segment.end)}\t{text}\n"


def _record(segment: Segment) -> dict:
    record = {"id": segment.id, "seek": segment.seek} | vars(segment)  # officially, seek stands second
    del record["words"]
    if segment.words is not None:
        record["words"] = [
            {"word": word.text, "start": word.start, "end": word.end, "probability": word.probability}
            for word in segment.words
        ]
    return record


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
