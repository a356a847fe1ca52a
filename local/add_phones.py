"""Give transcribed manifests the phones of a lexicon, for units that are phones.

Reads MANIFESTS/*.jsonl.gz and writes each again to OUTPUT, with the phones of an utterance,
separated by blanks, in the field `phones` of its supervision: the first pronunciation of every
word, and SPN where the lexicon has none, as Kaldi's recipes do. Sets without transcripts stay as
they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lhotse import MonoCut
from sets import fingerprint, finished, write_sets
from units import UNKNOWN_PHONE

from unispeech.__main__ import Parser, guard
from unispeech.data.checks import find_manifests
from unispeech.data.manifests import read_manifest, transcript
from unispeech.decode.graph import read_lexicon
from unispeech.errors import UsageError
from unispeech.storage import sha256


def add_phones(cut: MonoCut, first: Mapping[str, Sequence[str]]) -> int:
    """Give a cut its phones; returns the number of words that have none."""
    words = transcript(cut).split()
    if not words:
        return 0
    phones = [phone for word in words for phone in first.get(word, [UNKNOWN_PHONE])]
    (supervision,) = cut.supervisions
    supervision.custom = {**(supervision.custom or {}), "phones": " ".join(phones)}
    return sum(word not in first for word in words)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "add_phones.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--manifests", type=Path, required=True, metavar="DIR")
    parser.add_argument("--lexicon", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, help="EXP/data")
    args = parser.parse_args(argv)
    if args.output.resolve() == args.manifests.resolve():
        raise UsageError("--output and --manifests are the same folder", found=args.output)
    files = find_manifests([args.manifests])
    lexicon = read_lexicon(args.lexicon)
    hashes = {name: sha256(file) for name, file in files.items()}
    inputs = fingerprint([hashes, sha256(args.lexicon)], [])
    if finished(args.output, inputs):
        print(f"{args.output}: phones of the same manifests are there, skipped")
        return
    first: dict[str, tuple[str, ...]] = {}
    for word, phones in lexicon:
        first.setdefault(word, phones)
    sets = {name: read_manifest(file) for name, file in files.items()}
    for name, cuts in sets.items():
        unknown = sum(add_phones(cut, first) for cut in cuts)
        if unknown:
            print(f"{name}: {unknown} words are not in the lexicon, {UNKNOWN_PHONE}")
    write_sets(args.output, sets, inputs)


if __name__ == "__main__":
    sys.exit(guard(main))
