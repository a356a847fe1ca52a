"""n-best lists, lattice rescoring and the lexicon beam search against enumeration and KenLM."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import (
    SENTENCES,
    every_sentence,
    likeliest,
    model,
    random_log_probs,
    write_lang,
)

from unispeech.decode.arpa import arpa_order
from unispeech.decode.flashlight import FlashlightDecoder
from unispeech.decode.fst import make_graph, read_graph, write_graph
from unispeech.decode.graph import build_grammar, build_graph, read_language
from unispeech.decode.kaldi import KaldiDecoder
from unispeech.decode.lattice import Lattice, nbest, prune, read_kaldi_lattice
from unispeech.decode.nbest import Entry, Hypothesis, oracle, read_nbest, write_nbest
from unispeech.decode.ngram import read_arpa, write_arpa
from unispeech.errors import DataError, DependencyError, NumericsError
from unispeech.score.wer import edit_distance

pytest.importorskip("kaldifst", reason="graphs are built with kaldifst")
pytest.importorskip("kaldi_decoder", reason="the back-end kaldi needs kaldi-decoder")

LN10 = math.log(10)
MORE = [*SENTENCES, "A AB BA A", "BAB BAB A A", "AB BA BAB A"]


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_lang(tmp_path_factory.mktemp("lattices") / "lang")
    build_graph(folder)
    return folder


@pytest.fixture(scope="module")
def larger(lang: Path) -> Path:
    path = lang.parent / "larger.arpa"
    write_arpa(model(4, MORE), path)
    return path


def names_of(lang: Path) -> dict[int, str]:
    return {number: word for word, number in read_language(lang).words.items()}


@pytest.mark.parametrize(("scale", "insertion"), [(1.0, 0.0), (0.5, 1.0), (2.0, -1.0), (0.0, 0.3)])
@pytest.mark.parametrize("with_larger", [False, True])
def test_nbest_equals_enumeration(
    lang: Path, larger: Path, scale: float, insertion: float, with_larger: bool
) -> None:
    rescoring = read_graph(build_grammar(lang, larger)) if with_larger else None
    decoder = KaldiDecoder(lang, 4, beam=200, lattice_beam=200, rescoring=rescoring)
    decoder.set_scales(scale, insertion)
    arpa = read_arpa(larger if with_larger else lang / "lm.arpa")
    names = names_of(lang)
    for seed in range(3):
        log_probs = random_log_probs(seed, 6)
        sentences = every_sentence(log_probs)
        totals = {
            words: acoustic + scale * likeliest(arpa, words) + insertion * len(words)
            for words, acoustic in sentences.items()
        }
        expected = sorted(totals, key=lambda words: -totals[words])[:12]
        (found,) = decoder.nbest([log_probs], 12)
        assert len(found) == 12
        for one, words in zip(found, expected, strict=True):
            spelled = tuple(names[number] for number in one.words)
            # Equal totals may come in either order.
            assert totals[spelled] == pytest.approx(totals[words], abs=2e-3)
            assert one.acoustic == pytest.approx(sentences[spelled], abs=1e-3)
            assert one.lm == pytest.approx(likeliest(arpa, spelled), abs=2e-3)
        ((words, score, final),) = decoder.decode([log_probs])
        assert final
        assert score == pytest.approx(totals[expected[0]], abs=2e-3)
        assert tuple(words) == found[0].words


@pytest.mark.parametrize("packed", [False, True])
def test_rescored_scores_beside_those_of_kenlm(
    lang: Path, larger: Path, tmp_path: Path, packed: bool
) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM is the reference")
    path = larger
    if packed:
        path = tmp_path / "larger.arpa.gz"
        path.write_bytes(gzip.compress(larger.read_bytes()))
        assert arpa_order(path) == 4
    decoder = KaldiDecoder(lang, 4, beam=40, rescoring=read_graph(build_grammar(lang, path)))
    peer = kenlm.Model(str(larger))
    names = names_of(lang)
    arpa = read_arpa(larger)
    lists = decoder.nbest([random_log_probs(seed, 25) for seed in range(5)], 30)
    for one in (one for found in lists for one in found):
        words = tuple(names[number] for number in one.words)
        assert one.lm == pytest.approx(likeliest(arpa, words), abs=2e-3)
        # KenLM backs off only where it must.
        theirs = LN10 * peer.score(" ".join(words))
        assert theirs == pytest.approx(LN10 * arpa.sentence_log10(words), abs=1e-4)
        assert one.lm > theirs - 2e-3


def test_words_that_the_larger_model_lacks_count_as_unknown(lang: Path, tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM is the reference")
    path = tmp_path / "few.arpa"
    write_arpa(model(3, ["A AB", "AB A A"]), path)
    decoder = KaldiDecoder(
        lang, 4, beam=40, lattice_beam=40, rescoring=read_graph(build_grammar(lang, path))
    )
    names, peer = names_of(lang), kenlm.Model(str(path))
    (found,) = decoder.nbest([random_log_probs(3, 12)], 60)
    texts = [" ".join(names[number] for number in one.words) for one in found]
    assert any("BA" in text.split() for text in texts)
    for one, text in zip(found, texts, strict=True):
        # Rarely a sentence is likelier when one backs off where one need not.
        assert LN10 * peer.score(text) - 2e-3 < one.lm < LN10 * peer.score(text) + 0.1
    text = path.read_text().replace("ngram 1=5", "ngram 1=4")
    rows = [line for line in text.splitlines(keepends=True) if "<unk>" not in line]
    path.write_text("".join(rows))
    with pytest.raises(DataError, match="has no <unk>"):
        build_grammar(lang, path)


def test_the_grammar_is_built_once_for_the_same_inputs(lang: Path, larger: Path) -> None:
    path = build_grammar(lang, larger)
    before = path.stat().st_mtime_ns
    assert build_grammar(lang, larger).stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:-1])
    assert build_grammar(lang, larger).stat().st_mtime_ns != before


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("use", ["graph", "grammar", "packed", "flashlight"])
def test_an_arpa_file_cut_short(
    lang: Path, larger: Path, tmp_path: Path, share: float, use: str
) -> None:
    data = larger.read_bytes()
    path = tmp_path / "cut.arpa"
    path.write_bytes(data[: int(share * len(data))])
    if use == "graph":
        folder = write_lang(tmp_path / "lang")
        path.rename(folder / "lm.arpa")
        with pytest.raises(DataError, match="not a whole ARPA file"):
            build_graph(folder)
        assert not (folder / "HLG.fst").exists()
        return
    if use == "flashlight":
        pytest.importorskip("flashlight", reason="flashlight-text is optional")
        with pytest.raises(DataError, match="KenLM"):
            FlashlightDecoder(read_language(lang), path, 4)
        return
    if use == "packed":
        packed = gzip.compress(data)
        path = tmp_path / "cut.arpa.gz"
        path.write_bytes(packed[: int(share * len(packed))])
    with pytest.raises(DataError, match="not a whole"):
        build_grammar(lang, path)


@pytest.mark.parametrize("scales", [(1.0, 0.0), (0.6, 1.5)])
def test_flashlight_agrees_with_kaldi(lang: Path, scales: tuple[float, float]) -> None:
    pytest.importorskip("flashlight", reason="flashlight-text is optional")
    kaldi = KaldiDecoder(lang, 4, beam=100, lattice_beam=30)
    peer = FlashlightDecoder(
        read_language(lang), lang / "lm.arpa", 4, beam_size=5000, beam_threshold=500.0
    )
    for decoder in (kaldi, peer):
        decoder.set_scales(*scales)
    emissions = [random_log_probs(seed, 3 + seed) for seed in range(25)]
    for a, b in zip(kaldi.decode(emissions), peer.decode(emissions), strict=True):
        assert a[0] == b[0]
        assert a[1] == pytest.approx(b[1], abs=5e-3)
        assert b[2]
    for a, b in zip(kaldi.nbest(emissions, 5), peer.nbest(emissions, 5), strict=True):
        for one, other in zip(a, b, strict=True):
            assert one.words == other.words
            assert one.acoustic == pytest.approx(other.acoustic, abs=2e-3)
            assert one.lm == pytest.approx(other.lm, abs=2e-3)


def test_what_flashlight_cannot_search(lang: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flashlight", reason="flashlight-text is optional")
    language = read_language(lang)
    with pytest.raises(DataError, match="do not fit the language folder"):
        FlashlightDecoder(language, lang / "lm.arpa", 5)
    open_ended = language._replace(lexicon=[("A", ("A",))])
    with pytest.raises(DataError, match="spellings that end with"):
        FlashlightDecoder(open_ended, lang / "lm.arpa", 4)
    with pytest.raises(DataError, match="no such file"):
        FlashlightDecoder(language, lang / "nowhere.arpa", 4)
    monkeypatch.setitem(__import__("sys").modules, "flashlight.lib.text.decoder", None)
    with pytest.raises(DependencyError, match=r"\[flashlight\]"):
        FlashlightDecoder(language, lang / "lm.arpa", 4)


@pytest.mark.parametrize("backend", ["kaldi", "rescored", "flashlight"])
def test_degenerate_emissions(lang: Path, larger: Path, backend: str) -> None:
    if backend == "flashlight":
        pytest.importorskip("flashlight", reason="flashlight-text is optional")
        decoder = FlashlightDecoder(read_language(lang), lang / "lm.arpa", 4)
    else:
        grammar = read_graph(build_grammar(lang, larger)) if backend == "rescored" else None
        decoder = KaldiDecoder(lang, 4, rescoring=grammar)
    nothing = np.zeros((0, 4), np.float32)
    assert decoder.decode([nothing]) == [([], 0.0, True)]
    assert decoder.nbest([nothing], 5) == [[]]
    letter = np.log(np.array([[0.02, 0.02, 0.95, 0.01]], np.float32))
    ((words, _, final),) = decoder.decode([letter])
    assert (words, final) == ([1], True)
    assert decoder.nbest([letter], 5)[0][0].words == (1,)
    with pytest.raises(NumericsError, match="NaN"):
        decoder.nbest([np.full((5, 4), np.nan, np.float32)], 5)
    with pytest.raises(DataError, match="do not fit"):
        decoder.nbest([np.zeros((5, 3), np.float32)], 5)


def test_lists_are_stored_whole(tmp_path: Path) -> None:
    lists = {
        "one": [Entry("A BÄ", -1.25, -2.5, {"larger": -3.0}), Entry("", -2.0, -1.0)],
        "none": [],
    }
    write_nbest(tmp_path, lists, {"lm_scale": 1.0})
    assert read_nbest(tmp_path) == lists
    before = (tmp_path / "nbest.jsonl.gz").read_bytes()
    write_nbest(tmp_path, lists, {"lm_scale": 1.0})
    assert (tmp_path / "nbest.jsonl.gz").read_bytes() == before
    (tmp_path / "nbest.jsonl.gz").write_bytes(before[:-5])
    with pytest.raises(DataError, match=r"nbest\.json describes"):
        read_nbest(tmp_path)
    (tmp_path / "nbest.json").unlink()
    with pytest.raises(DataError, match="no finished n-best lists"):
        read_nbest(tmp_path)


texts = st.lists(st.sampled_from(["A", "B", "C"]), max_size=4).map(" ".join)


@given(st.lists(st.tuples(texts, st.lists(texts, max_size=4)), min_size=1, max_size=4))
def test_the_oracle_is_no_worse_than_the_first(cases: list[tuple[str, list[str]]]) -> None:
    lists = {str(i): [Entry(t, 0.0, 0.0) for t in found] for i, (_, found) in enumerate(cases)}
    references = {str(i): reference for i, (reference, _) in enumerate(cases)}
    best = oracle(lists, references, edit_distance)
    assert 0 <= best.errors <= best.first
    # A list that holds the reference leaves no errors.
    full = {name: [*lists[name], Entry(references[name], 0.0, 0.0)] for name in lists}
    assert oracle(full, references, edit_distance).errors == 0
    with pytest.raises(DataError, match="without a reference"):
        oracle(lists, {}, edit_distance)


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    states = draw(st.integers(2, 6))
    arcs = draw(
        st.lists(
            st.tuples(
                st.integers(0, states - 2),
                st.integers(1, states - 1),
                st.integers(0, 2),
                st.integers(0, 20),
                st.integers(0, 20),
            ).filter(lambda arc: arc[0] < arc[1]),
            max_size=12,
        )
    )
    columns = [np.array([arc[i] for arc in arcs], np.int64) for i in range(5)]
    ends = draw(st.lists(st.sampled_from([0.0, 1.0, math.inf]), min_size=states, max_size=states))
    costs = [column.astype(np.float64) for column in columns[3:]]
    return Lattice(0, *columns[:3], *costs, np.array(ends))


@settings(max_examples=150, deadline=None)
@given(lattices(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(-3, 3), st.integers(1, 6))
def test_nbest_of_any_lattice_equals_all_paths(
    lattice: Lattice, scale: float, insertion: int, count: int
) -> None:
    best: dict[tuple[int, ...], float] = {}

    def walk(state: int, words: tuple[int, ...], total: float) -> None:
        if math.isfinite(lattice.final[state]):
            end = total + scale * float(lattice.final[state])
            best[words] = min(best.get(words, math.inf), end)
        for arc in np.flatnonzero(lattice.source == state):
            word = int(lattice.word[arc])
            cost = lattice.acoustic[arc] + scale * lattice.lm[arc] - insertion * bool(word)
            longer = (*words, word) if word else words
            walk(int(lattice.next[arc]), longer, total + float(cost))

    walk(lattice.start, (), 0.0)
    found = nbest(lattice, count, 1000.0, scale, insertion)
    totals = [-(one.acoustic + scale * one.lm + insertion * len(one.words)) for one in found]
    assert totals == pytest.approx(sorted(best.values())[:count])
    assert len({one.words for one in found}) == len(found)
    for one, total in zip(found, totals, strict=True):
        assert total == pytest.approx(best[one.words])
    near = nbest(lattice, count, 5.0, scale, insertion)
    within = [total for total in sorted(best.values()) if total <= min(best.values()) + 5.0]
    assert len(near) == min(count, len(within))
    assert len(prune(lattice, 5.0, scale, insertion).word) <= len(lattice.word)


def test_files_that_are_no_lattices(lang: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a lattice"):
        read_kaldi_lattice(lang / "HLG.fst")
    graph = read_graph(lang / "LG.fst")
    write_graph(
        make_graph(graph.start, graph.states["final"], graph.source, graph.arcs), tmp_path / "copy"
    )
    copy = read_graph(tmp_path / "copy")
    assert np.array_equal(copy.arcs, graph.arcs)
    assert np.array_equal(copy.states, graph.states)


def test_a_hypothesis_is_a_plain_tuple() -> None:
    assert Hypothesis((1, 2), -3.0, -4.0) == ((1, 2), -3.0, -4.0)
