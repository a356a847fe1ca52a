"""The transformer stack: convolutional positions, pre- or post-norm layers, LayerDrop."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unispeech.models.attention import RelativePositionBias, SelfAttention
from unispeech.models.config import EncoderConfig
from unispeech.models.recompute import gelu_linear


class PositionalConv(nn.Module):
    """Grouped convolution over time, weight-normalised over the kernel axis, then GELU.

    Source: wav2vec 2.0, section 4.2. `weight_g (1, 1, K)` and `weight_v (D, D / groups, K)` are
    the released checkpoints' parameters: tap k is `g[k] * v[:, :, k] / ||v[:, :, k]||`.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim, kernel, groups = config.dim, config.pos_conv_kernel, config.pos_conv_groups
        self.groups = groups
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        nn.init.normal_(self.weight_v, std=math.sqrt(4.0 / (kernel * dim)))
        self.weight_g = nn.Parameter(self._norm().detach().clone())
        self.bias = nn.Parameter(torch.zeros(dim))
        self._folded: tuple[tuple[object, ...], Tensor] | None = None

    def _norm(self) -> Tensor:
        return self.weight_v.float().square().sum((0, 1), keepdim=True).sqrt()

    def weight(self) -> Tensor:
        """Filters `(D, D / groups, K)`; computed once for weights that do not change."""
        if torch.is_grad_enabled():
            # Fused optimizers change a weight without giving it a new version.
            self._folded = None
            return self.weight_g * (self.weight_v / self._norm())
        v = self.weight_v
        # Moving a module changes neither the parameter's identity nor its version.
        state = (id(v), v._version, self.weight_g._version, v.device, v.dtype)
        if self._folded is None or self._folded[0] != state:
            self._folded = (state, self.weight_g * (self.weight_v / self._norm()))
        return self._folded[1]

    def forward(self, x: Tensor) -> Tensor:
        """`x (B, T, D)` to `(B, T, D)`."""
        weight = self.weight().to(x.dtype)
        kernel = weight.shape[2]
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=kernel // 2, groups=self.groups)
        # An even kernel with symmetric padding gives one frame too many.
        return F.gelu(y[:, :, : x.shape[1]]).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward with residuals, pre- or post-norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        has_dropout = self.training and self.activation_dropout > 0
        if has_dropout or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            x = self.fc2(F.dropout(F.gelu(x), self.activation_dropout, self.training))
        else:
            x = gelu_linear(x, self.fc2.weight, self.fc2.bias)
        return F.dropout(x, self.dropout, self.training)

    def _attend(self, x: Tensor, bias: Tensor | None, padding_mask: Tensor | None) -> Tensor:
        return F.dropout(self.self_attn(x, bias, padding_mask), self.dropout, self.training)

    def forward(self, x: Tensor, bias: Tensor | None, padding_mask: Tensor | None) -> Tensor:
        """`x (B, T, D)` to `(B, T, D)`; the other arguments as in `SelfAttention.forward`."""
        if self.norm_first:
            x = x + self._attend(self.self_attn_layer_norm(x), bias, padding_mask)
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self._attend(x, bias, padding_mask))
        return self.final_layer_norm(x + self._feed_forward(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Positions, layers and the final norm (post-norm: before the layers, pre-norm: after)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        """Recompute each layer in the backward pass instead of keeping what is in it."""
        self.pos_conv = PositionalConv(config)
        self.relative_position = RelativePositionBias(config) if config.relative_position else None
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim)
        self.apply(_bert_init)

    def forward(
        self,
        x: Tensor,
        padding_mask: Tensor | None,
        dropped: frozenset[int] = frozenset(),
        until: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode frames.

        Args:
            x: `(B, T, D)` projected features, masked or not.
            padding_mask: `(B, T)` bool, True = padding, or None.
            dropped: layers to skip (LayerDrop).
            until: stop behind so many layers.

        Returns:
            The output `(B, T, D)`, after the final norm where the family has one and all layers
            ran, and the raw states `(B, T, D)`: the input of the first layer, then the output of
            each layer.
        """
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(2), 0.0)
        x = x + self.pos_conv(x)
        if not self.config.norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, self.config.dropout, self.training)
        bias = None if self.relative_position is None else self.relative_position(x.shape[1])
        states = [x]
        for index, layer in enumerate(self.layers[:until]):
            if index not in dropped:
                if self.activation_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(layer, x, bias, padding_mask, use_reentrant=False)
                else:
                    x = layer(x, bias, padding_mask)
            states.append(x)
        is_whole = len(states) == len(self.layers) + 1
        has_norm = self.config.norm_first and self.config.final_norm
        return (self.layer_norm(x) if has_norm and is_whole else x), tuple(states)


def draw_dropped_layers(config: EncoderConfig, seed: int) -> frozenset[int]:
    """The layers that LayerDrop skips in one update.

    Seeded by the update alone, so that all ranks and micro-batches skip the same layers: a layer
    then either has a gradient everywhere or nowhere, which gradient accumulation needs.
    """
    if config.layer_drop == 0:
        return frozenset()
    draws = np.random.default_rng(seed).random(config.layers)
    return frozenset(int(i) for i in np.flatnonzero(draws < config.layer_drop))


def _bert_init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
