"""Speech to train on: recordings from lists, and speech made by machines in six languages, all in one `Corpus` on disk. The development
sets are split as the card says: one digit speaker and the last tenth of the Dutch and German sentences are kept for testing, and so
are some of the machines' voices. How windows are made of it is left to `sampler`."""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from almanac.runtime import console, hub
from almanac.runtime.checkpoint import write_atomic
from almanac.runtime.errors import UserError
from almanac.whisper import alignment, audio, augment, manifest, splice
from almanac.whisper import phrases as grammar
from almanac.whisper.audio import SAMPLE_RATE, Samples
from almanac.whisper.speak import FLITE_VOICES, TimedWord, Voice, has_flite, speak

Item = TypeVar("Item")
Result = TypeVar("Result")

HELD_OUT_SPEAKER = "jackson"
"""Of the spoken digits."""
FAMILIAR = 5
"""Of every digit and speaker, the recordings before this one are for testing (the set's own split)."""
HELD_OUT_TENTH = 0.9
"""Of the sentences by one speaker, those from here on are kept."""
REAL = ("fsdd", "nathalie_nl", "kerstin_de")
MADE = ("phrases", "words", "digits", "spliced")
"""Sources of speech that nobody said."""
DIGITS = ("fsdd", "digits")
"""Sources of digits one by one, many by each speaker."""

ACCENTS = {
    "en": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan"),
    "de": ("de",),
    "nl": ("nl",),
    "es": ("es", "es-419"),
    "fr": ("fr", "fr-be", "fr-ch"),
    "it": ("it",),
}
"""espeak-ng's languages."""
VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m7",
    "f1",
    "f2",
    "f3",
    "f5",
    "klatt",
    "klatt2",
    "klatt4",
    "adam",
    "Alex",
    "Alicia",
    "Andy",
    "Annie",
    "anika",
    "antonio",
    "belinda",
    "benjamin",
    "boris",
    "caleb",
    "david",
    "Denis",
    "Diogo",
    "ed",
    "edward",
    "Gene",
    "grandma",
    "grandpa",
    "Henrique",
    "ian",
    "iven",
    "iven2",
    "Jacky",
    "john",
    "kaukovalta",
    "Lee",
    "linda",
    "Marco",
    "Mario",
    "max",
    "michel",
    "miguel",
    "Michael",
    "Mike",
    "norbert",
    "pablo",
    "paul",
    "quincy",
    "Reed",
    "rob",
    "robert",
    "sandro",
    "shelby",
    "steph",
    "steph3",
    "Storm",
    "travis",
    "Tweaky",
    "victor",
    "zac",
)
"""Voices of espeak-ng that training hears."""
HELD_OUT_VARIANTS = ("m6", "m8", "f4", "klatt3", "Hugo", "steph2", "pedro", "Andrea", "aunty", "edward2")
"""Voices that it does not."""
HELD_OUT_FLITE = "rms"
_READER = (100, 1000)
"""Sentences from which a reader's voice is put together, at least and at most."""
_TRIES = 10
"""Strings of words that are tried for each that a reader shall say; of two readers' common words, two thirds could be said."""
_LONGEST_ALIGNED = 30
"""s."""
_WORTH_PROCESSES = 2000
"""Lines or recordings that take longer than processes to start."""


@dataclass(frozen=True)
class Utterance:
    """A stretch of speech in a corpus."""

    start: int
    """Its first sample there."""
    length: int
    """Samples."""
    language: str
    text: str
    source: str
    """The set that it is from."""
    speaker: str
    english: str = ""
    """Its translation, where there is one."""
    words: list[TimedWord] = field(default_factory=list)
    """The words with start and end, s; empty where they are not known."""


