"""Trainings that start from a model: its shape, its weights, and which heads they keep."""

from __future__ import annotations

from typing import Any, Literal

import torch

from unispeech.config import Config
from unispeech.data.mixtures import SPEAKERS
from unispeech.errors import ConfigError
from unispeech.models.config import EncoderConfig
from unispeech.models.diarization import EendModel
from unispeech.models.diarization_config import EendConfig
from unispeech.models.downstream import DownstreamModel
from unispeech.models.encoder import Encoder
from unispeech.models.pretraining import PretrainingModel
from unispeech.models.separation import SeparationModel
from unispeech.models.separation_config import SeparationConfig
from unispeech.models.speaker import SpeakerModel
from unispeech.models.speaker_config import SpeakerConfig
from unispeech.models.speech import SpeechModel
from unispeech.train.diarization_config import EendModelConfig
from unispeech.train.separation_config import SeparationModelConfig
from unispeech.train.verification_config import SpeakerModelConfig

TRAINING_ONLY = (
    "feature_grad_mult",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "input_dropout",
    "layer_drop",
    "padding_rule",
)
"""Settings of an encoder that change nothing about which weights fit."""


def shape_of(asked: EncoderConfig, init: EncoderConfig) -> EncoderConfig:
    """The encoder of a training that continues from `init`: its shape, the asked dropouts.

    Raises:
        ConfigError: a setting differs from the model's and is not the default either.
    """
    standard = EncoderConfig()
    fixed = [name for name in EncoderConfig.model_fields if name not in TRAINING_ONLY]
    differing = [
        f"model.{name}={getattr(asked, name)} ({getattr(init, name)} in the model)"
        for name in fixed
        if getattr(asked, name) not in (getattr(standard, name), getattr(init, name))
    ]
    if differing:
        raise ConfigError(
            "the configuration asks for another encoder than the model that it continues from",
            where="init",
            found="; ".join(differing)[:300],
            remedy="leave these settings out: a continued training keeps the model's shape",
        )
    return init.model_copy(update={name: getattr(asked, name) for name in TRAINING_ONLY})


def start_from(
    model: PretrainingModel, init: SpeechModel, heads: Literal["new", "load"]
) -> list[str]:
    """Load the encoder of `init`, and with `load` the heads that both have.

    Returns:
        What was loaded, what is new and what of `init` is not used, for the log.

    Raises:
        ConfigError: `load`, and no head of `init` fits.
    """
    model.encoder.load_state_dict(init.encoder.state_dict())
    own, given = model.heads.state_dict(), init.heads.state_dict()
    same = [n for n in own if n in given and own[n].shape == given[n].shape]
    if heads == "new":
        same = []
    elif not same:
        raise ConfigError(
            "the model has no head that fits the objective",
            where="init_heads",
            expected=", ".join(sorted(own)) or "heads",
            found=", ".join(f"{n} {tuple(given[n].shape)}" for n in sorted(given)) or "none",
            remedy="init_heads=new makes them anew",
        )
    model.heads.load_state_dict({**own, **{name: given[name] for name in same}})
    new = sorted(set(own) - set(same))
    unused = sorted(set(given) - set(same))
    lines = [f"continues from a {init.family} model: encoder loaded"]
    lines += [f"heads loaded: {', '.join(same)}"] if same else []
    lines += [f"heads new: {', '.join(new)}"] if new else []
    lines += [f"heads of the model that are not used: {', '.join(unused)}"] if unused else []
    return lines


def first_speaker(
    config: SpeakerModelConfig, init: SpeakerModel | None, encoder: Encoder | None, seed: int
) -> SpeakerModel:
    """The speaker model that a training starts from.

    Args:
        config: the network that is asked for.
        init: model of an earlier stage, which is continued from.
        encoder: without `init`, what a new network is put on; None for filter banks.
        seed: of new weights.

    Raises:
        ConfigError: the configuration asks for another network than `init` has.
    """
    asked = SpeakerConfig(**_asked(config, SpeakerConfig))
    if init is None:
        torch.manual_seed(seed)
        model = SpeakerModel(asked, encoder.config if encoder else None)
        model.encoder = encoder
    else:
        _check_same_network(asked, init.config)
        model = init
    _set_gradient_scale(model, config.feature_grad_mult)
    return model


def first_eend(
    config: EendModelConfig, init: EendModel | None, encoder: Encoder | None, seed: int
) -> EendModel:
    """The diarization model that a training starts from; arguments as `first_speaker`.

    Raises:
        ConfigError: the configuration asks for another network than `init` has.
    """
    asked = EendConfig(**_asked(config, EendConfig))
    if init is None:
        torch.manual_seed(seed)
        model = EendModel(asked, encoder.config if encoder else None)
        model.encoder = encoder
    else:
        _check_same_network(asked, init.config)
        model = init
    _set_gradient_scale(model, config.feature_grad_mult)
    return model


def first_separation(
    config: SeparationModelConfig,
    init: SeparationModel | None,
    encoder: Encoder | None,
    seed: int,
) -> SeparationModel:
    """The separation model that a training starts from; arguments as `first_speaker`.

    Raises:
        ConfigError: the configuration asks for another network than `init` has, or for masks of
            another number of speakers than mixtures have.
    """
    asked = SeparationConfig(**_asked(config, SeparationConfig))
    if init is None:
        torch.manual_seed(seed)
        model = SeparationModel(asked, encoder.config if encoder else None)
        model.encoder = encoder
    else:
        _check_same_network(asked, init.config)
        model = init
    if model.config.speakers != SPEAKERS:
        raise ConfigError(
            "key 'model.speakers': mixtures have another number of speakers",
            expected=SPEAKERS,
            found=model.config.speakers,
        )
    _set_gradient_scale(model, config.feature_grad_mult)
    return model


def _asked(config: Config, schema: type[Config]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in schema.model_fields}


def _check_same_network(asked: Config, given: Config) -> None:
    """Raise a ConfigError where a setting is neither the default nor that of the given model."""
    standard = type(asked)()
    differing = [
        f"model.{name}={value} ({getattr(given, name)} in the model)"
        for name, value in asked
        if value not in (getattr(standard, name), getattr(given, name))
    ]
    if differing:
        raise ConfigError(
            "the configuration asks for another network than the model it continues from",
            where="init",
            found="; ".join(differing)[:300],
            remedy="leave these settings out: a continued training keeps the network's shape",
        )


def _set_gradient_scale(model: DownstreamModel, scale: float) -> None:
    if model.encoder is not None:
        update = {"feature_grad_mult": scale}
        model.encoder.config = model.encoder.config.model_copy(update=update)
