"""Scoring of separated streams: counts worked out by hand, signals whose measures are known."""

from __future__ import annotations

import json
from pathlib import Path

import meeteval
import numpy as np
import pytest
from lhotse import MonoCut, SupervisionSegment
from tone_streams import ACTIVE, HEARD, RATE, SESSIONS, make_sets, put, tone

from unispeech.__main__ import main
from unispeech.data.manifests import load_cuts, write_cuts
from unispeech.data.stream_pieces import pieces


@pytest.fixture
def sets(tmp_path) -> Path:
    make_sets(tmp_path)
    return tmp_path


def score(folder: Path, output: str, *more: str) -> int:
    given = ["--reference", str(folder / "test.jsonl.gz"), "--hypothesis", str(folder)]
    given += ["--output", str(folder / output), "--resamples", "20", *more]
    return main(["separated", *given])


def streams_of(folder: Path) -> list[str]:
    return ["--system", "joint", "--streams", str(folder / "streams" / "joint" / "test")]


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_each_utterance_takes_the_better_stream(sets, capsys) -> None:
    """Of s1, stream 1 says all: one word too many for A; B fares better with the empty stream."""
    assert score(sets, "out", *streams_of(sets)) == 0
    line = capsys.readouterr().out
    assert line.startswith("test, joint, mask, utterance-wise: WER 50.00%")
    found = metrics(sets / "out")
    rates = {name: part["wer"] for name, part in found["by_condition"].items()}
    assert rates == {"0S": pytest.approx(100 * 2 / 3, abs=1e-3), "OV40": pytest.approx(40.0)}
    assert (found["errors"], found["words"]) == (4, 8)
    assert found["orc_wer"] is None
    rows = [line.split("\t") for line in (sets / "out" / "utterances.tsv").read_text().splitlines()]
    assert rows[0][:4] == ["recording", "utterance", "condition", "stream"]
    assert [row[3] for row in rows[1:]] == ["1", "2", "1", "2"]
    assert "one two" in (sets / "out" / "alignments.txt").read_text()
    before = (sets / "out" / "metrics.json").read_bytes()
    assert score(sets, "out", *streams_of(sets)) == 0
    assert "skipped" in capsys.readouterr().out
    assert (sets / "out" / "metrics.json").read_bytes() == before


def test_continuous_input_is_meetevals(sets) -> None:
    assert score(sets, "out", "--evaluation", "continuous", *streams_of(sets)) == 0
    found = metrics(sets / "out")
    reference, hypothesis = [], []
    for name, (_, talk) in SESSIONS.items():
        reference += [
            {"session_id": name, "speaker": who, "start_time": start, "end_time": start + length,
             "words": words}
            for who, start, length, words in talk
        ]  # fmt: skip
        hypothesis += [
            {"session_id": name, "speaker": str(number), "start_time": a, "end_time": b,
             "words": HEARD.get(f"{name}-stream{number}-{k:04d}", "")}
            for number, own in enumerate(ACTIVE[name], start=1)
            for k, (a, b) in enumerate(own)
        ]  # fmt: skip
    both = [meeteval.io.SegLST(part) for part in (reference, hypothesis)]
    by_utterance = meeteval.wer.orcwer(*both)
    by_speaker = meeteval.wer.cpwer(*both)
    total = sum(result.errors for result in by_utterance.values())
    assert found["orc_wer"] == found["wer"] == pytest.approx(100 * total / 8, abs=1e-3)
    spoken = sum(result.errors for result in by_speaker.values())
    assert found["cp_wer"] == pytest.approx(100 * spoken / 8, abs=1e-3)
    assert found["by_condition"]["0S"]["wer"] == 0.0
    assert found["by_condition"]["0S"]["cp_wer"] > 0
    assert found["exact"] is True


def test_signals_have_their_closed_form(sets) -> None:
    """Orthogonal tones: 20 dB between the streams, and in the mixture the share of the overlap."""
    assert score(sets, "out", *streams_of(sets)) == 0
    lines = (sets / "out" / "signals.tsv").read_text().splitlines()
    names = lines[0].split("\t")
    rows = {
        row[1]: dict(zip(names, row, strict=True)) for row in (x.split("\t") for x in lines[1:])
    }
    assert float(rows["s2-0"]["si_sdr"]) == pytest.approx(20 - 10 * np.log10(0.6 / 1.5), abs=0.01)
    assert float(rows["s2-0"]["si_sdr_improvement"]) == pytest.approx(20, abs=0.01)
    assert float(rows["s2-1"]["si_sdr"]) == pytest.approx(20 - 10 * np.log10(0.6 / 1.1), abs=0.01)
    assert [rows[name]["stream"] for name in ("s2-0", "s2-1")] == ["1", "2"]
    found = metrics(sets / "out")
    assert found["by_condition"]["OV40"]["si_sdr_improvement"] == pytest.approx(20, abs=0.01)
    # Nobody overlaps: the mixture is the reference.
    assert found["by_condition"]["0S"]["si_sdr_improvement"] <= 0


