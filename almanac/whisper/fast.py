"""A model made faster by less precise numbers. On a GPU: products in bfloat16. On a CPU: the encoder's products in bfloat16 where the
CPU has that, and a decoder whose weights are rounded to eight bits (`nn.int8`, `loops`). What is added up, normalised or compared
stays float32. docs/log.md says what each saves, and what it costs in words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from almanac.nn.int8 import Int8Linear, joined_bias
from almanac.runtime import device
from almanac.runtime.errors import UserError
from almanac.whisper import loops
from almanac.whisper.model import Cache, DecoderBlock, EncoderBlock, MultiHeadAttention, TextDecoder, Whisper

PRECISIONS = ("auto", "fp32", "bf16", "int8")

Kind = Callable[..., nn.Module]
"""Of linear layers; makes one of several that read the same input."""


def prepare(model: Whisper, precision: str) -> None:
    """Change a model's layers to those of a precision, in place and for good: unless it is fp32, the model can't be trained or saved.

    Args:
        model: on the device where it will run.
        precision: `auto` (int8 on a CPU, bf16 on a GPU that is fast in it), `fp32`, `bf16` or `int8`.

    Raises:
        UserError: there is no such precision, or not on that device.
    """
    where = model.decoder.positional_embedding.device
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision '{precision}'", f"use {', '.join(PRECISIONS)}")
    if precision == "int8" and where.type != "cpu":
        raise UserError("int8 is for the CPU", "use --precision bf16 on a GPU")
    bfloat16 = device.has_fast_bfloat16(where)
    if precision == "auto":
        precision = "int8" if where.type == "cpu" else "bf16" if bfloat16 else "fp32"
    if precision == "fp32":
        return
    model.requires_grad_(False)
    if precision == "bf16" or bfloat16:
        for block in model.encoder.blocks:
            _join(block, Bfloat16Linear)
        for block in model.decoder.blocks:
            _replace(block.cross_attn, ("key", "value"), Bfloat16Linear)
    kind = Int8Linear if precision == "int8" else Bfloat16Linear
    for block in model.decoder.blocks:
        _join(block, kind)
        _replace(block.cross_attn, ("query", "out"), kind)
    table = model.decoder.token_embedding.weight
    head = nn.Linear(*table.shape[::-1], bias=False, device="meta")
    head.weight = table
    model.decoder.head = kind(head)
    if precision == "int8":
        model.decoder = StepDecoder(model.decoder)


class Bfloat16Linear(nn.Module):
    """x Wᵀ + b in bfloat16.

    Args:
        layers: one, or several that read the same input: their outputs lie side by side.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, *layers: nn.Linear):
        super().__init__()
        self.register_buffer("weight", torch.cat([layer.weight for layer in layers]).detach().bfloat16())
        self.register_buffer("bias", joined_bias(*layers).bfloat16())

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Multiply."""
        return F.linear(x.bfloat16(), self.weight, self.bias)


class JoinedAttention(MultiHeadAttention):
    """Attention to oneself whose queries, keys and values are one product.

    Args:
        attention: whose weights to take.
        kind: of its layers.
    """

    def __init__(self, attention: MultiHeadAttention, kind: Kind):
        nn.Module.__init__(self)
        self.n_head = attention.n_head
        self.qkv = kind(attention.query, attention.key, attention.value)
        self.out = kind(attention.out)

    def project(
        self, x: Float[Tensor, "batch length state"], other: Float[Tensor, "batch positions state"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `MultiHeadAttention`; `other` is x."""
        query, key, value = self.qkv(x).chunk(3, -1)
        return self.heads(query), self.heads(key), self.heads(value)


