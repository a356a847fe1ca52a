"""Cluster frames into labels for masked prediction, one model for all manifests.

The k-means model is fitted on a share of the first manifest's utterances, or of the shards;
features are computed, on the GPU where there is one, as they are needed and never written.
`labels.json` holds the rate, the origin and checksums, and phone purity and PNMI where
`--alignment` is given. Shards are labelled one by one, spread over the processes of
`utils/launch.sh label`; those that are done are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from unispeech.config import dump, load
from unispeech.data.config import LabelConfig
from unispeech.errors import UsageError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--config", action="append", default=[], help="YAML file, repeatable")
    parser.add_argument("--output", type=Path, required=True, help="folder of this label set")
    parser.add_argument("--alignment", type=Path, help="CTM of phones, to measure the labels")
    parser.add_argument("--manifests", nargs="+", type=Path, default=[], help="what to label")
    parser.add_argument("--shards", type=Path, help="folder of shards to label")
    parser.add_argument(
        "--verify", action="store_true", help="only check the labels of --shards in --output"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override the files")


def run(args: argparse.Namespace) -> None:
    """Fit, label and describe.

    Raises:
        UsageError: there is nothing to label.
        DataProblems: with `--verify`, labels that are not as they were written.
    """
    if args.shards is None and (args.verify or not args.manifests):
        raise UsageError("nothing to label", expected="--manifests or --shards")
    if args.verify:
        _verify(args)
        return
    config = load(LabelConfig, args.config, args.overrides)
    origin = _origin(config, args)
    rank, world_size = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    done = args.output / "labels.json"
    if done.is_file() and json.loads(done.read_text())["origin"] == origin:
        if rank == 0:
            print(f"{args.output}: labels are there, skipped")
        return
    if rank and args.shards is None:
        return

    # Imported only now: skipping what is there takes no time.
    from unispeech.commands import _labelling
    from unispeech.data.clustering import wait_for_kmeans
    from unispeech.data.labels import manifest_name, write_description
    from unispeech.data.manifests import load_cuts
    from unispeech.data.shard_labels import label_shards
    from unispeech.data.shards import ShardFolder

    shards = ShardFolder(args.shards) if args.shards else None
    extractor = _labelling.build(config)
    if rank and shards is not None:
        centroids = wait_for_kmeans(args.output, origin)
        label_shards(args.output, shards, extractor, centroids, rank, world_size)
        return
    done.unlink(missing_ok=True)
    sets = {manifest_name(path): list(load_cuts(path)) for path in args.manifests}
    first = next(iter(sets.values()), [])
    centroids, inertia = _labelling.kmeans(args.output, origin, config, extractor, first, shards)
    entries = _labelling.label_manifests(args.output, sets, extractor, centroids)
    of_shards = None
    if shards is not None:
        of_shards = label_shards(args.output, shards, extractor, centroids, rank, world_size)
    facts = (args.output, extractor.rate, config.kmeans.clusters, origin, entries)
    write_description(*facts, shards=of_shards)
    quality = _labelling.quality(args.alignment, args.output, sets, extractor.rate)
    write_description(*facts, {**quality, "inertia": inertia}, of_shards)


def _verify(args: argparse.Namespace) -> None:
    from unispeech.data.shard_labels import verify_labels
    from unispeech.data.shards import ShardFolder

    print(verify_labels(args.output, ShardFolder(args.shards)))


def _origin(config: LabelConfig, args: argparse.Namespace) -> dict[str, Any]:
    # The default engine is not said, so that labels of versions without the setting are kept.
    settings = dump(config).replace("  engine: sklearn\n", "")
    origin: dict[str, Any] = {"config": hashlib.sha256(settings.encode()).hexdigest()}
    origin |= {"feature": config.feature, "layer": config.layer}
    if config.feature == "layer":
        origin["checkpoint_sha256"] = sha256(weights_file(config.checkpoint))
    origin["manifests"] = {str(path): sha256(path) for path in args.manifests if path.is_file()}
    description = (args.shards or Path()) / "shards.json"
    if args.shards and description.is_file():
        origin["shards"] = {str(args.shards): sha256(description)}
    return origin
