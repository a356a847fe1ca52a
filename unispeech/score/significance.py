"""Matched-pair sentence-segment word error test (MAPSSWE) between two systems.

Source: Gillick & Cox 1989, "Some statistical issues in the comparison of speech recognition
algorithms", with the segments of NIST's sc_stats: an utterance is cut wherever both systems have at
least two words right in a row. The errors of two segments are then taken as independent, which
those of neighbouring words are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from unispeech.errors import DataError
from unispeech.score.wer import Pair, WordErrors, align

BOUNDARY = 2
"""Words in a row that both systems must have right for a segment to end (NIST's default)."""


class MatchedPairs(NamedTuple):
    """The result of `mapsswe`.

    Attributes:
        segments: stretches in which at least one system errs.
        mean: errors of the other system minus errors of the first, by segment.
        deviation: standard deviation of these differences (divisor segments - 1).
        z: the mean over its standard error; standard normal when the systems are equal and the
            segments many. Gillick & Cox want at least 50.
        p: two-sided probability of such a difference between systems that are equal; None when
            there are too few segments, or all differ by the same number, so that no standard error
            can be told.
    """

    segments: int
    mean: float
    deviation: float
    z: float | None
    p: float | None


def mapsswe(first: WordErrors, other: WordErrors, boundary: int = BOUNDARY) -> MatchedPairs:
    """Test whether two systems make the same number of errors.

    The words are aligned with sclite's costs (insertion 3, deletion 3, substitution 4), so that
    the segments are NIST's; rates by `wer` have costs of 1.

    Args:
        first: a system, scored against the same references as the other.
        other: the system to compare with it.
        boundary: words both must have right in a row between two segments.

    Raises:
        DataError: the systems were scored on different utterances or references.
    """
    if first.alignments.keys() != other.alignments.keys():
        wrong = sorted(first.alignments.keys() ^ other.alignments.keys())[0]
        raise DataError(
            "the two systems were scored on different utterances", where=f"utterance {wrong}"
        )
    differences: list[int] = []
    for name, pairs in first.alignments.items():
        reference, hypothesis = _sides(pairs)
        same, another = _sides(other.alignments[name])
        if reference != same:
            raise DataError(
                "the two systems were scored on different references", where=f"utterance {name}"
            )
        one, two = (align(reference, words, nist_costs=True) for words in (hypothesis, another))
        differences += [b - a for a, b in segments(one, two, boundary)]
    return matched_pairs(differences)


def segments(
    first: Sequence[Pair], other: Sequence[Pair], boundary: int = BOUNDARY
) -> list[tuple[int, int]]:
    """Errors of both systems in each segment of one utterance that has any.

    Args:
        first: alignment of the reference with the words of one system.
        other: alignment of the same reference with the words of the other.
        boundary: words both must have right in a row between two segments.
    """
    wrong, inserted = zip(*(_errors(pairs) for pairs in (first, other)), strict=True)
    found = []
    errors, right, is_open = [0, 0], 0, False
    # A place is the gap before a reference word and the word; the last one is the final gap.
    for place in range(len(inserted[0])):
        gap = [counts[place] for counts in inserted]
        word = [marks[place] if place < len(marks) else 0 for marks in wrong]
        if any(gap):
            right, is_open = 0, True
        if any(word):
            right, is_open = 0, True
        elif is_open:
            right += 1
        errors = [e + g + w for e, g, w in zip(errors, gap, word, strict=True)]
        if is_open and (right == boundary or place == len(inserted[0]) - 1):
            found.append((errors[0], errors[1]))
            errors, right, is_open = [0, 0], 0, False
    return found


def matched_pairs(differences: Sequence[int]) -> MatchedPairs:
    """The test over differences of errors, one for each segment."""
    count = len(differences)
    mean = statistics.fmean(differences) if count else 0.0
    if not any(differences):
        return MatchedPairs(count, 0.0, 0.0, 0.0, 1.0)
    deviation = statistics.stdev(differences) if count > 1 else 0.0
    if deviation == 0:
        return MatchedPairs(count, mean, 0.0, None, None)
    z = mean / (deviation / math.sqrt(count))
    return MatchedPairs(count, mean, deviation, z, math.erfc(abs(z) / math.sqrt(2)))


def _sides(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [a for a, _ in pairs if a is not None], [b for _, b in pairs if b is not None]


def _errors(pairs: Sequence[Pair]) -> tuple[list[int], list[int]]:
    """1 for each reference word that is wrong, and insertions before each and at the end."""
    wrong: list[int] = []
    inserted = [0]
    for a, b in pairs:
        if a is None:
            inserted[-1] += 1
        else:
            wrong.append(int(a != b))
            inserted.append(0)
    return wrong, inserted
