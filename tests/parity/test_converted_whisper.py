"""Models of ours in published layouts, run by the programs that those are made for."""

import json

import numpy as np
import pytest
import torch

from almanac.whisper import audio, decoding, evaluate, published, recogniser, segments
from almanac.whisper import tokenizer as tokenizers
from almanac.whisper.model import Dims
from tests.parity.test_openai_whisper import needs_vocabulary, same_weights  # noqa: F401
from tests.whisper import untrained

transformers = pytest.importorskip("transformers")

STEPS = 40


@pytest.fixture(scope="module", params=[51_864, 51_865, 51_866])
def official(request, needs_vocabulary):  # noqa: F811
    """A model of ours with an official vocabulary: English, multilingual, and like large-v3."""
    mels = 128 if request.param == 51_866 else 80
    model, _ = same_weights(Dims.of_width(64, 1, 2, request.param, mels=mels))
    model.alignment_heads = published.head_mask(model.dims, [(1, 0)])
    return recogniser.Recogniser(model, tokenizers.official(request.param))


@pytest.fixture(scope="module")
def folder(official, tmp_path_factory):
    """It, as Hugging Face's folder."""
    path = tmp_path_factory.mktemp("converted") / "hf"
    published.save_hugging_face(official.model, official.tokenizer, path, torch.float32)
    return path


def growing_noise(model) -> audio.Samples:
    samples = round(model.dims.seconds * audio.SAMPLE_RATE)
    return (np.random.default_rng(0).normal(0, 0.3, samples) * np.linspace(0, 1, samples)).astype(np.float32)


def heard(found: recogniser.Recogniser, timestamps: bool) -> decoding.Decoded:
    """What we make of a window of noise."""
    mel = audio.log_mel(torch.from_numpy(growing_noise(found.model)), found.model.dims.n_mels)
    options = decoding.Options(language="en", timestamps=timestamps, sample_length=STEPS)
    return decoding.decode(found.model, found.tokenizer, found.encode(mel), options)[0]


def heard_by_transformers(folder, found: recogniser.Recogniser, timestamps: bool) -> list[int]:
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    sound = processor(growing_noise(found.model), sampling_rate=audio.SAMPLE_RATE, return_tensors="pt")
    asked = {"language": "en", "task": "transcribe"} if found.tokenizer.multilingual else {}
    tokens = model.generate(
        sound.input_features, return_timestamps=timestamps, max_new_tokens=STEPS, num_beams=1, do_sample=False, **asked
    )
    return [token for token in tokens[0].tolist() if token != found.tokenizer.eot]


@pytest.mark.parametrize("timestamps", [False, True])
def test_transformers_hears_the_same(official, folder, timestamps):
    own = whole(official, heard(official, timestamps)) if timestamps else heard(official, timestamps).tokens
    assert len(own) > 5
    assert heard_by_transformers(folder, official, timestamps)[: len(own)] == own


def whole(found: recogniser.Recogniser, decoded: decoding.Decoded) -> list[int]:
    """The tokens of the segments that are whole: after them, transformers listens anew, as `transcribe` does."""
    cut, _, _ = segments.cut(found.tokenizer, 0, found.model.dims.frames, decoded)
    return [token for segment in cut for token in segment.tokens]


def test_transformers_reads_and_writes_the_same_tokens(official, folder):
    theirs = transformers.WhisperProcessor.from_pretrained(folder).tokenizer
    alphabet = list("It's 3.14, naïve café… Лиса 吾輩は猫 안녕 สวัสดี 👩‍👧🇫🇷\n\t  the of and in")
    draw = np.random.default_rng(0)
    for text in ["", " ", "Hello, world!", *("".join(draw.choice(alphabet, 30)) for _ in range(2000))]:
        tokens = official.tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == tokens
        assert theirs.decode(tokens) == text
    start = official.tokenizer.start("en", "translate")
    if official.tokenizer.multilingual:
        theirs.set_prefix_tokens("en", "translate", predict_timestamps=True)
    assert theirs("").input_ids[: len(start)] == start
    times = [
        official.tokenizer.timestamp_begin + 7,
        *official.tokenizer.encode(" so"),
        official.tokenizer.timestamp_begin + 99,
    ]
    assert theirs.decode(times, decode_with_timestamps=True) == "<|0.14|> so<|1.98|>"
    assert theirs.decode(times, skip_special_tokens=True) == " so"


def test_a_model_with_a_vocabulary_and_window_of_its_own_runs_in_transformers(tmp_path):
    import tokenizers as theirs

    small = untrained.small()
    published.save_hugging_face(small.model, small.tokenizer, tmp_path, torch.float32)
    own = whole(small, heard(small, timestamps=True))
    assert len(own) > 5
    assert heard_by_transformers(tmp_path, small, timestamps=True)[: len(own)] == own
    other = theirs.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("tala besi bako", " imu belu ÿ 日本", ""):
        assert other.encode(text, add_special_tokens=False).ids == small.tokenizer.encode(text)


