"""One convolution of the extractor as the formulations take it, and what they share."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

Length = TypeVar("Length", int, Tensor)

EPSILON = 1e-5


class Block(NamedTuple):
    """Convolution without padding, an optional norm, and a GELU."""

    weight: Tensor
    """`(O, C, K)`, `K >= stride`."""
    bias: Tensor | None
    """`(O,)` or None."""
    stride: int
    norm: Literal["group", "layer"] | None
    """`group`: over time, one group per channel; `layer`: over channels."""
    scale: Tensor | None
    """`(O,)` of the norm."""
    shift: Tensor | None
    """`(O,)` of the norm."""

    @property
    def kernel(self) -> int:
        """Taps."""
        return self.weight.shape[2]

    def frames(self, samples: Length) -> Length:
        """Frames out of so many in."""
        return (samples - self.kernel) // self.stride + 1


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """`(B, frames)` bool, True for the first `lengths` of each row."""
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)


def tap_matrices(weight: Tensor, stride: int) -> list[tuple[int, int, Tensor]]:
    """The filters of a 1-D convolution in groups of `stride` taps.

    Args:
        weight: `(O, C, K)`, `K >= stride`.
        stride: step between two outputs.

    Returns:
        First tap, number of taps and matrix `(O, taps * C)` of each group.
    """
    outputs, _, kernel = weight.shape
    assert kernel >= stride
    groups = [(start, min(stride, kernel - start)) for start in range(0, kernel, stride)]
    return [
        (start, taps, weight[:, :, start : start + taps].transpose(1, 2).reshape(outputs, -1))
        for start, taps in groups
    ]


def window_rows(x: Tensor, start: int, taps: int, stride: int, frames: int) -> Tensor:
    """The inputs of some taps, one window per output frame.

    Args:
        x: `(B, T, C)`, the last two dimensions contiguous.
        start: first tap.
        taps: number of taps, at most `stride`.
        stride: step between two windows.
        frames: number of windows.

    Returns:
        `(B, frames, taps, C)`, a view.
    """
    span = x[:, start : start + (frames - 1) * stride + taps]
    return span.unfold(1, taps, stride).transpose(2, 3)


def scaled_filters(block: Block, covariance: Tensor) -> Tensor:
    """Filters `(B, C K, O)` that give the norm's scale as deviation, in the type of `covariance`.

    Args:
        block: convolution and norm.
        covariance: `(B, C K, C K)` of the input windows, fp32 or wider.
    """
    assert block.scale is not None
    taps = block.weight.flatten(1).to(covariance.dtype)
    variance = ((taps @ covariance) * taps).sum(2)
    scale = block.scale * torch.rsqrt(variance.clamp(min=0) + EPSILON)
    return (scale.unsqueeze(2) * taps).transpose(1, 2)


def folded_norm(x: Tensor, lengths: Tensor | None, block: Block) -> tuple[Tensor, Tensor]:
    """What gives a convolution and its group norm, one group per channel, as one product.

    A convolution is linear in its input, so the statistics of its output over the time of each
    utterance follow from the mean and covariance of its input windows, and the norm becomes a scale
    of the filters. A bias of the convolution cancels.

    Args:
        x: `(B, T, C)`.
        lengths: `(B,)` valid output frames whose statistics count, or None for all.
        block: convolution and norm.

    Returns:
        Windows without their mean `(B, T', C K)` and filters `(B, C K, O)`, fp32 or wider. The
        product lacks the norm's shift only.
    """
    windows = x.unfold(1, block.kernel, block.stride).flatten(2)
    # Sums of squares over so many frames leave the range of fp16.
    with torch.autocast(x.device.type, enabled=False):
        wide = windows.to(torch.promote_types(x.dtype, torch.float32))
        if lengths is None:
            centred = wide - wide.mean(1, keepdim=True)
            covariance = centred.transpose(1, 2) @ centred / windows.shape[1]
        else:
            valid = valid_frames(lengths, windows.shape[1]).unsqueeze(2)
            count = lengths.clamp(min=1).view(-1, 1, 1)
            centred = wide - (wide * valid).sum(1, keepdim=True) / count
            known = centred * valid
            covariance = known.transpose(1, 2) @ known / count
        return centred, scaled_filters(block, covariance)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The precision in which autocast would multiply `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
