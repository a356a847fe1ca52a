"""Utterance mixing: energies, spans and labels' owner."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.data.config import MixingConfig
from unispeech.data.mixing import apply_mixes, draw_mixes, draw_reference_mixes, mix_batch


def waves(rows: int, samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.05, 0.5, (rows, 1))
    return (scale * rng.standard_normal((rows, samples))).astype(np.float32)


def test_probability_zero_changes_nothing() -> None:
    batch = waves(4, 100)
    mix_batch(batch, MixingConfig(prob=0.0), 0)
    np.testing.assert_array_equal(batch, waves(4, 100))


def test_share_of_mixed_rows() -> None:
    rng = np.random.default_rng(0)
    count = sum(len(draw_mixes(10, 50, MixingConfig(), rng)) for _ in range(1000))
    assert count / 10000 == pytest.approx(0.2, abs=0.015)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-5, 5), st.booleans())
def test_ratio_span_and_source(seed: int, snr: float, with_noise: bool) -> None:
    """What was added is a scaled piece of one other original, at most half as long."""
    before = waves(3, 400, seed)
    batch = before.copy()
    noise = [waves(1, 300, seed + 1)[0]] if with_noise else []
    config = MixingConfig(prob=1.0, snr=(snr, snr), noise_snr=(snr, snr), noise_prob=1.0)
    mixed: list[int] = []
    mix_batch(batch, config, seed, noise, mixed.append)
    assert mixed == [0, 1, 2]
    for row in range(3):
        added = batch[row].astype(np.float64) - before[row]
        touched = np.flatnonzero(np.abs(added) > 1e-7)
        if len(touched) < 20:
            continue
        first, last = touched[0], touched[-1] + 1
        assert last - first <= 200
        piece = added[first:last]
        others = noise or [before[i] for i in range(3) if i != row]
        gains = [_gain(piece, source.astype(np.float64)) for source in others]
        source, gain = next((s, g) for s, g in zip(others, gains, strict=True) if g is not None)
        power = np.square(before[row], dtype=np.float64).mean()
        ratio = power / (gain**2 * np.square(source, dtype=np.float64).mean())
        assert 10 * np.log10(ratio) == pytest.approx(snr, abs=0.05)


def _gain(piece: np.ndarray, source: np.ndarray) -> float | None:
    """The factor g for which `piece` is g times some stretch of `source`."""
    windows = np.lib.stride_tricks.sliding_window_view(source, len(piece))
    gains = windows @ piece / np.square(windows).sum(1)
    errors = np.abs(windows * gains[:, None] - piece).max(1)
    best = int(errors.argmin())
    return float(gains[best]) if errors[best] < 1e-4 else None


def test_a_single_utterance_is_never_mixed_with_itself() -> None:
    assert draw_mixes(1, 100, MixingConfig(prob=1.0), np.random.default_rng(0)) == []


def test_silence_mixes_in_nothing() -> None:
    batch = waves(2, 100)
    batch[1] = 0
    mix_batch(batch, MixingConfig(prob=1.0), 0)
    np.testing.assert_array_equal(batch[0], waves(2, 100)[0])
    np.testing.assert_array_equal(batch[1], 0)


def test_reference_stream_gives_the_references_mixes() -> None:
    """The specification's golden: seed 2024, sinusoids, every row mixed, no normalisation."""
    time = np.arange(1000)
    rows = [0.1 * (k + 1) * np.sin(0.01 * (k + 1) * time) for k in range(4)]
    before = np.stack(rows).astype(np.float32)
    batch = before.copy()
    config = MixingConfig(prob=1.0)
    mixes = draw_reference_mixes(4, 1000, config, np.random.RandomState(2024))
    apply_mixes(batch, mixes, is_sequential=True)
    spans = [np.flatnonzero(batch[row] != before[row])[[0, -1]].tolist() for row in range(4)]
    assert spans == [[548, 675], [74, 389], [247, 404], [39, 322]]
    sums = [13.261444, 5.532266, 17.350832, 15.269183]
    squares = [6.089723, 13.510092, 56.852585, 78.272552]
    np.testing.assert_allclose(batch.sum(1, dtype=np.float64), sums, atol=2e-5)
    np.testing.assert_allclose(np.square(batch, dtype=np.float64).sum(1), squares, atol=2e-5)
