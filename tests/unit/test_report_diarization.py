"""The report of diarization: figures, the published table beside ours, RESULTS.md."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from unispeech.__main__ import main
from unispeech.report import diarization, diarization_paper, results
from unispeech.report import diarization_figures as figures
from unispeech.report.figures import Picture

COMMAND = "bash egs/callhome/run.sh --conf conf/wavlm_large"


def write_rttm(path: Path, speakers: int, shift: float) -> None:
    """Three recordings of `speakers` and two of two people, who take turns of three seconds."""
    lines = []
    for number in range(5):
        people = speakers if number < 3 else 2
        for turn in range(12):
            start = 3 * turn + (shift if turn % (number + 2) == 0 else 0)
            who = f"p{turn % people}"
            lines.append(f"SPEAKER $rec{number}$ 1 {start} 2.9 <NA> <NA> {who} <NA> <NA>\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


@pytest.fixture
def exp(tmp_path, capsys) -> Path:
    folder = tmp_path / "exp"
    write_rttm(folder / "data" / "test.rttm", 3, 0)
    for system, shift in (("adapted", 0.4), ("frozen", 0.8), ("fbank", 1.6)):
        for method in ("estimated", "oracle"):
            place = f"{system}/test/{method}"
            write_rttm(folder / "rttm" / place / "hyp.rttm", 3, shift)
            words = ["--hypothesis", str(folder / "rttm" / place / "hyp.rttm"), "--resamples", "20"]
            words += ["--output", str(folder / "der" / place)]
            assert main(["der", "--reference", str(folder / "data" / "test.rttm"), *words]) == 0
        model = folder / f"diarization_{system}"
        model.mkdir()
        done = {"checkpoint": "last.pt", "sha256": "cd" * 32, "seed": 3, "minutes": 61.04}
        (model / "done.json").write_text(json.dumps(done))
    (folder / "diarization_frozen" / "config.yaml").write_text("model: {encoder: wavlm_large}\n")
    capsys.readouterr()
    return folder


def report(exp: Path, *more: str, data: str = "CALLHOME") -> int:
    about = ["--exp", str(exp), "--recipe", "callhome", "--data-name", data, "--command", COMMAND]
    return main(["report", *about, *more])


def test_one_command_writes_everything(exp, tmp_path, capsys) -> None:
    assert report(exp, "--publish", str(tmp_path / "egs")) == 0
    printed = capsys.readouterr().out
    rows = results.read(exp / "report" / "results.json")
    by_name = {(r.system, str(r.conditions["number of speakers"]), r.dataset): r for r in rows}
    assert len(by_name) == len(rows) == 3 * 2 * 3
    ours = json.loads((exp / "der/adapted/test/estimated/metrics.json").read_text())
    total = by_name["adapted", "estimated", "CALLHOME test, all"]
    assert (total.metric, total.value, total.paper) == ("DER", ours["der"], 10.35)
    assert (total.seed, total.minutes, total.checkpoint_sha256) == (3, 61.0, "cd" * 32)
    assert total.conditions["collar"] == 0.25
    assert total.conditions["overlaps"] == "scored"
    assert total.conditions["counts"] == "2 as 2: 2; 3 as 3: 3"
    three = by_name["adapted", "estimated", "CALLHOME test, 3 speakers"]
    assert (three.value, three.paper) == (ours["by_speakers"]["3"]["der"], 10.69)
    # Only what all training led to is compared, and only where the number was estimated.
    assert {name for name, row in by_name.items() if row.paper is not None} == {
        ("adapted", "estimated", f"CALLHOME test, {part}")
        for part in ("all", "2 speakers", "3 speakers")
    }
    assert "10.35" in printed

    markdown = (tmp_path / "egs" / "RESULTS.md").read_text()
    assert markdown == results.render(results.read(tmp_path / "egs" / "results.json"))
    line = next(line for line in markdown.splitlines() if line.endswith("| **ours** |"))
    parts = ours["by_speakers"]
    assert f"| {parts['2']['der']:.2f} | {parts['3']['der']:.2f} | not run | not run |" in line
    assert f"**{ours['der']:.2f}** [{ours['der_low']:.2f}, {ours['der_high']:.2f}]" in markdown

    page = (exp / "report" / "index.html").read_text()
    assert 'src="http' not in page
    timelines = list((exp / "report" / "timelines").glob("*.png"))
    assert len(timelines) == 2
    assert page.count("data:image/png") == 1 + len(timelines)
    for path in timelines:
        picture = matplotlib.image.imread(path)
        assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 10


def test_other_data_has_no_published_numbers(exp, capsys) -> None:
    assert report(exp, data="synthesised speech") == 0
    rows = results.read(exp / "report" / "results.json")
    assert {row.paper for row in rows} == {None}
    assert "CALLHOME" not in capsys.readouterr().out
    (exp / "der").rename(exp / "old")
    (exp / "der").mkdir()
    assert report(exp) == 65
    assert "nothing was scored" in capsys.readouterr().err
    damaged = exp / "der/frozen/test/estimated"
    damaged.mkdir(parents=True)
    (damaged / "metrics.json").write_text("{}")
    (damaged / "recordings.jsonl").write_text("")
    assert report(exp) == 65
    assert "not what der writes; found no condition" in capsys.readouterr().err


def test_another_collar_is_not_compared(exp) -> None:
    words = ["--reference", str(exp / "data/test.rttm"), "--output"]
    for method in ("estimated", "oracle"):
        place = f"adapted/test/{method}"
        hypothesis = ["--hypothesis", str(exp / "rttm" / place / "hyp.rttm"), "--collar", "0"]
        assert main(["der", *words, str(exp / "der" / place), *hypothesis]) == 0
    assert report(exp) == 0
    rows = results.read(exp / "report" / "results.json")
    assert all(row.paper is None for row in rows if row.system == "adapted")


def test_published_values() -> None:
    """Cells of the README's table, and of the results of EEND-VC, written down apart."""
    rows = {(row.system, row.method): row for row in diarization_paper.CALLHOME}
    assert len(rows) == len({row.label for row in diarization_paper.CALLHOME}) == 8
    assert rows["WavLM Large", "estimated"].values == (6.46, 10.69, 11.84, 12.89, 20.70, 10.35)
    assert rows["WavLM Base", "estimated"].value("5") == 16.48
    assert rows["EEND-VC, filter banks", "oracle"].value("all") == 12.22
    assert rows["EEND-EDA clustering", "estimated"].value("7") is None
    assert all(len(row.values) == len(diarization_paper.SPEAKERS) for row in rows.values())
    # The rate of all is a mean of the rates by number of speakers.
    assert all(min(r.values[:-1]) < r.values[-1] < max(r.values[:-1]) for r in rows.values())
    found = diarization_paper.rows_of_recipe("adapted", None)
    assert {method: row.value("all") for (_, method), row in found.items()} == {
        "estimated": 12.49, "oracle": 12.22,
    }  # fmt: skip


