"""The extractor on a GPU in Triton: convolution, norm and GELU together, channels last.

What it costs is moving the wide activations of the first blocks, so each is moved as seldom as can
be. With A(l) for the `(B, T, D)` numbers that block l gives, forward:

    block 0        reads the windows, 10 numbers a frame; writes A(0) after its norm and GELU
    block l        reads A(l - 1); writes A(l) before and after its GELU
    with a norm    reads A(l - 1), writes A(l) before its norm; reads that, writes it after its GELU

and backward, with G(l) for the gradient of A(l):

    block l        reads G(l), and A(l - 1) before its GELU; writes G(l - 1), and A(l - 1) after its
                   GELU; for the filters reads G(l) and the latter
    with a norm    first reads G(l), and A(l) before its norm; writes G(l) before its norm
    block 0        reads G(0); what is before its norm and GELU is computed again from the windows

What is kept for the backward pass is A(0) after its GELU and A(l) before it, of a block with a norm
both. Without gradients A(l) before a GELU is not written.

No block activates what it reads: K / STRIDE windows read a number for each tile of channels, six
times in all, and as many error functions would take longer than the products.

Sums are fp32. Frames and filters are multiplied in the precision of the frames: fp32 where torch's
matrix products are fp32, and in TF32 where they may be. Block 0 multiplies fp32 likewise, and in
TF32 where it gives half precision. Sums over all frames are taken in parts, of a size that follows
from the shapes, and the parts are added by torch: no result varies from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from unispeech.kernels import recompute, triton_convolution, triton_frames
from unispeech.kernels.blocks import Block, autocast_dtype, folded_norm

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
PROGRAMS = 264
"""Programs that a sum over frames is shared among: two for each multiprocessor of an H100."""
WAVEFORM_BLOCKS = 8
"""Blocks of frames for which a program of block 0 reads its filters once."""


class Frames(NamedTuple):
    """What a block gives to the next."""

    x: Tensor
    """`(B, T, C)` after the GELU."""
    y: Tensor | None
    """`(B, T, C)` before it, which has the gradients; None where `x` has."""


def extract(waveforms: Tensor, lengths: Tensor | None, blocks: Sequence[Block]) -> Tensor:
    """Waveforms to frames; arguments and result as in `plain.extract`.

    `recompute.extract` is what fp64 goes through, and a group norm behind the first block.
    """
    dtype = autocast_dtype(waveforms)
    if dtype not in DTYPES or any(block.norm == "group" for block in blocks[1:]):
        return recompute.extract(waveforms, lengths, blocks)
    device = torch.cuda.device_of(waveforms)  # type: ignore[no-untyped-call]
    with torch.autocast(waveforms.device.type, enabled=False), device:
        frames = Frames(first_block(waveforms, lengths, blocks[0], dtype), None)
        for block in blocks[1:]:
            frames = next_block(frames, block)
    return frames.x if frames.y is None else F.gelu(frames.y)


def first_block(
    waveforms: Tensor, lengths: Tensor | None, block: Block, dtype: torch.dtype
) -> Tensor:
    """`(B, N)` to `(B, T, D)` of `dtype`; `lengths` `(B,)` samples count in a group norm."""
    kernel, stride = block.kernel, block.stride
    waveforms = waveforms.float()
    scale = shift = None
    if block.norm == "group":
        assert block.shift is not None
        counted = None if lengths is None else block.frames(lengths)
        windows, filters = folded_norm(waveforms.unsqueeze(2), counted, block)
        offset = block.shift
    else:
        windows = waveforms.unfold(1, kernel, stride)
        filters = block.weight.flatten(1).t().unsqueeze(0)
        offset = block.weight.new_zeros(block.weight.shape[0]) if block.bias is None else block.bias
        scale, shift = block.scale, block.shift
    # The windows end in a one, which multiplies the offset; a product has at least 16 terms.
    rows = torch.cat([filters.float(), offset.float().expand(len(filters), 1, -1)], 1)
    taps = max(16, triton.next_power_of_2(kernel + 1))
    rows = F.pad(rows, (0, 0, 0, taps - kernel - 1)).expand(len(waveforms), -1, -1)
    out: Tensor = _FirstBlock.apply(windows, rows, scale, shift, dtype)  # type: ignore[no-untyped-call]
    return out


class _FirstBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        windows: Tensor,
        filters: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(windows, filters, scale, shift)
        batch, frames, _ = windows.shape
        out = torch.empty(batch, frames, filters.shape[2], dtype=dtype, device=windows.device)
        sizes = _waveform_sizes(windows, filters, dtype)
        share = WAVEFORM_BLOCKS * sizes["BLOCK_M"]
        triton_frames.filter_waveform[triton.cdiv(frames, share), batch](
            windows, filters, scale, shift, out, frames, share,
            windows.stride(0), windows.stride(1), filters.stride(0), **sizes,
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        windows, filters, scale, shift = ctx.saved_tensors
        grad = grads[0].contiguous()
        batch, frames, outputs = grad.shape
        sizes = _waveform_sizes(windows, filters, grad.dtype)
        share, parts = _shares(frames, sizes["BLOCK_M"], batch)
        grad_filters = filters.new_empty(batch, parts, *filters.shape[1:])
        grad_norm = None if scale is None else filters.new_empty(batch, parts, 2, outputs)
        grad_y = torch.empty_like(grad) if ctx.needs_input_grad[0] else None
        triton_frames.filter_waveform_gradient[parts, batch](
            grad, windows, filters, scale, shift, grad_filters, grad_norm, grad_y, frames, share,
            windows.stride(0), windows.stride(1), filters.stride(0), **sizes,
        )  # fmt: skip
        grad_windows = None
        if grad_y is not None:
            taps = filters[:, : windows.shape[2]].to(grad.dtype)
            grad_windows = (grad_y @ taps.transpose(1, 2)).float()
        of_scale, of_shift = _norm_gradients(grad_norm, scale, shift)
        return grad_windows, grad_filters.sum(1), of_scale, of_shift, None


def next_block(frames: Frames, block: Block) -> Frames:
    """A convolution of several channels, its layer norm if it has one, and GELU."""
    inputs = (frames.x, frames.y, block.weight, block.bias)
    is_kept = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    is_normed = block.norm == "layer"
    y, x = _Convolution.apply(  # type: ignore[no-untyped-call]
        *inputs, block.stride, is_kept or is_normed, not is_normed
    )
    if not is_normed:
        return Frames(x, y)
    return Frames(_NormGelu.apply(y, block.scale, block.shift), None)  # type: ignore[no-untyped-call]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        gives_y: bool,
        gives_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        batch, time, _ = x.shape
        outputs, channels, kernel = weight.shape
        frames = (time - kernel) // stride + 1
        assert time >= kernel >= stride
        filters = weight.to(x.dtype).transpose(1, 2).contiguous()
        ctx.save_for_backward(x if y is None else None, y, filters)
        ctx.stride, ctx.weight_dtype = stride, weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        out_y = x.new_empty(batch, frames, outputs) if gives_y else None
        out_x = x.new_empty(batch, frames, outputs) if gives_x else None
        sizes = _product_sizes(filters, stride)
        rows = batch * frames
        triton_convolution.convolve[_tiles(rows, outputs, sizes),](
            x, filters, bias, out_y, out_x, rows, frames, time, **sizes
        )
        if gives_x and gives_y:
            ctx.mark_non_differentiable(out_x)
        ctx.set_materialize_grads(False)
        return out_y, out_x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, filters = ctx.saved_tensors
        needs_x, needs_y, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad = grads[0].contiguous()
        batch, frames, outputs = grad.shape
        source = x if y is None else y
        time, channels = source.shape[1:]
        sizes = _product_sizes(filters, ctx.stride)
        grad_source = grad_weight = None
        if needs_x or needs_y:
            grad_source = torch.empty_like(source)
            if y is not None and needs_weight:
                x = torch.empty_like(y)
            groups = batch * triton.cdiv(time, ctx.stride)
            triton_convolution.convolve_input_gradient[_tiles(groups, channels, sizes), ctx.stride](
                grad,
                filters,
                y,
                grad_source,
                x if needs_weight else None,
                batch,
                frames,
                time,
                **sizes,
            )
        if needs_weight:
            rows = batch * frames
            tiles = _tiles(outputs, filters[0].numel(), sizes)
            share, parts = _shares(rows, sizes["BLOCK_K"], tiles)
            partial = filters.new_empty(parts, *filters.shape, dtype=torch.float32)
            triton_convolution.convolve_filter_gradient[tiles, parts](
                grad, x, partial, rows, frames, time, share, **sizes
            )
            grad_weight = partial.sum(0).transpose(1, 2).to(ctx.weight_dtype)
        grad_bias = grad.sum((0, 1), dtype=torch.float32).to(ctx.bias_dtype) if needs_bias else None
        grad_x, grad_y = (grad_source, None) if y is None else (None, grad_source)
        return grad_x, grad_y, grad_weight, grad_bias, None, None, None


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(y, scale, shift)
        out = torch.empty_like(y)
        rows, sizes = y[..., 0].numel(), _row_sizes(y)
        triton_frames.norm_gelu[triton.cdiv(rows, sizes["BLOCK_M"]),](
            y, scale, shift, out, rows, **sizes
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, scale, shift = ctx.saved_tensors
        rows, sizes = y[..., 0].numel(), _row_sizes(y)
        share, parts = _shares(rows, sizes["BLOCK_M"], 1)
        grad_y = torch.empty_like(y)
        grad_norm = y.new_empty(parts, 2, y.shape[2], dtype=torch.float32)
        triton_frames.norm_gelu_gradient[parts,](
            grads[0].contiguous(), y, scale, shift, grad_y, grad_norm, rows, share, **sizes
        )
        return grad_y, *_norm_gradients(grad_norm, scale, shift)


def _norm_gradients(
    parts: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of scale and shift from sums `(..., 2, D)`."""
    if parts is None or scale is None or shift is None:
        return None, None
    of_scale, of_shift = parts.flatten(0, -3).sum(0)
    return of_scale.to(scale.dtype), of_shift.to(shift.dtype)


