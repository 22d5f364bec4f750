"""Words to tokens and back, by `tokenizers`: from tokenizer.json, or GPT-2's vocab.json and merges.txt. What a person types is never
read as a special token; what a chat template says is. Text comes out piece by piece, in whole characters, and ends before the strings
that are to end it."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from almanac.runtime.errors import UserError
from almanac.runtime.model_folder import read_json

_REPLACEMENT = "\ufffd"


class Vocabulary:
    """A model's tokens.

    Args:
        tokenizer: the library's.
        ends: tokens that end a text.
        begin: the text of the token that begins one, for templates.
        end: likewise that ends one.
    """

    def __init__(self, tokenizer: Tokenizer, ends: Iterable[int], begin: str = "", end: str = ""):
        self.tokenizer, self.ends, self.begin, self.end = tokenizer, frozenset(ends), begin, end
        self._typed = Tokenizer.from_str(tokenizer.to_str())
        self._typed.encode_special_tokens = True

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """A person's text, in which special tokens are text.

        Args:
            text: the text.
            begin: whether tokens that the tokenizer puts around a text are put there.
        """
        return self._typed.encode(text, add_special_tokens=begin).ids

    def encode_meant(self, text: str) -> list[int]:
        """A template's text, in which special tokens are meant."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int], special: bool = False) -> str:
        """Tokens as text.

        Args:
            tokens: the tokens.
            special: whether special ones are shown.
        """
        return self.tokenizer.decode(list(tokens), skip_special_tokens=not special)

    @cached_property
    def specials(self) -> dict[str, int]:
        """Special tokens by their text, the longest first."""
        added = self.tokenizer.get_added_tokens_decoder()
        found = {token.content: number for number, token in added.items() if token.special}
        return dict(sorted(found.items(), key=lambda item: -len(item[0])))

    @cached_property
    def bytes(self) -> list[bytes]:
        """What each token spells."""
        added = self.tokenizer.get_added_tokens_decoder()
        decoder = json.loads(self.tokenizer.to_str()).get("decoder")
        spell = _spelt_by_bytes if "ByteLevel" in json.dumps(decoder) else _spelt_by_pieces
        found = []
        for number in range(len(self)):
            piece = self.tokenizer.id_to_token(number)
            found.append(b"" if piece is None else piece.encode() if number in added else spell(piece))
        return found


class Text:
    """A text that comes token by token.

    Args:
        vocabulary: of its tokens.
        stop: strings that end it and are left out.
        special: whether special tokens are shown.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = (), special: bool = False):
        self._vocabulary, self._stop, self._special = vocabulary, stop, special
        self._tokens: list[int] = []
        self._shown, self._read = 0, 0
        self._held = ""
        self.ended = False
        """Whether a string that ends it came."""

    def add(self, token: int) -> str:
        """Another token; the text that is certain now."""
        self._tokens.append(token)
        before = self._vocabulary.decode(self._tokens[self._shown : self._read], self._special)
        now = self._vocabulary.decode(self._tokens[self._shown :], self._special)
        if now.endswith(_REPLACEMENT) and len(self._tokens) - self._read < 8:  # a character that is not whole yet
            return ""
        self._shown, self._read = self._read, len(self._tokens)
        return self._certain(now[len(before) :])

    def finish(self) -> str:
        """No more comes; the text that was held back."""
        before = self._vocabulary.decode(self._tokens[self._shown : self._read], self._special)
        rest = self._vocabulary.decode(self._tokens[self._shown :], self._special)[len(before) :]
        self._shown = self._read = len(self._tokens)
        found = self._certain(rest)
        held, self._held = self._held, ""
        return found if self.ended else found + held

    def _certain(self, more: str) -> str:
        """Of what is held back and more of it, what no string can end any more."""
        if self.ended:
            return ""
        text = self._held + more
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self.ended, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def load(folder: Path, vocabulary: int) -> Vocabulary:
    """The tokenizer of a model's folder.

    Args:
        folder: holds tokenizer.json, or vocab.json and merges.txt.
        vocabulary: tokens that the model knows.

    Raises:
        UserError: there is none, it is damaged, or has more tokens than the model.
    """
    config = _optional(folder / "tokenizer_config.json")
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        elif (folder / "vocab.json").is_file():
            tokenizer = _gpt2(folder)
        else:
            raise UserError(f"there is no tokenizer.json in {folder}", "it is a part of a whole model; get it anew")
        _add_specials(tokenizer, config)
    except UserError:
        raise
    except Exception as error:  # `tokenizers` raises plain Exception for whatever is wrong with a file
        raise UserError(f"the tokenizer of {folder} can't be read ({error})", "it is damaged; get it anew") from None
    if tokenizer.get_vocab_size() > vocabulary:
        what = f"the tokenizer of {folder} has {tokenizer.get_vocab_size():,} tokens, and the model {vocabulary:,}"
        raise UserError(what, "they are of different models")
    end = _text_of(config.get("eos_token"))
    ends = _ends(folder, tokenizer, end)
    return Vocabulary(tokenizer, ends, _text_of(config.get("bos_token")), end)


def _ends(folder: Path, tokenizer: Tokenizer, end: str) -> set[int]:
    """Tokens that end a text, by whichever file says it."""
    found: set[int] = set()
    for file in ("generation_config.json", "config.json"):
        given = _optional(folder / file).get("eos_token_id")
        found |= {given} if isinstance(given, int) else set(given or ())
    named = tokenizer.token_to_id(end) if end else None
    return found | ({named} if named is not None else set())


def _add_specials(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """Tokens that only tokenizer_config.json says are special."""
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        text = _text_of(config.get(name))
        if text and tokenizer.token_to_id(text) is not None:
            tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])


def _gpt2(folder: Path) -> Tokenizer:
    merges = [
        (left, right)
        for line in (folder / "merges.txt").read_text("utf-8").splitlines()
        if not line.startswith("#version") and line.strip()
        for left, right in [line.split(" ")]
    ]
    tokenizer = Tokenizer(models.BPE(vocab=read_json(folder / "vocab.json"), merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id("<|endoftext|>") is not None:
        tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return tokenizer


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _text_of(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""


def _overlap(text: str, stop: str) -> int:
    """How many of a text's last characters may be the beginning of a string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def _spelt_by_bytes(piece: str) -> bytes:
    return bytes(_BYTES.get(letter, 0x3F) for letter in piece)


def _spelt_by_pieces(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def _byte_letters() -> dict[str, int]:
    """The printable letters that stand for bytes in byte-level vocabularies (GPT-2): those that are printable stand for themselves."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_letters()
