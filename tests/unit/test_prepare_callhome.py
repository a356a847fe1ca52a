"""CALLHOME and telephone corpora in their native layouts, and what is made of them."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unispeech.__main__ import guard
from unispeech.data.manifests import load_cuts, read_audio, speaker
from unispeech.data.rttm import read_rttm
from unispeech.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import callhome  # noqa: E402
import prepare_callhome  # noqa: E402
import prepare_telephone  # noqa: E402
import segment_speech  # noqa: E402
import synthesise_callhome  # noqa: E402
import telephone  # noqa: E402

RATE = 8000


def tone(seconds: float, frequency: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * frequency * time)


def write_sphere(path: Path, *channels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.stack(channels, axis=1)
    soundfile.write(path, audio, RATE, subtype="ULAW", format="NIST")


def key_line(recording: str, start: float, duration: float, who: str) -> str:
    return f"SPEAKER {recording} 1 {start} {duration} <NA> <NA> {who} <NA> <NA>\n"


KEY = (
    key_line("iaaa", 0.5, 2.0, "A") + key_line("iaaa", 2.0, 1.5, "B")
    + key_line("iaac", 0.0, 1.0, "A") + key_line("iaac", 1.0, 1.0, "C")
    + key_line("iaab", 0.0, 4.0, "B") + key_line("iaab", 1.0, 1.0, "A")
    + key_line("iaeu", 0.0, 4.0, "B")
)  # fmt: skip


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """Three recordings of 4 s, one channel each, the key, and lists beside the corpus."""
    corpora = tmp_path / "all corpora"
    for number, name in enumerate(("iaaa", "iaab", "iaac")):
        disc = corpora / "LDC2001S97" / f"disc{number % 2}" / "r65_8_1"
        write_sphere(disc / f"{name}.sph", tone(4.0, 400.0 + 100 * number))
    (corpora / "sre2000-key").mkdir()
    (corpora / "sre2000-key/fullref.rttm").write_text(KEY)
    parts = corpora / "LDC2001S97/parts"
    parts.mkdir()
    (parts / "part1.txt").write_text("# recordings and speakers\niaaa 2\niaac\n")
    (parts / "part2.txt").write_text("iaab 2\n")
    return corpora


def prepare(corpora: Path, *more: str) -> int:
    out = corpora.parent
    places = ["--corpora", str(corpora), "--audio", str(out / "audio"), "--output", str(out / "m")]
    return guard(lambda: prepare_callhome.main([*places, "--jobs", "1", *more]))


def test_conversations(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(corpora, "--check") == 0
    assert "2 and 1 recordings" in capsys.readouterr().out
    assert prepare(corpora) == 0
    out = corpora.parent
    adapt, test = (load_cuts(out / f"m/{name}.jsonl.gz") for name in ("adapt", "test"))
    assert [cut.id for cut in adapt] == ["iaaa", "iaac"]
    assert [cut.id for cut in test] == ["iaab"]
    found = [(s.speaker, s.start, s.end) for s in adapt["iaaa"].supervisions]
    assert found == [("iaaa_A", 0.5, 2.5), ("iaaa_B", 2.0, 3.5)]
    # The A of another recording is another speaker.
    names = {s.speaker for cut in adapt for s in cut.supervisions}
    assert names == {"iaaa_A", "iaaa_B", "iaac_A", "iaac_C"}
    assert read_rttm(out / "m/test.rttm")["iaab"][1].speaker == "iaab_A"
    audio = read_audio(test["iaab"])
    assert len(audio) == 4 * 16000
    assert np.abs(np.fft.rfft(audio)).argmax() / 4 == pytest.approx(500, abs=0.5)
    assert prepare(corpora) == 0
    assert "skipped" in capsys.readouterr().out


def test_the_published_parts() -> None:
    parts = callhome.read_parts(ROOT / "egs/callhome/conf/parts")
    counts = [Counter(part.speakers.values()) for part in parts.values()]
    # Part 2 as the published RTTM of EEND-VC has it; part 1 as papers count it.
    assert counts[0] == {2: 155, 3: 61, 4: 23, 5: 5, 6: 3, 7: 2}
    assert counts[1] == {2: 148, 3: 74, 4: 20, 5: 5, 6: 3}
    assert len(set(parts["part1"].speakers) | set(parts["part2"].speakers)) == 249 + 250


def test_segments_without_length_and_of_one_speaker_at_once(
    corpora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One segment of the key has no length: iait at 35.072 s.
    more = key_line("iaaa", 3.0, 0.0, "A") + key_line("iaaa", 1.0, 2.0, "A")
    (corpora / "sre2000-key/fullref.rttm").write_text(KEY + more)
    assert prepare(corpora) == 0
    errors = capsys.readouterr().err
    assert "segments of one speaker of iaaa overlap for 1.500 s, which count once" in errors
    cut = load_cuts(corpora.parent / "m/adapt.jsonl.gz")["iaaa"]
    own = [(s.start, s.end) for s in cut.supervisions if s.speaker == "iaaa_A"]
    assert own == [(0.5, 2.5), (1.0, 3.0)]
    # The reference is scored as it was published.
    lines = (corpora.parent / "m/adapt.rttm").read_text().splitlines()
    own = [line.split()[3:5] for line in lines if "iaaa_A" in line]
    assert own == [["0.500", "2.000"], ["1.000", "2.000"], ["3.000", "0.000"]]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("sre2000-key/fullref.rttm", KEY.replace("0.5 2.0", "0.5 -2.0"), "fullref.rttm:1: not a"),
        ("sre2000-key/fullref.rttm", KEY.replace("1.5", "9.5"), "lies beyond the end"),
        ("sre2000-key/fullref.rttm", KEY.replace("iaab", "iaax"), "iaab of .*part2.txt is not"),
        ("LDC2001S97/parts/part2.txt", "iaab 3\n", "has 2 speaker.s., .*part2.txt says 3"),
        ("LDC2001S97/parts/part2.txt", "iaab 2\niaaa 2\n", "iaaa is listed twice"),
        ("LDC2001S97/parts/part2.txt", "iaab 2\niazz 2\n", "1 of 4 recordings are missing"),
        ("LDC2001S97/parts/part2.txt", "iaab two\n", "part2.txt:1: not a line of a list"),
        ("LDC2001S97/parts/part2.txt", "", "the list is empty"),
    ],
)
def test_what_does_not_fit_together(
    corpora: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, message: str
) -> None:
    (corpora / file).write_text(text)
    assert prepare(corpora) == 65
    errors = capsys.readouterr().err
    assert re.search(message, errors), errors
    assert "Traceback" not in errors
    assert not (corpora.parent / "m/test.jsonl.gz").exists()


def test_missing_corpus_key_and_lists(tmp_path: Path, corpora: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="CALLHOME is missing"):
        callhome.find_corpus(empty)
    with pytest.raises(DataError, match="the key of CALLHOME is missing"):
        callhome.find_key(empty, empty)
    with pytest.raises(DataError, match="cannot read the list of a part"):
        callhome.read_parts(empty)
    assert prepare(corpora, "--jobs", "0") == 2
    assert prepare(Path(), "--check") == 2
    (corpora / "LDC2001S97/disc0/r65_8_1/iaaa.sph").write_bytes(b"NIST_1A\n   1024\n")
    assert prepare(corpora) == 65


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A call of each kind of corpus; both channels are tones with a pause between them."""
    corpora = tmp_path / "calls"

    def call(path: str) -> None:
        spoken = np.concatenate([tone(2.0), 1e-4 * tone(1.0), tone(4.0)])
        write_sphere(corpora / path, spoken, spoken[::-1])

    tables = {
        "LDC98S75/docs/callstat.tbl": "10001.sph,x,1101,1102,x,M,F\n10002.sph,x,1103,1104,x,M,F\n",
        "LDC99S79/DISC1/doc/callstat.tbl": "x,x,2101,2102,M,F\n",
        "LDC99S79/DISC1/doc/callinfo.tbl": "20001,A\n20001,B\n",
        "LDC2002S06/DISC1/docs/callstat.tbl": "30001,x,x,3101,3102,M,F\n",
        "LDC2001S13/doc/swb_callstats.tbl": "40001,4101,4102,M,F\n40019,4103,4104,M,F\n",
        "LDC2004S07/docs/swb_callstats.tbl": "50001,4101,5102,M,F\n",
        "speaker_list": "6101 m sre2004 taaa A\n6102 f sre2004 taaa B\n6103 f sre2005 taaa A\n",
    }
    for name, text in tables.items():
        (corpora / name).parent.mkdir(parents=True, exist_ok=True)
        (corpora / name).write_text(text)
    for path in (
        "LDC98S75/data/10001.sph", "LDC99S79/DISC2/data/20001.sph", "LDC2002S06/DISC3/sw_30001.sph",
        "LDC2001S13/sw_40001.sph", "LDC2001S13/sw_40019.sph", "LDC2004S07/data/sw_50001.sph",
        "LDC2006S44/train/data/taaa.sph",
    ):  # fmt: skip
        call(path)
    return corpora


