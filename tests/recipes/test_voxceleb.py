"""The VoxCeleb recipe, end to end, on the corpus that it synthesises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import WHOLE, finish, start, systems

from unispeech.data.manifests import load_cuts, speaker
from unispeech.data.trials import read_trials

# Twice what the recipe is allowed to take, for a busy machine.
pytestmark = [pytest.mark.recipe, pytest.mark.timeout(1800)]

SYSTEMS = systems("voxceleb")


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "with space"
    finish("voxceleb", folder)
    return folder


def metrics(exp: Path, system: str, method: str, name: str = "tiny-o") -> dict:
    return json.loads((exp / "scores" / system / name / method / "metrics.json").read_text())


def test_equal_error_rates(exp: Path) -> None:
    for system in SYSTEMS:
        trials = read_trials(exp / "trials/tiny-o")
        for method in ("cosine", "asnorm", "calibrated"):
            found = metrics(exp, system, method)
            assert found["trials"] == len(trials.labels)
            assert found["targets"] == trials.labels.sum()
            assert found["eer_low"] <= found["eer"] <= found["eer_high"]
            # Chance is 50.
            assert found["eer"] < (40 if WHOLE else 60)
    assert metrics(exp, SYSTEMS[-1], "calibrated")["cllr"] < (1.0 if WHOLE else 1.3)


def test_speakers_are_held_out(exp: Path) -> None:
    people = {
        name: {speaker(cut) for cut in load_cuts(exp / f"data/{name}.jsonl.gz")}
        for name in ("train", "dev", "test")
    }
    assert {name: len(own) for name, own in people.items()} == {"train": 60, "dev": 8, "test": 24}
    assert len(set.union(*people.values())) == 92
    assert (exp / "trials/speakers.txt").read_text().split() == sorted(people["train"])


def test_report_is_written(exp: Path) -> None:
    rows = json.loads((exp / "report/results.json").read_text())
    assert {row["system"] for row in rows} >= set(SYSTEMS)
    assert (exp / "report/index.html").is_file()


def test_second_run_skips_everything(exp: Path) -> None:
    files = [*exp.glob("*/checkpoints/*"), *exp.glob("data/*"), *exp.glob("trials/**/*")]
    files += [*exp.glob("audio/**/*.flac"), *exp.glob("embeddings/**/*.npy")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert finish("voxceleb", exp, "--stop-stage", "5").count("skipped") >= 8
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_stage_alone_says_what_is_missing(tmp_path: Path) -> None:
    for stage, words in (
        ("3", "run the stage that prepares the manifests"),
        ("4", "run the stage that prepares the manifests"),
        ("5", "no such"),
        ("6", "no embeddings"),
    ):
        options = ["--tiny", "true", "--exp", str(tmp_path / stage), "--stage", stage]
        result = start("voxceleb", *options, "--stop-stage", stage)
        assert result.returncode in (65, 78), result.stderr
        assert "Traceback" not in result.stderr
        assert f"error: stage {stage}" in result.stderr
        assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "--corpora is missing"),
        (["--corpora", "/nowhere"], 65, "cannot read the folder"),
        (["--tinny", "true"], 2, "did you mean --tiny?"),
    ],
)
def test_errors(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    result = start("voxceleb", "--exp", str(tmp_path / "e"), *options)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
