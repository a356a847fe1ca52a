"""Cosine scores of trials and their adaptive symmetric normalisation (AS-norm).

Embeddings are float `(N, D)` with one row for each utterance, computed once; trials name rows.
Work is done in blocks, so that memory does not grow with the number of trials or of utterances.

Source: Matejka et al. 2017, "Analysis of score normalization in multilingual speaker recognition":
each side is normalised by its own closest speakers of the cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.errors import DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Embeddings = npt.NDArray[np.floating]

LEAST_DEVIATION = 1e-8
"""The standard deviation of a cohort is never taken to be less."""

TRIALS_AT_ONCE = 16384
ROWS_AT_ONCE = 512


class CohortStatistics(NamedTuple):
    """How close utterances are to the speakers of the cohort that are closest to them.

    Attributes:
        mean: of the highest cosines, float64 `(N,)`.
        deviation: their population standard deviation, float64 `(N,)`.
    """

    mean: FloatArray
    deviation: FloatArray


def mean_embedding(embeddings: Embeddings) -> FloatArray:
    """The mean over utterances, float64 `(D,)`."""
    return np.asarray(embeddings.mean(axis=0, dtype=np.float64))


def norms(
    embeddings: Embeddings, mean: FloatArray | None = None, names: Sequence[str] | None = None
) -> FloatArray:
    """Euclidean norms after subtraction of `mean` `(D,)`, float64 `(N,)`.

    Args:
        embeddings: `(N, D)`.
        mean: what is subtracted first.
        names: of the utterances, for the message.

    Raises:
        DataError: an embedding is zero or not finite, so that it has no direction.
    """
    found = np.empty(len(embeddings))
    for start in range(0, len(embeddings), TRIALS_AT_ONCE):
        rows = slice(start, start + TRIALS_AT_ONCE)
        found[rows] = np.linalg.norm(_centred(embeddings[rows], mean), axis=1)
    wrong = ~np.isfinite(found) | (found == 0)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            "an embedding without direction",
            where=f"utterance {names[first] if names else first}",
            found=f"norm {found[first]:g}, and {int(wrong.sum()) - 1} more such",
            remedy="look for silent or damaged recordings",
        )
    return found


def cosine_scores(
    embeddings: Embeddings,
    enrollment: IntArray,
    test: IntArray,
    mean: FloatArray | None = None,
) -> FloatArray:
    """Cosines between the two sides of each trial, float64 `(trials,)`.

    Args:
        embeddings: `(N, D)`.
        enrollment: rows of the first sides, int64 `(trials,)`.
        test: rows of the second sides.
        mean: what is subtracted first, `(D,)`.

    Raises:
        DataError: an embedding is zero or not finite.
    """
    lengths = norms(embeddings, mean)
    scores = np.empty(len(enrollment))
    for start in range(0, len(enrollment), TRIALS_AT_ONCE):
        block = slice(start, start + TRIALS_AT_ONCE)
        left, right = enrollment[block], test[block]
        sides = _centred(embeddings[left], mean), _centred(embeddings[right], mean)
        scores[block] = np.einsum("nd,nd->n", *sides) / (lengths[left] * lengths[right])
    return scores


def cohort_vectors(
    embeddings: Embeddings, speakers: npt.ArrayLike, mean: FloatArray | None = None
) -> FloatArray:
    """One vector for each speaker: the mean of its embeddings, float64 `(S, D)`.

    Args:
        embeddings: `(N, D)` of the cohort's utterances.
        speakers: name or number of the speaker of each, `(N,)`.
        mean: what is subtracted first, `(D,)`.

    Raises:
        DataError: fewer than two speakers.
    """
    names, places = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) < 2:
        raise DataError("too small a cohort", expected="two speakers or more", found=len(names))
    sums = np.zeros((len(names), embeddings.shape[1]))
    for start in range(0, len(embeddings), TRIALS_AT_ONCE):
        rows = slice(start, start + TRIALS_AT_ONCE)
        np.add.at(sums, places[rows], _centred(embeddings[rows], mean))
    return sums / np.bincount(places)[:, None]


def cohort_statistics(
    embeddings: Embeddings, cohort: FloatArray, top: int = 300, mean: FloatArray | None = None
) -> CohortStatistics:
    """Mean and deviation of the `top` highest cosines between each utterance and the cohort.

    Args:
        embeddings: `(N, D)`.
        cohort: `(S, D)`, from `cohort_vectors`; `mean` is already subtracted from them.
        top: how many of the closest speakers; all of them where there are fewer.
        mean: what is subtracted from the embeddings first, `(D,)`.

    Raises:
        DataError: an embedding is zero or not finite, or `top` is less than 2.
    """
    if top < 2:
        raise DataError("too few speakers of the cohort", expected="a top of 2 or more", found=top)
    lengths = norms(embeddings, mean)
    against = (cohort / norms(cohort)[:, None]).T
    count = min(top, len(cohort))
    found = CohortStatistics(np.empty(len(embeddings)), np.empty(len(embeddings)))
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        cosines = (_centred(embeddings[rows], mean) @ against) / lengths[rows, None]
        highest = np.partition(cosines, len(cohort) - count, axis=1)[:, len(cohort) - count :]
        found.mean[rows] = highest.mean(axis=1)
        found.deviation[rows] = highest.std(axis=1)
    return found


def as_norm(
    scores: FloatArray, enrollment: IntArray, test: IntArray, statistics: CohortStatistics
) -> FloatArray:
    """Scores normalised by both sides' cohorts, averaged, float64 `(trials,)`.

    Args:
        scores: cosines of the trials.
        enrollment: rows of the first sides in `statistics`.
        test: rows of the second sides.
        statistics: from `cohort_statistics`.
    """
    deviation = np.maximum(statistics.deviation, LEAST_DEVIATION)
    sides = [(scores - statistics.mean[side]) / deviation[side] for side in (enrollment, test)]
    return np.asarray(0.5 * (sides[0] + sides[1]))


def _centred(rows: Embeddings, mean: FloatArray | None) -> FloatArray:
    values = np.asarray(rows, dtype=np.float64)
    return values if mean is None else values - mean
