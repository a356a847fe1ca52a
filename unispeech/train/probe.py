"""Before the first update: does the largest batch fit in memory?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from unispeech.errors import ConfigError
from unispeech.models.transformer import Transformer
from unispeech.train.config import TrainConfig
from unispeech.train.log import memory_mb
from unispeech.train.parallel import Process, largest
from unispeech.train.precision import Precision
from unispeech.train.sharding import zeros_for_unused
from unispeech.train.task import Task


def is_wanted(config: TrainConfig, process: Process) -> bool:
    """Whether to probe: memory is scarce on a GPU, and what is too much there ends the run."""
    return process.device.type == "cuda" if config.probe == "auto" else config.probe


def run_largest(
    model: nn.Module,
    task: Task,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    process: Process,
) -> str:
    """Forward and backward pass of the largest batches, from a sampler of their own.

    Weights, running statistics, optimizer, scale and the training's batches stay as they are.

    Args:
        model: in training mode, on its device, not wrapped in DDP.
        task: gives the batches and the loss.
        optimizer: its state counts, whether it is there yet or not.
        precision: of the forward pass.
        process: this process.

    Returns:
        One line: the largest batch and the peak memory.

    Raises:
        ConfigError: a batch does not fit.
    """
    moments = []
    if not optimizer.state:
        with out_of_memory("weights and optimizer"):
            # What the first step will allocate.
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            moments = [torch.empty_like(p) for p in parameters for _ in range(2)]
    shown, most = "not known before it is read", -1.0
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    batches = task.largest_batches()
    # All processes run a sharded model together.
    batches += batches[-1:] * (largest(len(batches), process) - len(batches))
    with _all_layers(model), zeros_for_unused(model):
        for batch in batches:
            size = f"{len(batch.ids)} utterances, {batch.seconds:.0f} s"
            with out_of_memory(size):
                with precision.autocast():
                    loss = task.loss(model, batch, 0).loss
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.zero_grad(set_to_none=True)
            if batch.seconds > most:
                shown, most = size, batch.seconds
    for name, buffer in model.named_buffers():
        buffer.copy_(statistics[name])
    del moments
    total = _total_memory(process.device) / 2**30
    return f"largest batch: {shown}, peak {memory_mb() / 1024:.1f} GB of {total:.1f} GB"


@contextlib.contextmanager
def out_of_memory(size: str) -> Iterator[None]:
    """Turn a failed allocation into an error that names the batch.

    Raises:
        ConfigError: memory ran out in the block.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise ConfigError(
            "a batch does not fit in memory",
            where=size,
            found=str(error).splitlines()[0] if str(error) else "out of memory",
            remedy="lower data.batching.max_seconds, of text data.batch_units (and raise"
            " train.accumulate), set"
            " train.activation_checkpointing=true, or take half precision",
        ) from None


@contextlib.contextmanager
def _all_layers(model: nn.Module) -> Iterator[None]:
    # LayerDrop could spare the probe what a later update needs.
    def keep_all(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*arguments[:2], frozenset(), *arguments[3:])

    hooks = [
        module.register_forward_pre_hook(keep_all)
        for module in model.modules()
        if isinstance(module, Transformer)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _total_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
