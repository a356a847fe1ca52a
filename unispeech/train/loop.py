"""The training loop: accumulate, reduce, check, clip, step, log, validate, save.

Read `train` first. Everything random in an update is seeded by (seed, update, rank), and the
batches are a function of (seed, epoch, index), so a run that continues from a checkpoint gives
bitwise the weights of one that was never stopped. An update whose fp16 gradients overflow counts
as an update that changes nothing.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unispeech.data.sampling import Position, stable_seed
from unispeech.errors import Interrupted, NumericsError, Preempted
from unispeech.models.pretrained import read_checkpoint
from unispeech.storage import write_json
from unispeech.train import optim, probe, sharding, state
from unispeech.train.config import OptimConfig, TrainConfig
from unispeech.train.execution import set_execution
from unispeech.train.log import Meter, RunLog
from unispeech.train.parallel import (
    Process,
    all_sum,
    barrier,
    data_parallel,
    set_gradient_sync,
    share_buffers,
)
from unispeech.train.precision import Precision
from unispeech.train.record import check_same_config
from unispeech.train.signals import StopSignals
from unispeech.train.task import Task


class Progress(NamedTuple):
    """How far a run is."""

    step: int
    position: Position
    minutes: float


class Run(NamedTuple):
    """What stays the same throughout a training."""

    model: nn.Module
    """On the device of the process."""
    parallel: nn.Module
    """The same model, in DDP or sharded where there are several processes."""
    optimizer: torch.optim.Optimizer
    precision: Precision
    task: Task
    config: TrainConfig
    optim_config: OptimConfig
    folder: Path
    checkpoints: state.CheckpointFolder
    description: dict[str, Any]
    """Stored in every checkpoint; its `config` must not change within a run."""
    process: Process


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

    The arguments are those of `Run`; `model` comes with its first weights.

    Returns:
        Minutes spent on the run, earlier parts included.

    Raises:
        NumericsError: a loss or a gradient is not finite, in fp16 even at the smallest scale; the
            weights are as before that update.
        ConfigError: a batch does not fit in memory.
        Preempted: SIGTERM or SIGUSR1 arrived; the state is saved.
        Interrupted: Ctrl-C arrived; the state is saved.
    """
    checkpoints = state.CheckpointFolder(
        folder / "checkpoints", config.keep_last, config.keep_best
    )
    model.to(process.device)
    set_execution(model, config)
    parallel = data_parallel(model, process, config, task.has_unused)
    optimizer = optim.build_optimizer(optim.parameter_groups(model), optim_config)
    precision = Precision(config, process.device)
    run = Run(
        model, parallel, optimizer, precision, task, config, optim_config, folder, checkpoints,
        description, process,
    )  # fmt: skip
    step, position, minutes = _resume(run)
    log = RunLog(folder, config.updates, step, minutes, process.is_main)
    meter = Meter()
    with StopSignals() as signals, log:
        if step < config.updates and probe.is_wanted(config, process):
            log.say(probe.run_largest(model.train(), task, optimizer, precision, process))
        batches = task.batches(position)
        while step < config.updates:
            with meter.waiting():
                micro_batches = [next(batches) for _ in range(config.accumulate)]
            sums, stop = _update(run, micro_batches, step, signals)
            step, position = step + 1, _after(micro_batches[-1].position)
            meter.add(sums)
            log.step()
            if step % config.log_every == 0 or step == config.updates:
                means = _means(task, meter.sums, sums)
                log.write("train", step, {**means, **precision.values(), **meter.rates()})
            score = None
            if step % config.validate_every == 0 or step == config.updates:
                score = _validate(run, step, log)
            if score is not None or step % config.checkpoint_every == 0 or stop:
                _save(run, Progress(step, position, log.minutes), score)
            if stop and step < config.updates:
                _raise_stop(stop, checkpoints.path(step))
    return log.minutes


def _update(
    run: Run, micro_batches: list[Any], step: int, signals: StopSignals
) -> tuple[dict[str, float], int]:
    """One update; returns sums over all processes with rate and norm, and the signal received."""
    run.model.train()
    torch.manual_seed(stable_seed(run.config.seed, step + 1, run.process.rank))
    local = _backward(run, micro_batches, step + 1)
    sums, stop = _reduce(local, signals, run.process)
    taken = step - run.precision.skipped
    if run.precision.unscale(run.optimizer):
        run.optimizer.zero_grad(set_to_none=True)
        # Its loss may be infinite and would spoil the means.
        return {"seconds": sums["seconds"]}, stop
    sums["grad_norm"] = _normalize_gradients(run, sums["sample_size"])
    _check_finite(run, sums, step + 1, micro_batches)
    sums["lr"] = optim.learning_rate(run.optim_config, step + 1, run.config.updates)
    optim.set_step(run.optimizer, run.optim_config, sums["lr"], taken)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return sums, stop


