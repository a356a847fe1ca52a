"""The report of verification: figures, the published table beside ours, RESULTS.md."""

from __future__ import annotations

import io
import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from unispeech.__main__ import main
from unispeech.commands._scores import write_results
from unispeech.data.embeddings import write_embeddings
from unispeech.data.trials import Trials
from unispeech.report import results, verification, verification_paper
from unispeech.report import verification_figures as figures
from unispeech.score import trials

COMMAND = "bash egs/voxceleb/run.sh --tiny true"


def scored(folder: Path, system: str, condition: str, gap: float, calibrated: bool = False) -> Path:
    """A folder as `trials` leaves it, of normal scores."""
    rng = np.random.default_rng(int(10 * gap))
    labels = np.arange(600) % 2 == 0
    scores = rng.standard_normal(600) + gap * labels
    rows = np.arange(600)
    listed = Trials(labels, rows, rows + 600, [f"u{k}" for k in range(1200)])
    interval = trials.bootstrap(labels, scores, rows, 20)
    metrics = trials.summary(labels, scores, interval, calibrated)
    metrics["eer_before_calibration"] = metrics["eer"]
    about = {"condition": condition, "system": system, "method": "cosine", "inputs": {}}
    write_results(folder, listed, scores, metrics, {**about, "model_sha256": "ab" * 32})
    return folder


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    return [
        scored(tmp_path / "a", "frozen", "Vox1-O (cleaned)", 2.0),
        scored(tmp_path / "b", "joint", "Vox1-O (cleaned)", 3.0, calibrated=True),
        scored(tmp_path / "c", "joint $x$ <b>", "Vox1-H (cleaned)", 2.5),
    ]


def report(folders: list[Path], output: Path, *more: str) -> int:
    given = ["--scores", *map(str, folders), "--output", str(output), "--command", COMMAND]
    return main(["report_trials", *given, *more])


def image(path: Path) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(path.read_bytes()), format="png")


