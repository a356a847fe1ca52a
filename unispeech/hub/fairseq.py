"""Checkpoints of fairseq and of the authors' standalone loaders."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from unispeech.errors import DataError
from unispeech.hub.names import CTC_LAYER, CTC_PREFIX
from unispeech.hub.shapes import heads_of, sizes_of
from unispeech.models.config import EncoderConfig, Family, HeadsConfig
from unispeech.models.pretrained import validated

ARCHITECTURES: dict[str, Family] = {
    "wav2vec2": "wav2vec2",
    "hubert": "hubert",
    "unispeech": "unispeech",
    "unispeech_sat": "unispeech_sat",
    "wavlm": "wavlm",
    "ils_hubert": "ils",
}

SETTINGS = {
    "encoder_layers": "layers",
    "encoder_embed_dim": "dim",
    "encoder_ffn_embed_dim": "ffn_dim",
    "encoder_attention_heads": "heads",
    "layer_norm_first": "norm_first",
    "conv_bias": "conv_bias",
    "conv_pos": "pos_conv_kernel",
    "conv_pos_groups": "pos_conv_groups",
    "relative_position_embedding": "relative_position",
    "gru_rel_pos": "gated",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "input_dropout",
    "encoder_layerdrop": "layer_drop",
    "feature_grad_mult": "feature_grad_mult",
}
"""fairseq's names of what we keep."""


class Foreign(NamedTuple):
    """A foreign checkpoint in our terms; the weights keep their own names."""

    family: Family
    encoder: EncoderConfig
    heads: HeadsConfig
    weights: dict[str, Tensor]
    is_recogniser: bool


def read_fairseq(state: Mapping[str, Any], path: Path) -> Foreign:
    """Understand `{cfg | args, model}`.

    Args:
        state: the file's contents, plain.
        path: for error messages.

    Raises:
        DataError: no weights, or settings that contradict themselves.
    """
    weights = tensors_of(state.get("model"), path)
    model, task = settings_of(state)
    is_recogniser = any(name.startswith(CTC_PREFIX) for name in weights)
    bare = {n.removeprefix(CTC_PREFIX): w for n, w in weights.items()}
    encoder_model, encoder_task = model, task
    if model.get("w2v_args"):
        # Fine-tuned files repeat the settings of the pre-training, which shaped the encoder.
        encoder_model, encoder_task = settings_of({"cfg": model["w2v_args"]})
    normalize = any(
        bool(source.get("normalize")) for source in (encoder_model, encoder_task, model, task)
    )
    sizes = sizes_of(bare, path)
    sizes |= {ours: encoder_model[k] for k, ours in SETTINGS.items() if k in encoder_model}
    if isinstance(encoder_model.get("conv_feature_layers"), str):
        sizes["conv_layers"] = conv_layers(encoder_model["conv_feature_layers"], path)
    if "extractor_mode" in encoder_model:
        is_group = str(encoder_model["extractor_mode"]) == "default"
        sizes["extractor_norm"] = "group" if is_group else "layer"
    sizes["gated"] = bool(sizes.get("gated")) and bool(sizes.get("relative_position"))
    family = _family(encoder_model, bare)
    if family == "ils":
        sizes["final_norm"] = False
    ctc_layer = weights.get(CTC_LAYER + "weight")
    heads = heads_of(bare, ctc_layer, encoder_model, path)
    what = "the settings in the checkpoint do not describe an encoder"
    encoder = validated(EncoderConfig, {**sizes, "normalize": normalize}, path, what)
    return Foreign(family, encoder, heads, weights, is_recogniser)


def tensors_of(model: Any, path: Path) -> dict[str, Tensor]:
    """The weights of a state dictionary.

    Raises:
        DataError: there are none, or something else is among them.
    """
    if not isinstance(model, dict) or not model:
        raise DataError(
            "no weights in the checkpoint",
            where=path,
            expected="a dictionary of tensors under 'model'",
            found=type(model).__name__ if not isinstance(model, dict) else "an empty one",
            remedy="give the model's own file, not its configuration or optimizer",
        )
    strange = [str(k) for k, v in model.items() if not isinstance(v, Tensor)]
    if strange:
        raise DataError("not only tensors among the weights", where=path, found=strange[0])
    return dict(model)


def conv_layers(text: str, path: Path) -> list[dict[str, int]]:
    """The blocks that an expression like `[(512,10,5)] + [(512,3,2)] * 4` stands for.

    It is parsed, never evaluated.

    Raises:
        DataError: it is another kind of expression.
    """
    try:
        blocks = _expression(ast.parse(text.strip(), mode="eval").body)
        return [dict(zip(("channels", "kernel", "stride"), b, strict=True)) for b in blocks]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise DataError(
            "cannot read conv_feature_layers",
            where=path,
            expected="a list of (channels, kernel, stride)",
            found=text[:80],
        ) from None


def _expression(node: ast.expr) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        return [_expression(item) for item in node.elts]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        left, right = _expression(node.left), _expression(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Mult) and isinstance(right, int) and right <= 64:
            return left * right
    raise ValueError("not a list of blocks")


def settings_of(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of model and task; flat and old files hold both in one."""
    cfg, args = state.get("cfg"), state.get("args")
    if isinstance(cfg, dict) and isinstance(cfg.get("model"), dict):
        task = cfg.get("task")
        return dict(cfg["model"]), dict(task) if isinstance(task, dict) else {}
    flat = cfg if isinstance(cfg, dict) and cfg else args if isinstance(args, dict) else {}
    return dict(flat), {}


def _family(model: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Family:
    name = str(model.get("_name") or model.get("arch") or "")
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if any("grep_linear" in n for n in weights):
        return "wavlm"
    if any(n.startswith("final_proj.0.") for n in weights) or any(
        "relative_attention_bias" in n for n in weights
    ):
        return "ils"
    if "spk_proj.weight" in weights or "utterance_contrastive_layer" in model:
        return "unispeech_sat"
    if "quantizer.vars" in weights:
        return "unispeech" if "transpose" in model else "wav2vec2"
    return "hubert"
