"""The encoder: waveform in, hidden states of every layer out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from unispeech.errors import DataError
from unispeech.kernels.table import choose
from unispeech.models.config import EncoderConfig
from unispeech.models.frontend import ConvExtractor, frame_padding_mask
from unispeech.models.transformer import Transformer


class EncoderOutput(NamedTuple):
    """What an encoder returns; B utterances, T frames of 20 ms, width D, L layers."""

    last: Tensor
    """`(B, T, D)` final output, after the final norm where the family has one."""
    layers: tuple[Tensor, ...]
    """L + 1 raw states `(B, T, D)`: the encoder input, then each layer; none if not asked for."""
    lengths: Tensor
    """`(B,)` int64 valid frames."""
    padding_mask: Tensor | None
    """`(B, T)` bool, True = padding; None when nothing is padded."""


class FrontEnd(NamedTuple):
    """Projected frames before masking."""

    frames: Tensor
    """`(B, T, D)` after projection and input dropout."""
    padding_mask: Tensor | None
    """`(B, T)` bool or None."""
    penalty: Tensor
    """Scalar: mean square of the extractor's output."""
    features: Tensor
    """`(B, T, C)` normalised output of the extractor: what wav2vec 2.0 quantizes."""


class Encoder(nn.Module):
    """wav2vec 2.0, HuBERT, WavLM and relatives as one class with switches."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.conv_layers[-1].channels
        self.feature_extractor = ConvExtractor(config)
        self.layer_norm = nn.LayerNorm(width)
        self.post_extract_proj = nn.Linear(width, config.dim) if width != config.dim else None
        self.mask_emb = nn.Parameter(torch.empty(config.dim).uniform_())
        self.encoder = Transformer(config)

    def front_end(
        self, waveforms: Tensor, lengths: Tensor | None, frames: int | None = None
    ) -> FrontEnd:
        """Extract and project frames.

        Args:
            waveforms: `(B, N)` float32 at 16 kHz, already normalised where the model wants it.
            lengths: `(B,)` int64 valid samples, or None.
            frames: keep only so many frames (labels may end earlier than the audio).
        """
        rule = self.config.padding_rule
        scale = self.config.feature_grad_mult
        with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
            features = self.feature_extractor(waveforms, lengths, rule)
        padding_mask = None
        if lengths is not None:
            padding_mask = frame_padding_mask(
                lengths, waveforms.shape[1], features.shape[1], self.config, rule
            )
        if frames is not None:
            features = features[:, :frames]
            padding_mask = None if padding_mask is None else padding_mask[:, :frames]
        if self.training and scale not in (0.0, 1.0):
            features = features * scale + features.detach() * (1.0 - scale)
        penalty = features.float().square().mean()
        features = self.layer_norm(features)
        x = features if self.post_extract_proj is None else self.post_extract_proj(features)
        x = F.dropout(x, self.config.input_dropout, self.training)
        return FrontEnd(x, padding_mask, penalty, features)

    def encode(
        self,
        front: FrontEnd,
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        dropped: frozenset[int] = frozenset(),
        until: int | None = None,
        keep: bool = True,
    ) -> EncoderOutput:
        """Mask and run the transformer.

        Args:
            front: output of `front_end`.
            time_mask: `(B, T)` bool, frames replaced by `mask_emb`.
            channel_mask: `(B, D)` bool, channels set to zero for the whole utterance.
            dropped: layers to skip.
            until: stop behind so many layers.
            keep: whether the states of the layers are wanted.
        """
        x = front.frames
        if time_mask is not None:
            x = torch.where(time_mask.unsqueeze(2), self.mask_emb.to(x.dtype), x)
        if channel_mask is not None:
            x = x.masked_fill(channel_mask.unsqueeze(1), 0.0)
        last, states = self.encoder(x, front.padding_mask, dropped, until, keep)
        if front.padding_mask is None:
            lengths = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
        else:
            lengths = (~front.padding_mask).sum(1)
        return EncoderOutput(last, states, lengths, front.padding_mask)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None = None,
        until: int | None = None,
        keep: bool = True,
    ) -> EncoderOutput:
        """Encode waveforms as they come: `normalize` is applied here.

        Args:
            waveforms: `(B, N)` float32 in [-1, 1], 16 kHz.
            lengths: `(B,)` int64 valid samples, or None when nothing is padded.
            until: stop behind so many layers, 0 to L; None runs all and the final norm.
            keep: whether the states of the layers are wanted; without them memory stays small.

        Raises:
            DataError: an utterance is too short for one frame, or there is no such layer.
        """
        shortest = waveforms.shape[1] if lengths is None else int(lengths.min())
        if shortest < self.config.receptive_field:
            raise DataError(
                "utterance too short for the encoder",
                expected=f"at least {self.config.receptive_field} samples",
                found=shortest,
            )
        if until is not None and not 0 <= until <= self.config.layers:
            raise DataError("no such layer", expected=f"0 to {self.config.layers}", found=until)
        if lengths is not None and self._packs(waveforms, lengths):
            return self._encode_packed(waveforms, lengths, until, keep)
        front = self.front_end(self._normalized(waveforms, lengths), lengths)
        return self.encode(front, until=until, keep=keep)

    def _normalized(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        return normalize_waveforms(waveforms, lengths) if self.config.normalize else waveforms

    def _packs(self, waveforms: Tensor, lengths: Tensor) -> bool:
        """Whether utterances go one behind the other, so that no padding is computed.

        Under the exact rule both ways give the same states.
        """
        is_ragged = bool((lengths != waveforms.shape[1]).any())
        is_exact = self.config.padding_rule == "exact" and not self.training
        return is_ragged and is_exact and choose(waveforms.device).packs

    def _encode_packed(
        self, waveforms: Tensor, lengths: Tensor, until: int | None, keep: bool
    ) -> EncoderOutput:
        fronts = [
            self.front_end(self._normalized(row[None, :length], None), None).frames
            for row, length in zip(waveforms, lengths.tolist(), strict=True)
        ]
        sizes = [front.shape[1] for front in fronts]
        last, states = self.encoder(torch.cat(fronts, 1), None, until=until, keep=keep, sizes=sizes)
        frames = torch.tensor(sizes)
        return EncoderOutput(
            _unpacked(last, sizes),
            tuple(_unpacked(state, sizes) for state in states),
            frames,
            torch.arange(max(sizes)) >= frames.unsqueeze(1),
        )


def _unpacked(x: Tensor, sizes: list[int]) -> Tensor:
    """`(1, N, D)` to `(B, T, D)`, zeros behind the frames of each utterance."""
    return pad_sequence(list(torch.split(x[0], sizes)), batch_first=True)


def normalize_waveforms(waveforms: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero mean and unit variance for each utterance (biased variance, epsilon 1e-5).

    Args:
        waveforms: `(B, N)`.
        lengths: `(B,)` valid samples, or None; padding becomes zero.
    """
    if lengths is None:
        return F.layer_norm(waveforms, waveforms.shape[1:])
    valid = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths.unsqueeze(1)
    count = lengths.unsqueeze(1).to(waveforms.dtype)
    mean = (waveforms * valid).sum(1, keepdim=True) / count
    centred = (waveforms - mean) * valid
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)
