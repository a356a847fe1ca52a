"""Self-attention with WavLM's gated relative position bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.kernels.table import PLAIN, Kernels
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
        """`(H, 2T - 1)`: the bias of keys T - 1 before the query to T - 1 behind it."""
        device = self.embedding.weight.device
        distance = torch.arange(1 - frames, frames, device=device)
        buckets = relative_buckets(distance, self.num_buckets, self.max_distance)
        values: Tensor = self.embedding(buckets).t()
        return values


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
        self._merge_if_possible()

    def gate(self, x: Tensor) -> Tensor:
        """Gate `(B, H, T, 1)` of the bias from the layer input `x (B, T, D)`, per query.

        The checkpoints' form: `g_a * (g_b * a - 1) + 2`, where `g_a` is the complement of the
        paper's update gate.
        """
        batch, frames, _ = x.shape
        queries = x.view(batch, frames, self.heads, self.head_dim)
        # The eight outputs are summed in two groups of four, so the weights can be summed first.
        weight = self.grep_linear.weight.view(2, 4, -1).sum(1)
        bias = self.grep_linear.bias.view(2, 4).sum(1)
        # Products with a gate of other strides would have them too.
        gates = torch.sigmoid(F.linear(queries, weight, bias)).transpose(1, 2).contiguous()
        update, reset = gates.chunk(2, dim=-1)
        return update * (reset * self.grep_a - 1.0) + 2.0

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        padding: Any,
        kernels: Kernels = PLAIN,
        sizes: Sequence[int] | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: `(B, T, D)`.
            bias: ungated relative position bias, as the kernels have it, or None.
            padding: as the kernels have it, or None.
            kernels: the formulation.
            sizes: frames of each utterance where one row holds several.

        Returns:
            `(B, T, D)`.
        """
        batch, frames, dim = x.shape
        shape = (batch, frames, self.heads, self.head_dim)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self._projected(x, kernels))
        gate = self.gate(x) if bias is not None and self.is_gated else None
        dropout = self.dropout if self.training else 0.0
        context = kernels.attention(q, k, v, bias, gate, padding, dropout, **packed(sizes))
        out: Tensor = self.out_proj(context.transpose(1, 2).reshape(batch, frames, dim))
        return out

    def _projected(self, x: Tensor, kernels: Kernels) -> tuple[Tensor, ...]:
        """Queries, keys and values `(B, T, D)`."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        if not kernels.merges or not self.is_merged():
            return tuple(layer(x) for layer in layers)
        weight, bias = self.q_proj.weight, self.q_proj.bias
        dim = weight.shape[0]
        whole = F.linear(
            x, weight.as_strided((3 * dim, dim), (dim, 1)), bias.as_strided((3 * dim,), (1,))
        )
        return whole.chunk(3, -1)

    def is_merged(self) -> bool:
        """Whether the three projections lie one behind the other in memory, as one matrix."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        return all(
            _are_adjacent([getattr(layer, name) for layer in layers]) for name in ("weight", "bias")
        )

    def merge(self) -> None:
        """Move the three projections together; they stay three parameters."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        with torch.no_grad(), torch.inference_mode(False):
            for name in ("weight", "bias"):
                own = [getattr(layer, name) for layer in layers]
                whole = torch.cat([parameter.detach() for parameter in own])
                for parameter, part in zip(own, whole.chunk(3), strict=True):
                    parameter.data = part

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SelfAttention:
        # Another precision or device has other memory.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._merge_if_possible()
        return self

    def _merge_if_possible(self) -> None:
        weight = self.q_proj.weight
        if weight.device.type != "meta" and _has_memory(weight):
            self.merge()


def packed(sizes: Sequence[int] | None) -> dict[str, Sequence[int]]:
    """The argument of kernels that take several utterances in one row; others lack it."""
    return {} if sizes is None else {"sizes": sizes}


def _are_adjacent(parts: Sequence[Tensor]) -> bool:
    first = parts[0]
    size = first.numel() * first.element_size()
    return all(
        _has_memory(part)
        and part.is_contiguous()
        and part.dtype == first.dtype
        and part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and part.data_ptr() == first.data_ptr() + number * size
        for number, part in enumerate(parts)
    )


def _has_memory(tensor: Tensor) -> bool:
    # Of a matrix that several processes share, each holds other rows.
    return type(tensor) in (Tensor, nn.Parameter)
