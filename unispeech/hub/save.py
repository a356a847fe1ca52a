"""Writing models: our own file, safetensors, fairseq's layout, and Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unispeech.hub.huggingface import settings_of
from unispeech.hub.load import FORMAT
from unispeech.hub.names import HF_HEADS, fairseq_names, huggingface_names
from unispeech.models.speech import SpeechModel
from unispeech.storage import atomic_folder, atomic_path, write_json


def save_model(model: SpeechModel, path: Path) -> None:
    """Write everything into one file that `load_model` reads."""
    contents = {
        "format": FORMAT,
        "family": model.family,
        "encoder": model.config.model_dump(mode="json"),
        "heads": model.heads.config.model_dump(mode="json"),
        "tokens": list(model.tokens),
        "model": _weights(model),
    }
    with atomic_path(path) as temporary:
        torch.save(contents, temporary)


def save_safetensors(model: SpeechModel, path: Path) -> None:
    """Write the weights under our names, the configuration as JSON in the metadata."""
    from safetensors.torch import save_file

    metadata = {
        "family": model.family,
        "encoder": model.config.model_dump_json(),
        "heads": model.heads.config.model_dump_json(),
        "tokens": json.dumps(model.tokens),
    }
    with atomic_path(path) as temporary:
        save_file(_weights(model), temporary, metadata)


def fairseq_state(model: SpeechModel) -> dict[str, Tensor]:
    """The weights under fairseq's names; with a CTC layer, as its recognisers have them."""
    weights = _weights(model)
    names = fairseq_names(weights, model.config, model.heads.proj is not None)
    return {names[name]: value for name, value in weights.items()}


def save_huggingface(model: SpeechModel, folder: Path) -> list[str]:
    """Write a folder that transformers loads.

    Returns:
        Our names of the weights that transformers has no place for, which were left out: the
        class tables and projections of HuBERT and WavLM, which it has no pre-training class for.

    Raises:
        DataError: transformers has no such model.
    """
    heads = model.heads.config
    settings = settings_of(model.family, model.config, heads)
    weights = _weights(model)
    keeps_objective = heads.contrast != "none"
    left_out = [n for n in weights if n.startswith("heads.label.") and not keeps_objective]
    left_out += [n for n in weights if n.startswith("heads.") and not _has_place(n, left_out)]
    kept = {name: value for name, value in weights.items() if name not in left_out}
    is_bare = settings["architectures"][0].endswith("Model")
    names = huggingface_names(kept, model.family, "new", is_bare)
    from safetensors.torch import save_file

    with atomic_folder(folder) as temporary:
        save_file(
            {names[name]: value for name, value in kept.items()},
            temporary / "model.safetensors",
            {"format": "pt"},
        )
        write_json(temporary / "config.json", settings)
        write_json(temporary / "preprocessor_config.json", _preprocessor(model))
        if model.heads.proj is not None and model.tokens:
            vocabulary = {token: index for index, token in enumerate(model.tokens)}
            write_json(temporary / "vocab.json", vocabulary)
    return left_out


def _has_place(name: str, left_out: list[str]) -> bool:
    known = name.startswith("heads.proj.") or any(name.startswith(prefix) for prefix in HF_HEADS)
    return known or name in left_out


def _preprocessor(model: SpeechModel) -> dict[str, Any]:
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": model.config.normalize,
        # The library masks padding only where the extractor's norm does not mix it in.
        "return_attention_mask": model.config.extractor_norm == "layer",
    }


def _weights(model: SpeechModel) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in model.state_dict().items()}
