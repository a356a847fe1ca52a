"""Every model of the papers as a configuration of the one encoder and its heads."""

from __future__ import annotations

from typing import NamedTuple

from unispeech.models.config import EncoderConfig, Family, HeadsConfig, QuantizerConfig

CLASSES = 504
"""500 clusters and the four specials of a fairseq dictionary."""
PHONES = 80
"""76 English phones and the four specials."""

BASE = EncoderConfig(relative_position=False, gated=False)
LARGE = EncoderConfig(
    extractor_norm="layer",
    normalize=True,
    feature_grad_mult=1.0,
    layers=24,
    dim=1024,
    ffn_dim=4096,
    heads=16,
    norm_first=True,
    relative_position=False,
    gated=False,
    dropout=0.0,
    attention_dropout=0.0,
    input_dropout=0.0,
    layer_drop=0.0,
)
LABELS = HeadsConfig(label_tables=(CLASSES,), final_dim=256)
WIDE_LABELS = HeadsConfig(label_tables=(CLASSES,), final_dim=768, untied=True)
CONTRAST = HeadsConfig(contrast="frame", quantizer=QuantizerConfig(dim=256), contrast_dim=256)
WIDE_CONTRAST = HeadsConfig(contrast="frame", quantizer=QuantizerConfig(dim=768), contrast_dim=768)


class Preset(NamedTuple):
    """A published model before training."""

    family: Family
    encoder: EncoderConfig
    heads: HeadsConfig
    data: str
    source: str
    """Where the values come from."""


def _with(config: EncoderConfig, **changes: object) -> EncoderConfig:
    return EncoderConfig.model_validate({**config.model_dump(), **changes})


def _heads(config: HeadsConfig, **changes: object) -> HeadsConfig:
    return HeadsConfig.model_validate({**config.model_dump(), **changes})


BIAS = {"relative_position": True, "gated": True}
MIX = "94,000 h: Libri-Light, GigaSpeech, VoxPopuli"
LIBRISPEECH = "960 h LibriSpeech"
LIBRI_LIGHT = "60,000 h Libri-Light"
COMMON_VOICE = "Common Voice"
SAT = {"contrast": "utterance", "contrast_layer": 6}
STAGE_1 = _with(
    LARGE,
    conv_bias=True,
    normalize=False,
    dropout=0.1,
    attention_dropout=0.1,
    input_dropout=0.1,
)
STAGE_2 = _with(STAGE_1, conv_bias=False, normalize=True, feature_grad_mult=0.1, layer_drop=0.05)
X_LARGE = {"layers": 48, "dim": 1280, "ffn_dim": 5120}

PRESETS: dict[str, Preset] = {
    "wav2vec2_base": Preset(
        "wav2vec2", BASE, CONTRAST, LIBRISPEECH, "wav2vec 2.0, section 4.2; fairseq"
    ),
    "wav2vec2_large": Preset(
        "wav2vec2",
        _with(LARGE, conv_bias=True),
        WIDE_CONTRAST,
        LIBRI_LIGHT,
        "wav2vec 2.0, section 4.2; fairseq's LV-60 configuration",
    ),
    "hubert_base": Preset("hubert", BASE, LABELS, LIBRISPEECH, "HuBERT, table I; fairseq"),
    "hubert_large": Preset("hubert", LARGE, WIDE_LABELS, LIBRI_LIGHT, "HuBERT, table I; fairseq"),
    "hubert_xlarge": Preset(
        "hubert",
        _with(LARGE, **X_LARGE),
        _heads(WIDE_LABELS, final_dim=1024),
        LIBRI_LIGHT,
        "HuBERT, table I; fairseq",
    ),
    "unispeech_base": Preset(
        "unispeech",
        BASE,
        _heads(CONTRAST, transposed=True, tokens=PHONES),
        COMMON_VOICE,
        "UniSpeech, section 4.2: the shape of wav2vec 2.0 Base; no file was released",
    ),
    "unispeech_large_stage1": Preset(
        "unispeech",
        STAGE_1,
        _heads(WIDE_CONTRAST, transposed=True, tokens=PHONES),
        COMMON_VOICE,
        "the released script one2one_large_pretrain_en1350.sh",
    ),
    "unispeech_large_stage2": Preset(
        "unispeech",
        STAGE_2,
        _heads(WIDE_CONTRAST, transposed=True),
        COMMON_VOICE,
        "the released script of continued pre-training",
    ),
    "unispeech_sat_base": Preset(
        "unispeech_sat",
        BASE,
        _heads(LABELS, quantizer=QuantizerConfig(dim=256), **SAT),
        LIBRISPEECH,
        "UniSpeech-SAT, section 3.1; the released checkpoint",
    ),
    "unispeech_sat_base_plus": Preset(
        "unispeech_sat",
        BASE,
        _heads(LABELS, quantizer=QuantizerConfig(dim=256), **SAT),
        MIX,
        "UniSpeech-SAT, section 3.1; the released checkpoint",
    ),
    "unispeech_sat_large": Preset(
        "unispeech_sat",
        LARGE,
        _heads(
            WIDE_LABELS,
            quantizer=QuantizerConfig(dim=768),
            contrast="utterance",
            contrast_dim=768,
            contrast_layer=12,
            extract_norm=True,
        ),
        MIX,
        "the configuration stored with the released speaker verification model",
    ),
    "wavlm_base": Preset(
        "wavlm", _with(BASE, **BIAS), LABELS, LIBRISPEECH, "WavLM, section IV-A; the checkpoint"
    ),
    "wavlm_base_plus": Preset(
        "wavlm", _with(BASE, **BIAS), LABELS, MIX, "WavLM, section IV-A; the checkpoint"
    ),
    "wavlm_large": Preset(
        "wavlm", _with(LARGE, **BIAS), WIDE_LABELS, MIX, "WavLM, section IV-A; the checkpoint"
    ),
    "ils_base": Preset(
        "ils",
        _with(BASE, relative_position=True, final_norm=False),
        _heads(LABELS, predict_layers=(4, 12), separate_tables=True),
        LIBRISPEECH,
        "ILS-SSL, section 3.1; the released script",
    ),
    "ils_large": Preset(
        "ils",
        _with(LARGE, final_norm=False),
        _heads(WIDE_LABELS, untied=False, predict_layers=(9, 24), separate_tables=True),
        LIBRI_LIGHT,
        "ILS-SSL, section 3.1; whether it has a position bias is not stated",
    ),
}


def parameter_counts(preset: Preset) -> tuple[int, int]:
    """Parameters of the encoder and of the heads; nothing is allocated."""
    import torch

    from unispeech.models.speech import SpeechModel

    with torch.device("meta"):
        model = SpeechModel(preset.family, preset.encoder, preset.heads)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.heads)]
    return counts[0], counts[1]


def table() -> str:
    """The presets as a Markdown table."""
    rows = ["| model | encoder | heads | data | source |", "|---|---:|---:|---|---|"]
    for name, preset in PRESETS.items():
        encoder, heads = parameter_counts(preset)
        rows.append(f"| {name} | {encoder:,} | {heads:,} | {preset.data} | {preset.source} |")
    return "\n".join(rows)
