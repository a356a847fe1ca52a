"""The CPU back-end: kaldi-decoder's beam search and lattices on a graph of `graph.build_graph`."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unispeech.decode import lattice
from unispeech.decode.fst import ARC, Graph, make_graph, read_graph, write_graph
from unispeech.decode.lattice import Lattice
from unispeech.decode.nbest import Hypothesis
from unispeech.errors import DataError, DependencyError, NumericsError

Emission = npt.NDArray[np.float32]


class KaldiDecoder:
    """Best word sequences under acoustic scores, a scaled language model and a word bonus.

    The search for lattices has no limit on its active states: the beam alone bounds it. Memory is
    that of the graph and of one utterance.

    Args:
        lang: a language folder with `HLG.fst`.
        tokens: number of columns the emissions must have, the blank included.
        beam: hypotheses this much worse than the best (natural logarithm) are dropped.
        max_active: most states kept per frame; too few make a wide beam worse than a narrow one.
        min_active: states kept whatever the beam.
        lattice_beam: what is this much worse than the best path is not in a lattice.
        rescoring: a grammar of `graph.build_grammar`; lattices take its costs for the graph's.

    Raises:
        DependencyError: kaldi-decoder or kaldifst is missing.
        DataError: the graph has labels beyond the tokens, or its file is damaged.
    """

    name = "kaldi"
    batch = 1

    def __init__(
        self,
        lang: str | Path,
        tokens: int,
        beam: float = 14.0,
        max_active: int = 10000,
        min_active: int = 200,
        lattice_beam: float = 8.0,
        rescoring: Graph | None = None,
    ) -> None:
        try:
            self._kd = importlib.import_module("kaldi_decoder")
            self._kf = importlib.import_module("kaldifst")
        except ImportError as error:
            raise DependencyError(
                "the back-end 'kaldi' needs kaldi-decoder and kaldifst",
                found=error,
                remedy="pip install kaldi-decoder kaldifst",
            ) from None
        self._graph = _read_graph(Path(lang) / "HLG.fst", tokens)
        self._tokens = tokens
        self._options = self._kd.FasterDecoderOptions(
            beam=beam, max_active=max_active, min_active=min_active
        )
        # A lattice beam beyond the search's would promise hypotheses that the search dropped.
        self._lattice_beam = min(lattice_beam, beam)
        self._lattice_options = self._kd.LatticeSimpleDecoderConfig(
            beam=beam, lattice_beam=self._lattice_beam
        )
        self._scratch = tempfile.TemporaryDirectory(prefix="unispeech-lattice-")
        self._grammar = None if rescoring is None else self._load(rescoring)
        self.set_scales(1.0, 0.0)

    def set_scales(self, lm_scale: float, word_insertion: float) -> None:
        """Weigh the language model, and add `word_insertion` to the log score of every word."""
        self._scale, self._insertion = lm_scale, word_insertion
        graph = self._graph.scaled(lm_scale, -word_insertion)
        # Output labels are places of arcs, so that paths tell words and unscaled costs alike.
        graph.arcs["output"] = np.arange(1, len(graph.arcs) + 1)
        fst = self._load(graph)
        self._decoder = self._kd.FasterDecoder(fst, self._options)
        self._fst = fst  # the decoders only point to it

    def decode(self, emissions: Sequence[Emission]) -> list[tuple[list[int], float, bool]]:
        """Decode log-probabilities (frames, tokens), one array per utterance.

        Returns:
            For each utterance the word ids, the total log score, and whether the path ends
            where a sentence may end; when none does, the best unfinished one is given.

        Raises:
            NumericsError: the log-probabilities hold NaN.
            DataError: the number of columns is wrong.
        """
        if self._grammar is None:
            return [self._decode(log_probs) for log_probs in emissions]
        return [self._rescored(log_probs) for log_probs in emissions]

    def nbest(self, emissions: Sequence[Emission], count: int) -> list[list[Hypothesis]]:
        """Exact lists from lattices: different word sequences with their best paths' scores.

        Args:
            emissions: log-probabilities float32 (frames, tokens), one array per utterance.
            count: the most hypotheses for one utterance.

        Returns:
            The hypotheses of each utterance, best first; none where there are no frames.

        Raises:
            NumericsError: the log-probabilities hold NaN.
            DataError: the number of columns is wrong.
        """
        return [self._nbest(log_probs, count)[0] for log_probs in emissions]

    def lattice(self, log_probs: Emission) -> tuple[Lattice, bool]:
        """The lattice of one utterance, and whether a path ends where a sentence may end.

        Raises:
            NumericsError: the log-probabilities hold NaN.
            DataError: the number of columns is wrong.
        """
        self._check(log_probs)
        decoder = self._kd.LatticeSimpleDecoder(self._fst, self._lattice_options)
        decoder.decode(self._kd.DecodableCtc(np.ascontiguousarray(log_probs, np.float32)))
        is_final = bool(np.isfinite(decoder.final_relative_cost()))
        _, raw = decoder.get_raw_lattice()
        path = Path(self._scratch.name) / "lattice"
        raw.write(str(path))
        found = self._read_lattice(path, is_final)
        return (found if self._grammar is None else self._rescore(found)), is_final

    def _decode(self, log_probs: Emission) -> tuple[list[int], float, bool]:
        self._check(log_probs)
        if not len(log_probs):
            return [], 0.0, True
        decoder = self._decoder
        decoder.decode(self._kd.DecodableCtc(np.ascontiguousarray(log_probs, np.float32)))
        final = bool(decoder.reached_final())
        found, path = decoder.get_best_path()
        if not found:
            return [], float("-inf"), False
        _, _, arcs, weight = self._kf.get_linear_symbol_sequence(path)
        words = self._graph.arcs["output"][np.asarray(arcs, np.int64) - 1]
        return words[words > 0].tolist(), -(weight.value1 + weight.value2), final

    def _rescored(self, log_probs: Emission) -> tuple[list[int], float, bool]:
        found, is_final = self._nbest(log_probs, 1)
        if not found:
            return [], 0.0 if not len(log_probs) else float("-inf"), is_final
        words, acoustic, lm = found[0]
        total = acoustic + self._scale * lm + self._insertion * len(words)
        return list(words), total, is_final

    def _nbest(self, log_probs: Emission, count: int) -> tuple[list[Hypothesis], bool]:
        self._check(log_probs)
        if not len(log_probs):
            return [], True
        found, is_final = self.lattice(log_probs)
        scales = (self._scale, self._insertion)
        return lattice.nbest(found, count, self._lattice_beam, *scales), is_final

    def _read_lattice(self, path: Path, is_final: bool) -> Lattice:
        start, final, source, arcs = lattice.read_kaldi_lattice(path)
        used = self._graph.arcs[arcs["output"] - 1]
        following = arcs["next"].astype(np.int64)
        ends = np.where(np.isfinite(final).all(axis=1), 0.0, np.inf)
        if is_final:
            # All arcs into a state of the lattice lead to one state of the graph.
            cost = np.zeros(len(final))
            cost[following] = self._graph.states["final"][used["next"]]
            ends = np.where(np.isfinite(ends), cost, np.inf)
        return Lattice(
            start,
            source,
            following,
            used["output"].astype(np.int64),
            arcs["acoustic"].astype(np.float64),
            used["cost"].astype(np.float64),
            ends,
        )

    def _rescore(self, found: Lattice) -> Lattice:
        """The same paths with the costs of the other grammar."""
        pruned = lattice.prune(found, self._lattice_beam, self._scale, self._insertion)
        arcs = np.zeros(len(pruned.source), ARC)
        # Composition looks words up by bisection.
        order = np.lexsort((pruned.word, pruned.source))
        # Input labels are places of arcs: composition keeps them.
        arcs["input"] = order + 1
        arcs["output"] = pruned.word[order]
        arcs["next"] = pruned.next[order]
        final = np.where(np.isfinite(pruned.final), 0.0, np.inf)
        words = self._load(make_graph(pruned.start, final, pruned.source[order], arcs))
        composed = self._kf.compose(words, self._grammar)
        path = Path(self._scratch.name) / "composed"
        self._kf.StdConstFst(composed).write(str(path))
        graph = read_graph(path)
        place = graph.arcs["input"].astype(np.int64)
        # Back-off arcs of the grammar have no arc of the lattice.
        acoustic = np.append(0.0, pruned.acoustic)[place]
        return Lattice(
            graph.start,
            graph.source,
            graph.arcs["next"].astype(np.int64),
            graph.arcs["output"].astype(np.int64),
            acoustic,
            graph.arcs["cost"].astype(np.float64),
            graph.states["final"].astype(np.float64),
        )

    def _load(self, graph: Graph) -> Any:
        path = Path(self._scratch.name) / "graph"
        write_graph(graph, path)
        fst = self._kf.StdConstFst.read(str(path))
        path.unlink()
        return fst

    def _check(self, log_probs: Emission) -> None:
        if log_probs.ndim != 2 or log_probs.shape[1] != self._tokens:
            raise DataError(
                "the emissions do not fit the graph",
                expected=f"{self._tokens} columns",
                found=f"shape {log_probs.shape}",
            )
        if np.isnan(log_probs).any():
            # The decoder would give an empty result instead of an error.
            raise NumericsError("the log-probabilities hold NaN", remedy="run emit again")


def _read_graph(path: Path, tokens: int) -> Graph:
    try:
        graph = read_graph(path)
    except (OSError, ValueError) as error:
        raise DataError(
            "not a decoding graph", where=path, found=error, remedy="delete it and decode again"
        ) from None
    # The decoder reads beyond the emissions without a word when the graph has more labels.
    used = int(graph.arcs["input"].max(initial=0))
    if used > tokens:
        raise DataError(
            "the graph has more tokens than the emissions",
            where=path,
            expected=f"at most {tokens}",
            found=used,
            remedy="use the language folder that the model was trained with",
        )
    return graph