@dataclass(frozen=True)
class Corpus:
    """Utterances, and their sound as 16 kHz int16 in one file that is read as needed."""

    utterances: list[Utterance]
    samples: np.ndarray

    def sound(self, utterance: Utterance) -> Samples:
        """Its samples, in [−1, 1]."""
        stored = self.samples[utterance.start : utterance.start + utterance.length]
        return stored.astype(np.float32) / 32768

    @property
    def hours(self) -> float:
        """Of speech."""
        return sum(utterance.length for utterance in self.utterances) / SAMPLE_RATE / 3600


@dataclass(frozen=True)
class Recipe:
    """What a corpus is made of."""

    real: tuple[str, ...] = REAL
    """Development sets, or paths of lists (`manifest`)."""
    phrases: int = 4000
    """Phrases of the closed domain a language."""
    open: int = 3000
    """Strings of common words, and sentences of the real sets, spoken by machines, a language; Dutch and German get twice as many."""
    digits: int = 400
    """Voices that say the ten English digits one by one, each always at the same speed and pitch."""
    spliced: int = 3000
    """Strings of common words in the voice of each reader of a hundred sentences or more, put together from their sounds (`splice`)."""
    languages: tuple[str, ...] = grammar.LANGUAGES
    voices: tuple[str, ...] = VARIANTS
    """espeak-ng's variants; an empty string is the plain voice."""
    flite: bool = True
    """Whether flite's voices speak English too."""
    seed: int = 0
    aligned: bool = True
    """Whether the words of recordings are timed (`alignment`): half a second for a minute of short sentences, more for long ones."""


def prepare(recipe: Recipe) -> Corpus:
    """A corpus, made the first time it is asked for, and kept in the cache."""
    key = hashlib.sha256(json.dumps([asdict(recipe), has_flite()], sort_keys=True).encode()).hexdigest()[:16]
    folder = hub.cache() / "whisper-corpus" / key
    if not (folder / "index.json").is_file():
        _make(recipe, folder)
    index = json.loads((folder / "index.json").read_text())
    samples = np.memmap(folder / "speech.i16", np.int16, "r")
    known = [Utterance(**{**one, "words": [tuple(word) for word in one.get("words", [])]}) for one in index]
    return Corpus(known, samples)


@dataclass(frozen=True)
class Line:
    """A text for a machine to say."""

    text: str
    language: str
    source: str
    voice: Voice
    english: str = ""


