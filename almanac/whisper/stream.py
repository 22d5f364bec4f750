"""Speech to text while it is spoken, by local agreement (Liu et al. 2020; Macháček et al. 2023): with every chunk of sound that arrives,
all that is not settled is decoded again, and words on which two decodings in a row agree are committed. A decoding begins with the
words that are committed already, so these never change, and none is lost or doubled where old sound is let go. Where sound comes from
and where words go is left to others.

Latency is counted in chunks of sound, from the end of a word to the update that commits it (`latencies`): a word waits for the end of
its chunk, and one chunk more for the second decoding, so 1 to 2 of them, if the model hears it at once. The time that decoding takes
comes on top."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.whisper import audio, timing
from almanac.whisper.decoding import Options, compression_ratio, decode
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.timing import Word

SHORTEST_CHUNK = 0.1
"""s; a shorter one is hardly more than a frame."""
LEAD_IN = 0.3
"""s of silence that are kept before speech, for its onset is quiet (OpenAI's `prefix_padding_ms`)."""
NO_SPEECH, GUESSED, LOOPING = 0.6, -1.0, 2.4
"""Limits of no-speech probability, mean log-probability and compression ratio, as `transcribe` has them."""
_QUIET_BELOW_LOUDEST = 40.0
"""dB below the loudest 20 ms so far, from where on sound is silence; speech spans some 30 dB (ANSI S3.5), and its pauses lie lower."""
_QUIET_RANGE = (-65.0, -45.0)
"""dBFS between which that threshold stays, whatever the recording level: the noise of 11 bits, and that of a quiet room."""
_FRAME = audio.SAMPLE_RATE // 50
_REMEMBERED = 200
"""Words that are kept of what was said before, more than a decoder looks back on."""
_ROOM = 24
"""Tokens of a decoder's context that are left for what is new."""


@dataclass(frozen=True)
class Settings:
    """How to listen."""

    options: Options = field(default_factory=Options)
    """How to decode; times are left out. `language` None: the one that the first words are heard in."""
    chunk_seconds: float = 1.0
    """Sound from one decoding to the next."""
    pause_seconds: float = 0.8
    """Silence after which all that was said is committed."""
    prompt: str = ""
    """Names and words that may come up, as if they had been said before."""
    previous_text: bool = True
    """Whether the model is told what was said before the sound that it hears."""


@dataclass(frozen=True)
class Update:
    """What a chunk brought."""

    heard: float
    """s of sound so far."""
    committed: list[Word]
    """New words that stay as they are, in order of time; those without a space before them belong to the word before."""
    tentative: str
    """What seems to follow."""
    pause: bool
    """Whether the speaker stopped: nothing is tentative any more."""


@runtime_checkable
class Ear(Protocol):
    """What a stream listens with."""

    language: str | None
    """What is spoken, as far as is known."""

    def __call__(self, sound: audio.Samples, before: Sequence[Word], said: Sequence[Word]) -> list[Word] | None:
        """What is said in a piece of sound after the words that are certain.

        Args:
            sound: at most a window of the model.
            before: words before the sound.
            said: words that the sound begins with.

        Returns:
            The words that follow, with times from the start of the sound; None: nothing that makes sense.
        """
        ...


def begin(recogniser: Recogniser, settings: Settings = Settings()) -> "Stream":
    """A stream that a model listens to.

    Raises:
        UserError: the chunks are too short, or too long for the model's window.
    """
    timing.warp(np.zeros((1, 1)))  # compiles, for which the first word should not wait
    return Stream(Listener(recogniser, settings), recogniser.model.dims.seconds, settings)


def latencies(updates: Iterable[Update], chunk_seconds: float) -> list[float]:
    """How long each word waited from its end until it was committed, in chunks."""
    return [(update.heard - word.end) / chunk_seconds for update in updates for word in update.committed]


class Stream:
    """Sound in, words out.

    Args:
        ear: what listens.
        window: the longest sound that it takes, s.
        settings: how to listen.

    Raises:
        UserError: the chunks are too short, or too long for the window.
    """

    def __init__(self, ear: Ear, window: float, settings: Settings = Settings()):
        if not SHORTEST_CHUNK <= settings.chunk_seconds <= window / 4:
            raise UserError(
                f"chunks of {settings.chunk_seconds:g} s do not suit a model that hears {window:g} s at a time",
                f"give {SHORTEST_CHUNK:g} to {window / 4:g} s",
            )
        self.ear, self.settings = ear, settings
        self._window, self._chunk = _samples(window), _samples(settings.chunk_seconds)
        self._lead_in = _samples(min(LEAD_IN, window / 10))
        self._pending = self._sound = np.zeros(0, np.float32)
        self._start = 0  # the sample of the stream that `_sound` begins at
        self._before: list[Word] = []
        self._said: list[Word] = []  # committed, and in `_sound`
        self._guess: list[Word] | None = None  # what seemed to follow them
        self._guessed_until = 0  # the sample up to which that was heard
        self._committed_until = 0.0
        self._loudest = -np.inf

    @property
    def heard(self) -> float:
        """s of sound that went into updates."""
        return _seconds(self._end)

    def feed(self, samples: audio.Samples, hurry: bool = False) -> list[Update]:
        """Listen on. An update comes with each whole chunk, however the sound is cut up.

        Args:
            samples: the sound that follows, mono at `audio.SAMPLE_RATE`.
            hurry: take all that is there at once, up to a quarter of a window, as who has fallen behind must.
        """
        self._pending = np.concatenate((self._pending, samples))
        updates = []
        while len(self._pending) >= self._chunk:
            size = min(len(self._pending), self._window // 4) if hurry else self._chunk
            self._take(size)
            updates.append(self._step())
        return updates

    def finish(self) -> Update:
        """Commit all that is left, as the input ends. What is fed after that begins anew."""
        self._take(len(self._pending))
        found = self._guess
        if self._guessed_until < self._end and (self._speaking or not self._quiet().all()):
            found = self._listen()
        committed = self._commit((self._guess or []) if found is None else found, self._end)
        self._let_go(self._end)
        return Update(self.heard, committed, "", True)

    @property
    def _end(self) -> int:
        return self._start + len(self._sound)

    @property
    def _speaking(self) -> bool:
        return bool(self._said or self._guess)

    def _take(self, size: int) -> None:
        self._sound = np.concatenate((self._sound, self._pending[:size]))
        self._pending = self._pending[size:]

    def _step(self) -> Update:
        """Listen to the sound, commit what is certain, and let old sound go."""
        quiet = self._quiet()
        if not self._speaking and quiet.all():
            self._let_go(self._end - self._lead_in)
            return Update(self.heard, [], "", False)
        found = self._listen()
        pause = _trailing(quiet) * _FRAME / audio.SAMPLE_RATE >= self.settings.pause_seconds
        if pause:
            committed = self._commit((self._guess or []) if found is None else found, self._end)
            self._let_go(self._end - self._lead_in)
        elif found is None:
            committed = self._make_room()
        else:
            agreed = _agreed(self._guess or [], found)
            committed = self._commit(found[: len(agreed)], self._guessed_until)
            if not found and self._guess == [] and not self._said:  # twice, nothing is said
                self._let_go(self._guessed_until - self._lead_in)
            self._guess, self._guessed_until = found[len(agreed) :], self._end
            committed = [*committed, *self._make_room()]
        return Update(self.heard, committed, "".join(word.text for word in self._guess or []), pause)

    def _listen(self) -> list[Word] | None:
        found = self.ear(self._sound, self._before, self._said)
        start = _seconds(self._start)
        return found and [replace(word, start=start + word.start, end=start + word.end) for word in found]

    def _commit(self, words: list[Word], heard_until: int) -> list[Word]:
        """Settle words: their times don't go back, and they were over when they were first heard."""
        latest, committed = _seconds(heard_until), []
        for word in words:
            begun = min(max(word.start, self._committed_until), latest)
            ended = min(max(word.end, begun), latest)
            committed.append(replace(word, start=begun, end=ended))
            self._committed_until = ended
        self._said += committed
        return committed

    def _make_room(self) -> list[Word]:
        """Let sound go where it fills half of the window: all before a committed word, at best one that begins a sentence. If that does
        not free a quarter, all up to the last committed word; and if not even that does, what was heard last is committed too.

        Returns:
            Words that had to be committed for it.
        """
        if len(self._sound) <= self._window // 2:
            return []
        latest = _samples(self._committed_until) - self._window // 10
        first = [i for i in range(1, len(self._said)) if self._start < _samples(self._said[i].start) <= latest]
        sentences = [i for i in first if self._said[i - 1].text.strip().endswith(tuple(timing.SENTENCE_ENDS))]
        if first:
            gone = (sentences or first)[-1]
            self._let_go(_samples(self._said[gone].start), gone)
        crowded = self._end - 3 * self._window // 4
        if self._start < crowded and self._said:
            self._let_go(_samples(self._committed_until))
        if self._start >= crowded:
            return []
        guess, surely = self._guess or [], _seconds(self._guessed_until - self._chunk)
        forced = self._commit(list(takewhile(lambda word: word.end <= surely, guess)), self._guessed_until)
        self._let_go(max(_samples(self._committed_until), self._end - self._window // 2))
        self._guess = guess[len(forced) :]
        return forced

    def _let_go(self, sample: int, words: int | None = None) -> None:
        """Forget the sound before a sample, and so many committed words; all words, if no number is given, and what was guessed."""
        if words is None:
            words, self._guess = len(self._said), None
        self._before = [*self._before, *self._said[:words]][-_REMEMBERED:]
        self._said = self._said[words:]
        gone = min(max(0, sample - self._start), len(self._sound))
        self._sound, self._start = self._sound[gone:], self._start + gone

    def _quiet(self) -> Bool[np.ndarray, " frames"]:
        """Which 20 ms of the sound are silence, by their energy."""
        frames = self._sound[: len(self._sound) // _FRAME * _FRAME].reshape(-1, _FRAME)
        levels = 10 * np.log10((frames**2).mean(1) + 1e-12)
        self._loudest = max(self._loudest, levels.max(initial=-np.inf))
        return levels < np.clip(self._loudest - _QUIET_BELOW_LOUDEST, *_QUIET_RANGE)


class Listener:
    """A model that listens.

    Args:
        recogniser: the model.
        settings: how to listen.
    """

    def __init__(self, recogniser: Recogniser, settings: Settings):
        self.recogniser, self.settings = recogniser, settings
        self.language = settings.options.language

    def __call__(self, sound: audio.Samples, before: Sequence[Word], said: Sequence[Word]) -> list[Word] | None:
        """See `Ear`. What is said follows from the text that it begins with, so it goes on from it (Liu et al. 2020)."""
        model, tokenizer = self.recogniser.model, self.recogniser.tokenizer
        begun = _tokens(said)
        room = model.dims.n_text_ctx - len(begun) - _ROOM
        if room < 0:
            return None
        mel = audio.log_mel(torch.from_numpy(sound), model.dims.n_mels)
        encoded = self.recogniser.encode(mel)
        options = replace(
            self.settings.options,
            language=self.language if before or said else self.settings.options.language,
            timestamps=False,
            prompt=self._told(before, room),
            prefix=begun,
            suppress_blank=not begun,  # else a text that is complete could not end
        )
        found = decode(model, tokenizer, encoded, options)[0]
        self.language = found.language
        text = [token for token in found.tokens if token < tokenizer.eot]
        if not begun and found.no_speech_prob > NO_SPEECH and found.avg_logprob < GUESSED:
            return []
        if compression_ratio(tokenizer.decode([*begun, *text])) > LOOPING:
            return None
        return self._words([*begun, *text], len(begun), encoded, mel.shape[-1] // 2)

    def _told(self, before: Sequence[Word], room: int) -> list[int]:
        """What the model is told was said before: at most a quarter of what it can look back on, so that decoding stays fast."""
        tokenizer, settings = self.recogniser.tokenizer, self.settings
        prompt = tokenizer.encode(" " + settings.prompt.strip()) if settings.prompt else []
        told = [*prompt, *_tokens(before)] if settings.previous_text else prompt
        most = min(room, self.recogniser.model.dims.n_text_ctx // 4)
        return told[-most:] if most else []

    def _words(
        self, text: list[int], begun: int, encoded: Float[Tensor, "1 positions state"], positions: int
    ) -> list[Word]:
        """The words of a text after its first tokens, with their times; without heads that follow them in time, evenly spread."""
        model, tokenizer, language = self.recogniser.model, self.recogniser.tokenizer, self.language or "en"
        positions = min(max(1, positions), model.dims.n_audio_ctx)
        if model.alignment_heads.any():
            task = self.settings.options.task
            words = timing.align(model, tokenizer, text, encoded[0], positions, language, task)
        else:
            pieces = tokenizer.split_words(text, language)
            times = np.linspace(0, positions / 50, len(pieces) + 1).tolist()
            words = [
                Word(*piece[:1], *span, 1.0, piece[1]) for piece, span in zip(pieces, pairwise(times), strict=True)
            ]
        found, passed = [], 0
        for word in words:
            new = word.tokens[max(0, begun - passed) :]
            passed += len(word.tokens)
            if new:
                found.append(replace(word, text=tokenizer.decode(new), tokens=new))
        return found


def _agreed(before: list[Word], now: list[Word]) -> list[Word]:
    """Words with which two decodings begin. Marks at the very end are left out: a model ends a sentence where the sound ends."""
    same = [b for a, b in takewhile(lambda pair: pair[0].text == pair[1].text, zip(before, now, strict=False))]
    if len(same) == len(now):
        while same and all(sign in timing.CLOSING for sign in same[-1].text.strip()):
            same.pop()
    return same


def _trailing(quiet: Bool[np.ndarray, " frames"]) -> int:
    """How many frames at the end are quiet."""
    loud = np.flatnonzero(~quiet)
    return len(quiet) - (int(loud[-1]) + 1 if len(loud) else 0)


def _tokens(words: Sequence[Word]) -> list[int]:
    return [token for word in words for token in word.tokens]


def _samples(seconds: float) -> int:
    return round(seconds * audio.SAMPLE_RATE)


def _seconds(samples: int) -> float:
    return samples / audio.SAMPLE_RATE
