"""Configuration of diarization trainings; importing it costs nothing."""

from __future__ import annotations

from typing import Literal

import pydantic

from unispeech.config import Config
from unispeech.data.conversation_config import ConversationDataConfig
from unispeech.models.diarization_config import EendConfig
from unispeech.train.config import OptimConfig, TrainConfig


class EendModelConfig(EendConfig):
    """The network, and how the encoder takes part in the training."""

    encoder: str | None = None
    """Pre-trained model: a released model's name, a file, or an experiment folder. Not with
    `init`, which has one, nor with features=fbank."""
    frozen: bool = True
    """Keep the encoder's weights; whether the authors did is not known."""
    encoder_dropout: bool = False
    """Dropouts in a trained encoder, as its configuration has them. The authors train without."""
    feature_grad_mult: float = pydantic.Field(1.0, ge=0)
    """Gradient scale of a trained encoder's convolutions; 0 keeps them."""


class DiarizationLossConfig(Config):
    """Activities and speaker vectors; defaults are NTT's training on simulated conversations."""

    speaker_weight: float = pydantic.Field(0.03, ge=0, le=1)
    """Share of the speaker loss; the activity loss has the rest. 0.01 in adaptation."""
    speaker_average: Literal["slots", "active"] = "slots"
    """What the speaker loss of a chunk is divided by: its slots (NTT), or those in use (the
    UniSpeech authors)."""
    train_table: bool = True
    """Whether the vectors of the training speakers are learnt; adaptation keeps them."""


class DiarizationOptimConfig(OptimConfig):
    """Adam with the rate of "Attention is all you need"; defaults are NTT's.

    256 units and 25,000 updates of warm-up give a peak of 256^-0.5 25000^-0.5.
    """

    lr: float = pydantic.Field(256**-0.5 * 25000**-0.5, gt=0)
    eps: float = pydantic.Field(1e-9, gt=0)
    weight_decay: float = pydantic.Field(0.0, ge=0)
    schedule: Literal["polynomial", "tri_stage", "exponential", "noam"] = "noam"
    warmup: int = pydantic.Field(25_000, ge=0)
    clip: float = pydantic.Field(5.0, ge=0)
    encoder_scale: float = pydantic.Field(0.1, ge=0)
    """Rate of a trained encoder's last layer, relative to the head's; ours."""
    layer_decay: float = pydantic.Field(1.0, gt=0, le=1)
    """Factor of the rate from each layer of the encoder to the one before; ours."""


class DiarizationConfig(Config):
    """Training of EEND-VC; the defaults are NTT's 100 epochs of 1,701,356 simulated chunks."""

    init: str = ""
    """Diarization model to continue from: an experiment folder, or a released diarization file.
    Its network and encoder keep their shapes; the rate starts anew."""
    init_table: Literal["load", "new", "extract"] = "load"
    """Vectors of the training speakers. `load`: those of `init`, for the same speakers. `extract`:
    the mean of the vectors that `init` gives each speaker in the first epoch, which is how NTT
    adapts to speakers it was not trained on."""
    model: EendModelConfig = EendModelConfig()
    loss: DiarizationLossConfig = DiarizationLossConfig()
    data: ConversationDataConfig = ConversationDataConfig()
    optim: DiarizationOptimConfig = DiarizationOptimConfig()
    train: TrainConfig = TrainConfig(
        updates=2_658_300,
        validate_every=26_583,
        checkpoint_every=26_583,
        keep_last=10,
        final="last",
        final_count=10,
    )
