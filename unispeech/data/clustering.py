"""K-means of frames: samples, centroids, and the nearest one of each frame."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unispeech.data.config import KMeansConfig
from unispeech.data.labels import Labels
from unispeech.errors import DataError, DependencyError
from unispeech.storage import atomic_path, sha256, write_json

FloatArray = npt.NDArray[np.float32]

POLL_SECONDS = 1.0
START_FRAMES = 64
"""Frames for each cluster from which k-means++ draws the first centroids for faiss; scikit-learn's
mini-batches take as many for 500 clusters."""


def gather(features: Iterable[FloatArray]) -> FloatArray:
    """Frames `(N, D)` of many utterances `(T, D)`, as they come.

    The array grows in place: little more than its own size is ever held, where a list that is
    concatenated at the end needs twice that.
    """
    frames = np.zeros((0, 0), np.float32)
    used = 0
    for piece in features:
        if used == 0:
            frames = np.zeros((0, piece.shape[1]), np.float32)
        needed = used + len(piece)
        if needed > len(frames):
            frames.resize((needed + needed // 4, piece.shape[1]), refcheck=False)
        frames[used:needed] = piece
        used = needed
    frames.resize((used, *frames.shape[1:]), refcheck=False)
    return frames


def sample(cuts: Sequence[Any], share: float, seed: int) -> list[Any]:
    """A random share of the cuts, at least one, in their order."""
    count = max(1, round(share * len(cuts)))
    chosen = np.random.default_rng(seed).choice(len(cuts), count, replace=False)
    return [cuts[index] for index in sorted(chosen)]


def check_engine(config: KMeansConfig) -> None:
    """Raise a DependencyError when the engine of a configuration is not installed."""
    if config.engine == "faiss":
        _faiss()


def fit_kmeans(features: FloatArray, config: KMeansConfig) -> tuple[FloatArray, float]:
    """Cluster frames.

    Args:
        features: `(N, D)` float32.
        config: the engine and its settings.

    Returns:
        Centroids `(K, D)` float32 and the mean squared distance to the nearest one.

    Raises:
        DataError: fewer frames than clusters.
        DependencyError: the engine is not installed.
    """
    if len(features) < config.clusters:
        raise DataError(
            "too few frames to cluster",
            expected=f"at least {config.clusters}",
            found=len(features),
            remedy="use more utterances (share) or fewer clusters",
        )
    return (_fit_faiss if config.engine == "faiss" else _fit_sklearn)(features, config)


def _fit_sklearn(features: FloatArray, config: KMeansConfig) -> tuple[FloatArray, float]:
    from sklearn.cluster import MiniBatchKMeans  # a second of import that readers do not need

    settings = config.model_dump(exclude={"engine", "clusters", "seed"})
    model = MiniBatchKMeans(
        config.clusters, random_state=config.seed, compute_labels=False, **settings
    ).fit(features)
    inertia = -float(model.score(features)) / len(features)
    return model.cluster_centers_.astype(np.float32), inertia


def _fit_faiss(features: FloatArray, config: KMeansConfig) -> tuple[FloatArray, float]:
    faiss = _faiss()
    from sklearn.cluster import kmeans_plusplus

    first = None
    if config.init == "k-means++":
        count = min(len(features), START_FRAMES * config.clusters)
        rng = np.random.default_rng(config.seed)
        chosen = np.sort(rng.choice(len(features), count, replace=False))
        first, _ = kmeans_plusplus(features[chosen], config.clusters, random_state=config.seed)
    model = faiss.Kmeans(
        features.shape[1],
        config.clusters,
        niter=config.max_iter,
        seed=config.seed,
        gpu=True,  # all that faiss sees; a build for CPUs sees none
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),  # all frames, not a sample of them
    )
    model.train(features, init_centroids=first)
    distances, _ = model.assign(features)
    return np.asarray(model.centroids, np.float32), float(distances.mean(dtype=np.float64))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise DependencyError(
            "kmeans.engine=faiss needs faiss",
            found=error,
            remedy="pip install -c constraints.txt -e '.[faiss]' (for GPUs faiss-gpu-cu12 instead),"
            " or set kmeans.engine=sklearn",
        ) from None
    return faiss


def save_kmeans(
    folder: Path,
    centroids: FloatArray,
    inertia: float,
    origin: Mapping[str, Any],
) -> None:
    """Keep centroids `(K, D)`, and then from what they come."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kmeans.json").unlink(missing_ok=True)
    path = folder / "kmeans.npy"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, centroids)
    facts = {"origin": dict(origin), "inertia": inertia, "sha256": sha256(path)}
    write_json(folder / "kmeans.json", facts)


def load_kmeans(folder: Path, origin: Mapping[str, Any]) -> tuple[FloatArray, float] | None:
    """Centroids and their mean squared distance, None unless they come from `origin`."""
    path = folder / "kmeans.npy"
    try:
        facts = json.loads((folder / "kmeans.json").read_text(encoding="utf-8"))
        if facts["origin"] != origin or facts["sha256"] != sha256(path):
            return None
        return np.load(path, allow_pickle=False), float(facts["inertia"])
    except (OSError, ValueError, KeyError):
        return None


def wait_for_kmeans(folder: Path, origin: Mapping[str, Any]) -> FloatArray:
    """The centroids that another process is fitting, as soon as they are there."""
    while (kept := load_kmeans(folder, origin)) is None:
        time.sleep(POLL_SECONDS)
    return kept[0]


def nearest_centroid(features: FloatArray, centroids: FloatArray) -> Labels:
    """Index of the nearest centroid for each frame, the lowest index on ties.

    Args:
        features: `(T, D)`.
        centroids: `(K, D)`.

    Returns:
        `(T,)` uint16.
    """
    distance = (centroids**2).sum(1) - 2.0 * features @ centroids.T
    return np.asarray(distance.argmin(1), dtype=np.uint16)


def nearest_on_device(states: Tensor, centroids: Tensor) -> Tensor:
    """`nearest_centroid` where the states are, in float32 whatever they come in.

    Args:
        states: `(..., D)` floats.
        centroids: `(K, D)` float32 on the same device.

    Returns:
        `(...)` int32.
    """
    with torch.autocast(states.device.type, enabled=False):
        distance = centroids.square().sum(1) - 2.0 * states.float() @ centroids.T
        return distance.argmin(-1).int()
