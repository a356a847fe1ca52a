"""Speaker models: our trainings, the authors' released files, Hugging Face's x-vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unispeech.errors import DataError
from unispeech.hub.fairseq import read_fairseq, tensors_of
from unispeech.hub.load import SV_PREFIX, assign, build
from unispeech.hub.registry import find
from unispeech.hub.unpickle import read_pickle
from unispeech.hub.xvector import is_xvector, read_xvector
from unispeech.models.config import EncoderConfig
from unispeech.models.encoder import Encoder
from unispeech.models.pretrained import validated
from unispeech.models.speaker import SpeakerModel
from unispeech.models.speaker_config import SpeakerConfig
from unispeech.storage import final_checkpoint

KIND = "speaker"
"""Marks checkpoints of our trainings."""
OWN_PREFIX = "speaker."
CLASS_PREFIX = "loss_calculator."
"""Class vectors in the authors' files, which no embedding needs."""
LARGE_LAYERS = 24
"""Encoders of the authors' files that want normalised waveforms; the files do not say."""

RELEASED = [
    (r"^layer_sum\.weight$", "feature_weight"),
    (r"^fbank\.window$", "feature_extract.spectrogram.window"),
    (r"^fbank\.filters$", "feature_extract.mel_scale.fb"),
    (r"\.res2\.units\.(\d+)\.conv\.", r".Res2Conv1dReluBn.convs.\1."),
    (r"\.res2\.units\.(\d+)\.bn\.", r".Res2Conv1dReluBn.bns.\1."),
    (r"\.unit([12])\.", r".Conv1dReluBn\1."),
    (r"\.se\.", ".SE_Connect."),
    (r"^network\.layer1\.", "layer1."),
    (r"^network\.conv\.", "conv."),
]


class SavedSpeaker(NamedTuple):
    """A speaker model with what its training left beside it."""

    model: SpeakerModel
    classes: Tensor | None
    """`(classes, K, E)` class vectors, where the file has them."""
    speakers: tuple[str, ...]
    """Names of the classes at the first speed, where they are known."""
    speeds: tuple[float, ...]


def load_speaker_model(
    path: str | Path, device: str | torch.device = "cpu", normalize: bool | None = None
) -> SpeakerModel:
    """A speaker model in evaluation mode.

    Args:
        path: an experiment folder or checkpoint of `python -m unispeech speaker`, a speaker
            verification file of the authors, or a folder of a Hugging Face x-vector model.
        device: where to put it.
        normalize: whether the encoder wants normalised waveforms; None takes what the file says,
            and in the authors' files, which may not say, 24 layers for yes.

    Raises:
        DataError: not such a model, damaged, or with weights too many or too few.
    """
    model = read_speaker(path, normalize).model
    return model.eval().to(device)


def read_speaker(path: str | Path, normalize: bool | None = None) -> SavedSpeaker:
    """A speaker model and the class vectors of its training; arguments as `load_speaker_model`.

    Raises:
        DataError: not such a model, damaged, or with weights too many or too few.
    """
    found = find(path)
    if found.is_dir() and (found / "config.json").is_file():
        if not is_xvector(found):
            raise _not_a_speaker_model(found, "a model without an x-vector network")
        saved = SavedSpeaker(read_xvector(found), None, (), (1.0,))
    else:
        file = final_checkpoint(found)
        state = read_pickle(file)
        if not isinstance(state, dict):
            raise _not_a_speaker_model(file, type(state).__name__)
        saved = (
            _from_ours(state, file) if state.get("kind") == KIND else _from_released(state, file)
        )
    encoder = saved.model.encoder
    if normalize is not None and encoder is not None:
        encoder.config = encoder.config.model_copy(update={"normalize": normalize})
    return saved


def _from_ours(state: Mapping[str, Any], path: Path) -> SavedSpeaker:
    config = validated(SpeakerConfig, state.get("speaker"), path)
    encoder = state.get("encoder")
    shape = None if encoder is None else validated(EncoderConfig, encoder, path)
    if (shape is None) != (config.features == "fbank"):
        raise DataError("encoder and features do not fit", where=path, found=config.features)
    model = SpeakerModel(config, shape)
    weights = tensors_of(state.get("model"), path)
    classes = weights.pop("classes", None)
    assign(model, {name: OWN_PREFIX + name for name in model.state_dict()}, weights, path)
    speakers = tuple(map(str, state.get("speakers", ())))
    speeds = tuple(map(float, state.get("speeds", (1.0,))))
    return SavedSpeaker(model, classes, speakers, speeds)


