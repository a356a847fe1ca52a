"""Operations that keep less for the backward pass than autograd would.

What is cheap to compute again (GELU, the softmax of the attention, windows of a convolution) is
computed again; matrix products of forward and backward pass are done once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unispeech.kernels.blocks import (
    EPSILON,
    Block,
    autocast_dtype,
    folded_norm,
    tap_matrices,
    window_rows,
)


def extract(waveforms: Tensor, lengths: Tensor | None, blocks: Sequence[Block]) -> Tensor:
    """Waveforms to frames; arguments and result as in `plain.extract`."""
    x = waveforms.unsqueeze(2)
    for index, block in enumerate(blocks):
        if lengths is not None:
            lengths = block.frames(lengths)
        if block.norm == "group":
            x = channel_norm(x if index == 0 else F.gelu(x), lengths, block)
            continue
        if index == 0:
            x = first_conv(x, block)
        else:
            x = gelu_conv(x, block.weight, block.bias, block.stride)
        if block.norm == "layer":
            x = F.layer_norm(x, x.shape[2:], block.scale, block.shift, EPSILON)
    return F.gelu(x)


def first_conv(x: Tensor, block: Block) -> Tensor:
    """`conv1d` of one channel, `(B, N, 1)` to `(B, T, O)`, as a product of its windows."""
    windows = x.unfold(1, block.kernel, block.stride).flatten(2)
    return F.linear(windows, block.weight.flatten(1), block.bias)


def channel_norm(x: Tensor, lengths: Tensor | None, block: Block) -> Tensor:
    """Convolution and group norm with one group per channel, over the time of each utterance.

    The wide output is written once and never read for statistics: they are in the filters.

    Args:
        x: `(B, T, C)`.
        lengths: `(B,)` valid output frames whose statistics count, or None for all.
        block: convolution and norm.

    Returns:
        `(B, T', O)`.
    """
    assert block.shift is not None
    centred, scaled = folded_norm(x, lengths, block)
    shift = block.shift.expand(len(x), 1, -1)
    return torch.baddbmm(shift, centred.to(shift.dtype), scaled.to(shift.dtype))


def feed_forward(
    x: Tensor, wide: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], dropout: float
) -> Tensor:
    """Linear layer, GELU, dropout, linear layer; arguments as in `plain.feed_forward`."""
    x = F.linear(x, *wide)
    if dropout > 0:
        return F.linear(F.dropout(F.gelu(x), dropout), *narrow)
    return gelu_linear(x, *narrow)


def gelu_conv(y: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`conv1d(gelu(y))` without padding, keeping `y` alone for the backward pass.

    Args:
        y: `(B, T, C)`.
        weight: `(O, C, K)`, `K >= stride`.
        bias: `(O,)` or None.
        stride: step between two outputs.

    Returns:
        `(B, floor((T - K) / stride) + 1, O)`; under autocast in its precision.
    """
    cast = autocast_dtype(y)
    y, weight = y.to(cast), weight.to(cast)
    bias = None if bias is None else bias.to(cast)
    out: Tensor = _GeluConv.apply(y, weight, bias, stride)  # type: ignore[no-untyped-call]
    return out


