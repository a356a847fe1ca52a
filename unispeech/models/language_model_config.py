"""Configuration of Transformer language models."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from unispeech.config import Config

Cutoffs = tuple[Annotated[int, pydantic.Field(ge=5)], ...]


class LanguageModelConfig(Config):
    """A causal Transformer; the defaults are the LibriSpeech word model of wav2vec 2.0.

    Source: Baevski et al. 2020, section 4.4, after Synnaeve et al. 2020: 20 blocks, 1280 wide,
    inner width 6144, 16 heads. What these do not say is as in fairseq's `transformer_lm`.
    """

    layers: int = pydantic.Field(20, ge=1)
    dim: int = pydantic.Field(1280, ge=4, multiple_of=2)
    ffn_dim: int = pydantic.Field(6144, ge=1)
    heads: int = pydantic.Field(16, ge=1)
    norm_first: bool = True
    """Norms before attention and feed-forward instead of behind them."""
    final_norm: bool = True
    """One more norm behind the last layer."""
    activation: Literal["relu", "gelu"] = "relu"
    scale_embedding: bool = True
    """Multiply embeddings by the root of `dim` before the positions are added."""
    input_cutoffs: Cutoffs = (20000, 60000)
    """Adaptive input: ids, frequent ones first, at which a band of narrower embeddings begins;
    none for one table. Baevski & Auli 2019, section 4.1: 20 k, 40 k and 200 k words."""
    input_factor: float = pydantic.Field(4.0, ge=1)
    """How much narrower each band is than the one before it."""
    output_cutoffs: Cutoffs = (20000, 60000)
    """The same of the adaptive softmax."""
    output_factor: float = pydantic.Field(4.0, ge=1)
    tied: bool = True
    """The tables of the input are those of the output."""
    tied_projections: bool = True
    """So are the projections between the bands and the model, transposed."""
    dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    attention_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    activation_dropout: float = pydantic.Field(0.0, ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> LanguageModelConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        for cutoffs in (self.input_cutoffs, self.output_cutoffs):
            if list(cutoffs) != sorted(set(cutoffs)):
                raise ValueError("cutoffs must ascend")
        for cutoffs, factor in (
            (self.input_cutoffs, self.input_factor),
            (self.output_cutoffs, self.output_factor),
        ):
            if cutoffs and self.dim // factor ** len(cutoffs) < 1:
                raise ValueError(f"dim {self.dim} is too small for {len(cutoffs)} cutoffs")
        own = (self.input_cutoffs, self.input_factor)
        if self.tied and self.input_cutoffs and own != (self.output_cutoffs, self.output_factor):
            raise ValueError("tied needs the same cutoffs and factors at input and output")
        if self.tied and not self.input_cutoffs and self.output_cutoffs:
            raise ValueError("tied needs the same cutoffs and factors at input and output")
        return self
