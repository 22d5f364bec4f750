"""Our Whisper against openai-whisper, on the same random weights."""

import numpy as np
import pytest
import torch

from almanac.runtime.errors import UserError
from almanac.whisper import audio, decoding, model, timing, tokenizer, transcribe

whisper = pytest.importorskip("whisper")

SHAPES = {
    "tiny": model.SIZES["tiny"],
    "English": model.Dims.of_width(128, 2, 1, 51_864),
    "like large-v3": model.Dims.of_width(128, 2, 3, 51_866, mels=128),
}


@pytest.fixture(scope="module", params=SHAPES)
def pair(request, needs_vocabulary):
    """Our model, theirs, and a tokenizer each."""
    dims = SHAPES[request.param]
    return *same_weights(dims), tokenizer.official(dims.n_vocab)


def same_weights(dims: model.Dims, seed: int = 0):
    """A model of ours and one of theirs."""
    torch.manual_seed(seed)
    theirs = whisper.model.Whisper(whisper.model.ModelDimensions(**vars(dims))).eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter) * (0.06 if parameter.ndim > 1 else 0.2)
    for module in theirs.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.data = 1 + 0.1 * torch.randn_like(module.weight)
    ours = model.Whisper(dims).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.fixture(scope="module")
def needs_vocabulary():
    from almanac.runtime import hub

    if not hub.has_data("whisper-vocabulary"):
        pytest.skip("the official vocabulary is not on this machine (ALMANAC_DATA)")


@pytest.fixture(scope="module")
def mel(pair):
    """Two windows of noise that grows."""
    noise = torch.randn(2, 480_000, generator=torch.Generator().manual_seed(1)) * torch.linspace(0, 0.3, 480_000)
    return torch.stack([audio.log_mel(samples, pair[0].dims.n_mels) for samples in noise])


@pytest.fixture(scope="module")
def sound(pair, mel):
    with torch.inference_mode():
        return pair[0].encoder(mel)


def test_log_mel_is_theirs(pair):
    noise = torch.randn(50_001, generator=torch.Generator().manual_seed(1))
    theirs = whisper.log_mel_spectrogram(noise, pair[0].dims.n_mels, padding=1234)
    assert (audio.log_mel(noise, pair[0].dims.n_mels, 1234) - theirs).abs().max() <= 1e-6


