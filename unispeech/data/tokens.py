"""Text or phones to token ids and back, by a `tokens.txt`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from unispeech.data.config import Units
from unispeech.errors import DataError

BLANK = "<blk>"
WORD_BOUNDARY = "|"


class Tokenizer:
    """Letters with `|` after every word, or phones as they are; token 0 is the CTC blank.

    Args:
        path: lines `symbol id`, ids from 0 without gaps, `<blk> 0` first.
        units: `letters` takes text apart into letters; `phones` expects phones (and, where they
            are tokens, word boundaries) separated by blanks.

    Raises:
        DataError: the file is missing or is not such a table.
    """

    def __init__(self, path: str | Path, units: Units = "letters") -> None:
        self.units = units
        self.tokens = _read_table(Path(path))
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
        return [symbol for word in text.split() for symbol in (*word, WORD_BOUNDARY)]


def join(symbols: Iterable[str], units: Units) -> str:
    """Words spelled by letters and `|`, or phones one by one, separated by blanks."""
    if units == "phones":
        return " ".join(symbols)
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
