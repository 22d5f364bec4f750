"""Windows of many tasks (paper §2.3): each is filled with speech of one language, more or less disturbed, and written down as the
multitask format has it: transcribed or translated, with times or without, after what was said before or after nothing; or
there is no speech in it. Batch n is a function of the seed and n."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.whisper import audio, augment, data, noise
from almanac.whisper.audio import SAMPLE_RATE, Samples
from almanac.whisper.augment import Augmentation
from almanac.whisper.data import Corpus, Utterance
from almanac.whisper.model import Dims
from almanac.whisper.noise import Random, Surroundings
from almanac.whisper.speak import TimedWord
from almanac.whisper.tokenizer import PATTERN, SECONDS_PER_TIMESTAMP, Task, Tokenizer

IGNORED = -100
"""The target where there is no loss."""
TimeSpan = tuple[float, float] | None
"""From when to when, s; None: not known."""
POSITIONS_PER_SECOND = 50
SILENT = 256
"""What is said where nobody speaks; letters are below it."""
EASY_SECONDS = 3.0
"""Length of the windows that a training may begin with."""


@dataclass(frozen=True)
class Mix:
    """What windows are made of."""

    sources: dict[str, float] = field(
        default_factory=lambda: {
            "fsdd": 3.0,
            "digits": 2.5,
            "nathalie_nl": 1.5,
            "kerstin_de": 3.5,
            "spliced": 4.0,
            "phrases": 5.0,
            "words": 3.0,
        }
    )
    """How often a window is of each set, by weight; the sets that a corpus lacks are left out."""
    no_speech: float = 0.18
    """Share of windows without speech."""
    translate: float = 0.25
    """Share of translations, where there is one."""
    times: float = 0.6
    """Share with times (the paper has no figure)."""
    previous_text: float = 0.25
    """Share that is told what was said before (paper: 0.5)."""
    single: float = 0.3
    """Share with one utterance; the others are filled up."""
    easy: int = 0
    """So many batches at first are of short windows with one utterance each, undisturbed, three times as many, from which a model that
    knows nothing learns much sooner where to listen (docs/log.md)."""
    collage: float = 0.5
    """Share of recorded utterances, of those whose words' times are known, that are put together from pieces of up to three: a model that
    has heard few sentences would else learn them by heart."""
    bpe_dropout: float = 0.1
    """Chance that a merge of tokens is left out (Provilkov et al. 2020)."""


@dataclass(frozen=True)
class Batch:
    """Windows with their tokens."""

    mel: Float[Tensor, "batch mels frames"]
    tokens: Int[Tensor, "batch length"]
    """What the decoder reads."""
    targets: Int[Tensor, "batch length"]
    """What comes after each; `IGNORED` where nobody asks."""
    heard: Int[Tensor, "batch positions"]
    """The letter that is being said at each position of the encoder, `SILENT` where nobody speaks; `IGNORED` in windows whose words'
    times are not known."""
    said: Int[Tensor, "batch length 2"]
    """The positions of the encoder, from the first to the one after the last, in which each target is said; `IGNORED` where that is not
    known."""


@dataclass(frozen=True)
class Window:
    """What a batch is made of."""

    mel: Float[Tensor, "mels frames"]
    tokens: list[int]
    """From the previous text to the end of text."""
    told: int
    """The index of the last token that nobody asks for: the start of transcript, or where an empty text begins the token before it."""
    heard: Int[Tensor, " positions"] | None
    """See `Batch`; None: not known."""
    said: list[TimeSpan]
    """When each of the tokens is said."""


@dataclass(frozen=True)
class _Segment:
    """A stretch of a window that is written as one."""

    samples: Samples
    text: str
    words: list[TimedWord] | None
    """What is said, and when, s from its start; None: not known."""


class Sampler:
    """Batches of windows.

    Args:
        corpus: the speech; utterances without text are taken as noise.
        tokenizer: the model's.
        dims: its sizes.
        mix: what windows are made of.
        how: what happens to the sound.
        around: recorded noise and rooms.
        size: windows a batch.
        seed: of everything.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        dims: Dims,
        mix: Mix,
        how: Augmentation,
        around: Surroundings,
        size: int,
        seed: int,
    ):
        self.corpus, self.tokenizer, self.dims, self.mix = corpus, tokenizer, dims, mix
        self.how, self.size, self.seed = how, size, seed
        self.length = round(dims.seconds * SAMPLE_RATE)
        self.room = dims.n_text_ctx // 2 - 8  # tokens of a text, so that decoding can write them all
        silent = [corpus.sound(one) for one in corpus.utterances if not (one.text or one.english)]
        self.around = replace(around, noises=[*around.noises, *silent])
        self.groups = self._grouped(self.length)
        self.easy_groups = self._grouped(min(self.length, round(EASY_SECONDS * SAMPLE_RATE))) if mix.easy else {}
        if not self.groups or (mix.easy and not self.easy_groups):
            raise UserError(
                f"no speech fits windows of {dims.seconds} s and {dims.n_text_ctx} tokens",
                "give shorter recordings (`almanac whisper clean --cut` cuts them), or more --seconds",
            )

    def _grouped(self, longest: int) -> dict[str, list[list[Utterance]]]:
        """The utterances of each set that fit windows of so many samples: those of a language (of digits, those of a speaker) together."""
        groups: dict[str, dict[tuple[str, str], list[Utterance]]] = {}
        for one in self.corpus.utterances:
            tokens = max(len(self.tokenizer.encode(" " + text)) for text in (one.text, one.english))
            if (one.text or one.english) and one.length < longest * self.how.slowest and tokens + 4 < self.room:
                voice = one.speaker if one.source in data.DIGITS else ""
                groups.setdefault(one.source, {}).setdefault((one.language, voice), []).append(one)
        return {source: list(found.values()) for source, found in sorted(groups.items())}

    def __call__(self, number: int) -> Batch:
        """Batch `number`."""
        easy = number < self.mix.easy
        rows = self.size * 3 if easy else self.size
        windows = [self.window(np.random.default_rng((self.seed, number, row)), easy) for row in range(rows)]
        longest = max(len(window.tokens) for window in windows)
        tokens = torch.full((len(windows), longest - 1), self.tokenizer.eot)
        targets = torch.full_like(tokens, IGNORED)
        said = torch.full((*tokens.shape, 2), IGNORED)
        for row, window in enumerate(windows):
            own = torch.tensor(window.tokens)
            tokens[row, : len(own) - 1] = own[:-1]
            targets[row, window.told : len(own) - 1] = own[window.told + 1 :]
            for place, span in enumerate(window.said[1:]):
                if span:
                    said[row, place] = torch.tensor(_positions(*span, window.mel.shape[1] // 2))
        mel = torch.stack([window.mel for window in windows])
        unknown = torch.full((mel.shape[2] // 2,), IGNORED)
        heard = torch.stack([unknown if window.heard is None else window.heard for window in windows])
        return Batch(mel, tokens, targets, heard, said)

    def window(self, draw: Random, easy: bool = False) -> Window:
        """A window that is drawn.

        Args:
            draw: what draws.
            easy: whether it is short and holds one utterance; see `Mix`.
        """
        length = min(self.length, round(EASY_SECONDS * SAMPLE_RATE)) if easy else self.length
        if draw.random() < self.mix.no_speech:
            samples, tokens, told = self._without_speech(length, draw)
            words, said = [], []
        else:
            samples, tokens, told, words, said = self._with_speech(length, easy, draw)
        mel = audio.log_mel(torch.from_numpy(samples), self.dims.n_mels)
        if not easy and draw.random() < 0.3:
            mel = augment.raised_floor(mel, draw.uniform(0, 60))
        if not easy and draw.random() < self.how.response:
            mel = augment.equalised(mel, draw)
        if not easy and draw.random() < self.how.throat:
            mel = augment.stretched(mel, draw.uniform(0.88, 1.14))
        if not easy and draw.random() < self.how.masks:
            mel = augment.masked(mel, draw)
        heard = None if words is None else self._heard(mel.shape[1] // 2, words)
        return Window(mel, tokens, told, heard, said)

    def _heard(self, positions: int, words: Sequence[TimedWord]) -> Int[Tensor, " positions"]:
        """See `Batch`; a word's time is divided evenly among its letters."""
        heard = torch.full((positions,), SILENT)
        for word, start, end in words:
            first, last = (min(positions, round(time * POSITIONS_PER_SECOND)) for time in (start, end))
            own = torch.tensor(letters(word))
            heard[first:last] = own[torch.arange(last - first) * len(own) // max(1, last - first)]
        return heard

    def _with_speech(
        self, length: int, easy: bool, draw: Random
    ) -> tuple[Samples, list[int], int, list[TimedWord] | None, list[TimeSpan]]:
        mix, tokenizer = self.mix, self.tokenizer
        sources = self.easy_groups if easy else self.groups
        weights = [mix.sources.get(source, 1.0) for source in sources]
        groups = list(sources.values())[_choice(draw, weights)]
        group = groups[_choice(draw, [float(len(group)) for group in groups])]
        language = group[0].language
        translate = bool(group[0].english) and draw.random() < mix.translate
        task: Task = "translate" if translate else "transcribe"
        times = bool(draw.random() < mix.times)
        window, body = np.zeros(length, np.float32), []
        said: list[TimeSpan] = []
        words: list[TimedWord] | None = []
        cursor = int(max(0, draw.uniform(-0.8, 0.8)) ** 2 * SAMPLE_RATE)  # clips are often cut tightly
        previous = draw.random() < mix.previous_text and not easy
        alone = easy or draw.random() < mix.single
        while True:
            segment = self._segment(group, length, translate, draw)
            start, end = cursor / SAMPLE_RATE, (cursor + len(segment.samples)) / SAMPLE_RATE
            own = self.encode(segment.text, draw)
            if body and len(body) + len(own) + 4 > self.room:
                break
            if body and cursor + len(segment.samples) > length:
                if times and draw.random() < 0.6 and cursor < length - SAMPLE_RATE // 3:
                    window[cursor:] += segment.samples[: length - cursor]  # it goes on in the next window
                    words = _joined(words, segment.words, start)
                    body.append(self._time(start))
                    said.append((start, start))
                break
            if cursor + len(segment.samples) > length:
                cursor = length - len(segment.samples)
                start, end = cursor / SAMPLE_RATE, length / SAMPLE_RATE
            window[cursor : cursor + len(segment.samples)] += segment.samples
            words = _joined(words, segment.words, start)
            body += [self._time(start), *own, self._time(end)] if times else own
            spans = self._spans(own, segment.text, None if translate else segment.words, start)
            said += [(start, start), *spans, (end, end)] if times else spans
            pause = draw.uniform(0, 5) if draw.random() < 0.15 else draw.exponential(0.35)
            cursor += len(segment.samples) + int(pause * SAMPLE_RATE)
            if alone or cursor > length - SAMPLE_RATE // 4:
                break
        told = self._previous(group, translate, times, draw) if previous else []
        start_tokens = tokenizer.start(language, task, times)
        if not easy:
            window = augment.surroundings(window, self.how, self.around, draw)
        said = [*[None] * (len(told) + len(start_tokens)), *said, None]
        return window, [*told, *start_tokens, *body, tokenizer.eot], len(told), words, said

    def _spans(
        self, tokens: Sequence[int], text: str, words: Sequence[TimedWord] | None, start: float
    ) -> list[TimeSpan]:
        """When each token of a text is said, if its words begin at `start`: a word's time is divided evenly among its bytes."""
        written, places, times = (" " + text).encode(), [], []
        for word, first, last in words or ():
            at = written.find(word.encode(), places[-1] if places else 0)
            if at < 0:
                return [None] * len(tokens)
            places += [at, at + len(word.encode())]
            times += [start + first, start + last]
        if not places:
            return [None] * len(tokens)
        pieces = [self.tokenizer.encoding.decode_single_token_bytes(token) for token in tokens]
        ends = np.cumsum([len(piece) for piece in pieces])
        starts = ends - [len(piece.lstrip()) for piece in pieces]
        return list(zip(*(np.interp(edges, places, times).tolist() for edges in (starts, ends)), strict=True))

    def _segment(self, group: Sequence[Utterance], longest: int, translate: bool, draw: Random) -> _Segment:
        """An utterance of at most so many samples; or a few digits of one speaker, one after another."""
        factor = draw.uniform(self.how.slowest, self.how.fastest) if draw.random() < self.how.speed else 1.0
        recorded = group[0].source not in data.MADE and not translate
        if recorded and draw.random() < self.mix.collage and (made := self._collage(group, longest, factor, draw)):
            return made
        several = group[0].source in data.DIGITS and draw.random() < 0.5
        chosen = [group[int(draw.integers(len(group)))] for _ in range(int(draw.integers(2, 8)) if several else 1)]
        said, pieces, length = [], [], 0
        words: list[TimedWord] | None = []
        for utterance in chosen:
            sound, tempo = self._at_a_tempo(utterance, longest, draw)
            pause = int(draw.uniform(0.02, 0.4) * SAMPLE_RATE)
            if said and length + len(sound) > longest * self.how.slowest:
                break
            words = _joined(words, _faster(_words(utterance), tempo), length / SAMPLE_RATE)
            length += len(sound) + pause
            said.append(utterance.english if translate else utterance.text)
            level = 0.3 / (np.abs(sound).max() + 1e-6) if several else 1.0
            pieces += [sound * level, np.zeros(pause, np.float32)]
        sound = noise.at_speed(np.concatenate(pieces[:-1]), factor)
        return _Segment(sound, " ".join(said), _faster(words, factor))

    def _at_a_tempo(self, utterance: Utterance, longest: int, draw: Random) -> tuple[Samples, float]:
        """An utterance's sound, that of a digit perhaps said faster or slower; and how much faster."""
        sound = self.corpus.sound(utterance)
        if utterance.source not in data.DIGITS or draw.random() >= self.how.tempo:
            return sound, 1.0
        least = max(self.how.calmest, len(sound) / (longest * self.how.slowest))
        tempo = draw.uniform(least, max(least, self.how.hastiest))
        return augment.at_tempo(sound, tempo), tempo

    def _collage(self, group: Sequence[Utterance], longest: int, factor: float, draw: Random) -> _Segment | None:
        """Pieces of a few words each, of up to three utterances, one after another; None: their words' times are not known."""
        pieces: list[Samples] = []
        words: list[TimedWord] = []
        length, whole = 0, ""
        for _ in range(int(draw.integers(1, 4))):
            utterance = group[int(draw.integers(len(group)))]
            if len(utterance.words) < 2:
                return None
            count = min(len(utterance.words), int(draw.integers(1, 5)))
            first = int(draw.integers(len(utterance.words) - count + 1))
            own = utterance.words[first : first + count]
            start, end = round(own[0][1] * SAMPLE_RATE), round(own[-1][2] * SAMPLE_RATE)
            if length + end - start > longest * self.how.slowest:
                break
            shift = length / SAMPLE_RATE - own[0][1]
            words += [(word, begin + shift, finish + shift) for word, begin, finish in own]
            pieces.append(self.corpus.sound(utterance)[start:end])
            length += len(pieces[-1])
            whole = utterance.text
        if not words:
            return None
        said = [word for word, *_ in words]
        if whole[-1] in ".?!" and whole[0].isupper():  # written as sentences
            said[0] = said[0][0].upper() + said[0][1:]
            said[-1] = said[-1].rstrip(",;:")
        text = " ".join(said)
        if len(self.tokenizer.encode(" " + text)) > self.room // 2:
            return None
        words = [(word, start, end) for word, (_, start, end) in zip(said, words, strict=True)]
        return _Segment(noise.at_speed(np.concatenate(pieces), factor), text, _faster(words, factor))

    def _previous(self, group: Sequence[Utterance], translate: bool, times: bool, draw: Random) -> list[int]:
        """What was said before, its latest tokens."""
        body: list[int] = []
        clock = 0.0
        for _ in range(draw.integers(1, 5)):
            utterance = group[int(draw.integers(len(group)))]
            own = self.encode(utterance.english if translate else utterance.text, draw)
            end = clock + utterance.length / SAMPLE_RATE
            timed = times and end < self.dims.seconds
            body += [self._time(clock), *own, self._time(end)] if timed else own
            clock = end
        return [self.tokenizer.sot_prev, *body[-(self.dims.n_text_ctx // 2 - 1) :]]

    def _without_speech(self, size: int, draw: Random) -> tuple[Samples, list[int], int]:
        """Noise, hum, tones or silence: no speech; and if told a language none the less, an empty text."""
        kind = draw.random()
        samples = np.zeros(size, np.float32)
        if kind > 0.15:
            samples = noise.background(size, self.around, draw)
            samples = samples / (np.abs(samples).max() + 1e-9) * 10 ** draw.uniform(-4, 0)
        if kind > 0.5:  # comes and goes
            edge = sorted(draw.integers(0, size, 2))
            samples[edge[0] : edge[1]] *= draw.uniform(0, 0.3)
        if kind > 0.8:
            samples = samples + noise.background(size, self.around, draw) * 10 ** draw.uniform(-4, -1)
        samples = samples.astype(np.float32)
        tokenizer = self.tokenizer
        if draw.random() < 0.7:
            return samples, [tokenizer.sot, tokenizer.no_speech, tokenizer.eot], 0
        language = tokenizer.languages[draw.integers(len(tokenizer.languages))]
        times = bool(draw.random() < self.mix.times)
        task: Task = "translate" if draw.random() < 0.2 else "transcribe"
        start = tokenizer.start(language, task, times)
        return samples, [*start, *([self._time(0.0)] if times else []), tokenizer.eot], len(start) - 1

    def _time(self, seconds: float) -> int:
        return self.tokenizer.timestamp_begin + round(min(seconds, self.dims.seconds) / SECONDS_PER_TIMESTAMP)

    def encode(self, text: str, draw: Random) -> list[int]:
        """Tokens of a text with the space before it, some of whose merges are left out."""
        if draw.random() < 0.5 or not self.mix.bpe_dropout:
            return self.tokenizer.encode(" " + text)
        return dropped_out(self.tokenizer, " " + text, self.mix.bpe_dropout, random.Random(int(draw.integers(2**32))))


def letters(text: str) -> list[int]:
    """The bytes of a text in lower case, without the space before it."""
    return list(text.strip().lower().encode())


def _positions(start: float, end: float, count: int) -> tuple[int, int]:
    """The encoder's positions of a span of time, from the first to the one after the last, one at least of so many."""
    first = min(count - 1, int(start * POSITIONS_PER_SECOND))
    return first, min(count, max(first + 1, math.ceil(end * POSITIONS_PER_SECOND)))


def _words(utterance: Utterance) -> list[TimedWord] | None:
    """When its words are said, where that is known; a single word takes all of it."""
    alone = utterance.text and " " not in utterance.text
    return utterance.words or ([(utterance.text, 0.0, utterance.length / SAMPLE_RATE)] if alone else None)


def _faster(words: Sequence[TimedWord] | None, factor: float) -> list[TimedWord] | None:
    """Words of what is played faster by a factor."""
    return None if words is None else [(word, start / factor, end / factor) for word, start, end in words]


def _joined(words: list[TimedWord] | None, more: Sequence[TimedWord] | None, start: float) -> list[TimedWord] | None:
    """Words, and those of what begins at `start`."""
    if words is None or more is None:
        return None
    return [*words, *((word, start + first, start + last) for word, first, last in more)]


def dropped_out(tokenizer: Tokenizer, text: str, chance: float, draw: random.Random) -> list[int]:
    """Tokens of a text, each possible merge of which is left out by a chance in each round (Provilkov et al. 2020, Algorithm 1)."""
    import regex

    ranks = tokenizer.ranks
    tokens: list[int] = []
    for piece in regex.findall(PATTERN, text):
        parts = [bytes([byte]) for byte in piece.encode()]
        while len(parts) > 1:
            merges = [
                (rank, index)
                for index in range(len(parts) - 1)
                if (rank := ranks.get(parts[index] + parts[index + 1])) is not None and draw.random() >= chance
            ]
            if not merges:
                break
            _, index = min(merges)
            parts[index : index + 2] = [parts[index] + parts[index + 1]]
        tokens += [ranks[part] for part in parts]
    return tokens


def _choice(draw: Random, weights: Sequence[float]) -> int:
    return int(draw.choice(len(weights), p=np.array(weights) / sum(weights)))
