"""Where in a recording somebody speaks, and where to cut it. Silero's network (MIT) tells how likely each 32 ms hold speech: a spectrum,
four convolutions and an LSTM. Its 310,000 weights come with the package silero-vad, whose code is not imported, for that would set
PyTorch's threads. Which parts are then transcribed, and how, is `transcribe`'s."""

from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from almanac.runtime.errors import UserError
from almanac.whisper import audio

Stretch = tuple[int, int]
"""The first frame (10 ms) of a part of a recording, and the one after its last."""

CHUNK = 512
"""Samples of which the network tells at once: 32 ms."""
BEGINS, ENDS = 0.4, 0.25
"""Speech begins above the one and ends below the other. Higher, words in noise are lost; lower, noise is taken for speech (docs/log.md)."""
SHORTEST = 3
"""Chunks; fewer above `BEGINS` are a click."""
PADDING = 30
"""Frames that are kept before and after speech: its faint beginnings and ends."""
BRIDGED = 0.1
"""Of a window; a shorter pause between stretches is kept where both fit into one, so that not every sentence takes one of its own."""
_CONTEXT = 64
"""Samples before a chunk that the network hears again."""
_BLOCK = 4096
"""Chunks that are computed at once: 2 minutes."""


def speech(samples: audio.Samples | audio.Pcm) -> list[Stretch]:
    """The stretches of a recording in which somebody speaks, in order and apart."""
    likely = probabilities(samples)
    found: list[Stretch] = []
    for first, last in _runs(likely > ENDS):
        if (likely[first:last] > BEGINS).sum() < SHORTEST:
            continue
        begin = max(0, first * CHUNK // audio.HOP - PADDING)
        end = min(len(samples) // audio.HOP, -(-last * CHUNK // audio.HOP) + PADDING)
        if found and begin <= found[-1][1]:
            begin = found.pop()[0]
        found.append((begin, end))
    return found


@torch.inference_mode()
def probabilities(samples: audio.Samples | audio.Pcm) -> Float[np.ndarray, " chunks"]:
    """How likely each `CHUNK` holds speech; the last one is filled up with silence."""
    network, state = _network(), None
    likely = np.empty(-(-len(samples) // CHUNK), np.float32)
    for first in range(0, len(likely), _BLOCK):
        begin, end = first * CHUNK, (first + _BLOCK) * CHUNK
        part = torch.from_numpy(audio.floats(samples[max(0, begin - _CONTEXT) : end]))
        before = _CONTEXT if first == 0 else 0
        filled = F.pad(part, (before, (_CONTEXT - before - len(part)) % CHUNK))
        found, state = network(filled.unfold(0, _CONTEXT + CHUNK, CHUNK), state)
        likely[first : first + _BLOCK] = found.numpy()
    return likely


def joined(stretches: Iterable[Stretch], longest: int) -> list[Stretch]:
    """Stretches with their neighbours, where the pause between them is short and all of it no longer than `longest` frames."""
    found: list[Stretch] = []
    for begin, end in stretches:
        if found and begin - found[-1][1] <= BRIDGED * longest and end - found[-1][0] <= longest:
            begin = found.pop()[0]
        found.append((begin, end))
    return found


def cut(samples: audio.Samples | audio.Pcm, stretch: Stretch, longest: int) -> list[Stretch]:
    """A stretch in pieces of at most `longest` frames, each cut off in its later half, at the quietest moment there."""
    pieces, (begin, end) = [], stretch
    while end - begin > longest:
        middle = begin + longest // 2
        at = middle + _quietest(samples[middle * audio.HOP : (begin + longest) * audio.HOP])
        pieces.append((begin, at))
        begin = at
    return [*pieces, (begin, end)]


class Silero(nn.Module):
    """Silero's network for 16 kHz, version 5 (github.com/snakers4/silero-vad); modules are named as in its file."""

    def __init__(self):
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(
        self, chunks: Float[Tensor, "chunks samples"], state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Float[Tensor, " chunks"], tuple[Tensor, Tensor]]:
        """How likely successive chunks, each with its context before it, hold speech; and what to remember of them."""
        real, imaginary = self.stft_conv(F.pad(chunks, (0, 64), mode="reflect")[:, None]).chunk(2, 1)
        x = (real**2 + imaginary**2).sqrt()
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = convolution(x).relu()
        hidden, remembered = self.lstm_cell(x[:, None, :, 0], state)
        return self.final_conv(hidden[:, 0, :, None].relu())[:, 0, 0].sigmoid(), remembered


@cache
def _network() -> Silero:
    try:
        path = metadata.distribution("silero-vad").locate_file("silero_vad/data/silero_vad_16k.safetensors")
        tensors = load_file(Path(str(path)))
    except (metadata.PackageNotFoundError, OSError):
        hint = "pip install 'silero-vad>=6.2.3,<7', or go without --vad"
        raise UserError("the package silero-vad is not installed, whose weights tell where speech is", hint) from None
    network = Silero()
    with_layer = {f"{name}_l0" if name.startswith("lstm_cell") else name: tensor for name, tensor in tensors.items()}
    network.load_state_dict(with_layer)
    return network.eval()


def _runs(mask: np.ndarray) -> Iterable[tuple[int, int]]:
    """Where a mask is true: from, up to."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _quietest(samples: audio.Samples | audio.Pcm) -> int:
    """The middle of the quietest 0.3 s, in frames."""
    frames = len(samples) // audio.HOP
    power = (audio.floats(samples[: frames * audio.HOP]).reshape(frames, audio.HOP) ** 2).mean(1, dtype=np.float64)
    width = min(30, frames)
    until = np.concatenate(([0.0], power.cumsum()))
    return int((until[width:] - until[:-width]).argmin()) + width // 2
