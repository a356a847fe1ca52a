"""Processes, devices and the reductions between them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from unispeech.train.config import TrainConfig
from unispeech.train.sharding import shard


class Process(NamedTuple):
    """This process among those that torchrun started."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0


@contextlib.contextmanager
def process_group() -> Iterator[Process]:
    """Join the processes of torchrun; without torchrun, be the only one."""
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    is_launched = "RANK" in os.environ
    if is_launched:
        dist.init_process_group("nccl" if has_gpu else "gloo")
    try:
        yield Process(rank, world_size, device)
    finally:
        if is_launched:
            dist.destroy_process_group()


def data_parallel(
    model: nn.Module, process: Process, config: TrainConfig, has_unused: bool
) -> nn.Module:
    """Wrap in DDP, or shard in place, when there are several processes.

    Args:
        model: on its device, with the same weights everywhere.
        process: this process.
        config: which of the two.
        has_unused: whether some parameters have no gradient in some updates, the same ones in all
            processes.

    Raises:
        ConfigError: the model cannot be sharded in this precision.
        DependencyError: it is to be sharded, and torch is too old.
    """
    if process.world_size == 1:
        return model
    if config.parallel == "fsdp":
        shard(model, process.device, config.precision)
        return model
    return DistributedDataParallel(model, find_unused_parameters=has_unused)


def set_gradient_sync(parallel: nn.Module, is_wanted: bool) -> None:
    """Say whether the next backward pass averages gradients over the processes."""
    if isinstance(parallel, DistributedDataParallel):
        # What no_sync() does as a context.
        parallel.require_backward_grad_sync = is_wanted
    elif isinstance(parallel, FSDPModule):
        parallel.set_requires_gradient_sync(is_wanted)


def share_buffers(model: nn.Module, process: Process) -> None:
    """Give all processes the running statistics of the main one, which a checkpoint has."""
    if process.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def all_sum(values: Tensor, process: Process) -> Tensor:
    """Sum over the processes, in place."""
    if process.world_size > 1:
        dist.all_reduce(values)
    return values


def largest(value: int, process: Process) -> int:
    """The largest value of all processes."""
    values = torch.tensor(value, device=process.device)
    if process.world_size > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def barrier(process: Process) -> None:
    """Wait for all processes."""
    if process.world_size > 1:
        dist.barrier()
