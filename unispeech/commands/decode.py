"""Turn stored log-probabilities into words, greedily or with a lexicon and language model.

Models of phones give phones greedily, and words by a graph. Writes `text` ("utterance WORDS" per
line) and `decode.json` into --output. With --tune-emissions and --tune-reference the language-model
scale and the word insertion are tuned on that set first; every point that was tried is kept in
`tune.json` of --output, which --tuned reuses elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pydantic

from unispeech.config import load
from unispeech.decode import engine, graph
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.results import fingerprint, is_decoded, read_json, write_decoded
from unispeech.decode.tune import TuneConfig, tune_decoder
from unispeech.errors import DataError, UsageError
from unispeech.score.wer import wer
from unispeech.storage import sha256, write_json


class DecodeConfig(engine.SearchConfig):
    """Settings of `decode`: the search, and under `tune` where its scales are looked for."""

    tune: TuneConfig = pydantic.Field(default_factory=TuneConfig)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--emissions", required=True, metavar="DIR", help="from emit")
    parser.add_argument("--method", required=True, choices=["greedy", "graph"])
    parser.add_argument("--lang", metavar="DIR", help="language folder, for --method graph")
    parser.add_argument("--backend", default="auto", choices=["auto", "kaldi", "k2"])
    parser.add_argument("--output", required=True, metavar="DIR")
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
    if args.method == "graph":
        backend = engine.choose_backend(args.backend)
        graph.build_graph(args.lang)
        language = graph.read_language(args.lang)
        engine.check_tokens(reader, language)
        search, tuning = _scales(args, config, backend, language)
        about |= {"backend": backend, "graph": _graph_hash(args.lang), "tuning": tuning}
        about |= search.model_dump(mode="json")
    inputs = fingerprint(about)
    if is_decoded(output, inputs):
        print(f"{output}: already decoded with these settings, skipped")
        return
    if args.method == "graph":
        decoder = engine.open_decoder(backend, args.lang, len(reader.tokens), search)
        decoded = engine.decode_set(decoder, reader, language.words)
    else:
        decoded = engine.greedy_set(reader)
    write_decoded(output, {**about, "inputs": inputs}, decoded, reader)


def _check_options(args: argparse.Namespace) -> None:
    graph_only = [args.lang, args.tune_emissions, args.tune_reference, args.tuned]
    if args.method == "greedy" and any(graph_only):
        raise UsageError("--lang and the tuning options go with --method graph")
    if args.method == "graph" and not args.lang:
        raise UsageError("--method graph needs --lang", remedy="make it with local/prepare_lang.py")
    if bool(args.tune_emissions) != bool(args.tune_reference):
        raise UsageError("--tune-emissions and --tune-reference go together")
    if args.tuned and args.tune_emissions:
        raise UsageError("--tuned and --tune-emissions exclude each other")


def _scales(
    args: argparse.Namespace, config: DecodeConfig, backend: str, language: graph.Language
) -> tuple[engine.SearchConfig, str | None]:
    """The search settings with tuned scales, and the hash of the tuning behind them."""
    search = engine.SearchConfig(**config.model_dump(exclude={"tune"}))
    if args.tuned:
        found = read_json(Path(args.tuned))
        if not found or "lm_scale" not in found:
            raise DataError("not a tune.json", where=args.tuned, remedy="run decode to tune")
    elif args.tune_emissions:
        found = _tune(args, config, search, backend, language)
    else:
        return search, None
    chosen = {name: found[name] for name in ("lm_scale", "word_insertion")}
    return search.model_copy(update=chosen), found["inputs"]


def _tune(
    args: argparse.Namespace,
    config: DecodeConfig,
    search: engine.SearchConfig,
    backend: str,
    language: graph.Language,
) -> dict[str, Any]:
    reader, path = EmissionReader(args.tune_emissions), Path(args.output) / "tune.json"
    engine.check_tokens(reader, language)
    settings = config.model_dump(mode="json", exclude={"lm_scale", "word_insertion"})
    sources = [reader.sha256, sha256(args.tune_reference), _graph_hash(args.lang), backend]
    inputs = fingerprint([settings, sources])
    stored = read_json(path)
    if stored.get("inputs") == inputs:
        return stored

    # Imported only now: skipping what is there takes no time.
    from unispeech.data.manifests import load_cuts, transcript

    references = {cut.id: transcript(cut) for cut in load_cuts(args.tune_reference)}
    decoder = engine.open_decoder(backend, args.lang, len(reader.tokens), search)
    found = tune_decoder(decoder, reader, language.words, references, _count, config.tune)
    found["inputs"] = inputs
    write_json(path, found)
    print(f"{path}: lm_scale {found['lm_scale']}, word_insertion {found['word_insertion']}")
    return found


def _count(references: dict[str, str], hypotheses: dict[str, str]) -> int:
    return wer(references, hypotheses, resamples=0).total.errors


def _graph_hash(lang: str) -> str:
    return str(read_json(Path(lang) / "graph.json")["HLG"]["sha256"])
