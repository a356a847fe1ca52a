"""Conversations of RTTM folders, simulated ones that are stored, and mixtures of lists."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unispeech.__main__ import guard, main
from unispeech.data.manifests import load_cuts, read_audio, write_cuts
from unispeech.data.rttm import read_rttm, read_uem

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import prepare_conversations  # noqa: E402
import prepare_folder  # noqa: E402
from sets import make_cut, make_recording  # noqa: E402

RATE = 16000
SETS = """
sets:
  meetings:
    sources:
      - {rttm: m/all.rttm, audio: m/audio, recordings: m/all.lst, uem: m/all.uem, prefix: m-}
"""


def speaker_line(recording: str, start: float, duration: float, who: str) -> str:
    return f"SPEAKER {recording} 1 {start} {duration} <NA> <NA> {who} <NA> <NA>\n"


RTTM = (
    speaker_line("one", 0.5, 1.0, "A") + speaker_line("two", 1.0, 1.5, "A")
    + speaker_line("two", 2.0, 1.0, "B")
)  # fmt: skip


@pytest.fixture
def meetings(tmp_path: Path) -> Path:
    """Recordings with nobody, one speaker and two speakers."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "corpora/m"
    (folder / "audio").mkdir(parents=True)
    for name, suffix in (("none", "flac"), ("one", "wav"), ("two", "flac")):
        audio = 0.01 * rng.standard_normal(4 * RATE)
        soundfile.write(folder / f"audio/{name}.{suffix}", audio, RATE)
    (folder / "all.rttm").write_text(RTTM)
    (folder / "all.lst").write_text("none\none\ntwo\n")
    (folder / "all.uem").write_text("two NA 0.5 4.0\n")
    (tmp_path / "sets.yaml").write_text(SETS)
    return tmp_path


def prepare(folder: Path, corpora: Path | None = None) -> int:
    places = ["--corpora", str(corpora or folder / "corpora"), "--output", str(folder / "data")]
    return guard(lambda: prepare_folder.main(["--sets", str(folder / "sets.yaml"), *places]))


def test_recordings_with_nobody_one_and_two(
    meetings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(meetings) == 0
    cuts = load_cuts(meetings / "data/meetings.jsonl.gz")
    found = {cut.id: [(s.speaker, s.start, s.end) for s in cut.supervisions] for cut in cuts}
    assert found == {
        "m-none": [], "m-one": [("m-A", 0.5, 1.5)],
        "m-two": [("m-A", 1.0, 2.5), ("m-B", 2.0, 3.0)]}  # fmt: skip
    written = read_rttm(meetings / "data/meetings.rttm")
    assert {name: len(own) for name, own in written.items()} == {"m-one": 1, "m-two": 2}
    assert read_uem(meetings / "data/meetings.uem") == {"m-two": [(0.5, 4.0)]}
    assert "3 recordings, 2 speakers" in capsys.readouterr().out
    assert prepare(meetings) == 0
    assert "skipped" in capsys.readouterr().out
    assert main(["validate", str(meetings / "data")]) == 0


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("all.rttm", RTTM + speaker_line("three", 0, 1, "A"), "1 recording.s. that are not there"),
        ("all.lst", "none\none\ntwo\nthree\n", "recording three: .*no such audio file"),
        ("all.lst", "none\none\ntwo\ntwo\n", "recordings are listed twice, found two"),
        ("all.rttm", speaker_line("one", 0.5, -1.0, "A"), "all.rttm:1: not a time"),
        ("all.rttm", speaker_line("one", 3.9, 9.0, "A"), "beyond the end of the recording"),
        ("all.rttm", "one 0.5 1.0 A\n", "not a line of RTTM"),
        ("all.uem", "two NA 4.0 0.5\n", "does not end after it starts"),
    ],
)
def test_broken_input(
    meetings: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, message: str
) -> None:
    (meetings / "corpora/m" / file).write_text(text)
    assert prepare(meetings) == 65
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert re.search(message.replace(", found", ".*found"), errors), errors
    assert not (meetings / "data/meetings.jsonl.gz").exists()


