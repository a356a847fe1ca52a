"""Training data of speaker models: classes, batches of crops, and which utterances make them.

All draws come from seeds of (seed, epoch, batch, utterance), so that batches do not depend on how
many workers read them, and a run continues from any position.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lhotse import CutSet, MonoCut
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from unispeech.data.augmentation import Augmenter
from unispeech.data.config import (
    BatchingConfig,
    CropConfig,
    SpeakerBatchingConfig,
    SpeakerDataConfig,
)
from unispeech.data.datasets import load_manifests
from unispeech.data.manifests import SAMPLING_RATE, read_audio, speaker
from unispeech.data.sampling import BEGINNING, BatchSpec, Position, stable_seed
from unispeech.data.shard_stream import ShardStream
from unispeech.data.shards import ShardFolder, is_shards
from unispeech.data.speed import change_speed
from unispeech.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float32]


class SpeakerBatch(NamedTuple):
    """Crops of one length and the classes of their speakers."""

    wavs: Tensor
    """`(B, samples)` float32 in [-1, 1] at 16 kHz."""
    lengths: Tensor
    """`(B,)` int64: all `samples`, because short utterances are repeated."""
    labels: Tensor
    """`(B,)` int64: number of the speaker, plus the number of speakers for each further speed."""
    ids: list[str]
    position: Position
    seconds: float


class SpeakerClasses:
    """The training speakers and their numbers.

    Args:
        names: speakers in the order of the classes.
        where: their source, for messages.

    Raises:
        DataError: there are fewer than two, or one is there twice.
    """

    def __init__(self, names: Sequence[str], where: object) -> None:
        self.names = tuple(names)
        self.where = where
        self.numbers = {name: number for number, name in enumerate(self.names)}
        if len(self.numbers) < len(self.names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise DataError(f"speaker {twice} is there twice", where=where)
        if len(self.names) < 2:
            raise DataError(
                "a speaker model needs two training speakers at least",
                where=where,
                found=", ".join(self.names) or "none",
                remedy="train on more speakers, or check the field `speaker` of the supervisions",
            )

    @classmethod
    def of_cuts(cls, cuts: Iterable[MonoCut], where: object) -> SpeakerClasses:
        """The speakers of utterances, sorted."""
        return cls(sorted({speaker(cut) for cut in cuts} - {""}), where)

    @classmethod
    def of_file(cls, path: str | Path) -> SpeakerClasses:
        """The speakers of a file with one a line.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                "cannot read the list of speakers",
                where=path,
                found=error,
                remedy="run the stage that prepares the manifests",
            ) from None
        return cls([line.strip() for line in lines if line.strip()], path)

    def __len__(self) -> int:
        return len(self.names)

    def number(self, cut: MonoCut) -> int:
        """The class of an utterance at its own speed.

        Raises:
            DataError: nobody, or somebody unknown, speaks in it.
        """
        name = speaker(cut)
        if name not in self.numbers:
            raise DataError(
                f"utterance {cut.id} has no training speaker",
                where=self.where,
                expected=f"one of {len(self)} speakers",
                found=f"'{name}'",
                remedy="prepare the manifests and the list of speakers together",
            )
        return self.numbers[name]


class SpeakerDataset(Dataset[SpeakerBatch]):
    """Reads, crops, speeds up or down and augments one batch.

    Args:
        config: crops, speeds, augmentation.
        classes: of the training speakers.
        seed: of all draws.
        augmenter: None takes that of the configuration's manifests.
    """

    def __init__(
        self,
        config: SpeakerDataConfig,
        classes: SpeakerClasses,
        seed: int,
        augmenter: Augmenter | None = None,
    ) -> None:
        self.config = config
        self.classes = classes
        self.seed = seed
        self.augmenter = augmenter or Augmenter.from_config(config)
        self.samples = round(config.crop_seconds * SAMPLING_RATE)

    @property
    def class_count(self) -> int:
        """Classes of the loss: the speakers, once for every speed."""
        return len(self.classes) * len(self.config.speeds)

    def usable(self, cuts: Iterable[MonoCut]) -> CutSet:
        """The cuts that are long enough.

        Raises:
            DataError: none is, or one has no training speaker.
        """
        kept = [cut for cut in cuts if cut.duration >= self.config.min_seconds]
        if not kept:
            raise DataError(
                "no utterance is long enough",
                expected=f"at least {self.config.min_seconds:g} s",
                remedy="lower data.min_seconds",
            )
        for cut in kept:
            self.classes.number(cut)
        return CutSet.from_cuts(kept)

    def usable_cut(self, cut: MonoCut) -> MonoCut | None:
        """The cut as long as its crop, which is how shards are batched; None when too short."""
        if cut.duration < self.config.min_seconds:
            return None
        custom = {**(cut.custom or {}), "whole": (cut.start, cut.duration)}
        return MonoCut(
            cut.id, cut.start, self.config.crop_seconds, cut.channel, cut.supervisions,
            recording=cut.recording, custom=custom,
        )  # fmt: skip

    def __getitem__(self, spec: BatchSpec) -> SpeakerBatch:
        cuts = list(spec.cuts)
        wavs = torch.empty(len(cuts), self.samples)
        labels = []
        for row, cut in enumerate(cuts):
            rng = np.random.default_rng(stable_seed(self.seed, *spec.position, row, cut.id))
            index = int(rng.integers(len(self.config.speeds)))
            audio = self._crop(cut, self.config.speeds[index], rng)
            wavs[row] = torch.from_numpy(self.augmenter(audio, rng))
            labels.append(self.classes.number(cut) + index * len(self.classes))
        return SpeakerBatch(
            wavs=wavs,
            lengths=torch.full((len(cuts),), self.samples),
            labels=torch.tensor(labels),
            ids=[cut.id for cut in cuts],
            position=spec.position,
            seconds=wavs.numel() / SAMPLING_RATE,
        )

    def _crop(self, cut: MonoCut, speed: float, rng: np.random.Generator) -> FloatArray:
        """A random piece at another speed; an utterance that is too short is repeated."""
        start, seconds = (cut.custom or {}).get("whole", (cut.start, cut.duration))
        there = round(seconds * SAMPLING_RATE)
        needed = min(there, int(np.ceil(self.samples * speed)) + 1)
        offset = int(rng.integers(there - needed + 1))
        piece = MonoCut(
            cut.id, start + offset / SAMPLING_RATE, needed / SAMPLING_RATE, cut.channel,
            recording=cut.recording,
        )  # fmt: skip
        audio = change_speed(read_audio(piece), SAMPLING_RATE, speed)
        return np.resize(audio, self.samples)


