"""Sentences of text files, and the vocabularies of language models."""

from __future__ import annotations

import functools
import gzip
import importlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from unispeech.data.config import TextUnits
from unispeech.data.tokens import WORD_BOUNDARY
from unispeech.errors import DataError, DependencyError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""Symbols that every vocabulary begins with, in the order of fairseq's dictionaries."""
PADDING, END, UNKNOWN = 1, 2, 3

Case = Literal["as_is", "lower", "upper"]


def read_sentences(path: str | Path) -> Iterator[str]:
    """The sentences of a text file or a transcribed manifest (`.jsonl`), plain or gzip.

    Words come separated by single blanks; empty lines are left out.

    Raises:
        DataError: the file is missing, damaged or not UTF-8, or a cut has no transcript.
    """
    path = Path(path)
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        yield from _transcripts(path)
        return
    try:
        is_packed = path.suffix == ".gz"
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if is_packed
            else path.open(encoding="utf-8") as file
        ):
            for line in file:
                words = line.split()
                if words:
                    yield " ".join(words)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            "cannot read the text",
            where=path,
            expected="UTF-8, one sentence a line, or a manifest *.jsonl.gz",
            found=error,
            remedy="check the path, or copy the file again",
        ) from None


def _transcripts(path: Path) -> Iterator[str]:
    # Imported only here: plain text needs no lhotse.
    from unispeech.data.manifests import load_cuts, transcript

    for cut in load_cuts(path):
        words = transcript(cut).split()
        if not words:
            raise DataError(
                f"utterance {cut.id} has no transcript",
                where=path,
                remedy="use a manifest in which every utterance is transcribed",
            )
        yield " ".join(words)


class Vocabulary:
    """The units of a language model and their ids.

    Args:
        symbols: the four of SPECIAL, then the units, frequent ones first.
        units: what they are.
        rare: units from this id on occur once in the training text.
        case: what words are changed to before they are looked up.
        pieces: model of sentencepiece, for units `pieces`.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        units: TextUnits = "words",
        rare: int | None = None,
        case: Case = "as_is",
        pieces: bytes = b"",
    ) -> None:
        self.symbols = list(symbols)
        self.units: TextUnits = units
        self.rare = len(self.symbols) if rare is None else rare
        self.case: Case = case
        self.pieces = pieces
        self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        self._split = _splitter(units, pieces)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode_words(self, sentence: str) -> list[list[int]]:
        """Unit ids of each word of a sentence; of words, one each.

        Raises:
            DataError: the sentence holds a reserved symbol.
        """
        return [self._word(word) for word in sentence.split()]

    def encode(self, sentence: str) -> list[int]:
        """Unit ids of a sentence, without begin and end."""
        return [unit for word in self.encode_words(sentence) for unit in word]

    def _word(self, word: str) -> list[int]:
        if self.case != "as_is":
            word = word.lower() if self.case == "lower" else word.upper()
        if word in SPECIAL and word != SPECIAL[UNKNOWN]:
            raise DataError(f"the text holds the reserved word {word}")
        if self.units == "words":
            return [self._ids.get(word, UNKNOWN)]
        return [self._ids.get(symbol, UNKNOWN) for symbol in self._split(word)]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors and plain containers."""
        state = {name: getattr(self, name) for name in ("symbols", "units", "rare", "case")}
        if self.pieces:
            state["pieces"] = torch.frombuffer(bytearray(self.pieces), dtype=torch.uint8)
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `state` describes.

        Raises:
            KeyError, TypeError, ValueError: it describes none.
        """
        if tuple(state["symbols"][: len(SPECIAL)]) != SPECIAL:
            raise ValueError(f"the symbols do not begin with {' '.join(SPECIAL)}")
        pieces = state["pieces"].numpy().tobytes() if "pieces" in state else b""
        return cls(state["symbols"], state["units"], state["rare"], state["case"], pieces)


def build_vocabulary(
    paths: Sequence[str | Path],
    units: TextUnits = "words",
    *,
    pieces: str | Path = "",
    words: str | Path = "",
    min_count: int = 1,
    max_words: int | None = None,
) -> Vocabulary:
    """The units of a text, the most frequent first.

    Args:
        paths: text files or manifests.
        units: what they are.
        pieces: model of sentencepiece, for units `pieces`; the text is not read then.
        words: file of the words to keep, for units `words`.
        min_count: rarer words are left out.
        max_words: how many to keep.

    Raises:
        DataError: there is no text, or a file cannot be read.
    """
    if units == "pieces":
        return _piece_vocabulary(Path(pieces))
    counts: Counter[str] = Counter()
    for path in paths:
        for sentence in read_sentences(path):
            counts.update(sentence.split())
    if not counts:
        raise DataError("no text", where=", ".join(map(str, paths)) or None)
    if units == "letters":
        letters: Counter[str] = Counter({WORD_BOUNDARY: counts.total()})
        for word, count in counts.items():
            letters.update(dict.fromkeys(word, 0))
            for letter in word:
                letters[letter] += count
        counts = letters
    elif words:
        kept = _word_list(Path(words))
        counts = Counter({word: counts[word] for word in kept})
        min_count = 0
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    ranked = [(s, n) for s, n in ranked if n >= min_count and s not in SPECIAL][:max_words]
    rare = sum(n > 1 for _, n in ranked) if units == "words" else len(ranked)
    return Vocabulary([*SPECIAL, *(s for s, _ in ranked)], units, len(SPECIAL) + rare)


def _word_list(path: Path) -> list[str]:
    return list(dict.fromkeys(sentence.split()[0] for sentence in read_sentences(path)))


def _piece_vocabulary(path: Path) -> Vocabulary:
    try:
        model = path.read_bytes()
    except OSError as error:
        raise DataError(
            "cannot read the model of sentencepiece",
            where=path,
            found=error.strerror,
            remedy="set data.pieces",
        ) from None
    processor = _sentencepiece(model)
    size = processor.get_piece_size()
    own = [i for i in range(size) if not (processor.is_control(i) or processor.is_unknown(i))]
    symbols = [processor.id_to_piece(index) for index in own]
    return Vocabulary([*SPECIAL, *symbols], "pieces", pieces=model)


def _splitter(units: TextUnits, pieces: bytes) -> Any:
    if units == "pieces":
        processor = _sentencepiece(pieces)
        # Pieces never reach beyond a blank, so words can be taken apart one by one.
        return functools.lru_cache(100_000)(lambda word: processor.encode(word, out_type=str))
    return lambda word: (*word, WORD_BOUNDARY)


def _sentencepiece(model: bytes) -> Any:
    try:
        library = importlib.import_module("sentencepiece")
    except ImportError as error:
        raise DependencyError(
            "sentence pieces need sentencepiece",
            found=error,
            remedy="pip install sentencepiece",
        ) from None
    try:
        return library.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise DataError("not a model of sentencepiece", found=error) from None