def gelu_linear(y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear(gelu(y))`, keeping `y` alone for the backward pass.

    Args:
        y: `(B, T, C)`.
        weight: `(O, C)`.
        bias: `(O,)` or None.
    """
    rows = y.reshape(1, -1, y.shape[2])
    return gelu_conv(rows, weight.unsqueeze(2), bias, 1).view(*y.shape[:2], -1)


class _GeluConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(y, weight)
        ctx.stride = stride
        batch, time, _ = y.shape
        outputs, _, kernel = weight.shape
        frames = (time - kernel) // stride + 1
        assert time >= kernel
        groups = tap_matrices(weight, stride)
        out = y.new_empty(batch, frames, outputs)
        with torch.autocast(y.device.type, enabled=False):
            # One utterance at a time: the wide activation exists for one only.
            for row in range(batch):
                x = F.gelu(y[row : row + 1])
                for start, taps, flat in groups:
                    rows = window_rows(x, start, taps, stride, frames).reshape(frames, -1)
                    if start == 0:
                        torch.mm(rows, flat.t(), out=out[row])
                    else:
                        out[row].addmm_(rows, flat.t())
                if bias is not None:
                    out[row] += bias
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, weight = ctx.saved_tensors
        (grad,) = grads
        grad = grad.contiguous()
        stride = ctx.stride
        outputs, channels, _ = weight.shape
        frames = grad.shape[1]
        groups = tap_matrices(weight, stride)
        wide = torch.promote_types(weight.dtype, torch.float32)
        flat_grads = [torch.zeros_like(flat, dtype=wide) for _, _, flat in groups]
        grad_y = torch.empty_like(y)
        for row in range(len(y)):
            x = F.gelu(y[row : row + 1])
            # Frames behind the last window have no gradient.
            grad_x = torch.zeros_like(x)
            for (start, taps, flat), flat_grad in zip(groups, flat_grads, strict=True):
                rows = window_rows(x, start, taps, stride, frames).reshape(frames, -1)
                flat_grad += grad[row].t() @ rows
                part = (grad[row] @ flat).view(1, frames, taps, channels)
                window_rows(grad_x, start, taps, stride, frames).add_(part)
            torch.ops.aten.gelu_backward.grad_input(grad_x, y[row : row + 1], grad_input=x)
            grad_y[row] = x[0]
        shaped = [
            flat_grad.view(outputs, -1, channels).transpose(1, 2).to(weight.dtype)
            for flat_grad in flat_grads
        ]
        grad_bias = grad.sum((0, 1)) if ctx.needs_input_grad[2] else None
        return grad_y, torch.cat(shaped, 2), grad_bias, None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    padding_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    """`softmax(q k / sqrt(d) + gate * bias) v`, keeping no `(T, T)` matrix but the dropout's draws.

    Logits and softmax are fp32 in every precision.

    Args:
        q: `(B, H, T, d)`.
        k: `(B, H, T, d)`.
        v: `(B, H, T, d)`.
        bias: `(H, T, T)` or None.
        gate: `(B, H, T, 1)` factor of the bias, or None.
        padding_mask: `(B, T)` bool, True = padding, or None.
        dropout: probability of dropping a weight.

    Returns:
        `(B, H, T, d)`.
    """
    arguments = (q, k, v, bias, gate, padding_mask, dropout)
    out: Tensor = _Attention.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        gate: Tensor | None,
        padding_mask: Tensor | None,
        dropout: float,
    ) -> Tensor:
        out = torch.empty_like(v)
        frames = q.shape[2]
        kept = None
        if dropout > 0:
            shape = (*q.shape[:2], frames, frames)
            kept = torch.empty(shape, dtype=torch.bool, device=q.device).bernoulli_(1 - dropout)
        ctx.save_for_backward(q, k, v, bias, gate, padding_mask, kept)
        ctx.scale = 1.0 / (1.0 - dropout)
        with torch.autocast(q.device.type, enabled=False):
            for row in range(len(q)):
                weights = _attention_weights(row, q, k, bias, gate, padding_mask)
                if kept is not None:
                    weights.mul_(kept[row]).mul_(ctx.scale)
                torch.bmm(weights.to(v.dtype), v[row], out=out[row])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, gate, padding_mask, kept = ctx.saved_tensors
        grad_out = grads[0].contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        wide = torch.promote_types(q.dtype, torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        grad_gate = None if gate is None else torch.empty_like(gate)
        root = q.shape[3] ** -0.5
        for row in range(len(q)):
            weights = _attention_weights(row, q, k, bias, gate, padding_mask)
            dropped = weights
            grad = torch.bmm(grad_out[row], v[row].transpose(1, 2)).to(weights.dtype)
            if kept is not None:
                dropped = (weights * kept[row]).mul_(ctx.scale)
                grad.mul_(kept[row]).mul_(ctx.scale)
            torch.bmm(dropped.to(v.dtype).transpose(1, 2), grad_out[row], out=grad_v[row])
            grad.mul_(weights)
            grad.addcmul_(weights, grad.sum(2, keepdim=True), value=-1.0)
            if grad_bias is not None:
                if gate is None:
                    grad_bias += grad
                else:
                    grad_bias.addcmul_(grad, gate[row].to(grad.dtype))
            if gate is not None and grad_gate is not None and bias is not None:
                grad_gate[row] = torch.einsum("htk,htk->ht", grad, bias.to(grad.dtype))[..., None]
            scaled = grad.mul_(root).to(q.dtype)
            torch.bmm(scaled, k[row], out=grad_q[row])
            torch.bmm(scaled.transpose(1, 2), q[row], out=grad_k[row])
        cast_bias = None if bias is None or grad_bias is None else grad_bias.to(bias.dtype)
        return grad_q, grad_k, grad_v, cast_bias, grad_gate, None, None


def _attention_weights(
    row: int,
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    padding_mask: Tensor | None,
) -> Tensor:
    """`(H, T, T)` of one utterance, fp32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    queries, keys = q[row].to(wide), k[row].to(wide).transpose(1, 2)
    root = q.shape[3] ** -0.5
    if bias is None:
        logits = torch.bmm(queries * root, keys)
    else:
        offset = bias.to(wide) if gate is None else bias.to(wide) * gate[row].to(wide)
        logits = torch.baddbmm(offset, queries, keys, alpha=root)
    if padding_mask is not None:
        logits.masked_fill_(padding_mask[row], float("-inf"))
    return logits.softmax(2)
