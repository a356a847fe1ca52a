"""The LibriSpeech recipe, end to end, on the corpus that it synthesises."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import CutSet
from packages import require
from tiny import environment, finish

from unispeech.decode.ngram import estimate, write_arpa

# Twice what the recipe is allowed to take, for a busy machine.
pytestmark = [pytest.mark.recipe, pytest.mark.timeout(1800)]

TINY = ["--tiny", "true"]


def arguments(repo: Path, exp: Path, *more: str) -> list[str]:
    return ["bash", str(repo / "egs/librispeech/run.sh"), *TINY, "--exp", str(exp), *more]


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "with space"
    finish("librispeech", folder)
    return folder


def word_errors(exp: Path, method: str) -> dict:
    return json.loads((exp / f"infer/pretrained/test-clean/{method}/wer.json").read_text())


def test_word_error_rates(exp: Path) -> None:
    greedy, graph = word_errors(exp, "greedy"), word_errors(exp, "graph")
    assert graph["wer"] <= 20
    assert graph["wer"] < greedy["wer"]
    assert graph["low"] <= graph["wer"] <= graph["high"]


def test_corpus_is_as_large_and_as_varied_as_asked(exp: Path) -> None:
    sets = {name: CutSet.from_file(exp / f"data/{name}.jsonl.gz") for name in
            ("train", "dev-clean", "test-clean")}  # fmt: skip
    speakers = {name: {c.supervisions[0].speaker for c in cuts} for name, cuts in sets.items()}
    assert sum(map(len, speakers.values())) == len(set.union(*speakers.values())) >= 24
    assert sum(cut.duration for cut in sets["train"]) >= 20 * 60
    words = {w for cut in sets["train"] for w in cut.supervisions[0].text.split()}
    assert len(words) >= 300


def test_pretraining_learned_and_labels_were_measured(exp: Path) -> None:
    rows = [json.loads(line) for line in (exp / "pretrain_it1/metrics.jsonl").open()]
    valid = [row["loss"] for row in rows if row["phase"] == "valid"]
    assert valid[-1] < valid[0]
    quality = json.loads((exp / "data/labels/it1/labels.json").read_text())["quality"]
    # Clusters of MFCC know far more of the phone than chance.
    assert quality["pnmi"] > 0.2


def test_report_is_written(exp: Path) -> None:
    rows = json.loads((exp / "report/results.json").read_text())
    assert {row["metric"] for row in rows} == {"WER"}
    page = (exp / "report/index.html").read_text()
    assert "launch.sh" in page
    assert "<svg" in page or "data:image" in page


def test_second_run_skips_everything(exp: Path) -> None:
    files = [*exp.glob("pretrain_it1/checkpoints/*"), *exp.glob("data/**/*"), *exp.glob("lang/*")]
    files += [*exp.glob("finetune/checkpoints/*"), *exp.glob("infer/**/emissions.npy")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert finish("librispeech", exp).count("skipped") >= 10
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_second_iteration_labels_from_our_own_model(repo: Path, exp: Path) -> None:
    options = ["--iterations", "mfcc pretrain:2", "--stage", "3", "--stop-stage", "3"]
    options += ["--dry-run", "true"]
    printed = finish("librispeech", exp, *options).splitlines()
    label = next(line for line in printed if "labels_layer.yaml" in line)
    second = next(line for line in printed if "--output" in line and "pretrain_it2" in line)
    assert printed.index(label) < printed.index(second)
    assert "labels/it2" in second
    # What the dry run prints is what a shell runs.
    python = f"PATH={Path(sys.executable).parent}:$PATH"
    command = f"cd {repo}/egs/librispeech && {python} PYTHONPATH={repo} {label}"
    subprocess.run(["bash", "-c", command], env=environment(), check=True, timeout=900)
    description = json.loads((exp / "data/labels/it2/labels.json").read_text())
    assert (description["rate"], description["origin"]["feature"]) == (50, "layer")


def test_interrupt_ends_with_130_and_the_same_command_continues(repo: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    options = ["--stop-stage", "1"]
    process = subprocess.Popen(
        arguments(repo, exp, *options),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background inherits an ignored SIGINT, which a shell cannot trap.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(exp.glob("**/.tmp-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not (exp / "corpus/LibriSpeech").exists()
    finish("librispeech", exp, *options)
    assert (exp / "data/train.jsonl.gz").is_file()


def test_missing_corpus_says_what_to_do(repo: Path, tmp_path: Path) -> None:
    script = ["bash", str(repo / "egs/librispeech/run.sh"), "--exp", str(tmp_path / "e")]
    for options, code, words in (
        ([], 2, "--corpora is missing"),
        (["--corpora", str(tmp_path / "none")], 65, "none"),
    ):
        result = subprocess.run(
            [*script, *options], env=environment(), capture_output=True, text=True, timeout=120
        )
        assert result.returncode == code
        assert words in result.stderr
        assert "Traceback" not in result.stderr


Numbers = dict[str, float]


def command(*words: object) -> None:
    """Run a command of the package as a user does."""
    result = subprocess.run(
        [sys.executable, "-m", "unispeech", *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-3000:]


def texts(folder: Path) -> list[str]:
    return (folder / "text").read_text(encoding="utf-8").splitlines()


def agreement(first: Path, second: Path) -> float:
    pairs = list(zip(texts(first), texts(second), strict=True))
    return sum(a == b for a, b in pairs) / len(pairs)


@pytest.fixture(scope="module")
def real_speech(exp: Path, repo: Path, real_data: Path) -> Path:
    """The trained model's emissions of eighty utterances of real speech."""
    folder = exp.parent / "real"
    script = [sys.executable, str(repo / "local/prepare_folder.py"), "--corpora", str(real_data)]
    script += ["--sets", str(repo / "egs/librispeech/conf/mini/sets.yaml")]
    subprocess.run([*script, "--output", str(folder)], env=environment(), check=True, timeout=600)
    command("emit", "--model", exp / "finetune", "--output", folder / "e", folder / "dev.jsonl.gz")
    return folder / "e"


