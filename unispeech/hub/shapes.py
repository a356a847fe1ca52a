"""What the shapes of the weights tell about a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unispeech.errors import DataError
from unispeech.models.config import HeadsConfig, QuantizerConfig, conv_stack
from unispeech.models.pretrained import validated

Weights = Mapping[str, Tensor]


def sizes_of(weights: Weights, path: Path) -> dict[str, Any]:
    """Encoder settings that fairseq-named weights show by themselves.

    Files without settings (speaker verification, conversions) are described by these alone; the
    stride of a convolution, which no weight shows, is then that of wav2vec 2.0, and pre-norm goes
    with the layer-norm extractor as in every released model.

    Raises:
        DataError: these are not the weights of such an encoder.
    """
    prefix = "feature_extractor.conv_layers."
    convs = [weights[n] for n in _numbered(weights, prefix + r"(\d+)\.0\.weight$")]
    layers = _numbered(weights, r"encoder\.layers\.(\d+)\.fc1\.weight$")
    if not convs or not layers or any(w.ndim != 3 for w in convs):
        some = ", ".join(sorted(weights)[:3])
        raise DataError(
            "not an encoder of this family",
            where=path,
            expected="weights named feature_extractor.conv_layers.0.0.weight and so on",
            found=some or "none",
            remedy="give a checkpoint of wav2vec 2.0, HuBERT, UniSpeech, UniSpeech-SAT, WavLM or"
            " ILS-SSL",
        )
    ffn_dim, dim = weights[layers[0]].shape
    is_layer = any(".2.1." in n for n in weights if n.startswith(prefix))
    sizes: dict[str, Any] = {
        "conv_layers": [
            {"channels": w.shape[0], "kernel": w.shape[2], "stride": block.stride}
            for w, block in zip(convs, conv_stack(), strict=False)
        ],
        "conv_bias": prefix + "0.0.bias" in weights,
        "extractor_norm": "layer" if is_layer else "group",
        "norm_first": is_layer,
        "layers": len(layers),
        "dim": dim,
        "ffn_dim": ffn_dim,
        "heads": max(1, dim // 64),
        "relative_position": False,
        "gated": any("grep_linear" in n for n in weights),
    }
    table = weights.get("encoder.layers.0.self_attn.relative_attention_bias.weight")
    if table is not None and table.ndim == 2:
        buckets, heads = table.shape
        sizes |= {"relative_position": True, "num_buckets": buckets, "heads": heads}
    taps = weights.get("encoder.pos_conv.0.weight_v")
    if taps is not None and taps.ndim == 3 and taps.shape[1] and dim % taps.shape[1] == 0:
        sizes |= {"pos_conv_kernel": taps.shape[2], "pos_conv_groups": dim // taps.shape[1]}
    return sizes


def heads_of(
    weights: Weights, ctc_layer: Tensor | None, settings: Mapping[str, Any], path: Path
) -> HeadsConfig:
    """The heads whose weights are there, fairseq names.

    Args:
        weights: without any prefix.
        ctc_layer: `(tokens, D)` weight of the recognition layer, if there is one.
        settings: of the model; the layer of SAT's contrast and ILS's layers are read from them.
        path: for error messages.
    """
    values: dict[str, Any] = {"tokens": 0 if ctc_layer is None else len(ctc_layer)}
    table = weights.get("label_embs_concat")
    if table is not None:
        values |= _label_head(weights, table, settings)
    if "quantizer.vars" in weights:
        values |= _contrast(weights, settings)
    return validated(HeadsConfig, values, path, "cannot make out the model's heads")


def quantizer_of(variables: Tensor, project_q: Tensor) -> QuantizerConfig:
    """Sizes of a quantizer from `vars (1, G V, d / G)` and `project_q (E, d)`."""
    dim = project_q.shape[1]
    groups = max(1, dim // max(1, variables.shape[2]))
    return QuantizerConfig(groups=groups, codes=max(1, variables.shape[1] // groups), dim=dim)


def _label_head(weights: Weights, table: Tensor, settings: Mapping[str, Any]) -> dict[str, Any]:
    layered = _numbered(weights, r"final_proj\.(\d+)\.weight$")
    values: dict[str, Any] = {"final_dim": table.shape[-1], "label_tables": (table.shape[-2],)}
    if layered:
        given = settings.get("predict_layers")
        layers = _integers(given) if given is not None else tuple(range(1, len(layered) + 1))
        return {**values, "predict_layers": layers, "separate_tables": table.ndim == 3}
    projection = weights.get("final_proj.weight")
    values["label_projection"] = projection is not None
    sets = 1 if projection is None else max(1, projection.shape[0] // table.shape[-1])
    if sets > 1:
        values |= {"label_tables": (table.shape[-2] // sets,) * sets, "untied": True}
    return values


def _contrast(weights: Weights, settings: Mapping[str, Any]) -> dict[str, Any]:
    project_q = weights.get("project_q.weight")
    if project_q is None:
        return {}
    values: dict[str, Any] = {
        "quantizer": quantizer_of(weights["quantizer.vars"], project_q),
        "contrast_dim": project_q.shape[0],
    }
    if "spk_proj.weight" in weights:
        layer = settings.get("utterance_contrastive_layer", settings.get("spk_layer", 6))
        has_norm = "encoder.layer_norm_for_extract.weight" in weights
        kind = {"contrast": "utterance", "contrast_layer": layer, "extract_norm": has_norm}
        return {**values, **kind}
    final = weights.get("final_proj.weight")
    is_narrow = final is not None and final.shape[0] != project_q.shape[0]
    return {
        **values,
        "contrast": "frame",
        "transposed": bool(settings.get("transpose", is_narrow)),
    }


def _numbered(weights: Weights, pattern: str) -> list[str]:
    found = [(int(m.group(1)), n) for n in weights if (m := re.match(pattern, n))]
    return [name for _, name in sorted(found)]


def _integers(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        return tuple(int(part) for part in re.findall(r"\d+", value))
    return tuple(int(part) for part in value)
