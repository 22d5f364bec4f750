"""Live captions of one speaker: sound as a browser's microphone gives it, at any rate and in pieces of any length, becomes paragraphs of
text that is certain, and what seems to follow. The listening is `stream`'s."""

from html import escape

import numpy as np

from almanac.runtime.errors import UserError
from almanac.whisper import audio, languages, stream
from almanac.whisper.recogniser import Recogniser

RATES = (8_000, 192_000)
"""Hz that microphones have."""
_LATE = 3
"""Chunks that wait, from which on a speaker is ahead of us, and all that there is should be listened to at once."""


class Captions:
    """What somebody says, as far as it is known.

    Args:
        recogniser: the model.
        settings: how to listen.
        rate: of the sound, Hz.

    Raises:
        UserError: no microphone has such a rate.
    """

    def __init__(self, recogniser: Recogniser, settings: stream.Settings, rate: int):
        import soxr

        if not RATES[0] <= rate <= RATES[1]:
            raise UserError(f"a microphone of {rate} Hz is none", f"give {RATES[0]} to {RATES[1]} Hz")
        self.listening = stream.begin(recogniser, settings)
        self.paragraphs = [""]
        """Certain text; the last one may still grow."""
        self.tentative = ""
        """What seems to follow."""
        self._resampled = soxr.ResampleStream(rate, audio.SAMPLE_RATE, 1, "float32", "MQ")

    def hear(self, sound: audio.Samples, last: bool = False) -> None:
        """Listen on.

        Args:
            sound: what follows, at the microphone's rate.
            last: whether the speaker ends with it.
        """
        samples = self._resampled.resample_chunk(sound, last=last)
        late = len(samples) >= _LATE * self.listening.settings.chunk_seconds * audio.SAMPLE_RATE
        updates = self.listening.feed(samples, late)
        for update in [*updates, self.listening.finish()] if last else updates:
            self.paragraphs[-1] += "".join(word.text for word in update.committed)
            self.tentative = update.tentative
            if update.pause and self.paragraphs[-1]:
                self.paragraphs.append("")

    def html(self) -> str:
        """The text as a page shows it. What is certain comes in elements that only ever grow."""
        said = [f"<p><span>{escape(text.strip())}</span></p>" for text in self.paragraphs if text]
        if self.tentative:
            last = said.pop().removesuffix("</p>") if self.paragraphs[-1] else "<p>"
            said.append(f"{last} <em>{escape(self.tentative.strip())}</em></p>")
        language = self.listening.ear.language
        facts = f"{self.listening.heard:.0f} s heard" + (f", {languages.title(language)}" if language else "")
        return f'<div class="captions"><div aria-live="polite">{"".join(said)}</div></div><p class="facts">{facts}</p>'


def samples_of(data: bytes) -> audio.Samples:
    """16-bit little-endian sound as a browser sends it."""
    return audio.floats(np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.int16))
