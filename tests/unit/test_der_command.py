"""The command der: its files, its line, what it warns of and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unispeech.__main__ import main
from unispeech.commands._der import read_recordings
from unispeech.score.diarization import score

# Of two recordings, both worked by md-eval: 7.4 s, 0.8 missed, 0.5 too much, 1.3 confused in the
# first, 4 s with 2 confused in the second.
REFERENCE = {
    "talk": [(1.0, 3.0, "A"), (3.5, 2.5, "B"), (7.0, 0.4, "A"), (8.0, 1.5, "B")],
    "turn": [(0.0, 2.0, "A"), (2.0, 2.0, "B")],
}
HYPOTHESIS = {
    "talk": [(0.9, 2.9, "u"), (3.4, 2.9, "v"), (7.1, 0.3, "v"), (8.2, 1.0, "w")],
    "turn": [(0.0, 4.0, "x")],
}


def rttm(path: Path, recordings: dict) -> Path:
    lines = [
        f"SPEAKER {name} 1 {start:.3f} {length:.3f} <NA> <NA> {speaker} <NA> <NA>\n"
        for name, segments in recordings.items()
        for start, length, speaker in segments
    ]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    return rttm(tmp_path / "ref.rttm", REFERENCE), rttm(tmp_path / "hyp.rttm", HYPOTHESIS)


def der(reference: Path, hypothesis: Path, output: Path, *more: str) -> int:
    words = ["--reference", str(reference), "--hypothesis", str(hypothesis)]
    return main(["der", *words, "--output", str(output), *more])


def test_one_command_writes_everything(files, tmp_path, capsys) -> None:
    output = tmp_path / "exp" / "der" / "frozen" / "test" / "estimated"
    uem = tmp_path / "test.uem"
    uem.write_text("talk 1 0 10\n")
    more = ("--uem", str(uem), "--collar", "0", "--resamples", "50")
    assert der(*files, output, *more) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["der"] == pytest.approx(100 * (0.8 + 0.5 + 1.3 + 2) / 11.4)
    assert metrics["miss"] == pytest.approx(100 * 0.8 / 11.4)
    assert metrics["false_alarm"] == pytest.approx(100 * 0.5 / 11.4)
    assert metrics["confusion"] == pytest.approx(100 * 3.3 / 11.4)
    assert metrics["der_low"] <= metrics["der"] <= metrics["der_high"]
    # Jaccard errors by hand: 1 - 2.8 / 3.5, 1 - 2.5 / 4.7, 1 - 2 / 4 and 1 for nobody.
    assert metrics["jer"] == pytest.approx(100 * (0.2 + 2.2 / 4.7 + 0.5 + 1) / 4)
    assert metrics["by_speakers"]["2"]["der"] == metrics["der"]
    assert metrics["counts"] == {"2": {"1": 1, "3": 1}}
    names = ("system", "condition", "method", "collar", "overlap", "recordings")
    assert [metrics[name] for name in names] == ["frozen", "test", "estimated", 0, True, 2]
    for words in ("DER 40.35%", "collar 0 s", "overlaps scored", "2: 40.35 (2)", "0% of 2"):
        assert words in printed.out
    assert metrics["line"] == printed.out.strip()
    # What was written reads back as what was computed.
    sides = [
        {k: [(a, a + n, s) for a, n, s in v] for k, v in side.items()}
        for side in (REFERENCE, HYPOTHESIS)
    ]
    assert read_recordings(output) == score(*sides, {"talk": [(0.0, 10.0)]}, 0.0).recordings
    rows = [json.loads(line) for line in (output / "recordings.jsonl").read_text().splitlines()]
    assert rows[1]["mapping"] in ({"A": "x"}, {"B": "x"})
    assert rows[0]["regions"] == [[0, 10]]

    assert der(*files, output, *more) == 0
    assert capsys.readouterr().out.strip().endswith("(already scored, skipped)")
    assert der(*files, output, *more[:-1], "60") == 0
    assert "skipped" not in capsys.readouterr().out
    assert der(*files, output, *more, "--overlap", "false") == 0
    assert "overlaps left out" in capsys.readouterr().out
    assert json.loads((output / "metrics.json").read_text())["scored_seconds"] == 10.4


def test_segments_without_length_keep_their_collar(tmp_path, capsys) -> None:
    """As in md-eval: 1 s is lost around the empty segment, 0.5 s at each end."""
    reference = rttm(tmp_path / "r.rttm", {"a": [(0.0, 10.0, "A"), (5.0, 0.0, "B")]})
    hypothesis = rttm(tmp_path / "h.rttm", {"a": [(0.0, 10.0, "x")]})
    assert der(reference, hypothesis, tmp_path / "out", "--collar", "0.5") == 0
    assert "1 segment(s) have no length" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["scored_seconds"] == pytest.approx(8)
    # Who says nothing is not counted; one recording has no interval.
    assert metrics["counts"] == {"1": {"1": 1}}
    assert metrics["der_low"] is None


def test_regions_that_the_reference_takes_out(tmp_path) -> None:
    reference = rttm(tmp_path / "r.rttm", {"a": [(0.0, 10.0, "A")]})
    with reference.open("a") as file:
        file.write("NOSCORE a 1 2.0 3.0 <NA> <NA> <NA> <NA>\n;; a comment\n")
    hypothesis = rttm(tmp_path / "h.rttm", {"a": [(3.0, 4.0, "x")]})
    assert der(reference, hypothesis, tmp_path / "out", "--collar", "0") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["scored_seconds"] == pytest.approx(7)
    assert metrics["der"] == pytest.approx(100 * 5 / 7)


def test_lost_and_unknown_recordings_are_named(tmp_path, capsys) -> None:
    reference = rttm(tmp_path / "r.rttm", {"a": [(0, 4, "A")], "b": [(0, 4, "A"), (4, 4, "B")]})
    hypothesis = rttm(tmp_path / "h.rttm", {"a": [(0, 4, "x")], "c": [(0, 9, "x")]})
    assert der(reference, hypothesis, tmp_path / "out", "--collar", "0") == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert "not in the hypothesis, all of their speech is missed: b" in warnings[0]
    assert "not in the reference, not scored: c" in warnings[1]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["der"] == pytest.approx(100 * 8 / 12)
    assert metrics["counts"] == {"1": {"1": 1}, "2": {"0": 1}}
    assert (metrics["missing"], metrics["unknown"]) == (["b"], ["c"])

    empty = rttm(tmp_path / "empty.rttm", {})
    assert der(reference, empty, tmp_path / "none") == 0
    metrics = json.loads((tmp_path / "none" / "metrics.json").read_text())
    assert (metrics["der"], metrics["miss"], metrics["jer"]) == pytest.approx((100, 100, 100))


def test_one_speaker_and_speakers_who_overlap_themselves(tmp_path, capsys) -> None:
    reference = rttm(tmp_path / "r.rttm", {"a": [(0, 3, "A"), (1, 4, "A")]})
    hypothesis = rttm(tmp_path / "h.rttm", {"a": [(0, 5, "x")]})
    assert der(reference, hypothesis, tmp_path / "out", "--collar", "0") == 0
    message = capsys.readouterr().err
    assert "1 segment(s) overlap another of the same speaker" in message
    assert message.count("\n") == 1
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["der"], metrics["jer"], metrics["scored_seconds"]) == (0, 0, 5)
    assert metrics["counts"] == {"1": {"1": 1}}


def test_two_systems_are_compared(files, tmp_path, capsys) -> None:
    assert der(*files, tmp_path / "first") == 0
    perfect = rttm(tmp_path / "p.rttm", REFERENCE)
    more = ("--compare", str(tmp_path / "first"), "--resamples", "100")
    capsys.readouterr()
    assert der(files[0], perfect, tmp_path / "other", *more) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("all: -")
    assert lines[2].startswith("2 speaker(s): -")
    found = json.loads((tmp_path / "other" / "comparison.json").read_text())
    first = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert 100 * found["all"]["difference"] == pytest.approx(-first["der"])
    assert found["all"]["probability_of_improvement"] == 1
    # Another collar is another measure.
    more = ("--compare", str(tmp_path / "first"), "--collar", "0")
    assert der(files[0], perfect, tmp_path / "third", *more) == 65
    assert "different rules" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("SPEAKER talk 1 1.0 -0.5 <NA> <NA> A <NA> <NA>", "bad.rttm:1: not a time"),
        ("SPEAKER talk 1 nan 0.5 <NA> <NA> A <NA> <NA>", "bad.rttm:1: not a time"),
        ("SPEAKER talk 1 1.0 0.5 <NA>", "bad.rttm:1: not a line of RTTM"),
        ("TALKER talk 1 1.0 0.5 <NA> <NA> A <NA> <NA>", "bad.rttm:1: not a line of RTTM"),
        ("NOSCORE talk 1 1.0", "bad.rttm:1: a line NOSCORE without times"),
    ],
)
def test_damaged_rttm_is_one_line(files, tmp_path, capsys, line, words) -> None:
    bad = tmp_path / "bad.rttm"
    bad.write_text(line + "\n" + files[0].read_text())
    assert der(bad, files[1], tmp_path / "out") == 65
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_scored_is_one_line(files, tmp_path, capsys) -> None:
    reference, hypothesis = files
    elsewhere = rttm(tmp_path / "other.rttm", {"other": [(0, 1, "x")]})
    silent = rttm(tmp_path / "silent.rttm", {})
    uem = tmp_path / "bad.uem"
    uem.write_text("talk 1 5 4\n")
    for words, more, code in (
        ("no recording of the hypothesis is in", (reference, elsewhere), 65),
        ("nobody speaks in the reference", (silent, hypothesis), 65),
        ("cannot read the RTTM file", (reference, tmp_path / "none.rttm"), 65),
        ("a recording that another file has too", (reference, hypothesis, "--hypothesis",
                                                   str(hypothesis), str(hypothesis)), 65),
        ("no speech of the reference is scored", (reference, hypothesis, "--collar", "9"), 65),
        ("wrong collar", (reference, hypothesis, "--collar", "-1"), 65),
        ("does not end after it starts", (reference, hypothesis, "--uem", str(uem)), 65),
        ("--resamples must be at least 1", (reference, hypothesis, "--resamples", "0"), 2),
        ("no scored recordings here", (reference, hypothesis, "--compare", str(tmp_path)), 65),
    ):  # fmt: skip
        assert der(more[0], more[1], tmp_path / "out", *more[2:]) == code, words
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1, message