def _shares(count: int, block: int, others: int) -> tuple[int, int]:
    """How many of `count` each program takes, blocks of them, and how many programs then do.

    `others` is how many programs there are for each of those.
    """
    parts = max(1, PROGRAMS // others)
    share = triton.cdiv(triton.cdiv(count, parts), block) * block
    return share, triton.cdiv(count, share)


def _tiles(rows: int, columns: int, sizes: dict[str, Any]) -> int:
    """Tiles of a matrix."""
    tiles: int = triton.cdiv(rows, sizes["BLOCK_M"]) * triton.cdiv(columns, sizes["BLOCK_N"])
    return tiles


def _product_sizes(filters: Tensor, stride: int) -> dict[str, Any]:
    """Of a convolution by `(D, K, C)`: two programs of half precision share a multiprocessor."""
    outputs, kernel, channels = filters.shape
    is_half = filters.dtype != torch.float32
    return {
        "C": channels,
        "K": kernel,
        "STRIDE": stride,
        "D": outputs,
        "BLOCK_M": 128 if is_half else 64,
        "BLOCK_N": 128 if is_half else 64,
        "BLOCK_K": 64 if is_half else 32,
        "PRECISION": _precision(filters.dtype),
        "num_warps": 8 if is_half else 4,
        "num_stages": 3,
        "maxnreg": 128 if is_half else None,
    }


def _waveform_sizes(windows: Tensor, filters: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """Of block 0, and of its norm: all channels of 16 frames at a time."""
    return {
        "K": windows.shape[2],
        "TAPS": filters.shape[1],
        "D": filters.shape[2],
        "BLOCK_M": 16,
        "BLOCK_D": max(16, triton.next_power_of_2(filters.shape[2])),
        "PRECISION": _precision(dtype),
        "num_warps": 16,
    }


def _row_sizes(y: Tensor) -> dict[str, Any]:
    """Of a norm: all channels of 8 frames at a time."""
    width = y.shape[2]
    return {"D": width, "BLOCK_M": 8, "BLOCK_D": triton.next_power_of_2(width), "num_warps": 8}


def _precision(dtype: torch.dtype) -> str:
    """In which products of fp32 are computed, for frames of `dtype`."""
    is_allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if is_allowed or dtype != torch.float32 else "ieee"
