"""Span masks over time and channels."""

from __future__ import annotations

from collections.abc import Sequence

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


def trimmed(
    masks: Sequence[npt.NDArray[np.bool_]], generators: Sequence[np.random.Generator]
) -> npt.NDArray[np.bool_]:
    """Equally many masked frames in every row, as the reference has them.

    Rows with more keep a random subset, which cuts holes into their spans.

    Args:
        masks: `(T,)` bool of each utterance.
        generators: draws of each utterance.

    Returns:
        `(B, T)` bool.
    """
    result = np.stack(masks)
    least = int(result.sum(1).min())
    for row, rng in zip(result, generators, strict=True):
        _keep(row, least, rng)
    return result


def reference_masks(
    shape: tuple[int, int],
    sizes: Sequence[int] | None,
    config: MaskConfig,
    stream: np.random.RandomState,
) -> npt.NDArray[np.bool_]:
    """The masks of a batch as the released code draws them from NumPy's global stream.

    Static lengths; rows are trimmed to equally many masked frames.

    Args:
        shape: `(B, T)`.
        sizes: valid frames of each row; None when nothing is padded.
        config: probability, span length and least number of spans.
        stream: stands for the global stream, `RandomState(1234)` for `np.random.seed(1234)`.
    """
    rows, frames = shape
    common = _span_count(frames, config, stream)
    result = np.zeros(shape, dtype=bool)
    for row in range(rows):
        size = frames if sizes is None else sizes[row]
        spans = common if sizes is None else _span_count(size, config, stream)
        margin = config.length
        if size - margin <= spans:
            margin = size - spans - 1
        starts = stream.choice(size - margin, spans, replace=False)
        covered = (starts[:, None] + np.arange(config.length)).ravel()
        result[row, covered[covered < size]] = True
    least = int(result.sum(1).min())
    for row_mask in result:
        _keep(row_mask, least, stream)
    return result


def _span_count(size: int, config: MaskConfig, stream: np.random.RandomState) -> int:
    drawn = int(config.prob * size / config.length + stream.rand())
    return max(config.min_spans, drawn)


def _keep(
    mask: npt.NDArray[np.bool_], count: int, rng: np.random.Generator | np.random.RandomState
) -> None:
    """Leave a random `count` of the masked frames."""
    masked = np.flatnonzero(mask)
    if len(masked) > count:
        mask[:] = False
        mask[rng.choice(masked, count, replace=False)] = True
