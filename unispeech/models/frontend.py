"""The convolutional waveform extractor, channels last."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unispeech.kernels.blocks import Block, Length, valid_frames
from unispeech.kernels.table import Kernels, choose
from unispeech.models.config import ConvLayer, EncoderConfig, PaddingRule


def output_length(samples: Length, layers: tuple[ConvLayer, ...]) -> Length:
    """Frames that `samples` samples give: `floor((n - kernel) / stride) + 1` through all blocks."""
    frames = samples
    for layer in layers:
        frames = (frames - layer.kernel) // layer.stride + 1
    return frames


class ChannelNorm(nn.Module):
    """Weights of a group norm with one group per channel, over the time of each utterance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class ConvBlock(nn.Module):
    """Weights of a convolution and of its norm."""

    def __init__(self, inputs: int, layer: ConvLayer, bias: bool, norm: str | None) -> None:
        super().__init__()
        self.stride = layer.stride
        self.conv = nn.Conv1d(inputs, layer.channels, layer.kernel, layer.stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: ChannelNorm | nn.LayerNorm | None = None
        if norm == "group":
            self.norm = ChannelNorm(layer.channels)
        elif norm == "layer":
            self.norm = nn.LayerNorm(layer.channels)

    def block(self) -> Block:
        """As the kernels take it."""
        norm, conv = self.norm, self.conv
        if norm is None:
            return Block(conv.weight, conv.bias, self.stride, None, None, None)
        kind: Literal["group", "layer"] = "group" if isinstance(norm, ChannelNorm) else "layer"
        return Block(conv.weight, conv.bias, self.stride, kind, norm.weight, norm.bias)


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
            rule: with `exact`, padding does not enter the statistics of the group norm, and frames
                of padding hold anything.

        Returns:
            `(B, T, channels)`.
        """
        kernels = choose(waveforms.device)
        blocks = [block.block() for block in self.conv_layers]  # type: ignore[operator]
        counted = lengths if rule == "exact" else None
        if not kernels.packs:
            return self._learn(kernels, blocks, waveforms, counted)
        # The widest tensors of the whole network exist for one utterance, without its padding.
        samples = [waveforms.shape[1]] * len(waveforms) if counted is None else counted.tolist()
        frames = output_length(waveforms.shape[1], self.config.conv_layers)
        rows = []
        for row, count in enumerate(samples):
            own = self._learn(kernels, blocks, waveforms[row : row + 1, :count], None)
            missing = frames - own.shape[1]
            rows.append(F.pad(own, (0, 0, 0, missing)) if missing else own)
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _learn(
        self, kernels: Kernels, blocks: list[Block], waveforms: Tensor, lengths: Tensor | None
    ) -> Tensor:
        if not self.activation_checkpointing or not torch.is_grad_enabled():
            return kernels.extract(waveforms, lengths, blocks)
        features: Tensor = checkpoint(
            kernels.extract, waveforms, lengths, blocks, use_reentrant=False
        )
        return features


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
    return ~valid_frames(valid, frames)