def test_faster_whisper_hears_the_same(official, folder, tmp_path):
    faster_whisper = pytest.importorskip("faster_whisper")
    from ctranslate2.converters import TransformersConverter

    files = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(folder), copy_files=files).convert(str(tmp_path / "ct2"))
    model = faster_whisper.WhisperModel(str(tmp_path / "ct2"), device="cpu", compute_type="float32", cpu_threads=1)
    limits = {"no_speech_threshold": None, "log_prob_threshold": None, "compression_ratio_threshold": None}
    found, _ = model.transcribe(
        growing_noise(official.model), beam_size=1, temperature=0.0, without_timestamps=True, language="en", **limits
    )
    own = heard(official, timestamps=False).tokens
    assert next(iter(found)).tokens[: len(own)] == own
    if official.tokenizer.multilingual:
        mel = audio.log_mel(torch.from_numpy(growing_noise(official.model)), official.model.dims.n_mels)
        ours = decoding.detect_language(official.model, official.tokenizer, official.encode(mel))[0]
        theirs = dict(model.detect_language(growing_noise(official.model))[2])
        assert max(abs(ours[code] - theirs[code]) for code in ours) <= 1e-4
    config = json.loads((tmp_path / "ct2" / "config.json").read_text())
    assert config["alignment_heads"] == [[1, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_openai_whisper_hears_the_same(official, tmp_path, dtype):
    whisper = pytest.importorskip("whisper")
    published.save_openai(official.model, official.tokenizer, tmp_path / "model.pt", dtype)
    theirs = whisper.load_model(str(tmp_path / "model.pt"), device="cpu")
    again = recogniser.load(str(tmp_path / "model.pt"), "cpu")
    mel = whisper.log_mel_spectrogram(growing_noise(again.model), again.model.dims.n_mels)
    options = whisper.DecodingOptions(language="en", sample_len=STEPS, fp16=False)
    assert heard(again, timestamps=True).tokens == whisper.decode(theirs, mel, options).tokens


@pytest.mark.parametrize("kind", ["small", "official"])
def test_a_model_comes_back_as_it_was(kind, official, tmp_path):
    first = untrained.small() if kind == "small" else official
    published.save_hugging_face(first.model, first.tokenizer, tmp_path / "hf", torch.float32)
    published.save_openai(first.model, first.tokenizer, tmp_path / "own.pt", torch.float32)
    for path in (tmp_path / "hf", tmp_path / "own.pt"):
        again = recogniser.load(str(path), "cpu")
        assert again.model.dims == first.model.dims
        assert torch.equal(again.model.alignment_heads, first.model.alignment_heads)
        assert again.tokenizer.ranks == first.tokenizer.ranks
        assert again.tokenizer.languages == first.tokenizer.languages
        assert again.tokenizer.multilingual == first.tokenizer.multilingual
        for name, tensor in first.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], tensor), name


def test_what_was_published_in_half_precision_is_written_as_it_was(official, tmp_path):
    published.save_openai(official.model, official.tokenizer, tmp_path / "a.pt", torch.float16)
    first = recogniser.load(str(tmp_path / "a.pt"), "cpu")
    published.save_hugging_face(first.model, first.tokenizer, tmp_path / "hf", torch.float32)
    second = recogniser.load(str(tmp_path / "hf"), "cpu")
    published.save_openai(second.model, second.tokenizer, tmp_path / "b.pt", torch.float16)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.fixture(scope="module")
def shipped(needs_vocabulary):  # noqa: F811
    """The model of ours that other programs can run."""
    return recogniser.load("multitask-30s", "cpu")


@pytest.fixture(scope="module")
def phrases():
    """One in each of three languages, by a voice that training did not hear."""
    return [evaluate.spoken(language, 1)[0] for language in ("en", "de", "fr")]


@pytest.fixture(scope="module")
def understood(shipped, phrases):
    """What we hear of them, which is nearly what was said."""
    heard = list(evaluate.listen(shipped, phrases, decoding.Options()))
    assert evaluate.score(heard)["cer"] < 0.2, [(each.clip.text, each.text) for each in heard]
    return [each.text for each in heard]


def test_openai_whisper_understands_the_shipped_model(shipped, phrases, understood, tmp_path):
    whisper = pytest.importorskip("whisper")
    published.save_openai(shipped.model, shipped.tokenizer, tmp_path / "model.pt", torch.float32)
    model = whisper.load_model(str(tmp_path / "model.pt"), device="cpu")
    for phrase, own in zip(phrases, understood, strict=True):
        said = model.transcribe(phrase.read(), language=phrase.language, fp16=False)
        assert said["text"].strip() == own


def test_faster_whisper_and_transformers_understand_the_shipped_model(shipped, phrases, understood, tmp_path):
    faster_whisper = pytest.importorskip("faster_whisper")
    from ctranslate2.converters import TransformersConverter

    published.save_hugging_face(shipped.model, shipped.tokenizer, tmp_path / "hf", torch.float32)
    files = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(tmp_path / "hf"), copy_files=files).convert(str(tmp_path / "ct2"))
    faster = faster_whisper.WhisperModel(str(tmp_path / "ct2"), device="cpu", compute_type="float32", cpu_threads=1)
    listen = transformers.pipeline("automatic-speech-recognition", str(tmp_path / "hf"))
    for phrase, own in zip(phrases, understood, strict=True):
        found, about = faster.transcribe(phrase.read(), beam_size=1)
        assert about.language == phrase.language
        assert "".join(segment.text for segment in found).strip() == own
        asked = {"language": phrase.language, "task": "transcribe"}
        assert listen(phrase.read(), return_timestamps=True, generate_kwargs=asked)["text"].strip() == own
