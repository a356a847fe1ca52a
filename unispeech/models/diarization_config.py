"""Configuration of EEND with vector clustering; the defaults are the authors' models."""

from __future__ import annotations

from typing import Literal

import pydantic

from unispeech.config import Config

FBANK_SHIFT = 160
"""Samples between two frames of the filter banks."""


class EendConfig(Config):
    """Features to activities and speaker vectors of one chunk.

    Source: Kinoshita et al. 2021 and the configuration of the released UniSpeech-SAT model. On 345
    inputs the transformer has 7,979,520 parameters, on 1024 it has 8,153,344; the heads have
    198,147.
    """

    features: Literal["ssl", "fbank"] = "ssl"
    """Softmax-weighted sum of all states of an encoder, normalised over the chunk, or log mel
    filter banks with their neighbours."""
    frame_samples: int | None = pydantic.Field(None, ge=1)
    """Samples at 16 kHz between two frames; None is 640 (25 frames a second) with an encoder and
    1600 (10 a second, every tenth filter bank) without."""
    mels: int = pydantic.Field(23, ge=1)
    """Filters of `features=fbank`."""
    max_hz: float = pydantic.Field(4000.0, gt=0, le=8000)
    """Upper edge of the filters: that of telephone speech, which the recipe is for."""
    context: int = pydantic.Field(7, ge=0)
    """Filter banks on each side that a frame sees too."""
    layers: int = pydantic.Field(6, ge=1)
    dim: int = pydantic.Field(256, ge=1)
    heads: int = pydantic.Field(8, ge=1)
    ffn_dim: int = pydantic.Field(2048, ge=1)
    dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    residual: Literal["normalised", "plain"] = "normalised"
    """What a layer adds to: its normalised input, as the reference and its checkpoints have it, or
    the input as it is, which is the usual pre-norm."""
    slots: int = pydantic.Field(3, ge=1, le=6)
    """Speakers that a chunk can have."""
    vector_dim: int = pydantic.Field(256, ge=1)
    """Width of the speaker vectors."""
    activity: Literal["speaker", "powerset"] = "speaker"
    """One sigmoid for each slot, or one softmax over sets of slots (Plaquet and Bredin 2023)."""
    together: int = pydantic.Field(2, ge=1)
    """Powerset: most slots that are active at once (pyannote; recalled)."""

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> EendConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.features == "fbank" and self.hop % FBANK_SHIFT:
            raise ValueError(f"frame_samples must be a multiple of {FBANK_SHIFT} with fbank")
        if self.activity == "powerset" and self.together > self.slots:
            raise ValueError(f"together {self.together} must not exceed slots {self.slots}")
        return self

    @property
    def hop(self) -> int:
        """Samples between two frames."""
        standard = 640 if self.features == "ssl" else 10 * FBANK_SHIFT
        return self.frame_samples or standard

    @property
    def seconds_per_frame(self) -> float:
        """Seconds between two frames."""
        return self.hop / 16000

    def frames(self, samples: int) -> int:
        """Frames of so many samples: those that fit in whole."""
        return samples // self.hop
