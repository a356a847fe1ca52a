"""Text or phones to token ids and back, by a `tokens.txt`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from unispeech.data.config import Units
from unispeech.errors import DataError

BLANK = "<blk>"
WORD_BOUNDARY = "|"
WORD_START = "\u2581"
"""What sentencepiece begins the first piece of a word with."""
PIECES = "bpe.model"
"""The model of sentencepiece beside a `tokens.txt` of pieces."""


class Pieces:
    """The pieces that words are split into, by a model of sentencepiece.

    Raises:
        DataError: the file is missing or not such a model.
    """

    def __init__(self, path: str | Path) -> None:
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.load_from_serialized_proto(Path(path).read_bytes())
        except (OSError, RuntimeError) as error:
            remedy = "run the stage that prepares the targets"
            raise DataError(
                "not a model of sentencepiece", where=path, found=error, remedy=remedy
            ) from None
        ids = range(self._model.get_piece_size())
        self.symbols: list[str] = [
            self._model.id_to_piece(i) for i in ids if not self._model.is_unknown(i)
        ]

    def split(self, word: str) -> list[str]:
        """The pieces of one word, the first of them with the mark that begins words."""
        return list(self._model.encode_as_pieces(word))


class Tokenizer:
    """Letters with `|` after every word, pieces of words, or phones; token 0 is the CTC blank.

    Args:
        path: lines `symbol id`, ids from 0 without gaps, `<blk> 0` first.
        units: `letters` takes text apart into letters; `bpe` into the pieces of the model
            `bpe.model` beside the table; `phones` expects phones (and, where they are tokens, word
            boundaries) separated by blanks.

    Raises:
        DataError: a file is missing or is not such a table or model.
    """

    def __init__(self, path: str | Path, units: Units = "letters") -> None:
        self.units = units
        self.tokens = _read_table(Path(path))
        if units == "bpe":
            self._pieces = Pieces(Path(path).parent / PIECES)
        self._ids = {token: index for index, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def unknown(self, text: str) -> set[str]:
        """Symbols of `text` that are not in the table (blanks separate words or phones)."""
        return set(self._symbols(text)) - set(self._ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`.

        Raises:
            DataError: a symbol is not in the table.
        """
        unknown = self.unknown(text)
        if unknown:
            raise DataError(
                "the transcript has symbols that are not tokens",
                expected="symbols of tokens.txt",
                found=" ".join(sorted(map(repr, unknown))),
                remedy="normalise the transcripts, or build the tokens from them",
            )
        return [self._ids[symbol] for symbol in self._symbols(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Words or phones, separated by blanks, of token ids without CTC blanks and repeats."""
        return join([self.tokens[i] for i in ids], self.units)

    def _symbols(self, text: str) -> list[str]:
        if self.units == "phones":
            return text.split()
        if self.units == "bpe":
            # Word by word, so that the pieces are those of the lexicon.
            return [piece for word in text.split() for piece in self._pieces.split(word)]
        return [symbol for word in text.split() for symbol in (*word, WORD_BOUNDARY)]


def join(symbols: Iterable[str], units: Units) -> str:
    """Words spelled by letters and `|` or by pieces, or phones one by one, separated by blanks."""
    if units == "phones":
        return " ".join(symbols)
    if units == "bpe":
        return " ".join("".join(symbols).replace(WORD_START, " ").split())
    return " ".join("".join(symbols).replace(WORD_BOUNDARY, " ").split())


def _read_table(path: Path) -> list[str]:
    remedy = "run the stage that prepares the targets"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            "cannot read the tokens", where=path, found=error.strerror, remedy=remedy
        ) from None
    tokens = []
    for number, line in enumerate(lines):
        fields = line.split()
        if len(fields) != 2 or fields[1] != str(number):
            raise DataError(
                f"line {number + 1} is not 'symbol {number}'", where=path, found=f"'{line}'"
            )
        tokens.append(fields[0])
    if not tokens or tokens[0] != BLANK or len(set(tokens)) != len(tokens):
        raise DataError(
            "not a table of tokens", where=path, expected=f"'{BLANK} 0' first, no symbol twice"
        )
    return tokens
