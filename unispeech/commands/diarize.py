"""Who speaks when in recordings of any length, in bounded memory.

Writes NAME.rttm, NAME.png and NAME.json for each recording; with --output, also hyp.rttm of all.
With --recogniser, NAME.stm says who said what. --tune RTTM chooses --distance, --threshold and
--median on recordings whose speakers are known and writes tuned.json, which --tuned reads.
Recordings that are finished are skipped when the command runs again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unispeech.commands import _diarization as parts
from unispeech.commands._diarization_files import oracle_counts, rttm_name, write_recording
from unispeech.commands._recordings import given_recordings
from unispeech.commands._transcription import greedy_finder, timed_words
from unispeech.config import load
from unispeech.decode.results import fingerprint, read_json
from unispeech.diarize.config import DiarizeConfig
from unispeech.errors import DataError, UsageError
from unispeech.hub.registry import weights_file
from unispeech.storage import final_checkpoint, sha256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("audio", nargs="*", type=Path, help="audio files, folders or manifests")
    parser.add_argument("--wavs", nargs="+", type=Path, default=[], help="the same")
    parser.add_argument("--model", required=True, help="experiment folder or checkpoint")
    parser.add_argument("--config", action="append", default=[], help="YAML file of settings")
    parser.add_argument("--output", type=Path, help="folder of the results (default: here)")
    parser.add_argument("--speakers", type=int, help="their number; else it is estimated")
    parser.add_argument("--oracle", type=Path, metavar="RTTM", help="take the number from here")
    parser.add_argument("--tune", type=Path, metavar="RTTM", help="choose settings against this")
    parser.add_argument("--collar", type=float, default=0.25, help="of --tune, in seconds")
    parser.add_argument("--tuned", metavar="FILE", help="tuned.json, for its settings")
    for name, field in DiarizeConfig.model_fields.items():
        kind = int if name == "max_speakers" else float
        about = f"default: {field.default}" if field.default is not None else "default: no limit"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=about)
    parser.add_argument("--recogniser", metavar="MODEL", help="also write who said what")
    parser.add_argument("--no-picture", action="store_true", help="draw none")
    parser.add_argument("--resample", action="store_true", help="convert other sampling rates")
    parser.add_argument("--mono", action="store_true", help="average several channels")
    parser.add_argument("--batch", type=int, default=1, help="chunks at once")
    parser.add_argument("--device", help="cuda or cpu (default: cuda if there)")


def run(args: argparse.Namespace) -> None:
    """Diarize every recording; the first one that cannot be read ends the command."""
    config = _config(args)
    checkpoint = weights_file(args.model)
    settings: dict[str, Any] = {"checkpoint_sha256": sha256(checkpoint)}
    if args.recogniser:
        settings["recogniser_sha256"] = sha256(final_checkpoint(args.recogniser))

    # Imported only now: --help and wrong options take no time.
    import torch

    from unispeech.data.recordings import SampleReader
    from unispeech.data.rttm import read_rttm, write_rttm
    from unispeech.hub.diarization import load_diarization_model
    from unispeech.models.pretrained import load_recogniser

    cuts = given_recordings([*args.audio, *args.wavs], rttm_name)
    names = [rttm_name(cut.id) for cut in cuts]
    counts = dict.fromkeys(names, args.speakers)
    if args.oracle:
        counts = dict(oracle_counts(args.oracle, names))
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_diarization_model(args.model, device)
    recogniser = load_recogniser(args.recogniser, device) if args.recogniser else None
    output = args.output or Path()
    readers = {
        n: SampleReader(c, args.resample, args.mono) for n, c in zip(names, cuts, strict=True)
    }
    for reader in readers.values():
        reader.require(model.config.hop)
    if args.tune:
        config = parts.tuned_config(args, model, readers, counts, config, settings)
    hypotheses = {}
    for name, reader in readers.items():
        path = f"{output / reader.id}"
        own = {**settings, **config.model_dump(), "given_speakers": counts[name]}
        audio = [sha256(reader.path), reader.samples, args.no_picture]
        inputs = fingerprint({**own, "audio": audio})
        if read_json(f"{path}.json").get("inputs") == inputs and Path(f"{path}.rttm").is_file():
            print(f"{reader.id}: already diarized, skipped")
        else:
            with parts.local_diarization(model, reader, config, output, args.batch) as local:
                found = local.segments(config, counts[name])
            words = None
            if recogniser is not None:
                words = timed_words(recogniser, greedy_finder(recogniser, 0.5), reader)
            seconds = reader.samples / 16000
            about = {"recording": reader.id, "audio": str(reader.path), "settings": own}
            about |= {"seconds": round(seconds, 3), "inputs": inputs}
            write_recording(path, found, words, about, not args.no_picture)
            people = len({speaker for _, _, speaker in found})
            print(f"{reader.id}: {people} speakers in {seconds:.1f} s of audio", flush=True)
        hypotheses[name] = read_rttm(f"{path}.rttm").get(name, [])
    if args.output:
        write_rttm(output / "hyp.rttm", hypotheses)


def _config(args: argparse.Namespace) -> DiarizeConfig:
    if args.speakers is not None and (args.speakers < 1 or args.oracle):
        raise UsageError("--speakers must be positive, and goes without --oracle")
    if args.batch < 1:
        raise UsageError("--batch must be positive", found=args.batch)
    if args.tune and not args.output:
        raise UsageError("--tune needs --output, where tuned.json is written")
    given = {name: getattr(args, name) for name in DiarizeConfig.model_fields}
    values = {name: value for name, value in given.items() if value is not None}
    if args.tuned:
        chosen = read_json(args.tuned)
        if not set(parts.TUNED) <= chosen.keys():
            raise DataError("not a tuned.json", where=args.tuned, remedy="make one with --tune")
        values = {name: chosen[name] for name in parts.TUNED} | values
    overrides = [f"{name}={value}" for name, value in values.items()]
    return load(DiarizeConfig, args.config, overrides)
