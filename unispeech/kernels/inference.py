"""Every operation for a CPU without gradients: in the cache, in place, packed, in bounded memory.

Large temporary tensors cost more than their arithmetic: the system hands out fresh pages for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unispeech.kernels import plain
from unispeech.kernels.blocks import EPSILON, Block, autocast_dtype, scaled_filters, tap_matrices
from unispeech.kernels.packed import utterances

CHUNK = 100
"""Frames of 20 ms that go through all convolutions at a time."""
ROWS = 1024
"""Frames that are wide in a feed-forward layer at a time."""
LOGITS = 8 * 2**20
"""Elements of the bias that exist at a time."""


class _Conv(NamedTuple):
    """A convolution as matrices."""

    block: Block
    taps: list[tuple[int, int, Tensor]]
    """First tap, number of taps, matrix `(taps * C, O)`."""


def extract(waveforms: Tensor, lengths: Tensor | None, blocks: Sequence[Block]) -> Tensor:
    """Waveforms to frames, chunk by chunk; arguments and result as in `plain.extract`."""
    dtype = autocast_dtype(waveforms)
    convs = [_matrices(block, dtype) for block in blocks[1:]]
    frames = waveforms.shape[1]
    for block in blocks:
        frames = block.frames(frames)
    out = torch.empty(len(waveforms), frames, blocks[-1].weight.shape[0], dtype=dtype)
    with torch.autocast("cpu", enabled=False):
        for row, waveform in enumerate(waveforms):
            samples = len(waveform) if lengths is None else int(lengths[row])
            first, centred = _first(waveform, samples, blocks[0], dtype)
            _chunks(centred, first, blocks, convs, out[row])
    return out


def _chunks(
    waveform: Tensor,
    first: tuple[Tensor, Tensor | None],
    blocks: Sequence[Block],
    convs: list[_Conv],
    out: Tensor,
) -> None:
    """Fill `out` `(T, O)`."""
    step, reach = 1, 1
    for block in reversed(blocks):
        step, reach = step * block.stride, (reach - 1) * block.stride + block.kernel
    weight, shift = first
    for start in range(0, len(out), CHUNK):
        stop = min(start + CHUNK, len(out))
        span = waveform[start * step : (stop - 1) * step + reach]
        windows = span.unfold(0, blocks[0].kernel, blocks[0].stride).contiguous()
        x = torch.mm(windows, weight) if shift is None else torch.addmm(shift, windows, weight)
        x = _normed(x, blocks[0])
        for conv in convs:
            x = _normed(_convolve(torch.ops.aten.gelu_(x), conv), conv.block)
        out[start:stop] = torch.ops.aten.gelu_(x)


def _first(
    waveform: Tensor, samples: int, block: Block, dtype: torch.dtype
) -> tuple[tuple[Tensor, Tensor | None], Tensor]:
    """Matrix `(K, O)` and shift `(O,)` of the first convolution, and the waveform it takes.

    A group norm is in them: its statistics follow from the moments of the windows.
    """
    filters = block.weight.flatten(1)
    if block.norm != "group":
        shift = None if block.bias is None else block.bias.to(dtype)
        return (filters.t().to(dtype).contiguous(), shift), waveform.to(dtype)
    assert block.shift is not None
    wide = waveform.to(torch.promote_types(waveform.dtype, torch.float32))
    # What is constant would leave no digits for what is not.
    wide = wide - wide[:samples].mean()
    windows = wide[:samples].unfold(0, block.kernel, block.stride)
    moments = torch.zeros(block.kernel, block.kernel, dtype=torch.float64)
    for part in torch.split(windows, 2**16):
        moments += (part.t() @ part).double()
    mean = windows.mean(0)
    covariance = (moments / len(windows)).to(wide.dtype) - mean.outer(mean)
    scaled = scaled_filters(block, covariance.unsqueeze(0))[0]
    shift = block.shift.to(wide.dtype) - mean @ scaled
    return (scaled.to(dtype).contiguous(), shift.to(dtype)), wide.to(dtype)


def _matrices(block: Block, dtype: torch.dtype) -> _Conv:
    groups = tap_matrices(block.weight, block.stride)
    return _Conv(block, [(start, n, part.to(dtype).t()) for start, n, part in groups])


def _convolve(x: Tensor, conv: _Conv) -> Tensor:
    """`(T, C)` to `(T', O)`: `stride` adjacent rows are one long row, without a copy."""
    stride = conv.block.stride
    frames = conv.block.frames(len(x))
    out = None
    for start, count, matrix in conv.taps:
        if count == stride:
            rows = x[start : start + frames * stride].view(frames, -1)
        else:
            rows = x[start : start + (frames - 1) * stride + count]
            rows = rows[::stride] if count == 1 else rows.unfold(0, count, stride).mT.flatten(1)
        if out is not None:
            out.addmm_(rows, matrix)
        elif conv.block.bias is None:
            out = torch.mm(rows, matrix)
        else:
            out = torch.addmm(conv.block.bias.to(x.dtype), rows, matrix)
    assert out is not None
    return out


def _normed(x: Tensor, block: Block) -> Tensor:
    if block.norm != "layer":
        return x
    assert block.scale is not None
    assert block.shift is not None
    scale, shift = block.scale.to(x.dtype), block.shift.to(x.dtype)
    return F.layer_norm(x, x.shape[1:], scale, shift, EPSILON)


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
    """Attention whose bias exists for some queries at a time; arguments as in `plain.attention`.

    Args:
        q: `(B, H, T, d)`.
        k: `(B, H, T, d)`.
        v: `(B, H, T, d)`.
        bias: `(H, 2T' - 1)` values of key - query, T' at least the longest utterance, or None.
        gate: `(B, H, T, 1)` or None.
        padding_mask: `(B, T)` bool or None.
        dropout: probability of dropping a weight.
        sizes: frames of each utterance where one row holds several, one behind the other.
    """
    if bias is None and sizes is None:
        return plain.attention(q, k, v, None, None, padding_mask, dropout)
    batch, heads, frames, width = q.shape
    out = torch.empty(batch, frames, heads, width, dtype=v.dtype).transpose(1, 2)
    for at in utterances(q, sizes):
        own = None if gate is None else gate[at]
        mask = None if padding_mask is None else padding_mask[at[0], at[2]]
        _attend(q[at], k[at], v[at], bias, own, mask, dropout, out[at])
    return out


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    padded: Tensor | None,
    dropout: float,
    out: Tensor,
) -> None:
    """One utterance `(H, T, d)`, some queries at a time."""
    if bias is None:
        mask = None if padded is None else padded[None]
        out.copy_(plain.attention(q[None], k[None], v[None], None, None, mask, dropout)[0])
        return
    heads, frames, _ = q.shape
    longest = (bias.shape[1] + 1) // 2
    values = bias[:, longest - frames : longest + frames - 1].to(q.dtype)
    # With the keys turned round the biases of each query are those of the one before, one further
    # on: a view of the vector of distances.
    matrix = values.flip(1).unfold(1, frames, 1)
    keys, contents = k.flip(1), v.flip(1)
    step = max(1, LOGITS // (heads * frames))
    for start in range(0, frames, step):
        stop = min(start + step, frames)
        mask = matrix[:, start:stop]
        mask = mask.contiguous() if gate is None else gate[:, start:stop] * mask
        if padded is not None:
            mask.masked_fill_(padded.flip(0), float("-inf"))
        out[:, start:stop] = _weighted(q[:, start:stop], keys, contents, mask, dropout)


def _weighted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """`(H, t, d)` for queries `(H, t, d)`; overwrites `mask` `(H, t, T)`."""
    if dropout > 0 or q.dtype in (torch.bfloat16, torch.float16):
        found = F.scaled_dot_product_attention(q[None], k[None], v[None], mask[None], dropout)
        return found[0]
    # Products of a whole utterance are faster than the blocks of torch's kernel.
    logits = torch.baddbmm(mask, q, k.mT, alpha=q.shape[2] ** -0.5, out=mask)
    return torch.bmm(torch.softmax(logits, 2, out=mask), v)


def feed_forward(
    x: Tensor, wide: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], dropout: float
) -> Tensor:
    """Linear layer, GELU, dropout, linear layer; arguments as in `plain.feed_forward`."""
    parts = []
    for part in torch.split(x.flatten(0, 1), ROWS):
        hidden = torch.ops.aten.gelu_(F.linear(part, *wide))
        parts.append(F.linear(F.dropout(hidden, dropout), *narrow))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*x.shape[:2], -1)
