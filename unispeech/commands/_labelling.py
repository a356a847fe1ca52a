"""The steps of `label`: an extractor, centroids, labels of manifests and their quality."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unispeech.data.alignments import Alignment
from unispeech.data.clustering import (
    check_engine,
    fit_kmeans,
    gather,
    load_kmeans,
    sample,
    save_kmeans,
)
from unispeech.data.config import LabelConfig
from unispeech.data.features import Extractor, build_extractor
from unispeech.data.labelling import label_cuts, read_ahead
from unispeech.data.labels import LabelStore, LabelWriter, label_quality
from unispeech.data.shard_labels import sample_cuts
from unispeech.data.shards import ShardFolder
from unispeech.hub.load import load_model

Sets = Mapping[str, Sequence[Any]]
"""Cuts by the names of their manifests."""


def build(config: LabelConfig) -> Extractor:
    """The extractor of a configuration, on the GPU of this process where there is one."""
    if config.feature == "mfcc":
        return build_extractor(config)
    has_gpu = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if has_gpu else "cpu"
    return build_extractor(config, load_model(config.checkpoint, device))


def kmeans(
    folder: Path,
    origin: Mapping[str, Any],
    config: LabelConfig,
    extractor: Extractor,
    first: Sequence[Any],
    shards: ShardFolder | None,
) -> tuple[Any, float]:
    """Centroids `(K, D)` and inertia, fitted unless an interrupted run has done so.

    Args:
        folder: of the labels.
        origin: what the labels come from.
        config: share of the data and settings of the clustering.
        extractor: of the features.
        first: cuts of the first manifest, from which the share is taken where there are no shards.
        shards: from which the share is taken, or None.

    Raises:
        DependencyError: the engine of the clustering is not installed.
    """
    kept = load_kmeans(folder, origin)
    if kept is not None:
        return kept
    check_engine(config.kmeans)
    seed = config.kmeans.seed
    if shards is not None:
        chosen: Iterator[Any] = sample_cuts(shards, config.share, seed)
    else:
        chosen = iter(sample(first, config.share, seed))
    frames = gather(extractor.features(read_ahead(chosen)))
    print(
        f"clustering {len(frames):,} frames of {config.feature} into {config.kmeans.clusters}"
        f" ({frames.nbytes / 2**20:,.1f} MiB in memory)",
        flush=True,
    )
    centroids, inertia = fit_kmeans(frames, config.kmeans)
    save_kmeans(folder, centroids, inertia, origin)
    return centroids, inertia


def label_manifests(
    folder: Path, sets: Sets, extractor: Extractor, centroids: Any
) -> dict[str, Any]:
    """Label manifests and return their entries for `labels.json`."""
    entries = {}
    for name, cuts in sets.items():
        writer = LabelWriter(folder, name)
        for cut, labels in label_cuts(cuts, extractor, centroids):
            writer.add(cut.id, labels)
        entries[name] = writer.close()
        print(f"{name}: {entries[name]['utterances']} utterances, {entries[name]['frames']} labels")
    return entries


def quality(path: Path | None, folder: Path, sets: Sets, rate: int) -> dict[str, Any]:
    """Purity and PNMI of finished labels against the alignment in `path`, {} without one."""
    if path is None:
        print("no alignment given: label quality is not measured")
        return {}
    alignment = Alignment(path)
    store = LabelStore(folder, list(sets))

    def pairs() -> Iterator[tuple[Any, Any]]:
        for cut in (cut for cuts in sets.values() for cut in cuts if cut.id in alignment):
            labels = store.get(cut.id)
            yield labels, alignment.frames(cut.id, len(labels), rate)

    measured = label_quality(pairs())
    if measured:
        print(
            f"label quality: phone purity {measured['phone_purity']:.3f}, cluster purity"
            f" {measured['cluster_purity']:.3f}, PNMI {measured['pnmi']:.3f}"
            f" over {measured['frames']:,} frames"
        )
    else:
        print(f"{path}: aligns none of these utterances, label quality not measured")
    return dict(measured)
