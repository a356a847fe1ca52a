"""ARPA files, plain or gzip, read as a stream: nothing but what is asked for is kept.

The official LibriSpeech models have up to a hundred million n-grams; their words, their sizes or
the n-grams of a few sentences need one pass and little memory.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from unispeech.errors import DataError
from unispeech.storage import atomic_path

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
# SRILM's way, which the official LibriSpeech models have.
_CAPITAL_UNK = "<UNK>"

Words = tuple[str, ...]


class Ngram(NamedTuple):
    """One line of an ARPA file."""

    order: int
    words: Words
    """The unknown word is `<unk>`, also where the file has it in upper case."""
    log10: float
    backoff: float


class Header(NamedTuple):
    """What one pass over an ARPA file tells."""

    counts: list[int]
    """n-grams of each order."""
    vocabulary: list[str]
    """The words, without `<s>`, `</s>` and the unknown word."""


def open_text(path: str | Path) -> IO[str]:
    """Open UTF-8 text, plain or gzip by its first bytes."""
    if _is_packed(path):
        return gzip.open(path, "rt", encoding="utf-8")
    return Path(path).open(encoding="utf-8")


def ngrams(path: str | Path) -> Iterator[Ngram]:
    """The n-grams of an ARPA file in their order.

    Raises:
        DataError: the file is missing, not ARPA, damaged, or ends early.
    """
    try:
        with open_text(path) as file:
            yield from _parse(file)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            "not an ARPA file",
            where=path,
            found=error,
            remedy="give a whole model, or have one estimated from the text",
        ) from None


def _parse(lines: Iterable[str]) -> Iterator[Ngram]:
    sizes: list[int] = []
    order, count, begun = 0, 0, False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if text[0] == "\\" and (text in ("\\data\\", "\\end\\") or text.endswith("-grams:")):
            if text == "\\data\\":
                begun = True
                continue
            if order and count != sizes[order - 1]:
                raise ValueError(f"{count} {order}-grams where the header says {sizes[order - 1]}")
            if text == "\\end\\":
                if not sizes or order != len(sizes):
                    raise ValueError(f"{order} orders of n-grams where the header has {len(sizes)}")
                return
            order, count = order + 1, 0
            if text != f"\\{order}-grams:" or order > len(sizes):
                raise ValueError(f"line {number}: '{text[:40]}' out of order")
        elif order:
            count += 1
            yield _ngram(text, order, number)
        elif begun:
            if not text.startswith("ngram "):
                raise ValueError(f"line {number}: '{text[:40]}' in the header")
            sizes.append(int(text.partition("=")[2]))
        elif number > 1000:
            break
    raise ValueError("no \\end\\" if begun else "no \\data\\")


def _ngram(text: str, order: int, number: int) -> Ngram:
    fields = text.split()
    if len(fields) not in (order + 1, order + 2):
        raise ValueError(f"line {number}: '{text[:40]}' is no {order}-gram")
    try:
        backoff = float(fields[-1]) if len(fields) == order + 2 else 0.0
        words = tuple(fields[1 : order + 1])
        if _CAPITAL_UNK in words:
            words = tuple(UNK if word == _CAPITAL_UNK else word for word in words)
        return Ngram(order, words, float(fields[0]), backoff)
    except ValueError:
        raise ValueError(f"line {number}: '{text[:40]}' has no number") from None


def read_header(path: str | Path) -> Header:
    """Sizes and words; the whole file is checked on the way.

    Raises:
        DataError: as in `ngrams`.
    """
    counts: list[int] = []
    vocabulary: list[str] = []
    for entry in ngrams(path):
        if entry.order > len(counts):
            counts += [0] * (entry.order - len(counts))
        counts[entry.order - 1] += 1
        if entry.order == 1 and entry.words[0] not in (BOS, EOS, UNK):
            vocabulary.append(entry.words[0])
    return Header(counts, vocabulary)


def ngrams_of(sentences: Iterable[Sequence[str]], order: int) -> set[Words]:
    """All n-grams up to `order` of sentences with begin and end, and the unknown word."""
    wanted: set[Words] = {(UNK,)}
    for words in sentences:
        padded = (BOS, *words, EOS)
        for n in range(1, order + 1):
            wanted.update(padded[start : start + n] for start in range(len(padded) - n + 1))
    return wanted


def copy_arpa(source: str | Path, path: str | Path) -> Header:
    """Copy an ARPA file, unpacked where it is gzip, after checking all of it.

    Args:
        source: ARPA file, plain or gzip.
        path: file to write, atomically.

    Raises:
        DataError: as in `ngrams`.
    """
    header = read_header(source)
    with (
        gzip.open(source) if _is_packed(source) else Path(source).open("rb") as opened,
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
    ):
        shutil.copyfileobj(opened, file)
    return header


def _is_packed(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
