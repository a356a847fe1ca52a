"""Losses that do not depend on the order of the speakers: activities, and sets of speakers."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SLOTS = 6
"""All orders are compared, 720 of them at most."""


class PermutedLoss(NamedTuple):
    """A loss under the order of the references that makes it smallest."""

    loss: Tensor
    """`(B,)` float32."""
    order: Tensor
    """`(B, S)` int64: the reference of each slot."""


def orders(slots: int, device: torch.device | None = None) -> Tensor:
    """All orders of so many references, `(S!, S)` int64, in lexicographic order.

    Raises:
        ValueError: there are more than `MOST_SLOTS`.
    """
    if not 1 <= slots <= MOST_SLOTS:
        raise ValueError(f"{slots} slots, where 1 to {MOST_SLOTS} can be ordered")
    return torch.tensor(list(itertools.permutations(range(slots))), device=device)


def best_permutation(costs: Tensor) -> Tensor:
    """The one-to-one assignment with the smallest sum of costs.

    Args:
        costs: `(B, S, S)`, of output i (row) for reference j (column).

    Returns:
        `(B, S)` int64: the reference of each output. Of equal sums, the first in lexicographic
        order.
    """
    slots = costs.shape[1]
    every = orders(slots, costs.device)
    totals = costs[:, torch.arange(slots, device=costs.device), every].sum(2)
    return every[totals.argmin(1)]


def activity_costs(logits: Tensor, activity: Tensor, valid: Tensor | None) -> Tensor:
    """Binary cross entropy in nats of every slot with every reference, mean over valid frames.

    Args:
        logits: `(B, T, S)`.
        activity: `(B, T, S)` 0 or 1.
        valid: `(B, T)` bool, or None where nothing is padded.

    Returns:
        `(B, S, S)` float32, slot by reference.
    """
    logits, activity = logits.float(), activity.float()
    if valid is None:
        frames = torch.full((len(logits), 1, 1), logits.shape[1], device=logits.device)
    else:
        kept = valid.unsqueeze(2)
        frames = kept.sum(1, keepdim=True)
        activity = activity.masked_fill(~kept, 0.0)
    # -log sigma(x) where the reference is 1, -log sigma(-x) where it is 0: softplus(x) - x r.
    silent = F.softplus(logits)
    if valid is not None:
        silent = silent.masked_fill(~kept, 0.0)
        logits = logits.masked_fill(~kept, 0.0)
    sums = silent.sum(1).unsqueeze(2) - logits.transpose(1, 2) @ activity
    return sums / frames.clamp(min=1)


def activity_loss(logits: Tensor, activity: Tensor, valid: Tensor | None) -> PermutedLoss:
    """Binary cross entropy, mean over valid frames and slots, under the best order.

    Source: Fujita et al. 2019, equation 3, normalised by the frames of each chunk.

    Args:
        logits: `(B, T, S)`.
        activity: `(B, T, S)` 0 or 1.
        valid: `(B, T)` bool, or None.
    """
    costs = activity_costs(logits, activity, valid)
    order = best_permutation(costs.detach())
    return PermutedLoss(costs.gather(2, order.unsqueeze(2)).mean((1, 2)), order)


def powerset(slots: int, together: int) -> Tensor:
    """Which slots are active in each class: silence, one slot, two together, and so on.

    Args:
        slots: S.
        together: most slots that are active at once.

    Returns:
        `(P, S)` bool.
    """
    sets = [
        chosen
        for size in range(together + 1)
        for chosen in itertools.combinations(range(slots), size)
    ]
    return torch.tensor([[slot in chosen for slot in range(slots)] for chosen in sets])


def powerset_activity(logits: Tensor, classes: Tensor) -> Tensor:
    """Probability that each slot is active `(B, T, S)` float32: the sum over its classes.

    Args:
        logits: `(B, T, P)`.
        classes: `(P, S)` of `powerset`.
    """
    return torch.softmax(logits.float(), 2) @ classes.float()


def powerset_loss(
    logits: Tensor, activity: Tensor, valid: Tensor | None, classes: Tensor
) -> PermutedLoss:
    """Cross entropy over sets of slots, mean over valid frames, under the best order.

    Where more speak at once than any class has, all largest classes of those who speak are right.

    Source: Plaquet and Bredin 2023, which orders by the activities; here all orders are compared.

    Args:
        logits: `(B, T, P)`.
        activity: `(B, T, S)` 0 or 1.
        valid: `(B, T)` bool, or None.
        classes: `(P, S)` of `powerset`.
    """
    batch, frames, slots = activity.shape
    members = classes.to(logits.device)
    log_probs = torch.log_softmax(logits.float(), 2)
    # One loss for each of the 2^S sets of references, of which a frame's order picks one.
    bits = 2 ** torch.arange(slots, device=logits.device)
    codes = torch.arange(2**slots, device=logits.device)
    targets = (codes.unsqueeze(1) & bits) > 0
    inside = ~(members & ~targets.unsqueeze(1)).any(2)
    size = members.sum(1)
    largest = (inside * size).amax(1, keepdim=True)
    is_right = inside & (size == largest)
    costs = torch.stack([-log_probs[:, :, right].logsumexp(2) for right in is_right], 2)
    every = orders(slots, logits.device)
    # Slot s has reference order[s], so its bit is that of the reference.
    active = (activity > 0.5).long()
    found = (active[:, :, every] * bits).sum(3)
    losses = costs.gather(2, found)
    if valid is None:
        means = losses.mean(1)
    else:
        count = valid.sum(1, keepdim=True).clamp(min=1)
        means = losses.masked_fill(~valid.unsqueeze(2), 0.0).sum(1) / count
    best = means.detach().argmin(1)
    return PermutedLoss(means.gather(1, best.unsqueeze(1)).squeeze(1), every[best])
