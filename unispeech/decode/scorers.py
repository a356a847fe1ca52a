"""Language models as scorers of sentences: n-grams by KenLM, Transformers by torch."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch

from unispeech.data.text import pad
from unispeech.data.vocabulary import PADDING, UNKNOWN, Vocabulary
from unispeech.errors import DataError, DependencyError, NumericsError
from unispeech.models.language_model import LanguageModel
from unispeech.storage import sha256

BATCH_UNITS = 2048
"""Units of one batch of a Transformer, padding included."""


class SentenceScore(NamedTuple):
    """Log-probability of one sentence and its end."""

    total: float
    """Natural logarithm, unknown words as the model's own unknown word."""
    known: float
    """The same without the terms of unknown words."""
    words: int
    unknown: int


class TextPerplexity(NamedTuple):
    """Perplexity of a text; sentence ends count as words."""

    value: float
    """With unknown words, each as likely as the model's unknown word."""
    known: float
    """Without them: they are left out of both the sum and the count, not out of the history."""
    words: int
    """Running words, without sentence ends."""
    unknown: int
    sentences: int


class Scorer(Protocol):
    """A language model that scores whole sentences."""

    name: str
    sha256: str

    def score(self, sentences: Sequence[str]) -> list[float]:
        """The ln P(words and end | begin) of each sentence; words are split at blanks."""
        ...

    def score_words(self, sentences: Sequence[str]) -> list[SentenceScore]:
        """The same with what unknown words have in it."""
        ...


