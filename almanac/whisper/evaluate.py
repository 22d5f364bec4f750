"""How well a model hears: errors in words and letters on each set, language identification, translation, no speech where there is none,
and when words were said (paper §3). The figure of robustness, which compares whole families of models, is `robustness`."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.whisper import audio, data, manifest, noise, normalise
from almanac.whisper.audio import Samples
from almanac.whisper.decoding import Options, detect_language
from almanac.whisper.noise import Surroundings
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.speak import TimedWord, speak
from almanac.whisper.tokenizer import Task
from almanac.whisper.train import HELD_OUT_NOISE
from almanac.whisper.transcribe import Settings, transcribe

NO_SPEECH = ("", "zxx")
"""Languages of recordings in which nothing is said."""
_VOICES = tuple(data.HELD_OUT_VARIANTS)


@dataclass(frozen=True)
class Clip:
    """A recording with what is said in it."""

    read: Callable[[], Samples]
    """Its sound."""
    language: str
    text: str
    set: str
    task: Task = "transcribe"
    words: list[TimedWord] = field(default_factory=list)
    """When each word is said, s, where that is known."""


@dataclass(frozen=True)
class Heard:
    """What a model made of it."""

    clip: Clip
    text: str
    detected: str
    """Language; empty for a model that knows only English."""
    words: list[TimedWord]


def of_list(path: Path) -> list[Clip]:
    """The recordings of a list; their set is the list's `source`, or else their folder."""
    groups = manifest.by_source(manifest.read(path))
    return [
        Clip(partial(audio.read, entry.path), entry.language, entry.text, name, entry.task)
        for name, group in groups.items()
        for entry in group
    ]


def held_out(name: str) -> list[Clip]:
    """The part of a development set that is kept for testing."""
    return [
        Clip(partial(audio.read, entry.path), entry.language, entry.text, name) for entry in data.test_entries(name)
    ]


def real_clips() -> list[Clip]:
    """The development data's clips of other people in the languages that we train."""
    folder = hub.data("speech")
    entries = [entry for entry in manifest.read(folder / "manifest.tsv") if entry.path.parent.name == "clips"]
    return [
        Clip(partial(audio.read, entry.path), entry.language, entry.text, "clips")
        for entry in entries
        if entry.text and entry.language in data.ACCENTS
    ]


def spoken(language: str, count: int, task: Task = "transcribe", seed: int = 1000) -> list[Clip]:
    """Phrases of the closed domain by voices that training does not hear."""
    recipe = data.Recipe(
        (), count, 0, 0, 0, languages=(language,), voices=_VOICES, flite=False, seed=seed + sum(map(ord, language))
    )
    name = f"{language} to English" if task == "translate" else f"spoken {language}"
    found = []
    for line in data.phrase_lines(recipe):
        said = speak(line.text, line.voice)
        text, words = (line.english, []) if task == "translate" else (line.text, said.words)
        found.append(Clip(partial(_same, said.samples), language, text, name, task, words))
    return found


def without_speech(count: int, seconds: float, seed: int = 0) -> list[Clip]:
    """Noise, hum, tones and silence; half of it recorded noise that training does not hear, where it is at hand."""
    noises = ()
    if hub.has_data("speech"):
        folder = hub.data("speech") / "noise"
        noises = [audio.read(path) for path in sorted(folder.glob("*")) if path.stem in HELD_OUT_NOISE]
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size = round(seconds * audio.SAMPLE_RATE)
        known = noises and draw.random() < 0.5
        samples = noise.recorded(noises, size, draw) if known else noise.background(size, Surroundings(), draw)
        level = 10 ** draw.uniform(-4, 0) if draw.random() > 0.1 else 0.0
        samples = (samples / (np.abs(samples).max() + 1e-9) * level).astype(np.float32)
        found.append(Clip(partial(_same, samples), "zxx", "", "no speech"))
    return found


def _same(samples: Samples) -> Samples:
    return samples


def listen(recogniser: Recogniser, clips: Sequence[Clip], options: Options, words: bool = False) -> Iterator[Heard]:
    """Transcribe clips, each told its language, and detect the language on its own.

    Args:
        recogniser: the model.
        clips: recordings.
        options: how to decode; language and task are the clip's.
        words: whether to time words.
    """
    for clip in clips:
        samples = clip.read()
        language = clip.language if clip.language in recogniser.tokenizer.languages else None
        settings = Settings(replace(options, language=language, task=clip.task), words=words)
        said = transcribe(recogniser, samples, settings)
        timed = [(word.text.strip(), word.start, word.end) for segment in said.segments for word in segment.words or []]
        yield Heard(clip, said.text.strip(), detected(recogniser, samples), timed)


def detected(recogniser: Recogniser, samples: Samples) -> str:
    """The likeliest language of the first window."""
    if not recogniser.tokenizer.multilingual:
        return ""
    mel = audio.log_mel(torch.from_numpy(samples), recogniser.model.dims.n_mels)
    found = detect_language(recogniser.model, recogniser.tokenizer, recogniser.encode(mel))[0]
    return max(found, key=found.__getitem__)


