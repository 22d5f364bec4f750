"""The review's picture of the multitask format, of one of our models: what is heard, as the encoder sees it, and the tokens that the
decoder wrote for it, in each of four tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from almanac.whisper import audio
from almanac.whisper.audio import Samples
from almanac.whisper.decoding import Options, decode
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.tokenizer import Task, Tokenizer

_COLOURS = {
    "start": "#40434d",
    "language": "#d9822b",
    "task": "#2f6fb0",
    "time": "#3f9b6c",
    "text": "#e9e6de",
    "none": "#b3402a",
}
_ROWS = 4
"""Lines of tokens below a spectrogram, at most."""


@dataclass(frozen=True)
class Heard:
    """A window and what was made of it."""

    title: str
    samples: Samples
    tokens: list[tuple[str, str]]
    """Kind (a key of `_COLOURS`) and text of every token, the start of transcript and the end of text among them."""


def hear(recogniser: Recogniser, samples: Samples, title: str, task: Task = "transcribe") -> Heard:
    """Decode a window greedily, its language detected, and keep every token.

    Args:
        recogniser: the model.
        samples: at most a window of sound.
        title: what it is.
        task: what to do with it.
    """
    tokens = recogniser.tokenizer
    mel = audio.log_mel(torch.from_numpy(samples), recogniser.model.dims.n_mels)
    found = decode(recogniser.model, tokens, recogniser.encode(mel), Options(task=task))[0]
    if found.no_speech_prob > 0.6:
        return Heard(title, samples, [("start", "start"), ("none", "no speech"), ("start", "end")])
    written = [*tokens.start(found.language, task), *found.tokens, tokens.eot]
    return Heard(title, samples, [_named(tokens, token) for token in written])


def _named(tokens: Tokenizer, token: int) -> tuple[str, str]:
    text = tokens.decode_with_timestamps([token])
    if token < tokens.eot:
        return "text", text.strip() or "␣"
    name = text.removeprefix("<|").removesuffix("|>")
    if token >= tokens.timestamp_begin:
        return "time", name
    if token in tokens.language_tokens:
        return "language", name
    if token in (tokens.special("transcribe"), tokens.special("translate")):
        return "task", name
    return "start", {"startoftranscript": "start", "endoftext": "end"}.get(name, name)


def draw_multitask(heard: Sequence[Heard], path: Path) -> Path:
    """Each window's spectrogram, and below it its tokens in their colours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(11, 2.7 * len(heard)), layout="constrained")
    for part, one in zip(figure.subfigures(len(heard), 1, squeeze=False)[:, 0], heard, strict=True):
        above, below = part.subplots(2, 1, height_ratios=(1.1, 1))
        mel = audio.log_mel(torch.from_numpy(one.samples)).numpy()
        seconds = len(one.samples) / audio.SAMPLE_RATE
        above.imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(mel)))
        above.set_title(one.title, fontsize=10, loc="left")
        above.set_yticks(())
        above.tick_params(labelsize=7)
        above.set_xlabel("s", fontsize=7, labelpad=0)
        _write_tokens(below, one.tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _write_tokens(axes: Any, tokens: Sequence[tuple[str, str]]) -> None:
    """Tokens as boxes, from left to right and line after line."""
    axes.set(xlim=(0, 100), ylim=(_ROWS, 0))
    axes.axis("off")
    x, line = 0.0, 0
    for kind, text in tokens:
        width = 1.6 + 0.95 * len(text)
        if x + width > 100:
            x, line = 0.0, line + 1
        if line == _ROWS:
            break
        light = kind == "text"
        axes.text(
            x + width / 2,
            line + 0.5,
            text,
            ha="center",
            va="center",
            fontsize=8,
            color="#1c1d22" if light else "white",
            bbox={"boxstyle": "round,pad=0.28", "facecolor": _COLOURS[kind], "edgecolor": "none"},
        )
        x += width + 0.9


def whole_seconds(samples: Samples, seconds: float) -> Samples:
    """Sound cut, or filled with silence, to a length."""
    length = round(seconds * audio.SAMPLE_RATE)
    return np.pad(samples[:length], (0, max(0, length - len(samples))))
