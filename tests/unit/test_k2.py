"""k2, here or in its own environment: against kaldi, KenLM and torch, and what can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packages import require

from unispeech.decode import k2, k2_process
from unispeech.decode.engine import SearchConfig, choose_backend, open_decoder
from unispeech.decode.fst import Graph, read_graph
from unispeech.decode.graph import build_grammar, build_graph, read_language
from unispeech.decode.kaldi import KaldiDecoder
from unispeech.decode.ngram import estimate, read_arpa, write_arpa
from unispeech.errors import DataError, NumericsError

pytestmark = pytest.mark.k2

LETTERS = "ABC"
WORDS = ["A", "AB", "BA", "CAB", "BAC", "ACCA"]
Count = Callable[[Any, Sequence[Any]], None]


def make_lang(folder: Path, seed: int) -> Path:
    """A lexicon of random words, spelled alike here and there, and a 2-gram of random sentences."""
    rng = np.random.default_rng(seed)
    spellings = {word: word for word in WORDS}
    while len(spellings) < 14:
        spelling = "".join(rng.choice(list(LETTERS), rng.integers(1, 5)))
        spellings[f"w{len(spellings)}"] = spelling
    words = list(spellings)
    sentences = [list(rng.choice(words, rng.integers(1, 6))) for _ in range(60)]
    folder.mkdir()
    tokens, table = ["<blk>", "|", *LETTERS], ["<eps>", *words, "#0", "<s>", "</s>"]
    for name, symbols in (("tokens", tokens), ("words", table)):
        (folder / f"{name}.txt").write_text("".join(f"{s} {i}\n" for i, s in enumerate(symbols)))
    lexicon = "".join(f"{word} {' '.join(letters)} |\n" for word, letters in spellings.items())
    (folder / "lexicon.txt").write_text(lexicon)
    write_arpa(estimate(sentences, 2), folder / "lm.arpa")
    write_arpa(estimate(sentences, 4), folder / "big.arpa")
    build_graph(folder)
    return folder


Grams = list[dict[tuple[str, ...], tuple[float, float]]]


def cheapest(grams: Grams, words: Sequence[str]) -> float:
    """Ln P of a sentence in a graph, where backing off is always allowed: the best way to read it.

    A back-off model says P(w | h) by the longest n-gram alone; reading w from a shorter one is a
    path of the graph as well, and rarely a better one.
    """
    ways: dict[tuple[str, ...], float] = {("<s>",): 0.0}
    for word in [*words, "</s>"]:
        following: dict[tuple[str, ...], float] = {}
        for history, score in ways.items():
            while True:
                found = grams[len(history)].get((*history, word))
                if found is not None:
                    reached = (*history, word)[-(len(grams) - 1) :]
                    while reached and reached not in grams[len(reached) - 1]:
                        reached = reached[1:]
                    following[reached] = max(following.get(reached, -np.inf), score + found[0])
                if not history:
                    break
                score += grams[len(history) - 1].get(history, (0.0, 0.0))[1]
                history = history[1:]
        ways = following
    return float(np.log(10)) * max(ways.values())


def random_emissions(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, count)
    return [np.log(rng.dirichlet(np.full(5, 0.4), n)).astype(np.float32) for n in sizes]


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lang(tmp_path_factory.mktemp("k2") / "lang", 0)


def open_k2(lang: Path, **options: Any) -> Any:
    """K2Decoder here, else K2Process, as the engine chooses."""
    require("k2")
    back_end = k2.K2Decoder if k2.available() else k2_process.K2Process
    return back_end(read_graph(lang / "LG.fst"), 5, **options)


@pytest.fixture(scope="module")
def decoder(lang: Path) -> Any:
    return open_k2(lang, beam=100.0, lattice_beam=6.0)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    def add(decoder: Any, results: Sequence[Any]) -> None:
        version = getattr(decoder, "version", None) or k2.version()
        record_property("k2", (version, len(results)))

    return add


@pytest.mark.parametrize(("scale", "insertion"), [(1.0, 0.0), (0.4, 1.5), (2.0, -1.0)])
def test_words_and_scores_are_those_of_kaldi(
    lang: Path, decoder: Any, count: Count, scale: float, insertion: float
) -> None:
    emissions = random_emissions(int(10 * scale), 40)
    kaldi = KaldiDecoder(lang, 5, beam=100)
    for each in (kaldi, decoder):
        each.set_scales(scale, insertion)
    ours = decoder.decode(emissions)
    count(decoder, ours)
    same = 0
    for a, b in zip(kaldi.decode(emissions), ours, strict=True):
        assert a[1] == pytest.approx(b[1], abs=1e-2)
        assert a[2] == b[2]
        same += a[0] == b[0]
    # Words that are spelled alike may have equal costs.
    assert same >= 39


def test_another_graph_through_the_engine(tmp_path: Path, count: Count) -> None:
    require("k2")
    lang = make_lang(tmp_path / "lang", 1)
    search = SearchConfig(beam=30, lm_scale=0.7, word_insertion=0.5)
    emissions = random_emissions(3, 30)
    both = [open_decoder(name, lang, 5, search) for name in ("kaldi", choose_backend("k2"))]
    kaldi, ours = (each.decode(emissions) for each in both)
    count(both[1], ours)
    for a, b in zip(kaldi, ours, strict=True):
        assert a[1] == pytest.approx(b[1], abs=1e-2)
    assert sum(a[0] == b[0] for a, b in zip(kaldi, ours, strict=True)) >= 29
    # What was composed is kept, and is the same when it comes from there.
    assert (lang / "HLG.k2.npz").is_file()
    assert open_decoder("k2", lang, 5, search).decode(emissions) == ours
    (lang / "HLG.k2.npz").write_bytes(b"PK\x03\x04 not the graph")
    assert open_decoder("k2", lang, 5, search).decode(emissions[:5]) == ours[:5]


def test_nbest_lists_are_those_of_kaldi(lang: Path, decoder: Any, count: Count) -> None:
    emissions = [*random_emissions(7, 8), np.zeros((0, 5), np.float32)]
    kaldi = KaldiDecoder(lang, 5, beam=100, lattice_beam=6.0)
    for each in (kaldi, decoder):
        each.set_scales(0.8, 0.5)
    ours = decoder.nbest(emissions, 10)
    count(decoder, ours)
    best = decoder.decode(emissions)
    assert ours[-1] == []
    for a, b, first in zip(kaldi.nbest(emissions, 10)[:-1], ours, best, strict=False):
        totals = [h.acoustic + 0.8 * h.lm + 0.5 * len(h.words) for h in b]
        assert totals == sorted(totals, reverse=True)
        assert totals[0] == pytest.approx(first[1], abs=1e-3)
        assert len({h.words for h in b}) == len(b) == len(a)
        theirs = [h.acoustic + 0.8 * h.lm + 0.5 * len(h.words) for h in a]
        assert totals == pytest.approx(theirs, abs=1e-2)
        scores = {h.words: h for h in a}
        shared = [(h, scores[h.words]) for h in b if h.words in scores]
        assert len(shared) >= len(b) - 1
        for one, other in shared:
            assert one.acoustic == pytest.approx(other.acoustic, abs=1e-2)
            assert one.lm == pytest.approx(other.lm, abs=1e-2)


def test_rescored_scores_are_those_of_kenlm(lang: Path, count: Count) -> None:
    require("flashlight")
    import kenlm

    grammar = read_graph(build_grammar(lang, lang / "big.arpa"))
    rescored = open_k2(lang, beam=100.0, lattice_beam=6.0, rescoring=grammar)
    rescored.set_scales(0.8, 0.5)
    emissions = random_emissions(11, 8)
    lists = rescored.nbest(emissions, 10)
    count(rescored, lists)
    names = {number: word for word, number in read_language(lang).words.items()}
    model = kenlm.Model(str(lang / "big.arpa"))
    grams = read_arpa(lang / "big.arpa").grams
    same = checked = 0
    for hypotheses, best in zip(lists, rescored.decode(emissions), strict=True):
        assert best[0] == list(hypotheses[0].words)
        for hypothesis in hypotheses:
            words = [names[number] for number in hypothesis.words]
            assert hypothesis.lm == pytest.approx(cheapest(grams, words), abs=5e-3)
            kenlm_score = model.score(" ".join(words)) * np.log(10)
            assert hypothesis.lm > kenlm_score - 5e-3
            same += hypothesis.lm < kenlm_score + 5e-3
            checked += 1
    assert checked >= 40
    assert same > 0.5 * checked


def test_emissions_without_frames_and_with_one(decoder: Any) -> None:
    empty, single = np.zeros((0, 5), np.float32), np.log(np.full((1, 5), 0.2, np.float32))
    results = decoder.decode([empty, single, empty])
    assert results[0] == results[2] == ([], 0.0, True)
    assert len(results[1][0]) <= 1
    assert decoder.nbest([empty], 3) == [[]]
    assert decoder.decode([]) == []


@pytest.mark.parametrize(
    ("log_probs", "error", "message"),
    [
        (np.full((3, 5), np.nan, np.float32), NumericsError, "NaN"),
        (np.zeros((3, 4), np.float32), DataError, "expected 5 columns"),
        (np.zeros(5, np.float32), DataError, "do not fit"),
    ],
)
def test_unusable_emissions(
    decoder: Any, log_probs: np.ndarray, error: type[Exception], message: str
) -> None:
    for call in (decoder.decode, lambda emissions: decoder.nbest(emissions, 2)):
        with pytest.raises(error, match=message):
            call([np.zeros((4, 5), np.float32), log_probs])
    assert decoder.decode([np.zeros((4, 5), np.float32)])[0][2]


def test_a_blank_in_the_lexicon(lang: Path) -> None:
    lg = read_graph(lang / "LG.fst")
    arcs = lg.arcs.copy()
    arcs["input"][0] = 1
    require("k2")
    back_end = k2.K2Decoder if k2.available() else k2_process.K2Process
    with pytest.raises(DataError, match="blank is in the lexicon"):
        back_end(Graph(lg.header, lg.start, lg.states, arcs), 5)
