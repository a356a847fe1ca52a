"""Weights of language models and of words that leave the fewest errors in stored n-best lists.

The number of errors is a step function of the weights, with edit distances counted once. SciPy's
differential evolution minimises it; among weights with equally many errors it takes those under
which the expected number is least, the hypotheses' scores taken for log probabilities.

Source: Storn & Price 1997, "Differential evolution"; Och 2003, "Minimum error rate training in
statistical machine translation", for the objective and the merging of lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.decode.nbest import Entry
from unispeech.errors import DataError

Floats = npt.NDArray[np.float64]

# Numbers in one array of total scores; more would not be faster.
_AT_ONCE = 4_000_000
_DIGITS = 4

Distance = Callable[[Sequence[str], Sequence[str]], int]


class Table(NamedTuple):
    """n-best lists as arrays, padded to the longest.

    Attributes:
        acoustic: (utterances, hypotheses), minus infinity in the padding.
        features: (utterances, hypotheses, weights): what the weights multiply, the number of
            words last.
        errors: (utterances, hypotheses) word errors.
    """

    acoustic: Floats
    features: Floats
    errors: Floats


class Weights(NamedTuple):
    """What `minimise` found: the weights in the order of the features, and the errors left."""

    values: tuple[float, ...]
    errors: int


def tabulate(
    lists: Mapping[str, Sequence[Entry]],
    references: Mapping[str, str],
    names: Sequence[str],
    distance: Distance,
) -> Table:
    """Arrays of n-best lists; an empty list counts as one hypothesis without words.

    Args:
        lists: hypotheses by utterance.
        references: words by utterance.
        names: further language models, whose `scores` become features between the list's own
            language model and the number of words.
        distance: edit distance of two word sequences.

    Raises:
        DataError: an utterance has no reference, a hypothesis no score, or there are no lists.
    """
    if not lists:
        raise DataError("there are no n-best lists to tune on")
    longest = max(1, *(len(entries) for entries in lists.values()))
    table = Table(
        np.full((len(lists), longest), -np.inf),
        np.zeros((len(lists), longest, len(names) + 2)),
        np.zeros((len(lists), longest)),
    )
    for row, (utt_id, entries) in enumerate(lists.items()):
        if utt_id not in references:
            raise DataError(
                "an n-best list without a reference",
                where=f"utterance {utt_id}",
                remedy="give the manifest that these lists were made from",
            )
        reference = references[utt_id].split()
        for column, entry in enumerate(entries or [Entry("", 0.0, 0.0, dict.fromkeys(names, 0.0))]):
            words = entry.text.split()
            table.acoustic[row, column] = entry.acoustic
            table.features[row, column] = [entry.lm, *(entry.scores[n] for n in names), len(words)]
            table.errors[row, column] = distance(reference, words)
    return table


def count_errors(table: Table, weights: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Word errors of the best hypotheses, and the expected number, for columns of weights.

    Args:
        table: the lists.
        weights: (weights,) or (weights, points).

    Returns:
        Errors and expected errors, each of shape (points,).
    """
    columns = np.asarray(weights, np.float64).reshape(table.features.shape[2], -1)
    step = max(1, _AT_ONCE // table.acoustic.size)
    errors, expected = [], []
    for begin in range(0, columns.shape[1], step):
        totals = table.acoustic[..., None] + table.features @ columns[:, begin : begin + step]
        best = totals.argmax(axis=1)
        errors.append(np.take_along_axis(table.errors, best, axis=1).sum(axis=0))
        # In place: these are the largest arrays here.
        totals -= totals.max(axis=1, keepdims=True)
        np.exp(totals, out=totals)
        share = np.einsum("un,unp->up", table.errors, totals) / totals.sum(axis=1)
        expected.append(share.sum(axis=0))
    return np.concatenate(errors), np.concatenate(expected)


def minimise(
    table: Table,
    starts: Sequence[Sequence[float]],
    bounds: Sequence[tuple[float, float]],
    seed: int = 0,
) -> Weights:
    """The weights with the fewest errors, never more than any of `starts` leaves.

    Args:
        table: the lists.
        starts: weights to compare with; they may lie outside of the bounds.
        bounds: lowest and highest value of every weight.
        seed: of the search.
    """
    # Imported only now: decoding at given scales starts without it.
    from scipy.optimize import differential_evolution

    scale = 1.0 + float(table.errors.max(axis=1).sum())

    def cost(weights: Floats) -> Floats:
        errors, expected = count_errors(table, weights)
        # Expected errors are below `scale`, so they only break ties.
        return errors + expected / scale

    low, high = np.array(bounds, np.float64).T
    found = differential_evolution(
        cost,
        bounds,
        x0=np.clip(np.asarray(starts[0], np.float64), low, high),
        rng=seed,
        popsize=15,
        maxiter=60,
        polish=False,
        vectorized=True,
        updating="deferred",
    )
    candidates = np.array([np.round(found.x, _DIGITS), *starts], np.float64)
    best = candidates[int(np.argmin(cost(candidates.T)))]
    errors, _ = count_errors(table, best)
    return Weights(tuple(float(value) for value in best), round(float(errors[0])))
