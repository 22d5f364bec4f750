"""Where words are in recordings whose text is known, by another machine's speech."""

import json

import numpy as np
import pytest

from almanac.runtime import hub
from almanac.whisper import alignment, audio, data
from almanac.whisper.speak import Voice, speak

VOICES = [Voice("nl+m3"), Voice("nl+f2")]


@pytest.mark.parametrize("pause", [0.0, 0.7])
def test_words_of_another_voice_are_found(pause):
    """With another voice, faster, and a pause that the text does not tell of."""
    said = speak("De trein naar Groningen vertrekt vandaag om kwart over zeven.", Voice("nl+klatt3", 210, 30))
    cut = round(said.words[4][1] * audio.SAMPLE_RATE)
    silence = np.zeros(round(pause * audio.SAMPLE_RATE), np.float32)
    samples = np.concatenate((said.samples[:cut], silence, said.samples[cut:]))
    known = [
        (word, start + pause * (index >= 4), end + pause * (index >= 4))
        for index, (word, start, end) in enumerate(said.words)
    ]
    found = alignment.align(samples, "De trein naar Groningen vertrekt vandaag om kwart over zeven.", VOICES).words
    assert [word for word, *_ in found] == [word for word, *_ in known]
    far = [abs(a - b) for one, other in zip(known, found, strict=True) for a, b in zip(one[1:], other[1:], strict=True)]
    assert np.median(far) < 0.04 and max(far) < 0.25 + pause


def test_a_recorded_reader_is_followed(needs_data):
    """Beside the times that the set's source found (a forced alignment, by an acoustic model)."""
    needs_data("speech")
    folder = hub.data("speech") / "nathalie_nl"
    lines = [json.loads(line) for line in (folder / "word_align.jsonl").read_text().splitlines()[:40]]
    texts = {entry.id: entry for entry in data.entries("nathalie_nl")}
    far = []
    for line in lines:
        entry = texts.get(line["id"])
        found = alignment.align(audio.read(entry.path), entry.text, VOICES).words if entry else []
        if len(found) == len(line["words"]):
            far += [
                abs(a - b)
                for one, other in zip(line["words"], found, strict=True)
                for a, b in zip(one[1:], other[1:], strict=True)
            ]
    assert len(far) > 100 and np.median(far) < 0.03 and np.quantile(far, 0.9) < 0.1


def test_nothing_is_said():
    assert alignment.align(np.zeros(8000, np.float32), "", VOICES).words == []
    assert len(alignment.align(np.zeros(100, np.float32), "Ja.", VOICES).words) == 1
