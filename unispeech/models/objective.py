"""Configuration of the pre-training objectives, and the heads that each of them needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import pydantic

from unispeech.config import Config
from unispeech.models.config import (
    EncoderConfig,
    Family,
    HeadsConfig,
    MaskConfig,
    QuantizerConfig,
)

SPECIAL_LABELS = 4
"""The released label tables hold four dictionary specials before the clusters. They take part in
the softmax and are never targets."""

Exclusion = Literal["own", "reference"]
"""What a frame cannot draw as its distractor: its own frame, or what the reference excludes
instead (spec of the released code: for UniSpeech the frame whose number is the position among
the masked frames, for UniSpeech-SAT a frame of another order of the list)."""


class GumbelConfig(Config):
    """Temperature of the codeword draws: `max(start * decay ** update, stop)`.

    The defaults are wav2vec 2.0 Base's (fairseq's `latent_temp`); Large stops at 0.1.
    """

    start: float = pydantic.Field(2.0, gt=0)
    stop: float = pydantic.Field(0.5, gt=0)
    decay: float = pydantic.Field(0.999995, gt=0, le=1)

    def temperature(self, update: int) -> float:
        """The temperature of update number `update`, counted from 0."""
        return max(self.start * self.decay**update, self.stop)


class UtteranceContrastConfig(Config):
    """Utterance-wise contrast (UniSpeech-SAT, section 2.2); sizes are Base's."""

    layer: int = pydantic.Field(6, ge=1)
    """Layer whose states are told apart, counted from 1."""
    instances: int = pydantic.Field(100, ge=1)
    """Masked frames of the batch that each masked frame is compared with."""
    quantizer: QuantizerConfig = QuantizerConfig()
    gumbel: GumbelConfig = GumbelConfig()
    dim: int = pydantic.Field(256, ge=1)
    temperature: float = pydantic.Field(0.1, gt=0)
    weight: float = pydantic.Field(1.0, ge=0)
    diversity_weight: float = pydantic.Field(0.1, ge=0)
    """Both weights are ours: the only released configuration is of the last stage, where they
    are 0."""
    form: Literal["binary", "softmax"] = "binary"
    """`binary`: cross entropy of every comparison, as the released code has it; `softmax`: as the
    paper writes it."""
    exclusion: Exclusion = "own"


class MaskedPredictionConfig(Config):
    """Prediction of frame labels: HuBERT, WavLM, ILS-SSL and UniSpeech-SAT.

    The defaults are the Base models'.
    """

    kind: Literal["masked_prediction"] = "masked_prediction"
    final_dim: int = pydantic.Field(256, ge=1)
    untied: bool = False
    """With several label sets, one projection for each."""
    temperature: float = pydantic.Field(0.1, gt=0)
    label_init: Literal["uniform", "normal"] = "uniform"
    """First label embeddings: uniform in [0, 1] as in the reference, where all are similar, or
    standard normal, which learns sooner and suits short trainings."""
    masked_weight: float = pydantic.Field(1.0, ge=0)
    unmasked_weight: float = pydantic.Field(0.0, ge=0)
    penalty_weight: float = pydantic.Field(10.0, ge=0)
    """Weight of the mean square of the extractor's output, per predicted frame."""
    predict_layers: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = ()
    """Layers that predict, counted from 1 (ILS-SSL: 4 and 12 in Base, 9 and 24 in Large); empty
    is the last one alone."""
    separate_tables: bool = True
    """With several predicting layers, one class table for each (ILS-SSL, section 3.2)."""
    utterance: UtteranceContrastConfig | None = None
    """UniSpeech-SAT adds the utterance-wise contrast."""
    mask: MaskConfig = MaskConfig()


