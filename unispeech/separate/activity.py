"""When somebody speaks on a stream."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage

FloatArray = npt.NDArray[np.floating]

THRESHOLD = 0.35
"""Share of the mixture that an active stream has; usual values are 0.3 to 0.4 (recalled)."""
RANGE = 40.0
"""Decibels below the loud frames of the recording at which nobody speaks any more; ours."""
WIDEN, NARROW = 0.4, 0.2
"""Seconds by which activity is dilated, then eroded."""


def active_pieces(
    share: FloatArray, power: FloatArray, frame_seconds: float, threshold: float = THRESHOLD
) -> list[list[tuple[int, int]]]:
    """First and behind the last frame of the pieces in which somebody speaks, for each stream.

    Args:
        share: `(S, T)` part of the mixture's magnitudes that each mask keeps.
        power: `(S, T)` of the streams.
        frame_seconds: between two frames.
        threshold: of the share.
    """
    loudest = power.max(axis=0, initial=0.0)
    loud = float(np.percentile(loudest, 95)) if loudest.size else 0.0
    least = max(loud * 10.0 ** (-RANGE / 10.0), np.finfo(np.float32).tiny)
    wide, narrow = (2 * round(s / frame_seconds / 2) + 1 for s in (WIDEN, NARROW))
    pieces = []
    for active in (share >= threshold) & (power >= least):
        dilated = scipy.ndimage.binary_dilation(active, np.ones(wide, bool))
        # Beyond the ends there is nothing that could be inactive.
        kept = scipy.ndimage.binary_erosion(dilated, np.ones(narrow, bool), border_value=1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(np.int8)))
        pieces.append([(int(first), int(last)) for first, last in edges.reshape(-1, 2)])
    return pieces
