"""RTTM and UEM files: what is read and written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import SupervisionSet

from unispeech.data.rttm import (
    Segment,
    check_recordings,
    joined,
    parse_rttm,
    read_rttm,
    read_uem,
    write_rttm,
    write_uem,
)
from unispeech.errors import DataError

# Milliseconds, which is what RTTM holds.
MILLISECONDS = st.integers(0, 10_000_000)
SEGMENTS = st.lists(
    st.tuples(MILLISECONDS, st.integers(1, 100_000), st.sampled_from("ABC")), min_size=1, max_size=8
)


def line(*fields: object) -> str:
    return " ".join(map(str, fields)) + "\n"


def speaker(start: object, duration: object, name: str = "A", file: str = "r") -> str:
    return line("SPEAKER", file, 1, start, duration, "<NA>", "<NA>", name, "<NA>", "<NA>")


@settings(max_examples=50, deadline=None)
@given(rows=st.dictionaries(st.sampled_from(["r1", "r2", "r/3"]), SEGMENTS, min_size=1))
def test_round_trip(rows: dict[str, list], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rttm") / "x.rttm"
    given_segments = {
        name: [Segment(start / 1000, length / 1000, who) for start, length, who in own]
        for name, own in rows.items()
    }
    write_rttm(path, given_segments)
    found = read_rttm(path)
    for name, own in rows.items():
        whole = [(round(1000 * s.start), round(1000 * s.duration), s.speaker) for s in found[name]]
        assert sorted(whole) == sorted(own)
        starts = [(s.start, s.speaker) for s in found[name]]
        assert starts == sorted(starts)


def test_a_peer_reads_what_is_written(tmp_path: Path) -> None:
    write_rttm(tmp_path / "x.rttm", {"r": [Segment(1.5, 2.0, "B"), Segment(0.25, 0.5, "A")]})
    found = SupervisionSet.from_rttm(tmp_path / "x.rttm")
    assert [(s.recording_id, s.start, s.duration, s.speaker) for s in found] == [
        ("r", 0.25, 0.5, "A"), ("r", 1.5, 2.0, "B")]  # fmt: skip
    lines = (tmp_path / "x.rttm").read_text().splitlines()
    assert all(len(text.split()) == 10 for text in lines)


def test_what_touches_still_does_after_rounding(tmp_path: Path) -> None:
    thirds = [Segment(i / 3, 1 / 3, "A") for i in range(6)]
    write_rttm(tmp_path / "x.rttm", {"r": [*thirds, Segment(9.0, 0.0004, "A")]})
    found = read_rttm(tmp_path / "x.rttm")["r"]
    assert len(found) == 6
    for one, other in zip(found, found[1:], strict=False):
        assert round(one.end, 6) == round(other.start, 6)


def test_comments_other_types_and_nine_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ";; a comment\n\n" + line("SPKR-INFO", "r", 1, "<NA>", "<NA>", "<NA>", "unknown", "A")
    text += line("LEXEME", "r", 1, 0.5, 0.2, "word", "lex", "A", 0.9)
    text += line("SPEAKER", "r", 1, 2.0, 1.0, "<NA>", "<NA>", "A", "<NA>")
    text += speaker(0.5, 1.0, "B") + speaker(3.0, 0.0, "B")
    (tmp_path / "x.rttm").write_text(text)
    assert read_rttm(tmp_path / "x.rttm") == {"r": [Segment(0.5, 1.0, "B"), Segment(2.0, 1.0, "A")]}
    assert "1 segment(s) without length left out" in capsys.readouterr().err
    assert parse_rttm(tmp_path / "x.rttm")[1] == 1


def test_an_empty_file_is_nobody_speaking(tmp_path: Path) -> None:
    write_rttm(tmp_path / "x.rttm", {"silent": []})
    assert read_rttm(tmp_path / "x.rttm") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (speaker(-1.0, 2.0), "x.rttm:1: not a time"),
        (speaker(1.0, -2.0), "finite and not negative"),
        (speaker("nan", 2.0), "found 'nan'"),
        (speaker(1.0, "inf"), "found 'inf'"),
        (speaker("one", 2.0), "found 'one'"),
        (speaker(1.0, 2.0) + "SPEAKER r 1 2.0 1.0 A\n", "x.rttm:2: not a line of RTTM"),
        (line("SPEAKERS", "r", 1, 0, 1, "<NA>", "<NA>", "A", "<NA>"), "not a line of RTTM"),
        (speaker(1.0, 2.0).strip() + " one too many\n", "nine or ten fields"),
    ],
)
def test_damaged_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.rttm").write_text(text)
    with pytest.raises(DataError, match="x.rttm") as caught:
        read_rttm(tmp_path / "x.rttm")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.rttm").write_bytes(speaker(1, 2, "J\xf6rg").encode("latin-1"))
    for name in ("none.rttm", "latin.rttm"):
        with pytest.raises(DataError, match="cannot read the RTTM file"):
            read_rttm(tmp_path / name)


@pytest.mark.parametrize("name", ["", "two words", "tab\t"])
def test_names_that_rttm_cannot_hold(tmp_path: Path, name: str) -> None:
    for recordings in ({name: [Segment(0, 1, "A")]}, {"r": [Segment(0, 1, name)]}):
        with pytest.raises(DataError, match="a name that RTTM cannot hold"):
            write_rttm(tmp_path / "x.rttm", recordings)
    assert list(tmp_path.iterdir()) == []


def test_recordings_that_are_not_there() -> None:
    check_recordings({"a": 0}, ["a", "b"], "x")
    with pytest.raises(DataError, match="1 recording.* found c"):
        check_recordings({"a": 0, "c": 0}, ["a", "b"], "x")


@settings(max_examples=100, deadline=None)
@given(rows=SEGMENTS)
def test_joined_segments_cover_the_same_milliseconds(rows: list) -> None:
    rows = [(start % 2000, length % 300 + 1, who) for start, length, who in rows]
    segments = [Segment(start / 1000, length / 1000, who) for start, length, who in rows]
    found = joined(segments)
    for who in "ABC":
        wanted = {t for start, length, w in rows if w == who for t in range(start, start + length)}
        covered: list[int] = []
        for one in found:
            if one.speaker == who:
                covered += range(round(1000 * one.start), round(1000 * one.end))
        assert len(covered) == len(set(covered))
        assert set(covered) == wanted


def test_uem(tmp_path: Path) -> None:
    (tmp_path / "x.uem").write_text(";; regions\nr NA 5.0 7.5\nr 1 0 2\ns 1 1.000 9.000\n")
    regions = read_uem(tmp_path / "x.uem")
    assert regions == {"r": [(0.0, 2.0), (5.0, 7.5)], "s": [(1.0, 9.0)]}
    write_uem(tmp_path / "y.uem", regions)
    assert read_uem(tmp_path / "y.uem") == regions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r 1 2.0 2.0\n", "does not end after it starts"),
        ("r 1 2.0\n", "not a line of UEM"),
        ("r 1 -1 2\n", "not a time"),
    ],
)
def test_damaged_uem(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.uem").write_text(text)
    with pytest.raises(DataError, match=message):
        read_uem(tmp_path / "x.uem")
