"""The synthesised Common Voice: layout, separation of sets, damage, determinism."""

from __future__ import annotations

import csv
import sys
from itertools import islice
from pathlib import Path

import pytest
import soundfile

from unispeech.__main__ import guard
from unispeech.storage import sha256

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import synthesise_commonvoice as synthesis  # noqa: E402
from sentences import Grammar  # noqa: E402
from sentences_romance import ROMANCE  # noqa: E402

LANGUAGES = ("en", "es", "fr", "it")


def make(output: Path, jobs: int) -> int:
    arguments = ["--output", str(output), "--scale", "0.02", "--jobs", str(jobs)]
    return guard(lambda: synthesis.main(arguments))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("corpus")
    assert make(folder, jobs=2) == 0
    return folder / "cv-corpus-synthetic"


def table(corpus: Path, language: str, name: str) -> list[dict[str, str]]:
    with (corpus / language / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def damaged(corpus: Path) -> dict[str, str]:
    with (corpus / "damaged.tsv").open(encoding="utf-8", newline="") as file:
        return {row["clip"]: row["damage"] for row in csv.DictReader(file, delimiter="\t")}


def test_layout_is_that_of_a_release(corpus) -> None:
    columns = "client_id path sentence up_votes down_votes age gender accent locale segment"
    for language in LANGUAGES:
        for name in ("train", "dev", "test", "validated", "invalidated", "other"):
            head = (corpus / language / f"{name}.tsv").read_text("utf-8").splitlines()[0]
            assert head.split("\t") == columns.split()
        rows = {n: table(corpus, language, n) for n in ("train", "dev", "test", "validated")}
        assert rows["validated"] == [*rows["train"], *rows["dev"], *rows["test"]]
        assert {len(row["client_id"]) for row in rows["validated"]} == {128}
        wrong = damaged(corpus)
        for row in rows["validated"]:
            if Path(row["path"]).stem not in wrong:
                info = soundfile.info(corpus / language / "clips" / row["path"])
                assert (info.format, info.samplerate, info.channels) == ("MP3", 32000, 1)
                assert 1 < info.duration < 8


def test_sets_share_neither_speakers_nor_sentences(corpus) -> None:
    for language in LANGUAGES:
        for column in ("client_id", "sentence"):
            sets = [{row[column] for row in table(corpus, language, n)} for n in synthesis.PARTS]
            assert sum(map(len, sets)) == len(set.union(*sets))


def test_clips_are_damaged_as_listed(corpus) -> None:
    wrong = damaged(corpus)
    clips = {path.stem: path for path in corpus.glob("*/clips/*.mp3")}
    assert set(wrong.values()) >= {"missing", "empty", "truncated", "not audio"}
    for name, way in wrong.items():
        if way == "missing":
            assert name not in clips
        elif way == "empty":
            assert clips[name].stat().st_size == 0
        elif way == "not audio":
            with pytest.raises(soundfile.SoundFileError):
                soundfile.info(clips[name])
        elif way == "truncated":
            with soundfile.SoundFile(clips[name]) as file:
                assert len(file.read()) < 0.7 * file.frames


def test_same_seed_gives_the_same_files_for_any_number_of_jobs(corpus, tmp_path, capsys) -> None:
    assert make(tmp_path, jobs=1) == 0
    other = tmp_path / "cv-corpus-synthetic"
    files = [path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file()]
    assert [f for f in files if sha256(corpus / f) != sha256(other / f)] == []
    capsys.readouterr()
    assert make(tmp_path, jobs=1) == 0
    assert "skipped" in capsys.readouterr().out
    (tmp_path / "b" / "cv-corpus-synthetic").mkdir(parents=True)
    assert make(tmp_path / "b", jobs=1) == 2


@pytest.mark.parametrize("language", sorted(ROMANCE))
def test_grammars(language: str) -> None:
    some = list(islice(Grammar(1, ROMANCE[language]).sentences(), 400))
    assert len(set(some)) == 400
    assert all(4 <= len(text.split()) <= 9 for text in some)
    assert len({word for text in some for word in text.split()}) >= 90
    assert not any("/" in text or text != " ".join(text.split()) for text in some)
    # Categories are replaced by words.
    assert not set(ROMANCE[language].phrases) & {word for text in some for word in text.split()}
