"""The parts of a step on a GPU, in Triton. Each row's numbers are summed in an order that depends on that row alone: products go through
the inputs in blocks of one size, and attention through the text in pieces that begin at fixed positions and are put together one after
the other. So a row comes out bit for bit the same whoever is computed beside it, which libraries that choose a kernel by the number of
rows do not promise."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports] (PyTorch for GPUs brings it)
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int
from torch import Tensor

PIECE = 256
"""Positions that one program of attention reads."""
QUERIES = 64
"""Of one head of keys, that it reads for; those of neighbouring rows of a text are together."""


def linear(
    x: Float[Tensor, "rows inputs"],
    weight: Tensor,
    bias: Float[Tensor, " outputs"] | None,
    scale: Float[Tensor, " outputs"] | None,
    out: Float[Tensor, "rows outputs"],
    add: bool = False,
) -> None:
    """x · weightᵀ + bias into `out`, or added to what is there.

    Args:
        x: what is multiplied.
        weight: [outputs, inputs], of x's type, or int8.
        bias: added to each row.
        scale: of an int8 weight's outputs; then x is rounded to eight bits too, row by row.
        out: where to.
        add: whether to add.
    """
    (rows, inputs), outputs = x.shape, weight.shape[0]
    steps = None
    if scale is not None:
        whole, steps = torch.empty_like(x, dtype=torch.int8), x.new_empty(rows, dtype=torch.float32)
        _round[(rows,)](x, whole, steps, inputs, triton.next_power_of_2(inputs))
        x = whole
    across, depth, ahead = (16, 256, 4) if rows <= 64 else (128, 128, 3)  # wait less for memory, or multiply more
    grid = (triton.cdiv(outputs, across), triton.cdiv(rows, 64))
    depth //= x.element_size()
    _linear[grid](x, weight, bias, steps, scale, out, rows, outputs, inputs, add, 64, across, depth, num_stages=ahead)


def norm(x: Float[Tensor, "rows width"], weight: Tensor, bias: Tensor | None, eps: float, out: Tensor) -> None:
    """RMSNorm, or LayerNorm where there is a bias, of each row into `out`."""
    rows, width = x.shape
    _norm[(rows,)](x, weight, bias, out, width, eps, triton.next_power_of_2(width))


def place(
    qkv: Float[Tensor, "rows channels"],
    norms: Float[Tensor, "2 head_dim"] | None,
    turn: Float[Tensor, "positions 2 half"] | None,
    positions: Int[Tensor, " rows"],
    owner: Int[Tensor, " rows"],
    table: Int[Tensor, "texts pages"],
    query: Float[Tensor, "rows heads head_dim"],
    keys: Float[Tensor, "pool page kv_heads head_dim"],
    values: Float[Tensor, "pool page kv_heads head_dim"],
    eps: float,
) -> None:
    """Normalise and turn queries and keys, and put keys and values into their pages.

    Args:
        qkv: what attention's first product gave.
        norms: weights of queries' and keys' norms.
        turn: cosines and sines of positions.
        positions: of each row.
        owner: each row's line in the table.
        table: each text's pages.
        query: where queries go.
        keys: a layer's pages.
        values: likewise.
        eps: of the norms.
    """
    rows, heads, dim = query.shape
    _, page, kv_heads, _ = keys.shape
    _place[(rows, heads + 2 * kv_heads)](
        qkv,
        norms,
        turn,
        positions,
        owner,
        table,
        query,
        keys,
        values,
        table.stride(0),
        heads,
        kv_heads,
        dim,
        eps,
        page,
        triton.next_power_of_2(dim),
    )


def attend(
    query: Float[Tensor, "rows heads head_dim"],
    keys: Float[Tensor, "pool page kv_heads head_dim"],
    values: Float[Tensor, "pool page kv_heads head_dim"],
    positions: Int[Tensor, " rows"],
    owner: Int[Tensor, " rows"],
    table: Int[Tensor, "texts pages"],
    groups: Int[Tensor, "2 groups"],
    window: int,
    pieces: int,
    out: Float[Tensor, "rows heads head_dim"],
) -> None:
    """What each row reads from its text up to itself.

    Args:
        query: of the rows.
        keys: a layer's pages.
        values: likewise.
        positions: of each row.
        owner: each row's line in the table.
        table: each text's pages.
        groups: neighbouring rows of a text that read together: the first, and how many (heads of queries that share one of keys, times
            rows, at most `QUERIES`).
        window: how many of the last positions are seen; 0: all.
        pieces: of 256 positions, as many as the longest text has.
        out: where to.
    """
    rows, heads, dim = query.shape
    _, page, kv_heads, _ = keys.shape
    read = query.new_empty((rows, heads, pieces, dim), dtype=torch.float32)
    facts = query.new_empty((rows, heads, pieces, 2), dtype=torch.float32)
    wide = max(triton.next_power_of_2(dim), 16)
    _attend[(groups.shape[1], kv_heads, pieces)](
        query,
        keys,
        values,
        positions,
        owner,
        table,
        groups,
        read,
        facts,
        table.stride(0),
        window,
        pieces,
        kv_heads,
        dim,
        dim**-0.5 / math.log(2),  # weights are powers of two
        heads // kv_heads,
        QUERIES,
        wide,
        page,
        PIECE,
        32 if query.dtype == torch.float32 else 64,
    )
    _join[(rows, heads)](read, facts, out, pieces, heads, dim, wide)


def activate(x: Float[Tensor, "rows channels"], gated: bool, out: Float[Tensor, "rows hidden"]) -> None:
    """silu(first half) · second half of each row, or GELU (by tanh) of it, into `out`."""
    rows, hidden = out.shape
    _activate[(rows, triton.cdiv(hidden, 1024))](x, out, hidden, gated, 1024)


def _kernel(function: Callable[..., Any]) -> Any:
    """Compiled by Triton, once for all numbers of rows."""
    plain = inspect.unwrap(function)  # what tests wrap around functions to check types can't be compiled
    alike = [name for name in inspect.signature(plain).parameters if name in ("rows", "line", "window", "pieces")]
    return triton.jit(plain, do_not_specialize=alike)


@_kernel
def _linear(
    x,
    weight,
    bias,
    steps,
    scale,
    out,
    rows,
    outputs,
    inputs,
    ADD: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    across = tl.program_id(0) * ACROSS + tl.arange(0, ACROSS)
    down = tl.program_id(1) * DOWN + tl.arange(0, DOWN)
    depth = tl.arange(0, DEPTH)
    here = down[:, None] < rows
    there = across[None, :] < outputs
    kind = tl.float32 if scale is None else tl.int32
    total = tl.zeros((DOWN, ACROSS), kind)
    from_x = x + down[:, None].to(tl.int64) * inputs
    from_weight = weight + across[None, :].to(tl.int64) * inputs
    for start in range(0, inputs, DEPTH):
        k = start + depth
        a = tl.load(from_x + k[None, :], mask=here & (k[None, :] < inputs), other=0)
        b = tl.load(from_weight + k[:, None], mask=there & (k[:, None] < inputs), other=0)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=kind)
    result = total.to(tl.float32)
    if scale is not None:
        result *= tl.load(steps + down, mask=down < rows, other=0.0)[:, None]
        result *= tl.load(scale + across, mask=across < outputs, other=0.0)[None, :]
    if bias is not None:
        result += tl.load(bias + across, mask=across < outputs, other=0.0)[None, :]
    to = out + down[:, None].to(tl.int64) * outputs + across[None, :]
    if ADD:
        result += tl.load(to, mask=here & there, other=0.0)
    tl.store(to, result.to(out.dtype.element_ty), mask=here & there)


@_kernel
def _round(x, whole, steps, width, BLOCK: tl.constexpr):
    row, place = tl.program_id(0), tl.arange(0, BLOCK)
    inside = place < width
    numbers = tl.load(x + row.to(tl.int64) * width + place, mask=inside, other=0.0).to(tl.float32)
    step = tl.maximum(tl.max(tl.abs(numbers), 0) / 127.0, 1e-12)
    tl.store(steps + row, step)
    tl.store(whole + row.to(tl.int64) * width + place, tl.floor(numbers / step + 0.5).to(tl.int8), mask=inside)


@_kernel
def _norm(x, weight, bias, out, width, eps, BLOCK: tl.constexpr):
    row, place = tl.program_id(0), tl.arange(0, BLOCK)
    inside = place < width
    numbers = tl.load(x + row.to(tl.int64) * width + place, mask=inside, other=0.0)
    if bias is not None:
        numbers = tl.where(inside, numbers - tl.sum(numbers, 0) / width, 0.0)
    numbers *= tl.rsqrt(tl.sum(numbers * numbers, 0) / width + eps)
    numbers *= tl.load(weight + place, mask=inside, other=0.0)
    if bias is not None:
        numbers += tl.load(bias + place, mask=inside, other=0.0)
    tl.store(out + row.to(tl.int64) * width + place, numbers.to(out.dtype.element_ty), mask=inside)


@_kernel
def _place(
    qkv,
    norms,
    turn,
    positions,
    owner,
    table,
    query,
    keys,
    values,
    line,
    heads,
    kv_heads,
    dim,
    eps,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, BLOCK)
    inside = channel < dim
    half = dim // 2
    other = tl.where(channel < half, channel + half, channel - half)
    source = qkv + (row * (heads + 2 * kv_heads) + head) * dim
    numbers = tl.load(source + channel, mask=inside, other=0.0).to(tl.float32)
    position = tl.load(positions + row)
    if head < heads + kv_heads:
        partners = tl.load(source + other, mask=inside, other=0.0).to(tl.float32)
        if norms is not None:
            factor = tl.rsqrt(tl.sum(numbers * numbers, 0) / dim + eps)
            weights = norms + tl.where(head < heads, 0, dim)
            numbers *= factor * tl.load(weights + channel, mask=inside, other=0.0)
            partners *= factor * tl.load(weights + other, mask=inside, other=0.0)
        if turn is not None:
            angle = turn + position.to(tl.int64) * dim + tl.where(channel < half, channel, channel - half)
            sines = tl.load(angle + half, mask=inside, other=0.0)
            numbers *= tl.load(angle, mask=inside, other=0.0)
            numbers += tl.where(channel < half, -partners, partners) * sines
    if head < heads:
        tl.store(query + (row * heads + head) * dim + channel, numbers.to(query.dtype.element_ty), mask=inside)
    else:
        page = tl.load(table + tl.load(owner + row).to(tl.int64) * line + position // PAGE).to(tl.int64)
        slot = page * PAGE + position % PAGE
        if head < heads + kv_heads:
            to = keys + (slot * kv_heads + head - heads) * dim
        else:
            to = values + (slot * kv_heads + head - heads - kv_heads) * dim
        tl.store(to + channel, numbers.to(keys.dtype.element_ty), mask=inside)


@_kernel
def _attend(
    query,
    keys,
    values,
    positions,
    owner,
    table,
    groups,
    read,
    facts,
    line,
    window,
    pieces,
    kv_heads,
    dim,
    scale,
    SHARED: tl.constexpr,
    QUERIES: tl.constexpr,
    WIDE: tl.constexpr,
    PAGE: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    group, kv, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    beginning, count = tl.load(groups + group), tl.load(groups + tl.num_programs(0) + group)
    which, channel, step = tl.arange(0, QUERIES), tl.arange(0, WIDE), tl.arange(0, BLOCK)
    some, inside = which < count * SHARED, channel[None, :] < dim
    row = beginning + which // SHARED
    head = row.to(tl.int64) * kv_heads * SHARED + kv * SHARED + which % SHARED
    end = tl.load(positions + row, some, other=0) + 1
    first = tl.where(window > 0, tl.maximum(end - window, 0), 0)
    begin = tl.maximum(piece * PIECE, tl.min(tl.where(some, first, 2**30), 0) // BLOCK * BLOCK)
    stop = tl.minimum(piece * PIECE + PIECE, tl.max(tl.where(some, end, 0), 0))
    pages = table + tl.load(owner + beginning).to(tl.int64) * line
    q = tl.load(query + head[:, None] * dim + channel[None, :], some[:, None] & inside, other=0.0)
    most = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    sums = tl.zeros((QUERIES, WIDE), tl.float32)
    for start in range(begin, stop, BLOCK):
        at = start + step
        there = at < stop
        slot = tl.load(pages + at // PAGE, mask=there, other=0).to(tl.int64) * PAGE + at % PAGE
        where = (slot * kv_heads + kv) * dim
        k = tl.load(keys + where[None, :] + channel[:, None], (channel[:, None] < dim) & there[None, :], other=0.0)
        seen = (at[None, :] < end[:, None]) & (at[None, :] >= first[:, None])
        scores = tl.where(seen, tl.dot(q, k, input_precision="ieee") * scale, float("-inf"))
        larger = tl.maximum(most, tl.max(scores, 1))
        against = tl.where(larger == float("-inf"), 0.0, larger)  # a row may see nothing of what its group sees
        weights = tl.exp2(scores - against[:, None])
        fade = tl.exp2(most - against)
        total = total * fade + tl.sum(weights, 1)
        v = tl.load(values + where[:, None] + channel[None, :], inside & there[:, None], other=0.0)
        sums = sums * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = larger
    place = head * pieces + piece
    tl.store(read + place[:, None] * dim + channel[None, :], sums, some[:, None] & inside)
    tl.store(facts + place * 2, most, some)
    tl.store(facts + place * 2 + 1, total, some)


@_kernel
def _join(read, facts, out, pieces, heads, dim, WIDE: tl.constexpr):
    which = tl.program_id(0).to(tl.int64) * heads + tl.program_id(1)
    channel = tl.arange(0, WIDE)
    inside = channel < dim
    most = tl.load(facts + which * pieces * 2)
    for piece in range(1, pieces):
        most = tl.maximum(most, tl.load(facts + (which * pieces + piece) * 2))
    total, sums = 0.0, tl.zeros((WIDE,), tl.float32)
    for piece in range(0, pieces):
        place = which * pieces + piece
        weight = tl.exp2(tl.load(facts + place * 2) - most)
        total += weight * tl.load(facts + place * 2 + 1)
        sums += weight * tl.load(read + place * dim + channel, mask=inside, other=0.0)
    tl.store(out + which * dim + channel, (sums / total).to(out.dtype.element_ty), mask=inside)


@_kernel
def _activate(x, out, hidden, GATED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < hidden
    if GATED:
        gate = tl.load(x + row * 2 * hidden + channel, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(x + row * 2 * hidden + hidden + channel, mask=inside, other=0.0).to(tl.float32)
        result = gate * tl.sigmoid(gate) * up
    else:
        up = tl.load(x + row * hidden + channel, mask=inside, other=0.0).to(tl.float32)
        result = up * tl.sigmoid(1.5957691216057308 * (up + 0.044715 * up * up * up))  # = ½ up (1 + tanh …)
    tl.store(out + row * hidden + channel, result.to(out.dtype.element_ty), mask=inside)
