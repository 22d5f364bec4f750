"""Prompts to what the U-Net reads: tokens in chunks of 75, each between a beginning and an end, weighted; with words that people taught
a model (textual inversion, Gal et al. 2022) in their places. As AUTOMATIC1111's web UI does it, which for a plain short prompt is as
diffusers and the published code do it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.stable_diffusion import prompt as grammar
from almanac.stable_diffusion.text_encoder import TextEncoder
from almanac.stable_diffusion.tokenizer import Vocabulary

MOST_LETTERS = 10_000
"""Of a prompt."""
_BACKTRACK = 20
"""Tokens of a list's last entry that go into the next chunk whole, rather than be cut."""


@dataclass(frozen=True)
class Part:
    """Something that a step follows."""

    features: Float[Tensor, "words width"]
    weight: float = 1.0


@dataclass
class _Chunk:
    """Tokens on their way."""

    tokens: list[int]
    weights: list[float]
    taught: dict[int, Tensor]
    """Vectors, by their places."""


class Reader:
    """Reads prompts for a model.

    Args:
        encoder: the text encoder.
        vocabulary: its tokens.
        taught: words that stand for vectors, [count, width]; whole words, in capitals or not.
    """

    def __init__(self, encoder: TextEncoder, vocabulary: Vocabulary, taught: Mapping[str, Tensor] | None = None):
        if len(vocabulary) > encoder.config.vocabulary:
            what = f"the vocabulary has {len(vocabulary)} tokens, and the model {encoder.config.vocabulary}"
            raise UserError(what, "give the model's own vocabulary")
        self.encoder, self.vocabulary = encoder, vocabulary
        self.taught = {word.lower(): vectors for word, vectors in (taught or {}).items()}
        longest_first = sorted(self.taught, key=len, reverse=True)
        self.spelt = re.compile("|".join(map(_whole, longest_first)), re.IGNORECASE)
        self.room = encoder.config.positions - 2
        self.read = lru_cache(maxsize=64)(self._read)

    def parts(self, prompt: str, steps: int) -> list[list[Part]]:
        """What each step follows, with how much it counts.

        Args:
            prompt: in the grammar of `prompt`, with several parts if it has `AND`.
            steps: how many there are.

        Raises:
            UserError: the prompt is too long.
        """
        check(prompt)
        both = [(self.features(each.text, steps), each.weight) for each in grammar.together(prompt)]
        return [[Part(features[step], weight) for features, weight in both] for step in range(steps)]

    def features(self, prompt: str, steps: int) -> list[Float[Tensor, "words width"]]:
        """What each step reads of a prompt as one: `AND` is a word of it.

        Args:
            prompt: in the grammar of `prompt`.
            steps: how many there are.

        Raises:
            UserError: the prompt is too long.
        """
        check(prompt)
        return [self.read(each) for each in grammar.scheduled(prompt, steps)]

    def blank(self) -> Float[Tensor, "words width"]:
        """Features of a chunk without words."""
        return self.read("")

    @torch.inference_mode()
    def _read(self, prompt: str) -> Float[Tensor, "words width"]:
        chunks = self._chunks(prompt)
        device = self.encoder.text_model.final_layer_norm.weight.device
        tokens = torch.tensor([chunk.tokens for chunk in chunks], device=device)
        embedded = self.encoder.embed(tokens)
        for line, chunk in enumerate(chunks):
            for place, vector in chunk.taught.items():
                embedded[line, place] = vector.to(embedded) + self.encoder.place(place)
        apart = [self.encoder.encode(each[None]) for each in embedded]  # together they would come out a hair otherwise
        features = torch.cat(apart).float()
        weights = torch.tensor([chunk.weights for chunk in chunks], device=device)
        if (weights != 1).any():
            before = features.mean((1, 2), keepdim=True)
            features = features * weights[..., None]
            features = features * (before / features.mean((1, 2), keepdim=True))
        return features.flatten(0, 1)

    def _chunks(self, prompt: str) -> list[_Chunk]:
        """A prompt's tokens with their weights, 77 to a chunk."""
        found: list[_Chunk] = []
        now = _Chunk([], [], {})
        comma, last = self.vocabulary.encode(","), -1

        def close() -> None:
            nonlocal now, last
            more = self.room - len(now.tokens)
            tokens = [self.vocabulary.begin, *now.tokens, self.vocabulary.end, *[self.vocabulary.end] * more]
            found.append(
                _Chunk(
                    tokens, [1.0, *now.weights, *[1.0] * (more + 1)], {1 + at: each for at, each in now.taught.items()}
                )
            )
            now, last = _Chunk([], [], {}), -1

        for part in grammar.weighted(prompt):
            if part.text == grammar.BREAK:
                close()
                continue
            for piece in self._pieces(part.text):
                count = len(piece) if isinstance(piece, Tensor) else 1
                if isinstance(piece, int) and [piece] == comma:
                    last = len(now.tokens)
                elif len(now.tokens) == self.room and last >= 0 and len(now.tokens) - last <= _BACKTRACK:
                    kept = last + 1
                    moved = now
                    now = _Chunk(
                        moved.tokens[:kept],
                        moved.weights[:kept],
                        {at: v for at, v in moved.taught.items() if at < kept},
                    )
                    close()
                    rest = {at - kept: vector for at, vector in moved.taught.items() if at >= kept}
                    now = _Chunk(moved.tokens[kept:], moved.weights[kept:], rest)
                if len(now.tokens) + count > self.room:
                    close()
                if isinstance(piece, Tensor):
                    now.taught |= {len(now.tokens) + number: vector for number, vector in enumerate(piece)}
                    now.tokens += [self.vocabulary.end] * count
                else:
                    now.tokens.append(piece)
                now.weights += [part.weight] * count
        if now.tokens or not found:
            close()
        return found

    def _pieces(self, text: str) -> list[int | Tensor]:
        """Tokens of a text, and vectors of taught words in it."""
        pieces: list[int | Tensor] = []
        end = 0
        for found in self.spelt.finditer(text) if self.taught else ():
            pieces += [*self.vocabulary.encode(text[end : found.start()]), self.taught[found[0].lower()][: self.room]]
            end = found.end()
        return [*pieces, *self.vocabulary.encode(text[end:])]


def _whole(word: str) -> str:
    """A pattern of a word that is not a part of another one."""
    before, after = (r"(?<!\w)" if word[:1].isalnum() else "", r"(?!\w)" if word[-1:].isalnum() else "")
    return f"{before}{re.escape(word)}{after}"


def check(prompt: str) -> None:
    """Refuse a prompt that is no prompt.

    Raises:
        UserError: it is too long.
    """
    if len(prompt) > MOST_LETTERS:
        raise UserError(f"the prompt has {len(prompt):,} characters", f"give at most {MOST_LETTERS:,}")


def padded(features: Sequence[Float[Tensor, "_ width"]], blank: Float[Tensor, "chunk width"]) -> list[Tensor]:
    """Features of several prompts at one length, with blank chunks behind."""
    most = max(len(each) for each in features)
    return [torch.cat([each, *[blank] * ((most - len(each)) // len(blank))]) for each in features]
