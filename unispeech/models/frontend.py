"""The convolutional waveform extractor, channels last."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unispeech.models.config import ConvLayer, EncoderConfig, PaddingRule
from unispeech.models.recompute import gelu_conv

Length = TypeVar("Length", int, Tensor)


def output_length(samples: Length, layers: tuple[ConvLayer, ...]) -> Length:
    """Frames that `samples` samples give: `floor((n - kernel) / stride) + 1` through all blocks."""
    frames = samples
    for layer in layers:
        frames = (frames - layer.kernel) // layer.stride + 1
    return frames


def strided_conv(x: Tensor, weight: Tensor, stride: int, bias: Tensor | None) -> Tensor:
    """1-D convolution without padding as matrix products over views of the input.

    Args:
        x: `(B, T, C)`.
        weight: `(O, C, K)`, `K >= stride`.
        stride: step between two outputs.
        bias: `(O,)` or None.

    Returns:
        `(B, floor((T - K) / stride) + 1, O)`; equal to `torch.nn.functional.conv1d`.
    """
    batch, time, channels = x.shape
    kernel = weight.shape[2]
    frames = (time - kernel) // stride + 1
    y: Tensor | None = None
    for start in range(0, kernel, stride):
        taps = min(stride, kernel - start)
        flat = weight[:, :, start : start + taps].transpose(1, 2).reshape(weight.shape[0], -1)
        if taps == stride:
            # `stride` adjacent rows seen as one long row: no copy of the overlapping windows.
            rows = x[:, start : start + frames * stride].reshape(batch, frames, -1)
        else:
            span = x[:, start : start + (frames - 1) * stride + taps]
            rows = span.unfold(1, taps, stride).transpose(2, 3).reshape(batch, frames, -1)
        part = F.linear(rows, flat, bias if start == 0 else None)
        y = part if y is None else y + part
    assert y is not None
    return y


class ChannelNorm(nn.Module):
    """Group norm with one group per channel: statistics over the time axis of each utterance.

    It follows the first convolution, which is linear in the samples, so its statistics follow from
    the mean and covariance of the convolution's input windows and the norm becomes a scale of the
    filters: the wide output is written once and never read for statistics.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, windows: Tensor, filters: Tensor, lengths: Tensor | None) -> Tensor:
        """Convolve and normalise.

        Args:
            windows: `(B, T, K)` input of each output frame.
            filters: `(C, K)`; a bias of the convolution would cancel.
            lengths: `(B,)` valid frames whose statistics count, or None for all.

        Returns:
            `(B, T, C)`: `GroupNorm(C, C)` of the convolution's output, epsilon 1e-5.
        """
        # Sums of squares over so many frames leave the range of fp16.
        with torch.autocast(windows.device.type, enabled=False):
            wide = windows.float()
            if lengths is None:
                centred = wide - wide.mean(1, keepdim=True)
                covariance = centred.transpose(1, 2) @ centred / windows.shape[1]
            else:
                valid = _valid(lengths, windows.shape[1]).unsqueeze(2)
                count = lengths.clamp(min=1).view(-1, 1, 1)
                centred = wide - (wide * valid).sum(1, keepdim=True) / count
                known = centred * valid
                covariance = known.transpose(1, 2) @ known / count
            taps = filters.float()
            variance = ((taps @ covariance) * taps).sum(2)
            scale = self.weight * torch.rsqrt(variance.clamp(min=0) + 1e-5)
            scaled = (scale.unsqueeze(2) * taps).transpose(1, 2)
        return torch.baddbmm(self.bias.expand(windows.shape[0], 1, -1), centred, scaled)


def _valid(lengths: Tensor, frames: int) -> Tensor:
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)


