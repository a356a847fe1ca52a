"""The transformer stack: convolutional positions, pre- or post-norm layers, LayerDrop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unispeech.kernels.table import PLAIN, Kernels, choose
from unispeech.models.attention import RelativePositionBias, SelfAttention, packed
from unispeech.models.config import EncoderConfig


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
            self.forget()
            return self.weight_g * (self.weight_v / self._norm())
        v = self.weight_v
        # Moving a module changes neither the parameter's identity nor its version.
        state = (id(v), v._version, self.weight_g._version, v.device, v.dtype)
        if self._folded is None or self._folded[0] != state:
            self._folded = (state, self.weight_g * (self.weight_v / self._norm()))
        return self._folded[1]

    def forget(self) -> None:
        """Compute the filters anew when they are needed next."""
        self._folded = None

    def forward(
        self, x: Tensor, kernels: Kernels = PLAIN, sizes: Sequence[int] | None = None
    ) -> Tensor:
        """`x (B, T, D)` to `(B, T, D)`; the other arguments as in `SelfAttention.forward`."""
        return kernels.positions(x, self.weight(), self.bias, self.groups, **packed(sizes))


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

    def _feed_forward(self, x: Tensor, kernels: Kernels) -> Tensor:
        dropout = self.activation_dropout if self.training else 0.0
        wide, narrow = (self.fc1.weight, self.fc1.bias), (self.fc2.weight, self.fc2.bias)
        x = kernels.feed_forward(x, wide, narrow, dropout)
        return F.dropout(x, self.dropout, self.training)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        padding: Any,
        kernels: Kernels = PLAIN,
        sizes: Sequence[int] | None = None,
    ) -> Tensor:
        """`x (B, T, D)` to `(B, T, D)`; the other arguments as in `SelfAttention.forward`."""
        attended = self.self_attn_layer_norm(x) if self.norm_first else x
        attended = self.self_attn(attended, bias, padding, kernels, sizes)
        x = x + F.dropout(attended, self.dropout, self.training)
        if self.norm_first:
            return x + self._feed_forward(self.final_layer_norm(x), kernels)
        x = self.self_attn_layer_norm(x)
        return self.final_layer_norm(x + self._feed_forward(x, kernels))  # type: ignore[no-any-return]


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
        keep: bool = True,
        sizes: Sequence[int] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode frames.

        Args:
            x: `(B, T, D)` projected features, masked or not.
            padding_mask: `(B, T)` bool, True = padding, or None.
            dropped: layers to skip (LayerDrop).
            until: stop behind so many layers.
            keep: whether the states of the layers are wanted.
            sizes: frames of each utterance where one row holds several, one behind the other.

        Returns:
            The output `(B, T, D)`, after the final norm where the family has one and all layers
            ran, and the raw states `(B, T, D)`: the input of the first layer, then the output of
            each layer; none of them without `keep`.
        """
        kernels = self.kernels(x.device)
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(2), 0.0)
        x = x + self.pos_conv(x, kernels, sizes)
        if not self.config.norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, self.config.dropout, self.training)
        bias, padding = None, kernels.padding(padding_mask)
        if self.relative_position is not None:
            longest = x.shape[1] if sizes is None else max(sizes)
            bias = kernels.bias(self.relative_position(longest))
        states = [x] if keep else []
        number = len(self.layers) if until is None else until
        for index, layer in enumerate(self.layers[:number]):
            if index not in dropped:
                given = (x, bias, padding, kernels, sizes)
                if self.activation_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(layer, *given, use_reentrant=False)
                else:
                    x = layer(*given)
            if keep:
                states.append(x)
        has_norm = self.config.norm_first and self.config.final_norm
        is_whole = number == len(self.layers)
        return (self.layer_norm(x) if has_norm and is_whole else x), tuple(states)

    def kernels(self, device: torch.device) -> Kernels:
        """The formulation for inputs on a device."""
        is_compiled = any(layer._compiled_call_impl is not None for layer in self.layers)
        return choose(device, is_compiled)


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
