"""Error measures of speaker verification from labels and scores of trials.

Throughout, `labels` is bool `(N,)`, True where both sides are the same speaker, and `scores` is
float `(N,)`, greater the more alike the sides are. A trial is accepted when its score is at least
the threshold. All functions are independent of the order of the trials, ties included.

Sources: NIST SRE evaluation plans (detection cost); Brümmer & du Preez 2006, "Application-
independent evaluation of speaker detection" (Cllr); EER as the point where the straight lines
between the points of the ROC meet the diagonal, as scikit-learn's ROC and a root search give it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression
from scipy.special import ndtri

from unispeech.errors import DataError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PRIORS = (0.01, 0.05)
"""Target probabilities at which detection costs are reported."""

POINTS = 0.005
"""Least distance of two visible points of a DET curve on its axes, in standard deviations."""


class Curve(NamedTuple):
    """Error rates at every threshold that matters.

    Attributes:
        thresholds: float64 `(K + 1,)`, descending: infinity, then every distinct score.
        false_alarm: share of non-targets accepted at each, ascending from 0 to 1.
        miss: share of targets rejected at each, descending from 1 to 0.
    """

    thresholds: FloatArray
    false_alarm: FloatArray
    miss: FloatArray


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[BoolArray, FloatArray]:
    """Labels and scores as arrays that can be evaluated.

    Raises:
        DataError: lengths differ, there is no trial or only one kind, or a score is not finite.
    """
    kinds = np.asarray(labels)
    values = np.asarray(scores, dtype=np.float64)
    if kinds.ndim != 1 or kinds.shape != values.shape:
        raise DataError(
            "labels and scores do not fit together",
            expected="one score for each label",
            found=f"{kinds.shape} labels and {values.shape} scores",
        )
    wrong = ~np.isin(kinds, (0, 1))
    if wrong.any():
        raise DataError("wrong label of a trial", expected="0 or 1", found=kinds[wrong][0])
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise DataError(
            "scores that are not finite",
            where=f"trial {int(np.flatnonzero(wrong)[0]) + 1}",
            found=f"{int(wrong.sum())} of {len(values)}",
            remedy="look for silent or damaged recordings",
        )
    kinds = kinds.astype(bool)
    targets = int(kinds.sum())
    if targets in (0, len(kinds)):
        raise DataError(
            "the trials are all of one kind",
            expected="trials of the same speaker and of different speakers",
            found=f"{targets} targets and {len(kinds) - targets} non-targets",
        )
    return kinds, values


def curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Curve:
    """False alarms and misses at every threshold.

    Raises:
        DataError: see `checked`.
    """
    kinds, values = checked(labels, scores)
    thresholds, places = np.unique(-values, return_inverse=True)
    counts = _counts(places, kinds, len(thresholds))
    return Curve(np.concatenate([[np.inf], -thresholds]), *_rates(*counts))


def visible_points(found: Curve) -> IntArray:
    """Numbers of the points of a curve that can be told apart on a DET plot, ascending.

    Args:
        found: the curve; points closer than `POINTS` along the curve are left out, not the ends.
    """
    # Half a trial at the ends, where the axes would be infinite.
    least = 0.25 * min(rates[rates > 0].min() for rates in (found.false_alarm, found.miss))
    axes = ndtri(np.clip(np.stack([found.false_alarm, found.miss]), least, 1 - least))
    travelled = np.concatenate([[0.0], np.abs(np.diff(axes, axis=1)).sum(axis=0).cumsum()])
    cells = np.floor(travelled / POINTS)
    kept = np.flatnonzero(np.diff(cells, prepend=-1.0, append=np.inf)[:-1])
    return np.union1d(kept, [len(cells) - 1])


def equal_error_rate(found: Curve) -> float:
    """The rate, in [0, 1], at which false alarms and misses are equally frequent."""
    return _crossing(found.false_alarm, found.miss)


def equal_error_threshold(found: Curve) -> float:
    """The greatest threshold at which false alarms are at least as frequent as misses."""
    return float(found.thresholds[np.argmax(found.false_alarm >= found.miss)])


def minimum_cost(
    found: Curve, prior: float, miss_cost: float = 1.0, false_alarm_cost: float = 1.0
) -> float:
    """minDCF: the least detection cost of any threshold, over that of the better blind decision.

    Args:
        found: the curve; rejecting all and accepting all are points of it, so that the result is
            at most 1.
        prior: probability of a target.
        miss_cost: cost of rejecting a target.
        false_alarm_cost: cost of accepting a non-target.
    """
    misses, alarms = miss_cost * prior, false_alarm_cost * (1 - prior)
    costs = misses * found.miss + alarms * found.false_alarm
    return float(costs.min() / min(misses, alarms))


def actual_cost(
    labels: npt.ArrayLike,
    log_ratios: npt.ArrayLike,
    prior: float,
    miss_cost: float = 1.0,
    false_alarm_cost: float = 1.0,
) -> float:
    """actDCF: the normalised detection cost of the Bayes decision.

    Args:
        labels: kinds of the trials.
        log_ratios: natural logarithms of likelihood ratios, not scores of any other kind.
        prior: probability of a target.
        miss_cost: cost of rejecting a target.
        false_alarm_cost: cost of accepting a non-target.

    Raises:
        DataError: see `checked`.
    """
    kinds, values = checked(labels, log_ratios)
    misses, alarms = miss_cost * prior, false_alarm_cost * (1 - prior)
    accepted = values >= math.log(alarms / misses)
    cost = misses * np.mean(~accepted[kinds]) + alarms * np.mean(accepted[~kinds])
    return float(cost / min(misses, alarms))


def cllr(labels: npt.ArrayLike, log_ratios: npt.ArrayLike) -> float:
    """Cllr in bits: 0 for certain and right log-likelihood ratios, 1 for ratios of 1.

    Raises:
        DataError: see `checked`.
    """
    return _cllr(*checked(labels, log_ratios))


def minimum_cllr(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Cllr in bits after the best non-decreasing calibration (pool adjacent violators).

    Raises:
        DataError: see `checked`.
    """
    kinds, values = checked(labels, scores)
    distinct, places = np.unique(values, return_inverse=True)
    targets, others = _counts(places, kinds, len(distinct))
    total = targets + others
    # Sums of many shares may leave [0, 1] by a rounding error.
    posterior = np.clip(isotonic_regression(targets / total, weights=total).x, 0.0, 1.0)
    with np.errstate(divide="ignore"):
        odds = np.log(posterior) - np.log1p(-posterior)
    return _cllr(kinds, (odds - math.log(targets.sum() / others.sum()))[places])


