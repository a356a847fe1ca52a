"""Chooses a back-end and runs it over the stored emissions of a set."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pydantic

from unispeech.config import Config
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.fst import read_graph
from unispeech.decode.graph import Language
from unispeech.decode.greedy import greedy
from unispeech.decode.nbest import Hypothesis
from unispeech.errors import DataError, DependencyError

Backend = Literal["auto", "kaldi", "k2"]
Emission = npt.NDArray[np.float32]


class SearchConfig(Config):
    """The beam search and its scores: log P(audio) + lm_scale ln P(words) + word_insertion.

    wav2vec 2.0 (Baevski et al. 2020, appendix B) decodes fine-tuned models with a 4-gram weight
    of 2 on log10 probabilities, which is 2 / ln 10 = 0.87 on natural ones, and a word score of
    -1; both are the defaults here and are meant to be tuned on a development set.

    Attributes:
        beam: hypotheses this much worse than the best (natural logarithm) are dropped; below 14
            search errors appear.
        max_active: most states kept per frame; too few make a wide beam worse.
        min_active: states kept whatever the beam.
        lm_scale: weight of the natural logarithm of the language model's probability.
        word_insertion: added to the log score for every word.
    """

    beam: float = pydantic.Field(default=14.0, gt=0, le=1000)
    max_active: int = pydantic.Field(default=10000, ge=1)
    min_active: int = pydantic.Field(default=200, ge=0)
    lm_scale: float = pydantic.Field(default=0.87, ge=0, le=20)
    word_insertion: float = pydantic.Field(default=-1.0, ge=-50, le=50)


class Decoder(Protocol):
    """What the back-ends have in common; see `kaldi.KaldiDecoder`."""

    name: str
    batch: int

    def set_scales(self, lm_scale: float, word_insertion: float) -> None:
        """Weigh the language model and the number of words."""

    def decode(self, emissions: Sequence[Emission]) -> list[tuple[list[int], float, bool]]:
        """Word ids, log score and whether a sentence end was reached, for each utterance."""

    def nbest(self, emissions: Sequence[Emission], count: int) -> list[list[Hypothesis]]:
        """At most `count` different word sequences of each utterance, best first."""


class Decoded(NamedTuple):
    """The words of a set.

    Attributes:
        text: words by utterance.
        seconds: time spent searching.
        not_final: utterances whose path stops where no sentence may end.
    """

    text: dict[str, str]
    seconds: float
    not_final: list[str]


def choose_backend(name: Backend) -> str:
    """Name the back-end; "auto" is k2 where CUDA is there and k2 imports, else kaldi.

    Raises:
        DependencyError: k2 was asked for by name and cannot be imported.
    """
    from unispeech.decode import k2_process

    if name == "kaldi" or (name == "auto" and not _k2_imports()):
        return "kaldi"
    if name == "auto":
        import torch

        return "k2" if torch.cuda.is_available() else "kaldi"
    if not _k2_imports() and k2_process.find_python() is None:
        raise DependencyError(
            "the back-end 'k2' was asked for, but k2 cannot be imported and has no environment",
            remedy=f"{k2_process.SETUP}, or use --backend kaldi",
        )
    return name


def open_decoder(backend: str, lang: str | Path, tokens: int, search: SearchConfig) -> Decoder:
    """A back-end on the graph of a language folder, with the scales of `search`.

    Raises:
        DependencyError: a package of the back-end is missing.
        DataError: the graph is damaged or does not fit the emissions.
    """
    decoder: Decoder
    if backend == "k2":
        path = Path(lang) / "LG.fst"
        try:
            lg = read_graph(path)
        except (OSError, ValueError) as error:
            raise DataError("not a decoding graph", where=path, found=error) from None
        sizes = (search.beam, search.max_active, search.min_active)
        decoder = _k2_back_end()(lg, tokens, *sizes, cache=Path(lang) / "HLG.k2.npz")
    else:
        from unispeech.decode.kaldi import KaldiDecoder

        decoder = KaldiDecoder(lang, tokens, search.beam, search.max_active, search.min_active)
    decoder.set_scales(search.lm_scale, search.word_insertion)
    return decoder


def _k2_imports() -> bool:
    # Without any k2 there is no need to import torch, which takes longer than decoding often does.
    if importlib.util.find_spec("k2") is None:
        return False
    from unispeech.decode import k2

    return k2.available()


def _k2_back_end() -> Any:
    if _k2_imports():
        from unispeech.decode.k2 import K2Decoder

        return K2Decoder
    from unispeech.decode.k2_process import K2Process

    return K2Process


def check_tokens(reader: EmissionReader, language: Language) -> None:
    """Make sure that emissions and graph number the same tokens in the same way.

    Raises:
        DataError: they do not.
    """
    if reader.tokens == language.tokens:
        return
    pairs = zip(reader.tokens, language.tokens, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    both = (len(language.tokens), len(reader.tokens))
    raise DataError(
        "the emissions and the language folder have different tokens",
        where=reader.folder,
        expected=f"{both[0]} tokens" if place is None else f"'{language.tokens[place]}'",
        found=f"{both[1]}" if place is None else f"'{reader.tokens[place]}' at {place}",
        remedy="use the language folder that the model was trained with",
    )


def decode_set(
    decoder: Decoder,
    emissions: Iterable[tuple[str, Emission]],
    words: dict[str, int],
) -> Decoded:
    """Decode `(utt_id, log_probs)` pairs with a graph back-end."""
    symbols = {number: word for word, number in words.items()}
    text: dict[str, str] = {}
    not_final = []
    seconds = 0.0
    for batch in _batches(emissions, decoder.batch):
        began = time.perf_counter()
        results = decoder.decode([log_probs for _, log_probs in batch])
        seconds += time.perf_counter() - began
        for (utt_id, _), (ids, _, final) in zip(batch, results, strict=True):
            text[utt_id] = " ".join(symbols[number] for number in ids)
            if not final:
                not_final.append(utt_id)
    return Decoded(text, seconds, not_final)


def greedy_set(reader: EmissionReader) -> Decoded:
    """Decode a set by the best token of every frame."""
    began = time.perf_counter()
    text = {utt_id: greedy(log_probs, reader.tokens, reader.units) for utt_id, log_probs in reader}
    return Decoded(text, time.perf_counter() - began, [])


def _batches(
    items: Iterable[tuple[str, Emission]], size: int
) -> Iterator[list[tuple[str, Emission]]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
