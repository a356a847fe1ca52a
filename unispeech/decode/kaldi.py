"""The CPU back-end: kaldi-decoder's Viterbi beam search on a graph of `graph.build_graph`."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unispeech.decode.fst import read_graph, write_graph
from unispeech.errors import DataError, DependencyError, NumericsError


class KaldiDecoder:
    """Best word sequences under acoustic scores, a scaled language model and a word bonus.

    Args:
        lang: a language folder with `HLG.fst`.
        tokens: number of columns the emissions must have, the blank included.
        beam: hypotheses this much worse than the best (natural logarithm) are dropped.
        max_active: most states kept per frame; too few make a wide beam worse than a narrow one.
        min_active: states kept whatever the beam.

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
        path = Path(lang) / "HLG.fst"
        try:
            self._graph = read_graph(path)
        except (OSError, ValueError) as error:
            raise DataError(
                "not a decoding graph", where=path, found=error, remedy="delete it and decode again"
            ) from None
        # The decoder reads beyond the emissions without a word when the graph has more labels.
        used = int(self._graph.arcs["input"].max(initial=0))
        if used > tokens:
            raise DataError(
                "the graph has more tokens than the emissions",
                where=path,
                expected=f"at most {tokens}",
                found=used,
                remedy="use the language folder that the model was trained with",
            )
        self._tokens = tokens
        self._options = self._kd.FasterDecoderOptions(
            beam=beam, max_active=max_active, min_active=min_active
        )
        self.set_scales(1.0, 0.0)

    def set_scales(self, lm_scale: float, word_insertion: float) -> None:
        """Weigh the language model, and add `word_insertion` to the log score of every word."""
        graph = self._graph.scaled(lm_scale, -word_insertion)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "HLG.fst"
            write_graph(graph, path)
            fst: Any = self._kf.StdConstFst.read(str(path))
        self._decoder = self._kd.FasterDecoder(fst, self._options)
        self._fst = fst  # the decoder only points to it

    def decode(
        self, emissions: Sequence[npt.NDArray[np.float32]]
    ) -> list[tuple[list[int], float, bool]]:
        """Decode log-probabilities (frames, tokens), one array per utterance.

        Returns:
            For each utterance the word ids, the total log score, and whether the path ends
            where a sentence may end; when none does, the best unfinished one is given.

        Raises:
            NumericsError: the log-probabilities hold NaN.
            DataError: the number of columns is wrong.
        """
        return [self._decode(log_probs) for log_probs in emissions]

    def _decode(self, log_probs: npt.NDArray[np.float32]) -> tuple[list[int], float, bool]:
        if log_probs.ndim != 2 or log_probs.shape[1] != self._tokens:
            raise DataError(
                "the emissions do not fit the graph",
                expected=f"{self._tokens} columns",
                found=f"shape {log_probs.shape}",
            )
        if np.isnan(log_probs).any():
            # The decoder would give an empty result instead of an error.
            raise NumericsError("the log-probabilities hold NaN", remedy="run emit again")
        if not len(log_probs):
            return [], 0.0, True
        decoder = self._decoder
        decoder.decode(self._kd.DecodableCtc(np.ascontiguousarray(log_probs, np.float32)))
        final = bool(decoder.reached_final())
        found, path = decoder.get_best_path()
        if not found:
            return [], float("-inf"), False
        _, _, words, weight = self._kf.get_linear_symbol_sequence(path)
        return list(words), -(weight.value1 + weight.value2), final
