"""A recording and its transcript as HTML: a player, segments and words with the times at which they are said, which `player.js` lights up
while the sound plays and seeks to when they are clicked, the spectrogram that the model heard, and subtitles to download."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from almanac.whisper import audio, languages, subtitles
from almanac.whisper.timing import Word
from almanac.whisper.tokenizer import Task
from almanac.whisper.transcript import Segment, Transcript

SCRIPT = Path(__file__).with_name("player.js").read_text(encoding="utf-8")
"""What makes the HTML below alive, as `gr.HTML(js_on_load=…)` takes it."""
PICTURED = 30.0
"""s at the beginning of a recording whose spectrogram is shown; a picture of more is larger than its page."""

_CLAIMED = 0.01
"""Languages that are less likely than this are not mentioned."""
_KINDS = {"txt": "text/plain", "vtt": "text/vtt", "tsv": "text/tab-separated-values", "json": "application/json"}


def recording(title: str, seconds: float, url: str) -> str:
    """The sound itself.

    Args:
        title: what it is.
        seconds: its length.
        url: where the browser gets it, as WAV.
    """
    return (
        f'<figure class="recording"><figcaption><b>{escape(title)}</b><span>{_length(seconds)}</span></figcaption>'
        f'<audio controls preload="metadata" src="{escape(url)}" aria-label="{escape(title)}"></audio></figure>'
    )


def hint(text: str) -> str:
    """What stands where there is no transcript; the text is HTML."""
    return f'<div class="empty"><p>{text}</p></div>'


def progress(done: float, total: float, seconds_left: float | None) -> str:
    """How much of a recording is transcribed, with a button that ends it.

    Args:
        done: s of the recording.
        total: s of it.
        seconds_left: how long the rest will take; None: nobody knows yet.
    """
    left = (
        "Listening …"
        if seconds_left is None
        else f"{_length(done)} of {_length(total)}, about {_wait(seconds_left)} left"
    )
    return (
        f'<div class="work"><progress max="{total:.2f}" value="{done:.2f}" aria-label="Transcribed"></progress>'
        f'<p role="status">{left}</p><button type="button" data-stop>Stop</button></div>'
    )


def summary(probabilities: Mapping[str, float], language: str, task: Task, took: float) -> str:
    """What is spoken, and how sure that is.

    Args:
        probabilities: of the languages; none, if the person said which it is.
        language: the one that the transcript is of.
        task: what was done.
        took: how long it took, s.
    """
    sure = f" {_percent(probabilities[language])}" if language in probabilities else ""
    others = sorted(
        ((p, code) for code, p in probabilities.items() if code != language and p >= _CLAIMED), reverse=True
    )
    perhaps = "".join(f", {languages.title(code)} {_percent(p)}" for p, code in others[:2])
    into = " → <b>English</b>" if task == "translate" else ""
    return (
        f'<p class="heard"><span class="language"><b>{languages.title(language)}</b>{sure}{perhaps}{into}</span>'
        f"<span>heard in {_wait(took)}</span></p>"
    )


def segments(found: Sequence[Segment], language: str) -> str:
    """What is said when.

    Args:
        found: the segments, their words timed or not.
        language: what the text is in.
    """
    rows = "".join(_row(segment) for segment in found if segment.text.strip())
    how = "Transcript: the arrow keys go from word to word, the space bar plays and pauses"
    return f'<ol class="said" tabindex="0" lang="{language}" aria-label="{how}">{rows}</ol>'


def spectrogram(samples: audio.Samples | audio.Pcm, n_mels: int, words: Sequence[Word]) -> str:
    """The log-mel spectrogram of the beginning of a recording, with the words below it where they are said.

    Args:
        samples: the recording.
        n_mels: filters, as many as the model hears.
        words: with their times.
    """
    seconds = min(len(samples) / audio.SAMPLE_RATE, PICTURED)
    frames = round(seconds * audio.FRAMES_PER_SECOND)
    mel = audio.LogMel(samples, n_mels, torch.device("cpu"))(0, max(1, frames)).numpy()
    shown = [word for word in words if word.start < seconds]
    marks = "".join(
        f'<span style="left:{100 * word.start / seconds:.3f}%;width:{100 * (word.end - word.start) / seconds:.3f}%"'
        f"{_times(word)}>{escape(word.text.strip())}</span>"
        for word in shown
    )
    part = "" if seconds * audio.SAMPLE_RATE >= len(samples) - 1 else f", its first {PICTURED:g} s"
    below = ", and when each word is said" if words else ""
    return (
        f'<figure class="score"><figcaption><b>What the model hears</b><span>log-mel spectrogram of {n_mels} bands{part}{below}'
        f'</span></figcaption><div class="strip"><div class="sheet" style="--seconds:{seconds:.2f}" data-seconds="{seconds:.3f}">'
        f'<img src="{_picture(mel)}" alt="Spectrogram"><div class="marks" aria-hidden="true">{marks}</div><i class="cursor"></i></div>'
        "</div></figure>"
    )


def downloads(transcript: Transcript, stem: str) -> str:
    """Links that save the transcript in every format.

    Args:
        transcript: what was said.
        stem: name of the files, without an ending.
    """
    links = "".join(_link(transcript, form, stem) for form in subtitles.FORMATS)
    return f'<p class="downloads"><span>Download</span>{links}</p>'


def _link(transcript: Transcript, form: str, stem: str) -> str:
    content = base64.b64encode(subtitles.render(transcript, form).encode()).decode()
    url = f"data:{_KINDS.get(form, 'application/octet-stream')};base64,{content}"
    return f'<a href="{url}" download="{escape(stem)}.{form}">{form}</a>'


def _row(segment: Segment) -> str:
    text = escape(segment.text.strip())
    if segment.words:
        text = "".join(_word(word) for word in segment.words).lstrip()
    when = f"{_clock(segment.start)}<span> – {_clock(segment.end)}</span>"
    return f'<li{_times(segment)}><button type="button" class="when" title="Play from here">{when}</button><p>{text}</p></li>'


def _word(word: Word) -> str:
    body = word.text.lstrip()
    space = " " if len(body) < len(word.text) else ""
    return f'{space}<span class="word"{_times(word)}>{escape(body)}</span>'


def _times(said: Word | Segment) -> str:
    return f' data-start="{said.start:.2f}" data-end="{said.end:.2f}"'


def _picture(mel: np.ndarray) -> str:
    """A spectrogram as a data URL, low notes at the bottom: vermilion as opaque as it is loud, which any background suits."""
    loud = np.clip((mel - mel.min()) / max(1e-6, float(np.ptp(mel))), 0, 1)[::-1]
    pixels = np.empty((*loud.shape, 4), np.uint8)
    pixels[..., :3] = (0xC2, 0x4A, 0x30)
    pixels[..., 3] = np.round(255 * loud**1.5)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %"


def _clock(seconds: float) -> str:
    """A time as people read it: 1:02.3."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"


def _length(seconds: float) -> str:
    """A length as people read it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


def _wait(seconds: float) -> str:
    return _length(seconds) if seconds >= 1 else f"{seconds:.1f} s"