WIDE = ["beam=16", "max_active=20000", "lattice_beam=8", "lm_scale=1.0", "word_insertion=0.0"]


def decode(exp: Path, emissions: Path, backend: str, *more: object) -> Path:
    output = exp.parent / f"decoded/{emissions.parent.name}-{emissions.name}-{backend}"
    command("decode", "--method", "graph", "--emissions", emissions, "--output", output, "--lang",
            exp / "lang", "--backend", backend, *more, *WIDE)  # fmt: skip
    return output


def wer_of(reference: Path, folder: Path) -> Numbers:
    command("score", "--reference", reference, "--hypothesis", folder)
    return json.loads((folder / "wer.json").read_text())


def test_k2_and_kaldi_agree(
    exp: Path, real_speech: Path, record_property: Callable[[str, object], None]
) -> None:
    require("k2")
    sets = [
        (exp / "infer/pretrained/test-clean", exp / "data/test-clean.jsonl.gz"),
        (real_speech, real_speech.parent / "dev.jsonl.gz"),
    ]
    for emissions, reference in sets:
        kaldi, k2 = (decode(exp, emissions, backend) for backend in ("kaldi", "k2"))
        about = json.loads((k2 / "decode.json").read_text())
        record_property("k2", ("HLG, 1-best", about["utterances"]))
        assert about["backend"] == "k2"
        assert agreement(kaldi, k2) >= 0.99
        rates = [wer_of(reference, folder)["wer"] for folder in (kaldi, k2)]
        assert abs(rates[0] - rates[1]) <= 0.1


def test_the_lexicon_beam_search_agrees(exp: Path) -> None:
    require("flashlight")
    emissions, reference = exp / "infer/pretrained/test-clean", exp / "data/test-clean.jsonl.gz"
    wide = ["beam_size=1500", "beam_size_token=30", "beam_threshold=50"]
    folders = [decode(exp, emissions, "kaldi"), decode(exp, emissions, "flashlight", *wide)]
    rates = [wer_of(reference, folder)["wer"] for folder in folders]
    assert abs(rates[0] - rates[1]) <= 0.3


def test_k2_rescores_with_a_larger_ngram_and_a_transformer(
    exp: Path, repo: Path, record_property: Callable[[str, object], None]
) -> None:
    require("k2")
    require("flashlight")  # its extra brings KenLM
    train = CutSet.from_file(exp / "data/train.jsonl.gz")
    sentences = [cut.supervisions[0].text.split() for cut in train]
    larger, lm = exp.parent / "larger.arpa", exp.parent / "lm"
    write_arpa(estimate(sentences, 4), larger)
    command("lm", "--config", repo / "egs/librispeech/conf/transformer_lm/tiny.yaml", "--output",
            lm, f"data.train={exp / 'data/train.jsonl.gz'}",
            f"data.valid={exp / 'data/dev-clean.jsonl.gz'}")  # fmt: skip
    lists = {}
    for name in ("dev-clean", "test-clean"):
        lists[name] = decode(exp, exp / f"infer/pretrained/{name}", "k2", "--rescore-arpa", larger,
                             "--nbest", 20)  # fmt: skip
        about = json.loads((lists[name] / "decode.json").read_text())
        record_property("k2", ("HLG, 4-gram lattices, 20-best", about["utterances"]))
    output, dev = exp.parent / "rescored", exp / "data/dev-clean.jsonl.gz"
    command("rescore", "--nbest", lists["test-clean"], "--lm", f"transformer={lm}", "--output",
            output, "--tune-nbest", lists["dev-clean"], "--tune-reference", dev)  # fmt: skip
    reference = exp / "data/test-clean.jsonl.gz"
    rescored, before = wer_of(reference, output), wer_of(reference, lists["test-clean"])
    # Tuned on dev, where it is never worse; on test the intervals overlap at the least.
    assert rescored["low"] <= before["high"]
    about = json.loads((output / "decode.json").read_text())
    assert "transformer" in about["lm"].lower()
