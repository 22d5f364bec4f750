"""Long recordings: the same words however many windows are decoded at once, on the clock of the recording, in bounded memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from almanac.runtime.errors import UserError
from almanac.whisper import audio, transcribe, vad
from almanac.whisper.decoding import Options
from almanac.whisper.transcribe import Settings
from tests.whisper import stitching, untrained

ENGLISH = Options(language="en", sample_length=12)


@pytest.fixture(scope="module")
def small():
    return untrained.small()


@pytest.fixture(scope="module")
def recording() -> audio.Samples:
    """25 s of tones and noise that come and go."""
    draw = np.random.default_rng(0)
    times = np.arange(25 * audio.SAMPLE_RATE) / audio.SAMPLE_RATE
    tones = np.sin(2 * np.pi * times * np.repeat(draw.uniform(100, 1000, 50), audio.SAMPLE_RATE // 2))
    loudness = np.repeat(draw.choice([0.001, 0.05, 0.3], 50), audio.SAMPLE_RATE // 2)
    return (loudness * (tones + draw.normal(0, 0.3, len(times)))).astype(np.float32)


def essence(found):
    """What must be equal whatever was decoded beside it."""
    return [(one.id, one.seek, one.start, one.end, one.tokens, one.text, one.temperature) for one in found.segments]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(ENGLISH),
        Settings(Options(language="en", sample_length=12, beam_size=3), (0.0,), prompt="tala besi"),
        Settings(ENGLISH, (0.0,), words=True, silence_limit=0.5),
        Settings(Options(sample_length=12), (0.0, 0.4), clips=(2.0, 17.3, 21.0)),
    ],
    ids=["greedy", "beams and a prompt", "words", "clips"],
)
def test_any_number_at_once_gives_the_same_words(small, recording, settings):
    assert_the_same_at_any_number(small, recording, settings)


def test_windows_fall_back_on_their_own(small, recording):
    settings = Settings(ENGLISH, (0.0, 0.6, 1.0), no_speech_limit=None)
    sure = transcribe.transcribe(small, recording, replace(settings, logprob_limit=None, batch_size=4))
    usual = float(np.median([segment.avg_logprob for segment in sure.segments]))
    found = assert_the_same_at_any_number(small, recording, replace(settings, logprob_limit=usual))
    assert len({segment.temperature for segment in found.segments}) > 1


def assert_the_same_at_any_number(small, recording, settings):
    one, *others = (transcribe.transcribe(small, recording, replace(settings, batch_size=size)) for size in (1, 3, 64))
    assert len(one.segments) > 3
    for other in others:
        assert essence(other) == essence(one)
        assert other.text == one.text
        assert word_times(other) == word_times(one)
    return one


def word_times(found):
    return [(word.text, word.start, word.end) for segment in found.segments for word in segment.words or []]


def test_segments_follow_each_other_inside_the_recording(small, recording):
    found = transcribe.transcribe(small, recording, Settings(ENGLISH, (0.0,), batch_size=3)).segments
    times = [time for segment in found for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] <= 25
    assert [segment.id for segment in found] == list(range(len(found)))


def test_every_window_is_heard_once(small, recording, monkeypatch):
    heard = []
    original = transcribe.Window
    monkeypatch.setattr(transcribe, "Window", lambda *args: heard.append(args[:2]) or original(*args))
    transcribe.transcribe(small, recording, Settings(ENGLISH, (0.0,), batch_size=4))
    frames = small.model.dims.frames
    assert all(length <= frames for _, length in heard)
    covered = np.zeros(len(recording) // audio.HOP, int)
    for seek, length in heard:
        covered[seek : seek + length] += 1
    assert covered.min() == 1  # where a window ends within a sentence, the next one hears its end again
    clips = vad.cut(recording, (0, 2500), frames)
    assert {begin for begin, _ in clips} <= {seek for seek, _ in heard}
    assert all(any(begin <= seek and seek + length <= end for begin, end in clips) for seek, length in heard)


@pytest.mark.parametrize("size", [None, 1, 4])
def test_progress_never_falls_and_tells_each_segment_once_in_order(small, recording, size):
    said = []
    settings = Settings(ENGLISH, (0.0,), batch_size=size)
    found = transcribe.transcribe(small, recording, settings, lambda *progress: said.append(progress))
    seconds = [second for second, _ in said]
    assert seconds == sorted(seconds) and seconds[-1] == 25
    assert [segment for _, segments in said for segment in segments] == found.segments


def test_silence_is_skipped_and_speech_keeps_its_time(small):
    clips = [audio.read(path) for path in sorted((stitching.speech_data() / "clips").glob("leopard_??_test*.flac"))[:5]]
    stitched = stitching.stitch([(clip, "") for clip in clips], (4.0, 9.0), np.random.default_rng(0))
    without = transcribe.transcribe(small, stitched.samples, Settings(ENGLISH, (0.0,)))
    assert any(all(s.end < p.start or s.start > p.end for p in stitched.parts) for s in without.segments)
    for settings in (Settings(ENGLISH, (0.0,), vad=True), Settings(ENGLISH, (0.0,), vad=True, batch_size=4)):
        found = transcribe.transcribe(small, stitched.samples, settings).segments
        for part in stitched.parts:  # none is lost
            assert any(segment.start < part.end and segment.end > part.start for segment in found)
        for segment in found:  # nothing is found in a pause
            assert any(part.start - 0.5 <= segment.start and segment.end <= part.end + 0.5 for part in stitched.parts)


def test_nothing_is_said_in_silence(small):
    silence = np.zeros(20 * audio.SAMPLE_RATE, np.int16)
    found = transcribe.transcribe(small, silence, Settings(Options(), vad=True))
    assert (found.text, found.segments) == ("", [])
    assert found.language in ("en", "nl")
    assert transcribe.transcribe(small, silence[:100], Settings(ENGLISH)).segments == []


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_spectrogram_of_a_part_is_that_of_the_whole(recording, n_mels):
    samples = recording[: 20 * audio.SAMPLE_RATE + 77]
    whole = audio.log_mel(torch.from_numpy(samples), n_mels, 480_000)
    mel = audio.LogMel(samples, n_mels, torch.device("cpu"))
    assert mel.frames == whole.shape[1] - 3000 == 2000
    for first, last in ((0, 3000), (1, 700), (123, 1123), (1500, 4500), (1998, 2010)):
        assert torch.equal(mel(first, last), whole[:, first:last])
    short = audio.LogMel(samples[:99], n_mels, torch.device("cpu"))
    assert torch.equal(short(0, 3000), audio.log_mel(torch.from_numpy(samples[:99]), n_mels, 480_000)[:, :3000])


def test_sixteen_bits_are_transcribed_as_floats(small, recording):
    pcm = (recording * 32_767).round().astype(np.int16)
    settings = Settings(ENGLISH, (0.0,), batch_size=4)
    found = transcribe.transcribe(small, pcm, settings)
    assert essence(found) == essence(transcribe.transcribe(small, audio.floats(pcm), settings))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperatures": ()}, "no temperatures"),
        ({"clips": (3.0, 1.0)}, "go back in time"),
        ({"options": Options(language="de")}, "does not know the language 'de'"),
    ],
)
def test_wrong_settings_are_refused(small, recording, wrong, said):
    with pytest.raises(UserError, match=said):
        transcribe.transcribe(small, recording, Settings(**{"options": ENGLISH, **wrong}))
