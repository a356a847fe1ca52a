"""Configuration of separation models; the defaults are the papers' larger setting on features."""

from __future__ import annotations

from typing import Literal

import pydantic

from unispeech.config import Config


class ConformerConfig(Config):
    """The Conformer of continuous speech separation; defaults are its Base.

    Source: the released configurations of Chen et al. 2021. With 1799 inputs and four masks of 257
    bins, Base has 22.07 M parameters and Large (18 layers, width 512, 8 heads) 58.72 M.
    """

    layers: int = pydantic.Field(16, ge=1)
    dim: int = pydantic.Field(256, ge=1)
    heads: int = pydantic.Field(4, ge=1)
    ffn_dim: int = pydantic.Field(1024, ge=1)
    kernel: int = pydantic.Field(33, ge=1)
    """Frames of the depthwise convolution; odd."""
    distance: int = pydantic.Field(1000, ge=1)
    """Frames from which on relative positions are no longer told apart."""
    pointwise: Literal["full", "scalar"] = "full"
    """Convolutions around the depthwise one mix all channels, or, as in the released models, scale
    and shift each value by two numbers."""
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    """The authors found none to be better than 0.1 (a thread of CSS_with_Conformer)."""

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> ConformerConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads")
        if self.kernel % 2 == 0:
            raise ValueError("kernel must be odd")
        return self


class SeparationConfig(Config):
    """Spectrum and encoder states to masks of speakers and noise.

    Window and hop are those at which an encoder of 20 ms frames has one state for every two frames
    (the magnitude-only models that were released take 512 and 256, and no logarithm).
    """

    features: Literal["ssl", "magnitude"] = "ssl"
    """Magnitudes and the weighted sum of an encoder's states, or magnitudes alone."""
    window: int = pydantic.Field(400, ge=2)
    """Samples of a frame (25 ms; recalled)."""
    fft: int = pydantic.Field(512, ge=2)
    """Length of the transform (recalled)."""
    hop: int = pydantic.Field(160, ge=1)
    """Samples between two frames (10 ms; recalled)."""
    log: bool = True
    """Take the logarithm of the magnitudes before they are normalised (recalled); the released
    models without an encoder do not."""
    projection: int = pydantic.Field(256, ge=1)
    """Width of the projected encoder states; ours."""
    speakers: int = pydantic.Field(2, ge=2, le=6)
    """Masks of speakers."""
    noises: int = pydantic.Field(1, ge=1)
    """Masks of noise; the released seven-channel models have two."""
    conformer: ConformerConfig = ConformerConfig()

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> SeparationConfig:
        if self.fft < self.window or self.fft % 2:
            raise ValueError("fft must be even and at least as long as the window")
        if 2 * self.hop > self.window:
            raise ValueError("hop must be at most half of the window")
        return self
