"""A model on a CPU: its weights packed for `kernels`, the pages of its keys and values, and threads that run a step together."""

import mmap
import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from almanac.chat.engine import kernels
from almanac.chat.engine.kernels import PAGE, PANEL, Matrices, Pages, Rows, Shape, Weights, Work
from almanac.chat.engine.rows import Batch
from almanac.chat.model import Transformer
from almanac.nn.tiles import GRID, LAYOUT, PER_STEP, has_grids

Precision = Literal["int8", "bf16", "fp32"]
_KINDS = {"int8": kernels.INT8, "bf16": kernels.BF16, "fp32": kernels.FP32}


class CpuRunner:
    """Runs a model's steps.

    Args:
        model: the model; its weights are copied.
        precision: of weights: `int8` (inputs of products too are rounded to eight bits, row by row), `bf16`, `fp32`.
        pages: how many pages of 32 tokens there is memory for.
        threads: how many run a step.
        most_rows: tokens in a step.
    """

    def __init__(self, model: Transformer, precision: Precision, pages: int, threads: int, most_rows: int):
        config = self.config = model.config
        kind = _KINDS[precision]
        padded = -(-config.head_dim // PANEL) * PANEL
        self.shape = Shape(
            kind=kind,
            kept=kernels.FP32 if kind == kernels.FP32 else kernels.BF16,
            grids=int(kind != kernels.FP32 and has_grids()),
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            kv_heads=config.kv_heads,
            alike=max(1, 2 * GRID * config.kv_heads // config.heads),
            head_dim=config.head_dim,
            padded_dim=padded,
            hidden=config.hidden,
            layer_norm=int(config.norm == "layer"),
            norm_eps=config.norm_eps,
            turned=int(config.rope is not None),
            gated=int(config.gated),
            qk_norm=int(config.qk_norm),
        )
        self.weights = _packed(model, precision)
        kept = torch.float32 if precision == "fp32" else torch.bfloat16
        self.embedding = model.model.embed_tokens.weight.detach().to(kept)
        places = model.model.embed_positions
        self.places = None if places is None else places.weight.detach().float()
        self.pages = self._empty_pages(pages)
        self.threads, self.most_rows = threads, most_rows
        self.work = self._workspace()
        self._free = [np.zeros_like(self.work.x), self.work.x]
        self._bell, self._quiet = _aligned((8,), np.int64), _aligned((8,), np.int64)
        self._team = _Team(threads)

    def forward(
        self, batch: Batch, meanwhile: Callable[[], object] | None = None
    ) -> Float[Tensor, "wanted vocabulary"]:
        """Compute tokens, keep their keys and values, and return the logits of what follows those that are wanted.

        Args:
            batch: at most `most_rows` tokens.
            meanwhile: called between layers when somebody rings; may have another batch computed, without a `meanwhile` of its own.
        """
        count = len(batch.tokens)
        x = self.embedding[torch.from_numpy(batch.tokens)].float()
        if self.places is not None:
            x += self.places[torch.from_numpy(batch.positions)]
        work = self.work._replace(x=self._free.pop())
        work.x[:count] = x.numpy()
        rows = Rows(batch.positions, batch.owner, batch.table, batch.wanted)
        logits = np.empty((len(batch.wanted), self.config.vocabulary), np.float32)
        task = (self.shape, self.weights, self.pages, rows, work, logits)
        try:
            done = self._team.run(*task, (self._bell if meanwhile else self._quiet).ctypes.data, 0)
            while meanwhile and done < self.shape.layers:
                self._bell[0] = 0
                meanwhile()
                done = self._team.run(*task, self._bell.ctypes.data, done)
        finally:
            self._free.append(work.x)
        return torch.from_numpy(logits)

    def ring(self) -> None:
        """Have the step that is being computed, or else the next one, call its `meanwhile` after the layer at hand."""
        self._bell[0] = 1

    def features(self, count: int) -> Float[Tensor, "count width"]:
        """What the last step's first so many wanted rows were before the head."""
        return torch.from_numpy(self.work.inputs[:count, : self.config.width].copy())

    def copy_page(self, source: int, target: int) -> None:
        """Give a page what another holds."""
        for part in self.pages:
            part[:, target] = part[:, source]

    def close(self) -> None:
        """End the threads."""
        self._team.close()

    @staticmethod
    def page_bytes(model: Transformer, precision: Precision) -> int:
        """Bytes that a page of keys and values takes."""
        config = model.config
        padded = -(-config.head_dim // PANEL) * PANEL
        return 2 * config.layers * config.kv_heads * padded * PAGE * (4 if precision == "fp32" else 2)

    def _empty_pages(self, pages: int) -> Pages:
        shape = self.shape
        size = PAGE * shape.padded_dim * (4 if shape.kept == kernels.FP32 else 2)
        parts = [_by_and_by((shape.layers, pages, shape.kv_heads, size)) for _ in range(2)]
        return Pages(*parts)

    def _workspace(self) -> Work:
        shape, rows = self.shape, self.most_rows
        queries = shape.heads * shape.head_dim
        most_inputs = -(-max(shape.width, queries, shape.hidden) // 64) * 64
        filled = -(-rows // kernels.ROWS) * kernels.ROWS  # the matrix unit reads whole blocks of rows
        outputs = max(queries + 2 * shape.kv_heads * shape.head_dim, (1 + shape.gated) * shape.hidden)
        alike = -(-shape.alike * (shape.heads // shape.kv_heads) // (2 * GRID)) * 2 * GRID
        sums = np.zeros((self.threads, kernels.ROWS, PANEL), np.int32)
        whole = -(-self.config.context // PAGE) * PAGE
        return Work(
            x=np.zeros((rows, shape.width), np.float32),
            inputs=np.zeros((rows, most_inputs), np.float32),
            bytes=np.zeros((filled, most_inputs), np.int8),
            halves=np.zeros((filled, most_inputs), np.uint16),
            step=np.zeros(rows, np.float32),
            total=np.zeros(rows, np.int32),
            wide=np.zeros((rows, outputs), np.float32),
            sums=sums,
            floats=sums.view(np.float32),
            queries=np.zeros((self.threads, alike, shape.padded_dim), np.float32),
            scores=np.zeros((self.threads, alike, whole), np.float32),
            shares=np.zeros((self.threads, alike, whole if shape.grids else 0), np.uint16),
            read=np.zeros((self.threads, alike, shape.padded_dim), np.float32),
            stopped=np.zeros(1, np.int64),
        )


class _Team:
    """Threads that run a compiled step together; the caller is one of them.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._counter = _aligned((8,), np.int64)
        self._begin = [threading.Semaphore(0) for _ in range(threads - 1)]
        self._done = threading.Semaphore(0)
        self._task: tuple | None = None
        self._others = [
            threading.Thread(target=self._work, args=(number,), daemon=True, name=f"step {number}")
            for number in range(1, threads)
        ]
        for other in self._others:
            other.start()

    def run(self, *task: object) -> int:
        """A step, by all; the layer with which it has to go on."""
        self._counter[0] = 0
        self._task = task
        for begin in self._begin:
            begin.release()
        done = kernels.step(0, self.threads, self._counter.ctypes.data, LAYOUT.ctypes.data, *task)
        for _ in self._others:
            self._done.acquire()
        return done

    def close(self) -> None:
        """End the others."""
        self._task = None
        for begin in self._begin:
            begin.release()

    def _work(self, number: int) -> None:
        while True:
            self._begin[number - 1].acquire()
            if self._task is None:
                return
            kernels.step(number, self.threads, self._counter.ctypes.data, LAYOUT.ctypes.data, *self._task)
            self._done.release()


def _packed(model: Transformer, precision: Precision) -> Weights:
    """All weights, as the compiled step reads them."""
    config = model.config
    layers: Any = model.model.layers

    def stacked(*names: str) -> Matrices:
        joined = []
        for layer in layers:
            parts = [layer.get_submodule(name) for name in names]
            weight = torch.cat([part.weight for part in parts]).float()
            biases = [part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
            joined.append((weight, torch.cat(biases).float()))
        return pack([weight for weight, _ in joined], [bias for _, bias in joined], precision)

    def norm_of(module: Any) -> Tensor:
        weight = module.weight.float()
        bias = getattr(module, "bias", None)
        return torch.stack([weight, torch.zeros_like(weight) if bias is None else bias.float()])

    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    up = ("mlp.gate_proj", "mlp.up_proj") if config.gated else ("mlp.up_proj",)
    head = model.lm_head.weight.float()
    turn = torch.zeros(1, 2, 1)
    if config.rope is not None:
        turn = torch.stack(config.rope.table(torch.arange(config.context), config.head_dim), dim=1)
    ones = torch.ones(config.layers, 2, config.head_dim)
    if config.qk_norm:
        ones = torch.stack(
            [torch.stack([layer.self_attn.q_norm.weight, layer.self_attn.k_norm.weight]) for layer in layers]
        )
    norms = [torch.stack([norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm)]) for layer in layers]
    return Weights(
        qkv=stacked(*names),
        out=stacked("self_attn.o_proj"),
        up=stacked(*up),
        down=stacked("mlp.down_proj"),
        head=pack([head], [head.new_zeros(len(head))], precision),
        norms=torch.stack(norms).detach().numpy(),
        last_norm=norm_of(model.model.norm).detach().numpy(),
        qk_norms=ones.float().detach().numpy(),
        turn=turn.contiguous().numpy(),
        windows=np.array([config.window(layer) for layer in range(config.layers)], np.int32),
    )


def pack(weights: list[Tensor], biases: list[Tensor], precision: Precision) -> Matrices:
    """Matrices of one shape, outputs × inputs, in panels (see `nn.tiles`)."""
    outputs, inputs = weights[0].shape
    per = PER_STEP[precision]
    panels, steps = -(-outputs // PANEL), -(-inputs // (per * GRID)) * GRID
    packed = _aligned((len(weights), panels, steps * PANEL * 4), np.uint8)
    scales = np.ones((len(weights), outputs), np.float32)
    for index, weight in enumerate(weights):
        if precision == "int8":
            scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
            scales[index] = scale.detach().numpy()
            numbers = ((weight / scale[:, None]).round() + 128).to(torch.uint8)
        else:
            numbers = weight.to(torch.bfloat16).view(torch.int16) if precision == "bf16" else weight
        whole = torch.zeros(panels * PANEL, steps * per, dtype=numbers.dtype)
        whole[:outputs, :inputs] = numbers
        turned = whole.view(panels, PANEL, steps, per).transpose(1, 2).contiguous()
        packed[index] = turned.detach().numpy().reshape(panels, -1).view(np.uint8)
    return Matrices(packed, scales, torch.stack(biases).detach().float().numpy(), steps)


def _by_and_by(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros that take memory as they are first written, in the system's smallest pieces: in its largest, which NumPy asks for, every so
    many pages a step is held up, because it is the first to write to one in each layer (measured: 0.2 s)."""
    memory = mmap.mmap(-1, int(np.prod(shape)))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8).reshape(shape)


def _aligned(shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Zeros that begin at a line of the processor's cache."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(kind).reshape(shape)
