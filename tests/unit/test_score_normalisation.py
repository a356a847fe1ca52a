"""Cosines, AS-norm and calibration against written-out loops, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from unispeech.errors import DataError
from unispeech.score import calibration, normalisation
from unispeech.score.trials import cllr, curve, equal_error_rate


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(normalisation, "TRIALS_AT_ONCE", 7)
    monkeypatch.setattr(normalisation, "ROWS_AT_ONCE", 7)


def some_trials(count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 40, count), rng.integers(0, 40, count)


@pytest.mark.usefixtures("small_blocks")
def test_cosines_are_scikit_learns(rows) -> None:
    left, right = some_trials()
    mean = normalisation.mean_embedding(rows)
    plain = normalisation.cosine_scores(rows, left, right)
    np.testing.assert_allclose(plain, cosine_similarity(rows)[left, right], atol=1e-6)
    centred = normalisation.cosine_scores(rows, left, right, mean)
    wide = rows.astype(np.float64)
    expected = cosine_similarity(wide - wide.mean(0))[left, right]
    np.testing.assert_allclose(centred, expected, atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("top", [2, 3, 5, 300])
def test_as_norm_by_the_formula(rows, top: int) -> None:
    left, right = some_trials()
    rng = np.random.default_rng(1)
    others = rng.standard_normal((30, 6)) + 1
    speakers = np.array([f"s{k % 5}" for k in range(30)])
    mean = others.mean(0)
    cohort = normalisation.cohort_vectors(others, speakers, mean)
    assert cohort.shape == (5, 6)
    np.testing.assert_allclose(cohort[3], others[3::5].mean(0) - mean)
    scores = normalisation.cosine_scores(rows, left, right, mean)
    statistics = normalisation.cohort_statistics(rows, cohort, top, mean)
    found = normalisation.as_norm(scores, left, right, statistics)
    similar = cosine_similarity(rows - mean, cohort)
    for score, e, t, normalised in zip(scores, left, right, found, strict=True):
        expected = 0.0
        for side in (e, t):
            closest = sorted(similar[side], reverse=True)[:top]
            middle = sum(closest) / len(closest)
            spread = (sum((c - middle) ** 2 for c in closest) / len(closest)) ** 0.5
            expected += 0.5 * (score - middle) / spread
        assert normalised == pytest.approx(expected, abs=1e-9)


def test_as_norm_is_symmetric_and_survives_equal_speakers(rows) -> None:
    left, right = some_trials()
    same = np.tile(np.ones(6), (4, 1))
    statistics = normalisation.cohort_statistics(rows, same, 3)
    scores = normalisation.cosine_scores(rows, left, right)
    found = normalisation.as_norm(scores, left, right, statistics)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, normalisation.as_norm(scores, right, left, statistics))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_embedding_without_direction_is_named(rows, value: float) -> None:
    rows[17] = value
    names = [f"u{k}" for k in range(40)]
    with pytest.raises(DataError, match="utterance u17: an embedding without direction"):
        normalisation.norms(rows, None, names)
    with pytest.raises(DataError, match="without direction"):
        normalisation.cosine_scores(rows, np.array([0]), np.array([1]))


def test_cohorts_that_have_no_spread_are_refused(rows) -> None:
    with pytest.raises(DataError, match="too small a cohort"):
        normalisation.cohort_vectors(rows, ["one"] * 40)
    with pytest.raises(DataError, match="too few speakers"):
        normalisation.cohort_statistics(rows, rows[:5].astype(np.float64), 1)


def gaussian(count: int = 4000, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.random(count) < 0.2
    return labels, 0.1 * (rng.standard_normal(count) + gap * labels) + 0.3


def only(scores: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    none = np.zeros(len(scores), dtype=np.int64)
    return calibration.trial_measures(scores, none, none, {})


def test_calibration_is_scikit_learns_balanced_regression() -> None:
    labels, scores = gaussian()
    found = calibration.fit(labels, *only(scores))
    peer = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-10, max_iter=1000)
    peer.fit(scores[:, None], labels)
    expected = peer.decision_function(scores[:, None])
    np.testing.assert_allclose(found.apply(*only(scores)), expected, atol=2e-3)


def test_calibration_of_normal_scores_is_linear_discriminant() -> None:
    """Normals of equal spread a step apart: slope gap/sigma, zero half way."""
    labels, scores = gaussian(200_000)
    found = calibration.fit(labels, *only(scores))
    assert found.weights[0] == pytest.approx(2.0 / 0.1, rel=0.03)
    assert -found.bias / found.weights[0] == pytest.approx(0.4, abs=0.003)


def test_calibration_does_not_change_the_order_and_lowers_cllr() -> None:
    labels, scores = gaussian()
    ratios = calibration.fit(labels, *only(scores)).apply(*only(scores))
    first = equal_error_rate(curve(labels, scores))
    assert equal_error_rate(curve(labels, ratios)) == pytest.approx(first, abs=1e-12)
    for change in (1.05, 0.95):
        assert cllr(labels, ratios) <= cllr(labels, ratios * change)
    for change in (0.1, -0.1):
        assert cllr(labels, ratios) <= cllr(labels, ratios + change)


def test_kinds_that_can_be_told_apart_give_finite_weights() -> None:
    labels = np.arange(20) < 10
    scores = np.where(labels, 0.9, 0.1)
    found = calibration.fit(labels, *only(scores))
    ratios = found.apply(*only(scores))
    assert np.isfinite(ratios).all()
    assert 0 <= cllr(labels, ratios) < 1e-3
    assert calibration.probability(ratios)[[0, -1]] == pytest.approx([1, 0], abs=1e-3)


def qualities(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    return {
        "duration": rng.uniform(1, 40, count),
        "norm": rng.uniform(1, 3, count),
        "cohort": rng.normal(0, 0.1, count),
    }


def test_measures_of_both_sides() -> None:
    values = {
        "duration": np.array([2.0, 30.0, 8.0]),
        "norm": np.array([1.0, 4.0, 2.0]),
        "cohort": np.array([-0.1, 0.2, 0.0]),
    }
    left, right = np.array([0, 2]), np.array([1, 0])
    names, columns = calibration.trial_measures(np.array([0.5, 0.6]), left, right, values)
    expected = {
        "score": [0.5, 0.6], "duration_min": [2, 2], "duration_max": [20, 8],
        "duration_difference": [18, 6], "duration_ratio": [10, 4], "norm_min": [1, 1],
        "norm_max": [4, 2], "norm_difference": [3, 1], "norm_ratio": [4, 2],
        "cohort_min": [-0.1, -0.1], "cohort_max": [0.2, 0.0], "cohort_difference": [0.3, 0.1],
    }  # fmt: skip
    assert names == tuple(expected)
    np.testing.assert_allclose(columns.T, list(expected.values()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_monotone_in_the_score_and_symmetric_in_the_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(200) % 3 == 0
    scores = rng.standard_normal(200) + 2 * labels
    left, right = rng.integers(0, 30, (2, 200))
    values = qualities(30)
    names, columns = calibration.trial_measures(scores, left, right, values)
    found = calibration.fit(labels, names, columns)
    ratios = found.apply(names, columns)
    higher = calibration.trial_measures(scores + 0.1, left, right, values)
    assert (found.apply(*higher) > ratios).all()
    swapped = calibration.trial_measures(scores, right, left, values)
    np.testing.assert_allclose(found.apply(*swapped), ratios)


def test_quality_helps_where_it_decides() -> None:
    """Short recordings whose scores are all lower: the threshold has to follow the duration."""
    rng = np.random.default_rng(4)
    durations = np.where(np.arange(400) % 2 == 0, 2.0, 18.0)
    left, right = rng.integers(0, 400, (2, 5000))
    labels = rng.random(5000) < 0.5
    lowest = np.minimum(durations[left], durations[right])
    scores = rng.standard_normal(5000) + 2 * labels + 0.2 * lowest
    names, columns = calibration.trial_measures(scores, left, right, {"duration": durations})
    ratios = calibration.fit(labels, names, columns).apply(names, columns)
    before = equal_error_rate(curve(labels, scores))
    assert equal_error_rate(curve(labels, ratios)) < before - 0.05


def test_calibrations_that_cannot_be_are_refused() -> None:
    labels, scores = gaussian(200)
    with pytest.raises(DataError, match="do not mean the same speaker"):
        calibration.fit(labels, *only(-scores))
    with pytest.raises(DataError, match="all of one kind"):
        calibration.fit(labels[:5] * 0, *only(scores[:5]))
    side = np.array([0])
    with pytest.raises(DataError, match="duration is not positive"):
        calibration.trial_measures(np.ones(1), side, side, {"duration": np.zeros(1)})
    with pytest.raises(DataError, match="norm is not finite"):
        calibration.trial_measures(np.ones(1), side, side, {"norm": np.array([np.nan])})
    found = calibration.fit(labels, *only(scores))
    measures = calibration.trial_measures(scores[:1], side, side, {"norm": np.ones(1)})
    with pytest.raises(DataError, match="trained on other measures"):
        found.apply(*measures)
    with pytest.raises(ValueError, match="positive"):
        calibration.Calibration(measures=("score",), weights=(-1.0,), bias=0.0)


def test_probability_at_another_prior() -> None:
    assert calibration.probability(0.0, 0.01) == pytest.approx(0.01)
    assert calibration.probability(np.log(99), 0.01) == pytest.approx(0.5)
    assert calibration.probability([-1e4, 1e4]).tolist() == [0, 1]
