"""Error measures of verification against scikit-learn, closed forms and written-out sums."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_curve

from unispeech.errors import DataError
from unispeech.score import trials

TEN = [0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1]

# Scores, labels, EER in per cent, minDCF at both priors: the recipe's definition, by hand.
EXAMPLES = [
    (TEN, [1, 1, 0, 1, 1, 0, 0, 1, 0, 0], 20.0, 0.6),
    ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0, 0.0),
    ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 100.0, 1.0),
    ([0.5] * 6, [1, 0, 1, 0, 0, 0], 50.0, 1.0),
    ([0.9, 0.6, 0.3, 0.8, 0.5, 0.4, 0.2, 0.1], [1, 1, 1, 0, 0, 0, 0, 0], 100 / 3, 2 / 3),
]

# Few distinct scores, so that ties are common.
pairs = st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=2, max_size=60).filter(
    lambda rows: len({kind for kind, _ in rows}) == 2
)


quick = settings(deadline=None, max_examples=50)


def split(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([kind for kind, _ in rows]), np.array([value / 4 for _, value in rows])


def drawn(count: int = 2000, seed: int = 0, gap: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    return labels, rng.standard_normal(count) + gap * labels


def peer_eer(labels: np.ndarray, scores: np.ndarray) -> float:
    false_alarm, found, _ = roc_curve(labels, scores, drop_intermediate=False)
    return brentq(lambda x: 1 - x - np.interp(x, false_alarm, found), 0.0, 1.0)


@pytest.mark.parametrize(("scores", "labels", "eer", "cost"), EXAMPLES)
def test_worked_examples(scores, labels, eer: float, cost: float) -> None:
    found = trials.curve(labels, scores)
    assert 100 * trials.equal_error_rate(found) == pytest.approx(eer, abs=1e-9)
    assert trials.minimum_cost(found, 0.01) == pytest.approx(cost, abs=1e-9)
    assert trials.minimum_cost(found, 0.05) == pytest.approx(cost, abs=1e-9)


@quick
@given(pairs)
def test_eer_is_where_scikit_learns_roc_crosses_the_diagonal(rows) -> None:
    labels, scores = split(rows)
    false_alarm, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    # Every step of the ROC goes right or up, so that this difference grows strictly.
    expected = np.interp(0.0, false_alarm - (1 - hits), false_alarm)
    found = trials.equal_error_rate(trials.curve(labels, scores))
    assert found == pytest.approx(expected, abs=1e-9)


def test_eer_and_cost_of_many_scores() -> None:
    labels, scores = drawn()
    found = trials.curve(labels, scores)
    assert trials.equal_error_rate(found) == pytest.approx(peer_eer(labels, scores), abs=1e-9)
    false_alarm, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    for prior in trials.PRIORS:
        peer = np.min(prior * (1 - hits) + (1 - prior) * false_alarm) / min(prior, 1 - prior)
        assert trials.minimum_cost(found, prior) == pytest.approx(peer, abs=1e-12)


@quick
@given(pairs, st.floats(0.001, 0.999), st.floats(0.1, 10), st.floats(0.1, 10))
def test_costs_by_counting_at_every_threshold(rows, prior, miss_cost, alarm_cost) -> None:
    labels, scores = split(rows)
    misses, alarms = miss_cost * prior, alarm_cost * (1 - prior)
    costs = [
        misses * np.mean(scores[labels] < t) + alarms * np.mean(scores[~labels] >= t)
        for t in [*scores, math.inf]
    ]
    found = trials.minimum_cost(trials.curve(labels, scores), prior, miss_cost, alarm_cost)
    assert found == pytest.approx(min(costs) / min(misses, alarms), abs=1e-9)
    assert found <= 1 + 1e-9
    actual = trials.actual_cost(labels, scores, prior, miss_cost, alarm_cost)
    assert actual >= found - 1e-9


@quick
@given(pairs, st.randoms(use_true_random=False))
def test_order_and_monotone_maps_change_nothing(rows, random) -> None:
    labels, scores = split(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    other_labels, other = split(shuffled)
    for measure in (
        lambda k, s: trials.equal_error_rate(trials.curve(k, s)),
        lambda k, s: trials.minimum_cost(trials.curve(k, s), 0.05),
        trials.minimum_cllr,
    ):
        first = measure(labels, scores)
        assert measure(other_labels, other) == pytest.approx(first, abs=1e-12)
        assert measure(labels, np.exp(scores) * 3 - 7) == pytest.approx(first, abs=1e-12)


@quick
@given(pairs)
def test_swapped_kinds_and_signs_give_the_same_eer(rows) -> None:
    labels, scores = split(rows)
    first = trials.equal_error_rate(trials.curve(labels, scores))
    again = trials.equal_error_rate(trials.curve(~labels, -scores))
    assert again == pytest.approx(first, abs=1e-12)


def test_the_threshold_of_the_eer_has_its_rates() -> None:
    labels, scores = drawn()
    found = trials.curve(labels, scores)
    threshold = trials.equal_error_threshold(found)
    rate = trials.equal_error_rate(found)
    assert np.mean(scores[labels] < threshold) == pytest.approx(rate, abs=2e-3)
    assert np.mean(scores[~labels] >= threshold) == pytest.approx(rate, abs=2e-3)


def test_actual_cost_of_the_bayes_decision() -> None:
    labels = [True, True, False, False]
    # The threshold at 0.01 is log 99 = 4.595.
    ratios = [4.7, 4.5, 4.6, -1.0]
    assert trials.actual_cost(labels, ratios, 0.01) == pytest.approx(0.5 + 99 * 0.5)
    assert trials.actual_cost(labels, [5, 5, 0, 0], 0.01) == 0
    assert trials.actual_cost(labels, [0, 0, 0, 0], 0.01) == 1


def test_cllr_of_known_ratios() -> None:
    assert trials.cllr([1, 0], [0.0, 0.0]) == pytest.approx(1.0)
    assert trials.cllr([1, 0], [math.log(3), -math.log(3)]) == pytest.approx(math.log2(4 / 3))
    # Far too sure: the naive exponential overflows.
    assert trials.cllr([1, 0], [-2000.0, 2000.0]) == pytest.approx(2000 / math.log(2))
    assert trials.cllr([1, 0], [2000.0, -2000.0]) == 0


@quick
@given(pairs)
def test_minimum_cllr_is_that_of_isotonic_regression(rows) -> None:
    labels, scores = split(rows)
    posterior = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, labels)
    with np.errstate(divide="ignore"):
        ratios = np.log(posterior) - np.log1p(-posterior) - math.log(labels.sum() / (~labels).sum())
    targets = np.mean(np.log2(1 + np.exp(-ratios[labels])))
    others = np.mean(np.log2(1 + np.exp(ratios[~labels])))
    expected = (targets + others) / 2
    found = trials.minimum_cllr(labels, scores)
    assert found == pytest.approx(expected, abs=1e-9)
    assert found <= trials.cllr(labels, scores) + 1e-9
    assert -1e-12 <= found <= 1 + 1e-9


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([1, 0], [0.5, math.nan], "not finite"),
        ([1, 0], [0.5, math.inf], "not finite"),
        ([1, 1], [0.5, 0.4], "all of one kind"),
        ([0, 0], [0.5, 0.4], "all of one kind"),
        ([], [], "all of one kind"),
        ([1, 0], [0.5], "do not fit together"),
        ([1, 2], [0.5, 0.4], "wrong label"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(labels, scores, words: str) -> None:
    for measure in (trials.curve, trials.cllr, trials.minimum_cllr):
        with pytest.raises(DataError, match=words):
            measure(labels, scores)
    with pytest.raises(DataError, match=words):
        trials.actual_cost(labels, scores, 0.01)


def test_repeated_trials() -> None:
    first, second = [0, 0, 1, 0], [1, 2, 2, 1]
    trials.refuse_conflicts(first, second, [1, 0, 0, 1], [0.5, 0.1, 0.2, 0.5])
    with pytest.raises(DataError, match=r"trial a b: the same trial with different scores.*1 such"):
        trials.refuse_conflicts(first, second, [1, 0, 0, 1], [0.5, 0.1, 0.2, 0.4], ["a", "b", "c"])
    with pytest.raises(DataError, match="different labels"):
        trials.refuse_conflicts(first, second, [1, 0, 0, 0], [0.5, 0.1, 0.2, 0.5])
    # The other way round is another trial.
    trials.refuse_conflicts([0, 1], [1, 0], [1, 1], [0.5, 0.4])


def test_pairs_of_speakers_do_not_depend_on_the_side() -> None:
    found = trials.speaker_pairs([3, 0, 1, 3, 2], [0, 3, 1, 3, 0])
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 4


def test_the_interval_of_independent_trials_is_the_binomial_one() -> None:
    """Each trial its own pair: the EER spreads as the delta rule says."""
    count = 4000
    rng = np.random.default_rng(1)
    labels = np.arange(count) % 2 == 0
    gap = 2.0
    scores = rng.standard_normal(count) + gap * labels
    low, high = trials.bootstrap(labels, scores, np.arange(count), 400, seed=3)
    rate = 0.5 * math.erfc(gap / 2 / math.sqrt(2))
    # At equal densities the crossing moves by the mean of both sides' binomial errors.
    deviation = math.sqrt(2 * rate * (1 - rate) / (count / 2)) / 2
    assert (high - low) / (2 * 1.96 * deviation) == pytest.approx(1.0, abs=0.15)
    assert low < trials.equal_error_rate(trials.curve(labels, scores)) < high


def test_repeating_every_trial_leaves_the_interval_of_pairs() -> None:
    labels, scores = drawn(300)
    groups = np.arange(300) // 3 + 1000 * labels
    once = trials.bootstrap(labels, scores, groups, 100, seed=2)
    four = (np.tile(values, 4) for values in (labels, scores, groups))
    assert trials.bootstrap(*four, 100, seed=2) == pytest.approx(once)
    single = trials.bootstrap(labels, scores, np.arange(300), 100, seed=2)
    assert single != once


def test_summary_of_scores_that_are_no_ratios() -> None:
    labels, scores = drawn()
    found = trials.summary(labels, scores, trials.Interval(0.1, 0.3), is_calibrated=False)
    assert found["eer"] == pytest.approx(100 * peer_eer(labels, scores))
    assert (found["eer_low"], found["eer_high"]) == pytest.approx((10, 30))
    assert found["cllr"] is None
    assert found["actdcf_0.01"] is None
    assert (found["trials"], found["targets"]) == (len(labels), int(labels.sum()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrated = trials.summary(labels, scores, trials.Interval(0, 1), is_calibrated=True)
    assert calibrated["min_cllr"] <= calibrated["cllr"]
