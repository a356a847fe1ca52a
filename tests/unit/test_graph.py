"""Graphs and the search: against every word sequence and alignment, and against other builds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unispeech.decode.engine import choose_backend
from unispeech.decode.fst import read_graph, write_graph
from unispeech.decode.graph import build_graph, read_language
from unispeech.decode.greedy import collapse
from unispeech.decode.kaldi import KaldiDecoder
from unispeech.decode.ngram import NgramModel, estimate, read_arpa, write_arpa
from unispeech.errors import DataError, DependencyError, NumericsError

pytest.importorskip("kaldifst", reason="graphs are built with kaldifst")
pytest.importorskip("kaldi_decoder", reason="the back-end kaldi needs kaldi-decoder")

TOKENS = ["<blk>", "|", "A", "B"]
WORDS = ["A", "AB", "BA", "BAB"]
SENTENCES = ["A AB", "AB BA A", "A A BA", "BA", "BAB A AB"]

MakeLang = Callable[..., Path]


@pytest.fixture
def make_lang(tmp_path: Path) -> MakeLang:
    def make(
        name: str = "lang",
        model: NgramModel | None = None,
        lexicon: str = "".join(f"{w} {' '.join(w)} |\n" for w in WORDS),
        tokens: list[str] = TOKENS,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        words = ["<eps>", *dict.fromkeys(line.split()[0] for line in lexicon.splitlines())]
        for file, symbols in (("tokens", tokens), ("words", [*words, "#0", "<s>", "</s>"])):
            table = "".join(f"{s} {i}\n" for i, s in enumerate(symbols))
            (folder / f"{file}.txt").write_text(table)
        (folder / "lexicon.txt").write_text(lexicon)
        write_arpa(model or estimate([s.split() for s in SENTENCES], 2), folder / "lm.arpa")
        return folder

    return make


def random_log_probs(seed: int, frames: int = 6) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.log(generator.dirichlet(np.full(4, 0.7), frames)).astype(np.float32)


def brute_force(
    log_probs: np.ndarray, model: NgramModel, scale: float, insertion: float
) -> dict[tuple[str, ...], float]:
    """Best total score of every word sequence, over all 4^frames paths."""
    best: dict[tuple[str, ...], float] = {}
    for path in itertools.product(range(4), repeat=len(log_probs)):
        letters = "".join(TOKENS[label] for label in collapse(path))
        if not re.fullmatch(r"\|*(\w+\|+)*(\w+)?", letters):
            continue
        words = tuple(word for word in letters.split("|") if word)
        if not set(words) <= set(WORDS):
            continue
        acoustic = float(sum(log_probs[frame, label] for frame, label in enumerate(path)))
        best[words] = max(best.get(words, -math.inf), acoustic)
    return {
        words: acoustic
        + scale * math.log(10) * model.sentence_log10(words)
        + insertion * len(words)
        for words, acoustic in best.items()
    }


@pytest.mark.parametrize(
    ("seed", "scale", "insertion"),
    [(0, 1.0, 0.0), (1, 1.0, 0.0), (2, 0.5, 1.0), (3, 2.0, -1.0), (4, 0.0, 0.0), (5, 0.3, 2.0)],
)
def test_search_equals_brute_force(
    make_lang: MakeLang, seed: int, scale: float, insertion: float
) -> None:
    lang = make_lang()
    assert build_graph(lang)
    decoder = KaldiDecoder(lang, tokens=4, beam=100)
    decoder.set_scales(scale, insertion)
    names = {number: word for word, number in read_language(lang).words.items()}
    for extra in range(3):
        log_probs = random_log_probs(10 * seed + extra)
        scores = brute_force(log_probs, read_arpa(lang / "lm.arpa"), scale, insertion)
        expected = max(scores, key=lambda words: scores[words])
        ((ids, score, final),) = decoder.decode([log_probs])
        assert final
        assert tuple(names[number] for number in ids) == expected
        assert score == pytest.approx(scores[expected], abs=2e-3)


def test_scaling_equals_a_graph_of_a_scaled_model(make_lang: MakeLang) -> None:
    model = estimate([s.split() for s in SENTENCES], 2)
    scaled = NgramModel(
        [{w: (0.4 * p, 0.4 * b) for w, (p, b) in table.items()} for table in model.grams]
    )
    one, other = make_lang("one", model), make_lang("other", scaled)
    build_graph(one)
    build_graph(other)
    ours, theirs = KaldiDecoder(one, 4, beam=100), KaldiDecoder(other, 4, beam=100)
    ours.set_scales(0.4, 0.0)
    emissions = [random_log_probs(seed, 30) for seed in range(20)]
    for a, b in zip(ours.decode(emissions), theirs.decode(emissions), strict=True):
        assert a[0] == b[0]
        assert a[1] == pytest.approx(b[1], abs=2e-3)


def test_setting_scales_twice_starts_from_the_graph(make_lang: MakeLang) -> None:
    lang = make_lang()
    build_graph(lang)
    decoder = KaldiDecoder(lang, 4)
    first = decoder.decode([random_log_probs(0, 20)])
    decoder.set_scales(3.0, 2.0)
    decoder.set_scales(1.0, 0.0)
    assert decoder.decode([random_log_probs(0, 20)]) == first


def test_words_that_are_spelled_alike_are_told_apart_by_the_model(make_lang: MakeLang) -> None:
    lexicon = "TO A B |\nTWO A B |\nA A |\n"
    model = estimate([["A", "TWO"], ["A", "TWO"], ["TO", "A"], ["TO"]], 2)
    lang = make_lang(model=model, lexicon=lexicon)
    build_graph(lang)
    names = {number: word for word, number in read_language(lang).words.items()}

    def decode(frames: str) -> list[str]:
        labels = ["_|AB".index(symbol) for symbol in frames]
        log_probs = np.full((len(labels), 4), -12.0, np.float32)
        log_probs[np.arange(len(labels)), labels] = 0.0
        ((ids, _, _),) = KaldiDecoder(lang, 4).decode([log_probs])
        return [names[number] for number in ids]

    assert decode("A|AB") == ["A", "TWO"]
    assert decode("AB|A|") == ["TO", "A"]
    assert decode("|AB") == ["TO"]


def test_phonemes_without_a_boundary(make_lang: MakeLang) -> None:
    tokens = ["<blk>", "|", "a", "b"]
    lang = make_lang(
        model=estimate([["ab", "a"], ["b", "ab"]], 2),
        lexicon="a a\nab a b\nb b\n",
        tokens=tokens,
    )
    build_graph(lang)
    names = {number: word for word, number in read_language(lang).words.items()}
    log_probs = np.full((3, 4), -12.0, np.float32)
    log_probs[[0, 1, 2], [2, 3, 2]] = 0.0
    ((ids, _, _),) = KaldiDecoder(lang, 4).decode([log_probs])
    assert [names[number] for number in ids] == ["ab", "a"]


def test_an_unfinished_word_is_reported(make_lang: MakeLang) -> None:
    lang = make_lang(lexicon="AB A B |\nBA B A |\n")
    build_graph(lang)
    log_probs = np.full((2, 4), -1000.0, np.float32)
    log_probs[[0, 1], [2, 0]] = 0.0
    ((_, _, final),) = KaldiDecoder(lang, 4, beam=10, min_active=0).decode([log_probs])
    assert not final


def test_no_frames_no_words(make_lang: MakeLang) -> None:
    lang = make_lang()
    build_graph(lang)
    assert KaldiDecoder(lang, 4).decode([np.zeros((0, 4), np.float32)]) == [([], 0.0, True)]


def test_the_graph_is_built_once_for_the_same_inputs(make_lang: MakeLang) -> None:
    lang = make_lang()
    assert build_graph(lang)
    before = (lang / "HLG.fst").read_bytes()
    assert not build_graph(lang)
    (lang / "HLG.fst").write_bytes(before[:-1])
    assert build_graph(lang)
    assert (lang / "HLG.fst").read_bytes() == before
    (lang / "lexicon.txt").write_text("A A |\nAB A B |\n")
    assert build_graph(lang)


def test_graph_files_round_trip(make_lang: MakeLang, tmp_path: Path) -> None:
    lang = make_lang()
    build_graph(lang)
    write_graph(read_graph(lang / "HLG.fst").scaled(1.0, 0.0), tmp_path / "copy.fst")
    assert (tmp_path / "copy.fst").read_bytes() == (lang / "HLG.fst").read_bytes()
    for damage in (b"", b"no graph at all", (lang / "HLG.fst").read_bytes()[:-4]):
        (tmp_path / "copy.fst").write_bytes(damage)
        with pytest.raises(ValueError, match=r"copy\.fst"):
            read_graph(tmp_path / "copy.fst")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tokens.txt", "A 0\n<blk> 1\n", "<blk> must have id 0"),
        ("tokens.txt", "<blk> 0\nA 2\n", "not a symbol table"),
        ("words.txt", "<eps> 0\nA 1\n", "#0 is missing"),
        ("lexicon.txt", "A A Z |\n", "unknown token 'Z'"),
        ("lexicon.txt", "NEW A |\n", "'NEW' is no word"),
        ("lexicon.txt", "A |\n", "has no tokens"),
        ("lexicon.txt", "", "it is empty"),
        ("lm.arpa", None, "no such file"),
    ],
)
def test_wrong_language_folders(
    make_lang: MakeLang, file: str, text: str | None, message: str
) -> None:
    lang = make_lang()
    if text is None:
        (lang / file).unlink()
    else:
        (lang / file).write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        build_graph(lang)


def test_unusable_emissions(make_lang: MakeLang) -> None:
    lang = make_lang()
    build_graph(lang)
    with pytest.raises(DataError, match="more tokens than the emissions"):
        KaldiDecoder(lang, tokens=3)
    decoder = KaldiDecoder(lang, tokens=4)
    with pytest.raises(DataError, match="do not fit the graph"):
        decoder.decode([np.zeros((5, 3), np.float32)])
    with pytest.raises(NumericsError, match="NaN"):
        decoder.decode([np.full((5, 4), np.nan, np.float32)])


def test_a_missing_backend_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unispeech.decode.k2.available", lambda: False)
    monkeypatch.setattr("unispeech.decode.k2_process.find_python", lambda: None)
    assert choose_backend("kaldi") == "kaldi"
    assert choose_backend("auto") == "kaldi"
    with pytest.raises(DependencyError, match="k2 cannot be imported"):
        choose_backend("k2")
