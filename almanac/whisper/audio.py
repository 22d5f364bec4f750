"""Sound in: any container's audio as 16 kHz mono (PyAV decodes it), and the log-mel spectrogram that the encoder reads (paper §2.2;
official `audio.py`), of recordings of any length. What is heard in it is left to the other rooms."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int16
from torch import Tensor

from almanac.runtime import console
from almanac.runtime.errors import UserError

SAMPLE_RATE = 16_000
"""Samples a second, of everything."""
WINDOW = 400
"""Samples of a frame's Fourier transform: 25 ms."""
HOP = 160
"""Samples from frame to frame: 10 ms."""
FRAMES_PER_SECOND = SAMPLE_RATE // HOP

Samples = Float[np.ndarray, " samples"]
"""Sound in [−1, 1], mono at `SAMPLE_RATE`."""
Pcm = Int16[np.ndarray, " samples"]
"""The same in 16 bits, as it comes out of a file: half the memory, 115 MB an hour."""
_PCM_RANGE = 32_768
_MISSING = 0.5
"""s; a file that is so much shorter than it says, and by 1 %, is damaged."""
_BLOCK = 12_000
"""Frames in which `LogMel` looks for the loudest at once: 2 minutes, 50 MB."""


def read(path: Path | str) -> Samples:
    """The sound of a file as float32 in [−1, 1], mono at `SAMPLE_RATE`; several channels are averaged.

    Of a file that is damaged or breaks off, this is what can be decoded, and a remark says so.

    Args:
        path: an audio or video file of any kind that FFmpeg knows.

    Raises:
        UserError: there is no such file, it is not a media file or has no sound; or nothing of it could be decoded.
    """
    return floats(read_pcm(path))


def read_pcm(path: Path | str) -> Pcm:
    """The same in 16 bits, for recordings of hours: they lie in a temporary file, of which memory holds what is being used.

    Raises:
        UserError: see `read`; or there is no room for that file.
    """
    try:
        with tempfile.TemporaryFile() as held:
            for block in _decoded(path):
                held.write(block.tobytes())
            held.flush()
            if held.tell():
                return np.asarray(np.memmap(held, np.int16, "c"))
    except OSError as error:
        what = f"{path} does not fit into {tempfile.gettempdir()} as plain sound ({error.strerror})"
        raise UserError(what, "free some space (115 MB an hour), or set TMPDIR to another folder") from None
    raise UserError(f"{path} holds no sound (0 seconds)", "check that the recording is not empty or cut short")


def read_blocks(path: Path | str) -> Iterator[Samples]:
    """The same as `read`, a piece at a time, so that a long file need not be in memory at once."""
    return map(floats, _decoded(path))


def floats(samples: Samples | Pcm) -> Samples:
    """Sound as float32 in [−1, 1]."""
    return samples.astype(np.float32) / _PCM_RANGE if samples.dtype == np.int16 else samples


def _decoded(path: Path | str) -> Iterator[Pcm]:
    import av
    from av.error import FFmpegError

    found = Path(path)
    if not found.is_file():
        what = f"{path} is a folder" if found.is_dir() else f"there is no file {path}"
        raise UserError(what, "give the path of an audio or video file")
    if found.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)", "check that the recording was saved")
    heard, damage = 0, ""
    try:
        # a playlist must not lead to the network; and an absolute path is no URL, whatever is in its name
        options = {"protocol_whitelist": "file"}
        with av.open(str(found.absolute()), metadata_errors="ignore", options=options) as container:
            if not container.streams.audio:
                raise UserError(f"{path} has no sound in it (only {_streams(container)})", "give a file with audio")
            declared = _declared_seconds(container)
            resampler, setup = _resampler(), None
            for frame in _frames(container):
                if isinstance(frame, FFmpegError):
                    damage = _reason(frame)
                    continue
                frame.pts = None  # gaps and jumps in the clock of a stream would make the resampler refuse
                if setup not in (None, _setup(frame)):  # as where files were joined
                    yield from map(_flat, resampler.resample(None))
                    resampler = _resampler()
                setup = _setup(frame)
                for block in resampler.resample(frame):
                    heard += block.samples
                    yield _flat(block)
            if setup is not None:
                yield from map(_flat, resampler.resample(None))
            if damage and not heard:
                raise UserError(f"{path} is not a readable audio file ({damage})", "it may be damaged")
    except (FFmpegError, UnicodeDecodeError) as error:
        hint = "it may be damaged, cut short, or another kind of file than its name says"
        raise UserError(f"{path} is not a readable audio file ({_reason(error)})", hint) from None
    missing = (declared or 0) - heard / SAMPLE_RATE
    if missing > max(_MISSING, 0.01 * (declared or 0)):
        console.log(f"{path} is damaged or cut short: {missing:.1f} s of {declared:.1f} s are missing")
    elif damage:
        console.log(f"{path} is damaged in places, which are left out ({damage})")


def _frames(container: Any) -> Iterator[Any]:
    """Decoded frames, and the errors of what could not be decoded between them; an error in the container ends it."""
    from av.error import FFmpegError

    packets = container.demux(container.streams.audio[0])
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            yield error
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except FFmpegError as error:
            yield error


def _resampler() -> Any:
    import av

    return av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)