def speaker_pairs(enrollment: npt.ArrayLike, test: npt.ArrayLike) -> IntArray:
    """The number of the pair of speakers of each trial, int64 `(N,)`; sides may be exchanged.

    Args:
        enrollment: numbers of the speakers of the first side, int `(N,)`.
        test: of the second.
    """
    sides = np.sort(np.stack([enrollment, test]).astype(np.int64), axis=0)
    _, pairs = np.unique(sides[0] * (sides.max() + 1) + sides[1], return_inverse=True)
    return np.asarray(pairs, dtype=np.int64)


def bootstrap(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """95 % bootstrap interval of the equal error rate.

    Trials of the same two speakers succeed and fail together, so pairs of speakers are drawn with
    replacement, and each brings all its trials. Pairs with targets and pairs with non-targets are
    drawn apart, which keeps both kinds in every draw.

    Args:
        labels: kinds of the trials.
        scores: scores of the trials.
        groups: the pair of speakers of each trial, as `speaker_pairs` numbers them.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        DataError: see `checked`.
    """
    kinds, values = checked(labels, scores)
    pairs = np.asarray(groups, dtype=np.int64)
    thresholds, places = np.unique(-values, return_inverse=True)
    sides = []
    for mask in (kinds, ~kinds):
        _, members = np.unique(pairs[mask], return_inverse=True)
        order = np.argsort(places[mask], kind="stable")
        sides.append((places[mask][order], members[order], int(members.max()) + 1))
    rng = np.random.default_rng(seed)
    rates = np.empty(resamples)
    for draw in range(resamples):
        counts = []
        for where, members, number in sides:
            times = np.bincount(rng.integers(number, size=number), minlength=number)
            weights = times[members].astype(np.float64)
            counts.append(np.bincount(where, weights, len(thresholds)).astype(np.float64))
        rates[draw] = _crossing(*_rates(*counts))
    low, high = np.quantile(rates, (0.025, 0.975))
    return Interval(float(low), float(high))


def refuse_conflicts(
    enrollment: npt.ArrayLike,
    test: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str] | None = None,
) -> None:
    """Refuse a trial that is there twice with different scores or labels.

    One that is repeated as it is counts as often as the list has it.

    Args:
        enrollment: number of the first utterance, int `(N,)`.
        test: number of the second.
        labels: kinds of the trials.
        scores: scores of the trials.
        names: of the utterances, for the message.

    Raises:
        DataError: such trials, with their number and the first of them.
    """
    first, second = (np.asarray(side, dtype=np.int64) for side in (enrollment, test))
    if not len(first):
        return
    keys = first * (int(second.max()) + 1) + second
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    for what, values in (("scores", np.asarray(scores)), ("labels", np.asarray(labels))):
        differs = same & (values[order][1:] != values[order][:-1])
        if differs.any():
            one = int(order[1:][differs][0])
            sides = int(first[one]), int(second[one])
            title = " ".join(names[side] if names else str(side) for side in sides)
            raise DataError(
                f"the same trial with different {what}",
                where=f"trial {title}",
                found=f"{int(differs.sum())} such repetitions",
                remedy="keep one line for each trial",
            )


