"""Separation models: waveform to masks of speakers and noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unispeech.errors import ConfigError, DataError, NumericsError
from unispeech.models.config import EncoderConfig
from unispeech.models.conformer import Conformer
from unispeech.models.downstream import DownstreamModel, LayerSum, Rates, rate_scale
from unispeech.models.encoder import Encoder
from unispeech.models.separation_config import SeparationConfig
from unispeech.models.stft import Stft

SAMPLING_RATE = 16000
FLOOR = 1e-5
"""Added to magnitudes before the logarithm, and to deviations before the division."""


class Separation(NamedTuple):
    """What a separation model returns; K masks: those of the speakers, then those of noise."""

    masks: Tensor
    """`(B, K, T, bins)` float32 in [0, 1]."""
    spectrum: Tensor
    """`(B, T, bins)` complex64 of the mixture; zero in padding."""
    padding_mask: Tensor | None
    """`(B, T)` bool, True = padding; None when nothing is padded."""


class SeparationModel(DownstreamModel):
    """Magnitudes, and with `features=ssl` the states of an encoder, to masks by a Conformer.

    Args:
        config: of everything behind the encoder.
        encoder: its configuration; None for `features=magnitude`.

    Raises:
        ConfigError: the encoder does not have one frame for every two of the spectrum.
    """

    sample_rate = SAMPLING_RATE

    def __init__(self, config: SeparationConfig, encoder: EncoderConfig | None) -> None:
        assert (config.features == "ssl") == (encoder is not None)
        if encoder is not None:
            _check_frames(config, encoder)
        super().__init__(None if encoder is None else Encoder(encoder))
        self.config = config
        self.stft = Stft(config.window, config.fft, config.hop)
        self.layer_sum: LayerSum | None = None
        self.projector: nn.Sequential | None = None
        inputs = self.stft.bins
        if encoder is not None:
            self.layer_sum = LayerSum(encoder.layers + 1)
            self.projector = nn.Sequential(
                nn.LayerNorm(encoder.dim), nn.Linear(encoder.dim, config.projection)
            )
            inputs += config.projection
        self.conformer = Conformer(inputs, config.conformer)
        masks = config.speakers + config.noises
        self.masks = nn.Linear(config.conformer.dim, masks * self.stft.bins)
        self.rates = Rates()

    def rate_scale(self, name: str) -> float:
        """Factor of the learning rate of a parameter, from its depth in the encoder."""
        return rate_scale(name, "encoder.", self.encoder, self.rates)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Separation:
        """Masks of mixtures.

        Args:
            waveforms: `(B, N)` float32 in [-1, 1] at 16 kHz, as they come: what the encoder wants
                normalised is normalised here.
            lengths: `(B,)` int64 valid samples, or None when nothing is padded.

        Raises:
            DataError: the mixtures are too short for a frame.
        """
        if waveforms.shape[1] < self.stft.size:
            raise DataError(
                "mixture too short for one frame",
                expected=f"at least {self.stft.size} samples",
                found=waveforms.shape[1],
            )
        spectrum = self.stft(waveforms)
        frames = spectrum.shape[1]
        padding_mask = None
        if lengths is not None:
            counts = (lengths - self.stft.size) // self.stft.hop + 1
            positions = torch.arange(frames, device=waveforms.device)
            padding_mask = positions >= counts.unsqueeze(1)
            spectrum = spectrum.masked_fill(padding_mask.unsqueeze(2), 0.0)
        magnitude = spectrum.abs()
        if self.config.log:
            magnitude = (magnitude + FLOOR).log()
        x = normalized(magnitude, padding_mask)
        if self.encoder is not None:
            x = torch.cat([x, self._states(waveforms, lengths, frames).to(x.dtype)], 2)
        hidden = self.masks(self.conformer(x, padding_mask)).float()
        shape = (len(hidden), frames, -1, self.stft.bins)
        masks = torch.sigmoid(hidden).view(shape).transpose(1, 2)
        return Separation(masks, spectrum, padding_mask)

    def estimate(self, waveforms: Tensor) -> Tensor:
        """Masks `(B, K, T, bins)` without gradients, from a model in evaluation mode.

        Args:
            waveforms: `(B, N)` float32 at `sample_rate`.

        Raises:
            DataError: a mixture is too short for the encoder.
            NumericsError: a mask is not finite.
        """
        with torch.inference_mode():
            masks: Tensor = self(waveforms).masks
        if not bool(torch.isfinite(masks).all()):
            raise NumericsError(
                "a mask is not finite", expected="finite samples and weights", found="NaN"
            )
        return masks

    def _states(self, waveforms: Tensor, lengths: Tensor | None, frames: int) -> Tensor:
        """`(B, frames, projection)`: each state of the encoder twice."""
        assert self.layer_sum is not None
        assert self.projector is not None
        states: Tensor = self.projector(self.layer_sum(self.encode(waveforms, lengths).layers))
        return states.repeat_interleave(2, 1)[:, :frames]


def normalized(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Zero mean and unit deviation of each bin over the valid frames.

    Args:
        x: `(B, T, bins)`.
        padding_mask: `(B, T)` bool or None; padding becomes zero.
    """
    if padding_mask is None:
        centred = x - x.mean(1, keepdim=True)
        deviation = centred.square().mean(1, keepdim=True).sqrt()
    else:
        valid = (~padding_mask).unsqueeze(2).to(x.dtype)
        count = valid.sum(1, keepdim=True)
        centred = (x - (x * valid).sum(1, keepdim=True) / count) * valid
        deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / (deviation + FLOOR)


def _check_frames(config: SeparationConfig, encoder: EncoderConfig) -> None:
    wanted = (config.window, 2 * config.hop)
    if (encoder.receptive_field, encoder.hop) != wanted:
        raise ConfigError(
            "the encoder does not have one frame for every two of the spectrum",
            where="model.hop",
            expected=f"frames of {wanted[0]} samples, {wanted[1]} apart",
            found=f"{encoder.receptive_field} samples, {encoder.hop} apart",
            remedy="set model.window and model.hop to the encoder's frame and half of its hop",
        )
