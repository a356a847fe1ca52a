"""Speaker embeddings: weighted states of an encoder or filter banks, frame layers, pooling."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unispeech.errors import DataError, NumericsError
from unispeech.losses.margin import Margin, class_cosines, margin_loss
from unispeech.models.config import EncoderConfig
from unispeech.models.ecapa import Ecapa, Tdnn
from unispeech.models.encoder import Encoder, EncoderOutput
from unispeech.models.fbank import SAMPLING_RATE, Fbank
from unispeech.models.pooling import (
    AttentiveStatisticsPooling,
    FactorisedPooling,
    StatisticsPooling,
)
from unispeech.models.speaker_config import SpeakerConfig


class LayerSum(nn.Module):
    """Sum of hidden states with softmax weights, equal ones at first.

    Args:
        states: L + 1.
    """

    def __init__(self, states: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(states))

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        """L + 1 states `(B, T, D)` to one."""
        shares = torch.softmax(self.weight.float(), dim=0).to(states[0].dtype)
        total = shares[0] * states[0]
        for share, state in zip(shares[1:], states[1:], strict=True):
            total = total + share * state
        return total


def instance_norm(x: Tensor, valid: Tensor | None) -> Tensor:
    """Zero mean and unit variance of each channel over the utterance (biased, epsilon 1e-5).

    Args:
        x: `(B, C, T)`.
        valid: `(B, 1, T)` bool or None; padding becomes zero.
    """
    # Not torch's own, which refuses a single frame in training.
    weights = torch.ones_like(x[:, :1]) if valid is None else valid.to(x.dtype)
    count = weights.sum(2, keepdim=True)
    mean = (x * weights).sum(2, keepdim=True) / count
    centred = (x - mean) * weights
    variance = centred.square().sum(2, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)


class SpeakerModel(nn.Module):
    """Waveforms to embeddings.

    Args:
        config: of everything behind the encoder.
        encoder: its configuration; None for filter banks.
    """

    sample_rate = SAMPLING_RATE

    def __init__(self, config: SpeakerConfig, encoder: EncoderConfig | None) -> None:
        super().__init__()
        assert (config.features == "ssl") == (encoder is not None)
        self.config = config
        self.encoder: Encoder | None = None
        self.fbank: Fbank | None = None
        self.layer_sum: LayerSum | None = None
        if encoder is None:
            self.fbank = Fbank(config.mels)
            inputs = config.mels
        else:
            self.encoder = Encoder(encoder)
            self.layer_sum = LayerSum(encoder.layers + 1)
            inputs = encoder.dim
        self.value_sum = (
            LayerSum(encoder.layers + 1)
            if encoder is not None and config.network == "none" and config.pooling == "factorised"
            else None
        )
        """Weights of the values, where keys and values are different sums of states."""
        self.projector: nn.Linear | None = None
        self.network: Ecapa | Tdnn | None = None
        if config.network == "ecapa":
            shape = (config.channels, config.groups, config.bottleneck)
            self.network = Ecapa(inputs, *shape)
            inputs = self.network.outputs
        elif config.network == "xvector":
            self.projector = nn.Linear(inputs, config.tdnn[0].channels)
            self.network = Tdnn(config.tdnn[0].channels, config.tdnn)
            inputs = self.network.outputs
        self.pooling = _pooling(config, inputs)
        pooled = self.pooling.outputs
        self.bn = nn.BatchNorm1d(pooled) if config.network == "ecapa" else None
        self.linear = nn.Linear(pooled, config.embedding)
        self._is_frozen = False
        self._has_dropout = True

    def set_training(self, frozen: bool, dropout: bool = False) -> None:
        """Say how a training treats the encoder.

        Args:
            frozen: its weights stay as they are, and no gradient is computed in it.
            dropout: a trained encoder has its dropouts. Without, it stays in evaluation mode while
                its weights are trained, as in the authors' diarization code.
        """
        self._is_frozen = frozen
        self._has_dropout = dropout and not frozen
        if self.encoder is not None:
            for parameter in self.encoder.parameters():
                parameter.requires_grad_(not frozen)
            for unused in _without_gradient(self.encoder):
                unused.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SpeakerModel:
        """Training or evaluation mode; a frozen encoder is always in the latter."""
        super().train(mode)
        if self.encoder is not None and not self._has_dropout:
            self.encoder.eval()
        return self

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeddings `(B, E)` float32, of any length.

        Args:
            waveforms: `(B, N)` float32 in [-1, 1] at 16 kHz, as they come: what the encoder wants
                normalised is normalised here.
            lengths: `(B,)` int64 valid samples, or None when nothing is padded. In training,
                statistics of batch norms include the padding.

        Raises:
            DataError: an utterance is too short.
        """
        keys, values, valid = self._features(waveforms, lengths)
        if isinstance(self.pooling, FactorisedPooling):
            if self.network is not None:
                keys = values = self._frames(keys, valid)[0]
            pooled = self.pooling(keys, values, valid)
        else:
            frames, valid = self._frames(keys, valid)
            pooled = self.pooling(frames, valid)
        if self.bn is not None:
            pooled = self.bn(pooled)
        embeddings: Tensor = self.linear(pooled)
        return embeddings.float()

    def embed(self, wavs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeddings `(B, E)` float32 without gradients, from a model in evaluation mode.

        Args:
            wavs: `(B, N)` float32 at `sample_rate`.
            lengths: `(B,)` int64 valid samples, or None.

        Raises:
            DataError: an utterance is too short.
            NumericsError: an embedding is not finite.
        """
        with torch.inference_mode():
            embeddings: Tensor = self(wavs, lengths)
        if not bool(torch.isfinite(embeddings).all()):
            rows = (~torch.isfinite(embeddings).all(1)).nonzero().flatten().tolist()
            raise NumericsError(
                "an embedding is not finite",
                expected="finite samples and weights",
                found=f"utterances {rows[:5]} of the batch",
            )
        return embeddings

    def _features(
        self, waveforms: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values `(B, C, T)`, the same unless the pooling tells them apart; valid."""
        if self.fbank is not None:
            x, counts = self.fbank(waveforms, lengths)
            valid = None if lengths is None else _valid(counts, x.shape[2])
            normed = instance_norm(x, valid)
            return normed, normed, valid
        assert self.encoder is not None
        assert self.layer_sum is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._is_frozen):
            output: EncoderOutput = self.encoder(waveforms, lengths)
        # The output of the last layer is taken behind the final norm, where there is one.
        states = (*output.layers[:-1], output.last)
        mask = output.padding_mask
        valid = None if mask is None else ~mask.unsqueeze(1)
        keys: Tensor = self.layer_sum(states).transpose(1, 2)
        if self.config.network == "ecapa":
            # The reference adds 1e-6 before, which the norm takes off again.
            keys = instance_norm(keys, valid)
        values = keys if self.value_sum is None else self.value_sum(states).transpose(1, 2)
        return keys, values, valid

    def _frames(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.network, Ecapa):
            return self.network(x, valid), valid
        if self.network is None:
            return x, valid
        assert self.projector is not None
        lost = self.network.context - 1
        shortest = x.shape[2] if valid is None else int(valid.sum(2).min())
        if shortest <= lost:
            raise DataError(
                "utterance too short for the x-vector network",
                expected=f"at least {lost + 1} frames",
                found=shortest,
            )
        x = self.network(self.projector(x.transpose(1, 2)).transpose(1, 2))
        return x, None if valid is None else valid[:, :, lost:]


