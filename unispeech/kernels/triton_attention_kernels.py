"""The programs of `triton_attention`: FlashAttention-2 with a bias of the distance and dropout.

A program has M queries and N keys of one head. Queries, keys, values, context and their gradients
are `(B, T, H, D)`, contiguous; the bias is `(H, PAD + 2T - 1 + PAD)` fp32 of key - query, with
zeros at its ends, which are read for frames that do not exist; the gate `(B, H, T)` fp32; lengths
`(B,)` int32; the seed one int64; what is absent is None. Logits are in base 2, where an exponential
is one instruction. Nothing is added atomically: the same inputs give the same bits.

Source: Dao, FlashAttention-2 (2023), algorithms 1 and 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

PAD = tl.constexpr(128)
"""The most queries or keys of a program."""
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _tile(
    base: tl.tensor, rows: tl.tensor, limit: tl.tensor, stride: tl.tensor, D: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Pointers to some rows of a head, and which of them are there."""
    columns = tl.arange(0, max(16, triton.next_power_of_2(D)))
    there = (rows < limit)[:, None] & (columns < D)[None, :]
    return base + rows[:, None] * stride + columns[None, :], there


@triton.jit
def _read(
    base: tl.tensor, rows: tl.tensor, limit: tl.tensor, stride: tl.tensor, D: tl.constexpr
) -> tl.tensor:
    pointers, there = _tile(base, rows, limit, stride, D)
    return tl.load(pointers, mask=there, other=0.0)


@triton.jit
def _write(
    base: tl.tensor, rows: tl.tensor, limit: tl.tensor, stride: tl.tensor, tile: tl.tensor,
    D: tl.constexpr,
) -> None:  # fmt: skip
    pointers, there = _tile(base, rows, limit, stride, D)
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=there)


