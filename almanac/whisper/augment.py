"""What may happen to speech on its way to a microphone and from there: another speed, a room, noise, a telephone line, a codec; and
SpecAugment on the spectrogram (Park et al. 2019). The paper trains without any but the last (large-v2), since 680,000 hours hold
all of them; small sets do not."""

import contextlib
import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import butter, fftconvolve, sosfilt
from torch import Tensor

from almanac.whisper.audio import SAMPLE_RATE, Samples
from almanac.whisper.noise import Random, Surroundings, background, rms, tilted
from almanac.whisper.speak import resample


@dataclass(frozen=True)
class Augmentation:
    """How often what happens; the defaults are what our presets train with."""

    speed: float = 0.8
    """Share of utterances played faster or slower (their pitch goes along)."""
    slowest: float = 0.84
    fastest: float = 1.2
    tempo: float = 0.5
    """Share of digits one by one that are said faster or slower, at the same pitch."""
    calmest: float = 0.65
    hastiest: float = 1.5
    room: float = 0.3
    """Share of windows in a room."""
    noise: float = 0.5
    """Share with noise behind the speech."""
    snr_db: tuple[float, float] = (0.0, 40.0)
    """Speech over noise."""
    telephone: float = 0.12
    """Share on a telephone line: 300 to 3,400 Hz, μ-law."""
    narrow: float = 0.12
    """Share recorded at 8 kHz."""
    codec: float = 0.06
    """Share through a lossy codec."""
    tilt: float = 0.3
    """Share whose treble or bass is raised or lowered."""
    response: float = 0.5
    """Share heard through a microphone that is louder at some frequencies than at others."""
    throat: float = 0.4
    """Share whose speakers' vocal tracts become longer or shorter."""
    masks: float = 0.5
    """Share with bands of frequency and time masked."""


NONE = Augmentation(
    speed=0.0,
    tempo=0.0,
    room=0.0,
    noise=0.0,
    telephone=0.0,
    narrow=0.0,
    codec=0.0,
    tilt=0.0,
    response=0.0,
    throat=0.0,
    masks=0.0,
)
"""Sound as it is."""


