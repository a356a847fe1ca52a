"""What the families put on top of the one encoder: the modules of their objectives."""

from __future__ import annotations

import torch
from torch import nn

from unispeech.models.config import EncoderConfig, HeadsConfig
from unispeech.models.quantizer import GumbelQuantizer


class LabelHead(nn.Module):
    """Projection and class table of masked prediction (HuBERT, equation 3).

    With several untied label sets the projection gives one vector for each set. Recognition
    checkpoints keep the table and lose the projection.
    """

    def __init__(self, encoder: EncoderConfig, config: HeadsConfig) -> None:
        super().__init__()
        sets = len(config.label_tables) if config.untied else 1
        self.final_proj = (
            nn.Linear(encoder.dim, config.final_dim * sets) if config.label_projection else None
        )
        self.label_embeddings = nn.Parameter(
            torch.empty(sum(config.label_tables), config.final_dim).uniform_()
        )


class LayerLabelHead(nn.Module):
    """Masked prediction at several layers (ILS-SSL, section 3.2)."""

    def __init__(self, encoder: EncoderConfig, config: HeadsConfig) -> None:
        super().__init__()
        layers = config.predict_layers
        self.final_proj = nn.ModuleList(nn.Linear(encoder.dim, config.final_dim) for _ in layers)
        table: tuple[int, ...] = (sum(config.label_tables), config.final_dim)
        if config.separate_tables:
            table = (len(layers), *table)
        self.label_embeddings = nn.Parameter(torch.empty(table).uniform_())
        self.post_layer_norm = (
            nn.ModuleList(nn.LayerNorm(encoder.dim) for _ in layers) if encoder.norm_first else None
        )


class FrameContrastHead(nn.Module):
    """Quantizer and projections of wav2vec 2.0, or of UniSpeech when `transposed`.

    UniSpeech leaves the context as it is and projects the quantized frames to its width.
    """

    def __init__(self, encoder: EncoderConfig, config: HeadsConfig) -> None:
        super().__init__()
        assert config.quantizer is not None
        width = encoder.conv_layers[-1].channels
        self.quantizer = GumbelQuantizer(width, config.quantizer)
        self.project_q = nn.Linear(config.quantizer.dim, config.contrast_dim)
        shape = (encoder.dim, config.contrast_dim)
        self.final_proj = nn.Linear(*(shape[::-1] if config.transposed else shape))


class UtteranceContrastHead(nn.Module):
    """Utterance-wise contrast of UniSpeech-SAT (section 2.2), on the states of one layer."""

    def __init__(self, encoder: EncoderConfig, config: HeadsConfig) -> None:
        super().__init__()
        assert config.quantizer is not None
        self.quantizer = GumbelQuantizer(encoder.dim, config.quantizer)
        self.project_q = nn.Linear(config.quantizer.dim, config.contrast_dim)
        self.spk_proj = nn.Linear(encoder.dim, config.contrast_dim)
        self.layer_norm_for_extract = nn.LayerNorm(encoder.dim) if config.extract_norm else None


class Heads(nn.Module):
    """The heads that a configuration asks for; the others are None."""

    def __init__(self, encoder: EncoderConfig, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        has_labels = bool(config.label_tables)
        is_layered = bool(config.predict_layers)
        kind = config.contrast
        self.label = LabelHead(encoder, config) if has_labels and not is_layered else None
        self.layer_label = LayerLabelHead(encoder, config) if has_labels and is_layered else None
        self.contrast = FrameContrastHead(encoder, config) if kind == "frame" else None
        self.utterance = UtteranceContrastHead(encoder, config) if kind == "utterance" else None
        self.proj = nn.Linear(encoder.dim, config.tokens) if config.tokens else None
