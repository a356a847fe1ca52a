"""Configuration of the one encoder that every model of the family is an instance of."""

from __future__ import annotations

from typing import Literal

import pydantic

from unispeech.config import Config

PaddingRule = Literal["exact", "fairseq", "huggingface"]
Family = Literal["wav2vec2", "hubert", "unispeech", "unispeech_sat", "wavlm", "ils"]


class ConvLayer(Config):
    """One block of the waveform extractor."""

    channels: int = pydantic.Field(ge=1)
    kernel: int = pydantic.Field(ge=1)
    stride: int = pydantic.Field(ge=1)

    @pydantic.model_validator(mode="after")
    def _no_skipped_samples(self) -> ConvLayer:
        if self.kernel < self.stride:
            raise ValueError("kernel must be at least stride, or samples would be skipped")
        return self


def conv_stack(channels: int = 512) -> tuple[ConvLayer, ...]:
    """The seven blocks of wav2vec 2.0 (section 4.2): 20 ms shift, 25 ms window at 16 kHz."""
    shape = [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]
    return tuple(ConvLayer(channels=channels, kernel=k, stride=s) for k, s in shape)


class EncoderConfig(Config):
    """Waveform extractor and transformer; the defaults are WavLM Base.

    Source: WavLM (Chen et al. 2022, section IV-A) and the configuration stored in the released
    Base checkpoint. With the defaults the encoder has 94,381,936 parameters.
    """

    conv_layers: tuple[ConvLayer, ...] = conv_stack()
    conv_bias: bool = False
    extractor_norm: Literal["group", "layer"] = "group"
    """`group`: group norm in the first block only; `layer`: layer norm in every block."""
    feature_grad_mult: float = pydantic.Field(0.1, ge=0)
    """Gradient scale of the extractor; 0 freezes it."""
    normalize: bool = False
    """Whether each utterance is scaled to zero mean and unit variance first."""

    layers: int = pydantic.Field(12, ge=1)
    dim: int = pydantic.Field(768, ge=1)
    ffn_dim: int = pydantic.Field(3072, ge=1)
    heads: int = pydantic.Field(12, ge=1)
    norm_first: bool = False
    """Pre-norm (Large) instead of post-norm (Base)."""
    final_norm: bool = True
    """Pre-norm models normalise their last output; ILS-SSL has the norm and does not apply it."""
    pos_conv_kernel: int = pydantic.Field(128, ge=1)
    pos_conv_groups: int = pydantic.Field(16, ge=1)
    relative_position: bool = True
    gated: bool = True
    """Gate the relative position bias by the query (WavLM, equation 3)."""
    num_buckets: int = pydantic.Field(320, ge=4, multiple_of=4)
    max_distance: int = pydantic.Field(800, ge=2)

    dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    attention_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    activation_dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    input_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    layer_drop: float = pydantic.Field(0.05, ge=0, lt=1)

    padding_rule: PaddingRule = "exact"
    """`exact`: a padded batch gives what single utterances give. `fairseq`, `huggingface`: their
    frame masks, and group-norm statistics that include the padding."""

    @pydantic.model_validator(mode="after")
    def _divisible(self) -> EncoderConfig:
        if not self.conv_layers:
            raise ValueError("conv_layers must not be empty")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.dim % self.pos_conv_groups:
            raise ValueError(f"dim {self.dim} must be a multiple of pos_conv_groups")
        if self.gated and not self.relative_position:
            raise ValueError("gated needs relative_position")
        if self.relative_position and self.max_distance <= self.num_buckets // 4:
            raise ValueError("max_distance must exceed num_buckets / 4")
        return self

    @property
    def hop(self) -> int:
        """Samples between two frames."""
        hop = 1
        for layer in self.conv_layers:
            hop *= layer.stride
        return hop

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees: the shortest utterance that gives a frame."""
        field = 1
        for layer in reversed(self.conv_layers):
            field = (field - 1) * layer.stride + layer.kernel
        return field


class MaskConfig(Config):
    """Span masking; the defaults are HuBERT's and WavLM's pre-training."""

    prob: float = pydantic.Field(0.8, ge=0, le=1)
    """Share of frames that would be masked if spans did not overlap."""
    length: int = pydantic.Field(10, ge=1)
    min_spans: int = pydantic.Field(2, ge=0)
    trim: bool = False
    """Mask equally many frames in every utterance of a batch, as the reference does, which cuts
    holes into the spans of the longer ones."""
    stream: Literal["utterance", "reference"] = "utterance"
    """Where the draws come from: a generator of each utterance, or one of the batch that is used
    in the reference's order, with its trimming."""


class QuantizerConfig(Config):
    """Product quantization; defaults are wav2vec 2.0 Base."""

    groups: int = pydantic.Field(2, ge=1)
    codes: int = pydantic.Field(320, ge=1)
    """Codewords of one group."""
    dim: int = pydantic.Field(256, ge=1)
    """Width of the concatenated codewords."""

    @pydantic.model_validator(mode="after")
    def _divisible(self) -> QuantizerConfig:
        if self.dim % self.groups:
            raise ValueError(f"dim {self.dim} must be a multiple of groups {self.groups}")
        return self


class HeadsConfig(Config):
    """The modules on top of an encoder; the defaults are none at all, as WavLM was released."""

    label_tables: tuple[int, ...] = ()
    """Classes of each label set, the four dictionary specials included."""
    label_projection: bool = True
    """Recognition checkpoints of HuBERT keep the class table without its projection."""
    final_dim: int = pydantic.Field(256, ge=1)
    """Width in which frames and classes are compared."""
    untied: bool = False
    """One projection for each label set."""
    predict_layers: tuple[int, ...] = ()
    """Layers that predict, counted from 1 (ILS-SSL); empty is the last one alone."""
    separate_tables: bool = False
    """One class table for each predicting layer."""
    contrast: Literal["none", "frame", "utterance"] = "none"
    """`frame`: wav2vec 2.0 and UniSpeech; `utterance`: UniSpeech-SAT."""
    contrast_dim: int = pydantic.Field(256, ge=1)
    """Width in which quantized frames are compared."""
    transposed: bool = False
    """UniSpeech: the last projection acts on the quantized frames, not on the context."""
    extract_norm: bool = False
    """Whether the utterance-wise contrast has a norm of its own (pre-norm models; transformers
    gives it to all)."""
    contrast_layer: int = pydantic.Field(6, ge=1)
    """Layer that the utterance-wise contrast looks at."""
    quantizer: QuantizerConfig | None = None
    tokens: int = pydantic.Field(0, ge=0)
    """Outputs of the CTC layer; 0 is none."""

    @pydantic.model_validator(mode="after")
    def _quantized(self) -> HeadsConfig:
        if self.contrast != "none" and self.quantizer is None:
            raise ValueError("contrast needs a quantizer")
        return self


class CtcConfig(Config):
    """Fine-tuning head and its masks; defaults are the published 100 h recipe."""

    loss: Literal["torch", "k2"] = "torch"
    """Whose CTC computes the loss of the training; the values are equal. `k2` needs a k2 for the
    running torch (utils/setup_k2.sh)."""
    final_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    time_mask: MaskConfig = MaskConfig(prob=0.65, length=10)
    channel_mask: MaskConfig = MaskConfig(prob=0.5, length=64, min_spans=0)
