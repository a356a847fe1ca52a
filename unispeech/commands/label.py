"""Cluster frames into labels for masked prediction, one model for all manifests.

The k-means model is fitted on a share of the first manifest's utterances; features are computed
utterance by utterance and never written. `labels.json` holds the rate, the origin and checksums,
and phone purity and PNMI where `--alignment` is given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unispeech.config import dump, load
from unispeech.data.alignments import Alignment
from unispeech.data.config import LabelConfig
from unispeech.data.labels import (
    LabelStore,
    LabelWriter,
    fit_kmeans,
    label_quality,
    manifest_name,
    nearest_centroid,
    write_description,
)
from unispeech.hub.registry import weights_file
from unispeech.storage import atomic_path, sha256

if TYPE_CHECKING:
    from unispeech.data.features import Extractor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--config", action="append", default=[], help="YAML file, repeatable")
    parser.add_argument("--output", type=Path, required=True, help="folder of this label set")
    parser.add_argument("--alignment", type=Path, help="CTM of phones, to measure the labels")
    parser.add_argument("--manifests", nargs="+", type=Path, required=True, help="what to label")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override the files")


def run(args: argparse.Namespace) -> None:
    """Fit, label and describe."""
    config = load(LabelConfig, args.config, args.overrides)
    origin = _origin(config, args.manifests)
    done = args.output / "labels.json"
    if done.is_file() and json.loads(done.read_text())["origin"] == origin:
        print(f"{args.output}: labels are there, skipped")
        return

    # Imported only now: skipping what is there takes no time.
    from unispeech.data.features import build_extractor
    from unispeech.data.manifests import load_cuts, read_audio
    from unispeech.hub.load import load_model

    encoder = None if config.feature == "mfcc" else load_model(config.checkpoint)
    extractor = build_extractor(config, encoder)
    sets = {manifest_name(path): list(load_cuts(path)) for path in args.manifests}
    first = next(iter(sets.values()))
    sample = _sample(extractor, first, config)
    print(f"clustering {len(sample):,} frames of {config.feature} into {config.kmeans.clusters}")
    centroids, inertia = fit_kmeans(sample, config.kmeans)
    args.output.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.output / "kmeans.npy") as temporary, temporary.open("wb") as file:
        np.save(file, centroids)
    entries = {}
    for name, cuts in sets.items():
        writer = LabelWriter(args.output, name)
        for cut in cuts:
            writer.add(cut.id, nearest_centroid(extractor.features(read_audio(cut)), centroids))
        entries[name] = writer.close()
        print(f"{name}: {entries[name]['utterances']} utterances, {entries[name]['frames']} labels")
    clusters = config.kmeans.clusters
    write_description(args.output, extractor.rate, clusters, origin, entries)
    quality = _quality(args, sets, extractor.rate)
    write_description(
        args.output, extractor.rate, clusters, origin, entries, {**quality, "inertia": inertia}
    )


def _origin(config: LabelConfig, paths: list[Path]) -> dict[str, Any]:
    origin: dict[str, Any] = {"config": hashlib.sha256(dump(config).encode()).hexdigest()}
    origin |= {"feature": config.feature, "layer": config.layer}
    if config.feature == "layer":
        origin["checkpoint_sha256"] = sha256(weights_file(config.checkpoint))
    origin["manifests"] = {str(path): sha256(path) for path in paths if path.is_file()}
    return origin


def _sample(extractor: Extractor, cuts: list[Any], config: LabelConfig) -> Any:
    from unispeech.data.manifests import read_audio

    rng = np.random.default_rng(config.kmeans.seed)
    count = max(1, round(config.share * len(cuts)))
    chosen = rng.choice(len(cuts), count, replace=False)
    return np.concatenate([extractor.features(read_audio(cuts[i])) for i in sorted(chosen)])


def _quality(args: argparse.Namespace, sets: dict[str, list[Any]], rate: int) -> dict[str, Any]:
    if args.alignment is None:
        print("no alignment given: label quality is not measured")
        return {}
    alignment = Alignment(args.alignment)
    store = LabelStore(args.output, list(sets))

    def pairs() -> Iterator[tuple[Any, Any]]:
        for cut in (cut for cuts in sets.values() for cut in cuts if cut.id in alignment):
            labels = store.get(cut.id)
            yield labels, alignment.frames(cut.id, len(labels), rate)

    quality = label_quality(pairs())
    if quality:
        print(
            f"label quality: phone purity {quality['phone_purity']:.3f}, cluster purity"
            f" {quality['cluster_purity']:.3f}, PNMI {quality['pnmi']:.3f}"
            f" over {quality['frames']:,} frames"
        )
    else:
        print(f"{args.alignment}: aligns none of these utterances, label quality not measured")
    return quality
