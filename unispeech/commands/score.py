"""Word or phone error rate of decoded sets, with alignments and a bootstrap interval.

Reads `text` of every --hypothesis folder, writes `wer.json` (`per.json`, when phones were decoded)
with rates by speaker and by length and the commonest confusions, and `alignments.txt`, beside it
and prints one line. --compare gives the difference to another system on the same utterances, with
its interval and the matched-pair test of NIST (MAPSSWE), and writes `comparison.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from unispeech.commands._scoring import read_text, result_file, stored_line, title, units
from unispeech.errors import DataError, UsageError
from unispeech.score import breakdown
from unispeech.score.significance import MatchedPairs, mapsswe
from unispeech.score.wer import WordErrors, cer, compare, format_alignments, format_line, wer
from unispeech.storage import sha256, write_json, write_text

# What this command does to texts; what the preparation did to transcripts is said by the recipe.
NORMALISATION = "none: texts of the manifest as they are, split at blanks"


class Truth(NamedTuple):
    """What was said, by whom, and in how many seconds, by utterance."""

    texts: dict[str, str]
    speakers: dict[str, str]
    seconds: dict[str, float]


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
    parser.add_argument(
        "--normalisation",
        default=NORMALISATION,
        metavar="TEXT",
        help="how the recipe's transcripts were normalised; kept with the rate, applied to nothing",
    )


def run(args: argparse.Namespace) -> None:
    """Score one or more systems on one set."""
    if args.resamples < 1:
        raise UsageError("--resamples must be at least 1", found=args.resamples)
    folders = [Path(folder) for folder in args.hypothesis]
    lines = [stored_line(folder, _inputs(args, folder)) for folder in folders]
    if all(lines) and not args.compare:
        for line in lines:
            print(f"{line}  (already scored, skipped)")
        return

    # Imported only now: skipping what is there takes no time.
    from unispeech.data.manifests import load_cuts, speaker, target

    cuts = list(load_cuts(args.reference))
    speakers = {cut.id: speaker(cut) for cut in cuts if speaker(cut)}
    seconds = {cut.id: float(cut.duration) for cut in cuts}
    for folder in folders:
        kind = units(folder)
        texts = {cut.id: target(cut, kind) for cut in cuts}
        if not any(texts.values()):
            what = "phones" if kind == "phones" else "a transcript"
            remedy = "score a set whose supervisions carry them"
            raise DataError(f"no utterance has {what}", where=args.reference, remedy=remedy)
        _score(args, folder, Truth(texts, speakers, seconds))
        if args.compare and folder.resolve() != Path(args.compare).resolve():
            _compare(args, folder, Path(args.compare), texts)


def _score(args: argparse.Namespace, folder: Path, truth: Truth) -> None:
    hypotheses = read_text(folder)
    inputs = _inputs(args, folder)
    done = stored_line(folder, inputs)
    if done:
        print(f"{done}  (already scored, skipped)")
        return
    result_file(folder).unlink(missing_ok=True)
    settings = (args.resamples, args.seed, args.allow_missing)
    words = wer(truth.texts, hypotheses, truth.speakers, *settings)
    names = ("PER", "phones") if units(folder) == "phones" else ("WER", "words")
    line = format_line(words, title(folder), names[0])
    found = {**words.summary(*names), **breakdown.summary(words, truth.seconds, *names)}
    if names[0] == "WER":
        letters = cer(truth.texts, hypotheses, None, *settings).summary("CER", "characters")
        found |= {"cer": letters["cer"], "characters": letters["characters"]}
        found |= {"cer_low": letters["low"], "cer_high": letters["high"]}
    frequent = breakdown.format_confusions(breakdown.confusions(words))
    write_text(folder / "alignments.txt", format_alignments(words) + "\nconfusions\n" + frequent)
    write_json(result_file(folder), {**found, "line": line, **inputs})
    print(line)


def _inputs(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    def digest(path: Path) -> str | None:
        return sha256(path) if path.is_file() else None

    return {
        "hypothesis_sha256": digest(folder / "text"),
        "reference_sha256": digest(Path(args.reference)),
        "allow_missing": args.allow_missing,
        "resamples": args.resamples,
        "seed": args.seed,
        "normalisation": args.normalisation,
    }


def _compare(
    args: argparse.Namespace, folder: Path, other: Path, references: dict[str, str]
) -> None:
    def scored(place: Path) -> WordErrors:
        text = read_text(place)
        return wer(references, text, resamples=0, allow_missing=args.allow_missing)

    systems = (scored(other), scored(folder))
    result, pairs = compare(*systems, args.resamples, args.seed), mapsswe(*systems)
    about = {"with": str(other), **result._asdict(), "resamples": args.resamples, "seed": args.seed}
    write_json(folder / "comparison.json", {**about, "mapsswe": pairs._asdict()})
    both = title(folder), title(other)
    if both[0] == both[1]:
        both = title(folder, 3), title(other, 3)
    print(
        f"{both[0]} - {both[1]}: {result.difference:+.2f} points, "
        f"95% [{result.low:+.2f}, {result.high:+.2f}], "
        f"better in {100 * result.probability_of_improvement:.1f}% of draws, {_test(pairs)}"
    )


def _test(pairs: MatchedPairs) -> str:
    if pairs.p is None or pairs.z is None:
        return f"MAPSSWE not defined ({pairs.segments} segments without spread)"
    chance = f"p {pairs.p:.3f}" if pairs.p >= 0.001 else f"p {pairs.p:.1e}"
    return f"MAPSSWE {chance} (z {pairs.z:+.2f}, {pairs.segments} segments)"
