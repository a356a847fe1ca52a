"""Precision of a training: autocast, and dynamic loss scaling for fp16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unispeech.train.config import TrainConfig

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Casts the forward pass; scales the loss so that fp16 gradients neither vanish nor overflow.

    Only fp16 is scaled. Losses and attention logits are fp32 in every precision: the former by
    their own doing, the latter inside torch's attention kernels.

    Args:
        config: precision and scale.
        device: of the model.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.skipped = 0
        """Updates that an overflow skipped."""
        self._half = HALF.get(config.precision)
        self._device = device.type
        self._minimum = config.loss_scale.minimum
        self._scaler = torch.amp.GradScaler(
            device.type,
            init_scale=config.loss_scale.initial,
            growth_interval=config.loss_scale.window,
            enabled=config.precision == "fp16",
        )

    @property
    def scale(self) -> float:
        """What losses are multiplied by; 1 but for fp16."""
        return float(self._scaler.get_scale())

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self._device, self._half, enabled=self._half is not None)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss to back-propagate."""
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def unscale(self, optimizer: torch.optim.Optimizer) -> bool:
        """Divide the gradients by the scale, adapt it, and tell whether to skip the update.

        Gradients are the same in all processes by now, and of shares torch asks all processes, so
        all of them decide alike.

        Returns:
            True when gradients overflowed and a smaller scale is left to try. At the smallest
            scale the answer is False, and the gradients are not finite.
        """
        before = self.scale
        self._scaler.unscale_(optimizer)
        if not self._scaler.is_enabled():
            return False
        self._scaler.update()
        has_overflowed = self.scale < before
        if has_overflowed and self.scale >= self._minimum:
            self.skipped += 1
            return True
        return False

    def values(self) -> dict[str, float]:
        """What to log; nothing but for fp16."""
        if not self._scaler.is_enabled():
            return {}
        return {"loss_scale": self.scale, "skipped_updates": float(self.skipped)}

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to continue bitwise."""
        return {"scaler": self._scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.skipped = state["skipped"]
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
