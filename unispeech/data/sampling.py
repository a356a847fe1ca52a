"""Which utterances make a batch, as a pure function of seed, epoch and position."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from lhotse import CutSet, MonoCut
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import Sampler

from unispeech.data.config import BatchingConfig


class Position(NamedTuple):
    """Where in the endless stream of batches a run is."""

    epoch: int
    batch: int
    """Batches of this epoch that were already taken, per process."""


BEGINNING = Position(0, 0)


class BatchSpec(NamedTuple):
    """The cuts of one batch and its place."""

    position: Position
    cuts: CutSet


class BatchStream(Sampler[BatchSpec]):
    """Endless batches of similar durations, epoch after epoch.

    The stream depends on nothing but its arguments, so a run continues at any position by asking
    for the same stream from there; no audio is read to get there.

    Args:
        cuts: what to draw from; durations as they will be after cropping.
        config: batch size and buckets.
        seed: of the shuffling.
        rank: of this process.
        world_size: number of processes; each gets its own batches, all the same number.
        start: first batch to yield.
        epochs: number of epochs, None for endless.
    """

    def __init__(
        self,
        cuts: CutSet,
        config: BatchingConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: Position = BEGINNING,
        epochs: int | None = None,
    ) -> None:
        self.cuts = cuts
        self.config = config
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.epochs = epochs
        self._by_id = {cut.id: cut for cut in cuts}

    def _sampler(self, epoch: int) -> DynamicBucketingSampler:
        with warnings.catch_warnings():
            # lhotse advises lazy manifests; ours are lists because labels are looked up by cut.
            warnings.filterwarnings("ignore", message=".*eagerly read CutSet")
            sampler = DynamicBucketingSampler(
                self.cuts,
                max_duration=self.config.max_seconds,
                num_buckets=min(self.config.buckets, len(self.cuts)),
                shuffle=True,
                drop_last=False,
                seed=self.seed,
                rank=self.rank,
                world_size=self.world_size,
            )
        sampler.set_epoch(epoch)
        return sampler

    def __iter__(self) -> Iterator[BatchSpec]:
        first = self.start.epoch
        epochs = itertools.count(first) if self.epochs is None else range(first, self.epochs)
        for epoch in epochs:
            skip = self.start.batch if epoch == first else 0
            for index, cuts in enumerate(self._sampler(epoch)):
                originals = self._originals(cuts)
                if index >= skip and originals:
                    yield BatchSpec(Position(epoch, index), CutSet.from_cuts(originals))

    def _originals(self, cuts: CutSet) -> list[MonoCut]:
        """The cuts under their own ids.

        lhotse fills up the last batches with renamed copies so that every process has as many.
        Training needs them; a single pass over a set counts each utterance once.
        """
        own = [cut for cut in cuts if cut.id in self._by_id]
        if self.epochs is not None:
            return own
        copies = {cut.id.rpartition("_dup")[0] for cut in cuts if cut.id not in self._by_id}
        names = copies - {cut.id for cut in own}
        return own + [self._by_id[name] for name in sorted(names)]


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any values: the same on every machine, process and worker."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
