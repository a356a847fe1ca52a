"""Log mel filter banks as the released speaker model without an encoder computes them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from unispeech.errors import DataError

SAMPLING_RATE = 16000
FFT, WINDOW, SHIFT = 512, 400, 160
"""Samples: transform, 25 ms, 10 ms."""


class Fbank(nn.Module):
    """Power spectrum, mel filters, logarithm; a frame is centred every 10 ms.

    Periodic Hann window, reflection at both ends, filters of HTK's mel scale without area
    normalisation: torchaudio's `MelSpectrogram`, whose buffers the released file holds.

    Args:
        mels: filters.
        max_hz: upper edge of the last one.
    """

    window: Tensor
    filters: Tensor
    transform: Tensor

    def __init__(self, mels: int, max_hz: float = SAMPLING_RATE / 2) -> None:
        super().__init__()
        self.outputs = mels
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=True))
        self.register_buffer("filters", mel_filters(mels, max_hz))
        self.register_buffer("transform", _fourier(), persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features and their lengths.

        Args:
            waveforms: `(B, N)` float32.
            lengths: `(B,)` int64 valid samples, or None.

        Returns:
            `(B, mels, T)` float32, `T = N // 160 + 1`, zeros behind the end, and `(B,)` int64.

        Raises:
            DataError: an utterance is shorter than half a transform, which is reflected.
        """
        shortest = waveforms.shape[1] if lengths is None else int(lengths.min())
        if shortest <= FFT // 2:
            raise DataError(
                "utterance too short for filter banks",
                expected=f"at least {FFT // 2 + 1} samples",
                found=shortest,
            )
        with torch.autocast(waveforms.device.type, enabled=False):
            if lengths is None:
                features = self._of_equal_length(waveforms.float())
                counts = torch.full((len(features),), features.shape[2], device=features.device)
                return features, counts
            # Each utterance is reflected at its own end.
            rows = [
                self._of_equal_length(row[None, :length].float())[0].T
                for row, length in zip(waveforms, lengths.tolist(), strict=True)
            ]
            return pad_sequence(rows, batch_first=True).transpose(1, 2), lengths // SHIFT + 1

    def _of_equal_length(self, waveforms: Tensor) -> Tensor:
        padded = F.pad(waveforms.unsqueeze(1), (FFT // 2, FFT // 2), mode="reflect").squeeze(1)
        frames = padded.unfold(1, FFT, SHIFT)
        side = (FFT - WINDOW) // 2
        spectrum = (frames[..., side : side + WINDOW] * self.window) @ self.transform
        real, imaginary = spectrum.chunk(2, dim=2)
        power = real.square() + imaginary.square()
        return torch.log(power @ self.filters + 1e-6).transpose(1, 2)


def mel_filters(mels: int, max_hz: float = SAMPLING_RATE / 2) -> Tensor:
    """Triangles `(257, mels)` float32, equidistant from 0 to `max_hz` on HTK's mel scale."""
    top = 2595.0 * math.log10(1.0 + max_hz / 700.0)
    points = 700.0 * (10.0 ** (torch.linspace(0.0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0.0, SAMPLING_RATE / 2, FFT // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def _fourier() -> Tensor:
    """Cosines, then sines `(400, 2 * 257)` of the bins, for the samples inside the window.

    A product instead of torch's transform, which not every runtime of exported models has.
    """
    samples = torch.arange(WINDOW, dtype=torch.float64).unsqueeze(1)
    bins = torch.arange(FFT // 2 + 1, dtype=torch.float64)
    angles = 2 * math.pi / FFT * samples * bins
    return torch.cat([angles.cos(), angles.sin()], 1).float()
