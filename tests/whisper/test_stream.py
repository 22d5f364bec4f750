"""What is committed stays, whatever is heard; and who hears well loses nothing by listening in chunks."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from almanac.runtime.errors import UserError
from almanac.whisper import recogniser, stream
from almanac.whisper.audio import SAMPLE_RATE
from almanac.whisper.decoding import Options, decode
from almanac.whisper.model import Whisper
from almanac.whisper.timing import Word
from tests.whisper import untrained


def cut_up(sound: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Sound in pieces of these sizes, and the rest."""
    return np.split(sound, [edge for edge in np.cumsum(sizes).tolist() if edge < len(sound)])


def listened(listening: stream.Stream, pieces: Sequence[np.ndarray], hurry: bool = False) -> list[stream.Update]:
    return [*(update for piece in pieces for update in listening.feed(piece, hurry)), listening.finish()]


def committed(updates: Sequence[stream.Update]) -> list[Word]:
    return [word for update in updates for word in update.committed]


def text_of(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)


@dataclass
class Fickle:
    """An ear that hears anything, at any time."""

    seed: int
    language: str | None = None
    longest: int = 0
    """The longest sound that it was given, samples."""
    begins: list[list[str]] = field(default_factory=list)
    """What it was told for certain, each time."""

    def __call__(self, sound, before, said) -> list[Word] | None:
        self.longest = max(self.longest, len(sound))
        self.begins.append([word.text for word in (*before, *said)])
        draw = random.Random(f"{self.seed} {len(self.begins) // 3}")  # now and then the same again
        if draw.random() < 0.1:
            return None
        words = draw.choices([" a", " b", "c", ".", ",", " d!", ""], k=draw.choice([0, 1, 4, 30]))
        seconds = len(sound) / SAMPLE_RATE
        return [Word(text, draw.uniform(-5, seconds + 5), draw.uniform(-5, seconds + 5), 0.5) for text in words]


