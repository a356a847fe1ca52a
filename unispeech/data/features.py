"""Frame features that are clustered into labels, and the labels themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unispeech.data.clustering import nearest_centroid, nearest_on_device
from unispeech.data.config import LabelConfig
from unispeech.data.labels import Labels
from unispeech.data.manifests import SAMPLING_RATE
from unispeech.data.mfcc import SHIFT, mfcc39
from unispeech.errors import ConfigError

FloatArray = npt.NDArray[np.float32]

CHUNK_SAMPLES = 1_600_000
"""Longest piece, and largest padded batch, that an encoder sees."""
WINDOW_SAMPLES = 8 * CHUNK_SAMPLES
"""Audio within which pieces of similar lengths are put into batches."""


class Extractor(Protocol):
    """Waveforms to frame features or labels, in their order."""

    rate: int
    """Frames per second."""

    def features(self, waveforms: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """`(N,)` float32 at 16 kHz to `(T, D)` float32, each."""
        ...

    def labels(self, waveforms: Iterable[FloatArray], centroids: FloatArray) -> Iterator[Labels]:
        """`(N,)` float32 at 16 kHz to `(T,)` uint16, each: the nearest of `(K, D)` centroids."""
        ...


class MfccExtractor:
    """39 MFCC at 100 Hz.

    Args:
        cmvn: normalise the cepstra of each utterance.
    """

    rate = SAMPLING_RATE // SHIFT

    def __init__(self, cmvn: bool) -> None:
        self.cmvn = cmvn

    def features(self, waveforms: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """`(N,)` to `(T, 39)`, each."""
        for waveform in waveforms:
            yield mfcc39(waveform, self.cmvn)

    def labels(self, waveforms: Iterable[FloatArray], centroids: FloatArray) -> Iterator[Labels]:
        """`(N,)` to `(T,)` uint16, each."""
        for features in self.features(waveforms):
            yield nearest_centroid(features, centroids)


class _Piece(NamedTuple):
    audio: FloatArray
    is_last: bool
    """Of its recording."""


class _Batch(NamedTuple):
    pieces: list[int]
    """Numbers in the window."""
    values: Tensor
    """`(B, T, ...)` on the host, perhaps still on its way."""
    lengths: Tensor
    """`(B,)` valid frames, likewise."""


Values = npt.NDArray[Any]
Found = tuple[_Piece, Values | None]
"""A piece and `(T, ...)` of its frames; None where it is too short to have any."""
Reduce = Callable[[Tensor], Tensor]
"""States `(B, T, D)` to what is wanted of them, `(B, T, ...)`, on their device."""


class LayerExtractor:
    """States of one layer of a trained encoder, or their labels.

    Long recordings are encoded in chunks of 100 s that do not overlap, as the reference does.
    Utterances of similar lengths are encoded together. While a device works on one window, the host
    reads the next and writes the one before; of labels, only their numbers leave the device.

    Args:
        encoder: a `unispeech.models.encoder.Encoder` in evaluation mode, to which padding makes no
            difference (its `exact` rule).
        layer: index into its states, 0 to L.

    Raises:
        ConfigError: there is no such layer.
    """

    def __init__(self, encoder: Any, layer: int) -> None:
        if layer > encoder.config.layers:
            raise ConfigError(
                "no such layer", expected=f"0 to {encoder.config.layers}", found=layer
            )
        self.encoder = encoder
        self.layer = layer
        self.rate = SAMPLING_RATE // encoder.config.hop
        self.device: torch.device = next(encoder.parameters()).device

    def features(self, waveforms: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """`(N,)` to `(T, D)`, each."""
        empty = np.zeros((0, self.encoder.config.dim), np.float32)
        for found in self._results(waveforms, torch.Tensor.float):
            yield np.concatenate([empty, *found])

    def labels(self, waveforms: Iterable[FloatArray], centroids: FloatArray) -> Iterator[Labels]:
        """`(N,)` to `(T,)` uint16, each."""
        kept = torch.from_numpy(centroids).to(self.device)
        for found in self._results(waveforms, lambda states: nearest_on_device(states, kept)):
            yield np.concatenate([np.zeros(0, np.uint16), *found]).astype(np.uint16)

    def _results(self, waveforms: Iterable[FloatArray], reduce: Reduce) -> Iterator[list[Values]]:
        """What `reduce` makes of the states of each recording: `(T, ...)` of each chunk."""
        found: list[Values] = []
        for piece, values in self._pieces(waveforms, reduce):
            if values is not None:
                found.append(values)
            if piece.is_last:
                yield found
                found = []

    def _pieces(self, waveforms: Iterable[FloatArray], reduce: Reduce) -> Iterator[Found]:
        begun: Iterator[Found] = iter(())
        for window in _windows(waveforms):
            following = self._begin(window, reduce)
            yield from begun
            begun = following
        yield from begun

    def _begin(self, window: list[_Piece], reduce: Reduce) -> Iterator[Found]:
        """Give the device all work of a window; the results are waited for when they are read."""
        batches = []
        with torch.inference_mode():
            for numbers in _batches(window, self.encoder.config.receptive_field):
                states, lengths = self._states([window[number].audio for number in numbers])
                # On a GPU these are copies to pinned memory that the host does not wait for.
                sent = [x.to("cpu", non_blocking=True) for x in (reduce(states), lengths)]
                batches.append(_Batch(numbers, *sent))
        arrived = None
        if self.device.type == "cuda":
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(self.device))
        return _collect(window, batches, arrived)

    def _states(self, waveforms: list[FloatArray]) -> tuple[Tensor, Tensor]:
        """States `(B, T, D)` of a batch and the valid frames `(B,)` of each."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        shape = (len(waveforms), int(lengths.max()))
        padded = torch.zeros(shape, pin_memory=self.device.type == "cuda")
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        is_ragged = bool((lengths < shape[1]).any())
        # The layers behind the wanted one are not run. Behind the last one there may be a norm.
        is_top = self.layer == self.encoder.config.layers
        output = self.encoder(
            padded.to(self.device, non_blocking=True),
            lengths.to(self.device) if is_ragged else None,
            until=self.layer,
            keep=is_top,
        )
        return output.layers[-1] if is_top else output.last, output.lengths