def test_a_table_of_ours_without_rows_of_the_papers(exp) -> None:
    assert report(exp, data="synthesised speech") == 0
    text = diarization.render(results.read(exp / "report" / "results.json"))
    assert "Not run: they need" in text
    assert "**ours**" not in text


def test_errors_between_reference_and_hypothesis() -> None:
    """A 0-4 as x, B 3-6 as y; the hypothesis has x 1-5, y 5-6, z 7-8."""
    reference = [(0.0, 4.0, "A"), (3.0, 6.0, "B")]
    hypothesis = [(1.0, 5.0, "x"), (5.0, 6.0, "y"), (7.0, 8.0, "z")]
    found = figures.errors(reference, hypothesis, {"A": "x", "B": "y"})
    assert found == [
        ("miss", 0.0, 1.0), ("miss", 3.0, 4.0), ("confusion", 4.0, 5.0), ("false alarm", 7.0, 8.0),
    ]  # fmt: skip


def test_pictures_of_nothing_and_of_hours() -> None:
    for reference, hypothesis in (([], []), ([(0.0, 7200.0, "$A$")], [(0.0, 7000.0, "x")])):
        picture = figures.comparison("a $recording$", reference, hypothesis, {})
        assert isinstance(picture, Picture)
        assert picture.uri.startswith("data:image/png")
    point = figures.Point(3.0, 3.0, 3.0, None)
    assert figures.by_speakers({"one": {"all": point}}).uri.startswith("data:image/png")
