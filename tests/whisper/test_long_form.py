"""The shipped model on twenty minutes of sentences and pauses: none is lost or doubled, times never fall back, nothing is said in
the pauses, and windows side by side say what they say one after another."""

import numpy as np
import pytest

from almanac.whisper import audio, manifest, recogniser, transcribe
from almanac.whisper.decoding import Options
from almanac.whisper.transcribe import Settings
from tests.whisper import stitching

MINUTES = 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped() -> recogniser.Recogniser:
    if recogniser.DEFAULT not in recogniser.shipped():
        pytest.skip(f"no model '{recogniser.DEFAULT}' ships yet")
    return recogniser.load(recogniser.DEFAULT, "cpu")


@pytest.fixture(scope="module")
def stitched() -> stitching.Stitched:
    """Dutch sentences that were not trained on, the last tenth of their list, again and again, 2 to 15 s apart."""
    entries = [
        entry
        for entry in manifest.read(stitching.speech_data() / "manifest.tsv")
        if entry.path.parent.name == "nathalie_nl"
    ]
    draw = np.random.default_rng(0)
    held_out, clips, seconds = entries[-len(entries) // 10 :], [], 0.0
    while seconds < MINUTES * 60:
        entry = held_out[int(draw.integers(len(held_out)))]
        clips.append((stitching.equally_loud(audio.read(entry.path)), entry.text))
        seconds += len(clips[-1][0]) / audio.SAMPLE_RATE + 8.5
    return stitching.stitch(clips, (2.0, 15.0), draw)


@pytest.fixture(scope="module")
def found(shipped, stitched):
    return transcribe.transcribe(shipped, stitched.samples, settings(1))


def settings(batch_size: int) -> Settings:
    return Settings(Options(language="nl"), (0.0,), vad=True, batch_size=batch_size)


def test_side_by_side_is_one_after_another(shipped, stitched, found):
    together = transcribe.transcribe(shipped, stitched.samples, settings(8))
    assert [(s.start, s.end, s.text) for s in together.segments] == [(s.start, s.end, s.text) for s in found.segments]


def test_times_never_fall_back(found):
    times = [time for segment in found.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)


def test_every_sentence_is_heard_and_no_pause(stitched, found):
    spoken = [segment for segment in found.segments if segment.text.strip()]
    for part in stitched.parts:
        assert any(segment.start < part.end and segment.end > part.start for segment in spoken), part
    for segment in spoken:
        assert any(segment.start < part.end + 0.5 and segment.end > part.start - 0.5 for part in stitched.parts), (
            segment
        )


def test_no_sentence_is_doubled(stitched, found):
    """What is heard of all of it is about as long as what is said, in every quarter of the recording."""
    quarter = len(stitched.samples) / audio.SAMPLE_RATE / 4
    for number in range(4):
        begin, end = number * quarter, (number + 1) * quarter
        said = sum(len(part.text.split()) for part in stitched.parts if begin <= part.start < end)
        heard = sum(len(segment.text.split()) for segment in found.segments if begin <= segment.start < end)
        assert 0.7 * said < heard < 1.3 * said
