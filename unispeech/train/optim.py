"""Optimizer and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from unispeech.errors import ConfigError
from unispeech.train.config import OptimConfig


def polynomial(update: int, peak: float, warmup: int, total: int) -> float:
    """Linear warm-up to `peak`, then linear to 0 at `total` (fairseq's polynomial_decay)."""
    if update <= warmup and warmup > 0:
        return peak * update / warmup
    if update >= total:
        return 0.0
    return peak * (1.0 - (update - warmup) / (total - warmup))


def tri_stage(update: int, peak: float, warmup: int, hold: int, decay: int) -> float:
    """Linear from 1 % of `peak`, constant, exponential to 5 % (fairseq's tri_stage)."""
    if update < warmup:
        return peak * (0.01 + 0.99 * update / warmup)
    if update < warmup + hold:
        return peak
    if update < warmup + hold + decay:
        return peak * math.exp(math.log(0.05) * (update - warmup - hold) / decay)
    return 0.05 * peak if decay else peak


def exponential(update: int, peak: float, final: float, warmup: int, total: int) -> float:
    """From `peak` to `final` by equal factors, times a linear warm-up (wespeaker, the authors)."""
    share = min(update / max(total, 1), 1.0)
    ramp = min(update / warmup, 1.0) if warmup > 0 else 1.0
    return peak * math.exp(share * math.log(final / peak)) * ramp


def noam(update: int, peak: float, warmup: int) -> float:
    """Linear warm-up to `peak`, then with the inverse square root of the update.

    Source: Vaswani et al. 2017, equation 3, whose peak is `(width * warmup) ** -0.5`.
    """
    first = max(warmup, 1)
    return peak * min(update / first, math.sqrt(first / max(update, 1)))


def learning_rate(config: OptimConfig, update: int, updates: int) -> float:
    """Rate of update number `update` (from 1) in a training of `updates`."""
    if config.schedule == "tri_stage":
        return tri_stage(update, config.lr, config.warmup, config.hold, config.decay)
    if config.schedule == "noam":
        return noam(update, config.lr, config.warmup)
    total = updates if config.total is None else config.total
    if config.schedule == "exponential":
        return exponential(update, config.lr, config.final_lr, config.warmup, total)
    return polynomial(update, config.lr, config.warmup, total)


FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Where torch has AdamW as one kernel."""


@runtime_checkable
class HasRates(Protocol):
    """A model whose parts learn at different rates."""

    def rate_scale(self, name: str) -> float:
        """Factor of the learning rate of the parameter of this name."""
        ...


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """All parameters, or where the model `HasRates` those that learn, grouped by their rate."""
    if not isinstance(model, HasRates):
        return [{"params": list(model.parameters())}]
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(model.rate_scale(name), []).append(parameter)
    return [{"params": groups[scale], "rate_scale": scale} for scale in sorted(groups)]


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Sequence[dict[str, Any]], config: OptimConfig
) -> torch.optim.Optimizer:
    """AdamW or SGD over parameters on their device; `set_step` must be called before each step.

    Args:
        parameters: all, or the groups of `parameter_groups`.
        config: which optimizer, and its settings.

    Raises:
        ConfigError: a fused SGD of sharded parameters, which torch does not have.
    """
    kept: list[Any] = list(parameters)
    groups = [g["params"] if isinstance(g, dict) else [g] for g in kept]
    devices = {parameter.device.type for group in groups for parameter in group}
    is_sharded = any(isinstance(parameter, DTensor) for group in groups for parameter in group)
    has_fused = devices <= set(FUSED_DEVICES) and not (is_sharded and config.optimizer == "sgd")
    if is_sharded and config.fused is True and not has_fused:
        raise ConfigError(
            "torch has no fused SGD for train.parallel=fsdp",
            where="optim.fused",
            expected="auto or false",
            found="true",
        )
    fused = has_fused if config.fused == "auto" else config.fused
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            kept,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.AdamW(
        kept,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def set_step(
    optimizer: torch.optim.Optimizer, config: OptimConfig, lr: float, steps: int
) -> None:
    """Set the rate of the next step, and Adam's epsilon.

    fairseq adds epsilon to `sqrt(v)` before the bias correction, torch after it; dividing epsilon
    by `sqrt(1 - beta2^t)` makes the two equal, so that torch's fused kernel serves.

    Args:
        optimizer: from `build_optimizer`.
        config: gives epsilon and beta2.
        lr: learning rate.
        steps: steps taken before this one, without those that an overflow skipped.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate_scale", 1.0)
        if config.optimizer == "adam":
            group["eps"] = config.eps / math.sqrt(1.0 - config.betas[1] ** (steps + 1))
