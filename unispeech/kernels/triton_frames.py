"""Triton programs on whole frames: GELU, layer norm, and the convolution of the waveform.

D counts channels; `rows` counts the frames of the whole batch, utterance after utterance. Sums are
fp32. Tensors are contiguous unless steps are given.
"""

# mypy: disable-error-code="untyped-decorator,no-any-return"

from __future__ import annotations

import triton
import triton.language as tl

from unispeech.kernels import blocks

EPSILON = tl.constexpr(blocks.EPSILON)
ROOT_HALF = tl.constexpr(0.7071067811865476)
ROOT_TWO_PI = tl.constexpr(2.5066282746310002)


@triton.jit
def gelu(y: tl.tensor) -> tl.tensor:
    """GELU of fp32."""
    return y * (0.5 + 0.5 * tl.math.erf(y * ROOT_HALF))


@triton.jit
def gelu_and_slope(y: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """GELU of fp32 and its derivative."""
    below = 0.5 + 0.5 * tl.math.erf(y * ROOT_HALF)
    return y * below, below + y * tl.exp(-0.5 * y * y) / ROOT_TWO_PI


@triton.jit
def standardise(
    y: tl.tensor, column: tl.tensor, D: tl.constexpr, BLOCK_D: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Rows `(M, BLOCK_D)` with mean 0 and variance 1, and the factor `(M, 1)` that did it."""
    centred = y - tl.sum(y, 1, keep_dims=True) / D
    if D != BLOCK_D:
        centred = tl.where((column < D)[None, :], centred, 0.0)
    factor = tl.rsqrt(tl.sum(centred * centred, 1, keep_dims=True) / D + EPSILON)
    return centred * factor, factor


@triton.jit
def norm_gelu_slope(
    grad: tl.tensor,
    y: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    column: tl.tensor,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Gradients of `y`, `scale` and `shift` from that of `gelu(standardise(y) * scale + shift)`."""
    standard, factor = standardise(y, column, D, BLOCK_D)
    grad *= gelu_and_slope(standard * scale + shift)[1]
    inner = grad * scale
    mean = tl.sum(inner, 1, keep_dims=True) / D
    slope = tl.sum(inner * standard, 1, keep_dims=True) / D
    of_y = factor * (inner - mean - standard * slope)
    return of_y, tl.sum(grad * standard, 0), tl.sum(grad, 0)


@triton.jit
def read_channels(vector: tl.tensor, column: tl.tensor, D: tl.constexpr) -> tl.tensor:
    """`(1, BLOCK_D)` fp32 of `(D,)`."""
    return tl.load(vector + column, mask=column < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def read_windows(
    windows: tl.tensor,
    row: tl.tensor,
    frames: tl.tensor,
    step: tl.tensor,
    K: tl.constexpr,
    TAPS: tl.constexpr,
) -> tl.tensor:
    """`(M, TAPS)` of one utterance: K samples, a one for the shift, zeros."""
    tap = tl.arange(0, TAPS)
    inside = (row < frames)[:, None] & (tap < K)[None, :]
    found = tl.load(windows + row[:, None] * step + tap[None, :], mask=inside, other=0.0)
    return tl.where((tap == K)[None, :], 1.0, found)


@triton.jit
def read_filters(
    filters: tl.tensor, column: tl.tensor, TAPS: tl.constexpr, D: tl.constexpr
) -> tl.tensor:
    """`(TAPS, BLOCK_D)` of one utterance, `(TAPS, D)`."""
    place = tl.arange(0, TAPS)[:, None] * D + column[None, :]
    return tl.load(filters + place, mask=(column < D)[None, :], other=0.0)


@triton.jit(do_not_specialize=["frames", "share", "utterance_step", "step", "filters_step"])
def filter_waveform(
    windows: tl.tensor,
    filters: tl.tensor,
    scale: tl.tensor | None,
    shift: tl.tensor | None,
    out: tl.tensor,
    frames: tl.tensor,
    share: tl.tensor,
    utterance_step: tl.tensor,
    step: tl.tensor,
    filters_step: tl.tensor,
    K: tl.constexpr,
    TAPS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """`out` `(B, frames, D)`, GELU of filtered windows; with `scale` and `shift` of their norm.

    `windows` `(B, frames, K)` fp32 with steps between utterances and windows, `filters` `(B, TAPS,
    D)` fp32 whose row K is a shift, with a step between utterances. Grid: `(S, B)`, `share` windows
    to a program, a multiple of BLOCK_M.
    """
    utterance = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    is_column = (column < D)[None, :]
    weights = read_filters(filters + utterance * filters_step, column, TAPS, D)
    if scale is not None:
        scales, shifts = read_channels(scale, column, D), read_channels(shift, column, D)
    first = tl.program_id(0) * share
    for start in range(first, tl.minimum(first + share, frames), BLOCK_M):
        row = start + tl.arange(0, BLOCK_M)
        left = read_windows(windows + utterance * utterance_step, row, frames, step, K, TAPS)
        y = tl.dot(left, weights, input_precision=PRECISION)
        if scale is not None:
            y = standardise(y, column, D, BLOCK_D)[0] * scales + shifts
        place = (utterance * frames + row)[:, None] * D + column[None, :]
        tl.store(out + place, gelu(y), mask=(row < frames)[:, None] & is_column)


@triton.jit(do_not_specialize=["frames", "share", "utterance_step", "step", "filters_step"])
def filter_waveform_gradient(
    grad: tl.tensor,
    windows: tl.tensor,
    filters: tl.tensor,
    scale: tl.tensor | None,
    shift: tl.tensor | None,
    grad_filters: tl.tensor,
    grad_norm: tl.tensor | None,
    grad_y: tl.tensor | None,
    frames: tl.tensor,
    share: tl.tensor,
    utterance_step: tl.tensor,
    step: tl.tensor,
    filters_step: tl.tensor,
    K: tl.constexpr,
    TAPS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Gradients of `filter_waveform`, which is computed again; arguments as there.

    `grad_filters` `(B, S, TAPS, D)` and `grad_norm` `(B, S, 2, D)`, of scale and shift, are fp32
    sums over `share` windows each; `grad_y` `(B, frames, D)` is the gradient before norm and GELU.
    Grid: `(S, B)`; `share` is a multiple of BLOCK_M.
    """
    utterance = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    is_column = (column < D)[None, :]
    weights = read_filters(filters + utterance * filters_step, column, TAPS, D)
    if scale is not None:
        scales, shifts = read_channels(scale, column, D), read_channels(shift, column, D)
    of_filters = tl.zeros((TAPS, BLOCK_D), tl.float32)
    of_scale = tl.zeros((BLOCK_D,), tl.float32)
    of_shift = tl.zeros((BLOCK_D,), tl.float32)
    first = tl.program_id(0) * share
    for start in range(first, tl.minimum(first + share, frames), BLOCK_M):
        row = start + tl.arange(0, BLOCK_M)
        left = read_windows(windows + utterance * utterance_step, row, frames, step, K, TAPS)
        y = tl.dot(left, weights, input_precision=PRECISION)
        place = (utterance * frames + row)[:, None] * D + column[None, :]
        there = (row < frames)[:, None] & is_column
        total = tl.load(grad + place, mask=there, other=0.0).to(tl.float32)
        if scale is not None:
            total, one, two = norm_gelu_slope(total, y, scales, shifts, column, D, BLOCK_D)
            of_scale += one
            of_shift += two
        else:
            total *= gelu_and_slope(y)[1]
        if grad_y is not None:
            tl.store(grad_y + place, total, mask=there)
        of_filters = tl.dot(tl.trans(left), total, of_filters, input_precision=PRECISION)
    part = utterance * tl.num_programs(0) + tl.program_id(0)
    place = part * (TAPS * D) + tl.arange(0, TAPS)[:, None] * D + column[None, :]
    tl.store(grad_filters + place, of_filters, mask=is_column)
    if scale is not None:
        place = part * (2 * D) + column
        tl.store(grad_norm + place, of_scale, mask=column < D)
        tl.store(grad_norm + place + D, of_shift, mask=column < D)


@triton.jit(do_not_specialize=["rows"])
def norm_gelu(
    y: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """`out = gelu(layer_norm(y))`, both `(rows, D)`. Grid: `(tiles,)`."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_D)
    there = (row < rows)[:, None] & (column < D)[None, :]
    place = row.to(tl.int64)[:, None] * D + column[None, :]
    value = tl.load(y + place, mask=there, other=0.0).to(tl.float32)
    scales = read_channels(scale, column, D)
    shifts = read_channels(shift, column, D)
    value = standardise(value, column, D, BLOCK_D)[0] * scales + shifts
    tl.store(out + place, gelu(value), mask=there)


@triton.jit(do_not_specialize=["rows", "share"])
def norm_gelu_gradient(
    grad: tl.tensor,
    y: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    grad_y: tl.tensor,
    grad_norm: tl.tensor,
    rows: tl.tensor,
    share: tl.tensor,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """`grad_y` `(rows, D)`, and `grad_norm` `(S, 2, D)` fp32 of scale and shift over `share` rows.

    Grid: `(S,)`; `share` is a multiple of BLOCK_M.
    """
    column = tl.arange(0, BLOCK_D)
    scales = read_channels(scale, column, D)
    shifts = read_channels(shift, column, D)
    of_scale = tl.zeros((BLOCK_D,), tl.float32)
    of_shift = tl.zeros((BLOCK_D,), tl.float32)
    first = tl.program_id(0) * share
    for start in range(first, tl.minimum(first + share, rows), BLOCK_M):
        row = start + tl.arange(0, BLOCK_M)
        there = (row < rows)[:, None] & (column < D)[None, :]
        place = row.to(tl.int64)[:, None] * D + column[None, :]
        value = tl.load(y + place, mask=there, other=0.0).to(tl.float32)
        total = tl.load(grad + place, mask=there, other=0.0).to(tl.float32)
        total, one, two = norm_gelu_slope(total, value, scales, shifts, column, D, BLOCK_D)
        of_scale += one
        of_shift += two
        tl.store(grad_y + place, total, mask=there)
    place = tl.program_id(0) * (2 * D) + column
    tl.store(grad_norm + place, of_scale, mask=column < D)
    tl.store(grad_norm + place + D, of_shift, mask=column < D)
