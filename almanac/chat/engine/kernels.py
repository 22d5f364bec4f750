"""One forward step of a model on a CPU, as one compiled function that its threads run together: the tokens at hand of all sequences in
rows, keys and values in pages. Products are `nn.tiles`'; between them threads wait for each other. Every row is computed by itself and
in an order that depends on nothing but its own position, so that it comes out bit for bit the same in any company: alone, among others,
in parts, or behind pages that another request filled.

Names are those of the network in `chat.model`; how memory is laid out is said at `Weights`, `Pages` and `Work`."""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import float32, int32, types
from numba.extending import intrinsic

from almanac.nn import tiles
from almanac.nn.compiled import compiled, compiled_exactly
from almanac.nn.scalars import exp, larger, rounded

PAGE = 32
"""Tokens in a page of keys and values: a panel's outputs."""
PANEL = 32
"""Outputs in a panel of weights."""
ROWS = 32
"""Rows whose products with a panel are made one after the other, while the panel is near."""
INT8, BF16, FP32 = 0, 1, 2

_intrinsic: Any = intrinsic  # which it makes of a function, no signature tells
_TILES = {(kind, rows): tiles.tile(kind, rows, 2) for kind in tiles.PER_STEP for rows in (1, 2, 3, 4, 8)}
_int8_1, _int8_2, _int8_3, _int8_4, _int8_8 = (_TILES["int8", rows] for rows in (1, 2, 3, 4, 8))
_bf16_1, _bf16_2, _bf16_3, _bf16_4, _bf16_8 = (_TILES["bf16", rows] for rows in (1, 2, 3, 4, 8))
_int8_grid, _int8_grids = tiles.grid("int8", 1), tiles.grid("int8", 2)
_bf16_grid, _bf16_grids = tiles.grid("bf16", 1), tiles.grid("bf16", 2)
_bf16_more, _bf16_mores = tiles.grid("bf16", 1, add=True), tiles.grid("bf16", 2, add=True)
_fp32_1, _fp32_2, _fp32_3, _fp32_4, _fp32_8 = (_TILES["fp32", rows] for rows in (1, 2, 3, 4, 8))


class Shape(NamedTuple):
    """What the compiled step must know of a config; truths are 0 or 1."""

    kind: int
    """Of weights: INT8, BF16, FP32."""
    kept: int
    """Of keys and values: BF16 or FP32."""
    grids: int
    """Whether the processor's matrix unit multiplies; inputs are then rounded to bfloat16 for BF16."""
    layers: int
    width: int
    heads: int
    kv_heads: int
    alike: int
    """Tokens of one sequence whose attention is computed together."""
    head_dim: int
    padded_dim: int
    """Channels of a head in a page: a multiple of 32."""
    hidden: int
    layer_norm: int
    norm_eps: float
    turned: int
    """Whether positions turn queries and keys."""
    gated: int
    qk_norm: int


class Matrices(NamedTuple):
    """The same matrix of every layer, packed in panels of 32 outputs."""

    panels: np.ndarray
    """uint8, layers × panels × bytes."""
    scale: np.ndarray
    """float32, layers × outputs; of weights in eight bits."""
    bias: np.ndarray
    """float32, layers × outputs."""
    steps: int
    """Turns of the inner loop."""


class Weights(NamedTuple):
    """A model's."""

    qkv: Matrices
    out: Matrices
    up: Matrices
    """Gate and up side by side."""
    down: Matrices
    head: Matrices
    norms: np.ndarray
    """float32, layers × (before attention, before the feed-forward layer) × (weight, bias) × width."""
    last_norm: np.ndarray
    """float32, (weight, bias) × width."""
    qk_norms: np.ndarray
    """float32, layers × (queries, keys) × head_dim."""
    turn: np.ndarray
    """float32, positions × (cosines, sines) × head_dim / 2."""
    windows: np.ndarray
    """int32, of each layer, 0 for none."""


class Pages(NamedTuple):
    """Keys and values: uint8, layers × pages × kv_heads × bytes. Keys lie as panels whose outputs are a page's tokens; values as panels
    of 32 channels, whose inputs are the tokens."""

    keys: np.ndarray
    values: np.ndarray


class Rows(NamedTuple):
    """The tokens of a step; those of a sequence lie together, in order."""

    positions: np.ndarray
    """int32, of each row."""
    owner: np.ndarray
    """int32, of each row: its line in `table`."""
    table: np.ndarray
    """int32, sequences × their pages."""
    wanted: np.ndarray
    """int32: rows whose logits are asked for."""


