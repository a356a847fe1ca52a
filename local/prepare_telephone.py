"""Turn Switchboard and NIST SRE corpora, in their native layouts, into manifests of call sides.

CORPORA holds some of the folders LDC98S75, LDC99S79, LDC2002S06 (Switchboard-2), LDC2001S13,
LDC2004S07 (Switchboard Cellular), LDC2006S44, LDC2011S01, LDC2011S04, LDC2011S09, LDC2011S10,
LDC2012S01, LDC2011S05 and LDC2011S08 (SRE 2004 to 2008, which need the file speaker_list). Every
channel is written once, as 16 kHz FLAC in AUDIO. A share of the speakers is kept for validation.
Writes OUTPUT/{train,dev}.jsonl.gz with one cut for each side of a call, to be cut into utterances
by segment_speech.py, and OUTPUT/dropped.tsv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lhotse import MonoCut
from sets import check_given, fingerprint, finished, make_cut, make_recording, write_sets
from telephone import SPEAKER_LIST, decode_all, find_corpora, in_share, sides

from unispeech.__main__ import Parser, guard
from unispeech.errors import UsageError
from unispeech.storage import write_text


def prepare(
    corpora: Path, audio: Path, dev_share: float, jobs: int
) -> tuple[dict[str, list[MonoCut]], list[tuple[str, str]]]:
    """The sides of training and validation speakers; and those that cannot be used, with why.

    Raises:
        DataError: there is no corpus, or a table is missing or damaged.
    """
    listed = list(sides(corpora))
    files = {audio / f"{side.id}.flac": side for side in listed}
    sets: dict[str, list[MonoCut]] = {"train": [], "dev": []}
    dropped = []
    held_out = in_share(dev_share)
    tasks = ((side.path, side.channel, flac) for flac, side in files.items())
    for flac, reason in decode_all(tasks, jobs):
        side = files[flac]
        if reason:
            dropped.append((side.id, reason))
            continue
        recording = make_recording(side.id, flac)
        cut = make_cut(recording, side.id, speaker=side.speaker, text="")
        sets["dev" if held_out(side.speaker) else "train"].append(cut)
    return sets, dropped


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "prepare_telephone.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--audio", type=Path, required=True, help="folder of the FLAC files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the manifests")
    parser.add_argument(
        "--dev-share", type=float, default=0.1, help="of the speakers, for validation (0.1)"
    )
    parser.add_argument("--jobs", type=int, default=4, help="processes that decode")
    parser.add_argument("--check", action="store_true", help="only look for the corpora")
    args = parser.parse_args(argv)
    check_given(args.corpora)
    if args.jobs < 1 or not 0 < args.dev_share < 1:
        raise UsageError("--jobs must be at least 1 and --dev-share between 0 and 1")
    corpora, audio = args.corpora.absolute(), args.audio.absolute()
    found = find_corpora(corpora)
    if args.check:
        print(f"{corpora}: has {', '.join(found)}")
        return
    files = [corpora / SPEAKER_LIST] if (corpora / SPEAKER_LIST).is_file() else []
    inputs = fingerprint([str(audio), args.dev_share], found.values(), files)
    if audio.is_dir() and finished(args.output, inputs):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    sets, dropped = prepare(corpora, audio, args.dev_share, args.jobs)
    lines = [f"{name}\t{reason}\n" for name, reason in dropped]
    write_text(args.output / "dropped.tsv", "".join(["side\treason\n", *lines]))
    if lines:
        print(f"{args.output / 'dropped.tsv'}: {len(lines)} sides of calls cannot be used")
    write_sets(args.output, sets, inputs)


if __name__ == "__main__":
    sys.exit(guard(main))
