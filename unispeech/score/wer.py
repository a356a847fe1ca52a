"""Word and phone error rates with alignments, a bootstrap interval and a paired comparison.

Source: Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance
evaluation": utterances are drawn with replacement, and the rate of each draw is total errors over
total words.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.errors import DataError, DependencyError

EMPTY = "***"

Pair = tuple[str | None, str | None]


class Counts(NamedTuple):
    """Errors of an utterance or of many."""

    insertions: int
    deletions: int
    substitutions: int
    words: int

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """Errors per 100 reference words; without words 0, or infinite when there are errors."""
        if self.words:
            return 100.0 * self.errors / self.words
        return float("inf") if self.errors else 0.0


@dataclass(frozen=True)
class WordErrors:
    """The result of `wer`.

    Attributes:
        total: counts over all utterances.
        low, high: 95 % bootstrap interval of the error rate, in per cent.
        utterances: counts by utterance.
        alignments: pairs of reference and hypothesis word; None stands for a missing one.
        speakers: counts by speaker, empty when no speakers were given.
        resamples, seed: how the interval was drawn.
    """

    total: Counts
    low: float
    high: float
    utterances: dict[str, Counts]
    alignments: dict[str, list[Pair]]
    speakers: dict[str, Counts] = field(default_factory=dict)
    resamples: int = 1000
    seed: int = 0

    @property
    def rate(self) -> float:
        """Word error rate in per cent."""
        return self.total.rate

    def summary(self, measure: str = "WER", unit: str = "words") -> dict[str, Any]:
        """Plain numbers for `wer.json`, or `per.json` of phones; rates in per cent."""
        insertions, deletions, substitutions, words = self.total
        return {
            "metric": measure,
            measure.lower(): _rounded(self.rate),
            "low": _rounded(self.low),
            "high": _rounded(self.high),
            "errors": self.total.errors,
            "insertions": insertions,
            "deletions": deletions,
            "substitutions": substitutions,
            unit: words,
            "utterances": len(self.utterances),
            "speakers": {name: _rounded(c.rate) for name, c in self.speakers.items()},
            "resamples": self.resamples,
            "seed": self.seed,
        }


class Comparison(NamedTuple):
    """Two systems on the same utterances.

    Attributes:
        difference: rate of the other system minus rate of the first, in percentage points.
        low, high: 95 % bootstrap interval of the difference.
        probability_of_improvement: share of draws in which the other system is better.
    """

    difference: float
    low: float
    high: float
    probability_of_improvement: float


def wer(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    speakers: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    allow_missing: bool = False,
) -> WordErrors:
    """Word error rate of hypotheses by utterance id; phone error rate, when the words are phones.

    Args:
        references: words by utterance; an empty text makes every hypothesis word an insertion.
        hypotheses: words by utterance.
        speakers: speaker by utterance, for rates by speaker.
        resamples: bootstrap draws behind the interval.
        seed: of the bootstrap.
        allow_missing: count utterances without a hypothesis as empty.

    Raises:
        DataError: the utterances of the two differ, or there are none.
    """
    return _score(references, hypotheses, speakers, resamples, seed, allow_missing, str.split)


def cer(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    speakers: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    allow_missing: bool = False,
) -> WordErrors:
    """Character error rate, spaces between words included; arguments as for `wer`."""
    return _score(references, hypotheses, speakers, resamples, seed, allow_missing, _characters)


def compare(
    first: WordErrors, other: WordErrors, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Paired bootstrap of two systems: the same utterances are drawn for both.

    Raises:
        DataError: the systems were scored on different utterances.
    """
    if first.utterances.keys() != other.utterances.keys():
        wrong = sorted(first.utterances.keys() ^ other.utterances.keys())[0]
        raise DataError(
            "the two systems were scored on different utterances", where=f"utterance {wrong}"
        )
    pairs = [(first.utterances[name], other.utterances[name]) for name in first.utterances]
    return paired(pairs, resamples, seed)


