"""What a first model hears, against what the texts say (paper §2.1): sources by their error rate, to be looked at and dropped, and
recordings whose text is of something else or leaves something out."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float

from almanac.whisper import audio, normalise, recogniser
from almanac.whisper.clean.limits import Limits
from almanac.whisper.clean.rows import Heard, Row, Verdict, by_source, letters
from almanac.whisper.decoding import Options, compression_ratio, decode, detect_language
from almanac.whisper.manifest import Entry
from almanac.whisper.recogniser import Recogniser

_BATCH = 8
"""Windows that are decoded together."""
_SILENCE = 0.6
"""Probability of no speech above which a window is taken to be silent (official limit)."""
_SPARE = 10
"""Letters that a model may hear beyond a text, however short that is."""


@lru_cache(maxsize=1)
def load(model: str, device_name: str) -> Recogniser:
    """A model, loaded once in a process."""
    return recogniser.load(model, device_name)


def hear(model: Recogniser, entries: Sequence[Entry], sounds: Sequence[Float[np.ndarray, " _"]]) -> list[Heard]:
    """What a model hears in recordings, greedily and without times.

    Args:
        model: the model. One that knows English only hears English.
        entries: the recordings; each is transcribed in the language that is named for it, if the model knows that.
        sounds: their samples, all not empty. Those longer than a window are heard in equal parts.
    """
    frames = model.model.dims.frames
    windows = []
    for index, samples in enumerate(sounds):
        mel = audio.log_mel(torch.from_numpy(samples), model.model.dims.n_mels)
        windows += [(index, part) for part in mel.tensor_split(-(-mel.shape[-1] // frames), dim=-1)]
    found: list[list[Heard]] = [[] for _ in entries]

    def known(window: tuple[int, torch.Tensor]) -> str:
        named = entries[window[0]].language
        return named if named in model.tokenizer.languages else ""

    for language, same in groupby(sorted(windows, key=known), known):
        alike = list(same)
        for first in range(0, len(alike), _BATCH):
            batch = alike[first : first + _BATCH]
            sound = model.encode(*(part for _, part in batch))
            for (index, _), heard in zip(batch, _decode(model, sound, language), strict=True):
                found[index].append(heard)
    return [_together(parts) for parts in found]


def _decode(model: Recogniser, sound: torch.Tensor, language: str) -> list[Heard]:
    likely = [{"en": 0.0}] * len(sound)  # what a model that knows English only can tell
    if model.tokenizer.multilingual:
        likely = detect_language(model.model, model.tokenizer, sound)
    spoken = [max(probabilities, key=probabilities.__getitem__) for probabilities in likely]
    options = Options(language=language or None, timestamps=False)
    decoded = decode(model.model, model.tokenizer, sound, options)
    return [
        Heard(name, probabilities[name], one.text, one.no_speech_prob)
        for name, probabilities, one in zip(spoken, likely, decoded, strict=True)
    ]


def _together(windows: Sequence[Heard]) -> Heard:
    """One of all windows of a recording: the language that was heard most surely."""
    surest = max(windows, key=lambda heard: heard.probability)
    text = " ".join(heard.text for heard in windows if heard.no_speech <= _SILENCE)
    return Heard(surest.language, surest.probability, text, min(heard.no_speech for heard in windows))


def misheard(row: Row, limits: Limits) -> Verdict | None:
    """A model hears other letters than the text has: the text is of something else, or out of step."""
    if not _comparable(row):
        return None
    wrong, of = errors(row, in_letters=True)
    if not of or wrong <= limits.letter_errors * of:
        return None
    return Verdict(f"{wrong / of:.0%} of its letters are heard otherwise")


def partial(row: Row, limits: Limits) -> Verdict | None:
    """A model hears much more than the text says, or speech where there is no text."""
    heard = row.heard
    if heard is None or row.entry.task == "translate" or compression_ratio(heard.text) > limits.loop_ratio:
        return None
    more, said = letters(heard.text), letters(row.entry.text)
    if not row.entry.text and heard.no_speech > _SILENCE:
        return None
    if more <= limits.partial * said + _SPARE:
        return None
    return Verdict(f"{said} letters are written, {more} heard")


def untrusted(rows: Sequence[Row], limits: Limits) -> Iterator[tuple[Row, Verdict]]:
    """A source whose texts a model hears otherwise on the whole."""
    rates = error_rates(rows)
    for source, texts in by_source(rows).items():
        rate = rates.get(source)
        if rate is not None and len(texts) >= limits.source_rows and rate > limits.source_errors:
            for row in texts:
                yield row, Verdict(f"word error rate of {source} is {rate:.0%}")


def error_rates(rows: Sequence[Row]) -> Mapping[str, float]:
    """Word error rate of each source whose texts can be compared with what a model heard."""
    found = {}
    for source, texts in by_source(rows).items():
        counted = [errors(row, in_letters=False) for row in texts if _comparable(row)]
        words = sum(of for _, of in counted)
        if words:
            found[source] = sum(wrong for wrong, _ in counted) / words
    return found


def errors(row: Row, in_letters: bool) -> tuple[int, int]:
    """How many words or letters of a text are heard otherwise, missed or added, and how many it has; both texts normalised."""
    import jiwer

    assert row.heard is not None
    said, heard = (normalise.for_language(text, row.written).strip() for text in (row.entry.text, row.heard.text))
    if not said:
        return 0, 0
    found = (jiwer.process_characters if in_letters else jiwer.process_words)(said, heard)
    matched = found.hits + found.substitutions + found.deletions
    return found.substitutions + found.deletions + found.insertions, matched


def _comparable(row: Row) -> bool:
    """Whether a model heard a recording in the language that its text is in."""
    same = row.entry.task == "transcribe" and "language" not in row.changed
    return row.heard is not None and bool(row.entry.text) and same