def score(heard: Sequence[Heard]) -> dict[str, Any]:
    """Errors over clips, those of words and letters after normalising both sides.

    Returns:
        `n`; `wer` and `cer` of what has a transcript; `lid_accuracy` of speech; `emitted`: the share of clips without speech of which
        text was made; `bleu` of translations. What does not apply is left out.
    """
    import jiwer
    import sacrebleu

    figures: dict[str, Any] = {"n": len(heard)}
    transcribed = [one for one in heard if one.clip.text and one.clip.task == "transcribe"]
    pairs = [(_normal(one.clip.text, one), _normal(one.text, one)) for one in transcribed]
    pairs = [(truth, said) for truth, said in pairs if truth.strip()]
    if pairs:
        truths, said = [truth for truth, _ in pairs], [said for _, said in pairs]
        figures["wer"], figures["cer"] = round(jiwer.wer(truths, said), 4), round(jiwer.cer(truths, said), 4)
    spoken = [one for one in heard if one.clip.language not in (*NO_SPEECH, "mul") and one.detected]
    if spoken:
        figures["lid_accuracy"] = round(np.mean([one.detected == one.clip.language for one in spoken]).item(), 4)
    silent = [one for one in heard if one.clip.language in NO_SPEECH]
    if silent:
        figures["emitted"] = round(np.mean([bool(one.text) for one in silent]).item(), 4)
    translated = [one for one in heard if one.clip.task == "translate"]
    if translated:
        said, truths = [one.text for one in translated], [one.clip.text for one in translated]
        figures["bleu"] = round(sacrebleu.corpus_bleu(said, [truths]).score, 2)
    return figures


def _normal(text: str, one: Heard) -> str:
    return normalise.for_language(text, one.clip.language or "en").strip()


def summary(heard: Sequence[Heard]) -> dict[str, Any]:
    """`score` of all, and `by_set` of each set."""
    sets: dict[str, list[Heard]] = {}
    for one in heard:
        sets.setdefault(one.clip.set, []).append(one)
    overall = {"n": len(heard), "wer": None, "cer": None, "lid_accuracy": None} | score(heard)
    return {**overall, "by_set": {name: score(group) for name, group in sets.items()}}


def word_errors(heard: Sequence[Heard]) -> Float[np.ndarray, " edges"]:
    """How far the starts and ends of words are from the truth, s, of the words that were heard right."""
    import jiwer

    errors = []
    for one in heard:
        truth, said = [_bare(word) for word, *_ in one.clip.words], [_bare(word) for word, *_ in one.words]
        if not all(truth) or not all(said) or not truth or not said:
            continue
        aligned = jiwer.process_words(" ".join(truth), " ".join(said)).alignments[0]
        for chunk in aligned:
            if chunk.type == "equal" and len(truth) == sum(map(len, map(str.split, truth))):
                span = zip(
                    one.clip.words[chunk.ref_start_idx : chunk.ref_end_idx],
                    one.words[chunk.hyp_start_idx : chunk.hyp_end_idx],
                    strict=True,
                )
                errors += [abs(a - b) for known, found in span for a, b in zip(known[1:], found[1:], strict=True)]
    return np.array(errors)


def _bare(word: str) -> str:
    return normalise.basic(word).strip()


def table(
    recogniser: Recogniser, name: str, count: int, options: Options, advance: Callable[..., None]
) -> list[dict[str, Any]]:
    """All rows of a model: the held-out parts of the real sets that are at hand, real clips, each language by unheard voices, translation,
    windows without speech, and times of words.

    Args:
        recogniser: the model.
        name: what to call it in the rows.
        count: clips a language by machines, and at most so many of a real set.
        options: how to decode.
        advance: told of each clip.
    """
    languages = [language for language in data.ACCENTS if language in recogniser.tokenizer.languages]
    sets = [spoken(language, count) for language in languages]
    sets += [spoken(language, count, "translate") for language in languages if language != "en"]
    sets.append(without_speech(200, recogniser.model.dims.seconds))
    if hub.has_data("speech"):
        sets += [_some(held_out(name), count) for name in data.REAL] + [real_clips()]
    rows = []
    for clips in sets:
        heard = []
        for one in listen(recogniser, clips, options, words=bool(clips and clips[0].words)):
            heard.append(one)
            advance()
        row = {"model": name, "set": clips[0].set, **score(heard)}
        errors = word_errors(heard)
        if len(errors):
            row["word_time_median_ms"] = round(1000 * float(np.median(errors)), 1)
        rows.append(row)
    return rows


def _some(clips: list[Clip], count: int) -> list[Clip]:
    return random.Random(0).sample(clips, min(count, len(clips)))


def clips_in_table(recogniser: Recogniser, count: int) -> int:
    """How many clips `table` listens to, at most."""
    languages = sum(language in recogniser.tokenizer.languages for language in data.ACCENTS)
    real = 3 * count + len(real_clips()) if hub.has_data("speech") else 0
    if not languages:
        raise UserError("the model knows none of the languages that are tested", f"they are {', '.join(data.ACCENTS)}")
    return languages * count + max(0, languages - 1) * count + 200 + real