def paired(
    pairs: Sequence[tuple[Counts, Counts]], resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Paired bootstrap of two systems by what each one got wrong of every unit.

    Args:
        pairs: counts of the first and of the other system, for each unit that is drawn as a whole.
        resamples: bootstrap draws behind the interval.
        seed: of the bootstrap.
    """
    gain = np.array([b.errors - a.errors for a, b in pairs], dtype=np.int64)
    words = np.array([a.words for a, _ in pairs], dtype=np.int64)
    draws = _bootstrap(gain, words, resamples, seed)
    low, high = _interval(draws)
    before, after = (_add(list(counts)).rate for counts in zip(*pairs, strict=True))
    chance = float(np.mean(draws < 0)) if len(draws) else 0.0
    return Comparison(after - before, low, high, chance)


def pooled(
    counts: Sequence[Counts], resamples: int = 1000, seed: int = 0
) -> tuple[Counts, float, float]:
    """Errors of all units together, and the 95 % bootstrap interval of their rate in per cent.

    Args:
        counts: of each unit that is drawn as a whole, such as a session.
        resamples: bootstrap draws behind the interval.
        seed: of the bootstrap.

    Raises:
        DataError: there are none.
    """
    if not counts:
        raise DataError("there is nothing to score: no references")
    errors = np.array([c.errors for c in counts], dtype=np.int64)
    words = np.array([c.words for c in counts], dtype=np.int64)
    return _add(counts), *_interval(_bootstrap(errors, words, resamples, seed))


def edit_distance(reference: Sequence[Any], hypothesis: Sequence[Any]) -> int:
    """Least number of insertions, deletions and substitutions between two sequences."""
    return int(_kaldialign().edit_distance(list(reference), list(hypothesis))["total"])


def align(
    reference: Sequence[str], hypothesis: Sequence[str], nist_costs: bool = False
) -> list[Pair]:
    """Cheapest alignment of two sequences; None where one has no counterpart.

    Args:
        reference: what should be there.
        hypothesis: what is there.
        nist_costs: sclite's costs, insertion and deletion 3, substitution 4, instead of 1 each.
    """
    # The marker of a missing word must not be a word.
    missing = "\0"
    words = (list(reference), list(hypothesis))
    pairs = _kaldialign().align(*words, missing, sclite_mode=nist_costs)
    return [(a if a != missing else None, b if b != missing else None) for a, b in pairs]


def format_alignments(result: WordErrors) -> str:
    """Reference and hypothesis of every utterance, word under word."""
    blocks = []
    for name, pairs in result.alignments.items():
        counts = result.utterances[name]
        rows: list[list[str]] = [["ref"], ["hyp"], ["err"]]
        for a, b in pairs:
            kind = "" if a == b else "I" if a is None else "D" if b is None else "S"
            cells = (a or EMPTY, b or EMPTY, kind)
            width = max(map(len, cells))
            for row, cell in zip(rows, cells, strict=True):
                row.append(f"{cell:<{width}}")
        head = f"{name}  {counts.errors} / {counts.words}"
        blocks.append("\n".join([head, *(" ".join(row).rstrip() for row in rows)]))
    return "\n\n".join(blocks) + "\n"


def format_line(result: WordErrors, name: str, measure: str = "WER") -> str:
    """One line in Kaldi's manner, with the interval."""
    insertions, deletions, substitutions, words = result.total
    return (
        f"%{measure} {result.rate:.2f} [ {result.total.errors} / {words}, {insertions} ins, "
        f"{deletions} del, {substitutions} sub ] 95% [{result.low:.1f}, {result.high:.1f}]  {name}"
    )


def _score(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    speakers: Mapping[str, str] | None,
    resamples: int,
    seed: int,
    allow_missing: bool,
    split: Any,
) -> WordErrors:
    _check_ids(references, hypotheses, allow_missing)
    alignments = {
        name: align(split(text), split(hypotheses.get(name, "")))
        for name, text in references.items()
    }
    counts = {name: _count(pairs) for name, pairs in alignments.items()}
    total, low, high = pooled(list(counts.values()), resamples, seed)
    by_speaker: dict[str, list[Counts]] = {}
    for name in counts if speakers else ():
        by_speaker.setdefault((speakers or {}).get(name, ""), []).append(counts[name])
    return WordErrors(
        total=total,
        low=low,
        high=high,
        utterances=counts,
        alignments=alignments,
        speakers={name: _add(by_speaker[name]) for name in sorted(by_speaker)},
        resamples=resamples,
        seed=seed,
    )


def _check_ids(
    references: Mapping[str, str], hypotheses: Mapping[str, str], allow_missing: bool
) -> None:
    if not references:
        raise DataError("there is nothing to score: no references")
    missing = [name for name in references if name not in hypotheses]
    extra = [name for name in hypotheses if name not in references]
    if extra or (missing and not allow_missing):
        name, what = (extra[0], "reference") if extra else (missing[0], "hypothesis")
        count = len(extra or missing)
        raise DataError(
            f"{count} utterance(s) without {what}",
            where=f"utterance {name}",
            expected=f"the same {len(references)} utterances on both sides",
            remedy="decode the set that the reference describes",
        )


def _characters(text: str) -> list[str]:
    return list(" ".join(text.split()))


def _count(pairs: Sequence[Pair]) -> Counts:
    insertions = sum(a is None for a, _ in pairs)
    deletions = sum(b is None for _, b in pairs)
    substitutions = sum(a is not None and b is not None and a != b for a, b in pairs)
    return Counts(insertions, deletions, substitutions, len(pairs) - insertions)


def _add(counts: Sequence[Counts]) -> Counts:
    return Counts(*(sum(column) for column in zip(*counts, strict=True)))


def _bootstrap(
    errors: npt.NDArray[np.int64], words: npt.NDArray[np.int64], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Error rates (draws,) in per cent of utterances drawn with replacement."""
    generator = np.random.default_rng(seed)
    rates = []
    for _ in range(resamples):
        chosen = generator.integers(len(errors), size=len(errors))
        total = int(words[chosen].sum())
        # A draw without a single reference word has no rate.
        if total:
            rates.append(100.0 * int(errors[chosen].sum()) / total)
    return np.array(rates, dtype=np.float64)


def _interval(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _rounded(value: float) -> float | None:
    # JSON has neither NaN nor infinity.
    return round(value, 4) if np.isfinite(value) else None


def _kaldialign() -> ModuleType:
    try:
        return importlib.import_module("kaldialign")
    except ImportError as error:
        raise DependencyError(
            "the package kaldialign is needed to score",
            found=error,
            remedy="pip install kaldialign",
        ) from None