class Work(NamedTuple):
    """Memory to work in."""

    x: np.ndarray
    """float32, rows × width: what goes from layer to layer."""
    inputs: np.ndarray
    """float32, rows × the most inputs."""
    bytes: np.ndarray
    """int8, the same in eight bits."""
    halves: np.ndarray
    """uint16, the same as bfloat16."""
    step: np.ndarray
    """float32, of each row: of its eight bits."""
    total: np.ndarray
    """int32, of each row: the sum of its eight bits."""
    wide: np.ndarray
    """float32, rows × the most outputs."""
    sums: np.ndarray
    """int32, threads × ROWS × PANEL."""
    floats: np.ndarray
    """`sums` as float32."""
    queries: np.ndarray
    """float32, threads × rows of attention × padded_dim."""
    scores: np.ndarray
    """float32, threads × rows of attention × positions."""
    shares: np.ndarray
    """uint16, the same as bfloat16, where the matrix unit multiplies."""
    read: np.ndarray
    """float32, threads × rows of attention × padded_dim."""
    stopped: np.ndarray
    """int64: whether the bell had rung after the last layer."""


@_intrinsic
def _arrive(_, counter):
    """Add one to a counter that threads share (its address); what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.intp), generate


@_intrinsic
def _arrived(_, counter):
    """Read that counter."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.intp), generate


_give_way = types.ExternalFunction("sched_yield", types.int32())


