"""Text to tokens and back: byte-pair encoding (tiktoken does it) and the special tokens of the multitask format (paper §2.3, official
`tokenizer.py`): languages, tasks, no speech, previous text, and a timestamp for every 20 ms."""

import base64
import binascii
import json
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import tiktoken

from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.whisper.languages import LANGUAGES, WITHOUT_SPACES, code

Task = Literal["transcribe", "translate"]
Ranks = dict[bytes, int]

SECONDS_PER_TIMESTAMP = 0.02
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""How text is cut before pairs of bytes are merged (GPT-2's)."""
_MULTILINGUAL_VOCABULARY = 51_865
"""Tokens of the multilingual models up to large-v2; English ones have one fewer, large-v3 one more."""


@dataclass(frozen=True)
class Tokenizer:
    """The tokens of a model.

    Special tokens follow the ordinary ones: end of text, start of transcript, the languages, translate, transcribe, start of
    language model, start of previous text, no speech, no timestamps, and the timestamps.
    """

    encoding: tiktoken.Encoding
    languages: tuple[str, ...]
    """Codes of the languages, in the order of their tokens."""
    multilingual: bool = True
    """Whether a transcript begins with its language and task; those of the `.en` models do not."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; what looks like a special token in it is taken as text."""
        return self.encoding.encode_ordinary(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without timestamps; other special tokens as `<|name|>`."""
        return self.encoding.decode([token for token in tokens if token < self.timestamp_begin])

    def decode_with_timestamps(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with timestamps as `<|1.08|>`."""
        return self.encoding.decode(list(tokens))

    def start(self, language: str | None = None, task: Task = "transcribe", timestamps: bool = True) -> list[int]:
        """The tokens that a transcript begins with.

        Args:
            language: its code; ignored by English-only models.
            task: what follows is.
            timestamps: whether times follow.

        Raises:
            UserError: the model does not know the language.
        """
        tokens = [self.sot]
        if self.multilingual:
            tokens += [self.language_token(language or "en"), self.special(task)]
        return tokens if timestamps else [*tokens, self.no_timestamps]

    def language_token(self, language: str) -> int:
        """The token of a language, by code or name.

        Raises:
            UserError: the model does not know it.
        """
        found = code(language)
        if found not in self.languages:
            raise UserError(
                f"the model does not know the language '{language}'",
                f"use auto, or one of: {', '.join(self.languages)}",
            )
        return self.sot + 1 + self.languages.index(found)

    def special(self, name: str) -> int:
        """The token `<|name|>`."""
        return self.encoding.encode_single_token(f"<|{name}|>")

    @cached_property
    def ranks(self) -> Ranks:
        """The ordinary tokens' bytes → their rank, which is their id."""
        return {self.encoding.decode_single_token_bytes(token): token for token in range(self.eot)}

    @cached_property
    def eot(self) -> int:
        """End of text. All tokens below it are ordinary ones."""
        return self.special("endoftext")

    @cached_property
    def sot(self) -> int:
        """Start of transcript."""
        return self.special("startoftranscript")

    @cached_property
    def sot_prev(self) -> int:
        """Start of the previous window's text."""
        return self.special("startofprev")

    @cached_property
    def no_speech(self) -> int:
        """There is no speech in the window."""
        return self.special("nospeech")

    @cached_property
    def no_timestamps(self) -> int:
        """No times follow."""
        return self.special("notimestamps")

    @cached_property
    def timestamp_begin(self) -> int:
        """The timestamp of 0 s; all tokens from it on are timestamps."""
        return self.special("0.00")

    @cached_property
    def language_tokens(self) -> list[int]:
        """The tokens of `languages`."""
        return list(range(self.sot + 1, self.sot + 1 + len(self.languages)))

    @cached_property
    def not_sampled(self) -> list[int]:
        """Special tokens that no transcript holds after its start."""
        names = ("translate", "transcribe", "startoftranscript", "startoflm", "startofprev", "nospeech")
        return [self.special(name) for name in names]

    @cached_property
    def non_speech(self) -> list[int]:
        """Tokens of what is not said but written about it: brackets, notes of music, a speaker's dash (official list). Single hyphens
        and apostrophes are kept within words and dropped at their start; of signs that take several tokens, the first
        is enough for the musical ones, which begin alike."""
        music = "♩♪♫♬♭♮♯"
        signs = [
            *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
            "<<",
            ">>",
            "<<<",
            ">>>",
            "--",
            "---",
            "-(",
            "-[",
            "('",
            '("',
            "((",
            "))",
        ]
        signs += ["(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"]
        spellings = [[self.encode(space + sign) for space in ("", " ")] for sign in (*signs, *music)]
        single = {tokens[0] for pair in spellings for tokens in pair if len(tokens) == 1}
        musical = {self.encode(space + sign)[0] for sign in music for space in ("", " ")}
        return sorted(single | musical | {self.encode(" -")[0], self.encode(" '")[0]})

    def split_words(self, tokens: Sequence[int], language: str) -> list[tuple[str, list[int]]]:
        """Words with their tokens: at spaces and punctuation; in languages without spaces, after every whole character."""
        pieces = self._whole_characters(tokens)
        if language in WITHOUT_SPACES:
            return pieces
        words: list[tuple[str, list[int]]] = []
        for text, own in pieces:
            alone = own[0] >= self.eot or text.startswith(" ") or text.strip() in string.punctuation
            if alone or not words:
                words.append((text, own))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1] + own)
        return words

    def _whole_characters(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The shortest runs of tokens whose bytes are whole characters. U+FFFD stands for broken ones, unless it is in the text itself."""
        whole = self.decode_with_timestamps(tokens)
        pieces, pending, offset = [], [], 0
        for token in tokens:
            pending.append(token)
            text = self.decode_with_timestamps(pending)
            broken = text.find("\ufffd")
            if broken < 0 or whole[offset + broken] == "\ufffd":
                pieces.append((text, pending))
                pending, offset = [], offset + len(text)
        return pieces


@lru_cache(maxsize=8)
def official(n_vocab: int) -> Tokenizer:
    """The tokenizer of a published model.

    Args:
        n_vocab: rows of its token embedding, which tell its kind.

    Raises:
        UserError: the vocabulary is not at hand.
    """
    multilingual = n_vocab >= _MULTILINGUAL_VOCABULARY
    ranks = read_ranks(hub.data("whisper-vocabulary") / ("multilingual.tiktoken" if multilingual else "gpt2.tiktoken"))
    languages = tuple(LANGUAGES)[: n_vocab - 51_765 - multilingual]
    return build(ranks, languages, multilingual=multilingual)


def build(ranks: Ranks, languages: tuple[str, ...], seconds: float = 30.0, multilingual: bool = True) -> Tokenizer:
    """A tokenizer from a vocabulary.

    Args:
        ranks: ordinary tokens' bytes → their rank.
        languages: codes of the languages.
        seconds: the model's window, which the timestamps cover.
        multilingual: see `Tokenizer`.
    """
    times = [f"{index * SECONDS_PER_TIMESTAMP:.2f}" for index in range(round(seconds / SECONDS_PER_TIMESTAMP) + 1)]
    names = [
        "endoftext",
        "startoftranscript",
        *languages,
        *("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"),
        *times,
    ]
    specials = {f"<|{name}|>": len(ranks) + index for index, name in enumerate(names)}
    encoding = tiktoken.Encoding("whisper", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials)
    return Tokenizer(encoding, languages, multilingual)


def learn(texts: Iterable[str], size: int) -> Ranks:
    """A vocabulary learnt from texts: all bytes, and their most frequent merges (`tokenizers` counts them).

    Args:
        texts: texts, with the space before them that they will have.
        size: tokens in all, 256 at least.
    """
    from tokenizers import Regex
    from tokenizers import Tokenizer as Learner
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Split
    from tokenizers.pre_tokenizers import Sequence as Steps
    from tokenizers.trainers import BpeTrainer

    learner = Learner(BPE())
    learner.pre_tokenizer = Steps(  # pyright: ignore[reportAttributeAccessIssue]
        [Split(Regex(PATTERN), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = BpeTrainer(vocab_size=size, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    in_bytes = {letter: byte for byte, letter in byte_letters().items()}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for pair in merges:
        merged = bytes(in_bytes[letter] for letter in "".join(pair))
        ranks.setdefault(merged, len(ranks))
    return ranks


def byte_letters() -> dict[int, str]:
    """A printable letter for each byte, by which GPT-2's files write tokens: itself where it is printable, else the next one from
    U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def read_ranks(path: Path) -> Ranks:
    """Read a vocabulary in tiktoken's format: a token in base64 and its rank a line.

    Raises:
        UserError: it can't be read, or is another kind of file.
    """
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line]
        return {base64.b64decode(token): int(rank) for token, rank in lines}
    except (OSError, ValueError, binascii.Error) as error:
        raise UserError(f"{path} is not a vocabulary in tiktoken's format ({error})", "get it anew") from None
