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
from unispeech.decode.tune import TuneConfig, spread, tune

ROOT = Path(__file__).parents[2]
TRAIN = ["THE CAT SAT", "THE DOG SAT", "A CAT RAN", "A DOG RAN TO THE CAT", "THE CAT RAN"] * 4
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
    options.append("tune.refinements=1")
    assert decode(*options, noise=3.0) == 0
    stored = tmp_path / "test" / "graph" / "tune.json"
    tuned = json.loads(stored.read_text())
    assert len(tuned["table"]) >= 15
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


def test_tune_finds_the_minimum_between_grid_points() -> None:
    def errors(lm_scale: float, word_insertion: float) -> int:
        return round(1000 * ((lm_scale - 1.2) ** 2 + 0.1 * (word_insertion + 2.0) ** 2))

    config = TuneConfig(refinements=4)
    best, table = tune(errors, config)
    assert best.lm_scale == pytest.approx(1.2, abs=0.05)
    assert best.word_insertion == pytest.approx(-2.0, abs=0.2)
    assert len(table) == len({point[:2] for point in table})
    assert spread([str(i) for i in range(10)], 5) == ["0", "2", "4", "6", "8"]


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
