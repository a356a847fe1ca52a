"""Decoding graphs from a language folder: CTC topology, lexicon and n-gram model composed.

Input labels are token ids + 1 (0 is epsilon), so the blank is 1. Disambiguation symbols follow
the tokens, `#0` first, and become epsilon when the CTC topology is composed in front. Only the
language model carries costs, natural logarithms, so one graph serves every scale.

Source: Mohri, Pereira & Riley 2008, "Speech recognition with weighted finite-state transducers";
Miao et al. 2015, "EESEN", for the CTC topology.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from unispeech.errors import DataError, DependencyError
from unispeech.storage import atomic_path, sha256, write_json

BLANK, BOUNDARY = "<blk>", "|"
EPSILON, BACKOFF = "<eps>", "#0"
# Raise it when the same inputs give another graph.
CODE_VERSION = 1

AGAIN = "run local/prepare_lang.py again"
INPUTS = ("tokens.txt", "words.txt", "lexicon.txt", "lm.arpa")

# Costs closer than this count as equal; the defaults would move a path's cost by up to 0.0005
# at every arc.
_DELTA = 2.0**-14

Pronunciation = tuple[str, tuple[str, ...]]


class Language(NamedTuple):
    """The description that every back-end builds its graph from.

    Attributes:
        tokens: symbols of the emissions' columns, the blank first.
        words: the word symbol table.
        lexicon: pairs of a word and the tokens that spell it.
    """

    tokens: list[str]
    words: dict[str, int]
    lexicon: list[Pronunciation]


def read_symbols(path: str | Path) -> dict[str, int]:
    """Read a table of "symbol id" lines with ids from 0 up.

    Raises:
        DataError: the file is missing or not such a table.
    """
    table: dict[str, int] = {}
    try:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            symbol, number = line.split()
            table[symbol] = int(number)
        if not table or sorted(table.values()) != list(range(len(table))):
            raise ValueError("ids are not 0, 1, 2 ... once each")
    except (OSError, ValueError) as error:
        raise DataError("not a symbol table", where=path, found=error, remedy=AGAIN) from None
    return table


def read_lexicon(path: str | Path) -> list[Pronunciation]:
    """Read lines of a word and its tokens; equal lines count once.

    Raises:
        DataError: the file is missing, empty, or a line has no tokens.
    """
    entries: dict[Pronunciation, None] = {}
    try:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            word, *spelling = line.split()
            if not [token for token in spelling if token != BOUNDARY]:
                raise ValueError(f"line {number}: '{word}' has no tokens")
            entries[word, tuple(spelling)] = None
        if not entries:
            raise ValueError("it is empty")
    except (OSError, ValueError) as error:
        raise DataError("not a lexicon", where=path, found=error, remedy=AGAIN) from None
    return list(entries)


def read_language(lang: str | Path) -> Language:
    """Read `tokens.txt`, `words.txt` and `lexicon.txt` of a language folder.

    Raises:
        DataError: a file is missing or wrong, or the lexicon holds unknown words or tokens.
    """
    lang = Path(lang)
    tokens = read_symbols(lang / "tokens.txt")
    words = read_symbols(lang / "words.txt")
    lexicon = read_lexicon(lang / "lexicon.txt")
    if tokens.get(BLANK) != 0:
        raise DataError(f"{BLANK} must have id 0", where=lang / "tokens.txt", remedy=AGAIN)
    for symbol in (EPSILON, BACKOFF):
        if symbol not in words:
            raise DataError(f"{symbol} is missing", where=lang / "words.txt", remedy=AGAIN)
    for word, spelling in lexicon:
        wrong = [token for token in spelling if token not in tokens or token == BLANK]
        if wrong or word not in words:
            raise DataError(
                f"'{word}' has the unknown token '{wrong[0]}'" if wrong else f"'{word}' is no word",
                where=lang / "lexicon.txt",
                expected="tokens of tokens.txt and words of words.txt",
                remedy=AGAIN,
            )
    return Language(sorted(tokens, key=tokens.__getitem__), words, lexicon)


def build_graph(lang: str | Path) -> bool:
    """Make `HLG.fst`, `LG.fst` and `graph.json` of a language folder where they are not current.

    Returns:
        Whether the graph was built; False when it was there for the same inputs.

    Raises:
        DataError: an input is missing or wrong.
        DependencyError: kaldifst or kaldilm is missing.
    """
    lang = Path(lang)
    inputs = _hash_inputs(lang)
    if is_current(lang, inputs):
        return False
    began = time.perf_counter()
    kf = _package("kaldifst")
    language = read_language(lang)
    (lang / "graph.json").unlink(missing_ok=True)
    lg = _compose_lg(kf, language, _grammar(kf, lang))
    marks = _marks(language.lexicon)
    hlg = kf.compose(ctc_topology(kf, len(language.tokens), max(marks.values(), default=0)), lg)
    if hlg.start < 0:
        raise DataError(
            "the graph is empty: the language model and the lexicon share no sentence",
            where=lang,
            remedy="check that lm.arpa and lexicon.txt hold the same words, in the same case",
        )
    kf.arcsort(hlg, "ilabel")
    sizes: dict[str, Any] = {}
    for name, fst in (("LG", lg), ("HLG", hlg)):
        with atomic_path(lang / f"{name}.fst") as temporary:
            kf.StdConstFst(fst).write(str(temporary))
        arcs = sum(fst.num_arcs(state) for state in range(fst.num_states))
        sizes[name] = {
            "states": fst.num_states,
            "arcs": arcs,
            "sha256": sha256(lang / f"{name}.fst"),
        }
    seconds = round(time.perf_counter() - began, 2)
    write_json(lang / "graph.json", {"inputs": inputs, "seconds": seconds, **sizes})
    return True


def is_current(lang: str | Path, inputs: Mapping[str, Any] | None = None) -> bool:
    """Whether the graph of a language folder is whole and made from the files beside it."""
    lang = Path(lang)
    try:
        about = json.loads((lang / "graph.json").read_text(encoding="utf-8"))
        return bool(
            about["inputs"] == (inputs or _hash_inputs(lang))
            and all(sha256(lang / f"{n}.fst") == about[n]["sha256"] for n in ("LG", "HLG"))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def ctc_topology(kf: ModuleType, tokens: int, marks: int) -> Any:
    """The CTC topology: frame labels in, tokens out, equal neighbours merged, blanks dropped.

    Args:
        kf: the module kaldifst.
        tokens: number of tokens, the blank included.
        marks: number of the last disambiguation symbol (0 for `#0` alone).
    """
    fst = kf.StdVectorFst()
    for _ in range(tokens):
        fst.set_final(fst.add_state(), 0.0)
    fst.start = 0
    for state in range(tokens):
        fst.add_arc(state, kf.StdArc(1, 0, 0.0, 0))
        for token in range(1, tokens):
            output = 0 if token == state else token + 1
            fst.add_arc(state, kf.StdArc(token + 1, output, 0.0, token))
        for mark in range(marks + 1):
            fst.add_arc(state, kf.StdArc(0, tokens + 1 + mark, 0.0, state))
    kf.arcsort(fst, "olabel")
    return fst


def lexicon_fst(kf: ModuleType, language: Language) -> Any:
    """Spellings in, words out, over any number of words.

    A spelling that ends with the boundary may lose it at the end of the utterance, and the
    utterance may begin with one, because models learn only the boundaries between words well.
    """
    number = {token: place + 1 for place, token in enumerate(language.tokens)}
    first_mark = len(language.tokens) + 1
    backoff = language.words[BACKOFF]
    marks = _marks(language.lexicon)
    fst = kf.StdVectorFst()
    begin, loop, before_boundary, end = (fst.add_state() for _ in range(4))
    fst.start = begin
    fst.add_arc(begin, kf.StdArc(0, 0, 0.0, loop))
    if BOUNDARY in number:
        fst.add_arc(begin, kf.StdArc(number[BOUNDARY], 0, 0.0, loop))
        fst.add_arc(before_boundary, kf.StdArc(number[BOUNDARY], 0, 0.0, loop))
    for state in (loop, end):
        fst.set_final(state, 0.0)
        fst.add_arc(state, kf.StdArc(first_mark, backoff, 0.0, state))
    for entry in language.lexicon:
        word, spelling = entry
        bounded = spelling[-1] == BOUNDARY
        labels = [number[token] for token in (spelling[:-1] if bounded else spelling)]
        if entry in marks:
            labels.append(first_mark + marks[entry])
        state, output = loop, language.words[word]
        for label in labels[:-1]:
            following = fst.add_state()
            fst.add_arc(state, kf.StdArc(label, output, 0.0, following))
            state, output = following, 0
        for following in (before_boundary, end) if bounded else (loop,):
            fst.add_arc(state, kf.StdArc(labels[-1], output, 0.0, following))
    kf.arcsort(fst, "olabel")
    return fst


def _compose_lg(kf: ModuleType, language: Language, grammar: Any) -> Any:
    composed = kf.compose(lexicon_fst(kf, language), grammar)
    lg = kf.StdVectorFst(composed)
    kf.determinize_star(lg)
    kf.minimize_encoded(lg, _DELTA)
    kf.arcsort(lg, "ilabel")
    return lg


def _grammar(kf: ModuleType, lang: Path) -> Any:
    kaldilm = _package("kaldilm")
    with _quiet():
        text = kaldilm.arpa2fst(
            input_arpa=str(lang / "lm.arpa"),
            read_symbol_table=str(lang / "words.txt"),
            disambig_symbol=BACKOFF,
            max_arpa_warnings=0,
        )
    fst = kf.compile(text)
    kf.arcsort(fst, "ilabel")
    return fst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # kaldilm reports its progress on file descriptor 2, past sys.stderr.
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _marks(lexicon: Iterable[Pronunciation]) -> dict[Pronunciation, int]:
    """Number the spellings that several words share or that begin another one, from 1 up."""
    entries = list(lexicon)
    shared = Counter(spelling for _, spelling in entries)
    beginnings = {spelling[:n] for _, spelling in entries for n in range(1, len(spelling))}
    used: Counter[Sequence[str]] = Counter()
    marks = {}
    for entry in entries:
        spelling = entry[1]
        if shared[spelling] > 1 or spelling in beginnings:
            used[spelling] += 1
            marks[entry] = used[spelling]
    return marks


def _hash_inputs(lang: Path) -> dict[str, Any]:
    for name in INPUTS:
        if not (lang / name).is_file():
            raise DataError("no such file", where=lang / name, remedy=AGAIN)
    return {"version": CODE_VERSION, **{name: sha256(lang / name) for name in INPUTS}}


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"the package {name} is needed to build a graph",
            found=error,
            remedy=f"pip install {name}",
        ) from None
