"""Language-model scale and word insertion by decoding a development set again and again.

Every point is a real search on stored emissions, so that search errors count as they will on the
test set. A coarse grid is followed by a pattern search with halving steps (Hooke & Jeeves 1961);
ties go to the point that was tried first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pydantic

from unispeech.config import Config
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.engine import Decoder, decode_set
from unispeech.errors import DataError


class TuneConfig(Config):
    """Where to search.

    Attributes:
        lm_scales: coarse grid of language-model scales (on natural logarithms).
        word_insertions: coarse grid of word insertions.
        refinements: how often the steps of the pattern search are halved.
        utterances: how many utterances to decode, evenly spaced over the set.
    """

    lm_scales: tuple[float, ...] = pydantic.Field(default=(0.2, 0.5, 0.9, 1.5, 2.5), min_length=1)
    word_insertions: tuple[float, ...] = pydantic.Field(default=(-1.0, 0.0, 1.0), min_length=1)
    refinements: int = pydantic.Field(default=2, ge=0, le=10)
    utterances: int = pydantic.Field(default=500, ge=1)


class Point(NamedTuple):
    """One decoding of the development set."""

    lm_scale: float
    word_insertion: float
    errors: int


class Tuning(NamedTuple):
    """The best point and every point in the order it was tried."""

    best: Point
    table: list[Point]


def tune(errors: Callable[[float, float], int], config: TuneConfig) -> Tuning:
    """Minimise `errors(lm_scale, word_insertion)` over scales in [0, 20], insertions in [-50, 50].

    Args:
        errors: decodes with these scales and counts word errors.
        config: the grid and the number of refinements.
    """
    table: dict[tuple[float, float], Point] = {}

    def attempt(lm_scale: float, word_insertion: float) -> Point:
        key = (round(min(max(lm_scale, 0.0), 20.0), 4), round(min(max(word_insertion, -50), 50), 4))
        if key not in table:
            table[key] = Point(*key, errors(*key))
        return table[key]

    best = min(
        [attempt(scale, insertion) for scale in config.lm_scales
         for insertion in config.word_insertions],
        key=_errors,
    )  # fmt: skip
    steps = (_gap(config.lm_scales, 0.4) / 2, _gap(config.word_insertions, 1.0) / 2)
    for _ in range(config.refinements):
        improved = True
        while improved:
            around = [
                attempt(best.lm_scale + a * steps[0], best.word_insertion + b * steps[1])
                for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))
            ]
            found = min([best, *around], key=_errors)
            improved = found.errors < best.errors
            best = found
        steps = (steps[0] / 2, steps[1] / 2)
    return Tuning(best, list(table.values()))


def tune_decoder(
    decoder: Decoder,
    reader: EmissionReader,
    words: dict[str, int],
    references: dict[str, str],
    count: Callable[[dict[str, str], dict[str, str]], int],
    config: TuneConfig,
) -> dict[str, Any]:
    """Tune the scales of a decoder on stored emissions.

    Args:
        decoder: the back-end; its scales change.
        reader: emissions of the development set.
        words: the word symbol table.
        references: words by utterance.
        count: word errors of hypotheses, given references and hypotheses.
        config: where to search.

    Returns:
        The best scales, how they were found, and `table`: every point tried, as `columns` says.

    Raises:
        DataError: an utterance has no reference.
    """
    chosen = spread(reader.utt_ids, config.utterances)
    absent = [name for name in chosen if name not in references]
    if absent:
        raise DataError(
            f"{len(absent)} tuning utterance(s) without a reference",
            where=f"{reader.folder}, utterance {absent[0]}",
            remedy="give the manifest that these emissions were made from",
        )
    subset = {name: references[name] for name in chosen}
    seconds = 0.0

    def errors(lm_scale: float, word_insertion: float) -> int:
        nonlocal seconds
        decoder.set_scales(lm_scale, word_insertion)
        decoded = decode_set(decoder, ((name, reader[name]) for name in chosen), words)
        seconds += decoded.seconds
        return count(subset, decoded.text)

    best, table = tune(errors, config)
    return {
        **best._asdict(),
        "utterances": len(chosen),
        "seconds": round(seconds, 3),
        "columns": list(Point._fields),
        "table": [list(point) for point in table],
    }


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spaced, in order."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _errors(point: Point) -> int:
    return point.errors


def _gap(values: Sequence[float], default: float) -> float:
    ordered = sorted(set(values))
    gaps = [b - a for a, b in zip(ordered[:-1], ordered[1:], strict=True)]
    return min(gaps, default=default)
