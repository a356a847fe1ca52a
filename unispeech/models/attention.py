"""Self-attention with WavLM's gated relative position bias."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.models import recompute
from unispeech.models.config import EncoderConfig


def relative_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """T5-style buckets of `key - query` distances, as WavLM uses them.

    Half of the buckets serve keys to the right. Within a half, the first half are exact
    distances and the rest grow logarithmically up to `max_distance`.

    Args:
        distance: any shape, int64.
        num_buckets: size of the table (320 in the released models).
        max_distance: distance from which all share the last bucket (800).

    Returns:
        int64 of the same shape in `[0, num_buckets)`.
    """
    half = num_buckets // 2
    exact = half // 2
    magnitude = distance.abs()
    ratio = torch.log(magnitude.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (half - exact)).to(torch.int64)).clamp(max=half - 1)
    return (distance > 0).to(torch.int64) * half + torch.where(magnitude < exact, magnitude, far)


class RelativePositionBias(nn.Module):
    """One table of biases per head and bucket, shared by all layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_buckets = config.num_buckets
        self.max_distance = config.max_distance
        self.embedding = nn.Embedding(config.num_buckets, config.heads)

    def forward(self, frames: int) -> Tensor:
        """Bias `(H, T, T)` for query i and key j: `table[bucket(j - i)]`."""
        device = self.embedding.weight.device
        distance = torch.arange(1 - frames, frames, device=device)
        buckets = relative_buckets(distance, self.num_buckets, self.max_distance)
        values = self.embedding(buckets).t()
        if torch.compiler.is_exporting():
            # The exporters fix the length of a window; an index they keep variable.
            steps = torch.arange(frames, device=device)
            looked_up: Tensor = values[:, steps - steps.unsqueeze(1) + frames - 1]
            return looked_up
        # Row i is a window of the 2T - 1 values that starts T - 1 - i.
        windows: Tensor = values.unfold(1, frames, 1)
        return windows.flip(1)


class SelfAttention(nn.Module):
    """Multi-head self-attention; logits `q k / sqrt(d) + gate * bias` (WavLM, equations 2 to 4)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_dim = config.dim // config.heads
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.k_proj = nn.Linear(config.dim, config.dim)
        self.v_proj = nn.Linear(config.dim, config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)
        self.is_gated = config.gated
        if config.gated:
            self.grep_linear = nn.Linear(self.head_dim, 8)
            self.grep_a = nn.Parameter(torch.ones(1, config.heads, 1, 1))

    def gate(self, x: Tensor) -> Tensor:
        """Gate `(B, H, T, 1)` of the bias from the layer input `x (B, T, D)`, per query.

        The checkpoints' form: `g_a * (g_b * a - 1) + 2`, where `g_a` is the complement of the
        paper's update gate.
        """
        batch, frames, _ = x.shape
        queries = x.view(batch, frames, self.heads, self.head_dim).transpose(1, 2)
        # The eight outputs are summed in two groups of four, so the weights can be summed first.
        weight = self.grep_linear.weight.view(2, 4, -1).sum(1)
        bias = self.grep_linear.bias.view(2, 4).sum(1)
        gates = torch.sigmoid(F.linear(queries, weight, bias))
        update, reset = gates.chunk(2, dim=-1)
        return update * (reset * self.grep_a - 1.0) + 2.0

    def forward(self, x: Tensor, bias: Tensor | None, padding_mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: `(B, T, D)`.
            bias: `(H, T, T)` ungated relative position bias, or None.
            padding_mask: `(B, T)` bool, True = padding, or None.

        Returns:
            `(B, T, D)`.
        """
        batch, frames, dim = x.shape
        shape = (batch, frames, self.heads, self.head_dim)
        q = self.q_proj(x).view(shape).transpose(1, 2)
        k = self.k_proj(x).view(shape).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        gate = self.gate(x) if bias is not None and self.is_gated else None
        dropout = self.dropout if self.training else 0.0
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # torch has no CPU kernel with a gradient for the bias; without one it keeps several
            # matrices of (B, H, T, T) in every layer.
            context = recompute.attention(q, k, v, bias, gate, padding_mask, dropout)
        else:
            mask = _additive_mask(q, bias, gate, padding_mask)
            # Its kernels compute the logits in fp32, so those of fp16 cannot overflow.
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.out_proj(context.transpose(1, 2).reshape(batch, frames, dim))
        return out


def _additive_mask(
    q: Tensor, bias: Tensor | None, gate: Tensor | None, padding_mask: Tensor | None
) -> Tensor | None:
    mask = None
    if bias is not None:
        mask = bias.expand(len(q), -1, -1, -1) if gate is None else gate * bias
        mask = mask.to(q.dtype)
    if padding_mask is None:
        return mask
    padded = padding_mask[:, None, None, :]
    if mask is None:
        mask = torch.zeros_like(padded, dtype=q.dtype)
    return mask.masked_fill(padded, float("-inf"))
