"""Transcribed batches and batches of audio alone in one stream (UniSpeech, equation 6)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from lhotse import CutSet
from torch.utils.data import Dataset, Sampler

from unispeech.data.datasets import CtcBatch, CtcDataset, PretrainBatch, PretrainDataset
from unispeech.data.sampling import BatchSpec, BatchStream, Position


class MixedSpec(NamedTuple):
    """The cuts of one batch, its place, and whether it is transcribed."""

    position: Position
    """Epoch 0; the batch counts both kinds."""
    cuts: CutSet
    is_transcribed: bool
    own: Position
    """Place in the stream of its kind, which seeds its draws."""


class MixedStream(Sampler[MixedSpec]):
    """Two endless streams in a fixed order.

    Batch n is of audio alone whenever n * share passes a whole number. To continue at a batch,
    both streams are run through from their beginning, which reads manifests but no audio.

    Args:
        transcribed: batches with targets.
        audio: batches of audio alone, or None.
        share: of the batches that are of audio alone, in [0, 1).
        start: first batch to yield.
    """

    def __init__(
        self, transcribed: BatchStream, audio: BatchStream | None, share: float, start: int = 0
    ) -> None:
        self.transcribed = transcribed
        self.audio = audio
        self.share = share if audio is not None else 0.0
        self.start = start

    def __iter__(self) -> Iterator[MixedSpec]:
        taken = math.floor(self.start * self.share)
        transcribed = itertools.islice(self.transcribed, self.start - taken, None)
        audio: Iterator[BatchSpec] = iter(())
        if self.audio is not None:
            audio = itertools.islice(self.audio, taken, None)
        for number in itertools.count(self.start):
            is_audio = math.floor((number + 1) * self.share) > math.floor(number * self.share)
            spec = next(audio if is_audio else transcribed)
            yield MixedSpec(Position(0, number), spec.cuts, not is_audio, spec.position)


class MultitaskDataset(Dataset[CtcBatch | PretrainBatch]):
    """Reads batches of both kinds.

    Args:
        transcribed: reads whole utterances with targets.
        audio: reads pieces of utterances.
    """

    def __init__(self, transcribed: CtcDataset, audio: PretrainDataset) -> None:
        self.transcribed = transcribed
        self.audio = audio

    def __getitem__(self, spec: MixedSpec) -> CtcBatch | PretrainBatch:
        dataset = self.transcribed if spec.is_transcribed else self.audio
        batch = dataset[BatchSpec(spec.own, spec.cuts)]
        return batch._replace(position=spec.position)
