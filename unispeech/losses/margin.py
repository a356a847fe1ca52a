"""Softmax over cosines with a margin: AAM and AM, sub-centres, inter-top-k."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Margin(NamedTuple):
    """How much harder the target is made, in one update."""

    scale: float
    """Factor of the cosines before the softmax."""
    margin: float
    """AAM: radians added to the target's angle. AM: taken off its cosine."""
    kind: Literal["aam", "am"] = "aam"
    top_k: int = 0
    """Other classes that are made harder too: the closest ones."""
    top_margin: float = 0.0
    """Radians taken off their angles."""


def class_cosines(embeddings: Tensor, classes: Tensor) -> Tensor:
    """Cosine of each embedding to each class, to the closest vector of each.

    Args:
        embeddings: `(B, E)` float32, of any length.
        classes: `(N, K, E)` float32, K vectors (sub-centres) of each class.

    Returns:
        `(B, N)` float32 in [-1, 1].
    """
    count, centres, width = classes.shape
    directions = F.normalize(classes, dim=2).view(count * centres, width)
    cosines = F.normalize(embeddings, dim=1) @ directions.T
    return cosines.view(-1, count, centres).amax(2)


def margin_logits(cosines: Tensor, labels: Tensor, margin: Margin) -> Tensor:
    """Scaled cosines, the target's smaller by the margin, its closest rivals' greater.

    AAM is `cos(theta + m)` (Deng et al. 2019). Beyond `theta = pi - m`, where that would rise
    again, the target has `cos(theta) - (1 + cos(pi - m))`, wespeaker's continuation, which is
    continuous; others take `cos(theta) - m sin(m)`. AM is `cos(theta) - m` (Wang et al. 2018).
    Rivals have `cos(theta - m')` (Zhao et al. 2021, inter-top-k).

    Args:
        cosines: `(B, N)` float32.
        labels: `(B,)` int64.
        margin: of this update.

    Returns:
        `(B, N)` float32.
    """
    is_target = F.one_hot(labels, cosines.shape[1]).bool()
    if margin.kind == "am":
        targets = cosines - margin.margin
    else:
        shifted = _turned(cosines, margin.margin)
        border = math.cos(math.pi - margin.margin)
        targets = torch.where(cosines > border, shifted, cosines - (1.0 + border))
    rivals = cosines
    top_k = min(margin.top_k, cosines.shape[1] - 1)
    if top_k > 0 and margin.top_margin > 0:
        others = cosines.detach().masked_fill(is_target, -math.inf)
        closest = others.topk(top_k, dim=1).indices
        is_close = torch.zeros_like(is_target).scatter_(1, closest, True)
        rivals = torch.where(is_close, _turned(cosines, -margin.top_margin), cosines)
    return margin.scale * torch.where(is_target, targets, rivals)


def margin_loss(cosines: Tensor, labels: Tensor, margin: Margin) -> Tensor:
    """Cross entropy of `margin_logits` in nats, summed over the batch; arguments as there."""
    return F.cross_entropy(margin_logits(cosines, labels, margin), labels, reduction="sum")


def scheduled_margin(update: int, start: float, final: float, first: int, last: int) -> float:
    """Margin of update number `update` (from 1).

    `start` up to update `first`, `final` from `last` on. In between it rises as in wespeaker:
    `start + (final - start) (1 - exp(ln(0.001) t))`, t from 0 to 1.

    Args:
        update: number of the update.
        start: first margin.
        final: last margin.
        first: last update with the first margin.
        last: first update with the last margin; equal to `first` for a step.
    """
    if update <= first:
        return start
    if update >= last:
        return final
    share = (update - first) / (last - first)
    return start + (final - start) * (1.0 - math.exp(math.log(1e-3) * share))


def _turned(cosines: Tensor, angle: float) -> Tensor:
    """Cosine of the angle and `angle` more."""
    # The square root has no gradient at 0, where an embedding lies on its class.
    sines = (1.0 - cosines.square()).clamp(min=1e-12).sqrt()
    return cosines * math.cos(angle) - sines * math.sin(angle)
