"""Windows of the multitask format: what the decoder is asked for, and that batches can be had again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from almanac.whisper import augment, data, noise, tokenizer
from almanac.whisper.augment import Augmentation
from almanac.whisper.data import Corpus, Utterance
from almanac.whisper.model import Dims
from almanac.whisper.noise import Surroundings
from almanac.whisper.sampler import IGNORED, Mix, Sampler, dropped_out

LANGUAGES = ("de", "en")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Tones, each of its own frequency, as long as their text says."""
    utterances, pieces, start = [], [], 0
    for index in range(24):
        length = 8000 + 2000 * (index % 7)
        tone = 8000 * np.sin(2 * np.pi * (200 + 50 * index) * np.arange(length) / 16_000)
        language, digit = LANGUAGES[index % 2], index % 3 == 0
        english = f"green house {index}" if language == "de" and not digit else ""
        source = "fsdd" if digit else "phrases"
        utterances.append(Utterance(start, length, language, f"haus {index} über", source, f"v{index % 4}", english))
        pieces.append(tone.astype(np.int16))
        start += length
    return Corpus(utterances, np.concatenate(pieces))


def made(corpus: Corpus, mix: Mix, how: Augmentation = augment.NONE, seconds: float = 6.0) -> Sampler:
    tokens = tokenizer.build(tokenizer.learn([" haus 12 über", " green house 3"] * 3, 300), LANGUAGES, seconds)
    dims = Dims.of_width(64, 1, 1, tokens.encoding.n_vocab, seconds=seconds)
    return Sampler(corpus, tokens, dims, mix, how, Surroundings(), 6, 3)


def test_the_same_batch_comes_again(corpus):
    sampler, again = made(corpus, Mix(), Augmentation()), made(corpus, Mix(), Augmentation())
    one, other = sampler(5), again(5)
    assert torch.equal(one.mel, other.mel) and torch.equal(one.tokens, other.tokens)
    assert not torch.equal(sampler(6).mel, one.mel)


def test_windows_follow_the_format(corpus):
    sampler = made(corpus, Mix(no_speech=0.2, translate=0.4, previous_text=0.4))
    tokens = sampler.tokenizer
    seen = set()
    for seed in range(200):
        window = sampler.window(np.random.default_rng(seed))
        mel, own, told = window.mel, window.tokens, window.tokens.index(tokens.sot)
        assert mel.shape == (80, 600) and mel.isfinite().all()
        assert own[-1] == tokens.eot
        assert (own[0] == tokens.sot_prev) == bool(told)
        if own[told + 1] == tokens.no_speech:
            assert len(own) == told + 3
            seen.add("no speech")
            continue
        language, task = own[told + 1], own[told + 2]
        assert language in tokens.language_tokens and task in (
            tokens.special("transcribe"),
            tokens.special("translate"),
        )
        body = own[told + 3 : -1]
        seen.add((tokens.special("translate") == task, body[:1] == [tokens.no_timestamps], bool(told)))
        times = [token - tokens.timestamp_begin for token in body if token >= tokens.timestamp_begin]
        assert times == sorted(times) and all(time <= 300 for time in times)
        if not body or body[0] == tokens.no_timestamps:
            assert not times
        else:
            assert body[0] >= tokens.timestamp_begin and len(body) <= sampler.dims.n_text_ctx // 2
        text = tokens.decode([token for token in body if token < tokens.eot])
        asked = told if text else own.index(task) + (body[:1] == [tokens.no_timestamps])
        assert window.told == asked  # nobody asks for the language of silence
        if task == tokens.special("translate") and text:
            assert language == tokens.language_token("de") and "haus" not in text
    assert len(seen) == 9  # no speech; transcribed or translated × times or none × told or not


def test_times_are_those_of_the_sound(corpus):
    """Where times say that something is said, the window is loud, and silent elsewhere."""
    sampler = made(corpus, Mix(no_speech=0.0, previous_text=0.0, times=1.0, sources={"fsdd": 0.0, "phrases": 1.0}))
    for seed in range(40):
        window = sampler.window(np.random.default_rng(seed))
        mel, own = window.mel, window.tokens
        times = [
            token - sampler.tokenizer.timestamp_begin for token in own if token >= sampler.tokenizer.timestamp_begin
        ]
        level = mel.amax(0)
        for start, end in zip(times[::2], times[1::2], strict=False):
            assert level[2 * start + 5 : 2 * end - 5].min() > level.max() - 0.5
        for end, start in zip(times[1::2], times[2::2], strict=False):
            if start - end > 10:
                assert level[2 * end + 6 : 2 * start - 6].max() < level.max() - 0.5


