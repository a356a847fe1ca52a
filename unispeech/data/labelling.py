"""Cuts to labels as a stream: read ahead, encoded together, handed on in their order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from lhotse import MonoCut

from unispeech.data.features import WINDOW_SAMPLES, Extractor
from unispeech.data.labels import Labels
from unispeech.data.manifests import read_audio

FloatArray = npt.NDArray[np.float32]

READERS = 4
"""Threads that decode; FLAC is decoded outside of Python's lock."""


def read_ahead(cuts: Iterable[MonoCut]) -> Iterator[FloatArray]:
    """The waveforms of cuts, read by threads as far ahead as one window of an encoder.

    Raises:
        DataError: a cut cannot be read.
    """
    waiting: deque[tuple[int, Future[FloatArray]]] = deque()
    samples = 0
    with ThreadPoolExecutor(READERS) as pool:
        for cut in cuts:
            waiting.append((cut.num_samples, pool.submit(read_audio, cut)))
            samples += cut.num_samples
            while samples > WINDOW_SAMPLES:
                size, future = waiting.popleft()
                yield future.result()
                samples -= size
        for _, future in waiting:
            yield future.result()


def label_cuts(
    cuts: Iterable[MonoCut], extractor: Extractor, centroids: FloatArray
) -> Iterator[tuple[MonoCut, Labels]]:
    """Each cut with its labels `(T,)` uint16.

    Args:
        cuts: read once, a window or two ahead of what is handed on.
        extractor: of the features.
        centroids: `(K, D)`.

    Raises:
        DataError: a cut cannot be read.
    """
    own, read = itertools.tee(cuts)
    yield from zip(own, extractor.labels(read_ahead(read), centroids), strict=True)
