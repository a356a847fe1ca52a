"""Span masks over time and channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unispeech.models.config import MaskConfig


def span_mask(
    size: int, config: MaskConfig, rng: np.random.Generator, total: int | None = None
) -> npt.NDArray[np.bool_]:
    """Mask spans of fixed length whose starts are drawn without replacement.

    The number of spans is `floor(prob * size / length + u)`, u uniform in [0, 1), so that its
    mean is exact; spans may overlap (wav2vec 2.0, section 3.1; static lengths).

    Args:
        size: valid positions.
        config: probability, span length and least number of spans.
        rng: draws of this utterance.
        total: length of the result; positions behind `size` stay False.

    Returns:
        `(total,)` bool, True = masked.
    """
    mask = np.zeros(size if total is None else total, dtype=bool)
    spans = max(config.min_spans, int(config.prob * size / config.length + rng.random()))
    if spans == 0 or size < 2:
        return mask
    margin = config.length
    if size - margin <= spans:
        # Too short for so many starts: they may then lie closer to the end, as in the reference.
        margin = max(0, size - spans - 1)
        spans = min(spans, size - margin)
    starts = rng.choice(size - margin, spans, replace=False)
    covered = (starts[:, None] + np.arange(config.length)).ravel()
    mask[covered[covered < size]] = True
    return mask
