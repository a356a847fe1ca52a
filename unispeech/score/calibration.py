"""Calibration of verification scores with quality measures by logistic regression.

The result is the natural logarithm of a likelihood ratio. It is linear in the score and in
measures of the two recordings, with a positive weight of the score: among trials of equal quality
the order stays, between qualities it may change, and the equal error rate with it.

Source: Thienpondt et al. 2021, "The IDLab VoxSRC-20 submission" (quality measure functions); the
cost is Cllr, in which targets and non-targets weigh the same. Of the cohort's mean there is no
ratio: it may be zero or negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic
from scipy.optimize import minimize
from scipy.special import expit

from unispeech.config import Config
from unispeech.errors import DataError
from unispeech.score.trials import checked

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LONGEST = 20.0
"""Seconds beyond which a longer recording is no better one (wespeaker's VoxCeleb recipe)."""

RIDGE = 1e-6
"""Weight of the squared weights, of standardised measures, in the cost: keeps them finite where
the kinds can be told apart without error."""

RATIOS = ("duration", "norm")
"""Measures that are positive, so that a ratio of the two sides has a meaning."""


class Calibration(Config):
    """A linear map from measures of trials to log-likelihood ratios.

    Attributes:
        measures: names of the columns, `score` first.
        weights: one for each.
        bias: constant.
    """

    measures: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Calibration:
        if len(self.measures) != len(self.weights) or self.measures[:1] != ("score",):
            raise ValueError("one weight for each measure, the score first")
        if not np.isfinite([*self.weights, self.bias]).all() or self.weights[0] <= 0:
            raise ValueError("weights must be finite, that of the score positive")
        return self

    def apply(self, measures: tuple[str, ...], columns: FloatArray) -> FloatArray:
        """Log-likelihood ratios, float64 `(N,)`.

        Args:
            measures: names of the columns.
            columns: `(N, K)`.

        Raises:
            DataError: the columns are not those of the training.
        """
        if measures != self.measures:
            raise DataError(
                "the calibration was trained on other measures",
                expected=", ".join(self.measures),
                found=", ".join(measures),
                remedy="give the same --cohort and --quality as then",
            )
        return np.asarray(columns @ np.asarray(self.weights) + self.bias)


def trial_measures(
    scores: FloatArray, enrollment: IntArray, test: IntArray, qualities: Mapping[str, FloatArray]
) -> tuple[tuple[str, ...], FloatArray]:
    """Names and values `(N, K)` of what a calibration sees of each trial.

    These are the score and, of every quality, the lesser and the greater value of the two sides,
    their difference and, of `duration` and `norm`, their ratio. They are the same when the sides
    are exchanged. Durations are cut at `LONGEST`.

    Args:
        scores: of the trials, float64 `(N,)`.
        enrollment: rows of the first sides in the arrays of `qualities`.
        test: rows of the second sides.
        qualities: name -> value of every utterance, float64 `(utterances,)`.

    Raises:
        DataError: a quality is not finite, or a duration or a norm is not positive.
    """
    names, columns = ["score"], [scores]
    for name, all_values in qualities.items():
        values = np.minimum(all_values, LONGEST) if name == "duration" else all_values
        left, right = values[enrollment], values[test]
        low, high = np.minimum(left, right), np.maximum(left, right)
        has_ratio = name in RATIOS
        if not np.isfinite(high).all() or not np.isfinite(low).all():
            raise DataError(f"a {name} is not finite")
        if has_ratio and (low <= 0).any():
            raise DataError(f"a {name} is not positive", found=float(low.min()))
        names += [f"{name}_min", f"{name}_max", f"{name}_difference"]
        columns += [low, high, high - low]
        if has_ratio:
            names.append(f"{name}_ratio")
            columns.append(high / low)
    return tuple(names), np.stack(columns, axis=1)


def fit(labels: npt.ArrayLike, measures: tuple[str, ...], columns: FloatArray) -> Calibration:
    """The calibration of least Cllr, by L-BFGS on standardised measures.

    Args:
        labels: bool `(N,)`, True for the same speaker.
        measures: names of the columns, `score` first.
        columns: `(N, K)`, from `trial_measures`.

    Raises:
        DataError: a score is not finite, the trials are of one kind, or greater scores do not mean
            the same speaker.
    """
    kinds, _ = checked(labels, columns[:, 0])
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    # What does not vary, but for rounding, tells nothing.
    is_constant = spread <= 1e-12 * np.maximum(np.abs(centre), 1e-300)
    spread = np.where(is_constant, 1.0, spread)
    values = np.where(is_constant, 0.0, (columns - centre) / spread)
    signs = np.where(kinds, 1.0, -1.0)
    shares = np.where(kinds, 0.5 / kinds.sum(), 0.5 / (~kinds).sum())

    def cost(parameters: FloatArray) -> tuple[float, FloatArray]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = signs * (values @ weights + bias)
        slopes = -shares * signs * expit(-margins)
        total = shares @ np.logaddexp(0.0, -margins) + 0.5 * RIDGE * (weights @ weights)
        return float(total), np.append(slopes @ values + RIDGE * weights, slopes.sum())

    options: dict[str, Any] = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-9}
    start = np.zeros(len(measures) + 1)
    found = minimize(cost, start, jac=True, method="L-BFGS-B", options=options).x
    weights = found[:-1] / spread
    bias = float(found[-1] - weights @ centre)
    if weights[0] <= 0:
        raise DataError(
            "greater scores do not mean the same speaker in the trials of the calibration",
            expected="a positive weight of the score",
            found=f"{weights[0]:g}",
            remedy="look at the labels of these trials",
        )
    return Calibration(measures=measures, weights=tuple(weights.tolist()), bias=bias)


def probability(log_ratios: npt.ArrayLike, prior: float = 0.5) -> FloatArray:
    """Posterior probability of the same speaker.

    Args:
        log_ratios: natural logarithms of likelihood ratios.
        prior: probability of the same speaker before listening, between 0 and 1.
    """
    return np.asarray(expit(np.asarray(log_ratios) + np.log(prior) - np.log1p(-prior)))
