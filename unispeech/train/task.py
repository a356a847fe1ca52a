"""What the loop asks of a task: batches, a loss, a validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from unispeech.data.config import BatchingConfig
from unispeech.data.sampling import BEGINNING, BatchStream, Position
from unispeech.train.parallel import Process


class LossOutput(NamedTuple):
    """What a task returns for one batch; everything is a sum over `sample_size` items."""

    loss: Tensor
    sample_size: int
    terms: dict[str, Tensor]


class AnyBatch(Protocol):
    """What the loop needs to know of a batch."""

    ids: list[str]
    position: Position
    seconds: float


class Task(Protocol):
    """A model and its data, as the loop sees them."""

    has_unused: bool
    """Whether some parameters get no gradient in some updates."""

    def batches(self, start: Position) -> Iterator[Any]:
        """Endless training batches of this process from `start` on."""
        ...

    def largest_batches(self) -> list[Any]:
        """Batches of one epoch that need most memory, from a stream of their own."""
        ...

    def loss(self, model: nn.Module, batch: Any, update: int) -> LossOutput:
        """Loss of one batch in update number `update`."""
        ...

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """Means to log from the summed terms and the summed sample size."""
        ...

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """Metrics on the validation data of this process, and the score (lower is better)."""
        ...


def batch_stream(
    cuts: Any,
    start: Position = BEGINNING,
    epochs: int | None = None,
    *,
    keep: Mapping[str, float] | None = None,
    config: BatchingConfig,
    seed: int,
    process: Process,
) -> BatchStream:
    """The batches of `cuts`, a CutSet, for one process; arguments as in `BatchStream`."""
    ranks = (process.rank, process.world_size)
    return BatchStream(cuts, config, seed, *ranks, start, epochs, keep)
