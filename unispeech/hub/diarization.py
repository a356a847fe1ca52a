"""Diarization models: our trainings, and the authors' released files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unispeech.errors import DataError
from unispeech.hub.fairseq import tensors_of
from unispeech.hub.load import SV_PREFIX, assign
from unispeech.hub.registry import find
from unispeech.hub.speaker import released_encoder
from unispeech.hub.unpickle import read_pickle
from unispeech.models.config import EncoderConfig
from unispeech.models.diarization import EendModel
from unispeech.models.diarization_config import EendConfig
from unispeech.models.pretrained import validated
from unispeech.storage import final_checkpoint

KIND = "diarization"
"""Marks checkpoints of our trainings."""
OWN_PREFIX = "eend."
TRAINING = ("table", "is_known", "alpha", "beta")
"""Weights of our trainings that no diarization needs."""
RELEASED_TRAINING = ("embed.weight", "alpha", "beta")
"""The same in the authors' files."""
POSITIONS = "enc.pos_enc."
"""In the authors' files, and unused."""

RELEASED = [
    (r"^layer_sum\.weight$", "feature_weight"),
    (r"^transformer\.project\.", "enc.linear_in."),
    (r"^transformer\.norm\.", "enc.lnorm_out."),
    (r"^transformer\.layers\.(\d+)\.attention_norm\.", r"enc.lnorm1_\1."),
    (r"^transformer\.layers\.(\d+)\.ffn_norm\.", r"enc.lnorm2_\1."),
    (r"^transformer\.layers\.(\d+)\.query\.", r"enc.self_att_\1.linearQ."),
    (r"^transformer\.layers\.(\d+)\.key\.", r"enc.self_att_\1.linearK."),
    (r"^transformer\.layers\.(\d+)\.value\.", r"enc.self_att_\1.linearV."),
    (r"^transformer\.layers\.(\d+)\.output\.", r"enc.self_att_\1.linearO."),
    (r"^transformer\.layers\.(\d+)\.expand\.", r"enc.ff_\1.linear1."),
    (r"^transformer\.layers\.(\d+)\.contract\.", r"enc.ff_\1.linear2."),
    (r"^activity\.", "linear."),
    (r"^vectors\.(\d+)\.", r"linear\1."),
]
"""Our names and the released ones; those inside `enc.` are Hitachi's EEND's (recalled)."""


class SavedDiarization(NamedTuple):
    """A diarization model with what its training left beside it."""

    model: EendModel
    table: Tensor | None
    """`(N, E)` vectors of the training speakers."""
    scale: tuple[Tensor, Tensor] | None
    """`alpha` and `beta` of the speaker loss."""
    speakers: tuple[str, ...]
    """Names of the rows of the table, where they are known."""


def load_diarization_model(path: str | Path, device: str | torch.device = "cpu") -> EendModel:
    """A diarization model in evaluation mode.

    Args:
        path: an experiment folder or checkpoint of `python -m unispeech diarization`, or a
            diarization file of the authors.
        device: where to put it.

    Raises:
        DataError: not such a model, damaged, or with weights too many or too few.
    """
    return read_diarization(path).model.eval().to(device)


def read_diarization(path: str | Path) -> SavedDiarization:
    """A diarization model and what its training left; arguments as `load_diarization_model`.

    Raises:
        DataError: not such a model, damaged, or with weights too many or too few.
    """
    file = final_checkpoint(find(path))
    state = read_pickle(file)
    if not isinstance(state, dict):
        raise _not_a_diarization_model(file, type(state).__name__)
    return _from_ours(state, file) if state.get("kind") == KIND else _from_released(state, file)


def _from_ours(state: Mapping[str, Any], path: Path) -> SavedDiarization:
    config = validated(EendConfig, state.get("eend"), path)
    encoder = state.get("encoder")
    shape = None if encoder is None else validated(EncoderConfig, encoder, path)
    if (shape is None) != (config.features == "fbank"):
        raise DataError("encoder and features do not fit", where=path, found=config.features)
    model = EendModel(config, shape)
    weights = tensors_of(state.get("model"), path)
    left = {name: weights.pop(name, None) for name in TRAINING}
    assign(model, {name: OWN_PREFIX + name for name in model.state_dict()}, weights, path)
    speakers = tuple(map(str, state.get("speakers", ())))
    alpha, beta = left["alpha"], left["beta"]
    scale = None if alpha is None or beta is None else (alpha, beta)
    return SavedDiarization(model, left["table"], scale, speakers)


def _from_released(state: Mapping[str, Any], path: Path) -> SavedDiarization:
    weights = tensors_of(state.get("model", state), path)
    if "enc.linear_in.weight" not in weights or "linear0.weight" not in weights:
        raise _not_a_diarization_model(path, ", ".join(sorted(weights)[:3]))
    inner = {n.removeprefix(SV_PREFIX): w for n, w in weights.items() if n.startswith(SV_PREFIX)}
    if not inner:
        raise _not_a_diarization_model(path, f"no weights of an encoder under {SV_PREFIX}")
    others = {n: w for n, w in weights.items() if not n.startswith((SV_PREFIX, POSITIONS))}
    left = {name: others.pop(name, None) for name in RELEASED_TRAINING}
    encoder = released_encoder(state, inner, path)
    with torch.device("meta"):
        model = EendModel(_config_of(others, path), encoder.config)
    model.encoder = None
    names = {name: released_name(name) for name in model.state_dict()}
    assign(model, names, others, path)
    model.encoder = encoder
    alpha, beta = left["alpha"], left["beta"]
    scale = None if alpha is None or beta is None else (alpha.reshape(()), beta.reshape(()))
    return SavedDiarization(model, left["embed.weight"], scale, ())


def released_name(name: str) -> str:
    """What the authors' files call a parameter behind the encoder."""
    for pattern, replacement in RELEASED:
        name = re.sub(pattern, replacement, name)
    return name


def _config_of(head: Mapping[str, Tensor], path: Path) -> EendConfig:
    """The configuration that the shapes of a released model show; heads are the default."""
    sizes = {}
    for name in ("enc.linear_in", "enc.ff_0.linear1", "linear", "linear0"):
        weight = head.get(f"{name}.weight")
        if weight is None or weight.ndim != 2:
            raise _not_a_diarization_model(path, f"no {name}.weight")
        sizes[name] = int(weight.shape[0])
    layers = [name for name in head if re.fullmatch(r"enc\.lnorm1_\d+\.weight", name)]
    values: dict[str, Any] = {
        "layers": len(layers),
        "dim": sizes["enc.linear_in"],
        "ffn_dim": sizes["enc.ff_0.linear1"],
        "slots": sizes["linear"],
        "vector_dim": sizes["linear0"],
    }
    what = "the shapes in the file do not describe an EEND-VC model"
    return validated(EendConfig, values, path, what)


def _not_a_diarization_model(path: Path, found: object) -> DataError:
    return DataError(
        "not a diarization model",
        where=path,
        expected="an experiment of `python -m unispeech diarization`, or a diarization file of the"
        " authors",
        found=found,
    )