def test_sides_of_calls(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {side.id: (side.speaker, side.channel) for side in telephone.sides(calls)}
    assert found == {
        "swb2-1/10001-A": ("sw_1101", 0), "swb2-1/10001-B": ("sw_1102", 1),
        "swb2-2/20001-A": ("sw_2101", 0), "swb2-2/20001-B": ("sw_2102", 1),
        "swb2-3/sw_30001-A": ("sw_3101", 0), "swb2-3/sw_30001-B": ("sw_3102", 1),
        "swbc-1/sw_40001-A": ("sw_4101", 0), "swbc-1/sw_40001-B": ("sw_4102", 1),
        "swbc-2/sw_50001-A": ("sw_4101", 0), "swbc-2/sw_50001-B": ("sw_5102", 1),
        "sre2004/taaa-A": ("6101-m", 0), "sre2004/taaa-B": ("6102-f", 1),
    }  # fmt: skip
    out = calls.parent
    places = ["--corpora", str(calls), "--audio", str(out / "a"), "--output", str(out / "m")]
    run = lambda *more: guard(  # noqa: E731
        lambda: prepare_telephone.main([*places, "--dev-share", "0.3", "--jobs", "1", *more])
    )
    assert run("--check") == 0
    assert "LDC2004S07, LDC2006S44" in capsys.readouterr().out
    assert run() == 0
    sets = {name: load_cuts(out / f"m/{name}.jsonl.gz") for name in ("train", "dev")}
    assert sum(map(len, sets.values())) == 12
    people = [{speaker(cut) for cut in cuts} for cuts in sets.values()]
    assert not people[0] & people[1]
    assert min(map(len, people)) > 0
    assert run() == 0
    assert "skipped" in capsys.readouterr().out

    # 2 s of speech, a pause of 1 s, 4 s of speech; the other channel the other way round.
    sets_given = [f"{name}={out}/m/{name}.jsonl.gz" for name in sets]
    options = ["--sets", *sets_given, "--output", str(out / "s"), "--jobs", "1"]
    assert guard(lambda: segment_speech.main([*options, "--longest", "3"])) == 0
    utterances = [cut for name in sets for cut in load_cuts(out / f"s/{name}.jsonl.gz")]
    assert len(utterances) == 36
    first = [cut for cut in utterances if cut.id.startswith("swb2-1/10001-A")]
    own = sorted((cut.start, cut.duration) for cut in first)
    wanted = [(0.0, 2.05), (2.95, 2.02), (4.97, 2.02)]
    assert np.allclose(own, wanted, atol=0.05)
    assert len({cut.id for cut in utterances}) == 36


def test_segments_of_a_detector(calls: Path) -> None:
    out = calls.parent
    places = ["--corpora", str(calls), "--audio", str(out / "a"), "--output", str(out / "m")]
    places += ["--dev-share", "0.3", "--jobs", "1"]
    assert guard(lambda: prepare_telephone.main(places)) == 0
    names = [cut.id for s in ("train", "dev") for cut in load_cuts(out / f"m/{s}.jsonl.gz")]
    segments = out / "speech.rttm"
    lines = [key_line(n, 1.0, 1.2, "speech") + key_line(n, 4.0, 2.0, "speech") for n in names]
    segments.write_text("".join(lines))
    sets = [f"{name}={out}/m/{name}.jsonl.gz" for name in ("train", "dev")]
    options = ["--sets", *sets, "--output", str(out / "s"), "--segments", str(segments)]
    run = lambda: guard(lambda: segment_speech.main([*options, "--jobs", "1"]))  # noqa: E731
    assert run() == 0
    cuts = [cut for name in ("train", "dev") for cut in load_cuts(out / f"s/{name}.jsonl.gz")]
    # 1.2 s are shorter than what the recipe keeps.
    assert {(cut.start, cut.duration) for cut in cuts} == {(4.0, 2.0)}
    assert len(cuts) == 12
    segments.write_text(segments.read_text() + key_line("nowhere", 1.0, 2.0, "speech"))
    assert run() == 65


def test_missing_telephone_corpora(tmp_path: Path, calls: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no telephone speech"):
        list(telephone.sides(tmp_path / "none"))
    (calls / "LDC2001S13/doc/swb_callstats.tbl").unlink()
    with pytest.raises(DataError, match="no swb_callstats.tbl in the corpus"):
        list(telephone.sides(calls))
    (calls / "speaker_list").write_text("6101 m sre2004 taaa C\n")
    with pytest.raises(DataError, match="speaker_list:1: not a line"):
        list(telephone.sides(calls))
    (calls / "speaker_list").unlink()
    with pytest.raises(DataError, match="list of the speakers of NIST SRE"):
        telephone.find_corpora(calls)


def test_synthesised_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(synthesise_callhome, "HELD_OUT", 6)
    monkeypatch.setattr(synthesise_callhome, "TRAIN", 8)
    monkeypatch.setattr(synthesise_callhome, "PARTS", {"part1": (2,), "part2": (3, 2)})
    run = lambda name, jobs: guard(lambda: synthesise_callhome.main(  # noqa: E731
        ["--output", str(tmp_path / name), "--utterances", "3", "--jobs", jobs]))  # fmt: skip
    assert run("0", "1") == run("1", "2") == 0
    files = sorted(p for p in (tmp_path / "0").rglob("*") if p.is_file())
    assert len([p for p in files if p.suffix == ".sph"]) == 3 + 4
    for file in files:
        assert file.read_bytes() == (tmp_path / "1" / file.relative_to(tmp_path / "0")).read_bytes()
    assert run("1", "1") == 0
    assert "made before" in capsys.readouterr().out
    assert prepare(tmp_path / "0") == 0
    counts = {
        cut.id: len({s.speaker for s in cut.supervisions})
        for cut in load_cuts(tmp_path / "m/test.jsonl.gz")
    }
    assert sorted(counts.values()) == [2, 3]
    people = {side.speaker for side in telephone.sides(tmp_path / "0")}
    assert len(people) == 8
