"""k2, here or in its own environment: against kaldi, KenLM and torch, and what can go wrong."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Corpus, require

from unispeech.__main__ import main
from unispeech.decode import k2, k2_process
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.engine import SearchConfig, choose_backend, open_decoder
from unispeech.decode.fst import Graph, read_graph
from unispeech.decode.graph import build_grammar, build_graph, read_language
from unispeech.decode.kaldi import KaldiDecoder
from unispeech.decode.ngram import estimate, read_arpa, write_arpa
from unispeech.errors import DataError, DependencyError, NumericsError

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


def test_real_speech(repo: Path, count: Count) -> None:
    require("k2")
    trained = repo / "egs" / "librispeech" / "exp" / "mini"
    if not (trained / "infer" / "pretrained" / "test" / "emissions.json").is_file():
        pytest.skip("no model of real speech was trained here")
    reader = EmissionReader(trained / "infer" / "pretrained" / "test")
    emissions = [reader[name] for name in reader.utt_ids[::8]]
    search = SearchConfig(beam=16, lm_scale=1.0, word_insertion=1.5)
    both = [open_decoder(n, trained / "lang", len(reader.tokens), search) for n in ("kaldi", "k2")]
    kaldi, ours = (each.decode(emissions) for each in both)
    count(both[1], ours)
    assert sum(a[0] == b[0] for a, b in zip(kaldi, ours, strict=True)) >= 0.99 * len(ours)


def own_environment() -> Path:
    """The interpreter of k2's own environment."""
    require("k2")
    python = k2_process.find_python()
    if python is None:
        pytest.skip("k2 is in this environment and has none of its own")
    return python


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_process_that_dies_is_one_error(lang: Path) -> None:
    own_environment()
    process = k2_process.K2Process(read_graph(lang / "LG.fst"), 5)
    worker, folder = process._worker._process.pid, process._worker._folder
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(DependencyError, match="the process that runs k2 ended; .*SIGKILL"):
        process.decode([np.zeros((4, 5), np.float32)])
    assert not Path(folder).exists()
    assert not is_alive(worker)


def test_a_process_ends_with_its_decoder(lang: Path) -> None:
    own_environment()
    process = k2_process.K2Process(read_graph(lang / "LG.fst"), 5)
    worker, folder = process._worker._process.pid, process._worker._folder
    assert is_alive(worker)
    del process
    gc.collect()
    assert not is_alive(worker)
    assert not Path(folder).exists()


LOOP = """
import sys, numpy as np
from pathlib import Path
from unispeech.__main__ import guard
from unispeech.decode.fst import read_graph
from unispeech.decode.k2_process import K2Process
def action():
    process = K2Process(read_graph(Path(sys.argv[1]) / "LG.fst"), 5)
    print(process._worker._process.pid, flush=True)
    while True:
        process.decode([np.zeros((200, 5), np.float32)] * 4)
sys.exit(guard(action))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_leaves_no_process(lang: Path, repo: Path, number: signal.Signals) -> None:
    own_environment()
    command = [sys.executable, "-c", LOOP, str(lang)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=repo, start_new_session=True, **pipes) as main_process:
        assert main_process.stdout is not None
        worker = int(main_process.stdout.readline())
        time.sleep(0.2)
        # Ctrl-C goes to every process of the terminal.
        (os.killpg if number == signal.SIGINT else os.kill)(main_process.pid, number)
        error = main_process.communicate()[1]
    if number == signal.SIGINT:
        assert main_process.returncode == 130
        assert error == "error: interrupted; run the same command again to continue\n"
    for _ in range(100):
        if not is_alive(worker):
            break
        time.sleep(0.1)
    assert not is_alive(worker)


@pytest.mark.parametrize("given", ["/bin/false", "/nowhere/python", ""])
def test_no_environment(
    lang: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("UNISPEECH_K2_PYTHON", given)
    monkeypatch.setenv("UNISPEECH_K2", str(tmp_path))
    # One that was not finished has an interpreter, but no stamp.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(DependencyError, match=re.escape("setup_k2.sh")):
        k2_process.K2Process(read_graph(lang / "LG.fst"), 5)


CTC = """
import sys
sys.path.append(sys.argv[1])
import torch
import torch.nn.functional as F
from unispeech.losses.ctc_k2 import k2_ctc_loss
generator = torch.Generator().manual_seed(0)
for frames, sharpness in ((12, 1.0), (60, 0.1), (150, 2.0), (300, 6.0)):
    logits = sharpness * torch.randn(5, frames, 30, generator=generator)
    # One with no tokens, one that cannot fit, and one that only fits without its repeats.
    sizes = torch.tensor([frames, frames - 3, 3, frames // 2, 4])
    lengths = torch.tensor([frames // 4, 0, 4, frames // 6, 4])
    targets = torch.randint(1, 30, (int(lengths.sum()),), generator=generator)
    targets[-4:] = 7
    found = []
    for name in ("torch", "k2"):
        leaf = logits.clone().requires_grad_(True)
        log_probs = F.log_softmax(leaf, -1)
        if name == "k2":
            loss = k2_ctc_loss(log_probs, sizes, targets, lengths)
        else:
            loss = F.ctc_loss(log_probs.transpose(0, 1), targets, sizes, lengths,
                              reduction="sum", zero_infinity=True)
        loss.backward()
        found.append((loss.item(), leaf.grad))
    (a, da), (b, db) = found
    assert abs(a - b) <= 1e-4 * abs(a), (a, b)
    assert a > 10 and da[[2, 4]].abs().max() == 0 == db[[2, 4]].abs().max()
    assert (da - db).abs().max() <= 5e-3 and (da - db).norm() <= 1e-3 * da.norm()
leaf = torch.zeros(1, 2, 3, requires_grad=True)
loss = k2_ctc_loss(leaf, torch.tensor([1]), torch.tensor([1, 2]), torch.tensor([2]))
loss.backward()
assert loss == 0 and not leaf.grad.any()
print("equal")
"""


def test_ctc_equals_that_of_torch(repo: Path) -> None:
    require("k2")
    python = sys.executable if k2.available() else str(k2_process.find_python())
    command = [python, "-I", "-c", CTC, str(repo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr


def test_ctc_of_a_missing_k2_ends_before_training(
    shared_corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretrain = ["pretrain", "--config", str(shared_corpus.pretrain), "--output"]
    options = [*shared_corpus.overrides(), "train.updates=1", "objective.final_dim=8"]
    assert main([*pretrain, str(tmp_path / "init"), *options]) == 0
    monkeypatch.setattr("unispeech.losses.ctc_k2.available", lambda: False)
    capsys.readouterr()
    argv = ["finetune", "--config", str(shared_corpus.finetune), "--output", str(tmp_path / "out")]
    argv += [*shared_corpus.ctc_overrides(tmp_path / "init"), "ctc.loss=k2"]
    assert main(argv) == 69
    error = capsys.readouterr().err
    assert "ctc.loss=k2" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/checkpoints/*"))
