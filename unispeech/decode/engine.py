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
from unispeech.decode.fst import Graph, read_graph
from unispeech.decode.graph import Language, build_grammar, read_language
from unispeech.decode.greedy import greedy
from unispeech.decode.nbest import Entry, Hypothesis, name_words
from unispeech.errors import DataError, DependencyError

Backend = Literal["auto", "kaldi", "k2", "flashlight"]
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
        lattice_beam: paths this much worse than the best are in no lattice, so in no n-best list
            and not rescored.
        beam_size: hypotheses that the lexicon beam search keeps; wav2vec 2.0 (appendix B) has
            1500 with a 4-gram, fairseq's recipe 50 in validation.
        beam_size_token: most probable tokens of a frame that it tries; 0 tries all.
        beam_threshold: hypotheses this much worse than the best are dropped by it; fairseq's
            default, recalled.
    """

    beam: float = pydantic.Field(default=14.0, gt=0, le=1000)
    max_active: int = pydantic.Field(default=10000, ge=1)
    min_active: int = pydantic.Field(default=200, ge=0)
    lm_scale: float = pydantic.Field(default=0.87, ge=0, le=20)
    word_insertion: float = pydantic.Field(default=-1.0, ge=-50, le=50)
    lattice_beam: float = pydantic.Field(default=8.0, gt=0, le=100)
    beam_size: int = pydantic.Field(default=1500, ge=1)
    beam_size_token: int = pydantic.Field(default=0, ge=0)
    beam_threshold: float = pydantic.Field(default=25.0, gt=0, le=1000)

    def settings(self, backend: str, lattices: bool) -> dict[str, Any]:
        """The values that a back-end reads, `lattice_beam` among them when it makes lattices."""
        names = ["lm_scale", "word_insertion"]
        if backend == "flashlight":
            names += ["beam_size", "beam_size_token", "beam_threshold"]
        else:
            names += ["beam", "max_active", "min_active", *(["lattice_beam"] if lattices else [])]
        return self.model_dump(mode="json", include=set(names))


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


class Listed(NamedTuple):
    """The n-best lists of a set.

    Attributes:
        lists: hypotheses by utterance, best first.
        seconds: time spent searching.
    """

    lists: dict[str, list[Entry]]
    seconds: float


def choose_backend(name: Backend) -> str:
    """Name the back-end; "auto" is k2 where CUDA is there and k2 imports, else kaldi.

    Raises:
        DependencyError: k2 was asked for by name and cannot be imported.
    """
    if name == "flashlight":
        return name
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


def open_decoder(
    backend: str,
    lang: str | Path,
    tokens: int,
    search: SearchConfig,
    arpa: str | Path | None = None,
) -> Decoder:
    """A back-end on the graph of a language folder, with the scales of `search`.

    Args:
        backend: "kaldi", "k2" or "flashlight".
        lang: the language folder, its graph built.
        tokens: number of columns of the emissions.
        search: beams and scales.
        arpa: a further language model: "kaldi" and "k2" rescore their lattices with it,
            "flashlight" searches with it in the place of `lm.arpa`.

    Raises:
        DependencyError: a package of the back-end is missing.
        DataError: the graph or the model is damaged or does not fit the emissions.
    """
    decoder: Decoder
    lang = Path(lang)
    sizes = (search.beam, search.max_active, search.min_active)
    if backend == "flashlight":
        from unispeech.decode.flashlight import FlashlightDecoder

        limits = (search.beam_size, search.beam_size_token, search.beam_threshold)
        language = read_language(lang)
        decoder = FlashlightDecoder(language, arpa or lang / "lm.arpa", tokens, *limits)
    elif backend == "k2":
        decoder = _k2_back_end()(
            _read(lang / "LG.fst"),
            tokens,
            *sizes,
            rescoring=_grammar(lang, arpa),
            lattice_beam=search.lattice_beam,
            cache=lang / "HLG.k2.npz",
        )
    else:
        from unispeech.decode.kaldi import KaldiDecoder

        grammar = _grammar(lang, arpa)
        decoder = KaldiDecoder(lang, tokens, *sizes, search.lattice_beam, grammar)
    decoder.set_scales(search.lm_scale, search.word_insertion)
    return decoder


def _grammar(lang: Path, arpa: str | Path | None) -> Graph | None:
    return None if arpa is None else _read(build_grammar(lang, arpa))


def _read(path: Path) -> Graph:
    try:
        return read_graph(path)
    except (OSError, ValueError) as error:
        raise DataError("not a decoding graph", where=path, found=error) from None


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


def nbest_set(
    decoder: Decoder,
    emissions: Iterable[tuple[str, Emission]],
    words: dict[str, int],
    count: int,
) -> Listed:
    """n-best lists of `(utt_id, log_probs)` pairs, at most `count` hypotheses each."""
    symbols = {number: word for word, number in words.items()}
    lists: dict[str, list[Entry]] = {}
    seconds = 0.0
    for batch in _batches(emissions, decoder.batch):
        began = time.perf_counter()
        results = decoder.nbest([log_probs for _, log_probs in batch], count)
        seconds += time.perf_counter() - began
        for (utt_id, _), hypotheses in zip(batch, results, strict=True):
            lists[utt_id] = name_words(hypotheses, symbols)
    return Listed(lists, seconds)


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
