"""Where there is speech in a recording of one speaker, by its energy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unispeech.data.manifests import SAMPLING_RATE

WINDOW, SHIFT = 400, 160
"""Samples: 25 ms every 10 ms."""
RANGE = 10.0
"""Decibels between the loudest and the softest frames below which all is taken for speech."""
SHARE = 0.35
"""How far above the softest frames, on the way to the loudest, speech begins."""
MARGIN = 0.05
"""Seconds that are kept before and after, for sounds that begin and end softly."""


def speech_stretches(
    audio: npt.NDArray[np.float32], pause: float = 0.3
) -> list[tuple[float, float]]:
    """Start and end, in seconds, of the stretches in which somebody speaks.

    A frame is speech when its level is beyond a share of the way from the softest to the loudest
    frames (their 5th and 95th percentiles, in decibels). That suits one speaker at one microphone
    and says nothing in noise; give segments of a trained detector where there are any.

    Args:
        audio: float32 (samples,) at 16 kHz.
        pause: shorter pauses, in seconds, do not divide a stretch.
    """
    if len(audio) < WINDOW:
        return []
    frames = np.lib.stride_tricks.sliding_window_view(audio, WINDOW)[::SHIFT]
    power = np.einsum("tn,tn->t", frames, frames, dtype=np.float64) / WINDOW
    level = 10.0 * np.log10(power + 1e-10)
    soft, loud = np.percentile(level, [5.0, 95.0])
    seconds = len(audio) / SAMPLING_RATE
    if loud <= -99.0:
        return []
    if loud - soft < RANGE:
        return [(0.0, seconds)]
    active = level > soft + SHARE * (loud - soft)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(int)))
    found: list[tuple[float, float]] = []
    for first, last in edges.reshape(-1, 2):
        start = max(0.0, first * SHIFT / SAMPLING_RATE - MARGIN)
        end = min(seconds, ((last - 1) * SHIFT + WINDOW) / SAMPLING_RATE + MARGIN)
        if found and start - found[-1][1] <= pause:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
