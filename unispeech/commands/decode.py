"""Turn stored log-probabilities into words, greedily or with a lexicon and language model.

Models of phones give phones greedily, and words by a graph. Writes `text` ("utterance WORDS" per
line) and `decode.json` into --output, with --nbest also `nbest.jsonl.gz` and `nbest.json`.
--rescore-arpa gives the lattices of kaldi and k2 the probabilities of a larger n-gram model;
flashlight searches with that model instead. With --tune-emissions and --tune-reference the
language-model scale and the word insertion are tuned on that set first; every decoding of it is
kept in `tune.json` of --output, which --tuned reuses elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unispeech.commands._decoding import DecodeConfig, graph_hash, references_of, scales
from unispeech.config import load
from unispeech.decode import engine, graph, results
from unispeech.decode.arpa import arpa_order
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.results import fingerprint
from unispeech.errors import UsageError
from unispeech.score.wer import edit_distance
from unispeech.storage import sha256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--emissions", required=True, metavar="DIR", help="from emit")
    parser.add_argument("--method", required=True, choices=["greedy", "graph"])
    parser.add_argument("--lang", metavar="DIR", help="language folder, for --method graph")
    backends = ["auto", "kaldi", "k2", "flashlight"]
    parser.add_argument("--backend", default="auto", choices=backends)
    parser.add_argument("--rescore-arpa", metavar="FILE", help="larger n-gram model, also .gz")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--nbest", type=int, default=0, metavar="N", help="hypotheses in a list")
    parser.add_argument("--reference", metavar="CUTS", help="manifest, for the lists' oracle")
    parser.add_argument("--tune-emissions", metavar="DIR", help="emissions to tune scales on")
    parser.add_argument("--tune-reference", metavar="CUTS", help="manifest of that set")
    parser.add_argument("--tuned", metavar="FILE", help="tune.json of another decoding")
    parser.add_argument("--config", action="append", default=[], metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="key=value")


def run(args: argparse.Namespace) -> None:
    """Decode one set."""
    config = load(DecodeConfig, args.config, args.overrides)
    _check_options(args)
    reader, output = EmissionReader(args.emissions), Path(args.output)
    about: dict[str, Any] = {"method": args.method, "emissions_sha256": reader.sha256}
    if reader.units == "phones" and args.method == "greedy":
        # Only here: what was decoded before tokens had units keeps its fingerprint. A graph gives
        # words, whatever the tokens are.
        about["units"] = reader.units
    if args.method == "greedy":
        inputs = fingerprint(about)
        if results.is_decoded(output, inputs):
            print(f"{output}: already decoded with these settings, skipped")
        else:
            decoded = engine.greedy_set(reader)
            results.write_decoded(output, {**about, "inputs": inputs}, decoded, reader.seconds)
        return
    backend = engine.choose_backend(args.backend)
    graph.build_graph(args.lang)
    language = graph.read_language(args.lang)
    engine.check_tokens(reader, language)
    search, tuning = scales(args, config, backend, language)
    about |= {"backend": backend, "graph": graph_hash(args.lang), "tuning": tuning}
    about |= search.settings(backend, lattices=bool(args.rescore_arpa or args.nbest))
    if args.rescore_arpa:
        about["rescore_arpa"] = sha256(args.rescore_arpa)
    arpa = args.rescore_arpa or Path(args.lang) / "lm.arpa"
    _decode(args, about, search, backend, language, reader, arpa_order(arpa))


def _decode(
    args: argparse.Namespace,
    about: dict[str, Any],
    search: engine.SearchConfig,
    backend: str,
    language: graph.Language,
    reader: EmissionReader,
    order: int,
) -> None:
    output, inputs = Path(args.output), fingerprint(about)
    listed = fingerprint([inputs, args.nbest, args.reference and sha256(args.reference)])
    is_decoded = results.is_decoded(output, inputs)
    is_listed = not args.nbest or results.is_listed(output, listed)
    if is_decoded and is_listed:
        print(f"{output}: already decoded with these settings, skipped")
        return
    decoder = engine.open_decoder(backend, args.lang, len(reader.tokens), search, args.rescore_arpa)
    described = {**about, "inputs": inputs, "lm": f"{order}-gram"}
    if not is_decoded:
        decoded = engine.decode_set(decoder, reader, language.words)
        results.write_decoded(output, described, decoded, reader.seconds)
    if not is_listed:
        lists = engine.nbest_set(decoder, reader, language.words, args.nbest)
        described |= {"nbest": args.nbest, "inputs": listed, "audio_seconds": reader.seconds}
        references = references_of(args.reference) if args.reference else None
        results.write_lists(output, described, lists, references, edit_distance)


def _check_options(args: argparse.Namespace) -> None:
    graph_only = [args.lang, args.tune_emissions, args.tune_reference, args.tuned]
    if args.method == "greedy" and any([*graph_only, args.rescore_arpa, args.nbest]):
        raise UsageError(
            "--lang, --rescore-arpa, --nbest and the tuning options go with --method graph"
        )
    if args.method == "graph" and not args.lang:
        raise UsageError("--method graph needs --lang", remedy="make it with local/prepare_lang.py")
    if bool(args.tune_emissions) != bool(args.tune_reference):
        raise UsageError("--tune-emissions and --tune-reference go together")
    if args.tuned and args.tune_emissions:
        raise UsageError("--tuned and --tune-emissions exclude each other")
    if args.nbest < 0 or (args.reference and not args.nbest):
        raise UsageError("--nbest is a number of hypotheses, and --reference goes with it")
