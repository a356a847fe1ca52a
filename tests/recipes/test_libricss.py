"""The LibriCSS recipe, end to end, on the corpus that it synthesises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import WHOLE, finish, start, systems

from unispeech.data.manifests import load_cuts, speaker

# Twice what the recipe is allowed to take, for a busy machine.
pytestmark = [pytest.mark.recipe, pytest.mark.timeout(1800)]

SYSTEMS = ("unprocessed", *systems("libricss"))
INPUTS = ("utterance", "continuous") if WHOLE else ("continuous",)
OPTIONS = ["--inputs", " ".join(INPUTS)]
CONDITIONS = {"0S", "0L", "OV10", "OV20", "OV30", "OV40"}


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "with space"
    finish("libricss", folder, *OPTIONS)
    return folder


def metrics(exp: Path, system: str, evaluation: str) -> dict:
    path = exp / "wer_streams" / system / "test" / evaluation / "metrics.json"
    return json.loads(path.read_text())


def test_rates_by_condition(exp: Path) -> None:
    words = {}
    for evaluation in INPUTS:
        cuts = load_cuts(exp / f"sets/test/{evaluation}.jsonl.gz")
        spoken = [s.text.split() for cut in cuts for s in cut.supervisions]
        words[evaluation] = sum(map(len, spoken))
        for system in SYSTEMS:
            found = metrics(exp, system, evaluation)
            assert set(found["by_condition"]) == CONDITIONS
            assert sum(own["words"] for own in found["by_condition"].values()) == sum(
                map(len, spoken)
            )
            for own in found["by_condition"].values():
                assert own["low"] <= own["wer"] <= own["high"]
    # Segments hold every utterance, as the cut-out ones do.
    assert len(set(words.values())) == 1
    assert words["continuous"] > 200


def test_streams_are_as_long_as_what_they_were_separated_from(exp: Path) -> None:
    for evaluation in INPUTS:
        cuts = {cut.id: cut for cut in load_cuts(exp / f"sets/test/{evaluation}.jsonl.gz")}
        assert len({cut.custom["condition"] for cut in cuts.values()}) == len(CONDITIONS)
        for system in SYSTEMS[1:]:
            streams = load_cuts(exp / f"streams/{system}/test/{evaluation}/streams.jsonl.gz")
            assert len(streams) == 2 * len(cuts)
            for stream in streams:
                assert stream.num_samples == cuts[stream.custom["mixture"]].num_samples


def test_separation_was_learnt(exp: Path) -> None:
    """On the validation mixtures two streams are closer to the speakers than the mixture is."""
    for system in SYSTEMS[1:]:
        lines = (exp / system / "metrics.jsonl").read_text().splitlines()
        gains = [
            value
            for line in lines
            for key, value in json.loads(line).items()
            if key.endswith("si_sdr_improvement")
        ]
        assert gains
        assert gains[-1] > (0 if WHOLE else -20)


def test_speakers_are_held_out(exp: Path) -> None:
    people = {
        name: {speaker(cut) for cut in load_cuts(exp / f"data/{name}.jsonl.gz")}
        for name in ("train", "dev")
    }
    people["test"] = {
        s.speaker
        for cut in load_cuts(exp / "sets/test/continuous.jsonl.gz")
        for s in cut.supervisions
    }
    assert len(set.union(*people.values())) == sum(map(len, people.values()))


def test_report_is_written(exp: Path) -> None:
    rows = json.loads((exp / "report/results.json").read_text())
    assert {row["system"] for row in rows} >= set(SYSTEMS)
    assert (exp / "report/index.html").is_file()


def test_second_run_skips_everything(exp: Path) -> None:
    files = [*exp.glob("*/checkpoints/*"), *exp.glob("data/*"), *exp.glob("sets/**/*")]
    files += [*exp.glob("streams/**/*.flac"), *exp.glob("pairs/**/*"), *exp.glob("rooms/**/*")]
    before = {path: path.stat().st_mtime_ns for path in files if path.is_file()}
    assert finish("libricss", exp, *OPTIONS, "--stop-stage", "5").count("skipped") >= 10
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_stage_alone_says_what_is_missing(tmp_path: Path) -> None:
    for stage, words in (
        ("2", "no such manifest"),
        ("3", "run the stage that prepares the manifests"),
        ("4", "no such manifest"),
        ("5", "no "),
        ("6", "no decoded text"),
    ):
        options = ["--tiny", "true", "--exp", str(tmp_path / stage), "--stage", stage]
        result = start("libricss", *options, "--stop-stage", stage)
        assert result.returncode in (65, 78), result.stderr
        assert "Traceback" not in result.stderr
        assert f"error: stage {stage}" in result.stderr
        assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--recogniser", "r"], 2, "--corpora is missing"),
        (["--recogniser", "r", "--corpora", "/nowhere"], 65, "no part of LibriSpeech is here"),
        (["--tinny", "true"], 2, "did you mean --tiny?"),
    ],
)
def test_errors(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    result = start("libricss", "--exp", str(tmp_path / "e"), *options)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
