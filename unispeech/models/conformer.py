"""Conformer with one table of relative positions, as in continuous speech separation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.models.separation_config import ConformerConfig


class Conformer(nn.Module):
    """Frames to frames; every layer is half a feed-forward, attention, convolution, half another.

    Source: Chen et al. 2021, "Continuous speech separation with Conformer", and the shapes of the
    released models.

    Args:
        inputs: width of the frames.
        config: of the layers.
    """

    def __init__(self, inputs: int, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Linear(inputs, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.positions = nn.Embedding(2 * config.distance, config.dim // config.heads)
        # Distances longer than anything in training then change nothing.
        nn.init.zeros_(self.positions.weight)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """`(B, T, inputs)` to `(B, T, D)`.

        Args:
            x: frames.
            padding_mask: `(B, T)` bool, True = padding, or None.
        """
        x = F.relu(self.dropout(self.norm(self.proj(x))))
        positions = self._positions(x.shape[1])
        for layer in self.layers:
            x = layer(x, positions, padding_mask)
        return x

    def _positions(self, frames: int) -> Tensor:
        """`(2T - 1, D / H)` for distances from query to key of T - 1 down to 1 - T."""
        reach = self.config.distance
        distances = torch.arange(frames - 1, -frames, -1, device=self.positions.weight.device)
        found: Tensor = self.positions(distances.clamp(-reach, reach - 1) + reach)
        return found


class ConformerLayer(nn.Module):
    """One layer."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.first = FeedForward(config)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = RelativeAttention(config.dim, config.heads, config.dropout)
        self.convolution = Convolution(config)
        self.second = FeedForward(config)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, positions: Tensor, padding_mask: Tensor | None) -> Tensor:
        """`(B, T, D)` to the same; arguments as in `RelativeAttention`."""
        x = x + 0.5 * self.first(x)
        x = x + self.attention(self.attention_norm(x), positions, padding_mask)
        x = x + self.convolution(x, padding_mask)
        x = x + 0.5 * self.second(x)
        normed: Tensor = self.norm(x)
        return normed


class FeedForward(nn.Module):
    """Norm, wide layer, ReLU, narrow layer."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.wide = nn.Linear(config.dim, config.ffn_dim)
        self.narrow = nn.Linear(config.ffn_dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, D)` to the same."""
        hidden = self.dropout(F.relu(self.wide(self.norm(x))))
        out: Tensor = self.dropout(self.narrow(hidden))
        return out


class RelativeAttention(nn.Module):
    """Self-attention whose keys carry their distance from the query.

    The logit of query i and key j is `(q_i k_j + q_i r_{i-j}) / sqrt(D / H)`.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, positions: Tensor, padding_mask: Tensor | None) -> Tensor:
        """`(B, T, D)` to the same.

        Args:
            x: frames.
            positions: `(2T - 1, D / H)` for distances of T - 1 down to 1 - T.
            padding_mask: `(B, T)` bool, True = padding, or None.
        """
        batch, frames, dim = x.shape
        shape = (batch, frames, self.heads, dim // self.heads)
        q, k, v = (
            layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        bias = skewed(q @ positions.transpose(0, 1)) * shape[3] ** -0.5
        if padding_mask is not None:
            bias = bias.masked_fill(padding_mask[:, None, None], float("-inf"))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), dropout)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, frames, dim))
        return out


def skewed(offsets: Tensor) -> Tensor:
    """`(..., T, T)` with entry (i, j) from column `T - 1 - i + j` of `(..., T, 2T - 1)`."""
    frames = offsets.shape[-2]
    if frames == 1:
        return offsets
    # A row of 2T - 2 of the flattened columns begins one column further left each time.
    width = 2 * frames - 2
    flat = offsets.flatten(-2)[..., frames - 1 : frames - 1 + frames * width]
    return flat.reshape(*flat.shape[:-1], frames, width)[..., :frames]


class Convolution(nn.Module):
    """Gated pointwise layer, depthwise convolution over time, batch norm, ReLU, pointwise layer."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.is_scalar = config.pointwise == "scalar"
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(1, 2) if self.is_scalar else nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, config.kernel, padding=config.kernel // 2, groups=dim)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.shrink = nn.Linear(1, 1) if self.is_scalar else nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """`(B, T, D)` to the same; padding does not reach valid frames."""
        x = self.norm(x)
        if self.is_scalar:
            x = F.glu(self.expand(x.unsqueeze(3)), 3).squeeze(3)
        else:
            x = F.glu(self.expand(x), 2)
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(2), 0.0)
        x = F.relu(self.batch_norm(self.depthwise(x.transpose(1, 2)))).transpose(1, 2)
        x = self.shrink(x.unsqueeze(3)).squeeze(3) if self.is_scalar else self.shrink(x)
        out: Tensor = self.dropout(x)
        return out
