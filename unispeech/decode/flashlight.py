"""The beam search of the papers: flashlight-text's lexicon decoder with a KenLM model.

Hypotheses are kept by number, not by the states of a graph, so it searches with models that are
too large for one; homophones beyond six and spellings without a boundary are beyond it.

Source: Collobert et al. 2016, "Wav2Letter", section 2.3, for the search.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from unispeech.decode.graph import BOUNDARY, Language
from unispeech.decode.nbest import Hypothesis
from unispeech.errors import DataError, DependencyError, NumericsError

Emission = npt.NDArray[np.float32]

_NEVER = -1.0e4
_LN10 = math.log(10.0)


class FlashlightDecoder:
    """Best word sequences under acoustic scores, a scaled n-gram model and a word bonus.

    As in the graphs, an utterance may begin with a boundary and may lack the one at its end.

    Args:
        language: tokens, words and lexicon; every spelling ends with the boundary.
        arpa: the language model: ARPA, also as .gz, or a binary of KenLM.
        tokens: number of columns the emissions must have, the blank included.
        beam_size: hypotheses kept after each frame.
        beam_size_token: the most probable tokens of a frame are tried; 0 tries all.
        beam_threshold: hypotheses this much worse than the best are dropped.

    Raises:
        DependencyError: flashlight-text or kenlm is missing.
        DataError: the model is damaged, or the lexicon is of a kind that the search cannot use.
    """

    name = "flashlight"
    batch = 1

    def __init__(
        self,
        language: Language,
        arpa: str | Path,
        tokens: int,
        beam_size: int = 1500,
        beam_size_token: int = 0,
        beam_threshold: float = 25.0,
    ) -> None:
        self._text = _package()
        self._tokens = tokens
        self._boundary = _boundary(language, tokens)
        self._limits = (beam_size, beam_size_token or tokens, beam_threshold)
        entries = sorted({word for word, _ in language.lexicon}, key=language.words.__getitem__)
        self._ids = [language.words[word] for word in entries]
        self._lm = self._open_model(Path(arpa), entries)
        self._trie = self._spellings(language, entries)
        self.set_scales(1.0, 0.0)

    def set_scales(self, lm_scale: float, word_insertion: float) -> None:
        """Weigh the language model, and add `word_insertion` to the log score of every word."""
        self._scale, self._insertion = lm_scale, word_insertion
        options = self._text.LexiconDecoderOptions(
            *self._limits,
            lm_scale * _LN10,  # KenLM's scores are log10
            word_insertion,
            -math.inf,  # the unknown word is never output
            0.0,
            False,
            self._text.CriterionType.CTC,
        )
        self._decoder = self._text.LexiconDecoder(
            options, self._trie, self._lm, self._boundary, 0, -1, [], False
        )

    def decode(self, emissions: Sequence[Emission]) -> list[tuple[list[int], float, bool]]:
        """Decode log-probabilities (frames, tokens), one array per utterance.

        Returns:
            For each utterance the word ids, the total log score, and whether the path ends with
            a whole word; when none does, the best unfinished one is given.

        Raises:
            NumericsError: the log-probabilities hold NaN.
            DataError: the number of columns is wrong.
        """
        results: list[tuple[list[int], float, bool]] = []
        for log_probs in emissions:
            found = self._search(log_probs)
            if not len(log_probs):
                results.append(([], 0.0, True))
            elif not found:
                results.append(([], -math.inf, False))
            else:
                results.append((self._words(found[0]), float(found[0].score), _is_whole(found[0])))
        return results

    def nbest(self, emissions: Sequence[Emission], count: int) -> list[list[Hypothesis]]:
        """At most `count` different word sequences of each utterance, best first.

        They are what the beam holds at the end: fewer and worse than a lattice's when it is small.

        Raises:
            NumericsError: the log-probabilities hold NaN.
            DataError: the number of columns is wrong.
        """
        lists = []
        for log_probs in emissions:
            best: dict[tuple[int, ...], Hypothesis] = {}
            for one in self._search(log_probs):
                words = tuple(self._words(one))
                if words not in best:
                    acoustic = float(one.emittingModelScore)
                    best[words] = Hypothesis(words, acoustic, float(one.lmScore) * _LN10)
                if len(best) == count:
                    break
            lists.append(list(best.values()))
        return lists

    def _search(self, log_probs: Emission) -> list[Any]:
        if log_probs.ndim != 2 or log_probs.shape[1] != self._tokens:
            raise DataError(
                "the emissions do not fit the language folder",
                expected=f"{self._tokens} columns",
                found=f"shape {log_probs.shape}",
            )
        if np.isnan(log_probs).any():
            raise NumericsError("the log-probabilities hold NaN", remedy="run emit again")
        if not len(log_probs):
            return []
        # One frame more, in which a boundary is free: a word may lack it at the end.
        end = np.full((1, self._tokens), _NEVER, np.float32)
        end[0, [0, self._boundary]] = 0.0
        frames = np.ascontiguousarray(np.concatenate([log_probs.astype(np.float32), end]))
        found: list[Any] = self._decoder.decode(frames.ctypes.data, *frames.shape)
        return found

    def _words(self, result: Any) -> list[int]:
        return [self._ids[word] for word in result.words if word >= 0]

    def _open_model(self, path: Path, entries: list[str]) -> Any:
        if not path.is_file():
            raise DataError("no such file", where=path)
        dictionary = importlib.import_module("flashlight.lib.text.dictionary").Dictionary(entries)
        kenlm = importlib.import_module("flashlight.lib.text.decoder.kenlm")
        try:
            with _quiet():
                return kenlm.KenLM(str(path), dictionary)
        except RuntimeError as error:
            raise DataError(
                "not a language model that KenLM reads",
                where=path,
                found=str(error).rpartition(" because ")[2],
                remedy="give a whole ARPA file",
            ) from None

    def _spellings(self, language: Language, entries: list[str]) -> Any:
        number = {token: place for place, token in enumerate(language.tokens)}
        place = {word: index for index, word in enumerate(entries)}
        trie = self._text.Trie(self._tokens, self._boundary)
        start = self._lm.start(False)
        for word, spelling in language.lexicon:
            _, score = self._lm.score(start, place[word])
            try:
                trie.insert([number[token] for token in spelling], place[word], score)
            except Exception as error:  # the binding's own class
                raise DataError(
                    f"'{word}' does not fit into the lexicon's tree",
                    found=error,
                    expected="at most six words with one spelling",
                    remedy="use the back-end kaldi or k2",
                ) from None
        trie.smear(self._text.SmearingMode.MAX)
        return trie


def _boundary(language: Language, tokens: int) -> int:
    if len(language.tokens) != tokens:
        raise DataError(
            "the emissions do not fit the language folder",
            expected=f"{len(language.tokens)} columns",
            found=tokens,
            remedy="use the language folder that the model was trained with",
        )
    open_ended = next((word for word, s in language.lexicon if s[-1] != BOUNDARY), None)
    if open_ended is not None:
        raise DataError(
            f"the back-end 'flashlight' needs spellings that end with {BOUNDARY}",
            where="lexicon.txt",
            found=f"'{open_ended}' without",
            remedy="use the back-end kaldi or k2",
        )
    return language.tokens.index(BOUNDARY)


def _is_whole(result: Any) -> bool:
    """Whether nothing but blanks and boundaries follows the last word."""
    words = np.asarray(result.words)
    tokens = np.asarray(result.tokens)
    after = int(np.flatnonzero(words >= 0)[-1]) + 1 if (words >= 0).any() else 0
    # The first and the last token are the boundary, which `decode` puts around every path.
    return bool(np.isin(tokens[after:], [0, tokens[0]]).all())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # KenLM draws its progress on file descriptor 2, past sys.stderr.
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _package() -> ModuleType:
    try:
        importlib.import_module("kenlm")
        return importlib.import_module("flashlight.lib.text.decoder")
    except ImportError as error:
        raise DependencyError(
            "the back-end 'flashlight' needs flashlight-text and kenlm",
            found=error,
            remedy="pip install '.[flashlight]' in the root of the repository",
        ) from None
