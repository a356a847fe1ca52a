"""Hugging Face folders, in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unispeech.errors import DataError
from unispeech.hub.fairseq import Foreign, tensors_of
from unispeech.hub.names import HF_PREFIX
from unispeech.hub.shapes import quantizer_of
from unispeech.hub.unpickle import read_pickle
from unispeech.models.config import ConvLayer, EncoderConfig, Family, HeadsConfig
from unispeech.models.pretrained import validated

FAMILIES: dict[str, Family] = {
    "wav2vec2": "wav2vec2",
    "hubert": "hubert",
    "unispeech": "unispeech",
    "unispeech-sat": "unispeech_sat",
    "wavlm": "wavlm",
}

SETTINGS = {
    "num_hidden_layers": "layers",
    "hidden_size": "dim",
    "intermediate_size": "ffn_dim",
    "num_attention_heads": "heads",
    "feat_extract_norm": "extractor_norm",
    "do_stable_layer_norm": "norm_first",
    "conv_bias": "conv_bias",
    "num_conv_pos_embeddings": "pos_conv_kernel",
    "num_conv_pos_embedding_groups": "pos_conv_groups",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "input_dropout",
    "layerdrop": "layer_drop",
}

FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "conv_pos_batch_norm": False,
    "feat_proj_layer_norm": True,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
"""Settings of the library that only these values of ours correspond to."""

OWN = "unispeech"
"""Section of `config.json` with what the library has no setting for; it keeps what it does not
know."""
OWN_ENCODER = ("feature_grad_mult", "num_buckets", "max_distance")


def read_huggingface(folder: Path) -> Foreign:
    """Understand a folder of `save_pretrained`.

    Raises:
        DataError: files are missing, or the model is none of ours.
    """
    settings = _read_json(folder / "config.json", "give a folder of save_pretrained")
    kind = settings.get("model_type")
    if kind not in FAMILIES:
        raise DataError(
            "not a model of this family",
            where=folder / "config.json",
            expected=f"model_type one of {', '.join(FAMILIES)}",
            found=kind,
        )
    family = FAMILIES[kind]
    for key, value in FIXED.items():
        if settings.get(key, value) != value:
            raise DataError(
                f"a variant that is not supported: {key}",
                where=folder / "config.json",
                expected=value,
                found=settings[key],
            )
    weights = _read_weights(folder)
    encoder = _encoder(settings, folder, family)
    name = HF_PREFIX[family] + "masked_spec_embed"
    is_bare = not any(n.startswith(HF_PREFIX[family]) for n in weights)
    name = name.removeprefix(HF_PREFIX[family]) if is_bare else name
    if name not in weights and not _is_masked(settings):
        # The library leaves out the mask embedding of a model that never masks.
        weights[name] = torch.zeros(encoder.dim)
    own = settings.get(OWN)
    layer = own.get("contrast_layer", 6) if isinstance(own, dict) else 6
    heads = _heads(weights, encoder, layer, folder)
    return Foreign(family, encoder, heads, weights, not is_bare)


def tokens_of(folder: Path, count: int) -> tuple[str, ...]:
    """Names of the CTC outputs from `vocab.json`, empty when there is no such file."""
    path = folder / "vocab.json"
    if not path.is_file():
        return ()
    vocabulary = _read_json(path, "restore the file")
    names = {int(index): str(token) for token, index in vocabulary.items()}
    return tuple(names.get(i, f"<unused{i}>") for i in range(count))


def settings_of(family: Family, config: EncoderConfig, heads: HeadsConfig) -> dict[str, Any]:
    """`config.json` of a model.

    Raises:
        DataError: the library has no such model.
    """
    kind = next((kind for kind, own in FAMILIES.items() if own == family), None)
    has_bias = family == "wavlm"
    is_known = kind is not None and config.relative_position == config.gated == has_bias
    if not is_known or not config.final_norm:
        raise DataError(
            "Hugging Face transformers has no class for this model",
            expected=f"one of {', '.join(FAMILIES)}, the relative position bias gated in WavLM",
            found=family,
            remedy="export --to safetensors instead",
        )
    values = config.model_dump()
    settings: dict[str, Any] = {theirs: values[ours] for theirs, ours in SETTINGS.items()}
    settings |= {
        "model_type": kind,
        "conv_dim": [layer.channels for layer in config.conv_layers],
        "conv_kernel": [layer.kernel for layer in config.conv_layers],
        "conv_stride": [layer.stride for layer in config.conv_layers],
        "num_feat_extract_layers": len(config.conv_layers),
        "architectures": [_architecture(family, heads)],
        "torch_dtype": "float32",
    }
    settings[OWN] = {name: values[name] for name in OWN_ENCODER}
    settings[OWN]["contrast_layer"] = heads.contrast_layer
    if family == "wavlm":
        settings |= {"num_buckets": config.num_buckets, "max_bucket_distance": config.max_distance}
    if heads.quantizer is not None:
        settings |= {
            "num_codevectors_per_group": heads.quantizer.codes,
            "num_codevector_groups": heads.quantizer.groups,
            "codevector_dim": heads.quantizer.dim,
            "proj_codevector_dim": heads.contrast_dim,
        }
    if heads.label_tables:
        settings["num_clusters"] = sum(heads.label_tables)
    if heads.tokens:
        settings |= {"vocab_size": heads.tokens, "num_ctc_classes": heads.tokens}
    return settings


def _architecture(family: Family, heads: HeadsConfig) -> str:
    stem = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "unispeech": "UniSpeech"}.get(
        family, {"unispeech_sat": "UniSpeechSat", "wavlm": "WavLM"}.get(family, "")
    )
    if heads.contrast != "none":
        return stem + "ForPreTraining"
    return stem + ("ForCTC" if heads.tokens else "Model")


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("cannot read", where=path, found=error, remedy=remedy) from None
    if not isinstance(value, dict):
        raise DataError("not a JSON object", where=path, found=type(value).__name__)
    return value


def _read_weights(folder: Path) -> dict[str, Tensor]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / (name + ".index.json")
        if (folder / name).is_file():
            return _read_file(folder / name)
        if index.is_file():
            parts = set(_read_json(index, "download the folder again")["weight_map"].values())
            merged: dict[str, Tensor] = {}
            for part in sorted(map(str, parts)):
                merged |= _read_file(folder / Path(part).name)
            return merged
    raise DataError(
        "no weights here",
        where=folder,
        expected="model.safetensors or pytorch_model.bin",
        remedy="download the folder again",
    )


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".bin":
        return tensors_of(read_pickle(path), path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(
            "cannot read the weights", where=path, found=error, remedy="download the file again"
        ) from None


def _encoder(settings: Mapping[str, Any], folder: Path, family: Family) -> EncoderConfig:
    values: dict[str, Any] = {SETTINGS[k]: v for k, v in settings.items() if k in SETTINGS}
    shapes = [settings.get(f"conv_{part}") for part in ("dim", "kernel", "stride")]
    has_bias = family == "wavlm"
    values |= {
        "relative_position": has_bias,
        "gated": has_bias,
        "num_buckets": settings.get("num_buckets", 320),
        "max_distance": settings.get("max_bucket_distance", 800),
        "normalize": _normalizes(settings, folder),
    }
    own = settings.get(OWN)
    values |= {k: v for k, v in own.items() if k in OWN_ENCODER} if isinstance(own, dict) else {}
    try:
        if all(isinstance(shape, list) for shape in shapes):
            values["conv_layers"] = tuple(
                ConvLayer(channels=c, kernel=k, stride=s) for c, k, s in zip(*shapes, strict=True)
            )
        return EncoderConfig.model_validate(values)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            "the settings do not describe an encoder", where=folder / "config.json", found=reason
        ) from None


def _normalizes(settings: Mapping[str, Any], folder: Path) -> bool:
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return bool(_read_json(path, "download the folder again").get("do_normalize", True))
    # Without the file: every released model with the layer-norm extractor normalises.
    return settings.get("feat_extract_norm") == "layer"


def _is_masked(settings: Mapping[str, Any]) -> bool:
    return any(settings.get(f"mask_{axis}_prob", 0) for axis in ("time", "feature"))


def _heads(
    weights: Mapping[str, Tensor], encoder: EncoderConfig, contrast_layer: Any, folder: Path
) -> HeadsConfig:
    layer = weights.get("lm_head.weight", weights.get("ctc_proj.weight"))
    values: dict[str, Any] = {"tokens": 0 if layer is None else len(layer)}
    values["contrast_layer"] = contrast_layer
    table, project_q = weights.get("label_embeddings_concat"), weights.get("project_q.weight")
    if table is not None:
        values |= {"label_tables": (table.shape[0],), "final_dim": table.shape[1]}
    if "quantizer.codevectors" in weights and project_q is not None:
        is_utterance = "speaker_proj.weight" in weights
        final = weights.get("project_hid.weight")
        values |= {
            "quantizer": quantizer_of(weights["quantizer.codevectors"], project_q),
            "contrast_dim": project_q.shape[0],
            "contrast": "utterance" if is_utterance else "frame",
            "transposed": not is_utterance
            and final is not None
            and final.shape == (encoder.dim, project_q.shape[0])
            and encoder.dim != project_q.shape[0],
            "extract_norm": "layer_norm_for_extract.weight" in weights,
        }
    return validated(HeadsConfig, values, folder, "cannot make out the model's heads")
