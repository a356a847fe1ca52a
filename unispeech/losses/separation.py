"""Permutation-invariant losses of separation by masks."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unispeech.losses.permutation import best_permutation

SMALLEST = 1e-8
"""Keeps roots and quotients of magnitudes finite."""

Kind = Literal["magnitude", "phase", "mask"]


class Target(NamedTuple):
    """What the masks are to become."""

    kind: Kind = "magnitude"
    """`magnitude`: the masked mixture has the reference's magnitudes. `phase`: its part in the
    mixture's phase, cut to [0, mixture]. `mask`: the mask is the ratio of both magnitudes."""
    power: float = 1.0
    """Magnitudes are raised to this power before they are compared; not for `mask`."""
    clip: bool = False
    """References are at most as large as the mixture; always so for `phase` and `mask`."""
    noise_weight: float = 1.0
    """Of the noise mask's loss, which is outside of the permutation."""


class SeparationLoss(NamedTuple):
    """Sums over the frames of a batch."""

    loss: Tensor
    """Scalar: of speakers and noise."""
    noise: Tensor
    """Scalar: the noise mask's part, weighted."""
    frames: int
    """Valid frames."""
    permutation: Tensor
    """`(B, S)` int64: reference of each speaker mask."""


def separation_loss(
    masks: Tensor,
    mixture: Tensor,
    sources: Tensor,
    noise: Tensor | None,
    target: Target,
    padding_mask: Tensor | None = None,
) -> SeparationLoss:
    """The loss of the permutation that has the smallest one, for each mixture by itself.

    Means over bins and speakers, sums over frames. A source that is silent is a reference of
    zeros. Squared differences, absolute ones for `mask`.

    Args:
        masks: `(B, S + M, T, bins)` in [0, 1]; the M masks of noise are added up.
        mixture: `(B, T, bins)` complex.
        sources: `(B, S, T, bins)` complex.
        noise: `(B, T, bins)` complex; None leaves the noise masks untrained.
        target: what is compared.
        padding_mask: `(B, T)` bool, True = padding, or None.
    """
    speakers = sources.shape[1]
    count = masks.shape[0] * masks.shape[2]
    if padding_mask is not None:
        count = int((~padding_mask).sum())
    magnitude = mixture.abs().unsqueeze(1)
    outputs = _compared(masks[:, :speakers], magnitude, target)
    wanted = _reference(sources, mixture.unsqueeze(1), target)
    rows = [_distance(one.unsqueeze(1), wanted, target, padding_mask) for one in outputs.unbind(1)]
    costs = torch.stack(rows, 1)
    permutation = best_permutation(costs)
    loss = costs.gather(2, permutation.unsqueeze(2)).sum() / speakers
    part = torch.zeros_like(loss)
    if noise is not None and target.noise_weight > 0:
        summed = masks[:, speakers:].sum(1, keepdim=True)
        silence = _reference(noise.unsqueeze(1), mixture.unsqueeze(1), target)
        distance = _distance(_compared(summed, magnitude, target), silence, target, padding_mask)
        part = target.noise_weight * distance.sum()
    return SeparationLoss(loss + part, part.detach(), count, permutation)


def _compared(masks: Tensor, magnitude: Tensor, target: Target) -> Tensor:
    """What of the output is compared, `(B, S, T, bins)`."""
    if target.kind == "mask":
        return masks
    return _powered(masks * magnitude, target)


def _reference(sources: Tensor, mixture: Tensor, target: Target) -> Tensor:
    """What of the references is compared, `(B, S, T, bins)`; broadcasts the mixture."""
    magnitude = mixture.abs()
    wanted = sources.abs()
    if target.kind == "phase":
        wanted = (sources * mixture.conj()).real / (magnitude + SMALLEST)
    if target.clip or target.kind != "magnitude":
        wanted = torch.minimum(wanted.clamp(min=0), magnitude)
    if target.kind == "mask":
        return wanted / (magnitude + SMALLEST)
    return _powered(wanted, target)


def _powered(magnitude: Tensor, target: Target) -> Tensor:
    if target.power == 1.0:
        return magnitude
    # The slope of a root at zero is infinite.
    return magnitude.clamp(min=SMALLEST) ** target.power


def _distance(
    outputs: Tensor, wanted: Tensor, target: Target, padding_mask: Tensor | None
) -> Tensor:
    """`(B, S)`: mean over bins, sum over valid frames."""
    difference = outputs - wanted
    each = difference.abs() if target.kind == "mask" else difference.square()
    frames = each.mean(3)
    if padding_mask is not None:
        frames = frames.masked_fill(padding_mask.unsqueeze(1), 0.0)
    return frames.sum(2)
