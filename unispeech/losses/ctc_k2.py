"""CTC by k2: the same value as torch's, from a graph of each transcript.

Imports torch and k2 alone and runs under Python 3.9, torch 1.13.1 and k2 1.23.4 as well as under
newer ones.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

# Paths this much worse than the best are left out. k2's own default of 10 moves losses of 200 nats
# by 0.003; at 30 what is left out is below the rounding of float32.
OUTPUT_BEAM = 30.0


def available() -> bool:
    """Whether k2 can be imported here."""
    try:
        importlib.import_module("k2")
    except Exception:  # a k2 built for another torch fails in many ways
        return False
    return True


def k2_ctc_loss(
    log_probs: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor
) -> Tensor:
    """CTC loss summed over utterances, nats; utterances that cannot fit count as zero.

    Args:
        log_probs: `(B, T, V)` float32, blank first.
        frames: `(B,)` int64 valid frames.
        targets: `(sum of target_lengths,)` int64.
        target_lengths: `(B,)` int64.

    Raises:
        ImportError: k2 is missing.
    """
    k2 = importlib.import_module("k2")
    transcripts = [part.tolist() for part in torch.split(targets.cpu(), target_lengths.tolist())]
    sizes = frames.tolist()
    # Longest first, as k2 wants them. One that cannot fit has an infinite loss, and its gradient
    # would not be a number.
    order = sorted(
        (row for row, size in enumerate(sizes) if size > 0 and size >= _shortest(transcripts[row])),
        key=lambda row: -sizes[row],
    )
    if not order:
        return log_probs[:, :0].sum()
    segments = torch.tensor([[row, 0, sizes[row]] for row in order], dtype=torch.int32)
    graphs = k2.ctc_graph([transcripts[row] for row in order], device=log_probs.device)
    dense = k2.DenseFsaVec(log_probs, segments)
    loss: Tensor = k2.ctc_loss(graphs, dense, output_beam=OUTPUT_BEAM, reduction="sum")
    return loss


def _shortest(transcript: list[int]) -> int:
    """The fewest frames of a transcript: a blank parts equal neighbours."""
    repeats = sum(a == b for a, b in zip(transcript, transcript[1:]))  # noqa: B905 (Python 3.9)
    return len(transcript) + repeats
