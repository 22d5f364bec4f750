"""What was heard in a window as segments with their words (paper §4.5; official `transcribe.py`): its tokens cut at the times among them,
the words timed, and what was likely invented in silence left out. Where the next window begins follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from almanac.whisper import audio, timing
from almanac.whisper.decoding import Decoded
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.timing import Word
from almanac.whisper.tokenizer import SECONDS_PER_TIMESTAMP, Task, Tokenizer
from almanac.whisper.transcript import Segment

FRAMES_PER_TIMESTAMP = round(SECONDS_PER_TIMESTAMP * audio.FRAMES_PER_SECOND)


@dataclass(frozen=True)
class Window:
    """A window of the sound."""

    seek: int
    """Its first frame."""
    frames: int
    """How many of its frames hold sound."""
    language: str

    @property
    def start(self) -> float:
        """s."""
        return self.seek / audio.FRAMES_PER_SECOND


def cut(tokenizer: Tokenizer, seek: int, frames: int, decoded: Decoded) -> tuple[list[Segment], int, bool]:
    """The segments of a window's tokens: from time to time.

    Args:
        tokenizer: the model's.
        seek: the window's first frame.
        frames: its frames that hold sound.
        decoded: what was heard.

    Returns:
        The segments; the frame where the next window begins: after the last segment that is whole; and whether nothing is
        said after that, so that it is the window's end.
    """
    tokens, begin = decoded.tokens, tokenizer.timestamp_begin
    start = seek / audio.FRAMES_PER_SECOND
    is_time = [token >= begin for token in tokens]
    whole = is_time[-2:] == [False, True]
    edges = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]

    def segment(first: float, last: float, own: list[int]) -> Segment:
        text = tokenizer.decode([token for token in own if token < tokenizer.eot])
        return Segment(
            0, first, last, text, own, decoded.temperature, decoded.avg_logprob, decoded.compression_ratio,
            decoded.no_speech_prob, seek,
        )  # fmt: skip

    if not edges:
        times = [token - begin for token in tokens if token > begin - 1]
        length = times[-1] * SECONDS_PER_TIMESTAMP if times and times[-1] else frames / audio.FRAMES_PER_SECOND
        return [segment(start, start + length, tokens)], seek + frames, whole
    edges = [0, *edges, len(tokens)] if whole else [0, *edges]
    segments = [
        segment(
            start + (tokens[first] - begin) * SECONDS_PER_TIMESTAMP,
            start + (tokens[after - 1] - begin) * SECONDS_PER_TIMESTAMP,
            tokens[first:after],
        )
        for first, after in pairwise(edges)
    ]
    if whole:
        return segments, seek + frames, whole
    return segments, seek + (tokens[edges[-1] - 1] - begin) * FRAMES_PER_TIMESTAMP, whole


def timed(
    recogniser: Recogniser,
    segments: list[Segment],
    window: Window,
    sound: Float[Tensor, "1 positions state"],
    last_speech: float,
    task: Task,
) -> list[Segment]:
    """Segments with their words.

    Args:
        recogniser: the model.
        segments: those of the window.
        window: where they are.
        sound: what the encoder made of it.
        last_speech: when the last word before them ended, s.
        task: what their text is.
    """
    own = [[token for token in segment.tokens if token < recogniser.tokenizer.eot] for segment in segments]
    text = [token for tokens in own for token in tokens]
    if not text:
        return [replace(segment, words=[]) for segment in segments]
    found = timing.align(
        recogniser.model, recogniser.tokenizer, text, sound[0], window.frames // 2, window.language, task
    )
    words, usual = timing.tidy(found)
    agreed, next_word = [], 0
    for segment, tokens in zip(segments, own, strict=True):
        inside, used = [], 0
        while next_word < len(words) and used < len(tokens):
            word = words[next_word]
            used, next_word = used + len(word.tokens), next_word + 1
            if word.text:
                start, end = round(window.start + word.start, 2), round(window.start + word.end, 2)
                inside.append(replace(word, start=start, end=end))
        segment = _agreed(replace(segment, words=inside), usual, last_speech)
        last_speech = segment.end if inside else last_speech
        agreed.append(segment)
    return agreed


def _agreed(segment: Segment, usual: float, last_speech: float) -> Segment:
    """A segment whose own times and its words' agree: the first words after a pause are cut to a usual length, and where the
    segment's end and its word's are far apart, the segment's holds, else the word's."""
    if not segment.words:
        return segment
    words, longest, start, end = list(segment.words), 2 * usual, segment.start, segment.end
    long_first = words[0].end - words[0].start > longest
    long_pair = len(words) > 1 and words[1].end - words[0].start > 2 * longest
    if words[0].end - last_speech > 4 * usual and (long_first or long_pair):
        if len(words) > 1 and words[1].end - words[1].start > longest:
            edge = max(words[1].end / 2, words[1].end - longest)
            words[0], words[1] = replace(words[0], end=edge), replace(words[1], start=edge)
        words[0] = replace(words[0], start=max(0, words[0].end - longest))
    if start < words[0].end and start - 0.5 > words[0].start:
        words[0] = replace(words[0], start=max(0, min(words[0].end - usual, start)))
    else:
        start = words[0].start
    if end > words[-1].start and end + 0.5 < words[-1].end:
        words[-1] = replace(words[-1], end=max(words[-1].start + usual, end))
    else:
        end = words[-1].end
    return replace(segment, start=start, end=end, words=words)


def without_inventions(
    segments: list[Segment],
    seek: int,
    window: Window,
    limit: float,
    last_speech: float,
    whole: bool,
    seconds: float,
    content: int,
) -> tuple[list[Segment] | None, int]:
    """Segments without those that are likely invented: odd words between silences longer than `limit`, s; and where the next window
    begins, behind the silence. None: there is nothing but silence and what was made of it."""
    window_end = window.start + seconds
    ended = spoken_until(segments)
    if not whole and ended > window.start:
        behind = window_end - ended > limit
        seek = round(ended * audio.FRAMES_PER_SECOND) if behind else window.seek + window.frames
    first = next((segment for segment in segments if segment.words), None)
    if first is not None and _odd(first) and first.start - window.start > limit:
        return None, window.seek + round((first.start - window.start) * audio.FRAMES_PER_SECOND)
    for index, segment in enumerate(segments):
        if not segment.words:
            continue
        if _odd(segment):
            following = next((other for other in segments[index + 1 :] if other.words), None)
            resumed = window.start + window.frames / audio.FRAMES_PER_SECOND
            if following is not None and following.words:
                resumed = following.words[0].start
            silent_before = (
                segment.start - last_speech > limit or segment.start < limit or segment.start - window.start < 2
            )
            silent_after = resumed - segment.end > limit or _odd(following) or window_end - segment.end < 2
            if silent_before and silent_after:
                seek = round(max(window.start + 1, segment.start) * audio.FRAMES_PER_SECOND)
                ending = content / audio.FRAMES_PER_SECOND - segment.end < limit
                return segments[:index], content if ending else seek
        last_speech = segment.end
    return segments, seek


def spoken_until(segments: Sequence[Segment]) -> float:
    """When the last word of segments ended, s; the last segment, where no words are timed."""
    ends = [segment.words[-1].end for segment in segments if segment.words]
    return ends[-1] if ends else segments[-1].end


def _odd(segment: Segment | None) -> bool:
    """Whether the first words of a segment are too unlikely, short or long to be speech."""
    if segment is None or not segment.words:
        return False
    words = [word for word in segment.words if word.text not in timing.OPENING + timing.CLOSING][:8]
    score = sum(map(_oddness, words))
    return score >= 3 or score + 0.01 >= len(words)


def _oddness(word: Word) -> float:
    duration = word.end - word.start
    return (word.probability < 0.15) + 15 * max(0.0, 0.133 - duration) + max(0.0, duration - 2)
