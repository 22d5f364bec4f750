"""The text encoder: CLIP's text tower (Radford et al. 2021), whose last layer's features of all 77 tokens are what pictures are made of.
Names of parameters are those of the published files."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class TextConfig:
    """The shape of a text encoder; the default is CLIP ViT-L/14's."""

    vocabulary: int = 49_408
    width: int = 768
    layers: int = 12
    heads: int = 12
    positions: int = 77
    quick_gelu: bool = True
    """x · sigmoid(1.702 x), as OpenAI trained it; else GELU."""
    causal: bool = True
    """Whether a token reads only those before it; patches of a picture read all."""


class TextEncoder(nn.Module):
    """Tokens to features.

    Args:
        config: its shape.
    """

    def __init__(self, config: TextConfig = TextConfig()):
        super().__init__()
        self.config = config
        self.text_model = TextModel(config)

    def forward(self, tokens: Int[Tensor, "batch words"]) -> Float[Tensor, "batch words width"]:
        """Features of each token. Those after the end are read too, as the published models were trained.

        Args:
            tokens: at most as many as there are positions.
        """
        return self.encode(self.embed(tokens))

    def embed(self, tokens: Int[Tensor, "batch words"]) -> Float[Tensor, "batch words width"]:
        """What the layers read of tokens."""
        return self.text_model.embeddings(tokens)

    def place(self, number: int) -> Float[Tensor, " width"]:
        """What is added to the how-manieth token, because it stands there."""
        return self.text_model.embeddings.position_embedding.weight[number]

    def encode(self, embedded: Float[Tensor, "batch words width"]) -> Float[Tensor, "batch words width"]:
        """Features of embedded tokens."""
        return self.text_model(embedded)


class TextModel(nn.Module):
    """What the published files call `text_model`.

    Args:
        config: its shape.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(config) for _ in range(config.layers))})
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        for layer in self.encoder["layers"]:  # pyright: ignore[reportGeneralTypeIssues]
            x = layer(x)
        return self.final_layer_norm(x)


class Embeddings(nn.Module):
    """Of tokens and their places.

    Args:
        config: its shape.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.positions, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed."""
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class Layer(nn.Module):
    """Attention and a feed-forward network, each of what is normalised, added to what was there.

    Args:
        config: its shape.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class SelfAttention(nn.Module):
    """Each token reads itself and those before it, or all.

    Args:
        config: its shape.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.heads, self.causal = config.heads, config.causal
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear, GELU, linear.

    Args:
        config: its shape.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.quick = config.quick_gelu
        self.fc1 = nn.Linear(config.width, 4 * config.width)
        self.fc2 = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels."""
        hidden = self.fc1(x)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden))