class ConvBlock(nn.Module):
    """Convolution and optional norm; the GELU in between belongs to the next block."""

    def __init__(self, inputs: int, layer: ConvLayer, bias: bool, norm: str | None) -> None:
        super().__init__()
        self.is_first = inputs == 1
        self.stride = layer.stride
        self.conv = nn.Conv1d(inputs, layer.channels, layer.kernel, layer.stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: nn.Module | None = None
        if norm == "group":
            self.norm = ChannelNorm(layer.channels)
        elif norm == "layer":
            self.norm = nn.LayerNorm(layer.channels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """`x (B, T, C)` to `(B, T', channels)`, both before their GELU.

        Args:
            x: waveform for the first block, output of the block before for the others.
            lengths: `(B,)` valid output frames, or None.
        """
        weight, bias = self.conv.weight, self.conv.bias
        if isinstance(self.norm, ChannelNorm):
            windows = x.unfold(1, weight.shape[2], self.stride).flatten(2)
            normed: Tensor = self.norm(windows, weight.flatten(1), lengths)
            return normed
        if self.is_first:
            x = strided_conv(x, weight, self.stride, bias)
        elif torch.is_grad_enabled() and not torch.compiler.is_compiling():
            x = gelu_conv(x, weight, bias, self.stride)
        else:
            x = strided_conv(F.gelu(x), weight, self.stride, bias)
        return x if self.norm is None else self.norm(x)


class ConvExtractor(nn.Module):
    """Waveform to frames (wav2vec 2.0, section 2; layout of the released checkpoints)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        blocks = []
        inputs = 1
        for index, layer in enumerate(config.conv_layers):
            is_normed = config.extractor_norm == "layer" or index == 0
            norm = config.extractor_norm if is_normed else None
            blocks.append(ConvBlock(inputs, layer, config.conv_bias, norm))
            inputs = layer.channels
        self.conv_layers = nn.ModuleList(blocks)
        self.activation_checkpointing = False
        """Recompute all blocks in the backward pass instead of keeping what is in them."""

    def forward(self, waveforms: Tensor, lengths: Tensor | None, rule: PaddingRule) -> Tensor:
        """Extract frames.

        Args:
            waveforms: `(B, N)` float.
            lengths: `(B,)` int64 valid samples, or None when nothing is padded.
            rule: with `exact`, padding does not enter the statistics of the group norm.

        Returns:
            `(B, T, channels)`.
        """
        counted = lengths if rule == "exact" else None
        if not torch.is_grad_enabled():
            return self._blocks(waveforms, counted)
        # On a CPU, where one utterance fills the cores, the widest gradients of the whole network
        # then exist for one utterance at a time.
        rows = 1 if waveforms.device.type == "cpu" else len(waveforms)
        parts = torch.split(waveforms, rows)
        counts = [None] * len(parts) if counted is None else torch.split(counted, rows)
        return torch.cat([self._learn(*part) for part in zip(parts, counts, strict=True)])

    def _learn(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        if not self.activation_checkpointing:
            return self._blocks(waveforms, lengths)
        features: Tensor = checkpoint(self._blocks, waveforms, lengths, use_reentrant=False)
        return features

    def _blocks(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        x = waveforms.unsqueeze(2)
        for block in self.conv_layers:
            assert isinstance(block, ConvBlock)
            if lengths is not None:
                lengths = (lengths - block.conv.kernel_size[0]) // block.stride + 1
            x = block(x, lengths)
        return F.gelu(x)


def frame_padding_mask(
    lengths: Tensor, samples: int, frames: int, config: EncoderConfig, rule: PaddingRule
) -> Tensor:
    """Which frames are padding.

    Args:
        lengths: `(B,)` int64 valid samples.
        samples: samples of the padded batch.
        frames: frames of the padded batch.
        config: gives the convolution shapes.
        rule: `fairseq` cuts the samples into `frames` equal pieces and calls a frame padding when
            its whole piece is; the others use the exact length of the convolutions.

    Returns:
        `(B, frames)` bool, True = padding.
    """
    if rule == "fairseq":
        piece = samples // frames
        valid = torch.div(lengths + piece - 1, piece, rounding_mode="floor").clamp(max=frames)
    else:
        valid = output_length(lengths, config.conv_layers)
    return ~_valid(valid, frames)
