"""A decoder-only transformer that is GPT-2, Llama, Mistral, Qwen2 or Qwen3, by its config: which norm, which positions, which biases,
how many heads share keys. Names of parameters are those of Llama's published checkpoints. It is what is trained, and what the engine's
own computations are compared with; how keys and values of earlier tokens are kept is left to who calls it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from almanac.nn.embeddings import Rope, rotate

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values) of the tokens at hand, all [batch, length, heads, dim] → what the queries read, like them."""


_ROPE = Rope()


@dataclass(frozen=True)
class Config:
    """The shape of a model."""

    vocabulary: int
    """Tokens."""
    width: int
    """Channels between layers."""
    layers: int
    heads: int
    """Of queries."""
    kv_heads: int
    """Of keys and values; each serves heads / kv_heads queries."""
    head_dim: int
    """Channels of a head."""
    hidden: int
    """Channels within a feed-forward layer."""
    context: int
    """Positions that it knows."""
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    rope: Rope | None = _ROPE
    """None: learned positions (GPT-2)."""
    gated: bool = True
    """SiLU-gated feed-forward layers; else GELU ones of two matrices (GPT-2)."""
    qkv_bias: bool = False
    out_bias: bool = False
    """Of attention's output."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """Whether queries and keys are normalised before they are turned (Qwen3)."""
    windows: tuple[int, ...] = ()
    """Of each layer, how many of the last tokens a token sees, itself among them; 0: all. Empty: all, in each."""
    tied: bool = False
    """Whether the head's weights are the embedding's."""

    def window(self, layer: int) -> int:
        """How many of the last tokens are seen in a layer; 0: all."""
        return self.windows[layer] if self.windows else 0


class Transformer(nn.Module):
    """The network.

    Args:
        config: its shape.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        real: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length vocabulary"]:
        """The logits of what follows each token.

        Args:
            tokens: texts.
            real: False at tokens that only fill a text up, on its left or right; nobody sees them, and positions do not count them.
        """
        if real is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        else:
            positions = (real.cumsum(1) - 1).clamp(min=0)
        return self.lm_head(self.model(tokens, positions, causal(self.config, real)))


class Decoder(nn.Module):
    """Tokens to features.

    Args:
        config: its shape.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.embed_positions = None if config.rope else nn.Embedding(config.context, config.width)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.norm = norm(config, config.width)

    def forward(
        self, tokens: Int[Tensor, "batch length"], positions: Int[Tensor, "batch length"], attend: Attend
    ) -> Float[Tensor, "batch length width"]:
        """Features of each token.

        Args:
            tokens: texts, or parts of them.
            positions: where each stands.
            attend: how tokens see each other and earlier ones.
        """
        x = self.embed_tokens(tokens)
        turn = None
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions)
        if self.config.rope is not None:
            turn = self.config.rope.table(positions, self.config.head_dim)
        for layer in self.layers:
            x = layer(x, turn, attend)
        return self.norm(x)


class Layer(nn.Module):
    """Attention and a feed-forward network, each of what is normalised, added to what was there.

    Args:
        config: its shape.
        index: the how-manieth it is.
    """

    def __init__(self, config: Config, index: int):
        super().__init__()
        self.input_layernorm = norm(config, config.width)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = norm(config, config.width)
        self.mlp = GatedMLP(config) if config.gated else MLP(config)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        """Mix tokens, then channels."""
        x = x + self.self_attn(self.input_layernorm(x), turn, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Attention whose queries may share keys and values (Ainslie et al. 2023).

    Args:
        config: its shape.
        index: its layer.
    """

    def __init__(self, config: Config, index: int):
        super().__init__()
        self.index, self.head_dim = index, config.head_dim
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.width, queries, config.qkv_bias)
        self.k_proj = nn.Linear(config.width, keys, config.qkv_bias)
        self.v_proj = nn.Linear(config.width, keys, config.qkv_bias)
        self.o_proj = nn.Linear(queries, config.width, config.out_bias)
        self.q_norm = norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = norm(config, config.head_dim) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        """Let tokens read from others."""
        query, key, value = (
            project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = self.q_norm(query), self.k_norm(key)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        return self.o_proj(attend(self.index, query, key, value).flatten(-2))


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020).

    Args:
        config: its shape.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, config.mlp_bias)
        self.up_proj = nn.Linear(config.width, config.hidden, config.mlp_bias)
        self.down_proj = nn.Linear(config.hidden, config.width, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MLP(nn.Module):
    """down(gelu(up(x))).

    Args:
        config: its shape.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.up_proj = nn.Linear(config.width, config.hidden, config.mlp_bias)
        self.down_proj = nn.Linear(config.hidden, config.width, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels."""
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


class RMSNorm(nn.Module):
    """x over its root mean square, in float32, times a weight for each channel (Zhang and Sennrich 2019).

    Args:
        dim: channels.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def norm(config: Config, dim: int) -> nn.Module:
    """The model's kind of normalisation."""
    return RMSNorm(dim, config.norm_eps) if config.norm == "rms" else nn.LayerNorm(dim, config.norm_eps)


def causal(config: Config, real: Bool[Tensor, "batch length"] | None = None) -> Attend:
    """Whole texts: each token sees those before it, within its layer's window.

    Args:
        config: of the model.
        real: False at tokens that nobody sees.
    """

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length, window = query.shape[1], config.window(layer)
        q, k, v = (part.transpose(1, 2) for part in (query, key, value))
        shared = q.shape[1] != k.shape[1]
        if real is None and not 0 < window < length:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared).transpose(1, 2)
        place = torch.arange(length, device=q.device)
        behind = place[:, None] - place
        seen = (behind >= 0) & (behind < (window or length))
        if real is not None:
            seen = seen & (real[:, None, None] | (behind == 0))  # a filling token sees itself, so that no row is empty
        return F.scaled_dot_product_attention(q, k, v, seen, enable_gqa=shared).transpose(1, 2)

    return attend
