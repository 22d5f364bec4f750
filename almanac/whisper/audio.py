"""Sound in: any container's audio as 16 kHz mono (PyAV decodes it), and the log-mel spectrogram that the encoder reads (paper §2.2;
official `audio.py`). What is heard in it is left to the other rooms."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from almanac.runtime.errors import UserError

SAMPLE_RATE = 16_000
"""Samples a second, of everything."""
WINDOW = 400
"""Samples of a frame's Fourier transform: 25 ms."""
HOP = 160
"""Samples from frame to frame: 10 ms."""
FRAMES_PER_SECOND = SAMPLE_RATE // HOP

Samples = Float[np.ndarray, " samples"]


def read(path: Path | str) -> Samples:
    """The sound of a file as float32 in [−1, 1], mono at `SAMPLE_RATE`; several channels are averaged.

    Args:
        path: an audio or video file of any kind that FFmpeg knows.

    Raises:
        UserError: there is no such file, it is not a media file or has no sound; or nothing of it could be decoded.
    """
    blocks = list(read_blocks(path))
    if not sum(map(len, blocks)):
        raise UserError(f"{path} holds no sound (0 seconds)", "check that the recording is not empty or cut short")
    return np.concatenate(blocks)


def read_blocks(path: Path | str) -> Iterator[Samples]:
    """The same, a piece at a time, so that a long file need not be in memory at once. A file that breaks off in the middle
    gives what could be decoded of it."""
    import av
    from av.error import FFmpegError

    found = Path(path)
    if not found.is_file():
        raise UserError(f"there is no file {path}", "check the path")
    if found.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)", "check that the recording was saved")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    decoded = False
    try:
        with av.open(str(found), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise UserError(f"{path} has no sound in it (only {_streams(container)})", "give a file with audio")
            try:
                for frame in container.decode(audio=0):
                    frame.pts = None  # gaps and jumps in the clock of a stream would make the resampler refuse
                    for block in resampler.resample(frame):
                        decoded = True
                        yield _floats(block)
                for block in resampler.resample(None):
                    yield _floats(block)
            except FFmpegError:
                if not decoded:
                    raise
    except (FFmpegError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a readable audio file ({reason})", "it may be damaged or cut short") from None


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
    window = torch.hann_window(WINDOW, device=audio.device)
    spectrum = torch.stft(audio, WINDOW, HOP, window=window, return_complex=True)[:, :-1]
    mel = mel_filters(n_mels).to(audio.device) @ spectrum.abs() ** 2
    log = mel.clamp(min=1e-10).log10()
    return (torch.maximum(log, log.max() - 8) + 4) / 4


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


def _floats(block: Any) -> Samples:
    return block.to_ndarray().reshape(-1).astype(np.float32) / 32768.0


def _streams(container: Any) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    return ", ".join(str(kind) for kind in kinds) or "nothing"