def _resume(run: Run) -> Progress:
    if run.process.is_main:
        run.checkpoints.remove_unfinished()
    latest = run.checkpoints.latest()
    if latest is None:
        return Progress(0, Position(0, 0), 0.0)
    saved = read_checkpoint(latest)
    # Settings that the checkpoint does not know were judged when the folder was opened.
    current = run.description["config"]
    check_same_config({**current, **saved["config"]}, current, run.folder)
    sharding.load_model(run.model, saved["model"])
    sharding.load_optimizer(run.optimizer, saved["optimizer"])
    if "precision" in saved:
        run.precision.load_state_dict(saved["precision"])
    return Progress(saved["step"], Position(*saved["position"]), saved["minutes"])


def _save(run: Run, progress: Progress, score: float | None) -> None:
    is_main = run.process.is_main
    model = sharding.model_state(run.model, is_main)
    optimizer = sharding.optimizer_state(run.optimizer, is_main)
    if is_main:
        contents = {
            **run.description,
            "model": model,
            "optimizer": optimizer,
            "precision": run.precision.state_dict(),
            "step": progress.step,
            "position": list(progress.position),
            "minutes": progress.minutes,
        }
        run.checkpoints.save(progress.step, contents, score)
    barrier(run.process)


def _after(position: Position) -> Position:
    return Position(position.epoch, position.batch + 1)


def _backward(run: Run, micro_batches: list[Any], update: int) -> dict[str, Tensor]:
    """Back-propagate the batches of one update; returns sums of this process."""
    device = run.process.device
    sums: dict[str, Tensor] = {}
    for index, batch in enumerate(micro_batches):
        # Gradients travel once per update.
        set_gradient_sync(run.parallel, index == len(micro_batches) - 1)
        with run.precision.autocast():
            output = run.task.loss(run.parallel, batch, update)
        run.precision.scale_loss(output.loss).backward()  # type: ignore[no-untyped-call]
        parts = {
            **output.terms,
            "loss": output.loss.detach(),
            "sample_size": torch.tensor(float(output.sample_size)),
            "seconds": torch.tensor(batch.seconds),
        }
        for name, value in parts.items():
            wide = value.to(device, torch.float64)
            sums[name] = sums[name] + wide if name in sums else wide
    return sums


def _reduce(
    local: dict[str, Tensor], signals: StopSignals, process: Process
) -> tuple[dict[str, float], int]:
    """Sums over all processes, and the signal that any of them got."""
    names = sorted(local)
    flags = [float(signals.received == signal.SIGINT), float(signals.received is not None)]
    flat = torch.stack([*(local[name] for name in names), *torch.tensor(flags).to(local["loss"])])
    *values, interrupts, stops = all_sum(flat, process).tolist()
    stop = signal.SIGINT if interrupts else signal.SIGTERM if stops else 0
    return dict(zip(names, values, strict=True)), int(stop)


def _means(task: Task, sums: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    if "loss" not in sums:
        return {}
    size = max(sums["sample_size"], 1.0)
    means = {"loss": sums["loss"] / size, **task.metrics(sums, size)}
    return {**means, **{name: last[name] for name in ("lr", "grad_norm") if name in last}}


def _validate(run: Run, step: int, log: RunLog) -> float:
    run.model.eval()
    share_buffers(run.model, run.process)
    with torch.no_grad(), sharding.all_gathered(run.model):
        values, score = run.task.validate(run.model)
    log.write("valid", step, values)
    return score


def _normalize_gradients(run: Run, sample_size: float) -> float:
    """Divide by the global sample size (DDP and FSDP have divided by the processes) and clip."""
    scale = run.process.world_size / max(sample_size, 1.0)
    clip = run.optim_config.clip
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    torch._foreach_mul_(gradients, scale)
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), clip if clip > 0 else math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _check_finite(
    run: Run, sums: Mapping[str, float], update: int, micro_batches: list[Any]
) -> None:
    norm = sums["grad_norm"]
    if math.isfinite(sums["loss"]) and math.isfinite(norm):
        return
    ids = [utterance for batch in micro_batches for utterance in batch.ids]
    report = run.folder / "log" / f"nonfinite-{update}.json"
    write_json(report, {"update": update, "sums": dict(sums), "utterances": ids})
    good = run.checkpoints.latest()
    is_scaled = run.config.precision == "fp16"
    scale = f" at a loss scale of {run.precision.scale:g}" if is_scaled else ""
    raise NumericsError(
        f"the loss of update {update} is {sums['loss']:g} and the gradient norm {norm:g}{scale}",
        where=run.folder,
        expected="finite values",
        found=f"utterances listed in {report}",
        remedy=f"last good checkpoint: {good.name if good else 'none'}; check these utterances,"
        " lower optim.lr, set optim.clip, or use train.precision=bf16 or fp32",
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
