"""Which utterances make a batch, as a pure function of seed, epoch and position."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from lhotse import CutSet, MonoCut
from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from torch.utils.data import Sampler

from unispeech.data.config import BatchingConfig
from unispeech.errors import DataError


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
        keep: probability with which an utterance is in an epoch, by id; 1 for those not named.
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
        keep: Mapping[str, float] | None = None,
    ) -> None:
        self.cuts = cuts
        self.keep = keep or {}
        self.config = config
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.epochs = epochs
        self._by_id = {cut.id: cut for cut in cuts}

    def _drawn(self, epoch: int) -> CutSet:
        """The utterances of one epoch."""
        if not self.keep:
            return self.cuts
        rng = np.random.default_rng(stable_seed(self.seed, epoch, "keep"))
        pairs = zip(self._by_id.items(), rng.random(len(self._by_id)), strict=True)
        kept = [cut for (name, cut), drawn in pairs if drawn < self.keep.get(name, 1.0)]
        return CutSet.from_cuts(kept or list(self._by_id.values()))

    def _sampler(self, epoch: int) -> DynamicBucketingSampler | DynamicCutSampler:
        cuts = self._drawn(epoch)
        buckets = min(self.config.buckets, len(cuts))
        common = {
            "max_duration": self.config.max_seconds,
            "shuffle": True,
            "drop_last": False,
            "seed": self.seed,
            "rank": self.rank,
            "world_size": self.world_size,
        }
        with warnings.catch_warnings():
            # lhotse advises lazy manifests; ours are lists because labels are looked up by cut.
            warnings.filterwarnings("ignore", message=".*eagerly read CutSet")
            # One bucket is no bucket: lhotse has another sampler for it.
            sampler = (
                DynamicBucketingSampler(cuts, num_buckets=buckets, **common)
                if buckets > 1
                else DynamicCutSampler(cuts, **common)
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


def largest(stream: BatchStream, planned: int = 20_000) -> list[BatchSpec]:
    """The batches with most audio after cropping, after padding, and with longest attention.

    Args:
        stream: a single pass.
        planned: batches that are looked at; no audio is read for that.
    """
    sizes = []
    for spec in itertools.islice(stream, planned):
        durations = [cut.duration for cut in spec.cuts]
        rows, shortest, longest = len(durations), min(durations), max(durations)
        sizes.append((spec, (rows * shortest, rows * longest, rows * longest**2)))
    chosen = {}
    for measure in range(3):
        spec = max(sizes, key=lambda entry: entry[1][measure])[0]
        chosen[spec.position] = spec
    return list(chosen.values())


def balanced(parts: Sequence[CutSet], temperature: float) -> tuple[CutSet, dict[str, float]]:
    """All utterances, and how often each is drawn so that the parts get their shares.

    A part of h hours gets a share proportional to `h ** temperature` (UniSpeech's multilingual
    training: 0.5). The part that is drawn most has every utterance in every epoch.

    Args:
        parts: utterances of each language or source.
        temperature: 1 takes every utterance once an epoch.

    Returns:
        The utterances, and the probabilities below 1 by id.

    Raises:
        DataError: two parts have an utterance of the same id.
    """
    seen: set[str] = set()
    for part in parts:
        own = set(part.ids)
        if own & seen:
            raise DataError(
                "two manifests have an utterance of the same id",
                expected="ids that differ, such as with a prefix for each corpus",
                found=", ".join(sorted(own & seen)[:5]),
            )
        seen |= own
    together = CutSet.from_cuts([cut for part in parts for cut in part])
    if temperature == 1.0 or len(parts) < 2:
        return together, {}
    hours = np.array([sum(cut.duration for cut in part) for part in parts])
    rates = hours**temperature / hours
    rates /= rates.max()
    keep = {
        cut.id: float(rate)
        for part, rate in zip(parts, rates, strict=True)
        if rate < 1.0
        for cut in part
    }
    return together, keep


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any values: the same on every machine, process and worker."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
