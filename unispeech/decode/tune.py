"""Language-model scale and word insertion from n-best lists of a development set.

The set is decoded at the present scales, its lists are joined to those before, and the scales
that leave the fewest errors in them become the present ones, until these stay. Every point is
thereby a real search, whose errors count as they will on the test set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import pydantic

from unispeech.config import Config
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.engine import Decoder, nbest_set
from unispeech.decode.nbest import Entry
from unispeech.decode.scales import Distance, minimise, tabulate
from unispeech.errors import DataError

Range = tuple[float, float]

_SAME = 1e-3


class TuneConfig(Config):
    """Where to search.

    Attributes:
        lm_scale: least and greatest language-model scale (on natural logarithms).
        word_insertion: least and greatest word insertion.
        nbest: hypotheses in a list.
        rounds: most decodings of the set.
        utterances: how many utterances to decode, evenly spaced over the set.
        seed: of the optimiser.
    """

    lm_scale: Range = (0.0, 4.0)
    word_insertion: Range = (-6.0, 6.0)
    nbest: int = pydantic.Field(default=100, ge=2)
    rounds: int = pydantic.Field(default=3, ge=1)
    utterances: int = pydantic.Field(default=500, ge=1)
    seed: int = 0


class Point(NamedTuple):
    """One decoding of the development set."""

    lm_scale: float
    word_insertion: float
    errors: int


def tune_decoder(
    decoder: Decoder,
    reader: EmissionReader,
    words: dict[str, int],
    references: dict[str, str],
    distance: Distance,
    config: TuneConfig,
    start: tuple[float, float],
) -> dict[str, Any]:
    """Tune the scales of a decoder on stored emissions.

    Args:
        decoder: the back-end; its scales change.
        reader: emissions of the development set.
        words: the word symbol table.
        references: words by utterance.
        distance: edit distance of two word sequences.
        config: where to search.
        start: language-model scale and word insertion of the first decoding.

    Returns:
        The scales of the decoding with the fewest errors, how they were found, and `table`: every
        decoding in order, as `columns` says.

    Raises:
        DataError: an utterance has no reference.
    """
    chosen = _chosen(reader, references, config.utterances)
    began = time.perf_counter()
    points: list[Point] = []
    pool: dict[str, dict[str, Entry]] = {name: {} for name in chosen}
    present = start
    for _ in range(config.rounds):
        decoder.set_scales(*present)
        lists = nbest_set(decoder, ((n, reader[n]) for n in chosen), words, config.nbest).lists
        table = tabulate({n: lists[n][:1] for n in chosen}, references, (), distance)
        points.append(Point(*present, int(table.errors.sum())))
        _join(pool, lists)
        joined = {name: list(entries.values()) for name, entries in pool.items()}
        table = tabulate(joined, references, (), distance)
        starts = [present, *(point[:2] for point in points)]
        found = minimise(table, starts, (config.lm_scale, config.word_insertion), config.seed)
        present = (found.values[0], found.values[1])
        if any(_close(present, point[:2]) for point in points):
            break
    # Of equally good ones the last was found with the most lists.
    best = min(reversed(points), key=lambda point: point.errors)
    return {
        **best._asdict(),
        "utterances": len(chosen),
        "seconds": round(time.perf_counter() - began, 3),
        "columns": list(Point._fields),
        "table": [list(point) for point in points],
    }


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spaced, in order."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _chosen(reader: EmissionReader, references: dict[str, str], count: int) -> list[str]:
    chosen = spread(reader.utt_ids, count)
    absent = [name for name in chosen if name not in references]
    if absent:
        raise DataError(
            f"{len(absent)} tuning utterance(s) without a reference",
            where=f"{reader.folder}, utterance {absent[0]}",
            remedy="give the manifest that these emissions were made from",
        )
    return chosen


def _join(pool: dict[str, dict[str, Entry]], lists: dict[str, list[Entry]]) -> None:
    for name, entries in lists.items():
        for entry in entries:
            known = pool[name].get(entry.text)
            # A narrower search may have missed the best path of the same words.
            if known is None or entry.acoustic > known.acoustic:
                pool[name][entry.text] = entry


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(abs(x - y) < _SAME for x, y in zip(a, b, strict=True))
