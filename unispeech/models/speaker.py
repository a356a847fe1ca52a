"""Speaker embeddings: weighted states of an encoder or filter banks, frame layers, pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unispeech.errors import DataError, NumericsError
from unispeech.losses.margin import Margin, class_cosines, margin_loss
from unispeech.models.config import EncoderConfig
from unispeech.models.downstream import (
    DownstreamModel,
    LayerSum,
    Rates,
    instance_norm,
    rate_scale,
    valid_frames,
)
from unispeech.models.ecapa import Ecapa, Tdnn
from unispeech.models.encoder import Encoder
from unispeech.models.fbank import SAMPLING_RATE, Fbank
from unispeech.models.pooling import (
    AttentiveStatisticsPooling,
    FactorisedPooling,
    StatisticsPooling,
)
from unispeech.models.speaker_config import SpeakerConfig


class SpeakerModel(DownstreamModel):
    """Waveforms to embeddings.

    Args:
        config: of everything behind the encoder.
        encoder: its configuration; None for filter banks.
    """

    sample_rate = SAMPLING_RATE

    def __init__(self, config: SpeakerConfig, encoder: EncoderConfig | None) -> None:
        assert (config.features == "ssl") == (encoder is not None)
        super().__init__(None if encoder is None else Encoder(encoder))
        self.config = config
        self.fbank: Fbank | None = None
        self.layer_sum: LayerSum | None = None
        if encoder is None:
            self.fbank = Fbank(config.mels)
            inputs = config.mels
        else:
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
            valid = None if lengths is None else valid_frames(counts, x.shape[2]).unsqueeze(1)
            normed = instance_norm(x, valid)
            return normed, normed, valid
        assert self.layer_sum is not None
        output = self.encode(waveforms, lengths)
        states, mask = output.layers, output.padding_mask
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
        return rate_scale(name, "speaker.encoder.", self.speaker.encoder, self.rates)

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
