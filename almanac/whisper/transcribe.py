"""Sound of any length to a transcript (paper §4.5; official `transcribe.py`): a window is decoded, and again less greedily where that went
badly; the next one begins where its last whole segment ended, and is told what was said before. Or, where clips of the recording
are told nothing of each other, windows of many are decoded side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.whisper import audio, vad
from almanac.whisper import segments as segmenting
from almanac.whisper.decoding import Decoded, Options, decode, detect_language
from almanac.whisper.languages import code
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.segments import Window
from almanac.whisper.transcript import Segment, Transcript

_HOT = 0.5
"""What was drawn at a higher temperature is not told to the next window."""


@dataclass(frozen=True)
class Settings:
    """How to transcribe; the defaults are the official ones."""

    options: Options = field(default_factory=Options)
    """How to decode a window; `language` None: told from the first one."""
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tried one after another until a window's text is good enough."""
    best_of: int | None = None
    """At temperatures above 0: how many texts are drawn, of which the likeliest is taken."""
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
    vad: bool = False
    """Whether only stretches with speech in them are transcribed, as `vad` finds them."""
    batch_size: int | None = None
    """None: one window after another, each told what was said before it. Else the recording is cut at quiet moments into clips of a window
    at most, which are told the prompt only, and so many of them are decoded at once: the same words, however many."""

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}", "give 1 or more, or leave it out")
        if self.best_of is not None and self.best_of < 1:
            raise UserError(f"best_of is {self.best_of}", "give 1 or more")
        if any(after < before for before, after in pairwise(self.clips)):
            what = f"clips {', '.join(map(str, self.clips))} go back in time"
            raise UserError(what, "give START END START END … in order")
        if not self.temperatures:
            raise UserError("there are no temperatures to decode at", "give 0 at least")


@dataclass
class _Said:
    """What was said before a window."""

    tokens: list[int]
    """All of it, the prompt first."""
    told_from: int = 0
    """From which of the tokens on the next window is told them."""
    until: float = 0.0
    """When the last word ended, s."""


@dataclass
class _Clip:
    """A part of the recording, and how far its transcription is."""

    seek: int
    """Frame at which its next window begins."""
    end: int
    """The frame after its last."""
    said: _Said
    found: list[Segment] = field(default_factory=list)
    """What was found in it and is not in the transcript yet."""


def transcribe(
    recogniser: Recogniser,
    samples: audio.Samples | audio.Pcm,
    settings: Settings,
    on_progress: Callable[[float, Sequence[Segment]], None] = lambda seconds, segments: None,
) -> Transcript:
    """Transcribe a recording, window after window.

    Args:
        recogniser: the model.
        samples: the recording.
        settings: how.
        on_progress: told how much is done, s, and which segments are new since, in order of time.

    Raises:
        UserError: see `checked`.
    """
    dims, tokenizer = recogniser.model.dims, recogniser.tokenizer
    settings = checked(recogniser, settings)
    prompt = tokenizer.encode(" " + settings.prompt.strip()) if settings.prompt else []
    stretches = _stretches(samples, settings, dims.frames)
    mel = audio.LogMel(samples, dims.n_mels, recogniser.model.decoder.positional_embedding.device)
    begin = stretches[0][0] if settings.vad and stretches else 0
    language = settings.options.language or _spoken(recogniser, mel, begin)
    settings = replace(settings, options=replace(settings.options, language=language))
    if settings.batch_size:
        settings = replace(settings, previous_text=False, keep_prompt=True)
        clips = [_Clip(begin, end, _Said(list(prompt))) for begin, end in stretches]
    else:
        said = _Said(list(prompt))
        clips = [_Clip(begin, end, said) for begin, end in stretches]
    found: list[Segment] = []
    while clips:
        unfinished = [clip for clip in clips if clip.seek < clip.end]
        _advance(recogniser, mel, unfinished[: settings.batch_size or 1], settings, len(prompt))
        fresh = [replace(segment, id=len(found) + place) for place, segment in enumerate(_taken(clips))]
        found += fresh
        left = sum(max(0, clip.end - clip.seek) for clip in clips)
        on_progress((mel.frames - left) / audio.FRAMES_PER_SECOND, fresh)
    tokens = [token for segment in found for token in segment.tokens]
    return Transcript(tokenizer.decode(tokens), language, found)


def checked(recogniser: Recogniser, settings: Settings) -> Settings:
    """Settings for a model, their language by its code.

    Raises:
        UserError: the model does not know the language, or knows English only and is to translate.
    """
    options, tokenizer = settings.options, recogniser.tokenizer
    language = options.language and (code(options.language) or options.language)
    if tokenizer.multilingual:
        tokenizer.start(language)
    elif language not in (None, "en") or options.task == "translate":
        wanted = "translate" if options.task == "translate" else f"understand '{options.language}'"
        raise UserError(f"this model knows English only, and can't {wanted}", "use a multilingual model")
    return replace(settings, options=replace(options, language=language))


def _taken(clips: list[_Clip]) -> list[Segment]:
    """What was found up to the first clip that is unfinished. Clips before it leave the list."""
    taken = []
    while clips:
        taken += clips[0].found
        clips[0].found = []
        if clips[0].seek < clips[0].end:
            break
        del clips[0]
    return taken


