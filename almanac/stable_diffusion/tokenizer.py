"""Words to tokens, as CLIP has them: lower case, byte-level pairs, a mark at the end of each word (Radford et al. 2021). Models that are
trained here have smaller vocabularies of the same kind."""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from almanac.runtime import hub
from almanac.runtime.errors import UserError

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
FILE = "bpe_simple_vocab_16e6.txt.gz"
_SIZE = 49_408
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # OpenAI's clip/simple_tokenizer.py


class Vocabulary:
    """The tokens of a text encoder.

    Args:
        tokenizer: splits texts, without what begins and ends them.
        merges: pairs that become one, the first ones first.
    """

    def __init__(self, tokenizer: Tokenizer, merges: list[tuple[str, str]]):
        self.tokenizer, self.merges = tokenizer, merges
        numbers = tokenizer.get_vocab()
        self.begin, self.end = numbers[BEGIN], numbers[END]

    def facts(self) -> dict[str, Any]:
        """What `from_facts` makes it of, as JSON has it."""
        return {"numbers": self.tokenizer.get_vocab(), "merges": [" ".join(pair) for pair in self.merges]}

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text."""
        return [each.ids for each in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def published(folder: Path | None = None) -> Vocabulary:
    """CLIP's vocabulary.

    Args:
        folder: holds `vocab.json` and `merges.txt`, as diffusers' folder `tokenizer` does; None: OpenAI's file, fetched if need be.

    Raises:
        UserError: it is not there, or damaged.
    """
    try:
        if folder is not None:
            lines = (folder / "merges.txt").read_text().splitlines()
            lines = [line for line in lines if line and not line.startswith("#version")]
            return _tokenizer(json.loads((folder / "vocab.json").read_text()), lines)
        with gzip.open(hub.data("clip_bpe") / FILE, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : _SIZE - 512 - 2 + 1]
    except (OSError, ValueError) as error:
        raise UserError(f"the vocabulary can't be read ({error})", "get merges.txt and vocab.json again") from None
    letters = list(_letters().values())
    joined = ["".join(pair) for pair in _pairs(lines)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *joined, BEGIN, END]
    return _tokenizer({token: number for number, token in enumerate(tokens)}, lines)


def learnt(captions: Iterable[str], size: int) -> Vocabulary:
    """A vocabulary of the same kind, for these captions.

    Args:
        captions: texts.
        size: tokens, at most.

    Raises:
        UserError: the size is too small for all letters.
    """
    letters = list(_letters().values())
    least = [*letters, *(f"{letter}</w>" for letter in letters), BEGIN, END]
    if size < len(least):
        raise UserError(f"a vocabulary of {size} tokens is asked for", f"at least {len(least)} are needed")
    blank = _tokenizer({token: number for number, token in enumerate(least)}, []).tokenizer
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size - 2, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False, min_frequency=2
    )
    counted = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    counted.normalizer, counted.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    counted.train_from_iterator(captions, trainer)
    merges = [" ".join(pair) for pair in json.loads(counted.to_str())["model"]["merges"]][: size - len(least)]
    joined = list(dict.fromkeys("".join(pair.split()) for pair in merges))
    tokens = [*least[:-2], *joined, BEGIN, END]
    return _tokenizer({token: number for number, token in enumerate(tokens)}, merges)


def from_facts(facts: Any) -> Vocabulary:
    """What `Vocabulary.facts` says.

    Raises:
        UserError: it says no vocabulary.
    """
    try:
        return _tokenizer({str(token): int(number) for token, number in facts["numbers"].items()}, facts["merges"])
    except Exception:  # a stranger's file can hold anything
        raise UserError("the model's vocabulary is damaged", "train or get it anew") from None


def _tokenizer(numbers: dict[str, int], lines: list[str]) -> Vocabulary:
    """CLIP's way of splitting, with a vocabulary."""
    pairs = _pairs(lines)
    made = Tokenizer(models.BPE(numbers, pairs, end_of_word_suffix="</w>", unk_token=END))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (BEGIN, END)])
    return Vocabulary(made, pairs)


def _pairs(lines: list[str]) -> list[tuple[str, str]]:
    return [(left, right) for left, right in (line.split() for line in lines)]


def _letters() -> dict[int, str]:
    """How each byte is written: as itself where it can be seen, else as a letter from 256 on. In the order of OpenAI's file."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
