"""Text with word times and confidence for recordings of any length, in bounded memory.

Writes NAME.json, NAME.ctm and NAME.srt for each recording into --output: greedily, or, with --lang,
by its lexicon and language model. The encoder sees overlapping windows; decoding sees segments
between pauses. Recordings that are finished are skipped when the command runs again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unispeech.commands._recordings import given_recordings
from unispeech.commands._transcription import LONGEST, greedy_finder, timed_words
from unispeech.config import load
from unispeech.decode import engine, graph
from unispeech.decode.results import fingerprint, read_json
from unispeech.decode.transcripts import is_transcribed, write_transcript
from unispeech.errors import DataError, UsageError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256

if TYPE_CHECKING:
    from unispeech.decode.long import WordFinder
    from unispeech.models.pretrained import Recogniser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", required=True, help="experiment, checkpoint, or CTC model")
    parser.add_argument(
        "--wavs", required=True, nargs="+", type=Path, help="audio files, folders or manifests"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the transcripts")
    parser.add_argument("--lang", type=Path, metavar="DIR", help="language folder; else greedy")
    backends = ["auto", "kaldi", "k2"]
    parser.add_argument("--backend", default="auto", choices=backends, help="of --lang")
    parser.add_argument("--tuned", metavar="FILE", help="tune.json of decode, for its scales")
    for name in ("lm-scale", "word-insertion", "beam"):
        parser.add_argument(f"--{name}", type=float, help="as in decode, with --lang")
    parser.add_argument("--resample", action="store_true", help="convert other sampling rates")
    parser.add_argument("--mono", action="store_true", help="average several channels")
    parser.add_argument("--window", type=float, default=20.0, help="seconds kept of one window")
    parser.add_argument("--context", type=float, default=2.0, help="seconds seen on each side")
    parser.add_argument("--pause", type=float, default=0.5, help="silence that ends a segment, s")
    parser.add_argument("--device", help="cuda or cpu (default: cuda if there)")


def run(args: argparse.Namespace) -> None:
    """Transcribe every recording; the first one that cannot be read ends the command."""
    if args.window <= 0 or args.context < 0 or not 0.04 <= args.pause <= LONGEST / 2:
        raise UsageError(
            "--window must be positive, --context not negative and --pause between 0.04 and "
            f"{LONGEST / 2:g} seconds"
        )
    search = _search(args)
    checkpoint = weights_file(args.model)
    settings: dict[str, Any] = {"checkpoint_sha256": sha256(checkpoint), "method": "greedy"}
    settings |= {name: getattr(args, name) for name in ("window", "context", "pause")}
    if args.lang:
        backend = engine.choose_backend(args.backend)
        graph.build_graph(args.lang)
        about = {"method": "graph", "backend": backend, **search.model_dump(mode="json")}
        settings |= {**about, "graph": read_json(args.lang / "graph.json")["HLG"]["sha256"]}

    # Imported only now: --help and wrong options take no time.
    import torch

    from unispeech.data.recordings import SampleReader
    from unispeech.hub.recogniser import open_recogniser

    cuts = given_recordings(args.wavs)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    recogniser = open_recogniser(args.model, device)
    find = _word_finder(args, recogniser, search)
    for cut in cuts:
        reader = SampleReader(cut, args.resample, args.mono)
        reader.require(recogniser.model.encoder.config.receptive_field)
        place = [sha256(reader.path), cut.start, cut.duration]
        inputs = fingerprint({**settings, "audio": place})
        if is_transcribed(args.output / cut.id, inputs):
            print(f"{cut.id}: already transcribed, skipped")
            continue
        words = timed_words(
            recogniser, find, reader, args.window, args.context, args.pause
        )
        seconds = reader.samples / 16000
        about = {"recording": cut.id, "audio": str(reader.path), "seconds": round(seconds, 3)}
        about |= {"settings": settings, "inputs": inputs}
        write_transcript(args.output / cut.id, cut.id, words, about)
        print(f"{cut.id}: {len(words)} words in {seconds:.1f} s of audio")


def _search(args: argparse.Namespace) -> engine.SearchConfig:
    given = {name: getattr(args, name) for name in ("lm_scale", "word_insertion", "beam")}
    if not args.lang and (args.tuned or any(value is not None for value in given.values())):
        raise UsageError("the scales, --beam and --tuned go with --lang")
    tuned = read_json(args.tuned) if args.tuned else {}
    if args.tuned and not {"lm_scale", "word_insertion"} <= tuned.keys():
        raise DataError("not a tune.json", where=args.tuned, remedy="run decode to tune")
    values = {str(name): tuned[name] for name in ("lm_scale", "word_insertion") if name in tuned}
    values |= {name: value for name, value in given.items() if value is not None}
    return load(engine.SearchConfig, overrides=[f"{name}={v}" for name, v in values.items()])


def _word_finder(
    args: argparse.Namespace, recogniser: Recogniser, search: engine.SearchConfig
) -> WordFinder:
    from unispeech.decode.long import check_language, graph_words

    if not args.lang:
        return greedy_finder(recogniser, args.pause)
    language = graph.read_language(args.lang)
    check_language(recogniser.tokens, language, args.lang)
    backend = engine.choose_backend(args.backend)
    decoder = engine.open_decoder(backend, args.lang, len(recogniser.tokens), search)
    return lambda parts: graph_words(parts, decoder, language)
