"""Settings of clustering and smoothing that make the fewest errors where the truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from unispeech.diarize.config import DiarizeConfig
from unispeech.diarize.recording import LocalDiarization, Segment

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""NTT's."""
MEDIANS = (0.0, 1.0)
"""Seconds: one frame and 11, NTT's."""
DISTANCES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
"""Ours, around the authors' 1."""


def tuned(
    recordings: Mapping[str, LocalDiarization],
    counts: Mapping[str, int | None],
    error_rate: Callable[[dict[str, list[Segment]]], float],
    config: DiarizeConfig,
) -> tuple[DiarizeConfig, list[dict[str, float]]]:
    """The distance, threshold and median with the lowest error rate, and the rates of all.

    Args:
        recordings: what the model says of each.
        counts: their numbers of speakers; None where it is to be estimated.
        error_rate: of the segments of all recordings.
        config: everything else.

    Returns:
        The configuration, and rows of the settings with their rate as `der`. Of equal rates, the
        first counts.
    """
    rows: list[dict[str, float]] = []
    is_given = all(counts[name] is not None for name in recordings)
    distances = (config.distance,) if is_given else DISTANCES
    for distance, threshold, median in itertools.product(distances, THRESHOLDS, MEDIANS):
        values = {"distance": distance, "threshold": threshold, "median": median}
        one = config.model_copy(update=values)
        found = {name: local.segments(one, counts[name]) for name, local in recordings.items()}
        rows.append({**values, "der": error_rate(found)})
    best = min(rows, key=lambda row: row["der"])
    return config.model_copy(update={n: v for n, v in best.items() if n != "der"}), rows
