"""Speaker loss of EEND-VC: local speaker vectors among the vectors of the training speakers."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_SCALE = 1e-6
"""The learnt scale of distances is kept above this (ours; the paper has a small constant)."""


def speaker_vectors(frames: Tensor, activity: Tensor) -> Tensor:
    """One unit vector for each slot: its frames' directions weighted by its activity.

    Args:
        frames: `(B, T, S, E)`, of any length.
        activity: `(B, T, S)` in [0, 1], 0 where there is padding.

    Returns:
        `(B, S, E)` float32.
    """
    directions = F.normalize(frames.float(), dim=3)
    return F.normalize(torch.einsum("bts,btse->bse", activity.float(), directions), dim=2)


def speaker_loss(
    vectors: Tensor,
    labels: Tensor,
    table: Tensor,
    scale: Tensor,
    offset: Tensor,
    over: Literal["slots", "active"] = "slots",
) -> Tensor:
    """Cross entropy in nats over the training speakers, from squared distances to their vectors.

    The logit of speaker j is `-(scale * |u - m_j|^2 + offset)` with unit vectors `u` and `m_j`; the
    offset cancels. Source: Kinoshita et al. 2021, equations 6-8.

    Args:
        vectors: `(B, S, E)` unit vectors.
        labels: `(B, S)` int64 training speaker of each slot; -1 for an empty slot, which adds 0.
        table: `(N, E)`, of any length.
        scale: scalar, held above `SMALLEST_SCALE`.
        offset: scalar.
        over: divide the sum over the slots by their number, or by how many are not empty (the
            UniSpeech authors).

    Returns:
        `(B,)` float32.
    """
    # |u - m|^2 = 2 - 2 cos for unit vectors.
    distances = 2.0 - 2.0 * vectors @ F.normalize(table, dim=1).T
    logits = -(scale.clamp(min=SMALLEST_SCALE) * distances + offset)
    slots = labels.shape[1]
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-1
    ).view(-1, slots)
    if over == "slots":
        return losses.mean(1)
    return losses.sum(1) / (labels >= 0).sum(1).clamp(min=1)
