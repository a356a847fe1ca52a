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
from unispeech.kernels.packed import Place, utterances


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
        flat_grads: list[Tensor] = []
        grad_y = torch.empty_like(y)
        for row in range(len(y)):
            x = F.gelu(y[row : row + 1])
            own = [
                grad[row].t() @ window_rows(x, start, taps, stride, frames).reshape(frames, -1)
                for start, taps, _ in groups
            ]
            flat_grads = _added(flat_grads, own)
            del x
            grad_x = _grad_of_windows(grad[row], groups, stride, grad_y[row])
            torch.ops.aten.gelu_backward.grad_input(grad_x, y[row], grad_input=grad_x)
        shaped = [
            flat_grad.view(outputs, -1, channels).transpose(1, 2).to(weight.dtype)
            for flat_grad in flat_grads
        ]
        grad_bias = grad.sum((0, 1)) if ctx.needs_input_grad[2] else None
        return grad_y, torch.cat(shaped, 2), grad_bias, None


def _added(sums: list[Tensor], parts: list[Tensor]) -> list[Tensor]:
    """Gradients of some utterances and of one more, added in fp32."""
    if not sums:
        return parts
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    return [total.to(wide).add_(part) for total, part in zip(sums, parts, strict=True)]


def _grad_of_windows(
    grad: Tensor, groups: list[tuple[int, int, Tensor]], stride: int, out: Tensor
) -> Tensor:
    """Fill `out` `(T, C)` with the gradient of a convolution's input from `grad` `(T', O)`."""
    frames, channels = len(grad), out.shape[1]
    # The windows of `stride` taps lie side by side, so the first of them are written, not added.
    covered = frames * stride
    torch.mm(grad, groups[0][2], out=out[:covered].view(frames, -1))
    out[covered:].zero_()
    for start, taps, flat in groups[1:]:
        part = (grad @ flat).view(1, frames, taps, channels)
        window_rows(out.unsqueeze(0), start, taps, stride, frames).add_(part)
    return out


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    padding_mask: Tensor | None,
    dropout: float,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """`softmax(q k / sqrt(d) + gate * bias) v`, keeping no `(T, T)` matrix but the dropout's draws.

    Logits and softmax are fp32 in every precision.

    Args:
        q: `(B, H, T, d)`.
        k: `(B, H, T, d)`.
        v: `(B, H, T, d)`.
        bias: `(H, T', T')`, T' at least the longest utterance, or None.
        gate: `(B, H, T, 1)` factor of the bias, or None.
        padding_mask: `(B, T)` bool, True = padding, or None.
        dropout: probability of dropping a weight.
        sizes: frames of each utterance where one row holds several, one behind the other.

    Returns:
        `(B, H, T, d)`.
    """
    arguments = (q, k, v, bias, gate, padding_mask, dropout, sizes)
    out: Tensor = _Attention.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


def draw_kept(shape: torch.Size, dropout: float) -> Tensor:
    """Which weights stay, bool of `shape`, each with the probability of `_share`.

    Draws of 16 bits from torch's generator; `bernoulli_` takes five times as long.
    """
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    # Vectorised for floats alone, which hold all values of 16 bits.
    return draws.view(torch.int16)[:count].view(shape).float() >= _limit(dropout)


def _limit(dropout: float) -> int:
    return round(dropout * 2**16) - 2**15


def _share(dropout: float) -> float:
    """Probability that a weight stays: 1 - dropout, to 16 bits."""
    return (2**15 - _limit(dropout)) / 2**16


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
        sizes: Sequence[int] | None,
    ) -> Tensor:
        out = torch.empty_like(v)
        spans = utterances(q, sizes)
        kept: list[Tensor] = []
        ctx.scale = 1.0 / _share(dropout)
        with torch.autocast(q.device.type, enabled=False):
            for at in spans:
                weights = _attention_weights(at, q, k, bias, gate, padding_mask)
                if dropout > 0:
                    kept.append(draw_kept(weights.shape, dropout))
                    weights.mul_(kept[-1]).mul_(ctx.scale)
                out[at] = torch.bmm(weights.to(v.dtype), v[at])
        ctx.save_for_backward(q, k, v, bias, gate, padding_mask, *kept)
        ctx.spans = spans
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, gate, padding_mask, *kept = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        wide = torch.promote_types(q.dtype, torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        grad_gate = None if gate is None else torch.empty_like(gate)
        root = q.shape[3] ** -0.5
        for number, at in enumerate(ctx.spans):
            weights = _attention_weights(at, q, k, bias, gate, padding_mask)
            dropped = weights
            out = grads[0][at]
            grad = torch.bmm(out, v[at].transpose(1, 2)).to(weights.dtype)
            if kept:
                dropped = (weights * kept[number]).mul_(ctx.scale)
                grad.mul_(kept[number]).mul_(ctx.scale)
            grad_v[at] = torch.bmm(dropped.to(v.dtype).transpose(1, 2), out)
            grad.mul_(weights)
            grad.addcmul_(weights, grad.sum(2, keepdim=True), value=-1.0)
            if bias is not None and grad_bias is not None:
                frames = grad.shape[1]
                if gate is None or grad_gate is None:
                    grad_bias[:, :frames, :frames] += grad
                else:
                    grad_bias[:, :frames, :frames].addcmul_(grad, gate[at].to(grad.dtype))
                    own = bias[:, :frames, :frames].to(grad.dtype)
                    grad_gate[at] = torch.einsum("htk,htk->ht", grad, own)[..., None]
            scaled = grad.mul_(root).to(q.dtype)
            grad_q[at] = torch.bmm(scaled, k[at])
            grad_k[at] = torch.bmm(scaled.transpose(1, 2), q[at])
        cast_bias = None if bias is None or grad_bias is None else grad_bias.to(bias.dtype)
        return grad_q, grad_k, grad_v, cast_bias, grad_gate, None, None, None


def _attention_weights(
    at: Place,
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    padding_mask: Tensor | None,
) -> Tensor:
    """`(H, t, t)` of one utterance, fp32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    queries, keys = q[at].to(wide), k[at].to(wide).transpose(1, 2)
    root = q.shape[3] ** -0.5
    if bias is None:
        logits = torch.bmm(queries * root, keys)
    else:
        frames = queries.shape[1]
        offset = bias[:, :frames, :frames].to(wide)
        offset = offset if gate is None else offset * gate[at].to(wide)
        logits = torch.baddbmm(offset, queries, keys, alpha=root)
    if padding_mask is not None:
        logits.masked_fill_(padding_mask[at[0], at[2]], float("-inf"))
    return logits.softmax(2)
