"""Decoding graphs from a language folder: CTC topology, lexicon and n-gram model composed.

Input labels are token ids + 1 (0 is epsilon), so the blank is 1. Disambiguation symbols follow
the tokens, `#0` first, and become epsilon when the CTC topology is composed in front. Only the
language model carries costs, natural logarithms, so one graph serves every scale.

Source: Mohri, Pereira & Riley 2008, "Speech recognition with weighted finite-state transducers";
Miao et al. 2015, "EESEN", for the CTC topology.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from unispeech.decode.arpa import arpa_order, compile_arpa, package, unknown_log10
from unispeech.decode.fst import ARC, Graph, make_graph, read_graph, write_graph
from unispeech.errors import DataError
from unispeech.storage import atomic_path, sha256, write_json

BLANK, BOUNDARY = "<blk>", "|"
EPSILON, BACKOFF = "<eps>", "#0"
# Raise them when the same inputs give another graph or grammar.
CODE_VERSION, GRAMMAR_VERSION = 2, 1

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
    kf = package("kaldifst")
    language = read_language(lang)
    (lang / "graph.json").unlink(missing_ok=True)
    lg = _compose_lg(kf, language, compile_arpa(lang / "lm.arpa", lang / "words.txt", BACKOFF))
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


def build_grammar(lang: str | Path, arpa: str | Path) -> Path:
    """Make `G_rescore.fst` of a language folder, the grammar for rescoring lattices.

    It is an acceptor of word ids whose back-off arcs read nothing, so a sentence costs the least
    over its ways to back off, which for few sentences is less than the model's own way. Words of
    the lexicon that the model lacks get the probability of its `<unk>`.

    Args:
        lang: the language folder with `words.txt` and `lexicon.txt`.
        arpa: the language model, also as .gz.

    Returns:
        The path of the grammar, which is built only when it is not there for the same inputs.

    Raises:
        DataError: an input is missing or wrong, or words are in neither the model nor `<unk>`.
        DependencyError: kaldifst or kaldilm is missing.
    """
    lang, arpa = Path(lang), Path(arpa)
    path, about = lang / "G_rescore.fst", lang / "G_rescore.json"
    for name in (arpa, lang / "words.txt", lang / "lexicon.txt"):
        if not name.is_file():
            raise DataError("no such file", where=name)
    inputs = {
        "version": GRAMMAR_VERSION,
        "arpa": sha256(arpa),
        **{name: sha256(lang / name) for name in ("words.txt", "lexicon.txt")},
    }
    stored = _read_about(about)
    if stored.get("inputs") == inputs and path.is_file() and sha256(path) == stored["sha256"]:
        return path
    began = time.perf_counter()
    kf = package("kaldifst")
    words = read_symbols(lang / "words.txt")
    about.unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        kf.StdConstFst(compile_arpa(arpa, lang / "words.txt", BACKOFF)).write(str(temporary))
        needed = {words[word] for word, _ in read_language(lang).lexicon}
        graph = _open_grammar(read_graph(temporary), words[BACKOFF], needed, arpa)
        write_graph(graph, temporary)
        fst = kf.StdVectorFst(kf.StdConstFst.read(str(temporary)))
        kf.arcsort(fst, "ilabel")
        kf.StdConstFst(fst).write(str(temporary))
    sizes = {"states": len(graph.states), "arcs": len(graph.arcs), "sha256": sha256(path)}
    seconds = round(time.perf_counter() - began, 2)
    write_json(about, {"inputs": inputs, "order": arpa_order(arpa), "seconds": seconds, **sizes})
    return path


def _open_grammar(graph: Graph, backoff: int, needed: set[int], arpa: Path) -> Graph:
    """Back-off arcs that read nothing, and arcs for words that only `<unk>` covers."""
    arcs, source = graph.arcs.copy(), graph.source
    is_backoff = arcs["input"] == backoff
    arcs["input"][is_backoff] = 0
    arcs["output"] = arcs["input"]
    shorter = arcs["next"][is_backoff].tolist()
    following = dict(zip(source[is_backoff].tolist(), shorter, strict=True))
    empty_history = graph.start
    while empty_history in following:
        empty_history = following[empty_history]
    missing = sorted(needed - set(arcs["input"][source == empty_history].tolist()))
    if missing:
        more = np.zeros(len(missing), ARC)
        more["input"] = more["output"] = missing
        unknown = unknown_log10(arpa)
        if unknown is None:
            raise DataError(
                f"{len(missing)} word(s) of the lexicon are not in the model, which has no <unk>",
                where=arpa,
                remedy="give a model of these words, in the same case, or one with <unk>",
            )
        more["cost"] = -math.log(10) * unknown
        more["next"] = empty_history
        arcs = np.concatenate([arcs, more])
        source = np.append(source, np.full(len(missing), empty_history))
    return make_graph(graph.start, graph.states["final"], source, arcs)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


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

    A spelling that ends with the boundary may lose it at the end of the utterance, the utterance
    may begin with boundaries, and there may be more of them between words, because models learn
    only single boundaries between words well. The papers' beam search does the same.
    """
    number = {token: place + 1 for place, token in enumerate(language.tokens)}
    first_mark = len(language.tokens) + 1
    backoff = language.words[BACKOFF]
    marks = _marks(language.lexicon)
    fst = kf.StdVectorFst()
    loop, before_boundary, end = (fst.add_state() for _ in range(3))
    fst.start = loop
    if BOUNDARY in number:
        fst.add_arc(loop, kf.StdArc(number[BOUNDARY], 0, 0.0, loop))
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
