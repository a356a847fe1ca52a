"""Separate overlapping speakers: two streams for each recording, in which nobody overlaps.

--output holds `ID/stream1.flac` and `ID/stream2.flac` at the level of the mixture and
`streams.jsonl.gz`: one cut for each stream, whose supervisions are the pieces in which somebody
speaks. Recordings of any length are seen in sliding windows; `--whole` sees each at once, which is
how pre-segmented utterances are evaluated. Finished recordings are skipped when the command runs
again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from unispeech.commands._separation import check_settings, refuse_repeated, separate_recording
from unispeech.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("recordings", nargs="?", type=Path, help="the same as --wavs")
    parser.add_argument("--wavs", type=Path, help="folder, audio file or manifest of cuts")
    parser.add_argument("--model", help="experiment or checkpoint of `separation`")
    parser.add_argument(
        "--oracle", action="store_true", help="masks from the references of the cuts; no model"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the streams")
    parser.add_argument(
        "--method",
        choices=["mask", "mvdr"],
        default="mask",
        help="mask one channel, or filter all channels of an array",
    )
    parser.add_argument("--whole", action="store_true", help="one window for each recording")
    parser.add_argument("--history", type=float, default=1.2, help="seconds seen before (1.2)")
    parser.add_argument("--current", type=float, default=0.8, help="seconds kept (0.8)")
    parser.add_argument("--future", type=float, default=0.4, help="seconds seen behind (0.4)")
    parser.add_argument(
        "--distance",
        choices=["magnitude", "mask"],
        default="magnitude",
        help="what windows are stitched by",
    )
    parser.add_argument(
        "--alone",
        type=float,
        default=0.0,
        help="share of the speech below which other speakers count as absent, so that the stream of"
        " the one who speaks is the mixture itself (0: never)",
    )
    parser.add_argument(
        "--beam", type=float, default=4.0, help="seconds that one beamformer filters (4)"
    )
    parser.add_argument(
        "--beam-context", type=float, default=4.0, help="seconds it learns from on each side (4)"
    )
    parser.add_argument(
        "--activity", type=float, default=0.35, help="share of the mixture of an active stream"
    )
    parser.add_argument("--batch", type=int, default=8, help="windows estimated together (8)")
    parser.add_argument("--resample", action="store_true", help="convert other sampling rates")
    parser.add_argument(
        "--allow-clipped", action="store_true", help="go on where the audio is badly clipped"
    )
    parser.add_argument("--device", default="cpu")


def run(args: argparse.Namespace) -> None:
    """Separate every recording."""
    source = _checked(args)

    from unispeech.data.recordings import find_recordings
    from unispeech.data.streams import is_separated, write_stream_cuts

    cuts = find_recordings(source)
    refuse_repeated(cuts, source)
    check_settings(args)
    waiting = [cut for cut in cuts if not is_separated(args.output / cut.id, cut)]
    began = time.perf_counter()
    if waiting:
        model = _model(args)
        for cut in waiting:
            separate_recording(cut, model, args)
    spent = time.perf_counter() - began
    path = write_stream_cuts(cuts, args.output)
    seconds = sum(float(cut.duration) for cut in waiting)
    skipped = len(cuts) - len(waiting)
    also = f"; {skipped} already there, skipped" if skipped else ""
    print(
        f"{path}: {len(waiting)} recordings, {seconds / 3600:.2f} hours in {spent:.1f} s"
        f" (real-time factor {spent / max(seconds, 1e-9):.3f}){also}"
    )


def _checked(args: argparse.Namespace) -> Path:
    """The recordings, when the options make sense.

    Raises:
        UsageError: they do not.
    """
    given = [path for path in (args.recordings, args.wavs) if path is not None]
    if len(given) != 1:
        raise UsageError(
            "give the recordings once", expected="RECORDINGS or --wavs", found=len(given)
        )
    if bool(args.model) == args.oracle:
        raise UsageError("give either --model or --oracle")
    if args.current < 0.01 or min(args.history, args.future, args.beam_context) < 0:
        raise UsageError("--current must be at least 0.01, other lengths not negative")
    if not 0 <= args.alone <= 0.5:
        raise UsageError("--alone must be between 0 and 0.5", found=args.alone)
    if args.beam < 0.1 or args.batch < 1:
        raise UsageError("--beam must be at least 0.1 and --batch 1")
    path: Path = given[0]
    return path


def _model(args: argparse.Namespace) -> Any:
    if args.oracle:
        return None
    from unispeech.hub.separation import load_separation_model

    return load_separation_model(args.model, args.device)