def open_scorer(path: str | Path, device: str | torch.device | None = None) -> Scorer:
    """Open a language model.

    Args:
        path: an ARPA file (also gzip) or a binary file of KenLM; or a folder or checkpoint that
            `unispeech.hub.language_model.load_language_model` reads.
        device: of a Transformer; None takes a GPU where there is one.

    Raises:
        DataError: there is no language model, or a damaged one.
        DependencyError: an n-gram model, and kenlm is missing.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(
            "no such language model",
            where=path,
            expected="an ARPA file, or an experiment folder of `lm`",
            remedy="check the path",
        )
    # Imported only here: n-grams need no torch.hub layer.
    from unispeech.hub.language_model import is_language_model_file, load_language_model

    if not is_language_model_file(path):
        return NgramScorer(path)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_language_model(path, device or default)
    return TransformerScorer(loaded.model, loaded.vocabulary, loaded.sha256)


def perplexity(scorer: Scorer, sentences: Iterable[str]) -> TextPerplexity:
    """Perplexity of a text, on the same definition for every model.

    It is `exp(-ln P / (words + sentences))`; KenLM's `query` prints both values too.
    """
    scores = scorer.score_words(list(sentences))
    words, unknown = sum(s.words for s in scores), sum(s.unknown for s in scores)
    total, known = math.fsum(s.total for s in scores), math.fsum(s.known for s in scores)
    places = words + len(scores)
    return TextPerplexity(
        value=_exponential(total, places),
        known=_exponential(known, places - unknown),
        words=words,
        unknown=unknown,
        sentences=len(scores),
    )


def _exponential(logarithm: float, count: int) -> float:
    if not count:
        return math.nan
    power = -logarithm / count
    return math.exp(power) if power < 700 else math.inf


class NgramScorer:
    """An n-gram model in KenLM.

    Args:
        path: ARPA file, plain or gzip, or a binary file of KenLM.

    Raises:
        DataError: KenLM cannot read it.
        DependencyError: kenlm is missing.
    """

    def __init__(self, path: str | Path) -> None:
        kenlm = _kenlm()
        settings = kenlm.Config()
        settings.show_progress = False
        settings.arpa_complain = kenlm.ARPALoadComplain.NONE
        try:
            self._model: Any = kenlm.Model(str(path), settings)
        except (OSError, RuntimeError) as error:
            raise DataError(
                "not an n-gram model, or not a whole one",
                where=path,
                expected="an ARPA file (also .gz) or a binary file of KenLM",
                found=_reason(error),
                remedy="copy it again, or have one estimated by local/prepare_lang.py",
            ) from None
        self.name = f"{self._model.order}-gram"
        self.sha256 = sha256(path)

    def score(self, sentences: Sequence[str]) -> list[float]:
        """The ln P of each sentence and its end."""
        ten = math.log(10)
        return [ten * self._model.score(_joined(s), bos=True, eos=True) for s in sentences]

    def score_words(self, sentences: Sequence[str]) -> list[SentenceScore]:
        """The ln P of each sentence, and what unknown words have in it."""
        return [self._score_words(_joined(sentence)) for sentence in sentences]

    def _score_words(self, sentence: str) -> SentenceScore:
        entries = list(self._model.full_scores(sentence, bos=True, eos=True))
        total, known = (
            math.log(10) * math.fsum(log10 for log10, _, is_oov in entries if all_of or not is_oov)
            for all_of in (True, False)
        )
        unknown = sum(is_oov for _, _, is_oov in entries)
        return SentenceScore(total, known, len(entries) - 1, unknown)


class TransformerScorer:
    """A Transformer over batches of sentences of similar lengths; equal sentences are scored once.

    Args:
        model: in evaluation mode, on its device.
        vocabulary: its units.
        sha256: of its files.
        batch_units: units of one batch, padding included.
    """

    name = "transformer"

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        sha256: str,
        batch_units: int = BATCH_UNITS,
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.sha256 = sha256
        self.batch_units = batch_units
        self._known: dict[str, SentenceScore] = {}

    def score(self, sentences: Sequence[str]) -> list[float]:
        """The ln P of each sentence and its end."""
        return [score.total for score in self.score_words(sentences)]

    def score_words(self, sentences: Sequence[str]) -> list[SentenceScore]:
        """The ln P of each sentence, and what words with unknown units have in it."""
        keys = [_joined(sentence) for sentence in sentences]
        new = {key: self.vocabulary.encode_words(key) for key in keys if key not in self._known}
        pending = sorted(new, key=lambda key: sum(map(len, new[key])))
        batch: list[str] = []
        for key in pending:
            size = sum(map(len, new[key])) + 1
            if batch and size * (len(batch) + 1) > self.batch_units:
                self._add({name: new[name] for name in batch})
                batch = []
            batch.append(key)
        if batch:
            self._add({name: new[name] for name in batch})
        return [self._known[key] for key in keys]

    def _add(self, sentences: dict[str, list[list[int]]]) -> None:
        units = [[unit for word in words for unit in word] for words in sentences.values()]
        tokens, targets = pad(units)
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            scores = self.model(tokens.to(device), targets.to(device)).double().cpu()
        lengths = (targets != PADDING).sum(1).tolist()
        for (key, words), row, length in zip(sentences.items(), scores, lengths, strict=True):
            values = row[:length].tolist()
            if not all(map(math.isfinite, values)):
                raise NumericsError(
                    "the language model gives a probability that is not finite",
                    where=f"sentence '{key[:80]}'",
                    remedy="take an earlier checkpoint, or another language model",
                )
            self._known[key] = _sum_up(values, words)


def _sum_up(values: Sequence[float], words: Sequence[Sequence[int]]) -> SentenceScore:
    unknown, place = 0, 0
    left_out: list[float] = []
    for word in words:
        if UNKNOWN in word:
            unknown += 1
            left_out += values[place : place + len(word)]
        place += len(word)
    total = math.fsum(values)
    return SentenceScore(total, total - math.fsum(left_out), len(words), unknown)


def _joined(sentence: str) -> str:
    return " ".join(sentence.split())


def _reason(error: Exception) -> str:
    # "Cannot read model '...' (... threw ... . what)"
    text = " ".join(str(error).split())
    return text.partition(" (")[2].rstrip(")")[-160:] or text[:160]


def _kenlm() -> ModuleType:
    try:
        return importlib.import_module("kenlm")
    except ImportError as error:
        raise DependencyError(
            "n-gram models are scored by kenlm",
            found=error,
            remedy="pip install kenlm (it needs a C++ compiler and cmake)",
        ) from None
