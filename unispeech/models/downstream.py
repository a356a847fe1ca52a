"""What every network on the states of an encoder shares: sum of layers, norm, frozen or trained."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unispeech.models.encoder import Encoder, EncoderOutput


class LayerSum(nn.Module):
    """Sum of hidden states with softmax weights, equal ones at first.

    Args:
        states: L + 1.
    """

    def __init__(self, states: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(states))

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        """L + 1 states `(B, T, D)` to one."""
        shares = torch.softmax(self.weight.float(), dim=0).to(states[0].dtype)
        total = shares[0] * states[0]
        for share, state in zip(shares[1:], states[1:], strict=True):
            total = total + share * state
        return total


def instance_norm(x: Tensor, valid: Tensor | None) -> Tensor:
    """Zero mean and unit variance of each channel over the utterance (biased, epsilon 1e-5).

    Args:
        x: `(B, C, T)`.
        valid: `(B, 1, T)` bool or None; padding becomes zero.
    """
    # Not torch's own, which refuses a single frame in training.
    weights = torch.ones_like(x[:, :1]) if valid is None else valid.to(x.dtype)
    count = weights.sum(2, keepdim=True)
    mean = (x * weights).sum(2, keepdim=True) / count
    centred = (x - mean) * weights
    variance = centred.square().sum(2, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """Which frames are not padding, `(B, frames)` bool."""
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)


class DownstreamModel(nn.Module):
    """A network with an encoder of its own, which a training freezes or trains.

    Args:
        encoder: None for a network on filter banks.
    """

    def __init__(self, encoder: Encoder | None) -> None:
        super().__init__()
        self.encoder = encoder
        self._is_frozen = False
        self._has_dropout = True

    def set_training(self, frozen: bool, dropout: bool = False) -> None:
        """Say how a training treats the encoder.

        Args:
            frozen: its weights stay as they are, and no gradient is computed in it.
            dropout: a trained encoder has its dropouts. Without, it stays in evaluation mode while
                its weights are trained, as in the authors' diarization code.
        """
        self._is_frozen = frozen
        self._has_dropout = dropout and not frozen
        if self.encoder is not None:
            for parameter in self.encoder.parameters():
                parameter.requires_grad_(not frozen)
            for unused in _without_gradient(self.encoder):
                unused.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> DownstreamModel:
        """Training or evaluation mode; a frozen encoder is always in the latter."""
        super().train(mode)
        if self.encoder is not None and not self._has_dropout:
            self.encoder.eval()
        return self

    def encode(self, waveforms: Tensor, lengths: Tensor | None) -> EncoderOutput:
        """Output of the encoder, whose last layer's state is taken behind the final norm.

        Args:
            waveforms: `(B, N)` float32, as they come.
            lengths: `(B,)` int64 valid samples, or None.
        """
        assert self.encoder is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._is_frozen):
            output: EncoderOutput = self.encoder(waveforms, lengths)
        return output._replace(layers=(*output.layers[:-1], output.last))


class Rates(NamedTuple):
    """Learning rates relative to the head's."""

    encoder: float = 1.0
    """Of the encoder's last layer."""
    layer_decay: float = 1.0
    """Factor from each layer to the one before; the front end counts as one more."""


def rate_scale(name: str, prefix: str, encoder: Encoder | None, rates: Rates) -> float:
    """Factor of the learning rate of a parameter, from its depth in the encoder.

    Args:
        name: of the parameter.
        prefix: what the names of the encoder's parameters begin with, the last dot included.
        encoder: None where there is none.
        rates: of its layers.
    """
    if encoder is None or not name.startswith(prefix):
        return 1.0
    inner = name.removeprefix(prefix)
    depth = encoder.config.layers
    layer = re.match(r"encoder\.layers\.(\d+)\.", inner)
    if layer:
        depth -= int(layer[1]) + 1
    elif encoder.config.norm_first and inner.startswith("encoder.layer_norm."):
        # The final norm of a pre-norm model comes behind the last layer.
        depth = 0
    return rates.encoder * rates.layer_decay**depth


def _without_gradient(encoder: Encoder) -> list[nn.Parameter]:
    """Parameters that a head does not depend on, or that the configuration keeps."""
    kept = [encoder.mask_emb]
    if encoder.config.feature_grad_mult == 0:
        kept += encoder.feature_extractor.parameters()
    if encoder.config.norm_first and not encoder.config.final_norm:
        kept += encoder.encoder.layer_norm.parameters()
    return kept