def at_tempo(samples: Samples, factor: float) -> Float[np.ndarray, " said"]:
    """Said faster by a factor; the pitch stays."""
    import av
    from av.filter import Graph

    graph = Graph()
    source = graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono", time_base=Fraction(1, SAMPLE_RATE))
    graph.link_nodes(source, graph.add("atempo", f"{factor:.4f}"), graph.add("abuffersink")).configure()
    padded = np.pad(samples, (0, SAMPLE_RATE // 10)).astype(np.float32)  # the filter keeps a little of the end back
    sound = av.AudioFrame.from_ndarray(padded[None], "flt", "mono")
    sound.sample_rate = SAMPLE_RATE
    graph.push(sound)
    graph.push(None)
    pieces = []
    with contextlib.suppress(av.EOFError):
        while True:
            pieces.append(graph.pull().to_ndarray().reshape(-1))  # pyright: ignore[reportAttributeAccessIssue]
    length = round(len(samples) / factor)
    said = np.concatenate(pieces)[:length]
    return np.pad(said, (0, length - len(said)))


def surroundings(samples: Samples, how: Augmentation, around: Surroundings, draw: Random) -> Samples:
    """A window of speech as it might have been recorded: room, noise, tilt, telephone, codec, level; each by its chance."""
    length = len(samples)
    if draw.random() < how.room:
        samples = in_room(samples, _room(around, draw))[:length]
    if draw.random() < how.tilt:
        samples = tilted(samples, draw.uniform(-6, 6))
    if draw.random() < how.noise:
        samples = with_noise(samples, background(length, around, draw), draw.uniform(*how.snr_db))
    if draw.random() < how.telephone:
        samples = telephone(samples)
    if draw.random() < how.narrow:
        samples = narrow(samples)
    if draw.random() < how.codec:
        samples = through_codec(samples, *CODECS[int(draw.integers(len(CODECS)))])
    if how is NONE:
        return samples
    return np.clip(samples * 10 ** (draw.uniform(-24, 6) / 20), -1, 1).astype(np.float32)


def in_room(samples: Samples, response: Float[np.ndarray, " response"]) -> Samples:
    """Convolved with a room's impulse response, the direct sound where it was."""
    direct = int(np.abs(response).argmax())
    wet = fftconvolve(samples, response)[direct : direct + len(samples)]
    return (wet / (np.abs(response[direct]) + 1e-9)).astype(np.float32)


def _room(around: Surroundings, draw: Random) -> Samples:
    """A recorded room, or noise that dies away in 0.1 to 0.8 s (to −60 dB) behind the direct sound."""
    if around.rooms and draw.random() < 0.5:
        return around.rooms[int(draw.integers(len(around.rooms)))]
    seconds = draw.uniform(0.1, 0.8)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = draw.standard_normal(len(time)) * 10 ** (-3 * time / seconds) * draw.uniform(0.01, 0.08)
    tail[: int(draw.uniform(0.001, 0.01) * SAMPLE_RATE)] = 0
    tail[0] = 1
    return tail.astype(np.float32)


def with_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Noise added, so much weaker than the loud parts of the speech."""
    loud = rms(samples[np.abs(samples) >= 0.1 * np.abs(samples).max()])
    return (samples + noise * (loud / (rms(noise) * 10 ** (snr_db / 20)))).astype(np.float32)


def telephone(samples: Samples) -> Samples:
    """300 to 3,400 Hz, in eight bits of μ-law (G.711)."""
    band = sosfilt(butter(4, (300, 3400), "band", fs=SAMPLE_RATE, output="sos"), samples)
    peak = np.abs(band).max() + 1e-9
    squeezed = np.sign(band) * np.log1p(255 * np.abs(band / peak)) / np.log(256)
    rounded = np.round(squeezed * 127) / 127
    return (np.sign(rounded) * (256 ** np.abs(rounded) - 1) / 255 * peak).astype(np.float32)


CODECS = (("libopus", "ogg", 48_000, 12_000), ("libopus", "ogg", 48_000, 24_000), ("mp3", "mp3", 16_000, 32_000))
"""FFmpeg's name, container, rate (Hz) and bits a second."""


def narrow(samples: Samples) -> Samples:
    """Nothing above 4 kHz."""
    halved = resample(resample(samples, 2.0 * SAMPLE_RATE), SAMPLE_RATE / 2)[: len(samples)]
    return np.pad(halved, (0, len(samples) - len(halved)))


def through_codec(samples: Samples, name: str, container: str, rate: int, bits: int) -> Samples:
    """Encoded and decoded again."""
    import av

    sound = av.AudioFrame.from_ndarray((np.clip(samples, -1, 1) * 32767).astype(np.int16)[None], "s16", "mono")
    sound.sample_rate = SAMPLE_RATE
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(name, rate=rate, layout="mono")
        stream.bit_rate = bits
        resampler = av.AudioResampler(stream.format.name, "mono", rate, stream.codec_context.frame_size or None)
        for frame in [*resampler.resample(sound), *resampler.resample(None), None]:
            out.mux(stream.encode(frame))
    file.seek(0)
    back = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    with av.open(file, "r") as found:
        frames = [block for frame in found.decode(audio=0) for block in back.resample(frame)]
    decoded = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]).astype(np.float32) / 32768
    return np.pad(decoded[: len(samples)], (0, max(0, len(samples) - len(decoded))))


def equalised(mel: Float[Tensor, "mels frames"], draw: Random) -> Float[Tensor, "mels frames"]:
    """Louder or softer by up to 10 dB at six frequencies, and between them accordingly."""
    places = np.linspace(0, len(mel) - 1, 6)
    decibels = np.interp(np.arange(len(mel)), places, draw.uniform(-10, 10, 6))
    return mel + torch.from_numpy(decibels / 40).float()[:, None]


def stretched(mel: Float[Tensor, "mels frames"], factor: float) -> Float[Tensor, "mels frames"]:
    """As a speaker with a shorter vocal tract would sound, whose resonances are higher by a factor, in mels (Jaitly & Hinton 2013)."""
    mels = len(mel)
    source = (torch.arange(mels) / factor).clamp(max=mels - 1)
    below = source.long().clamp(max=mels - 2)
    return torch.lerp(mel[below], mel[below + 1], (source - below)[:, None])


def masked(mel: Float[Tensor, "mels frames"], draw: Random) -> Float[Tensor, "mels frames"]:
    """SpecAugment: two bands of frequency and two of time become the mean."""
    mels, frames = mel.shape
    mel, mean = mel.clone(), mel.mean()
    for _ in range(2):
        width = int(draw.integers(0, max(2, mels * 15 // 80)))
        first = int(draw.integers(0, mels - width))
        mel[first : first + width] = mean
        length = int(draw.integers(0, min(30, frames // 8) + 1))
        first = int(draw.integers(0, frames - length))
        mel[:, first : first + length] = mean
    return mel


def raised_floor(mel: Float[Tensor, "mels frames"], decibels: float) -> Float[Tensor, "mels frames"]:
    """A window's spectrogram as it is in a recording that is so much louder elsewhere (the loudest point sets the floor)."""
    return torch.maximum(mel, mel.max() + decibels / 40 - 2)
