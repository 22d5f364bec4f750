"""One window of sound to tokens (paper §4.5; official `decoding.py`): greedy, by temperature, or by beam search, under the rules that a
transcript follows. Longer sound, and what to do when a window decodes badly, is left to `transcribe`."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.whisper import loops
from almanac.whisper.model import Cache, Whisper
from almanac.whisper.tokenizer import Task, Tokenizer

Logits = Float[Tensor, "rows vocabulary"]
Tokens = Int[Tensor, "rows length"]
Extended = Int[Tensor, "rows length+1"]
Sound = Float[Tensor, "sounds positions state"]


@dataclass(frozen=True)
class Options:
    """How to decode a window."""

    task: Task = "transcribe"
    """transcribe (as spoken) or translate (into English)."""
    language: str | None = None
    """Code of what is spoken; None: it is detected."""
    temperature: float = 0.0
    """0 takes the likeliest token; above, tokens are drawn."""
    sample_length: int | None = None
    """At most so many tokens; None: half the decoder's context."""
    best_of: int | None = None
    """Where tokens are drawn: how many texts, of which the likeliest is taken."""
    beam_size: int | None = None
    """Beams at temperature 0; None: greedy."""
    patience: float = 1.0
    """The search ends after beam_size × patience finished texts (Kasai et al. 2022)."""
    length_penalty: float | None = None
    """α of Wu et al. 2016, 0 to 1, by which texts of different lengths are compared; None: by mean log-probability."""
    prompt: str | Sequence[int] = ()
    """What was said before the window, as text or tokens."""
    prefix: str | Sequence[int] = ()
    """What the window's text begins with."""
    suppress: Sequence[int] = (-1,)
    """Tokens that are never taken; −1 stands for `Tokenizer.non_speech`."""
    suppress_blank: bool = True
    """Whether a text may not begin with a space or be empty."""
    timestamps: bool = True
    """Whether times are among the tokens."""
    max_initial_timestamp: float | None = 1.0
    """The first time is at most this, s."""
    seed: int = 0
    """Of what is drawn."""

    def __post_init__(self):
        wrong = None
        if self.beam_size is not None and self.temperature > 0:
            wrong = f"a beam search (beam_size {self.beam_size}) has no temperature ({self.temperature})"
        elif self.best_of is not None and self.temperature == 0:
            wrong = f"best_of {self.best_of} needs a temperature: at 0 all texts are the same"
        elif self.beam_size is not None and round(self.beam_size * self.patience) < 1:
            wrong = f"a beam search needs beams: beam_size {self.beam_size}, patience {self.patience}"
        elif self.best_of is not None and self.best_of < 1:
            wrong = f"best_of is {self.best_of}"
        elif self.temperature < 0:
            wrong = f"temperature is {self.temperature}"
        elif self.length_penalty is not None and not 0 <= self.length_penalty <= 1:
            wrong = f"length_penalty is {self.length_penalty}, not from 0 to 1"
        if wrong:
            raise UserError(wrong, "change one of them")


@dataclass(frozen=True)
class Decoded:
    """What was heard in a window."""

    language: str
    """Its code."""
    language_probs: dict[str, float] = field(default_factory=dict)
    """How likely each language is, where it was detected."""
    tokens: list[int] = field(default_factory=list)
    """After the start and before the end of text."""
    text: str = ""
    avg_logprob: float = float("nan")
    """Mean log-probability of the tokens, the end of text among them."""
    no_speech_prob: float = float("nan")
    """How likely it is that nothing is said."""
    temperature: float = float("nan")
    compression_ratio: float = float("nan")
    """Bytes of the text over those of it compressed: repetitions raise it."""