@given(
    seed=st.integers(0, 2**32),
    levels=st.lists(st.sampled_from([0.0, 1e-4, 0.01, 0.5]), min_size=1, max_size=60),
    window=st.sampled_from([3.0, 10.0, 30.0]),
    chunk=st.sampled_from([0.25, 0.5, 0.75]),
    hurry=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_is_committed_never_changes_and_times_never_go_back(seed, levels, window, chunk, hurry):
    noise = np.random.default_rng(seed).standard_normal((len(levels), 8000)).astype(np.float32)
    sound = (noise * np.array(levels, np.float32)[:, None]).reshape(-1)
    ear = Fickle(seed)
    listening = stream.Stream(ear, window, stream.Settings(chunk_seconds=chunk))
    sizes = random.Random(seed).choices([1, 999, 16_000, 50_000], k=50)
    updates = listened(listening, cut_up(sound, sizes), hurry)
    words = committed(updates)
    so_far = [[word.text for word in words][:count] for count in range(len(words) + 1)]
    assert all(begin[-50:] in [begun[-50:] for begun in so_far] for begin in ear.begins)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(word.end <= update.heard for update in updates for word in update.committed)
    assert [update.heard for update in updates] == sorted(update.heard for update in updates)
    assert updates[-1].heard == pytest.approx(len(sound) / SAMPLE_RATE)
    assert updates[-1].tentative == ""
    assert ear.longest <= window * SAMPLE_RATE


@dataclass
class Perfect:
    """An ear that hears every word which is in the sound from its start to its end. Where half a word ends the sound, it hears some
    other one; and it ends a sentence wherever the sound ends. Each sample tells when it is."""

    words: list[Word]
    language: str | None = "en"

    def __call__(self, sound, before, said) -> list[Word]:
        loud = np.flatnonzero(sound)
        if not len(loud):
            return []
        start = moment(sound[loud[0]]) - loud[0] / SAMPLE_RATE
        end = start + len(sound) / SAMPLE_RATE
        texts = [word.text for word in self.words]
        first = (
            texts.index(said[-1].text) + 1
            if said
            else next((i for i, word in enumerate(self.words) if word.start > start - 1e-3), 0)
        )
        heard = [word for word in self.words[first:] if word.end <= end]
        half = [word for word in self.words[first:] if word.start < end < word.end]
        found = [Word(word.text, word.start - start, word.end - start, 1.0) for word in heard]
        found += [Word(f" half{len(sound)}", word.start - start, end - start, 0.1) for word in half]
        return [*found, Word(".", end - start, end - start, 0.1)] if found and end < self.words[-1].end else found


def moment(sample: float) -> float:
    """When a sample is, s."""
    return (float(sample) - 0.5) * 2**24 / SAMPLE_RATE


def spoken(lengths: Sequence[float], gaps: Sequence[float]) -> tuple[list[Word], np.ndarray]:
    """Words of these lengths after these silences, s; and a sound that tells when it is, and is silent between them."""
    words, now = [], 0.0
    for number, (length, gap) in enumerate(zip(lengths, gaps, strict=True)):
        words.append(Word(f" word{number}", now + gap, now + gap + length, 1.0))
        now += gap + length
    sound = np.zeros(round((now + 0.5) * SAMPLE_RATE), np.float32)
    for word in words:
        inside = np.arange(round(word.start * SAMPLE_RATE), round(word.end * SAMPLE_RATE))
        sound[inside] = 0.5 + inside / 2**24
    return words, sound


@given(
    spans=st.lists(
        st.tuples(st.floats(0.05, 0.9), st.sampled_from([0.0, 0.0, 0.03, 0.3, 2.0, 7.0])), min_size=1, max_size=80
    ),
    window=st.sampled_from([6.0, 10.0, 30.0]),
    chunk=st.sampled_from([0.3, 0.5, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_who_hears_well_loses_and_doubles_no_word(spans, window, chunk):
    words, sound = spoken(*zip(*spans, strict=True))
    listening = stream.Stream(Perfect(words), window, stream.Settings(chunk_seconds=chunk))
    updates = listened(listening, [sound])
    found = [word for word in committed(updates) if word.text != "."]
    assert [word.text for word in found] == [word.text for word in words]
    assert [word.start for word in found] == pytest.approx([word.start for word in words], abs=1e-3)


def test_half_of_the_words_are_committed_within_two_chunks():
    draw = random.Random(0)
    spans = [(draw.uniform(0.1, 0.6), draw.choice([0, 0, 0, 0.2, 1.5])) for _ in range(300)]
    words, sound = spoken(*zip(*spans, strict=True))
    for chunk in (0.5, 1.0):
        listening = stream.Stream(Perfect(words), 30.0, stream.Settings(chunk_seconds=chunk))
        waits = stream.latencies(listened(listening, [sound]), chunk)
        assert len(waits) >= 300
        assert 1 <= np.median(waits) <= 2
        assert max(waits) <= 2 + 1e-6


@pytest.fixture(scope="module")
def small() -> recogniser.Recogniser:
    return untrained.small()


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * SAMPLE_RATE)).astype(np.float32)


SHORT = Options(sample_length=12)


def test_the_result_does_not_depend_on_how_the_sound_arrives(small):
    sound = noise(12)
    whole = listened(stream.begin(small, stream.Settings(SHORT)), [sound])
    pieces = listened(stream.begin(small, stream.Settings(SHORT)), cut_up(sound, [7, 100_000, 1, 3000]))
    assert whole == pieces
    assert len(whole) == 13


def test_sound_shorter_than_a_chunk_is_decoded_once(small):
    sound = noise(0.9)
    listening = stream.begin(small, stream.Settings(Options(language="nl", sample_length=12)))
    assert listening.feed(sound) == []
    heard = small.encode(stream.audio.log_mel(torch.from_numpy(sound)))
    found = decode(small.model, small.tokenizer, heard, Options(language="nl", sample_length=12, timestamps=False))[0]
    text = text_of(listening.finish().committed)
    assert text == small.tokenizer.decode(found.tokens) != ""
    assert listening.ear.language == "nl"


def test_a_text_goes_on_from_what_is_certain(small):
    ear = stream.Listener(small, stream.Settings(SHORT))
    sound = noise(2)
    first = ear(sound, [], [])
    assert first and len(first) > 3
    again = ear(sound, [], first[:2])
    assert again is not None
    assert text_of(again).startswith(text_of(first[2:]))


def test_a_model_without_heads_that_follow_the_words_has_them_evenly_spread(small):
    deaf = Whisper(small.model.dims, torch.zeros_like(small.model.alignment_heads))
    deaf.load_state_dict(small.model.state_dict())
    found = stream.Listener(recogniser.Recogniser(deaf.eval(), small.tokenizer), stream.Settings(SHORT))(
        noise(2), [], []
    )
    assert found
    assert [word.start for word in found] == pytest.approx(np.linspace(0, 2, len(found), endpoint=False))


def test_silence_is_not_even_listened_to():
    ear = Fickle(0)
    listening = stream.Stream(ear, 30.0)
    assert committed(listened(listening, [np.zeros(160_000, np.float32)])) == []
    assert ear.begins == []


def test_a_stream_goes_on_after_its_end_was_called():
    words, sound = spoken([0.5] * 4, [0.1] * 4)
    listening = stream.Stream(Perfect(words), 30.0)
    middle = round(words[2].start * SAMPLE_RATE)
    first, second = listened(listening, [sound[:middle]]), listened(listening, [sound[middle:]])
    assert [word.text for word in committed(first)] == [" word0", " word1", "."]
    assert [word.text for word in committed(second)] == [" word2", " word3"]


@pytest.mark.parametrize("chunk", [0.01, 3.0])
def test_chunks_that_do_not_suit_the_model_are_refused(chunk):
    with pytest.raises(UserError, match="hears 10 s at a time"):
        stream.Stream(Fickle(0), 10.0, stream.Settings(chunk_seconds=chunk))
