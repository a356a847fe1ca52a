"""LibriCSS in its native layout: sets, what lhotse makes of it, what can be wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse.recipes.libricss import prepare_libricss as lhotse_prepare

from unispeech.__main__ import guard
from unispeech.data.augmentation import read_channel
from unispeech.data.manifests import load_cuts, speaker, transcript

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import libricss  # noqa: E402
import prepare_libricss  # noqa: E402
import synthesise_libricss  # noqa: E402

RATE = 16000
SECONDS = 4.0
# Start, end and speaker of the utterances of a session; the second overlaps the first.
TURNS = ((0.5, 1.6, "61"), (1.2, 2.0, "121"), (2.4, 3.5, "61"))
SEGMENTS = [[8000, 32000], [38400, 56000]]


def write_release(folder: Path, channels: int = 7, sessions: int = 2) -> Path:
    """A corpus of noise with all conditions."""
    rng = np.random.default_rng(0)
    bounds = {}
    for condition, (overlap, (low, high)) in libricss.CONDITIONS.items():
        for number in range(sessions):
            name = f"overlap_ratio_{100 * overlap}_sil{low}_{high}_session{number}_actual9.9"
            place = folder / "for_release" / condition / name
            for part in ("record", "clean", "transcription"):
                (place / part).mkdir(parents=True)
            audio = rng.uniform(-0.4, 0.4, (round(SECONDS * RATE), channels))
            soundfile.write(place / "record/raw_recording.wav", audio, RATE, subtype="PCM_16")
            soundfile.write(place / "clean/each_spk.wav", audio[:, :2], RATE, subtype="PCM_16")
            lines = ["start_time\tend_time\tspeaker\tutterance_id\ttranscription"]
            lines += [
                f"{start}\t{end}\t{who}\t{who}-70970-000{i}\tWORD {i} OF {condition}"
                for i, (start, end, who) in enumerate(TURNS)
            ]
            (place / "transcription/meeting_info.txt").write_text("\n".join(lines) + "\n")
            bounds[name] = SEGMENTS
    (folder / "for_release/all_res.json").write_text(json.dumps(bounds))
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("libricss"))


def prepare(corpora: Path, output: Path, *more: str) -> int:
    options = ["--corpora", str(corpora), "--output", str(output), *more]
    return guard(lambda: prepare_libricss.main(options))


def session_of(corpora: Path, condition: str, number: int = 1) -> Path:
    (folder,) = (corpora / "for_release" / condition).glob(f"*_session{number}_*")
    return folder


@pytest.mark.parametrize("channels", ["7", "1"])
def test_sets_are_what_lhotse_reads(release: Path, tmp_path: Path, channels: str) -> None:
    assert prepare(release, tmp_path, "--channels", channels) == 0
    peer = lhotse_prepare(release, type="sdm" if channels == "1" else "mdm", segmented_cuts=True)
    told = {s.id: s for s in peer["supervisions"]}
    segments = {(c.recording_id, round(c.start, 4), round(c.duration, 4)): c
                for c in peer["segments"]}  # fmt: skip
    seen: set[str] = set()
    for name, number in (("dev", 0), ("test", 1)):
        whole = load_cuts(tmp_path / name / "sessions.jsonl.gz")
        assert sorted(whole.ids) == sorted(f"{c}_session{number}" for c in libricss.CONDITIONS)
        for cut in load_cuts(tmp_path / name / "utterance.jsonl.gz"):
            (own,) = cut.supervisions
            theirs = told[cut.id]
            assert (cut.start, cut.duration) == (theirs.start, pytest.approx(theirs.duration))
            assert (own.start, own.duration) == (0.0, pytest.approx(theirs.duration))
            assert (speaker(cut), transcript(cut)) == (theirs.speaker, theirs.text.strip())
            assert cut.custom["condition"] == cut.id.split("_")[0]
            assert cut.recording.num_channels == int(channels)
            seen.add(cut.id)
        pieces = load_cuts(tmp_path / name / "continuous.jsonl.gz")
        assert len(pieces) == 2 * len(libricss.CONDITIONS)
        assert len({cut.recording.id for cut in pieces}) == len(pieces)
        for cut in pieces:
            key = (cut.id.rpartition("-")[0], round(cut.start, 4), round(cut.duration, 4))
            theirs = segments.pop(key)
            assert [(s.id, round(s.start, 4)) for s in cut.supervisions] == [
                (s.id, round(s.start, 4)) for s in theirs.supervisions
            ]
    assert segments == {}
    assert seen == set(told)


def test_audio_is_that_of_the_recording(release: Path, tmp_path: Path) -> None:
    assert prepare(release, tmp_path, "--continuous", "sessions") == 0
    cut = next(c for c in load_cuts(tmp_path / "test/utterance.jsonl.gz") if c.id.endswith("-1"))
    file = session_of(release, cut.custom["condition"]) / "record/raw_recording.wav"
    audio, _ = soundfile.read(file, dtype="float32")
    assert np.array_equal(read_channel(cut, 0, cut.num_samples), audio[19200:32000, 0])
    long = load_cuts(tmp_path / "test/continuous.jsonl.gz")
    assert [cut.num_samples for cut in long] == [64000] * 6


def test_finished_is_skipped_until_the_corpus_changes(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(release, tmp_path / "c")
    assert prepare(own, tmp_path / "o") == 0
    before = {p: p.read_bytes() for p in (tmp_path / "o").rglob("*.gz")}
    assert prepare(own, tmp_path / "o") == 0
    assert "skipped" in capsys.readouterr().out
    info = session_of(own, "OV20") / "transcription/meeting_info.txt"
    info.write_text(info.read_text().replace("WORD 1", "OTHER"))
    assert prepare(own, tmp_path / "o") == 0
    assert {p: p.read_bytes() for p in before} != before


def change(file: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(session: Path) -> None:
        text = (session / file).read_text()
        assert old in text
        (session / file).write_text(text.replace(old, new))

    return apply


def silence(session: Path) -> None:
    audio, _ = soundfile.read(session / "record/raw_recording.wav")
    audio[:, 3] = 0.0
    soundfile.write(session / "record/raw_recording.wav", audio, RATE, subtype="PCM_16")


def one_channel(session: Path) -> None:
    audio, _ = soundfile.read(session / "record/raw_recording.wav")
    soundfile.write(session / "record/raw_recording.wav", audio[:, 0], RATE, subtype="PCM_16")


def without_speaker(session: Path) -> None:
    info = session / "transcription/meeting_info.txt"
    kept = [line for line in info.read_text().splitlines() if "\t121\t" not in line]
    info.write_text("\n".join(kept) + "\n")


INFO = "transcription/meeting_info.txt"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (silence, "raw_recording.wav: silence; found channel 3"),
        (one_channel, "expected 7 channel(s) at 16000 Hz, found 1 channel(s)"),
        (without_speaker, "the transcripts miss a speaker; expected 2"),
        (change(INFO, "\t121\t", "\t\t"), "meeting_info.txt:3: not a line of the transcripts"),
        (change(INFO, "1.2\t", "one\t"), "meeting_info.txt:3: not a line of the transcripts"),
        (change(INFO, "2.4\t3.5", "2.4\t9.5"), "ends at 9.5 s, after the recording of 4 s"),
        (change(INFO, "start_time", "start"), "meeting_info.txt:1: not the transcripts"),
        (lambda s: (s / INFO).unlink(), "cannot read the transcripts"),
        (lambda s: (s / "record/raw_recording.wav").unlink(), "found no such file"),
        (lambda s: (s / "record/raw_recording.wav").write_bytes(b"RIFF"), "cannot read the rec"),
    ],
)
def test_damaged_sessions(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    write_release(tmp_path / "c", sessions=1)
    damage(session_of(tmp_path / "c", "OV30", 0))
    assert prepare(tmp_path / "c", tmp_path / "o") == 65
    problem, last = capsys.readouterr().err.splitlines()
    assert message in problem
    assert last == "error: 1 problem in LibriCSS"
    assert not (tmp_path / "o").exists()


def test_released_sessions_have_their_speakers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a session that was released, lhotse knows who speaks."""
    write_release(tmp_path / "c", sessions=1)
    session = session_of(tmp_path / "c", "0S", 0)
    name = "overlap_ratio_0.0_sil0.1_0.5_session4_actual0.0"
    bounds = tmp_path / "c/for_release/all_res.json"
    bounds.write_text(bounds.read_text().replace(session.name, name))
    info = session.rename(session.parent / name) / INFO
    info.write_text(info.read_text().replace("\t61\t", "\t1188\t").replace("\t121\t", "\t4970\t"))
    assert prepare(tmp_path / "c", tmp_path / "o") == 65
    assert "miss speaker 1221, 1995, 2961, 4507, 5683, 672;" in capsys.readouterr().err