class SpeakerSampler(Sampler[BatchSpec]):
    """Endless batches of one size, epoch after epoch, a function of its arguments alone.

    Args:
        cuts: what to draw from.
        config: size and order.
        seed: of the order.
        rank: of this process.
        world_size: number of processes; each gets its own batches, all the same number.
        start: first batch to yield.
        epochs: number of epochs, None for endless.
    """

    def __init__(
        self,
        cuts: CutSet,
        config: SpeakerBatchingConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: Position = BEGINNING,
        epochs: int | None = None,
    ) -> None:
        self.cuts = list(cuts)
        self.config = config
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.epochs = epochs
        numbers: dict[str, int] = {}
        people = [numbers.setdefault(speaker(cut), len(numbers)) for cut in self.cuts]
        self._speakers = np.array(people)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each process in an epoch; what does not fill a batch waits for the next."""
        return max(1, len(self.cuts) // (self.config.size * self.world_size))

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Numbers of the utterances of one epoch, as many as there are utterances."""
        rng = np.random.default_rng(stable_seed(self.seed, "speakers", epoch))
        count = len(self.cuts)
        shuffled = rng.permutation(count)
        if self.config.order == "utterances":
            return shuffled
        # Rounds of all speakers; in each, every speaker gives the next of its own utterances.
        own = shuffled[np.argsort(self._speakers[shuffled], kind="stable")]
        there = np.bincount(self._speakers)
        first = np.cumsum(there) - there
        rounds = -(-count // len(there))
        turns = rng.permuted(np.tile(np.arange(len(there)), (rounds, 1)), axis=1)
        places = first[turns] + np.arange(rounds)[:, None] % there[turns]
        return np.asarray(own[places.ravel()[:count]], dtype=np.int64)

    def __iter__(self) -> Iterator[BatchSpec]:
        first = self.start.epoch
        epochs = itertools.count(first) if self.epochs is None else range(first, self.epochs)
        size, count = self.config.size, self.batches_per_epoch
        for epoch in epochs:
            # Fewer utterances than one batch of every process are taken again.
            order = np.resize(self.order(epoch), max(len(self.cuts), size * self.world_size))
            for batch in range(self.start.batch if epoch == first else 0, count):
                place = (batch * self.world_size + self.rank) * size
                cuts = [self.cuts[number] for number in order[place : place + size]]
                yield BatchSpec(Position(epoch, batch), CutSet.from_cuts(cuts))


class SpeakerTraining:
    """The training data of a configuration: dataset, and the stream of batches from any position.

    Args:
        config: what to train on.
        seed: of order and draws.

    Raises:
        DataError: manifests, shards or speakers are missing or damaged.
        ConfigError: a setting does not go with shards.
    """

    def __init__(self, config: SpeakerDataConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.shards: ShardFolder | None = None
        cuts = None
        if len(config.train) == 1 and is_shards(config.train[0]):
            self.shards = _shards(config)
        else:
            cuts = load_manifests(config.train)
        classes = (
            SpeakerClasses.of_file(config.speakers)
            if config.speakers
            else SpeakerClasses.of_cuts(cuts or (), ", ".join(config.train))
        )
        self.dataset = SpeakerDataset(config, classes, seed)
        self.cuts = self.dataset.usable(cuts) if cuts is not None else CutSet.from_cuts([])

    def stream(
        self, start: Position = BEGINNING, rank: int = 0, world_size: int = 1
    ) -> SpeakerSampler | ShardStream:
        """Endless batches of one process from `start` on, for `unispeech.data.loading.batches`."""
        batching = self.config.batching
        if self.shards is None:
            return SpeakerSampler(self.cuts, batching, self.seed, rank, world_size, start)
        crop = self.config.crop_seconds
        settings = BatchingConfig(
            # Half a crop more, so that sums of durations that are rounded do not count.
            max_seconds=(batching.size + 0.5) * crop,
            buckets=1,
            shuffle_buffer=max(batching.shuffle_buffer, batching.size),
            workers=batching.workers,
        )
        lengths = CropConfig(max_seconds=crop, min_seconds=0.0)
        return ShardStream(self.shards, None, settings, lengths, self.seed, rank, world_size, start)


def _shards(config: SpeakerDataConfig) -> ShardFolder:
    if not config.speakers:
        raise ConfigError(
            "key 'data.speakers' is missing",
            expected="the list of training speakers, which shards do not have",
            remedy="set data.speakers to the speakers.txt beside the manifest of the shards",
        )
    if config.batching.order == "speakers":
        raise ConfigError(
            "key 'data.batching.order': shards are read in their order",
            found="speakers",
            remedy="set data.batching.order=utterances, or train on the manifest",
        )
    return ShardFolder(config.train[0])
