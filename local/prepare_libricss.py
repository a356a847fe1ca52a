"""Turn LibriCSS, in the layout of its release, into manifests.

CORPORA is the folder for_release or one that contains it. Writes, for dev (session 0 of every
condition) and test (the others),

OUTPUT/{dev,test}/sessions.jsonl.gz      recordings of ten minutes
OUTPUT/{dev,test}/continuous.jsonl.gz    their segments of one or two minutes, for continuous input
OUTPUT/{dev,test}/utterance.jsonl.gz     utterances cut out of them, with what others say meanwhile

and RTTM files of the first two. Every cut has the field `condition`. Recordings have seven
channels, of which a cut's is the first one; with --channels 1 they have that one only.
`--continuous sessions` evaluates whole sessions.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.recipes.libricss import prepare_libricss
from lhotse.utils import fastcopy
from libricss import (
    CHANNELS,
    DEVELOPMENT,
    INFO,
    RECORDING,
    SEGMENTS,
    Session,
    check_session,
    find_corpus,
    find_sessions,
    read_segments,
)
from sets import check_given, fingerprint, finished, write_sets

from unispeech.__main__ import Parser, guard
from unispeech.data.manifests import SAMPLING_RATE
from unispeech.data.rttm import cut_segments
from unispeech.errors import DataProblems

Bounds = dict[str, list[tuple[int, int]]]


def check_sessions(sessions: Sequence[Session], channels: int, read_audio: bool) -> None:
    """Check all sessions; warnings go to the standard error.

    Raises:
        DataProblems: everything that is wrong with transcripts and recordings.
    """
    problems = []
    for session in sessions:
        wrong, warnings = check_session(session, channels, read_audio)
        problems += wrong
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if problems:
        count = len(problems)
        raise DataProblems(f"{count} problem{'' if count == 1 else 's'} in LibriCSS", problems)


def read_sessions(corpus: Path, channels: int) -> dict[str, MonoCut]:
    """One cut for each session, by lhotse's name of it, with all that is said in it."""
    # Both kinds have the same supervisions; those of `mdm` name all channels.
    manifests = prepare_libricss(corpus, type="sdm" if channels == 1 else "mdm")
    told: dict[str, list[SupervisionSegment]] = {}
    for supervision in manifests["supervisions"]:
        # lhotse keeps the end of the line as part of the text.
        own = fastcopy(supervision, channel=0, text=supervision.text.strip())
        told.setdefault(own.recording_id, []).append(own)
    return {
        recording.id: MonoCut(
            recording.id, 0.0, recording.duration, 0, told[recording.id], recording=recording
        )
        for recording in manifests["recordings"]
    }


def cut_out(session: MonoCut, first: float, last: float, name: str, condition: str) -> MonoCut:
    """A piece of a session, in seconds, with what is said in it from beginning to end.

    Its recording is the session's file under a name of its own, so that what is made of a piece
    can be named after it.
    """
    recording: Recording = fastcopy(session.recording, id=name)
    told = [
        fastcopy(s, recording_id=name, start=round(s.start - first, 6))
        for s in session.supervisions
        # Half a sample is less than the rounding of the transcripts.
        if s.start >= first - 1e-3 and s.end <= last + 1e-3
    ]
    return MonoCut(
        name, first, round(last - first, 6), 0, told, recording=recording,
        custom={"condition": condition},
    )  # fmt: skip


def make_sets(
    sessions: Sequence[Session], cuts: dict[str, MonoCut], segments: Bounds, continuous: str
) -> dict[str, list[MonoCut]]:
    """All sets of these sessions."""
    sets: dict[str, list[MonoCut]] = {"sessions": [], "continuous": [], "utterance": []}
    for session in sessions:
        cut, condition = cuts[session.id], session.condition
        whole = cut_out(cut, 0.0, cut.duration, session.id, condition)
        sets["sessions"].append(whole)
        pieces = [
            cut_out(cut, a / SAMPLING_RATE, min(b / SAMPLING_RATE, cut.duration),
                    f"{session.id}-segment{number}", condition)
            for number, (a, b) in enumerate(segments[session.id])
        ]  # fmt: skip
        sets["continuous"] += [whole] if continuous == "sessions" else pieces
        for told in cut.supervisions:
            piece = cut_out(cut, told.start, told.end, told.id, condition)
            # Others may speak in it, wholly even; what is to be recognised is this one.
            piece.supervisions = [s for s in piece.supervisions if s.id == told.id]
            sets["utterance"].append(piece)
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "prepare_libricss.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--channels", type=int, choices=(1, CHANNELS), default=CHANNELS)
    parser.add_argument("--continuous", choices=("segments", "sessions"), default="segments")
    parser.add_argument("--read-audio", choices=("true", "false"), default="true",
                        help="look for silence and clipping in all samples (true)")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="only look for the sessions")
    args = parser.parse_args(argv)
    check_given(args.corpora)
    corpus = find_corpus(args.corpora.absolute())
    sessions = find_sessions(corpus)
    segments = read_segments(corpus, sessions)
    if args.check:
        print(f"{corpus}: {len(sessions)} sessions")
        return
    files = [session.folder / name for session in sessions for name in (INFO, RECORDING)]
    present = [file for file in [*files, corpus / SEGMENTS] if file.is_file()]
    inputs = fingerprint([args.channels, args.continuous], [], present)
    groups = {
        "dev": [s for s in sessions if s.number == DEVELOPMENT],
        "test": [s for s in sessions if s.number != DEVELOPMENT],
    }
    if all(finished(args.output / name, inputs) for name, own in groups.items() if own):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    check_sessions(sessions, args.channels, args.read_audio == "true")
    cuts = read_sessions(corpus, args.channels)
    for name, own in groups.items():
        if own:
            sets = make_sets(own, cuts, segments, args.continuous)
            spoken = {
                kind: {cut.id: cut_segments(cut) for cut in sets[kind]}
                for kind in ("sessions", "continuous")
            }
            write_sets(args.output / name, sets, inputs, spoken)


if __name__ == "__main__":
    sys.exit(guard(main))
