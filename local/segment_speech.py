"""Cut recordings of single speakers into stretches of speech, from which conversations are made.

What is silent in an utterance would be called speech in a simulated conversation. SETS are
NAME=MANIFEST. Speech is found by its energy, or read from an RTTM file of a trained detector whose
recordings are the ids of the cuts. Writes OUTPUT/<set>.jsonl.gz.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path

from lhotse import MonoCut
from sets import fingerprint, finished, join, make_cut, pieces, write_sets

from unispeech.__main__ import Parser, guard
from unispeech.data.activity import speech_stretches
from unispeech.data.manifests import load_cuts, read_audio, speaker
from unispeech.data.rttm import check_recordings, joined, read_rttm
from unispeech.errors import UsageError

Stretches = list[tuple[float, float]]


def detect(task: tuple[MonoCut, float]) -> Stretches:
    """The stretches of speech in a cut, by its energy."""
    cut, pause = task
    return speech_stretches(read_audio(cut), pause)


def divide(
    cut: MonoCut, stretches: Stretches, pause: float, shortest: float, longest: float
) -> list[MonoCut]:
    """An utterance for each long stretch of a cut, several for one that is too long."""
    found = []
    for begin, end in join(stretches, longest, pause):
        for start, duration in pieces(begin, min(end, cut.duration), shortest, longest):
            name = f"{cut.id}-{round(1000 * start):07d}"
            found.append(
                make_cut(
                    cut.recording, name, speaker=speaker(cut), text="",
                    start=cut.start + start, duration=duration,
                )
            )  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "segment_speech.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=MANIFEST")
    parser.add_argument("--output", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("--segments", type=Path, help="RTTM of a trained detector")
    # Kaldi's detector, as EEND's recipe uses it, and what that recipe keeps.
    parser.add_argument("--shortest", type=float, default=1.5, help="leave out shorter ones (1.5)")
    parser.add_argument("--longest", type=float, default=10.0, help="divide longer ones (10)")
    parser.add_argument("--pause", type=float, default=0.3, help="keep shorter pauses (0.3)")
    parser.add_argument("--jobs", type=int, default=4, help="processes")
    args = parser.parse_args(argv)
    sets = dict(text.partition("=")[::2] for text in args.sets)
    if len(sets) < len(args.sets) or not all(sets.values()):
        raise UsageError("--sets", expected="NAME=MANIFEST, each NAME once", found=args.sets)
    if args.jobs < 1 or not 0 < args.shortest <= args.longest or args.pause < 0:
        raise UsageError("--jobs must be at least 1, and 0 < --shortest <= --longest")
    files = [Path(path) for path in sets.values()] + ([args.segments] if args.segments else [])
    given = {name: list(load_cuts(path)) for name, path in sets.items()}
    lengths = (args.pause, args.shortest, args.longest)
    inputs = fingerprint([sets, lengths], [], [file for file in files if file.is_file()])
    if finished(args.output, inputs):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    read = {}
    if args.segments:
        read = read_rttm(args.segments)
        known = [cut.id for cuts in given.values() for cut in cuts]
        check_recordings(read, known, args.segments)
    divided = {}
    for name, cuts in given.items():
        if args.segments:
            stretches = [[(s.start, s.end) for s in joined(read.get(cut.id, []))] for cut in cuts]
        else:
            with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
                stretches = pool.map(detect, [(cut, args.pause) for cut in cuts], chunksize=16)
        pairs = zip(cuts, stretches, strict=True)
        divided[name] = [part for cut, own in pairs for part in divide(cut, own, *lengths)]
    write_sets(args.output, divided, inputs)


if __name__ == "__main__":
    sys.exit(guard(main))
