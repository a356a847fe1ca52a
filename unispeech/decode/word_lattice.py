"""Lattices of k2 as acceptors of words: other language models, and exact n-best lists.

Runs where `k2` runs; the module k2 itself comes from there.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import numpy as np

from unispeech.decode.nbest import Hypothesis

# A path so far: the path before it, and the arc that came last.
Path = tuple[Any, int]


class WordLattice:
    """The word sequences of one utterance, each with its best path alone.

    Args:
        k2: the module.
        lattice: a lattice with words as `aux_labels` and `lm_scores` unscaled beside its scores.
        lm_scale: weight of the language model in the scores of the lattice.
        word_insertion: what each word added to them.
    """

    def __init__(self, k2: Any, lattice: Any, lm_scale: float, word_insertion: float) -> None:
        self._k2 = k2
        self._lm_scale, self._word_insertion = lm_scale, word_insertion
        self._fsa = lattice
        if lattice.num_arcs:
            words = k2.invert(lattice)
            del words.aux_labels
            self._fsa = self._determinize(words)

    def rescore(self, grammar: Any) -> None:
        """Replace the language model's scores by those of an arc-sorted acceptor of words."""
        k2, words = self._k2, self._fsa
        if not words.num_arcs:
            return
        words.scores = words.scores - self._lm_scale * words.lm_scores
        del words.lm_scores
        looped = k2.arc_sort(k2.add_epsilon_self_loops(words))
        scaled = grammar.clone()
        scaled.scores = self._lm_scale * grammar.lm_scores
        both = k2.connect(k2.intersect(scaled, looped, treat_epsilons_specially=False))
        self._fsa = self._determinize(both)

    def nbest(self, count: int) -> list[Hypothesis]:
        """The best word sequences: A* search with the exact score of what is left."""
        fsa = self._fsa
        if not fsa.num_arcs:
            return []
        arcs = self._k2.utils.to_tensor(fsa).numpy()
        following, labels = arcs[:, 1], arcs[:, 2]
        first = np.searchsorted(arcs[:, 0], np.arange(following.max() + 2))
        scores = fsa.scores.double().numpy()
        lm = fsa.lm_scores.double().numpy()
        left = self._k2.create_fsa_vec([fsa]).get_backward_scores(True, False).numpy()
        tie = itertools.count()
        heap: list[tuple[float, int, float, int, Path | None]] = [(-left[0], 0, 0.0, 0, None)]
        found: list[Hypothesis] = []
        while heap and len(found) < count:
            _, _, score, state, path = heapq.heappop(heap)
            if path is not None and labels[path[1]] == -1:
                found.append(self._hypothesis(path, labels, scores, lm))
                continue
            for arc in range(first[state], first[state + 1]):
                total = score + scores[arc]
                estimate = -(total + left[following[arc]])
                if estimate < np.inf:
                    entry = (estimate, next(tie), total, int(following[arc]), (path, arc))
                    heapq.heappush(heap, entry)
        return found

    def _hypothesis(self, path: Path | None, labels: Any, scores: Any, lm: Any) -> Hypothesis:
        arcs: list[int] = []
        while path is not None:
            path, arc = path
            arcs.append(arc)
        words = tuple(int(labels[arc]) for arc in reversed(arcs) if labels[arc] > 0)
        lm_total = float(lm[arcs].sum())
        rest = self._lm_scale * lm_total + self._word_insertion * len(words)
        return Hypothesis(words, float(scores[arcs].sum()) - rest, lm_total)

    def _determinize(self, fsa: Any) -> Any:
        k2 = self._k2
        # Without arcs nothing is left to determinize, and k2 refuses to.
        fsa = k2.connect(fsa)
        if not fsa.num_arcs:
            return fsa
        fsa = k2.connect(k2.remove_epsilon(fsa))
        fsa = k2.determinize(k2.arc_sort(fsa))
        return k2.arc_sort(k2.top_sort(k2.connect(fsa)))
