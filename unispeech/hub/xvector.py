"""Hugging Face's x-vector models, in and out.

`WavLMForXVector` and `Wav2Vec2ForXVector` are a weighted layer sum, a projection, a TDNN without
batch norm, mean and deviation, and one linear layer to the embedding: our `network=xvector`.
There is no class for ECAPA-TDNN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unispeech.errors import DataError
from unispeech.hub.huggingface import read_huggingface, settings_of
from unispeech.hub.load import assign
from unispeech.hub.names import huggingface_names
from unispeech.models.config import Family, HeadsConfig
from unispeech.models.pretrained import validated
from unispeech.models.speaker import SpeakerModel
from unispeech.models.speaker_config import SpeakerConfig
from unispeech.storage import atomic_folder, write_json

HEAD = {
    "layer_sum.weight": "layer_weights",
    "projector.weight": "projector.weight",
    "projector.bias": "projector.bias",
    "linear.weight": "feature_extractor.weight",
    "linear.bias": "feature_extractor.bias",
}
UNUSED = ("classifier.weight", "classifier.bias", "objective.weight")
"""Layers behind the embedding, which only the training of such a model uses."""


def is_xvector(folder: Path) -> bool:
    """Whether a folder of Hugging Face holds an x-vector model."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return any(str(n).endswith("ForXVector") for n in settings["architectures"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_xvector(folder: Path) -> SpeakerModel:
    """The speaker model in a folder of Hugging Face; its embedding is the output `embeddings`.

    Raises:
        DataError: no weighted layer sum, or weights too many or too few.
    """
    foreign = read_huggingface(folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "layer_weights" not in foreign.weights:
        raise DataError(
            "a variant that is not supported: an x-vector network on the last layer alone",
            where=folder,
            expected="use_weighted_layer_sum: true",
        )
    shape = zip(
        *(settings.get(f"tdnn_{part}") or () for part in ("dim", "kernel", "dilation")),
        strict=False,
    )
    layers = [dict(zip(("channels", "kernel", "dilation"), layer, strict=True)) for layer in shape]
    values: dict[str, Any] = {
        "network": "xvector",
        "pooling": "statistics",
        "embedding": settings.get("xvector_output_dim"),
        "tdnn": layers,
    }
    config = validated(SpeakerConfig, values, folder, "the settings describe no x-vector network")
    model = SpeakerModel(config, foreign.encoder)
    is_new = any("parametrizations" in name for name in foreign.weights)
    names = _names(model, foreign.family, is_new)
    weights = {n: w for n, w in foreign.weights.items() if n not in UNUSED}
    for index, layer in enumerate(config.tdnn):
        name = f"tdnn.{index}.kernel.weight"
        if name in weights and weights[name].numel() % (layer.channels * layer.kernel) == 0:
            flat = weights[name].reshape(layer.channels, layer.kernel, -1)
            weights[name] = flat.transpose(1, 2).contiguous()
    assign(model, names, weights, folder)
    return model


def save_xvector(
    model: SpeakerModel, classes: Tensor | None, speakers: Sequence[str], folder: Path
) -> list[str]:
    """Write a folder that `WavLMForXVector` or `Wav2Vec2ForXVector` loads.

    The layer behind the embedding becomes the identity, so that the class vectors of the training,
    if there is one for each speaker, serve as those of the library's objective.

    Args:
        model: with network=xvector.
        classes: `(classes, K, E)` class vectors, or None.
        speakers: names of the classes, as far as they are known.
        folder: what to write.

    Returns:
        What the library has no place for.

    Raises:
        DataError: another network than an x-vector's.
    """
    config, encoder = model.config, model.encoder
    if config.network != "xvector" or encoder is None:
        raise DataError(
            "Hugging Face transformers has no class for this speaker model",
            expected="network=xvector on the layers of an encoder (WavLMForXVector)",
            found=f"network={config.network}, features={config.features}",
            remedy="export --to onnx instead, or train with model.network=xvector",
        )
    family: Family = "wavlm" if encoder.config.relative_position else "wav2vec2"
    kept = classes if classes is not None and classes.shape[1] == 1 else None
    settings = settings_of(family, encoder.config, HeadsConfig())
    stem = "WavLM" if family == "wavlm" else "Wav2Vec2"
    settings |= {
        "architectures": [f"{stem}ForXVector"],
        "use_weighted_layer_sum": True,
        "tdnn_dim": [layer.channels for layer in config.tdnn],
        "tdnn_kernel": [layer.kernel for layer in config.tdnn],
        "tdnn_dilation": [layer.dilation for layer in config.tdnn],
        "xvector_output_dim": config.embedding,
        **_labels(speakers, 2 if kept is None else len(kept)),
    }
    weights = _weights(model, family, kept)
    from safetensors.torch import save_file

    with atomic_folder(folder) as temporary:
        save_file(weights, temporary / "model.safetensors", {"format": "pt"})
        write_json(temporary / "config.json", settings)
        write_json(
            temporary / "preprocessor_config.json",
            {
                "feature_extractor_type": "Wav2Vec2FeatureExtractor",
                "feature_size": 1,
                "sampling_rate": model.sample_rate,
                "padding_side": "right",
                "padding_value": 0.0,
                "do_normalize": encoder.config.normalize,
                "return_attention_mask": encoder.config.extractor_norm == "layer",
            },
        )
    return ["classes"] if classes is not None and kept is None else []


def _names(model: SpeakerModel, family: Family, is_new: bool) -> dict[str, str]:
    own = list(model.state_dict())
    inside = [name for name in own if name.startswith("encoder.")]
    names = huggingface_names(inside, family, "new" if is_new else "old", False)
    for name in own:
        if name.startswith("network.layers."):
            _, _, index, kind = name.split(".")
            names[name] = f"tdnn.{index}.kernel.{kind}"
        elif name not in names:
            names[name] = HEAD[name]
    return names


def _weights(model: SpeakerModel, family: Family, classes: Tensor | None) -> dict[str, Tensor]:
    weights = {}
    for name, theirs in _names(model, family, True).items():
        value = model.state_dict()[name].detach()
        if theirs.startswith("tdnn.") and value.ndim == 3:
            value = value.transpose(1, 2).reshape(value.shape[0], -1)
        weights[theirs] = value.contiguous()
    width = model.config.embedding
    weights["classifier.weight"] = torch.eye(width)
    weights["classifier.bias"] = torch.zeros(width)
    vectors = torch.eye(2, width) if classes is None else classes[:, 0].detach().float()
    weights["objective.weight"] = F.normalize(vectors, dim=1).T.contiguous()
    return weights


def _labels(speakers: Sequence[str], count: int) -> Mapping[str, Mapping[str, Any]]:
    names = [speakers[i] if i < len(speakers) else f"class {i}" for i in range(count)]
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
