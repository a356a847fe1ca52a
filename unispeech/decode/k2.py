"""The GPU back-end: k2's pruned intersection on a graph of `graph.build_graph`.

Imports torch, numpy and k2 alone and runs under Python 3.9, torch 1.13.1 and k2 1.23.4 as well
as under newer ones, so that decoding can happen in another environment than training.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

Result = tuple[list[int], float, bool]


def available() -> bool:
    """Whether k2 can be imported here."""
    try:
        importlib.import_module("k2")
    except Exception:  # a k2 built for another torch fails in many ways
        return False
    return True


class K2Decoder:
    """Best word sequences under acoustic scores, a scaled language model and a word bonus.

    Args:
        lg: LG as `fst.read_graph` gives it: `start`, `states` and `arcs` in numpy.
        tokens: number of columns the emissions must have, the blank included.
        beam: hypotheses this much worse than the best (natural logarithm) are dropped.
        max_active: most states kept per frame.
        min_active: states kept whatever the beam.
        device: where to decode, "cuda" when there is one and nothing is given.

    Raises:
        ImportError: k2 is missing; the caller chooses what to say.
        ValueError: the graph has labels beyond the tokens.
    """

    name = "k2"
    batch = 16

    def __init__(
        self,
        lg: Any,
        tokens: int,
        beam: float = 14.0,
        max_active: int = 10000,
        min_active: int = 200,
        device: str = "",
    ) -> None:
        self._k2 = importlib.import_module("k2")
        self._tokens = tokens
        self._beam, self._max_active, self._min_active = beam, max_active, min_active
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._graph = self._compose(lg).to(self._device)
        self._lm_scores = self._graph.scores.clone()
        self._words_on_arc = self._count_words(self._graph)
        self.set_scales(1.0, 0.0)

    def set_scales(self, lm_scale: float, word_insertion: float) -> None:
        """Weigh the language model, and add `word_insertion` to the log score of every word."""
        self._graph.scores = lm_scale * self._lm_scores + word_insertion * self._words_on_arc

    def decode(self, emissions: Any) -> list[Result]:
        """Decode log-probabilities float32 (frames, tokens), one numpy array per utterance.

        Returns:
            For each utterance the word ids, the total log score, and whether a path reached the
            end of a sentence; when none did, the words are empty.

        Raises:
            ValueError: the log-probabilities hold NaN or have another number of columns.
        """
        results: list[Result] = [([], 0.0, True) for _ in emissions]
        order = sorted(
            (i for i, log_probs in enumerate(emissions) if len(log_probs)),
            key=lambda i: -len(emissions[i]),
        )
        if not order:
            return results
        padded = np.zeros((len(order), len(emissions[order[0]]), self._tokens), np.float32)
        segments = np.zeros((len(order), 3), np.int32)
        for row, i in enumerate(order):
            log_probs = emissions[i]
            if log_probs.ndim != 2 or log_probs.shape[1] != self._tokens:
                raise ValueError(f"shape {log_probs.shape}, expected (frames, {self._tokens})")
            if np.isnan(log_probs).any():
                raise ValueError("the log-probabilities hold NaN")
            padded[row, : len(log_probs)] = log_probs
            segments[row] = row, 0, len(log_probs)
        words, scores = self._search(torch.from_numpy(padded), torch.from_numpy(segments))
        for row, i in enumerate(order):
            results[i] = (words[row], scores[row], scores[row] > float("-inf"))
        return results

    def _search(self, log_probs: Any, segments: Any) -> tuple[list[list[int]], list[float]]:
        k2 = self._k2
        with torch.no_grad():
            lattice = k2.intersect_dense_pruned(
                self._graph,
                k2.DenseFsaVec(log_probs.to(self._device), segments),
                search_beam=self._beam,
                output_beam=1.0,  # the best path is all that is read
                min_active_states=self._min_active,
                max_active_states=self._max_active,
            )
            best = k2.shortest_path(lattice, use_double_scores=True)
            scores = best.get_tot_scores(use_double_scores=True, log_semiring=False)
        labels = best.aux_labels
        if isinstance(labels, k2.RaggedTensor):
            labels = labels.remove_values_leq(0)
            shape = best.arcs.shape().compose(labels.shape).remove_axis(1).remove_axis(1)
            labels = k2.RaggedTensor(shape, labels.values)
        else:
            shape = best.arcs.shape().remove_axis(1)
            labels = k2.RaggedTensor(shape, labels.contiguous()).remove_values_leq(0)
        return labels.tolist(), scores.tolist()

    def _compose(self, lg: Any) -> Any:
        k2 = self._k2
        fsa = k2.Fsa.from_openfst(self._text(lg), acceptor=False)
        fsa = k2.connect(k2.remove_epsilon(k2.connect(fsa)))
        if isinstance(fsa.aux_labels, k2.RaggedTensor):
            fsa.aux_labels = fsa.aux_labels.remove_values_eq(0)
        topology = k2.ctc_topo(self._tokens - 1, modified=False)
        return k2.arc_sort(k2.connect(k2.compose(topology, k2.arc_sort(fsa))))

    def _text(self, lg: Any) -> str:
        """OpenFst text with k2's labels: token ids, and epsilon for disambiguation symbols."""
        arcs = lg.arcs
        source = np.repeat(np.arange(len(lg.states)), lg.states["arcs"].astype(np.int64))
        label = np.where(arcs["input"] > self._tokens, 0, arcs["input"] - 1)
        label = np.maximum(label, 0)
        if np.any(arcs["input"] == 1):
            raise ValueError("the blank is in the lexicon")
        # k2 takes the state of the first line for the start.
        first = np.argsort(source != lg.start, kind="stable")
        rows = [
            f"{source[i]} {arcs['next'][i]} {label[i]} {arcs['output'][i]} {arcs['cost'][i]:.9g}"
            for i in first
        ]
        final = lg.states["final"]
        rows += [f"{state} {final[state]:.9g}" for state in np.flatnonzero(np.isfinite(final))]
        return "\n".join(rows) + "\n"

    def _count_words(self, graph: Any) -> Any:
        labels = graph.aux_labels
        if isinstance(labels, self._k2.RaggedTensor):
            counts = torch.zeros_like(graph.scores)
            arc = labels.shape.row_ids(1).to(torch.int64)
            return counts.index_add_(0, arc, (labels.values > 0).to(counts.dtype))
        return (labels > 0).to(graph.scores.dtype)
