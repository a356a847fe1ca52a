"""Every operation as torch has it: what the other formulations must equal, and what is exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unispeech.kernels.blocks import EPSILON, Block, valid_frames


def extract(waveforms: Tensor, lengths: Tensor | None, blocks: Sequence[Block]) -> Tensor:
    """Waveforms to frames.

    Args:
        waveforms: `(B, N)`.
        lengths: `(B,)` int64 samples that count in a group norm, or None for all.
        blocks: the convolutions, the first of one channel.

    Returns:
        `(B, T, O)`; under autocast in its precision.
    """
    x = waveforms.unsqueeze(1)
    for block in blocks:
        x = F.conv1d(x, block.weight, block.bias, block.stride)
        if lengths is not None:
            lengths = block.frames(lengths)
        if block.norm == "group" and lengths is None:
            x = F.group_norm(x, x.shape[1], block.scale, block.shift, EPSILON)
        elif block.norm == "group":
            x = _group_norm(x, lengths, block)
        elif block.norm == "layer":
            width = (x.shape[1],)
            x = F.layer_norm(x.transpose(1, 2), width, block.scale, block.shift, EPSILON)
            x = x.transpose(1, 2)
        x = F.gelu(x)
    return x.transpose(1, 2)


def _group_norm(x: Tensor, lengths: Tensor | None, block: Block) -> Tensor:
    """Of `(B, C, T)` over the first `lengths` frames of each row."""
    assert lengths is not None
    assert block.scale is not None
    assert block.shift is not None
    valid = valid_frames(lengths, x.shape[2]).unsqueeze(1)
    count = lengths.clamp(min=1).view(-1, 1, 1)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - (wide * valid).sum(2, keepdim=True) / count
    variance = (centred * valid).square().sum(2, keepdim=True) / count
    normed = centred * torch.rsqrt(variance + EPSILON)
    return (normed * block.scale.unsqueeze(1) + block.shift.unsqueeze(1)).to(x.dtype)


def positions(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """`gelu(conv1d(x))` with as many frames out as in.

    Args:
        x: `(B, T, D)`.
        weight: `(D, D / groups, K)`.
        bias: `(D,)`.
        groups: of channels.

    Returns:
        `(B, T, D)`.
    """
    weight = weight.to(x.dtype)
    y = F.conv1d(x.transpose(1, 2), weight, bias, padding=weight.shape[2] // 2, groups=groups)
    # An even kernel with symmetric padding gives one frame too many.
    return F.gelu(y[:, :, : x.shape[1]]).transpose(1, 2)


def expand(distances: Tensor) -> Tensor:
    """A bias `(H, T, T)` of query i and key j from `(H, 2T - 1)` values of j - i."""
    frames = (distances.shape[1] + 1) // 2
    if torch.compiler.is_exporting():
        # The exporters fix the length of a window; an index they keep variable.
        steps = torch.arange(frames, device=distances.device)
        looked_up: Tensor = distances[:, steps - steps.unsqueeze(1) + frames - 1]
        return looked_up
    # Row i is a window of the values that starts at T - 1 - i.
    return distances.unfold(1, frames, 1).flip(1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    padding_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    """`softmax(q k / sqrt(d) + gate * bias) v`; torch's kernels keep the logits in fp32.

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
    mask = None
    if bias is not None:
        mask = bias.expand(len(q), -1, -1, -1) if gate is None else gate * bias
        mask = mask.to(q.dtype)
    if padding_mask is not None:
        padded = padding_mask[:, None, None, :]
        if mask is None:
            mask = torch.zeros_like(padded, dtype=q.dtype)
        mask = mask.masked_fill(padded, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def feed_forward(
    x: Tensor, wide: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], dropout: float
) -> Tensor:
    """Linear layer, GELU, dropout, linear layer.

    Args:
        x: `(B, T, D)`.
        wide: weight `(F, D)` and bias `(F,)`.
        narrow: weight `(D, F)` and bias `(D,)`.
        dropout: probability of dropping an activation.

    Returns:
        `(B, T, D)`.
    """
    return F.linear(F.dropout(F.gelu(F.linear(x, *wide)), dropout), *narrow)
