"""CALLHOME, the conversations of LDC2001S97: its files, its key and the published two parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from unispeech.data.rttm import Segment, parse_rttm
from unispeech.errors import DataError, DataProblems

CORPUS = "LDC2001S97"
KEY = "fullref.rttm"
KEY_ARCHIVE = "http://www.openslr.org/resources/10/sre2000-key.tar.gz"
PARTS = ("part1", "part2")


class Part(NamedTuple):
    """A part of the corpus: recordings and how many speakers the list says they have."""

    name: str
    where: Path
    speakers: dict[str, int | None]


def find_corpus(corpora: Path) -> Path:
    """The folder of LDC2001S97: `CORPORA/LDC2001S97`, or CORPORA when the files are there.

    Raises:
        DataError: no file of the corpus is there.
    """
    for folder in (corpora / CORPUS, corpora):
        if folder.is_dir() and next(folder.rglob("*.sph"), None):
            return folder
    raise DataError(
        "CALLHOME is missing",
        where=corpora,
        expected=f"{CORPUS}/**/iaaa.sph ...",
        remedy="copy the discs of LDC2001S97 there and give the folder to --corpora",
    )


def find_key(corpora: Path, corpus: Path) -> Path:
    """The RTTM file of the whole corpus, which is published apart from the audio.

    Raises:
        DataError: it is not there.
    """
    places = [f / name for f in (corpora, corpus) for name in (f"sre2000-key/{KEY}", KEY)]
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        "the key of CALLHOME is missing",
        where=corpora,
        expected=f"sre2000-key/{KEY}",
        remedy=f"unpack {KEY_ARCHIVE} there",
    )


def read_parts(folder: Path) -> dict[str, Part]:
    """The two parts from `part1.txt` and `part2.txt` of a folder.

    A line is a recording and, if it is known, its number of speakers.

    Raises:
        DataError: a list is missing, empty or damaged, or a recording is listed twice.
    """
    parts: dict[str, Part] = {}
    seen: dict[str, str] = {}
    for name in PARTS:
        path = folder / f"{name}.txt"
        speakers: dict[str, int | None] = {}
        for number, line in enumerate(_read(path), start=1):
            fields = line.split()
            if not fields or line.startswith("#"):
                continue
            if len(fields) > 2 or (len(fields) == 2 and not fields[1].isdigit()):
                raise DataError(
                    "not a line of a list",
                    where=f"{path}:{number}",
                    expected="RECORDING [NUMBER OF SPEAKERS]",
                    found=line[:80],
                )
            if fields[0] in seen:
                raise DataError(
                    f"recording {fields[0]} is listed twice",
                    where=f"{path}:{number}",
                    found=f"also in {seen[fields[0]]}",
                    remedy="take it out of one of the lists",
                )
            seen[fields[0]] = f"{path.name}:{number}"
            speakers[fields[0]] = int(fields[1]) if len(fields) == 2 else None
        if not speakers:
            raise DataError("the list is empty", where=path)
        parts[name] = Part(name, path, speakers)
    return parts


def find_audio(corpus: Path, recordings: Sequence[str]) -> dict[str, Path]:
    """The file of each recording, wherever it lies below the corpus.

    Raises:
        DataError: some are missing: a result on fewer recordings would be another benchmark.
    """
    there = {path.stem.lower(): path for path in sorted(corpus.rglob("*.sph"))}
    if missing := [name for name in recordings if name not in there]:
        raise DataError(
            f"{len(missing)} of {len(recordings)} recordings are missing",
            where=corpus,
            found=", ".join(missing[:5]),
            remedy="copy all discs, or give lists without them",
        )
    return {name: there[name] for name in recordings}


def read_key(path: Path, parts: Mapping[str, Part]) -> dict[str, list[Segment]]:
    """Who speaks when in the recordings of the parts, speakers named after their recording.

    Recordings of the key that are in no part are left out; segments without length stay.

    Raises:
        DataError: the key is damaged.
        DataProblems: a recording is not in it, or has another number of speakers than its list
            says, one line each.
    """
    key, _ = parse_rttm(path, keep_empty=True)
    segments = {}
    problems = []
    for part in parts.values():
        for recording, expected in part.speakers.items():
            own = key.get(recording, [])
            found = len({segment.speaker for segment in own})
            if not own:
                problems.append(f"{path}: recording {recording} of {part.where} is not there")
            elif expected is not None and found != expected:
                problems.append(
                    f"{path}: recording {recording} has {found} speaker(s), {part.where} says "
                    f"{expected}"
                )
            # A speaker's name means something within its recording only.
            segments[recording] = [s._replace(speaker=f"{recording}_{s.speaker}") for s in own]
    if problems:
        raise DataProblems(f"{len(problems)} problem(s) in the key and the lists", problems)
    return segments


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "cannot read the list of a part",
            where=path,
            found=error.strerror if isinstance(error, OSError) else error,
            remedy="give the folder with part1.txt and part2.txt to --parts",
        ) from None
