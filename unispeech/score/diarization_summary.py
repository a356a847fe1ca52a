"""Diarization errors of several recordings: pooled, by number of speakers, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.errors import DataError
from unispeech.score.diarization import Errors, Recording

FloatArray = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


class Comparison(NamedTuple):
    """Two systems on the same recordings.

    Attributes:
        difference: rate of the other system minus rate of the first, as a share.
        low, high: 95 % bootstrap interval of the difference.
        probability_of_improvement: share of draws in which the other system is better.
    """

    difference: float
    low: float
    high: float
    probability_of_improvement: float


def total(recordings: Iterable[Recording]) -> Errors:
    """The errors of several recordings together, by time."""
    columns = zip(*(one.errors for one in recordings), strict=True)
    return Errors(*(math.fsum(column) for column in columns))


def jaccard_error(recordings: Iterable[Recording]) -> float | None:
    """JER: the mean over all speakers of the references, in [0, 1]; None where there are none."""
    errors = [error for one in recordings for error in one.jaccard]
    return math.fsum(errors) / len(errors) if errors else None


def count_table(recordings: Iterable[Recording]) -> dict[int, dict[int, int]]:
    """Number of speakers in the reference -> number in the hypothesis -> recordings."""
    table: dict[int, dict[int, int]] = {}
    for one in sorted(recordings, key=lambda one: (one.speakers, one.found)):
        row = table.setdefault(one.speakers, {})
        row[one.found] = row.get(one.found, 0) + 1
    return table


def bootstrap(
    recordings: Sequence[Recording], resamples: int = 1000, seed: int = 0
) -> Interval | None:
    """95 % bootstrap interval of DER over recordings, as shares.

    Args:
        recordings: drawn with replacement, each with all its time.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        None for fewer than two recordings: one says nothing of how others would be.
    """
    if len(recordings) < 2:
        return None
    rates = _draw(np.array([_sums(one) for one in recordings]), resamples, seed)
    low, high = np.nanquantile(rates, (0.025, 0.975))
    return Interval(float(low), float(high))


def compare(
    first: Mapping[str, Recording],
    other: Mapping[str, Recording],
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap of two systems: the same recordings are drawn for both.

    Raises:
        DataError: the systems were scored on different recordings or by different rules.
    """
    if first.keys() != other.keys():
        wrong = sorted(first.keys() ^ other.keys())[0]
        raise DataError(
            "the two systems were scored on different recordings", where=f"recording {wrong}"
        )
    one, two = (np.array([_sums(system[name]) for name in first]) for system in (first, other))
    if not np.allclose(one[:, 0], two[:, 0], rtol=0, atol=1e-6):
        wrong = list(first)[int(np.argmax(np.abs(one[:, 0] - two[:, 0])))]
        raise DataError(
            "the two systems were scored by different rules",
            where=f"recording {wrong}",
            expected="the same reference, regions, collar and overlaps",
            remedy="score both with the same options",
        )
    gain = np.stack([one[:, 0], two[:, 1] - one[:, 1]], axis=1)
    rates = _draw(gain, resamples, seed)
    low, high = np.nanquantile(rates, (0.025, 0.975))
    difference = float(gain[:, 1].sum() / gain[:, 0].sum())
    return Comparison(difference, float(low), float(high), float(np.mean(rates < 0)))


def summary(
    recordings: Sequence[Recording], resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """All measures as plain values for `metrics.json`, in per cent of the scored time.

    `by_speakers` has the same for the recordings of each number of speakers in the reference,
    `counts` is `count_table`, `right_counts` the per cent of recordings whose number of speakers
    is right. Where nothing is scored, rates are None.
    """
    numbers = sorted({one.speakers for one in recordings})
    parts = {n: [one for one in recordings if one.speakers == n] for n in numbers}
    table = count_table(recordings)
    right = sum(row.get(number, 0) for number, row in table.items())
    return {
        **_measures(recordings, resamples, seed),
        "by_speakers": {str(n): _measures(part, resamples, seed) for n, part in parts.items()},
        "counts": {str(n): {str(k): v for k, v in row.items()} for n, row in table.items()},
        "right_counts": 100 * right / len(recordings) if recordings else None,
    }


def _measures(recordings: Sequence[Recording], resamples: int, seed: int) -> dict[str, Any]:
    errors = total(recordings)
    interval = bootstrap(recordings, resamples, seed) if errors.scored > 0 else None
    jaccard = jaccard_error(recordings)

    def percent(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else 100 * value

    def share(seconds: float) -> float | None:
        return percent(seconds / errors.scored) if errors.scored > 0 else None

    return {
        "der": percent(errors.rate),
        "der_low": percent(interval.low) if interval else None,
        "der_high": percent(interval.high) if interval else None,
        "miss": share(errors.miss),
        "false_alarm": share(errors.false_alarm),
        "confusion": share(errors.confusion),
        "jer": percent(jaccard),
        "scored_seconds": round(errors.scored, 6),
        "recordings": len(recordings),
    }


def _sums(recording: Recording) -> tuple[float, float]:
    errors = recording.errors
    return errors.scored, errors.miss + errors.false_alarm + errors.confusion


def _draw(sums: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Errors over scored time in draws of recordings; NaN in a draw without scored time."""
    rng = np.random.default_rng(seed)
    size = len(sums)
    rates = np.full(resamples, np.nan)
    for draw in range(resamples):
        scored, errors = np.bincount(rng.integers(size, size=size), minlength=size) @ sums
        if scored > 0:
            rates[draw] = errors / scored
    return rates
