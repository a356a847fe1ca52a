"""Write a manifest as lhotse Shar shards, the training format of large corpora.

Cuts become FLAC in tar files that are read from start to end. Shards are written in the manifest's
order: mix it first (`local/mix.py`). The command continues where it was stopped; shards that are
there and whole are kept.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from unispeech.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--manifest", type=Path, help="what to write, `.jsonl.gz`")
    parser.add_argument("--output", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--shard-size", type=int, default=1000, help="cuts in a shard (1000)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (one for each core)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="only compare every file with its checksum"
    )


def run(args: argparse.Namespace) -> None:
    """Write or verify the shards.

    Raises:
        UsageError: a number below 1, or no manifest.
        DataProblems: with `--verify`, files that are not as they were written.
    """
    from unispeech.data.shard_export import export_shards
    from unispeech.data.shards import ShardFolder

    if args.verify:
        ShardFolder(args.output).verify()
        print(f"{args.output}: every shard is as it was written")
        return
    if args.manifest is None:
        raise UsageError("--manifest is missing", remedy="name the manifest to write, or --verify")
    for name in ("shard_size", "jobs"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    facts = export_shards(args.manifest, args.output, args.shard_size, args.jobs)
    hours = facts["seconds"] / 3600
    print(f"{args.output}: {facts['shards']} shards, {facts['cuts']} utterances, {hours:,.3f} h")
