"""The networks (paper §2.2; official `model.py`): an encoder that hears a window of log-mel frames, and a decoder that writes tokens.
Modules are named as in the official checkpoints. The decoder runs over a whole text (training, alignment), or token by token with a
`Cache` of what it has seen. What tokens mean, and which one is taken, is left to `tokenizer` and `decoding`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from almanac.runtime import device

HEAD_SIZE = 64
"""Channels of an attention head in every published size."""


@dataclass(frozen=True)
class Dims:
    """Sizes of a model, named as in the official checkpoints."""

    n_mels: int
    """Mel filters of the spectrogram."""
    n_audio_ctx: int
    """Positions of the encoder, each of two frames (20 ms)."""
    n_audio_state: int
    """Channels of the encoder."""
    n_audio_head: int
    """Attention heads of the encoder."""
    n_audio_layer: int
    """Blocks of the encoder."""
    n_vocab: int
    """Tokens."""
    n_text_ctx: int
    """Tokens that the decoder can look back on."""
    n_text_state: int
    """Channels of the decoder."""
    n_text_head: int
    """Attention heads of the decoder."""
    n_text_layer: int
    """Blocks of the decoder."""

    @property
    def seconds(self) -> float:
        """Length of a window."""
        return self.n_audio_ctx / 50

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return 2 * self.n_audio_ctx

    @staticmethod
    def of_width(
        width: int, encoder: int, decoder: int, vocabulary: int, *, mels: int = 80, seconds: float = 30.0
    ) -> "Dims":
        """Sizes with equal widths and heads of 64 channels, as all published ones have."""
        heads = width // HEAD_SIZE
        return Dims(mels, round(seconds * 50), width, heads, encoder, vocabulary, 448, width, heads, decoder)


SIZES = {
    "tiny.en": Dims.of_width(384, 4, 4, 51_864),
    "tiny": Dims.of_width(384, 4, 4, 51_865),
    "base.en": Dims.of_width(512, 6, 6, 51_864),
    "base": Dims.of_width(512, 6, 6, 51_865),
    "small.en": Dims.of_width(768, 12, 12, 51_864),
    "small": Dims.of_width(768, 12, 12, 51_865),
    "medium.en": Dims.of_width(1024, 24, 24, 51_864),
    "medium": Dims.of_width(1024, 24, 24, 51_865),
    "large-v2": Dims.of_width(1280, 32, 32, 51_865),
    "large-v3": Dims.of_width(1280, 32, 32, 51_866, mels=128),
    "large-v3-turbo": Dims.of_width(1280, 32, 4, 51_866, mels=128),
}
"""The published sizes (paper, Table 1; official `__init__.py`); large-v1 is as large as large-v2."""


@dataclass
class Cache:
    """What a decoder has seen: keys and values of its tokens, and of the sound. Several rows (beams, samples) of a text may share
    one sound: rows are grouped by it."""

    keys: Float[Tensor, "layers rows heads context size"]
    values: Float[Tensor, "layers rows heads context size"]
    cross: list[tuple[Float[Tensor, "sounds heads size positions"], Float[Tensor, "sounds heads positions size"]]]
    length: int = 0
    """Tokens seen so far."""

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Make row i what row rows[i] was, as the beams of a search do."""
        seen = slice(self.length)
        self.keys[:, :, :, seen] = self.keys[:, rows, :, seen]
        self.values[:, :, :, seen] = self.values[:, rows, :, seen]


