"""Diarization error rate (DER), Jaccard error rate (JER) and speaker counts of an RTTM.

DER is md-eval's (version 22), JER dscore's. Prints one line with miss, false alarm and confusion,
the collar and whether overlaps are scored, and the rate of the recordings of each number of
speakers. Writes `recordings.jsonl`, each recording with its errors and who was taken for whom, and
last `metrics.json`, with 95 % bootstrap intervals over recordings. Recordings that the hypothesis
does not have are missed, those that the reference does not have are not scored; both are named.
--compare gives the difference to another system and its interval.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from unispeech.commands import _der
from unispeech.commands._scores import stored_line
from unispeech.data.rttm import read_uem, read_unscored
from unispeech.errors import DataError, UsageError
from unispeech.score.diarization import COLLAR, repeated_speech, score
from unispeech.score.diarization_summary import compare, summary
from unispeech.storage import sha256, write_json

PLACES = ("system", "condition", "method")
"""What the folders of an --output EXP/der/<system>/<set>/<method> are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--reference", type=Path, required=True, metavar="RTTM")
    parser.add_argument("--hypothesis", type=Path, required=True, nargs="+", metavar="RTTM")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--uem", type=Path, metavar="UEM",
        help="regions to evaluate (from the first to the last time of each reference)",
    )  # fmt: skip
    parser.add_argument(
        "--collar", type=float, default=COLLAR,
        help=f"seconds before and as many after each boundary that are not scored ({COLLAR})",
    )  # fmt: skip
    parser.add_argument(
        "--overlap", choices=("true", "false"), default="true",
        help="false: score only where at most one speaker of the reference speaks (true)",
    )  # fmt: skip
    parser.add_argument("--compare", type=Path, metavar="DIR", help="another system's --output")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap draws (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    for name in PLACES:
        parser.add_argument(f"--{name}", help="its name in results (that of a folder of --output)")


def run(args: argparse.Namespace) -> None:
    """Score one system on one set."""
    if args.resamples < 1:
        raise UsageError("--resamples must be at least 1", found=args.resamples)
    inputs = _inputs(args)
    line = stored_line(args.output, inputs)
    if line:
        print(f"{line}  (already scored, skipped)")
    else:
        print(_score(args, inputs))
    if args.compare:
        _compare(args)


def _score(args: argparse.Namespace, inputs: dict[str, Any]) -> str:
    reference = _der.read_segments([args.reference], keep_empty=True)
    hypothesis = _der.read_segments(args.hypothesis)
    _der.require_common(reference, hypothesis, args.reference, args.hypothesis)
    regions = read_uem(args.uem) if args.uem else {}
    unscored = read_unscored(args.reference)
    rules = (regions, args.collar, args.overlap == "true", unscored)
    found = score(reference, hypothesis, *rules)
    for path, side in ((args.reference, reference), (args.hypothesis[0], hypothesis)):
        number = sum(repeated_speech(own) for own in side.values())
        if number:
            what = "segment(s) overlap another of the same speaker, who is counted once"
            print(f"warning: {path}: {number} {what}", file=sys.stderr)
    for what, names in (
        ("not in the hypothesis, all of their speech is missed", found.missing),
        ("not in the reference, not scored", found.unknown),
    ):
        if names:
            shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            print(f"warning: {len(names)} recording(s) {what}: {shown}", file=sys.stderr)
    values = summary(list(found.recordings.values()), args.resamples, args.seed)
    _der.require_scored(values, args.reference)
    about: dict[str, Any] = {"collar": args.collar, "overlap": args.overlap == "true"}
    about |= {"missing": found.missing, "unknown": found.unknown}
    about |= {name: getattr(args, name) or own for name, own in _places(args).items()}
    (args.output / "metrics.json").unlink(missing_ok=True)
    sides: _der.Sides = {"reference": reference, "hypothesis": hypothesis, "regions": regions}
    _der.write_recordings(args.output, found.recordings, sides)
    line = _der.format_line(values, about)
    write_json(args.output / "metrics.json", {**values, **about, "line": line, "inputs": inputs})
    return line


def _compare(args: argparse.Namespace) -> None:
    sides = [_der.read_recordings(folder) for folder in (args.compare, args.output)]
    counts = sorted({one.speakers for one in sides[0].values()})
    shown = {"all": None, **{f"{number} speaker(s)": number for number in counts}}
    results = {}
    for title, number in shown.items():
        parts = [
            {k: r for k, r in side.items() if number is None or r.speakers == number}
            for side in sides
        ]
        # One recording says nothing of how others would be.
        if len(parts[0]) < 2 or sum(one.errors.scored for one in parts[0].values()) <= 0:
            continue
        one = compare(parts[0], parts[1], args.resamples, args.seed)
        results[title] = {"recordings": len(parts[0]), **one._asdict()}
        low, high = (f"{100 * value:+.2f}" for value in (one.low, one.high))
        print(
            f"{title}: {100 * one.difference:+.2f} points of DER to {args.compare}, "
            f"95% [{low}, {high}], better in {100 * one.probability_of_improvement:.1f}% of draws"
        )
    if not results:
        raise DataError("fewer than two recordings to compare", where=args.compare)
    about = {"with": str(args.compare), "resamples": args.resamples, "seed": args.seed}
    write_json(args.output / "comparison.json", {**about, **results})


def _places(args: argparse.Namespace) -> dict[str, str]:
    """Names of the results; outside of an experiment, those of the files."""
    names = args.output.absolute().parts[-4:]
    if names[0] != "der":
        names = ("", args.hypothesis[0].stem, args.reference.stem, "")
    return dict(zip(PLACES, names[1:], strict=False))


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    paths = {"reference": [args.reference], "hypothesis": args.hypothesis}
    paths["uem"] = [args.uem] if args.uem else []
    given: dict[str, Any] = {
        f"{name}_sha256": [sha256(path) if path.is_file() else None for path in some]
        for name, some in paths.items()
    }
    names = ("collar", "overlap", "resamples", "seed", *PLACES)
    return {**given, **{name: getattr(args, name) for name in names}}
