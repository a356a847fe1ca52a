"""Separation models: our trainings."""

from __future__ import annotations

from pathlib import Path

import torch

from unispeech.errors import DataError
from unispeech.hub.fairseq import tensors_of
from unispeech.hub.load import assign
from unispeech.models.config import EncoderConfig
from unispeech.models.pretrained import read_checkpoint, validated
from unispeech.models.separation import SeparationModel
from unispeech.models.separation_config import SeparationConfig
from unispeech.storage import final_checkpoint

KIND = "separation"
"""Marks checkpoints of our trainings."""


def load_separation_model(path: str | Path, device: str | torch.device = "cpu") -> SeparationModel:
    """A separation model in evaluation mode.

    Args:
        path: an experiment folder or checkpoint of `python -m unispeech separation`.
        device: where to put it.

    Raises:
        DataError: not such a model, damaged, or with weights too many or too few.
    """
    file = final_checkpoint(path)
    state = read_checkpoint(file)
    if state.get("kind") != KIND:
        raise DataError(
            "not a separation model",
            where=file,
            expected="an experiment of `python -m unispeech separation`",
            found=f"a {state['kind']} model" if "kind" in state else "another checkpoint",
        )
    config = validated(SeparationConfig, state.get("separation"), file)
    encoder = state.get("encoder")
    shape = None if encoder is None else validated(EncoderConfig, encoder, file)
    if (shape is None) != (config.features == "magnitude"):
        raise DataError("encoder and features do not fit", where=file, found=config.features)
    model = SeparationModel(config, shape)
    weights = tensors_of(state.get("model"), file)
    assign(model, {name: name for name in model.state_dict()}, weights, file)
    return model.eval().to(device)