def test_the_loss_is_on_all_but_the_previous_text(corpus):
    sampler = made(corpus, Mix(previous_text=1.0, no_speech=0.0))
    batch = sampler(0)
    for row in range(len(batch.tokens)):
        window = sampler.window(np.random.default_rng((3, 0, row)))
        own, told = window.tokens, window.told
        asked = (batch.targets[row] != IGNORED).nonzero()[:, 0].tolist()
        assert asked == list(range(told, len(own) - 1))
        assert batch.targets[row, asked].tolist() == own[told + 1 :]
        assert batch.tokens[row, told] == sampler.tokenizer.sot


@pytest.mark.parametrize("tempo", (0.6, 1.5))
def test_digits_are_said_at_another_tempo_and_their_times_follow(tempo):
    """Tones of a second: each digit's token is said for as long as the tempo makes of it, and there the spectrogram has its tone."""
    tones = {"ein": 300, "zwei": 800, "drei": 2000}
    pieces = [
        (8000 * np.sin(2 * np.pi * tone * np.arange(16_000) / 16_000)).astype(np.int16) for tone in tones.values()
    ]
    said = [Utterance(16_000 * index, 16_000, "de", word, "digits", "v") for index, word in enumerate(tones)]
    how = replace(augment.NONE, tempo=1.0, calmest=tempo, hastiest=tempo)
    sampler = made(Corpus(said, np.concatenate(pieces)), Mix(no_speech=0.0, previous_text=0.0), how)
    for seed in range(20):
        window = sampler.window(np.random.default_rng(seed))
        spans = sorted({span for span in window.said if span and span[1] > span[0]})
        words: list[tuple[float, float]] = []
        for start, end in spans:
            if words and start - words[-1][1] < 0.01:
                start = words.pop()[0]
            words.append((start, end))
        assert all(end - start == pytest.approx(1 / tempo, abs=0.02) for start, end in words if end < 5.9)
        loudest = window.mel.argmax(0)
        for start, end in words:
            heard = loudest[round(start * 100) + 5 : min(595, round(end * 100) - 5)]
            assert min(abs(int(heard.float().median()) - place) for place in (8, 21, 47)) < 4


def test_dropping_merges_keeps_the_text():
    import random

    ranks = tokenizer.learn([" the cat that sat on the mat", " über alles"] * 5, 300)
    tokens = tokenizer.build(ranks, ("en",))
    for text in (" the cat sat", " über den Dächern 12!", " don't"):
        whole = dropped_out(tokens, text, 0.0, random.Random(0))
        assert whole == tokens.encode(text)
        loose = [dropped_out(tokens, text, 0.5, random.Random(seed)) for seed in range(10)]
        assert {tokens.decode(one) for one in loose} == {text}
        assert max(map(len, loose)) > len(whole)


@pytest.mark.parametrize("codec", augment.CODECS, ids=lambda codec: f"{codec[0]}-{codec[3]}")
def test_codecs_do_not_shift_speech(codec):
    draw = np.random.default_rng(0)
    sound = np.convolve(draw.standard_normal(32_000), np.hanning(15), "same").astype(np.float32)
    sound *= 0.3 / np.abs(sound).max()
    back = augment.through_codec(sound, *codec)
    shifts = range(-400, 401, 20)
    match = [np.dot(sound[8000:24000], back[8000 + shift : 24000 + shift]) for shift in shifts]
    assert len(back) == len(sound) and shifts[int(np.argmax(match))] == 0


def test_noise_is_as_weak_as_asked():
    draw = np.random.default_rng(0)
    speech = np.sin(np.arange(16_000) / 5).astype(np.float32)
    pink = noise.coloured(16_000, 1.0, draw)
    for snr in (0.0, 20.0):
        added = augment.with_noise(speech, pink, snr) - speech
        measured = 20 * np.log10(np.std(speech) / np.std(added))
        assert measured == pytest.approx(snr, abs=0.5)


@pytest.mark.parametrize("factor", (0.65, 1.0, 1.5))
def test_another_tempo_keeps_the_pitch(factor):
    tone = np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000).astype(np.float32)
    said = augment.at_tempo(tone, factor)
    assert len(said) == round(8_000 / factor)
    assert np.abs(np.fft.rfft(said, 16_000)).argmax() == pytest.approx(440, abs=3)
    assert said[-400:].std() > 0.5  # to its end


@pytest.mark.parametrize("make", (noise.knocks, noise.gusts, noise.squeaks), ids=lambda make: make.__name__)
def test_noise_is_never_the_same(make):
    draw = np.random.default_rng(0)
    one, other = make(20_000, draw), make(20_000, draw)
    assert one.shape == (20_000,) and np.isfinite(one).all() and one.std() > 0
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.5


def test_a_telephone_has_no_bass_and_no_treble():
    spectrum = np.abs(np.fft.rfft(augment.telephone(noise.coloured(16_000, 0.0, np.random.default_rng(0)))))
    assert spectrum[:150].mean() < 0.1 * spectrum[500:3000].mean() > 5 * spectrum[5000:].mean()


