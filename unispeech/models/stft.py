"""Short-time Fourier transform whose frames start on multiples of the hop, and its inverse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stft(nn.Module):
    """Hann-windowed frames without centring: frame t begins at sample `t * hop`.

    Args:
        window: samples of a frame; the Hann window is periodic.
        fft: length of the transform; frames are padded with zeros at their end.
        hop: samples between two frames, at most half a window.
    """

    window: Tensor

    def __init__(self, window: int, fft: int, hop: int) -> None:
        super().__init__()
        self.size, self.fft, self.hop = window, fft, hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    @property
    def bins(self) -> int:
        """Frequencies, from 0 to half the sampling rate."""
        return self.fft // 2 + 1

    @property
    def margin(self) -> int:
        """Samples at both ends that not all frames over them cover."""
        return self.size - self.hop

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return max(0, (samples - self.size) // self.hop + 1)

    def samples(self, frames: int) -> int:
        """Samples that so many frames span."""
        return (frames - 1) * self.hop + self.size

    def forward(self, waveforms: Tensor) -> Tensor:
        """Spectra `(..., T, bins)` complex of waveforms `(..., N)`, N at least one window."""
        frames = waveforms.unfold(-1, self.size, self.hop)
        spectra: Tensor = torch.fft.rfft(frames * self.window.to(waveforms.dtype), n=self.fft)
        return spectra

    def inverse(self, spectra: Tensor) -> Tensor:
        """The waveforms `(..., (T - 1) * hop + window)` whose spectra come closest.

        Overlap-add with the window, divided by the sum of its squares: exact for spectra of a
        waveform, except for `margin` samples at both ends, where a frame that is missing would
        have carried them.

        Args:
            spectra: `(..., T, bins)` complex.
        """
        total = self.overlap_add(spectra)
        ones = torch.ones(spectra.shape[-2], self.size, dtype=total.dtype, device=total.device)
        weight = self._fold(ones * self.window.to(total.dtype).square())
        # The first sample of a Hann window is zero, and so is what is reconstructed of it.
        return total / weight.clamp(min=1e-6)

    def overlap_add(self, spectra: Tensor) -> Tensor:
        """Windowed frames of `(..., T, bins)` added up, `(..., (T - 1) * hop + window)`."""
        frames = torch.fft.irfft(spectra, n=self.fft)[..., : self.size]
        return self._fold(frames * self.window.to(frames.dtype))

    def period(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """`(hop,)` sum of the squared windows over each sample, where all frames are there."""
        squares = self.window.to(dtype).square()
        return F.pad(squares, (0, -self.size % self.hop)).view(-1, self.hop).sum(0)

    def _fold(self, frames: Tensor) -> Tensor:
        lead, count = frames.shape[:-2], frames.shape[-2]
        columns = frames.reshape(-1, count, self.size).transpose(1, 2)
        size = (1, self.samples(count))
        folded = F.fold(columns, size, (1, self.size), stride=(1, self.hop))
        return folded.reshape(*lead, size[1])
