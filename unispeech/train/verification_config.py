"""Configuration of speaker model trainings; importing it costs nothing."""

from __future__ import annotations

from typing import Literal

import pydantic

from unispeech.config import Config
from unispeech.data.config import SpeakerDataConfig
from unispeech.models.speaker_config import SpeakerConfig
from unispeech.train.config import OptimConfig, TrainConfig


class SpeakerModelConfig(SpeakerConfig):
    """The network, and how the encoder takes part in the training."""

    encoder: str | None = None
    """Pre-trained model: a released model's name, a file, or an experiment folder. Not with
    `init`, which has one, nor with features=fbank."""
    frozen: bool = True
    """Keep the encoder's weights; it then has no dropout either."""
    dropout: bool = False
    """Dropouts in a trained encoder, as its configuration has them. The authors' diarization code
    trains it without."""
    feature_grad_mult: float = pydantic.Field(1.0, ge=0)
    """Gradient scale of a trained encoder's convolutions; 0 keeps them (wespeaker: 1)."""


class MarginConfig(Config):
    """Softmax with a margin; defaults are the WavLM authors' (unilm issue 695)."""

    kind: Literal["aam", "am"] = "aam"
    """Margin on the angle or on the cosine."""
    scale: float = pydantic.Field(32.0, gt=0)
    margin: float = pydantic.Field(0.2, ge=0, lt=1.5)
    initial_margin: float = pydantic.Field(0.0, ge=0, lt=1.5)
    """Up to update `rise_from`; then the margin rises, and is whole from `rise_to` on."""
    rise_from: int = pydantic.Field(0, ge=0)
    rise_to: int = pydantic.Field(0, ge=0)
    sub_centres: int = pydantic.Field(1, ge=1)
    """Vectors of each class; the closest counts (wespeaker: 3)."""
    top_k: int = pydantic.Field(5, ge=0)
    """Closest other classes that are made harder too; 0 for none."""
    top_margin: float = pydantic.Field(0.1, ge=0, lt=1.5)
    """Radians taken off their angles; rises in proportion to the margin (wespeaker; recalled)."""

    @pydantic.model_validator(mode="after")
    def _rises(self) -> MarginConfig:
        if self.rise_to < self.rise_from:
            raise ValueError("rise_to must not be less than rise_from")
        return self


class SpeakerOptimConfig(OptimConfig):
    """SGD with exponential decay; defaults are the WavLM authors' first stage (unilm issue 695).

    20 epochs of VoxCeleb2 in batches of 1024 are 21,328 updates; the first epoch warms up.
    """

    optimizer: Literal["adam", "sgd"] = "sgd"
    lr: float = pydantic.Field(0.64, gt=0)
    final_lr: float = pydantic.Field(4e-4, gt=0)
    weight_decay: float = pydantic.Field(4e-4, ge=0)
    schedule: Literal["polynomial", "tri_stage", "exponential", "noam"] = "exponential"
    warmup: int = pydantic.Field(1066, ge=0)
    clip: float = pydantic.Field(0.0, ge=0)
    """Largest gradient norm; 0 does not clip. What the authors do is not known."""
    encoder_scale: float = pydantic.Field(0.1, ge=0)
    """Rate of a trained encoder's last layer, relative to the head's; ours."""
    layer_decay: float = pydantic.Field(1.0, gt=0, le=1)
    """Factor of the rate from each layer of the encoder to the one before; ours."""


class VerificationDataConfig(SpeakerDataConfig):
    """Training speech, and the trials of the validation."""

    trials: str = ""
    """Trial list among the utterances of `valid`; empty draws `valid_targets` of each kind."""
    valid_targets: int = pydantic.Field(1000, ge=1)
    valid_seconds: float = pydantic.Field(20.0, gt=0)
    """Longer utterances of the validation are cut to their beginning; ours."""


class VerificationConfig(Config):
    """Training of a speaker model; the defaults are the authors' frozen stage."""

    init: str = ""
    """Speaker model to continue from: an experiment folder, or a released speaker verification
    file. Its network and encoder keep their shapes; the rate starts anew."""
    init_classes: Literal["load", "new"] = "load"
    """`load`: the class vectors of `init` too, which must have the same speakers. Where speeds
    are dropped, the classes at these speeds are."""
    model: SpeakerModelConfig = SpeakerModelConfig()
    loss: MarginConfig = MarginConfig()
    data: VerificationDataConfig = VerificationDataConfig()
    optim: SpeakerOptimConfig = SpeakerOptimConfig()
    train: TrainConfig = TrainConfig(updates=21_328, validate_every=1066, final="last", keep_best=1)