def test_trimming_keeps_the_sound():
    sound = np.zeros(32_000, np.float32)
    sound[10_000:20_000] = 0.5
    kept = data.trimmed(sound)
    assert kept.sum() == sound.sum() and len(kept) < 13_000


def test_every_token_is_said_where_it_sounds(corpus):
    """Words of a tone each: where a token is said to be, the spectrogram has its word's tone; and letters are there too."""
    words = [("haus", 0.0, 0.2), ("12", 0.2, 0.3), ("über", 0.4, 0.5)]
    rate, pieces = 16_000, []
    for frequency, (_, start, end) in zip((300, 800, 2000), words, strict=True):
        tone = 8000 * np.sin(2 * np.pi * frequency * np.arange(round((end - start) * rate)) / rate)
        pieces += [tone, np.zeros(round(0.1 * rate) if frequency == 800 else 0)]
    sound = np.concatenate(pieces).astype(np.int16)
    one = Utterance(0, len(sound), "de", "haus 12 über", "phrases", "v", "", words)
    sampler = made(Corpus([one], sound), Mix(no_speech=0.0, single=0.3, translate=0.0, previous_text=0.3))
    for seed in range(20):
        window = sampler.window(np.random.default_rng(seed))
        assert len(window.said) == len(window.tokens)
        loudest = window.mel.argmax(0)
        for token, span in zip(window.tokens, window.said, strict=True):
            if span is None or token >= sampler.tokenizer.eot:
                continue
            text = sampler.tokenizer.encoding.decode_single_token_bytes(token).strip()
            if not text or span[1] - span[0] < 0.05:
                continue
            word = next(i for i, (name, *_) in enumerate(words) if text in name.encode())
            tone = loudest[round(span[0] * 100) + 2 : round(span[1] * 100) - 2].float().median()
            assert abs(tone - (8, 21, 47)[word]) < 4, (text, span)
    batch = sampler(0)
    known = batch.said[..., 0] != IGNORED
    assert (
        known.any()
        and (batch.said[known][:, 0] < batch.said[known][:, 1]).all()
        and not known[batch.targets == IGNORED].any()
    )


def test_collages_say_what_they_are_made_of():
    """Each word of the corpus is a tone of its own, the higher the later: where a collage says that a word is, its tone is."""
    utterances, sounds = [], []
    for first in range(0, 20, 5):
        own = [f"w{index}" for index in range(first, first + 5)]
        words = [(word, 0.2 * place, 0.2 * place + 0.2) for place, word in enumerate(own)]
        start = 16_000 * len(utterances)
        utterances.append(Utterance(start, 16_000, "de", " ".join(own), "nathalie_nl", "v", "", words))
        sounds += [
            np.sin(2 * np.pi * (200 + 100 * index) * np.arange(3200) / 16_000) for index in range(first, first + 5)
        ]
    sound = (8000 * np.concatenate(sounds)).astype(np.int16)
    sampler = made(Corpus(utterances, sound), Mix(no_speech=0.0, collage=1.0, single=1.0, previous_text=0.0))
    texts, tones = set(), {}
    for seed in range(60):
        window = sampler.window(np.random.default_rng(seed))
        written = [
            (token, span)
            for token, span in zip(window.tokens, window.said, strict=True)
            if token < sampler.tokenizer.eot
        ]
        text = sampler.tokenizer.decode([token for token, _ in written]).split()
        assert 0 < len(text) <= 12
        ends = [
            span[1]
            for (_, span), (token, _) in zip(
                written, [*written[1:], (sampler.tokenizer.encode(" ")[0], None)], strict=True
            )
            if sampler.tokenizer.encoding.decode_single_token_bytes(token).startswith(b" ")
        ]
        for word, end in zip(text, ends, strict=True):
            tones.setdefault(int(word[1:]), set()).add(int(window.mel[:, round(end * 100) - 10].argmax()))
        texts.add(tuple(text))
    assert len(texts) > 50 and len(tones) == 20
    highest = [max(tones[index]) for index in range(20)]
    assert all(max(tones[index]) - min(tones[index]) <= 1 for index in tones) and highest == sorted(highest)


def test_recordings_at_8_khz_have_nothing_above_4():
    white = noise.coloured(16_001, 0.0, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(augment.narrow(white)))
    assert len(augment.narrow(white)) == 16_001
    assert spectrum[4100:].max() < 0.01 * spectrum[:3800].mean()


def test_a_shorter_throat_raises_resonances():
    mel = torch.zeros(80, 6)
    mel[40] = 1
    found = [int(augment.stretched(mel, factor)[:, 3].argmax()) for factor in (0.9, 1.0, 1.1)]
    assert found == [36, 40, 44] and torch.equal(augment.stretched(mel, 1.0), mel)
