"""Which output belongs to which reference."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

LARGEST = 8
"""Outputs up to which every permutation is looked at: 40,320 of them."""


def best_permutation(costs: Tensor) -> Tensor:
    """The assignment of references to outputs with the smallest summed cost.

    Every permutation is compared. Of equal ones the first in lexical order wins, which is the
    identity where it is among them.

    Args:
        costs: `(B, S, S)` float; cost of taking, for the output of the row, the reference of the
            column. At most `LARGEST` outputs.

    Returns:
        `(B, S)` int64: index of the reference for each output.
    """
    outputs = costs.shape[1]
    assert costs.shape[2] == outputs <= LARGEST
    every = torch.tensor(list(itertools.permutations(range(outputs))), device=costs.device)
    rows = torch.arange(outputs, device=costs.device)
    sums = costs.detach()[:, rows, every].sum(2)
    # argmin does not promise the first of equal ones.
    first = (sums == sums.amin(1, keepdim=True)).int().argmax(1)
    return every[first]
