"""Configuration of separation trainings; importing it costs nothing."""

from __future__ import annotations

from typing import Literal

import pydantic

from unispeech.config import Config
from unispeech.data.config import MixtureDataConfig
from unispeech.models.separation_config import SeparationConfig
from unispeech.train.config import OptimConfig, TrainConfig


class SeparationModelConfig(SeparationConfig):
    """The network, and how the encoder takes part in the training."""

    encoder: str | None = None
    """Pre-trained model: a released model's name, a file, or an experiment folder. Not with
    `init`, which has one, nor with features=magnitude."""
    frozen: bool = True
    """Keep the encoder's weights; it then has no dropout either. Which of both the papers did is
    not stated."""
    dropout: bool = False
    """Dropouts in a trained encoder, as its configuration has them."""
    feature_grad_mult: float = pydantic.Field(1.0, ge=0)
    """Gradient scale of a trained encoder's convolutions; 0 keeps them."""


class SeparationLossConfig(Config):
    """What masks are trained to be; the defaults are the papers'.

    Source: the released models' authors (CSS_with_Conformer, issue 5): mean squared error of
    magnitudes under the best permutation, nothing else.
    """

    target: Literal["magnitude", "phase", "mask"] = "magnitude"
    """`magnitude`: of the masked mixture. `phase`: the same for the part of the reference in the
    mixture's phase. `mask`: absolute error of the mask itself (a setting of NOTSOFAR)."""
    power: float = pydantic.Field(1.0, gt=0, le=1)
    """Compress magnitudes: 0.3 to 0.5 lets quiet bins count more; ours."""
    clip: bool = False
    """References are at most as large as the mixture (NOTSOFAR)."""
    noise_weight: float = pydantic.Field(1.0, ge=0)
    """Of the noise mask's loss (NOTSOFAR: 1)."""
    level: bool = False
    """Give all mixtures the same level before they are compared, so that loud ones do not count
    more; ours."""


class SeparationOptimConfig(OptimConfig):
    """AdamW; rate, decay and schedule are NOTSOFAR's and the papers' (recalled)."""

    lr: float = pydantic.Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = pydantic.Field(1e-8, gt=0)
    weight_decay: float = pydantic.Field(0.01, ge=0)
    warmup: int = pydantic.Field(10_000, ge=0)
    clip: float = pydantic.Field(5.0, ge=0)
    """Largest gradient norm; ours (NOTSOFAR's 0.01 is for another scale of the loss)."""
    encoder_scale: float = pydantic.Field(0.1, ge=0)
    """Rate of a trained encoder's last layer, relative to the head's; ours."""
    layer_decay: float = pydantic.Field(1.0, gt=0, le=1)
    """Factor of the rate from each layer of the encoder to the one before; ours."""


class SeparationTrainingConfig(Config):
    """Training of a separation model; the defaults are the papers' first stage."""

    init: str = ""
    """Separation model to continue from: an experiment folder or a checkpoint. Its network and
    encoder keep their shapes; the rate starts anew."""
    model: SeparationModelConfig = SeparationModelConfig()
    loss: SeparationLossConfig = SeparationLossConfig()
    data: MixtureDataConfig = MixtureDataConfig()
    optim: SeparationOptimConfig = SeparationOptimConfig()
    train: TrainConfig = TrainConfig(updates=260_000, final="best", keep_best=1)
