"""Several utterances in one row, one behind the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unispeech.kernels import plain

Place = tuple[int, slice, slice]
"""Index of `(B, H, T, d)` that gives `(H, t, d)` of one utterance."""


def utterances(x: Tensor, sizes: Sequence[int] | None) -> list[Place]:
    """Where the utterances of `(B, H, T, d)` are.

    Args:
        x: queries, keys or values.
        sizes: frames of each utterance of every row, or None where each row is one.
    """
    batch, _, frames, _ = x.shape
    places: list[Place] = []
    for row in range(batch):
        start = 0
        for size in sizes or (frames,):
            places.append((row, slice(None), slice(start, start + size)))
            start += size
    return places


def positions(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, sizes: Sequence[int] | None = None
) -> Tensor:
    """Positional convolution of each utterance; arguments as in `plain.positions`, and `sizes`."""
    if sizes is None:
        return plain.positions(x, weight, bias, groups)
    parts = [plain.positions(part, weight, bias, groups) for part in torch.split(x, list(sizes), 1)]
    return torch.cat(parts, 1)
