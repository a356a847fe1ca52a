"""Lattices of one utterance: pruned, given another language model, and read as exact n-best lists.

A lattice is an acyclic graph whose arcs carry a word or none, an acoustic cost and the language
model's cost apart, so it serves every scale. Its best word sequences are found by A* over word
prefixes, with the exact cost to the end as the estimate: each prefix keeps the states that it
reaches, which is determinisation of no more than what the list needs.

Source: Mohri & Riley 2002, "An efficient algorithm for the n-best-strings problem".
"""

from __future__ import annotations

import heapq
import itertools
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.decode.nbest import Hypothesis

Costs = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

# Costs that differ by less come from another order of the same sums.
_SLACK = 1e-6
_FIRST_MARGIN = 2.0

_KALDI_ARC = np.dtype(
    [
        ("input", "<i4"),
        ("output", "<i4"),
        ("graph", "<f4"),
        ("acoustic", "<f4"),
        ("next", "<i4"),
    ]
)


class Lattice(NamedTuple):
    """What a search left of one utterance; costs are negative natural logarithms.

    Attributes:
        start: the start state.
        source, next: (arcs,) states.
        word: (arcs,) word ids, 0 for none.
        acoustic, lm: (arcs,) costs, unscaled.
        final: (states,) cost of the language model where an utterance may end, else infinite.
    """

    start: int
    source: Numbers
    next: Numbers
    word: Numbers
    acoustic: Costs
    lm: Costs
    final: Costs

    def costs(self, lm_scale: float, word_insertion: float) -> Costs:
        """(arcs,) total costs; infinite language-model costs stay so at every scale."""
        words = np.where(self.word > 0, -word_insertion, 0.0)
        return self.acoustic + words + _scaled(self.lm, lm_scale)


class KaldiArcs(NamedTuple):
    """A lattice file of Kaldi as arrays.

    Attributes:
        start: the start state, -1 in an empty lattice.
        final: (states, 2) float32 graph and acoustic cost, infinite where not final.
        source: (arcs,) the states that arcs leave.
        arcs: (arcs,) with the fields `input`, `output`, `graph`, `acoustic`, `next`.
    """

    start: int
    final: npt.NDArray[np.float32]
    source: Numbers
    arcs: npt.NDArray[np.void]


def read_kaldi_lattice(path: str | Path) -> KaldiArcs:
    """Read a "vector" lattice that OpenFst wrote without symbol tables.

    Raises:
        ValueError: the file is something else or is truncated.
    """
    data = Path(path).read_bytes()
    kind = b"\x06\x00\x00\x00vector\x08\x00\x00\x00lattice4"
    if data[4 : 4 + len(kind)] != kind:
        raise ValueError(f"{path}: not a lattice")
    position = 4 + len(kind)
    _, _, _, start, states, _ = struct.unpack_from("<iiQqqq", data, position)
    position += struct.calcsize("<iiQqqq")
    state = struct.Struct("<ffq")
    final = np.full((states, 2), np.inf, np.float32)
    counts = np.zeros(states, np.int64)
    pieces = []
    for number in range(states):
        graph, acoustic, count = state.unpack_from(data, position)
        final[number] = graph, acoustic
        counts[number] = count
        position += state.size
        pieces.append(data[position : position + count * _KALDI_ARC.itemsize])
        position += count * _KALDI_ARC.itemsize
    if position != len(data):
        raise ValueError(f"{path}: {len(data)} bytes, expected {position}")
    return KaldiArcs(
        start,
        final,
        np.repeat(np.arange(states), counts),
        np.frombuffer(b"".join(pieces), _KALDI_ARC),
    )


def prune(lattice: Lattice, margin: float, lm_scale: float, word_insertion: float) -> Lattice:
    """Drop the arcs on no path within `margin` of the best one; states keep their numbers."""
    costs = lattice.costs(lm_scale, word_insertion)
    levels = list(_levels(lattice))
    ahead = _to_end(lattice, costs, _scaled(lattice.final, lm_scale), levels)
    behind = _from_start(lattice, costs, levels)
    limit = ahead[lattice.start] + margin + _SLACK
    through = behind[lattice.source] + costs + ahead[lattice.next]
    keep = np.isfinite(through) & (through <= limit)
    return lattice._replace(
        **{
            name: getattr(lattice, name)[keep]
            for name in ("source", "next", "word", "acoustic", "lm")
        }
    )


def nbest(
    lattice: Lattice, count: int, margin: float, lm_scale: float, word_insertion: float
) -> list[Hypothesis]:
    """The best different word sequences, best first, exactly.

    Args:
        lattice: of one utterance.
        count: the most hypotheses to give.
        margin: hypotheses this much worse than the best are left out.
        lm_scale: weight of the language model in the comparison.
        word_insertion: log score of every word in the comparison.
    """
    # Most lists are complete within a small margin, where the lattice is a hundredth.
    within = min(margin, _FIRST_MARGIN)
    while True:
        pruned = prune(lattice, within, lm_scale, word_insertion)
        found = _Search(pruned, within, lm_scale, word_insertion).best(count)
        # The best path is within any margin: none is found where there is none.
        if not found or len(found) >= count or within >= margin:
            return found
        within = min(2 * within, margin)


