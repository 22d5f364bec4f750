"""BERT's encoder (Devlin et al. 2018) as sentence vectors use it: no masks but padding, no dropout, the mean of the last layer's vectors
over a text's tokens, at length 1. Modules bear the names of the published checkpoints, so that these load as they are. Tokens come from
`vectors`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Dimensions:
    """Of a published configuration, by its own names."""

    vocab_size: int = 30522
    """Tokens."""
    hidden_size: int = 384
    """Of a token's vector, and of a text's."""
    num_hidden_layers: int = 6
    """Blocks."""
    num_attention_heads: int = 12
    """In each block."""
    intermediate_size: int = 1536
    """Of the feed-forward part."""
    max_position_embeddings: int = 512
    """Tokens of the longest text."""
    type_vocab_size: int = 2
    """Kinds of segments; a single text is of kind 0."""
    layer_norm_eps: float = 1e-12
    """Added to variances."""

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Dimensions":
        """From a published `config.json`."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})


class Bert(nn.Module):
    """Tokens to a vector a text."""

    def __init__(self, dims: Dimensions):
        super().__init__()
        self.embeddings = _Embeddings(dims)
        self.encoder = _Encoder(dims)

    def hidden(
        self, tokens: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time dim"]:
        """The last layer's vectors; `mask` is true at tokens, false at padding."""
        return self.encoder(self.embeddings(tokens), mask[:, None, None])

    def forward(
        self, tokens: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch dim"]:
        """A vector of length 1 for each text."""
        weight = mask[..., None].float()
        mean = (self.hidden(tokens, mask).float() * weight).sum(1) / weight.sum(1).clamp(min=1)
        return F.normalize(mean, dim=-1)


def padded(texts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Token numbers as a batch, and where they are."""
    longest = max(len(text) for text in texts)
    tokens = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = True
    return tokens, mask


class _Embeddings(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        self.word_embeddings = nn.Embedding(dims.vocab_size, dims.hidden_size)
        self.position_embeddings = nn.Embedding(dims.max_position_embeddings, dims.hidden_size)
        self.token_type_embeddings = nn.Embedding(dims.type_vocab_size, dims.hidden_size)
        self.LayerNorm = nn.LayerNorm(dims.hidden_size, eps=dims.layer_norm_eps)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        positions = self.position_embeddings.weight[: tokens.shape[1]]
        return self.LayerNorm(self.word_embeddings(tokens) + positions + self.token_type_embeddings.weight[0])


class _Encoder(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        self.layer = nn.ModuleList(_Layer(dims) for _ in range(dims.num_hidden_layers))

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch 1 1 time"]
    ) -> Float[Tensor, "batch time dim"]:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class _Layer(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        self.attention = _Attention(dims)
        self.intermediate = _Intermediate(dims)
        self.output = _Output(dims.intermediate_size, dims)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch 1 1 time"]
    ) -> Float[Tensor, "batch time dim"]:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class _Intermediate(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        self.dense = nn.Linear(dims.hidden_size, dims.intermediate_size)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time width"]:
        return F.gelu(self.dense(x))


class _Attention(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        self.self = _SelfAttention(dims)
        self.output = _Output(dims.hidden_size, dims)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch 1 1 time"]
    ) -> Float[Tensor, "batch time dim"]:
        return self.output(self.self(x, mask), x)


class _SelfAttention(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        self.heads = dims.num_attention_heads
        self.query = nn.Linear(dims.hidden_size, dims.hidden_size)
        self.key = nn.Linear(dims.hidden_size, dims.hidden_size)
        self.value = nn.Linear(dims.hidden_size, dims.hidden_size)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch 1 1 time"]
    ) -> Float[Tensor, "batch time dim"]:
        q, k, v = (
            each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """A linear map, the input added, normalised."""

    def __init__(self, width: int, dims: Dimensions):
        super().__init__()
        self.dense = nn.Linear(width, dims.hidden_size)
        self.LayerNorm = nn.LayerNorm(dims.hidden_size, eps=dims.layer_norm_eps)

    def forward(
        self, x: Float[Tensor, "batch time width"], before: Float[Tensor, "batch time dim"]
    ) -> Float[Tensor, "batch time dim"]:
        return self.LayerNorm(self.dense(x) + before)
