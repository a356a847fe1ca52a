"""Score trials of speaker verification and measure the errors.

Embeddings give cosines, with --cohort normalised ones (AS-norm), with a calibration log-likelihood
ratios; --scores takes scores of another program instead. Writes `scores.tsv` (enrollment, test,
score), `scores.json`, `det.tsv` (points of the DET curve), `histogram.tsv` and last `metrics.json`:
equal error rate in per cent with an interval over pairs of speakers, minDCF, and of log-likelihood
ratios actDCF and Cllr. --calibrate-on also writes `calibration.json`, for --calibration of other
lists and for `verify`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unispeech.commands import _backend, _calibration, _scores
from unispeech.data import scores as files
from unispeech.data.embeddings import Embeddings, describe, read_embeddings, speaker_of
from unispeech.data.trials import Trials, read_trials
from unispeech.errors import UsageError
from unispeech.score import calibration, trials
from unispeech.storage import sha256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--embeddings", type=Path, nargs="+", metavar="DIR", help="of `embed`: one or several"
    )
    parser.add_argument("--scores", type=Path, metavar="FILE", help="instead of embeddings")
    parser.add_argument("--trials", type=Path, required=True, metavar="FILE", help="trials.tsv")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    _backend.add_backend_options(parser)
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="calibration.json")
    parser.add_argument("--calibrate-on", type=Path, metavar="TRIALS", help="to train one")
    parser.add_argument(
        "--quality", help="what a new calibration sees: some of duration,norm,cohort, or none (all)"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap draws (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument("--condition", help="name of the list in results (that in trials.json)")
    parser.add_argument("--system", help="name of the system in results (the model's folder)")


def run(args: argparse.Namespace) -> None:
    """Score one list."""
    _check(args)
    inputs = _inputs(args)
    line = _scores.stored_line(args.output, inputs)
    if line:
        print(f"{line}  (already scored, skipped)")
        return
    listed = read_trials(args.trials)
    sides = listed.enrollment, listed.test
    (args.output / "metrics.json").unlink(missing_ok=True)
    speakers: list[str] = [speaker_of(name) for name in listed.ids]
    plain, method = None, "scores given"
    if args.scores:
        scores = files.read_scores(args.scores, listed)
    else:
        embeddings = read_embeddings(args.embeddings)
        how = _backend.backend(args, embeddings.model)
        found, speakers = _backend.score_list(how, embeddings, listed, args.trials)
        scores, method = found.scores, how.title
        model = _trained(args, how, embeddings)
        if model is not None:
            plain, method = scores, f"{method}, calibrated"
            names = _calibration.qualities_of(model)
            scores = model.apply(*_calibration.measures(found, sides, names))
    trials.refuse_conflicts(*sides, listed.labels, scores, listed.ids)
    pairs = trials.speaker_pairs(*_people(speakers, listed))
    interval = trials.bootstrap(listed.labels, scores, pairs, args.resamples, args.seed)
    metrics = trials.summary(listed.labels, scores, interval, plain is not None)
    metrics |= {"speakers": len(set(speakers)), "speaker_pairs": int(pairs.max()) + 1}
    if plain is not None:
        before = trials.curve(listed.labels, plain)
        metrics["eer_before_calibration"] = 100 * trials.equal_error_rate(before)
    about = {**_names(args), "method": method, "inputs": inputs}
    print(_scores.write_results(args.output, listed, scores, metrics, about))


def _check(args: argparse.Namespace) -> None:
    if bool(args.embeddings) == bool(args.scores):
        raise UsageError("give --embeddings or --scores", found="both or none")
    if args.calibration and args.calibrate_on:
        raise UsageError("give --calibration or --calibrate-on, not both")
    given = [args.mean, args.cohort, args.calibration, args.calibrate_on]
    if args.scores and any(given):
        raise UsageError("--scores takes scores as they are", remedy="give --embeddings")
    if args.quality and not args.calibrate_on:
        raise UsageError("--quality needs --calibrate-on")
    if args.resamples < 1:
        raise UsageError("--resamples must be at least 1", found=args.resamples)


def _trained(
    args: argparse.Namespace, how: _backend.Backend, embeddings: Embeddings
) -> calibration.Calibration | None:
    if args.calibration:
        return _calibration.read_calibration(args.calibration, how)
    if not args.calibrate_on:
        return None
    names = _calibration.chosen_qualities(args.quality, how.cohort is not None)
    listed = read_trials(args.calibrate_on)
    found, _ = _backend.score_list(how, embeddings, listed, args.calibrate_on)
    sides = listed.enrollment, listed.test
    model = calibration.fit(listed.labels, *_calibration.measures(found, sides, names))
    _calibration.write_calibration(args.output / "calibration.json", model, how, len(listed.labels))
    return model


def _people(speakers: list[str], listed: Trials) -> tuple[list[int], list[int]]:
    """Numbers of the speakers of both sides; without a name, an utterance is its own speaker."""
    numbers: dict[str, int] = {}
    names = [one or f"/{name}" for one, name in zip(speakers, listed.ids, strict=True)]
    people = [numbers.setdefault(name, len(numbers)) for name in names]
    return [people[k] for k in listed.enrollment], [people[k] for k in listed.test]


def _names(args: argparse.Namespace) -> dict[str, Any]:
    """How results call the list and the system, and the model that it is."""
    about = args.trials.with_name("trials.json")
    known = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    condition = args.condition or known.get("condition") or args.trials.absolute().parent.name
    model = describe(args.embeddings[0]) if args.embeddings else {}
    name = args.system or Path(model.get("model") or args.scores).absolute().name
    facts = {key: model.get(key) for key in ("model", "model_sha256")}
    return {"condition": str(condition), "system": name, **facts}


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    def digest(path: Path | None) -> str | None:
        return sha256(path) if path is not None and path.is_file() else None

    def folder(path: Path | None) -> Any:
        return describe(path)["sha256"] if path is not None else None

    files = ("trials", "scores", "calibration", "calibrate_on")
    given: dict[str, Any] = {f"{name}_sha256": digest(getattr(args, name)) for name in files}
    given |= {name: folder(getattr(args, name)) for name in ("mean", "cohort")}
    given["embeddings"] = [folder(path) for path in args.embeddings or ()]
    names = ("top", "quality", "resamples", "seed", "condition", "system")
    return {**given, **{name: getattr(args, name) for name in names}}
