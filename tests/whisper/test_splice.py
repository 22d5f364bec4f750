"""New sentences from pieces of old ones."""

import random

import numpy as np
import pytest

from almanac.whisper.audio import SAMPLE_RATE
from almanac.whisper.speak import PAUSE, Voice, speak
from almanac.whisper.splice import Reader

VOICE = Voice("de+f2")
READ = (
    "Die Mutter des Propheten hieß Amina.",
    "Ein Ausflug zu Pferde wird als Ausritt bezeichnet.",
    "Er hat im Ort ein Haus.",
)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader([speak(text, VOICE) for text in READ], VOICE)


def test_sounds_fill_a_sentence():
    said = speak("Die Mutter, des Propheten hieß Amina.", VOICE)
    names = [name for name, *_ in said.sounds]
    assert names[0] == names[-1] == PAUSE and names.count(PAUSE) == 3  # the comma
    assert said.sounds[0][1] == 0 and said.sounds[-1][2] == pytest.approx(len(said.samples) / SAMPLE_RATE, abs=1e-3)
    assert all(before[2] == after[1] for before, after in zip(said.sounds, said.sounds[1:], strict=False))
    starts = {start for _, start, _ in said.sounds}
    assert all(start in starts for _, start, _ in said.words)


@pytest.mark.parametrize("index", range(len(READ)))
def test_what_was_read_comes_back(reader, index):
    """The longest piece that fits is all of it, but for half the pauses around it."""
    known, said = reader.readings[index], reader.say(READ[index], random.Random(0))
    cut = known.sounds[0][2] / 2
    whole = known.samples[round(cut * SAMPLE_RATE) :][: len(said.samples)]
    assert np.abs(said.samples - whole)[100:-100].max() < 1e-6
    for (word, *span), (same, *own) in zip(known.words, said.words, strict=True):
        assert word == same and np.allclose(np.array(span) - cut, own, atol=0.05)


def test_new_words_are_put_together(reader):
    """`Mutter` and `Haus` are of two sentences; where words are said to be, somebody speaks."""
    said = reader.say("Die Mutter des Propheten hat im Ort ein Haus.", random.Random(0))
    assert " ".join(word for word, *_ in said.words) == "Die Mutter des Propheten hat im Ort ein Haus."
    edges = [edge for _, *span in said.words for edge in span]
    assert edges == sorted(edges) and edges[-1] <= len(said.samples) / SAMPLE_RATE
    for _, start, end in said.words:
        assert said.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)].std() > 0.01


def test_sounds_that_were_never_read_are_not_said(reader):
    assert reader.say("Zwölf Boxkämpfer jagen Viktor.", random.Random(0)) is None
