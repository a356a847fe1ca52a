"""The Common Voice recipe, end to end, on the corpus that it synthesises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import WHOLE, finish, start

from unispeech.data.manifests import load_cuts, phones, transcript
from unispeech.models.pretrained import read_checkpoint
from unispeech.score.wer import wer
from unispeech.storage import final_checkpoint

# Twice what the recipe is allowed to take, for a busy machine.
pytestmark = [pytest.mark.recipe, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "with space"
    finish("commonvoice", folder)
    return folder


def test_phone_error_rate(exp: Path) -> None:
    found = json.loads((exp / "infer/pretrained/test/greedy/per.json").read_text())
    assert found["metric"] == "PER"
    assert found["low"] <= found["per"] <= found["high"]
    # A model that has learnt nothing says nothing: 100.
    assert found["per"] <= (60 if WHOLE else 110)
    # The rate is that of the text against the phones of the manifest.
    references = {cut.id: phones(cut) for cut in load_cuts(exp / "data/test.jsonl.gz")}
    lines = (exp / "infer/pretrained/test/greedy/text").read_text(encoding="utf-8").splitlines()
    hypotheses = {name: text for name, _, text in (line.partition(" ") for line in lines)}
    assert wer(references, hypotheses, resamples=0).rate == pytest.approx(found["per"], abs=1e-3)


def test_damaged_clips_were_dropped_and_no_others(exp: Path) -> None:
    def rows(path: Path) -> list[list[str]]:
        return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]

    damaged = {row[1] for row in rows(next(exp.glob("corpus/*/damaged.tsv")))}
    assert {row[1] for row in rows(exp / "manifests/dropped.tsv")} == damaged
    assert rows(exp / "data/dropped.tsv") == []


def test_the_target_is_pretrained_on_without_transcripts(exp: Path) -> None:
    cuts = load_cuts(exp / "data/pretrain.jsonl.gz")
    assert {transcript(cut) + phones(cut) for cut in cuts} == {""}
    assert {cut.supervisions[0].language for cut in cuts} == {"es"}


def test_stage_2_continues_stage_1(exp: Path) -> None:
    first = read_checkpoint(final_checkpoint(exp / "pretrain"))
    # Phones of three languages in one table: some are in one language only.
    assert {"tʃ", "θ", "ʁ"} <= set(first["tokens"])
    second = json.loads((exp / "pretrain_continued/done.json").read_text())
    assert second["step"] > 0
    rows = [json.loads(line) for line in (exp / "pretrain/metrics.jsonl").open()]
    rates = [row["ter"] for row in rows if row["phase"] == "valid"]
    assert rates[-1] < (1.0 if WHOLE else 1.05)


def test_report_says_per(exp: Path) -> None:
    rows = json.loads((exp / "report/results.json").read_text())
    assert {row["metric"] for row in rows} == {"PER"}
    assert "PER %" in (exp / "report/index.html").read_text()


def test_second_run_skips_everything(exp: Path) -> None:
    files = [*exp.glob("pretrain*/checkpoints/*"), *exp.glob("data/*"), *exp.glob("lang/**/*")]
    files += [*exp.glob("audio/**/*.flac"), *exp.glob("infer/**/emissions.npy")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert finish("commonvoice", exp).count("skipped") >= 10
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_separate_vocabulary(exp: Path, tmp_path: Path) -> None:
    options = ["--corpora", str(exp / "corpus"), "--audio", str(exp / "audio")]
    more = ["--source", "en it", "--vocabulary", "separate", "--stop-stage", "2"]
    finish("commonvoice", tmp_path / "e", *options, *more)
    tokens = (tmp_path / "e/lang/source/tokens.txt").read_text(encoding="utf-8").split("\n")
    assert {token.split(":")[0] for token in tokens[1:-1]} == {"en", "it"}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "--corpora is missing"),
        (["--corpora", "/nowhere"], 65, "no Common Voice release of 'en' here"),
        (["--tiny", "true", "--target", "xx", "--corpora", "/nowhere"], 2, "no language 'xx'"),
        (["--vocabularies", "shared"], 2, "did you mean --vocabulary?"),
    ],
)
def test_errors(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    result = start("commonvoice", "--exp", str(tmp_path / "e"), *options)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