@torch.inference_mode()
def decode(model: Whisper, tokenizer: Tokenizer, sound: Sound, options: Options) -> list[Decoded]:
    """Decode windows, all by the same options.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sound: what its encoder made of the windows.
        options: how.
    """
    if options.language is None and tokenizer.multilingual:
        probs = detect_language(model, tokenizer, sound)
        languages = [max(found, key=found.__getitem__) for found in probs]
    else:
        probs = [{} for _ in sound]
        languages = [options.language or "en"] * len(sound)
    prompt, begin = _begin(model, tokenizer, options, languages)
    group = options.beam_size or options.best_of or 1
    start = torch.tensor(begin, device=sound.device).repeat_interleave(group, 0)
    cache = model.decoder.begin(sound, len(start))
    hidden = model.decoder.step(start, cache)
    at_sot = model.decoder.logits(hidden[:, len(prompt)])
    no_speech = at_sot.softmax(-1)[::group, tokenizer.no_speech].tolist()
    rules = Rules(model, tokenizer, options)
    limit = min(_sample_length(model, options), model.dims.n_text_ctx - start.shape[1] + 1)
    search: Search
    if options.beam_size:
        search = BeamSearch(len(sound), options.beam_size, options.patience, tokenizer.eot)
    else:
        search = Sampling(len(start), options.temperature, tokenizer.eot, options.seed, group)
    sampled = start[:, :0]
    for count in range(limit):
        logits = model.decoder.logits(hidden[:, -1])
        rules.apply(logits, sampled)
        sampled, done = search.extend(sampled, logits, cache)
        if done or count + 1 == limit:
            break
        hidden = model.decoder.step(sampled[:, -1:], cache)
    decoded = []
    for index, (texts, logprobs) in enumerate(search.finish(sampled, group)):
        best = _rank(texts, logprobs, options.length_penalty)
        text = tokenizer.decode(texts[best]).strip()
        decoded.append(
            Decoded(
                languages[index],
                probs[index],
                texts[best],
                text,
                logprobs[best] / (len(texts[best]) + 1),
                no_speech[index],
                options.temperature,
                compression_ratio(text),
            )
        )
    return decoded


@torch.inference_mode()
def detect_language(model: Whisper, tokenizer: Tokenizer, sound: Sound) -> list[dict[str, float]]:
    """How likely each language is in each window, by the token after the start of transcript.

    Raises:
        UserError: the model knows English only.
    """
    if not tokenizer.multilingual:
        raise UserError("this model knows English only, and can't tell languages apart", "use a multilingual model")
    start = torch.full((len(sound), 1), tokenizer.sot, device=sound.device)
    hidden = model.decoder.step(start, model.decoder.begin(sound))
    probs = model.decoder.logits(hidden[:, -1])[:, tokenizer.language_tokens].softmax(-1)
    return [dict(zip(tokenizer.languages, row, strict=True)) for row in probs.tolist()]


