"""What fairseq and Hugging Face call each of our parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from unispeech.models.config import EncoderConfig, Family

CTC_PREFIX = "w2v_encoder.w2v_model."
CTC_LAYER = "w2v_encoder.proj."

HF_PREFIX: dict[Family, str] = {
    "wav2vec2": "wav2vec2.",
    "hubert": "hubert.",
    "unispeech": "unispeech.",
    "unispeech_sat": "unispeech_sat.",
    "wavlm": "wavlm.",
}
"""Prefix of the encoder inside a model with a head; the bare model has none."""

WeightNorm = Literal["new", "old"]
"""`parametrizations.weight.original0` of today's torch, or `weight_g`."""

_LAYER = r"encoder\.layers\.(\d+)\."

FAIRSEQ_HEADS = {
    "heads.label.label_embeddings": "label_embs_concat",
    "heads.label.": "",
    "heads.layer_label.label_embeddings": "label_embs_concat",
    "heads.layer_label.": "",
    "heads.contrast.": "",
    "heads.utterance.layer_norm_for_extract.": "encoder.layer_norm_for_extract.",
    "heads.utterance.": "",
}

HF_HEADS = {
    "heads.contrast.quantizer.vars": "quantizer.codevectors",
    "heads.contrast.quantizer.": "quantizer.",
    "heads.contrast.project_q.": "project_q.",
    "heads.contrast.final_proj.": "project_hid.",
    "heads.utterance.quantizer.vars": "quantizer.codevectors",
    "heads.utterance.quantizer.": "quantizer.",
    "heads.utterance.project_q.": "project_q.",
    "heads.utterance.spk_proj.": "speaker_proj.",
    "heads.utterance.layer_norm_for_extract.": "layer_norm_for_extract.",
    "heads.label.final_proj.": "project_hid.",
    "heads.label.label_embeddings": "label_embeddings_concat",
}

HF_ENCODER = [
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^(feature_extractor\.conv_layers\.\d+)\.norm\.", r"\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.", "encoder.pos_conv_embed.conv."),
    (r"^encoder\.relative_position\.embedding\.", "encoder.layers.0.attention.rel_attn_embed."),
    (_LAYER + r"self_attn\.grep_linear\.", r"encoder.layers.\1.attention.gru_rel_pos_linear."),
    (_LAYER + r"self_attn\.grep_a$", r"encoder.layers.\1.attention.gru_rel_pos_const"),
    (_LAYER + r"self_attn\.", r"encoder.layers.\1.attention."),
    (_LAYER + r"self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (_LAYER + r"fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (_LAYER + r"fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
]


def fairseq_names(
    names: Iterable[str], config: EncoderConfig, is_recogniser: bool
) -> dict[str, str]:
    """Our name to fairseq's, for each of `names`.

    Args:
        names: parameters of a `SpeechModel`.
        config: of its encoder; the extractor's norm decides on names.
        is_recogniser: whether the encoder is wrapped for CTC.
    """
    prefix = CTC_PREFIX if is_recogniser else ""
    result = {}
    for name in names:
        if name.startswith("heads.proj."):
            result[name] = CTC_LAYER + name.removeprefix("heads.proj.")
        elif name.startswith("heads."):
            result[name] = prefix + _replace_prefix(name, FAIRSEQ_HEADS)
        else:
            result[name] = prefix + _fairseq_encoder(name.removeprefix("encoder."), config)
    return result


def huggingface_names(
    names: Iterable[str], family: Family, weight_norm: WeightNorm, is_bare: bool
) -> dict[str, str]:
    """Our name to that in a Hugging Face checkpoint, for each of `names`.

    Args:
        names: parameters of a `SpeechModel`.
        family: decides on the prefix.
        weight_norm: spelling of the positional convolution's factors.
        is_bare: whether the encoder stands alone, without a prefix.
    """
    prefix = "" if is_bare else HF_PREFIX[family]
    # UniSpeech's pre-training class has a name of its own for the CTC layer.
    has_objective = any(name.startswith("heads.contrast.") for name in names)
    ctc = "ctc_proj." if family == "unispeech" and has_objective else "lm_head."
    result = {}
    for name in names:
        if name.startswith("heads.proj."):
            result[name] = ctc + name.removeprefix("heads.proj.")
        elif name.startswith("heads."):
            result[name] = _replace_prefix(name, HF_HEADS)
        else:
            own = _hf_encoder(name.removeprefix("encoder."), weight_norm)
            result[name] = prefix + own
    return result


def _replace_prefix(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _fairseq_encoder(name: str, config: EncoderConfig) -> str:
    name = re.sub(r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0.", name)
    # In fairseq the layer norm sits between two transpositions.
    norm = "2" if config.extractor_norm == "group" else "2.1"
    name = re.sub(r"^(feature_extractor\.conv_layers\.\d+)\.norm\.", rf"\1.{norm}.", name)
    name = re.sub(r"^encoder\.pos_conv\.", "encoder.pos_conv.0.", name)
    table = "encoder.layers.0.self_attn.relative_attention_bias."
    return re.sub(r"^encoder\.relative_position\.embedding\.", table, name)


def _hf_encoder(name: str, weight_norm: WeightNorm) -> str:
    for pattern, replacement in HF_ENCODER:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            name = renamed
            break
    if weight_norm == "new":
        name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        name = name.replace("conv.weight_v", "conv.parametrizations.weight.original1")
    return name
