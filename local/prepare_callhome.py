"""Turn CALLHOME (LDC2001S97) in its native layout into manifests of conversations.

CORPORA holds LDC2001S97 with its SPHERE files at any depth, and sre2000-key/fullref.rttm, the key
that is published apart. PARTS has the recordings of both, part1.txt to adapt on and
part2.txt to test on; without it they are looked for in LDC2001S97/parts. The audio is written once,
as 16 kHz FLAC in AUDIO. Writes OUTPUT/{adapt,test}.jsonl.gz and .rttm; a speaker is called by
recording and name, because the names of two recordings have nothing to do with each other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from callhome import Part, find_audio, find_corpus, find_key, read_key, read_parts
from sets import check_given, fingerprint, finished, make_conversation, make_recording, write_sets
from telephone import decode_all

from unispeech.__main__ import Parser, guard
from unispeech.errors import DataProblems, UsageError

SETS = {"part1": "adapt", "part2": "test"}


def write(
    output: Path, corpora: Path, parts: dict[str, Part], audio: Path, jobs: int, inputs: str
) -> None:
    """Write the conversations of both parts, and their audio.

    Raises:
        DataError: recordings or the key are missing, or do not fit together.
        DataProblems: recordings that cannot be read or have impossible segments.
    """
    corpus = find_corpus(corpora)
    key = find_key(corpora, corpus)
    segments = read_key(key, parts)
    files = find_audio(corpus, list(segments))
    tasks = [(path, 0, audio / f"{name}.flac") for name, path in files.items()]
    problems = [reason for _, reason in decode_all(tasks, jobs) if reason]
    if problems:
        raise DataProblems(f"{len(problems)} recording(s) cannot be read", problems)
    sets, references = {}, {}
    for part in parts.values():
        name = SETS[part.name]
        references[name] = {recording: segments[recording] for recording in part.speakers}
        sets[name] = [
            make_conversation(make_recording(recording, audio / f"{recording}.flac"), own, key)
            for recording, own in references[name].items()
        ]
    write_sets(output, sets, inputs, references)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "prepare_callhome.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--parts", type=Path, help="folder of part1.txt and part2.txt")
    parser.add_argument("--audio", type=Path, required=True, help="folder of the FLAC files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("--jobs", type=int, default=4, help="processes that decode")
    parser.add_argument("--check", action="store_true", help="only look for the files")
    args = parser.parse_args(argv)
    check_given(args.corpora)
    if args.jobs < 1:
        raise UsageError("--jobs must be at least 1", found=args.jobs)
    corpora, audio = args.corpora.absolute(), args.audio.absolute()
    corpus = find_corpus(corpora)
    key = find_key(corpora, corpus)
    parts = read_parts(args.parts.absolute() if args.parts else corpus / "parts")
    find_audio(corpus, [name for part in parts.values() for name in part.speakers])
    if args.check:
        counts = " and ".join(str(len(part.speakers)) for part in parts.values())
        print(f"{corpora}: has CALLHOME, {counts} recordings in its two parts")
        return
    lists = [part.where for part in parts.values()]
    inputs = fingerprint(str(audio), [corpus], [key, *lists])
    if audio.is_dir() and finished(args.output, inputs):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    write(args.output, corpora, parts, audio, args.jobs, inputs)


if __name__ == "__main__":
    sys.exit(guard(main))
