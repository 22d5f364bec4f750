"""The tour of Whisper: machines speak in six languages, by voices that no training heard, and our model writes down what they say, says
it in English, tells the languages apart, and writes nothing where nothing is said."""

import time
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from almanac.runtime.errors import UserError
from almanac.runtime.report import Section
from almanac.whisper import audio, data, figures, recogniser
from almanac.whisper.audio import Samples
from almanac.whisper.decoding import Options
from almanac.whisper.evaluate import Clip, listen, score, spoken, without_speech
from almanac.whisper.recogniser import Recogniser

_EACH = 3
"""Phrases a language."""


def run(out: Path) -> Section:
    """Run once on real input.

    Args:
        out: folder for the pictures.
    """
    if recogniser.DEFAULT not in recogniser.shipped():
        raise UserError("no weights of whisper ship", "train some with `almanac whisper train`")
    model = recogniser.load(recogniser.DEFAULT)
    rows, heard = [], []
    for language in data.ACCENTS:
        clips = spoken(language, _EACH, seed=7)
        started = time.monotonic()
        found = list(listen(model, clips, Options()))
        seconds = time.monotonic() - started
        length = sum(len(clip.read()) for clip in clips) / audio.SAMPLE_RATE
        heard += found
        for one in found[:1]:
            rows.append(
                {
                    "language": language,
                    "detected": one.detected,
                    "said": one.clip.text,
                    "heard": one.text,
                    "× real time": round(length / seconds, 1),
                }
            )
    figure = figures.draw_multitask(_four_tasks(model), out / "multitask.png")
    sound = out / "german.wav"
    german = next(one.clip for one in heard if one.clip.language == "de")
    wavfile.write(sound, audio.SAMPLE_RATE, (german.read() * 32767).astype(np.int16))
    figures_ = [
        (figure, "Four tasks as one stream of tokens: what the model heard, and what it wrote (the review's picture)"),
        (sound, f"One of the voices: {german.text}"),
    ]
    errors = score(heard)
    sentence = (
        f"{len(heard)} phrases in six languages by unheard voices were written down with {100 * errors['wer']:.0f} % of words wrong, "
        f"and {100 * errors['lid_accuracy']:.0f} % of their languages were told."
    )
    return Section(sentence, figures_, rows)


def _four_tasks(model: Recogniser) -> list[figures.Heard]:
    """English, English from German, French, and noise."""
    english, german, french = (spoken(language, 12, seed=7) for language in ("en", "de", "fr"))
    silent = without_speech(1, 4.0)[0]

    def longest(clips: list[Clip]) -> Samples:
        return figures.whole_seconds(max((clip.read() for clip in clips), key=len), 4.0)

    return [
        figures.hear(model, longest(english), "English, transcribed"),
        figures.hear(model, longest(german), "German, translated into English", "translate"),
        figures.hear(model, longest(french), "French, transcribed"),
        figures.hear(model, silent.read(), "Noise: no speech"),
    ]