def _from_released(state: Mapping[str, Any], path: Path) -> SavedSpeaker:
    weights = tensors_of(state.get("model", state), path)
    if "layer1.conv.weight" not in weights:
        raise _not_a_speaker_model(path, ", ".join(sorted(weights)[:3]))
    weights = {n: w for n, w in weights.items() if not n.startswith(CLASS_PREFIX)}
    inner = {n.removeprefix(SV_PREFIX): w for n, w in weights.items() if n.startswith(SV_PREFIX)}
    head = {n: w for n, w in weights.items() if not n.startswith(SV_PREFIX)}
    config = _config_of(head, not inner, path)
    if not inner:
        # One feature has one weight, whose softmax is 1.
        if "feature_weight" in head and head["feature_weight"].numel() == 1:
            del head["feature_weight"]
        model = SpeakerModel(config, None)
        assert model.fbank is not None
        own = model.fbank.window.clone(), model.fbank.filters.clone()
        _assign_head(model, head, path)
        _check_filters(own, (model.fbank.window, model.fbank.filters), path)
        return SavedSpeaker(model, None, (), (1.0,))
    encoder = released_encoder(state, inner, path)
    with torch.device("meta"):
        model = SpeakerModel(config, encoder.config)
    model.encoder = encoder
    _assign_head(model, head, path)
    return SavedSpeaker(model, None, (), (1.0,))


def released_encoder(state: Mapping[str, Any], weights: dict[str, Tensor], path: Path) -> Encoder:
    """The encoder inside a downstream file of the authors.

    Args:
        state: the file's contents, for its settings.
        weights: of the encoder, under fairseq's names.
        path: for messages.

    Raises:
        DataError: the weights do not fit.
    """
    speech = build(read_fairseq({**state, "model": weights}, path), path)
    is_told = any(isinstance(state.get(key), dict) for key in ("cfg", "args"))
    if not is_told:
        is_large = speech.config.layers == LARGE_LAYERS
        speech.encoder.config = speech.config.model_copy(update={"normalize": is_large})
    return speech.encoder


def _assign_head(model: SpeakerModel, weights: Mapping[str, Tensor], path: Path) -> None:
    encoder = model.encoder
    model.encoder = None
    assign(model, {name: released_name(name) for name in model.state_dict()}, weights, path)
    model.encoder = encoder


def released_name(name: str) -> str:
    """What the authors' files call a parameter or buffer behind the encoder."""
    block = re.match(r"^network\.blocks\.(\d+)", name)
    if block:
        name = f"layer{int(block[1]) + 2}{name[block.end() :]}"
    for pattern, replacement in RELEASED:
        name = re.sub(pattern, replacement, name)
    return name


def _config_of(head: Mapping[str, Tensor], is_fbank: bool, path: Path) -> SpeakerConfig:
    """The configuration that the shapes of a released model show."""
    names = ("layer1.conv", "layer2.SE_Connect.linear1", "pooling.linear1", "linear")
    shapes = {name: head.get(f"{name}.weight") for name in names}
    missing = [name for name, weight in shapes.items() if weight is None or weight.ndim < 2]
    if missing:
        raise _not_a_speaker_model(path, f"no {missing[0]}.weight")
    sizes = {name: tuple(weight.shape) for name, weight in shapes.items() if weight is not None}
    channels, inputs = sizes["layer1.conv"][:2]
    attention, seen = sizes["pooling.linear1"][:2]
    convs = [n for n in head if re.fullmatch(r"layer2\.Res2Conv1dReluBn\.convs\.\d+\.weight", n)]
    values: dict[str, Any] = {
        "features": "fbank" if is_fbank else "ssl",
        "channels": channels,
        "groups": len(convs) + 1,
        "bottleneck": sizes["layer2.SE_Connect.linear1"][0],
        "attention_dim": attention,
        "global_context": seen == 9 * channels,
        "embedding": sizes["linear"][0],
    }
    if is_fbank:
        values["mels"] = inputs
    what = "the shapes in the file do not describe an ECAPA-TDNN"
    return validated(SpeakerConfig, values, path, what)


def _check_filters(own: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor], path: Path) -> None:
    for name, ours, theirs in zip(("window", "filters"), own, given, strict=True):
        difference = float((ours - theirs).abs().max())
        if difference > 1e-3:
            raise DataError(
                f"the filter banks of the file have another {name}",
                where=path,
                expected="25 ms Hann windows and HTK's mel scale from 0 to 8 kHz",
                found=f"a difference of {difference:.2g}",
                remedy="give the authors' file",
            )


def _not_a_speaker_model(path: Path, found: object) -> DataError:
    return DataError(
        "not a speaker model",
        where=path,
        expected="an experiment of `python -m unispeech speaker`, a speaker verification file of"
        " the authors, or a folder of a Hugging Face x-vector model",
        found=found,
    )
