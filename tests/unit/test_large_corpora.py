"""Corpora with long recordings: lhotse's recipes and the corpora's own tables are the reference."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse.recipes.gigaspeech import parse_utterance
from lhotse.recipes.librilight import prepare_librilight as lhotse_librilight

from unispeech.__main__ import guard
from unispeech.data.manifests import load_cuts, read_audio, speaker, transcript

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import mix  # noqa: E402
import prepare_gigaspeech  # noqa: E402
import prepare_librilight  # noqa: E402
import prepare_voxpopuli  # noqa: E402
from sets import join, pieces  # noqa: E402


def write_noise(path: Path, seconds: float, rate: int = 16000, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(str(path)))
    soundfile.write(path, generator.uniform(-0.5, 0.5, int(seconds * rate)), rate, **options)


def code(script, corpora: Path, output: Path, *more: str) -> int:
    arguments = ["--corpora", str(corpora), "--output", str(output), *more]
    return guard(lambda: script.main(arguments))


@settings(deadline=None)
@given(
    start=st.floats(0, 1e4),
    duration=st.floats(0, 500),
    shortest=st.floats(0.5, 5),
    ratio=st.floats(2, 20),
)
def test_pieces_cover_a_stretch(start, duration, shortest, ratio) -> None:
    longest = shortest * ratio
    found = list(pieces(start, start + duration, shortest, longest))
    if not found:
        assert duration < shortest + 1e-3
        return
    assert found[0][0] == pytest.approx(start, abs=1e-4)
    assert sum(d for _, d in found) == pytest.approx(duration, abs=1e-3)
    assert all(d <= longest + 1e-9 for _, d in found)
    for (begin, length), (following, _) in zip(found, found[1:], strict=False):
        assert round((begin + length) * 16000) == round(following * 16000)
    assert len(found) <= duration / longest + 1.01


def test_join_keeps_short_pauses_only() -> None:
    stretches = [(0.0, 3.0), (3.5, 6.0), (8.0, 9.0), (9.1, 19.5), (19.6, 20.0)]
    assert list(join(stretches, 10, 1)) == [(0.0, 6.0), (8.0, 9.0), (9.1, 19.5), (19.6, 20.0)]
    assert list(join([], 10, 1)) == []


@pytest.fixture
def librilight(tmp_path) -> Path:
    """Two speakers; the speech of the first chapter is 0.5-1.5, 2-26.5 and 31-95 s."""
    corpus = tmp_path / "ll"
    speech = {
        "small/100/book_a/01_a": (100.0, [[0.5, 1.5], [2.0, 26.5], [31.0, 95.0]]),
        "small/200/book_b/01_b": (8.0, [[0.0, 1.0], [4.0, 7.9]]),
        "medium/300/book_c/01_c": (5.0, [[0.1, 4.9]]),
        "large/400/book_d/01_d": (5.0, [[0.1, 4.9]]),
    }
    for name, (seconds, stretches) in speech.items():
        write_noise(corpus / f"{name}.flac", seconds)
        facts = {"speaker": name.split("/")[1], "voice_activity": stretches}
        (corpus / f"{name}.json").write_text(json.dumps(facts))
    return corpus


def test_librilight_agrees_with_lhotse(librilight, tmp_path, capsys) -> None:
    assert code(prepare_librilight, librilight, tmp_path / "o", "--parts", "small") == 0
    cuts = list(load_cuts(tmp_path / "o" / "librilight.jsonl.gz"))
    peer = lhotse_librilight(librilight)["small"]
    assert {c.recording.id for c in cuts} == {r.id for r in peer["recordings"]}
    assert {speaker(c) for c in cuts} == {s.speaker for s in peer["supervisions"]}
    assert len({c.id for c in cuts}) == len(cuts)
    assert all(2 <= c.duration <= 30 for c in cuts)
    # Every stretch of at least two seconds that lhotse lists is inside the utterances.
    for segment in peer["supervisions"]:
        if segment.duration >= 2:
            own = [c for c in cuts if c.recording.id == segment.recording_id]
            inside = sum(
                max(0.0, min(c.end, segment.end) - max(c.start, segment.start)) for c in own
            )
            assert inside == pytest.approx(segment.duration, abs=1e-3)
    first = [(c.start, c.end) for c in cuts if "01_a" in c.id]
    assert first[0] == (0.5, 26.5)
    assert len(first) == 1 + 3
    assert read_audio(cuts[0]).shape == (26 * 16000,)
    assert code(prepare_librilight, librilight, tmp_path / "o", "--parts", "small") == 0
    assert "skipped" in capsys.readouterr().out


def test_librilight_without_json_is_cut_evenly(librilight, tmp_path) -> None:
    (librilight / "small/100/book_a/01_a.json").unlink()
    (librilight / "small/200/book_b/01_b.json").unlink()
    assert code(prepare_librilight, librilight, tmp_path / "o", "--parts", "small") == 0
    cuts = load_cuts(tmp_path / "o" / "librilight.jsonl.gz")
    assert [c.duration for c in cuts] == [25, 25, 25, 25, 8]
    assert {speaker(c) for c in cuts} == {"100", "200"}


def test_librilight_errors(librilight, tmp_path, capsys) -> None:
    output = tmp_path / "o"
    assert code(prepare_librilight, tmp_path, output) == 65
    assert "librilight/data/small.tar" in capsys.readouterr().err
    assert code(prepare_librilight, librilight, output, "--parts", "smal") == 2
    assert code(prepare_librilight, librilight, output, "--max-seconds", "3") == 2
    large = ("--parts", "large", "--min-seconds", "14")
    assert code(prepare_librilight, librilight, output, *large) == 65
    assert "no utterance is left" in capsys.readouterr().err
    (librilight / "large/400/book_d/01_d.json").write_text('{"speaker": "1"}')
    assert code(prepare_librilight, librilight, output) == 65
    assert "01_d.json: not a description of Libri-Light" in capsys.readouterr().err
    write_noise(librilight / "small/100/book_a/01_a.flac", 1, 8000)
    assert code(prepare_librilight, librilight, output) == 65
    assert "wrong audio format" in capsys.readouterr().err
    assert not output.exists() or not list(output.glob("*.gz"))


def segment(sid: str, begin: float, end: float, text: str, *subsets: str) -> dict[str, object]:
    own = [f"{{{name}}}" for name in subsets]
    return {"sid": sid, "speaker": "N/A", "begin_time": begin, "end_time": end, "text_tn": text,
            "subsets": own}  # fmt: skip


@pytest.fixture(scope="session")
def whole_gigaspeech(tmp_path_factory) -> Path:
    """Three files in the corpus' own format; encoding them takes a while."""
    corpus = tmp_path_factory.mktemp("gs")
    audios = []
    for number, (seconds, segments) in enumerate([
        (20.0, [segment("POD_S0", 0.2, 3.7, "HELLO <COMMA> WORLD", "XL", "M"),
                segment("POD_S1", 4.0, 7.0, "<MUSIC>", "XL", "M"),
                segment("POD_S2", 8.0, 17.0, "A LONG ONE", "XL"),
                segment("POD_S3", 18.0, 19.0, "SHORT", "XL")]),
        (4.0, [segment("YOU_S0", 1.0, 4.0, "FROM XL", "XL")]),
        (3.0, [segment("DEV_S0", 0.0, 3.0, "FROM DEV", "DEV")]),
    ]):  # fmt: skip
        path = f"audio/podcast/P0001/A{number}.opus"
        write_noise(corpus / path, seconds, format="OGG", subtype="OPUS")
        labels = sorted({label for s in segments for label in s["subsets"]})
        audios.append({"aid": f"A{number}", "path": path, "duration": seconds, "channels": 1,
                       "sample_rate": 16000, "subsets": labels, "segments": segments})  # fmt: skip
    (corpus / "GigaSpeech.json").write_text(json.dumps({"dataset": "GigaSpeech", "audios": audios}))
    return corpus


