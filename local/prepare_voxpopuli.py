"""Turn unlabelled speech of VoxPopuli into one manifest of 2 to 30 s.

CORPORA is the folder that holds `raw_audios/LANGUAGE/YEAR/*.ogg` of
https://github.com/facebookresearch/voxpopuli. Sessions are cut at the segments of
`unlabelled_v2.tsv.gz`, which the corpus' own script downloads to `unlabelled_data/`; without it,
and with `--windows`, into equal pieces. lhotse's recipe reads transcribed VoxPopuli only.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lhotse import MonoCut
from lhotse.recipes.voxpopuli import DOWNLOAD_BASE_URL, LANGUAGES
from sets import (
    add_long_options,
    check_given,
    check_lengths,
    fingerprint,
    finished,
    make_cut,
    make_recording,
    pieces,
    write_long_set,
)

from unispeech.__main__ import Parser, guard
from unispeech.data.partition import Partition
from unispeech.errors import DataError

SEGMENTS = "unlabelled_v2.tsv.gz"
COLUMNS = ("event_id", "segment_no", "start", "end")

Stretches = Sequence[tuple[str, float, float]]
"""Number, start and end (seconds) of the segments of a session."""


def read_segments(file: Path, language: str, work: Path) -> Iterator[tuple[str, Stretches]]:
    """Sessions of a language and their segments, in random order.

    Args:
        file: the table of all languages.
        language: code of the language.
        work: folder for temporary files; the table need not be sorted.

    Raises:
        DataError: the table is damaged.
    """
    work.mkdir(parents=True, exist_ok=True)
    with Partition(work) as partition:
        try:
            with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream, delimiter="\t"):
                    event, *rest = (row[column] for column in COLUMNS)
                    if event.endswith(f"_{language}"):
                        partition.add(event, "\t".join(rest))
        except (OSError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                "not a table of segments",
                where=file,
                expected=f"columns {', '.join(COLUMNS)}",
                found=f"{type(error).__name__} {error}",
                remedy="download it again",
            ) from None
        for group in partition.groups():
            for event, rows in itertools.groupby(sorted(group), key=lambda row: row[0]):
                yield event, _parse(file, event, [line.split("\t") for _, line in rows])


def _parse(file: Path, event: str, rows: Sequence[Sequence[str]]) -> Stretches:
    try:
        stretches = [(number, float(start), float(end)) for number, start, end in rows]
    except ValueError as error:
        raise DataError(
            "wrong times", where=f"{file}, {event}", found=error, remedy="download it again"
        ) from None
    return sorted(stretches, key=lambda stretch: stretch[1])


def read_language(
    corpus: Path, segments: Path | None, language: str, work: Path, lengths: tuple[float, float]
) -> Iterator[MonoCut]:
    """The utterances of a language; a session counts as a speaker of its own.

    Args:
        corpus: folder with `raw_audios`.
        segments: the table of segments, or None for equal pieces.
        language: code of the language.
        work: folder for temporary files.
        lengths: shortest and longest utterance in seconds.
    """
    folder = corpus / "raw_audios" / language
    sessions: Iterator[tuple[str, Stretches | None]]
    if segments is None:
        sessions = ((file.stem, None) for file in sorted(folder.rglob("*.ogg")))
    else:
        sessions = read_segments(segments, language, work)
    absent = 0
    for event, stretches in sessions:
        file = folder / event[:4] / f"{event}.ogg"
        if not file.is_file():
            absent += 1
            continue
        recording = make_recording(event, file)
        for number, start, end in stretches or [("w", 0.0, recording.duration)]:
            inside = min(end, recording.duration)
            for part, (begin, duration) in enumerate(pieces(start, inside, *lengths)):
                name = f"{event}_{number}-{part}"
                yield make_cut(
                    recording, name, speaker=event, text="", language=language, start=begin,
                    duration=duration,
                )  # fmt: skip
    if absent:
        print(f"{folder}: no audio of {absent} sessions of the table")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifest."""
    parser = Parser(
        "prepare_voxpopuli.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_long_options(parser, "voxpopuli")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="default en")
    parser.add_argument("--windows", action="store_true", help="equal pieces, no table")
    args = parser.parse_args(argv)
    check_given(args.corpora)
    check_lengths(args)
    corpus = args.corpora.resolve()
    folder = corpus / "raw_audios" / args.language
    if not any(folder.glob("*/*.ogg")):
        raise DataError(
            f"no audio of language {args.language}",
            where=folder,
            expected="YEAR/*.ogg",
            remedy=f"download {DOWNLOAD_BASE_URL}/audios/{args.language}_YEAR.tar and _YEAR_2.tar"
            " and unpack them in raw_audios",
        )
    segments = None if args.windows else corpus / "unlabelled_data" / SEGMENTS
    if segments is not None and not segments.is_file():
        raise DataError(
            "no table of segments",
            where=segments,
            remedy=f"download {DOWNLOAD_BASE_URL}/annotations/{SEGMENTS} there, or add --windows",
        )
    lengths = (args.min_seconds, args.max_seconds)
    settings = {"name": args.name, "language": args.language, "lengths": lengths}
    inputs = fingerprint(settings, [folder], [segments] if segments else [])
    if finished(args.output, inputs):
        print(f"{args.output}: a manifest of the same inputs is there, skipped")
        return
    cuts = read_language(corpus, segments, args.language, args.output, lengths)
    write_long_set(args.output, args.name, cuts, inputs)


if __name__ == "__main__":
    sys.exit(guard(main))
