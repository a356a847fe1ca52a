"""Configuration of trainings; importing it costs nothing, so errors in a file show at once."""

from __future__ import annotations

from typing import Literal

import pydantic

from unispeech.config import Config, Paths
from unispeech.data.config import BatchingConfig, CropConfig, MixingConfig, Speeds, Units
from unispeech.models.config import CtcConfig, EncoderConfig
from unispeech.models.objective import MaskedPredictionConfig, ObjectiveConfig


class OptimConfig(Config):
    """Adam with decoupled weight decay; defaults are HuBERT's and WavLM's Base pre-training."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """SGD has momentum, and its weight decay is added to the gradient."""
    momentum: float = pydantic.Field(0.9, ge=0, lt=1)
    """SGD."""
    nesterov: bool = False
    """SGD."""
    lr: float = pydantic.Field(5e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = pydantic.Field(1e-6, gt=0)
    weight_decay: float = pydantic.Field(0.01, ge=0)
    """Applied to every parameter, biases and norms included, as the reference does."""
    clip: float = pydantic.Field(10.0, ge=0)
    """Largest gradient norm; 0 does not clip."""
    schedule: Literal["polynomial", "tri_stage", "exponential", "noam"] = "polynomial"
    warmup: int = pydantic.Field(32000, ge=0)
    """Updates of linear warm-up."""
    hold: int = pydantic.Field(0, ge=0)
    """Tri-stage: updates at the peak."""
    decay: int = pydantic.Field(0, ge=0)
    """Tri-stage: updates of exponential decay."""
    total: int | None = None
    """Polynomial: update at which the rate is 0; exponential: at which it is `final_lr`; None is
    the length of the training."""
    final_lr: float = pydantic.Field(1e-5, gt=0)
    """Exponential: the last rate."""
    fused: Literal["auto"] | bool = "auto"
    """One kernel for the whole step; `auto` takes it where the device has it."""


class LossScaleConfig(Config):
    """Dynamic loss scaling of fp16; defaults are fairseq's where nothing else is said."""

    initial: float = pydantic.Field(128.0, gt=0)
    """As in the configuration stored with UniSpeech-SAT Large."""
    window: int = pydantic.Field(2000, ge=1)
    """Updates without overflow before the scale doubles; torch's default, since fairseq's depends
    on the number of processes."""
    minimum: float = pydantic.Field(1e-4, gt=0)
    """An overflow at a smaller scale ends the training (recalled)."""


class TrainConfig(Config):
    """Length, precision, and how often to log, validate and save."""

    updates: int = pydantic.Field(400_000, ge=1)
    accumulate: int = pydantic.Field(1, ge=1)
    """Batches of each process in one update."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What several processes share: `ddp` the work; `fsdp` (FSDP2) also weights, gradients and the
    optimizer's state, which takes less memory and more communication. Checkpoints are the same."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of products and activations; weights, optimizer and losses are fp32."""
    loss_scale: LossScaleConfig = LossScaleConfig()
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more work, much less memory."""
    compile: bool = False
    """Compile the transformer layers; needs a C++ compiler, on a GPU also Triton."""
    probe: Literal["auto"] | bool = "auto"
    """Run the largest batch before the first update, to know that it fits; `auto` on a GPU."""
    seed: int = 1
    log_every: int = pydantic.Field(200, ge=1)
    validate_every: int = pydantic.Field(5000, ge=1)
    checkpoint_every: int = pydantic.Field(1000, ge=1)
    keep_last: int = pydantic.Field(2, ge=1)
    keep_best: int = pydantic.Field(1, ge=0)
    final: Literal["last", "best"] = "last"
    """Which checkpoints are averaged into the final model."""
    final_count: int = pydantic.Field(1, ge=1)


class PretrainDataConfig(Config):
    """Where the audio and its labels are."""

    train: Paths = ()
    """Manifests to train on."""
    valid: Paths = ()
    """Manifests to validate on."""
    labels: Paths = ()
    """Folders written by `label`, one for each label set of a masked prediction."""
    tokens: str = ""
    """`tokens.txt` of the language folder, for the CTC of a multitask objective."""
    units: Units = "letters"
    """What the tokens are."""
    unlabelled: Paths = ()
    """Multitask: manifests of audio alone, which is trained on by contrast only."""
    unlabelled_share: float | None = pydantic.Field(None, ge=0, lt=1)
    """Share of the batches that are of audio alone; None is its share of the hours."""
    temperature: float = pydantic.Field(1.0, ge=0, le=1)
    """Manifests are drawn in proportion to their hours to this power: 1 takes every utterance
    once, 0.5 is the multilingual setting of UniSpeech, 0 draws all manifests alike."""
    max_seconds: float = pydantic.Field(20.0, gt=0)
    """Multitask: longer transcribed utterances are left out (CTC needs whole ones)."""
    noise: Paths = ()
    """Manifests of noises for mixing."""
    crop: CropConfig = CropConfig()
    mixing: MixingConfig = MixingConfig()
    speeds: Speeds = (1.0,)
    """The papers pre-train at the recorded speed; a small corpus gains from more."""
    batching: BatchingConfig = BatchingConfig()


class PretrainConfig(Config):
    """Pre-training; the defaults are WavLM Base."""

    init: str = ""
    """Model to continue from: a released model's name, a file, or an experiment folder. The rate
    starts anew; the sizes of the encoder are the file's."""
    init_heads: Literal["new", "load"] = "new"
    """`load`: also take the heads that the model has and the objective wants."""
    model: EncoderConfig = EncoderConfig()
    objective: ObjectiveConfig = MaskedPredictionConfig()
    data: PretrainDataConfig = PretrainDataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()


class CtcDataConfig(Config):
    """Transcribed manifests and the tokens."""

    train: Paths = ()
    valid: Paths = ()
    tokens: str = ""
    """`tokens.txt` of the language folder."""
    units: Units = "letters"
    """What the tokens are: letters of the transcripts, pieces of their words (`bpe`), or the phones
    of the manifests."""
    max_seconds: float = pydantic.Field(35.0, gt=0)
    """Longest utterance that can be trained on."""
    drop_long: bool = False
    """Leave longer utterances out instead of ending with an error."""
    speeds: Speeds = (1.0,)
    batching: BatchingConfig = BatchingConfig(max_seconds=200.0)


class EncoderOverrides(Config):
    """What fine-tuning changes in the pre-trained encoder; defaults are the 100 h recipe."""

    dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    attention_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    activation_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    input_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    layer_drop: float = pydantic.Field(0.1, ge=0, lt=1)
    feature_grad_mult: float = pydantic.Field(0.0, ge=0)
    """0 keeps the convolutions as they are."""


class FinetuneConfig(Config):
    """CTC fine-tuning; the defaults are the published 100 h recipe for Base."""

    init: str = ""
    """Checkpoint of the pre-trained encoder."""
    random_init: bool = False
    """Keep the shape of `init` but start from random weights (the control of a comparison)."""
    overrides: EncoderOverrides = EncoderOverrides()
    freeze_updates: int = pydantic.Field(0, ge=0)
    """Updates in which only the new layer learns."""
    ctc: CtcConfig = CtcConfig()
    data: CtcDataConfig = CtcDataConfig()
    optim: OptimConfig = OptimConfig(
        lr=3e-5,
        eps=1e-8,
        weight_decay=0.0,
        clip=0.0,
        schedule="tri_stage",
        warmup=8000,
        hold=32000,
        decay=40000,
    )
    train: TrainConfig = TrainConfig(updates=80000, final="best", keep_best=1)
