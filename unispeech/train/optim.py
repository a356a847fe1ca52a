"""Optimizer and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

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


def learning_rate(config: OptimConfig, update: int, updates: int) -> float:
    """Rate of update number `update` (from 1) in a training of `updates`."""
    if config.schedule == "tri_stage":
        return tri_stage(update, config.lr, config.warmup, config.hold, config.decay)
    total = updates if config.total is None else config.total
    return polynomial(update, config.lr, config.warmup, total)


FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Where torch has AdamW as one kernel."""


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig
) -> torch.optim.Optimizer:
    """AdamW over all parameters, on their device; `set_step` must be called before each step."""
    kept = list(parameters)
    has_fused = all(parameter.device.type in FUSED_DEVICES for parameter in kept)
    return torch.optim.AdamW(
        kept,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=has_fused if config.fused == "auto" else config.fused,
    )


def set_step(optimizer: torch.optim.Optimizer, config: OptimConfig, lr: float, steps: int) -> None:
    """Set rate and epsilon of the next step.

    fairseq adds epsilon to `sqrt(v)` before the bias correction, torch after it; dividing epsilon
    by `sqrt(1 - beta2^t)` makes the two equal, so that torch's fused kernel serves.

    Args:
        optimizer: from `build_optimizer`.
        config: gives epsilon and beta2.
        lr: learning rate.
        steps: steps taken before this one, without those that an overflow skipped.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["eps"] = config.eps / math.sqrt(1.0 - config.betas[1] ** (steps + 1))
