"""VoxCeleb in its native layouts: manifests, AAC, trial lists, noises, the synthesised corpus."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse.recipes.voxceleb import _process_file

from unispeech.__main__ import guard
from unispeech.data.manifests import load_cuts, read_audio, speaker
from unispeech.data.trials import read_trials
from unispeech.errors import DataError, DependencyError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import prepare_augmentation  # noqa: E402
import prepare_folder  # noqa: E402
import prepare_trials  # noqa: E402
import prepare_voxceleb  # noqa: E402
import synthesise_voxceleb  # noqa: E402
import voxceleb  # noqa: E402

RATE = 16000
SETS = ["train=vox2-dev", "dev=vox2-test", "test=vox1-dev+vox1-test"]


def tone(seconds: float, frequency: float = 440.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".m4a":
        voxceleb.write_aac(path, tone(seconds))
    else:
        soundfile.write(path, tone(seconds), RATE)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers in each part, two videos each, two files each: 2.5 s and 7 s."""
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("recorded")
    for suffix in (".wav", ".m4a"):
        for number, seconds in enumerate((2.5, 7.0), start=1):
            write(folder / f"{number:05d}{suffix}", seconds)
    parts = {
        "VoxCeleb1/dev/wav": ("id10001", "id10002"),
        "VoxCeleb1/test/wav": ("id10270", "id10271"),
        "VoxCeleb2/dev/aac": ("id00012", "id00015"),
        "VoxCeleb2/test/aac": ("id00017", "id00061"),
    }
    for part, people in parts.items():
        for person in people:
            for video in ("21Uxsk56VDQ", "_0aBc-9"):
                suffix = ".wav" if part.endswith("wav") else ".m4a"
                place = folder / "corpora" / part / person / video
                place.mkdir(parents=True)
                for file in folder.glob(f"*{suffix}"):
                    shutil.copy(file, place)
    return folder / "corpora"


@pytest.fixture
def corpora(recorded: Path, tmp_path: Path) -> Path:
    """A corpus that a test may damage."""
    return Path(shutil.copytree(recorded, tmp_path / "all corpora"))


def prepare(corpora: Path, *more: str, sets: list[str] = SETS) -> int:
    out = corpora.parent
    places = ["--corpora", str(corpora), "--audio", str(out / "audio"), "--output", str(out / "m")]
    return guard(lambda: prepare_voxceleb.main([*places, "--sets", *sets, "--jobs", "2", *more]))


def trials(corpora: Path, *lists: str, more: tuple[str, ...] = ()) -> int:
    out = corpora.parent
    places = ["--corpora", str(corpora), "--manifests", str(out / "m"), "--output", str(out / "t")]
    return guard(lambda: prepare_trials.main([*places, "--lists", *lists, *more]))


def test_manifests(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(corpora, "--check") == 0
    assert prepare(corpora) == 0
    out = corpora.parent
    test = load_cuts(out / "m/test.jsonl.gz")
    assert len(test) == 16
    for cut in test:
        # The peer names with dashes what the trial lists write with slashes.
        path = corpora / "VoxCeleb1" / ("test" if "id1027" in cut.id else "dev") / "wav"
        metadata = {speaker(cut): type("Facts", (), dict.fromkeys(
            ("gender", "name", "nationality", "split"), ""))}  # fmt: skip
        recording, supervision = _process_file(path / f"{cut.id}.wav", metadata)
        assert recording.id == cut.id.replace("/", "-")
        assert (recording.num_samples, supervision.speaker) == (cut.num_samples, speaker(cut))
    train = load_cuts(out / "m/train.jsonl.gz")
    assert {speaker(cut) for cut in train} == {"id00012", "id00015"}
    cut = train["id00012/21Uxsk56VDQ/00002"]
    audio = read_audio(cut)
    # AAC has a delay of one or two frames of 1024 samples, which the container announces.
    assert len(audio) == pytest.approx(7 * RATE, abs=2048)
    spectrum = np.abs(np.fft.rfft(audio))
    assert spectrum.argmax() * RATE / len(audio) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(audio**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.03)
    decoded = list((out / "audio").rglob("*.flac"))
    before = {path: path.stat().st_mtime_ns for path in decoded}
    assert len(decoded) == 16
    assert prepare(corpora) == 0
    assert "skipped" in capsys.readouterr().out
    # Decoded files are shared: other sets of the same corpus decode nothing again.
    assert prepare(corpora, sets=["train=vox2-dev+vox2-test", "test=vox1-test"]) == 0
    assert {path: path.stat().st_mtime_ns for path in decoded} == before


def test_parts_in_one_folder_are_told_apart_by_speaker(tmp_path: Path) -> None:
    for person in ("id10001", "id10269", "id10270", "id10309", "id10310"):
        write(tmp_path / "voxceleb1/wav" / person / "v/00001.wav")
    found = {
        part: [u.speaker for u in voxceleb.utterances(tmp_path, part)]
        for part in ("vox1-dev", "vox1-test")
    }
    assert found == {"vox1-dev": ["id10001", "id10269", "id10310"],
                     "vox1-test": ["id10270", "id10309"]}  # fmt: skip


def test_damaged_files_are_dropped_with_the_reason(corpora: Path) -> None:
    place = corpora / "VoxCeleb2/dev/aac/id00012/21Uxsk56VDQ"
    (place / "00001.m4a").write_bytes(b"not audio")
    (place / "00002.m4a").write_bytes(b"")
    assert prepare(corpora) == 0
    lines = (corpora.parent / "m/dropped.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == [
        "id00012/21Uxsk56VDQ/00001", "id00012/21Uxsk56VDQ/00002",
    ]  # fmt: skip
    assert all("damaged audio file" in line for line in lines)
    assert len(load_cuts(corpora.parent / "m/train.jsonl.gz")) == 6
    assert not list((corpora.parent / "audio").rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("sets", "code", "words"),
    [
        (["train=vox3-dev"], 65, "no part 'vox3-dev'"),
        (["train"], 2, "NAME=part+part"),
        (["train=vox2-dev", "dev=vox2-dev"], 2, "every part in one set"),
    ],
)
def test_wrong_sets(
    sets: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path, sets=sets) == code
    assert words in capsys.readouterr().err


def test_missing_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tmp_path) == 65
    error = capsys.readouterr().err
    assert "part vox2-dev is missing; expected VoxCeleb2/dev/aac/id*/" in error
    assert error.count("\n") == 1