def test_one_channel_is_enough_where_one_is_asked_for(tmp_path: Path) -> None:
    write_release(tmp_path / "c", channels=1, sessions=1)
    for session in (tmp_path / "c/for_release").glob("*/*"):
        (session / "clean/each_spk.wav").unlink()
    assert prepare(tmp_path / "c", tmp_path / "o") == 65
    assert prepare(tmp_path / "c", tmp_path / "o", "--channels", "1") == 0
    # The only session is the development session.
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["dev"]


def test_clipped_audio_is_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_release(tmp_path / "c", sessions=1)
    file = session_of(tmp_path / "c", "0L", 0) / "record/raw_recording.wav"
    audio, _ = soundfile.read(file)
    soundfile.write(file, np.clip(10 * audio, -1, 1), RATE, subtype="PCM_16")
    assert prepare(tmp_path / "c", tmp_path / "o") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert "of the samples are clipped" in line


def test_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], release: Path) -> None:
    own = shutil.copytree(release, tmp_path / "c")
    (own / "for_release/OV10/.DS_Store").write_text("")
    assert prepare(own, tmp_path / "o") == 65
    assert "not the folder of a session" in capsys.readouterr().err
    (own / "for_release/OV10/.DS_Store").unlink()
    bounds = own / "for_release/all_res.json"
    text = bounds.read_text()
    for wrong, message in (
        ("[]", "cannot read the bounds"),
        (text.replace("sil0.1_0.5_session0", "x"), "_session0_actual9.9 has no segments"),
    ):
        bounds.write_text(wrong)
        assert prepare(own, tmp_path / "o") == 65
        assert message in capsys.readouterr().err
    shutil.rmtree(own / "for_release/OV40")
    assert prepare(own, tmp_path / "o") == 65
    assert "conditions of LibriCSS are missing: OV40" in capsys.readouterr().err
    assert prepare(tmp_path / "o", tmp_path / "o") == 65
    assert "LibriCSS is not here" in capsys.readouterr().err
    assert guard(lambda: prepare_libricss.main(["--corpora", "", "--output", "o"])) == 2


