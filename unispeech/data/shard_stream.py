"""Batches from shards: which cuts, in which order, on which process and worker.

The shards are read in an endless sequence, one shuffle of all of them after the other; reader r of
R (workers times processes) takes the r-th, the (r + R)-th, ... of that sequence. A reader keeps a
buffer of cuts in buckets of similar duration and draws batches from it. Cuts before a position
cannot be skipped without reading them, so a run that continues does not repeat the order it would
have had: it begins the interrupted epoch anew with seeds of (seed, epoch, batch).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from lhotse import MonoCut
from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

from unispeech.data.config import BatchingConfig, CropConfig
from unispeech.data.sampling import BEGINNING, BatchSpec, Position, stable_seed
from unispeech.data.shard_labels import ShardLabels
from unispeech.data.shards import ShardFolder
from unispeech.errors import DataError

Usable = Callable[[MonoCut], MonoCut | None]

DURATIONS = 4000
"""Cuts whose durations decide where the buckets begin."""


class ShardStream:
    """Endless batches of similar durations from shards.

    Args:
        shards: the audio.
        labels: of the same shards, or None for objectives without labels.
        config: batch size, buckets and buffer.
        crop: durations that cuts will have.
        seed: of shuffling.
        rank: of this process.
        world_size: number of processes.
        start: position of the first batch; anything but the beginning re-seeds.
    """

    def __init__(
        self,
        shards: ShardFolder,
        labels: ShardLabels | None,
        config: BatchingConfig,
        crop: CropConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: Position = BEGINNING,
    ) -> None:
        self.shards = shards
        self.labels = labels
        self.config = config
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.seed = seed if start == BEGINNING else stable_seed(seed, "continue", *start)
        self._bins = _duration_bins(shards.durations(DURATIONS), crop, config.buckets)

    def describe(self) -> str:
        """One line on where the stream begins and what its order depends on."""
        what = f"{self.shards.path}: {self.shards.count} shards, {self.shards.cuts} utterances"
        if self.start == BEGINNING:
            return f"{what}; order of seed {self.seed}"
        return (
            f"{what}; continuing after batch {self.start.batch}: epoch {self.start.epoch} begins"
            f" anew, order and draws re-seeded from (seed, epoch, batch) with {self.seed}"
        )

    def specs(self, usable: Usable, worker: int = 0, workers: int = 1) -> Iterator[BatchSpec]:
        """The batches of one worker of this process, without end.

        Batches are numbered as a loader that asks its workers in turn hands them on.

        Args:
            usable: gives each cut the duration it will have, or None to leave it out.
            worker: number of the worker.
            workers: how many this process has.

        Raises:
            DataError: a shard is damaged, labels do not fit, or no cut is usable.
        """
        reader = worker * self.world_size + self.rank
        source = _Reader(self, usable, reader, workers * self.world_size)
        with warnings.catch_warnings():
            # The buffer is a setting; small corpora cannot fill it.
            warnings.filterwarnings("ignore", message="Your 'buffer_size' setting")
            warnings.filterwarnings("ignore", message="Mean of empty slice")
            warnings.filterwarnings("ignore", message="invalid value encountered")
            sampler = DynamicBucketingSampler(
                source,
                max_duration=self.config.max_seconds,
                duration_bins=self._bins,
                buffer_size=self.config.shuffle_buffer,
                shuffle=True,
                seed=stable_seed(self.seed, "buffer", reader),
                rank=0,
                world_size=1,
            )
            batches = enumerate(sampler)
            for index, cuts in batches:
                number = self.start.batch + index * workers + worker
                if self.labels is not None:
                    self.labels.hold(cuts)
                yield BatchSpec(Position(source.epoch, number), cuts)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The shards in the order of one epoch, the same for every reader."""
        rng = np.random.default_rng(stable_seed(self.seed, "shards", epoch))
        return rng.permutation(self.shards.count)


class _Reader:
    """The cuts of one reader's shards, epoch after epoch."""

    def __init__(self, stream: ShardStream, usable: Usable, reader: int, readers: int) -> None:
        self.stream = stream
        self.usable = usable
        self.reader = reader
        self.readers = readers
        self.epoch = stream.start.epoch

    def __iter__(self) -> Iterator[MonoCut]:
        shards, labels = self.stream.shards, self.stream.labels
        fruitless = 0
        order, ordered = self.stream.order(self.epoch), self.epoch
        for place in itertools.count(self.reader, self.readers):
            turn, offset = divmod(place, shards.count)
            self.epoch = self.stream.start.epoch + turn
            if ordered != self.epoch:
                order, ordered = self.stream.order(self.epoch), self.epoch
            index = int(order[offset])
            fruitless += 1
            for cut in shards.read(index, labels.file(index) if labels else None):
                if labels is not None:
                    labels.hold([cut])
                if (shown := self.usable(cut)) is not None:
                    fruitless = 0
                    yield shown
            if fruitless > shards.count:
                raise DataError(
                    "no utterance of the shards is long enough",
                    where=shards.path,
                    remedy="lower data.crop.min_seconds",
                )


def _duration_bins(durations: list[float], crop: CropConfig, buckets: int) -> list[float]:
    kept = [min(d, crop.max_seconds) for d in durations if d >= crop.min_seconds]
    count = min(buckets, len(kept))
    if count < 2:
        return []
    cuts = [MonoCut("", 0.0, duration, 0) for duration in kept]
    return [float(edge) for edge in estimate_duration_buckets(cuts, count)]