@dataclass(kw_only=True)
class StepCache(Cache):
    """A cache for compiled steps. Tokens stay where they were written: when texts change places, only `came` does."""

    came: Int[Tensor, "rows context"]
    """In which row's place each of a row's tokens is."""
    heard: list["_Sounds"]
    """What each block attends to."""

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Cache`."""
        self.came = self.came[rows]


class StepDecoder(TextDecoder):
    """A decoder in eight bits whose steps are compiled.

    Args:
        decoder: whose layers, in eight bits already, to take.
    """

    def __init__(self, decoder: TextDecoder):
        nn.Module.__init__(self)
        self.token_embedding, self.positional_embedding = decoder.token_embedding, decoder.positional_embedding
        self.blocks, self.ln, self.head = decoder.blocks, decoder.ln, decoder.head
        self.layers = [_Layer(block) for block in self.blocks]
        with torch.inference_mode():  # compiled now, and not when somebody waits for words
            for rows in (1, 5):
                cache = self.begin(torch.zeros(1, 1, self.positional_embedding.shape[1]), rows)
                self.logits(self.step(torch.zeros(rows, 1, dtype=torch.long), cache))

    def begin(self, sound: Float[Tensor, "sounds positions state"], rows: int | None = None) -> StepCache:
        """See `TextDecoder`."""
        context, state = self.positional_embedding.shape
        rows, heads = rows or len(sound), self.blocks[0].attn.n_head
        keys, values = torch.empty(2, len(self.blocks), rows, heads, context, state // heads).unbind(0)
        came = torch.zeros(rows, context, dtype=torch.long)
        heard = [_Sounds(block.cross_attn, sound) for block in self.blocks]
        return StepCache(keys=keys, values=values, cross=[], came=came, heard=heard)

    def step(self, tokens: Int[Tensor, "rows length"], cache: Cache) -> Float[Tensor, "rows length state"]:
        """See `TextDecoder`."""
        assert isinstance(cache, StepCache)
        x = self._embed(tokens, cache.length, torch.float32).flatten(0, 1).numpy()
        came, all_keys, all_values = cache.came.numpy(), cache.keys.numpy(), cache.values.numpy()
        for layer, keys, values, heard in zip(self.layers, all_keys, all_values, cache.heard, strict=True):
            layer.take(x, keys, values, came, cache.length, heard)
        cache.length += tokens.shape[1]
        return self.ln(torch.from_numpy(x)).unflatten(0, tokens.shape)


class _Layer:
    """A block's weights as compiled loops take them."""

    def __init__(self, block: DecoderBlock):
        self.attn_ln, self.cross_ln, self.mlp_ln = (
            (norm.weight.numpy(), norm.bias.numpy()) for norm in (block.attn_ln, block.cross_attn_ln, block.mlp_ln)
        )
        attention, cross, mlp = block.attn, block.cross_attn, block.mlp
        assert isinstance(attention, JoinedAttention)
        layers = (attention.qkv, attention.out, cross.query, cross.out, mlp[0], mlp[2])
        self.qkv, self.out, self.query, self.cross_out, self.wider, self.narrower = (
            layer.multiply for layer in layers if isinstance(layer, Int8Linear)
        )

    def take(
        self,
        x: np.ndarray,
        keys: np.ndarray,
        values: np.ndarray,
        came: np.ndarray,
        seen: int,
        heard: "_Sounds",
    ) -> None:
        """Read the next tokens of each text; x, texts · tokens × state, is changed in place. See `loops.look_back`."""
        normed, mixed = np.empty_like(x), np.empty_like(x)
        loops.normalise(x, *self.attn_ln, normed)
        loops.look_back(self.qkv(normed), keys, values, came, seen, mixed)
        x += self.out(mixed)
        loops.normalise(x, *self.cross_ln, normed)
        heard.listen(self.query(normed), mixed)
        x += self.cross_out(mixed)
        loops.normalise(x, *self.mlp_ln, normed)
        inner = self.wider(normed)
        loops.gelu(inner.reshape(-1))
        x += self.narrower(inner)


def _join(block: EncoderBlock | DecoderBlock, kind: Kind) -> None:
    block.attn = JoinedAttention(block.attn, kind)
    _replace(block.mlp, ("0", "2"), kind)


def _replace(module: nn.Module, names: tuple[str, ...], kind: Kind) -> None:
    for name in names:
        setattr(module, name, kind(getattr(module, name)))


class _Sounds:
    """Keys and values of sounds in eight bits.

    Args:
        attention: a block's.
        sound: what the encoder made.
    """

    def __init__(self, attention: MultiHeadAttention, sound: Float[Tensor, "sounds positions state"]):
        sounds, positions, state = sound.shape
        shape = (sounds, attention.n_head, positions, state // attention.n_head)
        self.keys, values = np.empty(shape, np.int8), np.empty(shape, np.int8)
        self.key_scale, self.value_scale = np.empty(shape[:3], np.float32), np.empty(shape[:3], np.float32)
        loops.rounded(attention.key(sound).float().numpy(), self.keys, self.key_scale)
        loops.rounded(attention.value(sound).float().numpy(), values, self.value_scale)
        self.values = np.ascontiguousarray(values.swapaxes(2, 3))

    def listen(self, query: Float[np.ndarray, "rows state"], mixed: Float[np.ndarray, "rows state"]) -> None:
        """See `loops.listen`."""
        loops.listen(query, self.keys, self.key_scale, self.values, self.value_scale, mixed)