def test_segments_of_one_speaker_at_once(
    meetings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RTTM + speaker_line("one", 1.0, 2.0, "A") + speaker_line("one", 3.9, 0.3, "A")
    (meetings / "corpora/m/all.rttm").write_text(text)
    assert prepare(meetings) == 0
    assert "one speaker of m-one overlap for 0.500 s, which count once" in capsys.readouterr().err
    cut = load_cuts(meetings / "data/meetings.jsonl.gz")["m-one"]
    # The last one ends a little after the recording.
    assert [(s.start, s.end) for s in cut.supervisions] == [(0.5, 1.5), (1.0, 3.0), (3.9, 4.0)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{rttm: m/all.rttm}", "'rttm' and 'audio' belong together"),
        ("{rttm: m/all.rttm, audio: m/audio, table: m/all.lst}", "give either"),
        ("{rttm: m/all.rttm, audio: m/none}", "no such table or folder"),
    ],
)
def test_wrong_sources(
    meetings: Path, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    (meetings / "sets.yaml").write_text(f"sets: {{a: {{sources: [{source}]}}}}\n")
    assert prepare(meetings) == 78
    assert message in capsys.readouterr().err


def test_real_meetings(real_data: Path, tmp_path: Path) -> None:
    sets = (ROOT / "egs/callhome/conf/mini/sets.yaml").read_text().splitlines()
    start = sets.index("  meetings:")
    (tmp_path / "sets.yaml").write_text("\n".join(["sets:", *sets[start:]]))
    assert prepare(tmp_path, real_data) == 0
    with (real_data / "ami_mini/recordings.tsv").open(encoding="utf-8") as file:
        rows = {f"ami-{row['utt_id']}": row for row in csv.DictReader(file, delimiter="\t")}
    cuts = load_cuts(tmp_path / "data/meetings.jsonl.gz")
    assert {cut.id for cut in cuts} == set(rows)
    for cut in cuts:
        assert {s.speaker for s in cut.supervisions} == {
            f"ami-{name}" for name in rows[cut.id]["speaker"].split(",")}  # fmt: skip
        assert len(cut.supervisions) == int(rows[cut.id]["n_segments"])
    regions = read_uem(tmp_path / "data/meetings.uem")
    assert regions == {name: [(0.0, 30.0)] for name in rows}


CONVERSATIONS = """
sets:
  test:
    speech: test
    conversations: 6
    simulation: {style: turns, speakers: [1, 3], utterances: [2, 3]}
  mixed:
    mixtures: lists/mix.csv
    sources: held_out/
    conversations: 5
"""


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Utterances of three speakers, and a list of mixtures of tones with silence around them."""
    rng = np.random.default_rng(0)
    for name in ("speech", "held_out", "lists"):
        (tmp_path / name).mkdir()
    cuts = []
    for person in range(3):
        path = tmp_path / f"speech/{person}.flac"
        soundfile.write(path, 0.05 * rng.standard_normal(RATE), RATE)
        recording = make_recording(f"u{person}", path)
        cuts.append(make_cut(recording, recording.id, speaker=f"s{person}", text=""))
    write_cuts(cuts, tmp_path / "speech/test.jsonl.gz")
    for name, start, end in (("a", 0.5, 1.5), ("b", 1.0, 2.5)):
        audio = np.zeros(3 * RATE)
        audio[round(start * RATE) : round(end * RATE)] = 0.1
        soundfile.write(tmp_path / f"held_out/{name}.flac", audio, RATE)
    soundfile.write(tmp_path / "noise.flac", 0.01 * rng.standard_normal(RATE), RATE)
    sources = ",".join(f"source_{i}_path,source_{i}_gain" for i in (1, 2))
    rows = [f"mixture_ID,{sources},noise_path,noise_gain"]
    rows.append("x,train/a.flac,1,held_out/b.flac,1,noise.flac,1")
    rows.append("a_b,held_out/a.flac,2.0,held_out/b.flac,0.5,noise.flac,0.5")
    (tmp_path / "lists/mix.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "c.yaml").write_text(CONVERSATIONS)
    return tmp_path


def converse(folder: Path, output: str, *more: str) -> int:
    places = ["--speech", str(folder / "speech"), "--corpora", str(folder)]
    places += ["--audio", str(folder / f"audio-{output}"), "--output", str(folder / output)]
    options = ["--config", str(folder / "c.yaml"), *places, *more]
    return guard(lambda: prepare_conversations.main(options))


def test_stored_conversations(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert converse(speech, "one", "--jobs", "1") == 0
    cuts = load_cuts(speech / "one/test.jsonl.gz")
    # Every number of speakers is there equally often.
    counts = Counter(len({s.speaker for s in cut.supervisions}) for cut in cuts)
    assert counts == {1: 3, 3: 3}
    for cut in cuts:
        audio = read_audio(cut)
        for s in cut.supervisions:
            assert np.abs(audio[round(s.start * RATE) : round(s.end * RATE)]).mean() > 0.02
        assert max(s.end for s in cut.supervisions) == pytest.approx(cut.duration, abs=1e-4)
    rttm = read_rttm(speech / "one/test.rttm")
    assert {name: len(own) for name, own in rttm.items()} == {
        cut.id: len(cut.supervisions) for cut in cuts}  # fmt: skip
    # Neither the number of jobs nor another output matters; another seed does.
    assert converse(speech, "two", "--jobs", "2") == 0
    assert (speech / "two/test.rttm").read_bytes() == (speech / "one/test.rttm").read_bytes()
    for cut in cuts:
        again = load_cuts(speech / "two/test.jsonl.gz")[cut.id]
        assert np.array_equal(read_audio(cut), read_audio(again))
    assert converse(speech, "one", "--jobs", "1") == 0
    assert "skipped" in capsys.readouterr().out
    assert converse(speech, "three", "--seed", "2") == 0
    assert (speech / "three/test.rttm").read_bytes() != (speech / "one/test.rttm").read_bytes()


def test_mixtures_of_a_list(speech: Path) -> None:
    assert converse(speech, "one", "--jobs", "1") == 0
    (cut,) = load_cuts(speech / "one/mixed.jsonl.gz")
    assert cut.id == "mixed-a_b"
    found = {s.speaker: (s.start, s.end) for s in cut.supervisions}
    assert list(found) == ["a_b-s1", "a_b-s2"]
    # The detector keeps 50 ms on either side.
    assert np.allclose(list(found.values()), [(0.45, 1.55), (0.95, 2.55)], atol=0.03)
    audio = read_audio(cut)
    noise, _ = soundfile.read(speech / "noise.flac")
    middle = slice(round(1.2 * RATE), round(1.4 * RATE))
    wanted = 0.2 + 0.05 + 0.5 * np.resize(noise, 3 * RATE)[middle]
    assert np.allclose(audio[middle], wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (CONVERSATIONS.replace("[1, 3]", "[4]"), 78, "more speakers than there are"),
        (CONVERSATIONS.replace("held_out/", "nowhere/"), 65, "no such mixtures"),
        (CONVERSATIONS.replace("mix.csv", "none.csv"), 65, "cannot read the list of mixtures"),
        (CONVERSATIONS.replace("speech: test", "speech: none"), 65, "no such manifest"),
        ("sets: {a: {conversations: 3}}", 78, "give either 'speech' or 'mixtures'"),
    ],
)
def test_what_cannot_be_made(
    speech: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, message: str
) -> None:
    (speech / "c.yaml").write_text(text)
    assert converse(speech, "one", "--jobs", "1") == code
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not list(speech.glob("one/*.jsonl.gz"))


def test_damaged_lists_of_mixtures(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (
        ("a,held_out/a.flac,loud\n", "mix.csv:2: not a line of a list of mixtures"),
        ("a,held_out/a.flac,1\n", "fewer than two sources"),
    ):
        head = "mixture_ID,source_1_path,source_1_gain\n"
        (speech / "lists/mix.csv").write_text(head + text)
        assert converse(speech, "one", "--jobs", "1") == 65
        assert message in capsys.readouterr().err
