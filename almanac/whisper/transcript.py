"""What was said in a recording, as `transcribe` finds it and `subtitles` writes it."""

from dataclasses import dataclass

from almanac.whisper.timing import Word


@dataclass(frozen=True)
class Segment:
    """A stretch of speech."""

    id: int
    """Its place in the transcript, from 0."""
    start: float
    """s."""
    end: float
    """s."""
    text: str
    """With the space before it."""
    tokens: list[int]
    """Those of its text and of its times."""
    temperature: float
    """At which it was decoded."""
    avg_logprob: float
    """Mean log probability of its window's tokens."""
    compression_ratio: float
    """Of its window's text; high where the text repeats itself."""
    no_speech_prob: float
    """That its window holds no speech."""
    seek: int = 0
    """Frame at which its window began."""
    words: list[Word] | None = None
    """None where they were not timed."""


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording."""

    text: str
    """All of it."""
    language: str
    """Its code."""
    segments: list[Segment]
    """In order of time."""
