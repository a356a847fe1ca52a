"""Turn Libri-Light, or some of its parts, into one manifest of 2 to 30 s for pre-training.

CORPORA is the folder that holds `small`, `medium` and `large` of
https://github.com/facebookresearch/libri-light, each PART/SPEAKER/BOOK/*.flac with a .json beside
every file. Chapters are cut at the pauses that the file's `voice_activity` lists; where there is no
.json they are cut into equal pieces.

With --limited, CORPORA holds `librispeech_finetuning` instead, and the transcribed 10 minutes,
1 hour or 10 hours of it are written, uncut.

Recordings, ids and speakers are those of lhotse's recipe. That recipe keeps every segment of a
part in memory and wants all three parts, so files are read here one at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lhotse import MonoCut
from lhotse.recipes.librilight import LIBRILIGHT, LIBRILIGHT_URL
from limited import BUDGETS, check_limited, find_limited, read_limited
from sets import (
    add_long_options,
    check_given,
    check_lengths,
    fingerprint,
    finished,
    join,
    make_cut,
    make_recording,
    pieces,
    write_long_set,
    write_sets,
)

from unispeech.__main__ import Parser, guard
from unispeech.errors import DataError, UsageError, nearest

PAUSE = 1.0  # seconds of silence inside an utterance; ours


def check_parts(corpus: Path, parts: Sequence[str]) -> None:
    """Raise an error that says what to download when a part is missing."""
    for part in parts:
        if part not in LIBRILIGHT:
            raise UsageError(f"--parts {part}{nearest(part, LIBRILIGHT)}", expected=LIBRILIGHT)
        if not any((corpus / part).glob("*/*/*.flac")):
            raise DataError(
                f"part {part} is missing",
                where=corpus,
                expected=f"{part}/SPEAKER/BOOK/*.flac",
                remedy=f"download {LIBRILIGHT_URL[LIBRILIGHT.index(part)]} and unpack it there",
            )


def speech(info: Path) -> tuple[str, list[tuple[float, float]]]:
    """Speaker and stretches of speech that the .json of a file lists.

    Raises:
        DataError: the file is damaged.
    """
    try:
        facts = json.loads(info.read_text(encoding="utf-8"))
        stretches = [(float(start), float(end)) for start, end in facts["voice_activity"]]
        return str(facts["speaker"]), sorted(stretches)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "not a description of Libri-Light",
            where=info,
            found=f"{type(error).__name__} {error}",
            remedy="unpack the part again",
        ) from None


def read_part(corpus: Path, part: str, shortest: float, longest: float) -> Iterator[MonoCut]:
    """The utterances of a part, file by file; lengths in seconds."""
    for file in sorted((corpus / part).rglob("*.flac")):
        name = str(file.relative_to(corpus).with_suffix(""))
        recording = make_recording(name, file)
        info = file.with_suffix(".json")
        speaker, stretches = file.parts[-3], [(0.0, recording.duration)]
        if info.is_file():
            speaker, stretches = speech(info)
        number = 0
        for start, end in join(stretches, longest, PAUSE):
            inside = min(end, recording.duration)
            for begin, duration in pieces(start, inside, shortest, longest):
                yield make_cut(
                    recording, f"{name}_{number}", speaker=speaker, text="", start=begin,
                    duration=duration,
                )  # fmt: skip
                number += 1


def prepare_limited(args: argparse.Namespace) -> None:
    """Write the manifest of one budget of limited supervision."""
    folder = find_limited(args.corpora)
    inputs = fingerprint([args.name, args.limited], check_limited(folder, args.limited))
    if finished(args.output, inputs):
        print(f"{args.output}: a manifest of the same inputs is there, skipped")
        return
    write_sets(args.output, {args.name: read_limited(folder, args.limited)}, inputs)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifest."""
    parser = Parser(
        "prepare_librilight.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_long_options(parser, "librilight")
    parser.add_argument("--parts", nargs="+", default=list(LIBRILIGHT), help="default: all three")
    parser.add_argument(
        "--limited", choices=list(BUDGETS), help="write this budget of transcribed speech instead"
    )
    args = parser.parse_args(argv)
    check_given(args.corpora)
    if args.limited:
        prepare_limited(args)
        return
    check_lengths(args)
    corpus = args.corpora.resolve()
    check_parts(corpus, args.parts)
    lengths = (args.min_seconds, args.max_seconds)
    settings = {"name": args.name, "parts": args.parts, "lengths": lengths, "pause": PAUSE}
    inputs = fingerprint(settings, [corpus / part for part in args.parts])
    if finished(args.output, inputs):
        print(f"{args.output}: a manifest of the same inputs is there, skipped")
        return
    cuts = (cut for part in args.parts for cut in read_part(corpus, part, *lengths))
    write_long_set(args.output, args.name, cuts, inputs)


if __name__ == "__main__":
    sys.exit(guard(main))
