"""`decode`, `score` and `local/prepare_lang.py` on simulated emissions, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lhotse import MonoCut, SupervisionSegment

from unispeech.__main__ import main
from unispeech.data.manifests import write_cuts
from unispeech.decode.emissions import EmissionWriter
from unispeech.decode.nbest import Entry, read_nbest
from unispeech.decode.ngram import estimate, write_arpa
from unispeech.decode.rescoring import Mixture, choose
from unispeech.decode.scales import minimise, tabulate
from unispeech.decode.tune import spread
from unispeech.score.wer import edit_distance

ROOT = Path(__file__).parents[2]
TRAIN = ["THE CAT SAT", "THE DOG SAT", "A CAT RAN", "A DOG RAN TO THE CAT", "THE CAT RAN"] * 4
# The order of the test sentences in each set.
SETS = {"test": 1, "dev": -1}
TEST = ["THE CAT RAN", "A DOG SAT", "THE DOG RAN TO THE CAT", "A CAT SAT"]


def manifest(path: Path, texts: list[str]) -> Path:
    cuts = []
    for place, text in enumerate(texts):
        name = f"{path.stem.split('.')[0]}-{place}"
        supervision = SupervisionSegment(name, name, 0.0, 1.0, text=text, speaker=f"s{place % 2}")
        cuts.append(MonoCut(name, 0.0, 1.0, 0, supervisions=[supervision]))
    write_cuts(cuts, path)
    return path


def emissions(folder: Path, tokens: list[str], texts: list[str], noise: float) -> Path:
    """Peaky log-probabilities of the spelled words, blurred by random confusions."""
    generator = np.random.default_rng(7)
    name = folder.name
    with EmissionWriter(folder, tokens, 0.02, {"checkpoint_sha256": "none"}) as writer:
        for place, text in enumerate(texts):
            labels = [tokens.index(s) for word in text.split() for s in (*word, "|")]
            columns = [column for label in labels for column in (label, 0)]
            logits = generator.normal(0.0, noise, (len(columns), len(tokens)))
            logits[np.arange(len(columns)), columns] += 6.0
            log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            writer.write(f"{name}-{place}", log_probs.astype(np.float32))
    return folder


def prepare(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "local" / "prepare_lang.py", *options]
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("kaldifst", reason="graphs are built with kaldifst")
    pytest.importorskip("kaldi_decoder", reason="the back-end kaldi needs kaldi-decoder")
    folder = tmp_path_factory.mktemp("exp")
    train = manifest(folder / "train.jsonl.gz", TRAIN)
    dev = manifest(folder / "dev.jsonl.gz", [*TEST, "A COW"])
    done = prepare("--text", train, "--output", folder / "lang", "--order", 2, "--dev", dev)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    again = prepare("--text", train, "--output", folder / "lang", "--order", 2, "--dev", dev)
    assert (again.returncode, "skipped" in again.stdout) == (0, True), again.stdout + again.stderr
    return folder / "lang"


@pytest.fixture
def decode(lang: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*options: object, noise: float = 1.0, method: str = "graph") -> int:
        tokens = [line.split()[0] for line in (lang / "tokens.txt").read_text().splitlines()]
        if not (tmp_path / "test").exists():
            emissions(tmp_path / "test", tokens, TEST, noise)
            emissions(tmp_path / "dev", tokens, TEST[::-1], noise)
        argv = ["decode", "--emissions", tmp_path / "test", "--method", method]
        argv += ["--output", tmp_path / "test" / method]
        if method == "graph":
            argv += ["--lang", lang, "--backend", "kaldi"]
        return main([str(part) for part in (*argv, *options)])

    return run


def test_language_folder(lang: Path) -> None:
    tokens = (lang / "tokens.txt").read_text().splitlines()
    assert tokens[:3] == ["<blk> 0", "| 1", "A 2"]
    assert {line.split()[0] for line in tokens[2:]} == set("ACDEGHNORST")
    words = (lang / "words.txt").read_text().splitlines()
    assert words[0] == "<eps> 0"
    assert [line.split()[0] for line in words[-3:]] == ["#0", "<s>", "</s>"]
    assert "DOG D O G |" in (lang / "lexicon.txt").read_text().splitlines()
    about = json.loads((lang / "lang.json").read_text())
    assert about["words"] == 7
    # COW is one of 17 words.
    assert about["dev_oov"] == pytest.approx(100 / 17, abs=1e-3)


@pytest.mark.parametrize("method", ["greedy", "graph"])
def test_words_come_back(decode: Callable[..., int], tmp_path: Path, method: str) -> None:
    assert decode(method=method) == 0
    rows = (tmp_path / "test" / method / "text").read_text().splitlines()
    assert rows == [f"test-{place} {text}" for place, text in enumerate(TEST)]
    about = json.loads((tmp_path / "test" / method / "decode.json").read_text())
    assert about["method"] == method
    assert about["utterances"] == 4
    assert about["not_final"] == 0
    frames = sum(2 * (len(text.replace(" ", "")) + len(text.split())) for text in TEST)
    assert about["audio_seconds"] == pytest.approx(0.02 * frames)


def test_the_language_model_repairs_letters(decode: Callable[..., int], tmp_path: Path) -> None:
    assert decode(noise=3.0, method="greedy") == 0
    assert decode(noise=3.0, method="graph") == 0
    reference = manifest(tmp_path / "test.jsonl.gz", TEST)
    folders = [str(tmp_path / "test" / method) for method in ("greedy", "graph")]
    assert main(["score", "--reference", str(reference), "--hypothesis", *folders]) == 0
    greedy, graph = (json.loads((Path(f) / "wer.json").read_text())["wer"] for f in folders)
    assert graph < greedy


def test_finished_output_is_skipped_and_changes_are_redone(
    decode: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decode() == 0
    text = tmp_path / "test" / "graph" / "text"
    assert "skipped" not in capsys.readouterr().out
    assert decode() == 0
    assert "already decoded" in capsys.readouterr().out
    assert decode("beam=20") == 0
    assert "skipped" not in capsys.readouterr().out
    text.write_text("damaged\n")
    assert decode("beam=20") == 0
    assert text.read_text().startswith("test-0 THE")


def test_tuning_is_kept_and_reused(
    decode: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = manifest(tmp_path / "dev.jsonl.gz", TEST[::-1])
    options = ["--tune-emissions", tmp_path / "dev", "--tune-reference", reference]
    options.append("tune.nbest=20")
    assert decode(*options, noise=3.0) == 0
    stored = tmp_path / "test" / "graph" / "tune.json"
    tuned = json.loads(stored.read_text())
    assert tuned["columns"] == ["lm_scale", "word_insertion", "errors"]
    assert 2 <= len(tuned["table"]) <= 3
    errors = [point[2] for point in tuned["table"]]
    assert tuned["errors"] == min(errors)
    about = json.loads((tmp_path / "test" / "graph" / "decode.json").read_text())
    assert (about["lm_scale"], about["word_insertion"]) == (
        tuned["lm_scale"],
        tuned["word_insertion"],
    )
    before = stored.stat().st_mtime_ns
    assert decode(*options) == 0
    assert "already decoded" in capsys.readouterr().out
    assert stored.stat().st_mtime_ns == before
    assert decode("--tuned", stored) == 0
    assert "already decoded" in capsys.readouterr().out


def test_the_optimiser_finds_the_least_errors() -> None:
    generator = np.random.default_rng(1)
    letters = ["A", "B", "A B", "A B A", "B A B A"]
    lists = {
        str(number): [
            Entry(text, *generator.normal(-10.0, 2.0, 2).tolist(), {"other": -float(place)})
            for place, text in enumerate(letters)
        ]
        for number in range(12)
    }
    references = {name: letters[int(name) % 5] for name in lists}
    table = tabulate(lists, references, ["other"], edit_distance)
    axes = [np.linspace(0.0, 2.0, 21), np.linspace(0.0, 2.0, 21), np.linspace(-3.0, 3.0, 25)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 3)
    least = min(
        sum(
            edit_distance(references[name].split(), best.text.split())
            for name, entries in lists.items()
            for best in [max(entries, key=Mixture(a, {"other": b}, c).total)]
        )
        for a, b, c in grid[::7].tolist()
    )
    found = minimise(table, [(9.0, 9.0, -9.0)], [(0.0, 2.0), (0.0, 2.0), (-3.0, 3.0)])
    assert found.errors <= least
    mixture = Mixture(found.values[0], {"other": found.values[1]}, found.values[2])
    chosen = choose(lists, mixture)
    total = sum(edit_distance(references[n].split(), chosen[n].split()) for n in lists)
    assert total == found.errors
    assert minimise(table, [found.values], [(0.0, 0.1)] * 3).errors <= found.errors
    assert spread([str(i) for i in range(10)], 5) == ["0", "2", "4", "6", "8"]


def test_lists_are_rescored_by_other_models(
    decode: Callable[..., int], lang: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kenlm = pytest.importorskip("kenlm", reason="n-gram scores come from KenLM")
    references = {n: manifest(tmp_path / f"{n}.jsonl.gz", TEST[::d]) for n, d in SETS.items()}
    folders = {name: tmp_path / f"{name}-lists" for name in SETS}
    for name, folder in folders.items():
        options = ["--emissions", tmp_path / name, "--output", folder, "--nbest", 15]
        assert decode(*options, "--reference", references[name], noise=3.0) == 0
    about = json.loads((folders["test"] / "nbest.json").read_text())
    assert about["oracle"]["errors"] <= about["oracle"]["first"]
    lists = read_nbest(folders["test"])
    assert [entries[0].text for entries in lists.values()] == [
        line.partition(" ")[2] for line in (folders["test"] / "text").read_text().splitlines()
    ]
    larger = tmp_path / "larger.arpa"
    write_arpa(estimate([text.split() for text in [*TRAIN, *TEST]], 4), larger)
    dev, test = tmp_path / "dev-rescored", tmp_path / "test-rescored"
    models = ["--lm", f"larger={larger}"]
    tuning = ["--tune-nbest", str(folders["dev"]), "--tune-reference", str(references["dev"])]
    command = ["rescore", "--nbest", str(folders["dev"]), "--output", str(dev), *models, *tuning]
    assert main(command) == 0
    tuned = json.loads((dev / "tune.json").read_text())
    assert tuned["errors"] == min(row[-1] for row in tuned["table"])
    capsys.readouterr()
    assert main(command) == 0
    assert "already rescored" in capsys.readouterr().out
    command = ["rescore", "--nbest", str(folders["test"]), "--output", str(test), *models]
    assert main([*command, "--tuned", str(dev / "tune.json")]) == 0
    peer = kenlm.Model(str(larger))
    for entry in read_nbest(test)["test-0"]:
        theirs = peer.score(entry.text) * np.log(10)
        assert entry.scores["larger"] == pytest.approx(theirs, abs=1e-3)
    about = json.loads((test / "decode.json").read_text())
    assert about["larger_scale"] == tuned["scales"]["larger"]
    assert len((test / "text").read_text().splitlines()) == 4
    for wrong, code in ((["--lm", "x"], 2), (["--tuned", str(larger)], 65)):
        assert main([*command, *wrong]) == code


@pytest.mark.parametrize("backend", ["kaldi", "flashlight"])
def test_a_larger_model_in_decoding(
    decode: Callable[..., int], tmp_path: Path, backend: str
) -> None:
    if backend == "flashlight":
        pytest.importorskip("flashlight", reason="flashlight-text is optional")
    larger = tmp_path / "larger.arpa"
    write_arpa(estimate([text.split() for text in TRAIN], 4), larger)
    assert decode("--backend", backend, "--rescore-arpa", larger, "--nbest", 5) == 0
    about = json.loads((tmp_path / "test" / "graph" / "decode.json").read_text())
    assert about["lm"] == "4-gram"
    rows = (tmp_path / "test" / "graph" / "text").read_text().splitlines()
    assert rows == [f"test-{place} {text}" for place, text in enumerate(TEST)]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--method", "graph"], 2, "needs --lang"),
        (["--method", "greedy", "--tuned", "x"], 2, "go with --method graph"),
        (["--method", "greedy", "--tune-emissions", "x"], 2, "go with --method graph"),
        (["--method", "beam"], 2, "invalid choice"),
        (["--method", "greedy", "beem=3"], 78, "did you mean 'beam'"),
        (["--method", "greedy", "beam=-1"], 78, "beam"),
        (["--method", "greedy"], 65, "run emit again"),
        (["--method", "graph", "--lang", "nowhere", "--backend", "kaldi"], 65, "run emit again"),
    ],
)
def test_user_errors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    argv = ["decode", "--emissions", str(tmp_path), "--output", str(tmp_path / "out"), *options]
    assert main(argv) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_tokens_are_refused(
    decode: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ["<blk>", "|", *sorted("ACDEGHNORSTX")]
    emissions(tmp_path / "test", tokens, TEST, 1.0)
    assert decode() == 65
    assert "different tokens" in capsys.readouterr().err


def test_a_missing_k2_is_an_error(
    decode: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unispeech.decode.k2.available", lambda: False)
    monkeypatch.setattr("unispeech.decode.k2_process.find_python", lambda: None)
    assert decode("--backend", "k2") == 69
    assert "k2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "options", "code", "message"),
    [
        (["A CAT", ""], [], 65, "no transcript"),
        (["A|CAT"], [], 65, "reserved"),
        (["A #0"], [], 65, "reserved"),
        (["A CAT"], ["--arpa", "nowhere.arpa"], 65, "no such file"),
        (["A CAT"], ["--order", "0"], 2, "--order"),
        (["A CAT"], ["--ordr", "2"], 2, "did you mean '--order'"),
    ],
)
def test_prepare_lang_errors(
    tmp_path: Path, texts: list[str], options: list[str], code: int, message: str
) -> None:
    train = manifest(tmp_path / "train.jsonl.gz", texts)
    done = prepare("--text", train, "--output", tmp_path / "lang", *options)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_extra_words_and_given_files(tmp_path: Path) -> None:
    pytest.importorskip("kaldifst", reason="graphs are built with kaldifst")
    train = manifest(tmp_path / "train.jsonl.gz", TRAIN)
    (tmp_path / "extra").write_text("GOAT XYZ\n")
    one, two = tmp_path / "one", tmp_path / "two"
    done = prepare("--text", train, "--output", one, "--extra-words", tmp_path / "extra")
    assert done.returncode == 0, done.stderr
    lexicon = (one / "lexicon.txt").read_text().splitlines()
    assert "GOAT G O A T |" in lexicon
    assert not any("X" in line for line in lexicon)
    given = ["--arpa", one / "lm.arpa", "--lexicon", one / "lexicon.txt"]
    done = prepare("--text", train, "--output", two, *given)
    assert done.returncode == 0, done.stderr
    for name in ("tokens.txt", "words.txt", "lexicon.txt", "lm.arpa", "HLG.fst"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