@triton.jit
def _place(
    heads: tl.tensor, frames: tl.tensor, lengths: tl.tensor, SIZE: tl.constexpr, D: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """Of this program: (batch, head) in one, offset, stride, head, first frame, number of keys."""
    blocks = tl.cdiv(frames, SIZE)
    row = tl.program_id(0) // blocks
    batch, head = row // heads, row % heads
    offset = (batch.to(tl.int64) * frames * heads + head) * D
    limit = frames
    if lengths is not None:
        limit = tl.load(lengths + batch)
    first = tl.program_id(0) % blocks * SIZE
    return row.to(tl.int64), offset, heads * D, head, first, limit


@triton.jit
def _kept(
    seed: tl.tensor, row: tl.tensor, query: tl.tensor, key: tl.tensor,
    M: tl.constexpr, N: tl.constexpr, THRESHOLD: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`(M, N)` bool of the weights from `(query, key)` on, multiples of 16, that dropout leaves.

    Philox of 7 rounds (Salmon and others, 2011) gives eight numbers of 16 bits, for the pairs of
    two queries 8 apart with two keys 8 apart and the keys next to these: all of them belong to one
    thread in the layout of the tensor cores' results, so that nothing has to be exchanged.
    """
    zeros = tl.zeros((M // 2, N // 4), tl.int32)
    queries = zeros + (query // 2 + tl.arange(0, M // 2))[:, None]
    keys = zeros + (key // 4 + tl.arange(0, N // 4))[None, :]
    a, b, c, d = tl.philox(tl.load(seed), queries, keys, zeros + row.to(tl.int32), zeros, 7)
    four = tl.join(tl.join(a, b), tl.join(c, d))
    # The upper half of a word is compared where it is, the lower half is moved there.
    eight = tl.join(four << 16, four).reshape(M // 16, 8, N // 16, 4, 2, 2, 2)
    return eight.permute(0, 4, 1, 2, 5, 3, 6).reshape(M, N) >= THRESHOLD


@triton.jit
def _diagonals(tile: tl.tensor, M: tl.constexpr, N: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Sums of `(M, N)` over key - query: from -2N on, from -N on and from 0 on, N of each."""
    tl.static_assert(M == 2 * N)
    # Row i turned by i makes columns of the diagonals.
    turn = tl.arange(0, N)[None, :] + tl.arange(0, M)[:, None]
    turned = tl.gather(tile, turn % N, 1)
    furthest = tl.sum(tl.where(turn >= 2 * N, turned, 0.0), 0)
    further = tl.sum(tl.where((turn >= N) & (turn < 2 * N), turned, 0.0), 0)
    return furthest, further, tl.sum(tl.where(turn < N, turned, 0.0), 0)


@triton.jit
def forward(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, bias: tl.tensor, gate: tl.tensor, lengths: tl.tensor,
    seed: tl.tensor, out: tl.tensor, lse: tl.tensor, heads: tl.tensor, frames: tl.tensor,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    THRESHOLD: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Context, and the base-2 logarithm of the sum of a query's exponentials `(B, H, T)`."""
    row, offset, stride, head, first, limit = _place(heads, frames, lengths, M, D)
    queries = first + tl.arange(0, M)
    apart = tl.arange(0, N)[None, :] - tl.arange(0, M)[:, None]
    factor = tl.full((M,), LOG2E, tl.float32)
    if gate is not None:
        factor *= tl.load(gate + row * frames + queries, mask=queries < frames, other=0.0)
    if bias is not None:
        bias += head * (2 * frames - 1 + 2 * PAD) + PAD + frames - 1 - first
    rows = _read(q + offset, queries, frames, stride, D)
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    context = tl.zeros(rows.shape, tl.float32)
    for start in range(0, limit, N):
        keys = start + tl.arange(0, N)
        columns = _read(k + offset, keys, limit, stride, D)
        logits = tl.dot(rows, tl.trans(columns), input_precision=PRECISION) * (LOG2E * D**-0.5)
        if bias is not None:
            logits += factor[:, None] * tl.load(bias + start + apart)
        logits = tl.where((keys < limit)[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        weights = tl.exp2(logits - higher[:, None])
        decay = tl.exp2(top - higher)
        total = total * decay + tl.sum(weights, 1)
        top = higher
        if THRESHOLD > 0:
            kept = _kept(seed, row, first, start, M, N, THRESHOLD)
            weights = tl.where(kept, weights, 0.0)
        values = _read(v + offset, keys, limit, stride, D)
        context = context * decay[:, None]
        context = tl.dot(weights.to(values.dtype), values, context, input_precision=PRECISION)
    context = context / (total * KEEP)[:, None]
    _write(out + offset, queries, frames, stride, context, D)
    tl.store(lse + row * frames + queries, top + tl.log2(total), mask=queries < frames)


@triton.jit
def backward_queries(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, bias: tl.tensor, gate: tl.tensor, lengths: tl.tensor,
    seed: tl.tensor, out: tl.tensor, lse: tl.tensor, grad_out: tl.tensor, delta: tl.tensor,
    grad_q: tl.tensor, bins: tl.tensor, grad_gate: tl.tensor, heads: tl.tensor, frames: tl.tensor,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    THRESHOLD: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of queries, gate and, in bins of each block, bias; `delta` is out * grad_out."""
    row, offset, stride, head, first, limit = _place(heads, frames, lengths, M, D)
    width = 2 * frames - 1 + 2 * PAD
    queries = first + tl.arange(0, M)
    here = queries < frames
    spots = row * frames + queries
    apart = tl.arange(0, N)[None, :] - tl.arange(0, M)[:, None]
    gates = tl.full((M,), 1.0, tl.float32)
    if gate is not None:
        gates = tl.load(gate + spots, mask=here, other=0.0)
    if bias is not None:
        bias += head * width + PAD + frames - 1 - first
    if bins is not None:
        bins += (row * tl.cdiv(frames, M) + first // M) * width + PAD + frames - 1 - first
        bins += tl.arange(0, N) - 2 * N
    rows = _read(q + offset, queries, frames, stride, D)
    grads = _read(grad_out + offset, queries, frames, stride, D)
    outs = _read(out + offset, queries, frames, stride, D)
    means = tl.sum(grads.to(tl.float32) * outs.to(tl.float32), 1)
    tl.store(delta + spots, means, mask=here)
    sums = tl.load(lse + spots, mask=here, other=float("inf"))
    grad_rows = tl.zeros(rows.shape, tl.float32)
    grad_gates = tl.zeros((M,), tl.float32)
    before, carried = tl.zeros((N,), tl.float32), tl.zeros((N,), tl.float32)
    for start in range(0, limit, N):
        keys = start + tl.arange(0, N)
        columns = _read(k + offset, keys, limit, stride, D)
        logits = tl.dot(rows, tl.trans(columns), input_precision=PRECISION) * (LOG2E * D**-0.5)
        if bias is not None:
            offsets = tl.load(bias + start + apart)
            logits += (gates * LOG2E)[:, None] * offsets
        logits = tl.where((keys < limit)[None, :], logits - sums[:, None], float("-inf"))
        weights = tl.exp2(logits)
        values = _read(v + offset, keys, limit, stride, D)
        grad = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        if THRESHOLD > 0:
            kept = _kept(seed, row, first, start, M, N, THRESHOLD)
            grad = tl.where(kept, grad, 0.0) * (1.0 / KEEP)
        grad = weights * (grad - means[:, None])
        grad_rows = tl.dot(grad.to(columns.dtype), columns, grad_rows, input_precision=PRECISION)
        if grad_gate is not None:
            grad_gates += tl.sum(grad * offsets, 1)
        if bins is not None:
            furthest, further, near = _diagonals(grad * gates[:, None], M, N)
            tl.store(bins + start, before + furthest)
            before, carried = carried + further, near
    if bins is not None:
        end = tl.cdiv(limit, N) * N
        tl.store(bins + end, before)
        tl.store(bins + end + N, carried)
    if grad_gate is not None:
        tl.store(grad_gate + spots, grad_gates, mask=here)
    _write(grad_q + offset, queries, frames, stride, grad_rows * D**-0.5, D)


@triton.jit
def backward_keys(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, bias: tl.tensor, gate: tl.tensor, lengths: tl.tensor,
    seed: tl.tensor, lse: tl.tensor, grad_out: tl.tensor, delta: tl.tensor,
    grad_k: tl.tensor, grad_v: tl.tensor, heads: tl.tensor, frames: tl.tensor,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    THRESHOLD: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of keys and values."""
    row, offset, stride, head, first, limit = _place(heads, frames, lengths, N, D)
    keys = first + tl.arange(0, N)
    apart = tl.arange(0, N)[None, :] - tl.arange(0, M)[:, None]
    if bias is not None:
        bias += head * (2 * frames - 1 + 2 * PAD) + PAD + frames - 1 + first
    columns = _read(k + offset, keys, limit, stride, D)
    values = _read(v + offset, keys, limit, stride, D)
    grad_columns = tl.zeros(columns.shape, tl.float32)
    grad_values = tl.zeros(columns.shape, tl.float32)
    # Keys that are all padding have no gradient.
    for start in range(0, tl.where(first < limit, frames, 0), M):
        queries = start + tl.arange(0, M)
        here = queries < frames
        spots = row * frames + queries
        rows = _read(q + offset, queries, frames, stride, D)
        logits = tl.dot(rows, tl.trans(columns), input_precision=PRECISION) * (LOG2E * D**-0.5)
        if bias is not None:
            factor = tl.full((M,), LOG2E, tl.float32)
            if gate is not None:
                factor *= tl.load(gate + spots, mask=here, other=0.0)
            logits += factor[:, None] * tl.load(bias - start + apart)
        sums = tl.load(lse + spots, mask=here, other=float("inf"))
        weights = tl.exp2(logits - sums[:, None])
        grads = _read(grad_out + offset, queries, frames, stride, D)
        grad = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        left = weights
        if THRESHOLD > 0:
            kept = _kept(seed, row, start, first, M, N, THRESHOLD)
            left = tl.where(kept, weights, 0.0)
            grad = tl.where(kept, grad, 0.0) * (1.0 / KEEP)
        turned = tl.trans(left.to(grads.dtype))
        grad_values = tl.dot(turned, grads, grad_values, input_precision=PRECISION)
        means = tl.load(delta + spots, mask=here, other=0.0)
        turned = tl.trans((weights * (grad - means[:, None])).to(rows.dtype))
        grad_columns = tl.dot(turned, rows, grad_columns, input_precision=PRECISION)
    known = (keys < limit)[:, None]
    grad_columns = tl.where(known, grad_columns * D**-0.5, 0.0)
    _write(grad_k + offset, keys, frames, stride, grad_columns, D)
    _write(grad_v + offset, keys, frames, stride, tl.where(known, grad_values / KEEP, 0.0), D)
