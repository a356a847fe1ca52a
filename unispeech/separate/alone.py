"""Where one speaker speaks alone, nothing needs to be separated."""

from __future__ import annotations

import torch
from torch import Tensor

REACH = 25
"""Frames on each side over which it is judged who speaks: a quarter of a second, less than windows
see of the future."""


def alone(masks: Tensor, magnitude: Tensor, least: float, reach: int = REACH) -> Tensor:
    """How far each speaker speaks alone, `(S, T)` in [0, 1]; at most one of them does.

    1 where all others together have less than half of `least` of the speech about a frame, 0 from
    `least` on.

    Args:
        masks: `(S, T, bins)` of speakers.
        magnitude: `(T, bins)` of the mixture.
        least: share of the speech, at most a half; 0 gives zeros.
        reach: frames on each side that count as about a frame.
    """
    heard = (masks * magnitude).sum(2)
    if least <= 0:
        return torch.zeros_like(heard)
    around = torch.nn.functional.avg_pool1d(
        heard.unsqueeze(1), 2 * reach + 1, 1, reach, count_include_pad=False
    ).squeeze(1)
    total = around.sum(0)
    others = (total - around) / total.clamp(min=1e-20)
    gate = (2.0 - 2.0 * others / least).clamp(0.0, 1.0)
    # In silence nobody speaks.
    return gate.masked_fill(total <= 0, 0.0)


def leave_alone(masks: Tensor, gates: Tensor) -> Tensor:
    """Speaker masks `(S, T, bins)` that pass on the mixture where `gates` `(S, T)` are 1."""
    own = gates.unsqueeze(2)
    other = own.sum(0, keepdim=True) - own
    return masks * (1.0 - own - other) + own
