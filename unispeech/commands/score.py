"""Word or phone error rate of decoded sets, with alignments and a bootstrap interval.

Reads `text` of every --hypothesis folder, writes `wer.json` (`per.json`, when phones were decoded)
and `alignments.txt` beside it and prints one line. --compare gives the difference to another system
on the same utterances, with its interval, and writes `comparison.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Literal

from unispeech.decode.results import read_json
from unispeech.errors import DataError, UsageError
from unispeech.score.wer import WordErrors, cer, compare, format_alignments, format_line, wer
from unispeech.storage import sha256, write_json, write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--reference", required=True, metavar="CUTS", help="manifest of the set")
    parser.add_argument("--hypothesis", required=True, nargs="+", metavar="DIR", help="from decode")
    parser.add_argument("--compare", metavar="DIR", help="the system to compare each one with")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap draws (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument(
        "--allow-missing", action="store_true", help="count utterances without hypothesis as empty"
    )


def run(args: argparse.Namespace) -> None:
    """Score one or more systems on one set."""
    if args.resamples < 1:
        raise UsageError("--resamples must be at least 1", found=args.resamples)
    folders = [Path(folder) for folder in args.hypothesis]
    lines = [_stored(folder, _inputs(args, folder)) for folder in folders]
    if all(lines) and not args.compare:
        for line in lines:
            print(f"{line}  (already scored, skipped)")
        return

    # Imported only now: skipping what is there takes no time.
    from unispeech.data.manifests import load_cuts, speaker, target

    cuts = list(load_cuts(args.reference))
    speakers = {cut.id: speaker(cut) for cut in cuts if speaker(cut)}
    for folder in folders:
        units = _units(folder)
        references = {cut.id: target(cut, units) for cut in cuts}
        if not any(references.values()):
            what = "phones" if units == "phones" else "a transcript"
            remedy = "score a set whose supervisions carry them"
            raise DataError(f"no utterance has {what}", where=args.reference, remedy=remedy)
        _score(args, folder, references, speakers)
        if args.compare and folder.resolve() != Path(args.compare).resolve():
            _compare(args, folder, Path(args.compare), references)


def _score(
    args: argparse.Namespace, folder: Path, references: dict[str, str], speakers: dict[str, str]
) -> None:
    hypotheses = _read_text(folder)
    inputs = _inputs(args, folder)
    done = _stored(folder, inputs)
    if done:
        print(f"{done}  (already scored, skipped)")
        return
    (folder / _result(folder)).unlink(missing_ok=True)
    settings = (args.resamples, args.seed, args.allow_missing)
    words = wer(references, hypotheses, speakers, *settings)
    write_text(folder / "alignments.txt", format_alignments(words))
    if _units(folder) == "phones":
        line = format_line(words, _name(folder), "PER")
        found = words.summary("PER", "phones")
    else:
        line = format_line(words, _name(folder))
        characters = cer(references, hypotheses, None, *settings)
        found = {**words.summary(), "cer": characters.summary()["wer"]}
    write_json(folder / _result(folder), {**found, "line": line, **inputs})
    print(line)


def _units(folder: Path) -> Literal["letters", "phones"]:
    return "phones" if read_json(folder / "decode.json").get("units") == "phones" else "letters"


def _result(folder: Path) -> str:
    return "per.json" if _units(folder) == "phones" else "wer.json"


def _inputs(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    def digest(path: Path) -> str | None:
        return sha256(path) if path.is_file() else None

    return {
        "hypothesis_sha256": digest(folder / "text"),
        "reference_sha256": digest(Path(args.reference)),
        "allow_missing": args.allow_missing,
        "resamples": args.resamples,
        "seed": args.seed,
    }


def _compare(
    args: argparse.Namespace, folder: Path, other: Path, references: dict[str, str]
) -> None:
    def scored(place: Path) -> WordErrors:
        text = _read_text(place)
        return wer(references, text, resamples=0, allow_missing=args.allow_missing)

    result = compare(scored(other), scored(folder), args.resamples, args.seed)
    about = {"with": str(other), **result._asdict(), "resamples": args.resamples, "seed": args.seed}
    write_json(folder / "comparison.json", about)
    print(
        f"{_name(folder)} - {_name(other)}: {result.difference:+.2f} points, "
        f"95% [{result.low:+.2f}, {result.high:+.2f}], "
        f"better in {100 * result.probability_of_improvement:.1f}% of draws"
    )


def _stored(folder: Path, inputs: dict[str, object]) -> str | None:
    if not (folder / "alignments.txt").is_file():
        return None
    try:
        done = json.loads((folder / _result(folder)).read_text(encoding="utf-8"))
        return str(done["line"]) if all(done.get(k) == v for k, v in inputs.items()) else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _read_text(folder: Path) -> dict[str, str]:
    path = folder / "text"
    if not path.is_file():
        raise DataError("no decoded text", where=path, remedy="run decode with this --output")
    texts: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, words = line.partition(" ")
        if not name or name in texts:
            what = "the utterance is there twice" if name else "a line without utterance id"
            raise DataError(what, where=f"{path}:{number}", remedy="run decode again")
        texts[name] = words
    return texts


def _name(folder: Path) -> str:
    """The set and the method of EXP/infer/<system>/<set>/<method>."""
    return " ".join(folder.absolute().parts[-2:])
