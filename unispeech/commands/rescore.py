"""Choose from n-best lists by further language models: larger n-grams, Transformers.

Every --lm gives each hypothesis a score, and the best total is the text. Reads the lists of
`decode --nbest`; writes `text`, `decode.json` and the lists with their new scores into --output.
With --tune-nbest and --tune-reference the weights of all language models and of words are tuned
on that set and kept in `tune.json`, which --tuned reuses elsewhere; without either they are those
of the lists, with the further models instead of the first one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unispeech.commands._decoding import references_of
from unispeech.decode import rescoring
from unispeech.decode.engine import Decoded
from unispeech.decode.nbest import read_about, read_nbest, write_nbest
from unispeech.decode.rescoring import Lists, Mixture
from unispeech.decode.results import fingerprint, is_decoded, read_json, read_tuned, write_decoded
from unispeech.decode.scorers import Scorer, open_scorer
from unispeech.errors import DataError, UsageError
from unispeech.score.wer import edit_distance
from unispeech.storage import sha256, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--nbest", required=True, metavar="DIR", help="from decode --nbest")
    parser.add_argument(
        "--lm",
        required=True,
        nargs="+",
        metavar="NAME=PATH",
        help="an ARPA file, a binary of KenLM, a folder of `lm` or fairseq's checkpoint",
    )
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--tune-nbest", metavar="DIR", help="lists to tune weights on")
    parser.add_argument("--tune-reference", metavar="CUTS", help="manifest of that set")
    parser.add_argument("--tuned", metavar="FILE", help="tune.json of another rescoring")


def run(args: argparse.Namespace) -> None:
    """Rescore one set."""
    if bool(args.tune_nbest) != bool(args.tune_reference):
        raise UsageError("--tune-nbest and --tune-reference go together")
    if args.tuned and args.tune_nbest:
        raise UsageError("--tuned and --tune-nbest exclude each other")
    output = Path(args.output)
    if output.resolve() == Path(args.nbest).resolve():
        raise UsageError("--output must not be the folder of the lists", where=output)
    about = read_about(args.nbest)
    scorers = {name: open_scorer(path) for name, path in _named(args.lm).items()}
    first_pass = Mixture(float(about["lm_scale"]), {}, float(about["word_insertion"]))
    mixture, tuning = _weights(args, scorers, first_pass)
    described: dict[str, Any] = {
        **{name: about[name] for name in ("emissions_sha256", "backend", "nbest") if name in about},
        "method": "rescore",
        "nbest_sha256": about["sha256"],
        "scorers": {name: scorer.sha256 for name, scorer in scorers.items()},
        "tuning": tuning,
        "lm_scale": mixture.lm_scale,
        **{f"{name}_scale": scale for name, scale in mixture.scales.items()},
        "word_insertion": mixture.word_insertion,
    }
    described["inputs"] = fingerprint(described)
    if is_decoded(output, described["inputs"]):
        print(f"{output}: already rescored with these settings, skipped")
        return
    began = time.perf_counter()
    lists = _scored(args.nbest, scorers)
    text = rescoring.choose(lists, mixture)
    decoded = Decoded(text, time.perf_counter() - began, [])
    models = [(str(about.get("lm", "n-gram")), mixture.lm_scale)]
    models += [(scorers[name].name, scale) for name, scale in mixture.scales.items()]
    described["lm"] = " + ".join(dict.fromkeys(name for name, scale in models if scale)) or "none"
    write_nbest(output, lists, described)
    write_decoded(output, described, decoded, float(about.get("audio_seconds", 0.0)))


def _weights(
    args: argparse.Namespace, scorers: Mapping[str, Scorer], first_pass: Mixture
) -> tuple[Mixture, str | None]:
    """The weights, and the hash of the tuning behind them."""
    if args.tuned:
        found = read_tuned(args.tuned)
        if list(found.get("scales", {})) != list(scorers):
            raise DataError(
                "tuned for other language models",
                where=args.tuned,
                expected=", ".join(scorers),
                found=", ".join(found.get("scales", {})) or "none",
            )
    elif args.tune_nbest:
        found = _tune(args, scorers, first_pass)
    else:
        scales = dict.fromkeys(scorers, first_pass.lm_scale / len(scorers))
        return Mixture(0.0, scales, first_pass.word_insertion), None
    mixture = Mixture(found["lm_scale"], found["scales"], found["word_insertion"])
    return mixture, str(found["inputs"])


def _tune(
    args: argparse.Namespace, scorers: Mapping[str, Scorer], first_pass: Mixture
) -> dict[str, Any]:
    path = Path(args.output) / "tune.json"
    hashes = {name: scorer.sha256 for name, scorer in scorers.items()}
    sources = [read_about(args.tune_nbest)["sha256"], sha256(args.tune_reference), hashes]
    inputs = fingerprint([rescoring.VERSION, sources, list(first_pass)])
    stored = read_json(path)
    if stored.get("inputs") == inputs:
        return stored
    lists = _scored(args.tune_nbest, scorers)
    references = references_of(args.tune_reference)
    found = rescoring.tune_mixture(lists, references, list(scorers), edit_distance, first_pass)
    found["inputs"] = inputs
    write_json(path, found)
    weights = ", ".join(f"{name} {scale}" for name, scale in found["scales"].items())
    print(f"{path}: {found['errors']} errors, lm_scale {found['lm_scale']}, {weights}")
    return found


def _scored(folder: str, scorers: Mapping[str, Scorer]) -> Lists:
    return rescoring.add_scores(read_nbest(folder), scorers)


def _named(models: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for model in models:
        name, equals, path = model.partition("=")
        if not (name.isidentifier() and equals and path) or name in named or name == "lm":
            raise UsageError(
                "not a language model with a name of its own",
                where=f"--lm {model}",
                expected="NAME=PATH, each name once and none of them 'lm'",
            )
        named[name] = path
    return named
