"""Score separated streams: word error rates by overlap condition, and SI-SDR.

--hypothesis is a folder of `decode`: of the streams, or of the pieces that `emit --pieces` made of
them. Without --streams the recordings themselves were recognised: the unprocessed system.
Utterance-wise, each utterance takes the better stream; continuous input is scored as a whole, with
ORC-WER and cpWER by meeteval. Where the cuts name references, SI-SDR is measured, utterance by
utterance in the better stream. Writes `utterances.tsv`, `signals.tsv`, utterance-wise also
`alignments.txt`, and last `metrics.json`. An --output that ends with <system>/<set>/<evaluation>
names the system and the set.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unispeech.commands import _stream_scores
from unispeech.commands._scoring import read_text
from unispeech.commands._stream_scores import Row
from unispeech.decode.results import read_json
from unispeech.errors import UsageError
from unispeech.score.multi_stream import EVALUATIONS, format_line
from unispeech.score.wer import format_alignments
from unispeech.storage import sha256, write_json, write_text

STREAMS = "streams.jsonl.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--reference", required=True, type=Path, metavar="CUTS")
    parser.add_argument("--hypothesis", required=True, type=Path, metavar="DIR", help="from decode")
    parser.add_argument("--streams", type=Path, metavar="DIR", help="from separate")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--evaluation", choices=list(EVALUATIONS), default="utterance")
    parser.add_argument("--system", help="name in results (from --output, else --streams)")
    parser.add_argument("--condition", help="name of the set in results (likewise)")
    parser.add_argument("--fold-case", action="store_true", help="letter case does not matter")
    parser.add_argument("--quality", action="store_true", help="also PESQ and STOI; slow")
    parser.add_argument(
        "--allow-missing", action="store_true", help="count what was not recognised as empty"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap draws (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")


def run(args: argparse.Namespace) -> None:
    """Score one system on one set."""
    if args.resamples < 1:
        raise UsageError("--resamples must be at least 1", found=args.resamples)
    inputs = _inputs(args)
    done = args.output / "metrics.json"
    stored = read_json(done)
    if stored.get("inputs") == inputs:
        print(f"{stored['line']}  (already scored, skipped)")
        return

    # Imported only now: skipping what is there takes no time.
    from unispeech.commands._stream_signals import signals
    from unispeech.data.manifests import load_cuts
    from unispeech.data.stream_pieces import read_streams, texts_of_streams

    heard = read_text(args.hypothesis)
    cuts = list(load_cuts(args.reference))
    streams = read_streams(args.streams) if args.streams else None
    rest = (args.hypothesis, args.allow_missing)
    texts = texts_of_streams(cuts, streams, heard, *rest)
    score = getattr(_stream_scores, "utterance_wise" if _is_short(args) else "continuous")
    scored = score(cuts, texts, args)
    measured = signals(cuts, streams, args.quality)
    metrics = {**_stream_scores.summary(scored, measured, args), **_about(args)}
    metrics["exact"] = all(row.get("exact", True) for row in scored.rows)
    line = format_line(metrics)
    done.unlink(missing_ok=True)
    _write_tables(args, scored.rows, measured)
    if scored.words is not None:
        write_text(args.output / "alignments.txt", format_alignments(scored.words))
    write_json(done, {**metrics, "line": line, "inputs": inputs})
    print(line)


def _is_short(args: argparse.Namespace) -> bool:
    return bool(args.evaluation == "utterance")


def _write_tables(args: argparse.Namespace, scored: list[Row], measured: list[Row]) -> None:
    counts = ("insertions", "deletions", "substitutions", "words")
    about = ["recording", "utterance", "condition"]
    names = [*about, *(["stream"] if _is_short(args) else []), *counts]
    rows = [{**row, **row["counts"]._asdict()} for row in scored]
    write_text(args.output / "utterances.tsv", _table(names, rows))
    names = [*about, "stream", "si_sdr", "si_sdr_improvement"]
    names += ["pesq", "stoi"] if args.quality else []
    write_text(args.output / "signals.tsv", _table(names, measured))


def _table(names: list[str], rows: list[Row]) -> str:
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _about(args: argparse.Namespace) -> dict[str, Any]:
    """What was scored, and how it came about."""
    how = read_json(args.streams / "separate.json") if args.streams else {}
    place = args.output.absolute()
    # Experiments keep scores in <system>/<set>/<evaluation>.
    is_kept = place.name == args.evaluation
    system = args.streams.absolute().name if args.streams else "unprocessed"
    known = place.parent.name if is_kept else args.reference.name.partition(".")[0]
    method = str(how.get("method") or "none") + (", oracle" if how.get("oracle") else "")
    found = {"condition": args.condition or known, "method": method}
    found |= {"system": args.system or (place.parent.parent.name if is_kept else system)}
    found |= {"evaluation": args.evaluation, "model_sha256": how.get("model_sha256")}
    found |= {"decoding": read_json(args.hypothesis / "decode.json")}
    places = {key: getattr(args, key) for key in ("reference", "hypothesis", "streams")}
    return {**found, **{key: str(path) if path else None for key, path in places.items()}}


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    files = {
        "reference": args.reference,
        "hypothesis": args.hypothesis / "text",
        "streams": args.streams / STREAMS if args.streams else None,
    }
    given: dict[str, Any] = {
        f"{name}_sha256": sha256(path) if path and path.is_file() else None
        for name, path in files.items()
    }
    if args.streams and (args.streams / "separate.json").is_file():
        given["separate_sha256"] = sha256(args.streams / "separate.json")
    names = ("evaluation", "system", "condition", "fold_case", "quality", "allow_missing")
    return {**given, **{name: getattr(args, name) for name in (*names, "resamples", "seed")}}
