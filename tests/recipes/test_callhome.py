"""The CALLHOME recipe, end to end, on the corpus that it synthesises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import WHOLE, finish, start, systems

from unispeech.data.manifests import load_cuts, speaker
from unispeech.data.rttm import read_rttm

# Twice what the recipe is allowed to take, for a busy machine.
pytestmark = [pytest.mark.recipe, pytest.mark.timeout(1800)]

SYSTEMS = systems("callhome")
COUNTS = ("estimated", "oracle")


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "with space"
    finish("callhome", folder)
    return folder


def test_error_rates(exp: Path) -> None:
    reference = read_rttm(exp / "data/test.rttm")
    spoken = sum(segment.duration for own in reference.values() for segment in own)
    for system in SYSTEMS:
        for count in COUNTS:
            found = json.loads((exp / "der" / system / "test" / count / "metrics.json").read_text())
            assert found["recordings"] == len(reference) == 11
            assert 0 < found["scored_seconds"] < spoken
            assert (found["collar"], found["overlap"]) == (0.25, True)
            assert set(found["by_speakers"]) == {"2", "3", "4", "5", "6"}
            parts = found["miss"] + found["false_alarm"] + found["confusion"]
            assert parts == pytest.approx(found["der"], abs=1e-6)
            # To say nothing is an error of 100. Minutes of training tell few voices apart.
            assert found["der"] < (75 if WHOLE else 150)
            hypothesis = read_rttm(exp / "rttm" / system / "test" / count / "hyp.rttm")
            assert set(hypothesis) <= set(reference)


def test_conversations_are_of_held_out_speakers(exp: Path) -> None:
    train = {speaker(cut) for cut in load_cuts(exp / "speech/train.jsonl.gz")}
    dev = {speaker(cut) for cut in load_cuts(exp / "speech/dev.jsonl.gz")}
    assert not train & dev
    assert len(train | dev) == 40
    counts = [len({s.speaker for s in own}) for own in read_rttm(exp / "data/test.rttm").values()]
    assert sorted(counts) == [2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6]


def test_report_is_written(exp: Path) -> None:
    rows = json.loads((exp / "report/results.json").read_text())
    assert {row["system"] for row in rows} >= set(SYSTEMS)
    assert (exp / "report/index.html").is_file()


def test_second_run_skips_everything(exp: Path) -> None:
    files = [*exp.glob("*/checkpoints/*"), *exp.glob("data/*"), *exp.glob("audio/**/*.flac")]
    files += [*exp.glob("rttm/**/*.rttm"), *exp.glob("der/**/*.json")]
    before = {path: path.stat().st_mtime_ns for path in files if path.name != "hyp.rttm"}
    assert finish("callhome", exp, "--stop-stage", "5").count("skipped") >= 10
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_stage_alone_says_what_is_missing(tmp_path: Path) -> None:
    for stage, words in (
        ("2", "no such"),
        ("3", "run the stage that prepares the manifests"),
        ("4", "no such"),
        ("5", "no"),
        ("6", "no"),
    ):
        options = ["--tiny", "true", "--exp", str(tmp_path / stage), "--stage", stage]
        result = start("callhome", *options, "--stop-stage", stage)
        assert result.returncode in (2, 65, 78), result.stderr
        assert "Traceback" not in result.stderr
        assert f"error: stage {stage}" in result.stderr
        assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "--corpora is missing"),
        (["--corpora", "/nowhere"], 65, "CALLHOME is missing"),
        (["--tinny", "true"], 2, "did you mean --tiny?"),
    ],
)
def test_errors(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    result = start("callhome", "--exp", str(tmp_path / "e"), *options)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
