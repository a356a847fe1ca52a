"""Mix prepared sets into one manifest in random order, with a table of hours.

  --sources librilight=data/ll/librilight.jsonl.gz gigaspeech=data/gs/gigaspeech.jsonl.gz

gives OUTPUT/mix.jsonl.gz and OUTPUT/hours.tsv. The order is a shuffle of all utterances that
depends on `--seed` alone; `custom.source` of a cut is its source. Utterances pass through temporary
files beside the output, as large as the manifests without compression, so that memory does not
depend on their number.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sets import fingerprint, finished, write_record

from unispeech.__main__ import Parser, guard
from unispeech.data.manifests import manifest_lines, parse_cut, write_lines
from unispeech.data.partition import Partition
from unispeech.errors import DataError, UsageError
from unispeech.storage import sha256, write_text


def parse_sources(texts: Sequence[str]) -> dict[str, Path]:
    """`NAME=manifest` options as a dictionary.

    Raises:
        UsageError: an option does not look like that, or names a source twice.
    """
    sources: dict[str, Path] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value or name in sources:
            raise UsageError(f"--sources {text}", expected="NAME=manifest, each NAME once")
        sources[name] = Path(value)
    return sources


def collect(name: str, path: Path, partition: Partition) -> tuple[int, float]:
    """Put the utterances of a source into the partition; returns their number and seconds.

    Raises:
        DataError: the manifest is damaged.
    """
    count, seconds = 0, 0.0
    for count, line in enumerate(manifest_lines(path), start=1):
        cut = parse_cut(line, f"{path}:{count}")
        cut.custom = {**(cut.custom or {}), "source": name}
        partition.add(cut.id, json.dumps(cut.to_dict(), ensure_ascii=False))
        seconds += cut.duration
    return count, seconds


def shuffled(partition: Partition, sources: Mapping[str, Path]) -> Iterator[str]:
    """All lines in their random order.

    Raises:
        DataError: two utterances have the same id.
    """
    for group in partition.groups():
        last = None
        for utterance, line in group:
            if utterance == last:
                raise DataError(
                    f"utterance {utterance} is there twice",
                    where=", ".join(map(str, sources.values())),
                    remedy="utterance ids must be unique; prepare the manifests again",
                )
            last = utterance
            yield line + "\n"


def table(totals: Mapping[str, tuple[int, float]]) -> str:
    """Sources with utterances, hours and share of the hours, and their sums."""
    whole = (sum(n for n, _ in totals.values()), sum(s for _, s in totals.values()))
    rows = ["source\tutterances\thours\tshare"]
    for name, (count, seconds) in {**totals, "total": whole}.items():
        rows.append(f"{name}\t{count}\t{seconds / 3600:.3f}\t{seconds / whole[1]:.4f}")
    return "\n".join(rows) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the mix."""
    parser = Parser(
        "mix.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--sources", nargs="+", required=True, metavar="NAME=MANIFEST")
    parser.add_argument("--output", type=Path, required=True, help="folder of the mix")
    parser.add_argument("--seed", type=int, default=0, help="of the order (0)")
    args = parser.parse_args(argv)
    sources = parse_sources(args.sources)
    settings = {"sources": args.sources, "seed": args.seed}
    inputs = fingerprint(settings, [], [path for path in sources.values() if path.is_file()])
    if finished(args.output, inputs):
        print(f"{args.output}: a mix of the same inputs is there, skipped")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    manifest, hours = args.output / "mix.jsonl.gz", args.output / "hours.tsv"
    with Partition(args.output, args.seed) as partition:
        totals = {name: collect(name, path, partition) for name, path in sources.items()}
        write_lines(shuffled(partition, sources), manifest)
    text = table(totals)
    write_text(hours, text)
    write_record(args.output, {path.name: sha256(path) for path in (manifest, hours)}, inputs)
    print(text, end="")


if __name__ == "__main__":
    sys.exit(guard(main))
