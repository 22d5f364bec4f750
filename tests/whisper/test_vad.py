"""Where speech is, and where a recording may be cut."""

from importlib import metadata
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.whisper import audio, vad
from tests.whisper import stitching


@pytest.fixture(scope="module")
def clips() -> list[audio.Samples]:
    """Sentences in eleven languages."""
    found = sorted((stitching.speech_data() / "clips").glob("*est_??*.flac"))
    return [stitching.equally_loud(audio.read(path)) for path in found][:14]


def overlap(mask: np.ndarray, stretches: list[vad.Stretch]) -> float:
    """Which part of what a mask marks, frame for frame, is in stretches."""
    found = np.zeros(len(mask), bool)
    for begin, end in stretches:
        found[begin:end] = True
    return float((found & mask).sum() / mask.sum())


def test_the_network_is_sileros(clips):
    """With the weights of their TorchScript, it says what that says."""
    path = metadata.distribution("silero-vad").locate_file("silero_vad/data/silero_vad.jit")
    theirs = torch.jit.load(str(path)).eval()
    names = {"stft_conv": "stft.forward_basis_buffer", "lstm_cell": "decoder.rnn", "final_conv": "decoder.decoder.2"}
    names |= {f"conv{index + 1}": f"encoder.{index}.reparam_conv" for index in range(4)}
    tensors = theirs.state_dict()
    ours = vad.Silero()
    for name, tensor in ours.state_dict().items():
        module, _, kind = name.partition(".")
        other = f"_model.{names[module]}" + (f".{kind.removesuffix('_l0')}" if module != "stft_conv" else "")
        tensor.copy_(tensors[other])
    sound = torch.from_numpy(clips[0][: 60 * vad.CHUNK])
    expected = [theirs(chunk, 16_000).item() for chunk in sound.split(vad.CHUNK)]
    chunks = torch.nn.functional.pad(sound, (64, 0)).unfold(0, 64 + vad.CHUNK, vad.CHUNK)
    with torch.inference_mode():
        assert ours(chunks)[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_parts_of_a_recording_are_heard_as_the_whole(clips, monkeypatch):
    sound = np.concatenate(clips[:3])
    whole = vad.probabilities(sound)
    assert len(whole) == -(-len(sound) // vad.CHUNK)
    monkeypatch.setattr(vad, "_BLOCK", 17)
    assert np.allclose(vad.probabilities(sound), whole, atol=1e-5)
    pcm = (sound * 32_767).round().astype(np.int16)
    assert np.allclose(vad.probabilities(pcm), whole, atol=0.02)


@pytest.mark.parametrize(
    ("noise", "snr", "least", "most"),
    [(None, 0, 0.98, 0.01), ("sb_noise4", 10, 0.95, 0.05), ("kitchen", 10, 0.93, 0.1), ("sb_noise2", 10, 0.98, 0.05)],
)
def test_speech_is_found_and_pauses_are_not(clips, noise, snr, least, most):
    """Loud frames of the clips count as speech, though some are clicks of the microphone; what is half a second away, as a pause."""
    heard = None
    if noise:
        heard = audio.read(next((stitching.speech_data() / "noise").glob(f"{noise}.*")))
    stitched = stitching.stitch([(clip, "") for clip in clips], (0.8, 6.0), np.random.default_rng(0), heard, snr)
    frames = len(stitched.samples) // audio.HOP
    spoken, pause = np.zeros(frames, bool), np.ones(frames, bool)
    for clip, part in zip(clips, stitched.parts, strict=True):
        first, last = round(part.start * 100), round(part.end * 100)
        pause[first - 50 : last + 50] = False
        power = (clip[: (last - first - 1) * audio.HOP].reshape(-1, audio.HOP) ** 2).mean(1)
        spoken[first : first + len(power)] = power > power.max() / 1000
    found = vad.speech(stitched.samples)
    assert overlap(spoken, found) >= least
    assert overlap(pause, found) <= most


def test_there_is_no_speech_where_nobody_speaks():
    draw = np.random.default_rng(0)
    assert vad.speech(np.zeros(0, np.float32)) == []
    assert vad.speech(np.zeros(100, np.float32)) == []
    assert vad.speech(np.zeros(320_000, np.int16)) == []
    assert vad.speech(draw.normal(0, 0.1, 320_000).astype(np.float32)) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 800), min_size=2, max_size=30), st.integers(40, 900))
def test_stretches_are_joined_in_order_and_none_is_lost(times, longest):
    edges = np.cumsum(times).tolist()
    stretches = list(zip(edges[::2], edges[1::2], strict=False))
    joined = vad.joined(stretches, longest)
    assert all(any(begin <= a and b <= end for begin, end in joined) for a, b in stretches)
    assert {begin for begin, _ in joined} <= {begin for begin, _ in stretches}
    assert {end for _, end in joined} <= {end for _, end in stretches}
    assert all(end - begin <= longest or (begin, end) in stretches for begin, end in joined)
    assert all(before[1] <= after[0] for before, after in pairwise(joined))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 1500), st.integers(40, 900))
def test_a_stretch_is_cut_without_gaps_into_pieces_that_fit(begin, length, longest):
    draw = np.random.default_rng(length)
    samples = draw.normal(0, 0.1, (begin + length) * audio.HOP).astype(np.float32)
    pieces = vad.cut(samples, (begin, begin + length), longest)
    assert pieces[0][0] == begin and pieces[-1][1] == begin + length
    assert all(before[1] == after[0] for before, after in pairwise(pieces))
    assert all(longest // 2 <= end - first <= longest for first, end in pieces[:-1])
    assert pieces[-1][1] - pieces[-1][0] <= longest


def test_a_stretch_is_cut_in_its_pauses():
    samples = np.random.default_rng(0).normal(0, 0.1, 30 * audio.SAMPLE_RATE).astype(np.float32)
    for pause in (7.0, 12.5, 21.0):
        samples[round(pause * 16_000) : round((pause + 0.4) * 16_000)] *= 0.01
    cuts = [end / 100 for _, end in vad.cut(samples, (0, 3000), 1000)][:-1]
    assert [pause for pause in (7.0, 12.5, 21.0) if any(pause <= cut <= pause + 0.4 for cut in cuts)] == [
        7.0,
        12.5,
        21.0,
    ]
