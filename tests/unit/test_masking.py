"""Span masks: counts, laws and the specification's masked fractions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.models.config import MaskConfig
from unispeech.models.masking import reference_masks, span_mask


@pytest.mark.parametrize(
    ("prob", "fraction"), [(0.5, 0.403), (0.65, 0.490), (0.75, 0.543), (0.8, 0.568)]
)
def test_masked_fraction_is_the_references(prob: float, fraction: float) -> None:
    config = MaskConfig(prob=prob, length=10, min_spans=2)
    masks = [span_mask(500, config, np.random.default_rng(seed)) for seed in range(400)]
    assert np.mean(masks) == pytest.approx(fraction, abs=0.006)


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(0, 120),
    extra=st.integers(0, 30),
    prob=st.floats(0, 1),
    length=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_laws(size: int, extra: int, prob: float, length: int, seed: int) -> None:
    config = MaskConfig(prob=prob, length=length, min_spans=2)
    mask = span_mask(size, config, np.random.default_rng(seed), size + extra)
    again = span_mask(size, config, np.random.default_rng(seed), size + extra)
    assert mask.shape == (size + extra,)
    assert (mask == again).all()
    assert not mask[size:].any()
    if size >= 2:
        assert mask.any()
    # Every run is a union of whole spans, except where the utterance cuts the last one.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    for begin, end in edges.reshape(-1, 2):
        assert end - begin >= length or end == size


def test_mean_number_of_spans_is_exact() -> None:
    # Length 1 and distinct starts: the number of masked positions is the number of spans.
    config = MaskConfig(prob=0.33, length=1, min_spans=0)
    counts = [span_mask(10, config, np.random.default_rng(s)).sum() for s in range(4000)]
    assert set(counts) == {3, 4}
    assert np.mean(counts) == pytest.approx(3.3, abs=0.03)


def test_reference_stream_gives_the_references_masks() -> None:
    """The specification's goldens A, B and C (`np.random.seed`, static lengths)."""
    config = MaskConfig(prob=0.65)
    masks = reference_masks((2, 50), None, config, np.random.RandomState(1234))
    rows = [np.flatnonzero(mask).tolist() for mask in masks]
    assert rows[0] == [*range(8, 15), *range(16, 26), *range(27, 31)]
    assert rows[1] == [*range(11), *range(22, 32)]

    config = MaskConfig(prob=0.8)
    masks = reference_masks((2, 50), (50, 30), config, np.random.RandomState(1234))
    rows = [np.flatnonzero(mask).tolist() for mask in masks]
    assert rows[0] == [8, 12, 15, 19, 21, 22, 23, 24, 25, 27, 28]
    assert rows[1] == list(range(2, 13))

    config = MaskConfig(prob=0.25, length=64, min_spans=0)
    masks = reference_masks((2, 768), None, config, np.random.RandomState(7))
    assert masks.sum(1).tolist() == [146, 146]
    assert np.flatnonzero(masks[1]).tolist() == list(range(584, 730))
    starts = np.flatnonzero(np.diff(np.concatenate([[0], masks[0].astype(int)])) == 1)
    assert len(starts) == 28
    assert starts[0] == 270
