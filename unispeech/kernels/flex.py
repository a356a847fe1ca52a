"""Attention on a GPU that makes no `(T, T)` matrix, by torch's FlexAttention."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from unispeech.kernels import plain


class Padding(NamedTuple):
    """Which keys are padding, in both forms."""

    mask: Tensor
    """`(B, T)` bool, True = padding, at the end of each row."""
    blocks: BlockMask
    """Blocks of queries and keys with anything to compute."""


def padding(mask: Tensor | None) -> Padding | None:
    """What `attention` takes as padding, from `(B, T)` bool, True = padding."""
    if mask is None:
        return None
    lengths = (~mask).sum(1)
    batch, frames = mask.shape

    def is_valid(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        # A query that is padding attends too: a row without keys would not be a number.
        return k < lengths[b]

    blocks = create_block_mask(is_valid, batch, None, frames, frames, device=mask.device)
    return Padding(mask, blocks)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    padded: Padding | None,
    dropout: float,
) -> Tensor:
    """Attention; arguments as in `plain.attention`.

    With dropout of its weights torch's own formulation runs: a score cannot drop a weight.

    Args:
        q: `(B, H, T, d)`.
        k: `(B, H, T, d)`.
        v: `(B, H, T, d)`.
        bias: `(H, 2T - 1)` values of key - query, or None.
        gate: `(B, H, T, 1)` or None.
        padded: of `padding`, or None.
        dropout: probability of dropping a weight.
    """
    if dropout > 0 or (bias is None and padded is None):
        mask = None if padded is None else padded.mask
        matrix = None if bias is None else plain.expand(bias)
        return plain.attention(q, k, v, matrix, gate, mask, dropout)
    found: Tensor = _compiled(q.device.type)(
        q, k, v, _scores(bias, gate, q), padded.blocks if padded is not None else None
    )
    return found


def _scores(bias: Tensor | None, gate: Tensor | None, q: Tensor) -> Callable[..., Tensor] | None:
    """What is added to a logit; two small tensors stand for the matrix."""
    if bias is None:
        return None
    last = q.shape[2] - 1
    values = bias.float()
    if gate is None:

        def ungated(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + values[h, j - i + last]

        return ungated
    factors = gate.squeeze(3).float()

    def gated(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + factors[b, h, i] * values[h, j - i + last]

    return gated


@functools.cache
def _compiled(device: str) -> Callable[..., Tensor]:
    # Without compilation it is written out in full: right, and only good for tests.
    if device != "cuda":
        return flex_attention
    compiled: Callable[..., Tensor] = torch.compile(flex_attention)
    return compiled
