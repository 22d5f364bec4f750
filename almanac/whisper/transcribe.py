"""Sound of any length to a transcript (paper §4.5; official `transcribe.py`): a window is decoded, and again less greedily where that went
badly; the next one begins where its last whole segment ended, and is told what was said before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.whisper import audio, timing
from almanac.whisper.decoding import Decoded, Options, decode, detect_language
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.timing import Word
from almanac.whisper.tokenizer import SECONDS_PER_TIMESTAMP, Task, Tokenizer
from almanac.whisper.transcript import Segment, Transcript

Mel = Float[Tensor, "mels frames"]

FRAMES_PER_TIMESTAMP = round(SECONDS_PER_TIMESTAMP * audio.FRAMES_PER_SECOND)
_HOT = 0.5
"""What was drawn at a higher temperature is not told to the next window."""


@dataclass(frozen=True)
class Settings:
    """How to transcribe; the defaults are the official ones."""

    options: Options = field(default_factory=Options)
    """How to decode a window; `language` None: told from the first one."""
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tried one after another until a window's text is good enough."""
    compression_ratio_limit: float | None = 2.4
    """A text that compresses better than this is a loop."""
    logprob_limit: float | None = -1.0
    """A text whose tokens are less likely than this is a guess."""
    no_speech_limit: float | None = 0.6
    """Above this, a window whose text is a guess is silence."""
    previous_text: bool = True
    """Whether a window is told what was said before it; without it, a loop can't spread."""
    prompt: str = ""
    """Names and words that may come up, as if they had been said before."""
    keep_prompt: bool = False
    """Whether every window is told the prompt, not only the first ones."""
    words: bool = False
    """Whether to time every word."""
    clips: tuple[float, ...] = (0.0,)
    """Start and end of each stretch that is transcribed, s; the last end may be left out."""
    silence_limit: float | None = None
    """With `words`: silence longer than this, s, is skipped where what was made of it is likely not real."""


@dataclass
class _Course:
    """How far a transcription is."""

    tokens: list[int]
    """All that was said, the prompt first."""
    segments: list[Segment] = field(default_factory=list)
    told_from: int = 0
    """From which of the tokens on the next window is told them."""
    last_speech: float = 0.0
    """When the last word ended, s."""


@dataclass(frozen=True)
class _Window:
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


def transcribe(
    recogniser: Recogniser,
    samples: audio.Samples,
    settings: Settings,
    on_progress: Callable[[float, Sequence[Segment]], None] = lambda seconds, segments: None,
) -> Transcript:
    """Transcribe a recording, window after window.

    Args:
        recogniser: the model.
        samples: the recording.
        settings: how.
        on_progress: told how far it is, s, and what was found since.

    Raises:
        UserError: the model does not know the language; clips end before they start.
    """
    dims, tokenizer = recogniser.model.dims, recogniser.tokenizer
    mel = audio.log_mel(torch.from_numpy(samples), dims.n_mels, round(dims.seconds * audio.SAMPLE_RATE))
    content = mel.shape[-1] - dims.frames
    language = settings.options.language or _spoken(recogniser, mel)
    settings = replace(settings, options=replace(settings.options, language=language))
    course = _Course(tokenizer.encode(" " + settings.prompt.strip()) if settings.prompt else [])
    prompt = len(course.tokens)
    for begin, end in _clips(settings.clips, content):
        seek = begin
        while seek < end:
            window = _Window(seek, min(dims.frames, content - seek, end - seek), language)
            sound = recogniser.encode(mel[:, seek : seek + window.frames])
            decoded = _decode(recogniser, sound, settings, _told(course, prompt, settings, dims.n_text_ctx))
            found, seek = _understood(recogniser, window, sound, decoded, settings, course, content)
            if found is not None:
                course.segments += found
                course.tokens += [token for segment in found for token in segment.tokens]
                if not settings.previous_text or decoded.temperature > _HOT:
                    course.told_from = len(course.tokens)
            on_progress(min(content, seek) / audio.FRAMES_PER_SECOND, found or [])
    return Transcript(tokenizer.decode(course.tokens[prompt:]), language, course.segments)


def _spoken(recogniser: Recogniser, mel: Mel) -> str:
    """The language of the first window."""
    if not recogniser.tokenizer.multilingual:
        return "en"
    found = detect_language(recogniser.model, recogniser.tokenizer, recogniser.encode(mel))[0]
    return max(found, key=found.__getitem__)


