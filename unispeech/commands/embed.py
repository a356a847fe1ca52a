"""Write one embedding of the speaker for each recording of a folder, a file or a manifest.

--output holds `embeddings.npy` float32 (recordings, width), `durations.npy`, `ids.txt` (paths below
the folder without suffix, or the ids of the cuts), `speakers.txt` and `embeddings.json`. Recordings
are encoded whole. What is there, of the same model and recordings, is not computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any

from unispeech.commands._embedding import add_audio_options, embed_cuts
from unispeech.errors import DataError, UsageError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", required=True, help="a speaker model: experiment or file")
    parser.add_argument("--wavs", required=True, type=Path, help="folder, audio file or manifest")
    parser.add_argument("--output", required=True, type=Path, help="folder for the embeddings")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, help="padded seconds of a batch (60)"
    )
    add_audio_options(parser)


def run(args: argparse.Namespace) -> None:
    """Embed every recording."""
    if args.batch_seconds <= 0:
        raise UsageError("--batch-seconds must be positive", found=args.batch_seconds)

    from unispeech.data.embeddings import ABOUT, describe, speaker_of, write_embeddings
    from unispeech.data.manifests import speaker
    from unispeech.data.recordings import find_recordings
    from unispeech.hub.speaker import load_speaker_model

    cuts = find_recordings(args.wavs)
    ids = [cut.id for cut in cuts]
    _refuse_repeated(ids, args.wavs)
    inputs = {
        "model_sha256": sha256(weights_file(args.model)),
        "inputs": _fingerprint(cuts),
        "resample": args.resample,
        "mono": args.mono,
    }
    if (args.output / ABOUT).is_file():
        about = describe(args.output)
        if all(about.get(name) == value for name, value in inputs.items()):
            print(f"{args.output}: {len(cuts)} embeddings  (already there, skipped)")
            return
    model = load_speaker_model(args.model, args.device)
    speakers = [speaker(cut) or speaker_of(cut.id) for cut in cuts]
    durations = [float(cut.duration) for cut in cuts]
    about = {"model": str(args.model), "seconds": round(sum(durations), 3), **inputs}
    began = time.perf_counter()
    batches = embed_cuts(model, cuts, args, args.batch_seconds)
    write_embeddings(args.output, ids, speakers, durations, batches, about)
    spent = time.perf_counter() - began
    print(
        f"{args.output}: {len(cuts)} embeddings of {sum(durations) / 3600:.2f} hours in "
        f"{spent:.1f} s ({sum(durations) / spent:.0f} seconds of audio each second)"
    )


def _fingerprint(cuts: list[Any]) -> str:
    """A digest of which parts of which files are meant, and of the files' sizes and times."""
    from unispeech.data.manifests import audio_file

    digest = hashlib.sha256()
    for cut in cuts:
        path = audio_file(cut)
        stat = path.stat() if path.is_file() else None
        size = (stat.st_size, stat.st_mtime_ns) if stat else ()
        digest.update(repr((cut.id, cut.start, cut.duration, *size)).encode())
    return digest.hexdigest()


def _refuse_repeated(ids: list[str], where: Path) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise DataError(
                f"two recordings are called {name}",
                where=where,
                remedy="give them different ids, or names that differ by more than the suffix",
            )
        seen.add(name)
