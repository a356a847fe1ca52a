"""What `decode` does before it decodes: its settings, and scales tuned on a development set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pydantic

from unispeech.decode import engine, graph
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.results import fingerprint, read_json, read_tuned
from unispeech.decode.tune import TuneConfig, tune_decoder
from unispeech.score.wer import edit_distance
from unispeech.storage import sha256, write_json


class DecodeConfig(engine.SearchConfig):
    """Settings of `decode`: the search, and under `tune` where its scales are looked for."""

    tune: TuneConfig = pydantic.Field(default_factory=TuneConfig)


def scales(
    args: argparse.Namespace, config: DecodeConfig, backend: str, language: graph.Language
) -> tuple[engine.SearchConfig, str | None]:
    """The search settings with tuned scales, and the hash of the tuning behind them."""
    search = engine.SearchConfig(**config.model_dump(exclude={"tune"}))
    if args.tuned:
        found = read_tuned(args.tuned)
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
    settings = [search.settings(backend, lattices=True), config.tune.model_dump(mode="json")]
    sources = [reader.sha256, sha256(args.tune_reference), graph_hash(args.lang), backend]
    sources += [sha256(args.rescore_arpa)] if args.rescore_arpa else []
    inputs = fingerprint([settings, sources])
    stored = read_json(path)
    if stored.get("inputs") == inputs:
        return stored
    references = references_of(args.tune_reference)
    decoder = engine.open_decoder(backend, args.lang, len(reader.tokens), search, args.rescore_arpa)
    start = (search.lm_scale, search.word_insertion)
    found = tune_decoder(
        decoder, reader, language.words, references, edit_distance, config.tune, start
    )
    found["inputs"] = inputs
    write_json(path, found)
    print(f"{path}: lm_scale {found['lm_scale']}, word_insertion {found['word_insertion']}")
    return found


def references_of(manifest: str) -> dict[str, str]:
    """Words by utterance of a manifest."""
    # Imported only now: skipping what is there takes no time.
    from unispeech.data.manifests import load_cuts, transcript

    return {cut.id: transcript(cut) for cut in load_cuts(manifest)}


def graph_hash(lang: str) -> str:
    """SHA-256 of the decoding graph of a language folder."""
    return str(read_json(Path(lang) / "graph.json")["HLG"]["sha256"])
