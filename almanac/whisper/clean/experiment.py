"""How well the heuristics find what they look for: a part of a clean list is made dirty in one way after another, by chance, and each
heuristic is asked what it finds of it (recall) and how much of what it finds is dirt (precision). Sentences are judged as they are,
and joined into windows of up to 30 s, as the paper has them."""

import random
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from almanac.runtime import hub
from almanac.whisper import manifest
from almanac.whisper.clean import pipeline
from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Row, Sound
from almanac.whisper.manifest import Entry

SOURCES = ("rhasspy-nathalie", "rhasspy-kerstin", "picovoice-leopard", "picovoice-cheetah", "coqui-ljspeech")
"""Sources of the development data whose texts people wrote, with punctuation and capitals."""
SHARE = 0.25
"""Part of the recordings, or of the sources, that is made dirty."""
_SOURCES = 16
"""Sources of equal size, where sources are made dirty as a whole."""
_PAUSE = 0.3
"""s between sentences that are joined."""

Dirty = Callable[[Row, random.Random, Sequence[Row]], str]
"""A recording's text made dirty; the other recordings are there to borrow from."""


@dataclass(frozen=True)
class Dirt:
    """A way in which lists are dirty."""

    heuristic: str
    """Which one should find it."""
    text: Dirty
    whole_sources: bool = False
    """Whether a source is dirty or clean as a whole."""
    copies: bool = False
    """Whether what is dirty is there in addition to what was clean."""


def entries() -> list[Entry]:
    """The recordings of `SOURCES`.

    Raises:
        UserError: the data are not at hand.
    """
    found = manifest.read(hub.data("speech") / "manifest.tsv")
    return [entry for entry in found if entry.source in SOURCES and entry.text]


def measure(rows: Sequence[Row], limits: Limits, seed: int) -> list[dict[str, Any]]:
    """Precision and recall of the heuristics.

    Args:
        rows: recordings with clean texts, as `pipeline.gather` gives them; where a model heard them, those that need one are
            asked too.
        limits: where lines are drawn.
        seed: of what is made dirty, and how.

    Returns:
        Rows of `unit` (sentences or windows), `dirt`, `heuristic`, `n`, `dirty`, its `precision` (None: it found nothing) and `recall`,
        and the recall of `all` heuristics together. What is changed counts as found if its text is clean again. The first row of
        a unit is the list as it is, where `all` is the part of it that was dropped or changed.
    """
    found: list[dict[str, Any]] = []
    heard = any(row.heard for row in rows)
    for unit, clean in (("sentences", rows), ("windows", windows(rows, limits.seconds))):
        judged = deepcopy(list(clean))
        pipeline.judge(judged, limits, seed=seed)
        objected = sum(bool(row.dropped or row.changed) for row in judged)
        nothing = {"heuristic": None, "n": len(clean), "dirty": 0, "precision": None, "recall": None}
        found.append({"unit": unit, "dirt": "none", **nothing, "all": objected / len(clean)})
        for name, dirt in DIRTS.items():
            if heard or dirt.heuristic not in pipeline.WITH_MODEL:
                found.append({"unit": unit, "dirt": name, **_measured(clean, dirt, seed, limits)})
    return found


def windows(rows: Sequence[Row], seconds: float) -> list[Row]:
    """Successive recordings of the same source and speaker joined into windows of up to so many seconds. What was heard is joined too."""
    joined: list[Row] = []
    for _, same in groupby(rows, lambda row: (row.source, row.entry.speaker, row.entry.language)):
        open_until = -1.0
        for row in same:
            length = open_until + _PAUSE + row.sound.seconds
            if open_until < 0 or length > seconds:
                joined.append(deepcopy(row))
                open_until = row.sound.seconds
                continue
            last, open_until = joined[-1], length
            last.entry = replace(last.entry, text=f"{last.entry.text} {row.entry.text}")
            last.sound = Sound(length, max(last.sound.peak, row.sound.peak))
            if last.heard and row.heard:
                last.heard = replace(last.heard, text=f"{last.heard.text} {row.heard.text}")
    return joined


def _measured(clean: Sequence[Row], dirt: Dirt, seed: int, limits: Limits) -> dict[str, Any]:
    """A row of the table: one kind of dirt."""
    rows, texts = _soiled(clean, dirt, seed)
    borrowed = () if dirt.copies else ("repeated",)  # texts of others are there twice, which would give them away
    pipeline.judge(rows, limits, borrowed, seed=seed)
    dirty = [(row, text) for row, text in zip(rows, texts, strict=True) if text is not None]
    hits = [text for row, text in zip(rows, texts, strict=True) if dirt.heuristic in (*row.dropped, *row.changed)]
    by_it = [dirt.heuristic in row.dropped or _restored(row, text, dirt.heuristic) for row, text in dirty]
    by_any = [bool(row.dropped) or any(_restored(row, text, name) for name in row.changed) for row, text in dirty]
    return {
        "heuristic": dirt.heuristic,
        "n": len(rows),
        "dirty": len(dirty),
        "precision": sum(text is not None for text in hits) / len(hits) if hits else None,
        "recall": sum(by_it) / len(dirty) if dirty else None,
        "all": sum(by_any) / len(dirty) if dirty else None,
    }


