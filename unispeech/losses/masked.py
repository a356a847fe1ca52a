"""Masked prediction of cluster labels (HuBERT, equation 1; WavLM, equation 5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskedPrediction(NamedTuple):
    """Sums over the frames that entered the loss."""

    loss: Tensor
    """Scalar: sum of cross entropies, nats."""
    correct: Tensor
    """Scalar int64: frames whose label has the highest logit."""
    frames: int
    """Frames in the sum."""


def label_logits(projected: Tensor, label_embeddings: Tensor, temperature: float) -> Tensor:
    """Cosine similarity over the temperature.

    Args:
        projected: `(S, E)` projected hidden states.
        label_embeddings: `(V, E)` one vector per label.
        temperature: 0.1 in the papers.

    Returns:
        `(S, V)` float32, also under autocast: HuBERT, equation 2.
    """
    with torch.autocast(projected.device.type, enabled=False):
        queries = F.normalize(projected.float(), dim=-1, eps=1e-8)
        keys = F.normalize(label_embeddings.float(), dim=-1, eps=1e-8)
        return queries @ keys.t() / temperature


def masked_prediction(
    projected: Tensor, label_embeddings: Tensor, labels: Tensor, temperature: float = 0.1
) -> MaskedPrediction:
    """Cross entropy of labels under the cosine logits, summed over frames.

    Equal to the reference's form, which puts the positive first and removes its duplicate.

    Args:
        projected: `(S, E)` projected hidden states of the frames to predict.
        label_embeddings: `(V, E)`.
        labels: `(S,)` int64 in `[0, V)`.
        temperature: divisor of the cosines.
    """
    logits = label_logits(projected, label_embeddings, temperature)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(-1) == labels).sum()
    return MaskedPrediction(loss, correct, len(labels))