def compression_ratio(text: str) -> float:
    """Bytes of a text over those of it compressed by zlib."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


class Rules:
    """What may not come next.

    Args:
        model: whose window and vocabulary they are for.
        tokenizer: its tokens.
        options: which rules there are.
    """

    def __init__(self, model: Whisper, tokenizer: Tokenizer, options: Options):
        never = set(options.suppress)
        if -1 in never:
            never = (never - {-1}) | set(tokenizer.non_speech)
        never |= set(tokenizer.not_sampled) if options.suppress else set()
        if options.timestamps:
            never.add(tokenizer.no_timestamps)
        device = model.decoder.positional_embedding.device
        self.tokenizer, self.timestamps = tokenizer, options.timestamps
        self.never = torch.tensor(sorted(never), dtype=torch.long, device=device)
        blank = [*tokenizer.encode(" "), tokenizer.eot] if options.suppress_blank else []
        self.not_first = torch.tensor(blank, dtype=torch.long, device=device)
        self.latest_first = None
        if options.max_initial_timestamp:
            self.latest_first = round(options.max_initial_timestamp * model.dims.n_audio_ctx / model.dims.seconds)

    def apply(self, logits: Logits, sampled: Tokens) -> None:
        """Set the logits of what may not follow to −∞, in place.

        Args:
            logits: what comes next.
            sampled: the tokens after the start.
        """
        logits[:, self.never] = -torch.inf
        first = sampled.shape[1] == 0
        if first:
            logits[:, self.not_first] = -torch.inf
        if self.timestamps:
            forbid_times(logits, sampled, self.tokenizer, self.latest_first)


def forbid_times(logits: Logits, sampled: Tokens, tokenizer: Tokenizer, latest_first: int | None) -> None:
    """The rules of timestamps (official `ApplyTimestampRules`), in place: a text begins with a time, of index `latest_first` at most; times
    come in pairs, the end of a segment and the start of the next, except before the end of text; they never fall, and no segment
    is empty; and where times together are likelier than any text, a time it is."""
    begin = tokenizer.timestamp_begin
    ids = torch.arange(logits.shape[1], device=logits.device)
    if sampled.shape[1] == 0:
        logits[:, :begin] = -torch.inf
        if latest_first is not None:
            logits[:, begin + latest_first + 1 :] = -torch.inf
    else:
        is_time = sampled >= begin
        last, before = is_time[:, -1], is_time[:, -2] if sampled.shape[1] > 1 else torch.ones_like(is_time[:, -1])
        after_pair, after_text = last & before, last & ~before
        times = ids[begin:]
        place = torch.where(is_time, torch.arange(sampled.shape[1], device=ids.device), -1).amax(1, keepdim=True)
        latest = torch.where(place < 0, begin - 1, sampled.gather(1, place.clamp(min=0)))
        forbidden = (times <= latest - after_text[:, None].long()) | after_pair[:, None]
        logits[:, begin:].masked_fill_(forbidden, -torch.inf)
        logits[:, : tokenizer.eot].masked_fill_(after_text[:, None], -torch.inf)
    likelier = logits[:, begin:].logsumexp(-1) > logits[:, :begin].amax(-1)
    logits[:, :begin].masked_fill_(likelier[:, None], -torch.inf)


def likeliest(logits: Logits, count: int) -> tuple[Float[Tensor, "rows count"], Int[Tensor, "rows count"]]:
    """Log-probabilities of the likeliest tokens of each row, in order, and those tokens."""
    if logits.is_cuda:
        found = logits.log_softmax(-1).topk(count)
        return found.values, found.indices
    logprobs, tokens = logits.new_empty(len(logits), count), torch.empty(len(logits), count, dtype=torch.long)
    loops.likeliest(logits.contiguous().numpy(), logprobs.numpy(), tokens.numpy())
    return logprobs, tokens


class Search(Protocol):
    """How the next tokens are chosen."""

    def extend(self, sampled: Tokens, logits: Logits, cache: Cache) -> tuple[Extended, bool]:
        """Choose the next token of each row; whether all rows are done."""
        ...

    def finish(self, sampled: Tokens, group: int) -> list[tuple[list[list[int]], list[float]]]:
        """The texts of each window, without their ends, and their log-probabilities."""
        ...


class Sampling:
    """Rows on their own: the likeliest token, or one drawn by temperature.

    Args:
        rows: how many.
        temperature: divides the logits; 0: the likeliest.
        eot: end of text.
        seed: of what is drawn; a window's draws do not depend on what is decoded beside it.
        group: rows of a window.
    """

    def __init__(self, rows: int, temperature: float, eot: int, seed: int, group: int):
        self.temperature, self.eot, self.seed, self.group = temperature, eot, seed, group
        self.logprobs: Tensor | None = None
        self.generators: list[torch.Generator] = []
        self.ended: Bool[Tensor, " rows"] | None = None

    def extend(self, sampled: Tokens, logits: Logits, cache: Cache) -> tuple[Extended, bool]:
        """See `Search`."""
        if self.logprobs is None or self.ended is None:
            self.logprobs = logits.new_zeros(len(logits))
            self.ended = torch.zeros_like(self.logprobs, dtype=torch.bool)
            windows = range(0, len(logits), self.group)
            self.generators = [torch.Generator(logits.device).manual_seed(self.seed) for _ in windows]
        if self.temperature == 0:
            chosen = logits.argmax(-1)
        else:
            likelihoods = (logits / self.temperature).softmax(-1)
            windows = zip(likelihoods.split(self.group), self.generators, strict=True)
            chosen = torch.cat([torch.multinomial(own, 1, generator=draws)[:, 0] for own, draws in windows])
        logprob = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        self.logprobs += torch.where(self.ended, 0.0, logprob)
        chosen = torch.where(self.ended, self.eot, chosen)
        self.ended = chosen == self.eot
        return torch.cat((sampled, chosen[:, None]), 1), bool(self.ended.all())

    def finish(self, sampled: Tokens, group: int) -> list[tuple[list[list[int]], list[float]]]:
        """See `Search`."""
        assert self.logprobs is not None
        texts = [_until(row, self.eot) for row in sampled.tolist()]
        logprobs = self.logprobs.tolist()
        return [(texts[i : i + group], logprobs[i : i + group]) for i in range(0, len(texts), group)]


class BeamSearch:
    """The likeliest texts of each window, side by side.

    Args:
        sounds: windows.
        beams: texts of each that are followed.
        patience: see `Options`.
        eot: end of text.
    """

    def __init__(self, sounds: int, beams: int, patience: float, eot: int):
        self.beams, self.eot = beams, eot
        self.enough = round(beams * patience)
        self.finished: list[dict[tuple[int, ...], float]] = [{} for _ in range(sounds)]
        self.logprobs: Float[Tensor, " rows"] | None = None

    def extend(self, sampled: Tokens, logits: Logits, cache: Cache) -> tuple[Extended, bool]:
        """See `Search`. Each beam proposes one token more than there are beams, so that enough are left if one is the end."""
        sounds, beams = len(self.finished), self.beams
        found, tokens = likeliest(logits, beams + 1)
        if self.logprobs is not None:
            found = found + self.logprobs[:, None]
        scores, choices = found.view(sounds, -1).tolist(), tokens.view(sounds, -1).tolist()
        rows: list[int] = []
        chosen: list[int] = []
        logprobs: list[float] = []
        for sound in range(sounds):
            proposals = range(
                len(scores[sound]) if self.logprobs is not None else beams + 1
            )  # at first, all beams are the same
            room = beams
            for proposal in sorted(proposals, key=scores[sound].__getitem__, reverse=True):
                row = sound * beams + proposal // (beams + 1)
                if choices[sound][proposal] == self.eot:
                    if len(self.finished[sound]) < self.enough:
                        self.finished[sound][tuple(sampled[row].tolist())] = scores[sound][proposal]
                    continue
                rows.append(row)
                chosen.append(choices[sound][proposal])
                logprobs.append(scores[sound][proposal])
                room -= 1
                if not room:
                    break
        self.logprobs = logits.new_tensor(logprobs)
        if rows != list(range(len(rows))):
            came = torch.tensor(rows, device=logits.device)
            cache.reorder(came)
            sampled = sampled[came]
        sampled = torch.cat((sampled, torch.tensor(chosen, device=logits.device)[:, None]), 1)
        return sampled, all(len(texts) >= self.enough for texts in self.finished)

    def finish(self, sampled: Tokens, group: int) -> list[tuple[list[list[int]], list[float]]]:
        """See `Search`. Where too few texts ended, the likeliest of the others fill up."""
        assert self.logprobs is not None
        found = []
        for sound, (texts, logprobs) in enumerate(
            zip(self.finished, self.logprobs.view(-1, self.beams).tolist(), strict=True)
        ):
            unfinished = sorted(range(self.beams), key=lambda beam: logprobs[beam], reverse=True)
            for beam in unfinished[: max(0, self.beams - len(texts))]:
                texts[tuple(sampled[sound * self.beams + beam].tolist())] = logprobs[beam]
            found.append(([list(text) for text in texts], list(texts.values())))
        return found


def _begin(
    model: Whisper, tokenizer: Tokenizer, options: Options, languages: list[str]
) -> tuple[list[int], list[list[int]]]:
    """The previous text, and the tokens that each window's text begins with (that text among them)."""
    context, length = model.dims.n_text_ctx, _sample_length(model, options)
    prefix = _tokens(tokenizer, options.prefix)
    prefix = prefix[-room:] if (room := context // 2 - length) > 0 else prefix
    previous = _tokens(tokenizer, options.prompt)
    prompt = [tokenizer.sot_prev, *previous[-(context // 2 - 1) :]] if previous else []
    starts = [tokenizer.start(language, options.task, options.timestamps) for language in languages]
    return prompt, [[*prompt, *start, *prefix] for start in starts]


def _sample_length(model: Whisper, options: Options) -> int:
    return options.sample_length or model.dims.n_text_ctx // 2


def _tokens(tokenizer: Tokenizer, given: str | Sequence[int]) -> list[int]:
    return tokenizer.encode(" " + given.strip()) if isinstance(given, str) and given else [int(t) for t in given]


def _rank(texts: list[list[int]], logprobs: list[float], alpha: float | None) -> int:
    """The best of several texts."""

    def score(index: int) -> float:
        length = len(texts[index])
        return logprobs[index] / (max(1, length) if alpha is None else ((5 + length) / 6) ** alpha)

    return max(range(len(texts)), key=score)


def _until(tokens: list[int], eot: int) -> list[int]:
    return tokens[: tokens.index(eot)] if eot in tokens else tokens