def _restored(row: Row, text: str, heuristic: str) -> bool:
    """Whether a heuristic changed a recording, and its text is the clean one again."""
    return heuristic in row.changed and row.entry.text == text


def _soiled(clean: Sequence[Row], dirt: Dirt, seed: int) -> tuple[list[Row], list[str | None]]:
    """Recordings of which a part is dirty; and the clean texts of those, None for the others."""
    draw = random.Random(seed)
    rows = deepcopy(list(clean))
    if dirt.whole_sources:
        for number, row in enumerate(rows):
            row.entry = replace(row.entry, source=str(number * _SOURCES // len(rows)))
        chosen = draw.sample(range(_SOURCES), round(SHARE * _SOURCES))
        picked = [index for index, row in enumerate(rows) if int(row.source) in chosen]
    else:
        picked = draw.sample(range(len(rows)), round(SHARE * len(rows)))
    if dirt.copies:
        rows += [deepcopy(rows[index]) for index in picked]
        picked = range(len(clean), len(rows))
    texts: list[str | None] = [None] * len(rows)
    for index in picked:
        row = rows[index]
        was, text = row.entry.text, dirt.text(row, draw, clean)
        row.entry = replace(row.entry, text=text)
        texts[index] = was if text != was or dirt.whole_sources else None
    return rows, texts


def _lower_starts(text: str) -> str:
    return re.sub(r"(^|[.!?] )(\w)", lambda found: found[1] + found[2].lower(), text)


def _unpunctuated(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s'’-]", "", text).split())


def _spelled(row: Row, draw: random.Random) -> str:
    """With a number in words, as recognisers write it, somewhere."""
    from num2words import num2words

    value = round(10 ** draw.uniform(1.33, 5))
    number = str(num2words(value, lang=row.entry.language)).replace("-", " ").replace(",", "")
    return _inserted(row.entry.text, number, draw)


def _inserted(text: str, what: str, draw: random.Random) -> str:
    words = text.split()
    place = draw.randint(1, len(words))
    return " ".join([*words[:place], what, *words[place:]])


def _other(row: Row, draw: random.Random, rows: Sequence[Row], same: bool) -> str:
    """The text of another recording, of the same language or of another."""
    others = [other for other in rows if (other.entry.language == row.entry.language) is same]
    return draw.choice(others).entry.text if others else row.entry.text


def _retyped(text: str, draw: random.Random) -> str:
    """With a letter left out, without its punctuation."""
    place = draw.randrange(len(text))
    return _unpunctuated(text[:place] + text[place + 1 :])


_NAMES = ("JOHN", "MARY", "DR. SMITH", "Speaker 1", "Interviewer")
_SOUNDS = ("[MUSIC]", "[Applause]", "(laughs)", "(lacht)", "*sighs*", "♪")
_CREDITS = (
    "Subtitles by the Amara.org community",
    "www.example.com",
    "Untertitelung im Auftrag des ZDF",
    "Transcribed by ESO",
)

DIRTS = {
    "upper case": Dirt("case", lambda row, draw, rows: row.entry.text.upper()),
    "lower case": Dirt("case", lambda row, draw, rows: row.entry.text.lower()),
    "no punctuation": Dirt("punctuation", lambda row, draw, rows: _unpunctuated(row.entry.text)),
    "sources without commas": Dirt(
        "punctuation", lambda row, draw, rows: re.sub(r"[,;:]|[?!…](?=$| )|–", "", row.entry.text), True
    ),
    "lower-case sentences": Dirt("capitals", lambda row, draw, rows: _lower_starts(row.entry.text)),
    "sources of lower-case sentences": Dirt("capitals", lambda row, draw, rows: _lower_starts(row.entry.text), True),
    "no spaces": Dirt("spacing", lambda row, draw, rows: re.sub(r"([.,!?]) ", r"\1", row.entry.text)),
    "spelled numbers": Dirt("numbers", lambda row, draw, rows: _spelled(row, draw)),
    "speakers": Dirt(
        "speakers", lambda row, draw, rows: f"{draw.choice(('', '>> ', '- '))}{draw.choice(_NAMES)}: {row.entry.text}"
    ),
    "sounds": Dirt("sounds", lambda row, draw, rows: _inserted(row.entry.text, draw.choice(_SOUNDS), draw)),
    "credits": Dirt("captions", lambda row, draw, rows: f"{row.entry.text} {draw.choice(_CREDITS)}"),
    "loops": Dirt("captions", lambda row, draw, rows: " ".join([row.entry.text] * 8)),
    "wrong language": Dirt("language", lambda row, draw, rows: _other(row, draw, rows, same=False)),
    "duplicates": Dirt("repeated", lambda row, draw, rows: _retyped(row.entry.text, draw), copies=True),
    "misaligned": Dirt("pace", lambda row, draw, rows: _other(row, draw, rows, same=True)),
    "misaligned, with a model": Dirt("misheard", lambda row, draw, rows: _other(row, draw, rows, same=True)),
    "half missing": Dirt("pace", lambda row, draw, rows: " ".join(row.entry.text.split()[: row.words // 2])),
    "half missing, with a model": Dirt(
        "partial", lambda row, draw, rows: " ".join(row.entry.text.split()[: row.words // 2])
    ),
}
"""Ways in which lists are dirty. Speakers, sounds and the rest are of the kinds that real transcripts hold, but not of the very words
that the heuristics know."""
