"""Frame layers of speaker networks: ECAPA-TDNN and the x-vector's TDNN.

Frames are `(B, C, T)`; `valid` is `(B, 1, T)` bool, True where there is an utterance, or None when
nothing is padded. A padded batch gives what single utterances give: padding is zero wherever a
convolution looks beyond the end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.models.speaker_config import TdnnLayer


def zero_padding(x: Tensor, valid: Tensor | None) -> Tensor:
    """`x` with zeros behind the end of each utterance."""
    return x if valid is None else x * valid


class ConvUnit(nn.Module):
    """Convolution, ReLU, batch norm, in this order.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd.
        dilation: of the kernel; the number of frames stays the same.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=padding, dilation=dilation)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, inputs, T)` to `(B, outputs, T)`."""
        if self.conv.kernel_size[0] > 1:
            x = zero_padding(x, valid)
        normed: Tensor = self.bn(F.relu(self.conv(x)))
        return normed


class Res2Conv(nn.Module):
    """Groups of channels, each convolved after the one before was added; the last passes as it is.

    Peers let the first group pass instead (SpeechBrain, wespeaker); the released models do not.

    Args:
        channels: multiple of `groups`.
        groups: parts.
        kernel: of each convolution.
        dilation: of each convolution.
    """

    def __init__(self, channels: int, groups: int, kernel: int, dilation: int) -> None:
        super().__init__()
        width = channels // groups
        self.groups = groups
        self.units = nn.ModuleList(
            ConvUnit(width, width, kernel, dilation) for _ in range(groups - 1)
        )

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, channels, T)` to the same shape."""
        *parts, last = x.chunk(self.groups, dim=1)
        outputs: list[Tensor] = []
        for part, unit in zip(parts, self.units, strict=True):
            outputs.append(unit(part + outputs[-1] if outputs else part, valid))
        return torch.cat([*outputs, last], 1)


class SqueezeExcitation(nn.Module):
    """Scale of each channel from the means over the utterance (Hu et al. 2018).

    Args:
        channels: C.
        bottleneck: width in between.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, bottleneck)
        self.linear2 = nn.Linear(bottleneck, channels)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, C, T)` to the same shape."""
        if valid is None:
            mean = x.mean(2)
        else:
            mean = (x * valid).sum(2) / valid.sum(2)
        scale = torch.sigmoid(self.linear2(F.relu(self.linear1(mean))))
        return x * scale.unsqueeze(2)


class SERes2Block(nn.Module):
    """1x1 unit, Res2, 1x1 unit, squeeze-and-excitation, and the input added.

    Args:
        channels: C.
        groups: of the Res2 part.
        bottleneck: of the squeeze-and-excitation.
        dilation: of the convolutions of kernel 3.
    """

    def __init__(self, channels: int, groups: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.unit1 = ConvUnit(channels, channels)
        self.res2 = Res2Conv(channels, groups, 3, dilation)
        self.unit2 = ConvUnit(channels, channels)
        self.se = SqueezeExcitation(channels, bottleneck)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, C, T)` to the same shape."""
        y = self.unit2(self.res2(self.unit1(x, valid), valid), valid)
        scaled: Tensor = self.se(y, valid)
        return x + scaled


class Ecapa(nn.Module):
    """ECAPA-TDNN up to its pooling (Desplanques et al. 2020, as in the released models).

    Each block gets the output of the block before; the paper sums all earlier ones.

    Args:
        inputs: channels of the features.
        channels: C.
        groups: of the Res2 parts.
        bottleneck: of squeeze-and-excitation.
    """

    def __init__(self, inputs: int, channels: int, groups: int, bottleneck: int) -> None:
        super().__init__()
        self.outputs = 3 * channels
        self.layer1 = ConvUnit(inputs, channels, 5)
        self.blocks = nn.ModuleList(
            SERes2Block(channels, groups, bottleneck, dilation) for dilation in (2, 3, 4)
        )
        self.conv = nn.Conv1d(self.outputs, self.outputs, 1)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, inputs, T)` to `(B, 3C, T)`."""
        x = self.layer1(x, valid)
        states = []
        for block in self.blocks:
            x = block(x, valid)
            states.append(x)
        return F.relu(self.conv(torch.cat(states, 1)))


class Tdnn(nn.Module):
    """The x-vector's frame layers: dilated convolutions without padding, each with ReLU.

    Args:
        inputs: channels of the features.
        layers: shapes.
    """

    def __init__(self, inputs: int, layers: tuple[TdnnLayer, ...]) -> None:
        super().__init__()
        convolutions = []
        for layer in layers:
            shape = (inputs, layer.channels, layer.kernel)
            convolutions.append(nn.Conv1d(*shape, dilation=layer.dilation))
            inputs = layer.channels
        self.layers = nn.ModuleList(convolutions)
        self.outputs = inputs
        self.context = 1 + sum((layer.kernel - 1) * layer.dilation for layer in layers)
        """Frames that one output sees: fewer give none."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, T)` to `(B, channels of the last layer, T - context + 1)`."""
        for layer in self.layers:
            x = F.relu(layer(x))
        return x
