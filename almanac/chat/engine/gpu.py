"""A model on a GPU: its weights as `gpu_kernels` reads them, the pages of its keys and values, and steps recorded once as CUDA graphs, so
that the processor need not launch hundreds of kernels for each token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from almanac.chat.engine import gpu_kernels as kernels
from almanac.chat.engine.cpu import Precision
from almanac.chat.engine.pages import PAGE
from almanac.chat.engine.rows import Batch
from almanac.chat.model import Transformer

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Of steps that are recorded; a step is filled up to the next, and a larger one is launched kernel by kernel."""
_FEW = 128
"""Rows up to which all get logits, wanted or not, so that this is recorded too; and texts of a step that is recorded."""


class GpuRunner:
    """Runs a model's steps.

    Args:
        model: the model; its weights are copied.
        precision: of weights: `int8` (inputs of products too are rounded to eight bits, row by row), `bf16`, `fp32`.
        pages: how many pages of 32 tokens there is memory for.
        device: the GPU.
    """

    def __init__(self, model: Transformer, precision: Precision, pages: int, device: torch.device):
        self.config, self.device = model.config, device
        self.weights = _Weights(model, precision, device)
        shape = (model.config.layers, pages + 1, PAGE, model.config.kv_heads, model.config.head_dim)
        self._keys, self._values = (torch.zeros(shape, dtype=self.weights.kept, device=device) for _ in range(2))
        self._filler = pages  # where rows that only fill a step up write to
        self._recorded: dict[tuple[int, int, int], _Recorded] = {}
        self._memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._features = torch.empty(0)

    @torch.inference_mode()
    def forward(
        self, batch: Batch, meanwhile: Callable[[], object] | None = None
    ) -> Float[Tensor, "wanted vocabulary"]:
        """Compute tokens, keep their keys and values, and return the logits of what follows those that are wanted. A step takes a few
        milliseconds here, so that nobody is let in meanwhile."""
        groups = _groups(batch, kernels.QUERIES // (self.config.heads // self.config.kv_heads))
        pieces = int(batch.positions.max()) // kernels.PIECE + 1
        wanted = torch.from_numpy(batch.wanted).to(self.device)
        rows = next((rows for rows in _ROWS if rows >= len(batch.tokens)), None)
        if rows is None or len(batch.table) > _FEW or self._memory is None:
            texts, width = batch.table.shape
            facts = _Facts(len(batch.tokens), groups.shape[1], texts, width, self.device)
            facts.fill(batch, groups, self._filler)
            self._features, logits = self._head(self._body(facts, pieces)[wanted])
        else:
            step = self._recording(rows, groups.shape[1], pieces)
            step.facts.fill(batch, groups, self._filler)
            step.graph.replay()
            if step.headed:
                self._features, logits = (part[wanted] for part in step.made)
            else:
                self._features, logits = self._head(step.made[0][wanted])
        if self._memory is None:
            return logits
        return torch.empty(logits.shape, pin_memory=True).copy_(logits)

    def ring(self) -> None:
        """Nothing: see `forward`."""

    def features(self, count: int) -> Float[Tensor, "count width"]:
        """What the last step's first so many wanted rows were before the head."""
        return self._features[:count].float()

    def copy_page(self, source: int, target: int) -> None:
        """Give a page what another holds."""
        for part in (self._keys, self._values):
            part[:, target] = part[:, source]

    def close(self) -> None:
        """Nothing to end."""

    def _body(self, facts: "_Facts", pieces: int) -> Float[Tensor, "rows width"]:
        """What the layers make of rows that see so many pieces of their texts."""
        config, weights, rows = self.config, self.weights, len(facts.tokens)

        def empty(*shape: int) -> Tensor:
            return torch.empty(rows, *shape, dtype=weights.between, device=self.device)

        x = F.embedding(facts.tokens, weights.embedding).float()
        if weights.places is not None:
            x += F.embedding(facts.positions, weights.places)
        narrow, qkv = empty(config.width), empty((config.heads + 2 * config.kv_heads) * config.head_dim)
        read = empty(config.heads, config.head_dim)
        query = torch.empty_like(read, dtype=weights.kept)
        up, hidden = empty((1 + config.gated) * config.hidden), empty(config.hidden)
        where = facts.positions, facts.owner, facts.table
        for index, layer in enumerate(weights.layers):
            pages = self._keys[index], self._values[index]
            kernels.norm(x, *layer.first_norm, config.norm_eps, narrow)
            kernels.linear(narrow, *layer.qkv, qkv)
            kernels.place(qkv, layer.qk_norms, weights.turn, *where, query, *pages, config.norm_eps)
            kernels.attend(query, *pages, *where, facts.groups, config.window(index), pieces, read)
            kernels.linear(read.flatten(1), *layer.out, x, add=True)
            kernels.norm(x, *layer.second_norm, config.norm_eps, narrow)
            kernels.linear(narrow, *layer.up, up)
            kernels.activate(up, config.gated, hidden)
            kernels.linear(hidden, *layer.down, x, add=True)
        return x

    def _head(self, x: Float[Tensor, "rows width"]) -> tuple[Tensor, Float[Tensor, "rows vocabulary"]]:
        """Features and logits of rows."""
        features = torch.empty_like(x, dtype=self.weights.between)
        kernels.norm(x, *self.weights.last_norm, self.config.norm_eps, features)
        logits = x.new_empty(len(x), self.config.vocabulary)
        kernels.linear(features, *self.weights.head, logits)
        return features, logits

    def _recording(self, rows: int, groups: int, pieces: int) -> "_Recorded":
        """A step of so many rows in so many groups or more, that see so many pieces of their texts or more."""
        pieces = 1 << (pieces - 1).bit_length()
        groups = rows if rows <= _FEW else 1 << (groups - 1).bit_length()
        key = rows, groups, pieces
        if key not in self._recorded:
            facts = _Facts(rows, groups, min(rows, _FEW) + 1, pieces * kernels.PIECE // PAGE, self.device)

            def step() -> tuple[Tensor, ...]:
                x = self._body(facts, pieces)
                return self._head(x) if rows <= _FEW else (x,)

            facts.rest(self._filler)
            step()  # compiles what was not yet
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._memory):
                made = step()
            self._recorded[key] = _Recorded(facts, graph, made, rows <= _FEW)
        return self._recorded[key]


class _Facts:
    """What a step is told, in one piece of memory.

    Args:
        rows: tokens.
        groups: that read together.
        texts: lines of the table.
        width: pages of a line.
        device: where.
    """

    def __init__(self, rows: int, groups: int, texts: int, width: int, device: torch.device):
        sizes = [3 * rows, 2 * groups, texts * width]
        self.memory = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        facts, pairs, table = self.memory.split(sizes)
        self.tokens, self.positions, self.owner = facts.view(3, rows)
        self.groups, self.table = pairs.view(2, groups), table.view(texts, width)

    def fill(self, batch: Batch, groups: Int[np.ndarray, "2 groups"], filler: int) -> None:
        """Tell a step.

        Args:
            batch: as many rows, or fewer, of fewer texts then.
            groups: as many, or fewer.
            filler: the page of rows that only fill it up.
        """
        rows, count, (texts, width) = len(self.tokens), len(batch.tokens), self.table.shape
        whole = np.zeros((3, rows), np.int32)
        whole[:, :count] = batch.tokens, batch.positions, batch.owner
        whole[2, count:] = texts - 1
        pairs = np.zeros(self.groups.shape, np.int32)
        pairs[:, : groups.shape[1]] = groups
        table = np.full((texts, width), filler, np.int32)
        wide = min(batch.table.shape[1], width)  # pages that are held for tokens to come are not seen yet
        table[: len(batch.table), :wide] = batch.table[:, :wide]
        told = np.concatenate([whole.ravel(), pairs.ravel(), table.ravel()])
        self.memory.copy_(torch.from_numpy(told), non_blocking=True)

    def rest(self, filler: int) -> None:
        """Tell a step of nothing but filling rows."""
        self.memory.zero_()
        self.table.fill_(filler)


def _groups(batch: Batch, most: int) -> Int[np.ndarray, "2 groups"]:
    """Neighbouring rows of a text, at most so many: the first of each group, and how many."""
    starts = np.flatnonzero(np.diff(batch.owner, prepend=-1))
    ends = np.append(starts[1:], len(batch.owner))
    firsts = np.concatenate([np.arange(start, end, most) for start, end in zip(starts, ends, strict=True)])
    return np.stack([firsts, np.diff(firsts, append=len(batch.owner))]).astype(np.int32)


@dataclass(frozen=True)
class _Recorded:
    """A step to play again."""

    facts: _Facts
    graph: torch.cuda.CUDAGraph
    made: tuple[Tensor, ...]
    """Features and logits, or what the layers made."""
    headed: bool
    """Which of the two."""


_Norm = tuple[Tensor, Tensor | None]
"""Weight and bias."""
_Matrix = tuple[Tensor, Tensor | None, Tensor | None]
"""Weight, bias, and scale of its outputs if the weight has eight bits."""


@dataclass(frozen=True)
class _Layer:
    """A layer's weights."""

    first_norm: _Norm
    second_norm: _Norm
    qkv: _Matrix
    qk_norms: Float[Tensor, "2 head_dim"] | None
    out: _Matrix
    up: _Matrix
    down: _Matrix


class _Weights:
    """All weights.

    Args:
        model: whose.
        precision: of products.
        device: where.
    """

    def __init__(self, model: Transformer, precision: Precision, device: torch.device):
        config = model.config
        self.kept = torch.float32 if precision == "fp32" else torch.bfloat16
        """Of embeddings, keys and values."""
        self.between = torch.float32 if precision == "int8" else self.kept  # rounded once, to eight bits
        """Of what goes from one kernel to the next."""

        def matrix(*modules: Any) -> _Matrix:
            weight = torch.cat([module.weight for module in modules]).to(device)
            bias = None
            if modules[0].bias is not None:
                bias = torch.cat([module.bias for module in modules]).to(device, torch.float32)
            if precision != "int8":
                return weight.to(self.kept), bias, None
            scale = (weight.float().abs().amax(1) / 127).clamp(min=1e-12)
            return (weight.float() / scale[:, None]).round().to(torch.int8), bias, scale

        def norm(module: Any) -> _Norm:
            bias = getattr(module, "bias", None)
            return module.weight.to(device, torch.float32), None if bias is None else bias.to(device, torch.float32)

        def layer(part: Any) -> _Layer:
            attention, mlp = part.self_attn, part.mlp
            norms = None
            if config.qk_norm:
                norms = torch.stack([attention.q_norm.weight, attention.k_norm.weight]).to(device, torch.float32)
            return _Layer(
                norm(part.input_layernorm),
                norm(part.post_attention_layernorm),
                matrix(attention.q_proj, attention.k_proj, attention.v_proj),
                norms,
                matrix(attention.o_proj),
                matrix(mlp.gate_proj, mlp.up_proj) if config.gated else matrix(mlp.up_proj),
                matrix(mlp.down_proj),
            )

        with torch.inference_mode():
            self.embedding = model.model.embed_tokens.weight.to(device, self.kept)
            places = model.model.embed_positions
            self.places = None if places is None else places.weight.to(device, torch.float32)
            self.layers = [layer(part) for part in model.model.layers]
            self.last_norm = norm(model.model.norm)
            self.head = matrix(model.lm_head)
            self.turn = None
            if config.rope is not None:
                turn = torch.stack(config.rope.table(torch.arange(config.context), config.head_dim), dim=1)
                self.turn = turn.contiguous().to(device)
