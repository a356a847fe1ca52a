"""From frames to one vector for each utterance, padding left out.

Frames are `(B, C, T)`; `valid` is `(B, 1, T)` bool, True where there is an utterance, or None when
nothing is padded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VARIANCE_FLOOR = 1e-9
"""Of attentive statistics, as the released models have it."""


def mean_and_variance(x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over time.

    Args:
        x: `(B, C, T)`.
        valid: `(B, 1, T)` bool or None.

    Returns:
        Two `(B, C, 1)`; the variance of a single frame is 0.
    """
    weights = torch.ones_like(x[:, :1]) if valid is None else valid.to(x.dtype)
    count = weights.sum(2, keepdim=True)
    mean = (x * weights).sum(2, keepdim=True) / count
    centred = (x - mean) * weights
    return mean, centred.square().sum(2, keepdim=True) / (count - 1).clamp(min=1)


def softmax_over_time(energies: Tensor, valid: Tensor | None) -> Tensor:
    """Weights that sum to 1 over the valid frames; `energies` is `(B, C, T)`."""
    if valid is not None:
        energies = energies.masked_fill(~valid, float("-inf"))
    return torch.softmax(energies.float(), dim=2).to(energies.dtype)


class StatisticsPooling(nn.Module):
    """Mean and unbiased standard deviation (Snyder et al. 2018).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.outputs = 2 * channels

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, C, T)` to `(B, 2C)`: means, then deviations."""
        mean, variance = mean_and_variance(x, valid)
        # The square root has no gradient at 0, where a channel is constant.
        return torch.cat([mean, variance.clamp(min=1e-12).sqrt()], 1).squeeze(2)


class AttentiveStatisticsPooling(nn.Module):
    """Mean and deviation weighted by an attention over time for each channel.

    Source: Okabe et al. 2018; the context is that of Desplanques et al. 2020, equation 6.

    Args:
        channels: C.
        bottleneck: width of the attention network.
        global_context: whether the attention sees mean and deviation of the whole utterance.
    """

    def __init__(self, channels: int, bottleneck: int, global_context: bool) -> None:
        super().__init__()
        self.global_context = global_context
        self.outputs = 2 * channels
        inputs = 3 * channels if global_context else channels
        self.linear1 = nn.Conv1d(inputs, bottleneck, 1)
        self.linear2 = nn.Conv1d(bottleneck, channels, 1)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, C, T)` to `(B, 2C)`: means, then deviations."""
        seen = x
        if self.global_context:
            mean, variance = mean_and_variance(x, valid)
            deviation = (variance + 1e-10).sqrt()
            seen = torch.cat([x, mean.expand_as(x), deviation.expand_as(x)], 1)
        weights = softmax_over_time(self.linear2(torch.tanh(self.linear1(seen))), valid)
        mean = (weights * x).sum(2)
        variance = (weights * x.square()).sum(2) - mean.square()
        return torch.cat([mean, variance.clamp(min=VARIANCE_FLOOR).sqrt()], 1)


class FactorisedPooling(nn.Module):
    """Multi-head factorised attention: keys choose the frames, values are averaged by each head.

    Source: Peng et al. 2022, "An attention-based backend allowing efficient fine-tuning of
    transformer models for speaker verification", equations 2-5 (recalled).

    Args:
        channels: of keys and of values.
        width: what both are compressed to.
        heads: number of attentions.
    """

    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.outputs = heads * width
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, width)
        self.attention = nn.Linear(width, heads)

    def forward(self, keys: Tensor, values: Tensor, valid: Tensor | None) -> Tensor:
        """Two `(B, C, T)` to `(B, heads * width)`."""
        energies = self.attention(self.key(keys.transpose(1, 2))).transpose(1, 2)
        weights = softmax_over_time(energies, valid)
        pooled: Tensor = weights @ self.value(values.transpose(1, 2))
        return pooled.flatten(1)