def test_synthesised_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layout is read, overlaps are as its names say, and jobs do not matter."""
    pytest.importorskip("espeakng_loader")
    # Test sentences are of training words, so there must be some.
    parts = {"train-clean-100": (2, 1.0), "dev-clean": (1, 0.02), "test-clean": (4, 0.25)}
    speech = synthesise_libricss.synthesise_librispeech
    monkeypatch.setattr(speech, "PARTS", parts)
    monkeypatch.setattr(speech, "LM_SENTENCES", 10)
    build = speech.build

    def once(folder: Path, *settings: float) -> None:
        # That speech does not depend on the jobs either is tested where it is made.
        made = tmp_path / "1/LibriSpeech"
        shutil.copytree(made, folder) if made.is_dir() else build(folder, *settings)

    monkeypatch.setattr(speech, "build", once)
    for jobs in ("1", "2"):
        options = ["--output", str(tmp_path / jobs), "--minutes", "5", "--sessions", "1"]
        more = ["--jobs", jobs]
        assert guard(lambda o=(*options, *more): synthesise_libricss.main(o)) == 0
    one, two = (tmp_path / jobs / "for_release" for jobs in "12")
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    # Recording, two clean files and two of transcripts for each session, and the segments.
    assert len(files) == 6 * 5 + 1
    for file in files:
        assert (one / file).read_bytes() == (two / file).read_bytes()
    assert prepare(tmp_path / "1", tmp_path / "o") == 0
    for cut in load_cuts(tmp_path / "o/dev/sessions.jsonl.gz"):
        times = np.zeros(cut.num_samples)
        for s in cut.supervisions:
            times[round(s.start * RATE) : round(s.end * RATE)] += 1
        wanted = libricss.CONDITIONS[cut.custom["condition"]].overlap
        assert times.max() == 1 + (wanted > 0)
        share = (times > 1).sum() / (times > 0).sum()
        assert share == pytest.approx(wanted, abs=0.02)
        folder = session_of(tmp_path / "1", cut.custom["condition"], 0)
        assert float(folder.name.rpartition("actual")[2]) == pytest.approx(100 * share, abs=0.06)
        clean, _ = soundfile.read(folder / "clean/each_spk.wav", dtype="float32")
        assert clean.shape == (cut.num_samples, len({s.speaker for s in cut.supervisions}))
