"""The training loop: accumulate, reduce, check, clip, step, log, validate, save.

Read `train` first. Everything random in an update is seeded by (seed, update, rank), and the
batches are a function of (seed, epoch, index), so a run that continues from a checkpoint gives
bitwise the weights of one that was never stopped.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unispeech.data.sampling import Position, stable_seed
from unispeech.errors import Interrupted, NumericsError, Preempted
from unispeech.models.pretrained import read_checkpoint
from unispeech.storage import write_json
from unispeech.train import optim, state
from unispeech.train.config import OptimConfig, TrainConfig
from unispeech.train.log import Meter, RunLog
from unispeech.train.parallel import Process, all_sum, barrier, data_parallel
from unispeech.train.record import check_same_config
from unispeech.train.signals import StopSignals
from unispeech.train.task import Task


class Progress(NamedTuple):
    """How far a run is."""

    step: int
    position: Position
    minutes: float


def train(
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    optim_config: OptimConfig,
    folder: Path,
    description: dict[str, Any],
    process: Process,
) -> float:
    """Train until `config.updates`, continuing from the newest checkpoint in `folder`.

    Args:
        model: on the CPU, with its first weights.
        task: data and loss.
        config: length and intervals.
        optim_config: optimizer and schedule.
        folder: the experiment folder.
        description: stored in every checkpoint; its `config` must not change within a run.
        process: this process.

    Returns:
        Minutes spent on the run, earlier parts included.

    Raises:
        NumericsError: a loss or a gradient is not finite; the weights are as before that update.
        Preempted: SIGTERM or SIGUSR1 arrived; the state is saved.
        Interrupted: Ctrl-C arrived; the state is saved.
    """
    checkpoints = state.CheckpointFolder(
        folder / "checkpoints", config.keep_last, config.keep_best
    )
    model.to(process.device)
    optimizer = optim.build_optimizer(model.parameters(), optim_config)
    step, position, minutes = _resume(checkpoints, model, optimizer, description)
    parallel = data_parallel(model, process, task.has_unused)
    log = RunLog(folder, config.updates, step, minutes, process.is_main)
    meter = Meter()
    with StopSignals() as signals, log:
        batches = task.batches(position)
        while step < config.updates:
            update = step + 1
            model.train()
            torch.manual_seed(stable_seed(config.seed, update, process.rank))
            micro_batches = _fetch(batches, config.accumulate, meter)
            sums = _backward(parallel, task, micro_batches, update, config, process)
            stop = _reduce(sums, signals, process)
            norm = _normalize_gradients(model, sums, optim_config.clip, process)
            _check_finite(sums, norm, update, micro_batches, checkpoints, folder)
            rate = optim.learning_rate(optim_config, update, config.updates)
            optim.set_step(optimizer, optim_config, rate, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step, position = update, _after(micro_batches[-1].position)
            meter.add(sums)
            log.step()
            if step % config.log_every == 0 or step == config.updates:
                values = {**_means(task, meter.sums), "lr": rate, "grad_norm": norm}
                log.write("train", step, {**values, **meter.rates()})
            score = None
            if step % config.validate_every == 0 or step == config.updates:
                score = _validate(model, task, step, log)
            if score is not None or step % config.checkpoint_every == 0 or stop:
                if process.is_main:
                    run = Progress(step, position, log.minutes)
                    checkpoints.save(step, _snapshot(model, optimizer, run, description), score)
                barrier(process)
            if stop and step < config.updates:
                _raise_stop(stop, checkpoints.path(step))
    return log.minutes


def _resume(
    checkpoints: state.CheckpointFolder,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    description: dict[str, Any],
) -> Progress:
    latest = checkpoints.latest()
    if latest is None:
        return Progress(0, Position(0, 0), 0.0)
    saved = read_checkpoint(latest)
    check_same_config(saved["config"], description["config"], checkpoints.folder.parent)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return Progress(saved["step"], Position(*saved["position"]), saved["minutes"])


def _snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    description: dict[str, Any],
) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "position": list(progress.position),
        "minutes": progress.minutes,
        **description,
    }


def _fetch(batches: Iterator[Any], count: int, meter: Meter) -> list[Any]:
    with meter.waiting():
        return [next(batches) for _ in range(count)]


def _after(position: Position) -> Position:
    return Position(position.epoch, position.index + 1)


def _backward(
    parallel: nn.Module,
    task: Task,
    micro_batches: list[Any],
    update: int,
    config: TrainConfig,
    process: Process,
) -> dict[str, Tensor]:
    """Back-propagate the batches of one update; returns sums of this process."""
    sums: dict[str, Tensor] = {}
    for index, batch in enumerate(micro_batches):
        if process.world_size > 1:
            # Gradients travel once per update; DDP's no_sync() is the same switch as a context.
            parallel.require_backward_grad_sync = index == len(micro_batches) - 1
        with torch.autocast(
            process.device.type, torch.bfloat16, enabled=config.precision == "bf16"
        ):
            output = task.loss(parallel, batch, update)
        output.loss.backward()  # type: ignore[no-untyped-call]
        parts = {
            **output.terms,
            "loss": output.loss.detach(),
            "sample_size": torch.tensor(float(output.sample_size)),
            "seconds": torch.tensor(batch.seconds),
        }
        for name, value in parts.items():
            wide = value.to(process.device, torch.float64)
            sums[name] = sums[name] + wide if name in sums else wide
    return sums


def _reduce(sums: dict[str, Any], signals: StopSignals, process: Process) -> int:
    """Replace the sums by those over all processes; returns the signal that any of them got."""
    names = sorted(sums)
    flags = [float(signals.received == signal.SIGINT), float(signals.received is not None)]
    flat = torch.stack([*(sums[name] for name in names), *torch.tensor(flags).to(sums["loss"])])
    *values, interrupts, stops = all_sum(flat, process).tolist()
    sums.update(zip(names, values, strict=True))
    return signal.SIGINT if interrupts else signal.SIGTERM if stops else 0


def _means(task: Task, sums: Mapping[str, float]) -> dict[str, float]:
    size = max(sums["sample_size"], 1.0)
    return {"loss": sums["loss"] / size, **task.metrics(sums, size)}


def _validate(model: nn.Module, task: Task, step: int, log: RunLog) -> float:
    model.eval()
    with torch.no_grad():
        values, score = task.validate(model)
    log.write("valid", step, values)
    return score


def _normalize_gradients(
    model: nn.Module, sums: Mapping[str, float], clip: float, process: Process
) -> float:
    """Divide by the global sample size (DDP has divided by the processes) and clip."""
    scale = process.world_size / max(sums["sample_size"], 1.0)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    torch._foreach_mul_(gradients, scale)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip if clip > 0 else math.inf)
    return float(norm)


def _check_finite(
    sums: Mapping[str, float],
    norm: float,
    update: int,
    micro_batches: list[Any],
    checkpoints: state.CheckpointFolder,
    folder: Path,
) -> None:
    if math.isfinite(sums["loss"]) and math.isfinite(norm):
        return
    ids = [utterance for batch in micro_batches for utterance in batch.ids]
    report = folder / "log" / f"nonfinite-{update}.json"
    write_json(report, {"update": update, "sums": dict(sums), "norm": norm, "utterances": ids})
    good = checkpoints.latest()
    raise NumericsError(
        f"the loss of update {update} is {sums['loss']:g} and the gradient norm {norm:g}",
        where=folder,
        expected="finite values",
        found=f"utterances listed in {report}",
        remedy=f"last good checkpoint: {good.name if good else 'none'}; check these utterances,"
        " lower optim.lr, set optim.clip, or use train.precision=fp32",
    )


def _raise_stop(received: int, path: Path) -> None:
    is_interrupt = received == signal.SIGINT
    kind = Interrupted if is_interrupt else Preempted
    raise kind(
        "interrupted" if is_interrupt else "asked to stop by a signal",
        where=path,
        found="the state is saved",
        remedy="run the same command again to continue",
    )
