"""Encoding recordings of any length in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unispeech.models.encoder import Encoder
from unispeech.models.frontend import output_length

Reader = Callable[[int, int], Tensor]
"""Samples from, up to: `(n,)` float32."""


class Piece(NamedTuple):
    """States of consecutive frames of a recording."""

    first: int
    """Index of the first frame."""
    states: tuple[Tensor, ...]
    """`(T, D)` of the encoder input and each layer that ran."""
    last: Tensor
    """`(T, D)` final output."""


def encode_windows(
    encoder: Encoder,
    read: Reader,
    samples: int,
    until: int | None = None,
    window_seconds: float = 30.0,
    context_seconds: float = 5.0,
) -> Iterator[Piece]:
    """Encode a recording window by window.

    Windows start on frame borders, so a frame sees the same samples in every window; `context` on
    both sides is computed and thrown away, except at the ends of the recording. A recording that
    fits into one window is encoded whole. Normalisation uses the statistics of the whole
    recording, as in training.

    Args:
        encoder: in evaluation mode.
        read: gives the samples, 16 kHz.
        samples: length of the recording.
        until: stop behind so many layers.
        window_seconds: what is kept of one window.
        context_seconds: what it sees more on each side.
    """
    hop, field = encoder.config.hop, encoder.config.receptive_field
    total = output_length(samples, encoder.config.conv_layers)
    window = max(1, round(window_seconds * 16000 / hop))
    context = max(0, round(context_seconds * 16000 / hop))
    if total <= window + 2 * context:
        window, context = total, 0
    scale = _statistics(read, samples) if encoder.config.normalize else None
    for first in range(0, total, window):
        stop = min(first + window, total)
        left = max(0, first - context)
        right = min(total, stop + context)
        end = samples if right == total else (right - 1) * hop + field
        audio = read(left * hop, end)
        if scale is not None:
            audio = (audio - scale[0]) * scale[1]
        with torch.inference_mode():
            output = encoder.encode(encoder.front_end(audio[None], None), until=until)
        kept = slice(first - left, stop - left)
        yield Piece(first, tuple(s[0, kept] for s in output.layers), output.last[0, kept])


def _statistics(read: Reader, samples: int) -> tuple[float, float]:
    """Mean, and the factor to unit variance, of a whole recording."""
    block = 1 << 20
    total = square = 0.0
    for start in range(0, samples, block):
        part = read(start, min(samples, start + block)).double()
        total += float(part.sum())
        square += float(part.square().sum())
    mean = total / samples
    return mean, (max(square / samples - mean * mean, 0.0) + 1e-5) ** -0.5
