"""Where the errors of a scored set are: by length, and which words are confused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unispeech.score.wer import EMPTY, Counts, WordErrors

WORD_EDGES = (1, 6, 11, 21, 41)
"""First number of reference words of each bin; utterances without words are a bin of their own."""

SECOND_EDGES = (2, 5, 10, 20, 30)
"""Bins of durations begin at 0 and at each of these."""


class Bin(NamedTuple):
    """Utterances of similar length, `low <= length < high`; `high` is None for the last bin."""

    low: float
    high: float | None
    utterances: int
    counts: Counts


class Confusions(NamedTuple):
    """The commonest errors and how often they occur, most frequent first.

    Attributes:
        substitutions: reference word, word in its place, and how often.
        deletions, insertions: word and how often.
    """

    substitutions: list[tuple[str, str, int]]
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]


def by_length(
    result: WordErrors, lengths: Mapping[str, float], edges: Sequence[float]
) -> list[Bin]:
    """Errors of utterances by length, in bins that hold any.

    Args:
        result: a scored set.
        lengths: words or seconds by utterance; utterances without one are left out.
        edges: where bins begin, ascending; the first bin begins at 0.
    """
    borders = [0.0, *edges]
    found = []
    for low, high in zip(borders, [*borders[1:], None], strict=True):
        counts = [
            result.utterances[name]
            for name, length in lengths.items()
            if length >= low and (high is None or length < high)
        ]
        if counts:
            total = Counts(*(sum(column) for column in zip(*counts, strict=True)))
            found.append(Bin(low, high, len(counts), total))
    return found


def confusions(result: WordErrors, most: int = 20) -> Confusions:
    """The commonest substitutions, deletions and insertions of a scored set, `most` of each.

    Equally frequent ones are in alphabetical order.
    """
    counted = Counter(pair for pairs in result.alignments.values() for pair in pairs)
    ranked = sorted(counted.items(), key=lambda item: (-item[1], tuple(map(str, item[0]))))
    substitutions = [(a, b, n) for (a, b), n in ranked if a is not None and b is not None]
    return Confusions(
        [(a, b, n) for a, b, n in substitutions if a != b][:most],
        [(a, n) for (a, b), n in ranked if a is not None and b is None][:most],
        [(b, n) for (a, b), n in ranked if a is None and b is not None][:most],
    )


def summary(
    result: WordErrors, seconds: Mapping[str, float], measure: str = "WER", unit: str = "words"
) -> dict[str, Any]:
    """The breakdown as plain values for `wer.json` or `per.json`; rates in per cent.

    Args:
        result: a scored set.
        seconds: durations by utterance, as far as they are known.
        measure: name of the rate.
        unit: what is counted.
    """

    def rows(bins: Sequence[Bin]) -> list[dict[str, Any]]:
        return [
            {
                "from": one.low,
                "below": one.high,
                "utterances": one.utterances,
                unit: one.counts.words,
                "errors": one.counts.errors,
                measure.lower(): round(one.counts.rate, 4) if one.counts.words else None,
            }
            for one in bins
        ]

    sizes = {name: float(counts.words) for name, counts in result.utterances.items()}
    return {
        f"by_{unit}": rows(by_length(result, sizes, WORD_EDGES)),
        "by_seconds": rows(by_length(result, seconds, SECOND_EDGES)),
        "confusions": confusions(result)._asdict(),
    }


def format_confusions(found: Confusions) -> str:
    """One line for each confusion: how often, reference word, hypothesis word."""
    rows = [(n, a, b) for a, b, n in found.substitutions]
    rows += [(n, a, EMPTY) for a, n in found.deletions]
    rows += [(n, EMPTY, b) for b, n in found.insertions]
    return "".join(f"{n:6d} {a} -> {b}\n" for n, a, b in sorted(rows, key=lambda row: -row[0]))
