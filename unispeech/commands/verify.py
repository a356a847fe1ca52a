"""Do two recordings have the same speaker? Score, calibrated probability and the threshold used.

--calibration, with the --mean and --cohort that it was trained with, turns the score into a
log-likelihood ratio, which --prior makes a probability; the threshold is then that of the Bayes
decision at equal costs. Without it, --threshold is needed for a decision: `metrics.json` of
`trials` has that of the equal error rate as `eer_threshold`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from unispeech.commands import _backend, _calibration
from unispeech.commands._embedding import add_audio_options, embed_cuts
from unispeech.errors import DataError, UsageError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("enrollment", type=Path, metavar="A.wav")
    parser.add_argument("test", type=Path, metavar="B.wav")
    parser.add_argument("--model", required=True, help="a speaker model: experiment or file")
    _backend.add_backend_options(parser)
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="of trials --calibrate-on")
    parser.add_argument(
        "--prior", type=float, default=0.5, help="probability of the same speaker beforehand (0.5)"
    )
    parser.add_argument("--threshold", type=float, help="accept scores from here (no calibration)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_audio_options(parser)


def run(args: argparse.Namespace) -> None:
    """Compare two recordings."""
    if not 0 < args.prior < 1:
        raise UsageError("--prior must be between 0 and 1", found=args.prior)
    if args.calibration and args.threshold is not None:
        raise UsageError("--threshold is for scores without --calibration", remedy="give --prior")
    result = _compare(args)
    if args.json:
        print(json.dumps(result))
        return
    print(f"score {result['score']:.4f} ({result['method']})")
    if result["probability"] is not None:
        ratio = f"log-likelihood ratio {result['log_likelihood_ratio']:+.3f}, prior {args.prior:g}"
        print(f"probability of the same speaker {result['probability']:.4f} ({ratio})")
    if result["same_speaker"] is None:
        print("no decision: give --calibration or --threshold")
        return
    of = "score" if result["probability"] is None else "log-likelihood ratio"
    who = "the same speaker" if result["same_speaker"] else "different speakers"
    print(f"{who}: threshold of the {of} {result['threshold']:+.4f}")


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from unispeech.data.recordings import find_recordings
    from unispeech.hub.speaker import load_speaker_model
    from unispeech.score.calibration import probability

    for path in (args.enrollment, args.test):
        if path.is_dir() or path.name.endswith((".jsonl", ".jsonl.gz")):
            raise UsageError("verify compares two audio files", found=path)
    cuts = [find_recordings(path)[0] for path in (args.enrollment, args.test)]
    if sha256(args.enrollment) == sha256(args.test):
        raise DataError(
            "the same recording on both sides",
            where=args.enrollment,
            found=args.test,
            remedy="compare two recordings",
        )
    # The options are right before the model is loaded, which takes longer.
    how = _backend.backend(args, sha256(weights_file(args.model)))
    calibration = _calibration.read_calibration(args.calibration, how) if args.calibration else None
    model = load_speaker_model(args.model, args.device)
    embedded = dict(
        pair
        for rows, values in embed_cuts(model, cuts, args)
        for pair in zip(rows, values, strict=True)
    )
    values = np.stack([embedded[0], embedded[1]])
    durations = np.array([float(cut.duration) for cut in cuts])
    sides = np.array([0]), np.array([1])
    names = [str(args.enrollment), str(args.test)]
    found = _backend.score(how, values, durations, sides, names)
    score, threshold = float(found.scores[0]), args.threshold
    ratio = chance = None
    if calibration is not None:
        wanted = _calibration.qualities_of(calibration)
        ratio = float(calibration.apply(*_calibration.measures(found, sides, wanted))[0])
        chance = float(probability(ratio, args.prior))
        threshold = math.log1p(-args.prior) - math.log(args.prior)
    decided = score if ratio is None else ratio
    return {
        "score": score,
        "method": how.title,
        "log_likelihood_ratio": ratio,
        "probability": chance,
        "prior": args.prior,
        "threshold": threshold,
        "same_speaker": None if threshold is None else decided >= threshold,
    }
