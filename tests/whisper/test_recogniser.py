"""Models found by name, in every layout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from almanac.runtime.errors import UserError
from almanac.whisper import audio, published, recogniser, tokenizer
from almanac.whisper.model import Dims, Whisper


@pytest.fixture(scope="module")
def small() -> recogniser.Recogniser:
    """A model of our own kind: a small vocabulary, two languages, windows of 6 s."""
    ranks = {bytes([value]): value for value in range(256)} | {b" a": 256, b"th": 257, b"the": 258}
    tokens = tokenizer.build(ranks, ("en", "nl"), seconds=6.0)
    dims = Dims.of_width(64, 1, 2, tokens.encoding.n_vocab, seconds=6.0)
    torch.manual_seed(0)
    model = Whisper(dims, published.head_mask(dims, [(1, 0)])).eval()
    torch.nn.init.normal_(model.decoder.positional_embedding)
    return recogniser.Recogniser(model, tokens)


def test_what_is_saved_is_loaded_as_it_was(small, tmp_path):
    recogniser.save(small, tmp_path / "own.safetensors", {"steps": 3})
    again = recogniser.load(str(tmp_path / "own.safetensors"), "cpu")
    assert again.model.dims == small.model.dims
    assert again.tokenizer.languages == ("en", "nl")
    assert again.tokenizer.encode("the theatre, a thé") == small.tokenizer.encode("the theatre, a thé")
    assert again.tokenizer.start("nl") == small.tokenizer.start("nl")
    assert torch.equal(again.model.alignment_heads, small.model.alignment_heads)
    mel, tokens = torch.randn(1, 80, 600), torch.randint(0, 256, (1, 9))
    with torch.inference_mode():
        assert torch.allclose(again.model(mel, tokens), small.model(mel, tokens), atol=0.1)  # bfloat16 in the file


def test_timestamps_cover_the_window_of_a_model(small):
    assert small.tokenizer.decode_with_timestamps([small.tokenizer.encoding.n_vocab - 1]) == "<|6.00|>"


def test_a_short_window_is_filled_up(small):
    assert small.encode(torch.randn(80, 123)).shape == (1, 300, 64)


def test_names_that_are_no_model_are_refused(small, tmp_path):
    with pytest.raises(UserError, match="no weights 'tinny'") as error:
        recogniser.load("tinny")
    assert "large-v3-turbo" in error.value.hint
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(UserError, match="not a readable"):
        recogniser.load(str(tmp_path / "text.safetensors"))
    with pytest.raises(UserError, match=r"no config\.json"):
        recogniser.load(str(tmp_path))


def write_wave(path: Path, samples: np.ndarray, rate: int, channels: int = 1) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1), (48_000, 6)])
def test_sound_of_any_rate_is_heard_at_its_pitch_and_length(tmp_path, rate, channels):
    times = np.arange(2 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * times)
    write_wave(tmp_path / "tone.wav", np.repeat(tone, channels), rate, channels)
    heard = audio.read(tmp_path / "tone.wav")
    assert heard.dtype == np.float32
    assert len(heard) / audio.SAMPLE_RATE == pytest.approx(2, abs=0.01)
    spectrum = np.abs(np.fft.rfft(heard[:16_000]))
    assert spectrum.argmax() == 440


def test_what_is_not_sound_is_refused(tmp_path):
    import zipfile

    (tmp_path / "empty.wav").touch()
    with pytest.raises(UserError, match="is empty"):
        audio.read(tmp_path / "empty.wav")
    with pytest.raises(UserError, match="no file"):
        audio.read(tmp_path / "missing.wav")
    with zipfile.ZipFile(tmp_path / "zip.mp3", "w") as archive:
        archive.writestr("a.txt", "text " * 1000)
    with pytest.raises(UserError, match="not a readable audio file"):
        audio.read(tmp_path / "zip.mp3")
    write_wave(tmp_path / "silent.wav", np.zeros(0), 16_000)
    with pytest.raises(UserError, match="no sound"):
        audio.read(tmp_path / "silent.wav")
    (tmp_path / "text.txt").write_text("These are words, not sounds.\n" * 50)
    with pytest.raises(UserError):
        audio.read(tmp_path / "text.txt")


def test_a_recording_that_breaks_off_gives_what_there_is(tmp_path):
    write_wave(tmp_path / "whole.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), 16_000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:40_000])
    heard, whole = audio.read(tmp_path / "cut.wav"), audio.read(tmp_path / "whole.wav")
    assert 0.9 < len(heard) / 19_978 <= 1
    assert np.array_equal(heard, whole[: len(heard)])
