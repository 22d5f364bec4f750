"""Files of sound for tests, written by PyAV: good ones of every kind, and bad ones."""

import wave
import zipfile
from pathlib import Path

import numpy as np

from almanac.whisper import audio


def noise(seconds: float, seed: int = 0) -> audio.Samples:
    """Noise that comes and goes."""
    draw = np.random.default_rng(seed)
    loudness = np.repeat(draw.choice([0.01, 0.1, 0.3], max(1, round(2 * seconds))), audio.SAMPLE_RATE // 2)
    loudness = np.resize(loudness, round(seconds * audio.SAMPLE_RATE))
    return (loudness * draw.normal(0, 0.3, len(loudness)).clip(-3, 3)).astype(np.float32)


def write(path: Path, samples: audio.Samples, codec: str | None = None, rate: int = audio.SAMPLE_RATE) -> Path:
    """Write a recording.

    Args:
        path: its ending says the container.
        samples: mono at `audio.SAMPLE_RATE`.
        codec: default: what is usual in the container.
        rate: samples a second in the file.
    """
    import av

    usual = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".ogg": "libopus", ".webm": "libopus"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec or usual.get(path.suffix, "aac"), rate=rate, layout="mono")
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate, frame_size=960)
        frame = av.AudioFrame.from_ndarray((samples[None] * 32_767).astype(np.int16), format="s16", layout="mono")
        frame.rate = audio.SAMPLE_RATE
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def write_film(path: Path) -> Path:
    """Write a film without sound."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for shade in range(10):
            picture = np.full((32, 32, 3), 20 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def bad(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that no sound can be had from, by what is bad about them, each with what a message about it says."""
    made = {
        "missing": (folder / "missing.wav", "there is no file"),
        "folder": (folder, "is a folder"),
        "empty": (folder / "empty.wav", "is empty"),
        "0 seconds": (folder / "nothing.wav", "holds no sound (0 seconds)"),
        "a film": (write_film(folder / "film.mp4"), "no sound in it (only video)"),
        "a text": (folder / "text.wav", ""),
        "a zip": (folder / "zip.mp3", "not a readable audio file"),
        "random": (folder / "random.mp3", "not a readable audio file"),
        "cut off": (folder / "cut.m4a", "not a readable audio file"),
        "a playlist": (folder / "list.m3u8", ""),
    }
    (folder / "empty.wav").touch()
    with wave.open(str(folder / "nothing.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
    (folder / "text.wav").write_text("These are words, not sounds.\n" * 50)
    with zipfile.ZipFile(folder / "zip.mp3", "w") as archive:
        archive.writestr("a.txt", "text " * 1000)
    (folder / "random.mp3").write_bytes(np.random.default_rng(0).bytes(20_000))
    whole = write(folder / "whole.m4a", noise(3)).read_bytes()
    (folder / "cut.m4a").write_bytes(whole[: len(whole) // 2])  # its table of contents stood at the end
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/never.ts\n#EXT-X-ENDLIST\n")
    return made