def _clips(times: Sequence[float], content: int) -> list[tuple[int, int]]:
    """Clips in frames."""
    frames = [round(time * audio.FRAMES_PER_SECOND) for time in times] or [0]
    frames = [*frames, content] if len(frames) % 2 else frames
    if any(after < before for before, after in pairwise(frames)):
        raise UserError(f"clips {', '.join(map(str, times))} go back in time", "give start,end,start,end,… in order")
    return [(begin, min(end, content)) for begin, end in zip(frames[::2], frames[1::2], strict=True)]


def _told(course: _Course, prompt: int, settings: Settings, context: int) -> list[int]:
    """What a window is told was said before it."""
    if not settings.keep_prompt:
        return course.tokens[course.told_from :]
    room = context // 2 - 1 - prompt
    return course.tokens[:prompt] + course.tokens[max(prompt, course.told_from) :][-room:]


def _decode(
    recogniser: Recogniser, sound: Float[Tensor, "1 positions state"], settings: Settings, told: list[int]
) -> Decoded:
    """Decode a window, at one temperature after another until the text is good enough; the last one stands."""
    decoded = None
    for temperature in settings.temperatures:
        beams = settings.options.beam_size if temperature == 0 else None
        best_of = settings.options.best_of if temperature > 0 else None
        options = replace(settings.options, prompt=told, temperature=temperature, beam_size=beams, best_of=best_of)
        decoded = decode(recogniser.model, recogniser.tokenizer, sound, options)[0]
        if not _failed(decoded, settings):
            break
    if decoded is None:
        raise UserError("there are no temperatures to decode at", "give 0 at least")
    return decoded


def _failed(decoded: Decoded, settings: Settings) -> bool:
    looping = _above(decoded.compression_ratio, settings.compression_ratio_limit)
    guessed = settings.logprob_limit is not None and decoded.avg_logprob < settings.logprob_limit
    silent = _above(decoded.no_speech_prob, settings.no_speech_limit)
    return (looping or guessed) and not (silent and guessed)


def _above(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit


def _understood(
    recogniser: Recogniser,
    window: _Window,
    sound: Float[Tensor, "1 positions state"],
    decoded: Decoded,
    settings: Settings,
    course: _Course,
    content: int,
) -> tuple[list[Segment] | None, int]:
    """The segments of a window (None: nothing is said in it), and where the next one begins, frame."""
    confident = settings.logprob_limit is not None and decoded.avg_logprob > settings.logprob_limit
    if _above(decoded.no_speech_prob, settings.no_speech_limit) and not confident:
        return None, window.seek + window.frames
    tokenizer = recogniser.tokenizer
    segments, seek, whole = cut(tokenizer, window.seek, window.frames, decoded)
    if settings.words:
        segments = _timed(recogniser, segments, window, sound, course.last_speech, settings.options.task)
        if not whole and _end(segments) > window.start:
            seek = round(_end(segments) * audio.FRAMES_PER_SECOND)
        if settings.silence_limit is not None:
            dims = recogniser.model.dims
            found, seek = _without_inventions(
                segments, seek, window, settings.silence_limit, course.last_speech, whole, dims.seconds, content
            )
            if found is None:
                return None, seek
            segments = found
        if segments:
            course.last_speech = _end(segments)
    numbered = []
    for segment in segments:
        if segment.start == segment.end or not segment.text.strip():
            segment = replace(segment, text="", tokens=[], words=[])
        numbered.append(replace(segment, id=len(course.segments) + len(numbered)))
    return numbered, seek


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


def _timed(
    recogniser: Recogniser,
    segments: list[Segment],
    window: _Window,
    sound: Float[Tensor, "1 positions state"],
    last_speech: float,
    task: Task,
) -> list[Segment]:
    """Segments with their words."""
    own = [[token for token in segment.tokens if token < recogniser.tokenizer.eot] for segment in segments]
    text = [token for tokens in own for token in tokens]
    if not text:
        return [replace(segment, words=[]) for segment in segments]
    found = timing.align(
        recogniser.model, recogniser.tokenizer, text, sound[0], window.frames // 2, window.language, task
    )
    words, usual = timing.tidy(found)
    timed, next_word = [], 0
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
        timed.append(segment)
    return timed


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


def _without_inventions(
    segments: list[Segment],
    seek: int,
    window: _Window,
    limit: float,
    last_speech: float,
    whole: bool,
    seconds: float,
    content: int,
) -> tuple[list[Segment] | None, int]:
    """Segments without those that are likely invented: odd words between silences longer than `limit`, s; and where the next window
    begins, behind the silence. None: there is nothing but silence and what was made of it."""
    window_end = window.start + seconds
    ended = _end(segments)
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


def _end(segments: list[Segment]) -> float:
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
