"""Whisper beside faster-whisper's engine (ctranslate2 in eight bits) and openai-whisper, on the same random weights and the same work: a
window of 30 s through the encoder, a text of a fixed number of tokens greedily and by beam search, and recordings from sound to text.
Every engine has one thread; they take turns in one process, and what counts is the process's CPU time, so that neither a machine's drift
nor its other work favours one. What eight bits cost in tokens is measured on trained weights."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from almanac.runtime import console, device, results
from almanac.runtime.errors import UserError
from almanac.whisper import audio, data, decoding, evaluate, fast, published, recogniser, tokenizer
from almanac.whisper.decoding import Options
from almanac.whisper.model import SIZES, Whisper
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.train import initialised
from almanac.whisper.transcribe import Settings, transcribe

PEERS = ("faster-whisper", "openai-whisper")
BEAMS = 5


def run(
    *,
    sizes: tuple[str, ...] = ("tiny", "base"),
    tokens: int = 100,
    rounds: int = 5,
    recordings: int = 2,
    phrases: int = 20,
    write: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure Whisper beside faster-whisper (int8) and openai-whisper (float32): CPU seconds on one thread.

    Args:
        sizes: published sizes, filled with random weights.
        tokens: written in each window.
        rounds: times that each engine does each task, in turn.
        recordings: windows of 30 s in the recording that goes from sound to text.
        phrases: phrases a language, on which a trained model in eight bits is compared with itself in float32.
        write: whether to write results/whisper/bench.json.
        seed: of weights and sound.
        json: print one JSON object.
    """
    torch.set_num_threads(1)
    device.resolve("cpu")
    draw = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    trained = recogniser.shipped()
    with console.progress("measuring", 4 * len(sizes) + len(trained), "tasks") as advance:
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                engines = _engines(size, tokens, Path(folder), seed)
                sound = _noise(draw, 30)
                for task, work in (
                    ("encoder, 30 s", lambda engine: engine.encode),
                    (f"greedy, {tokens} tokens", lambda engine: engine.greedy),
                    (f"beam {BEAMS}, {tokens} tokens", lambda engine: engine.beam),
                ):
                    rows += _rows(size, task, {engine.name: work(engine) for engine in engines}, sound, rounds)
                    advance()
                recording = _noise(draw, 30 * recordings)
                whole = {engine.name: engine.transcribe for engine in engines if engine.transcribe}
                rows += _rows(size, f"sound to text, {30 * recordings} s, beam {BEAMS}", whole, recording, rounds)
                advance()
        for name in trained:
            rows.append(_agreement(name, phrases))
            advance()
    if write:
        results.write("whisper", "bench", rows, seed, threads=1)
    console.result({"rows": rows}, json)


@dataclass(frozen=True)
class Engine:
    """A program with the weights, and what it does with 30 s of sound."""

    name: str
    encode: Callable[[audio.Samples], Callable[[], Any]]
    """Each takes the sound, does what does not count, and returns what does."""
    greedy: Callable[[audio.Samples], Callable[[], Any]]
    beam: Callable[[audio.Samples], Callable[[], Any]]
    transcribe: Callable[[audio.Samples], Callable[[], Any]] | None


def _engines(size: str, tokens: int, folder: Path, seed: int) -> list[Engine]:
    torch.manual_seed(seed)
    vocabulary = tokenizer.official(SIZES[size].n_vocab)
    model = initialised(Whisper(SIZES[size])).eval()
    published.save_openai(model, vocabulary, folder / "model.pt", torch.float32)
    published.save_hugging_face(model, vocabulary, folder / "hf", torch.float32)
    fast.prepare(model, "auto")
    return [
        _ours(Recogniser(model, vocabulary), tokens),
        _faster_whisper(folder, vocabulary, tokens),
        _openai(folder / "model.pt", vocabulary, tokens),
    ]


def _ours(found: Recogniser, tokens: int) -> Engine:
    never_ends = (-1, found.tokenizer.eot)

    def encode(samples: audio.Samples) -> Callable[[], Any]:
        mel = audio.log_mel(torch.from_numpy(samples), found.model.dims.n_mels)
        return lambda: found.encode(mel)

    def write(beams: int | None, samples: audio.Samples) -> Callable[[], Any]:
        sound = encode(samples)()
        options = Options(
            "transcribe", "en", sample_length=tokens, beam_size=beams, suppress=never_ends, timestamps=False
        )
        return lambda: _counted(decoding.decode(found.model, found.tokenizer, sound, options)[0].tokens, tokens)

    def whole(samples: audio.Samples) -> Callable[[], Any]:
        options = Options(
            "transcribe", "en", sample_length=tokens, beam_size=BEAMS, suppress=never_ends, timestamps=False
        )
        settings = Settings(options, (0.0,), compression_ratio_limit=None, logprob_limit=None, no_speech_limit=None)
        return lambda: transcribe(found, samples, settings)

    return Engine("almanac", encode, lambda samples: write(None, samples), lambda samples: write(BEAMS, samples), whole)


