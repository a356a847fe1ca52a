"""Batches read ahead by worker processes."""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from unispeech.data.sampling import BatchSpec
from unispeech.data.shard_stream import ShardStream
from unispeech.errors import UnispeechError

Batch = TypeVar("Batch")


class _Sharded(IterableDataset[Any]):
    """Batches of a stream of shards; each worker reads shards of its own."""

    def __init__(self, dataset: Any, stream: ShardStream) -> None:
        # Draws differ from those before an interruption, as the order does.
        self.dataset = copy.copy(dataset)
        self.dataset.seed = stream.seed
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker = (info.id, info.num_workers) if info else (0, 1)
        try:
            for spec in self.stream.specs(self.dataset.usable_cut, *worker):
                yield self.dataset[spec]
        except UnispeechError as error:
            yield error


class _Guarded(Dataset[Any]):
    """Returns our own errors instead of raising them: a worker would bury them in its traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, spec: BatchSpec) -> Any:
        try:
            return self.dataset[spec]
        except UnispeechError as error:
            return error


def batches(
    dataset: Dataset[Batch], stream: Sampler[Any] | ShardStream, workers: int
) -> Iterator[Batch]:
    """The batches of `stream`, read ahead by `workers` processes.

    Raises:
        DataError: an utterance cannot be read.
    """
    source: Dataset[Any] = _Guarded(dataset)
    sampler = None if isinstance(stream, ShardStream) else stream
    if isinstance(stream, ShardStream):
        source = _Sharded(dataset, stream)
        if stream.rank == 0:
            print(stream.describe(), flush=True)
    loader: DataLoader[Any] = DataLoader(
        source,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_ignore_interrupts,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, UnispeechError):
            raise batch
        yield batch


def _ignore_interrupts(_: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides when to stop.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