@pytest.fixture
def gigaspeech(whole_gigaspeech, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole_gigaspeech, tmp_path / "gs"))


def test_gigaspeech_agrees_with_lhotse(gigaspeech, tmp_path) -> None:
    assert code(prepare_gigaspeech, gigaspeech, tmp_path / "o", "--max-seconds", "8") == 0
    cuts = list(load_cuts(tmp_path / "o" / "gigaspeech.jsonl.gz"))
    assert [c.id for c in cuts] == ["POD_S0", "POD_S2-0", "POD_S2-1", "YOU_S0"]
    entries = json.loads((gigaspeech / "GigaSpeech.json").read_text())["audios"]
    peers = {s.id: s for entry in entries for s in parse_utterance(entry, gigaspeech)[1]}
    for cut in (cuts[0], cuts[3]):
        peer = peers[cut.id]
        found = (cut.recording.id, cut.start, cut.duration, transcript(cut), speaker(cut))
        expected = (peer.recording_id, peer.start, peer.duration, peer.text, peer.speaker)
        assert found == expected
    assert [(c.start, c.end) for c in cuts[1:3]] == [(8.0, 12.5), (12.5, 17.0)]
    assert [transcript(c) for c in cuts[1:3]] == ["", ""]
    assert read_audio(cuts[2]).shape == (72000,)
    # A file of the subset may hold segments that are not.
    assert code(prepare_gigaspeech, gigaspeech, tmp_path / "m", "--subset", "M") == 0
    assert [c.id for c in load_cuts(tmp_path / "m" / "gigaspeech.jsonl.gz")] == ["POD_S0"]