def _windows(waveforms: Iterable[FloatArray]) -> Iterator[list[_Piece]]:
    """Chunks of the recordings, in lists of so much audio as is sorted together."""
    window: list[_Piece] = []
    samples = 0
    for waveform in waveforms:
        for start in range(0, max(len(waveform), 1), CHUNK_SAMPLES):
            end = start + CHUNK_SAMPLES
            window.append(_Piece(waveform[start:end], end >= len(waveform)))
            samples += len(window[-1].audio)
            if samples >= WINDOW_SAMPLES:
                yield window
                window, samples = [], 0
    if window:
        yield window


def _batches(window: list[_Piece], smallest: int) -> Iterator[list[int]]:
    """Numbers of pieces that are encoded together, the longest first.

    Pieces that are too short for a frame are left out.
    """
    sizes = [len(piece.audio) for piece in window]
    usable = [number for number, size in enumerate(sizes) if size >= smallest]
    batch: list[int] = []
    for number in sorted(usable, key=sizes.__getitem__, reverse=True):
        if batch and (len(batch) + 1) * sizes[batch[0]] > CHUNK_SAMPLES:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _collect(
    window: list[_Piece], batches: list[_Batch], arrived: torch.cuda.Event | None
) -> Iterator[Found]:
    """The pieces of a window with their results, once these have arrived."""
    if arrived is not None:
        arrived.synchronize()
    found: list[Values | None] = [None] * len(window)
    for batch in batches:
        values, lengths = batch.values.numpy(), batch.lengths.tolist()
        for row, number in enumerate(batch.pieces):
            found[number] = values[row, : lengths[row]]
    yield from zip(window, found, strict=True)


def build_extractor(config: LabelConfig, encoder: Any = None) -> Extractor:
    """The extractor of a configuration; `encoder` is needed for the features of a layer."""
    if config.feature == "mfcc":
        return MfccExtractor(config.cmvn)
    return LayerExtractor(encoder, config.layer)
