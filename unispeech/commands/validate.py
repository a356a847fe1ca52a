"""Check manifests, audio, transcripts and labels; report every problem at once.

PATHS are manifests (`<set>.jsonl.gz`) or folders of them. Always checked: that manifests can be
read, ids are unique and train, dev and test share none, audio is there, 16 kHz, mono, as long as
the manifest says, decodes to the end and holds finite samples that are not all zero, and
supervisions lie in their cuts. Nothing is changed. Problems are printed one per line, exit 65.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from unispeech.data.checks import Rules, check, find_manifests, summary
from unispeech.errors import DataProblems, UsageError, nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATHS")
    parser.add_argument(
        "--read-audio",
        choices=("true", "false"),
        default="true",
        help="decode all samples, not only the headers (default true)",
    )
    parser.add_argument(
        "--tokens", type=Path, metavar="FILE", help="tokens.txt that transcripts must fit"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="frame labels to check against the manifests; may be repeated",
    )
    parser.add_argument("--min-duration", type=float, default=0.0, metavar="S", help="seconds")
    parser.add_argument(
        "--max-duration", type=float, default=float("inf"), metavar="S", help="seconds"
    )
    parser.add_argument(
        "--transcribed",
        default="",
        metavar="SETS",
        help="sets whose utterances all need a transcript, e.g. train,dev,test",
    )
    parser.add_argument(
        "--disjoint-speakers",
        default="",
        metavar="SETS",
        help="sets that must not share speakers, e.g. train,dev,test (otherwise a warning)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that read audio (default %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Check everything and print a table of the sets.

    Raises:
        UsageError: an option names a set that is not there.
        DataProblems: anything is wrong.
    """
    if args.jobs < 1:
        raise UsageError("--jobs must be at least 1", found=args.jobs)
    manifests = find_manifests(args.paths)
    rules = Rules(
        read_audio=args.read_audio == "true",
        tokens=args.tokens,
        labels=tuple(args.labels),
        min_duration=args.min_duration,
        max_duration=args.max_duration,
        transcribed=_names(args.transcribed, "--transcribed", manifests),
        disjoint_speakers=_names(args.disjoint_speakers, "--disjoint-speakers", manifests),
        jobs=args.jobs,
    )
    findings = check(manifests, rules)
    for warning in findings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if findings.problems:
        count = len(findings.problems)
        raise DataProblems(
            f"{count} problem{'' if count == 1 else 's'} in {len(manifests)} set(s)",
            findings.problems,
        )
    print(summary(findings.sets))


def _names(text: str, option: str, manifests: Mapping[str, Path]) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in manifests:
            raise UsageError(
                f"{option}: no set '{name}'{nearest(name, manifests)}",
                expected=f"some of {', '.join(manifests)}",
            )
    return names