def test_unprocessed_recordings(sets, capsys) -> None:
    heard = {"s1": "one two three", "s2": "one two FOUR five"}
    (sets / "text").write_text("".join(f"{k} {v}\n" for k, v in heard.items()))
    assert score(sets, "out", "--evaluation", "continuous", "--fold-case") == 0
    found = metrics(sets / "out")
    assert (found["system"], found["method"], found["streams"]) == ("unprocessed", "none", None)
    assert (found["errors"], found["deletions"]) == (1, 1)
    assert found["si_sdr_improvement"] == 0.0
    capsys.readouterr()
    assert score(sets, "other", "--evaluation", "continuous") == 0
    assert metrics(sets / "other")["errors"] == 2


def test_pieces_are_the_supervisions_in_time(sets) -> None:
    cuts = {cut.id: cut for cut in load_cuts(sets / "streams/joint/test/streams.jsonl.gz")}
    first = pieces(cuts["s1-stream1"])
    assert [(one.id, one.start, one.duration) for one in first] == [
        ("s1-stream1-0000", 0.0, 1.0), ("s1-stream1-0001", 1.0, 1.0),
    ]  # fmt: skip
    assert pieces(cuts["s1-stream2"]) == []
    late = MonoCut("x", 3.0, 2.0, 0, recording=cuts["s1-stream1"].recording)
    late.supervisions = [
        SupervisionSegment("b", "x", 1.5, 2.0),
        SupervisionSegment("a", "x", -1, 2),
    ]
    assert [(one.id, one.start, one.duration) for one in pieces(late)] == [
        ("a", 3.0, 1.0), ("b", 4.5, 0.5),
    ]  # fmt: skip


def test_the_place_of_the_output_names_system_and_set(sets) -> None:
    assert score(sets, "wer_streams/frozen/dev/utterance", *streams_of(sets)[2:]) == 0
    found = metrics(sets / "wer_streams" / "frozen" / "dev" / "utterance")
    assert (found["system"], found["condition"]) == ("frozen", "dev")


def test_references_may_name_their_speakers(sets) -> None:
    """The field `speakers` says whose the references are, in whatever order they begin."""
    cuts = list(load_cuts(sets / "test.jsonl.gz"))
    cuts[1].custom["references"].reverse()
    cuts[1].custom["speakers"] = ["C", "A"]
    write_cuts(cuts, sets / "test.jsonl.gz")
    assert score(sets, "out", *streams_of(sets)) == 0
    overlapped = metrics(sets / "out")["by_condition"]["OV40"]
    assert overlapped["si_sdr_improvement"] == pytest.approx(20, abs=0.01)


def change(folder: Path, **fields: object) -> None:
    """Write the set with other fields of its second utterance."""
    cuts = list(load_cuts(folder / "test.jsonl.gz"))
    for name, value in fields.items():
        setattr(cuts[0].supervisions[1], name, value)
    write_cuts(cuts, folder / "test.jsonl.gz")


@pytest.mark.parametrize("evaluation", ["utterance", "continuous"])
def test_a_transcript_that_misses_a_speaker(sets, capsys, evaluation: str) -> None:
    change(sets, speaker="A")
    assert score(sets, "out", "--evaluation", evaluation, *streams_of(sets)) == 65
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "the transcript misses a speaker" in message
    assert "s1" in message
    assert not (sets / "out" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("fields", "words"), [({"text": None}, "without words of B"), ({"speaker": None}, "speaker")]
)
def test_sessions_need_words_and_speakers(sets, capsys, fields: dict, words: str) -> None:
    change(sets, **fields)
    assert score(sets, "out", "--evaluation", "continuous", *streams_of(sets)) == 65
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert words in message


def test_incomplete_and_foreign_hypotheses(sets, capsys) -> None:
    whole = (sets / "text").read_text()
    (sets / "text").write_text(whole.replace("s2-stream2-0000 five\n", ""))
    assert score(sets, "out", *streams_of(sets)) == 65
    assert "s2-stream2-0000" in capsys.readouterr().err
    assert score(sets, "out", "--allow-missing", *streams_of(sets)) == 0
    (sets / "text").write_text(whole + "s3-stream1-0000 more\n")
    assert score(sets, "out", *streams_of(sets)) == 65
    assert "without reference" in capsys.readouterr().err
    (sets / "streams/joint/test/streams.jsonl.gz").unlink()
    assert score(sets, "out", *streams_of(sets)) == 65
    assert "no separated streams" in capsys.readouterr().err


def test_a_session_that_was_not_separated(sets, capsys) -> None:
    place = sets / "streams/joint/test/streams.jsonl.gz"
    write_cuts([cut for cut in load_cuts(place) if not cut.id.startswith("s2")], place)
    assert score(sets, "out", *streams_of(sets)) == 65
    assert "a recording without streams" in capsys.readouterr().err


def test_references_that_do_not_fit(sets, capsys) -> None:
    put(sets / "ref" / "s2-1.wav", tone(100, 1.0))
    assert score(sets, "out", *streams_of(sets)) == 65
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "does not fit the manifest" in message
    put(sets / "ref" / "s2-1.wav", np.zeros(2 * RATE, np.float32))
    assert score(sets, "out", *streams_of(sets)) == 65
    message = capsys.readouterr().err
    assert "silent reference" in message
    assert "utterance s2-1" in message
