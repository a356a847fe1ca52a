"""Triton programs of a convolution of several channels, channels last, forward and backward.

C and D count channels in and out, K and STRIDE are those of the convolution, `frames` and `time`
count frames out and in of one utterance, and `rows` those out of the whole batch, utterance after
utterance: tiles of rows cross from one utterance into the next, so short utterances leave no tile
half empty. Tensors are contiguous. Sums are fp32; PRECISION is that of products of fp32, and
products of half precision are exact.
"""

# mypy: disable-error-code="untyped-decorator,no-any-return"

from __future__ import annotations

import triton
import triton.language as tl

from unispeech.kernels.triton_frames import gelu, gelu_and_slope


@triton.jit
def halves(tile: tl.tensor, M: tl.constexpr, N: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Of the columns of a tile `(M, N)`: one after the other, they need fewer registers."""
    return tl.split(tl.permute(tl.reshape(tile, (M, 2, N // 2)), (0, 2, 1)))


@triton.jit(do_not_specialize=["rows", "frames", "time"])
def convolve(
    x: tl.tensor,
    filters: tl.tensor,
    bias: tl.tensor | None,
    y: tl.tensor | None,
    activated: tl.tensor | None,
    rows: tl.tensor,
    frames: tl.tensor,
    time: tl.tensor,
    C: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """`y` and `activated = gelu(y)`, one or both, `(rows, D)`, of `x` `(B, time, C)`.

    Channels last, the K frames of a window are one run of K C numbers, and windows are rows that
    overlap: a matrix product with `filters` `(D, K, C)`. Grid: `(tiles,)`, channels fastest, so
    that programs which run at the same time read the same windows.
    """
    WIDTH: tl.constexpr = K * C
    tiles = tl.cdiv(D, BLOCK_N)
    row = tl.program_id(0) // tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows and columns behind the last are computed from the last and never written.
    known = tl.minimum(row, rows - 1)
    first = (known // frames).to(tl.int64) * time + (known % frames).to(tl.int64) * STRIDE
    tap = tl.arange(0, BLOCK_K)
    windows = x + first[:, None] * C + tap[None, :]
    weights = filters + tl.minimum(column, D - 1)[:, None] * WIDTH + tap[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        if WIDTH % BLOCK_K == 0:
            left = tl.load(windows + start)
            right = tl.load(weights + start)
        else:
            inside = (start + tap < WIDTH)[None, :]
            left = tl.load(windows + start, mask=inside, other=0.0)
            right = tl.load(weights + start, mask=inside, other=0.0)
        total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION)
    if bias is not None:
        total += tl.load(bias + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    left, right = halves(total, BLOCK_M, BLOCK_N)
    column = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N // 2)
    write(left, y, activated, row, rows, column, D)
    write(right, y, activated, row, rows, column + BLOCK_N // 2, D)


@triton.jit
def write(
    total: tl.tensor,
    y: tl.tensor | None,
    activated: tl.tensor | None,
    row: tl.tensor,
    rows: tl.tensor,
    column: tl.tensor,
    D: tl.constexpr,
) -> None:
    """A tile of `y` and of its GELU, each unless it is None."""
    there = (row < rows)[:, None] & (column < D)[None, :]
    place = row.to(tl.int64)[:, None] * D + column[None, :]
    if y is not None:
        tl.store(y + place, total, mask=there)
        # What is activated is what the backward pass will see.
        total = total.to(y.dtype.element_ty).to(tl.float32)
    if activated is not None:
        tl.store(activated + place, gelu(total), mask=there)


@triton.jit(do_not_specialize=["batch", "frames", "time"])
def convolve_input_gradient(
    grad: tl.tensor,
    filters: tl.tensor,
    y: tl.tensor | None,
    grad_input: tl.tensor,
    activated: tl.tensor | None,
    batch: tl.tensor,
    frames: tl.tensor,
    time: tl.tensor,
    C: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """`grad_input` `(batch, time, C)` of `grad` `(batch, frames, D)`; all of it is written.

    Input frames with the same remainder by STRIDE are under the same taps: one such class to a
    tile, and a sum over those taps. With `y`, the input was `gelu(y)`: the gradient is that of `y`,
    and `activated`, unless None, becomes the input again. Grid: `(tiles, STRIDE)`.
    """
    phase = tl.program_id(1)
    groups = tl.cdiv(time, STRIDE)
    tiles = tl.cdiv(C, BLOCK_N)
    row = tl.program_id(0) // tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    utterance, group = row // groups, row % groups
    channel = tl.arange(0, BLOCK_K)
    last = (utterance.to(tl.int64) * frames + group.to(tl.int64))[:, None] * D
    gradients = grad + last + channel[None, :]
    weights = filters + channel[:, None] * (K * C) + (phase * C + column)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    PARTS: tl.constexpr = (D + BLOCK_K - 1) // BLOCK_K
    for step in range(0, (K - phase + STRIDE - 1) // STRIDE * PARTS):
        back, start = step // PARTS, step % PARTS * BLOCK_K
        frame = group - back
        is_window = ((utterance < batch) & (frame >= 0) & (frame < frames))[:, None]
        is_weight = (column < C)[None, :]
        if D % BLOCK_K != 0:
            is_window = is_window & (start + channel < D)[None, :]
            is_weight = is_weight & (start + channel < D)[:, None]
        left = tl.load(gradients + (start - back * D), mask=is_window, other=0.0)
        place = start * (K * C) + back * (STRIDE * C)
        right = tl.load(weights + place, mask=is_weight, other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    row = utterance.to(tl.int64) * time + group * STRIDE + phase
    is_row = (utterance < batch) & (group * STRIDE + phase < time)
    left, right = halves(total, BLOCK_M, BLOCK_N)
    column = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N // 2)
    write_gradient(left, y, grad_input, activated, row, is_row, column, C)
    write_gradient(right, y, grad_input, activated, row, is_row, column + BLOCK_N // 2, C)


@triton.jit
def write_gradient(
    total: tl.tensor,
    y: tl.tensor | None,
    grad_input: tl.tensor,
    activated: tl.tensor | None,
    row: tl.tensor,
    is_row: tl.tensor,
    column: tl.tensor,
    C: tl.constexpr,
) -> None:
    """A tile of the gradient, taken back through the GELU of `y` unless that is None."""
    there = is_row[:, None] & (column < C)[None, :]
    place = row[:, None] * C + column[None, :]
    if y is not None:
        value, slope = gelu_and_slope(tl.load(y + place, mask=there, other=0.0).to(tl.float32))
        total *= slope
        if activated is not None:
            tl.store(activated + place, value, mask=there)
    tl.store(grad_input + place, total, mask=there)


@triton.jit(do_not_specialize=["rows", "frames", "time", "share"])
def convolve_filter_gradient(
    grad: tl.tensor,
    x: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    frames: tl.tensor,
    time: tl.tensor,
    share: tl.tensor,
    C: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """`partial` `(S, D, K, C)` fp32, sums over `share` rows each, of `grad` and the windows of `x`.

    Grid: `(tiles, S)`; `share` is a multiple of BLOCK_K.
    """
    WIDTH: tl.constexpr = K * C
    tiles = tl.cdiv(WIDTH, BLOCK_N)
    output = tl.program_id(0) // tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    tap = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(1) * share
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(first, tl.minimum(first + share, rows), BLOCK_K):
        row = start + tl.arange(0, BLOCK_K)
        is_row = (row < rows)[:, None]
        window = (row // frames).to(tl.int64) * time + (row % frames).to(tl.int64) * STRIDE
        left = tl.load(
            grad + row.to(tl.int64)[:, None] * D + output[None, :],
            mask=is_row & (output < D)[None, :],
            other=0.0,
        )
        right = tl.load(
            x + window[:, None] * C + tap[None, :],
            mask=is_row & (tap < WIDTH)[None, :],
            other=0.0,
        )
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    place = (tl.program_id(1) * D + output).to(tl.int64)[:, None] * WIDTH + tap[None, :]
    tl.store(partial + place, total, mask=(output < D)[:, None] & (tap < WIDTH)[None, :])