@compiled_exactly
def meet(counter, threads):
    """Wait until all threads are here. Each time they meet, the counter grows by their number."""
    if threads == 1:
        return
    until = (_arrive(counter) // threads + 1) * threads
    tries = 0
    while _arrived(counter) < until:
        tries += 1
        if tries > 2000:
            _give_way()


@compiled_exactly
def multiply(kind, x, x_step, rows, panel, steps, sums, sums_step):
    """Rows times a panel, by as many rows at a time as there are; all but `kind`, `rows` and `steps` are addresses and distances."""
    row = 0
    while row < rows:
        here, there, left = x + row * x_step, sums + row * sums_step, rows - row
        if left >= 8:
            if kind == 0:
                _int8_8(here, x_step, panel, steps, there, sums_step)
            elif kind == 1:
                _bf16_8(here, x_step, panel, steps, there, sums_step)
            else:
                _fp32_8(here, x_step, panel, steps, there, sums_step)
            row += 8
        elif left >= 4:
            if kind == 0:
                _int8_4(here, x_step, panel, steps, there, sums_step)
            elif kind == 1:
                _bf16_4(here, x_step, panel, steps, there, sums_step)
            else:
                _fp32_4(here, x_step, panel, steps, there, sums_step)
            row += 4
        elif left == 3:
            if kind == 0:
                _int8_3(here, x_step, panel, steps, there, sums_step)
            elif kind == 1:
                _bf16_3(here, x_step, panel, steps, there, sums_step)
            else:
                _fp32_3(here, x_step, panel, steps, there, sums_step)
            row += 3
        elif left == 2:
            if kind == 0:
                _int8_2(here, x_step, panel, steps, there, sums_step)
            elif kind == 1:
                _bf16_2(here, x_step, panel, steps, there, sums_step)
            else:
                _fp32_2(here, x_step, panel, steps, there, sums_step)
            row += 2
        else:
            if kind == 0:
                _int8_1(here, x_step, panel, steps, there, sums_step)
            elif kind == 1:
                _bf16_1(here, x_step, panel, steps, there, sums_step)
            else:
                _fp32_1(here, x_step, panel, steps, there, sums_step)
            row += 1


@compiled_exactly
def project(thread, threads, kind, grids, rows, work, matrices, layer, out, add):
    """The layer's matrix times all rows' inputs, a part of its outputs by each thread.

    Args:
        out: float32, rows × at least the outputs; written to, or with `add`, added to.
    """
    panels, scale, bias = matrices.panels[layer], matrices.scale[layer], matrices.bias[layer]
    if kind == INT8:
        x = work.bytes
    elif grids:
        x = work.halves.view(np.int8)
    else:
        x = work.inputs.view(np.int8)
    sums, floats = work.sums[thread], work.floats[thread]
    first, last = len(panels) * thread // threads, len(panels) * (thread + 1) // threads
    outputs = len(scale)
    for panel in range(first, last):
        start = panel * PANEL
        end = min(PANEL, outputs - start)
        of_panel, bias_of = scale[start : start + end], bias[start : start + end]
        address = panels.ctypes.data + panel * panels.strides[0]
        for row in range(0, rows, ROWS):
            count = min(ROWS, rows - row)
            here, there, steps = x.ctypes.data + row * x.strides[0], sums.ctypes.data, matrices.steps
            if grids:  # what the unit computes of rows that there are not is left
                steps //= tiles.GRID
                if kind == INT8 and count > tiles.GRID:
                    _int8_grids(here, x.strides[0], address, steps, there, sums.strides[0])
                elif kind == INT8:
                    _int8_grid(here, x.strides[0], address, steps, there, sums.strides[0])
                elif count > tiles.GRID:
                    _bf16_grids(here, x.strides[0], address, steps, there, sums.strides[0])
                else:
                    _bf16_grid(here, x.strides[0], address, steps, there, sums.strides[0])
            else:
                sums[:count] = 0
                multiply(kind, here, x.strides[0], count, address, steps, there, sums.strides[0])
            for r in range(count):
                target = out[row + r, start : start + end]
                if kind == INT8:
                    step, shift = work.step[row + r], work.total[row + r] * int32(128)
                    if add:
                        for i in range(end):
                            target[i] += float32(sums[r, i] - shift) * (step * of_panel[i]) + bias_of[i]
                    else:
                        for i in range(end):
                            target[i] = float32(sums[r, i] - shift) * (step * of_panel[i]) + bias_of[i]
                elif add:
                    for i in range(end):
                        target[i] += floats[r, i] + bias_of[i]
                else:
                    for i in range(end):
                        target[i] = floats[r, i] + bias_of[i]


@compiled
def to_bytes(work, row, size):
    """A row of inputs in eight bits, in steps of a 127th of its largest number."""
    x, found = work.inputs[row], work.bytes[row]
    most = float32(1e-12)
    for i in range(size):
        most = larger(most, abs(x[i]))
    factor, total = float32(127) / most, int32(0)
    for i in range(size):
        value = int32(np.rint(x[i] * factor))
        found[i] = value
        total += value
    work.step[row], work.total[row] = most / float32(127), total


@compiled_exactly
def ready(work, row, size, shape):
    """A row of inputs in the form in which it is multiplied."""
    if shape.kind == INT8:
        to_bytes(work, row, size)
    elif shape.grids:
        x, halves = work.inputs[row], work.halves[row]
        for i in range(size):
            halves[i] = rounded(x[i])


@compiled
def normalise(x, out, parameters, is_layer_norm, eps):
    """RMSNorm or LayerNorm of a row."""
    size = len(x)
    weight, bias = parameters[0], parameters[1]
    mean, square = float32(0), float32(0)
    if is_layer_norm:
        for i in range(size):
            mean += x[i]
        mean /= float32(size)
    for i in range(size):
        apart = x[i] - mean
        square += apart * apart
    factor = float32(1) / np.sqrt(square / float32(size) + float32(eps))
    for i in range(size):
        out[i] = (x[i] - mean) * factor * weight[i] + bias[i]


@compiled
def activate(work, row, hidden, gated):
    """The feed-forward layer's inner numbers, of `wide` into `inputs`: gated by SiLU, or GELU (by tanh)."""
    wide, out = work.wide[row], work.inputs[row]
    if gated:
        gate, up = wide[:hidden], wide[hidden : 2 * hidden]
        for i in range(hidden):
            out[i] = gate[i] * up[i] / (float32(1) + exp(-gate[i]))
    else:
        for i in range(hidden):
            x = wide[i]
            inner = float32(1.5957691216) * (x + float32(0.044715) * x * x * x)
            out[i] = x / (float32(1) + exp(-inner))


@compiled
def _norm_and_turn(x, weight, shape, turn):
    """A head's query or key, normalised and turned in place."""
    dim, half = shape.head_dim, shape.head_dim // 2
    if shape.qk_norm:
        square = float32(0)
        for i in range(dim):
            square += x[i] * x[i]
        factor = float32(1) / np.sqrt(square / float32(dim) + float32(shape.norm_eps))
        for i in range(dim):
            x[i] = x[i] * factor * weight[i]
    if shape.turned:
        for i in range(half):
            first, second = x[i], x[half + i]
            x[i] = first * turn[0, i] - second * turn[1, i]
            x[half + i] = second * turn[0, i] + first * turn[1, i]


@compiled_exactly
def keep(row, layer, shape, rows, weights, pages, work):
    """Normalise and turn a row's queries and keys, and put its keys and values into their page."""
    dim, position = shape.head_dim, rows.positions[row]
    x, turn = work.wide[row], weights.turn[position if shape.turned else 0]
    for head in range(shape.heads):
        _norm_and_turn(x[head * dim : (head + 1) * dim], weights.qk_norms[layer, 0], shape, turn)
    page, place = rows.table[rows.owner[row], position // PAGE], position % PAGE
    for head in range(shape.kv_heads):
        start = (shape.heads + head) * dim
        key = x[start : start + dim]
        start += shape.kv_heads * dim
        value = x[start : start + dim]
        _norm_and_turn(key, weights.qk_norms[layer, 1], shape, turn)
        if shape.kept == BF16:
            keys, values = (
                pages.keys[layer, page, head].view(np.uint16),
                pages.values[layer, page, head].view(np.uint16),
            )
            for half in range(2):
                for pair in range((dim + 1 - half) // 2):
                    keys[pair * (2 * PAGE) + place * 2 + half] = rounded(key[2 * pair + half])
            for part in range((dim + PANEL - 1) // PANEL):
                at = part * (PAGE * PANEL) + place // 2 * (2 * PANEL) + place % 2
                for i in range(min(PANEL, dim - part * PANEL)):
                    values[at + 2 * i] = rounded(value[part * PANEL + i])
        else:
            exact_keys = pages.keys[layer, page, head].view(np.float32)
            exact_values = pages.values[layer, page, head].view(np.float32)
            for i in range(dim):
                exact_keys[i * PAGE + place] = key[i]
                exact_values[i // PANEL * (PAGE * PANEL) + place * PANEL + i % PANEL] = value[i]


@compiled
def _soften(scores):
    """Softmax of whole pages of scores, in place, without dividing by the sum, which is returned."""
    most = float32(-1e30)
    for i in range(len(scores)):
        most = larger(most, scores[i])
    total = float32(0)
    for i in range(len(scores)):
        scores[i] = exp(scores[i] - most)
        total += scores[i]
    return total


@compiled_exactly
def _halve(values, halves, count):
    """Numbers as bfloat16."""
    for i in range(count):
        halves[i] = rounded(values[i])


@compiled_exactly
def _multiply_grids(x, x_step, rows, panel, steps, sums, sums_step, add):
    """Rows in bfloat16 times a panel by the matrix unit; what it computes of rows that there are not is left."""
    for row in range(0, rows, 2 * tiles.GRID):
        here, there = x + row * x_step, sums + row * sums_step
        if rows - row > tiles.GRID:
            if add:
                _bf16_mores(here, x_step, panel, steps, there, sums_step)
            else:
                _bf16_grids(here, x_step, panel, steps, there, sums_step)
        elif add:
            _bf16_more(here, x_step, panel, steps, there, sums_step)
        else:
            _bf16_grid(here, x_step, panel, steps, there, sums_step)


@compiled_exactly
def attend(thread, layer, head, first_row, count, shape, rows, weights, pages, work):
    """What the queries that share a key's head read, of `count` rows of one sequence: of `wide` into `inputs`."""
    group, dim, padded, grids = shape.heads // shape.kv_heads, shape.head_dim, shape.padded_dim, shape.grids
    queries, scores, shares, read = work.queries[thread], work.scores[thread], work.shares[thread], work.read[thread]
    many = count * group
    scale = float32(1 / np.sqrt(dim))
    for r in range(many):
        start = (head * group + r % group) * dim
        x, query = work.wide[first_row + r // group], read[r] if grids else queries[r]
        query[dim:] = float32(0)
        for i in range(dim):
            query[i] = x[start + i] * scale
        if grids:
            _halve(query, queries[r].view(np.uint16), padded)
    window = weights.windows[layer]
    start_at = rows.positions[first_row]
    first_page = max(0, start_at - window + 1) // PAGE if window else 0
    end_page = (start_at + count - 1) // PAGE + 1
    table = rows.table[rows.owner[first_row]]
    per_step = 2 if shape.kept == BF16 else 1
    asked, found = queries.ctypes.data, scores.ctypes.data
    if not grids:
        scores[:many, first_page * PAGE : end_page * PAGE] = float32(0)
    for page in range(first_page, end_page):
        keys, there = pages.keys[layer, table[page], head].ctypes.data, found + page * (PAGE * 4)
        if grids:
            _multiply_grids(asked, queries.strides[0], many, keys, padded // PANEL, there, scores.strides[0], False)
        else:
            steps = padded // per_step
            multiply(shape.kept, asked, queries.strides[0], many, keys, steps, there, scores.strides[0])
    read[:many] = float32(0)
    for r in range(many):
        position = start_at + r // group
        seen_from = max(0, position - window + 1) if window else 0
        begin, end = first_page * PAGE, end_page * PAGE
        scores[r, begin:seen_from] = float32(-1e30)
        scores[r, position + 1 : end] = float32(-1e30)
        queries[r, 0] = _soften(scores[r, seen_from // PAGE * PAGE : (position // PAGE + 1) * PAGE])
        scores[r, begin:seen_from] = float32(0)
        scores[r, position + 1 : end] = float32(0)
        if grids:
            _halve(scores[r, begin:end], shares[r, begin:end], end - begin)
    for page in range(first_page, end_page):
        values, at = pages.values[layer, table[page], head].ctypes.data, page * PAGE
        for part in range(padded // PANEL):
            panel, there = values + part * (PAGE * PANEL * 4 // per_step), read.ctypes.data + part * (PANEL * 4)
            if grids:
                given = shares.ctypes.data + at * 2
                _multiply_grids(given, shares.strides[0], many, panel, 1, there, read.strides[0], True)
            else:
                steps = PAGE // per_step
                multiply(shape.kept, found + at * 4, scores.strides[0], many, panel, steps, there, read.strides[0])
    for r in range(many):
        factor = float32(1) / queries[r, 0]
        out, start = work.inputs[first_row + r // group], (head * group + r % group) * dim
        for i in range(dim):
            out[start + i] = read[r, i] * factor


@compiled_exactly
def step(thread, threads, counter, layout, shape, weights, pages, rows, work, logits, bell, first):
    """A thread's part of a forward step; all threads call it at once.

    Args:
        thread: which of them.
        threads: how many.
        counter: address of a 64-bit 0, aligned, that they share.
        layout: address of `tiles.LAYOUT`.
        shape: the model's.
        weights: the model's.
        pages: keys and values; read, and written to.
        rows: the tokens.
        work: `work.x` holds their embeddings, or what the layers before made of them.
        logits: float32, wanted rows × outputs of the head; written to.
        bell: address of a 64-bit number; when it is no longer 0, the step stops after the layer at hand.
        first: the layer with which it begins, or goes on.

    Returns:
        The layer with which it has to go on; as many as there are: it is done.
    """
    count, kind, grids = len(rows.positions), shape.kind, shape.grids
    if grids:
        tiles.begin_grids(layout)
    begin, end = count * thread // threads, count * (thread + 1) // threads
    queries = shape.heads * shape.head_dim
    for layer in range(first, shape.layers):
        for row in range(begin, end):
            normalise(work.x[row], work.inputs[row], weights.norms[layer, 0], shape.layer_norm, shape.norm_eps)
            ready(work, row, shape.width, shape)
        meet(counter, threads)
        project(thread, threads, kind, grids, count, work, weights.qkv, layer, work.wide, False)
        meet(counter, threads)
        for row in range(begin, end):
            keep(row, layer, shape, rows, weights, pages, work)
        meet(counter, threads)
        row, turn = 0, 0
        while row < count:
            alike = 1
            while alike < shape.alike and row + alike < count and rows.owner[row + alike] == rows.owner[row]:
                alike += 1
            for head in range(shape.kv_heads):
                if turn % threads == thread:
                    attend(thread, layer, head, row, alike, shape, rows, weights, pages, work)
                turn += 1
            row += alike
        meet(counter, threads)
        if kind == INT8 or grids:
            for row in range(begin, end):
                ready(work, row, queries, shape)
            meet(counter, threads)
        project(thread, threads, kind, grids, count, work, weights.out, layer, work.x, True)
        meet(counter, threads)
        for row in range(begin, end):
            normalise(work.x[row], work.inputs[row], weights.norms[layer, 1], shape.layer_norm, shape.norm_eps)
            ready(work, row, shape.width, shape)
        meet(counter, threads)
        project(thread, threads, kind, grids, count, work, weights.up, layer, work.wide, False)
        meet(counter, threads)
        for row in range(begin, end):
            activate(work, row, shape.hidden, shape.gated)
            ready(work, row, shape.hidden, shape)
        meet(counter, threads)
        project(thread, threads, kind, grids, count, work, weights.down, layer, work.x, True)
        if thread == 0:
            work.stopped[0] = _arrived(bell)
        meet(counter, threads)
        if work.stopped[0] and layer + 1 < shape.layers:
            if grids:
                tiles.end_grids()
            return layer + 1
    wanted = rows.wanted
    begin, end = len(wanted) * thread // threads, len(wanted) * (thread + 1) // threads
    for row in range(begin, end):
        normalise(work.x[wanted[row]], work.inputs[row], weights.last_norm, shape.layer_norm, shape.norm_eps)
        ready(work, row, shape.width, shape)
    meet(counter, threads)
    project(thread, threads, kind, grids, len(wanted), work, weights.head, 0, logits, False)
    if grids:
        tiles.end_grids()
    return shape.layers
