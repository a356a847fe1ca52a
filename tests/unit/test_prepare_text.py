"""Text for language models: transcripts, other sentences, WordNet's examples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NOUN = """\
  1 This software and database is being provided to you, the LICENSEE, by
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived
02084071 05 n 01 dog 0 001 @ 02083346 n 0000 | a domestic animal; "the dog barked all night"
"""
VERB = """\
01140794 33 v 01 play 0 000 02 + 02 00 | engage in games; "We played hockey, all afternoon!"; \
"the dog plays"; "play"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, text in {"noun": NOUN, "verb": VERB, "adj": "", "adv": ""}.items():
        (tmp_path / f"data.{part}").write_text(text)
    (tmp_path / "text").write_text("THE DOG PLAYED ALL NIGHT\nWE DIDN'T\n")
    return tmp_path


def prepare(repo: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["--transcripts", str(folder / "text"), "--output", str(folder / "lm.txt"), *more]
    command = [sys.executable, str(repo / "local/prepare_text.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_transcripts_and_sentences_of_known_words(repo: Path, folder: Path) -> None:
    other = folder / "other"
    other.write_text("“We didn’t play all night.”\nno word of these\nThe dog played all night\n")
    more = ["--wordnet", str(folder), "--text", str(other), "--copies", "2", "--unknown", "0.25"]
    assert prepare(repo, folder, *more).returncode == 0
    assert (folder / "lm.txt").read_text().splitlines() == [
        "THE DOG PLAYED ALL NIGHT",
        "WE DIDN'T",
        "THE DOG PLAYED ALL NIGHT",
        "WE DIDN'T",
        "WE DIDN'T PLAY ALL NIGHT",  # PLAY is one of five
        "THE DOG PLAYED ALL NIGHT",
        "THE DOG BARKED ALL NIGHT",  # BARKED is one of five
    ]


def test_more_unknown_words_may_be_allowed(repo: Path, folder: Path) -> None:
    assert prepare(repo, folder, "--wordnet", str(folder), "--unknown", "1").returncode == 0
    lines = (folder / "lm.txt").read_text().splitlines()
    assert "WE PLAYED HOCKEY ALL AFTERNOON" in lines
    assert "THE DOG PLAYS" in lines
    assert "PLAY" not in lines


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--wordnet", "nowhere"], 65, "not WordNet"),
        (["--text", "nowhere"], 65, "cannot read the text"),
        (["--copies", "0"], 2, "--copies must be at least 1"),
        (["--unknown", "2"], 2, "--unknown must be between 0 and 1"),
        (["--copys", "2"], 2, "unrecognized arguments"),
    ],
)
def test_wrong_input(repo: Path, folder: Path, more: list[str], code: int, words: str) -> None:
    result = prepare(repo, folder, *more)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "lm.txt").exists()