class FrameContrastConfig(Config):
    """Contrast of frames with quantized frames; values are wav2vec 2.0 Base's."""

    quantizer: QuantizerConfig = QuantizerConfig()
    gumbel: GumbelConfig = GumbelConfig()
    dim: int = pydantic.Field(256, ge=1)
    """Width in which frames are compared."""
    negatives: int = pydantic.Field(100, ge=1)
    """Distractors of each masked frame, from the same utterance."""
    temperature: float = pydantic.Field(0.1, gt=0)
    diversity_weight: float = pydantic.Field(0.1, ge=0)
    penalty_weight: float = pydantic.Field(10.0, ge=0)
    feature_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    """Dropout of the frames before they are quantized."""
    transposed: bool = False
    """UniSpeech: the context stays as it is, the quantized frames are projected to its width."""
    mask: MaskConfig = MaskConfig(prob=0.65)


class ContrastiveConfig(FrameContrastConfig):
    """wav2vec 2.0 (section 3.2), and UniSpeech's training on audio alone when `transposed`."""

    kind: Literal["contrastive"] = "contrastive"


class MultitaskConfig(FrameContrastConfig):
    """UniSpeech (section 3): CTC on phones and contrast, the output partly replaced by codewords.

    The defaults are the released script's of stage 1 (Large), where it has a value.
    """

    kind: Literal["multitask"] = "multitask"
    quantizer: QuantizerConfig = QuantizerConfig(dim=768)
    gumbel: GumbelConfig = GumbelConfig(stop=0.1)
    dim: int = pydantic.Field(768, ge=1)
    penalty_weight: float = pydantic.Field(0.0, ge=0)
    transposed: bool = True
    ctc_weight: float = pydantic.Field(0.5, ge=0, le=1)
    """Alpha of equation 5; 1 - alpha weighs the contrast of transcribed utterances."""
    replace_prob: float = pydantic.Field(0.5, ge=0, le=1)
    """Share of frames whose output becomes the projected codeword before the CTC layer."""
    replace_in_evaluation: bool = False
    """The released code replaces in validation too, which makes its error rates random."""
    final_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    exclusion: Exclusion = "own"
    mask: MaskConfig = MaskConfig(prob=0.5)


ObjectiveConfig = Annotated[
    MaskedPredictionConfig | ContrastiveConfig | MultitaskConfig,
    pydantic.Field(discriminator="kind"),
]


def heads_of(
    encoder: EncoderConfig,
    objective: ObjectiveConfig,
    clusters: Sequence[int] = (),
    tokens: int = 0,
) -> HeadsConfig:
    """The heads that an objective trains.

    Args:
        encoder: what the heads are on.
        objective: what is trained.
        clusters: number of labels of each label set.
        tokens: outputs of the CTC layer, blank included.
    """
    if isinstance(objective, MaskedPredictionConfig):
        utterance = objective.utterance
        contrast = {}
        if utterance is not None:
            contrast = {
                "contrast": "utterance",
                "contrast_layer": utterance.layer,
                "contrast_dim": utterance.dim,
                "quantizer": utterance.quantizer,
                "extract_norm": encoder.norm_first,
            }
        return HeadsConfig.model_validate(
            {
                "label_tables": tuple(count + SPECIAL_LABELS for count in clusters),
                "final_dim": objective.final_dim,
                "untied": objective.untied,
                "predict_layers": objective.predict_layers,
                "separate_tables": bool(objective.predict_layers) and objective.separate_tables,
                **contrast,
            }
        )
    return HeadsConfig(
        contrast="frame",
        contrast_dim=objective.dim,
        quantizer=objective.quantizer,
        transposed=objective.transposed,
        tokens=tokens if isinstance(objective, MultitaskConfig) else 0,
    )


def family_of(encoder: EncoderConfig, objective: ObjectiveConfig) -> Family:
    """The paper whose model an encoder with an objective is."""
    if isinstance(objective, MultitaskConfig):
        return "unispeech"
    if isinstance(objective, ContrastiveConfig):
        return "unispeech" if objective.transposed else "wav2vec2"
    if objective.utterance is not None:
        return "unispeech_sat"
    if objective.predict_layers:
        return "ils"
    return "wavlm" if encoder.relative_position else "hubert"