def _make(recipe: Recipe, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    real = [(name, entry) for name in recipe.real for entry in train_entries(name)]
    lines = [*phrase_lines(recipe), *_word_lines(recipe, [entry for _, entry in real]), *_digit_lines(recipe)]
    readers = _readers(real) if recipe.spliced else []
    index, start = [], 0
    with (
        (folder / "speech.i16").open("wb") as file,
        console.progress(
            "collecting speech", len(real) + len(lines) + recipe.spliced * len(readers), "utterances"
        ) as advance,
    ):
        recorded, spoken = _each(partial(_recorded, recipe.aligned), real), _each(_spoken, lines)
        spliced = itertools.chain.from_iterable(_spliced(reader, recipe) for reader in readers)
        for samples, facts in itertools.chain(recorded, spoken, spliced):
            file.write(samples.tobytes())
            index.append({"start": start, "length": len(samples), **facts})
            start += len(samples)
            advance()
    write_atomic(folder / "index.json", lambda out: out.write(json.dumps(index).encode()))


def _each(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """work(item) of each, of many by as many processes as there are cores."""
    return surviving(work, items) if len(items) >= _WORTH_PROCESSES else map(work, items)


def surviving(work: Callable[[Item], Result], items: Sequence[Item], chunk: int = 100) -> Iterator[Result]:
    """work(item) of each item in order, by as many processes as there are cores, without the items at which a process dies: espeak-ng
    crashes at one line of 70,000.

    Args:
        work: a function that can be pickled.
        items: what it is given.
        chunk: items that a process takes at once.
    """
    done, alone = 0, False
    while done < len(items):
        own = items[done : done + chunk] if alone else items[done:]
        try:
            with ProcessPoolExecutor(1 if alone else os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
                for found in pool.map(work, own, chunksize=1 if alone else chunk):
                    yield found
                    done += 1
        except BrokenProcessPool:
            if alone:
                console.log(f"a process died at {items[done]}, which is left out")
                done += 1
            alone = not alone
        else:
            alone = False


def _recorded(aligned: bool, named: tuple[str, manifest.Entry]) -> tuple[np.ndarray, dict[str, Any]]:
    name, entry = named
    translated = entry.task == "translate"
    samples = trimmed(audio.read(entry.path))
    facts: dict[str, Any] = {
        "language": entry.language,
        "text": "" if translated else entry.text,
        "english": entry.text if translated else "",
        "source": Path(name).stem,
        "speaker": entry.speaker,
        "words": _rounded(_aligned(samples, entry.text, entry.language)) if aligned and not translated else [],
    }
    return _stored(samples), facts


def _readers(real: Sequence[tuple[str, manifest.Entry]]) -> list[list[manifest.Entry]]:
    """Sentences by whoever reads enough of them, in a language that espeak-ng speaks."""
    read: dict[tuple[str, str, str], list[manifest.Entry]] = {}
    for name, entry in real:
        if entry.speaker and " " in entry.text and entry.language in ACCENTS and entry.task == "transcribe":
            read.setdefault((name, entry.speaker, entry.language), []).append(entry)
    least, most = _READER
    return [sentences[:most] for sentences in read.values() if len(sentences) >= least]


def _spliced(sentences: Sequence[manifest.Entry], recipe: Recipe) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """New sentences by a reader."""
    language = sentences[0].language
    readings = [alignment.align(trimmed(audio.read(one.path)), one.text, _guides(language)) for one in sentences]
    reader = splice.Reader(readings, _guides(language)[0])
    draw = random.Random(recipe.seed + 3)
    texts = (grammar.open_sentence(draw, language) for _ in range(_TRIES * recipe.spliced))
    sayable = ((text, said) for text in texts if (said := reader.say(text, draw)))
    for text, said in itertools.islice(sayable, recipe.spliced):
        facts = {"language": language, "text": text, "english": "", "source": "spliced"}
        yield _stored(said.samples), {**facts, "speaker": sentences[0].speaker, "words": _rounded(said.words)}


def _aligned(samples: Samples, text: str, language: str) -> list[TimedWord]:
    """When the words of a sentence are said, if espeak-ng speaks the language."""
    if " " not in text or language not in ACCENTS or len(samples) > _LONGEST_ALIGNED * SAMPLE_RATE:
        return []
    return alignment.align(samples, text, _guides(language)).words


def _guides(language: str) -> list[Voice]:
    """The voices by which recordings are aligned."""
    return [Voice(f"{ACCENTS[language][0]}+{variant}") for variant in ("m3", "f2")]


def _rounded(words: Sequence[TimedWord]) -> list[TimedWord]:
    return [(word, round(start, 3), round(end, 3)) for word, start, end in words]


def _spoken(line: Line) -> tuple[np.ndarray, dict[str, Any]]:
    said = speak(line.text, line.voice)
    samples, words = said.samples, said.words
    if line.source in DIGITS:  # as the recorded ones are: at 8 kHz, one word, nothing around it
        samples, words = trimmed(augment.narrow(samples)), []
    facts = {
        "language": line.language,
        "text": line.text,
        "english": line.english,
        "source": line.source,
        "speaker": " ".join(map(str, astuple(line.voice))),
        "words": _rounded(words or _aligned(samples, line.text, line.language)),
    }
    return _stored(samples), facts


def _stored(samples: Samples) -> np.ndarray:
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16)


def phrase_lines(recipe: Recipe) -> Iterator[Line]:
    """Phrases of the closed domain with their translations, for the recipe's voices to say."""
    draw = random.Random(recipe.seed)
    for language in recipe.languages:
        for _ in range(recipe.phrases):
            phrase = grammar.phrase(draw)
            english = "" if language == "en" else phrase["en"]
            yield Line(phrase[language], language, "phrases", _voice(language, recipe, draw), english)


def _word_lines(recipe: Recipe, real: Sequence[manifest.Entry]) -> Iterator[Line]:
    draw = random.Random(recipe.seed + 1)
    for language in recipe.languages:
        sentences = [entry.text for entry in real if entry.language == language and " " in entry.text]
        for _ in range(recipe.open * (2 if language in ("de", "nl") else 1)):
            own = sentences and draw.random() < 0.4
            text = draw.choice(sentences) if own else grammar.open_sentence(draw, language)
            yield Line(text, language, "words", _voice(language, recipe, draw))


def _digit_lines(recipe: Recipe) -> Iterator[Line]:
    draw = random.Random(recipe.seed + 2)
    for _ in range(recipe.digits if "en" in recipe.languages else 0):
        voice = _voice("en", recipe, draw)
        for digit in range(10):
            yield Line(grammar.number(digit, "en"), "en", "digits", voice)


def _voice(language: str, recipe: Recipe, draw: random.Random) -> Voice:
    if language == "en" and recipe.flite and has_flite() and draw.random() < 0.15:
        return Voice(f"flite:{draw.choice([name for name in FLITE_VOICES if name != HELD_OUT_FLITE])}")
    variant = draw.choice(recipe.voices)
    name = draw.choice(ACCENTS[language]) + (f"+{variant}" if variant else "")
    return Voice(name, draw.randint(120, 230), draw.randint(15, 85), draw.randint(20, 80), draw.choice((0, 0, 0, 2, 5)))


def trimmed(samples: Samples, margin: float = 0.06) -> Float[np.ndarray, " kept"]:
    """Without the silence before and after, but a margin, s: what is 35 dB below the loudest 20 ms is silence."""
    size = SAMPLE_RATE // 50
    frames = np.resize(samples, (max(1, len(samples) // size), size))
    power = np.square(frames).mean(1)
    loud = np.flatnonzero(power > power.max() * 10**-3.5)
    if not len(loud):
        return samples
    edge = int(margin * SAMPLE_RATE)
    return samples[max(0, loud[0] * size - edge) : (loud[-1] + 1) * size + edge]


def entries(name: str) -> list[manifest.Entry]:
    """All recordings of a development set (`fsdd`, `nathalie_nl`, `kerstin_de`), or of a list.

    Raises:
        UserError: it is not at hand.
    """
    if name not in REAL:
        return manifest.read(Path(name))
    found = manifest.read(hub.data("speech") / "manifest.tsv")
    return [entry for entry in found if name in entry.path.parts]


def train_entries(name: str) -> list[manifest.Entry]:
    """The part of a set that is trained on; all of a user's list."""
    found = entries(name)
    if name == "fsdd":
        return [entry for entry in found if entry.speaker != HELD_OUT_SPEAKER and _take(entry) >= FAMILIAR]
    return found[: round(len(found) * HELD_OUT_TENTH)] if name in REAL else found


def familiar_entries() -> list[manifest.Entry]:
    """Digits by the speakers that are trained on, recordings that are not."""
    return [entry for entry in entries("fsdd") if entry.speaker != HELD_OUT_SPEAKER and _take(entry) < FAMILIAR]


def _take(entry: manifest.Entry) -> int:
    """The number at the end of `7_jackson_12`."""
    return int(entry.id.rpartition("_")[2])


def test_entries(name: str) -> list[manifest.Entry]:
    """The part that is kept for testing: a digit speaker whom training never heard, the last sentences of the others.

    Raises:
        UserError: all of it is trained on.
    """
    if name not in REAL:
        raise UserError(f"'{name}' has no part that is kept for testing", f"one of: {', '.join(REAL)}")
    found = entries(name)
    if name == "fsdd":
        return [entry for entry in found if entry.speaker == HELD_OUT_SPEAKER]
    return found[round(len(found) * HELD_OUT_TENTH) :]