def _stretches(samples: audio.Samples | audio.Pcm, settings: Settings, longest: int) -> list[vad.Stretch]:
    """The parts of a recording that are transcribed, in order; those that are decoded side by side are no longer than a window."""
    stretches = _clips(settings.clips, len(samples) // audio.HOP)
    if settings.vad:
        spoken = vad.speech(samples)
        inside = [(max(a, begin), min(b, end)) for begin, end in stretches for a, b in spoken if a < end and b > begin]
        stretches = vad.joined(inside, longest)
    if settings.batch_size:
        stretches = [piece for stretch in stretches for piece in vad.cut(samples, stretch, longest)]
    return [(begin, end) for begin, end in stretches if begin < end]


def _clips(times: Sequence[float], content: int) -> list[vad.Stretch]:
    """Clips in frames."""
    frames = [round(time * audio.FRAMES_PER_SECOND) for time in times] or [0]
    frames = [*frames, content] if len(frames) % 2 else frames
    return [(min(begin, content), min(end, content)) for begin, end in zip(frames[::2], frames[1::2], strict=True)]


def _spoken(recogniser: Recogniser, mel: audio.LogMel, begin: int) -> str:
    """The language of the window at `begin`."""
    if not recogniser.tokenizer.multilingual:
        return "en"
    sound = recogniser.encode(mel(begin, begin + recogniser.model.dims.frames))
    found = detect_language(recogniser.model, recogniser.tokenizer, sound)[0]
    return max(found, key=found.__getitem__)


def _advance(
    recogniser: Recogniser, mel: audio.LogMel, clips: Sequence[_Clip], settings: Settings, prompt: int
) -> None:
    """Transcribe the next window of each clip."""
    dims, language = recogniser.model.dims, settings.options.language
    windows = [Window(clip.seek, min(dims.frames, clip.end - clip.seek), language or "en") for clip in clips]
    sounds = recogniser.encode(*(mel(window.seek, window.seek + window.frames) for window in windows))
    told = _told(clips[0].said, prompt, settings, dims.n_text_ctx)  # side by side, all are told the same: the prompt
    heard = _decode(recogniser, sounds, settings, told)
    for clip, window, sound, decoded in zip(clips, windows, sounds.split(1), heard, strict=True):
        found, clip.seek = _understood(recogniser, window, sound, decoded, settings, clip.said.until, mel.frames)
        if found is None:
            continue
        said = clip.said
        if settings.words and found:
            said.until = segmenting.spoken_until(found)
        found = [_kept(segment) for segment in found]
        said.tokens += [token for segment in found for token in segment.tokens]
        if not settings.previous_text or decoded.temperature > _HOT:
            said.told_from = len(said.tokens)
        clip.found += (
            [_inside(segment, clip.end) for segment in found] if settings.vad or settings.batch_size else found
        )


def _told(said: _Said, prompt: int, settings: Settings, context: int) -> list[int]:
    """What a window is told was said before it."""
    if not settings.keep_prompt:
        return said.tokens[said.told_from :]
    room = context // 2 - 1 - prompt
    return said.tokens[:prompt] + said.tokens[max(prompt, said.told_from) :][-room:]


def _decode(
    recogniser: Recogniser, sounds: Float[Tensor, "sounds positions state"], settings: Settings, told: list[int]
) -> list[Decoded]:
    """Decode windows, and those whose text is not good enough again at one temperature after another; the last one stands."""
    heard: dict[int, Decoded] = {}
    left = list(range(len(sounds)))
    for temperature in settings.temperatures:
        beams = settings.options.beam_size if temperature == 0 else None
        best_of = settings.best_of if temperature > 0 else None
        options = replace(settings.options, prompt=told, temperature=temperature, beam_size=beams, best_of=best_of)
        decoded = decode(recogniser.model, recogniser.tokenizer, sounds[left], options)
        heard |= zip(left, decoded, strict=True)
        left = [index for index in left if _failed(heard[index], settings)]
        if not left:
            break
    return [heard[index] for index in range(len(sounds))]


def _failed(decoded: Decoded, settings: Settings) -> bool:
    looping = _above(decoded.compression_ratio, settings.compression_ratio_limit)
    guessed = settings.logprob_limit is not None and decoded.avg_logprob < settings.logprob_limit
    silent = _above(decoded.no_speech_prob, settings.no_speech_limit)
    return (looping or guessed) and not (silent and guessed)


def _above(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit


def _understood(
    recogniser: Recogniser,
    window: Window,
    sound: Float[Tensor, "1 positions state"],
    decoded: Decoded,
    settings: Settings,
    last_speech: float,
    content: int,
) -> tuple[list[Segment] | None, int]:
    """The segments of a window (None: nothing is said in it), and where the next one begins, frame."""
    confident = settings.logprob_limit is not None and decoded.avg_logprob > settings.logprob_limit
    if _above(decoded.no_speech_prob, settings.no_speech_limit) and not confident:
        return None, window.seek + window.frames
    found, seek, whole = segmenting.cut(recogniser.tokenizer, window.seek, window.frames, decoded)
    if not settings.words:
        return found, seek
    found = segmenting.timed(recogniser, found, window, sound, last_speech, settings.options.task)
    until = segmenting.spoken_until(found)
    if not whole and until > window.start:
        seek = round(until * audio.FRAMES_PER_SECOND)
    if settings.silence_limit is None:
        return found, seek
    seconds = recogniser.model.dims.seconds
    return segmenting.without_inventions(
        found, seek, window, settings.silence_limit, last_speech, whole, seconds, content
    )


def _kept(segment: Segment) -> Segment:
    """A segment, emptied where it says nothing or lasts no time."""
    if segment.start != segment.end and segment.text.strip():
        return segment
    return replace(segment, text="", tokens=[], words=[])


def _inside(segment: Segment, end: int) -> Segment:
    """A segment that is over when its clip is, whatever times the model gave it: what follows may begin there."""
    limit = end / audio.FRAMES_PER_SECOND
    words = segment.words
    if words is not None:
        words = [replace(word, start=min(word.start, limit), end=min(word.end, limit)) for word in words]
    return replace(segment, start=min(segment.start, limit), end=min(segment.end, limit), words=words)
