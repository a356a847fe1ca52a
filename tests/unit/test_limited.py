"""Libri-light's limited supervision in its native layout."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unispeech.__main__ import guard, main
from unispeech.data.manifests import load_cuts, speaker, transcript

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import prepare_librilight  # noqa: E402
import prepare_librispeech  # noqa: E402

FOLDERS = [*(f"1h/{number}" for number in range(6)), "9h"]


def write_chapter(folder: Path, person: int, files: int) -> None:
    """FLAC files of a chapter and the transcripts of one more, as the release has them."""
    chapter = folder / str(person) / "7"
    chapter.mkdir(parents=True)
    for number in range(files):
        noise = np.random.default_rng(person + number).uniform(-0.5, 0.5, 8000)
        soundfile.write(chapter / f"{person}-7-{number:04d}.flac", noise, 16000)
    lines = [f"{person}-7-{n:04d} SPEAKER {person} SAYS {n}\n" for n in range(files + 1)]
    (chapter / f"{person}-7.trans.txt").write_text("".join(lines))


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """One speaker in each of the clean and the other half of every folder."""
    root = tmp_path / "the corpora"
    for place, name in enumerate(FOLDERS):
        for half, kind in enumerate(("clean", "other")):
            folder = root / "librispeech_finetuning" / name / kind
            write_chapter(folder, 10 * place + half, 3 if name == "9h" else 1)
    for part, person in (("train-clean-100", 100), ("dev-clean", 200)):
        write_chapter(root / "LibriSpeech" / part, person, 2)
        (line, second, _) = (
            trans := root / "LibriSpeech" / part / f"{person}/7/{person}-7.trans.txt"
        ).read_text().splitlines(True)  # fmt: skip
        trans.write_text(line + second)
    return root


def limited(corpora: Path, budget: str, output: Path) -> int:
    arguments = ["--corpora", str(corpora), "--output", str(output), "--name", "train"]
    return guard(lambda: prepare_librilight.main([*arguments, "--limited", budget]))


def librispeech(corpora: Path, *sets: str, more: tuple[str, ...] = ()) -> int:
    arguments = ["--corpora", str(corpora), "--output", str(corpora.parent / "data"), *more]
    return guard(lambda: prepare_librispeech.main([*arguments, "--sets", *sets]))


@pytest.mark.parametrize(
    ("budget", "places"),
    [("10min", [0]), ("10min-4", [4]), ("1h", range(6)), ("10h", range(7))],
)
def test_budgets(corpora: Path, tmp_path: Path, budget: str, places: list[int]) -> None:
    output = tmp_path / "o"
    assert limited(corpora, budget, output) == 0
    cuts = list(load_cuts(output / "train.jsonl.gz"))
    people = {str(10 * place + half) for place in places for half in (0, 1)}
    assert {speaker(cut) for cut in cuts} == people
    assert len(cuts) == sum(2 * (3 if FOLDERS[place] == "9h" else 1) for place in places)
    for cut in cuts:
        person, _, number = cut.id.split("-")
        assert transcript(cut) == f"SPEAKER {person} SAYS {int(number)}"
        assert cut.duration == 0.5
    assert main(["validate", str(output), "--transcribed", "train"]) == 0


def test_the_folder_itself_will_do_and_nothing_is_done_twice(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert limited(corpora / "librispeech_finetuning", "1h", tmp_path / "o") == 0
    assert limited(corpora / "librispeech_finetuning", "1h", tmp_path / "o") == 0
    assert "skipped" in capsys.readouterr().out
    assert limited(corpora / "librispeech_finetuning", "10min", tmp_path / "o") == 0
    assert len(load_cuts(tmp_path / "o" / "train.jsonl.gz")) == 2


def test_a_budget_is_a_part_of_librispeech(corpora: Path) -> None:
    assert librispeech(corpora, "train=10h", "dev=dev-clean", "large=100h") == 0
    data = corpora.parent / "data"
    assert len(load_cuts(data / "train.jsonl.gz")) == 18
    assert {speaker(cut) for cut in load_cuts(data / "large.jsonl.gz")} == {"100"}
    assert main(["validate", str(data), "--disjoint-speakers", "train,dev"]) == 0


def test_what_is_missing_is_named(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = corpora / "librispeech_finetuning"
    assert librispeech(corpora, "train=960h") == 65
    assert "download train-clean-360.tar.gz" in capsys.readouterr().err
    (folder / "1h/3/clean/30/7/30-7.trans.txt").write_text("")
    shutil.copytree(folder / "1h/2/clean/20", folder / "1h/5/clean/20")
    assert limited(corpora, "1h", tmp_path / "o") == 65
    error = capsys.readouterr().err
    assert "30-7-0000.flac: no text" in error
    assert "20-7-0000 is there twice" in error
    shutil.rmtree(folder / "9h")
    assert limited(corpora, "10h", tmp_path / "o") == 65
    assert "9h: no audio of budget 10h" in capsys.readouterr().err
    shutil.rmtree(folder)
    for more in ((), ("--check",)):
        assert librispeech(corpora, "train=10min", more=more) == 65
        assert "download https://" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert limited(corpora, "2h", tmp_path / "o") == 2
