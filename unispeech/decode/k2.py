"""The GPU back-end: k2's pruned intersection on a graph of `graph.build_graph`.

Imports torch, numpy and k2 alone and runs under Python 3.9, torch 1.13.1 and k2 1.23.4 as well
as under newer ones, so that decoding can happen in another environment than training. The search
runs in batches where the graph is; lattices are made small and are read on the CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unispeech.decode.fst import Graph
from unispeech.decode.nbest import Hypothesis
from unispeech.decode.word_lattice import WordLattice
from unispeech.errors import DataError, NumericsError
from unispeech.storage import atomic_path

Result = tuple[list[int], float, bool]

# A lattice with more arcs than this takes minutes and gigabytes: its beam becomes narrower.
MOST_ARCS = 20000

# Raise it when the same LG gives another graph.
CACHE_VERSION = 1


def available() -> bool:
    """Whether k2 can be imported here."""
    try:
        importlib.import_module("k2")
    except Exception:  # a k2 built for another torch fails in many ways
        return False
    return True


def version() -> str:
    """The version of k2 and that of the torch it runs with."""
    return f"{importlib.import_module('k2.version').__version__} with torch {torch.__version__}"


class K2Decoder:
    """Best word sequences under acoustic scores, a scaled language model and a word bonus.

    Args:
        lg: LG as `fst.read_graph` gives it: `start`, `states` and `arcs` in numpy.
        tokens: number of columns the emissions must have, the blank included.
        beam: hypotheses this much worse than the best (natural logarithm) are dropped.
        max_active: most states kept per frame.
        min_active: states kept whatever the beam.
        device: where to decode, "cuda" when there is one and nothing is given.
        rescoring: a grammar over the same words with epsilon on its back-off arcs; its costs
            replace those of LG's language model in the lattices.
        lattice_beam: paths this much worse than the best are not in the lattices.
        cache: file that keeps the composed graph for the next time; "" keeps none.

    Raises:
        ImportError: k2 is missing; the caller chooses what to say.
        DataError: the graph does not fit the tokens.
    """

    name = "k2"
    batch = 16

    def __init__(
        self,
        lg: Graph,
        tokens: int,
        beam: float = 14.0,
        max_active: int = 10000,
        min_active: int = 200,
        device: str = "",
        rescoring: Graph | None = None,
        lattice_beam: float = 8.0,
        cache: str | Path = "",
    ) -> None:
        self._k2 = importlib.import_module("k2")
        self._tokens = tokens
        self._beam, self._max_active, self._min_active = beam, max_active, min_active
        self._lattice_beam = min(lattice_beam, beam)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        graph = self._open(lg, Path(cache) if cache else None)
        graph.lm_scores = graph.scores.clone()
        graph.words_on_arc = self._count_words(graph)
        self._graph = graph.to(self.device)
        self._grammar = None if rescoring is None else self._sorted_grammar(rescoring)
        self.set_scales(1.0, 0.0)

    def set_scales(self, lm_scale: float, word_insertion: float) -> None:
        """Weigh the language model, and add `word_insertion` to the log score of every word."""
        self._scales = (lm_scale, word_insertion)
        graph = self._graph
        graph.scores = lm_scale * graph.lm_scores + word_insertion * graph.words_on_arc

    def decode(self, emissions: Sequence[Any]) -> list[Result]:
        """Decode log-probabilities float32 (frames, tokens), one numpy array per utterance.

        Returns:
            For each utterance the word ids, the total log score, and whether a path reached the
            end of a sentence; when none did, the words are empty.

        Raises:
            NumericsError: the log-probabilities hold NaN.
            DataError: the number of columns is wrong.
        """
        results: list[Result] = [([], 0.0, True) for _ in emissions]
        if self._grammar is not None:
            lm_scale, insertion = self._scales
            for i, found in enumerate(self.nbest(emissions, 1)):
                if found:
                    best_words, acoustic, lm = found[0]
                    score = acoustic + lm_scale * lm + insertion * len(best_words)
                    results[i] = (list(best_words), score, True)
                elif len(emissions[i]):
                    results[i] = ([], float("-inf"), False)
            return results
        order, dense = self._dense(emissions)
        if dense is None:
            return results
        # Of this lattice the best path is all that is read.
        best = self._k2.shortest_path(self._intersect(dense, 1.0), use_double_scores=True)
        scores = best.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
        for i, words, score in zip(order, self._words(best), scores):  # noqa: B905 (Python 3.9)
            results[i] = (words, score, score > float("-inf"))
        return results

    def nbest(self, emissions: Sequence[Any], count: int) -> list[list[Hypothesis]]:
        """The `count` best word sequences of each utterance, best first.

        They are exact within `lattice_beam`: each word sequence is there once, with its best path.

        Args:
            emissions: as in `decode`.
            count: most hypotheses of an utterance.

        Returns:
            The hypotheses, fewer where the lattice has fewer; none for an utterance without
            frames or without a path to the end of a sentence.

        Raises:
            NumericsError: the log-probabilities hold NaN.
            DataError: the number of columns is wrong.
        """
        results: list[list[Hypothesis]] = [[] for _ in emissions]
        order, dense = self._dense(emissions)
        if dense is None:
            return results
        lattices = self._intersect(dense, self._lattice_beam)
        for i, lattice in zip(order, self._pruned(lattices)):  # noqa: B905 (Python 3.9 again)
            words = WordLattice(self._k2, lattice, *self._scales)
            if self._grammar is not None:
                words.rescore(self._grammar)
            results[i] = words.nbest(count)
        return results

    def _dense(self, emissions: Sequence[Any]) -> tuple[list[int], Any]:
        """The utterances with frames, longest first, and k2's form of their emissions."""
        for log_probs in emissions:
            if log_probs.ndim != 2 or log_probs.shape[1] != self._tokens:
                raise DataError(
                    "the emissions do not fit the graph",
                    expected=f"{self._tokens} columns",
                    found=f"shape {log_probs.shape}",
                )
            if np.isnan(log_probs).any():
                raise NumericsError("the log-probabilities hold NaN", remedy="run emit again")
        order = [i for i, log_probs in enumerate(emissions) if len(log_probs)]
        order.sort(key=lambda i: -len(emissions[i]))
        if not order:
            return order, None
        padded = np.zeros((len(order), len(emissions[order[0]]), self._tokens), np.float32)
        segments = np.zeros((len(order), 3), np.int32)
        for row, i in enumerate(order):
            padded[row, : len(emissions[i])] = emissions[i]
            segments[row] = row, 0, len(emissions[i])
        log_probs = torch.from_numpy(padded).to(self.device)
        return order, self._k2.DenseFsaVec(log_probs, torch.from_numpy(segments))

    def _intersect(self, dense: Any, output_beam: float) -> Any:
        with torch.no_grad():
            return self._k2.intersect_dense_pruned(
                self._graph,
                dense,
                search_beam=self._beam,
                output_beam=output_beam,
                min_active_states=self._min_active,
                max_active_states=self._max_active,
            )

    def _pruned(self, lattices: Any) -> Iterator[Any]:
        """Each lattice with the arcs alone that lie on a path within the beam, on the CPU.

        The search prunes what lies behind it only roughly: nine of ten arcs lead nowhere.
        """
        k2, beam = self._k2, self._lattice_beam
        shape = lattices.arcs.shape()
        state = shape.row_ids(2).to(torch.int64)
        utterance = shape.row_ids(1).to(torch.int64)[state]
        arcs = lattices.arcs.values()
        following = arcs[:, 1] + shape.row_splits(1).to(torch.int64)[utterance]
        forward = lattices.get_forward_scores(use_double_scores=True, log_semiring=False)
        backward = lattices.get_backward_scores(use_double_scores=True, log_semiring=False)
        best = lattices.get_tot_scores(use_double_scores=True, log_semiring=False)[utterance]
        worse = best - (forward[state] + lattices.scores + backward[following])
        for row in range(lattices.shape[0]):
            mine = worse[utterance == row]
            offset = int((utterance < row).sum())
            # Neither where there is no path, nor what is not on one: infinite or not a number.
            chosen = torch.nonzero(mine <= beam).flatten()
            if len(chosen) > MOST_ARCS:
                chosen = torch.nonzero(mine <= torch.sort(mine).values[MOST_ARCS]).flatten()
            chosen += offset
            rows = arcs[chosen].cpu()
            _, ends = torch.unique(rows[:, :2], return_inverse=True)
            rows[:, :2] = ends.to(torch.int32)
            lattice = k2.Fsa(rows.contiguous())
            labels = lattices.aux_labels
            if isinstance(labels, k2.RaggedTensor):
                labels, _ = labels.index(chosen.to(torch.int32), axis=0)
                lattice.aux_labels = labels.to("cpu")
            else:
                lattice.aux_labels = labels[chosen].cpu()
            lattice.lm_scores = lattices.lm_scores[chosen].cpu()
            yield lattice

    def _words(self, best: Any) -> list[list[int]]:
        k2, labels = self._k2, best.aux_labels
        if isinstance(labels, k2.RaggedTensor):
            labels = labels.remove_values_leq(0)
            shape = best.arcs.shape().compose(labels.shape).remove_axis(1).remove_axis(1)
            labels = k2.RaggedTensor(shape, labels.values)
        else:
            shape = best.arcs.shape().remove_axis(1)
            labels = k2.RaggedTensor(shape, labels.contiguous()).remove_values_leq(0)
        found: list[list[int]] = labels.tolist()
        return found

    def _open(self, lg: Graph, cache: Path | None) -> Any:
        """The composed graph, from the cache when that was made of the same LG."""
        digest = hashlib.sha256(f"{CACHE_VERSION} {self._tokens} {lg.start} ".encode())
        digest.update(np.ascontiguousarray(lg.states).tobytes())
        digest.update(np.ascontiguousarray(lg.arcs).tobytes())
        key = digest.hexdigest()
        if cache is not None:
            broken = (OSError, ValueError, KeyError, zipfile.BadZipFile)
            with contextlib.suppress(*broken), np.load(cache, allow_pickle=False) as stored:
                if str(stored["key"]) == key:
                    return self._restore(stored)
        graph = self._compose(lg)
        if cache is not None:
            arrays = {"key": np.array(key), "arcs": self._k2.utils.to_tensor(graph).numpy()}
            labels = graph.aux_labels
            if isinstance(labels, self._k2.RaggedTensor):
                arrays["ends"] = labels.shape.row_splits(1).numpy()
                labels = labels.values
            # A folder that cannot be written costs the composition each time, nothing else.
            with contextlib.suppress(OSError), atomic_path(cache) as temporary:
                np.savez(temporary, labels=labels.numpy(), **arrays)
        return graph

    def _restore(self, stored: Any) -> Any:
        k2 = self._k2
        labels = torch.from_numpy(stored["labels"])
        if "ends" in stored:
            ends = torch.from_numpy(stored["ends"])
            shape = k2.ragged.create_ragged_shape2(ends, None, labels.numel())
            labels = k2.RaggedTensor(shape, labels)
        return k2.Fsa(torch.from_numpy(stored["arcs"]), aux_labels=labels)

    def _compose(self, lg: Graph) -> Any:
        k2 = self._k2
        inputs = lg.arcs["input"]
        if np.any(inputs == 1):
            raise DataError("the blank is in the lexicon", remedy="run local/prepare_lang.py again")
        # Token ids; disambiguation symbols, which come after the tokens, become epsilon.
        labels = np.where(inputs > self._tokens, 0, np.maximum(inputs - 1, 0))
        fsa = _fsa(k2, lg, labels)
        fsa = k2.connect(k2.remove_epsilon(k2.connect(fsa)))
        if isinstance(fsa.aux_labels, k2.RaggedTensor):
            fsa.aux_labels = fsa.aux_labels.remove_values_eq(0)
        topology = k2.ctc_topo(self._tokens - 1, modified=False)
        return k2.arc_sort(k2.connect(k2.compose(topology, k2.arc_sort(fsa))))

    def _sorted_grammar(self, grammar: Graph) -> Any:
        fsa = _fsa(self._k2, grammar, grammar.arcs["input"])
        del fsa.aux_labels
        fsa.lm_scores = fsa.scores.clone()
        return self._k2.arc_sort(fsa)

    def _count_words(self, graph: Any) -> Any:
        labels = graph.aux_labels
        if isinstance(labels, self._k2.RaggedTensor):
            counts = torch.zeros_like(graph.scores)
            arc = labels.shape.row_ids(1).to(torch.int64)
            return counts.index_add_(0, arc, (labels.values > 0).to(counts.dtype))
        return (labels > 0).to(graph.scores.dtype)


def _fsa(k2: Any, graph: Graph, labels: Any) -> Any:
    """A k2.Fsa of a graph with other input labels: state 0 starts, arcs to the last one end."""
    count = len(graph.states)
    number = np.arange(count, dtype=np.int64)
    number[number <= graph.start] += 1
    number[graph.start] = 0
    source = np.repeat(number, graph.states["arcs"].astype(np.int64))
    final = np.flatnonzero(np.isfinite(graph.states["final"]))
    size = len(source) + len(final)
    rows = np.empty((size, 4), np.int32)
    rows[:, 0] = np.concatenate([source, number[final]])
    rows[:, 1] = np.concatenate([number[graph.arcs["next"]], np.full(len(final), count)])
    rows[:, 2] = np.concatenate([labels, np.full(len(final), -1)])
    cost = np.concatenate([graph.arcs["cost"], graph.states["final"][final]]).astype(np.float32)
    rows[:, 3] = (-cost).view(np.int32)
    output = np.concatenate([graph.arcs["output"], np.full(len(final), -1)]).astype(np.int32)
    order = np.argsort(rows[:, 0], kind="stable")
    aux_labels = torch.from_numpy(output[order])
    return k2.Fsa(torch.from_numpy(rows[order]), aux_labels=aux_labels)