def _setup(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _declared_seconds(container: Any) -> float | None:
    """How long the sound should last; None where the file does not say."""
    stream = container.streams.audio[0]
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # the whole may last as long as its pictures
    return container.duration / 1e6 if alone and container.duration is not None else None


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def log_mel(audio: Float[Tensor, " samples"], n_mels: int = 80, padding: int = 0) -> Float[Tensor, "mels frames"]:
    """The log-mel spectrogram, 100 frames a second, of roughly unit range.

    The loudest point of all that is given sets the floor, 80 dB below it: a whole file and a window of it differ there.

    Args:
        audio: mono at `SAMPLE_RATE`, in [−1, 1].
        n_mels: 80, or 128 for large-v3 and turbo.
        padding: samples of silence to add at the end.
    """
    audio = F.pad(audio, (0, padding))
    if len(audio) <= WINDOW // 2:  # reflection at the edges needs more than half a window
        audio = F.pad(audio, (0, WINDOW // 2 + 1 - len(audio)))
    edge = WINDOW // 2
    mirrored = F.pad(audio[None], (edge, edge), mode="reflect")[0]
    log = _log_power(mirrored, n_mels)[:, : len(audio) // HOP]
    return _scaled(log, log.max())


class LogMel:
    """The log-mel spectrogram of a recording of any length, made where it is asked for: the frames of `log_mel` of the whole, with
    no more than a part of it in memory.

    Args:
        samples: the recording; silence follows it.
        n_mels: 80, or 128 for large-v3 and turbo.
        device: where it is computed.
    """

    def __init__(self, samples: Samples | Pcm, n_mels: int, device: torch.device):
        self._samples, self._n_mels, self._device = samples, n_mels, device
        self.frames = len(samples) // HOP
        """How many there are before the silence."""
        last = self.frames + WINDOW // (2 * HOP) + 1  # frames of the silence hear the end
        blocks = ((first, min(first + _BLOCK, last)) for first in range(0, last, _BLOCK))
        # numbers, not tensors: those that stay between large ones that go would scatter the memory
        self._loudest = torch.tensor(max(self._log(*block).max().item() for block in blocks), device=device)

    def __call__(self, first: int, last: int) -> Float[Tensor, "mels frames"]:
        """The frames from `first` up to `last`, which may lie in the silence behind the recording."""
        return _scaled(self._log(first, last), self._loudest)

    def _log(self, first: int, last: int) -> Float[Tensor, "mels frames"]:
        edge = WINDOW // 2
        begin, end = first * HOP - edge, (last - 1) * HOP + edge
        part = torch.from_numpy(floats(self._samples[max(0, begin) : max(0, end)])).to(self._device)
        part = F.pad(part, (0, end - max(0, begin) - len(part)))
        if begin < 0:
            part = F.pad(part, (0, max(0, edge + 1 - len(part))))  # reflection needs more than it mirrors
            part = F.pad(part[None], (-begin, 0), mode="reflect")[0][: end - begin]
        return _log_power(part, self._n_mels)


def _log_power(audio: Float[Tensor, " samples"], n_mels: int) -> Float[Tensor, "mels frames"]:
    """Base-10 logarithm of the power in each mel filter, of every whole window."""
    window = torch.hann_window(WINDOW, device=audio.device)
    spectrum = torch.stft(audio, WINDOW, HOP, window=window, center=False, return_complex=True)
    mel = mel_filters(n_mels).to(audio.device) @ spectrum.abs() ** 2
    return mel.clamp(min=1e-10).log10()


def _scaled(log: Float[Tensor, "mels frames"], loudest: Float[Tensor, ""]) -> Float[Tensor, "mels frames"]:
    """Of roughly unit range, cut off 80 dB below the loudest."""
    return (torch.maximum(log, loudest - 8) + 4) / 4


@cache
def mel_filters(n_mels: int) -> Float[Tensor, "mels frequencies"]:
    """Triangular filters, even on Slaney's mel scale from 0 Hz to 8 kHz and of equal area (Slaney's Auditory Toolbox, as librosa
    has them by default)."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    corners = _hertz(np.linspace(0, _mel(SAMPLE_RATE / 2), n_mels + 2))
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return torch.from_numpy(triangles.astype(np.float32))


_LINEAR_BELOW = 1000.0
"""Hz; below, the scale is linear, 200/3 Hz a mel; above, logarithmic, 27 mels for a factor of 6.4."""
_MELS_BELOW = _LINEAR_BELOW * 3 / 200


def _mel(hertz: float) -> float:
    return _MELS_BELOW + np.log(hertz / _LINEAR_BELOW) * 27 / np.log(6.4) if hertz >= _LINEAR_BELOW else hertz * 3 / 200


def _hertz(mels: Float[np.ndarray, " corners"]) -> Float[np.ndarray, " corners"]:
    return np.where(
        mels >= _MELS_BELOW, _LINEAR_BELOW * np.exp((mels - _MELS_BELOW) * np.log(6.4) / 27), mels * 200 / 3
    )


def fit_frames(mel: Float[Tensor, "*batch mels frames"], frames: int) -> Float[Tensor, "*batch mels {frames}"]:
    """A spectrogram cut, or filled with zeros, to so many frames."""
    return F.pad(mel[..., :frames], (0, max(0, frames - mel.shape[-1])))


def _flat(block: Any) -> Pcm:
    return block.to_ndarray().reshape(-1)


def _streams(container: Any) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    return ", ".join(str(kind) for kind in kinds) or "nothing"