class LayerNorm(nn.LayerNorm):
    """Layer normalisation, in float32 whatever comes in."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


class MultiHeadAttention(nn.Module):
    """Attention with a bias on all projections but that of keys.

    Args:
        n_state: channels.
        n_head: heads.
    """

    def __init__(self, n_state: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.query = nn.Linear(n_state, n_state)
        self.key = nn.Linear(n_state, n_state, bias=False)
        self.value = nn.Linear(n_state, n_state)
        self.out = nn.Linear(n_state, n_state)

    def heads(self, x: Float[Tensor, "batch length state"]) -> Float[Tensor, "batch heads length size"]:
        """Channels cut into heads."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def project(
        self, x: Float[Tensor, "batch length state"], other: Float[Tensor, "batch positions state"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x, keys and values of `other`, each cut into heads."""
        key, value = self.heads(self.key(other)), self.heads(self.value(other))
        return self.heads(self.query(x)).to(key.dtype), key, value

    def _merge(self, x: Float[Tensor, "batch heads length size"]) -> Float[Tensor, "batch length state"]:
        """Heads side by side, and out."""
        return self.out(x.transpose(1, 2).flatten(2))

    def forward(
        self,
        x: Float[Tensor, "batch length state"],
        other: Float[Tensor, "batch positions state"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch length state"]:
        """Attend to `other`, or to x itself; causal: only to what came before."""
        source = x if other is None else other
        return self._merge(_attend(*self.project(x, source), causal))

    def weights(
        self, x: Float[Tensor, "batch length state"], other: Float[Tensor, "batch positions state"]
    ) -> tuple[Float[Tensor, "batch length state"], Float[Tensor, "batch heads length positions"]]:
        """The same, and what was attended to: scaled products, before the softmax."""
        scale = (x.shape[-1] // self.n_head) ** -0.25
        query, key = self.heads(self.query(x)) * scale, self.heads(self.key(other)) * scale
        products = query.float() @ key.float().transpose(-1, -2)
        value = self.heads(self.value(other))
        return self._merge(products.softmax(-1).to(value.dtype) @ value), products

    def read(self, x: Float[Tensor, "rows length state"], keys: Tensor, values: Tensor, seen: int) -> Tensor:
        """Attend to the tokens of a cache's layer after adding x to them.

        Args:
            x: the new tokens.
            keys: rows × heads × context × size; written to.
            values: the same.
            seen: tokens that are there already.
        """
        length = x.shape[1]
        now = slice(seen, seen + length)
        query, keys[:, :, now], values[:, :, now] = self.project(x, x)
        past_keys, past_values = keys[:, :, : seen + length], values[:, :, : seen + length]
        if seen or length == 1:  # one token looks at all
            mask = None if length == 1 else _causal(length, seen, x.device)
            return self._merge(F.scaled_dot_product_attention(query, past_keys, past_values, attn_mask=mask))
        return self._merge(F.scaled_dot_product_attention(query, past_keys, past_values, is_causal=True))

    def listen(
        self,
        x: Float[Tensor, "rows length state"],
        keys: Float[Tensor, "sounds heads size positions"],
        values: Float[Tensor, "sounds heads positions size"],
    ) -> Float[Tensor, "rows length state"]:
        """Attend to sounds whose keys and values are known; each sound serves as many successive rows as there are for it, so that
        beams do not multiply it."""
        rows, length, _ = x.shape
        sounds = len(keys)
        query = self.query(x).view(sounds, rows // sounds * length, self.n_head, -1).transpose(1, 2)
        weights = ((query * query.shape[-1] ** -0.5).to(keys.dtype) @ keys).softmax(-1)
        heard = (weights @ values).transpose(1, 2).reshape(rows, length, -1)
        return self.out(heard)


def _attend(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Softmax attention over batch × heads × length × size. On a CPU in bfloat16, plain products are faster than torch's fused kernel, but
    where the processor multiplies tiles, and backwards even there (docs/log.md)."""
    tiles = device.multiplies_tiles() and not torch.is_grad_enabled()
    if query.is_cuda or query.dtype != torch.bfloat16 or tiles:
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    products = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if causal:
        future = torch.ones(products.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        products = products.masked_fill(future, -torch.inf)
    return products.softmax(-1) @ value


class EncoderBlock(nn.Module):
    """Attention to oneself and a perceptron, each added to what came in."""

    def __init__(self, n_state: int, n_head: int):
        super().__init__()
        self.attn = MultiHeadAttention(n_state, n_head)
        self.attn_ln = LayerNorm(n_state)
        self.mlp = nn.Sequential(nn.Linear(n_state, 4 * n_state), nn.GELU(), nn.Linear(4 * n_state, n_state))
        self.mlp_ln = LayerNorm(n_state)

    def forward(self, x: Float[Tensor, "batch positions state"]) -> Float[Tensor, "batch positions state"]:
        """Every position sees every other."""
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class DecoderBlock(nn.Module):
    """Attention to what was written, attention to the sound, and a perceptron."""

    def __init__(self, n_state: int, n_head: int):
        super().__init__()
        self.attn = MultiHeadAttention(n_state, n_head)
        self.attn_ln = LayerNorm(n_state)
        self.cross_attn = MultiHeadAttention(n_state, n_head)
        self.cross_attn_ln = LayerNorm(n_state)
        self.mlp = nn.Sequential(nn.Linear(n_state, 4 * n_state), nn.GELU(), nn.Linear(4 * n_state, n_state))
        self.mlp_ln = LayerNorm(n_state)

    def forward(
        self, x: Float[Tensor, "batch length state"], sound: Float[Tensor, "batch positions state"]
    ) -> Float[Tensor, "batch length state"]:
        """Every token sees those before it, and all of the sound."""
        x = x + self.attn(self.attn_ln(x), causal=True)
        x = x + self.cross_attn(self.cross_attn_ln(x), sound)
        return x + self.mlp(self.mlp_ln(x))


class AudioEncoder(nn.Module):
    """Log-mel frames to features, one for each 20 ms."""

    positional_embedding: Tensor
    blocks: Sequence[EncoderBlock]

    def __init__(self, n_mels: int, n_ctx: int, n_state: int, n_head: int, n_layer: int):
        super().__init__()
        self.conv1 = nn.Conv1d(n_mels, n_state, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(n_state, n_state, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(n_ctx, n_state))
        self.blocks = nn.ModuleList(EncoderBlock(n_state, n_head) for _ in range(n_layer))  # pyright: ignore[reportAttributeAccessIssue]
        self.ln_post = LayerNorm(n_state)

    def forward(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch positions state"]:
        """Encode windows of at most 2 × n_ctx frames."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = (x + self.positional_embedding[: x.shape[1]]).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class TextDecoder(nn.Module):
    """Tokens to what comes next, given the sound."""

    blocks: Sequence[DecoderBlock]

    def __init__(self, n_vocab: int, n_ctx: int, n_state: int, n_head: int, n_layer: int):
        super().__init__()
        self.token_embedding = nn.Embedding(n_vocab, n_state)
        self.positional_embedding = nn.Parameter(torch.empty(n_ctx, n_state))
        self.blocks = nn.ModuleList(DecoderBlock(n_state, n_head) for _ in range(n_layer))  # pyright: ignore[reportAttributeAccessIssue]
        self.ln = LayerNorm(n_state)
        self.head: nn.Module | None = None
        """What makes logits instead of the table, where `fast` put one."""

    def forward(
        self, tokens: Int[Tensor, "batch length"], sound: Float[Tensor, "batch positions state"]
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Logits after each token of a whole text."""
        return self.logits(self.read(tokens, sound))

    def read(
        self, tokens: Int[Tensor, "batch length"], sound: Float[Tensor, "batch positions state"]
    ) -> Float[Tensor, "batch length state"]:
        """Read a whole text.

        Returns:
            What `logits` makes likelihoods of; only those that are needed should be asked for.
        """
        x = self._embed(tokens, 0, sound.dtype)
        for block in self.blocks:
            x = block(x, sound)
        return self.ln(x)

    def logits(self, x: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch vocabulary"]:
        """How likely each token is next, by the same table that embeds them; float32."""
        if self.head is not None:
            return self.head(x).float()
        return F.linear(x, self.token_embedding.weight.to(x.dtype)).float()

    def begin(self, sound: Float[Tensor, "sounds positions state"], rows: int | None = None) -> Cache:
        """An empty cache.

        Args:
            sound: what the encoder made.
            rows: texts that are written, a multiple of the sounds; default: one for each.
        """
        first = self.blocks[0].attn
        context, state = self.positional_embedding.shape
        shape = (len(self.blocks), rows or len(sound), first.n_head, context, state // first.n_head)
        cross: list[tuple[Tensor, Tensor]] = []
        for block in self.blocks:
            attention = block.cross_attn
            keys = attention.heads(attention.key(sound)).transpose(-1, -2).contiguous()
            cross.append((keys, attention.heads(attention.value(sound)).contiguous()))
        like = cross[0][0]  # as precise as the projections
        return Cache(like.new_zeros(shape), like.new_zeros(shape), cross)

    def step(self, tokens: Int[Tensor, "rows length"], cache: Cache) -> Float[Tensor, "rows length state"]:
        """Read the next tokens of each row, and keep them in the cache.

        Returns:
            As `read`.
        """
        x = self._embed(tokens, cache.length, self.positional_embedding.dtype)
        for block, keys, values, (cross_keys, cross_values) in zip(
            self.blocks, cache.keys, cache.values, cache.cross, strict=True
        ):
            x = x + block.attn.read(block.attn_ln(x), keys, values, cache.length)
            x = x + block.cross_attn.listen(block.cross_attn_ln(x), cross_keys, cross_values)
            x = x + block.mlp(block.mlp_ln(x))
        cache.length += tokens.shape[1]
        return self.ln(x)

    def attention(
        self, tokens: Int[Tensor, "batch length"], sound: Float[Tensor, "batch positions state"]
    ) -> tuple[Float[Tensor, "batch length state"], Float[Tensor, "layers batch heads length positions"]]:
        """What `read` returns, and how each head of each layer attended to the sound (before the softmax)."""
        x, seen = self._embed(tokens, 0, sound.dtype), []
        for block in self.blocks:
            x = x + block.attn(block.attn_ln(x), causal=True)
            heard, products = block.cross_attn.weights(block.cross_attn_ln(x), sound)
            seen.append(products)
            x = x + heard
            x = x + block.mlp(block.mlp_ln(x))
        return self.ln(x), torch.stack(seen)

    def _embed(self, tokens: Tensor, seen: int, dtype: torch.dtype) -> Tensor:
        positions = self.positional_embedding[seen : seen + tokens.shape[1]]
        return (self.token_embedding(tokens) + positions).to(dtype)


class Whisper(nn.Module):
    """The whole model.

    Args:
        dims: its sizes.
        alignment_heads: layers × heads, true for the decoder's heads whose attention follows the words in time; None: all heads of the
            later half of the layers.
    """

    def __init__(self, dims: Dims, alignment_heads: Bool[Tensor, "layers heads"] | None = None):
        super().__init__()
        self.dims = dims
        self.encoder = AudioEncoder(
            dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer
        )
        self.decoder = TextDecoder(
            dims.n_vocab, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer
        )
        if alignment_heads is None:
            alignment_heads = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
            alignment_heads[dims.n_text_layer // 2 :] = True
        self.alignment_heads = alignment_heads

    def forward(
        self, mel: Float[Tensor, "batch mels frames"], tokens: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Logits after each token of texts, given windows."""
        return self.decoder(tokens, self.encoder(mel))


def sinusoids(length: int, channels: int, longest: float = 10_000) -> Float[Tensor, "length channels"]:
    """Fixed positions: sines in the first half of the channels, cosines in the second, of wavelengths from 2π to 2π × longest."""
    rates = torch.exp(-math.log(longest) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), 1)


def _causal(length: int, seen: int, device: torch.device) -> Bool[Tensor, "length total"]:
    return torch.ones(length, seen + length, dtype=torch.bool, device=device).tril(seen)