class _Search:
    """A* over the word prefixes of a pruned lattice."""

    def __init__(
        self, lattice: Lattice, margin: float, lm_scale: float, word_insertion: float
    ) -> None:
        self._scale, self._insertion = lm_scale, word_insertion
        self._start = lattice.start
        costs = lattice.costs(lm_scale, word_insertion)
        final = _scaled(lattice.final, lm_scale)
        levels = list(_levels(lattice))
        ahead = _to_end(lattice, costs, final, levels)
        self._limit = float(ahead[lattice.start]) + margin + _SLACK
        # State -1 is the end.
        self._ahead = [*ahead.tolist(), 0.0]
        self._final = {
            int(state): (float(final[state]), float(lattice.final[state]))
            for state in np.flatnonzero(np.isfinite(lattice.final))
        }
        self._order = {
            state: place
            for place, state in enumerate(itertools.chain(*(s.tolist() for s, _ in levels)))
        }
        self._arcs: dict[int, list[tuple[int, int, float, float]]] = {}
        columns = (lattice.source, lattice.word, lattice.next, costs, lattice.lm)
        for source, word, following, cost, lm in zip(*(c.tolist() for c in columns), strict=True):
            self._arcs.setdefault(source, []).append((word, following, cost, lm))

    def best(self, count: int) -> list[Hypothesis]:
        """At most `count` hypotheses within the margin."""
        found: list[Hypothesis] = []
        ties = itertools.count()
        # (estimate, tie, words, reached): states with (total cost, LM cost), or an end.
        queue: list[tuple[float, int, tuple[int, ...], dict[int, tuple[float, float]]]] = []
        if math.isfinite(self._ahead[self._start]):
            first = (self._ahead[self._start], next(ties), (), {self._start: (0.0, 0.0)})
            queue.append(first)
        while queue and len(found) < count:
            estimate, _, words, reached = heapq.heappop(queue)
            if -1 in reached:
                found.append(self._hypothesis(words, *reached[-1]))
                continue
            for word, states in self._expand(reached).items():
                ahead = min(total + self._ahead[s] for s, (total, _) in states.items())
                longer = (*words, word) if word else words
                heapq.heappush(queue, (ahead, next(ties), longer, states))
        return found

    def _expand(
        self, reached: dict[int, tuple[float, float]]
    ) -> dict[int, dict[int, tuple[float, float]]]:
        """Costs of the states behind every next word, and under 0 of ending here."""
        found: dict[int, dict[int, tuple[float, float]]] = {}
        reached = dict(reached)
        waiting = [(self._order[state], state) for state in reached]
        heapq.heapify(waiting)
        while waiting:
            _, state = heapq.heappop(waiting)
            total, lm = reached[state]
            if state in self._final:
                cost, lm_cost = self._final[state]
                if total + cost <= self._limit:
                    _keep(found.setdefault(0, {}), -1, total + cost, lm + lm_cost)
            for word, following, cost, lm_cost in self._arcs.get(state, ()):
                if total + cost + self._ahead[following] > self._limit:
                    continue
                if word:
                    _keep(found.setdefault(word, {}), following, total + cost, lm + lm_cost)
                else:
                    if following not in reached:
                        heapq.heappush(waiting, (self._order[following], following))
                    _keep(reached, following, total + cost, lm + lm_cost)
        return found

    def _hypothesis(self, words: tuple[int, ...], total: float, lm: float) -> Hypothesis:
        acoustic = total - self._scale * lm + self._insertion * len(words)
        return Hypothesis(words, -acoustic, -lm)


def _keep(states: dict[int, tuple[float, float]], state: int, total: float, lm: float) -> None:
    # With a scale of 0 all ways to back off cost the same; the best of them is the model's.
    if state not in states or (total, lm) < states[state]:
        states[state] = (total, lm)


def _scaled(costs: Costs, scale: float) -> Costs:
    # Infinity times zero is no number.
    return np.where(np.isfinite(costs), scale * np.where(np.isfinite(costs), costs, 0.0), np.inf)


def _levels(lattice: Lattice) -> Iterator[tuple[Numbers, Numbers]]:
    """States whose arcs come from earlier levels alone, and the arcs that leave them.

    Every arc is in one level, after the level of the state that it leaves is complete.
    """
    order = np.argsort(lattice.source, kind="stable")
    counts = np.bincount(lattice.source, minlength=len(lattice.final))
    first = np.cumsum(counts) - counts
    left = np.bincount(lattice.next, minlength=len(lattice.final))
    states = np.flatnonzero(left == 0)
    while len(states):
        sizes = counts[states]
        offsets = np.repeat(first[states] - np.cumsum(sizes) + sizes, sizes)
        arcs = order[offsets + np.arange(int(sizes.sum()))]
        yield states, arcs
        reached, times = np.unique(lattice.next[arcs], return_counts=True)
        left[reached] -= times
        states = reached[left[reached] == 0]


def _to_end(
    lattice: Lattice, costs: Costs, final: Costs, levels: list[tuple[Numbers, Numbers]]
) -> Costs:
    ahead: Costs = final.copy()
    for _, arcs in reversed(levels):
        np.minimum.at(ahead, lattice.source[arcs], costs[arcs] + ahead[lattice.next[arcs]])
    return ahead


def _from_start(lattice: Lattice, costs: Costs, levels: list[tuple[Numbers, Numbers]]) -> Costs:
    behind = np.full(len(lattice.final), np.inf)
    behind[lattice.start] = 0.0
    for _, arcs in levels:
        np.minimum.at(behind, lattice.next[arcs], behind[lattice.source[arcs]] + costs[arcs])
    return behind