def test_one_command_writes_everything(folders, tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((5, 12))
    values = (np.repeat(middles, 6, 0) + 0.1 * rng.standard_normal((30, 12))).astype(np.float32)
    speakers = [f"id{k // 6}" for k in range(30)]
    ids = [f"{one}/{k}" for k, one in enumerate(speakers)]
    about = {"model_sha256": "ab"}
    write_embeddings(tmp_path / "e", ids, speakers, [1.0] * 30, [(range(30), values)], about)
    output = tmp_path / "report"
    paper = ["--paper", "joint=WavLM Large, trained, plain [root README]"]
    more = ["--embeddings", str(tmp_path / "e"), "--publish", str(tmp_path / "egs")]
    assert report(folders, output, *paper, *more) == 0
    text = capsys.readouterr().out
    assert "0.505" in text
    for name in ("det", "histogram", "embeddings"):
        assert len(np.unique(image(output / f"{name}.png")[..., :3].reshape(-1, 3), axis=0)) > 10
    page = (output / "index.html").read_text()
    assert "<b>" not in page
    assert "joint $x$ &lt;b&gt;" in page
    assert page.count("data:image/png") == 3
    assert 'src="http' not in page
    rows = {row.system: row for row in results.read(output / "results.json")}
    assert rows["joint"].paper == 0.505
    assert rows["frozen"].paper is None
    assert rows["joint"].metric == "EER"
    found = json.loads((folders[1] / "metrics.json").read_text())
    assert rows["joint"].value == found["eer"]
    assert rows["joint"].conditions["Cllr"] == pytest.approx(found["cllr"], abs=1e-6)
    assert "Cllr" not in rows["frozen"].conditions

    markdown = (tmp_path / "egs" / "RESULTS.md").read_text()
    assert markdown == results.render(results.read(tmp_path / "egs" / "results.json"))
    ours = next(line for line in markdown.splitlines() if line.endswith("| **ours** |"))
    assert f"{found['eer']:.3f} [{found['eer_low']:.3f}, {found['eer_high']:.3f}]" in ours
    assert ours.count("not run") == 2

    points = (output / "det.tsv").read_text().splitlines()[1:]
    assert {line.split("\t")[1] for line in points} == {
        "frozen, cosine", "joint, cosine", "joint $x$ <b>, cosine",
    }  # fmt: skip


def test_the_report_of_a_recipe_finds_its_systems(tmp_path, capsys) -> None:
    exp = tmp_path / "exp"
    for system, gap in (("joint", 3.0), ("frozen", 2.0), ("fbank", 1.0)):
        scored(exp / "scores" / system / "o" / "cosine", system, "Vox1-O (cleaned)", gap)
        scored(exp / "scores" / system / "calibration" / "cosine", system, "calibration", gap)
    (exp / "frozen").mkdir()
    (exp / "frozen" / "config.yaml").write_text("model: {encoder: wavlm_large}\n")
    about = ["--exp", str(exp), "--recipe", "voxceleb", "--data-name", "VoxCeleb"]
    assert main(["report", *about, "--command", COMMAND]) == 0
    rows = results.read(exp / "report" / "results.json")
    assert [(row.system, row.paper) for row in rows] == [
        ("fbank", 1.08), ("frozen", 0.75), ("joint", 0.505),
    ]  # fmt: skip
    (exp / "scores").rename(exp / "old")
    (exp / "scores").mkdir()
    assert main(["report", *about, "--command", COMMAND]) == 65
    assert "no list was scored" in capsys.readouterr().err


def test_points_of_the_curve_are_the_curves_to_the_eye(tmp_path) -> None:
    folder = scored(tmp_path / "a", "frozen", "Vox1-O (cleaned)", 2.0)
    lines = [line.split("\t") for line in (folder / "scores.tsv").read_text().splitlines()]
    scores = np.array([float(line[2]) for line in lines])
    labels = np.arange(600) % 2 == 0
    points = verification.read(folder).curve
    # Each point has the rates of its own threshold; none that matters is left out.
    for threshold, alarm, miss in points:
        assert alarm == pytest.approx(np.mean(scores[~labels] >= threshold), abs=1 / 300 + 1e-9)
        assert miss == pytest.approx(np.mean(scores[labels] < threshold), abs=1 / 300 + 1e-9)
    assert np.abs(np.diff(points[:, 1:], axis=0)).max() < 0.02


def test_systems_without_errors_have_a_picture() -> None:
    perfect = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    assert figures.det({"list": {"perfect": perfect}}).uri.startswith("data:image/png")
    weights = {"one": np.full(13, 1 / 13), "two": np.linspace(0, 2 / 13, 13)}
    assert figures.layer_weights(weights).uri.startswith("data:image/png")
    assert figures.embedding_map(np.eye(3), ["a", "a", "b"]).uri.startswith("data:image/png")


def test_published_values() -> None:
    """A few cells of the READMEs' tables, written down apart from the data."""
    labels = [row.label for row in verification_paper.VOXCELEB]
    assert len(set(labels)) == len(labels)
    one = verification_paper.find("WavLM Large, trained, large margin, calibration [root README]")
    assert one.values == (0.33, 0.477, 0.984)
    assert one.value("Vox1-H (cleaned)") == 0.984
    assert one.value("Vox1-H (original)") is None
    assert verification_paper.find("hubert large, frozen, plain").values == (0.888, 0.912, 1.853)
    by_encoder = {
        (row.system, row.encoder): row.values
        for row in verification_paper.VOXCELEB
        if row.source == "verification"
    }
    assert len(by_encoder) == 10
    for system in ("HuBERT Large", "XLSR", "UniSpeech-SAT Large", "WavLM Large"):
        better = zip(by_encoder[system, "trained"], by_encoder[system, "frozen"], strict=True)
        assert all(tuned < frozen for tuned, frozen in better)
    recalled = [row for row in verification_paper.VOXCELEB if row.recalled]
    assert [row.values for row in recalled] == [(0.383, 0.480, 0.986)]


def test_wrong_input_is_one_line(folders, tmp_path, capsys) -> None:
    for given, more, code, words in (
        ([tmp_path], [], 65, "no scored trials here"),
        ([folders[0], folders[0]], [], 65, "the same list, system and scoring"),
        (folders, ["--paper", "joint=WavLM Huge, trained, plain"], 2, "no published system"),
        (folders, ["--paper", "joint"], 2, "wrong --paper"),
    ):
        assert report(given, tmp_path / "out", *more) == code
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
    (folders[0] / "det.tsv").write_text("threshold\n0.5\n")
    assert report(folders, tmp_path / "out") == 65