def test_encoder_and_logits_are_theirs(pair, mel):
    ours, theirs, _ = pair
    tokens = torch.randint(0, 50_000, (2, 60), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        sound, their_sound = ours.encoder(mel), theirs.encoder(mel)
        assert (sound - their_sound).abs().max() <= 1e-4
        assert (ours.decoder(tokens, sound) - theirs.decoder(tokens, their_sound)).abs().max() <= 1e-3


def test_token_by_token_is_as_all_at_once(pair, sound):
    ours = pair[0]
    tokens = torch.randint(0, 50_000, (4, 30), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole = ours.decoder(tokens, sound.repeat_interleave(2, 0))
        cache = ours.decoder.begin(sound, 4)
        parts = [ours.decoder.step(part, cache) for part in tokens.split((5, 1, 1, 3, 20), 1)]
    assert (ours.decoder.logits(torch.cat(parts, 1)) - whole).abs().max() <= 1e-3


@pytest.mark.parametrize("beams", [None, 5])
@pytest.mark.parametrize(("timestamps", "prompt"), [(True, ""), (False, "What was said before, at some length.")])
def test_decoded_tokens_are_theirs(pair, mel, sound, beams, timestamps, prompt):
    ours, theirs, tokens = pair
    steps = 110
    options = decoding.Options(
        language="en", beam_size=beams, timestamps=timestamps, prompt=prompt, sample_length=steps
    )
    their_options = whisper.DecodingOptions(
        language="en", beam_size=beams, without_timestamps=not timestamps, prompt=prompt, sample_len=steps, fp16=False
    )
    found = decoding.decode(ours, tokens, sound, options)
    for own, window in zip(found, mel, strict=True):
        other = whisper.decode(theirs, window, their_options)  # its beam search takes one window at a time
        assert own.tokens == other.tokens
        assert own.text == other.text
        assert own.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
        assert own.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-5)
        assert own.compression_ratio == other.compression_ratio


def test_detected_languages_are_theirs(pair, mel, sound):
    ours, theirs, tokens = pair
    if not tokens.multilingual:
        with pytest.raises(UserError, match="knows English only"):
            decoding.detect_language(ours, tokens, sound)
        return
    _, probs = whisper.decoding.detect_language(theirs, mel)
    for own, other in zip(decoding.detect_language(ours, tokens, sound), probs, strict=True):
        assert own.keys() == other.keys()
        assert max(abs(own[code] - other[code]) for code in own) <= 1e-4


@pytest.mark.parametrize("latest_first", [None, 50])
def test_rules_of_timestamps_are_theirs_on_random_texts(needs_vocabulary, latest_first):
    tokens = tokenizer.official(51_865)
    theirs = whisper.decoding.ApplyTimestampRules(whisper.tokenizer.get_tokenizer(True), 3, latest_first)
    generator = torch.Generator().manual_seed(0)
    start = torch.tensor([tokens.start("en")])
    for case in range(100):
        rows, length = 50, case % 12
        draws = torch.rand(rows, length, generator=generator)
        times = torch.randint(tokens.timestamp_begin, 51_865, (rows, length), generator=generator)
        times = times.sort(1).values if case % 2 else times
        sampled = torch.where(draws < 0.5, times, (draws * 50_000).long())
        logits = 3 * torch.randn(rows, 51_865, generator=generator)
        logits[:, tokens.timestamp_begin :] += torch.randint(-6, 4, (rows, 1), generator=generator)
        own, other = logits.clone(), logits.clone()
        decoding.forbid_times(own, sampled, tokens, latest_first)
        own[:, tokens.no_timestamps] = -torch.inf
        theirs.apply(other, torch.cat((start.expand(rows, 3), sampled), 1))
        assert torch.equal(own, other)


TEXTS = [
    "Hello, world! It's 3.14 and 1,000,000 — «naïve» café…",
    "Быстрая коричневая лиса",
    "吾輩は猫である。名前はまだ無い。",
    "안녕하세요 여러분",
    "  leading, trailing  and   inner   spaces \n\t lines\n",
    "مرحبا بالعالم",
    "สวัสดีชาวโลก",
    "♪♪ music ♪ <|endoftext|> <|0.00|> 👩‍👩‍👧 🇫🇷",
    "",
]


@pytest.mark.parametrize("n_vocab", [51_864, 51_865, 51_866])
def test_tokens_are_theirs(needs_vocabulary, n_vocab):
    multilingual, languages = n_vocab > 51_864, 100 if n_vocab == 51_866 else 99
    own = tokenizer.official(n_vocab)
    other = whisper.tokenizer.get_tokenizer(multilingual, num_languages=languages, language="ja", task="translate")
    generator = np.random.default_rng(0)
    alphabet = "".join(TEXTS)
    texts = TEXTS + ["".join(generator.choice(list(alphabet), 40)) for _ in range(3000)]
    for text in texts:
        tokens = own.encode(text)
        assert tokens == other.encoding.encode_ordinary(text)
        assert own.decode(tokens) == text
    assert own.encoding.n_vocab == n_vocab
    assert own.start("ja", "translate") == list(other.sot_sequence)
    assert own.start("ja", "translate", timestamps=False) == list(other.sot_sequence_including_notimestamps)
    assert own.non_speech == list(other.non_speech_tokens)
    theirs = dict(zip(other.all_language_codes, other.all_language_tokens, strict=True))
    assert dict(zip(own.languages, own.language_tokens, strict=True)) == theirs
    names = ("eot", "sot", "sot_prev", "no_speech", "no_timestamps", "timestamp_begin")
    assert [getattr(own, name) for name in names] == [getattr(other, name) for name in names]
    times = [other.timestamp_begin + 7, *other.encode(" so"), other.timestamp_begin + 99, other.eot]
    assert (
        own.decode_with_timestamps(times) == other.decode_with_timestamps(times) == "<|0.14|> so<|1.98|><|endoftext|>"
    )
    for text in texts[:500]:
        for language in ("en", "ja"):
            theirs = whisper.tokenizer.get_tokenizer(multilingual, num_languages=languages, language=language)
            split = theirs.split_tokens_on_unicode if language == "ja" else theirs.split_tokens_on_spaces
            words, pieces = split([*own.encode(text), own.eot])
            assert own.split_words([*own.encode(text), own.eot], language) == list(zip(words, pieces, strict=True))


@pytest.mark.parametrize("seconds", [30, 11.3])
def test_word_times_are_theirs(pair, mel, sound, seconds):
    ours, theirs, tokens = pair
    language = "en" if tokens.multilingual else None
    other = whisper.tokenizer.get_tokenizer(tokens.multilingual, num_languages=len(tokens.languages), language=language)
    text = tokens.encode(" Well, it's a \"long\" day (and night): 3 o'clock, isn't it? ¿Sí! Yes.")
    frames = round(seconds * 100)
    expected = whisper.timing.find_alignment(theirs, other, text, mel[0], frames)
    found = timing.align(ours, tokens, text, sound[0], frames // 2, "en")
    assert [(w.text, w.tokens, w.start, w.end) for w in found] == [(w.word, w.tokens, w.start, w.end) for w in expected]
    assert np.allclose([w.probability for w in found], [w.probability for w in expected], atol=1e-6)


def test_warped_ways_are_theirs():
    generator = np.random.default_rng(0)
    for _ in range(50):
        costs = generator.integers(0, 4, generator.integers(1, 30, 2)).astype(float)  # with many ties
        assert np.array_equal(timing.warp(costs), whisper.timing.dtw_cpu(costs))


@pytest.fixture(scope="module")
def recording():
    """45 s of noise that comes and goes."""
    generator = torch.Generator().manual_seed(3)
    loudness = torch.sin(torch.linspace(0, 30, 45 * 16_000)).clamp(min=0) * 0.3
    return (torch.randn(45 * 16_000, generator=generator) * loudness).numpy()


LONG = [
    {},
    {"words": True},
    {"words": True, "silence_limit": 1.0},
    {"previous_text": False, "no_speech_limit": None, "clips": (3.0, 31.5, 40.0)},
    {"prompt": "Almanac, Whisper", "keep_prompt": True},
]


@pytest.mark.parametrize("asked", LONG, ids=str)
def test_long_recordings_are_transcribed_as_by_theirs(needs_vocabulary, recording, asked):
    dims = model.Dims.of_width(64, 1, 2, 51_865)
    ours, theirs = same_weights(dims, 1)
    settings = transcribe.Settings(decoding.Options(language="de", sample_length=24), (0.0,), **asked)
    names = {
        "words": "word_timestamps",
        "silence_limit": "hallucination_silence_threshold",
        "previous_text": "condition_on_previous_text",
        "no_speech_limit": "no_speech_threshold",
        "clips": "clip_timestamps",
        "prompt": "initial_prompt",
        "keep_prompt": "carry_initial_prompt",
    }
    asked = {names[key]: list(value) if key == "clips" else value for key, value in asked.items()}
    expected = theirs.transcribe(recording, temperature=0.0, language="de", sample_len=24, fp16=False, **asked)
    found = transcribe.transcribe(transcribe.Recogniser(ours, tokenizer.official(51_865)), recording, settings)
    assert found.text == expected["text"]
    assert found.language == expected["language"]
    assert len(found.segments) == len(expected["segments"])
    for own, other in zip(found.segments, expected["segments"], strict=True):
        assert (own.id, own.seek, own.text, own.tokens) == tuple(other[key] for key in ("id", "seek", "text", "tokens"))
        assert (own.start, own.end) == pytest.approx((other["start"], other["end"]), abs=1e-9)
        words = [(word["word"], word["start"], word["end"]) for word in other.get("words", [])]
        assert [(word.text, word.start, word.end) for word in own.words or []] == words