class Rates(NamedTuple):
    """Learning rates relative to the head's."""

    encoder: float = 1.0
    """Of the encoder's last layer."""
    layer_decay: float = 1.0
    """Factor from each layer to the one before; the front end counts as one more."""


class SpeakerClassifier(nn.Module):
    """A speaker model and the class vectors that it is trained with.

    Args:
        speaker: the model.
        classes: speakers, copies at other speeds included.
        sub_centres: vectors of each class.
    """

    def __init__(self, speaker: SpeakerModel, classes: int, sub_centres: int = 1) -> None:
        super().__init__()
        self.speaker = speaker
        self.classes = nn.Parameter(torch.empty(classes, sub_centres, speaker.config.embedding))
        nn.init.xavier_uniform_(self.classes.view(-1, speaker.config.embedding))
        self.rates = Rates()

    def rate_scale(self, name: str) -> float:
        """Factor of the learning rate of a parameter, from its depth in the encoder."""
        encoder = self.speaker.encoder
        if encoder is None or not name.startswith("speaker.encoder."):
            return 1.0
        depth = encoder.config.layers
        layer = re.match(r"speaker\.encoder\.encoder\.layers\.(\d+)\.", name)
        if layer:
            depth -= int(layer[1]) + 1
        elif encoder.config.norm_first and ".encoder.encoder.layer_norm." in name:
            # The final norm of a pre-norm model comes behind the last layer.
            depth = 0
        return self.rates.encoder * self.rates.layer_decay**depth

    def forward(
        self, waveforms: Tensor, lengths: Tensor | None, labels: Tensor, margin: Margin
    ) -> tuple[Tensor, Tensor]:
        """Loss in nats summed over the batch, and how many speakers were found.

        Args:
            waveforms: `(B, N)` float32.
            lengths: `(B,)` int64 or None.
            labels: `(B,)` int64.
            margin: of this update.
        """
        embeddings = self.speaker(waveforms, lengths)
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = class_cosines(embeddings, self.classes)
            loss = margin_loss(cosines, labels, margin)
        return loss, (cosines.argmax(1) == labels).sum()


def _pooling(
    config: SpeakerConfig, inputs: int
) -> AttentiveStatisticsPooling | StatisticsPooling | FactorisedPooling:
    if config.pooling == "attentive":
        return AttentiveStatisticsPooling(inputs, config.attention_dim, config.global_context)
    if config.pooling == "statistics":
        return StatisticsPooling(inputs)
    return FactorisedPooling(inputs, config.attention_dim, config.heads)


def _valid(lengths: Tensor, frames: int) -> Tensor:
    return (torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1)


def _without_gradient(encoder: Encoder) -> list[nn.Parameter]:
    """Parameters that embeddings do not depend on, or that the configuration keeps."""
    kept = [encoder.mask_emb]
    if encoder.config.feature_grad_mult == 0:
        kept += encoder.feature_extractor.parameters()
    if encoder.config.norm_first and not encoder.config.final_norm:
        kept += encoder.encoder.layer_norm.parameters()
    return kept
