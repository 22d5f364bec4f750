"""What the heuristics look at: a recording of the list, what is known of its sound, and what a model heard in it; and what they say
of it."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from almanac.whisper.clean.limits import Limits
from almanac.whisper.languages import WITHOUT_SPACES
from almanac.whisper.manifest import Entry

_LETTERS_PER_WORD = 2
"""Of languages without spaces: letters that count as a word."""


@dataclass(frozen=True)
class Sound:
    """What is known of a recording's sound."""

    seconds: float
    peak: float
    """Its loudest sample, dB of full scale."""
    damage: str = ""
    """Why it can't be read."""


@dataclass(frozen=True)
class Heard:
    """What a model heard in a recording."""

    language: str
    """The likeliest one."""
    probability: float
    """Of that language."""
    text: str
    no_speech: float
    """Probability that nothing is said."""


@dataclass
class Row:
    """A recording, and what was said of it so far."""

    entry: Entry
    """As it is after the changes so far."""
    sound: Sound
    heard: Heard | None = None
    dropped: dict[str, str] = field(default_factory=dict)
    """Heuristic → why it is dropped."""
    changed: dict[str, str] = field(default_factory=dict)
    """Heuristic → how it was changed."""

    @property
    def source(self) -> str:
        """Where it is from: as the list says, else its folder."""
        return self.entry.source or self.entry.path.parent.name

    @property
    def written(self) -> str:
        """The language that its text should be in."""
        return "en" if self.entry.task == "translate" else self.entry.language

    @property
    def words(self) -> int:
        """Length of its text."""
        if self.written in WITHOUT_SPACES:
            return letters(self.entry.text) // _LETTERS_PER_WORD
        return len(self.entry.text.split())


@dataclass(frozen=True)
class Verdict:
    """What a heuristic has against a recording."""

    reason: str
    entry: Entry | None = None
    """The recording without its fault; None: it is dropped."""


Judge = Callable[[Sequence[Row], Limits], Iterator[tuple[Row, Verdict]]]
"""A heuristic: the rows that it has something against."""


def each(judge: Callable[[Row, Limits], Verdict | None]) -> Judge:
    """A heuristic that looks at one recording at a time, as one of a list."""

    def over(rows: Sequence[Row], limits: Limits) -> Iterator[tuple[Row, Verdict]]:
        for row in rows:
            verdict = judge(row, limits)
            if verdict is not None:
                yield row, verdict

    return over


def by_source(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Recordings by where they are from."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.source, []).append(row)
    return found


def letters(text: str) -> int:
    """How many letters and digits a text has."""
    return sum(unicodedata.category(character)[0] in "LN" for character in text)
