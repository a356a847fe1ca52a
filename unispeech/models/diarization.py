"""EEND-VC: activities of the speakers of a chunk, and a vector for each that chunks share."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.errors import DataError, NumericsError
from unispeech.losses.permutation import (
    PermutedLoss,
    activity_loss,
    powerset,
    powerset_activity,
    powerset_loss,
)
from unispeech.losses.speaker_table import speaker_loss, speaker_vectors
from unispeech.models.config import EncoderConfig
from unispeech.models.diarization_config import FBANK_SHIFT, EendConfig
from unispeech.models.downstream import (
    DownstreamModel,
    LayerSum,
    Rates,
    instance_norm,
    rate_scale,
    valid_frames,
)
from unispeech.models.encoder import Encoder
from unispeech.models.fbank import SAMPLING_RATE, Fbank


class EendOutput(NamedTuple):
    """Local diarization of B chunks: T frames, S slots, vectors of width E."""

    logits: Tensor
    """`(B, T, S)` float32, or `(B, T, P)` of the sets of a powerset head."""
    activity: Tensor
    """`(B, T, S)` float32 in [0, 1], 0 behind the end."""
    vectors: Tensor
    """`(B, S, E)` float32 unit vectors."""
    valid: Tensor | None
    """`(B, T)` bool, or None when nothing is padded."""


class EendLayer(nn.Module):
    """Self-attention and feed-forward, each on the normalised input.

    Args:
        config: width, heads, dropout and what is added to.
    """

    def __init__(self, config: EendConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.adds_to_input = config.residual == "plain"
        self.attention_norm = nn.LayerNorm(config.dim)
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.output = nn.Linear(config.dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim)
        self.expand = nn.Linear(config.dim, config.ffn_dim)
        self.contract = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, T, D)` to `(B, T, D)`; `valid` is `(B, T)` bool or None."""
        normed = self.attention_norm(x)
        x = (x if self.adds_to_input else normed) + self._drop(self._attend(normed, valid))
        normed = self.ffn_norm(x)
        inner = self.contract(self._drop(F.relu(self.expand(normed))))
        return (x if self.adds_to_input else normed) + self._drop(inner)

    def _attend(self, x: Tensor, valid: Tensor | None) -> Tensor:
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(
            query, key, value,
            attn_mask=None if valid is None else valid[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class EendTransformer(nn.Module):
    """Projection, layers without positions, final norm.

    Args:
        config: sizes.
        inputs: width of the features.
    """

    def __init__(self, config: EendConfig, inputs: int) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, config.dim)
        self.layers = nn.ModuleList(EendLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(B, T, inputs)` to `(B, T, D)`; `valid` is `(B, T)` bool or None."""
        x = self.project(x)
        for layer in self.layers:
            x = layer(x, valid)
        normed: Tensor = self.norm(x)
        return normed


class EendModel(DownstreamModel):
    """Waveforms of chunks to local diarization.

    Args:
        config: of everything behind the encoder.
        encoder: its configuration; None for filter banks.
    """

    sample_rate = SAMPLING_RATE
    classes: Tensor | None

    def __init__(self, config: EendConfig, encoder: EncoderConfig | None) -> None:
        assert (config.features == "ssl") == (encoder is not None)
        super().__init__(None if encoder is None else Encoder(encoder))
        self.config = config
        self.fbank: Fbank | None = None
        self.layer_sum: LayerSum | None = None
        if encoder is None:
            self.fbank = Fbank(config.mels, config.max_hz)
            inputs = config.mels * (2 * config.context + 1)
        else:
            self.layer_sum = LayerSum(encoder.layers + 1)
            inputs = encoder.dim
        self.transformer = EendTransformer(config, inputs)
        sets = powerset(config.slots, config.together) if config.activity == "powerset" else None
        self.register_buffer("classes", sets, persistent=False)
        self.activity = nn.Linear(config.dim, config.slots if sets is None else len(sets))
        self.vectors = nn.ModuleList(
            nn.Linear(config.dim, config.vector_dim) for _ in range(config.slots)
        )

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> EendOutput:
        """Diarize chunks; a chunk of N samples has `config.frames(N)` frames.

        Args:
            waveforms: `(B, N)` float32 in [-1, 1] at 16 kHz, as they come: what the encoder wants
                normalised is normalised here.
            lengths: `(B,)` int64 valid samples, or None when nothing is padded.

        Raises:
            DataError: a chunk is too short for one frame.
        """
        hop = self.config.hop
        shortest = waveforms.shape[1] if lengths is None else int(lengths.min())
        if shortest < hop:
            raise DataError(
                "chunk too short to diarize", expected=f"at least {hop} samples", found=shortest
            )
        frames = waveforms.shape[1] // hop
        valid = None if lengths is None else valid_frames(lengths // hop, frames)
        if self.fbank is not None:
            features = self._spliced(self.fbank, waveforms, lengths, frames)
        else:
            features = self._states(waveforms, lengths, frames)
        x = self.transformer(features, valid)
        with torch.autocast(x.device.type, enabled=False):
            return self._heads(x.float(), valid)

    def diarize(self, waveforms: Tensor, lengths: Tensor | None = None) -> EendOutput:
        """As `forward`, without gradients, from a model in evaluation mode.

        Raises:
            DataError: a chunk is too short for one frame.
            NumericsError: an activity or a vector is not finite.
        """
        with torch.inference_mode():
            output: EendOutput = self(waveforms, lengths)
        if not bool(torch.isfinite(output.activity).all() & torch.isfinite(output.vectors).all()):
            raise NumericsError(
                "an activity or a speaker vector is not finite",
                expected="finite samples and weights",
                remedy="check the checkpoint and the audio",
            )
        return output

    def _heads(self, x: Tensor, valid: Tensor | None) -> EendOutput:
        logits = self.activity(x)
        if self.classes is None:
            activity = torch.sigmoid(logits)
        else:
            activity = powerset_activity(logits, self.classes)
        if valid is not None:
            activity = activity.masked_fill(~valid.unsqueeze(2), 0.0)
        frames = torch.stack([head(x) for head in self.vectors], 2)
        return EendOutput(logits, activity, speaker_vectors(frames, activity), valid)

    def _states(self, waveforms: Tensor, lengths: Tensor | None, frames: int) -> Tensor:
        """Weighted states `(B, frames, D)`, normalised, at the rate of the frames."""
        assert self.layer_sum is not None
        output = self.encode(waveforms, lengths)
        mask = output.padding_mask
        # The reference adds 1e-6 before, which the norm takes off again.
        x = self.layer_sum(output.layers).transpose(1, 2)
        x = instance_norm(x, None if mask is None else ~mask.unsqueeze(1))
        if lengths is None:
            x = F.interpolate(x, frames, mode="linear", align_corners=False)
        else:
            x = interpolate(x, output.lengths, lengths // self.config.hop, frames)
        return x.transpose(1, 2)

    def _spliced(
        self, fbank: Fbank, waveforms: Tensor, lengths: Tensor | None, frames: int
    ) -> Tensor:
        """Filter banks `(B, frames, inputs)` without their mean, with their neighbours."""
        x, counts = fbank(waveforms, lengths)
        kept = valid_frames(counts, x.shape[2]).unsqueeze(1)
        # Decimal logarithms; behind the ends there are zeros, as in the reference.
        x = x / math.log(10.0)
        mean = (x * kept).sum(2, keepdim=True) / kept.sum(2, keepdim=True)
        x = (x - mean) * kept
        context = self.config.context
        windows = F.pad(x, (context, context)).unfold(2, 2 * context + 1, 1)
        step = self.config.hop // FBANK_SHIFT
        # The filter bank in the middle of each frame's samples.
        chosen = windows[:, :, step // 2 :: step][:, :, :frames]
        return chosen.permute(0, 2, 3, 1).flatten(2)


def interpolate(x: Tensor, counts: Tensor, targets: Tensor, frames: int) -> Tensor:
    """Linear interpolation of each row's own frames, as torch's of a row alone.

    Args:
        x: `(B, C, T)`.
        counts: `(B,)` frames that there are.
        targets: `(B,)` frames that are wanted.
        frames: frames of the padded result.

    Returns:
        `(B, C, frames)`, zeros behind the end.
    """
    places = torch.arange(frames, device=x.device, dtype=torch.float32) + 0.5
    scale = counts.to(torch.float32) / targets.clamp(min=1)
    source = (places * scale.unsqueeze(1) - 0.5).clamp(min=0)
    last = (counts - 1).unsqueeze(1)
    left = torch.minimum(source.floor().long(), last)
    right = torch.minimum(left + 1, last)
    share = (source - left).clamp(0, 1).unsqueeze(1).to(x.dtype)
    wide = (-1, x.shape[1], -1)
    low = x.gather(2, left.unsqueeze(1).expand(wide))
    high = x.gather(2, right.unsqueeze(1).expand(wide))
    mixed = low + share * (high - low)
    return mixed * valid_frames(targets, frames).unsqueeze(1)


class EendLosses(NamedTuple):
    """Sums over the chunks of a batch, and what was compared."""

    total: Tensor
    """Scalar, nats."""
    activity: Tensor
    """Scalar: the activity loss alone."""
    speaker: Tensor
    """Scalar: the speaker loss alone."""
    order: Tensor
    """`(B, S)` int64: reference of each slot."""
    output: EendOutput


class EendTraining(nn.Module):
    """An EEND-VC model and the vectors of the training speakers that it learns with.

    Args:
        eend: the model.
        speakers: number of training speakers.
        speaker_weight: share of the speaker loss in the total.
        over: what the speaker loss is averaged over, see `speaker_loss`.
    """

    def __init__(
        self,
        eend: EendModel,
        speakers: int,
        speaker_weight: float = 0.03,
        over: Literal["slots", "active"] = "slots",
    ) -> None:
        super().__init__()
        self.eend = eend
        self.speaker_weight = speaker_weight
        self.over = over
        self.table = nn.Parameter(torch.randn(speakers, eend.config.vector_dim))
        self.is_known: Tensor
        self.register_buffer("is_known", torch.ones(speakers, dtype=torch.bool))
        self.alpha = nn.Parameter(torch.rand(()) + 0.5)
        self.beta = nn.Parameter(torch.rand(()) + 0.5)
        self.rates = Rates()

    def rate_scale(self, name: str) -> float:
        """Factor of the learning rate of a parameter, from its depth in the encoder."""
        return rate_scale(name, "eend.encoder.", self.eend.encoder, self.rates)

    def forward(
        self, waveforms: Tensor, lengths: Tensor | None, activity: Tensor, speakers: Tensor
    ) -> EendLosses:
        """Losses of a batch.

        Args:
            waveforms: `(B, N)` float32.
            lengths: `(B,)` int64 or None.
            activity: `(B, T, S)` 0 or 1, `T = config.frames(N)`.
            speakers: `(B, S)` int64 training speaker of each column, -1 where there is none.
        """
        output = self.eend(waveforms, lengths)
        with torch.autocast(output.logits.device.type, enabled=False):
            first = self._activity_loss(output, activity)
            labels = speakers.gather(1, first.order)
            labels = labels.where(self.is_known[labels.clamp(min=0)], -1)
            table, over = self.table.float(), self.over
            second = speaker_loss(output.vectors, labels, table, self.alpha, self.beta, over)
            share = self.speaker_weight
            total = ((1.0 - share) * first.loss + share * second).sum()
        return EendLosses(total, first.loss.sum(), second.sum(), first.order, output)

    def _activity_loss(self, output: EendOutput, activity: Tensor) -> PermutedLoss:
        classes = self.eend.classes
        if classes is None:
            return activity_loss(output.logits, activity, output.valid)
        return powerset_loss(output.logits, activity, output.valid, classes)
