"""Processes, devices and the reductions between them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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


def data_parallel(model: nn.Module, process: Process, has_unused: bool) -> nn.Module:
    """Wrap in DDP when there are several processes.

    Args:
        model: on its device.
        process: this process.
        has_unused: whether some parameters have no gradient in some updates.
    """
    if process.world_size == 1:
        return model
    return DistributedDataParallel(model, find_unused_parameters=has_unused)


def all_sum(values: Tensor, process: Process) -> Tensor:
    """Sum over the processes, in place."""
    if process.world_size > 1:
        dist.all_reduce(values)
    return values


def barrier(process: Process) -> None:
    """Wait for all processes."""
    if process.world_size > 1:
        dist.barrier()
