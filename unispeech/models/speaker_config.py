"""Configuration of speaker embedding networks; the defaults are the authors' ECAPA-TDNN."""

from __future__ import annotations

from typing import Literal

import pydantic

from unispeech.config import Config


class TdnnLayer(Config):
    """One layer of an x-vector network: a convolution without padding, then ReLU."""

    channels: int = pydantic.Field(ge=1)
    kernel: int = pydantic.Field(ge=1)
    dilation: int = pydantic.Field(1, ge=1)


XVECTOR = tuple(
    TdnnLayer(channels=channels, kernel=kernel, dilation=dilation)
    for channels, kernel, dilation in (
        (512, 5, 1),
        (512, 3, 2),
        (512, 3, 3),
        (512, 1, 1),
        (1500, 1, 1),
    )
)
"""The five frame layers of Snyder et al. 2018, table 1, as WavLMForXVector has them."""


class SpeakerConfig(Config):
    """Features to embedding; the defaults are the released speaker verification models.

    Source: the layout of the released checkpoints. Behind an encoder of width 1024 there are
    8,410,816 parameters, layer weights not counted.
    """

    features: Literal["ssl", "fbank"] = "ssl"
    """Softmax-weighted sum of all states of an encoder, or log mel filter banks."""
    mels: int = pydantic.Field(40, ge=1)
    """Filters of `features=fbank`."""
    network: Literal["ecapa", "xvector", "none"] = "ecapa"
    """Frame layers: ECAPA-TDNN, the x-vector's TDNN (what Hugging Face has a class for), or none:
    pooling reads the weighted states, which is the multi-head factorised attentive back-end."""
    channels: int = pydantic.Field(512, ge=1)
    """ECAPA-TDNN: width of the blocks."""
    groups: int = pydantic.Field(8, ge=2)
    """ECAPA-TDNN: parts of a Res2 block."""
    bottleneck: int = pydantic.Field(128, ge=1)
    """ECAPA-TDNN: width inside squeeze-and-excitation."""
    tdnn: tuple[TdnnLayer, ...] = pydantic.Field(XVECTOR, min_length=1)
    """x-vector: the frame layers."""
    pooling: Literal["attentive", "statistics", "factorised"] = "attentive"
    attention_dim: int = pydantic.Field(128, ge=1)
    """Attentive: width of the attention network. Factorised: width of keys and values."""
    global_context: bool = False
    """Attentive: the attention also sees mean and deviation of the utterance. The released models
    do not have it; wespeaker's do."""
    heads: int = pydantic.Field(64, ge=1)
    """Factorised: attention heads (wespeaker's WavLM recipe; recalled)."""
    embedding: int = pydantic.Field(256, ge=1)

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> SpeakerConfig:
        if self.channels % self.groups:
            raise ValueError(f"channels {self.channels} must be a multiple of groups")
        if self.features == "fbank" and self.network != "ecapa":
            raise ValueError("features=fbank needs network=ecapa")
        if self.network == "xvector" and self.pooling != "statistics":
            raise ValueError("network=xvector needs pooling=statistics")
        if self.global_context and self.pooling != "attentive":
            raise ValueError("global_context needs pooling=attentive")
        return self