def _faster_whisper(folder: Path, vocabulary: tokenizer.Tokenizer, tokens: int) -> Engine:
    try:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter
        from faster_whisper import WhisperModel
    except ModuleNotFoundError as error:
        raise UserError(
            f"the peer needs {error.name}, which is not installed", "pip install 'almanac[bench]'"
        ) from None
    copied = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(folder / "hf"), copy_files=copied).convert(str(folder / "ct2"), quantization="int8")
    engine = WhisperModel(str(folder / "ct2"), device="cpu", compute_type="int8", cpu_threads=1)
    start = vocabulary.start("en", timestamps=False)

    def encode(samples: audio.Samples) -> Callable[[], Any]:
        mel = audio.log_mel(torch.from_numpy(samples), engine.model.n_mels)[None].numpy()
        return lambda: engine.model.encode(ctranslate2.StorageView.from_array(mel))

    def write(beams: int, samples: audio.Samples) -> Callable[[], Any]:
        sound = encode(samples)()
        ends = {
            "suppress_tokens": [-1, vocabulary.eot],
            "max_length": 2 * tokens,
        }  # it takes half of that for what is written

        def work() -> None:
            found = engine.model.generate(sound, [start], beam_size=beams, sampling_temperature=0.0, **ends)
            _counted(found[0].sequences_ids[0], tokens)

        return work

    return Engine("faster-whisper", encode, lambda sound: write(1, sound), lambda sound: write(BEAMS, sound), None)


def _openai(path: Path, vocabulary: tokenizer.Tokenizer, tokens: int) -> Engine:
    try:
        import whisper
    except ModuleNotFoundError:
        raise UserError("openai-whisper is not installed", "pip install --no-deps openai-whisper") from None
    model = whisper.load_model(str(path), device="cpu")
    asked: dict[str, Any] = {
        "language": "en", "sample_len": tokens, "suppress_tokens": f"-1,{vocabulary.eot}", "without_timestamps": True,
        "fp16": False,
    }  # fmt: skip

    def encode(samples: audio.Samples) -> Callable[[], Any]:
        mel = whisper.log_mel_spectrogram(samples, model.dims.n_mels)[None]
        return torch.inference_mode()(lambda: model.encoder(mel))

    def write(beams: int | None, samples: audio.Samples) -> Callable[[], Any]:
        sound = encode(samples)()
        options = whisper.DecodingOptions(beam_size=beams, **asked)
        return lambda: _counted(whisper.decode(model, sound, options)[0].tokens, tokens)

    def whole(samples: audio.Samples) -> Callable[[], Any]:
        limits = {"compression_ratio_threshold": None, "logprob_threshold": None, "no_speech_threshold": None}
        return lambda: model.transcribe(samples, temperature=0.0, beam_size=BEAMS, **limits, **asked)

    return Engine("openai-whisper", encode, lambda sound: write(None, sound), lambda sound: write(BEAMS, sound), whole)


def _counted(written: Sequence[int], tokens: int) -> None:
    """Engines count lengths in their own ways; the same work it is only if as much was written."""
    assert len(written) == tokens, f"{len(written)} tokens were written, not {tokens}"


def _rows(
    size: str,
    task: str,
    engines: dict[str, Callable[[audio.Samples], Callable[[], Any]]],
    sound: audio.Samples,
    rounds: int,
) -> list[dict[str, Any]]:
    """A row an engine: the median of its CPU time, and of ours over its own in the same round."""
    work = {name: prepare(sound) for name, prepare in engines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, task_of in work.items():
            started = time.process_time()
            task_of()
            seconds[name].append(time.process_time() - started)
    ours = seconds["almanac"][1:]  # the first round warms up, and is not counted
    return [
        {
            "size": size,
            "task": task,
            "engine": name,
            "cpu_seconds": round(statistics.median(own[1:]), 4),
            "ours_over_it": round(statistics.median(a / b for a, b in zip(ours, own[1:], strict=True)), 3),
        }
        for name, own in seconds.items()
    ]


def _agreement(name: str, phrases: int) -> dict[str, Any]:
    """Of the tokens that a trained model in float32 writes greedily, how many the same model in eight bits would write in their place; and
    how many whole texts are the same when each goes its own way."""
    exact, quick = recogniser.load(name, "cpu"), recogniser.load(name, "cpu", "int8")
    known = [code for code in data.ACCENTS if code in exact.tokenizer.languages]
    clips = [clip for code in known for clip in evaluate.spoken(code, phrases)]
    total = agreed = same = 0
    for clip in clips:
        mel = audio.log_mel(torch.from_numpy(clip.read()), exact.model.dims.n_mels)
        options = Options(language=clip.language)
        text, own = (
            decoding.decode(it.model, it.tokenizer, it.encode(mel), options)[0].tokens for it in (exact, quick)
        )
        same += text == own
        agreed += int((_choices(exact, mel, clip.language, text) == _choices(quick, mel, clip.language, text)).sum())
        total += len(text) + 1
    return {
        "size": name,
        "task": "int8 beside float32, trained",
        "engine": "almanac",
        "tokens": total,
        "same_tokens": round(agreed / total, 4),
        "same_texts": round(same / len(clips), 4),
    }


@torch.inference_mode()
def _choices(found: Recogniser, mel: torch.Tensor, language: str, text: Sequence[int]) -> torch.Tensor:
    """The likeliest token at each place of a text, the end among them."""
    start = found.tokenizer.start(language)
    logits = found.model.decoder(torch.tensor([[*start, *text]]), found.encode(mel))[0, len(start) - 1 :]
    rules = decoding.Rules(found.model, found.tokenizer, Options(language=language))
    for place, row in enumerate(logits):
        rules.apply(row[None], torch.tensor([text[:place]], dtype=torch.long))
    return logits.argmax(-1)


def _noise(draw: np.random.Generator, seconds: int) -> Float[np.ndarray, " samples"]:
    return (draw.normal(0, 0.1, seconds * audio.SAMPLE_RATE)).astype(np.float32)
