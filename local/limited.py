"""Libri-Light's limited supervision: 10 minutes, 1 hour or 10 hours of LibriSpeech, transcribed.

The folder `librispeech_finetuning` of https://github.com/facebookresearch/libri-light holds
1h/{0..5}/{clean,other}/SPEAKER/CHAPTER/*.flac, six times ten minutes, and 9h/{clean,other}/...,
with a *.trans.txt beside the files. lhotse has no recipe for it. Ids, speakers and texts are those
of LibriSpeech, which the files were taken from.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lhotse import MonoCut
from sets import make_cut, make_recording

from unispeech.errors import DataError, DataProblems

ADDRESS = "https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz"
FOLDER = "librispeech_finetuning"
FOLDS = tuple(f"1h/{number}" for number in range(6))
BUDGETS: dict[str, tuple[str, ...]] = {
    # fairseq and the papers take the first of the six where they say ten minutes.
    "10min": FOLDS[:1],
    **{f"10min-{number}": (fold,) for number, fold in enumerate(FOLDS)},
    "1h": FOLDS,
    "10h": (*FOLDS, "9h"),
}
"""Folders of every budget; `10min-3` is one of the six."""

# Problems that are printed; a folder without transcripts has thousands.
SHOWN = 20


def find_limited(corpora: Path) -> Path:
    """The folder `librispeech_finetuning`: CORPORA itself, or inside it.

    Raises:
        DataError: there is none.
    """
    for folder in (corpora / FOLDER, corpora / "LibriSpeech" / FOLDER, corpora):
        if (folder / FOLDS[0]).is_dir():
            return folder.resolve()
    raise DataError(
        "Libri-Light's limited supervision is missing",
        where=corpora,
        expected=f"{FOLDER}/1h/0/clean/SPEAKER/CHAPTER/*.flac",
        remedy=f"download {ADDRESS} and unpack it there",
    )


def check_limited(folder: Path, budget: str) -> list[Path]:
    """The folders of a budget.

    Raises:
        DataError: one is missing or empty.
    """
    found = [folder / name for name in BUDGETS[budget]]
    for part in found:
        if not any(part.rglob("*.flac")):
            raise DataError(
                f"no audio of budget {budget}",
                where=part,
                expected="{clean,other}/SPEAKER/CHAPTER/*.flac",
                remedy=f"unpack {ADDRESS} again",
            )
    return found


def read_limited(folder: Path, budget: str) -> list[MonoCut]:
    """The utterances of a budget.

    Raises:
        DataError: a file is missing, damaged or of the wrong format.
        DataProblems: utterances have no text, or are there twice.
    """
    files = sorted(f for part in check_limited(folder, budget) for f in part.rglob("*.flac"))
    texts: dict[Path, dict[str, str]] = {}
    for chapter in {file.parent for file in files}:
        lines = [
            line.split(maxsplit=1)
            for trans in sorted(chapter.glob("*.trans.txt"))
            for line in trans.read_text(encoding="utf-8").splitlines()
        ]
        texts[chapter] = {line[0]: line[1] for line in lines if len(line) == 2}
    problems = [f"{f}: no text in *.trans.txt" for f in files if f.stem not in texts[f.parent]]
    counts = Counter(file.stem for file in files)
    problems += [f"{name} is there twice" for name, count in counts.items() if count > 1]
    if problems:
        more = [f"and {len(problems) - SHOWN} more of these"] if len(problems) > SHOWN else []
        raise DataProblems(f"{len(problems)} problem(s) in {folder}", problems[:SHOWN] + more)
    return [_cut(file, texts[file.parent][file.stem]) for file in files]


def _cut(file: Path, text: str) -> MonoCut:
    recording = make_recording(file.stem, file)
    return make_cut(recording, file.stem, speaker=file.parts[-3], text=text)
