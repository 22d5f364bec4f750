"""Machines' speech: the sound is there, and the times of its words are those of the sound."""

import os
import signal

import numpy as np
import pytest

from almanac.runtime.errors import UserError
from almanac.whisper import data, phrases, speak
from almanac.whisper.audio import SAMPLE_RATE
from almanac.whisper.speak import Voice


@pytest.mark.parametrize("language", data.ACCENTS)
def test_words_cover_the_text_in_order(language):
    import random

    draw = random.Random(1)
    for _ in range(10):
        text = phrases.phrase(draw)[language]
        said = speak.speak(text, Voice(data.ACCENTS[language][0]))
        assert " ".join(word for word, *_ in said.words).split() == text.split()
        edges = [edge for _, *times in said.words for edge in times]
        assert edges == sorted(edges) and edges[-1] <= len(said.samples) / SAMPLE_RATE + 0.02


def test_pauses_lie_between_words():
    said = speak.speak("one, two, three, four", Voice("en-us", word_gap=60))
    loud = np.abs(said.samples).max()
    for (_, _, end), (_, start, _) in zip(said.words, said.words[1:], strict=False):
        assert start - end > 0.2
        pause = said.samples[round((end + 0.1) * SAMPLE_RATE) : round((start - 0.02) * SAMPLE_RATE)]
        assert np.abs(pause).max() < 0.05 * loud
    for _, start, end in said.words:
        word = said.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        assert np.abs(word).max() > 0.2 * loud


def test_a_faster_voice_is_shorter():
    slow, fast = (speak.speak("a glass of water", Voice("en-us", rate)).samples for rate in (100, 250))
    assert len(fast) < 0.7 * len(slow)


def test_unknown_voices_are_named():
    with pytest.raises(UserError, match="atlantean"):
        speak.speak("nuqneH", Voice("atlantean"))


def test_every_voice_of_the_recipe_exists():
    for accents in data.ACCENTS.values():
        for name in accents:
            assert len(speak.speak("a", Voice(name)).samples)
    for variant in (*data.VARIANTS, *data.HELD_OUT_VARIANTS):
        assert len(speak.speak("a", Voice(f"en-us+{variant}")).samples), variant
    assert not set(data.VARIANTS) & set(data.HELD_OUT_VARIANTS)


@pytest.mark.skipif(not speak.has_flite(), reason="flite is not installed")
def test_flite_speaks():
    said = speak.speak("three oranges", Voice("flite:slt"))
    assert 0.5 < len(said.samples) / SAMPLE_RATE < 3 and np.abs(said.samples).max() > 0.05
    with pytest.raises(UserError, match="nobody"):
        speak.speak("three", Voice("flite:nobody"))


def test_phrases_mean_the_same_everywhere():
    """Numbers say the same number in every language (as num2words counts them back)."""
    from num2words import num2words

    for value in (0, 7, 12, 21, 99, 100, 342, 1001, 9999):
        for language in phrases.LANGUAGES:
            assert phrases.number(value, language) == str(num2words(value, lang=language)).replace("-", " ").replace(
                ",", ""
            )


def test_phrases_have_a_column_for_each_language():
    import random

    draw = random.Random(0)
    for _ in range(500):
        phrase = phrases.phrase(draw)
        assert tuple(phrase) == phrases.LANGUAGES
        assert all(text == " ".join(text.split()) and "{" not in text for text in phrase.values())


def _kills_itself_at_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 2 * number


def test_lines_at_which_the_engine_crashes_are_left_out(capfd):
    found = list(data.surviving(_kills_itself_at_seven, range(12), chunk=3))
    assert found == [2 * number for number in range(12) if number != 7]
    assert "a process died at 7" in capfd.readouterr().err
