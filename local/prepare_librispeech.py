"""Turn LibriSpeech, or any part of it in its native layout, into manifests.

CORPORA is the folder `LibriSpeech` of http://www.openslr.org/12 or the one that contains it;
a few speakers of a part are enough. A set is one or several parts:

  --sets pretrain=train-clean-100+train-other-500 train=train-clean-100 dev=dev-clean

writes OUTPUT/pretrain.jsonl.gz, OUTPUT/train.jsonl.gz and OUTPUT/dev.jsonl.gz. A budget is a part
too: 10min (or 10min-0 to 10min-5), 1h and 10h are Libri-Light's limited supervision, the folder
`librispeech_finetuning` beside LibriSpeech; 100h is train-clean-100, 960h all training parts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

from lhotse import MonoCut
from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH, prepare_librispeech
from limited import BUDGETS, check_limited, find_limited, read_limited
from sets import check_given, fingerprint, finished, make_cut, make_recording, write_sets

from unispeech.__main__ import Parser, guard
from unispeech.errors import DataError, DataProblems, UsageError, nearest

LANGUAGE = "English"
TRAIN = ("train-clean-100", "train-clean-360", "train-other-500")
# What fine-tuning budgets above Libri-Light's are made of.
LARGE_BUDGETS = {"100h": TRAIN[:1], "960h": TRAIN}
# Problems that are printed for a part; a whole part without transcripts has thousands.
SHOWN = 20


def find_corpus(corpora: Path) -> Path:
    """The folder that holds the parts.

    Raises:
        DataError: there is none.
    """
    for folder in (corpora / "LibriSpeech", corpora):
        if folder.is_dir() and _parts(folder):
            return folder.resolve()
    raise DataError(
        "no part of LibriSpeech is here",
        where=corpora,
        expected="LibriSpeech/<part>/<speaker>/<chapter>/*.flac",
        found=", ".join(sorted(p.name for p in corpora.glob("*"))[:8]) or "nothing",
        remedy="download e.g. train-clean-100.tar.gz, dev-clean.tar.gz and test-clean.tar.gz "
        "from http://www.openslr.org/12, unpack them there and give the folder to --corpora",
    )


def parse_sets(texts: Iterable[str]) -> dict[str, list[str]]:
    """`NAME=part+part` options as a dictionary; `part` alone is a set of that name.

    Raises:
        UsageError: an option does not look like that, or names a set twice.
    """
    sets: dict[str, list[str]] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        parts = (value if separator else name).split("+")
        if not all(parts) or name in ("", *sets):
            raise UsageError(f"--sets {text}", expected="NAME=part+part, each NAME once")
        sets[name] = [own for part in parts for own in LARGE_BUDGETS.get(part, (part,))]
    return sets


def check_parts(corpus: Path, parts: Iterable[str]) -> None:
    """Raise a `DataError` that says what to download when a part is missing."""
    here = _parts(corpus)
    for part in parts:
        if part in here:
            continue
        known = {*LIBRISPEECH, *MINI_LIBRISPEECH, *BUDGETS}
        page = 31 if part in MINI_LIBRISPEECH else 12
        remedy = f"download {part}.tar.gz from http://www.openslr.org/{page} and unpack it there"
        if part not in known:
            remedy = f"LibriSpeech has no part of that name{nearest(part, known)}"
        raise DataError(
            f"part {part} is missing", where=corpus, found=", ".join(here), remedy=remedy
        )


def find_folders(corpus: Path, corpora: Path, parts: Iterable[str]) -> dict[str, list[Path]]:
    """The folders of every part: of LibriSpeech one, of a budget of Libri-Light several.

    Raises:
        DataError: a part is missing; says what to download.
    """
    budgets = [part for part in parts if part in BUDGETS]
    others = [part for part in parts if part not in BUDGETS]
    check_parts(corpus, others)
    found = {part: [corpus / part] for part in others}
    return found | {part: check_limited(find_limited(corpora), part) for part in budgets}


def check_transcripts(folder: Path) -> None:
    """Raise `DataProblems` unless every FLAC file of a part has a line and every line a file."""
    problems = []
    for chapter in sorted({file.parent for file in folder.rglob("*.flac")}):
        name = "-".join(chapter.parts[-2:])
        trans = chapter / f"{name}.trans.txt"
        if not trans.is_file():
            problems.append(
                f"{trans}: no transcripts of this chapter; unpack the part again, or list the "
                "set in --untranscribed if only its audio is used"
            )
            continue
        lines = [line.split(maxsplit=1) for line in trans.read_text("utf-8").splitlines()]
        texts = {line[0]: line[1] for line in lines if len(line) == 2}
        files = {file.stem for file in chapter.glob("*.flac")}
        problems += [f"{trans}: {u}.flac has no text; restore the line" for u in files - set(texts)]
        problems += [
            f"{chapter}: {line[0]}.flac is missing; unpack the part again"
            for line in lines
            if line and line[0] not in files
        ]
    if problems:
        shown = sorted(problems)[:SHOWN]
        if len(problems) > SHOWN:
            shown.append(f"and {len(problems) - SHOWN} more of these")
        raise DataProblems(f"{len(problems)} problem(s) in {folder}", shown)


def read_part(folder: Path, transcribed: bool, jobs: int) -> list[MonoCut]:
    """All utterances of a part.

    Raises:
        DataError: a file is missing, damaged or of the wrong format, or a transcript is missing.
    """
    if not transcribed:
        return [
            make_cut(
                make_recording(file.stem, file),
                file.stem,
                speaker=file.parts[-3],
                text="",
                language=LANGUAGE,
            )
            for file in sorted(folder.rglob("*.flac"))
        ]
    check_transcripts(folder)
    for file in folder.rglob("*.flac"):
        make_recording(file.stem, file)
    manifests = prepare_librispeech(folder.parent, dataset_parts=folder.name, num_jobs=jobs)
    recordings = {r.id: r for r in manifests[folder.name]["recordings"]}
    return [
        make_cut(
            recordings[s.recording_id], s.id, speaker=s.speaker, text=s.text, language=LANGUAGE
        )
        for s in manifests[folder.name]["supervisions"]
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "prepare_librispeech.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="EXP/data")
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=PART+PART")
    parser.add_argument("--untranscribed", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=4, help="threads")
    parser.add_argument("--check", action="store_true", help="only look for the parts")
    args = parser.parse_args(argv)
    check_given(args.corpora)
    sets = parse_sets(args.sets)
    for name in args.untranscribed:
        if name not in sets:
            raise UsageError(f"--untranscribed {name} is not in --sets{nearest(name, sets)}")
    corpus = find_corpus(args.corpora)
    parts = sorted({part for own in sets.values() for part in own})
    folders = find_folders(corpus, args.corpora, parts)
    if args.check:
        print(f"{corpus}: has {', '.join(parts)}")
        return
    settings = {"sets": sets, "untranscribed": sorted(args.untranscribed)}
    inputs = fingerprint(settings, [folder for own in folders.values() for folder in own])
    if finished(args.output, inputs):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    read: dict[tuple[str, bool], list[MonoCut]] = {}
    for name, own in sets.items():
        for part in own:
            key = (part, name not in args.untranscribed)
            if key not in read and part in BUDGETS:
                read[key] = read_limited(find_limited(args.corpora), part)
            elif key not in read:
                read[key] = read_part(corpus / part, key[1], args.jobs)
    cuts = {
        name: [cut for part in own for cut in read[part, name not in args.untranscribed]]
        for name, own in sets.items()
    }
    write_sets(args.output, cuts, inputs)


def _parts(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and any(p.glob("*/*/*.flac")))


if __name__ == "__main__":
    sys.exit(guard(main))