def test_gigaspeech_errors(gigaspeech, tmp_path, capsys) -> None:
    assert code(prepare_gigaspeech, tmp_path, tmp_path / "o") == 65
    assert "GigaSpeech is not here" in capsys.readouterr().err
    metadata = gigaspeech / "GigaSpeech.json"
    text = metadata.read_text()
    metadata.write_text(text.replace('"begin_time": 1.0', '"begin": 1.0'))
    assert code(prepare_gigaspeech, gigaspeech, tmp_path / "o") == 65
    assert "A1: not an entry of GigaSpeech; found KeyError 'begin_time'" in capsys.readouterr().err
    metadata.write_text(text[: len(text) // 2])
    assert code(prepare_gigaspeech, gigaspeech, tmp_path / "o") == 65
    assert "GigaSpeech.json: damaged metadata" in capsys.readouterr().err
    metadata.write_text(text)
    (gigaspeech / "audio/podcast/P0001/A1.opus").unlink()
    assert code(prepare_gigaspeech, gigaspeech, tmp_path / "o") == 65
    assert "A1.opus: no such audio file" in capsys.readouterr().err


@pytest.fixture
def voxpopuli(tmp_path) -> Path:
    """Two English sessions and a French one; the table is not in order."""
    corpus = tmp_path / "vp"
    events = ("20090112-0900-PLENARY-3_en", "20100201-OTHER_en", "20090112-0900-PLENARY-3_fr")
    for event in events:
        audio = corpus / "raw_audios" / event[-2:] / event[:4] / f"{event}.ogg"
        write_noise(audio, 50, format="OGG", subtype="VORBIS")
    rows = [
        (events[0], "1", "20.5", "44.5"),
        (events[2], "0", "0.0", "20.0"),
        (events[1], "0", "1.25", "11.75"),
        (events[0], "0", "0.0", "20.0"),
        (events[0], "2", "44.5", "45.5"),
        ("20110101-GONE_en", "0", "0.0", "9.0"),
    ]
    lines = ["event_id\tsegment_no\tstart\tend", *("\t".join(row) for row in rows)]
    (corpus / "unlabelled_data").mkdir()
    with gzip.open(corpus / "unlabelled_data/unlabelled_v2.tsv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    return corpus


def test_voxpopuli_is_cut_at_its_segments(voxpopuli, tmp_path, capsys) -> None:
    assert code(prepare_voxpopuli, voxpopuli, tmp_path / "o") == 0
    cuts = load_cuts(tmp_path / "o" / "voxpopuli.jsonl.gz")
    assert {(c.recording.id, c.start, c.end) for c in cuts} == {
        ("20090112-0900-PLENARY-3_en", 0.0, 20.0),
        ("20090112-0900-PLENARY-3_en", 20.5, 44.5),
        ("20100201-OTHER_en", 1.25, 11.75),
    }
    assert all(len(read_audio(c)) == c.num_samples for c in cuts)
    assert "no audio of 1 sessions" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "prepared.json", "voxpopuli.jsonl.gz",
    ]  # fmt: skip


def test_voxpopuli_windows(voxpopuli, tmp_path) -> None:
    assert code(prepare_voxpopuli, voxpopuli, tmp_path / "o", "--windows", "--language", "fr") == 0
    cuts = load_cuts(tmp_path / "o" / "voxpopuli.jsonl.gz")
    assert [(c.start, c.duration) for c in cuts] == [(0, 25), (25, 25)]


def test_voxpopuli_errors(voxpopuli, tmp_path, capsys) -> None:
    assert code(prepare_voxpopuli, voxpopuli, tmp_path / "o", "--language", "sv") == 65
    assert "audios/sv_YEAR.tar" in capsys.readouterr().err
    table = voxpopuli / "unlabelled_data/unlabelled_v2.tsv.gz"
    whole = table.read_bytes()
    table.write_bytes(whole[:-20])
    assert code(prepare_voxpopuli, voxpopuli, tmp_path / "o") == 65
    assert "not a table of segments" in capsys.readouterr().err
    table.write_bytes(gzip.compress(b"event_id\tstart\tend\nx_en\t0\t1\n"))
    assert code(prepare_voxpopuli, voxpopuli, tmp_path / "o") == 65
    assert "found KeyError 'segment_no'" in capsys.readouterr().err
    table.unlink()
    assert code(prepare_voxpopuli, voxpopuli, tmp_path / "o") == 65
    assert "or add --windows" in capsys.readouterr().err


def test_mix_has_everything_once_in_another_order(librilight, gigaspeech, tmp_path, capsys) -> None:
    assert code(prepare_librilight, librilight, tmp_path / "a") == 0
    assert code(prepare_gigaspeech, gigaspeech, tmp_path / "b") == 0
    sources = {"ll": tmp_path / "a/librilight.jsonl.gz", "gs": tmp_path / "b/gigaspeech.jsonl.gz"}
    arguments = ["--sources", *(f"{name}={path}" for name, path in sources.items()), "--output"]

    def run(output: str, *more: str) -> list[str]:
        assert guard(lambda: mix.main([*arguments, str(tmp_path / output), *more])) == 0
        return [c.id for c in load_cuts(tmp_path / output / "mix.jsonl.gz")]

    ids = run("m")
    parts = {name: list(load_cuts(path)) for name, path in sources.items()}
    joined = [c.id for cuts in parts.values() for c in cuts]
    assert sorted(ids) == sorted(joined)
    assert ids != joined
    assert run("again") == ids
    assert run("other", "--seed", "1") != ids
    mixed = {c.id: c for c in load_cuts(tmp_path / "m" / "mix.jsonl.gz")}
    for name, cuts in parts.items():
        for cut in cuts:
            assert mixed[cut.id].custom["source"] == name
            assert mixed[cut.id].recording == cut.recording
    rows = [row.split("\t") for row in (tmp_path / "m/hours.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["source", "ll", "gs", "total"]
    hours = sum(c.duration for c in mixed.values()) / 3600
    assert float(rows[3][2]) == pytest.approx(hours, abs=1e-3)
    capsys.readouterr()
    run("m")
    assert "skipped" in capsys.readouterr().out
    twice = [f"x={sources['ll']}", f"y={sources['ll']}", "--output", str(tmp_path / "t")]
    assert guard(lambda: mix.main(["--sources", *twice])) == 65
    assert "is there twice" in capsys.readouterr().err
    assert list((tmp_path / "t").iterdir()) == []
    assert guard(lambda: mix.main(["--sources", "x", "--output", str(tmp_path / "t")])) == 2