def summary(
    labels: npt.ArrayLike, scores: npt.ArrayLike, interval: Interval, is_calibrated: bool
) -> dict[str, Any]:
    """All measures as plain values for `metrics.json`; equal error rates in per cent.

    `actdcf` and `cllr` are None unless the scores are log-likelihood ratios: of other scores they
    say nothing.

    Args:
        labels: kinds of the trials.
        scores: scores of the trials.
        interval: of the equal error rate, from `bootstrap`.
        is_calibrated: whether the scores are log-likelihood ratios.

    Raises:
        DataError: see `checked`.
    """
    kinds, values = checked(labels, scores)
    found = curve(kinds, values)
    costs = {f"mindcf_{prior}": minimum_cost(found, prior) for prior in PRIORS}
    actual = {
        f"actdcf_{prior}": actual_cost(kinds, values, prior) if is_calibrated else None
        for prior in PRIORS
    }
    return {
        "eer": 100 * equal_error_rate(found),
        "eer_low": 100 * interval.low,
        "eer_high": 100 * interval.high,
        "eer_threshold": equal_error_threshold(found),
        **costs,
        **actual,
        "cllr": cllr(kinds, values) if is_calibrated else None,
        "min_cllr": minimum_cllr(kinds, values),
        "trials": len(kinds),
        "targets": int(kinds.sum()),
    }


def _counts(places: npt.NDArray[Any], kinds: BoolArray, size: int) -> tuple[FloatArray, FloatArray]:
    """Targets and non-targets at each of `size` distinct scores."""
    targets = np.bincount(places[kinds], minlength=size).astype(np.float64)
    return targets, np.bincount(places[~kinds], minlength=size).astype(np.float64)


def _rates(targets: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
    """False alarms and misses from counts at descending thresholds, the infinite one first."""
    accepted = np.concatenate([[0.0], np.cumsum(others)])
    found = np.concatenate([[0.0], np.cumsum(targets)])
    return accepted / accepted[-1], (found[-1] - found) / found[-1]


def _crossing(false_alarm: FloatArray, miss: FloatArray) -> float:
    k = int(np.argmax(false_alarm >= miss))
    if false_alarm[k] == miss[k]:
        return float(false_alarm[k])
    before = miss[k - 1] - false_alarm[k - 1]
    share = before / (before + false_alarm[k] - miss[k])
    return float(false_alarm[k - 1] + share * (false_alarm[k] - false_alarm[k - 1]))


def _cllr(kinds: BoolArray, log_ratios: FloatArray) -> float:
    targets = np.logaddexp(0.0, -log_ratios[kinds]).mean()
    others = np.logaddexp(0.0, log_ratios[~kinds]).mean()
    return float(0.5 * (targets + others) / math.log(2.0))
