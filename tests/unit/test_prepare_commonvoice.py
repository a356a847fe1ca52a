"""Common Voice in its native layout: decoding, dropped clips, sets, published lists."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import resample_poly

from unispeech.__main__ import guard
from unispeech.data.manifests import load_cuts, read_audio, speaker, transcript
from unispeech.storage import sha256

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import commonvoice  # noqa: E402
import prepare_commonvoice as prepare  # noqa: E402

HEADER = "client_id path sentence up_votes down_votes age gender accent locale segment".split()
RATE = 48000


def tone(seconds: float, frequency: float = 440.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * frequency * time)


class Release:
    """A small release that a test may damage: two speakers in each of train, dev and test."""

    def __init__(self, corpora: Path, code: str = "es", text: str = "Hola amigos.") -> None:
        self.folder = corpora / "cv-corpus-9.0" / code
        (self.folder / "clips").mkdir(parents=True)
        self.tables: dict[str, list[list[str]]] = {}
        for number, part in enumerate(("train", "dev", "test")):
            self.tables[part] = []
            for person in range(2):
                for clip in range(3):
                    name = f"common_voice_{code}_{number}{person}{clip}.mp3"
                    client = f"{number}{person}" * 64
                    self.tables[part].append([client, name, text, *"20", "", "", "", code, ""])
                    soundfile.write(self.folder / "clips" / name, tone(1 + clip), RATE)
        self.tables["validated"] = [row for rows in self.tables.values() for row in rows]
        self.write()

    def write(self) -> None:
        for name, rows in self.tables.items():
            text = "".join("\t".join(row) + "\n" for row in [HEADER, *rows])
            (self.folder / f"{name}.tsv").write_text(text, encoding="utf-8")

    def clip(self, number: str) -> Path:
        return self.folder / "clips" / f"common_voice_{self.folder.name}_{number}.mp3"


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    folder = tmp_path / "all corpora"
    folder.mkdir()
    return folder


@pytest.fixture
def release(corpora: Path) -> Release:
    return Release(corpora)


def run(corpora: Path, *more: str, source: str = "es", target: str = "es") -> int:
    out = corpora.parent
    places = ["--corpora", str(corpora), "--audio", str(out / "audio"), "--output", str(out / "m")]
    languages = ["--source", *source.split(), "--target", *target.split()]
    return guard(lambda: prepare.main([*places, *languages, "--jobs", "2", *more]))


def people(corpora: Path, name: str) -> set[str]:
    return {speaker(cut) for cut in load_cuts(corpora.parent / "m" / f"{name}.jsonl.gz")}


def dropped(corpora: Path) -> dict[str, str]:
    lines = (corpora.parent / "m" / "dropped.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {line.split("\t")[1].split("_")[-1]: line.split("\t")[2] for line in lines}


def test_clips_become_16_khz_flac_that_sounds_the_same(corpora, release) -> None:
    assert run(corpora) == 0
    cut = load_cuts(corpora.parent / "m" / "train.jsonl.gz")["common_voice_es_002"]
    audio = read_audio(cut)
    peer, rate = soundfile.read(release.clip("002"))
    assert len(audio) == cut.num_samples == pytest.approx(len(peer) / rate * 16000, abs=1)
    assert np.argmax(np.abs(np.fft.rfft(audio))) / len(audio) * 16000 == pytest.approx(440, abs=1)
    np.testing.assert_allclose(audio, resample_poly(peer, 1, 3), atol=1e-4)
    assert transcript(cut) == "Hola amigos."
    assert len(speaker(cut)) == 16


def test_nobody_of_dev_or_test_is_in_another_set(corpora, release) -> None:
    assert run(corpora) == 0
    held_out = [people(corpora, "dev"), people(corpora, "test")]
    assert not held_out[0] & held_out[1]
    for name in ("train", "pretrain", "es-train"):
        assert not people(corpora, name) & set.union(*held_out)
    untranscribed = load_cuts(corpora.parent / "m" / "pretrain.jsonl.gz")
    assert {transcript(cut) for cut in untranscribed} == {""}


def test_several_targets_have_sets_of_their_own(corpora, release) -> None:
    Release(corpora, "it", "Ciao amici.")
    assert run(corpora, source="es", target="es it") == 0
    names = {path.name.split(".")[0] for path in (corpora.parent / "m").glob("*.jsonl.gz")}
    parts = ("pretrain", "train", "dev", "test")
    assert names == {f"{code}_{part}" for code in ("es", "it") for part in parts} | {
        "es-train", "es-dev",
    }  # fmt: skip
    for code in ("es", "it"):
        cuts = load_cuts(corpora.parent / "m" / f"{code}_test.jsonl.gz")
        assert {cut.supervisions[0].language for cut in cuts} == {code}
    held_out = people(corpora, "es_dev") | people(corpora, "es_test")
    assert not held_out & (people(corpora, "es-train") | people(corpora, "es_pretrain"))


def test_damaged_clips_are_dropped_with_the_reason(corpora, release) -> None:
    release.clip("000").unlink()
    release.clip("001").write_bytes(b"")
    whole = release.clip("002").read_bytes()
    release.clip("002").write_bytes(whole[: len(whole) // 2])
    release.clip("010").write_text("<html>404</html>")
    soundfile.write(release.clip("011"), tone(0.2), RATE)
    soundfile.write(release.clip("100"), np.zeros(2 * RATE), RATE)
    soundfile.write(release.clip("101"), tone(31), RATE)
    release.tables["dev"][2][2] = "\u2026!"
    release.tables["test"][0][2] = "Привет"
    release.tables["validated"] = []
    release.write()
    assert run(corpora) == 0
    found = dropped(corpora)
    assert found.pop("002").startswith("truncated: 1.")
    assert found == {
        "000": "no such clip",
        "001": "an empty file",
        "010": "not audio that libsndfile reads",
        "011": "shorter than 0.5 s",
        "100": "silent, or samples that are not finite",
        "101": "longer than 30 s",
        "102": "no text",
        "200": "letters that are not Latin: П в е и р т",
    }
    assert [cut.id for cut in load_cuts(corpora.parent / "m" / "train.jsonl.gz")] == [
        "common_voice_es_012"
    ]


def test_decoded_once_and_again_when_a_clip_changes(corpora, release, capsys) -> None:
    assert run(corpora) == 0
    files = sorted((corpora.parent / "audio" / "es").iterdir())
    before = {file: file.stat().st_mtime_ns for file in files}
    capsys.readouterr()
    assert run(corpora) == 0
    assert "skipped" in capsys.readouterr().out
    soundfile.write(release.clip("000"), tone(1.5), RATE)
    files[-1].write_bytes(b"fLaC, and no more")
    assert run(corpora) == 0
    changed = [f.stem for f in files if f.stat().st_mtime_ns != before[f]]
    assert changed == ["common_voice_es_000", files[-1].stem]
    assert soundfile.info(files[-1]).samplerate == 16000
    assert not list(corpora.parent.glob("audio/es/.tmp-*"))


def test_the_manifests_do_not_depend_on_order_or_jobs(corpora, release) -> None:
    manifests = ("train", "dev", "test", "pretrain")
    hours = ["--hours", "0.001", "0.001", "0.001"]
    assert run(corpora, *hours) == 0
    first = {n: sha256(corpora.parent / "m" / f"{n}.jsonl.gz") for n in manifests}
    for rows in release.tables.values():
        rows.reverse()
    release.write()
    assert run(corpora, *hours, "--jobs", "1") == 0
    assert {n: sha256(corpora.parent / "m" / f"{n}.jsonl.gz") for n in manifests} == first


def test_few_hours_are_drawn_from_all_speakers(corpora, release) -> None:
    assert run(corpora, "--hours", "0.001", "0.001", "0.001") == 0
    cuts = load_cuts(corpora.parent / "m" / "train.jsonl.gz")
    seconds = sum(cut.duration for cut in cuts)
    assert 3.6 <= seconds < 3.6 + 3
    assert len(people(corpora, "train")) == 2


@pytest.mark.parametrize("form", ["fairseq", "no root", "names", "ids"])
def test_published_lists(corpora, release, tmp_path, form) -> None:
    lists = tmp_path / "splits" / "es"
    lists.mkdir(parents=True)
    names = {"trainSeqs_1.0_x": ["000", "011"], "valSeqs_1.0_x": ["100"], "testSeqs_x": ["200"]}
    for file, numbers in names.items():
        clips = [f"common_voice_es_{number}" for number in numbers]
        if form == "fairseq":
            lines = ["/data/es/wavs_16k", *(f"{clip}.wav\t34176\t16000" for clip in clips)]
        elif form == "no root":
            lines = [f"wavs/{clip}.wav\t102528\t48000" for clip in clips]
        else:
            lines = clips if form == "names" else [f"{clip} 13 18 11 " for clip in clips]
        if "train" in file and form == "names":
            lines.append("common_voice_es_999")
        suffix = ".id" if form == "ids" else ".tsv"
        (lists / (file + suffix)).write_text("\n".join(lines) + "\n")
    assert run(corpora, "--splits", str(lists.parent)) == 0
    for name, numbers in zip(("train", "dev", "test"), names.values(), strict=True):
        found = [cut.id[-3:] for cut in load_cuts(corpora.parent / "m" / f"{name}.jsonl.gz")]
        assert found == numbers
    if form == "names":
        reason = "listed in trainSeqs_1.0_x.tsv, not in the release's tables"
        assert dropped(corpora) == {"999": reason}


def test_several_languages_and_a_region(corpora, release) -> None:
    Release(corpora, "sv-SE", "God morgon.")
    Release(corpora, "ru", "Доброе утро.")
    assert run(corpora, source="sv ru", target="es") == 0
    names = {path.name.split(".")[0] for path in (corpora.parent / "m").glob("*.jsonl.gz")}
    expected = "sv-train sv-dev ru-train ru-dev pretrain train dev test"
    assert names == set(expected.split())
    cut = next(iter(load_cuts(corpora.parent / "m" / "ru-train.jsonl.gz")))
    assert cut.supervisions[0].language == "ru"


def break_table(release: Release) -> None:
    (release.folder / "train.tsv").write_text("path\tsentence\nx.mp3\tHola\n")


def repeat_clip(release: Release) -> None:
    release.tables["train"].append(release.tables["train"][0])
    release.write()


def remove_clips(release: Release) -> None:
    for file in (release.folder / "clips").iterdir():
        file.unlink()


def second_release(release: Release) -> None:
    (release.folder.parent.parent / "cv-corpus-10.0" / "es").mkdir(parents=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_table, "no column 'client_id'"),
        (repeat_clip, "common_voice_es_000 is there twice"),
        (remove_clips, "no utterance is left"),
        (lambda r: (r.folder / "dev.tsv").unlink(), "no dev.tsv"),
        (lambda r: (r.folder / "dev.tsv").write_bytes(b"\xff\xfe"), "cannot read the table"),
        (second_release, "'es' is here more than once"),
    ],
)
def test_wrong_releases(corpora, release, capsys, change, message) -> None:
    change(release)
    assert run(corpora) == 65
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"target": "xx"}, 2, "no language 'xx'"),
        ({"source": "es tt"}, 65, "no Common Voice release of 'tt' here"),
    ],
)
def test_wrong_languages(corpora, release, capsys, options, code, message) -> None:
    assert run(corpora, **options) == code
    assert message in capsys.readouterr().err


def test_missing_lists_and_corpora(corpora, release, capsys) -> None:
    assert run(corpora, "--splits", str(corpora)) == 65
    assert "no list of the train clips of 'es'" in capsys.readouterr().err
    assert run(Path()) == 2
    assert "--corpora is missing" in capsys.readouterr().err


@given(text=st.text(st.characters(categories=["Lu", "Ll"], max_codepoint=0x17F), min_size=1))
def test_latin_letters_are_latin(text) -> None:
    greek_like = "\u00b5"  # the micro sign is the only small letter up to there of no alphabet
    assert bool(commonvoice.wrong_text(text, "es")) == (greek_like in text)


def test_apostrophes_and_ordinals_belong_to_no_script() -> None:
    assert commonvoice.wrong_text("L\u2019isola d\u02bcoro, 1\u00ba", "it") == ""
    assert commonvoice.wrong_text("123", "it") == "no text"