def test_nothing_decodes_aac(corpora: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(voxceleb, "_pyav", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DependencyError, match="pip install av"):
        voxceleb.check_decoder()
    assert prepare(corpora, "--check") == 69


def test_trials_cohort_and_calibration(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(corpora) == 0
    rows = ["1 id10270/21Uxsk56VDQ/00001.wav id10270/_0aBc-9/00002.wav",
            "0 id10270/21Uxsk56VDQ/00001.wav id10271/_0aBc-9/00002.wav"]  # fmt: skip
    (corpora / "mine.txt").write_text("\n".join(rows) + "\n")
    more = ("--calibration-trials", "24", "--cohort-utterances", "3")
    assert trials(corpora, "mine=mine.txt", more=more) == 0
    out = corpora.parent / "t"
    found = read_trials(out / "mine")
    assert found.labels.tolist() == [True, False]
    assert found.ids[0] == "id10270/21Uxsk56VDQ/00001"
    assert sorted(load_cuts(out / "eval.jsonl.gz").ids) == sorted(found.ids)
    assert (out / "speakers.txt").read_text().split() == ["id00012", "id00015"]
    cohort = [speaker(cut) for cut in load_cuts(out / "cohort.jsonl.gz")]
    assert cohort == ["id00012"] * 3 + ["id00015"] * 3
    drawn = read_trials(out / "calibration")
    cuts = load_cuts(out / "calibration.jsonl.gz")
    assert sorted(cuts.ids) == sorted(drawn.ids)
    for cut in cuts:
        is_short = cut.id.endswith("-short")
        assert 2.0 <= cut.duration <= 6.0 if is_short else cut.duration > 6.0
        assert len(read_audio(cut)) == cut.num_samples
    names = [name.rpartition("/")[0] for name in drawn.ids]
    for label, one, other in zip(drawn.labels, drawn.enrollment, drawn.test, strict=True):
        assert label == (names[one].split("/")[0] == names[other].split("/")[0])
        assert not label or names[one] != names[other]
    assert drawn.labels.sum() * 2 == len(drawn.labels) > 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert trials(corpora, "mine=mine.txt", more=more) == 0
    assert "skipped" in capsys.readouterr().out
    for path in out.glob("*"):
        if path.name == "prepared.json":
            path.unlink()
    assert trials(corpora, "mine=mine.txt", more=more) == 0
    assert {path: path.read_bytes() for path in before} == before


def test_wrong_lists(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(corpora) == 0
    (corpora / "veri_test2.txt").write_text("1 id10270/a/00001.wav id10270/b/00001.wav\n")
    (corpora / "absent.txt").write_text("1 id10270/a/00001.wav id10270/b/00001.wav\n")
    for words, code, message in (
        (["vox1-o"], 65, "not the published list Vox1-O (cleaned); expected 37611 trials, found 1"),
        (["vox1-h"], 65, "list_test_hard2.txt: no trial list vox1-h"),
        (["vox1-x"], 2, "no published list of that name"),
        (["mine=nowhere.txt"], 65, "no trial list mine"),
        (["mine=absent.txt"], 65, "2 of 2 utterances of the trials are not there"),
    ):
        assert trials(corpora, *words) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert trials(corpora, "mine=absent.txt", more=("--restrict",)) == 65
    assert "no trial is left" in capsys.readouterr().err


def test_noises_and_rooms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("noise/free/n.wav", "speech/a/s.wav", "music/b/m.wav", "noise/esc/f.flac"):
        write(tmp_path / "musan" / name)
    (tmp_path / "musan/music/b/ANNOTATIONS").write_text("m jazz Y someone\n")
    for size in ("small", "medium", "large"):
        write(tmp_path / f"rirs/simulated_rirs/{size}room/Room001/Room001-00001.wav", 0.3)
    both = tmp_path / "rirs/real_rirs_isotropic_noises/air_rir_two.wav"
    both.parent.mkdir()
    soundfile.write(both, np.random.default_rng(0).uniform(-0.5, 0.5, (800, 2)), RATE)
    options = ["--musan", str(tmp_path / "musan"), "--output", str(tmp_path / "out"), "--rirs"]
    full = [*options, str(tmp_path / "rirs"), "--rir-parts", "sim_rir", "real_rir"]
    assert guard(lambda: prepare_augmentation.main(full)) == 0
    noises = load_cuts(tmp_path / "out/noise.jsonl.gz")
    assert {cut.id: cut.custom["kind"] for cut in noises} == {
        "noise/n": "noise", "noise/f": "noise", "speech/s": "speech", "music/m": "music",
    }  # fmt: skip
    assert len(load_cuts(tmp_path / "out/rir.jsonl.gz")) == 4
    any_folder = [*options, str(tmp_path / "rirs/simulated_rirs/smallroom")]
    assert guard(lambda: prepare_augmentation.main(any_folder)) == 0
    assert len(load_cuts(tmp_path / "out/rir.jsonl.gz")) == 1
    assert guard(lambda: prepare_augmentation.main([*options, "/nowhere"])) == 2
    assert "--rirs: no such folder" in capsys.readouterr().err


def test_real_speakers(real_data: Path, tmp_path: Path) -> None:
    conf = ROOT / "egs/voxceleb/conf/mini"
    options = ["--corpora", str(real_data), "--output", str(tmp_path / "m")]
    assert guard(lambda: prepare_folder.main([*options, "--sets", str(conf / "sets.yaml")])) == 0
    sets = {name: load_cuts(tmp_path / f"m/{name}.jsonl.gz") for name in ("train", "dev", "test")}
    people = {name: {speaker(cut) for cut in cuts} for name, cuts in sets.items()}
    assert len(people["train"]) > 200
    assert not people["train"] & people["test"]
    assert not people["dev"] & (people["train"] | people["test"])
    more = ["--manifests", str(tmp_path / "m"), "--restrict", "--calibration", "dev"]
    options[3] = str(tmp_path / "t")
    lists = ["--lists", str(conf / "lists.txt")]
    assert guard(lambda: prepare_trials.main([*options, *more, *lists])) == 0
    counts = {}
    for name in ("speechocean", "wuw", "msc", "dsp", "real"):
        found = read_trials(tmp_path / "t" / name)
        assert set(found.ids) <= set(sets["test"].ids)
        owners = [speaker(sets["test"][name]) for name in found.ids]
        same = [owners[e] == owners[t] for e, t in zip(found.enrollment, found.test, strict=True)]
        assert same == found.labels.tolist()
        counts[name] = len(found.labels)
    assert counts.pop("real") == sum(counts.values())
    # All pairs of eight utterances of each of the twenty test speakers.
    facts = json.loads((tmp_path / "t/speechocean/trials.json").read_text())
    assert facts["targets"] == 20 * 8 * 7 // 2
    options[3] = str(tmp_path / "a")
    noises = [
        "--musan",
        str(real_data / "noise_rir/musan"),
        "--rirs",
        str(real_data / "noise_rir/rirs"),
    ]
    assert guard(lambda: prepare_augmentation.main([*options[2:], *noises])) == 0
    assert len(load_cuts(tmp_path / "a/noise.jsonl.gz")) == 70
    assert len(load_cuts(tmp_path / "a/rir.jsonl.gz")) == 21


def test_synthesised_speakers_do_not_depend_on_the_jobs(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("av")
    small = (("VoxCeleb1/test/wav", 10270, 2), ("VoxCeleb2/dev/aac", 1001, 2))
    monkeypatch.setattr(synthesise_voxceleb, "PARTS", small)
    for jobs in ("1", "2"):
        options = ["--output", str(tmp_path / jobs), "--files", "1", "--jobs", jobs]
        assert guard(lambda options=options: synthesise_voxceleb.main(options)) == 0
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.wav"))
    assert len(files) == 2 * 3 + 18 + 12
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()
    for file in (tmp_path / "1").rglob("*.m4a"):
        other = tmp_path / "2" / file.relative_to(tmp_path / "1")
        assert np.array_equal(voxceleb.read_aac(file), voxceleb.read_aac(other))
    listed = (tmp_path / "1/VoxCeleb1/tiny_o.txt").read_text().splitlines()
    # Three sessions of each speaker with one file: three pairs of one speaker, twice.
    assert sorted(line[0] for line in listed) == ["0"] * 6 + ["1"] * 6
    for line in listed:
        label, one, other = line.split()
        assert (label == "1") == (one.split("/")[0] == other.split("/")[0])
        assert (tmp_path / "1/VoxCeleb1/test/wav" / one).is_file()


def test_damaged_aac(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.m4a").write_bytes(b"\0" * 4000)
    with pytest.raises(DataError, match="damaged audio file"):
        voxceleb.read_aac(tmp_path / "a.m4a")
