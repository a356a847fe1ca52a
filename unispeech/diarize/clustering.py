"""Clustering of speaker vectors in which those of one chunk never meet."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import AgglomerativeClustering

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

CANNOT_LINK = 1e4
"""Least distance between vectors of one chunk."""
FARTHEST = 2.5
"""Above every distance of two unit vectors, below every mean with a forbidden pair in it."""
MOST = 1500
"""Vectors that are compared at once, with 18 MB of distances; more are clustered in sections."""
ROUNDS = 20


def cluster(
    vectors: FloatArray,
    chunks: IntArray,
    distance: float = 1.0,
    speakers: int | None = None,
    most: int = MOST,
) -> IntArray:
    """Speakers of local vectors: no two vectors of one chunk have the same.

    Average linkage on Euclidean distances of unit vectors. A forbidden pair is so far apart that
    the mean of no two clusters that it would join is within reach. With a given number of
    speakers, where joining gets stuck above it, each chunk's vectors are matched one to one with
    the largest clusters.

    Args:
        vectors: `(n, E)`, of any length but zero.
        chunks: `(n,)` the chunk of each.
        distance: clusters are joined up to this mean distance, at most 2.
        speakers: their number; None for as many as there are.
        most: vectors that are compared at once.

    Returns:
        `(n,)` numbers of speakers from 0, by first appearance. There are fewer than `speakers`
        where there are fewer vectors.

    Raises:
        ValueError: a chunk has more vectors than there are speakers.
    """
    if len(vectors) == 0:
        return np.zeros(0, dtype=np.int64)
    if speakers is not None and max(Counter(chunks.tolist()).values()) > speakers:
        raise ValueError(f"a chunk has more vectors than {speakers} speakers")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    incidence = _incidence(np.arange(len(chunks)), chunks)
    labels = _in_sections(unit, incidence, distance, speakers, most)
    if speakers is not None and labels.max() >= speakers:
        labels = _matched(unit, chunks, labels, speakers)
    return _by_appearance(separated(labels, chunks))


def separated(labels: IntArray, chunks: IntArray) -> IntArray:
    """The labels, but of vectors of one chunk with one label all but the first get new ones."""
    labels = labels.copy()
    seen: set[tuple[int, int]] = set()
    free = int(labels.max(initial=-1)) + 1
    for row, pair in enumerate(zip(chunks.tolist(), labels.tolist(), strict=True)):
        if pair in seen:
            labels[row], free = free, free + 1
        seen.add(pair)
    return labels


def _in_sections(
    unit: FloatArray,
    incidence: scipy.sparse.csr_array,
    distance: float,
    speakers: int | None,
    most: int,
) -> IntArray:
    """Labels of items; many are first joined section by section, then their means are.

    `incidence` is `(n, chunks)`: the chunks that each item has vectors of.
    """
    count = len(unit)
    if count <= most:
        return _agglomerate(unit, incidence, distance, speakers)
    parts, first = np.zeros(count, dtype=np.int64), 0
    for start in range(0, count, most):
        rows = slice(start, start + most)
        parts[rows] = first + _agglomerate(unit[rows], incidence[rows], distance, None)
        first = int(parts[rows].max()) + 1
    if first == count:
        return _agglomerate(unit, incidence, distance, speakers)
    members = _incidence(parts, np.arange(count))
    sums = members @ unit
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    joined = _in_sections(means, members @ incidence, distance, speakers, most)
    return joined[parts]


def _agglomerate(
    unit: FloatArray,
    incidence: scipy.sparse.csr_array,
    distance: float,
    speakers: int | None,
) -> IntArray:
    """Labels of average linkage, never across a forbidden pair, or more than `speakers` of them."""
    count = len(unit)
    if count <= (speakers or 1):
        return np.arange(count)
    distances = np.sqrt(np.maximum(2.0 - 2.0 * unit @ unit.T, 0.0))
    # A mean over a by b pairs, of which one is forbidden, is at least this / (a b), a + b <= n.
    distances[(incidence @ incidence.T).toarray() > 0] = max(CANNOT_LINK, float(count * count))
    np.fill_diagonal(distances, 0.0)
    reach = distance if speakers is None else FARTHEST
    labels = _cut(distances, distance_threshold=reach, n_clusters=None)
    if speakers is not None and labels.max() < speakers:
        labels = _cut(distances, n_clusters=speakers)
    return labels


def _cut(distances: FloatArray, **where: float | int | None) -> IntArray:
    model = AgglomerativeClustering(metric="precomputed", linkage="average", **where)
    return np.asarray(model.fit_predict(distances), dtype=np.int64)


def _matched(unit: FloatArray, chunks: IntArray, labels: IntArray, speakers: int) -> IntArray:
    """Labels below `speakers`: vectors matched with the largest clusters, as k-means would."""
    sizes = np.bincount(labels)
    kept = np.argsort(-sizes, kind="stable")[:speakers]
    centres = np.stack([unit[labels == one].sum(0) for one in kept])
    order = np.argsort(chunks, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1)
    found = np.full(len(unit), -1)
    for _ in range(ROUNDS):
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        before = found.copy()
        for rows in groups:
            own, columns = linear_sum_assignment(-unit[rows] @ centres.T)
            found[rows[own]] = columns
        if np.array_equal(before, found):
            break
        for one in range(speakers):
            if (found == one).any():
                centres[one] = unit[found == one].sum(0)
    return found


def _incidence(rows: IntArray, columns: IntArray) -> scipy.sparse.csr_array:
    """Matrix `(rows, columns)` with 1 at the given places."""
    _, numbers = np.unique(columns, return_inverse=True)
    ones = np.ones(len(rows), dtype=np.int64)
    return scipy.sparse.csr_array((ones, (rows, numbers)))


def _by_appearance(labels: IntArray) -> IntArray:
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[numbers], dtype=np.int64)
