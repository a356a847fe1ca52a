"""Training data of diarization models: batches of chunks of conversations.

All draws come from seeds of (seed, epoch, chunk), so that batches do not depend on how many workers
read them, and a run continues from any position.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from unispeech.data.conversation_chunks import (
    SimulatedConversations,
    StoredConversations,
    frame_activity,
)
from unispeech.data.conversation_config import ConversationDataConfig
from unispeech.data.manifests import SAMPLING_RATE
from unispeech.data.sampling import BEGINNING, Position, stable_seed
from unispeech.data.speakers import SpeakerClasses
from unispeech.errors import ConfigError, DataError


class DiarizationBatch(NamedTuple):
    """Chunks of conversations, who speaks in them and when."""

    wavs: Tensor
    """`(B, N)` float32 in [-1, 1] at 16 kHz, zero-padded."""
    lengths: Tensor
    """`(B,)` int64 valid samples."""
    activity: Tensor
    """`(B, T, S)` float32, 1 where the speaker of a slot speaks in a frame; 0 in padding."""
    speakers: Tensor
    """`(B, S)` int64 number of the training speaker; -1 for an empty slot or somebody unknown."""
    ids: list[str]
    position: Position
    seconds: float
    """Audio in the batch."""


class ChunkSpec(NamedTuple):
    """The chunks of one batch: numbers of stored chunks, or seeds of simulated ones."""

    position: Position
    chunks: tuple[int, ...]


class ConversationDataset(Dataset[DiarizationBatch]):
    """Reads one batch of chunks and says who speaks in which frame.

    Args:
        source: of the chunks.
        numbers: of the training speakers.
        slots: S, most speakers of a chunk.
        frames: frames of so many samples.
        seconds_per_frame: their distance.
        known_only: raise a DataError for speakers without a number.
    """

    def __init__(
        self,
        source: StoredConversations | SimulatedConversations,
        numbers: dict[str, int],
        slots: int,
        frames: Callable[[int], int],
        seconds_per_frame: float,
        known_only: bool = True,
    ) -> None:
        self.source = source
        self.numbers = numbers
        self.slots = slots
        self.frames = frames
        self.seconds_per_frame = seconds_per_frame
        self.known_only = known_only

    def __getitem__(self, spec: ChunkSpec) -> DiarizationBatch:
        chunks = [self.source.chunk(number) for number in spec.chunks]
        lengths = torch.tensor([len(chunk.audio) for chunk in chunks])
        wavs = torch.zeros(len(chunks), int(lengths.max()))
        activity = torch.zeros(len(chunks), self.frames(wavs.shape[1]), self.slots)
        speakers = torch.full((len(chunks), self.slots), -1)
        for row, chunk in enumerate(chunks):
            wavs[row, : len(chunk.audio)] = torch.from_numpy(chunk.audio)
            count = self.frames(len(chunk.audio))
            names, active = frame_activity(chunk.segments, count, self.seconds_per_frame)
            activity[row, :count, : len(names)] = torch.from_numpy(active)
            for slot, name in enumerate(names):
                speakers[row, slot] = self._number(name, chunk.id)
        ids = [chunk.id for chunk in chunks]
        seconds = int(lengths.sum()) / SAMPLING_RATE
        return DiarizationBatch(wavs, lengths, activity, speakers, ids, spec.position, seconds)

    def _number(self, name: str, chunk: str) -> int:
        if self.known_only and name not in self.numbers:
            raise DataError(
                f"speaker '{name}' of {chunk} is no training speaker",
                where=self.source.where,
                remedy="prepare the manifests and the list of speakers together",
            )
        return self.numbers.get(name, -1)


class ChunkSampler(Sampler[ChunkSpec]):
    """Endless batches of chunks, epoch after epoch, a function of its arguments alone.

    Args:
        count: stored chunks, each once an epoch; None for simulated ones, each of its own seed.
        size: chunks in a batch.
        seed: of the order, or of the seeds.
        batches_per_epoch: of all processes together, where chunks are simulated.
        rank: of this process.
        world_size: number of processes; each gets its own batches, all the same number.
        start: first batch to yield.
    """

    def __init__(
        self,
        count: int | None,
        size: int,
        seed: int,
        batches_per_epoch: int,
        rank: int = 0,
        world_size: int = 1,
        start: Position = BEGINNING,
    ) -> None:
        self.count = count
        self.size = size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        all_batches = batches_per_epoch if count is None else count // size
        self.batches_per_epoch = max(1, all_batches // world_size)

    def __iter__(self) -> Iterator[ChunkSpec]:
        for epoch in itertools.count(self.start.epoch):
            numbers = self._numbers(epoch)
            first = self.start.batch if epoch == self.start.epoch else 0
            for batch in range(first, self.batches_per_epoch):
                place = (batch * self.world_size + self.rank) * self.size
                yield ChunkSpec(
                    Position(epoch, batch), tuple(map(numbers, range(place, place + self.size)))
                )

    def _numbers(self, epoch: int) -> Callable[[int], int]:
        if self.count is None:
            return lambda place: stable_seed(self.seed, "conversation", epoch, place)
        count = self.count
        rng = np.random.default_rng(stable_seed(self.seed, "conversations", epoch))
        order = rng.permutation(count)
        # Fewer chunks than one batch of every process are taken again.
        return lambda place: int(order[place % count])


class ConversationTraining:
    """The training data of a configuration: dataset, stream from any position, validation.

    Args:
        config: what to train on.
        seed: of order and draws.
        frames: frames that the model makes of so many samples.
        seconds_per_frame: their distance.

    Raises:
        DataError: manifests or speakers are missing or damaged.
        ConfigError: a setting does not go with the data.
    """

    def __init__(
        self,
        config: ConversationDataConfig,
        seed: int,
        frames: Callable[[int], int],
        seconds_per_frame: float,
    ) -> None:
        if not config.train:
            raise ConfigError("key 'data.train' is missing", remedy="set data.train")
        self.config = config
        self.seed = seed
        source: StoredConversations | SimulatedConversations
        if config.simulate is None:
            source = StoredConversations(config.train, config)
            self.count: int | None = len(source.chunks)
        else:
            source = SimulatedConversations(config)
            self.count = None
        self.classes = (
            SpeakerClasses.of_file(config.speakers)
            if config.speakers
            else SpeakerClasses(sorted(source.names), source.where)
        )
        self._frames = (config.slots, frames, seconds_per_frame)
        self.dataset = ConversationDataset(source, self.classes.numbers, *self._frames)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the training speakers, in the order of their numbers."""
        return self.classes.names

    def stream(
        self, start: Position = BEGINNING, rank: int = 0, world_size: int = 1
    ) -> ChunkSampler:
        """Endless batches of one process from `start` on, for `unispeech.data.loading.batches`."""
        config = self.config
        return ChunkSampler(
            self.count, config.batching.size, self.seed, config.batches_per_epoch,
            rank, world_size, start,
        )  # fmt: skip

    def validation(self, rank: int = 0, world_size: int = 1) -> Iterator[DiarizationBatch]:
        """Every chunk of the validation conversations once, in order; processes share the batches.

        Raises:
            ConfigError: there are no conversations to validate on.
            DataError: they cannot be read.
        """
        if not self.config.valid:
            raise ConfigError(
                "key 'data.valid' is missing",
                expected="manifests of conversations",
                remedy="set data.valid",
            )
        stored = StoredConversations(self.config.valid, self.config)
        dataset = ConversationDataset(stored, self.classes.numbers, *self._frames, False)
        size, count = self.config.batching.size, len(stored.chunks)
        for batch, first in list(enumerate(range(0, count, size)))[rank::world_size]:
            chunks = tuple(range(first, min(first + size, count)))
            yield dataset[ChunkSpec(Position(0, batch), chunks)]
