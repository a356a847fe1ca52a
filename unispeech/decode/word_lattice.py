"""Lattices of k2 as acceptors of words: other language models, and exact n-best lists.

Runs where `k2` runs; the module k2 itself comes from there.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any, NamedTuple

import numpy as np

from unispeech.decode.nbest import Hypothesis


class _Prefix(NamedTuple):
    """The first words of a sentence, and every state where the lattice may be after them.

    Attributes:
        words: labels so far, the final one included.
        states: (S,) different states.
        scores, lm: (S,) of the best path to each.
    """

    words: tuple[int, ...]
    states: Any
    scores: Any
    lm: Any


class WordLattice:
    """The word sequences of one utterance.

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
            self._fsa = self._without_epsilons(words)

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
        self._fsa = self._without_epsilons(both)

    def nbest(self, count: int) -> list[Hypothesis]:
        """The best different word sequences, best first.

        A* search over the first words of sentences, determinized as far as it comes, with the
        exact score of what is left.
        """
        fsa = self._fsa
        if not fsa.num_arcs:
            return []
        arcs = self._k2.utils.to_tensor(fsa).numpy()
        last = int(arcs[:, 1].max())
        first = np.searchsorted(arcs[:, 0], np.arange(last + 2))
        weights = fsa.scores.double().numpy(), fsa.lm_scores.double().numpy()
        left = self._k2.create_fsa_vec([fsa]).get_backward_scores(True, False).numpy()
        tie = itertools.count()
        start = _Prefix((), np.zeros(1, np.int64), np.zeros(1), np.zeros(1))
        heap: list[tuple[float, int, _Prefix]] = [(-left[0], 0, start)]
        found: list[Hypothesis] = []
        while heap and len(found) < count:
            prefix = heapq.heappop(heap)[2]
            if prefix.words and prefix.words[-1] == -1:
                found.append(self._hypothesis(prefix))
                continue
            for following in _expand(prefix, arcs, first, *weights):
                estimate = float((following.scores + left[following.states]).max())
                if estimate > -np.inf:
                    heapq.heappush(heap, (-estimate, next(tie), following))
        return found

    def _hypothesis(self, prefix: _Prefix) -> Hypothesis:
        words, lm = prefix.words[:-1], float(prefix.lm[0])
        rest = self._lm_scale * lm + self._word_insertion * len(words)
        return Hypothesis(words, float(prefix.scores[0]) - rest, lm)

    def _without_epsilons(self, fsa: Any) -> Any:
        k2 = self._k2
        # Without arcs there is nothing to remove, and k2 refuses to.
        fsa = k2.connect(fsa)
        if fsa.num_arcs:
            fsa = k2.top_sort(k2.connect(k2.remove_epsilon(fsa)))
        return fsa


def _expand(prefix: _Prefix, arcs: Any, first: Any, scores: Any, lm: Any) -> list[_Prefix]:
    """The prefixes that are one word longer, each with the best path to each of its states."""
    begins, sizes = first[prefix.states], first[prefix.states + 1] - first[prefix.states]
    origin = np.repeat(np.arange(len(sizes)), sizes)
    # Arcs of one state lie together: from `begins` on, `sizes` of them.
    chosen = np.arange(len(origin)) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
    labels, states = arcs[chosen, 2], arcs[chosen, 1].astype(np.int64)
    total, total_lm = prefix.scores[origin] + scores[chosen], prefix.lm[origin] + lm[chosen]
    order = np.lexsort((-total, states, labels))
    labels, states = labels[order], states[order]
    best = np.ones(len(order), bool)
    best[1:] = (labels[1:] != labels[:-1]) | (states[1:] != states[:-1])
    order, labels, states = order[best], labels[best], states[best]
    bounds = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
    total, total_lm = total[order], total_lm[order]
    return [
        _Prefix((*prefix.words, int(labels[a])), states[a:b], total[a:b], total_lm[a:b])
        for a, b in zip(bounds[:-1], bounds[1:])  # noqa: B905 (Python 3.9)
        if b > a
    ]
